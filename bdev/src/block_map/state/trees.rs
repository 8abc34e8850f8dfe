//! The way down a tree to a leaf, step by step, and making the pages that are missing on it.

use super::{MapPhase, MapState};
use crate::block_map::forest::Forest;
use crate::block_map::pages::{Contents, PageId};
use crate::block_map::waiters::{PageOp, WaiterId};
use crate::error::VdoError;
use crate::format::block_map_page::BlockMapPageMut;
use crate::format::tree::{TREE_HEIGHT, TreeGeometry, TreePage};
use crate::types::{Mapping, MappingState, Pbn, SequenceNumber};

/// The next step on the way down a tree to a leaf.
pub(in crate::block_map) enum Descent {
    /// The leaf is at this block.
    Found(Pbn),
    /// There is no leaf.
    Missing,
    /// A page is being read or made; look again when the waiter is woken.
    Wait(WaiterId),
    /// This page must be made, by the caller.
    Grow(Growing),
}

/// A page about to be made.
#[derive(Clone, Copy, Debug)]
pub(in crate::block_map) struct Growing {
    pub(in crate::block_map) page: TreePage,
    pub(in crate::block_map) parent: PageId,
    pub(in crate::block_map) parent_pbn: Pbn,
    pub(in crate::block_map) slot: u16,
}

impl MapState {
    /// Whether the zone owns the tree of this page.
    #[inline]
    pub(in crate::block_map) fn owns(&self, page: TreePage) -> bool {
        self.forest.owns(page.root)
    }

    /// A forest with room for all pages of `geometry`, to be handed to [`MapState::extend`].
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(in crate::block_map) fn extended_forest(
        &self,
        geometry: TreeGeometry,
    ) -> Result<Forest, VdoError> {
        self.forest.extended(geometry)
    }

    /// From now on there are more leaves.
    pub(in crate::block_map) fn extend(&mut self, mut extended: Forest) {
        extended.replace(&mut self.forest);
        self.forest = extended;
    }

    /// Where a leaf is, if all pages on the way are in memory.
    #[inline]
    pub(in crate::block_map) fn locate_now(&self, leaf: TreePage) -> Option<Pbn> {
        let (parent, slot) = leaf.parent()?;
        if !self.owns(leaf) || self.phase != MapPhase::Open {
            return None;
        }
        let id = self.forest.page(parent)?;
        if self.pages.get(id).contents != Contents::Valid {
            return None;
        }
        let child = self.pages.entries(id).get(slot);
        let is_good = child.state == MappingState::UNCOMPRESSED && (self.is_data_block)(child.pbn);
        is_good.then_some(child.pbn)
    }

    /// The lowest page above a leaf that is in memory or on its way there, with the page below it on the way to the leaf
    /// and the slot of that; `None` if not even the root is.
    pub(super) fn lowest_parent(&self, leaf: TreePage) -> Option<(TreePage, PageId, u16)> {
        let mut page = leaf;
        loop {
            let (parent, slot) = page.parent()?;
            if let Some(id) = self.forest.page(parent) {
                return Some((page, id, slot));
            }
            page = parent;
        }
    }

    /// One step on the way to a leaf: from the lowest page that is in memory, as far as one can see.
    pub(in crate::block_map) fn step(
        &mut self,
        leaf: TreePage,
        grow: bool,
    ) -> Result<Descent, VdoError> {
        let Some((page, id, slot)) = self.lowest_parent(leaf) else {
            let root = TreePage {
                height: TREE_HEIGHT as u8 - 1,
                index: 0,
                ..leaf
            };
            let waiter = self.read_tree_page(root, self.forest.root_pbn(root.root));
            return Ok(Descent::Wait(waiter));
        };
        if self.pages.get(id).contents != Contents::Valid {
            return Ok(Descent::Wait(self.wait_for_page(id, PageOp::Await)));
        }
        let child = self.pages.entries(id).get(slot);
        if !child.state.is_mapped() && child.pbn == Pbn::ZERO {
            return Ok(self.missing(page, id, slot, grow));
        }
        if child.state != MappingState::UNCOMPRESSED || !(self.is_data_block)(child.pbn) {
            return Err(VdoError::Inconsistent(format!(
                "slot {slot} of block-map page {} says that page {} of height {} in tree {} is at block {} \
                 (state {}), which is not a place for one",
                self.pages.get(id).pbn,
                page.index,
                page.height,
                page.root,
                child.pbn,
                child.state.bits(),
            )));
        }
        Ok(match page.height {
            0 => Descent::Found(child.pbn),
            _ => Descent::Wait(self.read_tree_page(page, child.pbn)),
        })
    }

    fn read_tree_page(&mut self, page: TreePage, pbn: Pbn) -> WaiterId {
        let id = self.add_tree_page(page, pbn);
        self.read(id);
        self.wait_for_page(id, PageOp::Await)
    }

    fn add_tree_page(&mut self, page: TreePage, pbn: Pbn) -> PageId {
        let id = self.pages.add_tree_page(pbn);
        self.eras.resize(self.pages.len());
        self.forest.insert(page, id);
        id
    }

    fn missing(&mut self, page: TreePage, parent: PageId, slot: u16, grow: bool) -> Descent {
        if !grow {
            return Descent::Missing;
        }
        if let Some(queue) = self.forest.growth(parent, slot) {
            return Descent::Wait(self.waiters.enqueue(queue, PageOp::Await));
        }
        self.forest.start_growth(parent, slot);
        Descent::Grow(Growing {
            page,
            parent,
            parent_pbn: self.pages.get(parent).pbn,
            slot,
        })
    }

    /// A page has been made: its parent's entry is set under the journal block that records it, and a page
    /// above the leaves begins its life empty.
    pub(in crate::block_map) fn grown(
        &mut self,
        growing: Growing,
        made: Mapping,
        sequence: SequenceNumber,
    ) {
        self.set_entry(growing.parent, growing.slot, made, sequence);
        if growing.page.height == 0 {
            self.made.push(made.pbn);
        } else {
            let id = self.add_tree_page(growing.page, made.pbn);
            let nonce = self.nonce;
            BlockMapPageMut::format(self.pages.bytes_mut(id), nonce, made.pbn, false);
            self.pages
                .update(id, |page| page.contents = Contents::Valid);
        }
        let mut waiting = self.forest.end_growth(growing.parent, growing.slot);
        while let Some((waiter, _)) = self.waiters.dequeue(&mut waiting) {
            self.waiters.finish(waiter, Ok(Mapping::UNMAPPED));
        }
    }

    /// A page could not be made.
    pub(in crate::block_map) fn not_grown(&mut self, growing: Growing, error: &VdoError) {
        let mut waiting = self.forest.end_growth(growing.parent, growing.slot);
        self.waiters.fail(&mut waiting, error);
    }
}
