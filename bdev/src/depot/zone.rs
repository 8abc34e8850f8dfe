//! A physical zone: the slabs of one zone thread, and all that is asked of them.
//!
//! The life of a zone: [`PhysicalZone::new`] takes all memory and starts the writer tasks;
//! [`PhysicalZone::load`] reads what was left; then blocks are allocated, locked, counted
//! and released until [`PhysicalZone::drain`], after which [`PhysicalZone::resume`] may follow.
//!
//! Everything but load and drain returns at once, and a change of a count nearly always does
//! ([`Adjustment`]). All calls come from the zone's thread.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::allocator::Allocator;
use super::discards::{self, DISCARDERS, Discards};
use super::growing::Extension;
use super::locks::{IncrementBudget, PbnLocks, ReadLock, WriteKind};
use super::reference_counts::ReferenceStatus;
use super::scrubbing::Scrubber;
use super::slab::{ReferenceChange, Slab};
use super::state::{Core, DepotPhase, DepotState, Effect};
use super::summary::Summary;
use super::work::Work;
use super::writer;
use crate::buffer::DmaMemory;
use crate::error::VdoError;
use crate::format::slab::SlabGeometry;
use crate::runtime::base::{BaseDevice, IoClass};
use crate::runtime::services::{JournalHolder, ZoneServices};
use crate::runtime::shared_flush::SharedFlush;
use crate::runtime::task::{Scheduler, WaitList};
use crate::seam::Nanos;
use crate::stats::ZoneStatistics;
use crate::types::{MAXIMUM_REFERENCE_COUNT, Pbn, SequenceNumber, SlabNumber, ZoneIndex};

/// Where the slabs are and which of them belong to a zone.
#[derive(Clone, Copy, Debug)]
pub struct DepotGeometry {
    /// All slabs of the volume.
    pub slabs: SlabGeometry,
    /// The first block of the slab summary.
    pub summary: Pbn,
    /// The volume's nonce, which slab-journal blocks carry.
    pub nonce: u64,
    /// This zone. Slab *s* belongs to zone *s* modulo the number of zones.
    pub zone: ZoneIndex,
    /// How many zones there are.
    pub zones: u8,
    /// Whether the volume was ever rebuilt: then there may be counters that no entry of a journal explains.
    pub rebuilt: bool,
}

/// How much a zone takes at start.
#[derive(Clone, Copy, Debug)]
pub struct DepotLimits {
    /// Locks on physical blocks: two for each request there can be.
    pub locks: usize,
    /// Changes of counts that can be under way before tables have to grow.
    pub changes: usize,
    /// One-block buffers to write slab metadata from, and tasks to do it.
    pub writers: usize,
    /// How long after a block was freed it is discarded on the base device, together with those freed meanwhile.
    pub discard_delay: Nanos,
    /// Slabs that were shut down whose counters are read before the zone is at work.
    pub read_first: usize,
}

/// [`DepotLimits::discard_delay`] of volumes in use.
pub const DEFAULT_DISCARD_DELAY: Nanos = Nanos(100_000_000);

impl Default for DepotLimits {
    fn default() -> DepotLimits {
        DepotLimits {
            locks: 2 * 2048,
            changes: 2 * 2048,
            writers: 64,
            discard_delay: DEFAULT_DISCARD_DELAY,
            read_first: 64,
        }
    }
}

/// What came of asking for a duplicate's lock.
#[derive(Clone, Debug)]
pub enum DuplicateLock {
    /// The block is locked for reading, and may get as many references as the budget says. To be
    /// released with [`PhysicalZone::release`].
    Locked(IncrementBudget),
    /// Someone is writing the block.
    WriteLocked,
    /// The block can take no more references (or never could: it is a page of the block map, or holds no
    /// data; or it is not known how many it has, for its slab is not scrubbed yet; or what it holds is being discarded).
    NoIncrements,
}

/// The slabs of one zone thread. See the module's documentation.
pub struct PhysicalZone {
    pub(super) geometry: Cell<DepotGeometry>,
    base: Rc<BaseDevice>,
    services: Rc<dyn ZoneServices>,
    pub(super) scheduler: Rc<Scheduler>,
    pub(super) memory: Arc<dyn DmaMemory>,
    flush: SharedFlush,
    state: RefCell<DepotState>,
    pub(super) limits: DepotLimits,
    /// What is ready for more slabs.
    pub(super) extension: RefCell<Option<Extension>>,
    /// Woken when a block of the summary was written, and when blocks may be written again.
    pub(super) summary_changed: WaitList,
}

impl PhysicalZone {
    /// The zone before anything was read, with its writer tasks.
    ///
    /// # Errors
    /// When there are fewer slabs than zones, or the host has no memory.
    pub fn new(
        geometry: DepotGeometry,
        limits: DepotLimits,
        scheduler: &Rc<Scheduler>,
        base: &Rc<BaseDevice>,
        services: Rc<dyn ZoneServices>,
        memory: &Arc<dyn DmaMemory>,
    ) -> Result<Rc<PhysicalZone>, VdoError> {
        let DepotGeometry {
            slabs,
            summary,
            nonce,
            zone,
            zones,
            rebuilt: _,
        } = geometry;
        let first = u32::from(zone.get());
        if first >= u32::from(zones) || slabs.slab_count < u32::from(zones) {
            return Err(VdoError::Invalid(format!(
                "a volume of {} slabs can not be split over {zones} zones; use fewer cores or \
                 smaller slabs",
                slabs.slab_count
            )));
        }
        let numbers = (first..slabs.slab_count)
            .step_by(usize::from(zones))
            .map(SlabNumber);
        let own: Vec<Slab> = (0..)
            .zip(numbers)
            .map(|(local, number)| Slab::new(local, number, &slabs, nonce, limits.writers))
            .collect::<Result<_, _>>()?;
        let blocks = slabs.config.data_blocks as u32;
        let discards = Discards::new(own.len(), blocks, limits.discard_delay, scheduler);
        let core = Core::new(
            Rc::clone(&services),
            (own.len(), limits.changes),
            PbnLocks::new(limits.locks),
            Allocator::new(own.len(), slabs.config.data_blocks),
            Summary::new(&slabs, summary, zone, memory)?,
            Work::new(limits.writers.max(1), own.len(), scheduler, memory)?,
            (Scrubber::new(scheduler), discards),
        );
        let physical = Rc::new(PhysicalZone {
            geometry: Cell::new(geometry),
            limits,
            extension: RefCell::new(None),
            summary_changed: WaitList::new(scheduler),
            base: Rc::clone(base),
            services,
            scheduler: Rc::clone(scheduler),
            memory: Arc::clone(memory),
            flush: SharedFlush::new(scheduler, base, IoClass::Metadata),
            state: RefCell::new(DepotState::new(own, core)),
        });
        for _ in 0..limits.writers.max(1) {
            scheduler.spawn(writer::serve(Rc::clone(&physical)));
        }
        for _ in 0..DISCARDERS {
            scheduler.spawn(discards::serve(Rc::clone(&physical)));
        }
        Ok(physical)
    }

    /// Takes one step on the state, and then carries out what it asked of others.
    #[inline]
    pub(super) fn with<T>(&self, step: impl FnOnce(&mut DepotState) -> T) -> T {
        let mut state = self.state.borrow_mut();
        let result = step(&mut state);
        if state.core.effects.is_empty() {
            return result;
        }
        drop(state);
        self.carry_out_effects();
        result
    }

    #[cold]
    fn carry_out_effects(&self) {
        let holder = JournalHolder::Physical(self.geometry().zone);
        loop {
            let effect = self.state.borrow_mut().core.effects.pop_front();
            match effect {
                None => return,
                Some(Effect::AcquireJournalLock(block)) => {
                    self.services.acquire_journal_lock(block, holder);
                }
                Some(Effect::ReleaseJournalLock(block)) => {
                    self.services.release_journal_lock(block, holder);
                }
                Some(Effect::Wake(task)) => self.scheduler.wake(task),
                Some(Effect::ReadOnly(why)) => {
                    self.services.enter_read_only(&why);
                    self.state.borrow_mut().fail_waiters();
                }
            }
        }
    }

    /// Where the slabs are, and which of them are this zone's.
    #[inline]
    pub(super) fn geometry(&self) -> DepotGeometry {
        self.geometry.get()
    }

    pub(super) fn base(&self) -> &BaseDevice {
        &self.base
    }

    pub(super) fn services(&self) -> &dyn ZoneServices {
        &*self.services
    }

    pub(super) fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    pub(super) async fn flush(&self) -> Result<(), VdoError> {
        self.flush.flush().await
    }

    pub(super) fn slab_number(&self, local: u32) -> SlabNumber {
        let DepotGeometry { zone, zones, .. } = self.geometry();
        SlabNumber(local * u32::from(zones) + u32::from(zone.get()))
    }

    /// Where a block of a slab's journal lies.
    pub(super) fn journal_block(&self, local: u32, sequence: SequenceNumber) -> Pbn {
        let journal = self
            .geometry()
            .slabs
            .journal_blocks(self.slab_number(local));
        Pbn(journal.start.get() + sequence.get() % journal.blocks)
    }

    /// Where a block of a slab's counters lies.
    pub(super) fn reference_block(&self, local: u32, block: u32) -> Pbn {
        let blocks = self
            .geometry()
            .slabs
            .reference_blocks(self.slab_number(local));
        Pbn(blocks.start.get() + u64::from(block))
    }

    /// The slab of this zone a data block lies in, by its number in the zone, and the block's place in it.
    #[inline]
    fn locate(&self, pbn: Pbn) -> Option<(u32, u32)> {
        let (slab, offset) = self.geometry().slabs.locate(pbn)?;
        let zones = u32::from(self.geometry().zones);
        if zones == 1 {
            return Some((slab.get(), offset));
        }
        let own = slab.get() % zones == u32::from(self.geometry().zone.get());
        own.then_some((slab.get() / zones, offset))
    }

    fn misplaced(&self, pbn: Pbn) -> VdoError {
        let zone = self.geometry().zone;
        VdoError::Inconsistent(format!(
            "physical block {pbn} is used as data, and is no data block of physical zone {zone}"
        ))
    }

    /// Takes a free block of this zone, with a provisional reference and a write lock that the caller
    /// must release.
    ///
    /// # Errors
    /// [`VdoError::NoSpace`] when this zone has none; another zone may. Also when the volume is read-only
    /// or the zone is not at work.
    pub fn allocate(&self, kind: WriteKind) -> Result<Pbn, VdoError> {
        self.with(|state| {
            state.check_normal()?;
            let pbn = state
                .allocate(&self.geometry().slabs)
                .ok_or(VdoError::NoSpace)?;
            let locked = state.core.locks.lock_allocation(pbn, kind);
            locked.inspect_err(|error| state.core.fail(error.clone()))?;
            Ok(pbn)
        })
    }

    /// Locks a block for reading, in the hope that it holds what is to be written. If nobody refers to
    /// it, it gets a provisional reference.
    ///
    /// # Errors
    /// When the volume is read-only, or the zone is not at work, or has no lock left.
    pub fn lock_duplicate(&self, pbn: Pbn) -> Result<DuplicateLock, VdoError> {
        self.with(|state| {
            state.check_normal()?;
            let Some((local, offset)) = self.locate(pbn) else {
                return Ok(DuplicateLock::NoIncrements);
            };
            let (slab, core) = state.slab(local);
            if !slab.is_recovered() {
                return Ok(DuplicateLock::NoIncrements);
            }
            let limit = slab.counts.increment_limit(offset);
            if limit == 0 || core.discards.is_under_way(local, offset) {
                return Ok(DuplicateLock::NoIncrements);
            }
            let lock = core.locks.lock_for_reading(pbn, limit);
            let budget = match lock.inspect_err(|error| core.fail(error.clone()))? {
                ReadLock::WriteLocked => return Ok(DuplicateLock::WriteLocked),
                ReadLock::Shared(budget) => budget,
                ReadLock::New(budget) => {
                    if slab.counts.status(offset) == ReferenceStatus::Free {
                        slab.counts.make_provisional(offset);
                        core.locks.set_provisional(pbn, true);
                        slab.free_changed(core, false);
                    }
                    budget
                }
            };
            Ok(DuplicateLock::Locked(budget))
        })
    }

    /// Turns the write lock of a block into a read lock, now that its data is on disk, or is mapped. Each of the `writers`
    /// whose data is in the block is a holder, and releases it; the reference that each adds itself is not in the budget.
    ///
    /// # Errors
    /// When the block does not have a write lock for data with one holder; the volume is read-only then.
    pub fn downgrade_write(&self, pbn: Pbn, writers: u8) -> Result<IncrementBudget, VdoError> {
        let limit = MAXIMUM_REFERENCE_COUNT.saturating_sub(writers);
        self.with(|state| {
            let budget = state.core.locks.downgrade(pbn, writers, limit);
            budget.inspect_err(|error| state.core.fail(error.clone()))
        })
    }

    /// Lets go of a lock. With its last holder a block that nobody refers to is free again.
    pub fn release(&self, pbn: Pbn) {
        self.with(|state| {
            let provisional = match state.core.locks.release(pbn) {
                Ok(provisional) => provisional,
                Err(error) => return state.core.fail(error),
            };
            if !provisional {
                return;
            }
            let Some((local, offset)) = self.locate(pbn) else {
                return state.core.fail(self.misplaced(pbn));
            };
            let (slab, core) = state.slab(local);
            if slab.counts.release_provisional(offset) {
                slab.free_changed(core, true);
                core.block_freed(local, offset);
            } else {
                let count = slab.counts.count(offset);
                core.fail(VdoError::Inconsistent(format!(
                    "physical block {pbn} should have a provisional reference and counts {count}"
                )));
            }
        });
    }

    /// The reference count of a block, of this zone if it is one, is about to be changed.
    #[inline]
    pub(crate) fn foresee(&self, pbn: Pbn) {
        if let Some((local, offset)) = self.locate(pbn) {
            self.state.borrow().foresee(local, offset);
        }
    }

    /// Changes the reference count of a block of this zone: now, or as soon as its slab's journal has room.
    #[inline]
    fn change(&self, state: &mut DepotState, change: ReferenceChange) -> Outcome {
        let Some((local, offset)) = self.locate(change.pbn) else {
            let error = self.misplaced(change.pbn);
            state.core.fail(error.clone());
            return Outcome::Now(Err(error));
        };
        if let Err(error) = state.check_normal() {
            return Outcome::Now(Err(error));
        }
        let (slab, core) = state.slab(local);
        match slab.adjust(core, &change, offset) {
            Some(result) => Outcome::Now(result),
            None => Outcome::Later(slab.wait(core, change, offset)),
        }
    }

    /// Changes the reference count of a block of this zone, and says how that went.
    #[cfg(test)]
    pub(crate) fn adjust(&self, change: ReferenceChange) -> Adjustment<'_> {
        let outcome = self.with(|state| self.change(state, change));
        Adjustment {
            zone: self,
            outcome,
        }
    }

    /// Changes the reference count of a block of this zone, for one who need not know how it went: what goes wrong
    /// turns the volume read-only. Returns a ticket if the change waits, to be taken up.
    ///
    /// The change takes its place in the slab's order when this is called. Changes of a slab must be asked for in
    /// the order of their recovery-journal entries, an increment before a decrement of the same entry.
    #[inline]
    pub(crate) fn count(&self, change: ReferenceChange) -> Option<u32> {
        self.with(|state| match self.change(state, change) {
            Outcome::Now(Err(error)) => {
                state.core.fail(error);
                None
            }
            Outcome::Later(ticket) => Some(ticket),
            Outcome::Now(Ok(())) | Outcome::Taken => None,
        })
    }

    /// Writes out the tail block of every slab journal that locks this or an older block of the recovery
    /// journal, which wants to reuse it. The locks are let go when the blocks are safe.
    pub fn commit_oldest(&self, sequence: SequenceNumber) {
        self.with(|state| {
            while !state.core.is_read_only()
                && let Some(local) = state.core.dirty_journals.oldest_up_to(sequence)
            {
                let (slab, core) = state.slab(local);
                slab.commit_tail(core);
            }
        });
    }

    /// The volume has become read-only: changes that wait fail.
    pub fn notify_read_only(&self) {
        self.with(DepotState::fail_waiters);
    }

    /// Blocks of this zone that are not free, pages of the block map among them.
    pub fn allocated_blocks(&self) -> u64 {
        self.with(|state| {
            let core = &state.core;
            core.allocator.allocated() - core.discards.blocks_under_way()
        })
    }

    /// Bytes of memory that counters, slab journals and locks hold, buffers for I/O aside.
    pub fn memory_held(&self) -> u64 {
        self.with(|state| {
            let slab = |slab: &Slab| {
                size_of::<Slab>() + slab.counts.memory_held() + slab.journal.memory_held()
            };
            let slabs: usize = state.slabs.iter().map(slab).sum();
            (slabs + state.core.memory_held()) as u64
        })
    }

    /// Blocks of this zone that hold data or can.
    #[cfg(test)]
    pub fn data_blocks(&self) -> u64 {
        let slabs = self.with(|state| state.slabs.len());
        slabs as u64 * self.geometry().slabs.config.data_blocks
    }

    /// The reference count of a block of this zone as dm-vdo counts: 255 is provisional. `None` if it is
    /// not one.
    #[cfg(test)]
    pub fn reference_count(&self, pbn: Pbn) -> Option<u8> {
        let (local, offset) = self.locate(pbn)?;
        Some(self.with(|state| state.slabs[local as usize].counts.count(offset)))
    }

    /// Blocks that are locked now: none when no request is under way.
    #[cfg(any(test, feature = "testing"))]
    pub fn locked_blocks(&self) -> usize {
        self.with(|state| state.core.locks.held())
    }

    /// Adds this zone's share to the statistics.
    pub fn statistics(&self, to: &mut ZoneStatistics) {
        use crate::stats::Statistic;

        self.with(|state| {
            let core = &state.core;
            to.allocator.add(&core.allocator.statistics());
            to.slab_journal.add(&core.slab_journal);
            to.slab_summary.add(&core.slab_summary);
            to.ref_counts.add(&core.ref_counts);
            to.freed_discards.add(&core.discards.statistics());
        });
    }
}

impl DepotState {
    #[inline]
    fn check_normal(&self) -> Result<(), VdoError> {
        if self.core.is_read_only() {
            return Err(VdoError::ReadOnly);
        }
        if self.core.phase == DepotPhase::Normal {
            Ok(())
        } else {
            Err(VdoError::ShuttingDown)
        }
    }
}

impl std::fmt::Debug for PhysicalZone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "PhysicalZone({} of {})",
            self.geometry().zone,
            self.geometry().zones
        )
    }
}

#[derive(Debug)]
enum Outcome {
    Now(Result<(), VdoError>),
    Later(u32),
    Taken,
}

/// A change of a reference count: made already, nearly always, or waiting for room in the slab journal.
/// Dropping it does not take the change back.
#[derive(Debug)]
#[must_use = "a change that failed must not be taken for one that was made"]
pub struct Adjustment<'a> {
    zone: &'a PhysicalZone,
    outcome: Outcome,
}

impl Adjustment<'_> {
    /// The result, if the change is made or has failed already.
    #[cfg(test)]
    pub(crate) fn now(mut self) -> Result<Result<(), VdoError>, Self> {
        match std::mem::replace(&mut self.outcome, Outcome::Taken) {
            Outcome::Now(result) => Ok(result),
            outcome => {
                self.outcome = outcome;
                Err(self)
            }
        }
    }
}

impl PhysicalZone {
    /// Waits for a change on behalf of another task than the one that asked.
    pub(crate) fn take_up(&self, ticket: u32) -> Adjustment<'_> {
        Adjustment {
            zone: self,
            outcome: Outcome::Later(ticket),
        }
    }
}

impl Adjustment<'_> {
    /// The ticket of a change that waits, for [`PhysicalZone::take_up`].
    #[cfg(test)]
    pub(crate) fn into_ticket(mut self) -> u32 {
        match std::mem::replace(&mut self.outcome, Outcome::Taken) {
            Outcome::Later(ticket) => ticket,
            other => panic!("the change does not wait: {other:?}"),
        }
    }
}

impl Future for Adjustment<'_> {
    /// # Errors
    /// [`VdoError::Inconsistent`] when the count can not change so (the volume is read-only then),
    /// [`VdoError::ReadOnly`], or [`VdoError::ShuttingDown`].
    type Output = Result<(), VdoError>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        match std::mem::replace(&mut self.outcome, Outcome::Taken) {
            Outcome::Now(result) => Poll::Ready(result),
            Outcome::Taken => panic!("an adjustment was polled after its result was taken"),
            Outcome::Later(ticket) => {
                let task = self.zone.scheduler.current();
                match self
                    .zone
                    .with(|state| state.core.tickets.poll(ticket, task))
                {
                    Some(result) => Poll::Ready(result),
                    None => {
                        self.outcome = Outcome::Later(ticket);
                        Poll::Pending
                    }
                }
            }
        }
    }
}

impl Drop for Adjustment<'_> {
    fn drop(&mut self) {
        if let Outcome::Later(ticket) = self.outcome {
            self.zone.with(|state| state.core.tickets.abandon(ticket));
        }
    }
}
