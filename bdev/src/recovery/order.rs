//! Which slabs are scrubbed before a recovered volume takes requests, and in which order the others follow.
//!
//! A slab that is clean and whose counters were never written is all free and can be used at once. Every other must be
//! scrubbed first, which for a clean one only means to read its counters. Before the volume takes requests
//! that is done for slabs whose journal is so full that it might not hold what the requests under way could add; for a few
//! that are clean, so that a small volume is whole from the start; and in a zone that then has no slab to allocate from, for the
//! first.

use crate::format::slab::SlabConfig;
use crate::format::slab_summary::SlabSummaryEntry;
use crate::types::SlabNumber;

/// A slab as the summary and the end of its journal show it.
#[derive(Clone, Copy, Debug)]
pub struct SlabGlance {
    /// Which slab.
    pub number: SlabNumber,
    /// What the summary says of it.
    pub entry: SlabSummaryEntry,
    /// Blocks of its journal that are in use.
    pub journal_length: u64,
}

impl SlabGlance {
    /// Whether it can be used without looking at it.
    pub fn is_usable(&self) -> bool {
        !self.entry.is_dirty && !self.entry.load_counts
    }
}

/// The slabs of one zone in the order of scrubbing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ScrubOrder {
    /// Before the zone takes requests.
    pub first: Vec<SlabNumber>,
    /// Afterwards.
    pub later: Vec<SlabNumber>,
}

impl ScrubOrder {
    /// The order for the slabs of one zone: clean ones before dirty ones, then those with more room, then by number. Of the clean
    /// ones so many come first.
    pub fn new(
        slabs: impl IntoIterator<Item = SlabGlance>,
        config: &SlabConfig,
        clean_first: usize,
    ) -> ScrubOrder {
        let mut slabs: Vec<_> = slabs.into_iter().collect();
        slabs.sort_by_key(|slab| {
            let room = std::cmp::Reverse(slab.entry.fullness_hint);
            (slab.entry.is_dirty, room, slab.number)
        });
        let some_usable = slabs.iter().any(SlabGlance::is_usable);
        let mut order = ScrubOrder::default();
        for slab in slabs.iter().filter(|slab| !slab.is_usable()) {
            let clean = !slab.entry.is_dirty && order.first.len() < clean_first;
            match clean || slab.journal_length >= config.scrubbing_threshold {
                true => order.first.push(slab.number),
                false => order.later.push(slab.number),
            }
        }
        if !some_usable && order.first.is_empty() && !order.later.is_empty() {
            order.first.push(order.later.remove(0));
        }
        order
    }

    /// All of them.
    pub fn all(self) -> impl Iterator<Item = SlabNumber> {
        self.first.into_iter().chain(self.later)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: SlabSummaryEntry = SlabSummaryEntry {
        tail_block_offset: 0,
        fullness_hint: 10,
        load_counts: true,
        is_dirty: false,
    };

    fn order(slabs: &[(u32, SlabSummaryEntry, u64)]) -> (Vec<u32>, Vec<u32>) {
        order_with_clean(slabs, 0)
    }

    fn order_with_clean(
        slabs: &[(u32, SlabSummaryEntry, u64)],
        clean_first: usize,
    ) -> (Vec<u32>, Vec<u32>) {
        let config = SlabConfig::new(1 << 13, 224).unwrap();
        let slabs = slabs
            .iter()
            .map(|&(number, entry, journal_length)| SlabGlance {
                number: SlabNumber(number),
                entry,
                journal_length,
            });
        let order = ScrubOrder::new(slabs, &config, clean_first);
        let numbers = |slabs: &[SlabNumber]| slabs.iter().map(|slab| slab.get()).collect();
        (numbers(&order.first), numbers(&order.later))
    }

    fn dirty(fullness_hint: u8) -> SlabSummaryEntry {
        SlabSummaryEntry {
            fullness_hint,
            is_dirty: true,
            ..CLEAN
        }
    }

    #[test]
    fn clean_slabs_come_before_dirty_ones_and_emptier_ones_before_fuller() {
        let slabs = [
            (0, dirty(50), 1),
            (3, dirty(60), 1),
            (6, CLEAN, 0),
            (9, dirty(60), 1),
        ];
        assert_eq!(order(&slabs), (vec![6], vec![3, 9, 0]));
    }

    #[test]
    fn some_clean_slabs_are_read_first_the_emptiest_of_them() {
        let clean = |fullness_hint| SlabSummaryEntry {
            fullness_hint,
            ..CLEAN
        };
        let slabs = [
            (0, dirty(50), 222),
            (1, clean(3), 0),
            (2, clean(9), 0),
            (3, clean(5), 0),
        ];
        assert_eq!(order_with_clean(&slabs, 2), (vec![2, 3, 0], vec![1]));
    }

    #[test]
    fn a_zone_with_a_slab_to_allocate_from_need_not_wait_for_any() {
        let unused = SlabSummaryEntry {
            load_counts: false,
            ..CLEAN
        };
        let slabs = [(0, dirty(50), 1), (1, unused, 0), (2, dirty(60), 221)];
        assert_eq!(order(&slabs), (vec![], vec![2, 0]));
        assert_eq!(order(&[(1, unused, 0)]), (vec![], vec![]));
    }

    #[test]
    fn a_slab_with_a_full_journal_never_waits() {
        let slabs = [(0, dirty(50), 1), (1, dirty(1), 222), (2, dirty(60), 221)];
        assert_eq!(order(&slabs), (vec![1], vec![2, 0]));
    }
}
