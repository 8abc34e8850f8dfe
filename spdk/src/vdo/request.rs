//! A user's I/O as the engine sees it.
//!
//! The engine's handle is the address of SPDK's `spdk_bdev_io`; what the module keeps of it lies in the I/O's
//! own `driver_ctx`, so nothing is allocated. Zone threads complete it piece by piece. The last piece puts it on
//! the list of ended I/Os of its channel, whose poller answers the user on the user's thread.
//!
//! Where reactors sleep there is no such poller: then the last piece is a message to the user's thread.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};

use spdk_sys as sys;
use vdo::seam::{HostRequest, RequestHeader, RequestKind};
use vdo::types::BLOCK_SIZE;

use super::stack::{Stack, Stacked};
use crate::thread::{self, Thread};

/// What the module keeps in each I/O.
pub struct IoState {
    /// Bytes not completed yet; one for what has none.
    left: AtomicU64,
    errno: AtomicI32,
    /// The next ended I/O.
    next: AtomicPtr<sys::spdk_bdev_io>,
    ended: *const Ended,
    /// What memory must be a multiple of for the base bdev to read to it.
    alignment: usize,
    is_empty: bool,
}

const _: () = assert!(
    std::mem::offset_of!(sys::spdk_bdev_io, driver_ctx) % align_of::<IoState>() == 0,
    "the module's memory in an I/O is aligned"
);

/// Bit 30 of an NVMe write's command dword 12: force unit access.
const FORCE_UNIT_ACCESS: u32 = 1 << 30;

/// NVMe's type of status codes that any command may end with.
const GENERIC: i32 = 0x0;

/// Of those, the one for a thin namespace that is full.
const CAPACITY_EXCEEDED: i32 = 0x81;

/// The I/Os of one channel that have ended: zone threads put them there, the channel's thread answers them.
pub struct Ended {
    stack: Stack<sys::spdk_bdev_io>,
    owner: Thread,
    sleeps: bool,
}

impl Ended {
    /// An empty list for a channel of the thread this runs on.
    pub fn new(owner: Thread) -> Ended {
        Ended {
            stack: Stack::new(),
            owner,
            sleeps: thread::interrupts(),
        }
    }

    fn push(&self, io: NonNull<sys::spdk_bdev_io>) {
        if self.sleeps {
            // SAFETY: the user's thread lives, since it has this I/O in flight; the I/O is handed over.
            let sent = unsafe { self.owner.send_raw(answer_here, io.as_ptr().cast()) };
            if let Err(error) = sent {
                log::error!("an I/O cannot be answered: {error}");
            }
            return;
        }
        // SAFETY: the I/O is ours, and handed over.
        unsafe { self.stack.push(io) };
    }

    /// Answers every I/O on the list, oldest first; how many there were. On the channel's thread.
    pub fn answer_all(&self) -> usize {
        let mut answered = 0;
        for io in self.stack.take() {
            // SAFETY: it was on the list, hence it is ours, and this is its channel's thread.
            unsafe { answer(io) };
            answered += 1;
        }
        answered
    }
}

// SAFETY: the link lies in the module's part of the I/O, and only the stack uses it.
unsafe impl Stacked for sys::spdk_bdev_io {
    unsafe fn link<'a>(this: NonNull<Self>) -> &'a AtomicPtr<Self> {
        // SAFETY: the caller's promise; only prepared I/Os are put on a stack.
        &unsafe { state(this) }.next
    }
}

/// # Safety
/// `io` was prepared by [`VdoRequest::prepare`] and has not been answered.
unsafe fn state<'a>(io: NonNull<sys::spdk_bdev_io>) -> &'a IoState {
    // SAFETY: `driver_ctx` is as large as the module asked for, and was initialised by `prepare`.
    unsafe { &*sys::spdk_bdev_io_driver_ctx(io.as_ptr()).cast::<IoState>() }
}

/// # Safety
/// As [`state`]; on the thread of the I/O's channel; the I/O belongs to SPDK again after.
unsafe fn answer(io: NonNull<sys::spdk_bdev_io>) {
    // SAFETY: the caller's promise.
    unsafe {
        match state(io).errno.load(Ordering::Acquire) {
            0 => sys::spdk_bdev_io_complete(io.as_ptr(), sys::SPDK_BDEV_IO_STATUS_SUCCESS),
            // For hosts to know it from a broken device: they need not retry, and may make room.
            libc::ENOSPC => {
                sys::spdk_bdev_io_complete_nvme_status(io.as_ptr(), 0, GENERIC, CAPACITY_EXCEEDED)
            }
            errno => sys::spdk_bdev_io_complete_aio_status(io.as_ptr(), -errno),
        }
    }
}

unsafe extern "C" fn answer_here(io: *mut c_void) {
    let io = NonNull::new(io.cast()).expect("an I/O's address");
    // SAFETY: sent by `push`, which owned the I/O, to the thread of its channel.
    unsafe {
        count_answered(io);
        answer(io);
    }
}

/// A channel that has no poller counts its answers here.
unsafe fn count_answered(io: NonNull<sys::spdk_bdev_io>) {
    // SAFETY: this is the channel's thread, and the channel lives, since it has this I/O in flight.
    unsafe { super::channel::answered_by_message(state(io).ended) }
}

/// The engine's handle to an I/O.
#[derive(Clone)]
pub struct VdoRequest(NonNull<sys::spdk_bdev_io>);

// SAFETY: until the I/O is answered its iovecs do not change and its state is atomic; the engine uses
// disjoint parts of the data, and no handle after its completion.
unsafe impl Send for VdoRequest {}

impl VdoRequest {
    /// How many bytes of each I/O the module needs.
    pub const STATE_BYTES: usize = size_of::<IoState>();

    /// Makes an I/O ready for the engine. `None` for a type that is not the engine's.
    ///
    /// # Safety
    /// `io` was submitted to the module on the thread of `ended`, and `ended` stays until it is answered.
    pub unsafe fn prepare(
        io: NonNull<sys::spdk_bdev_io>,
        ended: &Ended,
        alignment: usize,
    ) -> Option<(RequestHeader, VdoRequest)> {
        // SAFETY: the I/O is ours, and for these types the bdev layer filled in the block parameters.
        let (header, is_empty) = unsafe {
            let bdev_io = io.as_ref();
            let blocks = &bdev_io.u.bdev;
            let kind = match u32::from(bdev_io.type_) {
                sys::SPDK_BDEV_IO_TYPE_READ => RequestKind::Read,
                sys::SPDK_BDEV_IO_TYPE_WRITE => RequestKind::Write,
                sys::SPDK_BDEV_IO_TYPE_WRITE_ZEROES => RequestKind::WriteZeroes,
                sys::SPDK_BDEV_IO_TYPE_UNMAP => RequestKind::Unmap,
                sys::SPDK_BDEV_IO_TYPE_FLUSH => RequestKind::Flush,
                _ => return None,
            };
            let fua = kind == RequestKind::Write && blocks.nvme_cdw12.raw & FORCE_UNIT_ACCESS != 0;
            let header = RequestHeader {
                kind,
                offset: blocks.offset_blocks * BLOCK_SIZE as u64,
                length: blocks.num_blocks * BLOCK_SIZE as u64,
                fua,
            };
            (header, kind == RequestKind::Flush || header.length == 0)
        };
        let fresh = IoState {
            left: AtomicU64::new(if is_empty { 1 } else { header.length }),
            errno: AtomicI32::new(0),
            next: AtomicPtr::new(std::ptr::null_mut()),
            ended,
            alignment,
            is_empty,
        };
        // SAFETY: `driver_ctx` is large enough and aligned.
        unsafe {
            sys::spdk_bdev_io_driver_ctx(io.as_ptr())
                .cast::<IoState>()
                .write(fresh);
        }
        Some((header, VdoRequest(io)))
    }

    fn state(&self) -> &IoState {
        // SAFETY: a handle is used only before its completion, hence before the I/O is answered.
        unsafe { state(self.0) }
    }

    fn iovecs(&self) -> &[sys::iovec] {
        // SAFETY: as above; the bdev layer does not change the vector while the module has the I/O.
        unsafe {
            let blocks = &self.0.as_ref().u.bdev;
            if blocks.iovs.is_null() || blocks.iovcnt <= 0 {
                return &[];
            }
            std::slice::from_raw_parts(blocks.iovs, blocks.iovcnt as usize)
        }
    }

    /// Calls `part` with each stretch of the caller's memory that holds the bytes from `start` on, and with where
    /// in those bytes it lies.
    fn stretches(&self, start: usize, length: usize, mut part: impl FnMut(*mut u8, usize, usize)) {
        let mut skip = start;
        let mut done = 0;
        for iovec in self.iovecs() {
            if done == length {
                return;
            }
            if skip >= iovec.iov_len {
                skip -= iovec.iov_len;
                continue;
            }
            let bytes = (iovec.iov_len - skip).min(length - done);
            // SAFETY: within the element.
            let address = unsafe { iovec.iov_base.cast::<u8>().add(skip) };
            part(address, done, bytes);
            done += bytes;
            skip = 0;
        }
        debug_assert_eq!(done, length, "the vector holds the whole request");
    }
}

impl HostRequest for VdoRequest {
    fn copy_in(&self, start: usize, block: &mut [u8]) {
        let to = block.as_mut_ptr();
        // SAFETY: the user's memory is valid until the I/O is answered, and nobody writes it meanwhile.
        self.stretches(start, block.len(), |from, at, bytes| unsafe {
            std::ptr::copy_nonoverlapping(from, to.add(at), bytes);
        });
    }

    fn copy_out(&self, start: usize, data: &[u8]) {
        let from = data.as_ptr();
        // SAFETY: as in `copy_in`; pieces do not overlap.
        self.stretches(start, data.len(), |to, at, bytes| unsafe {
            std::ptr::copy_nonoverlapping(from.add(at), to, bytes);
        });
    }

    fn direct(&self, start: usize, length: usize) -> Option<NonNull<u8>> {
        let mut found = None;
        self.stretches(start, length, |address, at, bytes| {
            if at == 0
                && bytes == length
                && (address as usize).is_multiple_of(self.state().alignment)
            {
                found = NonNull::new(address);
            }
        });
        found
    }

    fn complete(self, bytes: u64, errno: i32) {
        let state = self.state();
        if errno != 0 {
            // The first error is the one that is told.
            let _ = state
                .errno
                .compare_exchange(0, errno, Ordering::Relaxed, Ordering::Relaxed);
        }
        let done = if state.is_empty { 1 } else { bytes };
        if state.left.fetch_sub(done, Ordering::AcqRel) == done {
            // SAFETY: the channel stays until the I/O is answered.
            unsafe { (*state.ended).push(self.0) }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An I/O as the bdev layer would hand it over, on memory of the test.
    struct Io {
        memory: Vec<u64>,
        iovecs: Vec<sys::iovec>,
        ended: Ended,
        alignment: usize,
    }

    impl Io {
        /// `data` in pieces of these lengths.
        fn new(data: &mut [u8], lengths: &[usize]) -> Io {
            let words = (size_of::<sys::spdk_bdev_io>() + VdoRequest::STATE_BYTES).div_ceil(8);
            let mut rest = data;
            let mut iovecs = Vec::new();
            for &length in lengths {
                let (piece, after) = rest.split_at_mut(length);
                rest = after;
                iovecs.push(sys::iovec {
                    iov_base: piece.as_mut_ptr().cast(),
                    iov_len: length,
                });
            }
            Io {
                memory: vec![0; words],
                iovecs,
                ended: Ended::new(Thread::nobody()),
                alignment: 1,
            }
        }

        fn prepare(&mut self, kind: u32, blocks: u64, cdw12: u32) -> (RequestHeader, VdoRequest) {
            let io = NonNull::new(self.memory.as_mut_ptr().cast::<sys::spdk_bdev_io>()).unwrap();
            // SAFETY: the memory is as large as such an I/O, and zeroed.
            unsafe {
                let bdev_io = &mut *io.as_ptr();
                bdev_io.type_ = kind as u8;
                bdev_io.u.bdev.iovs = self.iovecs.as_mut_ptr();
                bdev_io.u.bdev.iovcnt = self.iovecs.len() as i32;
                bdev_io.u.bdev.num_blocks = blocks;
                bdev_io.u.bdev.offset_blocks = 7;
                bdev_io.u.bdev.nvme_cdw12.raw = cdw12;
                VdoRequest::prepare(io, &self.ended, self.alignment).unwrap()
            }
        }
    }

    /// Lengths of pieces, many of them odd, some empty, that add up to two blocks.
    fn shapes() -> impl Strategy<Value = Vec<usize>> {
        let total = 2 * BLOCK_SIZE;
        proptest::collection::vec(0..=total, 0..12).prop_map(move |mut cuts| {
            cuts.extend([0, total]);
            cuts.sort_unstable();
            cuts.windows(2).map(|pair| pair[1] - pair[0]).collect()
        })
    }

    proptest! {
        #[test]
        fn data_goes_in_and_out_of_vectors_of_any_shape(lengths in shapes(), start in 0..BLOCK_SIZE, length in 1..=BLOCK_SIZE) {
            let mut data: Vec<u8> = (0..2 * BLOCK_SIZE).map(|at| (at * 7 + at / 251) as u8).collect();
            let expected = data[start..start + length].to_vec();
            let mut io = Io::new(&mut data, &lengths);
            let (_, request) = io.prepare(sys::SPDK_BDEV_IO_TYPE_WRITE, 2, 0);
            let mut block = vec![0; length];
            request.copy_in(start, &mut block);
            prop_assert_eq!(&block, &expected);
            block.iter_mut().for_each(|byte| *byte = !*byte);
            request.copy_out(start, &block);
            drop(io);
            prop_assert_eq!(&data[start..start + length], &block[..]);
            let untouched = |at: &usize| !(start..start + length).contains(at);
            prop_assert!((0..data.len()).filter(untouched).all(|at| data[at] == (at * 7 + at / 251) as u8));
        }

        #[test]
        fn only_memory_in_one_aligned_piece_is_read_into_directly(lengths in shapes(), start in 0..BLOCK_SIZE, alignment in prop_oneof![Just(1_usize), Just(8)]) {
            let mut data = vec![0_u8; 2 * BLOCK_SIZE];
            let base = data.as_ptr() as usize;
            let mut io = Io { alignment, ..Io::new(&mut data, &lengths) };
            let (_, request) = io.prepare(sys::SPDK_BDEV_IO_TYPE_READ, 2, 0);
            let mut at = 0;
            let whole = lengths.iter().any(|length| {
                at += length;
                (at - length) <= start && start + BLOCK_SIZE <= at
            });
            let expected = (whole && (base + start).is_multiple_of(alignment)).then_some(base + start);
            let found = request.direct(start, BLOCK_SIZE).map(|address| address.as_ptr() as usize);
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn headers_say_what_the_io_says() {
        let mut data = vec![0; 2 * BLOCK_SIZE];
        let mut io = Io::new(&mut data, &[2 * BLOCK_SIZE]);
        let (header, _) = io.prepare(sys::SPDK_BDEV_IO_TYPE_WRITE, 2, FORCE_UNIT_ACCESS);
        let expected = RequestHeader {
            kind: RequestKind::Write,
            offset: 7 * BLOCK_SIZE as u64,
            length: 2 * BLOCK_SIZE as u64,
            fua: true,
        };
        assert_eq!(header, expected);
        let (header, _) = io.prepare(sys::SPDK_BDEV_IO_TYPE_UNMAP, 2, FORCE_UNIT_ACCESS);
        assert_eq!((header.kind, header.fua), (RequestKind::Unmap, false));
    }

    #[test]
    fn an_io_ends_once_with_its_last_piece_and_its_first_error() {
        let mut data = vec![0; 2 * BLOCK_SIZE];
        let mut io = Io::new(&mut data, &[2 * BLOCK_SIZE]);
        let address = io.memory.as_ptr() as usize;
        let (_, request) = io.prepare(sys::SPDK_BDEV_IO_TYPE_WRITE, 2, 0);
        let ended = |io: &Io| io.ended.stack.top() as usize;
        request.clone().complete(BLOCK_SIZE as u64, 5);
        assert_eq!(ended(&io), 0);
        request.clone().complete(BLOCK_SIZE as u64, 28);
        assert_eq!(ended(&io), address);
        assert_eq!(request.state().errno.load(Ordering::Acquire), 5);
    }

    #[test]
    fn a_flush_ends_with_its_only_piece() {
        let mut io = Io::new(&mut [], &[]);
        let (_, request) = io.prepare(sys::SPDK_BDEV_IO_TYPE_FLUSH, 100, 0);
        request.complete(0, 0);
        assert!(!io.ended.stack.top().is_null());
    }
}
