//! Slabs that were shut down, and whose counters are read while the zone is at work.

use super::*;
use crate::seam::BaseOp;

/// A zone with three full slabs but for one block of the last, at work again after a shutdown. Returns its blocks, too.
fn three_slabs_unread() -> (Fixture, Vec<Pbn>) {
    let mut fixture = Fixture::new(geometry(3, 6, 8));
    let blocks: Vec<_> = (0..fixture.zone.data_blocks())
        .map(|_| fixture.write())
        .collect();
    fixture.decrement(fixture.pbn(2, 5));
    (fixture.reopen_unread(), blocks)
}

impl Fixture {
    /// Whether the counters of a slab were read since the zone was made.
    fn has_read(&self, slab: u32) -> bool {
        let counters = self.geometry.slabs.reference_blocks(SlabNumber(slab));
        let reads = self.disk.trace.iter();
        reads
            .filter(|(operation, ..)| *operation == BaseOp::Read)
            .any(|&(_, pbn, _)| (counters.start..counters.end()).contains(&Pbn(pbn)))
    }
}

#[test]
fn a_zone_is_at_work_before_slabs_that_were_shut_down_are_read() {
    let (mut fixture, blocks) = three_slabs_unread();
    let read = [0, 1, 2].map(|slab| fixture.has_read(slab));
    assert_eq!(read, [false, false, true], "the emptiest is");
    assert_eq!(fixture.zone.allocated_blocks(), blocks.len() as u64 - 1);
    let unread = fixture.pbn(0, 7);
    let lock = fixture.zone.lock_duplicate(unread).unwrap();
    assert!(matches!(lock, DuplicateLock::NoIncrements));
    assert_eq!(
        fixture.zone.allocate(WriteKind::Data),
        Ok(fixture.pbn(2, 5))
    );
    fixture.zone.release(fixture.pbn(2, 5));

    fixture.scrub();
    assert!(fixture.has_read(0) && fixture.has_read(1));
    assert!(
        blocks
            .iter()
            .all(|&pbn| pbn == fixture.pbn(2, 5) || fixture.count(pbn) == 1)
    );
    let lock = fixture.zone.lock_duplicate(unread).unwrap();
    assert!(matches!(lock, DuplicateLock::Locked(_)));
}

#[test]
fn a_change_in_an_unread_slab_is_counted_when_its_turn_comes() {
    let (mut fixture, blocks) = three_slabs_unread();
    let freed = fixture.pbn(1, 9);
    fixture.decrement(freed);
    assert!(!fixture.has_read(1), "it is only journaled");
    fixture.scrub();
    let is_free = |pbn| pbn == freed || pbn == fixture.pbn(2, 5);
    for &pbn in &blocks {
        assert_eq!(fixture.count(pbn), u8::from(!is_free(pbn)), "{pbn}");
    }
    assert_eq!(fixture.zone.allocated_blocks(), blocks.len() as u64 - 2);
    let found = [(); 3].map(|()| fixture.zone.allocate(WriteKind::Data));
    let last = fixture.pbn(2, 5);
    assert_eq!(found, [Ok(last), Ok(freed), Err(VdoError::NoSpace)]);
}

#[test]
fn a_slab_whose_journal_fills_before_it_is_read_is_next() {
    let (mut fixture, _) = three_slabs_unread();
    let pbn = fixture.pbn(1, 9);
    let turns = [
        ReferenceOperation::DataDecrement,
        ReferenceOperation::DataIncrement,
    ];
    let waiting = turns
        .into_iter()
        .cycle()
        .take(50_000)
        .find_map(|operation| {
            let (_, index) = fixture.ask(pbn, operation);
            fixture.disk.run();
            fixture.result(index).is_none().then_some(index)
        });
    let waiting = waiting.expect("the journal has an end");
    assert!(!fixture.has_read(0) && !fixture.has_read(1));

    let scrubbing = Rc::clone(&fixture.zone);
    fixture.disk.scheduler.spawn(scrubbing.scrub());
    while !fixture.has_read(1) {
        assert!(fixture.disk.advance() && !fixture.has_read(0));
    }
    fixture.disk.run();
    assert_eq!(fixture.result(waiting), Some(Ok(())));
    assert!(fixture.has_read(0));
}

#[test]
fn a_shutdown_reads_only_those_unread_slabs_that_were_changed() {
    let (mut fixture, blocks) = three_slabs_unread();
    let freed = fixture.pbn(1, 9);
    fixture.decrement(freed);
    let drained = fixture.start_drain(true);
    let scrubbing = Rc::clone(&fixture.zone);
    fixture.disk.scheduler.spawn(scrubbing.scrub());
    fixture.disk.hold = false;
    fixture.disk.run();
    assert_eq!(*drained.borrow(), Some(Ok(())));
    assert!(fixture.has_read(1) && !fixture.has_read(0));
    let fixture = fixture.reopen();
    let is_free = |pbn| pbn == freed || pbn == fixture.pbn(2, 5);
    for &pbn in &blocks {
        assert_eq!(fixture.count(pbn), u8::from(!is_free(pbn)), "{pbn}");
    }
}

#[test]
fn a_zone_that_rested_before_its_slabs_were_read_reads_them_when_it_resumes() {
    let (mut fixture, blocks) = three_slabs_unread();
    assert_eq!(fixture.drain(true), Ok(()));
    assert!(!fixture.has_read(0) && !fixture.has_read(1));
    fixture.zone.resume().unwrap();
    assert_eq!(
        fixture.zone.allocate(WriteKind::Data),
        Ok(fixture.pbn(2, 5))
    );
    let none_yet = fixture.zone.allocate(WriteKind::Data);
    assert_eq!(
        none_yet,
        Err(VdoError::NoSpace),
        "what others hold is not known"
    );
    fixture.scrub();
    assert_eq!(fixture.count(blocks[0]), 1);
    assert_eq!(
        fixture.zone.allocate(WriteKind::Data),
        Err(VdoError::NoSpace)
    );
}
