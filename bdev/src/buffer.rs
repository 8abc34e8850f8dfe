//! Memory for base-device I/O: whole 4 KiB blocks, 4 KiB-aligned, taken from the host at start.
//!
//! A [`Buffer`] is owned by whoever holds it. Giving it to an I/O moves it into the I/O, and the
//! completion gives it back, so no one can touch memory the device is writing. A block that many may
//! read while the device writes it out is an `Arc<Buffer>`: shared, and therefore immutable.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::BLOCK_SIZE;

/// Where a host's DMA-capable memory comes from. Called when a volume starts, never after.
pub trait DmaMemory: Send + Sync + 'static {
    /// `blocks` contiguous zeroed blocks of 4096 bytes, aligned to 4096; `None` when out of memory.
    fn allocate(&self, blocks: usize) -> Option<NonNull<u8>>;

    /// Gives back what [`DmaMemory::allocate`] gave.
    ///
    /// # Safety
    /// `memory` came from `allocate(blocks)` of the same object and is not used any more.
    unsafe fn free(&self, memory: NonNull<u8>, blocks: usize);
}

/// Page-aligned memory of the process, for hosts whose devices need no more than that.
#[derive(Debug, Default, Clone, Copy)]
pub struct HeapMemory;

impl HeapMemory {
    fn layout(blocks: usize) -> Option<std::alloc::Layout> {
        std::alloc::Layout::from_size_align(blocks.checked_mul(BLOCK_SIZE)?, BLOCK_SIZE).ok()
    }
}

impl DmaMemory for HeapMemory {
    fn allocate(&self, blocks: usize) -> Option<NonNull<u8>> {
        let layout = Self::layout(blocks).filter(|layout| layout.size() > 0)?;
        // SAFETY: the layout's size is not zero.
        NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })
    }

    unsafe fn free(&self, memory: NonNull<u8>, blocks: usize) {
        if let Some(layout) = Self::layout(blocks) {
            // SAFETY: the caller says this came from `allocate(blocks)`, which used this layout.
            unsafe { std::alloc::dealloc(memory.as_ptr(), layout) }
        }
    }
}

/// Another's memory, counted.
pub struct CountedMemory {
    inner: Arc<dyn DmaMemory>,
    bytes: AtomicU64,
}

impl CountedMemory {
    /// Takes from `inner`; nothing yet.
    pub fn new(inner: &Arc<dyn DmaMemory>) -> CountedMemory {
        CountedMemory {
            inner: Arc::clone(inner),
            bytes: AtomicU64::new(0),
        }
    }

    /// Bytes that were taken and not given back.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl DmaMemory for CountedMemory {
    fn allocate(&self, blocks: usize) -> Option<NonNull<u8>> {
        let memory = self.inner.allocate(blocks)?;
        let bytes = (blocks * BLOCK_SIZE) as u64;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Some(memory)
    }

    unsafe fn free(&self, memory: NonNull<u8>, blocks: usize) {
        let bytes = (blocks * BLOCK_SIZE) as u64;
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        // SAFETY: `allocate` passed on what the other gave for as many blocks.
        unsafe { self.inner.free(memory, blocks) }
    }
}

/// Owned, aligned memory of one or more whole blocks.
pub struct Buffer {
    memory: NonNull<u8>,
    blocks: usize,
    source: Arc<dyn DmaMemory>,
}

// SAFETY: a Buffer owns its memory alone; nothing about it is tied to a thread.
unsafe impl Send for Buffer {}
// SAFETY: through `&Buffer` the memory can only be read.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A zeroed buffer of `blocks` blocks (at least one); `None` when the host is out of memory.
    pub fn new(source: &Arc<dyn DmaMemory>, blocks: usize) -> Option<Buffer> {
        let memory = source.allocate(blocks)?;
        Some(Buffer {
            memory,
            blocks,
            source: Arc::clone(source),
        })
    }

    /// How many blocks of [`BLOCK_SIZE`] bytes this holds.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// The first block.
    #[inline]
    pub fn first_block(&self) -> &[u8; BLOCK_SIZE] {
        self.first_chunk()
            .expect("a buffer holds at least one block")
    }

    /// The first block, to be changed.
    #[inline]
    pub fn first_block_mut(&mut self) -> &mut [u8; BLOCK_SIZE] {
        self.first_chunk_mut()
            .expect("a buffer holds at least one block")
    }

    /// The address the device is given.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.memory
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the memory is `blocks` blocks long, initialised (zeroed at birth), and ours alone.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.blocks * BLOCK_SIZE) }
    }
}

impl std::ops::DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.blocks * BLOCK_SIZE) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: `memory` came from `source.allocate(blocks)` and no reference outlives `self`.
        unsafe { self.source.free(self.memory, self.blocks) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} blocks)", self.blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_zeroed_as_long_as_asked_for_and_given_back() {
        let source: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
        for blocks in 1..4 {
            let mut buffer = Buffer::new(&source, blocks).expect("there is memory");
            assert_eq!(
                (buffer.blocks(), buffer.len()),
                (blocks, blocks * BLOCK_SIZE)
            );
            assert!((buffer.as_ptr().as_ptr() as usize).is_multiple_of(BLOCK_SIZE));
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer.first_block_mut().fill(1);
            buffer[blocks * BLOCK_SIZE - 1] = 2;
            assert_eq!(buffer.first_block()[0], 1);
        }
        assert!(Buffer::new(&source, 0).is_none());
        assert!(Buffer::new(&source, usize::MAX / 2).is_none());
        assert_eq!(Arc::strong_count(&source), 1);
    }

    #[test]
    fn what_is_counted_is_what_is_held() {
        let source: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
        let counted = Arc::new(CountedMemory::new(&source));
        let memory: Arc<dyn DmaMemory> = counted.clone();
        let first = Buffer::new(&memory, 3);
        let second = Buffer::new(&memory, 1);
        assert!(Buffer::new(&memory, 0).is_none());
        assert_eq!(counted.bytes(), 4 * BLOCK_SIZE as u64);
        drop(first);
        assert_eq!(counted.bytes(), BLOCK_SIZE as u64);
        drop(second);
        assert_eq!(counted.bytes(), 0);
    }

    /// As a device does with the memory of a read, and then another thread with what was read.
    #[test]
    fn what_a_device_wrote_by_address_is_read_by_any_thread() {
        let source: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
        let buffer = Buffer::new(&source, 2).expect("there is memory");
        let address = buffer.as_ptr();
        // SAFETY: two blocks, which nobody else looks at now.
        unsafe { address.as_ptr().write_bytes(7, 2 * BLOCK_SIZE) };
        let shared = Arc::new(buffer);
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.iter().all(|byte| *byte == 7))
            })
            .collect();
        for reader in readers {
            assert!(reader.join().expect("it does not panic"));
        }
    }
}
