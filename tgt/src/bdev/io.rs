//! One I/O to a bdev, and its end.
//!
//! An I/O is described by a [`BdevIo`], submitted on a channel, and ends with one
//! [`BdevCompletion`] that carries the submitter's token, delivered when the submitter polls the
//! channel. The memory of the I/O belongs to the submitter, who leaves it alone in between.

use std::fmt;
use std::ptr::NonNull;

use vdo::seam::Nanos;

/// The kinds of I/O a bdev may support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoKind {
    /// Read bytes into memory.
    Read,
    /// Write bytes from memory.
    Write,
    /// Say that the range holds nothing of use; what it reads as afterwards depends on the bdev.
    Unmap,
    /// Make everything that completed before this durable; the range is ignored.
    Flush,
    /// Make the range read as zeroes. No memory.
    WriteZeroes,
}

impl IoKind {
    /// Every kind.
    pub const ALL: [IoKind; 5] = [
        IoKind::Read,
        IoKind::Write,
        IoKind::Unmap,
        IoKind::Flush,
        IoKind::WriteZeroes,
    ];

    /// What RPCs call it.
    pub fn name(self) -> &'static str {
        match self {
            IoKind::Read => "read",
            IoKind::Write => "write",
            IoKind::Unmap => "unmap",
            IoKind::Flush => "flush",
            IoKind::WriteZeroes => "write_zeroes",
        }
    }

    /// Whether it changes what the bdev holds.
    pub fn modifies(self) -> bool {
        matches!(self, IoKind::Write | IoKind::Unmap | IoKind::WriteZeroes)
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of [`IoKind`]s.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IoKinds(u8);

impl IoKinds {
    /// All five.
    pub const ALL: IoKinds = IoKinds(0b1_1111);

    /// The set of these.
    pub fn of(kinds: &[IoKind]) -> IoKinds {
        IoKinds(kinds.iter().fold(0, |bits, kind| bits | kind.bit()))
    }

    /// The set without `kind`.
    pub fn without(self, kind: IoKind) -> IoKinds {
        IoKinds(self.0 & !kind.bit())
    }

    /// Whether `kind` is in the set.
    #[inline]
    pub fn contains(self, kind: IoKind) -> bool {
        self.0 & kind.bit() != 0
    }
}

impl fmt::Debug for IoKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(IoKind::ALL.into_iter().filter(|&kind| self.contains(kind)))
            .finish()
    }
}

/// What of an I/O outlives its submission: a bdev keeps it and gives it back at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoMeta {
    /// The submitter's name for it, unique among those it has in flight on the channel.
    pub token: u64,
    /// What it is.
    pub kind: IoKind,
    /// How many bytes.
    pub length: u64,
    /// When it was submitted; set by the channel.
    pub started: Nanos,
}

/// One I/O.
#[derive(Clone, Copy, Debug)]
pub struct BdevIo {
    /// What is given back at its end.
    pub meta: IoMeta,
    /// The first byte, a multiple of the bdev's block size.
    pub offset: u64,
    /// `meta.length` bytes of memory for a read or a write, else dangling.
    pub memory: NonNull<u8>,
    /// Whether a write (or write of zeroes) must be durable when it completes.
    pub fua: bool,
}

// SAFETY: the pointer is only followed by a channel's `submit` and what it leads to, whose caller
// vouches for the memory wherever the channel is.
unsafe impl Send for BdevIo {}

impl BdevIo {
    fn new(kind: IoKind, offset: u64, length: u64, memory: NonNull<u8>, token: u64) -> BdevIo {
        let meta = IoMeta {
            token,
            kind,
            length,
            started: Nanos(0),
        };
        BdevIo {
            meta,
            offset,
            memory,
            fua: false,
        }
    }

    /// Reads `length` bytes at `offset` into `memory`.
    pub fn read(offset: u64, length: u64, memory: NonNull<u8>, token: u64) -> BdevIo {
        BdevIo::new(IoKind::Read, offset, length, memory, token)
    }

    /// Writes `length` bytes from `memory` at `offset`.
    pub fn write(offset: u64, length: u64, memory: NonNull<u8>, token: u64) -> BdevIo {
        BdevIo::new(IoKind::Write, offset, length, memory, token)
    }

    /// Unmaps `length` bytes at `offset`.
    pub fn unmap(offset: u64, length: u64, token: u64) -> BdevIo {
        BdevIo::new(IoKind::Unmap, offset, length, NonNull::dangling(), token)
    }

    /// Writes zeroes to `length` bytes at `offset`.
    pub fn write_zeroes(offset: u64, length: u64, token: u64) -> BdevIo {
        BdevIo::new(
            IoKind::WriteZeroes,
            offset,
            length,
            NonNull::dangling(),
            token,
        )
    }

    /// Makes what completed before durable.
    pub fn flush(token: u64) -> BdevIo {
        BdevIo::new(IoKind::Flush, 0, 0, NonNull::dangling(), token)
    }

    /// The same, durable when it completes.
    pub fn with_fua(mut self, fua: bool) -> BdevIo {
        self.fua = fua;
        self
    }
}

/// The end of one I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BdevCompletion {
    /// The token it was submitted with.
    pub token: u64,
    /// Zero, or a positive errno.
    pub errno: i32,
}
