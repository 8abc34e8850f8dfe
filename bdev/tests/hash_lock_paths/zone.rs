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

/// HashZone_t1 of the original: names are spread evenly over any number of zones, always to the same one.
#[test]
fn names_are_spread_evenly_over_zones() {
    for zones in 1..=16u8 {
        let mut counts = vec![0; usize::from(zones)];
        for first in 0..=255 {
            let mut name = A;
            name.0[0] = first;
            let zone = name.zone(zones);
            assert_eq!(zone, name.zone(zones));
            counts[zone.index()] += 1;
        }
        assert_eq!(counts.iter().sum::<u32>(), 256);
        let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
        assert!(spread <= 1, "{zones} zones: {counts:?}");
    }
}

/// The pool, the map and the queue are as large at the end as at the start, whatever went through them.
#[test]
fn nothing_grows_however_many_requests_pass() {
    const REQUESTS: u32 = 64;
    let mut machine = HashZoneMachine::new(REQUESTS);
    let mut world = World::default();
    let mut out = Vec::with_capacity(machine.max_actions());
    let (queue, before) = (out.capacity(), machine.footprint());
    world.data.extend((0..REQUESTS).map(|n| (n, 0)));
    for round in 0..3000u32 {
        for n in 0..REQUESTS {
            let mut name = [0; 16];
            name[..4].copy_from_slice(&round.to_le_bytes());
            name[8..12].copy_from_slice(
                &(n / 2)
                    .wrapping_mul(0x9E37_79B9)
                    .rotate_left(round)
                    .to_le_bytes(),
            );
            out.clear();
            machine.enter(
                RequestId(n),
                RecordName(name),
                Some(Pbn(1)),
                &mut world,
                &mut out,
            );
        }
        for n in (0..REQUESTS).step_by(2) {
            out.clear();
            machine.answer(RequestId(n), Answer::NoAdvice, &mut world, &mut out);
            machine.answer(
                RequestId(n),
                Answer::Failed { shared: None },
                &mut world,
                &mut out,
            );
        }
        assert!(machine.is_idle());
    }
    assert_eq!(machine.footprint(), before);
    assert_eq!(out.capacity(), queue);
}
