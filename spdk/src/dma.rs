//! Memory fit for DMA, from SPDK's environment.
//!
//! The engine asks for thousands of single blocks when a volume starts. SPDK's allocator puts a header in
//! front of each piece, which would double an aligned block's price; so blocks are cut from larger pieces.

use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use spdk_sys as sys;
use vdo::buffer::DmaMemory;
use vdo::types::BLOCK_SIZE;

/// Blocks in a piece that single blocks are cut from.
const PIECE_BLOCKS: usize = 256;

/// The memory of one volume. It goes back to SPDK when the volume, and every buffer of it, is gone.
#[derive(Default)]
pub struct SpdkMemory {
    singles: Mutex<Singles>,
}

#[derive(Default)]
struct Singles {
    pieces: Vec<NonNull<u8>>,
    /// Blocks of the pieces that nobody has. The flag says whether the block is still zeroed.
    free: Vec<(NonNull<u8>, bool)>,
}

// SAFETY: addresses of memory that is owned here; nothing about it is tied to a thread.
unsafe impl Send for Singles {}

fn zeroed(blocks: usize) -> Option<NonNull<u8>> {
    let bytes = blocks.checked_mul(BLOCK_SIZE).filter(|&bytes| bytes > 0)?;
    // SAFETY: allocates; no argument refers to memory.
    let memory = unsafe {
        sys::spdk_zmalloc(
            bytes,
            BLOCK_SIZE,
            std::ptr::null_mut(),
            sys::SPDK_ENV_NUMA_ID_ANY,
            sys::SPDK_MALLOC_DMA,
        )
    };
    NonNull::new(memory.cast())
}

impl DmaMemory for SpdkMemory {
    fn allocate(&self, blocks: usize) -> Option<NonNull<u8>> {
        if blocks != 1 {
            return zeroed(blocks);
        }
        let mut singles = self.singles.lock().unwrap_or_else(PoisonError::into_inner);
        if singles.free.is_empty() {
            let piece = zeroed(PIECE_BLOCKS)?;
            singles.pieces.push(piece);
            // SAFETY: all within the piece.
            let block = |index| unsafe { piece.add(index * BLOCK_SIZE) };
            singles
                .free
                .extend((0..PIECE_BLOCKS).rev().map(|index| (block(index), true)));
        }
        let (block, is_zeroed) = singles.free.pop()?;
        if !is_zeroed {
            // SAFETY: one block of a piece that nobody else has.
            unsafe { block.write_bytes(0, BLOCK_SIZE) };
        }
        Some(block)
    }

    unsafe fn free(&self, memory: NonNull<u8>, blocks: usize) {
        if blocks == 1 {
            let mut singles = self.singles.lock().unwrap_or_else(PoisonError::into_inner);
            singles.free.push((memory, false));
        } else {
            // SAFETY: the caller says it came from `allocate`, hence from SPDK.
            unsafe { sys::spdk_free(memory.as_ptr().cast()) }
        }
    }
}

impl Drop for SpdkMemory {
    fn drop(&mut self) {
        let singles = self
            .singles
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for piece in singles.pieces.drain(..) {
            // SAFETY: from `zeroed`, and every buffer holds on to this object, so none is left.
            unsafe { sys::spdk_free(piece.as_ptr().cast()) }
        }
    }
}
