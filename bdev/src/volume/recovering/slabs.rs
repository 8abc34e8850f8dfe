//! Bringing slab journals and the slab summary up to date, on disk.

use super::Obstacle;
use super::map::numbered;
use super::medium::{Medium, STRIDE, blocks_of};
use crate::buffer::Buffer;
use crate::depot::{LastRun, combine_summaries};
use crate::error::VdoError;
use crate::format;
use crate::format::recovery_journal::{JournalOperation, RecoveryJournalEntry};
use crate::format::slab::SlabGeometry;
use crate::format::slab_journal::{SlabJournalEntry, expand_point};
use crate::format::slab_summary::{
    BLOCKS_PER_ZONE, ENTRIES_PER_BLOCK, ENTRY_SIZE, SUMMARY_BLOCKS, SlabSummaryEntry,
};
use crate::recovery::plan::{SlabJournalRange, SlabJournalsReplayed};
use crate::recovery::slab_replay::{
    JournalEnd, Offered, SlabReplay, journal_end, last_block, require_unused, require_unused_hint,
};
use crate::recovery::{Refusal, Ring};
use crate::runtime::task::join_all;
use crate::types::{BLOCK_SIZE, JournalPoint, Mapping, Pbn, SequenceNumber, SlabNumber};
use crate::volume::progress::Work;

/// The slab summary, every zone's copy alike.
pub(super) struct Summary {
    start: Pbn,
    /// One copy.
    copy: Box<[u8]>,
}

impl Summary {
    /// A summary in which every slab there may ever be is as new.
    pub(super) fn blank(volume: &format::Volume) -> Summary {
        let slabs = &volume.layout.slabs;
        let unused = SlabSummaryEntry::unused(slabs.config.data_blocks, slabs.slab_shift());
        let entries = BLOCKS_PER_ZONE as usize * BLOCK_SIZE / ENTRY_SIZE;
        Summary {
            start: volume.layout.slab_summary.start,
            copy: unused.encode().repeat(entries).into_boxed_slice(),
        }
    }

    pub(super) fn entry(&self, slab: SlabNumber) -> SlabSummaryEntry {
        let at = slab.index() * ENTRY_SIZE;
        let bytes = self.copy[at..].first_chunk();
        SlabSummaryEntry::decode(*bytes.expect("there is an entry for every slab"))
    }

    pub(super) fn set(&mut self, slab: SlabNumber, entry: SlabSummaryEntry) {
        let at = slab.index() * ENTRY_SIZE;
        self.copy[at..at + ENTRY_SIZE].copy_from_slice(&entry.encode());
    }

    /// Writes all copies, when everything written before is durable, and makes them so.
    pub(super) async fn save(&self, medium: &Medium) -> Result<(), Obstacle> {
        let blocks = SUMMARY_BLOCKS as usize;
        let mut buffer = medium.buffers(1, blocks)?.remove(0);
        for copy in buffer.chunks_exact_mut(self.copy.len()) {
            copy.copy_from_slice(&self.copy);
        }
        medium.flush().await?;
        medium.write(self.start.get(), buffer, blocks).await?;
        Ok(medium.flush().await?)
    }
}

/// Blocks to be written, a few at a time.
pub(super) struct Writes<'a> {
    medium: &'a Medium,
    free: Vec<Buffer>,
    waiting: Vec<(u64, Buffer)>,
}

impl<'a> Writes<'a> {
    pub(super) fn new(medium: &'a Medium) -> Result<Writes<'a>, Obstacle> {
        Ok(Writes {
            medium,
            free: medium.lanes()?,
            waiting: Vec::new(),
        })
    }

    /// Has a block, which `pack` fills and says the place of, written sooner or later. A place is given once between two
    /// calls of [`Writes::finish`].
    pub(super) async fn push(
        &mut self,
        pack: impl FnOnce(&mut format::Block) -> u64,
    ) -> Result<(), VdoError> {
        if self.free.is_empty() {
            self.finish().await?;
        }
        let Some(mut buffer) = self.free.pop() else {
            return Err(no_buffer());
        };
        let pbn = pack(buffer.first_block_mut());
        self.waiting.push((pbn, buffer));
        Ok(())
    }

    /// Waits until everything is written, not that it is durable.
    pub(super) async fn finish(&mut self) -> Result<(), VdoError> {
        let writes = self.waiting.drain(..);
        let writes: Vec<_> = writes
            .map(|(pbn, buffer)| self.medium.write(pbn, buffer, 1))
            .collect();
        for written in join_all(writes).await {
            self.free.push(written?);
        }
        Ok(())
    }
}

fn no_buffer() -> VdoError {
    VdoError::Inconsistent("no buffer came back".into())
}

/// All slabs of a volume that is recovered.
pub(super) struct Depot {
    slabs: SlabGeometry,
    nonce: u64,
    summary: Summary,
}

impl Depot {
    /// Puts the summary's copies together, as the zones of the last run left them.
    pub(super) async fn load(medium: &Medium, volume: &format::Volume) -> Result<Depot, Obstacle> {
        let layout = &volume.layout;
        let start = layout.slab_summary.start;
        let zones = volume.super_block.slab_depot.zone_count;
        let (base, memory) = (medium.base(), medium.memory());
        let last = LastRun::Crashed;
        combine_summaries(&layout.slabs, start, zones, last, base, memory).await?;
        let blocks = BLOCKS_PER_ZONE as usize;
        let buffer = medium.buffers(1, blocks)?.remove(0);
        let buffer = medium.read(start.get(), buffer, blocks).await?;
        Ok(Depot {
            slabs: layout.slabs,
            nonce: layout.nonce,
            summary: Summary {
                start,
                copy: buffer[..blocks * BLOCK_SIZE].into(),
            },
        })
    }

    fn numbers(&self) -> impl Iterator<Item = SlabNumber> + use<> {
        (0..self.slabs.slab_count).map(SlabNumber)
    }

    fn journal_block(&self, slab: SlabNumber, place: u64) -> u64 {
        self.slabs.journal_blocks(slab).start.get() + place
    }

    /// Where the journals of all slabs end, by number. They cannot know of what the recovery journal does not have, up to `end`;
    /// and what they lack it has from `kept_from` on.
    async fn journal_ends(
        &self,
        medium: &Medium,
        (kept_from, end): (SequenceNumber, JournalPoint),
    ) -> Result<Vec<JournalEnd>, Obstacle> {
        let config = self.slabs.config;
        let mut ends = vec![JournalEnd::BLANK; self.slabs.slab_count as usize];
        let (mut used, mut unused) = (Vec::new(), Vec::new());
        for slab in self.numbers() {
            let entry = self.summary.entry(slab);
            match last_block(slab, entry, &config)? {
                Some(place) => used.push((slab, place)),
                None => unused.push(slab),
            }
            require_unused_hint(slab, entry, &config, self.slabs.slab_shift())?;
        }
        // The first of each block of the summary is used next, so that is where an old summary shows.
        unused.dedup_by_key(|slab| slab.index() / ENTRIES_PER_BLOCK);
        let mut lanes = medium.lanes()?;
        for slab in unused {
            let buffer = lanes.pop().ok_or_else(no_buffer)?;
            let buffer = medium.read(self.journal_block(slab, 1), buffer, 1).await?;
            let block = buffer.first_block();
            require_unused(slab, &config, self.nonce, block, kept_from)?;
            lanes.push(buffer);
        }
        for some in used.chunks(lanes.len()) {
            let reads = some.iter().zip(lanes.drain(..));
            let reads = reads.map(|((slab, place), buffer)| {
                medium.read(self.journal_block(*slab, *place), buffer, 1)
            });
            for (read, (slab, place)) in join_all(reads).await.into_iter().zip(some) {
                let buffer = read?;
                let entry = self.summary.entry(*slab);
                let known = journal_end(*slab, entry, &config, self.nonce, buffer.first_block())?;
                if known.recovery_point >= expand_point(end, true) {
                    let JournalPoint { sequence, entry } = known.recovery_point;
                    let what = format!(
                        "block {place} of its journal has a change from entry {} of number {sequence} of the recovery \
                         journal, which ends before entry {} of number {}",
                        entry / 2,
                        end.entry,
                        end.sequence
                    );
                    return Err(Refusal::Slab { slab: *slab, what }.into());
                }
                ends[slab.index()] = known;
                lanes.push(buffer);
            }
        }
        Ok(ends)
    }

    /// Adds to the slab journals what they lack, and tells the summary. The recovery journal ends with `end`.
    pub(super) async fn replay(
        &mut self,
        medium: &Medium,
        ring: &Ring,
        journal: Pbn,
        (range, end): (SlabJournalRange, JournalPoint),
    ) -> Result<SlabJournalsReplayed, Obstacle> {
        let entries = range.range();
        let ends = self
            .journal_ends(medium, (range.kept_from(end), end))
            .await?;
        let mut replays: Vec<Option<SlabReplay>> = self.numbers().map(|_| None).collect();
        let mut writes = Writes::new(medium)?;
        let stride = STRIDE.min(ring.blocks as usize);
        let mut reading = medium.buffers(1, stride)?.remove(0);
        let mut gone_through = 0_u64;
        for run in entries.runs(ring.blocks, stride as u64) {
            let start = journal.get() + run.place;
            reading = medium.read(start, reading, run.blocks as usize).await?;
            for (sequence, block) in numbered(run).zip(blocks_of(&reading)) {
                let count = entries.entries_of(sequence);
                for (entry, number) in ring.entries(sequence, block, count)?.zip(0_u16..) {
                    let point = JournalPoint {
                        sequence,
                        entry: number,
                    };
                    for (pbn, change) in changes(&self.slabs, &entry) {
                        let Some(slab) = self.slabs.slab_of(pbn) else {
                            continue;
                        };
                        let replay = replays[slab.index()].get_or_insert_with(|| {
                            let end = ends[slab.index()];
                            SlabReplay::load(&self.slabs.config, self.nonce, end)
                        });
                        let first = self.journal_block(slab, 0);
                        let mut offered = replay.offer(&change, point);
                        if offered == Offered::NoRoom {
                            writes.push(|block| first + replay.commit(block)).await?;
                            offered = replay.offer(&change, point);
                        }
                        if offered == Offered::Filled {
                            writes.push(|block| first + replay.commit(block)).await?;
                        }
                    }
                }
            }
            gone_through += run.blocks;
            medium.progress(Work::ReplaySlabJournals, gone_through, entries.blocks());
        }
        let mut added = 0;
        for slab in self.numbers() {
            let Some(replay) = &mut replays[slab.index()] else {
                continue;
            };
            if replay.added() == 0 {
                continue;
            }
            added += replay.added();
            if replay.has_entries() {
                let first = self.journal_block(slab, 0);
                writes.push(|block| first + replay.commit(block)).await?;
            }
            let entry = replay.summary(self.summary.entry(slab));
            self.summary.set(slab, entry);
        }
        writes.finish().await?;
        if added > 0 {
            log::info!("{added} changes of reference counts were added to slab journals");
            self.summary.save(medium).await?;
        }
        Ok(range.replayed())
    }
}

/// The changes of reference counts an entry stands for: first the block that gains a reference, then the one that loses
/// one. Block zero stands for none.
fn changes(
    slabs: &SlabGeometry,
    entry: &RecoveryJournalEntry,
) -> impl Iterator<Item = (Pbn, SlabJournalEntry)> + use<> {
    let (slabs, operation) = (*slabs, entry.operation);
    let one = move |Mapping { pbn, .. }: Mapping, increment: bool| {
        let (_, offset) = slabs.locate(pbn)?;
        let change = SlabJournalEntry {
            offset,
            operation: match increment {
                true => operation,
                false => JournalOperation::DataRemapping,
            },
            increment,
        };
        Some((pbn, change))
    };
    let (gains, loses) = (one(entry.mapping, true), one(entry.unmapping, false));
    gains.into_iter().chain(loses)
}
