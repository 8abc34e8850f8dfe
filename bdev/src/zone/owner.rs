//! All that lives on one zone thread.
//!
//! A [`Zone`] owns one zone of each kind: the logical zone's block map and locks, the physical zone's
//! slabs, the hash zone, and, on zone thread 0, the recovery journal. How it asks others is in [`super::asking`],
//! how it answers them in [`super::serving`].

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use super::admin::Admin;
use super::counters::Counters;
use super::events::Events;
use super::generations::Generations;
use super::index::IndexKeeper;
use super::journaling::Journaling;
use super::logical_locks::LogicalLocks;
use super::low_space::LastLook;
use super::message::Call;
use super::post::Post;
use super::scratch::Scratch;
use super::service_desk::ServiceDesk;
use super::shared::Shared;
use super::usage::UsageCounts;
use crate::block_map::BlockMapZone;
use crate::depot::PhysicalZone;
use crate::index::ZoneDevice;
use crate::journal::RecoveryJournal;
use crate::runtime::base::BaseDevice;
use crate::runtime::stopwatch::{Stopwatch, Stretch};
use crate::runtime::task::{Scheduler, WaitList};
use crate::seam::Nanos;
use crate::types::{SequenceNumber, ZoneIndex};
use crate::zone::hash_zone::HashZone;

/// How long requests that came before a shutdown are still begun. Those that are longer than that get an error.
const SHUTDOWN_PATIENCE: Nanos = Nanos(1_000_000_000);

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
    /// The index's way to the base device.
    pub index_device: Rc<ZoneDevice>,
    /// Locks on logical blocks.
    pub locks: LogicalLocks,
    /// What flushes wait for.
    pub generations: Generations,
    /// Buffers to read blocks into.
    pub scratch: Scratch,
    /// What has happened to the requests here.
    pub events: Events,
    /// What is counted.
    pub counters: Counters,
    /// How long what takes.
    pub stopwatch: Stopwatch,
    /// How many requests are here.
    pub gauge: Gauge,
    /// Woken when no request is under way.
    pub quiet: WaitList,
    /// Woken when the volume has come to another phase of its life; on zone thread 0.
    pub life_changed: WaitList,
    /// Whether all requests have been served and no more are taken.
    pub closed: Cell<bool>,
    /// Since when the volume shuts down, or is about to.
    pub shuts_since: Cell<Option<Nanos>>,
    /// Woken when the volume turns read-only.
    pub read_only: WaitList,
    /// Woken when room has come, here or elsewhere, or none will.
    pub room_came: WaitList,
    /// What zone thread 0 keeps for the whole volume.
    pub(crate) admin: OnceCell<Admin>,
    pub(super) journaling: Journaling,
    /// When the room in use was looked at.
    pub(super) last_look: LastLook,
    /// Hash zones in whose packers writes of this thread may lie: bit *i* for zone *i*.
    pub(super) packing: Cell<u16>,
    /// Entries of a journal block that requests are done with, not yet told to the journal.
    pub(super) released: Cell<(SequenceNumber, u16)>,
    pub(super) calls: RefCell<VecDeque<(ZoneIndex, u32, Call)>>,
    pub(super) servers: WaitList,
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
    pub(crate) index_device: Rc<ZoneDevice>,
    pub(crate) scratch: Scratch,
}

impl Zone {
    pub(crate) fn new(parts: Parts) -> Rc<Zone> {
        let slots = parts.shared.slots_per_zone as usize;
        let zones = parts.shared.zones;
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
            index_device: parts.index_device,
            scratch: parts.scratch,
            locks: LogicalLocks::new(slots),
            events: Events::new(slots),
            generations: Generations::new(&scheduler),
            counters: Counters::default(),
            stopwatch: Stopwatch::default(),
            gauge: Gauge::default(),
            quiet: WaitList::new(&scheduler),
            life_changed: WaitList::new(&scheduler),
            closed: Cell::new(false),
            shuts_since: Cell::new(None),
            read_only: WaitList::new(&scheduler),
            room_came: WaitList::new(&scheduler),
            admin: OnceCell::new(),
            journaling: Journaling::new(&scheduler, slots, zones),
            last_look: LastLook::default(),
            packing: Cell::new(0),
            released: Cell::new((SequenceNumber(0), 0)),
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

    /// A stretch of a request's way that began at `since` ends; kept if somebody wants to know.
    #[inline]
    pub(crate) fn lap(&self, stretch: Stretch, request: u32, since: Nanos) {
        if self.stopwatch.is_running() {
            let now = self.scheduler.now();
            self.stopwatch.lap(stretch, request, since, now);
        }
    }

    /// What this thread keeps of the index for all, if it is zone thread 0.
    pub(super) fn index_keeper(&self) -> Option<&IndexKeeper> {
        self.admin.get().map(|admin| &admin.keeper)
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

    /// Bytes of memory that the parts hold, buffers for I/O aside.
    pub(crate) fn memory_held(&self) -> u64 {
        let calls = self.calls.borrow().capacity() * size_of::<(ZoneIndex, u32, Call)>();
        let queues = self.base.memory_held() + self.post.memory_held() + self.events.memory_held();
        let journal = self.journal.as_ref();
        let journal = journal.map_or(0, |journal| journal.memory_held());
        let parts = self.block_map.memory_held() + self.physical.memory_held();
        let stopwatch = self.stopwatch.memory_held();
        parts + self.hash.memory_held() + journal + (calls + queues + stopwatch) as u64
    }

    /// Whether the volume is read-only.
    #[inline]
    pub fn is_read_only(&self) -> bool {
        self.shared.is_read_only()
    }

    /// The volume will be shut down soon, or not after all.
    pub(crate) fn give_way(&self, give_way: bool) {
        let since = self.shuts_since.get().unwrap_or(self.scheduler.now());
        self.shuts_since.set(give_way.then_some(since));
    }

    /// Whether it is too late for requests to be begun: the volume is down, or has been shutting down for long enough.
    #[inline]
    pub(crate) fn is_late(&self) -> bool {
        let late = |since: Nanos| self.scheduler.now().0 > since.0 + SHUTDOWN_PATIENCE.0;
        self.closed.get() || self.shuts_since.get().is_some_and(late)
    }

    pub(crate) fn wake_if_quiet(&self) {
        if self.gauge.is_quiet() {
            self.quiet.wake_all();
        }
    }

    /// The volume has turned read-only: everyone who waits for what will not come is woken.
    pub(crate) fn read_only_entered(&self) {
        self.hash.empty_packer(self);
        self.block_map.notice_read_only();
        self.physical.notify_read_only();
        if let Some(journal) = &self.journal {
            journal.read_only_entered();
        }
        self.read_only.wake_all();
        self.room_came.wake_all();
    }
}
