//! Which zone thread owns which tree of the block map, and with it the logical blocks that the tree maps.
//!
//! Trees are dealt to the zone threads in turn. The first zone thread keeps the journal for all, and so gets fewer: as many
//! fewer as make all equally busy when new data is written, if there are enough to be spared. None of this is on disk.

use crate::format::tree::ENTRIES_PER_PAGE;
use crate::types::{Lbn, ZoneIndex};

/// To keep the journal for all is as much work as the requests of one tree in so many. (The instructions on zone thread 0 for
/// each write of the volume, by those of a write on the thread of its logical block; `make bench-scaling` counts both.)
const TREES_PER_JOURNAL: u64 = 10;

/// Some trees of a volume, which has 255 at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeSet([u64; 4]);

impl TreeSet {
    fn insert(&mut self, root: usize) {
        self.0[root / 64] |= 1 << (root % 64);
    }

    /// Whether the tree of this root is one of them.
    pub fn contains(&self, root: u32) -> bool {
        self.0[root as usize / 64] & 1 << (root % 64) != 0
    }
}

/// Who owns which tree. See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeOwners {
    zones: u8,
    by_root: Box<[ZoneIndex]>,
}

impl TreeOwners {
    /// So many trees, dealt to so many zone threads.
    pub fn new(roots: u32, zones: u8) -> TreeOwners {
        let zones = zones.max(1);
        let (roots, peers) = (u64::from(roots), u64::from(zones) - 1);
        let journal = roots / TREES_PER_JOURNAL;
        let firsts = roots.saturating_sub(journal * peers) / (peers + 1);
        let mut others = (1..zones).cycle();
        // The first one's lie evenly among the others'.
        let deal = |root: u64| {
            let is_firsts = root * firsts % roots < firsts;
            let other = if is_firsts { None } else { others.next() };
            ZoneIndex(other.unwrap_or(0))
        };
        TreeOwners {
            zones,
            by_root: (0..roots).map(deal).collect(),
        }
    }

    /// Whether one zone thread owns all.
    #[inline]
    pub fn is_one(&self) -> bool {
        self.zones == 1
    }

    /// How many zone threads there are.
    pub fn zones(&self) -> u8 {
        self.zones
    }

    /// How many trees there are.
    pub fn trees(&self) -> u64 {
        self.by_root.len() as u64
    }

    /// The owner of the tree of this root.
    #[inline]
    pub fn of_tree(&self, root: u32) -> ZoneIndex {
        self.by_root[root as usize]
    }

    /// The owner of a leaf page, counted over all trees.
    #[inline]
    pub fn of_leaf(&self, number: u64) -> ZoneIndex {
        self.by_root[(number % self.trees()) as usize]
    }

    /// The owner of a logical block.
    #[inline]
    pub fn of_block(&self, lbn: Lbn) -> ZoneIndex {
        self.of_leaf(lbn.get() / ENTRIES_PER_PAGE)
    }

    /// The trees of a zone thread.
    pub fn trees_of(&self, zone: ZoneIndex) -> TreeSet {
        let mut own = TreeSet::default();
        let all = self.by_root.iter().enumerate();
        all.filter(|(_, owner)| **owner == zone)
            .for_each(|(root, _)| own.insert(root));
        own
    }

    /// What a zone thread gets of `all` that are shared out by trees, and one at least.
    pub fn share(&self, zone: ZoneIndex, all: u32) -> u32 {
        let own = self.by_root.iter().filter(|owner| **owner == zone).count() as u64;
        let share = u64::from(all) * own / self.trees().max(1);
        (share as u32).max(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many trees each zone thread has.
    fn counts(roots: u32, zones: u8) -> Vec<usize> {
        let owners = TreeOwners::new(roots, zones);
        let count = |zone| {
            owners
                .by_root
                .iter()
                .filter(|one| one.get() == zone)
                .count()
        };
        (0..zones).map(count).collect()
    }

    #[test]
    fn the_first_zone_thread_has_fewer_trees_by_what_the_journal_costs() {
        assert_eq!(counts(60, 1), [60]);
        assert_eq!(counts(60, 2), [27, 33]);
        assert_eq!(counts(60, 4), [10, 17, 17, 16]);
        assert_eq!(counts(60, 8), [2, 9, 9, 8, 8, 8, 8, 8]);
        assert_eq!(counts(60, 16)[..2], [0, 4]);
        assert_eq!(counts(1, 2), [0, 1]);
    }

    #[test]
    fn neighbouring_leaves_are_of_different_zone_threads_as_far_as_can_be() {
        let owners = TreeOwners::new(60, 4);
        let zones: Vec<_> = (0..12).map(|leaf| owners.of_leaf(leaf).get()).collect();
        assert_eq!(zones, [0, 1, 2, 3, 1, 2, 0, 3, 1, 2, 3, 1]);
        // The tree counts, not the turn.
        assert_eq!(owners.of_block(Lbn(61 * ENTRIES_PER_PAGE)), ZoneIndex(1));
    }

    #[test]
    fn what_is_shared_out_goes_to_who_has_trees() {
        let owners = TreeOwners::new(60, 16);
        assert_eq!(owners.share(ZoneIndex(0), 32768), 1);
        assert_eq!(owners.share(ZoneIndex(1), 32768), 32768 / 15);
        assert_eq!(TreeOwners::new(60, 1).share(ZoneIndex(0), 32768), 32768);
    }

    proptest! {
        #[test]
        fn every_tree_has_an_owner_and_the_others_have_as_many_each(roots in 1u32..=255, zones in 1u8..=64) {
            let counts = counts(roots, zones);
            prop_assert_eq!(counts.iter().sum::<usize>(), roots as usize);
            let most = counts.iter().max().unwrap();
            prop_assert!(counts[0] <= *most);
            let owners = TreeOwners::new(roots, zones);
            for root in 0..roots {
                let contains = |zone: &u8| owners.trees_of(ZoneIndex(*zone)).contains(root);
                prop_assert!((0..zones).filter(contains).eq([owners.of_tree(root).get()]));
            }
            if let Some(least) = counts[1..].iter().min() {
                prop_assert!(most - least <= 1);
            }
        }
    }
}
