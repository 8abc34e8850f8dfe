//! The places at an export: for clients that shake hands, and for clients that are served.
//!
//! They are counted apart, so that those who only knock cannot take anything from those who work. A client
//! that does not get to the end of its handshake loses its place after ten seconds; while every such place
//! is taken and somebody waits at the door, after one. A client that has shaken hands keeps its place, busy or
//! not, until it leaves; while all of these are taken, the next one is told so in its handshake.
//!
//! Whoever is let go or turned away is counted, and the log has one line for many: a tenth of a second after
//! the first, and then every ten seconds at most.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vdo::seam::Nanos;

use crate::reactor::{self, ReactorHandle};

/// How many clients an export has room for, and how long it waits for them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Clients that shake hands at once; more wait to be let in.
    pub(super) shaking_hands: usize,
    /// Clients that are served at once; more are turned away.
    pub(super) served: usize,
    /// How long a handshake may take.
    pub(super) patience: Duration,
    /// How long it may take while others wait to be let in.
    pub(super) hurried: Duration,
}

/// Clients each export serves at once, if nobody says otherwise.
pub const MOST_CLIENTS: usize = 128;

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            shaking_hands: 64,
            served: MOST_CLIENTS,
            patience: Duration::from_secs(10),
            hurried: Duration::from_secs(1),
        }
    }
}

/// How long the log waits for more of the same after the first.
const GATHER: Duration = Duration::from_millis(100);

/// How long the log is silent after a line.
const SILENCE: Duration = Duration::from_secs(10);

/// The places at one export.
#[derive(Debug)]
pub(super) struct Places {
    limits: Limits,
    /// Where the doorman is, who lets clients in and writes the log.
    door: ReactorHandle,
    shaking_hands: AtomicUsize,
    served: AtomicUsize,
    hurried: AtomicBool,
    turned_away: Mutex<TurnedAway>,
}

/// Clients the log has not told of yet.
#[derive(Debug, Default)]
struct TurnedAway {
    slow: u64,
    one_too_many: u64,
    since: Option<Nanos>,
    said: Option<Nanos>,
}

/// One of the places, taken; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    served: bool,
}

impl Place {
    fn count(&self) -> &AtomicUsize {
        match self.served {
            true => &self.places.served,
            false => &self.places.shaking_hands,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.count().fetch_sub(1, Ordering::SeqCst);
        // Somebody may wait for it.
        self.places.door.waker().wake();
    }
}

impl Places {
    /// All free; `door` is the reactor whose poller lets clients in.
    pub(super) fn new(limits: Limits, door: ReactorHandle) -> Places {
        Places {
            limits,
            door,
            shaking_hands: AtomicUsize::new(0),
            served: AtomicUsize::new(0),
            hurried: AtomicBool::new(false),
            turned_away: Mutex::default(),
        }
    }

    fn take(self: &Arc<Places>, served: bool, most: usize) -> Option<Place> {
        let place = Place {
            places: Arc::clone(self),
            served,
        };
        if place.count().fetch_add(1, Ordering::SeqCst) < most {
            return Some(place);
        }
        // Dropping it takes back what was added.
        None
    }

    /// A place to shake hands at, if there is one.
    pub(super) fn enter(self: &Arc<Places>) -> Option<Place> {
        self.take(false, self.limits.shaking_hands)
    }

    /// A place to be served at; if there is none, that is written down for the log.
    pub(super) fn be_served(self: &Arc<Places>) -> Option<Place> {
        let place = self.take(true, self.limits.served);
        if place.is_none() {
            self.write_down(|turned_away| turned_away.one_too_many += 1);
        }
        place
    }

    /// When a handshake that began then must be over.
    pub(super) fn deadline(&self, began: Nanos) -> Nanos {
        let patience = match self.hurried.load(Ordering::SeqCst) {
            true => self.limits.hurried,
            false => self.limits.patience,
        };
        after(began, patience)
    }

    /// Whether those who shake hands are to hurry, because others wait; says whether that is news.
    pub(super) fn hurry(&self, hurry: bool) -> bool {
        self.hurried.swap(hurry, Ordering::SeqCst) != hurry
    }

    /// Writes down that a client was too slow.
    pub(super) fn was_slow(&self) {
        self.write_down(|turned_away| turned_away.slow += 1);
    }

    fn write_down(&self, what: impl FnOnce(&mut TurnedAway)) {
        let mut turned_away = self
            .turned_away
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        what(&mut turned_away);
        if turned_away.since.is_none() {
            turned_away.since = Some(reactor::now());
            self.door.waker().wake();
        }
    }

    /// Tells the log of those who were let go, if it is time to; called by the doorman on each poll.
    pub(super) fn report(&self, now: Nanos, path: &str) {
        let mut turned_away = self
            .turned_away
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(due) = turned_away.due() else {
            return;
        };
        if now < due {
            reactor::poll_by(due);
            return;
        }
        let told = std::mem::take(&mut *turned_away);
        turned_away.said = Some(now);
        drop(turned_away);
        if told.slow > 0 {
            log::warn!(
                "nbd: clients of {path} let go because they did not finish their handshake in time: {}",
                told.slow
            );
        }
        if told.one_too_many > 0 {
            log::warn!(
                "nbd: clients of {path} turned away because {} are served there, which is the most: {}",
                self.limits.served,
                told.one_too_many
            );
        }
    }
}

impl TurnedAway {
    fn due(&self) -> Option<Nanos> {
        let gathered = after(self.since?, GATHER);
        let silent = self.said.map(|said| after(said, SILENCE));
        Some(silent.map_or(gathered, |silent| gathered.max(silent)))
    }
}

fn after(start: Nanos, time: Duration) -> Nanos {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    Nanos(start.0.saturating_add(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        shaking_hands: 1,
        served: 2,
        patience: Duration::from_secs(10),
        hurried: Duration::from_secs(1),
    };

    fn places() -> Arc<Places> {
        Arc::new(Places::new(LIMITS, ReactorHandle::detached().unwrap()))
    }

    #[test]
    fn those_who_shake_hands_take_nothing_from_those_who_are_served() {
        let places = places();
        let shaking = places.enter().unwrap();
        assert!(places.enter().is_none());
        let served = [places.be_served().unwrap(), places.be_served().unwrap()];
        assert!(places.be_served().is_none());
        drop(shaking);
        assert!(places.be_served().is_none());
        assert!(places.enter().is_some());
        drop(served);
        assert!(places.be_served().is_some());
    }

    #[test]
    fn handshakes_have_less_time_while_others_wait() {
        let (places, second) = (places(), 1_000_000_000);
        assert_eq!(places.deadline(Nanos(7)), Nanos(7 + 10 * second));
        assert!(places.hurry(true));
        assert!(!places.hurry(true), "which is no news");
        assert_eq!(places.deadline(Nanos(7)), Nanos(7 + second));
        assert!(places.hurry(false));
        assert_eq!(places.deadline(Nanos(7)), Nanos(7 + 10 * second));
    }

    #[test]
    fn the_log_has_one_line_for_many_and_then_none_for_a_while() {
        let due = |since, said| {
            TurnedAway {
                since,
                said,
                ..TurnedAway::default()
            }
            .due()
        };
        let (tenth, second) = (100_000_000, 1_000_000_000);
        assert_eq!(due(None, None), None, "nothing to say");
        assert_eq!(due(Some(Nanos(5)), None), Some(Nanos(5 + tenth)));
        let said = Some(Nanos(second));
        assert_eq!(due(Some(Nanos(2 * second)), said), Some(Nanos(11 * second)));
        let later = 60 * second;
        assert_eq!(due(Some(Nanos(later)), said), Some(Nanos(later + tenth)));
    }
}
