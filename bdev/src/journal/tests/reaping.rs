//! How space is taken, held, and given back.

use super::*;

/// Heads as the disk is told them: those in the newest block's header.
fn heads(header: &RecoveryBlockHeader) -> (u64, u64) {
    (header.block_map_head.get(), header.slab_journal_head.get())
}

#[test]
fn a_full_ring_makes_entries_wait_until_its_oldest_block_is_reaped() {
    let mut rig = Rig::new(8);
    rig.commit(6 * PER_BLOCK);
    assert_eq!(rig.journal.available_space(), 0);
    rig.commit(2);
    assert_eq!(rig.committed(), 6 * PER_BLOCK);
    assert_eq!(rig.journal.statistics().disk_full, 1, "counted once");

    // Each entry changes two slab journals and one block-map page, all clean before.
    for _ in 0..PER_BLOCK {
        rig.journal.acquire(SequenceNumber(1), PHYSICAL);
        rig.journal.acquire(SequenceNumber(1), PHYSICAL);
        rig.journal.acquire(SequenceNumber(1), LOGICAL);
    }
    for number in 0..PER_BLOCK {
        rig.disk.run();
        assert_eq!(rig.journal.available_space(), 0);
        rig.journal.release_entry(point(1, number));
        rig.journal.release(SequenceNumber(1), PHYSICAL);
        rig.journal.release(SequenceNumber(1), PHYSICAL);
        rig.journal.release(SequenceNumber(1), LOGICAL);
    }
    assert_eq!(rig.waiting(), [None], "flushed before the head moves");
    assert_eq!(rig.journal.available_space(), 0);
    rig.complete_first();
    assert_eq!(rig.journal.available_space(), PER_BLOCK - 2);
    rig.disk.run();
    assert_eq!(rig.committed(), 6 * PER_BLOCK + 2);
    assert_eq!(heads(&rig.check(7, 6 * PER_BLOCK, 2)), (2, 2));
}

#[test]
fn the_head_moves_over_all_that_is_free_and_stops_at_what_is_held() {
    let mut rig = Rig::new(8);
    rig.commit(6 * PER_BLOCK);
    rig.release_entries(3);
    rig.disk.run();
    assert_eq!(rig.journal.available_space(), 0);
    rig.release_entries(1);
    rig.disk.run();
    assert_eq!(rig.journal.available_space(), PER_BLOCK);
    rig.release_entries(2);
    rig.disk.run();
    assert_eq!(rig.journal.available_space(), 3 * PER_BLOCK);
    assert_eq!(
        rig.journal.state_for_super_block().journal_start,
        SequenceNumber(4)
    );
    rig.commit(1);
    assert_eq!(heads(&rig.read(7).0), (4, 4));
}

#[test]
fn block_map_and_slab_journals_hold_back_their_own_heads() {
    let mut rig = Rig::new(8);
    rig.commit(4 * PER_BLOCK);
    rig.journal.acquire(SequenceNumber(1), LOGICAL);
    rig.journal.acquire(SequenceNumber(3), PHYSICAL);
    for sequence in 1..=4 {
        rig.release_entries(sequence);
    }
    rig.disk.run();
    rig.commit(1);
    assert_eq!(heads(&rig.read(5).0), (1, 3));
    let start = rig.journal.state_for_super_block().journal_start;
    assert_eq!(start, SequenceNumber(1), "the lesser head");
    rig.journal.release(SequenceNumber(1), LOGICAL);
    rig.disk.run();
    rig.commit(1);
    assert_eq!(heads(&rig.read(5).0), (5, 3));
    rig.journal.release(SequenceNumber(3), PHYSICAL);
    rig.disk.run();
    rig.commit(1);
    assert_eq!(heads(&rig.read(5).0), (5, 5));
}

#[test]
fn a_block_is_held_until_it_is_full_and_written_for_the_last_time() {
    let mut rig = Rig::new(8);
    rig.commit(PER_BLOCK - 1);
    for number in 0..PER_BLOCK - 1 {
        rig.journal.release_entry(point(1, number));
    }
    rig.submit(1);
    rig.disk.step();
    rig.complete_first();
    assert_eq!(rig.waiting(), [Some(1)]);
    rig.complete_first();
    rig.journal.release_entry(point(1, PER_BLOCK - 1));
    assert_eq!(rig.waiting(), [], "the newest written block stays");
    rig.commit(PER_BLOCK);
    rig.release_entries(2);
    rig.disk.run();
    assert_eq!(
        rig.journal.state_for_super_block().journal_start,
        SequenceNumber(2)
    );
}

#[test]
fn holds_given_up_during_a_reap_are_reaped_after_it() {
    let mut rig = Rig::new(8);
    rig.commit(5 * PER_BLOCK);
    let space = PER_BLOCK;
    rig.release_entries(1);
    assert_eq!(rig.waiting(), [None]);
    rig.release_entries(2);
    rig.release_entries(3);
    assert_eq!(rig.waiting(), [None], "one flush at a time");
    rig.complete_first();
    assert_eq!(rig.journal.available_space(), space + PER_BLOCK);
    assert_eq!(rig.waiting(), [None], "what was freed meanwhile");
    rig.complete_first();
    assert_eq!(rig.journal.available_space(), space + 3 * PER_BLOCK);
    assert!(rig.waiting().is_empty());
}

#[test]
fn nothing_is_flushed_while_no_head_can_move() {
    let mut rig = Rig::new(8);
    rig.commit(3 * PER_BLOCK);
    let before = rig.disk.trace.len();
    rig.journal.acquire(SequenceNumber(2), PHYSICAL);
    rig.release_entries(2);
    rig.release_entries(3);
    rig.journal.release(SequenceNumber(2), PHYSICAL);
    rig.disk.run();
    assert_eq!(rig.disk.trace.len(), before, "block 1 is held");
}

#[test]
fn slab_journals_are_asked_above_two_thirds_and_again_when_more_depends_on_them() {
    let mut rig = Rig::new(16);
    rig.commit(1);
    rig.journal.acquire(SequenceNumber(1), PHYSICAL);
    rig.commit(10 * PER_BLOCK - 1);
    assert_eq!(rig.volume.asked.borrow().len(), 0, "ten of sixteen blocks");
    rig.commit(1);
    assert_eq!(*rig.volume.asked.borrow(), [1]);
    assert_eq!(rig.journal.statistics().slab_journal_commits_requested, 1);

    // Up to the last entry's release a slab journal may come to hold block 1: those are asked too.
    rig.release_entries(1);
    assert_eq!(*rig.volume.asked.borrow(), [1, 1]);
    rig.journal.acquire(SequenceNumber(2), PHYSICAL);
    rig.journal.release(SequenceNumber(1), PHYSICAL);
    rig.disk.run();
    assert_eq!(*rig.volume.asked.borrow(), [1, 1], "ten again");
    rig.commit(PER_BLOCK);
    assert_eq!(*rig.volume.asked.borrow(), [1, 1, 2], "the new head");
}

#[test]
fn slab_journals_that_hold_nothing_are_not_asked() {
    let mut rig = Rig::new(16);
    rig.commit(12 * PER_BLOCK);
    assert_eq!(rig.volume.asked.borrow().len(), 0);
    rig.journal.acquire(SequenceNumber(1), PHYSICAL);
    rig.release_entries(1);
    assert_eq!(*rig.volume.asked.borrow(), [1]);
}

#[test]
fn the_block_map_alone_makes_nobody_ask_the_slab_journals() {
    let mut rig = Rig::new(16);
    for sequence in 1..=9 {
        rig.commit(PER_BLOCK);
        rig.journal.acquire(SequenceNumber(sequence), LOGICAL);
        rig.release_entries(sequence);
    }
    rig.commit(3 * PER_BLOCK);
    assert_eq!(rig.journal.available_space(), 0);
    assert_eq!(rig.volume.asked.borrow().len(), 0);
}

#[test]
fn with_few_blocks_in_memory_entries_wait_for_one_and_go_on() {
    let mut rig = Rig::new(8);
    rig.submit(5 * PER_BLOCK);
    assert_eq!(rig.journal.tail(), SequenceNumber(3), "two in memory");
    rig.disk.run();
    assert_eq!(rig.committed(), 5 * PER_BLOCK);
    assert_eq!(rig.journal.statistics().disk_full, 0);
    for sequence in 1..=5 {
        rig.check(sequence, (sequence - 1) * PER_BLOCK, PER_BLOCK);
    }
}
