//! Whether the owner of a mailbox has to be woken, without a lock and without a message too many.
//!
//! The owner, when it finds nothing to do, says that it means to sleep, looks once more, and sleeps only if
//! there is still nothing. Whoever puts something in looks afterwards whether the owner means to sleep. Each side has a full
//! fence between its two steps, so at least one of them sees what the other did: nothing is left lying while the
//! owner sleeps. `tests/threads` goes through every order in which the two can meet.

use super::atomic::{AtomicBool, Ordering, fence};

/// The owner's word on whether it means to sleep.
pub(super) struct Doorbell {
    asleep: AtomicBool,
}

impl Doorbell {
    /// Of an owner that is awake.
    pub(super) fn new() -> Doorbell {
        Doorbell {
            asleep: AtomicBool::new(false),
        }
    }

    /// Something was put in before this: says whether the owner must be woken.
    #[inline]
    pub(super) fn ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed)
    }

    /// The owner means to sleep; `is_empty` looks whether there is nothing. False if it should not sleep.
    #[inline]
    pub(super) fn may_sleep(&self, is_empty: impl FnOnce() -> bool) -> bool {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let empty = is_empty();
        if !empty {
            self.asleep.store(false, Ordering::Relaxed);
        }
        empty
    }

    /// The owner is awake and will look by itself.
    #[inline]
    pub(super) fn stay_awake(&self) {
        if self.asleep.load(Ordering::Relaxed) {
            self.asleep.store(false, Ordering::Relaxed);
        }
    }
}
