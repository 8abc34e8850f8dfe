//! Step 7 of a write: the journal, the reference counts and the block map learn, in this
//! order, where a logical block's data is now.
//!
//! The journal entry says what the block is mapped to and what it was mapped to before, and is durable
//! before either count changes. Both counts change (or rather, their slab journals hold the change)
//! before the mapping does. So after a crash the journal always knows more than the rest.

use std::rc::Rc;

use super::slot::Slot;
use crate::depot::IncrementBudget;
use crate::error::VdoError;
use crate::format::recovery_journal::{JournalOperation, RecoveryJournalEntry};
use crate::runtime::services::BlockMapSlot;
use crate::types::Mapping;

impl Slot {
    /// Maps `slot` to `target` instead of what it maps to now.
    pub(super) async fn remap(&self, slot: BlockMapSlot, target: Mapping) -> Result<(), VdoError> {
        self.remap_written(slot, target, false).await.map(drop)
    }

    /// Maps `slot` to `target`. If the data was just `written` there by this request, its write lock
    /// becomes a read lock once the data may be shared, and the budget of further references is
    /// returned.
    pub(super) async fn remap_written(
        &self,
        slot: BlockMapSlot,
        target: Mapping,
        written: bool,
    ) -> Result<Option<IncrementBudget>, VdoError> {
        let zone = Rc::clone(&self.zone);
        let old = match zone.block_map.get(slot).await {
            // What an impossible entry referred to is not known; it is replaced like none.
            Err(VdoError::BadMapping { .. }) => Mapping::UNMAPPED,
            old => old?,
        };
        let entry = RecoveryJournalEntry {
            operation: JournalOperation::DataRemapping,
            slot,
            mapping: target,
            unmapping: old,
        };
        let journaled = zone.journal_and_count(entry, written).await;
        let result = match journaled.budget {
            Ok(budget) => {
                let point = journaled
                    .point
                    .expect("a change that was counted was journaled");
                zone.block_map
                    .put(slot, target, point)
                    .await
                    .map(|()| budget)
            }
            Err(error) => Err(error),
        };
        if let Some(point) = journaled.point {
            zone.release_entry(point);
        }
        result
    }
}
