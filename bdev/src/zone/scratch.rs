//! Buffers to read blocks into: to compare them, to merge a partial write, or for a caller whose memory the
//! device cannot use.
//!
//! A zone thread has a fixed number of them. Whoever finds none waits in line, holding nothing that another
//! reader needs, and gets one as soon as one is given back.

use std::cell::RefCell;
use std::collections::VecDeque;

use crate::buffer::Buffer;
use crate::runtime::base::IoOwner;

#[derive(Debug)]
struct Pool {
    free: Vec<Buffer>,
    waiting: VecDeque<IoOwner>,
}

/// The buffers of one zone thread.
#[derive(Debug)]
pub struct Scratch(RefCell<Pool>);

impl Scratch {
    /// A pool of `buffers`, of which there must be one at least.
    pub fn new(buffers: Vec<Buffer>) -> Scratch {
        Scratch(RefCell::new(Pool {
            waiting: VecDeque::with_capacity(buffers.len()),
            free: buffers,
        }))
    }

    /// A buffer for `owner`; or none, and `owner` is in line for [`Scratch::next_served`].
    #[inline]
    pub fn take(&self, owner: IoOwner) -> Option<Buffer> {
        let pool = &mut *self.0.borrow_mut();
        let buffer = match pool.waiting.is_empty() {
            true => pool.free.pop(),
            false => None,
        };
        if buffer.is_none() {
            pool.waiting.push_back(owner);
        }
        buffer
    }

    /// Takes a buffer back.
    #[inline]
    pub fn give(&self, buffer: Buffer) {
        self.0.borrow_mut().free.push(buffer);
    }

    /// The one who has waited longest, and its buffer, if there are both.
    #[inline]
    pub fn next_served(&self) -> Option<(IoOwner, Buffer)> {
        let pool = &mut *self.0.borrow_mut();
        if pool.waiting.is_empty() {
            return None;
        }
        let buffer = pool.free.pop()?;
        let owner = pool.waiting.pop_front()?;
        Some((owner, buffer))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::buffer::{DmaMemory, HeapMemory};

    #[test]
    fn who_waits_is_served_in_order_and_before_who_comes_later() {
        let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
        let scratch = Scratch::new(vec![Buffer::new(&memory, 1).unwrap()]);
        let owner = IoOwner::Request;
        let buffer = scratch.take(owner(0)).unwrap();
        assert!(scratch.take(owner(1)).is_none());
        assert!(scratch.take(owner(2)).is_none());
        assert!(scratch.next_served().is_none());
        scratch.give(buffer);
        assert!(scratch.take(owner(3)).is_none(), "it is another's turn");
        let (first, buffer) = scratch.next_served().unwrap();
        assert_eq!(first, owner(1));
        scratch.give(buffer);
        assert_eq!(scratch.next_served().unwrap().0, owner(2));
    }
}
