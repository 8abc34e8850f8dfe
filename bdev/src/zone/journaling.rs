//! How a change of mapping reaches the journal and then the reference counts, in one order for all.
//!
//! 1. Whoever wants the change gives it to the journal's zone thread ([`Zone::journal_entry`]).
//! 2. When the entry is durable, the journal's thread announces it to every zone thread, in the order of the
//!    journal. So every slab journal has its entries in the order of the recovery journal, whichever threads
//!    the requests live on.
//! 3. Each zone thread takes out of the announcements what concerns it: it changes the counts of its blocks, and
//!    notes which of its own requests wait. A change that finds its slab's journal full takes its place there
//!    at once and is waited for by a task.
//! 4. Each zone thread publishes how far it has counted, its *watermark*: all changes up to there are made. A
//!    request goes on when those who count for it have come past its entry. So nobody answers anybody.
//!
//! A watermark must not overtake what was said before it: the holds that slab journals take on the journal's blocks have to
//! arrive before a request gives up its own. So it is published after the mail is out, and looked at before the
//! mail is taken in.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::events::Event;
use super::logical_locks::SlotIndex;
use super::message::{Note, Reply};
use super::owner::Zone;
use super::post::wrong_reply;
use crate::depot::{ReferenceChange, ReferenceOperation};
use crate::error::VdoError;
use crate::format::recovery_journal::{JournalOperation, RecoveryJournalEntry};
use crate::journal::Pending;
use crate::runtime::queue::Queue;
use crate::runtime::task::{Scheduler, WaitList};
use crate::types::{JournalPoint, Pbn, ZoneIndex};

/// Who on a zone thread wants an entry journaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journaler {
    /// A request.
    Request(SlotIndex),
    /// A task, which waits for the reply with this token.
    Task(u32),
}

/// A [`Journaler`] of a certain zone thread and those who count for its entry, in the one word the journal keeps beside that: so
/// every zone thread sees by the word alone whether an entry concerns it.
///
/// ```text
///   bits 0-31: number   32: kind   40-47: zone   48-55, 56-63: who counts the block mapped to, the one before; from 1, 0 for nobody
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalerTag(pub u64);

impl JournalerTag {
    /// Of `who` on zone thread `zone`, with an entry for which these zones count: the new block's, and the old one's.
    pub fn new(zone: ZoneIndex, who: Journaler, counters: [Option<ZoneIndex>; 2]) -> JournalerTag {
        let (kind, number) = match who {
            Journaler::Request(SlotIndex(slot)) => (0, slot),
            Journaler::Task(token) => (1, token),
        };
        let [new, old] = counters.map(|zone| zone.map_or(0, |zone| u64::from(zone.get()) + 1));
        let counters = new << 48 | old << 56;
        JournalerTag(counters | u64::from(zone.get()) << 40 | kind << 32 | u64::from(number))
    }

    /// Who counts the new block: bit *i* for zone *i*.
    #[inline]
    fn counts_new(self) -> u16 {
        (1_u32 << (self.0 >> 48 & 0xff) >> 1) as u16
    }

    /// Who counts the old one.
    #[inline]
    fn counts_old(self) -> u16 {
        (1_u32 << (self.0 >> 56) >> 1) as u16
    }

    /// The zone thread.
    pub fn zone(self) -> ZoneIndex {
        ZoneIndex((self.0 >> 40) as u8)
    }

    /// Who it is there.
    pub fn who(self) -> Journaler {
        match self.0 >> 32 & 1 {
            0 => Journaler::Request(SlotIndex(self.0 as u32)),
            _ => Journaler::Task(self.0 as u32),
        }
    }
}

/// Entries of a journal block that have become durable, all neighbours.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Where the first of them is.
    pub first: JournalPoint,
    /// What they say, and who wanted them.
    pub entries: Arc<[Pending]>,
}

/// How many entries ahead of the one that is counted the counters are asked for.
const FORESEEN_ENTRIES: usize = 8;

/// A place in the order of all entries, as one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Order(u64);

impl From<JournalPoint> for Order {
    fn from(point: JournalPoint) -> Order {
        Order(point.sequence.get() << 8 | u64::from(point.entry))
    }
}

/// How far a zone thread has counted, for any thread to read.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Watermark(AtomicU64);

impl Watermark {
    #[inline]
    fn read(&self) -> Order {
        Order(self.0.load(Ordering::Acquire))
    }
}

/// One who waits until an entry is counted.
#[derive(Debug)]
struct Awaiting {
    who: Journaler,
    point: JournalPoint,
    /// Who counts for it: bit *i* for zone *i*.
    counters: u16,
}

/// A change of a count that waits for room in a slab journal.
#[derive(Debug)]
struct LateChange {
    order: Order,
    ticket: u32,
}

/// What a zone thread knows of entries under way.
#[derive(Debug)]
pub(super) struct Journaling {
    /// Announcements not yet sent; on the journal's thread.
    announcements: RefCell<Vec<Committed>>,
    /// The last entry taken note of.
    seen: Cell<Order>,
    /// Changes not made yet, oldest first.
    late: RefCell<VecDeque<LateChange>>,
    late_came: WaitList,
    /// What the others know of `seen` and `late`.
    published: Cell<Order>,
    /// Zone threads whose requests may wait for what was counted since then.
    interested: Cell<u16>,
    /// How far the others had counted when this thread last looked.
    known: Box<[Cell<Order>]>,
    awaiting: RefCell<Queue<Awaiting>>,
}

impl Journaling {
    pub(super) fn new(scheduler: &Rc<Scheduler>, slots: usize, zones: u8) -> Journaling {
        Journaling {
            announcements: RefCell::new(Vec::new()),
            seen: Cell::new(Order(0)),
            late: RefCell::new(VecDeque::new()),
            late_came: WaitList::new(scheduler),
            published: Cell::new(Order(0)),
            interested: Cell::new(0),
            known: (0..zones).map(|_| Cell::default()).collect(),
            awaiting: RefCell::new(Queue::with_capacity(slots)),
        }
    }

    /// Up to where all changes are made here.
    #[inline]
    fn counted(&self) -> Order {
        match self.late.borrow().front() {
            None => self.seen.get(),
            Some(late) => Order(late.order.0 - 1),
        }
    }
}

impl Zone {
    /// Journals a change of mapping, and has it counted. The end is an [`Event::Counted`], or a
    /// [`Reply::Counted`] to a task.
    ///
    /// When that comes with a point, the entry is to be released once the mapping has changed.
    pub fn journal_entry(&self, who: Journaler, entry: RecoveryJournalEntry) {
        // A block of no slab is nobody's: whoever wanted the entry says so.
        let counter = |pbn: Pbn| {
            (pbn != Pbn::ZERO).then(|| self.shared.physical_zone(pbn).unwrap_or(self.index))
        };
        let counters = [entry.mapping.pbn, entry.unmapping.pbn].map(counter);
        let tag = JournalerTag::new(self.index, who, counters);
        match &self.journal {
            Some(_) => self.submit_entry(tag, entry),
            None => self.post.note(ZoneIndex(0), Note::Journal(tag, entry)),
        }
    }

    /// As [`Zone::journal_entry`], for the task that runs now.
    pub async fn journal_for_task(
        &self,
        entry: RecoveryJournalEntry,
    ) -> Result<JournalPoint, VdoError> {
        let token = self.post.open();
        self.journal_entry(Journaler::Task(token), entry);
        match self.post.reply_to(token).await {
            Reply::Counted(Ok(point)) if self.is_read_only() => {
                self.release_entry(point);
                Err(VdoError::ReadOnly)
            }
            Reply::Counted(result) => result.map_err(|error| *error),
            reply => Err(wrong_reply("Journal", &reply)),
        }
    }

    /// Gives the journal an entry of any zone thread.
    pub(super) fn submit_entry(&self, tag: JournalerTag, entry: RecoveryJournalEntry) {
        let submitted = match &self.journal {
            Some(journal) => journal.submit(tag.0, entry),
            None => Err(self.no_journal("an entry")),
        };
        if let Err(error) = submitted {
            self.entry_failed(tag, error);
        }
    }

    /// An entry will not be durable.
    pub(super) fn entry_failed(&self, tag: JournalerTag, error: VdoError) {
        if tag.zone() == self.index {
            self.entry_done(tag.who(), Err(error.into()));
        } else {
            self.post.note(tag.zone(), Note::NotJournaled(tag, error));
        }
    }

    /// Entries are durable. Called on the journal's thread, in the order of entries; those of one call are neighbours.
    pub(super) fn entries_committed(&self, first: JournalPoint, entries: &[Pending]) {
        if self.shared.zones > 1 {
            let entries = entries.into();
            let committed = Committed { first, entries };
            self.journaling.announcements.borrow_mut().push(committed);
        }
        self.take_committed(first, entries);
    }

    /// Tells the other zone threads which entries have become durable.
    pub(crate) fn announce_committed(&self) {
        for committed in self.journaling.announcements.borrow_mut().drain(..) {
            for zone in 1..self.shared.zones {
                let note = Note::Committed(committed.clone());
                self.post.note(ZoneIndex(zone), note);
            }
        }
    }

    /// Takes out of committed entries what concerns this zone. They come in the order of the journal.
    pub(super) fn take_committed(&self, first: JournalPoint, entries: &[Pending]) {
        for pending in entries.iter().take(FORESEEN_ENTRIES) {
            self.foresee_count(pending);
        }
        for (number, pending) in entries.iter().enumerate() {
            if let Some(later) = entries.get(number + FORESEEN_ENTRIES) {
                self.foresee_count(later);
            }
            let point = JournalPoint {
                entry: first.entry + number as u16,
                ..first
            };
            self.take_entry(pending, point);
        }
        self.tell_counted();
    }

    /// An entry is about to be taken. Of the two blocks it is about, only the old one has not been touched for a while.
    #[inline]
    fn foresee_count(&self, pending: &Pending) {
        if JournalerTag(pending.tag).counts_old() == 1 << self.index.get() {
            self.physical.foresee(pending.entry.unmapping.pbn);
        }
    }

    #[inline]
    fn take_entry(&self, pending: &Pending, point: JournalPoint) {
        let (tag, entry) = (JournalerTag(pending.tag), &pending.entry);
        let (me, journaling) = (1 << self.index.get(), &self.journaling);
        let counters = tag.counts_new() | tag.counts_old();
        if tag.counts_new() == me {
            let increment = match entry.operation {
                JournalOperation::DataRemapping => ReferenceOperation::DataIncrement,
                JournalOperation::BlockMapRemapping => ReferenceOperation::BlockMapIncrement,
            };
            self.count(point, entry.mapping.pbn, increment);
        }
        if tag.counts_old() == me {
            self.count(
                point,
                entry.unmapping.pbn,
                ReferenceOperation::DataDecrement,
            );
        }
        if counters & me != 0 {
            let interested = &journaling.interested;
            interested.set(interested.get() | 1 << tag.zone().get());
        }
        journaling.seen.set(Order::from(point));
        if tag.zone() != self.index {
            return;
        }
        if self.stopwatch.is_running()
            && let Journaler::Request(slot) = tag.who()
        {
            self.events.put(slot, Event::Durable);
        }
        let mine = counters & !me == 0;
        let mut awaiting = journaling.awaiting.borrow_mut();
        if mine && awaiting.is_empty() && journaling.late.borrow().is_empty() {
            drop(awaiting);
            return self.entry_done(tag.who(), Ok(point));
        }
        awaiting.push(Awaiting {
            who: tag.who(),
            point,
            counters,
        });
    }

    /// Changes the count of a block of this zone. What goes wrong turns the volume read-only, which the request sees.
    #[inline]
    fn count(&self, point: JournalPoint, pbn: Pbn, operation: ReferenceOperation) {
        let change = ReferenceChange {
            pbn,
            operation,
            point,
        };
        if let Some(ticket) = self.physical.count(change) {
            let order = Order::from(point);
            let late = LateChange { order, ticket };
            self.journaling.late.borrow_mut().push_back(late);
            self.journaling.late_came.wake_one();
        }
    }

    /// Waits for changes of counts that could not be made at once, oldest first, for ever.
    pub(crate) async fn serve_late_changes(self: Rc<Self>) {
        let journaling = &self.journaling;
        loop {
            let oldest = journaling.late.borrow().front().map(|late| late.ticket);
            let Some(ticket) = oldest else {
                journaling.late_came.wait().await;
                continue;
            };
            _ = self.physical.take_up(ticket).await;
            journaling.late.borrow_mut().pop_front();
            self.tell_counted();
        }
    }

    /// Lets those go on whose entries have been counted; says whether there were any.
    pub(crate) fn tell_counted(&self) -> bool {
        let mut any = false;
        while let Some(Awaiting { who, point, .. }) = self.next_counted() {
            any = true;
            self.entry_done(who, Ok(point));
        }
        any
    }

    fn next_counted(&self) -> Option<Awaiting> {
        let mut awaiting = self.journaling.awaiting.borrow_mut();
        let known = |zone: usize| self.journaling.known[zone].get();
        match self.is_counted(awaiting.first()?, known) {
            true => awaiting.pop(),
            false => None,
        }
    }

    /// Whether all who count for `awaiting` have come past its entry: this thread, and `others` by number.
    #[inline]
    fn is_counted(&self, awaiting: &Awaiting, others: impl Fn(usize) -> Order) -> bool {
        let order = Order::from(awaiting.point);
        let mut counters = awaiting.counters;
        while counters != 0 {
            let zone = counters.trailing_zeros() as usize;
            counters &= counters - 1;
            let counted = match zone == self.index.index() {
                true => self.journaling.counted(),
                false => others(zone),
            };
            if counted < order {
                return false;
            }
        }
        true
    }

    /// All that an entry says has been counted, or it will not be durable.
    #[inline]
    fn entry_done(&self, who: Journaler, result: Result<JournalPoint, Box<VdoError>>) {
        match who {
            Journaler::Request(slot) => self.events.put(slot, Event::Counted(result)),
            Journaler::Task(token) => self.deliver(token, Reply::Counted(result)),
        }
    }

    /// Looks how far the others have counted. Only before the mail is taken in.
    pub(crate) fn look_at_counted(&self) {
        if self.shared.zones == 1 || self.journaling.awaiting.borrow().is_empty() {
            return;
        }
        for (known, watermark) in self.journaling.known.iter().zip(&self.shared.watermarks) {
            known.set(watermark.read());
        }
    }

    /// Lets the other zone threads know how far this one has counted, and returns which of them to wake: bit *i* for
    /// zone *i*. Only when all mail is out.
    pub(crate) fn publish_counted(&self) -> u16 {
        let counted = self.journaling.counted();
        if self.shared.zones == 1 || counted == self.journaling.published.replace(counted) {
            return 0;
        }
        self.shared.watermarks[self.index.index()]
            .0
            .store(counted.0, Ordering::Release);
        let interested = match self.journaling.late.borrow().is_empty() {
            true => self.journaling.interested.take(),
            false => self.journaling.interested.get(),
        };
        interested & !(1 << self.index.get())
    }

    /// Whether someone waits here for what has been counted elsewhere.
    pub(crate) fn awaits_what_is_counted(&self) -> bool {
        let awaiting = self.journaling.awaiting.borrow();
        let published = |zone: usize| self.shared.watermarks[zone].read();
        awaiting
            .first()
            .is_some_and(|first| self.is_counted(first, published))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SequenceNumber;

    #[test]
    fn a_tag_says_who_and_where_and_who_counts() {
        for who in [
            Journaler::Request(SlotIndex(0)),
            Journaler::Request(SlotIndex(u32::MAX)),
            Journaler::Task(7),
            Journaler::Task(u32::MAX),
        ] {
            for zone in [0, 1, 15] {
                for (new, old) in [(None, Some(15)), (Some(0), None), (Some(15), Some(2))] {
                    let counters = [new, old].map(|zone| zone.map(ZoneIndex));
                    let tag = JournalerTag::new(ZoneIndex(zone), who, counters);
                    assert_eq!((tag.zone(), tag.who()), (ZoneIndex(zone), who));
                    let bit = |zone: Option<u8>| zone.map_or(0, |zone| 1 << zone);
                    assert_eq!((tag.counts_new(), tag.counts_old()), (bit(new), bit(old)));
                }
            }
        }
    }

    #[test]
    fn entries_are_ordered_by_block_and_place() {
        let order = |sequence, entry| {
            Order::from(JournalPoint {
                sequence: SequenceNumber(sequence),
                entry,
            })
        };
        assert!(order(1, 216) < order(2, 0) && order(2, 0) < order(2, 1));
    }
}
