//! Locks on physical blocks, the references they stand for, and counts that can not be.

use super::*;

const DATA: WriteKind = WriteKind::Data;
use ReferenceOperation::{BlockMapIncrement, DataDecrement, DataIncrement};

fn budget(lock: Result<DuplicateLock, VdoError>) -> IncrementBudget {
    match lock.unwrap() {
        DuplicateLock::Locked(budget) => budget,
        other => panic!("the block can be locked, and got {other:?}"),
    }
}

#[test]
fn a_block_being_written_can_not_be_shared_until_its_data_is_on_disk() {
    let mut fixture = Fixture::new(geometry(1, 6, 4));
    let pbn = fixture.zone.allocate(DATA).unwrap();
    let refused = fixture.zone.lock_duplicate(pbn).unwrap();
    assert!(matches!(refused, DuplicateLock::WriteLocked));
    let own = fixture.zone.downgrade_write(pbn, 1).unwrap();
    assert_eq!(
        own.left(),
        253,
        "the writer's own reference is not in the budget"
    );
    let other = budget(fixture.zone.lock_duplicate(pbn));
    fixture.increment(pbn);
    assert!(own.claim() && other.claim());
    fixture.increment(pbn);
    fixture.increment(pbn);
    fixture.zone.release(pbn);
    assert_eq!(other.left(), 251);
    fixture.zone.release(pbn);
    assert_eq!(fixture.zone.locked_blocks(), 0);
    assert!(!other.claim(), "the budget ended with the lock");
    assert_eq!(fixture.count(pbn), 3);
}

#[test]
fn each_whose_fragment_is_in_a_block_holds_it_and_has_a_reference_set_apart() {
    let mut fixture = Fixture::new(geometry(1, 6, 4));
    let pbn = fixture.zone.allocate(DATA).unwrap();
    let shared = fixture.zone.downgrade_write(pbn, 3).unwrap();
    assert_eq!(shared.left(), 251, "three of 254 are taken");
    for _ in 0..3 {
        fixture.increment(pbn);
    }
    fixture.zone.release(pbn);
    fixture.zone.release(pbn);
    assert!(shared.claim(), "one still holds it");
    fixture.increment(pbn);
    fixture.zone.release(pbn);
    assert_eq!((fixture.count(pbn), fixture.zone.locked_blocks()), (4, 0));
}

#[test]
fn a_lock_on_a_free_block_keeps_it_from_being_allocated() {
    let mut fixture = Fixture::new(geometry(1, 6, 4));
    let pbn = fixture.pbn(0, 0);
    let advice = budget(fixture.zone.lock_duplicate(pbn));
    assert_eq!((advice.left(), fixture.count(pbn)), (254, 255));
    assert_eq!(fixture.zone.allocated_blocks(), 1);
    assert_eq!(
        fixture.write(),
        fixture.pbn(0, 1),
        "the locked block is passed over"
    );
    budget(fixture.zone.lock_duplicate(pbn));
    fixture.zone.release(pbn);
    assert_eq!(fixture.count(pbn), 255, "one holder is left");
    fixture.zone.release(pbn);
    assert_eq!(
        (fixture.count(pbn), fixture.zone.allocated_blocks()),
        (0, 1)
    );
    budget(fixture.zone.lock_duplicate(pbn));
    fixture.increment(pbn);
    fixture.zone.release(pbn);
    assert_eq!(
        (fixture.count(pbn), fixture.zone.allocated_blocks()),
        (1, 2)
    );
}

#[test]
fn the_last_reference_may_go_while_a_lock_keeps_the_block() {
    let mut fixture = Fixture::new(geometry(1, 6, 4));
    let pbn = fixture.write();
    let shared = budget(fixture.zone.lock_duplicate(pbn));
    assert_eq!(shared.left(), 253);
    fixture.decrement(pbn);
    assert_eq!(
        (fixture.count(pbn), fixture.zone.allocated_blocks()),
        (255, 1)
    );
    assert!(shared.claim());
    fixture.increment(pbn);
    fixture.decrement(pbn);
    fixture.zone.release(pbn);
    assert_eq!(
        (fixture.count(pbn), fixture.zone.allocated_blocks()),
        (0, 0)
    );
}

#[test]
fn a_block_has_254_references_at_most_and_says_so_beforehand() {
    let mut fixture = Fixture::new(geometry(1, 6, 4));
    let pbn = fixture.write();
    let lock = budget(fixture.zone.lock_duplicate(pbn));
    while lock.claim() {
        fixture.increment(pbn);
    }
    assert_eq!(fixture.count(pbn), 254);
    let full = fixture.zone.lock_duplicate(pbn).unwrap();
    assert!(matches!(full, DuplicateLock::NoIncrements));
    fixture.zone.release(pbn);
    let error = fixture.change(pbn, DataIncrement).unwrap_err();
    assert!(
        error.to_string().contains("already has 254 references"),
        "{error}"
    );
    assert_eq!(
        fixture.services.why.borrow().as_ref(),
        Some(&error),
        "the volume is read-only"
    );
    assert_eq!(fixture.change(pbn, DataDecrement), Err(VdoError::ReadOnly));
    assert_eq!(fixture.zone.allocate(DATA), Err(VdoError::ReadOnly));
    assert_eq!(
        fixture.zone.lock_duplicate(pbn).unwrap_err(),
        VdoError::ReadOnly
    );
}

#[test]
fn pages_of_the_block_map_are_never_shared() {
    let mut fixture = Fixture::new(geometry(1, 6, 4));
    let pbn = fixture.zone.allocate(WriteKind::BlockMap).unwrap();
    let refused = fixture.zone.lock_duplicate(pbn).unwrap();
    assert!(matches!(refused, DuplicateLock::WriteLocked));
    assert_eq!(fixture.change(pbn, BlockMapIncrement), Ok(()));
    fixture.zone.release(pbn);
    assert_eq!(fixture.count(pbn), 254);
    let refused = fixture.zone.lock_duplicate(pbn).unwrap();
    assert!(matches!(refused, DuplicateLock::NoIncrements));
    let mut fixture = fixture.reopen();
    assert_eq!(fixture.count(pbn), 254);
    let page = fixture.zone.allocate(WriteKind::BlockMap).unwrap();
    let error = fixture.zone.downgrade_write(page, 1).unwrap_err();
    assert!(error.to_string().contains("BlockMap"), "{error}");
    assert!(fixture.services.why.borrow().is_some());
    assert_eq!(fixture.drain(true), Err(VdoError::ReadOnly));
}

#[test]
fn blocks_that_hold_no_data_can_not_be_locked() {
    let fixture = Fixture::new(geometry(1, 6, 4));
    let metadata = Pbn(fixture.pbn(0, 0).get() + fixture.geometry.slabs.config.data_blocks);
    for pbn in [Pbn::ZERO, metadata, Pbn(u64::MAX)] {
        let refused = fixture.zone.lock_duplicate(pbn).unwrap();
        assert!(matches!(refused, DuplicateLock::NoIncrements), "{pbn}");
    }
    assert_eq!(
        *fixture.services.why.borrow(),
        None,
        "bad advice does no harm"
    );
}

/// Changes that contradict the counts turn the volume read-only, and leave counts and journal alone.
#[test]
fn a_change_that_can_not_be_stops_the_volume() {
    type Prepare = fn(&mut Fixture) -> Pbn;
    let free: Prepare = |fixture| fixture.pbn(0, 3);
    let single: Prepare = Fixture::write;
    let provisional: Prepare = |fixture| fixture.zone.allocate(DATA).unwrap();
    let shared: Prepare = |fixture| {
        let pbn = fixture.write();
        fixture.increment(pbn);
        pbn
    };
    let outside: Prepare = |fixture| fixture.geometry.slabs.end();
    let cases = [
        (free, DataDecrement, "no reference and was to lose one"),
        (
            provisional,
            DataDecrement,
            "no reference and was to lose one",
        ),
        (
            free,
            BlockMapIncrement,
            "0 references and was to become a page",
        ),
        (
            single,
            BlockMapIncrement,
            "1 references and was to become a page",
        ),
        (
            shared,
            BlockMapIncrement,
            "2 references and was to become a page",
        ),
        (outside, DataIncrement, "no data block of physical zone 0"),
    ];
    for (prepare, operation, complaint) in cases {
        let mut fixture = Fixture::new(geometry(1, 6, 4));
        let pbn = prepare(&mut fixture);
        let before = fixture.zone.reference_count(pbn);
        let error = fixture.change(pbn, operation).unwrap_err();
        assert!(
            error.to_string().contains(complaint),
            "{operation:?}: {error}"
        );
        assert_eq!(fixture.services.why.borrow().as_ref(), Some(&error));
        assert_eq!(fixture.zone.reference_count(pbn), before);
    }
}

#[test]
fn changes_out_of_the_order_of_the_recovery_journal_stop_the_volume() {
    let mut fixture = Fixture::new(geometry(1, 6, 4));
    let (a, b) = (fixture.write(), fixture.write());
    let point = fixture.point();
    let change = |pbn, operation| ReferenceChange {
        pbn,
        operation,
        point,
    };
    let zone = Rc::clone(&fixture.zone);
    let ask = |change| zone.adjust(change).now().unwrap();
    assert_eq!(ask(change(a, DataIncrement)), Ok(()));
    assert_eq!(
        ask(change(b, DataDecrement)),
        Ok(()),
        "the two halves of one entry"
    );
    let error = ask(change(a, DataIncrement)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("arrives after one that follows it"),
        "{error}"
    );
    assert!(fixture.services.why.borrow().is_some());
}

#[test]
fn letting_go_of_a_block_that_is_not_locked_stops_the_volume() {
    let mut fixture = Fixture::new(geometry(1, 6, 4));
    let pbn = fixture.write();
    fixture.zone.release(pbn);
    let why = fixture.services.why.borrow().clone();
    assert!(
        why.unwrap()
            .to_string()
            .contains("should be locked and is not")
    );
}
