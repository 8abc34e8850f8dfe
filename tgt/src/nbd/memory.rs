//! Where the buffers of requests come from.
//!
//! Memory of the heap is zeroed when it is taken. For a buffer of 32 MiB that takes as long as thousands of requests, so
//! large ones are mapped: the kernel gives zeroed pages one by one, as they are first touched.

use std::ptr::NonNull;

use vdo::buffer::{DmaMemory, HeapMemory};
use vdo::types::BLOCK_SIZE;

/// Buffers of as many blocks are large.
const LARGE: usize = 64;

/// Memory for buffers of requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestMemory;

impl DmaMemory for RequestMemory {
    fn allocate(&self, blocks: usize) -> Option<NonNull<u8>> {
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

    unsafe fn free(&self, memory: NonNull<u8>, blocks: usize) {
        if blocks < LARGE {
            // SAFETY: the caller says this came from `allocate(blocks)`, which asked the heap.
            return unsafe { HeapMemory.free(memory, blocks) };
        }
        // SAFETY: the caller says this came from `allocate(blocks)`, which mapped as many bytes.
        unsafe { libc::munmap(memory.as_ptr().cast(), blocks * BLOCK_SIZE) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vdo::buffer::Buffer;

    use super::*;

    #[test]
    fn buffers_of_all_sizes_are_aligned_and_zeroed_and_can_be_filled() {
        let memory: Arc<dyn DmaMemory> = Arc::new(RequestMemory);
        for blocks in [1, LARGE - 1, LARGE, 8192] {
            let mut buffer = Buffer::new(&memory, blocks).unwrap();
            assert!((buffer.as_ptr().as_ptr() as usize).is_multiple_of(BLOCK_SIZE));
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer.fill(7);
        }
        assert!(memory.allocate(usize::MAX / BLOCK_SIZE).is_none());
    }
}
