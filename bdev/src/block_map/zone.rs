//! One logical zone's part of the block map, as the rest of the zone thread sees it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::config::BlockMapConfig;
use super::core::MapCore;
use super::forest::Forest;
use super::page_io;
use super::pages::Way;
use super::state::{DataBlockTest, Descent, Growing, MapPhase, MapState, NextLeaf, Progress};
use super::waiters::PageOp;
use crate::buffer::{Buffer, DmaMemory};
use crate::error::VdoError;
use crate::format::tree::{TreeGeometry, TreePage};
use crate::recovery::map_replay::Overlay;
use crate::runtime::base::{BaseDevice, IoClass};
use crate::runtime::services::{BlockMapSlot, JournalHolder, TreePageSource, ZoneServices};
use crate::runtime::shared_flush::SharedFlush;
use crate::runtime::task::{Scheduler, WaitList};
use crate::stats::BlockMapStatistics;
use crate::types::{BLOCK_SIZE, JournalPoint, Lbn, Mapping, Pbn, SequenceNumber};

/// What a zone's part of the block map needs of its surroundings.
pub struct BlockMapEnvironment {
    /// The zone thread's executor.
    pub scheduler: Rc<Scheduler>,
    /// The zone thread's way to the base device.
    pub base: Rc<BaseDevice>,
    /// The rest of the volume.
    pub services: Rc<dyn ZoneServices>,
    /// Where new pages come from.
    pub source: Rc<dyn TreePageSource>,
    /// Memory for I/O: one block for each reader and writer.
    pub memory: Arc<dyn DmaMemory>,
    /// What a read-only volume's journal knows better than pages on disk.
    pub overlay: Option<Arc<Overlay>>,
    /// Tells whether a block may hold data or a page of a tree.
    pub is_data_block: DataBlockTest,
}

/// One logical zone's part of the block map. Lives on one zone thread.
pub struct BlockMapZone {
    core: Rc<MapCore>,
    geometry: Cell<TreeGeometry>,
    /// What is ready for more logical blocks.
    extension: RefCell<Option<Forest>>,
    source: Rc<dyn TreePageSource>,
}

impl BlockMapZone {
    /// A zone's part of the block map, with nothing in memory; takes all the memory it will need but
    /// that of tree pages, and spawns its tasks.
    ///
    /// # Errors
    /// [`VdoError::Invalid`] if a size is zero; [`VdoError::NoMemory`].
    pub fn new(
        config: &BlockMapConfig,
        environment: BlockMapEnvironment,
    ) -> Result<Rc<BlockMapZone>, VdoError> {
        let sizes = [
            ("cache pages", u64::from(config.cache_pages)),
            ("trees", u64::from(config.geometry.roots)),
            ("readers", config.readers as u64),
            ("writers", config.writers as u64),
        ];
        if let Some((what, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(VdoError::Invalid(format!(
                "a block-map zone needs at least one of its {what}"
            )));
        }
        let BlockMapEnvironment {
            scheduler,
            base,
            services,
            source,
            memory,
            overlay,
            is_data_block,
        } = environment;
        let buffer = || {
            Buffer::new(&memory, 1).ok_or(VdoError::NoMemory {
                what: "block-map I/O",
                bytes: BLOCK_SIZE as u64,
            })
        };
        let read_work = Rc::new(WaitList::new(&scheduler));
        let write_work = Rc::new(WaitList::new(&scheduler));
        let state = MapState::new(config, is_data_block, &scheduler, &read_work, &write_work)?;
        let core = Rc::new(MapCore {
            state: RefCell::new(state),
            flushes: SharedFlush::new(&scheduler, &base, IoClass::PageCache),
            base,
            services,
            overlay,
            read_work,
            write_work,
            idle: WaitList::new(&scheduler),
            holder: JournalHolder::Logical(config.zone),
        });
        for _ in 0..config.readers {
            scheduler.spawn(page_io::read_pages(Rc::clone(&core), buffer()?));
        }
        for _ in 0..config.writers {
            scheduler.spawn(page_io::write_pages(Rc::clone(&core), buffer()?));
        }
        Ok(Rc::new(BlockMapZone {
            core,
            geometry: Cell::new(config.geometry),
            extension: RefCell::new(None),
            source,
        }))
    }

    /// Which leaf page maps a logical block, and the slot in it; `None` if there is no such page and it is
    /// not to be made. With `grow`, all pages that are missing on the way are made, from the top down.
    ///
    /// When the way is in memory this does not suspend.
    ///
    /// # Errors
    /// [`VdoError::NoSpace`] if a page is needed and no block is free; [`VdoError::Invalid`] if the block is
    /// not this zone's; [`VdoError::Io`] or [`VdoError::Inconsistent`] if a page can not be read or is damaged
    /// (the volume is then read-only).
    pub async fn locate(&self, lbn: Lbn, grow: bool) -> Result<Option<BlockMapSlot>, VdoError> {
        if let Some(slot) = self.locate_now(lbn) {
            return Ok(Some(slot));
        }
        let geometry = self.geometry.get();
        let (leaf, slot) = geometry.leaf(lbn);
        {
            let mut state = self.core.state.borrow_mut();
            if lbn.get() >= geometry.logical_blocks || !state.owns(leaf) {
                return Err(VdoError::Invalid(format!(
                    "logical block {lbn} is not in this zone of a volume of {} blocks",
                    geometry.logical_blocks
                )));
            }
            if state.phase != MapPhase::Open {
                return Err(VdoError::ShuttingDown);
            }
            state.begin_search();
        }
        let result = self.search(leaf, grow).await;
        self.core.state.borrow_mut().end_search();
        self.core.settle();
        Ok(result?.map(|pbn| BlockMapSlot { pbn, slot }))
    }

    /// As [`BlockMapZone::locate`], if the way is in memory and leads to a page.
    #[inline]
    pub fn locate_now(&self, lbn: Lbn) -> Option<BlockMapSlot> {
        let geometry = self.geometry.get();
        if lbn.get() >= geometry.logical_blocks {
            return None;
        }
        let (leaf, slot) = geometry.leaf(lbn);
        let pbn = self.core.state.borrow().locate_now(leaf)?;
        Some(BlockMapSlot { pbn, slot })
    }

    /// Looks for the first leaf of tree `root`, one of this zone's, that is numbered `from` or more in its tree and below `end`.
    /// Passes whole subtrees that are not there in one step, and waits for nothing.
    pub fn next_leaf(&self, root: u32, from: u64, end: u64) -> NextLeaf {
        self.core.state.borrow().next_leaf(root, from, end)
    }

    /// Looks for the first entry in `slots` of the leaf at `pbn` that `matters`; `None` if the leaf is not in memory.
    pub fn next_entry(
        &self,
        pbn: Pbn,
        slots: std::ops::Range<u16>,
        matters: impl Fn(Mapping) -> bool,
    ) -> Option<Option<u16>> {
        self.core.state.borrow().next_entry(pbn, slots, matters)
    }

    async fn search(&self, leaf: TreePage, grow: bool) -> Result<Option<Pbn>, VdoError> {
        loop {
            let step = self.core.state.borrow_mut().step(leaf, grow);
            match step {
                Ok(Descent::Found(page)) => return Ok(Some(page)),
                Ok(Descent::Missing) => return Ok(None),
                Ok(Descent::Wait(waiter)) => _ = self.core.wait(waiter).await?,
                Ok(Descent::Grow(growing)) => self.grow(growing).await?,
                Err(error) => {
                    if matches!(error, VdoError::Inconsistent(_)) {
                        self.core.enter_read_only(&error);
                    }
                    return Err(error);
                }
            }
        }
    }

    async fn grow(&self, growing: Growing) -> Result<(), VdoError> {
        let parent = BlockMapSlot {
            pbn: growing.parent_pbn,
            slot: growing.slot,
        };
        let allocated = if self.core.services.is_read_only() {
            Err(VdoError::ReadOnly)
        } else {
            self.source.allocate(parent).await
        };
        match allocated {
            Ok((page, point)) => {
                let sequence = point.sequence;
                self.core.state.borrow_mut().grown(growing, page, sequence);
                self.core.settle();
                self.source.finish(page, point);
                Ok(())
            }
            Err(error) => {
                if error != VdoError::NoSpace {
                    self.core.enter_read_only(&error);
                }
                self.core.state.borrow_mut().not_grown(growing, &error);
                Err(error)
            }
        }
    }

    /// What the block map says of a logical block. When the leaf is in memory this does not suspend.
    ///
    /// # Errors
    /// [`VdoError::BadMapping`] if the entry can not be true. A read has to fail then, lest it hide that data
    /// was lost; a write, which only wants to know what it replaces, goes on as if it were
    /// [`Mapping::UNMAPPED`]. [`VdoError::Io`] or [`VdoError::Inconsistent`] if the leaf can not be read
    /// or is damaged (the volume is then read-only). [`VdoError::ReadOnly`] if the volume is read-only, the
    /// leaf is not in memory and no other can make room for it.
    pub async fn get(&self, slot: BlockMapSlot) -> Result<Mapping, VdoError> {
        if let Some(mapping) = self.get_now(slot.into()) {
            return Ok(mapping);
        }
        let mapping = self.run(slot, PageOp::Get(slot.slot)).await?;
        if self.core.state.borrow().is_valid_mapping(mapping) {
            return Ok(mapping);
        }
        let error = VdoError::BadMapping {
            pbn: mapping.pbn,
            state: mapping.state.bits(),
        };
        log::error!("slot {} of block-map page {}: {error}", slot.slot, slot.pbn);
        Err(error)
    }

    /// Makes the block map say something of a logical block. When the leaf is in memory this does not
    /// suspend.
    ///
    /// The journal entry at `point`, which records the change, must have been committed, and the caller
    /// keeps its block from being reused until this is done; from then on the page does.
    ///
    /// # Errors
    /// [`VdoError::ReadOnly`] if the volume is; [`VdoError::Io`] or [`VdoError::Inconsistent`] if the leaf can
    /// not be read or is damaged (the volume is then read-only).
    pub async fn put(
        &self,
        slot: BlockMapSlot,
        mapping: Mapping,
        point: JournalPoint,
    ) -> Result<(), VdoError> {
        if self.put_now(slot.into(), mapping, point) {
            return Ok(());
        }
        let op = PageOp::Put(slot.slot, mapping, point.sequence);
        self.run(slot, op).await.map(|_| ())
    }

    /// What a logical block is mapped to will be asked, and perhaps changed: the way there, if all pages above its leaf are in memory. It
    /// spares a search for the leaf, and the memory that is needed comes close meanwhile.
    #[inline]
    pub fn foresee(&self, lbn: Lbn) -> Option<Way> {
        let geometry = self.geometry.get();
        if lbn.get() >= geometry.logical_blocks {
            return None;
        }
        let (leaf, slot) = geometry.leaf(lbn);
        self.core.state.borrow_mut().foresee(leaf, slot)
    }

    /// As [`BlockMapZone::get`], if the leaf is in memory and the entry can be true.
    #[inline]
    pub fn get_now(&self, way: Way) -> Option<Mapping> {
        self.core.state.borrow_mut().get_now(way)
    }

    /// As [`BlockMapZone::put`], if the leaf is in memory and may be changed; says whether it was.
    #[inline]
    pub fn put_now(&self, way: Way, mapping: Mapping, point: JournalPoint) -> bool {
        self.core.notice_read_only();
        let (now, has_news) = {
            let mut state = self.core.state.borrow_mut();
            let now = state.put_now(way, mapping, point.sequence);
            (now, state.has_news())
        };
        if now && has_news {
            self.core.settle();
        }
        now
    }

    async fn run(&self, slot: BlockMapSlot, op: PageOp) -> Result<Mapping, VdoError> {
        let progress = self.core.state.borrow_mut().request(slot.pbn, op);
        match progress {
            Progress::Done(result) => {
                self.core.settle();
                result
            }
            Progress::Waits(waiter) => {
                self.core.notice_read_only();
                let result = self.core.wait(waiter).await;
                self.core.settle();
                result
            }
        }
    }

    /// The recovery journal has begun block `tail`: pages with changes that are now too old are written.
    pub fn advance_era(&self, tail: SequenceNumber) {
        self.core.state.borrow_mut().advance(tail);
    }

    /// Takes the memory for a map of more logical blocks, as many as `geometry` says.
    ///
    /// # Errors
    /// [`VdoError::NoMemory`]; nothing has changed then.
    pub fn prepare_extension(&self, geometry: TreeGeometry) -> Result<(), VdoError> {
        let forest = self.core.state.borrow().extended_forest(geometry)?;
        *self.extension.borrow_mut() = Some(forest);
        Ok(())
    }

    /// Maps as many logical blocks as were prepared for, if any were.
    pub fn extend(&self) {
        if let Some(forest) = self.extension.take() {
            self.geometry.set(forest.geometry());
            self.core.state.borrow_mut().extend(forest);
        }
    }

    /// Gives back what [`BlockMapZone::prepare_extension`] took.
    pub fn abandon_extension(&self) {
        *self.extension.borrow_mut() = None;
    }

    /// Waits until nothing is under way; with `save`, until everything dirty is on the device and no
    /// journal block is held any more. Requests are refused from now on until [`BlockMapZone::resume`].
    /// What was written is durable after the next flush.
    ///
    /// # Errors
    /// [`VdoError::ReadOnly`] if the volume is: nothing more is written then, but all is quiet.
    pub async fn drain(&self, save: bool) -> Result<(), VdoError> {
        let shared = &self.core;
        shared.state.borrow_mut().phase = MapPhase::Draining;
        loop {
            let is_quiet = || shared.state.borrow().is_quiet();
            shared.idle.wait_until(is_quiet).await;
            shared.notice_read_only();
            let mut state = shared.state.borrow_mut();
            if save && !state.read_only {
                state.expire_all();
            }
            if state.is_quiet() {
                state.phase = MapPhase::Drained;
                break;
            }
        }
        if self.core.services.is_read_only() {
            return Err(VdoError::ReadOnly);
        }
        Ok(())
    }

    /// Takes requests again after [`BlockMapZone::drain`].
    #[allow(dead_code, reason = "a running volume cannot be suspended yet")]
    pub fn resume(&self) {
        self.core.state.borrow_mut().phase = MapPhase::Open;
    }

    /// The volume has become read-only: requests that wait for what will not be written are answered.
    pub fn notice_read_only(&self) {
        self.core.notice_read_only();
        self.core.settle();
    }

    /// Counters and gauges.
    pub fn statistics(&self) -> BlockMapStatistics {
        let mut statistics = self.core.state.borrow().statistics();
        statistics.flush_count = self.core.flushes.begun();
        statistics
    }

    /// Bytes of memory that pages hold, buffers for I/O aside.
    pub fn memory_held(&self) -> u64 {
        self.core.state.borrow().memory_held() as u64
    }
}
