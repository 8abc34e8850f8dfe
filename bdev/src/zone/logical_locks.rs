//! Locks on logical blocks: requests for the same block go one after the other, in order of arrival.
//!
//! Nothing here takes memory after the start: a slot holds or waits for one block at most, so everything about
//! its lock lies in a place of its own. The holder of a block is found by the block; those that wait for it hang
//! behind its holder.
//!
//! ```text
//!   block -> slot 3 -> slot 6 -> slot 1
//!            holds     wait for the block of slot 3
//! ```

use std::cell::RefCell;

use crate::runtime::chains::Chains;
use crate::types::Lbn;

/// Names a request slot of one zone thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotIndex(pub u32);

/// Nobody.
const NONE: u32 = u32::MAX;

/// Who waits behind one slot.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Who waits right behind it.
    next_waiter: u32,
    /// The last who waits, if it is a holder and somebody does.
    last_waiter: u32,
}

impl Place {
    const FREE: Place = Place {
        next_waiter: NONE,
        last_waiter: NONE,
    };
}

#[derive(Debug)]
struct LockTable {
    holders: Chains,
    places: Box<[Place]>,
    held: usize,
}

impl LockTable {
    #[inline]
    fn place(&mut self, slot: u32) -> &mut Place {
        &mut self.places[slot as usize]
    }
}

/// The logical-block locks of one zone thread.
#[derive(Debug)]
pub struct LogicalLocks(RefCell<LockTable>);

impl LogicalLocks {
    /// Locks for `slots` request slots.
    pub fn new(slots: usize) -> LogicalLocks {
        LogicalLocks(RefCell::new(LockTable {
            holders: Chains::new(slots),
            places: vec![Place::FREE; slots].into(),
            held: 0,
        }))
    }

    /// The slot that holds the lock on `lbn`, if any does.
    #[inline]
    pub fn holder(&self, lbn: Lbn) -> Option<SlotIndex> {
        self.0.borrow().holders.find(lbn.get()).map(SlotIndex)
    }

    /// Locks `lbn` for `slot`, and says whether that holds it now; else it waits behind everyone who asked
    /// before, until [`LogicalLocks::unlock`] names it.
    #[inline]
    pub fn lock(&self, lbn: Lbn, slot: SlotIndex) -> bool {
        let table = &mut *self.0.borrow_mut();
        let holder = table.holders.find(lbn.get());
        *table.place(slot.0) = Place::FREE;
        match holder {
            None => {
                table.holders.insert(lbn.get(), slot.0);
                table.held += 1;
                true
            }
            Some(holder) => {
                let last = match table.place(holder).last_waiter {
                    NONE => holder,
                    last => last,
                };
                table.place(last).next_waiter = slot.0;
                table.place(holder).last_waiter = slot.0;
                false
            }
        }
    }

    /// Gives up the lock on `lbn`, which `slot` holds, and names the slot that holds it from now on.
    ///
    /// # Panics
    /// If `slot` does not hold the lock.
    #[inline]
    pub fn unlock(&self, lbn: Lbn, slot: SlotIndex) -> Option<SlotIndex> {
        let table = &mut *self.0.borrow_mut();
        assert_eq!(
            table.holders.find(lbn.get()),
            Some(slot.0),
            "a logical lock is released by its holder"
        );
        let Place {
            next_waiter,
            last_waiter,
        } = *table.place(slot.0);
        if next_waiter == NONE {
            table.holders.remove(slot.0);
            table.held -= 1;
            return None;
        }
        table.holders.replace(slot.0, next_waiter);
        table.place(next_waiter).last_waiter = match last_waiter == next_waiter {
            true => NONE,
            false => last_waiter,
        };
        Some(SlotIndex(next_waiter))
    }

    /// Whether somebody waits for the lock that `slot` holds.
    #[inline]
    pub fn is_awaited(&self, slot: SlotIndex) -> bool {
        self.0.borrow().places[slot.0 as usize].next_waiter != NONE
    }

    /// How many blocks are locked.
    pub fn len(&self) -> usize {
        self.0.borrow().held
    }

    /// Whether no block is locked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, VecDeque};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_for_one_block_go_in_order_and_others_do_not_wait() {
        let locks = LogicalLocks::new(4);
        let granted: Vec<bool> = [(0, 7), (1, 7), (2, 8), (3, 7)]
            .map(|(slot, lbn)| locks.lock(Lbn(lbn), SlotIndex(slot)))
            .into();
        assert_eq!(granted, [true, false, true, false]);
        assert_eq!(locks.unlock(Lbn(7), SlotIndex(0)), Some(SlotIndex(1)));
        assert_eq!(locks.holder(Lbn(7)), Some(SlotIndex(1)));
        assert!(locks.is_awaited(SlotIndex(1)) && !locks.is_awaited(SlotIndex(2)));
        assert_eq!(locks.unlock(Lbn(7), SlotIndex(1)), Some(SlotIndex(3)));
        assert_eq!(locks.unlock(Lbn(7), SlotIndex(3)), None);
        assert_eq!(locks.unlock(Lbn(8), SlotIndex(2)), None);
        assert!(locks.is_empty());
    }

    #[test]
    #[should_panic(expected = "released by its holder")]
    fn a_waiter_cannot_unlock() {
        let locks = LogicalLocks::new(2);
        locks.lock(Lbn(1), SlotIndex(0));
        locks.lock(Lbn(1), SlotIndex(1));
        locks.unlock(Lbn(1), SlotIndex(1));
    }

    proptest! {
        /// Few blocks and few buckets, so that chains and queues mix.
        #[test]
        fn the_table_is_a_queue_for_each_block(
            choices in prop::collection::vec((0u32..8, 0u64..5), 1..200),
        ) {
            let locks = LogicalLocks::new(8);
            let mut queues: HashMap<u64, VecDeque<u32>> = HashMap::new();
            let mut of: [Option<u64>; 8] = [None; 8];
            for (slot, lbn) in choices {
                match of[slot as usize] {
                    None => {
                        let queue = queues.entry(lbn).or_default();
                        queue.push_back(slot);
                        of[slot as usize] = Some(lbn);
                        prop_assert_eq!(locks.lock(Lbn(lbn), SlotIndex(slot)), queue.len() == 1);
                    }
                    Some(held) if queues[&held][0] == slot => {
                        let queue = queues.get_mut(&held).unwrap();
                        queue.pop_front();
                        of[slot as usize] = None;
                        let next = queue.front().copied().map(SlotIndex);
                        prop_assert_eq!(locks.unlock(Lbn(held), SlotIndex(slot)), next);
                    }
                    Some(_) => {}
                }
                for (lbn, queue) in &queues {
                    let holder = queue.front().copied().map(SlotIndex);
                    prop_assert_eq!(locks.holder(Lbn(*lbn)), holder);
                }
                prop_assert_eq!(locks.len(), queues.values().filter(|queue| !queue.is_empty()).count());
            }
        }
    }
}
