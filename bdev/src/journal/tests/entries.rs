//! How entries get their places, are written, and are committed.

use super::*;

#[test]
fn a_lone_entry_is_flushed_written_durably_and_then_committed() {
    let mut rig = Rig::new(8);
    rig.submit(1);
    assert_eq!(rig.waiting(), [None], "the data first");
    rig.complete_first();
    assert_eq!(rig.waiting(), [Some(1)]);
    assert_eq!(rig.committed(), 0);
    rig.complete_first();
    assert_eq!(rig.committed(), 1);
    rig.check(1, 0, 1);
    assert_eq!(
        *rig.volume.done.borrow(),
        [(0, Ok(point(1, 0)))],
        "with its place"
    );
}

#[test]
fn an_entry_appended_during_the_flush_is_not_in_the_block_it_precedes() {
    let mut rig = Rig::new(8);
    rig.submit(1);
    assert_eq!(rig.waiting(), [None]);
    rig.submit(1);
    rig.complete_first();
    let bytes = rig.disk.held_block(0);
    let (header, entries) = decode(bytes.first_chunk().unwrap()).unwrap();
    assert_eq!((header.entry_count, entries), (1, vec![0]));
    rig.complete_first();
    assert_eq!(rig.waiting(), [None], "the second has a round of its own");
    rig.disk.run();
    rig.check(1, 0, 2);
    assert_eq!(rig.committed(), 2);
}

#[test]
fn entries_of_tasks_ready_together_share_one_write() {
    let mut rig = Rig::new(8);
    let journal = Rc::clone(&rig.journal);
    for number in 0..3 {
        let journal = Rc::clone(&journal);
        rig.disk.scheduler.spawn(async move {
            journal.submit(number, entry(number)).unwrap();
        });
    }
    rig.disk.run();
    rig.check(1, 0, 3);
    assert_eq!(rig.committed(), 3);
    assert_eq!(journal.statistics().blocks.written, 1);
}

#[test]
fn only_full_blocks_are_written_together_and_a_partial_one_alone() {
    let mut rig = Rig::new(64);
    rig.submit(2 * PER_BLOCK + 5);
    assert_eq!(rig.waiting(), [None]);
    rig.complete_first();
    assert_eq!(rig.waiting(), [Some(1), Some(2)]);
    rig.submit(PER_BLOCK - 5);
    assert_eq!(rig.waiting().len(), 2, "not while writes are under way");
    rig.complete_first();
    assert_eq!(rig.waiting(), [Some(2)], "nor while one is left");
    rig.submit(3);
    rig.complete_first();
    assert_eq!(rig.waiting(), [None]);
    rig.complete_first();
    assert_eq!(rig.waiting(), [Some(3)], "block 4 is not full");
    rig.complete_first();
    assert_eq!(rig.waiting(), [None]);
    rig.complete_first();
    assert_eq!(rig.waiting(), [Some(4)]);
    rig.disk.run();
    assert_eq!(rig.committed(), 3 * PER_BLOCK + 3);
    rig.check(3, 2 * PER_BLOCK, PER_BLOCK);
    rig.check(4, 3 * PER_BLOCK, 3);
}

#[test]
fn entries_commit_only_after_all_earlier_blocks() {
    let mut rig = Rig::new(64);
    rig.submit(3 * PER_BLOCK);
    rig.disk.step();
    rig.complete_first();
    assert_eq!(rig.waiting(), [Some(1), Some(2), Some(3)]);
    rig.disk.complete_held(1);
    rig.disk.step();
    rig.disk.complete_held(1);
    rig.disk.step();
    rig.check(3, 2 * PER_BLOCK, PER_BLOCK);
    assert_eq!(rig.committed(), 0, "blocks 2 and 3 are on disk, 1 is not");
    rig.complete_first();
    assert_eq!(rig.committed(), 3 * PER_BLOCK);
}

#[test]
#[cfg_attr(miri, ignore = "takes Miri minutes")]
fn a_block_is_rewritten_as_it_fills_and_once_more_when_full() {
    let mut rig = Rig::new(64);
    for number in 0..PER_BLOCK {
        rig.commit(1);
        rig.check(1, 0, number + 1);
        assert_eq!(rig.committed(), number + 1);
    }
    let statistics = rig.journal.statistics();
    assert_eq!(statistics.blocks.written, PER_BLOCK);
    rig.commit(1);
    rig.check(1, 0, PER_BLOCK);
    rig.check(2, PER_BLOCK, 1);
}

#[test]
fn a_block_that_fills_during_its_write_is_written_with_the_next_full_ones() {
    let mut rig = Rig::new(64);
    rig.submit(1);
    rig.disk.step();
    rig.complete_first();
    assert_eq!(rig.waiting(), [Some(1)]);
    rig.submit(2 * PER_BLOCK - 1);
    rig.complete_first();
    assert_eq!(rig.committed(), 1);
    rig.complete_first();
    assert_eq!(rig.waiting(), [Some(1), Some(2)]);
    rig.disk.complete_held(1);
    rig.disk.step();
    assert_eq!(rig.committed(), 1);
    rig.complete_first();
    assert_eq!(rig.committed(), 2 * PER_BLOCK);
}

#[test]
fn each_opened_block_begins_an_era() {
    let mut rig = Rig::new(64);
    assert_eq!(rig.journal.tail(), SequenceNumber(1));
    rig.commit(2 * PER_BLOCK + 1);
    assert_eq!(*rig.volume.eras.borrow(), [2, 3, 4]);
    assert_eq!(rig.journal.tail(), SequenceNumber(4));
}

#[test]
fn counts_follow_the_mappings_and_headers_have_them_as_of_opening() {
    let mut settings = config(8);
    settings.state.logical_blocks_used = 1000;
    settings.state.block_map_data_blocks = 7;
    let rig = Rig::with(settings);
    let journal = &rig.journal;
    let submit = |operation, mapping, unmapping| {
        let entry = RecoveryJournalEntry {
            operation,
            mapping,
            unmapping,
            ..entry(0)
        };
        journal.submit(0, entry).unwrap();
        (
            journal.logical_blocks_used(),
            journal.block_map_data_blocks(),
        )
    };
    let data = JournalOperation::DataRemapping;
    let none = Mapping::UNMAPPED;
    assert_eq!(submit(data, mapped(5), none), (1001, 7), "first write");
    assert_eq!(submit(data, mapped(6), mapped(5)), (1001, 7), "overwrite");
    assert_eq!(submit(data, Mapping::ZERO, none), (1002, 7), "zeroes");
    assert_eq!(submit(data, none, mapped(6)), (1001, 7), "discard");
    assert_eq!(submit(data, none, none), (1001, 7), "discard of nothing");
    let page = JournalOperation::BlockMapRemapping;
    assert_eq!(submit(page, mapped(9), none), (1001, 8), "tree page");
    let saved = journal.state_for_super_block();
    assert_eq!(saved.logical_blocks_used, 1001);
    assert_eq!(saved.block_map_data_blocks, 8);

    let mut rig = rig;
    rig.disk.run();
    let bytes = &rig.disk.blocks[&rig.place(1)];
    let header = RecoveryBlockHeader::decode(bytes.first_chunk().unwrap()).unwrap();
    assert_eq!(header.logical_blocks_used, 1000);
    assert_eq!(header.block_map_data_blocks, 7);
}

#[test]
fn statistics_count_entries_and_blocks_on_their_way() {
    let mut rig = Rig::new(64);
    rig.submit(PER_BLOCK + 1);
    let counted = rig.journal.statistics();
    assert_eq!((counted.entries.started, counted.blocks.started), (218, 2));
    assert_eq!((counted.entries.written, counted.blocks.written), (0, 0));
    rig.disk.step();
    let counted = rig.journal.statistics();
    assert_eq!((counted.entries.written, counted.blocks.written), (217, 1));
    assert_eq!(
        (counted.entries.committed, counted.blocks.committed),
        (0, 0)
    );
    rig.disk.run();
    let counted = rig.journal.statistics();
    assert_eq!(
        (counted.entries.committed, counted.blocks.committed),
        (218, 2)
    );
    assert_eq!((counted.entries.written, counted.blocks.written), (218, 2));
}

#[test]
fn a_journal_goes_on_where_the_super_block_says_with_the_mark_of_that_turn() {
    let mut settings = config(8);
    settings.state.journal_start = SequenceNumber(8 * 130 + 3);
    let mut rig = Rig::with(settings);
    rig.commit(1);
    let header = rig.check(8 * 130 + 3, 0, 1);
    assert_eq!(header.check_byte, 0x82);
    assert_eq!(header.block_map_head, SequenceNumber(8 * 130 + 3));
    assert_eq!(rig.place(8 * 130 + 3), START + 3);
}

#[test]
fn a_ring_of_a_wrong_size_or_start_is_refused() {
    let refused = |settings: JournalConfig| {
        let disk = TestDisk::new();
        let volume = Rc::new(Volume::default());
        let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
        let (services, hooks) = (Rc::clone(&volume), volume);
        let (scheduler, base) = (&disk.scheduler, &disk.base);
        RecoveryJournal::new(settings, scheduler, base, services, hooks, &memory).is_err()
    };
    for blocks in [0, 1, 2, 12] {
        assert!(refused(config(blocks)), "{blocks} blocks");
    }
    for start in [0, 1 << 48, u64::MAX] {
        let mut settings = config(8);
        settings.state.journal_start = SequenceNumber(start);
        assert!(refused(settings), "start at {start}");
    }
    assert!(!refused(config(4)));
}
