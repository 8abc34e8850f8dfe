//! Reads a disk as recovery would: the counters, the slab journal over them, and the recovery journal
//! over both. Written from the format alone, apart from the code that loads a zone.

use std::collections::BTreeMap;

use super::*;
use crate::format::Block;
use crate::format::recovery_journal::JournalOperation;
use crate::format::reference_block::{self, COUNTS_PER_BLOCK};
use crate::format::slab_journal::{
    FULL_ENTRIES_PER_BLOCK, SlabJournalEntry, SlabJournalHeader, expand_point,
};
use crate::format::slab_summary::{ENTRY_SIZE, SlabSummaryEntry, entry_place};

/// Blocks of a disk; those missing are zero.
pub(super) type Image = BTreeMap<u64, Vec<u8>>;

/// A change as the recovery journal has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Journaled {
    pub(super) change: ReferenceChange,
}

fn block(image: &Image, pbn: u64) -> Block {
    image
        .get(&pbn)
        .map_or([0; 4096], |bytes| bytes.as_slice().try_into().unwrap())
}

pub(super) fn summary_entry(image: &Image, zone: ZoneIndex, slab: SlabNumber) -> SlabSummaryEntry {
    let (index, at) = entry_place(zone, slab);
    let bytes = block(image, SUMMARY.get() + index);
    SlabSummaryEntry::decode(bytes[at..at + ENTRY_SIZE].try_into().unwrap())
}

/// The counters of a slab as they are on disk, with the commit point of each.
pub(super) fn stored_counts(
    image: &Image,
    slabs: &SlabGeometry,
    slab: SlabNumber,
) -> Vec<(u8, JournalPoint)> {
    let mut all = Vec::new();
    let place = slabs.reference_blocks(slab);
    for index in 0..place.blocks {
        let mut counts = [0; COUNTS_PER_BLOCK];
        let points = reference_block::decode(&block(image, place.start.get() + index), &mut counts);
        let sector = |offset: usize| points[reference_block::sector_of(offset as u32)];
        all.extend(
            counts
                .iter()
                .enumerate()
                .map(|(offset, &count)| (count, sector(offset))),
        );
    }
    all.truncate(slabs.config.data_blocks as usize);
    all
}

/// A block of a slab's journal, if there is one at this place.
pub(super) fn journal_block(
    image: &Image,
    slabs: &SlabGeometry,
    slab: SlabNumber,
    sequence: u64,
) -> Option<(SlabJournalHeader, Vec<SlabJournalEntry>)> {
    let place = slabs.journal_blocks(slab);
    let bytes = block(image, place.start.get() + sequence % place.blocks);
    let header = SlabJournalHeader::decode(&bytes).ok()?;
    (header.nonce == NONCE).then(|| (header, header.entries(&bytes).collect()))
}

/// What recovery finds of a slab.
pub(super) struct Recovered {
    pub(super) counts: Vec<u8>,
    /// The oldest recovery-journal entry that was needed.
    pub(super) oldest_needed: Option<JournalPoint>,
}

fn apply(
    counts: &mut [(u8, JournalPoint)],
    entry: &SlabJournalEntry,
    point: JournalPoint,
    what: &str,
) {
    let (count, committed) = &mut counts[entry.offset as usize];
    if *committed >= point {
        return;
    }
    if *count == 255 {
        *count = 0;
    }
    match (entry.operation, entry.increment) {
        (JournalOperation::DataRemapping, true) => {
            assert!(*count < 254, "{what}: {entry:?} at {point:?} overflows");
            *count += 1;
        }
        (JournalOperation::BlockMapRemapping, true) => {
            assert_eq!(*count, 0, "{what}: {entry:?} at {point:?} is not fresh");
            *count = 254;
        }
        (_, false) => {
            assert!(*count > 0, "{what}: {entry:?} at {point:?} underflows");
            *count -= 1;
        }
    }
}

/// Recovers a slab from a disk and the recovery journal's changes to it, in order.
pub(super) fn recover(
    image: &Image,
    geometry: &DepotGeometry,
    slab: SlabNumber,
    history: &[Journaled],
) -> Recovered {
    let slabs = &geometry.slabs;
    let entry = summary_entry(image, geometry.zone, slab);
    let mut counts = if entry.load_counts {
        stored_counts(image, slabs, slab)
    } else {
        vec![(0, JournalPoint::default()); slabs.config.data_blocks as usize]
    };
    let (mut tail, mut head, mut recovered_to) = (1, 1, JournalPoint::default());
    if entry.tail_block_offset > 0 || entry.load_counts {
        let size = slabs.config.slab_journal_blocks;
        let last = (u64::from(entry.tail_block_offset) + size - 1) % size;
        if let Some((header, _)) = journal_block(image, slabs, slab, last) {
            tail = header.sequence.get() + 1;
            head = if entry.is_dirty {
                header.head.get()
            } else {
                tail
            };
            recovered_to = header.recovery_point;
        }
    }
    for sequence in head..tail {
        let found = journal_block(image, slabs, slab, sequence)
            .filter(|(header, _)| header.sequence.get() == sequence);
        let (_, entries) =
            found.unwrap_or_else(|| panic!("{slab}: journal block {sequence} is lost"));
        for (entry, number) in entries.iter().zip(0..) {
            let point = JournalPoint {
                sequence: SequenceNumber(sequence),
                entry: number,
            };
            apply(&mut counts, entry, point, "slab journal");
        }
    }
    // Recovery adds what is missing to the slab journal, block by block as it was added before.
    let mut block = SlabJournalHeader {
        head: SequenceNumber(head),
        sequence: SequenceNumber(tail),
        recovery_point: recovered_to,
        nonce: NONCE,
        has_block_map_increments: false,
        entry_count: 0,
    };
    let mut payload = [0; 4096];
    let mut oldest_needed = None;
    let next_block = |block: &mut SlabJournalHeader| {
        block.sequence = SequenceNumber(block.sequence.get() + 1);
        block.entry_count = 0;
        block.has_block_map_increments = false;
    };
    for Journaled { change } in history {
        let ReferenceChange {
            pbn,
            operation,
            point,
        } = *change;
        if expand_point(point, operation.is_increment()) <= recovered_to {
            continue;
        }
        oldest_needed.get_or_insert(point);
        let (_, offset) = slabs.locate(pbn).unwrap();
        let entry = operation.entry(offset);
        let about_block_map = operation == ReferenceOperation::BlockMapIncrement;
        if block.entry_count >= FULL_ENTRIES_PER_BLOCK
            && (block.has_block_map_increments || about_block_map)
        {
            next_block(&mut block);
        }
        let at = JournalPoint {
            sequence: block.sequence,
            entry: block.entry_count,
        };
        block.append(&mut payload, &entry);
        apply(&mut counts, &entry, at, "recovery journal");
        if block.is_full() {
            next_block(&mut block);
        }
    }
    let counts = counts
        .into_iter()
        .map(|(count, _)| if count == 255 { 0 } else { count });
    Recovered {
        counts: counts.collect(),
        oldest_needed,
    }
}
