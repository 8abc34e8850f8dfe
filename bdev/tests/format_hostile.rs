//! Bytes on disk may be anything: no decoder of the format panics, whatever it is given, and what opens
//! is sound enough to do arithmetic with.

use proptest::prelude::*;
use uuid::Uuid;
use vdo::format::block_map_page::BlockMapPage;
use vdo::format::geometry::{Geometry, GeometryVersion};
use vdo::format::identify::{identify, probe_extents};
use vdo::format::index_region::index_blocks;
use vdo::format::open::{read_geometry, read_volume};
use vdo::format::recovery_journal::{ENTRIES_PER_BLOCK, RecoveryJournalBlock};
use vdo::format::slab_journal::SlabJournalHeader;
use vdo::format::super_block::SuperBlock;
use vdo::format::{Block, FormatOptions, FormatPlan, Volume, compressed_block, reference_block};
use vdo::types::{BLOCK_SIZE, Lbn, MappingState, Pbn, SlabNumber};

const DEVICE_BLOCKS: u64 = 1 << 20;
const GEOMETRY_BYTES: usize = 101;
const SUPER_BLOCK_BYTES: usize = 438;

fn volume() -> Volume {
    let options = FormatOptions::miniature(1 << 13, 16, 64);
    let plan = FormatPlan::new(&options, DEVICE_BLOCKS, 0x0123_4567_89ab_cdef, Uuid::nil());
    plan.expect("a miniature fits").into_volume()
}

fn geometry_block() -> Block {
    let mut block = [0; BLOCK_SIZE];
    volume().geometry.encode(GeometryVersion::V5, &mut block);
    block
}

fn super_block() -> Block {
    let mut block = [0; BLOCK_SIZE];
    volume().super_block.encode(&mut block);
    block
}

/// Makes the checksum in the last four of `size` bytes right.
fn reseal(block: &mut Block, size: usize) {
    let mut hasher = crc32fast::Hasher::new_with_initial(u32::MAX);
    hasher.update(&block[..size - 4]);
    block[size - 4..size].copy_from_slice(&hasher.finalize().to_le_bytes());
}

/// Does with an opened volume what an engine would.
fn use_volume(volume: &Volume) {
    let layout = &volume.layout;
    assert!(layout.physical_blocks <= DEVICE_BLOCKS);
    for extent in [
        layout.index_region,
        layout.block_map_roots,
        layout.slab_depot,
        layout.recovery_journal,
        layout.slab_summary,
    ] {
        assert!(extent.end().get() <= layout.physical_blocks, "{extent:?}");
    }
    let slabs = &layout.slabs;
    assert!(slabs.slab_count > 0 && slabs.end() <= layout.slab_depot.end());
    for slab in [0, slabs.slab_count - 1].map(SlabNumber) {
        assert!(slabs.journal_blocks(slab).end() <= slabs.end());
        let first = slabs.pbn(slab, 0);
        assert_eq!(slabs.locate(first), Some((slab, 0)));
        assert_eq!(slabs.locate(slabs.reference_blocks(slab).start), None);
    }
    let tree = &layout.tree;
    for lbn in [0, tree.logical_blocks - 1].map(Lbn) {
        let (leaf, slot) = tree.leaf(lbn);
        assert_eq!(tree.first_lbn(leaf).get() + u64::from(slot), lbn.get());
        assert!(layout.block_map_roots.contains(tree.root_pbn(leaf.root)));
    }
    tree.interior_pages();
    let mut again = [0; BLOCK_SIZE];
    volume.super_block.encode(&mut again);
    assert_eq!(
        SuperBlock::decode(&again, &volume.geometry).as_ref(),
        Ok(&volume.super_block)
    );
}

fn try_to_open(geometry: &Block, super_block: &Block) -> bool {
    let opened = read_geometry(geometry, DEVICE_BLOCKS)
        .and_then(|geometry| read_volume(geometry, super_block, DEVICE_BLOCKS));
    match opened {
        Ok(volume) => {
            use_volume(&volume);
            let _ = index_blocks(&volume.geometry.index);
            let _ = volume.require_clean();
            true
        }
        Err(refusal) => {
            assert!(!refusal.to_string().is_empty());
            false
        }
    }
}

#[test]
fn the_undamaged_volume_opens() {
    assert!(try_to_open(&geometry_block(), &super_block()));
}

#[test]
fn every_single_flipped_bit_of_either_block_is_refused() {
    for at in 0..GEOMETRY_BYTES * 8 {
        let mut block = geometry_block();
        block[at / 8] ^= 1 << (at % 8);
        assert!(
            !try_to_open(&block, &super_block()),
            "bit {at} of the geometry block"
        );
    }
    for at in 0..SUPER_BLOCK_BYTES * 8 {
        let mut block = super_block();
        block[at / 8] ^= 1 << (at % 8);
        assert!(
            !try_to_open(&geometry_block(), &block),
            "bit {at} of the super block"
        );
    }
}

#[test]
fn every_single_flipped_bit_under_a_right_checksum_opens_soundly_or_is_refused() {
    for at in 0..(GEOMETRY_BYTES - 4) * 8 {
        let mut block = geometry_block();
        block[at / 8] ^= 1 << (at % 8);
        reseal(&mut block, GEOMETRY_BYTES);
        try_to_open(&block, &super_block());
    }
    for at in 0..(SUPER_BLOCK_BYTES - 4) * 8 {
        let mut block = super_block();
        block[at / 8] ^= 1 << (at % 8);
        reseal(&mut block, SUPER_BLOCK_BYTES);
        try_to_open(&geometry_block(), &block);
    }
}

fn blocks() -> impl Strategy<Value = Box<Block>> {
    let some = prop::collection::vec((0..BLOCK_SIZE, any::<u8>()), 0..64);
    (any::<[u8; 16]>(), any::<bool>(), some).prop_map(|(seed, repeat, some)| {
        let mut block = Box::new([0; BLOCK_SIZE]);
        if repeat {
            block
                .chunks_exact_mut(16)
                .for_each(|chunk| chunk.copy_from_slice(&seed));
        }
        some.into_iter().for_each(|(at, byte)| block[at] = byte);
        block
    })
}

/// Numbers a field may be set to that are likelier to slip through than random ones.
fn telling_numbers() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        Just(i64::MAX as u64),
        (0u32..64).prop_map(|shift| 1 << shift),
        (0u32..64).prop_map(|shift| (1 << shift) - 1),
        0..DEVICE_BLOCKS * 2,
        any::<u64>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_blocks_are_refused_or_read_without_a_panic(block in blocks(), state in 2u8..=15) {
        let _ = Geometry::decode(&block[..]);
        let _ = SuperBlock::decode(&block[..], &volume().geometry);
        let page = BlockMapPage::new(&block);
        page.validity(1, Pbn(1));
        prop_assert_eq!(page.entries().count(), 812);
        let journal = RecoveryJournalBlock::new(&block);
        if let Ok(header) = journal.header() {
            let sectors = (1..8).filter_map(|sector| journal.sector_entries(&header, sector));
            prop_assert!(sectors.sum::<u16>() <= ENTRIES_PER_BLOCK);
        }
        (0..ENTRIES_PER_BLOCK).for_each(|index| drop(journal.entry(index)));
        if let Ok(header) = SlabJournalHeader::decode(&block) {
            prop_assert_eq!(header.entries(&block).count(), usize::from(header.entry_count));
        }
        let mut counts = [0; reference_block::COUNTS_PER_BLOCK];
        reference_block::decode(&block, &mut counts);
        let state = MappingState::from_bits(state).expect("a state has four bits");
        if let Ok(place) = compressed_block::fragment(&block, state) {
            prop_assert!(place.end <= BLOCK_SIZE);
        }
        let (head, _) = probe_extents(1);
        prop_assert_eq!(head.blocks, 1);
        identify(&block[..], &[], 1);
    }

    #[test]
    fn any_number_in_any_place_under_a_right_checksum_opens_soundly_or_is_refused(
        changes in prop::collection::vec((20..SUPER_BLOCK_BYTES - 12, telling_numbers()), 1..3),
        in_geometry in prop::option::of((28..GEOMETRY_BYTES - 12, telling_numbers())),
    ) {
        let mut super_block = super_block();
        for (at, number) in changes {
            super_block[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        reseal(&mut super_block, SUPER_BLOCK_BYTES);
        let mut geometry = geometry_block();
        if let Some((at, number)) = in_geometry {
            geometry[at..at + 8].copy_from_slice(&number.to_le_bytes());
            reseal(&mut geometry, GEOMETRY_BYTES);
        }
        try_to_open(&geometry, &super_block);
    }

    #[test]
    fn a_cut_off_block_is_refused(length in 0..SUPER_BLOCK_BYTES) {
        if length < GEOMETRY_BYTES {
            prop_assert!(Geometry::decode(&geometry_block()[..length]).is_err());
        }
        prop_assert!(SuperBlock::decode(&super_block()[..length], &volume().geometry).is_err());
    }
}
