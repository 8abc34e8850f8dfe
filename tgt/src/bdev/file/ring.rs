//! The engine for file I/O that the system should have: an io_uring.
//!
//! Entries are handed to the kernel all at once, when the channel is polled; completions are read from
//! shared memory, without a system call. When the reactor sleeps it waits for the ring besides all else.

use std::io;
use std::os::fd::AsRawFd;

use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};

use super::device::SLOTS;
use super::open::OpenFile;
use super::slot::Operation;
use crate::reactor::{ReactorHandle, SleepFd};

/// The file is the one registered with the ring.
const FILE: Fixed = Fixed(0);

/// A ring on one file.
pub(super) struct Ring {
    /// Dropped before the ring whose descriptor it names.
    _sleep: SleepFd,
    ring: IoUring,
    /// Whether the kernel has entries yet to be told of.
    unsubmitted: bool,
}

/// Whether the system has io_uring for us; the error says what it said.
pub(super) fn probe() -> io::Result<()> {
    IoUring::new(2).map(drop)
}

fn entry(operation: Operation) -> squeue::Entry {
    match operation {
        Operation::Read {
            memory,
            length,
            offset,
        } => opcode::Read::new(FILE, memory, length)
            .offset(offset)
            .build(),
        Operation::Write {
            memory,
            length,
            offset,
            flags,
        } => opcode::Write::new(FILE, memory, length)
            .offset(offset)
            .rw_flags(flags)
            .build(),
        Operation::Punch { offset, length } => opcode::Fallocate::new(FILE, length)
            .offset(offset)
            .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
            .build(),
        Operation::Sync => opcode::Fsync::new(FILE).flags(FsyncFlags::DATASYNC).build(),
    }
}

impl Ring {
    pub(super) fn new(file: &OpenFile, reactor: &ReactorHandle) -> io::Result<Ring> {
        let ring = IoUring::new(SLOTS)?;
        ring.submitter().register_files(&[file.raw_fd()])?;
        Ok(Ring {
            _sleep: reactor.sleep_on(ring.as_raw_fd()),
            ring,
            unsubmitted: false,
        })
    }

    /// Enters an operation; its answer will carry `place`.
    ///
    /// # Safety
    /// The operation's memory must stay valid until its answer.
    pub(super) unsafe fn push(&mut self, place: u32, operation: Operation) {
        let entry = entry(operation).user_data(u64::from(place));
        // SAFETY: the caller vouches for the entry's memory.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("a slot has one entry at most, and the ring has a place for each slot");
        self.unsubmitted = true;
    }

    /// Tells the kernel of new entries; says whether there were any.
    pub(super) fn submit(&mut self) -> bool {
        let any = self.unsubmitted;
        if any && let Err(error) = self.enter(0) {
            log::error!("io_uring takes no more I/O: {error}");
        }
        any
    }

    /// An answer, if there is one: its place, and a count of bytes or a negative errno.
    pub(super) fn next(&mut self) -> Option<(u32, i32)> {
        let completion = self.ring.completion().next()?;
        Some((completion.user_data() as u32, completion.result()))
    }

    /// Waits until there is an answer. There must be an operation under way.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        self.enter(1)
    }

    fn enter(&mut self, completions: usize) -> io::Result<()> {
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
}
