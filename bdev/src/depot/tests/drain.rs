//! Coming to rest, starting again, and read-only mode.

use super::journal::Io;
use super::oracle::{journal_block, stored_counts, summary_entry};
use super::*;
use crate::format::reference_block;
use crate::format::slab_journal::ENTRIES_PER_BLOCK;
use crate::format::slab_summary::{SlabSummaryEntry, entry_place, fullness_hint};
use crate::seam::BaseOp;
use ReferenceOperation::DataIncrement;

const FULL: u32 = ENTRIES_PER_BLOCK as u32;

impl Fixture {
    /// Starts a drain and holds its I/O; the slot gets the result.
    pub(super) fn start_drain(&mut self, save: bool) -> Rc<RefCell<Option<Result<(), VdoError>>>> {
        let slot = Rc::new(RefCell::new(None));
        let (zone, result) = (Rc::clone(&self.zone), Rc::clone(&slot));
        self.disk.scheduler.spawn(async move {
            let drained = zone.drain(save).await;
            *result.borrow_mut() = Some(drained);
        });
        self.hold();
        slot
    }

    fn stored(&self, slab: u32) -> Vec<u8> {
        let slabs = &self.geometry.slabs;
        let stored = stored_counts(&self.disk.blocks, slabs, SlabNumber(slab));
        stored.into_iter().map(|(count, _)| count).collect()
    }
}

#[test]
fn a_save_writes_the_journal_then_the_counters_then_that_the_slab_is_clean() {
    let mut fixture = Fixture::new(geometry(1, 6, 8));
    fixture.write();
    fixture.trace();
    assert_eq!(fixture.drain(true), Ok(()));
    let expected = [
        Io::Journal(0, 1),
        Io::Flush,
        Io::Summary,
        Io::Flush,
        Io::Counts(0, 0),
        Io::Flush,
        Io::Summary,
        Io::Flush,
    ];
    assert_eq!(fixture.trace(), expected);
    let entry = summary_entry(&fixture.disk.blocks, ZoneIndex(0), SlabNumber(0));
    assert_eq!(
        (entry.tail_block_offset, entry.load_counts, entry.is_dirty),
        (2, true, false)
    );
    assert_eq!(fixture.statistics().ref_counts.blocks_written, 1);
    assert_eq!(fixture.locks_held(), 0);
}

#[test]
fn a_zone_at_rest_refuses_work_and_resumes_where_it_was() {
    for save in [false, true] {
        let mut fixture = Fixture::new(geometry(2, 6, 8));
        let pbn = fixture.write();
        let next = fixture.pbn(0, 1);
        assert!(fixture.zone.resume().is_err(), "it is at work");
        assert_eq!(fixture.drain(save), Ok(()));
        assert_eq!(
            fixture.zone.allocate(WriteKind::Data),
            Err(VdoError::ShuttingDown)
        );
        assert_eq!(
            fixture.change(pbn, DataIncrement),
            Err(VdoError::ShuttingDown)
        );
        assert_eq!(
            fixture.zone.lock_duplicate(pbn).unwrap_err(),
            VdoError::ShuttingDown
        );
        fixture.zone.resume().unwrap();
        fixture.increment(pbn);
        assert_eq!(
            (fixture.count(pbn), fixture.zone.allocated_blocks()),
            (2, 1)
        );
        assert_eq!(fixture.write(), next);
        let fixture = fixture.reopen();
        assert_eq!((fixture.count(pbn), fixture.count(next)), (2, 1));
        assert_eq!(fixture.zone.allocated_blocks(), 2);
    }
}

#[test]
fn a_suspend_writes_nothing_of_its_own_and_waits_for_what_is_under_way() {
    let mut fixture = Fixture::new(geometry(1, 6, 8));
    let pbn = fixture.write();
    fixture.trace();
    assert_eq!(fixture.drain(false), Ok(()));
    assert_eq!(fixture.trace(), []);
    fixture.zone.resume().unwrap();

    fixture.churn(pbn, FULL - 1);
    let drained = fixture.start_drain(false);
    for io in [Io::Journal(0, 1), Io::Flush, Io::Summary] {
        assert_eq!(*drained.borrow(), None, "{io:?} is under way");
        assert_eq!(fixture.held(), [io]);
        fixture.complete(io);
    }
    assert_eq!(*drained.borrow(), Some(Ok(())));
}

#[test]
fn a_save_waits_for_a_journal_block_under_way_and_then_writes_the_rest() {
    let mut fixture = Fixture::new(geometry(1, 6, 8));
    let pbn = fixture.write();
    fixture.churn(pbn, FULL);
    fixture.hold();
    let drained = fixture.start_drain(true);
    assert_eq!(fixture.held(), [Io::Journal(0, 1), Io::Journal(0, 2)]);
    fixture.complete(Io::Journal(0, 2));
    assert_eq!(fixture.held(), [Io::Journal(0, 1)]);
    assert_eq!(*drained.borrow(), None);
    fixture.disk.run();
    assert_eq!(*drained.borrow(), Some(Ok(())));
    assert_eq!(fixture.stored(0)[0], fixture.count(pbn));
}

#[test]
fn a_suspended_zone_can_still_be_saved() {
    let mut fixture = Fixture::new(geometry(1, 6, 8));
    let pbn = fixture.write();
    assert_eq!(fixture.drain(false), Ok(()));
    assert_eq!(fixture.drain(false), Ok(()));
    assert_ne!(fixture.stored(0)[0], 1);
    let mut fixture = fixture.reopen();
    assert_eq!((fixture.count(pbn), fixture.stored(0)[0]), (1, 1));
    fixture.trace();
    assert_eq!(fixture.drain(true), Ok(()));
    fixture.trace();
    assert_eq!(fixture.drain(true), Ok(()));
    assert_eq!(fixture.trace(), [], "everything was saved");
}

/// Counters under way, in suspend and in save: the drain waits, and a save writes them anew if they
/// changed after they were packed.
#[test]
fn a_drain_waits_for_counters_under_way() {
    for save in [false, true] {
        let mut fixture = Fixture::new(geometry(1, 6, 16));
        let pbn = fixture.write();
        fixture.churn(pbn, 12 * FULL - 1);
        fixture.disk.run();
        fixture.churn(pbn, 1);
        fixture.hold();
        fixture.complete(Io::Flush);
        assert_eq!(fixture.held(), [Io::Counts(0, 0)]);
        fixture.churn(pbn, 3);
        let last = fixture.count(pbn);
        let drained = fixture.start_drain(save);
        let journal = if save {
            vec![Io::Journal(0, 13)]
        } else {
            vec![]
        };
        assert_eq!(fixture.held(), [vec![Io::Counts(0, 0)], journal].concat());
        assert_eq!(*drained.borrow(), None);
        fixture.disk.run();
        assert_eq!(*drained.borrow(), Some(Ok(())));
        assert_eq!(fixture.stored(0)[0] == last, save);
    }
}

#[test]
fn changes_that_wait_are_made_before_a_drain_ends() {
    let mut fixture = Fixture::new(geometry(1, 6, 8));
    let pbn = fixture.write();
    fixture.zone.commit_oldest(fixture.next.sequence);
    let waiting = fixture.churn(pbn, 3);
    let drained = fixture.start_drain(true);
    assert!(waiting.iter().all(|&index| fixture.result(index).is_none()));
    fixture.disk.run();
    assert_eq!(*drained.borrow(), Some(Ok(())));
    assert!(
        waiting
            .iter()
            .all(|&index| fixture.result(index) == Some(Ok(())))
    );
    assert_eq!(fixture.stored(0)[0], fixture.count(pbn));
}

#[test]
fn slabs_never_used_cost_no_writes_and_a_look_at_the_first() {
    let fixture = Fixture::new(geometry(40, 6, 8));
    let mut fixture = fixture.reopen();
    let touched = |io: &Io| matches!(io, Io::Counts(..) | Io::Journal(..));
    assert_eq!(fixture.trace().iter().filter(|io| touched(io)).count(), 1);
    fixture.write();
    let mut fixture = fixture.reopen();
    let trace = fixture.trace();
    assert_eq!(
        trace.iter().filter(|io| touched(io)).count(),
        3,
        "one slab was used, and one looked at: {trace:?}"
    );
    assert_eq!(fixture.statistics().allocator.slabs_opened, 1);
}

/// A slab that was opened, but whose blocks were all given back, has counters on disk and no journal.
#[test]
fn a_slab_opened_for_nothing_is_opened_again() {
    let fixture = Fixture::new(geometry(1, 6, 8));
    let pbn = fixture.zone.allocate(WriteKind::Data).unwrap();
    fixture.zone.release(pbn);
    let mut fixture = fixture.reopen();
    let entry = summary_entry(&fixture.disk.blocks, ZoneIndex(0), SlabNumber(0));
    assert_eq!(
        (entry.tail_block_offset, entry.load_counts, entry.is_dirty),
        (0, true, false)
    );
    assert_eq!(fixture.write(), pbn);
    assert_eq!(fixture.reopen().count(pbn), 1);
}

/// The journal goes on where it was, however often its ring was filled.
#[test]
fn the_journal_is_taken_up_after_its_last_block() {
    let mut fixture = Fixture::new(geometry(1, 6, 8));
    let pbn = fixture.write();
    let mut last = 0;
    for round in 0..20 {
        fixture.churn(pbn, 700);
        fixture.disk.run();
        fixture = fixture.reopen();
        let blocks = (0..8).filter_map(|place| {
            journal_block(
                &fixture.disk.blocks,
                &fixture.geometry.slabs,
                SlabNumber(0),
                place,
            )
        });
        let newest = blocks.max_by_key(|(header, _)| header.sequence).unwrap().0;
        assert_eq!(newest.sequence.get(), last + 1, "in round {round}");
        last = newest.sequence.get();
        let entry = summary_entry(&fixture.disk.blocks, ZoneIndex(0), SlabNumber(0));
        assert_eq!(u64::from(entry.tail_block_offset), (last + 1) % 8);
    }
}

/// dm-vdo can leave a slab dirty at a clean shutdown, when the journal block was the last to be written.
#[test]
fn a_dirty_slab_is_scrubbed_when_it_is_loaded() {
    for partly_written in [false, true] {
        let mut fixture = Fixture::new(geometry(2, 6, 8));
        let a = fixture.write();
        let b = fixture.write();
        if partly_written {
            assert_eq!(fixture.drain(true), Ok(()));
            fixture.zone.resume().unwrap();
        }
        let page = fixture.zone.allocate(WriteKind::BlockMap).unwrap();
        assert_eq!(
            fixture.change(page, ReferenceOperation::BlockMapIncrement),
            Ok(())
        );
        fixture.zone.release(page);
        fixture.increment(a);
        fixture.decrement(b);
        fixture.churn(a, 2 * FULL);
        let expected = [fixture.count(a), 0, 254];
        fixture.zone.commit_oldest(fixture.next.sequence);
        fixture.disk.run();
        assert_ne!(
            fixture.stored(0)[..3],
            expected,
            "the journal is ahead of the counters"
        );

        let mut fresh = TestDisk::new();
        fresh.blocks = fixture.disk.blocks.clone();
        let slabs = fixture.geometry.slabs;
        let loaded = Fixture::on(fresh, slabs, (ZoneIndex(0), 1), Some(1), 4);
        let counts = [a, b, page].map(|pbn| loaded.count(pbn));
        assert_eq!(counts, expected);
        assert_eq!(loaded.zone.allocated_blocks(), 2);
        assert_eq!(loaded.stored(0)[..3], expected);
        let entry = summary_entry(&loaded.disk.blocks, ZoneIndex(0), SlabNumber(0));
        assert_eq!((entry.is_dirty, entry.load_counts), (false, true));
        let mut loaded = loaded;
        loaded.next = fixture.next;
        loaded.write();
        assert_eq!(loaded.reopen().count(a), expected[0]);
    }
}

#[test]
fn counters_that_a_rebuild_left_are_loaded_even_after_the_first_entry_of_the_journal() {
    let slabs = geometry(1, 6, 8);
    let mut disk = TestDisk::new();
    let rebuilt = SlabSummaryEntry {
        tail_block_offset: 0,
        fullness_hint: fullness_hint(slabs.config.data_blocks - 1, 6),
        load_counts: true,
        is_dirty: false,
    };
    for block in SUMMARY.get()..SUMMARY.get() + SUMMARY_BLOCKS {
        disk.blocks.insert(block, vec![0; 4096]);
    }
    let (index, at) = entry_place(ZoneIndex(0), SlabNumber(0));
    let block = disk.blocks.get_mut(&(SUMMARY.get() + index)).unwrap();
    block[at..at + 2].copy_from_slice(&rebuilt.encode());
    let mut counters = [0; 4096];
    reference_block::encode(&mut counters, JournalPoint::default(), &[3]);
    let place = slabs.reference_blocks(SlabNumber(0)).start.get();
    disk.blocks.insert(place, counters.to_vec());
    let mut fixture = Fixture::on(disk, slabs, (ZoneIndex(0), 1), Some(1), 4);
    let old = fixture.pbn(0, 0);
    assert_eq!(fixture.count(old), 3);

    let new = fixture.write();
    fixture.zone.commit_oldest(fixture.next.sequence);
    fixture.disk.run();
    let entry = summary_entry(&fixture.disk.blocks, ZoneIndex(0), SlabNumber(0));
    assert_eq!((entry.tail_block_offset, entry.is_dirty), (2, true));
    assert!(entry.load_counts, "the journal knows of one entry only");
    let mut fresh = TestDisk::new();
    fresh.blocks = fixture.disk.blocks.clone();
    let loaded = Fixture::on(fresh, slabs, (ZoneIndex(0), 1), Some(1), 4);
    assert_eq!([old, new].map(|pbn| loaded.count(pbn)), [3, 1]);
}

/// Loads a zone from a disk that has something wrong with it.
fn load_error(prepare: impl FnOnce(&mut TestDisk, SlabGeometry)) -> VdoError {
    let mut fixture = Fixture::new(geometry(1, 6, 8));
    fixture.write();
    assert_eq!(fixture.drain(true), Ok(()));
    let mut disk = TestDisk::new();
    disk.blocks = fixture.disk.blocks;
    prepare(&mut disk, fixture.geometry.slabs);
    let limits = DepotLimits {
        locks: 4,
        changes: 4,
        writers: 1,
        read_first: 0,
        ..DepotLimits::default()
    };
    let services: Rc<dyn ZoneServices> = Rc::new(Recorder::default());
    let geometry = fixture.geometry;
    let (scheduler, base) = (Rc::clone(&disk.scheduler), Rc::clone(&disk.base));
    let zone = PhysicalZone::new(geometry, limits, &scheduler, &base, services, &memory());
    let zone = zone.unwrap();
    let loading = Rc::clone(&zone);
    let result = disk.block_on(async move { loading.load().await });
    assert_eq!(
        zone.allocate(WriteKind::Data),
        Err(VdoError::ShuttingDown),
        "it is not at work"
    );
    result.unwrap_err()
}

fn set_summary(disk: &mut TestDisk, entry: SlabSummaryEntry) {
    let (index, at) = entry_place(ZoneIndex(0), SlabNumber(0));
    let block = disk.blocks.get_mut(&(SUMMARY.get() + index)).unwrap();
    block[at..at + 2].copy_from_slice(&entry.encode());
}

#[test]
fn what_can_not_be_read_or_believed_is_not_loaded() {
    let bad_reads: [fn(SlabGeometry) -> Pbn; 3] = [
        |_| SUMMARY,
        |slabs| Pbn(slabs.journal_blocks(SlabNumber(0)).start.get() + 1),
        |slabs| slabs.reference_blocks(SlabNumber(0)).start,
    ];
    for bad in bad_reads {
        let mut place = Pbn(0);
        let error = load_error(|disk, slabs| {
            place = bad(slabs);
            disk.bad_reads.insert(place.get());
        });
        assert_eq!(
            error,
            VdoError::Io {
                operation: "read",
                pbn: place,
                errno: 5
            }
        );
    }
    let beyond = load_error(|disk, _| {
        let entry = SlabSummaryEntry {
            tail_block_offset: 200,
            ..SlabSummaryEntry::default()
        };
        set_summary(disk, entry);
    });
    assert!(
        beyond
            .to_string()
            .contains("journal ends at block 200, and it has 8"),
        "{beyond}"
    );
    let dirty = SlabSummaryEntry {
        tail_block_offset: 2,
        is_dirty: true,
        ..SlabSummaryEntry::default()
    };
    let journal = |slabs: SlabGeometry| slabs.journal_blocks(SlabNumber(0)).start.get() + 1;
    let foreign = load_error(|disk, slabs| {
        set_summary(disk, dirty);
        // The block before the last is asked for and is not there.
        disk.blocks.get_mut(&journal(slabs)).unwrap()[8] = 9;
    });
    assert!(
        foreign.to_string().contains("block 1 of its journal"),
        "{foreign}"
    );
    let outside = load_error(|disk, slabs| {
        set_summary(disk, dirty);
        disk.blocks.get_mut(&journal(slabs)).unwrap()[36] = 0xff;
    });
    assert!(
        outside
            .to_string()
            .contains("about block 255 of the slab: only"),
        "{outside}"
    );
    let underflow = load_error(|disk, slabs| {
        set_summary(disk, dirty);
        disk.blocks.get_mut(&journal(slabs)).unwrap()[38] = 0;
    });
    assert!(
        underflow
            .to_string()
            .contains("it loses a reference, but has none"),
        "{underflow}"
    );
}

#[test]
fn changes_of_entries_in_one_summary_block_share_its_writes() {
    let slabs = 6;
    let mut fixture = Fixture::new(geometry(slabs, 6, 8));
    let count = fixture.geometry.slabs.config.data_blocks as u32;
    for _ in 0..slabs * count {
        fixture.write();
    }
    fixture.zone.commit_oldest(fixture.next.sequence);
    fixture.hold();
    fixture.trace();
    for slab in 0..slabs {
        fixture.complete(Io::Journal(slab, 1));
    }
    assert_eq!(fixture.held(), [Io::Flush]);
    fixture.complete(Io::Flush);
    fixture.complete(Io::Summary);
    fixture.disk.run();
    assert_eq!(
        fixture.statistics().slab_summary.blocks_written,
        2,
        "the first, and all others"
    );
    for slab in (0..slabs).map(SlabNumber) {
        let entry = summary_entry(&fixture.disk.blocks, ZoneIndex(0), slab);
        assert_eq!(
            (entry.tail_block_offset, entry.is_dirty),
            (2, true),
            "slab {slab}"
        );
        assert_eq!(entry.fullness_hint, 0, "every slab is full");
    }
    assert_eq!(fixture.locks_held(), 0);
}

#[test]
fn the_summaries_of_all_zones_are_put_together_and_a_new_volume_ignores_what_was_there() {
    let slabs = geometry(7, 6, 8);
    let mut disk = TestDisk::new();
    // Each zone's copy is right about its own slabs only.
    let entry = |zone: u8, slab: u32| SlabSummaryEntry {
        tail_block_offset: if slab % 3 == u32::from(zone) {
            slab as u8 + 1
        } else {
            0xaa
        },
        fullness_hint: 5,
        load_counts: slab.is_multiple_of(2),
        is_dirty: false,
    };
    for block in SUMMARY.get()..SUMMARY.get() + SUMMARY_BLOCKS {
        disk.blocks.insert(block, vec![0xbb; 4096]);
    }
    for zone in 0..16 {
        for slab in 0..7 {
            let (index, at) = entry_place(ZoneIndex(zone), SlabNumber(slab));
            let block = disk.blocks.get_mut(&(SUMMARY.get() + index)).unwrap();
            block[at..at + 2].copy_from_slice(&entry(zone, slab).encode());
        }
    }
    let combine = |disk: &mut TestDisk, zones, last| {
        let base = Rc::clone(&disk.base);
        let combined =
            async move { combine_summaries(&slabs, SUMMARY, zones, last, &base, &memory()).await };
        disk.block_on(combined).unwrap();
        disk.trace
            .iter()
            .filter(|(op, ..)| *op == BaseOp::Write)
            .count()
    };
    assert_eq!(combine(&mut disk, 3, LastRun::Settled), 1);
    for zone in (0..16).map(ZoneIndex) {
        for slab in 0..7 {
            let found = summary_entry(&disk.blocks, zone, SlabNumber(slab));
            assert_eq!(
                found,
                entry(slab as u8 % 3, slab),
                "zone {zone}, slab {slab}"
            );
        }
    }
    assert_eq!(
        combine(&mut disk, 5, LastRun::Settled),
        1,
        "what is right already is not written"
    );
    assert_eq!(combine(&mut disk, 5, LastRun::None), 2);
    let unused = SlabSummaryEntry::unused(slabs.config.data_blocks, slabs.slab_shift());
    for zone in (0..16).map(ZoneIndex) {
        for slab in (0..8192).map(SlabNumber) {
            assert_eq!(summary_entry(&disk.blocks, zone, slab), unused);
        }
    }
}

/// A write that fails turns the volume read-only; a drain ends all the same, and changes that wait fail.
#[test]
fn a_failed_write_stops_the_volume_and_a_drain_ends() {
    let places: [fn(&SlabGeometry) -> Pbn; 3] = [
        |slabs| Pbn(slabs.journal_blocks(SlabNumber(0)).start.get() + 1),
        |slabs| slabs.reference_blocks(SlabNumber(0)).start,
        |_| SUMMARY,
    ];
    for place in places {
        let mut fixture = Fixture::new(geometry(2, 6, 8));
        let pbn = place(&fixture.geometry.slabs);
        fixture.write();
        fixture.disk.bad_writes.insert(pbn.get());
        assert_eq!(fixture.drain(true), Err(VdoError::ReadOnly));
        let why = VdoError::Io {
            operation: "write",
            pbn,
            errno: 5,
        };
        assert_eq!(*fixture.services.why.borrow(), Some(why));
        assert_eq!(fixture.zone.resume(), Err(VdoError::ReadOnly));
        assert_eq!(fixture.drain(true), Err(VdoError::ReadOnly));
        assert_eq!(fixture.drain(false), Ok(()), "nothing is under way");
        assert_eq!(fixture.drain(true), Err(VdoError::ReadOnly));
    }
    let mut fixture = Fixture::new(geometry(2, 6, 8));
    fixture.write();
    fixture.disk.bad_flushes = true;
    assert_eq!(fixture.drain(true), Err(VdoError::ReadOnly));
    let entry = summary_entry(&fixture.disk.blocks, ZoneIndex(0), SlabNumber(0));
    assert_eq!(
        entry.tail_block_offset, 0,
        "without the flush the summary was not written"
    );
}

/// Someone else turns the volume read-only at every stage of the journal's way to disk.
#[test]
fn read_only_mode_ends_everything_under_way() {
    let way = [Io::Journal(0, 1), Io::Flush, Io::Summary];
    for stage in 0..way.len() {
        let mut fixture = Fixture::with_writers(geometry(2, 6, 8), 1);
        let pbn = fixture.write();
        fixture.zone.commit_oldest(fixture.next.sequence);
        fixture.hold();
        let waiting = fixture.churn(pbn, 3);
        for io in &way[..stage] {
            fixture.complete(*io);
        }
        assert_eq!(fixture.held(), [way[stage]]);
        fixture.trace();
        let elsewhere = VdoError::Inconsistent("something else".into());
        fixture.services.enter_read_only(&elsewhere);
        fixture.zone.notify_read_only();
        fixture.hold();
        for &index in &waiting {
            assert_eq!(fixture.result(index), Some(Err(VdoError::ReadOnly)));
        }
        let drained = fixture.start_drain(true);
        assert_eq!(*drained.borrow(), None, "{:?} is under way", way[stage]);
        fixture.complete(way[stage]);
        fixture.hold();
        assert_eq!(*drained.borrow(), Some(Err(VdoError::ReadOnly)));
        let after: Vec<_> = fixture.trace();
        assert!(after.len() <= 1, "nothing but what had begun: {after:?}");
        assert_eq!(*fixture.services.why.borrow(), Some(elsewhere));
    }
}

#[test]
fn read_only_mode_ends_a_reap_and_writes_that_wait_for_memory() {
    for reaping in [false, true] {
        let mut fixture = Fixture::with_writers(geometry(2, 6, 16), 1);
        let pbn = fixture.write();
        fixture.churn(pbn, 12 * FULL - 1);
        fixture.disk.run();
        fixture.churn(pbn, 1);
        fixture.hold();
        fixture.complete(Io::Flush);
        assert_eq!(fixture.held(), [Io::Counts(0, 0)]);
        // The one buffer is with the counters; the journal block waits for it.
        fixture.churn(pbn, FULL - 1);
        let mut under_way = Io::Counts(0, 0);
        if reaping {
            fixture.complete(under_way);
            under_way = Io::Flush;
        }
        let waiting = fixture.churn(pbn, 2);
        assert_eq!(fixture.held(), [under_way]);
        fixture
            .services
            .enter_read_only(&VdoError::Inconsistent("something else".into()));
        fixture.zone.notify_read_only();
        for &index in &waiting {
            let result = fixture.result(index);
            assert_eq!(result.is_none(), !reaping, "{result:?}");
        }
        fixture.trace();
        let drained = fixture.start_drain(true);
        for &index in waiting.iter().filter(|_| !reaping) {
            assert_eq!(fixture.result(index), Some(Err(VdoError::ReadOnly)));
        }
        assert_eq!(*drained.borrow(), None);
        fixture.complete(under_way);
        assert_eq!(*drained.borrow(), Some(Err(VdoError::ReadOnly)));
        assert_eq!(fixture.trace(), [], "the journal block was not written");
    }
}
