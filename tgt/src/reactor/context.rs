//! What lives on one reactor thread: its pollers.
//!
//! A [`ReactorCtx`] is handed to every message and poller that runs on the thread; nobody else can
//! reach it, so it needs no lock. A poller is *added* (by a message or by another poller), *polled*
//! once a turn, or once a period if it is timed, and *removed* by its id or by answering
//! [`Activity::Finished`]; it is dropped on this thread.

use std::time::Duration;

use vdo::seam::Nanos;

use super::{ReactorHandle, clock};

/// What a poller did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Nothing to do; the reactor may sleep if all say so.
    Idle,
    /// Did something, or has more to do at once.
    Busy,
    /// Will never have anything to do again: drop it.
    Finished,
}

impl From<bool> for Activity {
    fn from(busy: bool) -> Activity {
        if busy { Activity::Busy } else { Activity::Idle }
    }
}

/// Something a reactor polls. Every closure of this shape is one.
pub trait Poller {
    /// Does what there is to do without waiting for anything.
    fn poll(&mut self, reactor: &mut ReactorCtx) -> Activity;
}

impl<F: FnMut(&mut ReactorCtx) -> Activity> Poller for F {
    fn poll(&mut self, reactor: &mut ReactorCtx) -> Activity {
        self(reactor)
    }
}

/// Names a poller on its reactor; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PollerId(u64);

/// One line about a poller, for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollerInfo {
    /// What it was called when added.
    pub name: String,
    /// How often it runs, if it is timed.
    pub period: Option<Duration>,
    /// How often it ran.
    pub runs: u64,
    /// How often it found something to do.
    pub busy: u64,
}

struct Slot {
    id: PollerId,
    name: String,
    period: Option<Duration>,
    due: Nanos,
    runs: u64,
    busy: u64,
    /// `None` while it is being polled.
    poller: Option<Box<dyn Poller>>,
}

/// One reactor's own state. Only its thread has it.
pub struct ReactorCtx {
    handle: ReactorHandle,
    slots: Vec<Slot>,
    last_id: u64,
}

impl std::fmt::Debug for ReactorCtx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "ReactorCtx({:?}, {} pollers)",
            self.handle,
            self.slots.len()
        )
    }
}

impl ReactorCtx {
    pub(super) fn new(handle: ReactorHandle) -> ReactorCtx {
        ReactorCtx {
            handle,
            slots: Vec::new(),
            last_id: 0,
        }
    }

    /// This reactor, as other threads know it.
    pub fn handle(&self) -> &ReactorHandle {
        &self.handle
    }

    /// The time at which this turn began.
    pub fn now(&self) -> Nanos {
        clock::now()
    }

    /// Polls `poller` once a turn from now on. `name` is for reports.
    pub fn add_poller(
        &mut self,
        name: impl Into<String>,
        poller: impl Poller + 'static,
    ) -> PollerId {
        self.add(name.into(), None, Box::new(poller))
    }

    /// Polls `poller` once every `period`, first after one period.
    pub fn add_timed_poller(
        &mut self,
        name: impl Into<String>,
        period: Duration,
        poller: impl Poller + 'static,
    ) -> PollerId {
        self.add(name.into(), Some(period), Box::new(poller))
    }

    fn add(&mut self, name: String, period: Option<Duration>, poller: Box<dyn Poller>) -> PollerId {
        self.last_id += 1;
        let id = PollerId(self.last_id);
        let due = period.map_or(Nanos(0), |period| after(self.now(), period));
        self.slots.push(Slot {
            id,
            name,
            period,
            due,
            runs: 0,
            busy: 0,
            poller: Some(poller),
        });
        id
    }

    /// Drops a poller; one that is being polled is dropped when it returns. Says whether it was there.
    pub fn remove_poller(&mut self, id: PollerId) -> bool {
        let place = self.slots.iter().position(|slot| slot.id == id);
        if let Some(place) = place {
            // Order is kept: a removal during a turn must not make another poller miss it.
            drop(self.slots.remove(place));
        }
        place.is_some()
    }

    /// What is polled here.
    pub fn pollers(&self) -> Vec<PollerInfo> {
        self.slots
            .iter()
            .map(|slot| PollerInfo {
                name: slot.name.clone(),
                period: slot.period,
                runs: slot.runs,
                busy: slot.busy,
            })
            .collect()
    }

    /// Polls everything that is due once; says whether any found something to do.
    pub(super) fn poll_all(&mut self, now: Nanos) -> bool {
        let mut any = false;
        let mut place = 0;
        while let Some(slot) = self.slots.get_mut(place) {
            place += 1;
            if let Some(period) = slot.period {
                if now < slot.due {
                    continue;
                }
                slot.due = after(now, period);
            }
            let id = slot.id;
            let Some(mut poller) = slot.poller.take() else {
                continue;
            };
            slot.runs += 1;
            let activity = poller.poll(self);
            any |= activity != Activity::Idle;
            place = self.put_back(place, id, poller, activity);
        }
        any
    }

    /// Gives a polled poller its slot back, unless it finished or was removed meanwhile; returns the
    /// place of the next one.
    fn put_back(
        &mut self,
        place: usize,
        id: PollerId,
        poller: Box<dyn Poller>,
        activity: Activity,
    ) -> usize {
        // Pollers before it may have been removed while it ran.
        let own = match self.slots.get(place - 1) {
            Some(slot) if slot.id == id => Some(place - 1),
            _ => self.slots.iter().position(|slot| slot.id == id),
        };
        let Some(own) = own else {
            // It removed itself. Ids rise along the slots, so the next one is the first higher id.
            return self.slots.partition_point(|slot| slot.id.0 < id.0);
        };
        if activity == Activity::Finished {
            drop(self.slots.remove(own));
            return own;
        }
        let slot = &mut self.slots[own];
        slot.busy += u64::from(activity == Activity::Busy);
        slot.poller = Some(poller);
        own + 1
    }

    /// When the next timed poller is due.
    pub(super) fn next_due(&self) -> Option<Nanos> {
        self.slots
            .iter()
            .filter(|slot| slot.period.is_some())
            .map(|slot| slot.due)
            .min()
    }

    /// Drops every poller, the youngest first.
    pub(super) fn clear(&mut self) {
        while let Some(slot) = self.slots.pop() {
            drop(slot);
        }
    }
}

fn after(now: Nanos, period: Duration) -> Nanos {
    Nanos(
        now.0
            .saturating_add(u64::try_from(period.as_nanos()).unwrap_or(u64::MAX)),
    )
}
