//! The trees of a zone: which of their pages are in memory, and which are being made.
//!
//! The geometry of the forest is in [`crate::format::tree`]. Here is a directory with one number for each
//! interior page the zone's trees can ever have: 4 bytes for every 812 leaves. A page comes into memory
//! when it is first needed, by being read or by being made, and stays.

use super::owners::TreeOwners;
use super::pages::PageId;
use super::waiters::WaitQueue;
use crate::error::VdoError;
use crate::format::tree::{TREE_HEIGHT, TreeGeometry, TreePage};
use crate::runtime::memory;
use crate::types::{Pbn, ZoneIndex};

const NONE: u32 = u32::MAX;

/// A page that is being made: an entry of its parent, which is empty as yet.
struct Growth {
    parent: PageId,
    slot: u16,
    waiting: WaitQueue,
}

/// The zone's part of the forest.
pub(super) struct Forest {
    geometry: TreeGeometry,
    directory: Vec<u32>,
    /// Where each tree's part of the directory begins; [`NONE`] for the trees of other zones.
    trees: Vec<u32>,
    /// Where in a tree's part each height begins, by height.
    heights: [u32; TREE_HEIGHT],
    growths: Vec<Growth>,
}

impl Forest {
    /// The trees of zone `zone` of `zones`, no page of them in memory.
    ///
    /// # Errors
    /// When there is no memory for the directory.
    pub(super) fn new(
        geometry: TreeGeometry,
        zone: ZoneIndex,
        zones: u8,
    ) -> Result<Forest, VdoError> {
        let owners = TreeOwners::new(geometry.roots, zones);
        Forest::with_trees(geometry, |root| owners.of_tree(root) == zone)
    }

    /// The same trees with room for all pages of `geometry`, which has more leaves; no page of them in memory.
    ///
    /// # Errors
    /// When there is no memory for the directory.
    pub(super) fn extended(&self, geometry: TreeGeometry) -> Result<Forest, VdoError> {
        Forest::with_trees(geometry, |root| self.owns(root))
    }

    fn with_trees(
        geometry: TreeGeometry,
        is_own: impl Fn(u32) -> bool,
    ) -> Result<Forest, VdoError> {
        let mut heights = [0; TREE_HEIGHT];
        let mut tree_size = 0;
        for (height, pages) in geometry.pages_per_tree().into_iter().enumerate().skip(1) {
            heights[height] = tree_size;
            tree_size += pages as u32;
        }
        let mut begin = 0;
        let mut trees = vec![NONE; geometry.roots as usize];
        for root in 0..geometry.roots {
            if is_own(root) {
                trees[root as usize] = begin;
                begin += tree_size;
            }
        }
        Ok(Forest {
            geometry,
            directory: memory::filled(NONE, begin as usize, "the block map's upper pages")?,
            trees,
            heights,
            growths: Vec::new(),
        })
    }

    /// Takes the place of `old`, of which it is an extension: knows the pages that are in memory or being made.
    pub(super) fn replace(&mut self, old: &mut Forest) {
        let pages = old.geometry.pages_per_tree();
        for root in (0..old.geometry.roots).filter(|root| old.owns(*root)) {
            for (height, pages) in (0..).zip(pages).skip(1) {
                let first = TreePage {
                    root,
                    height,
                    index: 0,
                };
                let (from, to, pages) = (old.at(first), self.at(first), pages as usize);
                self.directory[to..to + pages].copy_from_slice(&old.directory[from..from + pages]);
            }
        }
        self.growths = std::mem::take(&mut old.growths);
    }

    /// The forest it is a part of.
    pub(super) fn geometry(&self) -> TreeGeometry {
        self.geometry
    }

    /// Whether the zone owns a tree.
    #[inline]
    pub(super) fn owns(&self, root: u32) -> bool {
        self.trees.get(root as usize).is_some_and(|&at| at != NONE)
    }

    /// Where the root page of a tree is.
    pub(super) fn root_pbn(&self, root: u32) -> Pbn {
        self.geometry.root_pbn(root)
    }

    /// Whether a block is the place of a root.
    pub(super) fn is_root(&self, pbn: Pbn) -> bool {
        let first = self.geometry.root_origin.get();
        (first..first + u64::from(self.geometry.roots)).contains(&pbn.get())
    }

    #[inline]
    fn at(&self, page: TreePage) -> usize {
        let begin = self.trees[page.root as usize] as usize;
        begin + self.heights[usize::from(page.height)] as usize + page.index as usize
    }

    /// A page above the leaves, if it is in memory or being read.
    #[inline]
    pub(super) fn page(&self, page: TreePage) -> Option<PageId> {
        let id = self.directory[self.at(page)];
        (id != NONE).then_some(PageId::new(id))
    }

    /// A page above the leaves is now in memory, or being read.
    pub(super) fn insert(&mut self, page: TreePage, id: PageId) {
        let at = self.at(page);
        self.directory[at] = id.get();
    }

    /// A page could not be read. (There is no way back from its number to its place: reads rarely fail.)
    pub(super) fn remove(&mut self, id: PageId) {
        for entry in &mut self.directory {
            if *entry == id.get() {
                *entry = NONE;
            }
        }
    }

    /// The queue of those who wait for a page to be made, if someone makes it: its parent, and the slot of
    /// its entry there.
    pub(super) fn growth(&mut self, parent: PageId, slot: u16) -> Option<&mut WaitQueue> {
        let mut growths = self.growths.iter_mut();
        let growth = growths.find(|growth| growth.parent == parent && growth.slot == slot)?;
        Some(&mut growth.waiting)
    }

    /// Someone now makes a page.
    pub(super) fn start_growth(&mut self, parent: PageId, slot: u16) {
        self.growths.push(Growth {
            parent,
            slot,
            waiting: WaitQueue::EMPTY,
        });
    }

    /// A page has been made, or could not be; returns those who wait for it.
    pub(super) fn end_growth(&mut self, parent: PageId, slot: u16) -> WaitQueue {
        let mut growths = self.growths.iter();
        match growths.position(|growth| growth.parent == parent && growth.slot == slot) {
            Some(at) => self.growths.swap_remove(at).waiting,
            None => WaitQueue::EMPTY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_interior_page_of_every_zone_has_a_place_of_its_own() {
        let geometry = TreeGeometry {
            root_origin: Pbn(1),
            roots: 7,
            logical_blocks: 812 * 812 * 9,
        };
        for zones in 1..=3 {
            let forests: Vec<_> = (0..zones)
                .map(|zone| Forest::new(geometry, ZoneIndex(zone), zones).expect("little memory"))
                .collect();
            let mut seen = HashSet::new();
            for number in 0..geometry.leaf_count() {
                let leaf = geometry.leaf_page(number);
                let zone = TreeOwners::new(7, zones).of_leaf(number);
                let forest = &forests[zone.index()];
                let mut page = leaf;
                while let Some((parent, _)) = page.parent() {
                    assert!(forest.at(parent) < forest.directory.len());
                    seen.insert((zone, forest.at(parent), parent));
                    page = parent;
                }
            }
            let places: HashSet<_> = seen.iter().map(|&(zone, at, _)| (zone, at)).collect();
            assert_eq!(places.len(), seen.len(), "{zones} zones");
        }
        let second = Forest::new(geometry, ZoneIndex(1), 2).expect("little memory");
        assert!(second.owns(1) && !second.owns(3));
    }

    #[test]
    fn an_extended_forest_knows_every_page_the_old_one_knew_and_no_other() {
        let small = TreeGeometry {
            root_origin: Pbn(100),
            roots: 7,
            logical_blocks: 812 * 7 * 900,
        };
        let large = TreeGeometry {
            logical_blocks: 812 * 7 * 812 * 3,
            ..small
        };
        let zone = ZoneIndex(1);
        let mut forest = Forest::new(small, zone, 2).expect("little memory");
        let pages = |geometry: TreeGeometry| {
            let heights = (0..).zip(geometry.pages_per_tree()).skip(1);
            let all = heights.flat_map(move |(height, pages)| {
                (0..pages).flat_map(move |index| {
                    (0..geometry.roots).map(move |root| TreePage {
                        root,
                        height,
                        index,
                    })
                })
            });
            all.filter(move |page| TreeOwners::new(7, 2).of_tree(page.root) == zone)
        };
        let known: Vec<_> = pages(small).step_by(3).collect();
        for (number, page) in (0..).zip(&known) {
            forest.insert(*page, PageId::new(number));
        }
        forest.start_growth(PageId::new(0), 5);
        let mut extended = forest.extended(large).expect("little memory");
        extended.replace(&mut forest);
        for page in pages(large) {
            let number = known.iter().position(|known| *known == page);
            let expected = number.map(|number| PageId::new(number as u32));
            assert_eq!(extended.page(page), expected, "{page:?}");
        }
        assert!(extended.growth(PageId::new(0), 5).is_some());
        assert!(!extended.owns(0) && extended.owns(1));
    }
}
