//! The zone as a whole: what it shows, how names are spread, and that it takes no memory on the way.

use super::*;

#[test]
fn a_dump_shows_each_lock_with_its_requests() {
    let mut zone = Zone::new();
    zone.enter(0, true);
    zone.enter(1, true);
    zone.enter_with(2, B, 1, true);
    zone.answer(0, Answer::Advice(whole(OLD)));
    let locks: Vec<_> = zone.machine.locks().collect();
    assert_eq!(locks.len(), 2);
    let lock = zone.machine.lock_of(RequestId(1)).expect("in a lock");
    assert_eq!(lock, zone.machine.lock_of(RequestId(0)).expect("in a lock"));
    assert_eq!((lock.name, lock.state), (A, LockState::Locking));
    assert_eq!(
        (lock.references, lock.waiters, lock.agent),
        (2, 1, Some(RequestId(0)))
    );
    assert_eq!(
        (lock.at, lock.verified, lock.locked),
        (whole(OLD), false, false)
    );
    assert_eq!(zone.machine.holders(lock.id).count(), 2);
}

/// A zone with every request it can have in it, each in a lock of its own, over and over with other names: the pool of
/// locks is large enough, and neither it nor the map of names grows.
#[test]
fn every_request_finds_a_lock_of_its_own_and_neither_pool_nor_map_grows() {
    const REQUESTS: u32 = 64;
    let mut machine = HashZoneMachine::new(REQUESTS);
    let mut world = World::default();
    let mut out = Vec::new();
    let before = machine.footprint();
    world.data.extend((0..REQUESTS).map(|n| (n, 0)));
    let mut answer = |machine: &mut HashZoneMachine, n, answer| {
        out.clear();
        machine.answer(RequestId(n), answer, &mut world, &mut out);
        out.clone()
    };
    let mut enter_world = World::default();
    for round in 0..3000u32 {
        for n in 0..REQUESTS {
            let mut name = [0; 16];
            name[..4].copy_from_slice(&round.to_le_bytes());
            let scattered = n.wrapping_mul(0x9E37_79B9).rotate_left(round);
            name[8..12].copy_from_slice(&scattered.to_le_bytes());
            let mut actions = Vec::new();
            machine.enter(
                RequestId(n),
                RecordName(name),
                Some(Pbn(1)),
                &mut enter_world,
                &mut actions,
            );
            assert!(matches!(actions[..], [Action::Query { .. }]), "{actions:?}");
        }
        assert_eq!(machine.locks().count(), REQUESTS as usize);
        for n in 0..REQUESTS {
            answer(&mut machine, n, Answer::NoAdvice);
            let left = answer(&mut machine, n, Answer::Failed { shared: None });
            assert_eq!(left, [exit(n)]);
        }
        assert!(machine.is_idle());
        assert_eq!(machine.footprint(), before, "round {round}");
    }
}

/// All requests of a zone in one lock, and an answer that concerns them all: as many actions as one call can have.
#[test]
fn the_queue_of_actions_never_grows_not_even_when_one_answer_concerns_everybody() {
    const REQUESTS: u32 = 300;
    let mut longest = 0;
    // How many of the waiters can share the copy that is written; the rest moves to another lock.
    for increments in [0, 1, 150, 253, 299] {
        for fails in [false, true] {
            let mut zone = Zone::new();
            let mut out = Vec::with_capacity(zone.machine.max_actions());
            let room = out.capacity();
            for n in 0..REQUESTS {
                zone.enter(n, true);
            }
            zone.answer(0, Answer::NoAdvice);
            zone.world.increments.insert(0, increments);
            let answer = match fails {
                true => Answer::Failed { shared: None },
                false => Answer::Written(WrittenAt::Allocation(own(0).pbn, own_lock(0))),
            };
            zone.machine
                .answer(RequestId(0), answer, &mut zone.world, &mut out);
            let inconsistent = |action: &Action| matches!(action, Action::Inconsistent(_));
            assert!(!out.iter().any(inconsistent), "{out:?}");
            assert_eq!(out.capacity(), room, "{} actions", out.len());
            longest = longest.max(out.len());
        }
    }
    assert!(longest >= REQUESTS as usize, "{longest} actions at most");
}
