//! The base device as a zone thread's share of the index uses it.
//!
//! There are a few buffers for all of its I/O, and who finds none waits: so the index never has more of the device than so many
//! I/Os, whatever is asked of it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::uds::device::IndexDevice;
use super::uds::saves::STRETCH;
use crate::buffer::{Buffer, DmaMemory};
use crate::error::{IndexError, VdoError};
use crate::runtime::base::{BaseDevice, IoClass};
use crate::runtime::task::{Scheduler, WaitList};
use crate::types::{BLOCK_SIZE, Pbn};

/// I/Os that all zone threads together have under way at most, and each of them at least.
const IOS: (usize, usize) = (16, 2);

/// See the [module](self).
#[derive(Debug)]
pub struct ZoneDevice {
    base: Rc<BaseDevice>,
    buffers: RefCell<Vec<Buffer>>,
    freed: WaitList,
    /// Woken when the thread is polled next.
    polled: WaitList,
    /// I/Os under way at most.
    pub ios: usize,
}

impl ZoneDevice {
    /// The device of one of `zones` zone threads; `None` when the host is out of memory.
    pub fn new(
        base: &Rc<BaseDevice>,
        scheduler: &Rc<Scheduler>,
        memory: &Arc<dyn DmaMemory>,
        zones: u8,
    ) -> Option<Rc<ZoneDevice>> {
        let (all, least) = IOS;
        let ios = (all / usize::from(zones)).max(least);
        let buffers = (0..ios).map(|_| Buffer::new(memory, STRETCH));
        Some(Rc::new(ZoneDevice {
            base: Rc::clone(base),
            buffers: RefCell::new(buffers.collect::<Option<_>>()?),
            freed: WaitList::new(scheduler),
            polled: WaitList::new(scheduler),
            ios,
        }))
    }

    /// The thread is polled.
    pub fn polled(&self) {
        self.polled.wake_all();
    }

    async fn buffer(&self) -> Buffer {
        loop {
            let free = self.buffers.borrow_mut().pop();
            match free {
                Some(buffer) => return buffer,
                None => self.freed.wait().await,
            }
        }
    }

    fn give(&self, buffer: Buffer) {
        self.buffers.borrow_mut().push(buffer);
        self.freed.wake_one();
    }

    /// Reads some blocks and shows them to `take`; or says why that cannot be.
    pub async fn read_for<T>(
        &self,
        at: Pbn,
        blocks: usize,
        take: impl FnOnce(Result<&[u8], IndexError>) -> T,
    ) -> T {
        let buffer = self.buffer().await;
        let read = self.base.read(IoClass::Index, at, buffer, blocks);
        let (buffer, result) = read.await;
        let bytes = &buffer[..blocks * BLOCK_SIZE];
        let taken = take(outcome(at, result).map(|()| bytes));
        self.give(buffer);
        taken
    }
}

fn outcome(at: Pbn, result: Result<(), VdoError>) -> Result<(), IndexError> {
    result.map_err(|error| IndexError::Io {
        pbn: at,
        errno: match error {
            VdoError::Io { errno, .. } => errno,
            other => other.errno(),
        },
    })
}

/// The pieces that are read or written at a time: the first block of each, counted from `at`.
fn pieces(at: Pbn) -> impl Iterator<Item = Pbn> {
    (at.get()..).step_by(STRETCH).map(Pbn)
}

const PIECE: usize = STRETCH * BLOCK_SIZE;

impl IndexDevice for ZoneDevice {
    async fn read(&self, at: Pbn, bytes: &mut [u8]) -> Result<(), IndexError> {
        for (at, piece) in pieces(at).zip(bytes.chunks_mut(PIECE)) {
            let blocks = piece.len() / BLOCK_SIZE;
            let copy = |read: Result<&[u8], _>| read.map(|read| piece.copy_from_slice(read));
            self.read_for(at, blocks, copy).await?;
        }
        Ok(())
    }

    async fn write(&self, at: Pbn, bytes: &[u8]) -> Result<(), IndexError> {
        for (at, piece) in pieces(at).zip(bytes.chunks(PIECE)) {
            let mut buffer = self.buffer().await;
            buffer[..piece.len()].copy_from_slice(piece);
            let blocks = piece.len() / BLOCK_SIZE;
            let write = self.base.write(IoClass::Index, at, buffer, blocks, false);
            let (buffer, result) = write.await;
            self.give(buffer);
            outcome(at, result)?;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), IndexError> {
        outcome(Pbn(0), self.base.flush(IoClass::Index).await)
    }

    /// Until the thread is polled again, which it is, since it did something.
    async fn turn(&self) {
        self.polled.wait().await;
    }
}
