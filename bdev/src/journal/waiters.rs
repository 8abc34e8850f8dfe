//! Entries that are not committed yet, each with a number, in a fixed supply of places.

use crate::error::VdoError;
use crate::format::recovery_journal::RecoveryJournalEntry;
use crate::runtime::table::{Key, Table};
use crate::types::JournalPoint;

/// Names a waiting entry; queues hold these.
pub(super) type WaiterId = Key<Waiter>;

/// An entry that has come to its end, for the hooks: its tag, what it is, and its place or why it has none.
pub(super) type Finished = (u64, RecoveryJournalEntry, Result<JournalPoint, VdoError>);

/// An entry that is not committed.
#[derive(Debug)]
pub(super) struct Waiter {
    tag: u64,
    entry: RecoveryJournalEntry,
    /// Its place, once it has one.
    point: JournalPoint,
}

/// The entries: places for more are made, by allocation, if ever more come at once than were planned for.
pub(super) struct Waiters(Table<Waiter>);

impl Waiters {
    /// Places for the entries of `capacity` requests.
    pub(super) fn new(capacity: usize) -> Waiters {
        Waiters(Table::with_capacity(capacity))
    }

    /// How many entries ever waited at once.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.0.numbers()
    }

    /// Begins to wait for an entry.
    pub(super) fn add(&mut self, tag: u64, entry: RecoveryJournalEntry) -> WaiterId {
        self.0.insert(Waiter {
            tag,
            entry,
            point: JournalPoint::default(),
        })
    }

    /// An entry that waits.
    pub(super) fn entry(&self, id: WaiterId) -> &RecoveryJournalEntry {
        let waiter = self.0.get(id);
        &waiter.expect("what is queued waits").entry
    }

    /// Gives the entry its place.
    pub(super) fn assign(&mut self, id: WaiterId, place: JournalPoint) {
        let waiter = self.0.get_mut(id);
        waiter.expect("what is queued waits").point = place;
    }

    /// Ends the wait: committed, or failed because the volume is read-only.
    pub(super) fn finish(&mut self, id: WaiterId, committed: bool) -> Finished {
        let waiter = self.0.remove(id).expect("what is queued waits");
        let result = if committed {
            Ok(waiter.point)
        } else {
            Err(VdoError::ReadOnly)
        };
        (waiter.tag, waiter.entry, result)
    }
}
