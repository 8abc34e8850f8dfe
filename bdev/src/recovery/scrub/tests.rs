use super::*;
use crate::format::SECTOR_SIZE;
use crate::format::reference_block::COUNTS_PER_SECTOR;
use crate::types::BLOCK_SIZE;
use proptest::prelude::*;

const NONCE: u64 = 9;
const SLAB: SlabNumber = SlabNumber(4);

/// Three reference blocks, a journal of 16.
fn config() -> SlabConfig {
    SlabConfig::new(1 << 13, 16).unwrap()
}

fn entry(offset: u32, block_map: bool, increment: bool) -> SlabJournalEntry {
    let operation = match block_map {
        true => JournalOperation::BlockMapRemapping,
        false => JournalOperation::DataRemapping,
    };
    SlabJournalEntry {
        offset,
        operation,
        increment,
    }
}

fn up(offset: u32) -> SlabJournalEntry {
    entry(offset, false, true)
}

fn down(offset: u32) -> SlabJournalEntry {
    entry(offset, false, false)
}

fn journal_block(sequence: u64, entries: &[SlabJournalEntry]) -> Block {
    let mut header = SlabJournalHeader {
        head: SequenceNumber(1),
        sequence: SequenceNumber(sequence),
        recovery_point: JournalPoint::default(),
        nonce: NONCE,
        has_block_map_increments: false,
        entry_count: 0,
    };
    let mut block = [0; BLOCK_SIZE];
    for entry in entries {
        header.append(&mut block, entry);
    }
    header.encode(&mut block);
    block
}

fn end(head: u64, tail: u64) -> JournalEnd {
    JournalEnd {
        head: SequenceNumber(head),
        tail: SequenceNumber(tail),
        recovery_point: JournalPoint::default(),
    }
}

fn written() -> SlabSummaryEntry {
    SlabSummaryEntry {
        load_counts: true,
        is_dirty: true,
        ..SlabSummaryEntry::default()
    }
}

fn point(sequence: u64, entry: u16) -> JournalPoint {
    JournalPoint {
        sequence: SequenceNumber(sequence),
        entry,
    }
}

/// A scrub over counters on disk and a journal that begins with block `head`.
fn scrub(
    counters: Option<&[Block]>,
    head: u64,
    journal: &[Vec<SlabJournalEntry>],
) -> Result<Scrub, Refusal> {
    let mut scrub = Scrub::new(&config(), NONCE, false);
    let entry = SlabSummaryEntry {
        load_counts: counters.is_some(),
        ..written()
    };
    scrub.begin(SLAB, entry, end(head, head + journal.len() as u64))?;
    if let Some(counters) = counters {
        for (index, block) in counters.iter().enumerate() {
            scrub.take_counters(index, std::slice::from_ref(block))?;
        }
    }
    for entries in journal {
        let sequence = scrub.wants().unwrap().get();
        scrub.take_journal_block(&journal_block(sequence, entries))?;
    }
    assert_eq!(scrub.wants(), None);
    Ok(scrub)
}

fn reference_block(point: JournalPoint, counts: &[u8]) -> Block {
    let mut block = [0; BLOCK_SIZE];
    reference_block::encode(&mut block, point, counts);
    block
}

fn saved(scrub: &Scrub) -> Vec<Block> {
    let blocks = 0..config().reference_count_blocks as usize;
    let pack = |index| {
        let mut block = [0; BLOCK_SIZE];
        scrub.pack(index, &mut block);
        block
    };
    blocks.map(pack).collect()
}

#[test]
fn counters_that_were_never_written_are_zero_and_all_are_written() {
    let scrub = scrub(
        None,
        1,
        &[vec![up(0), up(0), entry(5000, true, true)], vec![down(0)]],
    );
    let scrub = scrub.unwrap();
    assert_eq!(
        (scrub.count(0), scrub.count(5000), scrub.count(1)),
        (1, 254, 0)
    );
    assert!(scrub.changed().eq(0..3));
    let result = scrub.finish().unwrap();
    assert_eq!(result.free, config().data_blocks - 2);
    assert_eq!((result.applied, result.torn), (4, 0));
    let summary = result.summary(written(), 13);
    assert!(summary.load_counts && !summary.is_dirty);
    assert_eq!(summary.fullness_hint, fullness_hint(result.free, 13));
}

#[test]
fn each_sector_of_a_torn_reference_block_gets_just_the_entries_it_lacks() {
    // Block 5, entry 1 is in the first sectors only.
    let newer = reference_block(point(5, 1), &[7; COUNTS_PER_BLOCK]);
    let mut torn = reference_block(point(5, 0), &[3; COUNTS_PER_BLOCK]);
    torn[..2 * SECTOR_SIZE].copy_from_slice(&newer[..2 * SECTOR_SIZE]);
    let zero = reference_block(point(1, 0), &[]);
    let third_sector = 2 * COUNTS_PER_SECTOR as u32;
    let entries = vec![
        vec![up(0), up(third_sector), up(1), up(third_sector + 1), up(0)],
        vec![down(0), down(third_sector)],
    ];
    let scrub = scrub(Some(&[torn, zero, zero]), 5, &entries).unwrap();
    // The first sector lacks its entries from 5.2 on, the third from 5.1 on.
    assert_eq!((scrub.count(0), scrub.count(1)), (7 + 1 - 1, 7 + 1));
    assert_eq!(scrub.count(third_sector), 3 + 1 - 1);
    assert_eq!(scrub.count(third_sector + 1), 3 + 1);
    assert_eq!(scrub.finish().unwrap().torn, 1);
    assert!(scrub.changed().eq([0]), "the others are as they were");
}

#[test]
fn a_decrement_that_is_counted_already_is_not_counted_again() {
    let counted = reference_block(point(1, 1), &[0, 1]);
    let zero = reference_block(point(1, 0), &[]);
    let blocks = [counted, zero, zero];
    let scrub = scrub(Some(&blocks), 1, &[vec![up(0), down(0)]]).unwrap();
    assert_eq!((scrub.count(0), scrub.count(1)), (0, 1));
    assert_eq!(scrub.changed().count(), 0);
    assert_eq!(scrub.finish().unwrap().free, config().data_blocks - 1);
}

#[test]
fn a_provisional_counter_is_read_as_none() {
    let counted = reference_block(point(1, 0), &[PROVISIONAL, 1]);
    let zero = reference_block(point(1, 0), &[]);
    let scrub = scrub(Some(&[counted, zero, zero]), 1, &[vec![up(5), up(0)]]).unwrap();
    assert_eq!((scrub.count(0), scrub.count(1), scrub.count(5)), (1, 1, 0));
}

#[test]
fn a_change_that_cannot_be_is_refused_and_named() {
    let refused = |entries: Vec<SlabJournalEntry>, what: &str| {
        let zero = reference_block(point(1, 0), &[]);
        let refused = scrub(Some(&[zero; 3]), 3, &[entries]).unwrap_err();
        assert!(refused.is_damage());
        let text = refused.to_string();
        assert!(text.starts_with("slab 4: entry "), "{text}");
        assert!(text.contains("block 3 of its journal (number 3)"), "{text}");
        assert!(text.contains(what), "{text}");
    };
    refused(vec![down(1)], "loses a reference");
    refused(vec![up(1); 255], "entry 254");
    refused(vec![up(1), entry(1, true, true)], "becomes a page");
    refused(vec![entry(1, true, true), up(1)], "gains a reference");
    refused(vec![up(config().data_blocks as u32)], "hold data");
}

#[test]
fn a_block_that_is_not_the_one_wanted_is_refused_and_named() {
    let mut scrub = Scrub::new(&config(), NONCE, false);
    scrub.begin(SLAB, written(), end(14, 18)).unwrap();
    for sequence in 14..17 {
        assert_eq!(scrub.wants(), Some(SequenceNumber(sequence)));
        let block = journal_block(sequence, &[]);
        scrub.take_journal_block(&block).unwrap();
    }
    let refused = scrub
        .take_journal_block(&journal_block(1, &[]))
        .unwrap_err();
    let wanted = "slab 4: block 1 of its journal should be number 17, and is not";
    assert_eq!(refused.to_string(), wanted);
}

#[test]
fn counters_that_know_more_than_the_journal_are_damage() {
    let ahead = reference_block(point(5, 3), &[1]);
    let zero = reference_block(point(1, 0), &[]);
    let scrub = scrub(Some(&[ahead, zero, zero]), 5, &[vec![up(9), up(9)]]).unwrap();
    let text = scrub.finish().unwrap_err().to_string();
    assert!(text.contains("entry 3 of block 5"), "{text}");
}

#[test]
fn counters_that_were_lost_are_missed_once_the_journal_has_given_up_a_block() {
    let good = reference_block(point(5, 0), &[1]);
    let lost = [good, [0; BLOCK_SIZE], good];
    let refused = scrub(Some(&lost), 5, &[vec![up(9), up(9)]]).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("block 1 of its counters"), "{text}");
    let refused = scrub(None, 5, &[vec![up(9)]]).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("counters were never written"), "{text}");
    // Until then they may be those of a rebuild, and are written to be of this journal.
    let begun = [reference_block(point(1, 0), &[1]), [0; BLOCK_SIZE], good];
    let scrub = scrub(Some(&begun), 1, &[vec![up(9)]]).unwrap();
    assert!(scrub.changed().eq([1]));
}

proptest! {
    #[test]
    fn a_scrub_that_is_cut_short_anywhere_is_made_good_by_the_next(
        changes in prop::collection::vec((0u32..3, 0u32..2000, any::<bool>()), 1..300),
        kept in prop::collection::vec(any::<bool>(), 3 * SECTORS_PER_BLOCK),
        at in any::<prop::sample::Index>(),
    ) {
        // A journal that is possible: nothing is taken that is not there.
        let mut counts = vec![0_u8; 8064];
        let mut entries = Vec::new();
        for (block, offset, increment) in changes {
            let offset = block * 2000 + offset % 700;
            let count = &mut counts[offset as usize];
            let increment = increment || *count == 0;
            *count = if increment { *count + 1 } else { *count - 1 };
            entries.push(if increment { up(offset) } else { down(offset) });
        }
        let journal: Vec<_> = entries.chunks(40).map(<[_]>::to_vec).collect();
        // The counters have it up to somewhere; then the write of everything is torn.
        let known = at.index(journal.len());
        let before = scrub(None, 1, &journal[..known]).unwrap();
        let before = saved(&before);
        let whole = scrub(Some(&before), 1, &journal).unwrap();
        let mut torn = before.clone();
        for (index, new) in saved(&whole).iter().enumerate() {
            for sector in 0..SECTORS_PER_BLOCK {
                if kept[index * SECTORS_PER_BLOCK + sector] {
                    let range = sector * SECTOR_SIZE..(sector + 1) * SECTOR_SIZE;
                    torn[index][range.clone()].copy_from_slice(&new[range]);
                }
            }
        }
        let again = scrub(Some(&torn), 1, &journal).unwrap();
        for (offset, count) in counts.iter().enumerate().take(config().data_blocks as usize) {
            prop_assert_eq!(again.count(offset as u32), *count);
        }
        prop_assert!(again.finish().is_ok());
    }
}
