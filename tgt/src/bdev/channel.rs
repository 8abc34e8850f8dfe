//! A thread's way to a bdev.
//!
//! A [`Channel`] checks each I/O (range, alignment, what the bdev can do), stamps it, gives it to the
//! bdev's [`Device`], and counts it when it ends. It belongs to one thread at a time. Dropping it
//! with I/O in flight waits for the kernel where the kernel still uses the memory, and forgets the rest.
//!
//! [`Device`] is an enum, so that the engine's I/O reaches a memory or file bdev without a virtual call;
//! bdevs that live elsewhere come in as [`Device::Other`].

use std::fmt;
use std::sync::Arc;

use vdo::seam::{BaseChannel, BaseIo, BaseOp, IoCompletion};
use vdo::types::BLOCK_SIZE;

use super::BlockCount;
use super::delay::DelayDevice;
use super::error::ErrorDevice;
use super::file::FileDevice;
use super::io::{BdevCompletion, BdevIo, IoKind, IoKinds, IoMeta};
use super::malloc::MallocDevice;
use super::null::NullDevice;
use super::registry::BdevDesc;
use super::stat::IoStat;
use crate::reactor;
use crate::vdo::VdoDevice;

/// What a bdev does for one channel. Used by one thread.
pub trait DeviceChannel: Send {
    /// Starts an I/O that has been checked: its kind is supported, its range lies within the bdev, and
    /// both ends of it are on block boundaries. Never waits. It must not end before the next poll.
    ///
    /// # Safety
    /// `io.memory` must stay valid for `io.meta.length` bytes, used by no one else (by no one who writes,
    /// for a write), until `poll` gave the I/O back.
    unsafe fn submit(&mut self, io: BdevIo);

    /// Hands each I/O that ended to `done` with zero or a positive errno.
    fn poll(&mut self, done: &mut dyn FnMut(IoMeta, i32)) -> bool;
}

/// The bdev's end of a channel.
pub enum Device {
    /// A malloc bdev's.
    Malloc(MallocDevice),
    /// A null bdev's.
    Null(NullDevice),
    /// A uring or aio bdev's.
    File(Box<FileDevice>),
    /// An error bdev's, over another channel.
    Error(Box<ErrorDevice>),
    /// A delay bdev's, over another channel.
    Delay(Box<DelayDevice>),
    /// A volume's.
    Vdo(Box<VdoDevice>),
    /// One whose kind is not known here.
    Other(Box<dyn DeviceChannel>),
}

impl Device {
    #[inline]
    unsafe fn submit(&mut self, io: BdevIo) {
        // SAFETY: the caller's promise is the one each of these asks for.
        unsafe {
            match self {
                Device::Malloc(device) => device.submit(io),
                Device::Null(device) => device.submit(io),
                Device::File(device) => device.submit(io),
                Device::Error(device) => device.submit(io),
                Device::Delay(device) => device.submit(io),
                Device::Vdo(device) => device.submit(io),
                Device::Other(device) => device.submit(io),
            }
        }
    }

    #[inline]
    fn poll(&mut self, done: &mut dyn FnMut(IoMeta, i32)) -> bool {
        match self {
            Device::Malloc(device) => device.poll(done),
            Device::Null(device) => device.poll(done),
            Device::File(device) => device.poll(done),
            Device::Error(device) => device.poll(done),
            Device::Delay(device) => device.poll(done),
            Device::Vdo(device) => device.poll(done),
            Device::Other(device) => device.poll(done),
        }
    }
}

/// A thread's way to a bdev.
pub struct Channel {
    // Dropped before `desc`, which keeps the bdev alive for it.
    device: Device,
    blocks: BlockCount,
    block_bytes: u64,
    block_mask: u64,
    supports: IoKinds,
    writable: bool,
    /// I/O that ended without reaching the device.
    ended: Vec<(IoMeta, i32)>,
    in_flight: usize,
    stat: Arc<IoStat>,
    desc: BdevDesc,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({:?}, {} in flight)", self.desc, self.in_flight)
    }
}

impl Channel {
    pub(super) fn new(
        device: Device,
        writable: bool,
        desc: BdevDesc,
        stat: Arc<IoStat>,
    ) -> Channel {
        let info = desc.info();
        Channel {
            device,
            blocks: info.num_blocks.clone(),
            block_bytes: u64::from(info.block_size),
            block_mask: u64::from(info.block_size) - 1,
            supports: info.supports,
            writable,
            ended: Vec::with_capacity(64),
            in_flight: 0,
            stat,
            desc,
        }
    }

    /// The opening this channel belongs to.
    pub fn desc(&self) -> &BdevDesc {
        &self.desc
    }

    /// How many I/Os have been submitted and not yet been given back.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Why an I/O must not reach the device: a positive errno.
    #[inline]
    fn refusal(&self, io: &BdevIo) -> Option<i32> {
        let kind = io.meta.kind;
        if !self.supports.contains(kind) {
            return Some(libc::EOPNOTSUPP);
        }
        if kind == IoKind::Flush {
            return None;
        }
        if kind.modifies() && !self.writable {
            return Some(libc::EBADF);
        }
        let aligned = (io.offset | io.meta.length) & self.block_mask == 0;
        let bytes = self.blocks.get() * self.block_bytes;
        let within = io.meta.length <= bytes && io.offset <= bytes - io.meta.length;
        if aligned && within {
            None
        } else {
            Some(libc::EINVAL)
        }
    }

    /// Starts an I/O. Never waits and never fails: an error is a completion. What is refused: a kind the
    /// bdev does not support (`EOPNOTSUPP`), a change through a read-only opening (`EBADF`), a range
    /// that is not whole blocks or not within the bdev (`EINVAL`). No bytes is a success.
    ///
    /// # Safety
    /// `io.memory` must stay valid for `io.meta.length` bytes, used by no one else (by no one who writes,
    /// for a write), until the completion with the token has been returned by a poll or the channel
    /// has been dropped.
    #[inline]
    pub unsafe fn submit_io(&mut self, mut io: BdevIo) {
        io.meta.started = reactor::now();
        self.in_flight += 1;
        match self.refusal(&io) {
            Some(errno) => self.ended.push((io.meta, errno)),
            None if io.meta.length == 0 && io.meta.kind != IoKind::Flush => {
                self.ended.push((io.meta, 0));
            }
            // SAFETY: the I/O was checked, and the caller vouches for the memory.
            None => unsafe { self.device.submit(io) },
        }
    }

    /// Hands each I/O that ended to `done`, in any order, and says whether there were any.
    #[inline]
    pub fn poll_io(&mut self, done: &mut dyn FnMut(BdevCompletion)) -> bool {
        self.poll_meta(&mut |meta, errno| {
            done(BdevCompletion {
                token: meta.token,
                errno,
            })
        })
    }

    /// The same with all that is known of the I/O, for a bdev that lies on this one.
    #[inline]
    pub(super) fn poll_meta(&mut self, done: &mut dyn FnMut(IoMeta, i32)) -> bool {
        if self.in_flight == 0 {
            return false;
        }
        let Channel {
            device,
            ended,
            in_flight,
            stat,
            ..
        } = self;
        let mut end = |meta: IoMeta, errno: i32| {
            *in_flight -= 1;
            stat.count(&meta, errno);
            done(meta, errno);
        };
        let mut any = false;
        for (meta, errno) in ended.drain(..) {
            any = true;
            end(meta, errno);
        }
        any | device.poll(&mut end)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.desc.retire(&self.stat);
    }
}

impl BaseChannel for Channel {
    unsafe fn submit(&mut self, io: BaseIo) {
        let kind = match io.op {
            BaseOp::Read => IoKind::Read,
            BaseOp::Write => IoKind::Write,
            BaseOp::Flush => IoKind::Flush,
            BaseOp::Discard => IoKind::Unmap,
        };
        let block = BLOCK_SIZE as u64;
        let meta = IoMeta {
            token: u64::from(io.token),
            kind,
            length: u64::from(io.blocks) * block,
            started: vdo::seam::Nanos(0),
        };
        // A block number too large for a byte offset is outside every bdev, and refused as such.
        let offset = io.pbn.0.checked_mul(block).unwrap_or(!(block - 1));
        // A bdev without a cache has nothing to flush, and one that cannot discard need not.
        if matches!(io.op, BaseOp::Flush | BaseOp::Discard) && !self.supports.contains(kind) {
            self.in_flight += 1;
            self.ended.push((
                IoMeta {
                    started: reactor::now(),
                    ..meta
                },
                0,
            ));
            return;
        }
        // SAFETY: the caller's promise is the one asked for.
        unsafe {
            self.submit_io(BdevIo {
                meta,
                offset,
                memory: io.memory,
                fua: io.fua,
            })
        }
    }

    #[inline]
    fn poll(&mut self, done: &mut dyn FnMut(IoCompletion)) -> bool {
        self.poll_meta(&mut |meta, errno| {
            // The token came from a u32 when it was submitted.
            done(IoCompletion {
                token: meta.token as u32,
                errno,
            });
        })
    }
}
