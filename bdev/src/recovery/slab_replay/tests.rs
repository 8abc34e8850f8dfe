use super::*;
use crate::format::recovery_journal::JournalOperation;
use crate::format::slab_journal::{ENTRIES_PER_BLOCK, FULL_ENTRIES_PER_BLOCK};
use std::collections::BTreeMap;

const NONCE: u64 = 9;
const SLAB: SlabNumber = SlabNumber(3);

fn config(journal: u64) -> SlabConfig {
    SlabConfig::new(1 << 13, journal).unwrap()
}

fn change(offset: u32, block_map: bool, increment: bool) -> SlabJournalEntry {
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

fn point(sequence: u64, entry: u16) -> JournalPoint {
    JournalPoint {
        sequence: SequenceNumber(sequence),
        entry,
    }
}

/// A slab's journal on disk, and the summary's word on it.
struct Disk {
    config: SlabConfig,
    blocks: BTreeMap<u64, Block>,
    entry: SlabSummaryEntry,
}

impl Disk {
    fn new(journal: u64) -> Disk {
        Disk {
            config: config(journal),
            blocks: BTreeMap::new(),
            entry: SlabSummaryEntry::default(),
        }
    }

    fn load(&self) -> SlabReplay {
        let end = match last_block(SLAB, self.entry, &self.config).unwrap() {
            None => JournalEnd::BLANK,
            Some(place) => {
                let block = self.blocks.get(&place).unwrap_or(&[0; BLOCK_SIZE]);
                journal_end(SLAB, self.entry, &self.config, NONCE, block).unwrap()
            }
        };
        SlabReplay::load(&self.config, NONCE, end)
    }

    fn commit(&mut self, replay: &mut SlabReplay) {
        let mut block = [0; BLOCK_SIZE];
        let place = replay.commit(&mut block);
        self.blocks.insert(place, block);
    }

    fn offer(&mut self, replay: &mut SlabReplay, entry: SlabJournalEntry, from: JournalPoint) {
        loop {
            match replay.offer(&entry, from) {
                Offered::Known | Offered::Added => return,
                Offered::Filled => return self.commit(replay),
                Offered::NoRoom => self.commit(replay),
            }
        }
    }

    /// Ends a replay; with `told`, the summary hears of it.
    fn end(&mut self, mut replay: SlabReplay, told: bool) -> u64 {
        if replay.has_entries() {
            self.commit(&mut replay);
        }
        if told {
            self.entry = replay.summary(self.entry);
        }
        replay.added()
    }

    fn header(&self, place: u64) -> SlabJournalHeader {
        SlabJournalHeader::decode(&self.blocks[&place]).unwrap()
    }
}

#[test]
fn a_block_that_fills_is_written_and_the_next_goes_on_where_it_ended() {
    let mut disk = Disk::new(16);
    let mut replay = disk.load();
    for index in 0..ENTRIES_PER_BLOCK + 10 {
        disk.offer(
            &mut replay,
            change(u32::from(index), false, true),
            point(5, index),
        );
        let full = index + 1 >= ENTRIES_PER_BLOCK;
        assert_eq!(disk.blocks.len(), usize::from(full), "after entry {index}");
    }
    assert_eq!(disk.end(replay, true), u64::from(ENTRIES_PER_BLOCK) + 10);
    let (first, second) = (disk.header(1), disk.header(2));
    assert_eq!((first.entry_count, second.entry_count), (1353, 10));
    assert_eq!(first.recovery_point, point(5, 1352 * 2));
    assert_eq!(second.recovery_point, point(5, 1362 * 2));
    assert_eq!((second.sequence.get(), second.head.get()), (2, 1));
    let entry = disk.entry;
    assert_eq!((entry.tail_block_offset, entry.is_dirty), (3, true));
    assert!(
        !entry.load_counts,
        "the journal holds every change there ever was"
    );
}

#[test]
fn changes_the_journal_has_are_not_added_again() {
    let mut disk = Disk::new(16);
    let changes = |disk: &mut Disk, from: u16, to: u16| {
        let mut replay = disk.load();
        for index in from..to {
            disk.offer(&mut replay, change(7, false, true), point(5, index));
            disk.offer(&mut replay, change(8, false, false), point(5, index));
        }
        replay
    };
    let replay = changes(&mut disk, 0, 10);
    disk.end(replay, true);
    let replay = changes(&mut disk, 0, 10);
    assert!(!replay.has_entries());
    assert_eq!(disk.end(replay, true), 0);
    // Of the tenth, only the increment is there.
    let mut replay = disk.load();
    disk.offer(&mut replay, change(7, false, true), point(5, 10));
    disk.end(replay, true);
    let replay = changes(&mut disk, 0, 12);
    assert_eq!(disk.end(replay, true), 3);
}

#[test]
fn blocks_the_summary_was_not_told_of_are_written_again_the_same() {
    let mut disk = Disk::new(16);
    let replay = |disk: &mut Disk| {
        let mut replay = disk.load();
        for index in 0..3000 {
            let entry = change(u32::from(index), index == 2000, true);
            disk.offer(&mut replay, entry, point(9, index));
        }
        replay
    };
    let first = replay(&mut disk);
    disk.end(first, false);
    let before = disk.blocks.clone();
    let second = replay(&mut disk);
    disk.end(second, true);
    assert_eq!(disk.blocks, before);
}

#[test]
fn an_entry_about_the_block_map_closes_a_block_that_only_data_would_fit_in() {
    let mut disk = Disk::new(16);
    let mut replay = disk.load();
    for index in 0..FULL_ENTRIES_PER_BLOCK {
        disk.offer(&mut replay, change(1, false, true), point(5, index));
    }
    assert!(disk.blocks.is_empty());
    disk.offer(&mut replay, change(2, true, true), point(6, 0));
    assert_eq!(disk.header(1).entry_count, FULL_ENTRIES_PER_BLOCK);
    // From an entry about the block map on, 1299 fill the block.
    for index in 1..FULL_ENTRIES_PER_BLOCK {
        disk.offer(&mut replay, change(1, false, true), point(6, index));
    }
    assert_eq!(disk.header(2).entry_count, FULL_ENTRIES_PER_BLOCK);
    assert!(disk.header(2).has_block_map_increments);
    assert!(!replay.has_entries());
}

#[test]
fn a_journal_that_is_full_gives_up_its_oldest_block() {
    let mut disk = Disk::new(16);
    for round in 0..16 {
        let mut replay = disk.load();
        disk.offer(&mut replay, change(1, false, true), point(round + 1, 0));
        disk.end(replay, true);
    }
    let end = journal_end(SLAB, disk.entry, &disk.config, NONCE, &disk.blocks[&0]).unwrap();
    assert_eq!((end.head.get(), end.tail.get(), end.length()), (1, 17, 16));
    assert!(!disk.entry.load_counts);
    let mut replay = disk.load();
    disk.offer(&mut replay, change(1, false, true), point(99, 0));
    disk.end(replay, true);
    assert_eq!(
        (disk.header(1).sequence.get(), disk.header(1).head.get()),
        (17, 2)
    );
    assert!(disk.entry.load_counts, "changes are gone from the journal");
}

#[test]
fn the_journal_of_a_clean_slab_is_empty_but_remembers_where_it_was() {
    let mut disk = Disk::new(16);
    let mut replay = disk.load();
    disk.offer(&mut replay, change(1, false, true), point(5, 0));
    disk.end(replay, true);
    disk.entry.is_dirty = false;
    disk.entry.load_counts = true;
    let end = journal_end(SLAB, disk.entry, &disk.config, NONCE, &disk.blocks[&1]).unwrap();
    assert_eq!((end.head.get(), end.tail.get()), (2, 2));
    let mut replay = disk.load();
    disk.offer(&mut replay, change(1, false, true), point(5, 0));
    disk.offer(&mut replay, change(1, false, false), point(5, 1));
    assert_eq!(disk.end(replay, true), 1);
    assert_eq!(
        (disk.header(2).head.get(), disk.header(2).entry_count),
        (2, 1)
    );
}

#[test]
fn counters_that_were_rebuilt_have_no_journal_and_other_slabs_must_have_one() {
    let config = config(16);
    let entry = SlabSummaryEntry {
        load_counts: true,
        ..SlabSummaryEntry::default()
    };
    assert_eq!(last_block(SLAB, entry, &config), Ok(Some(15)));
    let end = |entry| journal_end(SLAB, entry, &config, NONCE, &[0; BLOCK_SIZE]);
    assert_eq!(end(entry), Ok(JournalEnd::BLANK));
    let dirty = SlabSummaryEntry {
        is_dirty: true,
        ..entry
    };
    let refused = end(dirty).unwrap_err().to_string();
    assert!(
        refused.contains("slab 3: block 15 of its journal"),
        "{refused}"
    );
    let moved = SlabSummaryEntry {
        tail_block_offset: 4,
        ..entry
    };
    assert!(end(moved).unwrap_err().to_string().contains("block 3"));
    let nowhere = SlabSummaryEntry {
        tail_block_offset: 16,
        ..entry
    };
    assert!(last_block(SLAB, nowhere, &config).is_err());
    assert_eq!(
        last_block(SLAB, SlabSummaryEntry::default(), &config),
        Ok(None)
    );
}
