//! Step 2: the block-map page that maps the block, and what the entry in it says.

use super::assist::Job;
use super::record::{Purpose, Stage};
use super::{Outcome, Requests};
use crate::block_map::LeafHint;
use crate::error::VdoError;
use crate::runtime::services::BlockMapSlot;
use crate::seam::{HostRequest, RequestKind};
use crate::types::Mapping;
use crate::zone::logical_locks::SlotIndex;

impl<R: HostRequest> Requests<R> {
    /// Finds the way to the block's entry. Only a write of data makes the pages that are missing.
    pub(super) fn find(&mut self, slot: SlotIndex) {
        let vio = &self.records[slot.0 as usize];
        let (lbn, grow) = (vio.lbn, vio.kind == RequestKind::Write);
        match self.zone.block_map.locate_now(lbn) {
            Some(entry) => self.found(slot, Ok(Some(entry))),
            None => {
                self.finding += 1;
                self.assist(slot, Stage::Find, Job::Find { lbn, grow });
            }
        }
    }

    pub(super) fn found(&mut self, slot: SlotIndex, way: Outcome<Option<BlockMapSlot>>) {
        let vio = &mut self.records[slot.0 as usize];
        let entry = match way {
            Err(error) => return self.finish(slot, Err(error)),
            Ok(entry) => entry,
        };
        if let Some(entry) = entry {
            vio.entry = entry;
            vio.leaf = match vio.kind {
                // Asked at once, and no more.
                RequestKind::Read => LeafHint::default(),
                _ => self.zone.block_map.foresee(entry),
            };
        }
        match (vio.kind, entry) {
            (RequestKind::Read, Some(_)) => self.look_up(slot, Purpose::Answer),
            (RequestKind::Read, None) => self.answer_zeroes(slot),
            // Nothing is mapped here, not even by a page: it reads as zeroes already.
            (_, None) => self.finish(slot, Ok(())),
            (RequestKind::Write, Some(_)) => self.fill(slot),
            (_, Some(_)) if vio.is_partial() => self.fill(slot),
            (RequestKind::Unmap, Some(_)) => self.map_nothing(slot, Mapping::UNMAPPED),
            (_, Some(_)) => self.map_nothing(slot, Mapping::ZERO),
        }
    }

    /// Asks the block map what the entry says.
    pub(super) fn look_up(&mut self, slot: SlotIndex, purpose: Purpose) {
        let vio = self.vio(slot);
        let (entry, hint, lbn) = (vio.entry, vio.leaf, vio.lbn);
        if !self.unsettled.is_empty() && self.unsettled.contains(&lbn) {
            return self.looked_up(slot, purpose, Err(VdoError::Unsettled.into()));
        }
        match self.zone.block_map.get_now(entry, hint) {
            Some(mapping) => self.looked_up(slot, purpose, Ok(mapping)),
            None => self.assist(slot, Stage::LookUp(purpose), Job::LookUp(entry)),
        }
    }

    pub(super) fn looked_up(
        &mut self,
        slot: SlotIndex,
        purpose: Purpose,
        mapping: Outcome<Mapping>,
    ) {
        match (purpose, mapping) {
            (Purpose::Replace, Ok(old)) => self.journal(slot, old),
            (Purpose::Answer | Purpose::Merge, Ok(mapping)) => {
                self.read_mapped(slot, purpose, mapping);
            }
            // What an impossible entry referred to is not known; it is replaced like none.
            (Purpose::Replace, Err(error)) if matches!(*error, VdoError::BadMapping { .. }) => {
                self.journal(slot, Mapping::UNMAPPED);
            }
            (_, Err(error)) => self.finish_mapping(slot, Err(error)),
        }
    }
}
