//! A queue for each priority, and the highest one that is not empty in one instruction.
//!
//! The allocator keeps the slabs of its zone here, by how much of each is free. Items are small numbers
//! known in advance (slabs of a zone, from zero); the links between them are one array, so moving an
//! item takes no memory. Within one priority the item that has waited longest comes first.

use crate::runtime::list::{Links, List};

/// Priorities go up to this: each has a bit of a word.
pub(super) const HIGHEST: u8 = 63;

/// Items by priority.
#[derive(Debug)]
pub(super) struct PriorityTable {
    queues: Vec<List>,
    links: Links,
    /// The queue each item is in, if any.
    priorities: Vec<Option<u8>>,
    /// Bit *p* is set when queue *p* is not empty.
    occupied: u64,
}

impl PriorityTable {
    /// A table for items `0..items` and priorities `0..=highest` (at most [`HIGHEST`]).
    pub(super) fn new(highest: u8, items: usize) -> PriorityTable {
        assert!(highest <= HIGHEST, "each priority has a bit of a word");
        PriorityTable {
            queues: vec![List::EMPTY; usize::from(highest) + 1],
            links: Links::new(items),
            priorities: vec![None; items],
            occupied: 0,
        }
    }

    /// From now on there are more items.
    pub(super) fn extend(&mut self, items: usize) {
        self.links.resize(items);
        self.priorities.resize(items, None);
    }

    /// The highest priority any item has.
    #[inline]
    pub(super) fn top(&self) -> Option<u8> {
        (self.occupied != 0).then(|| 63 - self.occupied.leading_zeros() as u8)
    }

    /// Appends an item to the queue of its priority, taking it out of the queue it is in, if any.
    pub(super) fn enqueue(&mut self, priority: u8, item: u32) {
        self.remove(item);
        self.queues[usize::from(priority)].push(&mut self.links, item);
        self.priorities[item as usize] = Some(priority);
        self.occupied |= 1 << priority;
    }

    /// Takes out the item of the highest priority that has waited longest.
    pub(super) fn dequeue(&mut self) -> Option<u32> {
        let item = self.queues[usize::from(self.top()?)].first()?;
        self.remove(item);
        Some(item)
    }

    /// Takes an item out of the queue it is in, if any, and says whether it was in one.
    pub(super) fn remove(&mut self, item: u32) -> bool {
        let Some(priority) = self.priorities[item as usize].take() else {
            return false;
        };
        let queue = &mut self.queues[usize::from(priority)];
        queue.remove(&mut self.links, item);
        if queue.is_empty() {
            self.occupied &= !(1 << priority);
        }
        true
    }

    /// Takes out every item.
    pub(super) fn clear(&mut self) {
        while self.dequeue().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_table_has_nothing_to_give() {
        let mut table = PriorityTable::new(63, 4);
        assert_eq!(table.top(), None);
        assert_eq!(table.dequeue(), None);
        assert!(!table.remove(3));
    }

    #[test]
    fn a_single_item_comes_back_at_every_priority() {
        let mut table = PriorityTable::new(63, 1);
        for priority in 0..=63 {
            table.enqueue(priority, 0);
            assert_eq!(table.top(), Some(priority));
            assert_eq!(table.dequeue(), Some(0));
            assert_eq!(table.top(), None);
            table.enqueue(priority, 0);
            assert!(table.remove(0));
            assert!(!table.remove(0));
            assert_eq!(table.dequeue(), None);
        }
    }

    #[derive(Clone, Debug)]
    enum TableOp {
        Enqueue(u8, u32),
        Dequeue,
        Remove(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<TableOp>> {
        let step = prop_oneof![
            3 => (0u8..=20, 0u32..40).prop_map(|(priority, item)| TableOp::Enqueue(priority, item)),
            1 => Just(TableOp::Dequeue),
            1 => (0u32..40).prop_map(TableOp::Remove),
        ];
        prop::collection::vec(step, 0..300)
    }

    proptest! {
        #[test]
        fn items_leave_by_priority_and_then_in_order_of_arrival(steps in steps()) {
            let mut table = PriorityTable::new(20, 40);
            let mut model = vec![VecDeque::new(); 21];
            for step in steps {
                match step {
                    TableOp::Enqueue(priority, item) => {
                        table.enqueue(priority, item);
                        for queue in &mut model {
                            queue.retain(|&other| other != item);
                        }
                        model[usize::from(priority)].push_back(item);
                    }
                    TableOp::Dequeue => {
                        let expected = model.iter_mut().rev().find_map(VecDeque::pop_front);
                        prop_assert_eq!(table.dequeue(), expected);
                    }
                    TableOp::Remove(item) => {
                        let held = model.iter().any(|queue| queue.contains(&item));
                        prop_assert_eq!(table.remove(item), held);
                        for queue in &mut model {
                            queue.retain(|&other| other != item);
                        }
                    }
                }
                let top = model.iter().rposition(|queue| !queue.is_empty());
                prop_assert_eq!(table.top().map(usize::from), top);
            }
        }
    }
}
