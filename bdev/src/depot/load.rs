//! Taking up what a clean shutdown left, and leaving it.
//!
//! A slab whose counters were never written is all free and costs no I/O beyond the summary. Of the
//! others the last block of the journal is read, to go on after it. Their counters are brought into memory one slab after the
//! other ([`super::scrubbing`]), most of them while the zone is at work: so how long a start takes hardly depends on the
//! number of slabs. If the summary says that a slab is clean, the counters on disk say everything, and are only read. If not,
//! because there was a crash, or dm-vdo wrote its journal last, the slab is scrubbed.
//!
//! Nothing of this has a checksum. But summary, journal and counters of a slab say some things twice, so most of what can
//! befall a block of them is found when a slab is loaded: then the volume turns read-only.

use super::scrubbing::STRIDE;
use super::slab::{Slab, SlabRecovery};
use super::state::{Core, DepotPhase, DepotState};
use super::summary::Summary;
use super::zone::{DepotGeometry, PhysicalZone};
use crate::buffer::Buffer;
use crate::error::VdoError;
use crate::format::slab_journal::SlabJournalHeader;
use crate::format::slab_summary::{ENTRIES_PER_BLOCK, SlabSummaryEntry};
use crate::recovery::slab_replay::{
    JournalEnd, journal_end, last_block, require_unused, require_unused_hint,
};
use crate::runtime::base::IoClass;
use crate::runtime::task::join_all;
use crate::types::{BLOCK_SIZE, JournalPoint, Pbn, SequenceNumber};

/// Journals of which the last block is read at once.
const LANES: u32 = 64;

impl PhysicalZone {
    /// Reads what is needed of every slab and gets the zone to work. The volume was shut down cleanly,
    /// is new, or was recovered as far as that its recovery journal is empty, and
    /// [`combine_summaries`](super::summary::combine_summaries) has been run. [`PhysicalZone::scrub`] must run from then on.
    ///
    /// # Errors
    /// When the base device fails, or what is read contradicts itself.
    pub async fn load(&self) -> Result<(), VdoError> {
        let DepotGeometry {
            slabs,
            summary,
            zone,
            ..
        } = self.geometry();
        let summary = Summary::read(&slabs, (summary, zone), self.base(), &self.memory).await?;
        let count = self.with(|state| {
            state.core.summary = summary;
            state.slabs.len() as u32
        });
        self.look_at_unused().await?;
        let lanes = (0..LANES.min(count)).map(|lane| self.load_journals(lane, count));
        join_all(lanes)
            .await
            .into_iter()
            .collect::<Result<(), _>>()?;
        self.with(|state| {
            let core = &mut state.core;
            for slab in state.slabs.iter().filter(|slab| slab.is_recovered()) {
                core.allocator
                    .add(slab.local, slab.counts.free(), slab.journal.is_blank());
            }
        });
        self.begin_scrubbing().await?;
        self.with(|state| state.core.phase = DepotPhase::Normal);
        Ok(())
    }

    /// Sees where the journals of one slab in so many end.
    async fn load_journals(&self, lane: u32, count: u32) -> Result<(), VdoError> {
        let mut buffer = self.memory_for(1)?;
        for local in (lane..count).step_by(LANES as usize) {
            buffer = self.load_journal(local, buffer).await?;
        }
        Ok(())
    }

    fn memory_for(&self, blocks: usize) -> Result<Buffer, VdoError> {
        let none = || VdoError::Invalid("the host has no memory to read slabs with".into());
        Buffer::new(&self.memory, blocks).ok_or_else(none)
    }

    pub(super) async fn read(
        &self,
        pbn: Pbn,
        buffer: Buffer,
        blocks: usize,
    ) -> Result<Buffer, VdoError> {
        let (buffer, result) = self
            .base()
            .read(IoClass::Metadata, pbn, buffer, blocks)
            .await;
        result.map(|()| buffer)
    }

    async fn load_journal(&self, local: u32, buffer: Buffer) -> Result<Buffer, VdoError> {
        let entry = self.summary_entry(local);
        let slabs = self.geometry().slabs;
        let (number, nonce) = (self.slab_number(local), self.geometry().nonce);
        let Some(place) = last_block(number, entry, &slabs.config)? else {
            require_unused_hint(number, entry, &slabs.config, slabs.slab_shift())?;
            return Ok(buffer);
        };
        let last = self.journal_block(local, SequenceNumber(place));
        let buffer = self.read(last, buffer, 1).await?;
        let block = buffer.first_block();
        let end = journal_end(number, entry, &slabs.config, nonce, block)?;
        let header = SlabJournalHeader::decode(block);
        let last_entry = match header {
            Ok(header) if end != JournalEnd::BLANK => JournalPoint {
                sequence: header.sequence,
                entry: header.entry_count.saturating_sub(1),
            },
            _ => JournalPoint::default(),
        };
        self.with(|state| {
            let slab = &mut state.slabs[local as usize];
            slab.journal.take_up(end);
            slab.recovery = match entry.is_dirty {
                true => SlabRecovery::Unrecovered,
                false => SlabRecovery::Unread { last_entry },
            };
        });
        Ok(buffer)
    }

    fn summary_entry(&self, local: u32) -> SlabSummaryEntry {
        self.with(|state| state.core.summary.entry(state.slabs[local as usize].number))
    }

    fn inconsistent(&self, local: u32, what: impl std::fmt::Display) -> VdoError {
        VdoError::Inconsistent(format!("slab {}: {what}", self.slab_number(local)))
    }

    /// Looks whether slabs that are as new, as the summary says, are: at the first of each block of the summary, for that is
    /// used next.
    async fn look_at_unused(&self) -> Result<(), VdoError> {
        let first = self.with(|state| {
            let unused = state.slabs.iter();
            let mut unused: Vec<_> = unused
                .filter(|slab| state.core.summary.entry(slab.number).is_unused())
                .map(|slab| (slab.number.index() / ENTRIES_PER_BLOCK, slab.local))
                .collect();
            unused.dedup_by_key(|(block, _)| *block);
            unused
        });
        let config = self.geometry().slabs.config;
        let mut buffer = self.memory_for(1)?;
        for (_, local) in first {
            let pbn = self.journal_block(local, SequenceNumber(1));
            buffer = self.read(pbn, buffer, 1).await?;
            let (slab, block) = (self.slab_number(local), buffer.first_block());
            let nonce = self.geometry().nonce;
            require_unused(slab, &config, nonce, block, SequenceNumber(u64::MAX))?;
        }
        Ok(())
    }

    /// Reads the counters of a slab that was shut down, many blocks at once, and sees whether they agree with what else is known of it: the last
    /// entry of its journal changed one of them, and the block it is in was written after that.
    pub(super) async fn load_counts(
        &self,
        local: u32,
        last_entry: JournalPoint,
        mut buffer: Buffer,
    ) -> Result<Buffer, VdoError> {
        let entry = self.summary_entry(local);
        if !entry.load_counts {
            let what =
                "the slab summary says its journal was used, and its counters were never written";
            return Err(self.inconsistent(local, what));
        }
        let count = self.with(|state| state.slabs[local as usize].counts.block_count());
        let mut newest = JournalPoint::default();
        let mut blank = None;
        for first in (0..count).step_by(STRIDE) {
            let blocks = STRIDE.min((count - first) as usize);
            buffer = self
                .read(self.reference_block(local, first), buffer, blocks)
                .await?;
            let (packed, _) = buffer.as_chunks::<BLOCK_SIZE>();
            for (index, block) in (first..).zip(&packed[..blocks]) {
                let load =
                    |state: &mut DepotState| state.slabs[local as usize].counts.load(index, block);
                let points = self.with(load);
                if points.contains(&JournalPoint::default()) {
                    blank = Some(index);
                }
                newest = points.into_iter().fold(newest, JournalPoint::max);
            }
        }
        if newest != last_entry {
            let last = self.journal_block(local, last_entry.sequence);
            let (known, written) = (newest, last_entry);
            let what = format_args!(
                "its counters know of entry {} of number {} of its journal as the last, and its journal ends with entry {} of \
                 number {} (block {last}): a block of one of them is an old one, or damaged",
                known.entry, known.sequence, written.entry, written.sequence
            );
            return Err(self.inconsistent(local, what));
        }
        if let Some(index) = blank
            && newest != JournalPoint::default()
            && !self.geometry().rebuilt
        {
            // The first entry a journal ever gets has all counters written.
            let pbn = self.reference_block(local, index);
            let what = format_args!("block {pbn}, of its counters, was never written, or is lost");
            return Err(self.inconsistent(local, what));
        }
        let free = self.with(|state| state.slabs[local as usize].counts.free());
        let hint = self.with(|state| state.core.summary.hint(free));
        if entry.fullness_hint.abs_diff(hint) > 1 {
            let pbn = self.reference_block(local, 0);
            let what = format_args!(
                "its counters, block {pbn} and those after it, say that {free} blocks are free, and the slab summary \
                 (hint {}, not {hint}) says otherwise",
                entry.fullness_hint
            );
            return Err(self.inconsistent(local, what));
        }
        Ok(buffer)
    }

    /// Writes all dirty counters and says so in the summary.
    async fn write_everything(&self) -> Result<(), VdoError> {
        self.for_each_slab(|slab, core| slab.write_dirty(core));
        self.settle().await;
        self.for_each_slab(|slab, core| {
            if slab.is_clean_unbeknown(core) && !core.is_read_only() {
                slab.mark_clean(core);
            }
        });
        self.settle().await;
        if self.with(|state| state.core.is_read_only()) {
            Err(VdoError::ReadOnly)
        } else {
            Ok(())
        }
    }

    fn for_each_slab(&self, mut step: impl FnMut(&mut Slab, &mut Core)) {
        self.with(|state| {
            for slab in &mut state.slabs {
                step(slab, &mut state.core);
            }
        });
    }

    /// Waits until nothing is under way.
    async fn settle(&self) {
        let idle = self.with(|state| state.core.work.idle());
        idle.wait_until(|| self.with(|state| state.core.work.is_idle()))
            .await;
    }

    /// Brings the zone to rest. The caller has seen to it that no request is under way: no block is
    /// locked and no change will be asked for.
    ///
    /// With `save` everything is written out: first the tail blocks of the slab journals, then the counters,
    /// then a summary that says that all slabs are clean, and the device is flushed. Without it, only what
    /// is under way is waited for. In a read-only volume nothing is written. The zone is at rest in any
    /// case; an error says that what is on disk is not all there is.
    ///
    /// # Errors
    /// [`VdoError::ReadOnly`], also when the volume becomes read-only meanwhile.
    pub async fn drain(&self, save: bool) -> Result<(), VdoError> {
        if self.with(|state| state.core.is_normal()) {
            self.leave_unread();
            self.scrubbed().await;
            self.end_discards().await;
        }
        // Changes that wait make progress only while the zone is at work.
        while self.with(DepotState::has_waiters) {
            self.settle().await;
            self.for_each_slab(|slab, core| slab.add_entries(core));
            self.with(|state| {
                if state.has_waiters() && state.core.work.is_idle() {
                    let what = "changes of reference counts wait for nothing".into();
                    state.core.fail(VdoError::Inconsistent(what));
                }
            });
        }
        let drains = self.with(|state| {
            if state.core.is_read_only() {
                state.fail_waiters();
            }
            state.core.allocator.clear();
            let drains = match state.core.phase {
                DepotPhase::Normal => true,
                DepotPhase::Suspended { saved } => save && !saved,
                DepotPhase::New | DepotPhase::Draining { .. } => false,
            };
            if drains {
                state.core.phase = DepotPhase::Draining { save };
            }
            drains
        });
        let mut result = Ok(());
        if save && drains {
            self.for_each_slab(|slab, core| slab.commit_tail(core));
            self.settle().await;
            result = self.write_everything().await;
            if result.is_ok() {
                result = self.flush().await;
            }
        }
        self.settle().await;
        self.with(|state| {
            if let Err(error) = &result {
                state.core.fail(error.clone());
            }
            if state.core.phase == (DepotPhase::Draining { save }) {
                state.core.phase = DepotPhase::Suspended {
                    saved: save && result.is_ok(),
                };
            }
        });
        result
    }

    /// Gets a zone at rest to work again. [`PhysicalZone::scrub`] must run from then on.
    ///
    /// # Errors
    /// When the volume is read-only or the zone is not at rest.
    #[allow(dead_code, reason = "a running volume cannot be suspended yet")]
    pub fn resume(&self) -> Result<(), VdoError> {
        self.with(|state| {
            if state.core.is_read_only() {
                return Err(VdoError::ReadOnly);
            }
            let DepotPhase::Suspended { saved } = state.core.phase else {
                return Err(VdoError::Invalid(
                    "a physical zone is at work already".into(),
                ));
            };
            state.core.phase = DepotPhase::Normal;
            state.core.discards.resume();
            let unread = state.slabs.iter().filter(|slab| !slab.is_recovered());
            state.core.scrubber.begin(unread.map(|slab| slab.local));
            for slab in state.slabs.iter_mut().filter(|slab| slab.is_recovered()) {
                if saved {
                    slab.journal.reopen();
                }
                let blank = slab.journal.is_blank();
                state
                    .core
                    .allocator
                    .queue(slab.local, slab.counts.free(), blank);
            }
            Ok(())
        })
    }
}
