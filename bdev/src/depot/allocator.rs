//! Which slab of a zone the next free block comes from.
//!
//! One slab is *open*: blocks are taken from it in order until its end. Then it goes back among the
//! others, by how much of it is free: slabs with more free blocks come first, in powers of two, so that
//! a slab is opened rarely and gives long runs. A slab that was never used comes after those that are
//! more than half free, because a thin base device need not back it yet, and before all others. Full
//! slabs have priority zero.

use super::priority::PriorityTable;
use crate::stats::AllocatorStatistics;

/// The queue of slabs and the count of free blocks of one zone. Slabs are numbered within the zone.
#[derive(Debug)]
pub(super) struct Allocator {
    table: PriorityTable,
    /// What each slab is queued with.
    priorities: Vec<Option<u8>>,
    unopened_priority: u8,
    open: Option<u32>,
    allocated: u64,
    statistics: AllocatorStatistics,
}

impl Allocator {
    /// For `slabs` slabs of `data_blocks` blocks each, none of them known yet: all blocks count as
    /// allocated until their slab is queued.
    pub(super) fn new(slabs: usize, data_blocks: u64) -> Allocator {
        let highest = 2 + data_blocks.ilog2() as u8;
        Allocator {
            table: PriorityTable::new(highest, slabs),
            priorities: vec![None; slabs],
            unopened_priority: 1 + (data_blocks * 3 / 4).max(1).ilog2() as u8,
            open: None,
            allocated: slabs as u64 * data_blocks,
            statistics: AllocatorStatistics {
                slab_count: slabs as u64,
                ..AllocatorStatistics::default()
            },
        }
    }

    /// There are more slabs, `slabs` in all, of `data_blocks` blocks each. Those that are new are not known yet.
    pub(super) fn extend(&mut self, slabs: usize, data_blocks: u64) {
        let more = slabs - self.priorities.len();
        self.table.extend(slabs);
        self.priorities.resize(slabs, None);
        self.allocated += more as u64 * data_blocks;
        self.statistics.slab_count = slabs as u64;
    }

    /// What has been counted, and how many slabs are full now.
    pub(super) fn statistics(&self) -> AllocatorStatistics {
        let full = self
            .priorities
            .iter()
            .filter(|priority| **priority == Some(0));
        AllocatorStatistics {
            full_slabs: full.count() as u64,
            ..self.statistics
        }
    }

    /// Blocks that are not free.
    pub(super) fn allocated(&self) -> u64 {
        self.allocated
    }

    /// The slab blocks are taken from.
    #[inline]
    pub(super) fn open(&self) -> Option<u32> {
        self.open
    }

    fn priority(&self, free: u32, blank: bool) -> u8 {
        if free == 0 {
            return 0;
        }
        if blank {
            return self.unopened_priority;
        }
        let priority = 1 + free.ilog2() as u8;
        // The priority of unused slabs is theirs alone.
        if priority < self.unopened_priority {
            priority
        } else {
            priority + 1
        }
    }

    /// Makes a slab known: `free` of its blocks are.
    pub(super) fn add(&mut self, slab: u32, free: u32, blank: bool) {
        self.allocated -= u64::from(free);
        if !blank {
            self.statistics.slabs_opened += 1;
        }
        self.queue(slab, free, blank);
    }

    /// Puts a slab among those that may be opened.
    pub(super) fn queue(&mut self, slab: u32, free: u32, blank: bool) {
        let priority = self.priority(free, blank);
        self.priorities[slab as usize] = Some(priority);
        self.table.enqueue(priority, slab);
    }

    /// Puts the open slab, of which no more can be had, back among the others.
    pub(super) fn close_open(&mut self, free: u32, blank: bool) {
        if let Some(slab) = self.open.take() {
            self.queue(slab, free, blank);
        }
    }

    /// The slab to open next, if any has a free block.
    pub(super) fn best(&mut self) -> Option<u32> {
        if self.table.top()? == 0 {
            return None;
        }
        self.table.dequeue()
    }

    /// Opens a slab that [`Allocator::best`] chose.
    pub(super) fn set_open(&mut self, slab: u32, blank: bool) {
        self.priorities[slab as usize] = None;
        self.open = Some(slab);
        if blank {
            self.statistics.slabs_opened += 1;
        } else {
            self.statistics.slabs_reopened += 1;
        }
    }

    /// A block of a slab was taken or became free; `free` are left.
    #[inline]
    pub(super) fn changed(&mut self, slab: u32, was_freed: bool, free: u32, blank: bool) {
        if was_freed {
            self.allocated -= 1;
        } else {
            self.allocated += 1;
        }
        // The open slab is queued when it is closed.
        if let Some(priority) = self.priorities[slab as usize]
            && priority != self.priority(free, blank)
        {
            self.queue(slab, free, blank);
        }
    }

    /// Forgets which slabs may be opened, and that one is.
    pub(super) fn clear(&mut self) {
        self.table.clear();
        self.priorities.fill(None);
        self.open = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_slabs_come_after_half_free_ones_and_before_the_rest() {
        let mut allocator = Allocator::new(4, 1000);
        allocator.add(0, 0, false);
        allocator.add(1, 300, false);
        allocator.add(2, 1000, true);
        allocator.add(3, 600, false);
        assert_eq!(allocator.allocated(), 4000 - 1900);
        let order: Vec<_> = std::iter::from_fn(|| allocator.best()).collect();
        assert_eq!(order, [3, 2, 1], "and a full slab is not opened at all");
    }

    #[test]
    fn a_slab_moves_when_its_free_blocks_cross_a_power_of_two() {
        let mut allocator = Allocator::new(2, 64);
        allocator.add(0, 8, false);
        allocator.add(1, 8, false);
        allocator.changed(0, false, 7, false);
        assert_eq!(allocator.best(), Some(1));
        allocator.set_open(1, false);
        allocator.changed(1, false, 7, false);
        assert_eq!(allocator.best(), Some(0));
        assert_eq!(allocator.best(), None, "the open slab is in no queue");
        allocator.close_open(7, false);
        assert_eq!(allocator.best(), Some(1));
    }
}
