//! The requests whose entries are not committed yet, each in a slot taken from a fixed supply.

use std::task::Poll;

use crate::error::VdoError;
use crate::format::recovery_journal::RecoveryJournalEntry;
use crate::runtime::task::TaskId;
use crate::types::JournalPoint;

/// Names a slot; queues hold these.
pub(super) type SlotId = u32;

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
    Tag(u64, Result<JournalPoint, VdoError>),
}

enum Slot {
    Free,
    Waiting {
        owner: Owner,
        entry: RecoveryJournalEntry,
        point: JournalPoint,
    },
    Done(Result<JournalPoint, VdoError>),
}

/// The slots.
pub(super) struct Waiters {
    slots: Vec<Slot>,
    free: Vec<SlotId>,
}

impl Waiters {
    /// Slots for `capacity` requests; more are made, by allocation, if ever more come at once.
    pub(super) fn new(capacity: usize) -> Waiters {
        Waiters {
            slots: (0..capacity).map(|_| Slot::Free).collect(),
            free: (0..capacity as SlotId).rev().collect(),
        }
    }

    /// How many slots there are, taken or not.
    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Takes a slot for an entry.
    pub(super) fn add(&mut self, owner: Owner, entry: RecoveryJournalEntry) -> SlotId {
        let slot = Slot::Waiting {
            owner,
            entry,
            point: JournalPoint::default(),
        };
        match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = slot;
                id
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as SlotId
            }
        }
    }

    /// The entry in a slot that waits.
    pub(super) fn entry(&self, id: SlotId) -> &RecoveryJournalEntry {
        match &self.slots[id as usize] {
            Slot::Waiting { entry, .. } => entry,
            _ => unreachable!("a queued slot waits"),
        }
    }

    /// Gives the entry its place.
    pub(super) fn assign(&mut self, id: SlotId, place: JournalPoint) {
        match &mut self.slots[id as usize] {
            Slot::Waiting { point, .. } => *point = place,
            _ => unreachable!("a queued slot waits"),
        }
    }

    /// Ends the wait: committed, or failed because the volume is read-only.
    pub(super) fn finish(&mut self, id: SlotId, committed: bool) -> Finished {
        let slot = &mut self.slots[id as usize];
        let Slot::Waiting { owner, point, .. } = *slot else {
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
                *slot = Slot::Free;
                self.free.push(id);
                Finished::Tag(tag, result)
            }
        }
    }

    /// The result, once there is one; that frees the slot.
    pub(super) fn take(&mut self, id: SlotId) -> Poll<Result<JournalPoint, VdoError>> {
        let slot = &mut self.slots[id as usize];
        if !matches!(slot, Slot::Done(_)) {
            return Poll::Pending;
        }
        match std::mem::replace(slot, Slot::Free) {
            Slot::Done(result) => {
                self.free.push(id);
                Poll::Ready(result)
            }
            _ => unreachable!("checked above"),
        }
    }
}
