//! One I/O on a file, step by step, whoever does the steps.
//!
//! An I/O becomes a [`Slot`], which says what the kernel is to do next as an [`Operation`], and takes the
//! kernel's answer: a transfer, repeated while the kernel moves only part; a hole to punch, or zeroes to
//! write where there are no holes; a sync at the end if it must be durable and the step before could
//! not say so.

use vdo::buffer::Buffer;

use super::super::io::{BdevIo, IoKind};

/// The most bytes one operation moves; the kernel moves at most 2 GiB less a page.
const LONGEST: u64 = 1 << 30;

/// Zeroes to write where the file system punches no holes.
const ZERO_BYTES: usize = 64 << 10;

#[repr(align(4096))]
struct Zeroes([u8; ZERO_BYTES]);

static ZEROES: Zeroes = Zeroes([0; ZERO_BYTES]);

/// What a slot is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Reads or writes from `done` on.
    Transfer,
    /// Punches a hole over the whole range.
    Punch,
    /// Writes zeroes from `done` on.
    ZeroFill,
    /// Makes what was written durable.
    Sync,
}

/// What becomes of a slot after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Do this.
    Step(Step),
    /// It has ended with this errno.
    Done(i32),
}

/// One thing for the kernel to do with the file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    /// Read into `memory`.
    Read {
        memory: *mut u8,
        length: u32,
        offset: u64,
    },
    /// Write from `memory`; with these `RWF_` flags.
    Write {
        memory: *const u8,
        length: u32,
        offset: u64,
        flags: i32,
    },
    /// Punch a hole.
    Punch { offset: u64, length: u64 },
    /// Make data durable.
    Sync,
}

// SAFETY: the memory is vouched for by who submitted the I/O until its end, on whichever thread it is
// used, or it is the slot's own buffer or the static zeroes.
unsafe impl Send for Operation {}

/// An I/O under way.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) io: BdevIo,
    /// How many bytes are done.
    done: u64,
    step: Step,
    /// Memory the kernel can use, where the caller's is not aligned for direct I/O.
    bounce: Option<Buffer>,
}

impl Slot {
    /// Begins an I/O. `punch` says whether zeroes may be holes; `bounce` is used instead of the I/O's
    /// own memory, and is at least as long.
    pub(super) fn new(io: BdevIo, punch: bool, bounce: Option<Buffer>) -> Slot {
        let step = match io.meta.kind {
            IoKind::Read | IoKind::Write => Step::Transfer,
            IoKind::Unmap => Step::Punch,
            IoKind::WriteZeroes if punch => Step::Punch,
            IoKind::WriteZeroes => Step::ZeroFill,
            IoKind::Flush => Step::Sync,
        };
        if let (Some(bounce), IoKind::Write) = (&bounce, io.meta.kind) {
            // SAFETY: who submitted the I/O vouches for this much memory; the buffer is at least as long,
            // and no part of it.
            unsafe {
                let (from, to) = (io.memory.as_ptr(), bounce.as_ptr().as_ptr());
                std::ptr::copy_nonoverlapping(from, to, io.meta.length as usize);
            }
        }
        Slot {
            io,
            done: 0,
            step,
            bounce,
        }
    }

    /// What the kernel is to do now.
    pub(super) fn operation(&self) -> Operation {
        let rest = self.io.meta.length - self.done;
        let offset = self.io.offset + self.done;
        let memory = self.bounce.as_ref().map_or(self.io.memory, Buffer::as_ptr);
        // Within the I/O's memory: `done` is less than its length while it transfers.
        let memory = memory.as_ptr().wrapping_add(self.done as usize);
        let flags = if self.io.fua { libc::RWF_DSYNC } else { 0 };
        let length = rest.min(LONGEST) as u32;
        match (self.step, self.io.meta.kind) {
            (Step::Transfer, IoKind::Read) => Operation::Read {
                memory,
                length,
                offset,
            },
            (Step::Transfer, _) => Operation::Write {
                memory,
                length,
                offset,
                flags,
            },
            (Step::ZeroFill, _) => {
                let length = rest.min(ZERO_BYTES as u64) as u32;
                Operation::Write {
                    memory: ZEROES.0.as_ptr(),
                    length,
                    offset,
                    flags,
                }
            }
            (Step::Punch, _) => Operation::Punch {
                offset,
                length: rest,
            },
            (Step::Sync, _) => Operation::Sync,
        }
    }

    /// Takes the kernel's answer: a count of bytes, or a negative errno.
    pub(super) fn advance(&mut self, result: i32) -> Next {
        let next = self.next(result);
        match next {
            Next::Step(step) => self.step = step,
            Next::Done(0) => self.copy_back(),
            Next::Done(_) => {}
        }
        next
    }

    fn next(&mut self, result: i32) -> Next {
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
            // SAFETY: who submitted the I/O vouched for this much memory until its end, which this comes
            // just before; the buffer is as long, and no part of it.
            unsafe {
                let (from, to) = (bounce.as_ptr().as_ptr(), self.io.memory.as_ptr());
                std::ptr::copy_nonoverlapping(from, to, self.io.meta.length as usize);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::NonNull;

    fn slot(io: BdevIo) -> Slot {
        Slot::new(io, true, None)
    }

    #[test]
    fn a_transfer_goes_on_where_the_kernel_left_off() {
        let mut data = [0u8; 4096];
        let mut slot = slot(BdevIo::write(8192, 4096, NonNull::from(&mut data[0]), 1));
        assert_eq!(slot.advance(1024), Next::Step(Step::Transfer));
        assert!(matches!(
            slot.operation(),
            Operation::Write { memory, length: 3072, offset: 9216, flags: 0 } if memory == &raw const data[1024]
        ));
        assert_eq!(slot.advance(-libc::EINTR), Next::Step(Step::Transfer));
        assert_eq!(slot.advance(3072), Next::Done(0));
    }

    #[test]
    fn zeroes_are_written_where_no_hole_can_be_punched_and_unmaps_are_forgotten() {
        let mut zeroes = slot(BdevIo::write_zeroes(0, 65536 + 512, 1));
        assert!(matches!(
            zeroes.operation(),
            Operation::Punch {
                offset: 0,
                length: 66048
            }
        ));
        assert_eq!(
            zeroes.advance(-libc::EOPNOTSUPP),
            Next::Step(Step::ZeroFill)
        );
        assert_eq!(zeroes.advance(65536), Next::Step(Step::ZeroFill));
        assert!(matches!(
            zeroes.operation(),
            Operation::Write {
                length: 512,
                offset: 65536,
                ..
            }
        ));
        assert_eq!(zeroes.advance(512), Next::Done(0));
        assert_eq!(
            slot(BdevIo::unmap(0, 4096, 1)).advance(-libc::EOPNOTSUPP),
            Next::Done(0)
        );
        assert_eq!(
            slot(BdevIo::unmap(0, 4096, 1)).advance(-libc::EIO),
            Next::Done(libc::EIO)
        );
    }

    #[test]
    fn a_durable_hole_is_synced() {
        let mut hole = slot(BdevIo::write_zeroes(0, 4096, 1).with_fua(true));
        assert_eq!(hole.advance(0), Next::Step(Step::Sync));
        assert!(matches!(hole.operation(), Operation::Sync));
        assert_eq!(hole.advance(-libc::EIO), Next::Done(libc::EIO));
    }
}
