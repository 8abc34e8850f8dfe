//! One call for a poll at a time.
//!
//! Where reactors sleep, whoever has something for a zone thread sends it a message. While one is on its way another
//! would only cost, so the first caller says that it sends one, and the thread takes that back before it looks. Whoever is
//! told that a call is on its way can rely on being seen by it: both sides change the one word, so one of them comes
//! after the other and knows all that it did before. `tests/threads` goes through every order in which they can meet.

use super::atomic::{AtomicBool, Ordering};

/// Whether a message is on its way.
pub(super) struct Call(AtomicBool);

impl Call {
    /// None is.
    pub(super) fn new() -> Call {
        Call(AtomicBool::new(false))
    }

    /// There is something to do: says whether the caller has to send the message.
    pub(super) fn must_send(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// The message has come; to be said before looking what there is to do.
    pub(super) fn answer(&self) {
        // A plain store could pass the looks that follow it, and who was told that a call is on its way be missed.
        self.0.swap(false, Ordering::AcqRel);
    }
}
