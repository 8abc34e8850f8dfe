//! Requests that fail, and answers that make no sense.

use super::*;

#[test]
fn a_failed_agent_lets_the_waiters_write_alone_and_cleans_up() {
    let fail = Answer::Failed { shared: None };
    // How far agent 0 gets before it fails, and what it must unlock then.
    let stories: [(&[Answer], Option<u64>); 5] = [
        (&[], None),
        (&[Answer::Advice(whole(OLD))], None),
        (
            &[Answer::Advice(whole(OLD)), Answer::Locked(ReadLock(9))],
            Some(9),
        ),
        (&[Answer::NoAdvice], None),
        (
            &[
                Answer::Advice(whole(OLD)),
                Answer::Locked(ReadLock(9)),
                Answer::Verified { equal: false },
            ],
            None,
        ),
    ];
    for (story, held) in stories {
        let mut zone = Zone::new();
        zone.world.increments.insert(9, 5);
        zone.enter(0, true);
        zone.enter(1, true);
        zone.enter(2, false);
        for &answer in story {
            zone.answer(0, answer);
        }
        let last = held.map_or(exit(0), |held| unlock(0, whole(OLD), held));
        assert_eq!(
            zone.answer(0, fail),
            [alone(1), no_space(2), last],
            "{story:?}"
        );
        if held.is_some() {
            assert_eq!(zone.state(0), LockState::Bypassing);
            assert_eq!(
                zone.enter(3, true),
                [alone(3)],
                "a failed lock takes nobody in"
            );
            assert_eq!(zone.enter(4, false), [no_space(4)]);
            assert_eq!(zone.unlocked(0), [exit(0)]);
        }
        assert!(zone.machine.is_idle());
        assert_eq!(zone.machine.path_statistics().failed, 1);
    }
}

#[test]
fn a_failed_updater_gives_up_the_lock_and_tells_nobody() {
    let mut zone = Zone::new();
    zone.enter(0, false);
    zone.enter(1, true);
    zone.answer(0, Answer::NoAdvice);
    zone.written(1, 253);
    assert_eq!(zone.answer(0, Answer::Deduplicated), [update(0, own(1))]);
    zone.enter(2, true);
    let fail = Answer::Failed { shared: None };
    assert_eq!(zone.answer(0, fail), [alone(2), unlock(0, own(1), 1)]);
    let lock = zone.machine.lock_of(RequestId(0)).expect("it cleans up");
    assert_eq!(
        (lock.state, lock.update_advice),
        (LockState::Bypassing, false)
    );
    assert_eq!(zone.unlocked(0), [exit(0)]);
    assert!(zone.machine.is_idle());
}

#[test]
fn a_failed_compressed_write_leaves_its_shared_lock_to_be_given_up() {
    let fragment = Mapping {
        pbn: Pbn(77),
        state: MappingState::COMPRESSED_BASE,
    };
    let mut zone = Zone::new();
    zone.enter(0, true);
    zone.answer(0, Answer::NoAdvice);
    zone.enter(1, true);
    let fail = Answer::Failed {
        shared: Some((fragment, ReadLock(77))),
    };
    assert_eq!(zone.answer(0, fail), [alone(1), unlock(0, fragment, 77)]);
    assert_eq!(zone.unlocked(0), [exit(0)]);
    assert!(zone.machine.is_idle());
}

#[test]
fn when_one_that_shares_fails_the_block_stays_locked_until_the_last_is_done() {
    let mut zone = Zone::new();
    for n in 0..4 {
        zone.enter(n, true);
    }
    zone.answer(0, Answer::NoAdvice);
    zone.written(0, 253);
    assert_eq!(zone.answer(2, Answer::Failed { shared: None }), [exit(2)]);
    assert_eq!(zone.enter(4, true), [alone(4)]);
    assert_eq!(zone.answer(1, Answer::Deduplicated), [exit(1)]);
    assert_eq!(zone.answer(3, Answer::Deduplicated), [unlock(3, own(0), 0)]);
    assert_eq!(zone.unlocked(3), [exit(3)]);
    assert!(zone.machine.is_idle());
}

#[test]
fn what_cannot_be_is_reported_and_everybody_still_comes_to_an_end() {
    let report = |what| vec![Action::Inconsistent(what)];
    let mut zone = Zone::new();
    let (zero, one, far) = (RequestId(0), RequestId(1), RequestId(300));
    assert_eq!(
        zone.enter(300, true),
        report(Inconsistency::UnknownRequest(far))
    );
    assert_eq!(
        zone.answer(300, Answer::NoAdvice),
        report(Inconsistency::UnknownRequest(far))
    );
    assert_eq!(
        zone.answer(0, Answer::NoAdvice),
        report(Inconsistency::NotAsked(zero))
    );
    zone.enter(0, true);
    assert_eq!(
        zone.enter(0, true),
        report(Inconsistency::AlreadyEntered(zero))
    );
    zone.enter(1, true);
    assert_eq!(
        zone.answer(1, Answer::Deduplicated),
        report(Inconsistency::NotAsked(one))
    );
    let wrong = Inconsistency::WrongAnswer {
        request: zero,
        state: LockState::Querying,
    };
    assert_eq!(
        zone.answer(0, Answer::Updated),
        [Action::Inconsistent(wrong), alone(1), exit(0)]
    );
    assert!(zone.machine.is_idle());
    assert!(wrong.to_string().contains("QUERYING"));
}
