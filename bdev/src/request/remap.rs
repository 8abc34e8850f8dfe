//! Steps 5 and 6: the journal, the reference counts and the block map learn, in this order, where the block's
//! data is now.
//!
//! The journal entry says what the block is mapped to and what it was mapped to before, and is durable
//! before either count changes. Both counts change (or rather, their slab journals hold the change) before
//! the mapping does. So after a crash the journal always knows more than the rest.

use super::assist::Job;
use super::record::{Purpose, Stage};
use super::{Outcome, Requests};
use crate::error::VdoError;
use crate::format::recovery_journal::{JournalOperation, RecoveryJournalEntry};
use crate::seam::HostRequest;
use crate::types::{JournalPoint, Mapping};
use crate::zone::events::Placed;
use crate::zone::journaling::Journaler;
use crate::zone::logical_locks::SlotIndex;

impl<R: HostRequest> Requests<R> {
    /// Maps the block to zeroes or to nothing.
    pub(super) fn map_nothing(&mut self, slot: SlotIndex, target: Mapping) {
        if target.state.is_mapped() {
            self.zone.counters.zero_block();
        }
        let vio = self.vio(slot);
        vio.target = target;
        if !vio.fua {
            vio.answer(0);
        }
        self.replace(slot);
    }

    /// Maps the block to its target instead of what it is mapped to now.
    pub(super) fn replace(&mut self, slot: SlotIndex) {
        self.look_up(slot, Purpose::Replace);
    }

    /// Journals the change from `old`.
    pub(super) fn journal(&mut self, slot: SlotIndex, old: Mapping) {
        self.wait(slot, Stage::Journal);
        if !self.vio(slot).target.state.is_mapped() && old.state.is_mapped() {
            self.zone.counters.discarded_block();
        }
        let vio = self.vio(slot);
        let entry = RecoveryJournalEntry {
            operation: JournalOperation::DataRemapping,
            slot: vio.way.entry,
            mapping: vio.target,
            unmapping: old,
        };
        self.zone.journal_entry(Journaler::Request(slot), entry);
    }

    /// The change is journaled and counted.
    pub(super) fn counted(&mut self, slot: SlotIndex, point: Outcome<JournalPoint>) {
        let point = match point {
            Ok(point) => point,
            Err(error) => return self.finish_mapping(slot, Err(error)),
        };
        let vio = self.vio(slot);
        vio.point = Some(point);
        let (way, target) = (vio.way, vio.target);
        if self.zone.is_read_only() {
            return self.mapped(slot, Err(VdoError::ReadOnly.into()));
        }
        match self.zone.block_map.put_now(way, target, point) {
            true => self.mapped(slot, Ok(())),
            false => {
                let job = Job::Map {
                    entry: way.entry,
                    target,
                    point,
                };
                self.assist(slot, Stage::Map, job);
            }
        }
    }

    /// The block map knows of the change; or it never will, and what it says of the block is not to be believed any more: the
    /// block that held its old data may have been given to others.
    pub(super) fn mapped(&mut self, slot: SlotIndex, result: Outcome<()>) {
        if result.is_err() {
            let lbn = self.vio(slot).lbn;
            self.unsettled.insert(lbn);
        }
        if let Some(point) = self.vio(slot).point.take() {
            self.zone.release_entry(point);
        }
        self.finish_mapping(slot, result);
    }

    /// Tells the hash zone, if it waits for that, how the mapping went, and finishes.
    pub(super) fn finish_mapping(&mut self, slot: SlotIndex, result: Outcome<()>) {
        if let Some(placed) = self.vio(slot).placed {
            if result.is_ok() {
                match placed {
                    Placed::Own(_) => self.zone.counters.new_block(),
                    Placed::Shared(_) => self.zone.counters.deduplicated_block(),
                    Placed::Fragment(_) => self.zone.counters.compressed_block(),
                }
            }
            let hash_zone = self.vio(slot).hash_zone;
            if self.zone.report_mapped(hash_zone, slot, result.is_ok()) {
                self.vio(slot).placed = None;
            }
        }
        self.finish(slot, result);
    }
}
