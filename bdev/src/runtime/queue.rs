//! First in, first out, in memory that stays warm.
//!
//! Most queues of a zone thread are filled and emptied again within one poll. A plain ring goes on from where it was, and so
//! passes through all of its memory, which is sized for the worst, and finds it cold. This one begins again at its front whenever it is
//! empty, and so uses no more memory than what was ever in it at once.

use std::collections::VecDeque;

/// Things in line. See the [module](self).
#[derive(Debug)]
pub struct Queue<T>(VecDeque<T>);

impl<T> Queue<T> {
    /// Nothing, with room for `capacity` things before it has to grow.
    pub fn with_capacity(capacity: usize) -> Queue<T> {
        Queue(VecDeque::with_capacity(capacity))
    }

    /// Puts something at the end.
    #[inline]
    pub fn push(&mut self, thing: T) {
        self.0.push_back(thing);
    }

    /// Takes what is first.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        let first = self.0.pop_front();
        if self.0.is_empty() {
            // Sets the ring back to its front.
            self.0.clear();
        }
        first
    }

    /// What is first.
    #[inline]
    pub fn first(&self) -> Option<&T> {
        self.0.front()
    }

    /// How many there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All, the first one first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }

    /// Bytes of memory it holds.
    pub fn memory_held(&self) -> usize {
        self.0.capacity() * size_of::<T>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_come_out_in_order_and_an_empty_queue_begins_again_at_its_front() {
        let mut queue = Queue::with_capacity(8);
        queue.push(0);
        let front: *const i32 = queue.first().unwrap();
        assert_eq!(queue.pop(), Some(0));
        for round in 0..20 {
            queue.push(round);
            assert_eq!(queue.first().unwrap() as *const i32, front);
            queue.push(round + 1);
            assert_eq!(
                queue.iter().copied().collect::<Vec<_>>(),
                [round, round + 1]
            );
            assert_eq!((queue.pop(), queue.len()), (Some(round), 1));
            assert_eq!((queue.pop(), queue.pop()), (Some(round + 1), None));
            assert!(queue.is_empty());
        }
    }
}
