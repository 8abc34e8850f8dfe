//! When a block's references run out, and when the copy is a fragment of a packed block.

use super::*;

/// RollOver_t1 of the original: the 254th reference is the last one, and the next write goes to a new block.
#[test]
fn the_255th_reference_forks_the_lock() {
    let mut zone = Zone::new();
    zone.enter(0, true);
    zone.answer(0, Answer::NoAdvice);
    for n in 1..=253 {
        assert_eq!(
            zone.enter(n, true),
            if n == 1 { vec![cancel(0)] } else { vec![] }
        );
    }
    let actions = zone.written(0, 253);
    assert_eq!(actions[0], take(0));
    assert_eq!(actions[1], dedupe(1, own(0), 0));
    assert_eq!(actions[253..], [dedupe(253, own(0), 0), exit(0)]);

    assert_eq!(zone.enter(254, true), [write(254, true)]);
    assert_eq!(zone.machine.locks().count(), 2);
    let new = zone.machine.lock_of(RequestId(254)).expect("the new lock");
    assert!(new.registered && new.update_advice);
    let old = zone.machine.lock_of(RequestId(1)).expect("the old lock");
    assert!(!old.registered && !old.update_advice);
    assert_eq!((old.references, old.max_references), (253, 254));

    assert_eq!(
        zone.enter(255, true),
        [cancel(254)],
        "newcomers go to the new lock"
    );
    assert_eq!(
        zone.written(254, 253),
        [take(254), dedupe(255, own(254), 254), exit(254)]
    );
    assert_eq!(
        zone.answer(255, Answer::Deduplicated),
        [update(255, own(254))]
    );
    assert_eq!(
        zone.answer(255, Answer::Updated),
        [unlock(255, own(254), 254)]
    );
    assert_eq!(zone.unlocked(255), [exit(255)]);
    for n in 1..253 {
        assert_eq!(zone.answer(n, Answer::Deduplicated), [exit(n)]);
    }
    assert_eq!(
        zone.answer(253, Answer::Deduplicated),
        [unlock(253, own(0), 0)]
    );
    assert_eq!(zone.unlocked(253), [exit(253)]);
    assert!(zone.machine.is_idle());
    assert_eq!(zone.machine.path_statistics().forked, 1);
}

/// RollOver_t1, "Direct04": of 255 writes at once of data that was never seen, 254 share one block.
#[test]
fn waiters_for_whom_no_increment_is_left_move_to_a_new_lock_in_order() {
    let mut zone = Zone::new();
    zone.enter(0, true);
    for n in 1..6 {
        zone.enter(n, true);
    }
    zone.answer(0, Answer::NoAdvice);
    assert_eq!(
        zone.written(0, 2),
        [
            take(0),
            dedupe(1, own(0), 0),
            dedupe(2, own(0), 0),
            write(3, false),
            exit(0)
        ]
    );
    assert_eq!(
        zone.written(3, 253),
        [take(3), dedupe(4, own(3), 3), dedupe(5, own(3), 3), exit(3)]
    );
    zone.answer(1, Answer::Deduplicated);
    zone.answer(2, Answer::Deduplicated);
    zone.unlocked(2);
    zone.answer(4, Answer::Deduplicated);
    assert_eq!(zone.answer(5, Answer::Deduplicated), [update(5, own(3))]);
    zone.answer(5, Answer::Updated);
    zone.unlocked(5);
    assert!(zone.machine.is_idle());
}

#[test]
fn when_all_waiters_fork_the_old_agent_stays_to_clean_up() {
    let mut zone = Zone::new();
    zone.enter(0, true);
    zone.enter(1, true);
    zone.answer(0, Answer::NoAdvice);
    let actions = zone.written(0, 0);
    assert_eq!(actions, [take(0), write(1, true), unlock(0, own(0), 0)]);
    assert_eq!(zone.unlocked(0), [exit(0)]);
    assert_eq!(zone.written(1, 253), [update(1, own(1))]);
    zone.answer(1, Answer::Updated);
    assert!(zone.machine.is_idle());
}

#[test]
fn a_fork_that_forks_again_leaves_the_advice_to_the_youngest() {
    let mut zone = Zone::new();
    for n in 0..3 {
        zone.enter(n, true);
    }
    zone.answer(0, Answer::NoAdvice);
    assert_eq!(
        zone.written(0, 0),
        [take(0), write(1, false), unlock(0, own(0), 0)]
    );
    assert_eq!(
        zone.written(1, 0),
        [take(1), write(2, true), unlock(1, own(1), 1)]
    );
    zone.unlocked(0);
    assert_eq!(
        zone.unlocked(1),
        [exit(1)],
        "no update by the one in the middle"
    );
    assert_eq!(zone.written(2, 253), [update(2, own(2))]);
    zone.answer(2, Answer::Updated);
    assert!(zone.machine.is_idle());
}

/// RollOver_t1, compressed: references to a fragment run out with those to the whole packed block.
#[test]
fn a_compressed_copy_is_shared_updated_and_forked_like_any_other() {
    let mut zone = Zone::new();
    zone.enter(0, true);
    assert_eq!(zone.answer(0, Answer::NoAdvice), [write(0, true)]);
    let fragment = Mapping {
        pbn: Pbn(77),
        state: MappingState::COMPRESSED_BASE,
    };
    zone.world.increments.insert(77, 1);
    let written = Answer::Written(WrittenAt::Compressed(fragment, ReadLock(77)));
    assert_eq!(zone.answer(0, written), [update(0, fragment)]);
    assert_eq!(zone.enter(1, true), NOTHING);
    assert_eq!(zone.enter(2, true), NOTHING);
    assert_eq!(
        zone.answer(0, Answer::Updated),
        [dedupe(1, fragment, 77), write(2, true), exit(0)]
    );
    assert_eq!(
        zone.answer(1, Answer::Deduplicated),
        [unlock(1, fragment, 77)]
    );
    assert_eq!(zone.unlocked(1), [exit(1)]);
    assert_eq!(zone.written(2, 253), [update(2, own(2))]);
    zone.answer(2, Answer::Updated);
    assert!(zone.machine.is_idle());
}

#[test]
fn a_compressed_write_without_waiters_gives_up_the_shared_lock() {
    let fragment = Mapping {
        pbn: Pbn(77),
        state: MappingState::COMPRESSED_BASE,
    };
    let written = Answer::Written(WrittenAt::Compressed(fragment, ReadLock(77)));

    let mut zone = Zone::new();
    zone.enter(0, true);
    zone.answer(0, Answer::NoAdvice);
    assert_eq!(zone.answer(0, written), [update(0, fragment)]);
    assert_eq!(zone.answer(0, Answer::Updated), [unlock(0, fragment, 77)]);
    assert_eq!(zone.unlocked(0), [exit(0)]);
    zone.ended_by(&[
        Row::Taken,
        Row::Unadvised,
        Row::WrittenElsewhere,
        Row::UpdatedLocked,
        Row::Unlocked,
    ]);

    let mut zone = Zone::new();
    zone.enter(0, true);
    zone.answer(0, Answer::IndexOff);
    assert_eq!(zone.answer(0, written), [unlock(0, fragment, 77)]);
    assert_eq!(zone.unlocked(0), [exit(0)]);
    zone.ended_by(&[
        Row::Taken,
        Row::Unadvised,
        Row::WrittenShared,
        Row::Unlocked,
    ]);
}

#[test]
fn with_the_index_off_nothing_is_updated() {
    let mut zone = Zone::new();
    assert_eq!(zone.enter(0, false), [query(0, false)]);
    zone.enter(1, true);
    assert_eq!(zone.answer(0, Answer::IndexOff), [write(1, false)]);
    assert_eq!(
        zone.written(1, 0),
        [take(1), no_space(0), unlock(1, own(1), 1)]
    );
    assert_eq!(zone.unlocked(1), [exit(1)]);
    assert!(zone.machine.is_idle());
}
