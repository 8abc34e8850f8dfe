//! Where the buffers of requests come from, and how much of it all clients together have.
//!
//! Memory of the heap is zeroed when it is taken. For a buffer of 32 MiB that takes as long as thousands of requests, so
//! large ones are mapped: the kernel gives zeroed pages one by one, as they are first touched.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use vdo::buffer::{DmaMemory, HeapMemory};
use vdo::types::BLOCK_SIZE;

/// Buffers of as many blocks are large.
const LARGE: usize = 64;

/// Memory for buffers of requests: so many blocks for all clients of all exports.
#[derive(Debug)]
pub(super) struct RequestMemory {
    left: AtomicUsize,
}

impl RequestMemory {
    /// Up to so many bytes at once.
    pub(super) fn new(bytes: u64) -> RequestMemory {
        let blocks = usize::try_from(bytes / BLOCK_SIZE as u64).unwrap_or(usize::MAX);
        RequestMemory {
            left: AtomicUsize::new(blocks),
        }
    }

    fn take(&self, blocks: usize) -> bool {
        let less = |left: usize| left.checked_sub(blocks);
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.is_ok()
    }

    fn give_back(&self, blocks: usize) {
        self.left.fetch_add(blocks, Ordering::Relaxed);
    }
}

impl DmaMemory for RequestMemory {
    fn allocate(&self, blocks: usize) -> Option<NonNull<u8>> {
        if !self.take(blocks) {
            return None;
        }
        let memory = allocate(blocks);
        if memory.is_none() {
            self.give_back(blocks);
        }
        memory
    }

    unsafe fn free(&self, memory: NonNull<u8>, blocks: usize) {
        // SAFETY: the caller says this came from `allocate(blocks)`.
        unsafe { free(memory, blocks) };
        self.give_back(blocks);
    }
}

fn allocate(blocks: usize) -> Option<NonNull<u8>> {
    if blocks < LARGE {
        return HeapMemory.allocate(blocks);
    }
    let bytes = blocks.checked_mul(BLOCK_SIZE)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping touches no memory there is.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    match memory {
        libc::MAP_FAILED => None,
        memory => NonNull::new(memory.cast()),
    }
}

/// # Safety
/// `memory` came from `allocate(blocks)`, and nobody uses it any more.
unsafe fn free(memory: NonNull<u8>, blocks: usize) {
    if blocks < LARGE {
        // SAFETY: the caller says this came from `allocate(blocks)`, which asked the heap.
        return unsafe { HeapMemory.free(memory, blocks) };
    }
    // SAFETY: the caller says this came from `allocate(blocks)`, which mapped as many bytes.
    unsafe { libc::munmap(memory.as_ptr().cast(), blocks * BLOCK_SIZE) };
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vdo::buffer::Buffer;

    use super::*;

    #[test]
    fn buffers_of_all_sizes_are_aligned_and_zeroed_and_can_be_filled() {
        let memory: Arc<dyn DmaMemory> = Arc::new(RequestMemory::new(u64::MAX));
        for blocks in [1, LARGE - 1, LARGE, 8192] {
            let mut buffer = Buffer::new(&memory, blocks).unwrap();
            assert!((buffer.as_ptr().as_ptr() as usize).is_multiple_of(BLOCK_SIZE));
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer.fill(7);
        }
        assert!(memory.allocate(usize::MAX / BLOCK_SIZE).is_none());
    }

    #[test]
    fn no_more_is_given_than_there_is_and_what_came_back_is_given_again() {
        let bytes = (LARGE + 2) * BLOCK_SIZE;
        let memory: Arc<dyn DmaMemory> = Arc::new(RequestMemory::new(bytes as u64));
        let large = Buffer::new(&memory, LARGE).unwrap();
        let _small = Buffer::new(&memory, 1).unwrap();
        assert!(Buffer::new(&memory, 2).is_none());
        drop(large);
        let _large = Buffer::new(&memory, LARGE + 1).unwrap();
        assert!(Buffer::new(&memory, 1).is_none());
    }
}
