use super::*;
use crate::format::block_map_page::BlockMapPage;
use crate::format::reference_block::decode;
use crate::format::slab::SlabConfig;
use crate::types::{BLOCK_SIZE, MappingState};

const ROOTS: u32 = 2;

fn slabs() -> SlabGeometry {
    SlabGeometry::new(Pbn(100), 2, SlabConfig::new(1 << 13, 224).unwrap())
}

/// Three and a half leaves: two in the first tree, two in the second.
fn tree() -> TreeGeometry {
    TreeGeometry {
        root_origin: Pbn(10),
        roots: ROOTS,
        logical_blocks: 812 * 3 + 406,
    }
}

fn recount() -> Recount {
    Recount::new(slabs(), tree()).expect("little memory")
}

fn page(height: u8) -> TreePage {
    TreePage {
        root: 0,
        height,
        index: 0,
    }
}

fn mapping(pbn: u64, state: u8) -> Mapping {
    Mapping {
        pbn: Pbn(pbn),
        state: MappingState::from_bits(state).unwrap(),
    }
}

fn made(entries: &[(u16, Mapping)]) -> Block {
    let mut block = [0; BLOCK_SIZE];
    let mut page = BlockMapPageMut::format(&mut block, 1, Pbn(5), true);
    for (slot, mapping) in entries {
        page.set(*slot, *mapping);
    }
    block
}

/// The slots that are still mapped.
fn left(block: &Block) -> Vec<u16> {
    let entries = BlockMapPage::new(block).entries();
    let mapped = (0..)
        .zip(entries)
        .filter(|(_, one)| *one != Mapping::UNMAPPED);
    mapped.map(|(slot, _)| slot).collect()
}

fn count(recount: &Recount, pbn: u64) -> u8 {
    let (slab, offset) = slabs().locate(Pbn(pbn)).unwrap();
    let mut block = [0; BLOCK_SIZE];
    recount.pack(
        slab,
        u64::from(offset) / COUNTS_PER_BLOCK as u64,
        &mut block,
    );
    let mut counts = [0; COUNTS_PER_BLOCK];
    let points = decode(&block, &mut counts);
    assert_eq!(points, [JournalPoint::default(); 8]);
    counts[offset as usize % COUNTS_PER_BLOCK]
}

#[test]
fn each_mapping_is_a_reference_and_each_page_is_counted_as_one() {
    let mut recount = recount();
    let mut root = made(&[(0, mapping(100, 1))]);
    assert!(!recount.tree_page(page(4), &mut root));
    let mut leaf = made(&[
        (0, mapping(101, 1)),
        (1, mapping(101, 15)),
        (2, Mapping::ZERO),
        (811, mapping(100 + 8192, 1)),
    ]);
    assert!(!recount.leaf(page(0), &mut leaf));
    assert_eq!(count(&recount, 100), MAXIMUM_REFERENCE_COUNT);
    assert_eq!((count(&recount, 101), count(&recount, 102)), (2, 0));
    let usage = Usage {
        logical_blocks: 4,
        block_map_pages: 1,
    };
    assert_eq!(recount.usage(), usage);
    assert!(recount.losses.is_nothing());
    let data_blocks = slabs().config.data_blocks;
    let expected = |used| SlabSummaryEntry {
        tail_block_offset: 0,
        fullness_hint: fullness_hint(data_blocks - used, 13),
        load_counts: true,
        is_dirty: false,
    };
    assert_eq!(recount.summary(SlabNumber(0)), expected(2));
    assert_eq!(recount.summary(SlabNumber(1)), expected(1));
}

#[test]
fn a_slab_nobody_uses_is_as_new() {
    let entry = recount().summary(SlabNumber(1));
    let slabs = slabs();
    let unused = SlabSummaryEntry::unused(slabs.config.data_blocks, slabs.slab_shift());
    assert_eq!(entry, unused);
}

#[test]
fn leaves_lose_just_the_mappings_that_cannot_be() {
    let mut recount = recount();
    let metadata = 100 + slabs().config.data_blocks;
    let mut leaf = made(&[
        (0, mapping(101, 1)),
        (1, mapping(0, 2)),
        (2, mapping(102, 0)),
        (3, mapping(99, 1)),
        (4, mapping(metadata, 1)),
        (5, mapping(100 + 2 * 8192, 1)),
        (6, mapping(101, 2)),
    ]);
    assert!(recount.leaf(page(0), &mut leaf));
    assert_eq!(left(&leaf), [0, 6]);
    assert_eq!((recount.losses.malformed, recount.losses.outside), (2, 3));
    assert_eq!(recount.usage().logical_blocks, 2);
    let text = recount.losses.to_string();
    assert_eq!(
        text,
        "2 ill-formed mappings, 3 mappings to no block of data"
    );
    assert!(!recount.leaf(page(0), &mut leaf), "what is left is sound");
}

#[test]
fn the_255th_reference_and_one_to_a_page_of_the_block_map_are_dropped() {
    let mut recount = recount();
    recount.tree_page(page(4), &mut made(&[(0, mapping(100, 1))]));
    let crowd: Vec<_> = (0..255).map(|slot| (slot, mapping(101, 1))).collect();
    let mut leaf = made(&crowd);
    assert!(recount.leaf(page(0), &mut leaf));
    assert_eq!(left(&leaf), (0..254).collect::<Vec<_>>());
    let mut leaf = made(&[(7, mapping(100, 1))]);
    assert!(recount.leaf(page(0), &mut leaf));
    assert_eq!(left(&leaf), []);
    assert_eq!(recount.losses.too_many, 2);
}

#[test]
fn what_lies_beyond_the_end_of_the_volume_is_dropped() {
    let tree = tree();
    // The last leaf, number 3, is the second page of the second tree, and half of it is in use.
    let last = tree.leaf_page(3);
    let mut recount = recount();
    let mut leaf = made(&[
        (405, mapping(101, 1)),
        (406, mapping(102, 1)),
        (811, Mapping::ZERO),
    ]);
    assert!(recount.leaf(last, &mut leaf));
    assert_eq!(left(&leaf), [405]);
    // A third leaf of a tree.
    let mut parent = made(&[(1, mapping(103, 1)), (2, mapping(104, 1))]);
    assert!(recount.tree_page(page(1), &mut parent));
    assert_eq!(left(&parent), [1]);
    assert_eq!(recount.losses.beyond_end, 3);
    // A second page below the root.
    let mut root = made(&[(0, mapping(105, 1)), (1, mapping(106, 1))]);
    assert!(recount.tree_page(page(4), &mut root));
    assert_eq!(left(&root), [0]);
}

#[test]
fn tree_entries_that_lead_to_roots_other_pages_or_out_lose_what_was_below() {
    let mut recount = recount();
    let metadata = 100 + slabs().config.data_blocks;
    recount.tree_page(page(4), &mut made(&[(0, mapping(100, 1))]));
    for place in [10, 100, metadata, 99, 1 << 35] {
        let mut parent = made(&[(0, mapping(place, 1))]);
        assert!(recount.tree_page(page(1), &mut parent), "{place}");
        assert_eq!(left(&parent), []);
    }
    assert_eq!(recount.losses.subtrees, 5);
    let mut parent = made(&[(0, mapping(0, 5)), (1, mapping(107, 0))]);
    assert!(recount.tree_page(page(1), &mut parent));
    assert_eq!(recount.losses.malformed, 2);
    assert_eq!(recount.usage().block_map_pages, 1);
}

#[test]
fn the_pages_of_each_tree_are_those_that_leaves_hang_on() {
    let tree = TreeGeometry {
        root_origin: Pbn(10),
        roots: 3,
        logical_blocks: 812 * (3 * 812 + 2),
    };
    let leaf_parent = |root, index| TreePage {
        root,
        height: 1,
        index,
    };
    // 813 leaves in the first two trees, 812 in the third.
    assert!(has_child(&tree, leaf_parent(0, 0), 811));
    assert!(has_child(&tree, leaf_parent(1, 1), 0));
    assert!(!has_child(&tree, leaf_parent(1, 1), 1));
    assert!(!has_child(&tree, leaf_parent(2, 1), 0));
    let above = |root, slot| {
        has_child(
            &tree,
            TreePage {
                root,
                height: 2,
                index: 0,
            },
            slot,
        )
    };
    assert!(above(0, 1) && !above(0, 2) && !above(2, 1));
    let child_of = child(leaf_parent(1, 1), 5);
    assert_eq!((child_of.height, child_of.index), (0, 817));
    assert_eq!(child_of.parent(), Some((leaf_parent(1, 1), 5)));
}
