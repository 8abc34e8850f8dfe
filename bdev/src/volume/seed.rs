//! A zone thread before it is on its thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use super::{VolumeError, VolumeOptions};
use crate::block_map::{BlockMapConfig, BlockMapEnvironment, BlockMapZone, maximum_age};
use crate::buffer::{Buffer, DmaMemory};
use crate::dedupe::IndexStates;
use crate::depot::{DepotGeometry, DepotLimits, PhysicalZone};
use crate::format;
use crate::index::{IndexShard, ZoneDevice};
use crate::journal::{JournalConfig, RecoveryJournal};
use crate::packer::{self, Packer};
use crate::poll::flush_desk::FlushDesk;
use crate::poll::mailbox::Mailbox;
use crate::poll::thread::ZoneThread;
use crate::recovery::map_replay::Overlay;
use crate::request::Requests;
use crate::runtime::base::BaseDevice;
use crate::runtime::task::{Executor, Scheduler, WaitList};
use crate::seam::{Host, IndexState};
use crate::types::ZoneIndex;
use crate::zone::admin::Admin;
use crate::zone::growth::GrowthTurns;
use crate::zone::hash_zone::HashZone;
use crate::zone::index::{self, IndexKeeper, IndexPlace};
use crate::zone::owner::{Parts, Zone};
use crate::zone::post::Post;
use crate::zone::scratch::Scratch;
use crate::zone::service_desk::ServiceDesk;
use crate::zone::shared::Shared;
use crate::zone::super_block::SuperBlockKeeper;

/// Block-map pages that all zone threads together read, and write, at a time, and blocks of slabs that they write; none has more
/// than the second number of them, nor less than the third.
const META_IO: (usize, usize, usize) = (256, 64, 16);

/// Buffers a zone thread has to read blocks into: one for so many records, at most, and at least.
const SCRATCH: (u32, u32, u32) = (4, 256, 16);

/// A zone thread's share of what is under way in the whole volume is reckoned with at so many times its part; beyond it tables grow.
const UNEVEN: u32 = 4;

fn scratch(slots: u32) -> u32 {
    let (per, most, least) = SCRATCH;
    (slots / per).clamp(least, most).min(slots)
}

/// What becomes a zone thread on the thread that will poll it.
pub struct ZoneSeed<H: Host> {
    pub(super) index: ZoneIndex,
    pub(super) found: format::Volume,
    pub(super) overlay: Option<Arc<Overlay>>,
    pub(super) options: VolumeOptions,
    pub(super) shared: Arc<Shared>,
    pub(super) mailboxes: Arc<[Mailbox<H::Request, H::Waker>]>,
    pub(super) memory: Arc<dyn DmaMemory>,
    pub(super) index_word: Arc<AtomicU8>,
}

impl<H: Host> ZoneSeed<H> {
    /// Which zone thread it will be.
    pub fn index(&self) -> ZoneIndex {
        self.index
    }

    /// Makes the zone thread, here, and takes all its memory.
    ///
    /// # Errors
    /// When memory runs out, or the volume's metadata makes no sense.
    pub fn grow(self, channel: H::Channel) -> Result<ZoneThread<H>, VolumeError> {
        let scheduler = Scheduler::new();
        let slots = self.shared.slots_per_zone;
        let zones = self.shared.zones;
        let requests = slots * u32::from(zones);
        // What names and blocks bring here is nearly as much everywhere.
        let share = requests.min(UNEVEN * slots);
        let (all, most, least) = META_IO;
        let meta_io = (all / usize::from(zones)).clamp(least, most);
        let base = BaseDevice::new(&scheduler, 2 * slots as usize);
        let post = Post::new(
            &scheduler,
            self.index,
            self.shared.zones,
            2 * slots as usize,
        );
        let services = ServiceDesk::new(Arc::clone(&self.shared), Rc::clone(&post));
        let layout = &self.found.layout;

        let journal = match self.index {
            ZoneIndex(0) => Some(self.journal(requests, &scheduler, &base, &services)?),
            _ => None,
        };
        let physical = PhysicalZone::new(
            DepotGeometry {
                slabs: layout.slabs,
                summary: layout.slab_summary.start,
                nonce: layout.nonce,
                zone: self.index,
                zones,
                rebuilt: self.found.super_block.volume.read_only_recoveries > 0,
            },
            DepotLimits {
                locks: 2 * requests as usize,
                changes: 2 * share as usize,
                writers: meta_io,
                discard_delay: self.options.discard_delay,
                read_first: self.options.slabs_read_first as usize,
            },
            &scheduler,
            &base,
            services.clone(),
            &self.memory,
        )?;
        let cache = self.options.block_map_cache_blocks;
        let cache_pages = self.shared.owners.share(self.index, cache);
        let shared = Arc::clone(&self.shared);
        let block_map = BlockMapZone::new(
            &BlockMapConfig {
                geometry: layout.tree,
                nonce: layout.nonce,
                zone: self.index,
                zones,
                cache_pages,
                maximum_age: self.page_age(),
                journal_tail: self.found.super_block.recovery_journal.journal_start,
                requests: slots as usize,
                readers: meta_io,
                writers: meta_io,
            },
            BlockMapEnvironment {
                scheduler: Rc::clone(&scheduler),
                base: Rc::clone(&base),
                services: services.clone(),
                source: services.clone(),
                memory: Arc::clone(&self.memory),
                overlay: self.overlay.clone(),
                is_data_block: Box::new(move |pbn| shared.extent.slabs().is_data_block(pbn)),
            },
        )?;
        let blocks = self.buffers(packer::blocks_for(slots), "the blocks of the packer")?;
        let hash = HashZone::new(
            &scheduler,
            requests,
            zones,
            IndexShard::new(&scheduler, share as usize),
            Packer::new(slots, blocks),
        );
        let what = "the index's I/O";
        let index_device = ZoneDevice::new(&base, &scheduler, &self.memory, zones)
            .ok_or(VolumeError::NoMemory { what })?;
        let zone = Zone::new(Parts {
            index: self.index,
            shared: Arc::clone(&self.shared),
            scheduler: Rc::clone(&scheduler),
            base,
            post,
            services: Rc::clone(&services),
            block_map,
            physical,
            journal,
            hash,
            index_device,
            scratch: Scratch::new(self.buffers(scratch(slots), "buffers to read into")?),
        });
        services.open(&zone);
        if self.index == ZoneIndex(0) {
            self.appoint_admin(&zone)?;
        }

        let what = "the buffers of requests";
        let requests = Requests::new(&zone, self.buffers(slots, what)?);
        let flushes = Rc::new(FlushDesk::new(&zone));
        scheduler.spawn(Rc::clone(&flushes).serve(Rc::clone(&zone)));
        scheduler.spawn(Rc::clone(&zone).serve_late_changes());
        scheduler.spawn(Rc::clone(&zone).discard_freed());
        // Of each other zone thread a barrier may be under way, of zone thread 0 two and a step. Whoever those wait for may need a
        // block from here.
        for _ in 0..2 * zones {
            scheduler.spawn(Rc::clone(&zone).serve_calls());
        }
        for _ in 0..zone.index_device.ios {
            scheduler.spawn(index::read_for_lookups(Rc::clone(&zone)));
        }
        let executor = Executor::new(scheduler);
        Ok(ZoneThread::new(
            zone,
            executor,
            channel,
            requests,
            flushes,
            self.mailboxes,
        ))
    }

    fn buffers(&self, number: u32, what: &'static str) -> Result<Vec<Buffer>, VolumeError> {
        let buffer = |_| Buffer::new(&self.memory, 1).ok_or(VolumeError::NoMemory { what });
        (0..number).map(buffer).collect()
    }

    fn journal(
        &self,
        requests: u32,
        scheduler: &Rc<Scheduler>,
        base: &Rc<BaseDevice>,
        services: &Rc<ServiceDesk>,
    ) -> Result<Rc<RecoveryJournal>, VolumeError> {
        let layout = &self.found.layout;
        let super_block = &self.found.super_block;
        let config = JournalConfig {
            start: layout.recovery_journal.start,
            blocks: layout.recovery_journal.blocks,
            nonce: layout.nonce,
            recovery_count: super_block.volume.complete_recoveries,
            state: super_block.recovery_journal,
            requests: requests as usize,
        };
        let (one, other) = (services.clone(), services.clone());
        Ok(RecoveryJournal::new(
            config,
            scheduler,
            base,
            one,
            other,
            &self.memory,
        )?)
    }

    /// After how many journal blocks a changed page is written: as the user wants, but long before the
    /// journal comes round to the block that holds the change, for a page that stays keeps that block.
    fn page_age(&self) -> u32 {
        let half_way = self.found.layout.recovery_journal.blocks * 3 / 8;
        let half_way = u32::try_from(half_way).unwrap_or(u32::MAX);
        maximum_age(self.options.block_map_maximum_age)
            .min(half_way)
            .max(1)
    }

    fn appoint_admin(&self, zone: &Rc<Zone>) -> Result<(), VolumeError> {
        let what = "the super block";
        let buffer = Buffer::new(&self.memory, 1).ok_or(VolumeError::NoMemory { what })?;
        let returned = WaitList::new(&zone.scheduler);
        let admin = Admin {
            super_block: SuperBlockKeeper::new(self.found.clone(), buffer, returned),
            memory: Arc::clone(&self.memory),
            index: RefCell::new(IndexStates::new()),
            index_changed: WaitList::new(&zone.scheduler),
            keeper: IndexKeeper::new(
                &zone.scheduler,
                IndexPlace::of(&self.found),
                self.options.unix_ms,
            ),
            marked: Cell::new(false),
            marked_now: WaitList::new(&zone.scheduler),
            growth_turns: GrowthTurns::new(&zone.scheduler),
            index_word: Arc::clone(&self.index_word),
            index_told: Cell::new(IndexState::Closed),
            deduplication: self.options.deduplication,
        };
        zone.appoint(admin);
        Ok(())
    }
}
