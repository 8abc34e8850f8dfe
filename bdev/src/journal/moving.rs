//! Moving the journal to another place on the device, while entries come.
//!
//! Whoever moves it copies the ring while the journal goes on, then what was written meanwhile, and so on until that is little. Then
//! the journal *holds*: the write that is under way ends, and no other begins. Entries are taken all the time; those that need a write wait for it.
//! What is left is copied, the super block is told, and the journal goes on at its new place. Blocks in memory are always written
//! whole, so it does not matter where they were written before.

use super::RecoveryJournal;
use crate::types::{Pbn, SequenceNumber};

impl RecoveryJournal {
    /// The blocks that may have been written since `since` was answered, or may be written again: from `since` (or, without it, from the oldest that may be) up
    /// to the newest. And what to ask with the next time.
    pub(crate) fn written_since(
        &self,
        since: Option<SequenceNumber>,
    ) -> (std::ops::Range<u64>, SequenceNumber) {
        let state = self.state.borrow();
        let tail = state.extent.tail();
        let unsettled = state.tail.oldest().unwrap_or(tail);
        let first = since.unwrap_or(unsettled);
        (first.get()..tail.get(), unsettled)
    }

    /// Waits until no block is being written, and lets none be written until [`RecoveryJournal::release_hold`].
    pub(crate) async fn hold(&self) {
        self.state.borrow_mut().held = true;
        self.still
            .wait_until(|| self.state.borrow().writes == 0)
            .await;
    }

    /// From now on blocks are written to the ring that begins here. Only while it holds.
    pub(crate) fn move_to(&self, start: Pbn) {
        let state = self.state.borrow();
        assert!(
            state.held && state.writes == 0,
            "the journal is moved while it is at rest"
        );
        self.start.set(start);
    }

    /// Goes on after [`RecoveryJournal::hold`].
    pub(crate) fn release_hold(&self) {
        self.state.borrow_mut().held = false;
        self.start_writing();
    }
}
