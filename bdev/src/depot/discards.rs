//! Freed blocks, discarded on the base device in the background: a thin device, or flash, has a use for their room.
//!
//! 1. A block is *freed* when its last reference goes or a provisional one is given back, and gets a *fresh* mark
//!    ([`Discards::freed`]). The recovery-journal entry that took the reference away is durable by then, with all before it,
//!    so no recovery brings back a mapping to the block. But the block map in memory may not have heard of it yet.
//! 2. A while later, when neighbours have been freed too, fresh marks begin to *ripen* ([`PhysicalZone::ripen`]): the zone waits until
//!    all requests that are under way have ended. They have changed the block map then, or the volume is read-only.
//! 3. A few tasks take runs of blocks with ripe marks that are free still ([`PhysicalZone::discard_ripe`]), and forget the
//!    marks. From then until the device has answered, each block of a run has a provisional reference that belongs to no lock. So
//!    nobody allocates it, and nobody shares it ([`Discards::is_under_way`]): what it holds is about to go. Whoever finds no
//!    other block waits ([`ZoneServices::discard_began`](crate::runtime::services::ZoneServices::discard_began)).
//! 4. The device has answered: the blocks are free. A write to one of them begins after that, so the device does
//!    them in this order, though neither is durable yet. If the discard is lost, nothing is.
//!
//! Marks are in memory only, two bits for each block of a slab in which one was freed. A shutdown goes on with discards for a
//! moment. What has a mark then, or when the volume turns read-only, when a discard fails, or when the user wants no more, is not
//! discarded until it is used and freed again.

use std::collections::VecDeque;
use std::rc::Rc;

use super::reference_counts::ReferenceStatus;
use super::state::DepotState;
use super::zone::PhysicalZone;
use crate::error::VdoError;
use crate::runtime::memory;
use crate::runtime::task::{Scheduler, WaitList};
use crate::seam::Nanos;
use crate::stats::FreedDiscardStatistics;
use crate::types::Pbn;

/// Discards of a zone under way at once.
pub(super) const DISCARDERS: usize = 4;

/// Most blocks that are discarded at once.
const LONGEST_RUN: u32 = 4096;

/// For how long a shutdown goes on with discards.
const SHUTDOWN_PATIENCE: Nanos = Nanos(1_000_000_000);

/// Free blocks of a slab, side by side, that are being discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    slab: u32,
    offset: u32,
    blocks: u32,
}

impl Run {
    fn offsets(self) -> std::ops::Range<u32> {
        self.offset..self.offset + self.blocks
    }
}

/// Marks on blocks of one slab.
#[derive(Debug, Default)]
struct Marks {
    /// A bit for each block; empty until one is marked.
    words: Box<[u64]>,
    marked: u32,
    /// Where to look for the next.
    at: u32,
}

impl Marks {
    /// Marks one of `blocks` blocks. Without memory for that it stays as it is on the device.
    fn set(&mut self, offset: u32, blocks: u32) {
        if self.words.is_empty() {
            let words = blocks.div_ceil(64) as usize;
            let Ok(words) = memory::filled(0, words, "marks of freed blocks") else {
                return;
            };
            self.words = words.into_boxed_slice();
        }
        let word = &mut self.words[offset as usize / 64];
        let bit = 1 << (offset % 64);
        self.marked += u32::from(*word & bit == 0);
        *word |= bit;
    }

    /// Takes a mark away, if it is there.
    fn clear(&mut self, offset: u32) {
        if let Some(word) = self.words.get_mut(offset as usize / 64) {
            let bit = 1 << (offset % 64);
            self.marked -= u32::from(*word & bit != 0);
            *word &= !bit;
        }
    }

    /// The next block that is marked.
    fn next(&self) -> Option<u32> {
        let mut index = self.at as usize / 64;
        let mut word = self.words.get(index)? & (u64::MAX << (self.at % 64));
        while word == 0 {
            index += 1;
            word = *self.words.get(index)?;
        }
        Some(index as u32 * 64 + word.trailing_zeros())
    }

    /// Takes the marks of a run of blocks that are free; `None` if there is no more.
    fn take_run(&mut self, is_free: impl Fn(u32) -> bool) -> Option<(u32, u32)> {
        let mut run: Option<(u32, u32)> = None;
        while let Some(offset) = self.next() {
            let (start, blocks) = run.unwrap_or((offset, 0));
            if offset != start + blocks || blocks == LONGEST_RUN {
                break;
            }
            if is_free(offset) {
                run = Some((start, blocks + 1));
            }
            self.clear(offset);
            self.at = offset + 1;
            if !is_free(offset) && run.is_some() {
                break;
            }
        }
        run
    }
}

/// The freed blocks of a zone.
#[derive(Debug)]
pub(super) struct Discards {
    scheduler: Rc<Scheduler>,
    /// How long marks are fresh.
    delay: Nanos,
    slab_blocks: u32,
    /// By slab.
    fresh: Vec<Marks>,
    ripe: Vec<Marks>,
    /// Slabs that have a fresh mark ...
    freed_in: VecDeque<u32>,
    /// ... and when those are to ripen.
    due: Option<Nanos>,
    /// Whether it is time.
    is_due: bool,
    /// Slabs that have a mark that is ripe, or will be.
    ripening: VecDeque<u32>,
    /// Of those that are ripe, those left.
    passing: VecDeque<u32>,
    /// Whether there are marks that ripen, or ripe ones.
    is_busy: bool,
    under_way: Vec<Run>,
    /// Since when the zone is coming to rest.
    ending_since: Option<Nanos>,
    due_came: Rc<WaitList>,
    wanted: Rc<WaitList>,
    ended: Rc<WaitList>,
    statistics: FreedDiscardStatistics,
}

impl Discards {
    /// Of so many slabs with so many data blocks each. Marks begin to ripen `delay` after the first was made.
    pub(super) fn new(
        slabs: usize,
        slab_blocks: u32,
        delay: Nanos,
        scheduler: &Rc<Scheduler>,
    ) -> Discards {
        let marks = || (0..slabs).map(|_| Marks::default()).collect();
        Discards {
            scheduler: Rc::clone(scheduler),
            delay,
            slab_blocks,
            fresh: marks(),
            ripe: marks(),
            freed_in: VecDeque::with_capacity(slabs),
            due: None,
            is_due: false,
            ripening: VecDeque::with_capacity(slabs),
            passing: VecDeque::with_capacity(slabs),
            is_busy: false,
            under_way: Vec::with_capacity(DISCARDERS),
            ending_since: None,
            due_came: Rc::new(WaitList::new(scheduler)),
            wanted: Rc::new(WaitList::new(scheduler)),
            ended: Rc::new(WaitList::new(scheduler)),
            statistics: FreedDiscardStatistics::default(),
        }
    }

    /// There are more slabs, `slabs` in all.
    pub(super) fn extend(&mut self, slabs: usize) {
        self.fresh.resize_with(slabs, Marks::default);
        self.ripe.resize_with(slabs, Marks::default);
    }

    /// Bytes of memory it holds.
    pub(super) fn memory_held(&self) -> usize {
        let marks = |marks: &Marks| size_of::<Marks>() + size_of_val(&*marks.words);
        self.fresh.iter().chain(&self.ripe).map(marks).sum()
    }

    /// A block is free now, and was not.
    pub(super) fn freed(&mut self, slab: u32, offset: u32) {
        // It may have been used since it was freed before.
        self.ripe[slab as usize].clear(offset);
        let fresh = &mut self.fresh[slab as usize];
        let was_none = fresh.marked == 0;
        fresh.set(offset, self.slab_blocks);
        if was_none && fresh.marked > 0 {
            self.freed_in.push_back(slab);
            let due = Nanos(self.scheduler.now().0 + self.delay.0);
            self.due.get_or_insert(due);
        }
    }

    fn tell_due(&mut self) {
        self.due = None;
        self.is_due = true;
        self.due_came.wake_all();
    }

    /// Fresh marks are fresh no more.
    fn begin_to_ripen(&mut self) {
        self.due = None;
        self.is_due = false;
        self.is_busy = true;
        for slab in self.freed_in.drain(..) {
            let place = slab as usize;
            debug_assert_eq!(self.ripe[place].marked, 0, "all that was ripe is gone");
            std::mem::swap(&mut self.fresh[place], &mut self.ripe[place]);
            self.ripe[place].at = 0;
            self.ripening.push_back(slab);
        }
    }

    /// Takes a run of blocks that have ripe marks and are free, out of the slab whose turn it is; `None` if that has no more, and
    /// the next one's turn has come.
    fn take_run(&mut self, slab: u32, is_free: impl Fn(u32) -> bool) -> Option<Run> {
        if let Some((offset, blocks)) = self.ripe[slab as usize].take_run(is_free) {
            return Some(Run {
                slab,
                offset,
                blocks,
            });
        }
        self.passing.pop_front();
        None
    }

    /// Whether a block is being discarded.
    #[inline]
    pub(super) fn is_under_way(&self, slab: u32, offset: u32) -> bool {
        let mut runs = self.under_way.iter();
        runs.any(|run| run.slab == slab && run.offsets().contains(&offset))
    }

    /// How many blocks are being discarded: they have provisional references, and yet are free.
    pub(super) fn blocks_under_way(&self) -> u64 {
        let runs = self.under_way.iter();
        runs.map(|run| u64::from(run.blocks)).sum()
    }

    fn is_over(&self) -> bool {
        let now = self.scheduler.now();
        let late = |since: Nanos| now.0 > since.0 + SHUTDOWN_PATIENCE.0;
        self.ending_since.is_some_and(late)
    }

    /// Forgets all marks.
    fn forget(&mut self) {
        self.due = None;
        self.passing.clear();
        for slab in self.freed_in.drain(..).chain(self.ripening.drain(..)) {
            self.fresh[slab as usize] = Marks::default();
            self.ripe[slab as usize] = Marks::default();
        }
    }

    /// Whether all ripe marks are gone, and what was taken has been discarded.
    fn is_pass_over(&self) -> bool {
        self.under_way.is_empty() && self.passing.is_empty()
    }

    fn tell_if_over(&self) {
        if self.is_pass_over() {
            self.ended.wake_all();
        }
    }

    fn is_at_rest(&self) -> bool {
        !self.is_busy && self.freed_in.is_empty()
    }

    /// The zone is at work again.
    pub(super) fn resume(&mut self) {
        self.ending_since = None;
    }

    /// What was done, and how many blocks wait.
    pub(super) fn statistics(&self) -> FreedDiscardStatistics {
        let marks = self.fresh.iter().chain(&self.ripe);
        let marked = marks.map(|marks| u64::from(marks.marked));
        FreedDiscardStatistics {
            blocks_waiting: marked.sum::<u64>() + self.blocks_under_way(),
            ..self.statistics
        }
    }
}

impl DepotState {
    /// Takes free blocks that are to be discarded, and sees to it that nobody else does.
    fn take_freed_run(&mut self) -> Option<Run> {
        let core = &mut self.core;
        if core.is_read_only() || !core.discards_freed() || core.discards.is_over() {
            core.discards.forget();
        }
        while let Some(&local) = core.discards.passing.front() {
            let slab = &mut self.slabs[local as usize];
            let is_free = |offset| slab.counts.status(offset) == ReferenceStatus::Free;
            let Some(run) = core.discards.take_run(local, is_free) else {
                continue;
            };
            for offset in run.offsets() {
                slab.counts.make_provisional(offset);
                slab.free_changed(core, false);
            }
            core.discards.under_way.push(run);
            core.discard_began();
            return Some(run);
        }
        core.discards.tell_if_over();
        None
    }

    /// The device has answered.
    fn discarded(&mut self, run: Run, result: &Result<(), VdoError>) {
        let (slab, core) = self.slab(run.slab);
        for offset in run.offsets() {
            if slab.counts.release_provisional(offset) {
                slab.free_changed(core, true);
            } else {
                let (slab, count) = (slab.number, slab.counts.count(offset));
                core.fail(VdoError::Inconsistent(format!(
                    "slab {slab}: its block {offset} was discarded, and counts {count} now"
                )));
            }
        }
        let discards = &mut core.discards;
        discards.under_way.retain(|other| *other != run);
        match result {
            Ok(()) => {
                discards.statistics.discards += 1;
                discards.statistics.blocks_discarded += u64::from(run.blocks);
            }
            Err(_) => discards.statistics.failed_discards += 1,
        }
        discards.tell_if_over();
        core.discard_ended(result);
    }
}

impl PhysicalZone {
    /// When fresh marks are to ripen, if there are any.
    #[inline]
    pub fn next_discards(&self) -> Option<Nanos> {
        self.with(|state| state.core.discards.due)
    }

    /// Has fresh marks ripen, if it is time; says whether it is.
    #[inline]
    pub fn begin_discards(&self, now: Nanos) -> bool {
        self.with(|state| {
            let is_time = state.core.discards.due.is_some_and(|due| due <= now);
            if is_time {
                state.core.discards.tell_due();
            }
            is_time
        })
    }

    /// Waits until marks are to ripen. They are ripe when all requests that are under way now, on all zone threads, have ended: then
    /// [`PhysicalZone::discard_ripe`] may follow, and must.
    pub async fn ripen(&self) {
        let due_came = self.with(|state| Rc::clone(&state.core.discards.due_came));
        let is_due = || self.with(|state| state.core.discards.is_due);
        due_came.wait_until(is_due).await;
        self.with(|state| state.core.discards.begin_to_ripen());
    }

    /// Has all blocks discarded that have ripe marks and are free still, and waits for the last answer.
    pub async fn discard_ripe(&self) {
        let ended = self.with(|state| {
            let discards = &mut state.core.discards;
            discards.passing.extend(&discards.ripening);
            discards.wanted.wake_all();
            Rc::clone(&discards.ended)
        });
        let is_over = || self.with(|state| state.core.discards.is_pass_over());
        ended.wait_until(is_over).await;
        self.with(|state| {
            state.core.discards.ripening.clear();
            state.core.discards.is_busy = false;
        });
        ended.wake_all();
    }

    /// Has what was freed discarded at once, for a moment, and waits for the last answer.
    pub(super) async fn end_discards(&self) {
        let ended = self.with(|state| {
            let discards = &mut state.core.discards;
            discards.ending_since = Some(discards.scheduler.now());
            if !discards.is_at_rest() {
                discards.tell_due();
            }
            Rc::clone(&discards.ended)
        });
        let is_at_rest = || self.with(|state| state.core.discards.is_at_rest());
        ended.wait_until(is_at_rest).await;
    }

    fn place_of(&self, run: Run) -> Pbn {
        let slab = self.slab_number(run.slab);
        self.geometry().slabs.pbn(slab, run.offset)
    }
}

/// Discards one run after the other, for ever.
pub(super) async fn serve(zone: Rc<PhysicalZone>) {
    let wanted = zone.with(|state| Rc::clone(&state.core.discards.wanted));
    loop {
        while let Some(run) = zone.with(DepotState::take_freed_run) {
            let place = zone.place_of(run);
            let result = zone.base().discard(place, run.blocks as usize).await;
            zone.with(|state| state.discarded(run, &result));
        }
        wanted.wait().await;
    }
}
