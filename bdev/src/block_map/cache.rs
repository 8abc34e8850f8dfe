//! The cache of leaf pages: which leaf is in which slot, which goes next, and who waits for a slot.
//!
//! This is bookkeeping only; what the slots hold is in `pages`, and `state` decides. A
//! leaf is found by its block number. Slots in use are kept in order of use.
//!
//! A request whose leaf is in no slot when every slot is taken *wants* a slot. Wants are kept in order of
//! arrival, one for each leaf, and all requests for that leaf wait together.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::pages::PageId;
use super::waiters::WaitQueue;
use crate::runtime::chains::Chains;
use crate::runtime::list::{Links, List};
use crate::types::Pbn;

/// Which leaf is where.
pub(super) struct Cache {
    by_leaf: Chains,
    free: Vec<PageId>,
    /// Slots in use, coldest first.
    by_use: List,
    links: Links,
    wants: Wants,
}

impl Cache {
    /// `slots` free slots, and room for `wants` wants.
    pub(super) fn new(slots: usize, wants: usize) -> Cache {
        Cache {
            by_leaf: Chains::new(slots),
            free: (0..slots as u32).rev().map(PageId::new).collect(),
            by_use: List::EMPTY,
            links: Links::new(slots),
            wants: Wants::new(wants),
        }
    }

    /// Bytes of memory it holds.
    pub(super) fn memory_held(&self) -> usize {
        let free = self.free.capacity() * size_of::<PageId>();
        self.by_leaf.memory_held() + free + self.links.memory_held()
    }

    /// The slot that holds, or is to hold, the leaf at `pbn`.
    #[inline]
    pub(super) fn find(&self, pbn: Pbn) -> Option<PageId> {
        self.by_leaf.find(pbn.get()).map(PageId::new)
    }

    /// Marks a slot as the one used last.
    #[inline]
    pub(super) fn touch(&mut self, id: PageId) {
        if self.by_use.last() != Some(id.get()) {
            self.by_use.remove(&mut self.links, id.get());
            self.by_use.push(&mut self.links, id.get());
        }
    }

    /// Takes a free slot.
    pub(super) fn take_free(&mut self) -> Option<PageId> {
        self.free.pop()
    }

    /// Gives back a slot that holds nothing.
    pub(super) fn give_free(&mut self, id: PageId) {
        self.free.push(id);
    }

    /// Puts the leaf at `pbn` into a slot that was free.
    pub(super) fn insert(&mut self, id: PageId, pbn: Pbn) {
        self.by_leaf.insert(pbn.get(), id.get());
        self.by_use.push(&mut self.links, id.get());
    }

    /// Takes the leaf out of a slot.
    pub(super) fn remove(&mut self, id: PageId) {
        self.by_leaf.remove(id.get());
        self.by_use.remove(&mut self.links, id.get());
    }

    /// Slots in use, coldest first.
    pub(super) fn coldest_first(&self) -> impl Iterator<Item = PageId> {
        self.by_use.iter(&self.links).map(PageId::new)
    }

    /// Requests that want a slot.
    pub(super) fn wants(&mut self) -> &mut Wants {
        &mut self.wants
    }
}

/// Leaves that are wanted and have no slot, in order of arrival.
pub(super) struct Wants {
    queue: VecDeque<(Pbn, WaitQueue)>,
    /// How many were ever taken off the front: the ordinal of the first one in the queue.
    taken: u64,
    ordinals: HashMap<Pbn, u64>,
}

impl Wants {
    fn new(capacity: usize) -> Wants {
        Wants {
            queue: VecDeque::with_capacity(capacity),
            taken: 0,
            // Twice the room: a table with so much to spare cleans up in place instead of growing.
            ordinals: HashMap::with_capacity(capacity * 2),
        }
    }

    /// How many leaves are wanted.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// The queue of those who want the leaf at `pbn`.
    pub(super) fn queue(&mut self, pbn: Pbn) -> &mut WaitQueue {
        let next = self.taken + self.queue.len() as u64;
        let ordinal = *self.ordinals.entry(pbn).or_insert(next);
        if ordinal == next {
            self.queue.push_back((pbn, WaitQueue::EMPTY));
        }
        &mut self.queue[(ordinal - self.taken) as usize].1
    }

    /// Takes the leaf that was wanted first, and those who want it.
    pub(super) fn take(&mut self) -> Option<(Pbn, WaitQueue)> {
        let (pbn, waiters) = self.queue.pop_front()?;
        self.taken += 1;
        self.ordinals.remove(&pbn);
        Some((pbn, waiters))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn what_was_put_in_is_found_until_it_is_taken_out(
            steps in prop::collection::vec((0u64..12, 0u8..3), 1..200)
        ) {
            let mut cache = Cache::new(5, 1);
            let mut model: BTreeMap<u64, PageId> = BTreeMap::new();
            let mut order = Vec::new();
            for (pbn, step) in steps {
                match (step, model.get(&pbn).copied()) {
                    (0, None) => {
                        if let Some(id) = cache.take_free() {
                            cache.insert(id, Pbn(pbn));
                            model.insert(pbn, id);
                            order.push(id);
                        }
                    }
                    (1, Some(id)) => {
                        cache.remove(id);
                        cache.give_free(id);
                        model.remove(&pbn);
                        order.retain(|&other| other != id);
                    }
                    (2, Some(id)) => {
                        cache.touch(id);
                        order.retain(|&other| other != id);
                        order.push(id);
                    }
                    _ => {}
                }
                for pbn in 0..12 {
                    prop_assert_eq!(cache.find(Pbn(pbn)), model.get(&pbn).copied());
                }
                prop_assert_eq!(cache.coldest_first().collect::<Vec<_>>(), order.clone());
            }
        }
    }

    #[test]
    fn wants_for_one_leaf_wait_together_in_the_place_of_the_first() {
        let mut cache = Cache::new(1, 4);
        let wants = cache.wants();
        for pbn in [7, 8, 7, 9] {
            wants.queue(Pbn(pbn));
        }
        assert_eq!(wants.len(), 3);
        assert_eq!(wants.take().map(|want| want.0), Some(Pbn(7)));
        wants.queue(Pbn(7));
        wants.queue(Pbn(9));
        let rest: Vec<_> = std::iter::from_fn(|| wants.take().map(|want| want.0)).collect();
        assert_eq!(rest, [Pbn(8), Pbn(9), Pbn(7)]);
    }
}
