//! Block-map tree arithmetic: which pages, and which slots in them, map a logical block.
//!
//! The block map is a forest of `roots` trees (60). Logical blocks are mapped 812 to a leaf page; leaf
//! pages are dealt to the trees in turn, so leaf page `n` is page `n / roots` of tree `n % roots`.
//! Within a tree, page `i` of height `h` is found in slot `i % 812` of page `i / 812` of height
//! `h + 1`, up to the root at height 4, which lies in the block-map partition:
//!
//! ```text
//!   height 4   root           one page a tree, in the block-map partition
//!   height 3   interior       up to 812, in data blocks of slabs
//!   height 2   interior       up to 812 * 812
//!   height 1   interior       up to 812 ^ 3
//!   height 0   leaf           812 logical blocks each
//! ```
//!
//! All trees have the full height from the start; pages below the root are allocated when first
//! needed.

use crate::types::{Lbn, Pbn};

/// Entries in a page of the block map, leaf or not.
pub const ENTRIES_PER_PAGE: u64 = 812;

/// Heights of a tree, leaf and root included.
pub const TREE_HEIGHT: usize = 5;

/// Trees in a new volume.
pub const DEFAULT_ROOTS: u64 = 60;

/// One page of a tree: its height (0 is a leaf) and its number among the pages of that height.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TreePage {
    /// Which tree.
    pub root: u32,
    /// How far above the leaves, 0 to 4.
    pub height: u8,
    /// Which page of that height in that tree, from zero.
    pub index: u64,
}

impl TreePage {
    /// The page whose entry says where this one is, and the slot of that entry; `None` for a root.
    #[inline]
    pub fn parent(self) -> Option<(TreePage, u16)> {
        if usize::from(self.height) + 1 == TREE_HEIGHT {
            return None;
        }
        let parent = TreePage {
            root: self.root,
            height: self.height + 1,
            index: self.index / ENTRIES_PER_PAGE,
        };
        Some((parent, (self.index % ENTRIES_PER_PAGE) as u16))
    }
}

/// The forest of one volume: how many trees, and how many logical blocks they map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeGeometry {
    /// The first root page; root `r` is at this plus `r`.
    pub root_origin: Pbn,
    /// How many trees.
    pub roots: u32,
    /// How many logical blocks.
    pub logical_blocks: u64,
}

impl TreeGeometry {
    /// Which leaf page, counted over all trees, maps a logical block.
    #[inline]
    pub fn leaf_number(&self, lbn: Lbn) -> u64 {
        lbn.get() / ENTRIES_PER_PAGE
    }

    /// The leaf page that maps a logical block, and the slot in it.
    #[inline]
    pub fn leaf(&self, lbn: Lbn) -> (TreePage, u16) {
        let slot = (lbn.get() % ENTRIES_PER_PAGE) as u16;
        (self.leaf_page(self.leaf_number(lbn)), slot)
    }

    /// The leaf page of this number, counted over all trees.
    #[inline]
    pub fn leaf_page(&self, number: u64) -> TreePage {
        let roots = u64::from(self.roots);
        TreePage {
            root: (number % roots) as u32,
            height: 0,
            index: number / roots,
        }
    }

    /// The first logical block a leaf page maps; the inverse of [`TreeGeometry::leaf`].
    pub fn first_lbn(&self, leaf: TreePage) -> Lbn {
        Lbn((leaf.index * u64::from(self.roots) + u64::from(leaf.root)) * ENTRIES_PER_PAGE)
    }

    /// Where the root page of a tree is.
    #[inline]
    pub fn root_pbn(&self, root: u32) -> Pbn {
        Pbn(self.root_origin.get() + u64::from(root))
    }

    /// How many leaf pages map all logical blocks, at least one.
    pub fn leaf_count(&self) -> u64 {
        self.logical_blocks.div_ceil(ENTRIES_PER_PAGE).max(1)
    }

    /// How many pages each height can have *in each tree*, from the leaves up; the root's is one.
    pub fn pages_per_tree(&self) -> [u64; TREE_HEIGHT] {
        let mut pages = self.leaf_count().div_ceil(u64::from(self.roots));
        let mut levels = [pages; TREE_HEIGHT];
        for level in &mut levels[1..] {
            pages = pages.div_ceil(ENTRIES_PER_PAGE);
            *level = pages;
        }
        levels
    }

    /// Interior pages (heights 1 to 3) of all trees that would be allocated if every logical block were
    /// mapped. A slight over-estimate: every tree is taken to be as large as the largest.
    pub fn interior_pages(&self) -> u64 {
        self.pages_per_tree()[1..TREE_HEIGHT - 1]
            .iter()
            .sum::<u64>()
            * u64::from(self.roots)
    }
}

/// Pages of the block map that mapping every one of `blocks` blocks would take, of those blocks
/// themselves; a new volume that is to be as large as its device presents that many blocks less.
pub(super) fn forest_size(blocks: u64, roots: u32) -> u64 {
    let all = TreeGeometry {
        root_origin: Pbn::ZERO,
        roots,
        logical_blocks: blocks,
    };
    let interior = all.interior_pages();
    interior + blocks.saturating_sub(interior).div_ceil(ENTRIES_PER_PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FOREST: TreeGeometry = TreeGeometry {
        root_origin: Pbn(100),
        roots: 60,
        logical_blocks: 1 << 40,
    };

    #[test]
    fn leaves_are_dealt_to_the_trees_in_turn() {
        let page = |lbn| FOREST.leaf(Lbn(lbn));
        assert_eq!(
            page(0),
            (
                TreePage {
                    root: 0,
                    height: 0,
                    index: 0
                },
                0
            )
        );
        assert_eq!(
            page(811),
            (
                TreePage {
                    root: 0,
                    height: 0,
                    index: 0
                },
                811
            )
        );
        assert_eq!(
            page(812),
            (
                TreePage {
                    root: 1,
                    height: 0,
                    index: 0
                },
                0
            )
        );
        assert_eq!(
            page(812 * 60),
            (
                TreePage {
                    root: 0,
                    height: 0,
                    index: 1
                },
                0
            )
        );
        assert_eq!(FOREST.root_pbn(59), Pbn(159));
    }

    #[test]
    fn a_page_hangs_in_the_slot_of_its_parent() {
        let leaf = TreePage {
            root: 7,
            height: 0,
            index: 812 * 812 * 3 + 812 * 5 + 9,
        };
        let (one, slot) = leaf.parent().unwrap();
        assert_eq!((one.height, one.index, slot), (1, 812 * 3 + 5, 9));
        let (two, slot) = one.parent().unwrap();
        assert_eq!((two.height, two.index, slot), (2, 3, 5));
        let (three, slot) = two.parent().unwrap();
        assert_eq!((three.height, three.index, slot), (3, 0, 3));
        let (root, slot) = three.parent().unwrap();
        assert_eq!(
            (root, slot),
            (
                TreePage {
                    root: 7,
                    height: 4,
                    index: 0
                },
                0
            )
        );
        assert_eq!(root.parent(), None);
    }

    #[test]
    fn a_tree_of_one_leaf_still_has_every_height() {
        let tiny = TreeGeometry {
            logical_blocks: 1,
            ..FOREST
        };
        assert_eq!(tiny.pages_per_tree(), [1; TREE_HEIGHT]);
        assert_eq!(tiny.interior_pages(), 180);
        let empty = TreeGeometry {
            logical_blocks: 0,
            ..FOREST
        };
        assert_eq!(empty.leaf_count(), 1);
    }

    #[test]
    fn the_largest_volume_fits_under_its_roots() {
        assert_eq!(FOREST.pages_per_tree()[TREE_HEIGHT - 1], 1);
    }

    proptest! {
        #[test]
        fn leaf_and_first_lbn_are_inverse(lbn in 0u64..1 << 40, roots in 1u32..=255) {
            let forest = TreeGeometry { roots, ..FOREST };
            let (leaf, slot) = forest.leaf(Lbn(lbn));
            prop_assert_eq!(forest.first_lbn(leaf).get() + u64::from(slot), lbn);
            prop_assert!(u64::from(slot) < ENTRIES_PER_PAGE);
            prop_assert!(leaf.root < roots);
        }

        #[test]
        fn every_page_on_the_way_up_exists(
            logical_blocks in 1u64..=1 << 40, lbn: prop::sample::Index, roots in 1u32..=255,
        ) {
            let forest = TreeGeometry { roots, logical_blocks, ..FOREST };
            let lbn = lbn.index(logical_blocks as usize) as u64;
            let pages = forest.pages_per_tree();
            let mut page = forest.leaf(Lbn(lbn)).0;
            prop_assert!(page.index < pages[0]);
            while let Some((parent, slot)) = page.parent() {
                prop_assert!(u64::from(slot) < ENTRIES_PER_PAGE);
                prop_assert!(parent.index < pages[usize::from(parent.height)]);
                page = parent;
            }
            prop_assert_eq!((page.height, page.root), (4, forest.leaf(Lbn(lbn)).0.root));
        }
    }
}
