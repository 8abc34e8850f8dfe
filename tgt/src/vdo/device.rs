//! A reactor's channel to a volume.
//!
//! An I/O of the channel becomes one request of the engine, which completes it piece by piece on its zone
//! threads. The last piece puts the request's place into the channel's queue of ended requests and
//! wakes the channel's reactor; the next poll gives the completion back. Places are reused, so that a
//! channel that is warm allocates nothing.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use crossbeam_queue::SegQueue;
use vdo::seam::{HostRequest, RequestHeader, RequestKind};
use vdo::types::BLOCK_SIZE;
use vdo::volume::Volume;

use super::EmbeddedHost;
use crate::bdev::{BdevIo, DeviceChannel, IoKind, IoMeta};
use crate::reactor::Waker;

/// Requests of one channel that have ended.
struct Ended {
    places: SegQueue<u32>,
    waker: Waker,
}

/// What the engine's handles to one request share.
struct State {
    memory: NonNull<u8>,
    /// Bytes not completed yet; one more for a flush, which has none.
    left: AtomicU64,
    errno: AtomicI32,
    place: u32,
    meta: Option<IoMeta>,
    ended: Arc<Ended>,
}

// SAFETY: the memory belongs to the caller of `submit`, who promised that nobody else touches it until
// the completion; pieces copy disjoint parts of it, on any thread.
unsafe impl Send for State {}
// SAFETY: as above; all other fields are atomic or not changed while shared.
unsafe impl Sync for State {}

/// The engine's handle to a request of this target.
#[derive(Clone)]
pub struct VdoRequest(Arc<State>);

impl HostRequest for VdoRequest {
    fn copy_in(&self, start: usize, block: &mut [u8]) {
        // SAFETY: the engine asks for bytes within the request, whose memory is valid until it is complete.
        unsafe {
            let from = self.0.memory.as_ptr().add(start);
            std::ptr::copy_nonoverlapping(from, block.as_mut_ptr(), block.len());
        }
    }

    fn copy_out(&self, start: usize, data: &[u8]) {
        // SAFETY: as in `copy_in`; pieces never overlap.
        unsafe {
            let to = self.0.memory.as_ptr().add(start);
            std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len());
        }
    }

    fn direct(&self, start: usize, _length: usize) -> Option<NonNull<u8>> {
        // SAFETY: within the request's memory, as the engine asks only for that.
        let address = unsafe { self.0.memory.add(start) };
        (address.as_ptr() as usize)
            .is_multiple_of(BLOCK_SIZE)
            .then_some(address)
    }

    fn complete(self, bytes: u64, errno: i32) {
        let state = &self.0;
        if errno != 0 {
            let _ = state
                .errno
                .compare_exchange(0, errno, Ordering::Relaxed, Ordering::Relaxed);
        }
        let is_flush = state.meta.is_some_and(|meta| meta.kind == IoKind::Flush);
        let done = if is_flush { 1 } else { bytes };
        if state.left.fetch_sub(done, Ordering::AcqRel) != done {
            return;
        }
        // The place can be used anew once every handle is gone, so this one goes first.
        let (ended, place) = (Arc::clone(&state.ended), state.place);
        drop(self);
        ended.places.push(place);
        ended.waker.wake();
    }
}

/// A reactor's end of a volume.
pub struct VdoDevice {
    volume: Arc<Volume<EmbeddedHost>>,
    ended: Arc<Ended>,
    places: Vec<Arc<State>>,
    free: Vec<u32>,
    in_flight: usize,
}

impl VdoDevice {
    /// A channel whose completions wake `waker`'s reactor.
    pub fn new(volume: Arc<Volume<EmbeddedHost>>, waker: Waker) -> VdoDevice {
        let ended = Arc::new(Ended {
            places: SegQueue::new(),
            waker,
        });
        VdoDevice {
            volume,
            ended,
            places: Vec::new(),
            free: Vec::new(),
            in_flight: 0,
        }
    }

    fn place(&mut self, io: &BdevIo) -> VdoRequest {
        let left = if io.meta.kind == IoKind::Flush {
            1
        } else {
            io.meta.length
        };
        // A place whose last handle is just being dropped elsewhere is passed over this time.
        let free = self
            .free
            .iter()
            .rposition(|&place| Arc::get_mut(&mut self.places[place as usize]).is_some());
        let place = match free {
            Some(position) => self.free.swap_remove(position),
            None => self.places.len() as u32,
        };
        let fresh = || State {
            memory: io.memory,
            left: AtomicU64::new(left),
            errno: AtomicI32::new(0),
            place,
            meta: Some(io.meta),
            ended: Arc::clone(&self.ended),
        };
        match self.places.get_mut(place as usize).map(Arc::get_mut) {
            Some(Some(state)) => {
                state.memory = io.memory;
                state.left = AtomicU64::new(left);
                state.errno = AtomicI32::new(0);
                state.meta = Some(io.meta);
            }
            Some(None) => self.places[place as usize] = Arc::new(fresh()),
            None => self.places.push(Arc::new(fresh())),
        }
        VdoRequest(Arc::clone(&self.places[place as usize]))
    }
}

impl DeviceChannel for VdoDevice {
    unsafe fn submit(&mut self, io: BdevIo) {
        let request = self.place(&io);
        self.in_flight += 1;
        let kind = match io.meta.kind {
            IoKind::Read => RequestKind::Read,
            IoKind::Write => RequestKind::Write,
            IoKind::Unmap => RequestKind::Unmap,
            IoKind::Flush => RequestKind::Flush,
            IoKind::WriteZeroes => RequestKind::WriteZeroes,
        };
        let header = RequestHeader {
            kind,
            offset: io.offset,
            length: io.meta.length,
            fua: io.fua,
        };
        self.volume.submit(header, request);
    }

    fn poll(&mut self, done: &mut dyn FnMut(IoMeta, i32)) -> bool {
        let mut any = false;
        while let Some(place) = self.ended.places.pop() {
            any = true;
            self.in_flight -= 1;
            let state = &self.places[place as usize];
            let errno = state.errno.load(Ordering::Acquire);
            let meta = state.meta;
            self.free.push(place);
            if let Some(meta) = meta {
                done(meta, errno);
            }
        }
        any
    }
}

impl Drop for VdoDevice {
    fn drop(&mut self) {
        // The engine may still copy to or from the memory of what is under way: wait until it does not.
        while self.in_flight > 0 && self.volume.phase() != vdo::volume::Phase::Down {
            if !self.poll(&mut |_, _| {}) {
                std::thread::yield_now();
            }
        }
    }
}
