//! Scrubbing: bringing the counters of slabs up to date from their journals, while the zone is at work.
//!
//! After a crash the recovery journal was replayed into slab journals, and counters on disk lack what those say. Such a slab is
//! *unrecovered* ([`SlabRecovery`]): changes of its counts go into its journal only, none of its blocks is allocated, and
//! nothing is deduplicated against it. Slabs are scrubbed one after the other; only what a zone cannot begin without is
//! scrubbed before it is at work ([`ScrubOrder`]). A slab whose journal fills is next.
//!
//! A slab that was shut down is *unread*: its turn comes in the same order, with the same rules until then, but its counters are
//! only read. With the first change it is a slab like any other that is to be scrubbed.
//!
//! 1. The tail block is written, and the summary told. From here on changes of the slab's counts wait.
//! 2. Counters and journal are read and put together ([`Scrub`]).
//! 3. The device is flushed, and the counters that changed are written.
//! 4. The summary says that the slab is clean, behind a flush. Its journal is empty, and it is like any other.
//!
//! A crash at any moment leaves a dirty slab with all its entries, and counters that say up to which entry they are right. A
//! shutdown waits until all slabs are scrubbed, except for unread ones, which are left as they are.

use std::collections::VecDeque;
use std::rc::Rc;

use super::slab::{Slab, SlabRecovery};
use super::state::{Core, DepotState};
use super::zone::PhysicalZone;
use crate::buffer::Buffer;
use crate::error::VdoError;
use crate::format::Block;
use crate::recovery::order::{ScrubOrder, SlabGlance};
use crate::recovery::scrub::Scrub;
use crate::recovery::slab_replay::JournalEnd;
use crate::runtime::base::IoClass;
use crate::runtime::task::{Scheduler, WaitList};
use crate::seam::Nanos;
use crate::types::{BLOCK_SIZE, SlabNumber};

/// Blocks read or written at once, at least.
pub(super) const STRIDE: usize = 64;

/// How long nothing is said of progress.
const QUIET: Nanos = Nanos(3_000_000_000);

/// The slabs of a zone that are to be scrubbed, in order.
pub(super) struct Scrubber {
    order: VecDeque<u32>,
    /// Slabs not scrubbed, that which is being scrubbed among them.
    left: u32,
    changed: Rc<WaitList>,
}

impl Scrubber {
    pub(super) fn new(scheduler: &Rc<Scheduler>) -> Scrubber {
        Scrubber {
            order: VecDeque::new(),
            left: 0,
            changed: Rc::new(WaitList::new(scheduler)),
        }
    }

    /// Has these slabs scrubbed, in this order, and no others.
    pub(super) fn begin(&mut self, order: impl Iterator<Item = u32>) {
        self.order = order.collect();
        self.left = self.order.len() as u32;
    }

    /// Has this slab scrubbed next: changes of its counts wait for it.
    pub(super) fn hurry(&mut self, local: u32) {
        if let Some(at) = self.order.iter().position(|&other| other == local)
            && at > 0
        {
            self.order.remove(at);
            self.order.push_front(local);
        }
    }

    /// Something may have happened that scrubbing, or its end, waits for.
    #[inline]
    pub(super) fn wake(&self) {
        self.changed.wake_all();
    }
}

impl PhysicalZone {
    /// Finds the order in which unrecovered slabs are scrubbed, now that all are loaded, and scrubs those the zone cannot do
    /// without.
    pub(super) async fn begin_scrubbing(&self) -> Result<(), VdoError> {
        let config = self.geometry().slabs.config;
        let (all, first) = self.with(|state| {
            let glance = |slab: &Slab| SlabGlance {
                number: slab.number,
                entry: state.core.summary.entry(slab.number),
                journal_length: slab.journal.length(),
            };
            let glances = state.slabs.iter().map(glance);
            let order = ScrubOrder::new(glances, &config, self.limits.read_first);
            let zones = u32::from(self.geometry().zones);
            let local = |slab: SlabNumber| slab.get() / zones;
            let first = order.first.len();
            state.core.scrubber.begin(order.all().map(local));
            (state.core.scrubber.left, first)
        });
        if all == 0 {
            return Ok(());
        }
        self.services().slabs_to_scrub(all);
        let mut tools = self.tools()?;
        for _ in 0..first {
            match self.scrub_next(tools).await? {
                Some(left) => tools = left,
                None => break,
            }
        }
        Ok(())
    }

    /// Scrubs all slabs that are left, while the zone is at work.
    pub async fn scrub(self: Rc<Self>) {
        let all = self.with(|state| state.core.scrubber.left);
        if all == 0 {
            return;
        }
        let mut spoke = self.scheduler().now();
        let result = async {
            let mut tools = self.tools()?;
            while let Some(left) = self.scrub_next(tools).await? {
                tools = left;
                let now = self.scheduler().now();
                if now.0.saturating_sub(spoke.0) >= QUIET.0 {
                    spoke = now;
                    let left = self.with(|state| state.core.scrubber.left);
                    let zone = self.geometry().zone;
                    log::info!("zone {zone}: {} of {all} slabs scrubbed", all - left);
                }
            }
            Ok(())
        };
        let result: Result<(), VdoError> = result.await;
        self.with(|state| {
            if let Err(error) = result {
                state.core.fail(error);
            }
            state.core.scrubber.wake();
        });
    }

    /// Has no slab read that need not be.
    pub(super) fn leave_unread(&self) {
        self.with(|state| {
            let (slabs, scrubber) = (&state.slabs, &mut state.core.scrubber);
            let before = scrubber.order.len();
            scrubber
                .order
                .retain(|&local| !slabs[local as usize].is_untouched());
            scrubber.left -= (before - scrubber.order.len()) as u32;
        });
    }

    /// Waits until every slab is scrubbed, or none will be any more.
    pub(super) async fn scrubbed(&self) {
        self.until(|state| state.core.scrubber.left == 0).await;
    }

    /// Waits for something, or for the volume to be read-only.
    async fn until(&self, condition: impl Fn(&DepotState) -> bool) {
        let changed = self.with(|state| Rc::clone(&state.core.scrubber.changed));
        let over = || self.with(|state| state.core.is_read_only() || condition(state));
        changed.wait_until(over).await;
    }

    /// The memory to scrub with, a slab at a time.
    fn tools(&self) -> Result<(Scrub, Buffer), VdoError> {
        let config = self.geometry().slabs.config;
        let blocks = STRIDE.max(config.slab_journal_blocks as usize);
        let Some(buffer) = Buffer::new(&self.memory, blocks) else {
            return Err(VdoError::Invalid(
                "the host has no memory to scrub slabs with".into(),
            ));
        };
        Ok((
            Scrub::new(&config, self.geometry().nonce, self.geometry().rebuilt),
            buffer,
        ))
    }

    /// Scrubs the next slab, and gives the memory back; `None` if there is none.
    async fn scrub_next(
        &self,
        (mut scrub, buffer): (Scrub, Buffer),
    ) -> Result<Option<(Scrub, Buffer)>, VdoError> {
        let Some(local) = self.with(|state| state.core.scrubber.order.pop_front()) else {
            return Ok(None);
        };
        let buffer = self.scrub_slab(local, &mut scrub, buffer).await?;
        self.services().slab_scrubbed();
        Ok(Some((scrub, buffer)))
    }

    async fn scrub_slab(
        &self,
        local: u32,
        scrub: &mut Scrub,
        mut buffer: Buffer,
    ) -> Result<Buffer, VdoError> {
        let at = local as usize;
        let before = self.with(|state| {
            let (slab, core) = state.slab(local);
            slab.begin_scrub(core)
        });
        if let SlabRecovery::Unread { last_entry } = before {
            buffer = self.load_counts(local, last_entry, buffer).await?;
            self.end_scrub(local);
            return Ok(buffer);
        }
        self.until(|state| state.slabs[at].journal.is_told()).await;
        self.writable()?;

        let (number, entry, end) = self.with(|state| {
            let slab = &state.slabs[at];
            let end = JournalEnd {
                head: slab.journal.head(),
                tail: slab.journal.tail(),
                recovery_point: slab.journal.recovery_point(),
            };
            (slab.number, state.core.summary.entry(slab.number), end)
        });
        scrub.begin(number, entry, end)?;
        let counters = self.geometry().slabs.reference_blocks(number).blocks as usize;
        if entry.load_counts {
            for first in (0..counters).step_by(STRIDE) {
                let blocks = STRIDE.min(counters - first);
                let pbn = self.reference_block(local, first as u32);
                buffer = self.read(pbn, buffer, blocks).await?;
                scrub.take_counters(first, &blocks_of(&buffer)[..blocks])?;
            }
        }
        let journal = self.geometry().slabs.journal_blocks(number);
        let blocks = journal.blocks as usize;
        buffer = self.read(journal.start, buffer, blocks).await?;
        while let Some(sequence) = scrub.wants() {
            let place = (sequence.get() % journal.blocks) as usize;
            let block = &blocks_of(&buffer)[place];
            scrub.take_journal_block(block)?;
        }
        let result = scrub.finish()?;
        if result.torn > 0 {
            let torn = result.torn;
            log::warn!("slab {number}: {torn} blocks of its counters were torn");
        }
        buffer = self.write_counters(local, scrub, buffer).await?;
        self.with(|state| {
            let (slab, core) = state.slab(local);
            let mut block = [0; BLOCK_SIZE];
            for index in 0..counters {
                scrub.pack(index, &mut block);
                slab.counts.load(index as u32, &block);
            }
            slab.mark_clean(core);
        });
        self.until(|state| state.slabs[at].is_quiet()).await;
        self.writable()?;
        self.end_scrub(local);
        Ok(buffer)
    }

    fn end_scrub(&self, local: u32) {
        self.with(|state| {
            let (slab, core) = state.slab(local);
            slab.end_scrub(core);
            core.scrubber.left -= 1;
            core.scrubber.wake();
        });
    }

    /// Writes the counters that changed, when the journal that explains them is durable.
    async fn write_counters(
        &self,
        local: u32,
        scrub: &Scrub,
        mut buffer: Buffer,
    ) -> Result<Buffer, VdoError> {
        let mut changed = scrub.changed().peekable();
        if changed.peek().is_some() {
            self.flush().await?;
        }
        while let Some(first) = changed.next() {
            let mut blocks = 1;
            while blocks < STRIDE && changed.next_if_eq(&(first + blocks)).is_some() {
                blocks += 1;
            }
            let to = buffer.as_chunks_mut::<BLOCK_SIZE>().0;
            for (index, block) in (first..first + blocks).zip(to) {
                scrub.pack(index, block);
            }
            self.writable()?;
            let pbn = self.reference_block(local, first as u32);
            let class = IoClass::Metadata;
            let result;
            (buffer, result) = self.base().write(class, pbn, buffer, blocks, false).await;
            result?;
        }
        Ok(buffer)
    }

    fn writable(&self) -> Result<(), VdoError> {
        match self.with(|state| state.core.is_read_only()) {
            true => Err(VdoError::ReadOnly),
            false => Ok(()),
        }
    }
}

fn blocks_of(buffer: &Buffer) -> &[Block] {
    buffer.as_chunks::<BLOCK_SIZE>().0
}

impl Slab {
    /// From now on changes of counts wait. What was journaled so far is written, and the summary told. Says what the slab was.
    fn begin_scrub(&mut self, core: &mut Core) -> SlabRecovery {
        let before = std::mem::replace(&mut self.recovery, SlabRecovery::Scrubbing);
        self.commit_tail(core);
        before
    }

    /// The counters on disk and in memory are right, and the summary says so.
    fn end_scrub(&mut self, core: &mut Core) {
        self.recovery = SlabRecovery::Recovered;
        self.journal.forget();
        core.allocator
            .add(self.local, self.counts.free(), self.journal.is_blank());
        self.add_entries(core);
    }
}
