//! What becomes of freed blocks on the base device, if they are to be discarded there.

use super::*;
use crate::seam::{BaseOp, Nanos};

impl Fixture {
    /// A zone that discards what is freed, as soon as it is told to.
    fn discarding() -> Fixture {
        let fixture = Fixture::new(geometry(2, 6, 4));
        fixture.services.discards.set(true);
        let zone = Rc::clone(&fixture.zone);
        fixture.disk.scheduler.spawn(async move {
            loop {
                zone.ripen().await;
                // No request is under way in these tests.
                zone.discard_ripe().await;
            }
        });
        fixture
    }

    /// Lets what was freed be discarded: the blocks, by run.
    fn discard(&mut self) -> Vec<(u64, u32)> {
        let before = self.disk.trace.len();
        self.begin();
        self.disk.run();
        self.discards_since(before)
    }

    /// Lets the time come, and no I/O happen.
    fn begin(&self) {
        let due = self.zone.next_discards();
        assert_eq!(
            self.zone.begin_discards(due.unwrap_or(Nanos(u64::MAX))),
            due.is_some()
        );
    }

    fn discards_since(&self, before: usize) -> Vec<(u64, u32)> {
        let new = self.disk.trace[before..].iter();
        let discards = new.filter(|(op, ..)| *op == BaseOp::Discard);
        discards.map(|(_, pbn, blocks)| (*pbn, *blocks)).collect()
    }

    fn place(&self, slab: u32, offset: u32) -> u64 {
        self.pbn(slab, offset).get()
    }
}

#[test]
fn freed_blocks_are_discarded_together_once_they_were_free_for_a_while() {
    let mut fixture = Fixture::discarding();
    let blocks: Vec<Pbn> = (0..8).map(|_| fixture.write()).collect();
    assert_eq!(fixture.zone.next_discards(), None, "nothing was freed");
    for freed in [1, 3, 2, 6] {
        fixture.decrement(blocks[freed]);
    }
    let due = fixture.zone.next_discards();
    assert_eq!(due, Some(DEFAULT_DISCARD_DELAY));
    assert!(
        !fixture
            .zone
            .begin_discards(Nanos(DEFAULT_DISCARD_DELAY.0 - 1)),
        "it is not time yet"
    );
    assert_eq!(fixture.statistics().freed_discards.blocks_waiting, 4);
    let expected = [(fixture.place(0, 1), 3), (fixture.place(0, 6), 1)];
    assert_eq!(fixture.discard(), expected);
    let counted = fixture.statistics().freed_discards;
    assert_eq!((counted.discards, counted.blocks_discarded), (2, 4));
    assert_eq!(counted.blocks_waiting, 0);
    assert_eq!(fixture.zone.next_discards(), None);
    assert_eq!(fixture.discard(), [], "once is enough");
}

#[test]
fn only_blocks_that_are_free_still_are_discarded() {
    let mut fixture = Fixture::discarding();
    let shared = fixture.write();
    fixture.increment(shared);
    let (used_again, locked, taken_back) = (fixture.write(), fixture.write(), fixture.write());
    fixture.decrement(shared);
    for freed in [used_again, locked, taken_back] {
        fixture.decrement(freed);
    }
    // One is given a reference again, by whoever locked it; one is locked; one was, and is free after that.
    for pbn in [used_again, locked, taken_back] {
        let lock = fixture.zone.lock_duplicate(pbn).unwrap();
        assert!(matches!(lock, DuplicateLock::Locked(_)));
    }
    fixture.increment(used_again);
    fixture.zone.release(used_again);
    fixture.zone.release(taken_back);
    assert_eq!(fixture.discard(), [(taken_back.get(), 1)]);
    fixture.zone.release(locked);
    assert_eq!(fixture.discard(), [(locked.get(), 1)]);
    fixture.decrement(used_again);
    assert_eq!(fixture.discard(), [(used_again.get(), 1)]);
    assert_eq!(fixture.count(shared), 1);
}

#[test]
fn a_mark_that_is_ripe_is_fresh_again_when_its_block_was_used_and_freed_meanwhile() {
    let mut fixture = Fixture::new(geometry(2, 6, 4));
    fixture.services.discards.set(true);
    let (one, other) = (fixture.write(), fixture.write());
    fixture.decrement(one);
    fixture.decrement(other);
    fixture.begin();
    let zone = Rc::clone(&fixture.zone);
    fixture.disk.block_on(async move { zone.ripen().await });
    // Who took it away the second time may not have changed the block map yet.
    assert!(fixture.zone.lock_duplicate(one).is_ok());
    fixture.increment(one);
    fixture.zone.release(one);
    fixture.decrement(one);
    let zone = Rc::clone(&fixture.zone);
    let before = fixture.disk.trace.len();
    fixture
        .disk
        .block_on(async move { zone.discard_ripe().await });
    assert_eq!(fixture.discards_since(before), [(other.get(), 1)]);
    assert!(fixture.zone.next_discards().is_some(), "its turn comes");
}

#[test]
fn a_block_that_is_being_discarded_is_neither_shared_nor_allocated_and_free_all_the_same() {
    let mut fixture = Fixture::discarding();
    let all: Vec<Pbn> = (0..fixture.zone.data_blocks())
        .map(|_| fixture.write())
        .collect();
    let freed = all[5];
    fixture.decrement(freed);
    let used = fixture.zone.allocated_blocks();
    fixture.disk.hold = true;
    assert_eq!(fixture.discard(), [(freed.get(), 1)]);
    assert_eq!(fixture.zone.allocated_blocks(), used);
    let refused = fixture.zone.lock_duplicate(freed).unwrap();
    assert!(matches!(refused, DuplicateLock::NoIncrements));
    let none = fixture.zone.allocate(WriteKind::Data);
    assert_eq!(none, Err(VdoError::NoSpace));
    assert_eq!(fixture.services.discarding.get(), 1, "it is worth a wait");
    fixture.disk.hold = false;
    fixture.disk.run();
    assert_eq!(fixture.services.discarding.get(), 0);
    assert_eq!(fixture.zone.allocate(WriteKind::Data), Ok(freed));
}

#[test]
fn a_reference_to_a_block_that_is_being_discarded_turns_the_volume_read_only() {
    let mut fixture = Fixture::discarding();
    let freed = fixture.write();
    fixture.decrement(freed);
    fixture.disk.hold = true;
    fixture.discard();
    let refused = fixture.change(freed, ReferenceOperation::DataIncrement);
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("is being discarded"), "{refused}");
    assert!(fixture.services.is_read_only());
}

#[test]
fn a_discard_that_fails_is_told_and_its_blocks_are_free() {
    let mut fixture = Fixture::discarding();
    let freed = fixture.write();
    fixture.decrement(freed);
    fixture.disk.bad_discards = true;
    fixture.discard();
    assert_eq!(fixture.count(freed), 0);
    let counted = fixture.statistics().freed_discards;
    assert_eq!((counted.failed_discards, counted.blocks_discarded), (1, 0));
    assert!(!fixture.services.discards.get(), "no more are wanted");
    assert!(!fixture.services.is_read_only());
    let freed = fixture.write();
    fixture.decrement(freed);
    assert_eq!(fixture.zone.next_discards(), None);
}

#[test]
fn what_has_a_mark_when_they_are_switched_off_is_forgotten() {
    let mut fixture = Fixture::discarding();
    let freed = fixture.write();
    fixture.decrement(freed);
    fixture.services.discards.set(false);
    assert_eq!(fixture.discard(), []);
    fixture.services.discards.set(true);
    assert_eq!(fixture.discard(), []);
    assert_eq!(fixture.statistics().freed_discards.blocks_waiting, 0);
}

#[test]
fn a_shutdown_discards_what_was_freed_before_it_writes_the_counters() {
    let mut fixture = Fixture::discarding();
    let (kept, freed) = (fixture.write(), fixture.write());
    fixture.decrement(freed);
    let before = fixture.disk.trace.len();
    assert_eq!(fixture.drain(true), Ok(()));
    assert_eq!(fixture.discards_since(before), [(freed.get(), 1)]);
    assert_eq!(fixture.zone.next_discards(), None);
    let fixture = fixture.reopen();
    assert_eq!((fixture.count(kept), fixture.count(freed)), (1, 0));
}

#[test]
fn a_volume_that_is_read_only_discards_nothing_and_comes_to_rest() {
    let mut fixture = Fixture::discarding();
    let freed = fixture.write();
    fixture.decrement(freed);
    fixture.services.enter_read_only(&VdoError::ReadOnly);
    let before = fixture.disk.trace.len();
    assert_eq!(fixture.drain(true), Err(VdoError::ReadOnly));
    assert_eq!(fixture.discards_since(before), []);
}
