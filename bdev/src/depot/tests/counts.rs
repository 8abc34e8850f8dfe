//! The counters of one slab by themselves.

use proptest::prelude::*;

use super::super::reference_counts::{EntryLock, ReferenceCounts};
use super::*;
use crate::format::reference_block::{self, COUNTS_PER_BLOCK};

fn point(sequence: u64, entry: u16) -> JournalPoint {
    JournalPoint {
        sequence: SequenceNumber(sequence),
        entry,
    }
}

fn increment(counts: &mut ReferenceCounts, offset: u32, at: JournalPoint) -> EntryLock {
    let operation = ReferenceOperation::DataIncrement;
    counts.check(offset, operation).unwrap();
    counts.apply(offset, operation, at, || false).1
}

/// The only free block of an array is found wherever it is and wherever the search starts before it.
#[test]
fn the_only_free_block_is_found_at_every_place_of_every_small_array() {
    for length in 1..80 {
        for hole in 0..length {
            let mut counts = ReferenceCounts::new(length).expect("little memory");
            for offset in (0..length).filter(|&offset| offset != hole) {
                increment(&mut counts, offset, point(1, 0));
            }
            assert_eq!(counts.free(), 1);
            assert_eq!(counts.find_free(), Some(hole), "among {length}");
            assert_eq!(counts.find_free(), None, "the search goes on behind it");
            counts.reset_search();
            assert_eq!(counts.find_free(), Some(hole));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn all_free_blocks_are_found_in_order(
        length in 1u32..10_000, full_per_mille in prop_oneof![Just(0u64), Just(100), Just(900), Just(996), Just(1000)],
        seed: u64,
    ) {
        let mut counts = ReferenceCounts::new(length).expect("little memory");
        let mut state = seed | 1;
        let mut free = Vec::new();
        for offset in 0..length {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if (state >> 33) % 1000 < full_per_mille {
                increment(&mut counts, offset, point(1, 0));
            } else {
                free.push(offset);
            }
        }
        prop_assert_eq!(counts.free() as usize, free.len());
        let mut found = Vec::new();
        while let Some(offset) = counts.find_free() {
            counts.make_provisional(offset);
            found.push(offset);
        }
        prop_assert_eq!(found, free);
        prop_assert_eq!(counts.free(), 0);
    }
}

#[test]
fn a_write_holds_the_oldest_journal_block_and_later_changes_their_own() {
    let mut counts = ReferenceCounts::new(2 * COUNTS_PER_BLOCK as u32).expect("little memory");
    let mut buffer = [0; 4096];
    assert_eq!(increment(&mut counts, 0, point(3, 0)), EntryLock::Taken);
    assert_eq!(increment(&mut counts, 1, point(3, 1)), EntryLock::Covered);
    assert_eq!(
        increment(&mut counts, 2, point(4, 0)),
        EntryLock::Covered,
        "block 3 covers it"
    );
    assert_eq!(
        increment(&mut counts, COUNTS_PER_BLOCK as u32, point(4, 1)),
        EntryLock::Taken
    );
    assert_eq!(counts.dirty_count(), 2);

    assert_eq!(counts.start_write(), Some(0));
    counts.pack(0, &mut buffer);
    assert_eq!(
        increment(&mut counts, 0, point(5, 0)),
        EntryLock::Taken,
        "not in the write"
    );
    assert_eq!(
        counts.start_write(),
        Some(1),
        "a block being written is not written twice at once"
    );
    assert_eq!(counts.start_write(), None);
    let mut stored = [0; COUNTS_PER_BLOCK];
    assert_eq!(
        reference_block::decode(&buffer, &mut stored),
        [point(4, 1); 8]
    );
    assert_eq!(
        stored[..4],
        [1, 1, 1, 0],
        "what was there when it was packed"
    );
    assert_eq!(counts.finish_write(0), (SequenceNumber(3), true));

    assert_eq!(counts.start_write(), Some(0));
    counts.pack(0, &mut buffer);
    assert_eq!(counts.finish_write(0), (SequenceNumber(5), false));
    reference_block::decode(&buffer, &mut stored);
    assert_eq!(stored[0], 2);
    counts.pack(1, &mut buffer);
    assert_eq!(counts.finish_write(1), (SequenceNumber(4), false));
}

#[test]
fn provisional_references_do_not_reach_the_disk_and_are_not_believed_from_it() {
    let mut counts = ReferenceCounts::new(600).expect("little memory");
    increment(&mut counts, 5, point(1, 0));
    counts.make_provisional(6);
    let mut buffer = [0; 4096];
    let block = counts.start_write().unwrap();
    counts.pack(block, &mut buffer);
    let mut stored = [0; 600];
    reference_block::decode(&buffer, &mut stored);
    assert_eq!((stored[5], stored[6]), (1, 0));

    let mut dm_vdo = [0; 600];
    dm_vdo[5] = 254;
    dm_vdo[6] = 255;
    dm_vdo[599] = 1;
    reference_block::encode(&mut buffer, point(9, 3), &dm_vdo);
    let mut loaded = ReferenceCounts::new(600).expect("little memory");
    assert_eq!(loaded.load(0, &buffer), [point(9, 3); 8]);
    assert_eq!(
        (loaded.count(5), loaded.count(6), loaded.count(599)),
        (254, 0, 1)
    );
    assert_eq!(loaded.free(), 598);
}

#[test]
fn a_lock_of_a_block_elsewhere_in_the_slab_counts_in_its_own_reference_block() {
    let mut counts = ReferenceCounts::new(2 * COUNTS_PER_BLOCK as u32).expect("little memory");
    for offset in 0..COUNTS_PER_BLOCK as u32 {
        increment(&mut counts, offset, point(1, 0));
    }
    counts.make_provisional(COUNTS_PER_BLOCK as u32);
    assert_eq!(counts.find_free(), Some(COUNTS_PER_BLOCK as u32 + 1));
    assert!(counts.release_provisional(COUNTS_PER_BLOCK as u32));
    assert!(
        !counts.release_provisional(COUNTS_PER_BLOCK as u32),
        "it is free"
    );
    assert!(!counts.release_provisional(0), "it is in use");
}
