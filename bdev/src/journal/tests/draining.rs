//! Suspending, saving, and going on.

use super::*;

type Drained = Rc<RefCell<Option<Result<(), VdoError>>>>;

/// Starts a drain; the result appears when it is done.
fn drain(rig: &Rig, save: bool) -> Drained {
    let drained = Drained::default();
    let (journal, slot) = (Rc::clone(&rig.journal), Rc::clone(&drained));
    rig.disk.scheduler.spawn(async move {
        let result = journal.drain(save).await;
        *slot.borrow_mut() = Some(result);
    });
    drained
}

#[test]
fn a_drain_waits_for_entries_and_their_writes_and_takes_no_more() {
    let mut rig = Rig::new(8);
    rig.submit(PER_BLOCK + 1);
    let drained = drain(&rig, false);
    let mut rounds = 0;
    while !rig.waiting().is_empty() {
        assert_eq!(*drained.borrow(), None);
        assert_eq!(rig.journal.submit(0, entry(0)), Err(VdoError::ShuttingDown));
        rig.complete_first();
        rounds += 1;
    }
    assert_eq!(rounds, 4, "two flushes, a full block, a partial one");
    assert_eq!(*drained.borrow(), Some(Ok(())));
    assert_eq!(rig.committed(), PER_BLOCK + 1);
    assert_eq!(rig.journal.submit(0, entry(0)), Err(VdoError::ShuttingDown));
}

#[test]
fn a_suspended_journal_goes_on_in_the_same_block() {
    let mut rig = Rig::new(8);
    rig.commit(3);
    let drained = drain(&rig, false);
    rig.disk.run();
    assert_eq!(*drained.borrow(), Some(Ok(())));
    let state = rig.journal.state_for_super_block();
    assert_eq!(state.journal_start, SequenceNumber(1), "the head");
    assert_eq!(rig.journal.resume(), Ok(()));
    rig.commit(2);
    rig.check(1, 0, 5);
    assert_eq!(rig.committed(), 5);
    assert!(rig.journal.resume().is_err(), "it is not suspended now");
}

#[test]
fn a_saved_journal_starts_anew_one_past_its_newest_block() {
    let mut rig = Rig::new(8);
    rig.commit(PER_BLOCK + 3);
    rig.release_entries(1);
    for number in 0..3 {
        rig.journal.release_entry(point(2, number));
    }
    rig.disk.run();
    let drained = drain(&rig, true);
    rig.disk.run();
    assert_eq!(*drained.borrow(), Some(Ok(())));
    let state = rig.journal.state_for_super_block();
    assert_eq!(state.journal_start, SequenceNumber(3));

    assert_eq!(rig.journal.resume(), Ok(()));
    assert_eq!(rig.journal.available_space(), 6 * PER_BLOCK);
    rig.commit(1);
    let header = rig.check(3, PER_BLOCK + 3, 1);
    assert_eq!(header.block_map_head, SequenceNumber(3));
    rig.check(2, PER_BLOCK, 3);

    // And so does one that is opened from the super block.
    let mut settings = config(8);
    settings.state = state;
    let mut reopened = Rig::with(settings);
    reopened.commit(1);
    reopened.check(3, 0, 1);
    assert_eq!(reopened.journal.logical_blocks_used(), 0);
}

#[test]
fn holds_on_a_saved_journal_must_be_gone_when_it_goes_on() {
    let mut rig = Rig::new(8);
    rig.commit(1);
    rig.journal.acquire(SequenceNumber(1), PHYSICAL);
    rig.journal.release_entry(point(1, 0));
    let drained = drain(&rig, true);
    rig.disk.run();
    assert_eq!(*drained.borrow(), Some(Ok(())));
    // The slab journals are saved after the journal: released while it is at rest.
    let mut other = Rig::new(8);
    rig.journal.release(SequenceNumber(1), PHYSICAL);
    assert_eq!(rig.journal.resume(), Ok(()));

    other.commit(1);
    let drained = drain(&other, true);
    other.disk.run();
    assert_eq!(*drained.borrow(), Some(Ok(())));
    assert_eq!(other.journal.resume(), Err(VdoError::ReadOnly));
    assert!(other.volume.is_read_only());
}

#[test]
fn holds_given_up_at_rest_are_reaped_only_after_resuming() {
    let mut rig = Rig::new(16);
    rig.commit(2 * PER_BLOCK);
    rig.journal.acquire(SequenceNumber(1), LOGICAL);
    rig.journal.acquire(SequenceNumber(1), PHYSICAL);
    rig.release_entries(1);
    rig.disk.run();
    let drained = drain(&rig, false);
    rig.disk.run();
    assert_eq!(*drained.borrow(), Some(Ok(())));
    let before = rig.disk.trace.len();
    rig.journal.release(SequenceNumber(1), LOGICAL);
    rig.journal.release(SequenceNumber(1), PHYSICAL);
    rig.disk.run();
    assert_eq!(rig.disk.trace.len(), before, "no I/O at rest");
    let head = || rig.journal.state_for_super_block().journal_start;
    assert_eq!(head(), SequenceNumber(1));
    assert_eq!(rig.journal.resume(), Ok(()));
    rig.disk.run();
    assert_eq!(rig.journal.state_for_super_block().journal_start.get(), 2);
}

#[test]
fn a_drain_waits_for_a_reap_under_way_and_starts_none() {
    let mut rig = Rig::new(16);
    rig.commit(3 * PER_BLOCK);
    rig.release_entries(1);
    assert_eq!(rig.waiting(), [None]);
    let drained = drain(&rig, false);
    rig.disk.step();
    rig.release_entries(2);
    assert_eq!(rig.waiting(), [None]);
    assert_eq!(*drained.borrow(), None);
    rig.complete_first();
    assert_eq!(*drained.borrow(), Some(Ok(())));
    assert!(rig.waiting().is_empty());
    assert_eq!(rig.journal.state_for_super_block().journal_start.get(), 2);
}

#[test]
fn a_drain_reaps_for_entries_that_wait_for_space() {
    let mut rig = Rig::new(8);
    rig.commit(6 * PER_BLOCK);
    rig.commit(1);
    let drained = drain(&rig, false);
    rig.disk.run();
    assert_eq!(*drained.borrow(), None);
    rig.release_entries(1);
    rig.disk.run();
    assert_eq!(*drained.borrow(), Some(Ok(())));
    assert_eq!(rig.committed(), 6 * PER_BLOCK + 1);
}

#[test]
fn a_drain_of_a_read_only_journal_ends_and_says_so() {
    for save in [false, true] {
        let mut rig = Rig::new(8);
        rig.commit(6 * PER_BLOCK);
        rig.commit(1);
        let drained = drain(&rig, save);
        rig.disk.run();
        assert_eq!(*drained.borrow(), None);
        rig.volume.enter_read_only(&VdoError::NoSpace);
        rig.disk.run();
        assert_eq!(*drained.borrow(), Some(Err(VdoError::ReadOnly)));
        assert_eq!(rig.failed(), 1);
        let state = rig.journal.state_for_super_block();
        assert_eq!(state.journal_start, SequenceNumber(1), "to be recovered");
        assert_eq!(rig.journal.resume(), Err(VdoError::ReadOnly));
    }
}

#[test]
fn a_drain_during_which_a_write_fails_ends() {
    let mut rig = Rig::new(64);
    rig.disk.bad_writes.insert(rig.place(1));
    rig.submit(3 * PER_BLOCK + 1);
    let drained = drain(&rig, true);
    rig.disk.run();
    assert_eq!(*drained.borrow(), Some(Err(VdoError::ReadOnly)));
    assert_eq!(rig.failed() as u64, rig.next);
}
