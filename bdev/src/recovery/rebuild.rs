//! Counting every reference anew from the block map, for a volume that is rebuilt.
//!
//! 1. [`Recount::tree_page`] is given every root and interior page, a page before those it names: each page named gets the
//!    count of a page of the block map.
//! 2. [`Recount::leaf`] is given every leaf that is left: each mapping is a reference to its block.
//! 3. [`Recount::pack`] gives the reference blocks, [`Recount::summary`] what the summary says of each slab.
//!
//! Where the map says what cannot be, the entry is unmapped, and the page has to be written: what the entry was for is lost,
//! and is told ([`Losses`]).

use crate::error::VdoError;
use crate::format::Block;
use crate::format::block_map_page::{BlockMapPageMut, is_valid};
use crate::format::reference_block::{self, COUNTS_PER_BLOCK, EMPTY};
use crate::format::slab::SlabGeometry;
use crate::format::slab_summary::{SlabSummaryEntry, fullness_hint};
use crate::format::tree::{ENTRIES_PER_PAGE, TREE_HEIGHT, TreeGeometry, TreePage};
use crate::recovery::plan::Usage;
use crate::runtime::memory;
use crate::types::{JournalPoint, MAXIMUM_REFERENCE_COUNT, Mapping, Pbn, SlabNumber};

/// What a rebuild had to drop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Entries of the journal that could not be true.
    pub journal_entries: u64,
    /// Mappings that were ill-formed.
    pub malformed: u64,
    /// Mappings that led to no block of data.
    pub outside: u64,
    /// Mappings to a block that has all references it can have, or is a page of the block map.
    pub too_many: u64,
    /// Mappings beyond the end of the volume.
    pub beyond_end: u64,
    /// Pages of the block map, and all they named, that could not be where they were said to be.
    pub subtrees: u64,
    /// Pages of the block map that could not be read.
    pub unreadable_pages: u64,
    /// Pages of the block map whose place held another page.
    pub misplaced_pages: u64,
}

impl Losses {
    /// Whether nothing was dropped.
    pub fn is_nothing(&self) -> bool {
        *self == Losses::default()
    }
}

impl std::fmt::Display for Losses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            (self.journal_entries, "implausible journal entries"),
            (self.malformed, "ill-formed mappings"),
            (self.outside, "mappings to no block of data"),
            (
                self.too_many,
                "mappings to blocks that take no more references",
            ),
            (self.beyond_end, "mappings beyond the end of the volume"),
            (
                self.subtrees,
                "parts of the block map that were out of place",
            ),
            (self.unreadable_pages, "unreadable pages of the block map"),
            (self.misplaced_pages, "misplaced pages of the block map"),
        ];
        let mut any = false;
        for (count, what) in parts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{}{count} {what}", if any { ", " } else { "" })?;
            any = true;
        }
        match any {
            true => Ok(()),
            false => f.write_str("nothing"),
        }
    }
}

/// The counters of all slabs while they are counted anew: a byte for each block of data.
#[derive(Debug)]
pub struct Recount {
    slabs: SlabGeometry,
    tree: TreeGeometry,
    counters: Box<[u8]>,
    usage: Usage,
    /// What was dropped so far.
    pub losses: Losses,
}

impl Recount {
    /// Nothing counted yet.
    ///
    /// # Errors
    /// When there is no memory for the counters.
    pub fn new(slabs: SlabGeometry, tree: TreeGeometry) -> Result<Recount, VdoError> {
        let counters = slabs.data_blocks() as usize;
        Ok(Recount {
            slabs,
            tree,
            counters: memory::zeroed(counters, 1, "reference counts")?.into_boxed_slice(),
            usage: Usage {
                logical_blocks: 0,
                block_map_pages: 0,
            },
            losses: Losses::default(),
        })
    }

    fn counter(&mut self, pbn: Pbn) -> Option<&mut u8> {
        let (slab, offset) = self.slabs.locate(pbn)?;
        let at = slab.index() * self.slabs.config.data_blocks as usize + offset as usize;
        self.counters.get_mut(at)
    }

    /// Counts the pages that a root or interior page names. Says whether the page was changed and is to be written; what
    /// is left in it leads to pages that are counted.
    pub fn tree_page(&mut self, page: TreePage, block: &mut Block) -> bool {
        let mut changed = false;
        for slot in 0..ENTRIES_PER_PAGE as u16 {
            let mut view = BlockMapPageMut::new(block);
            let mapping = view.as_page().get(slot);
            let sound = is_valid(mapping);
            if sound && !mapping.state.is_mapped() {
                continue;
            }
            let lost = if !sound {
                &mut self.losses.malformed
            } else if !self.has_child(page, slot) {
                &mut self.losses.beyond_end
            } else if let Some(counter) = self.counter(mapping.pbn).filter(|count| **count == EMPTY)
            {
                *counter = MAXIMUM_REFERENCE_COUNT;
                self.usage.block_map_pages += 1;
                continue;
            } else {
                &mut self.losses.subtrees
            };
            *lost += 1;
            view.set(slot, Mapping::UNMAPPED);
            changed = true;
        }
        changed
    }

    /// Whether the tree of the volume has the page that a slot of this page would name.
    fn has_child(&self, page: TreePage, slot: u16) -> bool {
        has_child(&self.tree, page, slot)
    }

    /// Counts the references of a leaf. Says whether it was changed and is to be written.
    pub fn leaf(&mut self, page: TreePage, block: &mut Block) -> bool {
        let mut changed = false;
        let first = self.tree.first_lbn(page).get();
        for slot in 0..ENTRIES_PER_PAGE as u16 {
            let mut view = BlockMapPageMut::new(block);
            let mapping = view.as_page().get(slot);
            let sound = is_valid(mapping);
            if sound && !mapping.state.is_mapped() {
                continue;
            }
            let lost = if first + u64::from(slot) >= self.tree.logical_blocks {
                &mut self.losses.beyond_end
            } else if !sound {
                &mut self.losses.malformed
            } else if mapping.pbn == Pbn::ZERO {
                self.usage.logical_blocks += 1;
                continue;
            } else {
                match self.counter(mapping.pbn) {
                    Some(count) if *count < MAXIMUM_REFERENCE_COUNT => {
                        *count += 1;
                        self.usage.logical_blocks += 1;
                        continue;
                    }
                    Some(_) => &mut self.losses.too_many,
                    None => &mut self.losses.outside,
                }
            };
            *lost += 1;
            view.set(slot, Mapping::UNMAPPED);
            changed = true;
        }
        changed
    }

    /// How much is in use.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    fn counters_of(&self, slab: SlabNumber) -> &[u8] {
        let blocks = self.slabs.config.data_blocks as usize;
        &self.counters[slab.index() * blocks..][..blocks]
    }

    /// What the summary is to say of a slab. Only if it says that counters are to be loaded, they are to be written.
    pub fn summary(&self, slab: SlabNumber) -> SlabSummaryEntry {
        let counters = self.counters_of(slab);
        let free = counters.iter().filter(|count| **count == EMPTY).count();
        SlabSummaryEntry {
            tail_block_offset: 0,
            fullness_hint: fullness_hint(free as u64, self.slabs.slab_shift()),
            load_counts: free < counters.len(),
            is_dirty: false,
        }
    }

    /// Packs a reference block of a slab, whose journal is empty.
    pub fn pack(&self, slab: SlabNumber, index: u64, to: &mut Block) {
        let counters = self.counters_of(slab);
        let first = (index as usize * COUNTS_PER_BLOCK).min(counters.len());
        let end = (first + COUNTS_PER_BLOCK).min(counters.len());
        reference_block::encode(to, JournalPoint::default(), &counters[first..end]);
    }
}

/// Whether a tree has the page that a slot of this page, a root or interior one, would name.
pub fn has_child(tree: &TreeGeometry, page: TreePage, slot: u16) -> bool {
    let Some(height) = page.height.checked_sub(1) else {
        return false;
    };
    let (roots, leaves) = (u64::from(tree.roots), tree.leaf_count());
    // Leaves are dealt to the trees in turn, so the first trees have one more.
    let mut pages = leaves / roots + u64::from(u64::from(page.root) < leaves % roots);
    for _ in 0..height {
        pages = pages.div_ceil(ENTRIES_PER_PAGE);
    }
    page.index * ENTRIES_PER_PAGE + u64::from(slot) < pages
}

/// The page that a slot of a root or interior page names.
pub fn child(page: TreePage, slot: u16) -> TreePage {
    debug_assert!(page.height > 0 && usize::from(page.height) < TREE_HEIGHT);
    TreePage {
        root: page.root,
        height: page.height - 1,
        index: page.index * ENTRIES_PER_PAGE + u64::from(slot),
    }
}

#[cfg(test)]
mod tests;
