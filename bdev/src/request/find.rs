//! Step 2: the block-map page that maps the block, and what the entry in it says.

use super::assist::Job;
use super::record::{Purpose, Stage};
use super::{Outcome, Requests};
use crate::block_map::Way;
use crate::error::VdoError;
use crate::runtime::services::BlockMapSlot;
use crate::seam::{HostRequest, RequestKind};
use crate::types::Mapping;
use crate::zone::logical_locks::SlotIndex;

impl<R: HostRequest> Requests<R> {
    /// Looks for the way to the block's entry, if that is in memory, and has the memory of the entry come close.
    #[inline]
    pub(super) fn foresee(&mut self, slot: SlotIndex) {
        let vio = &mut self.records[slot.0 as usize];
        vio.foreseen = self.zone.block_map.foresee(vio.lbn);
    }

    /// Finds the way to the block's entry. Only a write of data makes the pages that are missing.
    pub(super) fn find(&mut self, slot: SlotIndex) {
        let vio = &mut self.records[slot.0 as usize];
        // Those who had the lock before may have made the way since.
        let way = vio
            .foreseen
            .take()
            .or_else(|| self.zone.block_map.foresee(vio.lbn));
        match way {
            Some(way) => self.go_on(slot, way),
            None => {
                let (lbn, grow) = (vio.lbn, vio.kind == RequestKind::Write);
                self.finding += 1;
                self.assist(slot, Stage::Find, Job::Find { lbn, grow });
            }
        }
    }

    /// The assistant has looked for the way.
    pub(super) fn found(&mut self, slot: SlotIndex, entry: Outcome<Option<BlockMapSlot>>) {
        match entry {
            Err(error) => self.finish(slot, Err(error)),
            Ok(Some(entry)) => self.go_on(slot, entry.into()),
            // Nothing is mapped here, not even by a page: it reads as zeroes already.
            Ok(None) => match self.vio(slot).kind {
                RequestKind::Read => self.answer_zeroes(slot),
                _ => self.finish(slot, Ok(())),
            },
        }
    }

    fn go_on(&mut self, slot: SlotIndex, way: Way) {
        let vio = self.vio(slot);
        vio.way = way;
        match vio.kind {
            RequestKind::Read => self.look_up(slot, Purpose::Answer),
            RequestKind::Write => self.fill(slot),
            _ if vio.is_partial() => self.fill(slot),
            RequestKind::Unmap => self.map_nothing(slot, Mapping::UNMAPPED),
            _ => self.map_nothing(slot, Mapping::ZERO),
        }
    }

    /// Asks the block map what the entry says.
    pub(super) fn look_up(&mut self, slot: SlotIndex, purpose: Purpose) {
        let vio = self.vio(slot);
        let (way, lbn) = (vio.way, vio.lbn);
        if !self.unsettled.is_empty() && self.unsettled.contains(&lbn) {
            return self.looked_up(slot, purpose, Err(VdoError::Unsettled.into()));
        }
        match self.zone.block_map.get_now(way) {
            Some(mapping) => self.looked_up(slot, purpose, Ok(mapping)),
            None => self.assist(slot, Stage::LookUp(purpose), Job::LookUp(way.entry)),
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
