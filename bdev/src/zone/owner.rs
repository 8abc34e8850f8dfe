//! All that lives on one zone thread, and how to ask for what lives on another.
//!
//! A [`Zone`] owns one zone of each kind: the logical zone's block map and locks, the physical zone's
//! slabs, the hash zone, and, on zone thread 0, the recovery journal. Its methods ask the owner of
//! something by number: a plain call if that is this thread, a message if not. So the code that serves
//! a request reads the same for one zone thread and for eight.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::admin::Admin;
use super::batch_hasher::BatchHasher;
use super::counters::Counters;
use super::generations::Generations;
use super::journaling::LateAdjustment;
use super::logical_locks::{LogicalLocks, SlotIndex};
use super::message::{
    AdminStep, Call, Entrant, MappingChange, Note, Outcome, PeerMessage, Reply, RequestAddress,
};
use super::post::Post;
use super::service_desk::ServiceDesk;
use super::shared::Shared;
use super::usage::UsageCounts;
use crate::block_map::BlockMapZone;
use crate::buffer::Buffer;
use crate::dedupe::Action;
use crate::depot::{DuplicateLock, PhysicalZone, WriteKind};
use crate::error::VdoError;
use crate::journal::RecoveryJournal;
use crate::runtime::base::BaseDevice;
use crate::runtime::table::Table;
use crate::runtime::task::{Scheduler, TaskId, WaitList};
use crate::types::{JournalPoint, Pbn, RecordName, ZoneIndex};
use crate::zone::hash_zone::HashZone;

/// What a request slot shows to others on its thread.
#[derive(Default)]
struct SlotState {
    /// The next thing its hash zone wants of it.
    action: Option<Action>,
    waiting: Option<TaskId>,
    allocation_taken: bool,
    /// The data of its write, once complete in memory.
    written: Option<Arc<Buffer>>,
    /// Whether that data is certain to find a place.
    promised: bool,
}

/// Everything one zone thread owns.
pub struct Zone {
    /// Which zone thread this is.
    pub index: ZoneIndex,
    /// What all zone threads know.
    pub shared: Arc<Shared>,
    /// The thread's tasks.
    pub scheduler: Rc<Scheduler>,
    /// The thread's way to the base device.
    pub base: Rc<BaseDevice>,
    /// The thread's messages.
    pub post: Rc<Post>,
    /// What its parts ask of the volume.
    pub services: Rc<ServiceDesk>,
    /// The logical zone's part of the block map.
    pub block_map: Rc<BlockMapZone>,
    /// The physical zone's slabs.
    pub physical: Rc<PhysicalZone>,
    /// The recovery journal, on zone thread 0.
    pub journal: Option<Rc<RecoveryJournal>>,
    /// The hash zone.
    pub hash: HashZone,
    /// Locks on logical blocks.
    pub locks: LogicalLocks,
    /// What flushes wait for.
    pub generations: Generations,
    /// Names for data.
    pub hasher: BatchHasher,
    /// What is counted.
    pub counters: Counters,
    /// How many requests are here.
    pub gauge: Gauge,
    /// Woken when no request is under way.
    pub quiet: WaitList,
    /// Woken when the volume turns read-only.
    pub read_only: WaitList,
    /// What zone thread 0 keeps for the whole volume.
    pub(crate) admin: OnceCell<Admin>,
    slots: RefCell<Vec<SlotState>>,
    /// Changes of mapping the journal has been given, by tag.
    pub(super) changes: RefCell<Table<MappingChange>>,
    pub(super) late: RefCell<VecDeque<LateAdjustment>>,
    pub(super) late_arrived: WaitList,
    calls: RefCell<VecDeque<(ZoneIndex, u32, Call)>>,
    servers: WaitList,
}

/// How many requests a zone thread has.
#[derive(Debug, Default)]
pub struct Gauge {
    /// Requests in slots.
    pub busy: Cell<u32>,
    /// Most requests that were ever in slots.
    pub peak: Cell<u32>,
    /// Requests of callers waiting for a slot, at least in part.
    pub waiting: Cell<u32>,
    /// Flushes not yet acknowledged.
    pub waiting_flushes: Cell<u32>,
    /// Whether the mailbox may hold more requests than were taken from it at the last poll.
    pub backlog: Cell<bool>,
}

impl Gauge {
    /// Whether no request is here.
    pub fn is_quiet(&self) -> bool {
        !self.backlog.get()
            && self.busy.get() + self.waiting.get() + self.waiting_flushes.get() == 0
    }
}

/// The parts a [`Zone`] is made of.
pub(crate) struct Parts {
    pub(crate) index: ZoneIndex,
    pub(crate) shared: Arc<Shared>,
    pub(crate) scheduler: Rc<Scheduler>,
    pub(crate) base: Rc<BaseDevice>,
    pub(crate) post: Rc<Post>,
    pub(crate) services: Rc<ServiceDesk>,
    pub(crate) block_map: Rc<BlockMapZone>,
    pub(crate) physical: Rc<PhysicalZone>,
    pub(crate) journal: Option<Rc<RecoveryJournal>>,
    pub(crate) hash: HashZone,
}

impl Zone {
    pub(crate) fn new(parts: Parts) -> Rc<Zone> {
        let slots = parts.shared.slots_per_zone as usize;
        let parts_zones = parts.shared.zones;
        let scheduler = parts.scheduler;
        Rc::new(Zone {
            index: parts.index,
            shared: parts.shared,
            base: parts.base,
            post: parts.post,
            services: parts.services,
            block_map: parts.block_map,
            physical: parts.physical,
            journal: parts.journal,
            hash: parts.hash,
            locks: LogicalLocks::new(&scheduler, slots),
            generations: Generations::new(&scheduler),
            hasher: BatchHasher::new(&scheduler, slots),
            counters: Counters::default(),
            gauge: Gauge::default(),
            quiet: WaitList::new(&scheduler),
            read_only: WaitList::new(&scheduler),
            admin: OnceCell::new(),
            slots: RefCell::new((0..slots).map(|_| SlotState::default()).collect()),
            changes: RefCell::new(Table::with_capacity(match parts.index {
                ZoneIndex(0) => slots * usize::from(parts_zones),
                _ => 0,
            })),
            late: RefCell::new(VecDeque::with_capacity(slots)),
            late_arrived: WaitList::new(&scheduler),
            calls: RefCell::new(VecDeque::with_capacity(slots)),
            servers: WaitList::new(&scheduler),
            scheduler,
        })
    }

    /// Makes this zone thread the one that keeps the super block.
    pub(crate) fn appoint(&self, admin: Admin) {
        let first = self.admin.set(admin).is_ok();
        assert!(first, "a volume's super block has one keeper");
    }

    /// Lets every thread know how much room is in use here.
    pub(crate) fn publish_usage(&self) {
        let (logical, block_map) = match &self.journal {
            Some(journal) => (
                journal.logical_blocks_used(),
                journal.block_map_data_blocks(),
            ),
            None => (0, 0),
        };
        self.shared.usage[self.index.index()].publish(UsageCounts {
            allocated: self.physical.allocated_blocks(),
            logical,
            block_map,
        });
    }

    /// Whether the volume is read-only.
    #[inline]
    pub fn is_read_only(&self) -> bool {
        self.shared.is_read_only()
    }

    pub(super) fn owner_of(&self, pbn: Pbn) -> Result<ZoneIndex, VdoError> {
        self.shared.physical_zone(pbn).ok_or_else(|| {
            VdoError::Inconsistent(format!("physical block {pbn} belongs to no slab"))
        })
    }

    // ---- physical zones ----

    /// A free block to write, write-locked: of this thread's slabs if they have one, else of others'.
    pub async fn allocate(&self) -> Result<Pbn, VdoError> {
        self.allocate_for(WriteKind::Data).await
    }

    /// A free block for data or for a block-map page.
    pub async fn allocate_for(&self, purpose: WriteKind) -> Result<Pbn, VdoError> {
        let mut result = self.physical.allocate(purpose);
        for step in 1..self.shared.zones {
            if !matches!(result, Err(VdoError::NoSpace)) {
                break;
            }
            let other = ZoneIndex((self.index.get() + step) % self.shared.zones);
            result = match self.post.call(other, Call::Allocate(purpose)).await {
                Reply::Allocated(result) => result,
                reply => Err(wrong_reply("Allocate", &reply)),
            };
        }
        result
    }

    /// Locks a block that may hold wanted data against change.
    pub async fn lock_duplicate(&self, pbn: Pbn) -> Result<DuplicateLock, VdoError> {
        let owner = self.owner_of(pbn)?;
        if owner == self.index {
            return self.physical.lock_duplicate(pbn);
        }
        match self.post.call(owner, Call::LockDuplicate(pbn)).await {
            Reply::Locked(result) => result,
            reply => Err(wrong_reply("LockDuplicate", &reply)),
        }
    }

    /// Gives up one hold on a block's lock.
    pub fn release_lock(&self, pbn: Pbn) {
        match self.owner_of(pbn) {
            Ok(owner) if owner == self.index => self.physical.release(pbn),
            Ok(owner) => self.post.note(owner, Note::ReleaseLock(pbn)),
            Err(error) => self.services.enter_read_only_because(
                &error,
                format_args!("a lock was to be released on a block that cannot be locked"),
            ),
        }
    }

    // ---- the journal ----

    /// Answers a call of any zone thread, this one included.
    pub(super) fn answer(&self, to: ZoneIndex, token: u32, reply: Reply) {
        if to == self.index {
            self.post.deliver(token, reply);
        } else {
            self.post.reply(to, token, reply);
        }
    }

    /// A request is done with its journal entry.
    pub fn release_entry(&self, point: JournalPoint) {
        match &self.journal {
            Some(journal) => journal.release_entry(point),
            None => self.post.note(ZoneIndex(0), Note::ReleaseEntry(point)),
        }
    }

    // ---- hash zones ----

    /// Takes the write in `slot` to the hash zone of its data's name.
    pub fn enter_hash_zone(
        &self,
        hash_zone: ZoneIndex,
        slot: SlotIndex,
        name: RecordName,
        data: &Arc<Buffer>,
        allocation: Option<Pbn>,
    ) {
        {
            let mut slots = self.slots.borrow_mut();
            let state = &mut slots[slot.0 as usize];
            state.action = None;
            state.allocation_taken = false;
        }
        let from = RequestAddress {
            zone: self.index,
            slot,
        };
        let entrant = Entrant {
            from,
            name,
            data: Arc::clone(data),
            allocation,
        };
        if hash_zone == self.index {
            self.hash.enter(self, entrant);
        } else {
            self.post.note(hash_zone, Note::Enter(entrant));
        }
    }

    /// Tells the hash zone what became of its last wish.
    pub fn report(&self, hash_zone: ZoneIndex, slot: SlotIndex, outcome: Outcome) {
        let from = RequestAddress {
            zone: self.index,
            slot,
        };
        if hash_zone == self.index {
            self.hash.outcome(self, from, outcome);
        } else {
            self.post.note(hash_zone, Note::Outcome(from, outcome));
        }
    }

    /// The next thing the hash zone wants of the write in `slot`.
    pub async fn next_action(&self, slot: SlotIndex) -> Action {
        std::future::poll_fn(|_| {
            let mut slots = self.slots.borrow_mut();
            let state = &mut slots[slot.0 as usize];
            match state.action.take() {
                Some(action) => Poll::Ready(action),
                None => {
                    state.waiting = Some(self.scheduler.current());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// A hash zone wants something of a request here.
    pub(crate) fn act(&self, slot: SlotIndex, action: Action) {
        let mut slots = self.slots.borrow_mut();
        let state = &mut slots[slot.0 as usize];
        match action {
            Action::TakeAllocation { .. } => state.allocation_taken = true,
            Action::CancelPacking { .. } => {}
            action => {
                if let Some(lost) = state.action.replace(action) {
                    log::error!("slot {slot:?} was told {lost:?} and {action:?} at once");
                }
                if let Some(task) = state.waiting.take() {
                    self.scheduler.wake(task);
                }
            }
        }
    }

    /// Whether the hash lock has taken over the lock on the block the request wrote.
    pub fn allocation_was_taken(&self, slot: SlotIndex) -> bool {
        self.slots.borrow()[slot.0 as usize].allocation_taken
    }

    // ---- reads that meet a write ----

    /// Lets reads of the same block see the data of the write in `slot`, once it is promised.
    pub fn show_written_data(&self, slot: SlotIndex, data: &Arc<Buffer>) {
        let mut slots = self.slots.borrow_mut();
        let state = &mut slots[slot.0 as usize];
        state.written = Some(Arc::clone(data));
        state.promised = false;
    }

    /// The data of the write in `slot` is certain to find a place.
    pub fn promise_written_data(&self, slot: SlotIndex) {
        self.slots.borrow_mut()[slot.0 as usize].promised = true;
    }

    /// The write in `slot` is over.
    pub fn hide_written_data(&self, slot: SlotIndex) {
        self.slots.borrow_mut()[slot.0 as usize].written = None;
    }

    /// The data a write in flight will leave in its block, if that is certain already.
    pub fn written_data(&self, slot: SlotIndex) -> Option<Arc<Buffer>> {
        let slots = self.slots.borrow();
        let state = &slots[slot.0 as usize];
        state
            .written
            .as_ref()
            .filter(|_| state.promised)
            .map(Arc::clone)
    }

    // ---- being asked ----

    /// A message of another zone thread has come.
    pub(crate) fn receive(&self, message: PeerMessage) {
        match message {
            PeerMessage::Reply { token, reply } => self.post.deliver(token, reply),
            PeerMessage::Note(note) => self.take_note(note),
            PeerMessage::Call { from, token, call } => match call {
                Call::Allocate(purpose) => {
                    let allocated = self.physical.allocate(purpose);
                    self.post.reply(from, token, Reply::Allocated(allocated));
                }
                Call::Adjust { change, written } => self.adjust(from, token, change, written),
                Call::LockDuplicate(pbn) => {
                    let locked = self.physical.lock_duplicate(pbn);
                    self.post.reply(from, token, Reply::Locked(locked));
                }
                call => {
                    self.calls.borrow_mut().push_back((from, token, call));
                    self.servers.wake_one();
                }
            },
        }
    }

    pub(crate) fn take_note(&self, note: Note) {
        match note {
            Note::ReleaseLock(pbn) => self.physical.release(pbn),
            Note::Journal(change) => self.begin_journaling(change),
            Note::AcquireJournal(sequence, holder) => {
                self.with_journal(|journal| journal.acquire(sequence, holder));
            }
            Note::ReleaseJournal(sequence, holder) => {
                self.with_journal(|journal| journal.release(sequence, holder));
            }
            Note::ReleaseEntry(point) => self.with_journal(|journal| journal.release_entry(point)),
            Note::AdvanceEra(tail) => self.block_map.advance_era(tail),
            Note::CommitSlabJournals(oldest) => self.physical.commit_oldest(oldest),
            Note::Enter(entrant) => self.hash.enter(self, entrant),
            Note::Outcome(from, outcome) => self.hash.outcome(self, from, outcome),
            Note::Act(slot, action) => self.act(slot, action),
        }
    }

    fn with_journal(&self, act: impl FnOnce(&Rc<RecoveryJournal>)) {
        match &self.journal {
            Some(journal) => act(journal),
            None => log::error!("zone {}: a note for the journal came astray", self.index),
        }
    }

    /// Serves other zone threads' calls that may have to wait, one at a time, for ever.
    pub(crate) async fn serve_calls(self: Rc<Self>) {
        loop {
            let next = self.calls.borrow_mut().pop_front();
            let Some((from, token, call)) = next else {
                self.servers.wait().await;
                continue;
            };
            let reply = match call {
                Call::Barrier => {
                    self.generations.barrier().await;
                    Reply::Done(Ok(()))
                }
                Call::Admin(step) => Reply::Done(self.take_admin_step(step).await),
                Call::Allocate(_) | Call::Adjust { .. } | Call::LockDuplicate(_) => continue,
            };
            self.post.reply(from, token, reply);
        }
    }

    /// Takes a step of starting or stopping.
    pub(crate) async fn take_admin_step(&self, step: AdminStep) -> Result<(), VdoError> {
        match step {
            AdminStep::Load => self.physical.load().await,
            AdminStep::DrainRequests => {
                self.quiet.wait_until(|| self.gauge.is_quiet()).await;
                self.generations.barrier().await;
                Ok(())
            }
            AdminStep::DrainBlockMap => self.block_map.drain(true).await,
            AdminStep::Index(verb) => self
                .hash
                .run_verb(verb)
                .await
                .map_err(|error| VdoError::Index(error.to_string())),
            AdminStep::DrainDepot => self.physical.drain(true).await,
        }
    }

    pub(crate) fn wake_if_quiet(&self) {
        if self.gauge.is_quiet() {
            self.quiet.wake_all();
        }
    }

    /// The volume has turned read-only: everyone who waits for what will not come is woken.
    pub(crate) fn read_only_entered(&self) {
        self.block_map.notice_read_only();
        self.physical.notify_read_only();
        if let Some(journal) = &self.journal {
            journal.read_only_entered();
        }
        self.read_only.wake_all();
    }

    /// Waits, on every zone thread, for the writes now under way.
    pub(crate) async fn barrier_everywhere(&self) -> Result<(), VdoError> {
        for zone in (0..self.shared.zones).map(ZoneIndex) {
            if zone == self.index {
                self.generations.barrier().await;
                continue;
            }
            match self.post.call(zone, Call::Barrier).await {
                Reply::Done(result) => result?,
                reply => return Err(wrong_reply("Barrier", &reply)),
            }
        }
        Ok(())
    }

    /// Takes a step on every zone thread, one after the other; the first error is returned.
    pub(crate) async fn step_everywhere(&self, step: AdminStep) -> Result<(), VdoError> {
        let mut result = Ok(());
        for zone in (0..self.shared.zones).map(ZoneIndex) {
            let one = if zone == self.index {
                self.take_admin_step(step).await
            } else {
                match self.post.call(zone, Call::Admin(step)).await {
                    Reply::Done(result) => result,
                    reply => Err(wrong_reply("Admin", &reply)),
                }
            };
            result = result.and(one);
        }
        result
    }
}

pub(super) fn wrong_reply(call: &str, reply: &Reply) -> VdoError {
    VdoError::Inconsistent(format!("{call} was answered with {reply:?}"))
}
