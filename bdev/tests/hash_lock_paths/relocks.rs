//! Those who come late: during the update, during the unlocking, and after the lock has written once.

use super::*;

#[test]
fn someone_who_comes_during_an_update_shares_the_writers_block() {
    let mut zone = Zone::new();
    zone.enter(0, false);
    zone.enter(1, true);
    zone.answer(0, Answer::NoAdvice);
    assert_eq!(zone.state(0), LockState::Writing);
    zone.written(1, 253);
    assert_eq!(zone.answer(0, Answer::Deduplicated), [update(0, own(1))]);
    assert_eq!(zone.enter(2, true), NOTHING);
    assert_eq!(
        zone.answer(0, Answer::Updated),
        [dedupe(2, own(1), 1), exit(0)]
    );
    assert_eq!(zone.answer(2, Answer::Deduplicated), [unlock(2, own(1), 1)]);
    zone.unlocked(2);
    assert!(zone.machine.is_idle());

    // The same, when the block's lock is the writer's own until then.
    let mut zone = Zone::new();
    zone.enter(0, true);
    zone.answer(0, Answer::Advice(whole(OLD)));
    zone.answer(0, Answer::NotLocked);
    assert_eq!(zone.written(0, 253), [update(0, own(0))]);
    zone.enter(1, false);
    assert_eq!(
        zone.answer(0, Answer::Updated),
        [take(0), dedupe(1, own(0), 0), exit(0)]
    );
    zone.answer(1, Answer::Deduplicated);
    zone.unlocked(1);
    assert!(zone.machine.is_idle());
}

/// Request 0 deduplicated against the old block and is about to unlock it; request 1 waits.
fn unlocking_with_one_waiter() -> Zone {
    let mut zone = Zone::new();
    zone.enter(0, true);
    zone.answer(0, Answer::Advice(whole(OLD)));
    zone.locked(0, 9, 1);
    zone.answer(0, Answer::Verified { equal: true });
    assert_eq!(
        zone.answer(0, Answer::Deduplicated),
        [unlock(0, whole(OLD), 9)]
    );
    assert_eq!(zone.enter(1, true), NOTHING);
    zone
}

#[test]
fn after_unlocking_a_waiter_locks_and_verifies_again_but_the_advice_counts_once() {
    let mut zone = unlocking_with_one_waiter();
    assert_eq!(zone.unlocked(0), [exit(0), lock(1, whole(OLD))]);
    assert_eq!(zone.locked(1, 10, 1), [verify(1, whole(OLD))]);
    assert_eq!(
        zone.answer(1, Answer::Verified { equal: true }),
        [dedupe(1, whole(OLD), 10)]
    );
    zone.answer(1, Answer::Deduplicated);
    assert_eq!(zone.unlocked(1), [exit(1)]);
    assert!(zone.machine.is_idle());
    assert_eq!(zone.machine.statistics().dedupe_advice_valid, 1);

    // The block may be someone else's by then.
    let mut zone = unlocking_with_one_waiter();
    zone.unlocked(0);
    zone.locked(1, 10, 1);
    assert_eq!(
        zone.answer(1, Answer::Verified { equal: false }),
        [unlock(1, whole(OLD), 10)]
    );
    assert_eq!(zone.unlocked(1), [write(1, true)]);
    let statistics = zone.machine.statistics();
    assert_eq!(
        (
            statistics.dedupe_advice_valid,
            statistics.dedupe_advice_stale
        ),
        (1, 0)
    );
}

#[test]
fn an_agent_that_holds_its_logical_block_locks_again_without_a_verification() {
    let anchored = Answer::Unlocked { anchored: true };
    let mut zone = unlocking_with_one_waiter();
    assert_eq!(zone.answer(0, anchored), [lock(0, whole(OLD))]);
    assert_eq!(zone.locked(0, 10, 1), [dedupe(1, whole(OLD), 10), exit(0)]);
    zone.answer(1, Answer::Deduplicated);
    zone.unlocked(1);
    assert_eq!(zone.machine.transitions().get(Row::RelockedClaimed), 1);
    assert!(zone.machine.is_idle());

    // Nothing left to claim: the waiter writes.
    let mut zone = unlocking_with_one_waiter();
    zone.answer(0, anchored);
    assert_eq!(zone.locked(0, 10, 0), [unlock(0, whole(OLD), 10)]);
    assert_eq!(zone.answer(0, anchored), [exit(0), write(1, true)]);
    assert_eq!(zone.written(1, 253), [update(1, own(1))]);
    zone.answer(1, Answer::Updated);
    assert_eq!(zone.machine.transitions().get(Row::RelockedUnclaimed), 1);
    assert!(zone.machine.is_idle());

    // Not to be locked at all: the same.
    let mut zone = unlocking_with_one_waiter();
    zone.answer(0, anchored);
    assert_eq!(zone.answer(0, Answer::NotLocked), [exit(0), write(1, true)]);
}

#[test]
fn a_lock_writes_once_in_its_life_and_is_replaced_instead_of_writing_again() {
    let wrote_and_shared = || {
        let mut zone = Zone::new();
        zone.enter(0, true);
        zone.enter(1, true);
        zone.answer(0, Answer::NoAdvice);
        zone.written(0, 1);
        zone.answer(1, Answer::Deduplicated);
        zone.enter(2, true);
        assert_eq!(zone.unlocked(1), [exit(1), lock(2, own(0))]);
        zone
    };

    let mut zone = wrote_and_shared();
    assert_eq!(zone.answer(2, Answer::NotLocked), [write(2, true)]);
    assert_eq!(zone.machine.transitions().get(Row::RefusedAfterWriting), 1);
    assert_eq!(zone.machine.locks().count(), 1, "the old one is gone");
    assert_eq!(zone.written(2, 253), [update(2, own(2))]);
    zone.answer(2, Answer::Updated);
    assert!(zone.machine.is_idle());

    let mut zone = wrote_and_shared();
    zone.locked(2, 10, 1);
    assert_eq!(
        zone.answer(2, Answer::Verified { equal: false }),
        [unlock(2, own(0), 10)]
    );
    assert_eq!(zone.unlocked(2), [write(2, true)]);
    assert_eq!(
        zone.machine.transitions().get(Row::UnverifiedAfterWriting),
        1
    );
    zone.written(2, 253);
    zone.answer(2, Answer::Updated);
    assert!(zone.machine.is_idle());
    assert_eq!(
        zone.machine.statistics().dedupe_advice_stale,
        0,
        "there was no advice, so it was not stale"
    );
}
