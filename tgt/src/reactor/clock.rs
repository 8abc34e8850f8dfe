//! The target's monotonic clock, and what a reactor thread tells the code it polls.
//!
//! A reactor reads the clock once per turn and keeps it in a thread-local cell, so that code on the
//! data path can stamp a request without a system call. The same cell of thread-local state carries
//! the deadline back: code that holds something until a given time says [`poll_by`], and the
//! reactor does not sleep past it.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Instant;

use vdo::seam::Nanos;

thread_local! {
    static TURN: Cell<Option<Nanos>> = const { Cell::new(None) };
    static DEADLINE: Cell<Option<Nanos>> = const { Cell::new(None) };
}

/// Nanoseconds since the process first asked; reads the clock.
pub fn clock() -> Nanos {
    static START: OnceLock<Instant> = OnceLock::new();
    // One second is added so that no time is ever zero: zero means "never" in counters.
    Nanos(START.get_or_init(Instant::now).elapsed().as_nanos() as u64 + 1_000_000_000)
}

/// The time at which the current turn of this reactor began; on any other thread, the clock.
pub fn now() -> Nanos {
    TURN.get().unwrap_or_else(clock)
}

/// Asks the reactor of this thread to poll again no later than `deadline`. To be repeated on each
/// poll while it holds. On a thread that is no reactor this does nothing.
pub fn poll_by(deadline: Nanos) {
    if DEADLINE.get().is_none_or(|earlier| deadline < earlier) {
        DEADLINE.set(Some(deadline));
    }
}

/// Begins a turn: reads the clock, forgets the deadlines of the last turn. For whoever polls without a reactor, too.
pub fn begin_turn() -> Nanos {
    let now = clock();
    TURN.set(Some(now));
    DEADLINE.set(None);
    now
}

/// The earliest deadline asked for in this turn.
pub(super) fn deadline() -> Option<Nanos> {
    DEADLINE.get()
}
