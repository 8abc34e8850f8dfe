//! The requests whose entries are not committed yet, each in a slot taken from a fixed supply.

use std::task::Poll;

use crate::error::VdoError;
use crate::format::recovery_journal::RecoveryJournalEntry;
use crate::runtime::table::{Key, Table};
use crate::runtime::task::TaskId;
use crate::types::JournalPoint;

/// Names a slot; queues hold these.
pub(super) type SlotId = Key<Slot>;

/// Who is told of an entry's end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Owner {
    /// A task of this thread, asleep on the slot.
    Task(TaskId),
    /// Whoever knows this number, told through the hooks.
    Tag(u64),
}

/// What to do for an entry that has come to its end.
#[derive(Debug)]
pub(super) enum Finished {
    /// Wake the task; its slot has the result.
    Task(TaskId),
    /// Tell the hooks.
    Tag(u64, RecoveryJournalEntry, Result<JournalPoint, VdoError>),
}

/// An entry that is not committed yet, or whose requester has not run since.
#[derive(Debug)]
pub(super) enum Slot {
    /// Not committed.
    Waiting {
        /// Who is told.
        owner: Owner,
        /// The entry.
        entry: RecoveryJournalEntry,
        /// Its place, once it has one.
        point: JournalPoint,
    },
    /// Over.
    Done(Result<JournalPoint, VdoError>),
}

/// The slots: more are made, by allocation, if ever more come at once than were planned for.
pub(super) struct Waiters(Table<Slot>);

impl Waiters {
    /// Slots for `capacity` requests.
    pub(super) fn new(capacity: usize) -> Waiters {
        Waiters(Table::with_capacity(capacity))
    }

    /// How many slots were ever taken at once.
    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        self.0.numbers()
    }

    /// Takes a slot for an entry.
    pub(super) fn add(&mut self, owner: Owner, entry: RecoveryJournalEntry) -> SlotId {
        self.0.insert(Slot::Waiting {
            owner,
            entry,
            point: JournalPoint::default(),
        })
    }

    /// The entry in a slot that waits.
    pub(super) fn entry(&self, id: SlotId) -> &RecoveryJournalEntry {
        match self.0.get(id) {
            Some(Slot::Waiting { entry, .. }) => entry,
            _ => unreachable!("a queued slot waits"),
        }
    }

    /// Gives the entry its place.
    pub(super) fn assign(&mut self, id: SlotId, place: JournalPoint) {
        match self.0.get_mut(id) {
            Some(Slot::Waiting { point, .. }) => *point = place,
            _ => unreachable!("a queued slot waits"),
        }
    }

    /// Ends the wait: committed, or failed because the volume is read-only.
    pub(super) fn finish(&mut self, id: SlotId, committed: bool) -> Finished {
        let Some(slot) = self.0.get_mut(id) else {
            unreachable!("a queued slot is taken")
        };
        let Slot::Waiting {
            owner,
            entry,
            point,
        } = *slot
        else {
            unreachable!("a queued slot waits")
        };
        let result = if committed {
            Ok(point)
        } else {
            Err(VdoError::ReadOnly)
        };
        match owner {
            Owner::Task(task) => {
                *slot = Slot::Done(result);
                Finished::Task(task)
            }
            Owner::Tag(tag) => {
                self.0.remove(id);
                Finished::Tag(tag, entry, result)
            }
        }
    }

    /// The result, once there is one; that frees the slot.
    pub(super) fn take(&mut self, id: SlotId) -> Poll<Result<JournalPoint, VdoError>> {
        if !matches!(self.0.get(id), Some(Slot::Done(_))) {
            return Poll::Pending;
        }
        match self.0.remove(id) {
            Some(Slot::Done(result)) => Poll::Ready(result),
            _ => unreachable!("checked above"),
        }
    }
}
