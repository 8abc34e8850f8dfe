//! The memory of one connection's requests: a few sizes, a fixed number of each.
//!
//! A buffer is taken when a request is read and given back when its reply is sent; the one given back
//! last is taken first, because it is still in the cache. The smallest that suffices is used, or the
//! next larger one; when there is none, the connection stops reading until a reply frees one. Small
//! buffers are there from the start, large ones are made when first needed and kept.

use std::sync::Arc;

use vdo::buffer::{Buffer, DmaMemory};
use vdo::types::BLOCK_SIZE;

/// Sizes in blocks of 4 KiB, and how many there may be of each.
const CLASSES: [(usize, usize); 4] = [(1, 256), (64, 64), (512, 16), (8192, 1)];

struct Class {
    blocks: usize,
    free: Vec<Buffer>,
    /// How many more may be made.
    unmade: usize,
}

/// The buffers of one connection.
pub(super) struct Pool {
    source: Arc<dyn DmaMemory>,
    classes: [Class; CLASSES.len()],
}

/// What came of asking for a buffer.
#[derive(Debug)]
pub(super) enum Taken {
    /// Here it is.
    Buffer(Buffer),
    /// All are in use; one will be given back.
    AllInUse,
    /// The host has no memory left.
    NoMemory,
}

impl Pool {
    /// A pool with its small buffers; `None` when the host is out of memory.
    pub(super) fn new(source: Arc<dyn DmaMemory>) -> Option<Pool> {
        let classes = CLASSES.map(|(blocks, count)| Class {
            blocks,
            free: Vec::with_capacity(count),
            unmade: count,
        });
        let mut pool = Pool { source, classes };
        let small = &mut pool.classes[0];
        while small.unmade > 0 {
            small.free.push(Buffer::new(&pool.source, small.blocks)?);
            small.unmade -= 1;
        }
        Some(pool)
    }

    /// A buffer of at least `bytes` bytes.
    #[inline]
    pub(super) fn take(&mut self, bytes: usize) -> Taken {
        let mut in_use = false;
        for class in self
            .classes
            .iter_mut()
            .filter(|class| class.blocks * BLOCK_SIZE >= bytes)
        {
            if let Some(buffer) = class.free.pop() {
                return Taken::Buffer(buffer);
            }
            if class.unmade > 0
                && let Some(buffer) = Buffer::new(&self.source, class.blocks)
            {
                class.unmade -= 1;
                return Taken::Buffer(buffer);
            }
            // One that was made and is not here is in use and will be back.
            let made = CLASSES
                .iter()
                .any(|(blocks, count)| *blocks == class.blocks && class.unmade < *count);
            in_use |= made;
        }
        if in_use {
            Taken::AllInUse
        } else {
            Taken::NoMemory
        }
    }

    /// Gives a buffer back.
    #[inline]
    pub(super) fn give(&mut self, buffer: Buffer) {
        if let Some(class) = self
            .classes
            .iter_mut()
            .find(|class| class.blocks == buffer.blocks())
        {
            class.free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::NonNull;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use vdo::buffer::HeapMemory;

    /// Memory that runs out.
    struct Scarce(AtomicUsize);

    impl DmaMemory for Scarce {
        fn allocate(&self, blocks: usize) -> Option<NonNull<u8>> {
            let left = self
                .0
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(blocks)
                });
            left.ok().and_then(|_| HeapMemory.allocate(blocks))
        }

        unsafe fn free(&self, memory: NonNull<u8>, blocks: usize) {
            // SAFETY: all memory given out came from `HeapMemory`.
            unsafe { HeapMemory.free(memory, blocks) }
        }
    }

    fn scarce(blocks: usize) -> Option<Pool> {
        Pool::new(Arc::new(Scarce(AtomicUsize::new(blocks))))
    }

    #[test]
    fn the_smallest_that_suffices_is_taken_and_the_last_given_comes_first() {
        let mut pool = Pool::new(Arc::new(HeapMemory)).unwrap();
        let Taken::Buffer(buffer) = pool.take(4096) else {
            panic!("a small buffer")
        };
        assert_eq!(buffer.blocks(), 1);
        let address = buffer.as_ptr();
        pool.give(buffer);
        let Taken::Buffer(buffer) = pool.take(1) else {
            panic!("a small buffer")
        };
        assert_eq!(buffer.as_ptr(), address);
        let Taken::Buffer(buffer) = pool.take(4097) else {
            panic!("a middle buffer")
        };
        assert_eq!(buffer.blocks(), 64);
        let Taken::Buffer(large) = pool.take(32 << 20) else {
            panic!("the large buffer")
        };
        assert!(matches!(pool.take(32 << 20), Taken::AllInUse));
        pool.give(large);
        assert!(matches!(pool.take(32 << 20), Taken::Buffer(_)));
    }

    #[test]
    fn a_class_that_is_used_up_borrows_from_the_next() {
        let mut pool = Pool::new(Arc::new(HeapMemory)).unwrap();
        let taken: Vec<Taken> = (0..257).map(|_| pool.take(4096)).collect();
        assert!(matches!(&taken[256], Taken::Buffer(buffer) if buffer.blocks() == 64));
    }

    #[test]
    fn no_memory_is_told_apart_from_all_in_use() {
        assert!(scarce(255).is_none());
        let mut pool = scarce(256 + 64).unwrap();
        assert!(matches!(pool.take(32 << 20), Taken::NoMemory));
        let buffer = pool.take(5000);
        assert!(matches!(buffer, Taken::Buffer(_)));
        assert!(matches!(pool.take(5000), Taken::AllInUse));
    }
}
