//! Steps 5 and 6 of a write: in the hash zone of its data's name, a write learns whether it is to
//! write its data or to refer to a copy that is there already.
//!
//! The hash zone speaks in [`Action`]s; the request does each one and reports back, until the last.
//! What the request holds meanwhile is its logical block's lock and, if it got one, the lock on the
//! block allocated to it, which its hash lock may take over.

use std::rc::Rc;

use super::slot::{Caller, Slot};
use crate::dedupe::Action;
use crate::depot::DuplicateLock;
use crate::error::VdoError;
use crate::hash::blocks_equal;
use crate::runtime::base::IoClass;
use crate::runtime::services::BlockMapSlot;
use crate::seam::HostRequest;
use crate::types::{Mapping, MappingState, Pbn, RecordName};
use crate::zone::message::Outcome;

impl Slot {
    /// Shares or writes the slot's data and maps it. Returns how that went, and the block whose lock
    /// the request still holds.
    pub(super) async fn share<R: HostRequest>(
        &mut self,
        slot: BlockMapSlot,
        name: RecordName,
        allocation: Option<Pbn>,
        caller: &mut Caller<R>,
    ) -> (Result<(), VdoError>, Option<Pbn>) {
        let zone = Rc::clone(&self.zone);
        let hash_zone = name.zone(zone.shared.zones);
        let mut failure = None;
        zone.enter_hash_zone(hash_zone, self.index, name, &self.data, allocation);
        loop {
            let outcome = match zone.next_action(self.index).await {
                Action::Lock { at, .. } => match zone.lock_duplicate(at.pbn).await {
                    Ok(DuplicateLock::Locked(budget)) => Ok(Outcome::Locked(budget)),
                    Ok(DuplicateLock::WriteLocked | DuplicateLock::NoIncrements) => {
                        Ok(Outcome::NotLocked)
                    }
                    Err(error) => Err(error),
                },
                Action::Verify { at, .. } => {
                    let equal = match self.read_mapped(at).await {
                        Ok(()) => {
                            let scratch = self.scratch.as_ref();
                            scratch.is_some_and(|block| blocks_equal(block, &self.data))
                        }
                        // A copy that cannot be read is no copy.
                        Err(_) => false,
                    };
                    Ok(Outcome::Verified { equal })
                }
                Action::Write { .. } => self.write_new(slot, allocation, caller).await,
                Action::Dedupe { at, .. } => match self.remap(slot, at).await {
                    Ok(()) => {
                        caller.acknowledge();
                        zone.counters.deduplicated_block();
                        Ok(Outcome::Deduplicated)
                    }
                    Err(error) => Err(error),
                },
                Action::Unlock { at, .. } => {
                    zone.release_lock(at.pbn);
                    Ok(Outcome::Unlocked)
                }
                Action::WriteAlone { .. } => {
                    let result = self.write_new(slot, allocation, caller).await;
                    return (result.map(drop), allocation);
                }
                Action::NoSpace { .. } => return (Err(VdoError::NoSpace), allocation),
                Action::Exit { .. } => {
                    let taken = zone.allocation_was_taken(self.index);
                    return (failure.map_or(Ok(()), Err), allocation.filter(|_| !taken));
                }
                // These are carried out by the hash zone's driver, or need no answer.
                Action::Query { .. }
                | Action::Update { .. }
                | Action::TakeAllocation { .. }
                | Action::CancelPacking { .. }
                | Action::Inconsistent(_) => continue,
            };
            let outcome = outcome.unwrap_or_else(|error| {
                failure.get_or_insert(error);
                Outcome::Failed
            });
            zone.report(hash_zone, self.index, outcome);
        }
    }

    /// Writes the data to the allocated block and maps it.
    async fn write_new<R: HostRequest>(
        &mut self,
        slot: BlockMapSlot,
        allocation: Option<Pbn>,
        caller: &mut Caller<R>,
    ) -> Result<Outcome, VdoError> {
        let zone = Rc::clone(&self.zone);
        let pbn = allocation.ok_or(VdoError::NoSpace)?;
        let data = std::sync::Arc::clone(&self.data);
        zone.base
            .write_shared(IoClass::Data, pbn, data, false)
            .await?;
        let mapping = Mapping {
            pbn,
            state: MappingState::UNCOMPRESSED,
        };
        let budget = self.remap_written(slot, mapping, true).await?;
        caller.acknowledge();
        zone.counters.new_block();
        match budget {
            Some(budget) => Ok(Outcome::Written(mapping, budget)),
            None => Err(VdoError::Inconsistent(format!("block {pbn} lost its lock"))),
        }
    }
}
