//! Putting what the recovery journal holds into the block map on disk.

use std::collections::HashSet;

use super::Obstacle;
use super::medium::{Medium, STRIDE, blocks_of};
use crate::buffer::Buffer;
use crate::error::VdoError;
use crate::format::block_map_page::BlockMapPageMut;
use crate::format::recovery_journal::{JournalOperation, RecoveryJournalEntry};
use crate::format::slab::SlabGeometry;
use crate::recovery::Ring;
use crate::recovery::map_replay::{ChangedPage, LARGEST_BATCH, MapBatch, Overlay, PageChanges};
use crate::recovery::plan::{BlockMapRange, BlockMapReplayed, Run, SalvageRange};
use crate::recovery::rebuild::Losses;
use crate::runtime::task::join_all;
use crate::types::{Pbn, SequenceNumber};
use crate::volume::progress::Work;

/// Gathers mappings and writes the pages they go to.
pub(super) struct Replayer<'a> {
    medium: &'a Medium,
    journal: Pbn,
    nonce: u64,
    batch: MapBatch,
    pages: Vec<Buffer>,
    applied: u64,
    /// Where there may be pages; roots are elsewhere.
    slabs: SlabGeometry,
    /// Pages that the journal says were made.
    made: HashSet<Pbn>,
    /// Whether pages that are not what they should be are begun anew, and how many were.
    lenient: Option<Losses>,
}

impl<'a> Replayer<'a> {
    fn new(
        medium: &'a Medium,
        ring: &Ring,
        journal: Pbn,
        expected: u64,
        lenient: bool,
    ) -> Result<Self, Obstacle> {
        let (pages, limit) = medium.page_memory()?;
        Ok(Replayer {
            medium,
            journal,
            nonce: ring.nonce,
            batch: MapBatch::new(limit, expected),
            pages,
            applied: 0,
            slabs: ring.rules.slabs,
            made: HashSet::new(),
            lenient: lenient.then(Losses::default),
        })
    }

    /// Writes the pages that what was gathered goes to.
    async fn apply(&mut self) -> Result<(), Obstacle> {
        let mut changes = self.batch.pages();
        loop {
            let some: Vec<PageChanges<'_>> = changes.by_ref().take(self.pages.len()).collect();
            if some.is_empty() {
                break;
            }
            let lenient = self.lenient.is_some();
            let work = some
                .iter()
                .zip(self.pages.drain(..))
                .map(|(one, buffer)| change(self.medium, one, buffer, self.nonce, lenient));
            let mut first = Vec::new();
            for changed in join_all(work).await {
                let changed = changed?;
                if let Some(losses) = &mut self.lenient {
                    losses.unreadable_pages += u64::from(changed.unreadable);
                    losses.misplaced_pages += u64::from(changed.misplaced);
                }
                match changed.page {
                    ChangedPage::Known => self.pages.push(changed.buffer),
                    ChangedPage::First => {
                        let known = self.made.contains(&changed.pbn);
                        if self.slabs.is_data_block(changed.pbn) && !known {
                            note_first(changed.pbn);
                        }
                        first.push((changed.pbn, changed.buffer));
                    }
                }
            }
            self.pages.extend(mark_written(self.medium, first).await?);
        }
        drop(changes);
        self.batch.clear();
        Ok(())
    }

    /// Puts an entry into the batch; applies that first if it is full.
    async fn push(&mut self, entry: &RecoveryJournalEntry) -> Result<(), Obstacle> {
        if self.batch.is_full() {
            self.apply().await?;
        }
        if entry.operation == JournalOperation::BlockMapRemapping {
            self.made.insert(entry.mapping.pbn);
        }
        self.batch.push(entry);
        Ok(())
    }
}

/// A page is begun empty, for its block held none, and the journal does not say that it was just made. It may have waited for
/// its first write all the same; but damage would look the same, so it is said.
fn note_first(pbn: Pbn) {
    log::warn!(
        "block {pbn} should hold a page of the block map, and is none: it was never written, or was damaged since; it is begun \
         with what the recovery journal has of it"
    );
}

struct Changed {
    pbn: Pbn,
    buffer: Buffer,
    page: ChangedPage,
    misplaced: bool,
    unreadable: bool,
}

/// Reads a page, changes it and writes it.
async fn change(
    medium: &Medium,
    changes: &PageChanges<'_>,
    buffer: Buffer,
    nonce: u64,
    lenient: bool,
) -> Result<Changed, Obstacle> {
    let pbn = changes.pbn();
    let (mut buffer, read) = medium.try_read(pbn.get(), buffer, 1).await;
    let block = buffer.first_block_mut();
    let (page, misplaced) = match (&read, lenient) {
        (Ok(()), false) => (changes.apply(block, nonce)?, false),
        (Ok(()), true) => changes.apply_anyway(block, nonce),
        (Err(_), true) => (changes.apply_to_empty(block, nonce), false),
        (Err(error), false) => return Err(error.clone().into()),
    };
    let buffer = medium.write(pbn.get(), buffer, 1).await?;
    Ok(Changed {
        pbn,
        buffer,
        page,
        misplaced,
        unreadable: read.is_err(),
    })
}

/// Pages that were written for the first time are written again when that is durable, now with the mark that says they are
/// pages.
pub(super) async fn mark_written(
    medium: &Medium,
    pages: Vec<(Pbn, Buffer)>,
) -> Result<Vec<Buffer>, VdoError> {
    if pages.is_empty() {
        return Ok(Vec::new());
    }
    medium.flush().await?;
    let writes = pages.into_iter().map(|(pbn, mut buffer)| {
        BlockMapPageMut::new(buffer.first_block_mut()).set_initialized(true);
        medium.write(pbn.get(), buffer, 1)
    });
    join_all(writes).await.into_iter().collect()
}

/// Replays a journal into the block map.
pub(super) async fn replay(
    medium: &Medium,
    ring: &Ring,
    journal: Pbn,
    range: BlockMapRange,
) -> Result<BlockMapReplayed, Obstacle> {
    let entries = range.range();
    let mut replayer = Replayer::new(medium, ring, journal, entries.entries(), false)?;
    let mut reading = medium.buffers(1, STRIDE.min(ring.blocks as usize))?;
    for run in entries.runs(ring.blocks, STRIDE as u64) {
        let buffer = replayer.read(run, reading.pop()).await?;
        for (number, block) in numbered(run).zip(blocks_of(&buffer)) {
            for entry in ring.entries(number, block, entries.entries_of(number))? {
                replayer.push(&entry).await?;
                replayer.applied += 1;
            }
        }
        medium.progress(Work::ReplayBlockMap, replayer.applied, entries.entries());
        reading.push(buffer);
    }
    replayer.apply().await?;
    medium.flush().await?;
    Ok(range.replayed())
}

/// Gathers every entry of a journal that can be read and can be true, and writes nothing.
pub(super) async fn overlay(
    medium: &Medium,
    ring: &Ring,
    journal: Pbn,
    range: SalvageRange,
) -> Result<Overlay, Obstacle> {
    let mut batch = MapBatch::new(LARGEST_BATCH, range.entries_at_most());
    let mut reading = medium
        .buffers(1, STRIDE.min(ring.blocks as usize))?
        .remove(0);
    for run in range.runs(ring.blocks, STRIDE as u64) {
        let start = journal.get() + run.place;
        reading = medium.read(start, reading, run.blocks as usize).await?;
        for (number, block) in numbered(run).zip(blocks_of(&reading)) {
            let entries = ring.salvage(number, block).flatten();
            entries.for_each(|entry| batch.push(&entry));
        }
    }
    Ok(batch.into_overlay())
}

/// Puts every entry of a journal that can be read and can be true into the block map, whatever is missing.
pub(super) async fn salvage(
    medium: &Medium,
    ring: &Ring,
    journal: Pbn,
    range: SalvageRange,
) -> Result<Losses, Obstacle> {
    let mut replayer = Replayer::new(medium, ring, journal, range.entries_at_most(), true)?;
    let mut reading = medium.buffers(1, STRIDE.min(ring.blocks as usize))?;
    let mut implausible = 0;
    for run in range.runs(ring.blocks, STRIDE as u64) {
        let buffer = replayer.read(run, reading.pop()).await?;
        for (number, block) in numbered(run).zip(blocks_of(&buffer)) {
            for entry in ring.salvage(number, block) {
                let Ok(entry) = entry else {
                    implausible += 1;
                    continue;
                };
                replayer.push(&entry).await?;
            }
        }
        reading.push(buffer);
    }
    replayer.apply().await?;
    medium.flush().await?;
    let mut losses = replayer.lenient.take().unwrap_or_default();
    losses.journal_entries = implausible;
    Ok(losses)
}

impl Replayer<'_> {
    async fn read(&self, run: Run, buffer: Option<Buffer>) -> Result<Buffer, Obstacle> {
        let buffer = match buffer {
            Some(buffer) => buffer,
            None => self.medium.buffers(1, run.blocks as usize)?.remove(0),
        };
        let start = self.journal.get() + run.place;
        Ok(self.medium.read(start, buffer, run.blocks as usize).await?)
    }
}

/// The numbers of the blocks of a run.
pub(super) fn numbered(run: Run) -> impl Iterator<Item = SequenceNumber> {
    (run.first.get()..run.first.get() + run.blocks).map(SequenceNumber)
}
