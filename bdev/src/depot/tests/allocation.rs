//! Which block is allocated next, and when there is none.

use super::*;

fn data_blocks(fixture: &Fixture) -> u32 {
    fixture.geometry.slabs.config.data_blocks as u32
}

#[test]
fn blocks_come_in_order_until_the_last_and_then_there_is_no_space() {
    let mut fixture = Fixture::new(geometry(3, 6, 4));
    let mut blocks = Vec::new();
    for used in 0..3 * u64::from(data_blocks(&fixture)) {
        assert_eq!(fixture.zone.allocated_blocks(), used);
        blocks.push(fixture.write());
    }
    let expected = (0..3).flat_map(|slab| {
        let (fixture, count) = (&fixture, data_blocks(&fixture));
        (0..count).map(move |offset| fixture.pbn(slab, offset))
    });
    assert!(
        blocks.iter().copied().eq(expected),
        "slab by slab, block by block"
    );
    for _ in 0..3 {
        assert_eq!(
            fixture.zone.allocate(WriteKind::Data),
            Err(VdoError::NoSpace)
        );
    }
    assert_eq!(fixture.zone.locked_blocks(), 0);
    let statistics = fixture.statistics().allocator;
    assert_eq!((statistics.slab_count, statistics.slabs_opened), (3, 3));
    assert_eq!(statistics.slabs_reopened, 0);
}

#[test]
fn freed_blocks_are_found_again_each_once() {
    let mut fixture = Fixture::new(geometry(2, 6, 4));
    let total = 2 * data_blocks(&fixture);
    let blocks: Vec<_> = (0..total).map(|_| fixture.write()).collect();
    let freed: Vec<_> = blocks.iter().copied().step_by(3).collect();
    for &pbn in &freed {
        fixture.decrement(pbn);
    }
    assert_eq!(
        fixture.zone.allocated_blocks(),
        u64::from(total) - freed.len() as u64
    );
    let mut again: Vec<_> = freed.iter().map(|_| fixture.write()).collect();
    again.sort_unstable();
    assert_eq!(again, freed);
    assert_eq!(
        fixture.zone.allocate(WriteKind::Data),
        Err(VdoError::NoSpace)
    );
    assert!(fixture.statistics().allocator.slabs_reopened > 0);
}

#[test]
fn an_open_slab_is_used_up_first_then_emptied_ones_then_unused_ones_then_crumbs() {
    let mut fixture = Fixture::new(geometry(4, 6, 4));
    let count = data_blocks(&fixture);
    for offset in 0..count {
        assert_eq!(fixture.write(), fixture.pbn(0, offset));
    }
    for _ in 0..4 {
        for offset in 0..count {
            let pbn = fixture.write();
            assert_eq!(
                pbn,
                fixture.pbn(1, offset),
                "the open slab stays open to its end"
            );
            fixture.decrement(pbn);
        }
    }
    for offset in 0..count {
        assert_eq!(fixture.write(), fixture.pbn(1, offset));
    }
    for offset in 0..count {
        fixture.decrement(fixture.pbn(0, offset));
    }
    for offset in 0..count {
        let next = fixture.write();
        assert_eq!(
            next,
            fixture.pbn(0, offset),
            "an emptied slab comes before an unused one"
        );
    }
    fixture.decrement(fixture.pbn(1, 0));
    assert_eq!(
        fixture.write(),
        fixture.pbn(2, 0),
        "an unused slab comes before a single block"
    );
    while fixture.zone.data_blocks() - fixture.zone.allocated_blocks() > 1 {
        fixture.write();
    }
    assert_eq!(
        fixture.write(),
        fixture.pbn(1, 0),
        "but a single block is found in the end"
    );
}

#[test]
fn a_block_given_back_unused_is_free() {
    let fixture = Fixture::new(geometry(1, 6, 4));
    let pbn = fixture.zone.allocate(WriteKind::Data).unwrap();
    assert_eq!(fixture.count(pbn), 255);
    assert_eq!(fixture.zone.allocated_blocks(), 1);
    fixture.zone.release(pbn);
    assert_eq!(fixture.count(pbn), 0);
    assert_eq!(fixture.zone.allocated_blocks(), 0);
    let mut fixture = fixture.reopen();
    assert_eq!(fixture.zone.allocated_blocks(), 0);
    assert_eq!(fixture.write(), pbn);
}

#[test]
fn each_zone_has_its_slabs_and_no_others() {
    let slabs = geometry(5, 6, 4);
    let first = Fixture::on(TestDisk::new(), slabs, (ZoneIndex(0), 2), Some(0), 4);
    let second = Fixture::on(TestDisk::new(), slabs, (ZoneIndex(1), 2), Some(0), 4);
    assert_eq!(first.zone.data_blocks(), 3 * slabs.config.data_blocks);
    assert_eq!(second.zone.data_blocks(), 2 * slabs.config.data_blocks);
    for slab in 0..5 {
        for offset in [0, data_blocks(&first) - 1] {
            let pbn = first.pbn(slab, offset);
            let owners = [
                first.zone.reference_count(pbn),
                second.zone.reference_count(pbn),
            ];
            let expected = if slab % 2 == 0 {
                [Some(0), None]
            } else {
                [None, Some(0)]
            };
            assert_eq!(owners, expected, "block {offset} of slab {slab}");
        }
        let metadata = Pbn(first.pbn(slab, 0).get() + slabs.config.data_blocks);
        assert_eq!(first.zone.reference_count(metadata), None);
        assert_eq!(second.zone.reference_count(metadata), None);
    }
    for pbn in [
        Pbn::ZERO,
        Pbn(slabs.first_block.get() - 1),
        slabs.end(),
        Pbn(u64::MAX),
    ] {
        assert_eq!(first.zone.reference_count(pbn), None);
    }
    let limits = DepotLimits::default();
    let disk = TestDisk::new();
    let geometry = DepotGeometry {
        zone: ZoneIndex(5),
        zones: 6,
        ..first.geometry
    };
    let services = Rc::new(Recorder::default());
    let too_many = PhysicalZone::new(
        geometry,
        limits,
        &disk.scheduler,
        &disk.base,
        services,
        &memory(),
    );
    assert!(too_many.unwrap_err().to_string().contains("5 slabs"));
}
