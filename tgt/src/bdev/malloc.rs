//! The malloc bdev: a disk of memory.
//!
//! The memory is one anonymous mapping, zero at first, of which the kernel gives a page (a large one, if it
//! can) when it is first written. Data is copied when an I/O is submitted; its completion waits for the next poll. Channels
//! share the mapping without a lock: as on any disk, two I/Os in flight on the same bytes leave
//! one, the other or a mixture, and whoever wants an order waits for the first.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::io::{BdevIo, IoKind, IoKinds, IoMeta};
use super::{Bdev, BdevError, BdevInfo, Device, DeviceChannel, check_block_size, check_num_blocks};
use crate::reactor::ReactorHandle;

/// Zeroing at least this much gives the pages back to the kernel instead.
const RELEASE_BYTES: u64 = 1 << 20;

/// The kernel gives and takes memory in pages of this size.
const PAGE: u64 = 4096;

/// An anonymous mapping, shared by the channels of one bdev.
struct Memory {
    base: NonNull<u8>,
    bytes: u64,
}

// SAFETY: the mapping is plain memory that lives as long as `Memory`, whichever thread that is on.
unsafe impl Send for Memory {}
// SAFETY: it is only touched by byte copies within its bounds, through raw pointers; no reference to it
// is ever made. Copies that overlap in time leave unspecified bytes, as the module says.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(bytes: u64) -> io::Result<Memory> {
        let length =
            usize::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping touches no memory there is.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base: NonNull<u8> =
            NonNull::new(base.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        // Large pages where the kernel has them: random blocks fault and miss the address cache far less.
        // SAFETY: the range is the mapping just made, and this is advice.
        unsafe { libc::madvise(base.as_ptr().cast(), length, libc::MADV_HUGEPAGE) };
        Ok(Memory { base, bytes })
    }

    /// The address of a range, which must lie within.
    fn at(&self, offset: u64, length: u64) -> *mut u8 {
        assert!(
            length <= self.bytes && offset <= self.bytes - length,
            "a channel lets no I/O beyond the end of the bdev through"
        );
        // SAFETY: just checked to lie within the mapping.
        unsafe { self.base.as_ptr().add(offset as usize) }
    }

    fn zero(&self, offset: u64, length: u64) {
        let start = self.at(offset, length);
        let (first, last) = (
            offset.next_multiple_of(PAGE),
            (offset + length) & !(PAGE - 1),
        );
        if length < RELEASE_BYTES || last <= first {
            // SAFETY: the range lies within the mapping.
            unsafe { std::ptr::write_bytes(start, 0, length as usize) };
            return;
        }
        // SAFETY: whole pages within the private anonymous mapping; they read as zeroes afterwards.
        let released = unsafe {
            libc::madvise(
                self.at(first, last - first).cast(),
                (last - first) as usize,
                libc::MADV_DONTNEED,
            )
        };
        let kept = if released == 0 {
            first - offset
        } else {
            last - offset
        };
        // SAFETY: the parts of the range, within the mapping, that were not given back.
        unsafe {
            std::ptr::write_bytes(start, 0, kept as usize);
            std::ptr::write_bytes(
                self.at(last, offset + length - last),
                0,
                (offset + length - last) as usize,
            );
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no channel that could use it is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes as usize) };
    }
}

/// A disk of memory.
pub struct MallocBdev {
    info: BdevInfo,
    memory: Arc<Memory>,
    /// Keeps others from being promised the memory it will come to use.
    kept: Option<Arc<dyn Any + Send + Sync>>,
}

impl MallocBdev {
    /// A zeroed disk of `num_blocks` blocks of `block_size` bytes.
    ///
    /// # Errors
    /// When the sizes make no sense or there is not so much address space.
    pub fn new(
        name: String,
        num_blocks: u64,
        block_size: u32,
        uuid: Option<Uuid>,
    ) -> Result<MallocBdev, BdevError> {
        check_block_size(block_size)?;
        check_num_blocks(num_blocks, block_size)?;
        let info = BdevInfo {
            name,
            product_name: "Malloc disk",
            uuid: uuid.unwrap_or_else(Uuid::new_v4),
            block_size,
            num_blocks: num_blocks.into(),
            supports: IoKinds::ALL,
        };
        let memory = Memory::new(info.bytes()).map_err(|source| BdevError::System {
            what: format!(
                "mapping {} bytes of memory for bdev {:?}",
                info.bytes(),
                info.name
            ),
            source,
        })?;
        Ok(MallocBdev {
            info,
            memory: Arc::new(memory),
            kept: None,
        })
    }

    /// Has as much memory kept as it will come to use.
    ///
    /// # Errors
    /// When there is not so much.
    pub fn keep_memory(&mut self) -> Result<(), BdevError> {
        let BdevInfo { name, .. } = &self.info;
        let wanted = self.info.bytes();
        let kept = vdo_rpc::volume::memory::keep(wanted);
        self.kept = Some(kept.map_err(|had| BdevError::NoMemory {
            name: name.clone(),
            wanted: wanted.div_ceil(1 << 20),
            had: had >> 20,
        })?);
        Ok(())
    }
}

impl Bdev for MallocBdev {
    fn info(&self) -> &BdevInfo {
        &self.info
    }

    fn module(&self) -> &'static str {
        "malloc"
    }

    fn open_device(&self, _reactor: &ReactorHandle) -> Result<Device, BdevError> {
        Ok(Device::Malloc(MallocDevice {
            memory: Arc::clone(&self.memory),
            ended: VecDeque::with_capacity(256),
        }))
    }

    fn config(&self) -> Vec<Value> {
        vec![json!({
            "method": "bdev_malloc_create",
            "params": {
                "name": self.info.name,
                "num_blocks": self.info.num_blocks.get(),
                "block_size": self.info.block_size,
                "uuid": self.info.uuid.to_string(),
            },
        })]
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A channel's end of a malloc bdev.
pub struct MallocDevice {
    memory: Arc<Memory>,
    ended: VecDeque<IoMeta>,
}

impl DeviceChannel for MallocDevice {
    #[inline]
    unsafe fn submit(&mut self, io: BdevIo) {
        let length = io.meta.length as usize;
        match io.meta.kind {
            // SAFETY: `at` checked the disk's side, the caller vouches for the other, and memory of the
            // process's heap does not overlap the mapping.
            IoKind::Read => unsafe {
                let disk = self.memory.at(io.offset, io.meta.length);
                std::ptr::copy_nonoverlapping(disk, io.memory.as_ptr(), length);
            },
            // SAFETY: as above.
            IoKind::Write => unsafe {
                let disk = self.memory.at(io.offset, io.meta.length);
                std::ptr::copy_nonoverlapping(io.memory.as_ptr(), disk, length);
            },
            IoKind::Unmap | IoKind::WriteZeroes => self.memory.zero(io.offset, io.meta.length),
            IoKind::Flush => {}
        }
        self.ended.push_back(io.meta);
    }

    #[inline]
    fn poll(&mut self, done: &mut dyn FnMut(IoMeta, i32)) -> bool {
        let any = !self.ended.is_empty();
        while let Some(meta) = self.ended.pop_front() {
            done(meta, 0);
        }
        any
    }
}
