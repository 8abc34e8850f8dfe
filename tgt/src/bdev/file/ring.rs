//! One channel of a file bdev: an io_uring.
//!
//! An I/O takes a *slot* when it is submitted, or waits in line when all are taken. Its slot goes through
//! *steps*, each one entry of the ring: a transfer, repeated while the kernel moves only part; a hole
//! to punch, or zeroes to write where there are no holes; a sync at the end if it must be durable and
//! the step before could not say so. Each slot has at most one entry in the ring, and the ring has one
//! place per slot, so the ring never runs over.
//!
//! Entries are handed to the kernel when the channel is polled, all at once; completions are read from
//! shared memory, without a system call. When the reactor sleeps it waits for the ring besides all else.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};
use vdo::buffer::{Buffer, DmaMemory, HeapMemory};

use super::super::io::{BdevIo, IoKind, IoMeta};
use super::super::{BdevError, DeviceChannel};
use super::open::OpenFile;
use crate::reactor::{ReactorHandle, SleepFd};

/// How many I/Os the kernel is given at once, per channel.
const SLOTS: u32 = 256;

/// The most bytes one entry moves; the kernel moves at most 2 GiB less a page.
const LONGEST: u64 = 1 << 30;

/// Zeroes to write where the file system punches no holes.
const ZERO_BYTES: usize = 64 << 10;

#[repr(align(4096))]
struct Zeroes([u8; ZERO_BYTES]);

static ZEROES: Zeroes = Zeroes([0; ZERO_BYTES]);

/// The file is the one registered with the ring.
const FILE: Fixed = Fixed(0);

/// Says clearly when the system has no io_uring for us.
pub(super) fn check_available() -> Result<(), BdevError> {
    IoUring::new(2)
        .map(drop)
        .map_err(|source| BdevError::System {
            what: "io_uring is not available (containers often forbid it, as does the sysctl \
               kernel.io_uring_disabled); a malloc bdev needs none"
                .to_owned(),
            source,
        })
}

/// What the entry of a slot does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Reads or writes from `done` on.
    Transfer,
    /// Punches a hole over the whole range.
    Punch,
    /// Writes zeroes from `done` on.
    ZeroFill,
    /// Makes what was written durable.
    Sync,
}

/// What becomes of a slot after a completion.
enum Next {
    Step(Step),
    Done(i32),
}

struct Slot {
    io: BdevIo,
    /// How many bytes are done.
    done: u64,
    step: Step,
    /// Memory the kernel can use, where the caller's is not aligned for direct I/O.
    bounce: Option<Buffer>,
}

impl Slot {
    fn entry(&self) -> squeue::Entry {
        let rest = self.io.meta.length - self.done;
        let offset = self.io.offset + self.done;
        let memory = self.bounce.as_ref().map_or(self.io.memory, Buffer::as_ptr);
        // Within the I/O's memory: `done` is less than its length while it transfers.
        let memory = memory.as_ptr().wrapping_add(self.done as usize);
        let length = rest.min(LONGEST) as u32;
        let durable = if self.io.fua { libc::RWF_DSYNC } else { 0 };
        match (self.step, self.io.meta.kind) {
            (Step::Transfer, IoKind::Read) => opcode::Read::new(FILE, memory, length)
                .offset(offset)
                .build(),
            (Step::Transfer, _) => opcode::Write::new(FILE, memory, length)
                .offset(offset)
                .rw_flags(durable)
                .build(),
            (Step::ZeroFill, _) => {
                opcode::Write::new(FILE, ZEROES.0.as_ptr(), rest.min(ZERO_BYTES as u64) as u32)
                    .offset(offset)
                    .rw_flags(durable)
                    .build()
            }
            (Step::Punch, _) => opcode::Fallocate::new(FILE, rest)
                .offset(offset)
                .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
            (Step::Sync, _) => opcode::Fsync::new(FILE).flags(FsyncFlags::DATASYNC).build(),
        }
    }

    /// Takes the kernel's answer to the slot's entry.
    fn advance(&mut self, result: i32) -> Next {
        if result == -libc::EINTR || result == -libc::EAGAIN {
            return Next::Step(self.step);
        }
        match self.step {
            Step::Punch if matches!(-result, libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV) => {
                match self.io.meta.kind {
                    // Advice that cannot be taken.
                    IoKind::Unmap => Next::Done(0),
                    _ => Next::Step(Step::ZeroFill),
                }
            }
            _ if result < 0 => Next::Done(-result),
            Step::Punch if self.io.fua => Next::Step(Step::Sync),
            Step::Punch | Step::Sync => Next::Done(0),
            // The file ends before the bdev does: someone cut it short.
            Step::Transfer | Step::ZeroFill if result == 0 => Next::Done(libc::EIO),
            Step::Transfer | Step::ZeroFill => {
                self.done += u64::from(result.unsigned_abs());
                if self.done < self.io.meta.length {
                    Next::Step(self.step)
                } else {
                    Next::Done(0)
                }
            }
        }
    }

    /// Ends a read into bounced memory.
    fn copy_back(&self) {
        if let (Some(bounce), IoKind::Read) = (&self.bounce, self.io.meta.kind) {
            // SAFETY: whoever submitted the I/O vouched for this much memory until its end, which this
            // comes just before; the bounce buffer is as long, and no part of it.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    bounce.as_ptr().as_ptr(),
                    self.io.memory.as_ptr(),
                    self.io.meta.length as usize,
                );
            }
        }
    }
}

/// One channel's ring on the file.
pub struct FileDevice {
    /// Dropped before the ring whose descriptor it names.
    _sleep: SleepFd,
    ring: IoUring,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    waiting: VecDeque<BdevIo>,
    /// I/O that ended before it came to the ring.
    failed: Vec<(IoMeta, i32)>,
    /// Whether the kernel has entries yet to be told of.
    unsubmitted: bool,
    /// Whether zeroes and unmaps may punch holes.
    punch: bool,
    heap: Arc<dyn DmaMemory>,
    file: Arc<OpenFile>,
}

impl FileDevice {
    pub(super) fn new(
        file: Arc<OpenFile>,
        punch: bool,
        reactor: &ReactorHandle,
    ) -> io::Result<FileDevice> {
        let ring = IoUring::new(SLOTS)?;
        ring.submitter().register_files(&[file.raw_fd()])?;
        Ok(FileDevice {
            _sleep: reactor.sleep_on(ring.as_raw_fd()),
            ring,
            slots: (0..SLOTS).map(|_| None).collect(),
            free: (0..SLOTS).rev().collect(),
            waiting: VecDeque::with_capacity(SLOTS as usize),
            failed: Vec::new(),
            unsubmitted: false,
            punch,
            heap: Arc::new(HeapMemory),
            file,
        })
    }

    /// Gives an I/O a slot and its first entry.
    fn begin(&mut self, place: u32, io: BdevIo) {
        let step = match io.meta.kind {
            IoKind::Read | IoKind::Write => Step::Transfer,
            IoKind::Unmap => Step::Punch,
            IoKind::WriteZeroes if self.punch => Step::Punch,
            IoKind::WriteZeroes => Step::ZeroFill,
            IoKind::Flush => Step::Sync,
        };
        let mut slot = Slot {
            io,
            done: 0,
            step,
            bounce: None,
        };
        if step == Step::Transfer && !self.file.takes_memory_at(io.memory.as_ptr() as usize) {
            let length = io.meta.length as usize;
            let Some(bounce) = Buffer::new(&self.heap, length.div_ceil(4096)) else {
                self.free.push(place);
                self.failed.push((io.meta, libc::ENOMEM));
                return;
            };
            if io.meta.kind == IoKind::Write {
                // SAFETY: whoever submitted the I/O vouches for this much memory; the bounce buffer is
                // at least as long, and no part of it.
                unsafe {
                    std::ptr::copy_nonoverlapping(
                        io.memory.as_ptr(),
                        bounce.as_ptr().as_ptr(),
                        length,
                    );
                }
            }
            slot.bounce = Some(bounce);
        }
        self.push(place, &slot);
        self.slots[place as usize] = Some(slot);
    }

    fn push(&mut self, place: u32, slot: &Slot) {
        let entry = slot.entry().user_data(u64::from(place));
        // SAFETY: the entry's memory is the I/O's, vouched for until its end, or the slot's bounce
        // buffer, or the static zeroes; the slot lives until the entry's completion.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("a slot has one entry at most, and the ring has a place for each slot");
        self.unsubmitted = true;
    }

    /// Tells the kernel of new entries, and waits for `completions` of those in flight.
    fn submit_entries(&mut self, completions: usize) -> io::Result<()> {
        match self.ring.submit_and_wait(completions) {
            Ok(_) => {
                self.unsubmitted = !self.ring.submission().is_empty();
                Ok(())
            }
            Err(error) => match error.raw_os_error() {
                // For want of memory or room, or interrupted: try again next time.
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Takes every completion there is.
    fn reap(&mut self, done: &mut dyn FnMut(IoMeta, i32)) -> bool {
        let mut any = false;
        loop {
            let Some(completion) = self.ring.completion().next() else {
                break;
            };
            any = true;
            let place = completion.user_data() as u32;
            let mut slot = self.slots[place as usize]
                .take()
                .expect("the kernel answers entries of slots in use, once each");
            match slot.advance(completion.result()) {
                Next::Step(step) => {
                    slot.step = step;
                    self.push(place, &slot);
                    self.slots[place as usize] = Some(slot);
                }
                Next::Done(errno) => {
                    if errno == 0 {
                        slot.copy_back();
                    }
                    self.free.push(place);
                    done(slot.io.meta, errno);
                }
            }
        }
        any
    }

    fn in_ring(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

impl DeviceChannel for FileDevice {
    unsafe fn submit(&mut self, io: BdevIo) {
        match self.free.pop() {
            Some(place) => self.begin(place, io),
            None => self.waiting.push_back(io),
        }
    }

    fn poll(&mut self, done: &mut dyn FnMut(IoMeta, i32)) -> bool {
        let mut any = self.reap(done);
        while !self.waiting.is_empty()
            && let Some(place) = self.free.pop()
            && let Some(io) = self.waiting.pop_front()
        {
            self.begin(place, io);
        }
        for (meta, errno) in self.failed.drain(..) {
            any = true;
            done(meta, errno);
        }
        if self.unsubmitted {
            any = true;
            if let Err(error) = self.submit_entries(0) {
                log::error!("io_uring takes no more I/O: {error}");
            }
        }
        any
    }
}

impl Drop for FileDevice {
    /// Waits for what the kernel has: it may be using memory that is about to be freed.
    fn drop(&mut self) {
        self.waiting.clear();
        while self.in_ring() > 0 {
            if let Err(error) = self.submit_entries(1) {
                log::error!("io_uring does not say when it is done with our memory: {error}");
                std::process::abort();
            }
            self.reap(&mut |_, _| {});
        }
    }
}
