//! The life of one request for one block, from a caller's piece to its end.
//!
//! A request is a record in an array ([`record`]), and it is moved on by what it waited for: an event of
//! its zone thread ([`crate::zone::events`]) or the end of its I/O. Each step below does all that can be done
//! at once, puts the record at its next stage, and returns; no request has a task or a stack of its own. Where
//! a step finds something unusual that takes time (a page to be read, a tree to grow), an assistant does it
//! and comes back with the event the step waits for ([`assist`]).
//!
//! The steps of a read are 1, 2 and R; of a write 1 to 7; of an unmap or a write of zeroes 1, 2, 5, 6, 7, for those of
//! its blocks that are mapped ([`sweep`]):
//!
//! 1. [`admit`]: a piece gets a record, and the lock of its logical block.
//! 2. [`find`]: the block-map page that maps the block, and the entry in it.
//! 3. [`fill`]: the caller's bytes are copied in, and merged with the old block if they are a part of one.
//! 4. [`name`]: the data is named, many blocks at once, and enters the hash zone of its name, which finds or
//!    makes its one copy ([`crate::zone::hash_zone`]) and says where that is.
//! 5. [`remap`]: the change of mapping is journaled, and then counted.
//! 6. [`remap`]: the block-map entry is changed.
//! 7. [`finish`]: the caller is answered, if that was not done before, and the lock passed on.
//!
//! R. [`read`]: the block is read and the caller answered.
//!
//! Once a write is acknowledged its failure can no longer be told. Losing it would break the promise a
//! flush makes, so such a failure turns the volume read-only.
//!
//! [`Requests`] belongs to its zone thread's poll, and no one else calls it.

mod admit;
mod assist;
mod fill;
mod find;
mod finish;
mod line;
mod name;
pub(crate) mod pieces;
mod read;
pub(crate) mod record;
mod remap;
pub(crate) mod sweep;

use std::rc::Rc;

use hashbrown::{HashMap, HashSet};

use self::assist::Assistants;
use self::line::Line;
use self::record::DataVio;
pub use self::record::Stage;
use self::sweep::Sweep;
pub use self::sweep::SweepReport;
use crate::buffer::Buffer;
use crate::error::VdoError;
use crate::runtime::base::IoEnd;
use crate::seam::{HostRequest, Nanos, RequestKind};
use crate::types::Lbn;
use crate::zone::events::{Event, Verdict};
use crate::zone::generations::Generation;
use crate::zone::logical_locks::SlotIndex;
use crate::zone::owner::Zone;

/// What a step hands on: errors are rare and boxed, so that the rest is small.
type Outcome<T> = Result<T, Box<VdoError>>;

/// All requests of one zone thread. See the [module](self).
pub(crate) struct Requests<R> {
    zone: Rc<Zone>,
    records: Vec<DataVio<R>>,
    /// Free records; the one that became free last is taken first, since its memory is warmest.
    idle: Vec<SlotIndex>,
    /// Callers' requests with pieces that have no record yet.
    line: Line<R>,
    /// Unmaps and writes of zeroes for which a page is brought, by the record whose assistant does that.
    parked: HashMap<SlotIndex, Box<Sweep<R>>>,
    /// Records that have a piece and are to be admitted together.
    taken_up: Vec<SlotIndex>,
    /// How many records are at [`Stage::Find`].
    finding: u32,
    /// Records whose data is to be named.
    unnamed: Vec<SlotIndex>,
    assistants: Assistants,
    /// Logical blocks of which the block map will not know the last change, which was durable when the volume turned read-only.
    unsettled: HashSet<Lbn>,
    /// Whether callers waited for a record when nothing moved last.
    starves: bool,
}

/// A request in flight, as a dump shows it.
#[derive(Clone, Debug)]
pub struct RequestReport {
    /// What it wants.
    pub kind: RequestKind,
    /// Of which logical block.
    pub lbn: Lbn,
    /// What it waits for.
    pub stage: Stage,
    /// Since when.
    pub since: Nanos,
}

/// Requests that can be looked at, whatever their callers are.
pub trait InFlight {
    /// Each request that has been admitted and has not ended.
    fn reports(&self) -> Vec<RequestReport>;

    /// Each unmap and write of zeroes that is in the line, or waits for a page.
    fn sweeps(&self) -> Vec<SweepReport>;

    /// Bytes of memory that records hold, their buffers aside.
    fn memory_held(&self) -> u64;
}

impl<R: HostRequest> InFlight for Requests<R> {
    fn reports(&self) -> Vec<RequestReport> {
        let busy = self.records.iter().filter(|vio| vio.stage != Stage::Idle);
        busy.map(|vio| RequestReport {
            kind: vio.kind,
            lbn: vio.lbn,
            stage: vio.stage,
            since: vio.since,
        })
        .collect()
    }

    fn sweeps(&self) -> Vec<SweepReport> {
        let parked = self.parked.values().map(|sweep| sweep.report());
        self.line.sweeps().chain(parked).collect()
    }

    fn memory_held(&self) -> u64 {
        let records = self.records.len() * size_of::<DataVio<R>>();
        (records + self.line.memory_held()) as u64
    }
}

impl<R: HostRequest> Requests<R> {
    /// For `zone`, one record over each buffer.
    pub(crate) fn new(zone: &Rc<Zone>, buffers: Vec<Buffer>) -> Requests<R> {
        let slots = buffers.len();
        Requests {
            zone: Rc::clone(zone),
            records: buffers.into_iter().map(DataVio::new).collect(),
            idle: (0..slots as u32).rev().map(SlotIndex).collect(),
            line: Line::new(slots),
            parked: HashMap::new(),
            taken_up: Vec::with_capacity(admit::GROUP),
            finding: 0,
            unnamed: Vec::with_capacity(slots),
            assistants: Assistants::new(slots),
            unsettled: HashSet::new(),
            starves: false,
        }
    }

    /// Moves on every request for which something has happened, and admits pieces, of which `room` counts down how
    /// many may be; says whether there was anything to do.
    pub(crate) fn run(&mut self, room: &mut usize) -> bool {
        let mut ran = false;
        loop {
            let admitted = self.admit_waiting(room);
            let mut moved = false;
            while let Some((slot, event)) = self.zone.events.next() {
                moved = true;
                self.take(slot, event);
            }
            // Last, so that as many as possible have gathered.
            let named = !moved && self.name_gathered();
            if !(admitted || moved || named) {
                break;
            }
            ran = true;
        }
        self.starve(ran);
        ran
    }

    /// Callers wait, no record is free that they may have, and nothing moves: if all may lie in packers, they are not to.
    fn starve(&mut self, ran: bool) {
        let waits = self.line.len() > 0 && !self.line.may_proceed(self.idle.len());
        let starves = !ran && waits;
        if starves && !self.starves && self.zone.shared.compression() {
            let at_rest = self.zone.base.in_flight() == 0;
            let mut records = self.records.iter();
            if at_rest && records.all(|vio| matches!(vio.stage, Stage::Share | Stage::Idle)) {
                self.zone.empty_packers(Generation::BEFORE_ALL);
            }
        }
        self.starves = starves;
    }

    /// Whether pieces could be admitted at once.
    pub(crate) fn has_work(&self) -> bool {
        self.line.may_proceed(self.idle.len())
    }

    #[inline]
    fn vio(&mut self, slot: SlotIndex) -> &mut DataVio<R> {
        &mut self.records[slot.0 as usize]
    }

    /// Puts a record at a stage, where it waits.
    #[inline]
    fn wait(&mut self, slot: SlotIndex, stage: Stage) {
        let now = self.zone.scheduler.now();
        let vio = self.vio(slot);
        let left = std::mem::replace(&mut vio.stage, stage);
        let since = std::mem::replace(&mut vio.since, now);
        if self.zone.stopwatch.is_running() {
            self.tell_time(slot, left, since);
        }
    }

    /// Somebody wants to know how long a record was at the stage that it has left.
    #[cold]
    fn tell_time(&self, slot: SlotIndex, left: Stage, since: Nanos) {
        if let Some(stretch) = left.stretch() {
            self.zone.lap(stretch, slot.0, since);
        }
    }

    /// Takes an event to its record.
    fn take(&mut self, slot: SlotIndex, event: Event) {
        match (self.vio(slot).stage, event) {
            (Stage::Lock, Event::Locked) => self.locked(slot),
            (Stage::Find, Event::Found(result)) => {
                self.finding -= 1;
                self.found(slot, result);
            }
            (Stage::LookUp(purpose), Event::LookedUp(result)) => {
                self.looked_up(slot, purpose, result);
            }
            (Stage::Sweep, Event::Found(result)) => self.brought(slot, result.map(drop)),
            (Stage::Sweep, Event::LookedUp(result)) => self.brought(slot, result.map(drop)),
            (Stage::Share, Event::Verdict(verdict)) => self.judged(slot, verdict),
            (Stage::Journal, Event::Durable) => self.wait(slot, Stage::Count),
            (Stage::Journal | Stage::Count, Event::Counted(result)) => self.counted(slot, result),
            (Stage::Map, Event::Mapped(result)) => self.mapped(slot, result),
            (Stage::Leave, Event::Verdict(Verdict::Release)) => self.free(slot),
            (stage, event) => self.astray(slot, stage, &format_args!("{event:?}")),
        }
    }

    /// Takes the end of an I/O to its record.
    pub(crate) fn io_ended(&mut self, slot: SlotIndex, end: IoEnd) {
        match self.vio(slot).stage {
            Stage::Read(purpose) => self.read_ended(slot, purpose, end),
            stage => self.astray(slot, stage, &format_args!("the end of {end:?}")),
        }
    }

    /// A buffer to read into has become free for the request in `slot`.
    pub(crate) fn buffer_free(&mut self, slot: SlotIndex, buffer: Buffer) {
        match self.vio(slot).stage {
            Stage::Buffer(purpose) => self.read_into(slot, purpose, buffer),
            stage => {
                self.zone.scratch.give(buffer);
                self.astray(slot, stage, &format_args!("a buffer"));
            }
        }
    }

    /// Something has come for a request that does not wait for it.
    #[cold]
    fn astray(&self, slot: SlotIndex, stage: Stage, what: &dyn std::fmt::Display) {
        let what = format!(
            "{slot:?} of zone {} waits at {stage:?} and got {what}",
            self.zone.index
        );
        let error = VdoError::Inconsistent(what);
        self.zone
            .services
            .enter_read_only_because(&error, format_args!("a request went astray"));
    }
}
