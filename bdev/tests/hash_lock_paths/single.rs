//! The paths of a write that is alone with its data, and of those that share without trouble.

use super::*;

#[test]
fn fresh_data_takes_the_shortest_path() {
    let mut zone = Zone::new();
    assert_eq!(zone.enter(0, true), [query(0, true)]);
    assert_eq!(zone.answer(0, Answer::NoAdvice), [write(0, true)]);
    assert_eq!(zone.written(0, 253), [exit(0)]);
    zone.ended_by(&[Row::Taken, Row::Unadvised, Row::Written]);
    assert_eq!(zone.machine.statistics(), Default::default());
}

#[test]
fn valid_advice_is_locked_verified_shared_and_unlocked() {
    let mut zone = Zone::new();
    assert_eq!(zone.enter(0, false), [query(0, false)]);
    assert_eq!(
        zone.answer(0, Answer::Advice(whole(OLD))),
        [lock(0, whole(OLD))]
    );
    assert_eq!(zone.locked(0, 9, 1), [verify(0, whole(OLD))]);
    assert_eq!(
        zone.answer(0, Answer::Verified { equal: true }),
        [dedupe(0, whole(OLD), 9)]
    );
    assert_eq!(
        zone.answer(0, Answer::Deduplicated),
        [unlock(0, whole(OLD), 9)]
    );
    assert_eq!(zone.unlocked(0), [exit(0)]);
    zone.ended_by(&[
        Row::Taken,
        Row::Advised,
        Row::Unverified,
        Row::Equal,
        Row::Last,
        Row::Unlocked,
    ]);
    assert_eq!(zone.machine.statistics().dedupe_advice_valid, 1);
}

#[test]
fn stale_advice_is_unlocked_written_and_updated() {
    let mut zone = Zone::new();
    zone.enter(0, true);
    assert_eq!(
        zone.answer(0, Answer::Advice(whole(OLD))),
        [lock(0, whole(OLD))]
    );
    assert_eq!(zone.locked(0, 9, 5), [verify(0, whole(OLD))]);
    assert_eq!(
        zone.answer(0, Answer::Verified { equal: false }),
        [unlock(0, whole(OLD), 9)]
    );
    assert_eq!(zone.unlocked(0), [write(0, true)]);
    assert_eq!(zone.written(0, 253), [update(0, own(0))]);
    assert_eq!(zone.answer(0, Answer::Updated), [exit(0)]);
    zone.ended_by(&[
        Row::Taken,
        Row::Advised,
        Row::Unverified,
        Row::Different,
        Row::UnlockedUnverified,
        Row::WrittenElsewhere,
        Row::Updated,
    ]);
    assert_eq!(zone.machine.statistics().dedupe_advice_stale, 1);
    assert_eq!(
        zone.world.increments[&9], 5,
        "nothing was claimed of a block that is not equal"
    );
}

#[test]
fn a_refused_block_makes_the_advice_stale_without_a_verification() {
    let mut zone = Zone::new();
    zone.enter(0, true);
    zone.answer(0, Answer::Advice(whole(OLD)));
    assert_eq!(zone.answer(0, Answer::NotLocked), [write(0, true)]);
    assert_eq!(zone.written(0, 253), [update(0, own(0))]);
    assert_eq!(zone.answer(0, Answer::Updated), [exit(0)]);
    zone.ended_by(&[
        Row::Taken,
        Row::Advised,
        Row::Refused,
        Row::WrittenElsewhere,
        Row::Updated,
    ]);
    assert_eq!(zone.machine.statistics().dedupe_advice_stale, 1);
}

#[test]
fn an_equal_block_without_increments_is_valid_advice_of_no_use() {
    let mut zone = Zone::new();
    zone.enter(0, true);
    zone.answer(0, Answer::Advice(whole(OLD)));
    zone.locked(0, 9, 0);
    assert_eq!(
        zone.answer(0, Answer::Verified { equal: true }),
        [unlock(0, whole(OLD), 9)]
    );
    assert_eq!(zone.unlocked(0), [write(0, true)]);
    assert_eq!(zone.written(0, 253), [update(0, own(0))]);
    assert_eq!(zone.answer(0, Answer::Updated), [exit(0)]);
    assert_eq!(zone.machine.transitions().get(Row::EqualUnclaimed), 1);
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
fn advice_that_names_no_data_is_no_advice() {
    for at in [
        Mapping::ZERO,
        Mapping::UNMAPPED,
        Mapping {
            pbn: Pbn(OLD),
            ..Mapping::UNMAPPED
        },
    ] {
        let mut zone = Zone::new();
        zone.enter(0, true);
        assert_eq!(zone.answer(0, Answer::Advice(at)), [write(0, true)]);
        zone.written(0, 253);
        zone.ended_by(&[Row::Taken, Row::Unadvised, Row::Written]);
    }
}

#[test]
fn those_that_come_while_one_writes_share_its_block() {
    let mut zone = Zone::new();
    zone.enter(0, true);
    assert_eq!(zone.enter(1, true), NOTHING);
    assert_eq!(zone.answer(0, Answer::NoAdvice), [write(0, false)]);
    assert_eq!(zone.enter(2, false), NOTHING);
    assert_eq!(
        zone.written(0, 253),
        [take(0), dedupe(1, own(0), 0), dedupe(2, own(0), 0), exit(0)]
    );
    assert_eq!(zone.enter(3, true), [dedupe(3, own(0), 0)]);
    assert_eq!(zone.answer(2, Answer::Deduplicated), [exit(2)]);
    assert_eq!(zone.answer(3, Answer::Deduplicated), [exit(3)]);
    assert_eq!(zone.answer(1, Answer::Deduplicated), [unlock(1, own(0), 0)]);
    assert_eq!(zone.unlocked(1), [exit(1)]);
    zone.ended_by(&[
        Row::Taken,
        Row::Unadvised,
        Row::WrittenForWaiters,
        Row::Last,
        Row::Unlocked,
    ]);
    assert_eq!(zone.machine.statistics().concurrent_data_matches, 3);
    assert_eq!(zone.world.increments[&0], 250);
}

#[test]
fn a_collision_shares_nothing_and_is_counted() {
    let mut zone = Zone::new();
    zone.enter_with(0, A, 1, true);
    assert_eq!(zone.enter_with(1, A, 2, true), [alone(1)]);
    assert_eq!(zone.enter_with(2, A, 2, false), [no_space(2)]);
    assert_eq!(zone.machine.lock_of(RequestId(1)), None);
    assert_eq!(zone.enter_with(3, A, 1, true), NOTHING);
    let other = Action::Query {
        request: RequestId(4),
        name: B,
        post: Some(own(4)),
    };
    assert_eq!(zone.enter_with(4, B, 2, true), [other]);
    let statistics = zone.machine.statistics();
    assert_eq!(statistics.concurrent_hash_collisions, 2);
    assert_eq!(statistics.concurrent_data_matches, 1);
}

#[test]
fn names_that_differ_in_one_byte_are_different_names() {
    for byte in 0..16 {
        let mut zone = Zone::new();
        let mut name = A;
        name.0[byte] ^= 1;
        zone.enter(0, true);
        assert_eq!(
            zone.enter_with(1, name, 0, true).len(),
            1,
            "it gets a lock of its own"
        );
        assert_eq!(zone.machine.locks().count(), 2);
    }
}

#[test]
fn the_first_waiter_with_an_allocation_writes_and_the_old_agent_waits_first() {
    let mut zone = Zone::new();
    for (n, allocated) in [(0, false), (1, false), (2, true), (3, true), (4, false)] {
        zone.enter(n, allocated);
    }
    assert_eq!(zone.answer(0, Answer::NoAdvice), [write(2, false)]);
    let lock = zone.machine.lock_of(RequestId(2)).expect("in a lock").id;
    let order: Vec<u32> = zone
        .machine
        .waiters(lock)
        .map(|request| request.0)
        .collect();
    assert_eq!(order, [0, 1, 3, 4]);
    let actions = zone.written(2, 253);
    assert_eq!(
        actions[..3],
        [take(2), dedupe(0, own(2), 2), dedupe(1, own(2), 2)]
    );
    zone.answer(0, Answer::Deduplicated);
    zone.answer(1, Answer::Deduplicated);
    zone.answer(3, Answer::Deduplicated);
    assert_eq!(
        zone.answer(4, Answer::Deduplicated),
        [update(4, own(2))],
        "the query left no advice, for want of an allocation"
    );
}

/// RollOver_t2 of the original: on a full volume a write whose data's block can bear no more references fails, and so do
/// all that wait with it; nothing is verified.
#[test]
fn without_any_allocation_all_fail_for_want_of_space() {
    let mut zone = Zone::new();
    for n in 0..3 {
        zone.enter(n, false);
    }
    assert_eq!(
        zone.answer(0, Answer::Advice(whole(OLD))),
        [lock(0, whole(OLD))]
    );
    assert_eq!(
        zone.answer(0, Answer::NotLocked),
        [no_space(0), no_space(1), no_space(2)]
    );
    zone.ended_by(&[Row::Taken, Row::Advised, Row::Refused, Row::NoSpace]);

    // One of them holding an allocation saves them all.
    zone.enter(0, false);
    zone.enter(1, true);
    assert_eq!(zone.answer(0, Answer::NoAdvice), [write(1, false)]);
}

#[test]
fn a_waiter_takes_the_agent_out_of_the_packer_once() {
    let mut zone = Zone::new();
    zone.enter(0, true);
    assert_eq!(zone.answer(0, Answer::NoAdvice), [write(0, true)]);
    assert_eq!(zone.enter(1, true), [cancel(0)]);
    assert_eq!(zone.enter(2, true), NOTHING);
}
