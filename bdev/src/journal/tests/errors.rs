//! What becomes of entries when something goes wrong.

use super::*;

#[test]
fn a_failed_write_fails_its_entries_and_all_later_ones() {
    let mut rig = Rig::new(64);
    rig.commit(2 * PER_BLOCK);
    let before = rig.committed() as usize;
    rig.disk.bad_writes.insert(rig.place(4));
    rig.submit(3 * PER_BLOCK + 1);
    rig.disk.step();
    rig.complete_first();
    assert_eq!(rig.waiting(), [Some(3), Some(4), Some(5)]);
    rig.complete_first();
    assert_eq!(rig.volume.done.borrow().len(), before + PER_BLOCK as usize);
    rig.complete_first();
    assert_eq!(
        rig.volume.done.borrow().len(),
        before + 2 * PER_BLOCK as usize,
        "block 5 is still being written, and its entries with it"
    );
    rig.disk.run();
    assert_eq!(rig.failed(), 2 * PER_BLOCK as usize + 1);
    assert_eq!(rig.volume.done.borrow().len() as u64, rig.next);
    let why = rig.volume.read_only.borrow().clone();
    let place = Pbn(rig.place(4));
    assert!(matches!(why, Some(VdoError::Io { operation: "write", pbn, .. }) if pbn == place));
    assert_eq!(
        rig.journal.submit(0, entry(0)),
        Err(VdoError::ReadOnly),
        "and no more are taken"
    );
    let counted = rig.journal.statistics();
    assert_eq!(counted.entries.committed, 4 * PER_BLOCK, "4 of 5 blocks");
}

#[test]
fn a_failed_flush_writes_nothing_and_fails_the_round() {
    let mut rig = Rig::new(64);
    rig.disk.bad_flushes = true;
    rig.commit(PER_BLOCK + 3);
    assert_eq!(rig.failed() as u64, PER_BLOCK + 3);
    assert!(rig.disk.blocks.is_empty());
    assert!(rig.volume.is_read_only());
}

#[test]
fn a_failed_flush_before_reaping_moves_no_head() {
    let mut rig = Rig::new(8);
    rig.commit(6 * PER_BLOCK);
    rig.submit(1);
    rig.disk.bad_flushes = true;
    rig.release_entries(1);
    rig.disk.run();
    assert_eq!(rig.failed(), 1);
    assert_eq!(rig.journal.available_space(), 0);
    let saved = rig.journal.state_for_super_block();
    assert_eq!(saved.journal_start, SequenceNumber(1));
}

#[test]
fn entries_waiting_for_space_fail_when_the_volume_turns_read_only_elsewhere() {
    let mut rig = Rig::new(8);
    rig.commit(6 * PER_BLOCK);
    rig.commit(2);
    rig.submit(1);
    rig.disk.run();
    assert_eq!(rig.committed(), 6 * PER_BLOCK, "three wait for space");
    rig.volume.enter_read_only(&VdoError::NoSpace);
    rig.disk.run();
    assert_eq!(rig.failed(), 3);
}

#[test]
fn a_round_that_waits_for_its_flush_is_not_written_once_the_volume_is_read_only() {
    let mut rig = Rig::new(8);
    rig.submit(3);
    assert_eq!(rig.waiting(), [None]);
    rig.volume.enter_read_only(&VdoError::NoSpace);
    assert_eq!(rig.failed(), 0, "their end is not known while I/O is out");
    rig.disk.run();
    assert_eq!(rig.failed(), 3);
    assert!(rig.disk.blocks.is_empty());
}

#[test]
fn an_entry_whose_write_succeeds_after_the_volume_turned_read_only_fails() {
    let mut rig = Rig::new(8);
    rig.submit(1);
    rig.disk.step();
    rig.complete_first();
    assert_eq!(rig.waiting(), [Some(1)]);
    rig.volume.enter_read_only(&VdoError::NoSpace);
    rig.disk.run();
    assert_eq!(rig.failed(), 1);
}

#[test]
fn holds_counted_wrongly_make_the_volume_read_only() {
    let wrongly = |misuse: &dyn Fn(&RecoveryJournal)| {
        let mut rig = Rig::new(8);
        rig.commit(PER_BLOCK + 1);
        misuse(&rig.journal);
        let why = rig.volume.read_only.borrow().clone();
        matches!(why, Some(VdoError::Inconsistent(_)))
    };
    assert!(wrongly(
        &|journal| journal.release(SequenceNumber(1), LOGICAL)
    ));
    assert!(wrongly(
        &|journal| journal.acquire(SequenceNumber(9), PHYSICAL)
    ));
    assert!(wrongly(&|journal| journal.release_entry(point(3, 0))));
    assert!(wrongly(&|journal| {
        for _ in 0..=PER_BLOCK {
            journal.release_entry(point(1, 0));
        }
    }));
    let fine = |journal: &RecoveryJournal| {
        journal.acquire(SequenceNumber(0), LOGICAL);
        journal.release(SequenceNumber(0), PHYSICAL);
        journal.acquire(SequenceNumber(2), LOGICAL);
        journal.release(SequenceNumber(2), LOGICAL);
        journal.release_entry(point(1, 0));
    };
    assert!(!wrongly(&fine), "block zero means none");
}

#[test]
fn the_journal_ends_with_its_sequence_numbers() {
    let mut settings = config(8);
    settings.state.journal_start = SequenceNumber((1 << 48) - 2);
    let mut rig = Rig::with(settings);
    rig.commit(PER_BLOCK);
    assert_eq!(rig.committed(), PER_BLOCK);
    rig.commit(1);
    assert_eq!(rig.failed(), 1);
    assert!(rig.volume.is_read_only());
}
