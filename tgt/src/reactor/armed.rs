//! Whether a reactor sleeps, or is about to, so that somebody has to signal it.
//!
//! A reactor that finds nothing to do *arms*, looks once more at everything, and only then sleeps. A waker first
//! publishes its work, then looks whether the reactor is armed. Both sides put a full fence between their
//! two steps, so at least one of them sees the other: work is never left lying while the reactor sleeps.
//! `tests/threads` goes through every order in which the two can meet.

use super::atomic::{AtomicBool, Ordering, fence};

/// The reactor's word on whether it needs a signal.
#[derive(Debug)]
pub(super) struct Armed(AtomicBool);

impl Armed {
    /// Of a reactor that is awake.
    pub(super) fn new() -> Armed {
        Armed(AtomicBool::new(false))
    }

    /// Work was published before this: says whether the reactor is to be signalled. Of many at once, one is told so.
    #[inline]
    pub(super) fn needs_signal(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }

    /// The reactor is about to sleep; it must look at all its work again after.
    pub(super) fn arm(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The reactor is awake; says whether a signal was sent, or is about to be.
    pub(super) fn disarm(&self) -> bool {
        !self.0.swap(false, Ordering::Relaxed)
    }

    /// Whether the reactor sleeps or is about to.
    #[cfg(test)]
    pub(super) fn is_armed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
