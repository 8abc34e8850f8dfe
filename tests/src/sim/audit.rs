//! Looks over a volume that was shut down clean, from its blocks alone: does everything that counts agree?
//!
//! The block map is walked from its roots to every entry. Every data block must be counted as often as
//! entries refer to it, every page of the block map as what it is, every other block not at all;
//! the slab summary must say so too, and the super block know how much is mapped.

use std::collections::{BTreeMap, HashMap};

use vdo::format::Block;
use vdo::format::block_map_page::{BlockMapPage, PageValidity, is_valid};
use vdo::format::compressed_block::fragment;
use vdo::format::open::{Volume, read_geometry, read_volume};
use vdo::format::reference_block::{self, COUNTS_PER_BLOCK};
use vdo::format::slab_summary::{ENTRY_SIZE, SlabSummaryEntry, entry_place, fullness_hint};
use vdo::format::tree::{ENTRIES_PER_PAGE, TREE_HEIGHT, TreePage};
use vdo::types::{BLOCK_SIZE, MAXIMUM_REFERENCE_COUNT, Pbn, SlabNumber, ZoneIndex};

/// The blocks of a disk that were written; others are zero.
pub type Blocks = BTreeMap<u64, Block>;

/// One block.
pub fn block(blocks: &Blocks, pbn: Pbn) -> Block {
    blocks.get(&pbn.get()).copied().unwrap_or([0; BLOCK_SIZE])
}

/// The volume on a disk of `size` blocks.
///
/// # Errors
/// Why there is none.
pub fn volume_on(blocks: &Blocks, size: u64) -> Result<Volume, String> {
    let geometry =
        read_geometry(&block(blocks, Pbn(0)), size).map_err(|error| error.to_string())?;
    let super_block = block(blocks, geometry.super_block());
    read_volume(geometry, &super_block, size).map_err(|error| error.to_string())
}

/// What a volume has been through, as far as it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Past {
    /// Nothing that leaves traces.
    Quiet,
    /// It was full: pages may have been made for a write that then found no space, and so never been written.
    Full,
    /// It was recovered: pages may have been made for what was lost.
    Recovered,
}

struct Audit<'a> {
    blocks: &'a Blocks,
    volume: Volume,
    past: Past,
    /// What each block should be counted.
    wanted: HashMap<Pbn, u64>,
    mapped: u64,
    pages: u64,
    problems: Vec<String>,
}

/// Looks over a volume that was shut down clean.
///
/// # Errors
/// Everything that does not agree.
pub fn audit(blocks: &Blocks, size: u64) -> Result<(), Vec<String>> {
    look_over(blocks, size, Past::Quiet)
}

/// As [`audit`], of a volume that may have been full. It may have pages that were made and never written, because what was
/// to go into them found no space.
///
/// # Errors
/// Everything that does not agree.
pub fn audit_full(blocks: &Blocks, size: u64) -> Result<(), Vec<String>> {
    look_over(blocks, size, Past::Full)
}

/// Looks over a volume that was shut down clean and had been recovered before. It may have pages that were given a place
/// and never written, because what was to go into them was lost.
///
/// # Errors
/// Everything that does not agree.
pub fn audit_recovered(blocks: &Blocks, size: u64) -> Result<(), Vec<String>> {
    look_over(blocks, size, Past::Recovered)
}

fn look_over(blocks: &Blocks, size: u64, past: Past) -> Result<(), Vec<String>> {
    let volume = volume_on(blocks, size).map_err(|error| vec![error])?;
    volume
        .require_clean()
        .map_err(|error| vec![error.to_string()])?;
    let mut audit = Audit {
        blocks,
        volume,
        past,
        wanted: HashMap::new(),
        mapped: 0,
        pages: 0,
        problems: Vec::new(),
    };
    let tree = audit.volume.layout.tree;
    for root in 0..tree.roots {
        let page = TreePage {
            root,
            height: TREE_HEIGHT as u8 - 1,
            index: 0,
        };
        audit.walk(page, tree.root_pbn(root));
    }
    let state = audit.volume.super_block.recovery_journal;
    audit.same(
        "mapped logical blocks",
        state.logical_blocks_used,
        audit.mapped,
    );
    audit.same(
        "pages of the block map",
        state.block_map_data_blocks,
        audit.pages,
    );
    for slab in 0..audit.volume.layout.slabs.slab_count {
        audit.slab(SlabNumber(slab));
    }
    match audit.problems.is_empty() {
        true => Ok(()),
        false => Err(audit.problems),
    }
}

impl Audit<'_> {
    fn same(&mut self, what: &str, found: u64, wanted: u64) {
        if found != wanted {
            self.problems
                .push(format!("{what}: the disk says {found}, there are {wanted}"));
        }
    }

    fn walk(&mut self, page: TreePage, pbn: Pbn) {
        let bytes = block(self.blocks, pbn);
        let view = BlockMapPage::new(&bytes);
        let layout = self.volume.layout.clone();
        let is_root = usize::from(page.height) == TREE_HEIGHT - 1;
        match view.validity(layout.nonce, pbn) {
            PageValidity::Valid => {}
            PageValidity::Unwritten if is_root || self.past != Past::Quiet => return,
            other => {
                self.problems
                    .push(format!("{page:?} at {pbn} is {other:?}"));
                return;
            }
        }
        for (slot, mapping) in (0_u64..).zip(view.entries()) {
            if !is_valid(mapping) {
                self.problems
                    .push(format!("{page:?} at {pbn}: slot {slot} holds {mapping:?}"));
                continue;
            }
            if !mapping.state.is_mapped() {
                continue;
            }
            if page.height == 0 {
                let lbn = layout.tree.first_lbn(page).get() + slot;
                self.mapped += 1;
                if lbn >= layout.logical_blocks {
                    self.problems
                        .push(format!("logical block {lbn} is mapped, there is none"));
                }
                if mapping.pbn != Pbn::ZERO {
                    *self.wanted.entry(mapping.pbn).or_default() += 1;
                }
                if mapping.state.is_compressed()
                    && self.past != Past::Recovered
                    && let Err(error) = fragment(&block(self.blocks, mapping.pbn), mapping.state)
                {
                    self.problems
                        .push(format!("logical block {lbn} at {mapping:?}: {error}"));
                }
                continue;
            }
            self.pages += 1;
            let counted = u64::from(MAXIMUM_REFERENCE_COUNT);
            if self.wanted.insert(mapping.pbn, counted).is_some() {
                self.problems
                    .push(format!("block {} has two owners", mapping.pbn));
                continue;
            }
            let child = TreePage {
                root: page.root,
                height: page.height - 1,
                index: page.index * ENTRIES_PER_PAGE + slot,
            };
            self.walk(child, mapping.pbn);
        }
        if !is_root
            && self.past != Past::Recovered
            && view
                .entries()
                .all(|mapping| mapping == vdo::types::Mapping::UNMAPPED)
            && page.height > 0
        {
            self.problems
                .push(format!("{page:?} at {pbn} leads nowhere"));
        }
    }

    fn slab(&mut self, slab: SlabNumber) {
        let slabs = self.volume.layout.slabs;
        let zones = u32::from(self.volume.super_block.slab_depot.zone_count).max(1);
        let zone = ZoneIndex((slab.get() % zones) as u8);
        let (index, at) = entry_place(zone, slab);
        let start = self.volume.layout.slab_summary.start.get();
        let summary = block(self.blocks, Pbn(start + index));
        let entry = SlabSummaryEntry::decode(
            summary[at..at + ENTRY_SIZE]
                .try_into()
                .expect("an entry has its size"),
        );
        if entry.is_dirty {
            self.problems.push(format!("slab {slab} is dirty"));
        }
        let mut counts = Vec::new();
        let place = slabs.reference_blocks(slab);
        for number in 0..place.blocks {
            let mut part = [0; COUNTS_PER_BLOCK];
            if entry.load_counts {
                let bytes = block(self.blocks, Pbn(place.start.get() + number));
                reference_block::decode(&bytes, &mut part);
            }
            counts.extend(part);
        }
        let mut free = 0;
        for offset in 0..slabs.config.data_blocks as u32 {
            let pbn = slabs.pbn(slab, offset);
            let wanted = self.wanted.remove(&pbn).unwrap_or(0);
            let found = u64::from(counts[offset as usize]);
            free += u64::from(found == 0);
            if found != wanted {
                self.problems
                    .push(format!("block {pbn} is counted {found}, used {wanted}"));
            }
        }
        let hint = fullness_hint(free, slabs.slab_shift());
        if entry.fullness_hint != hint && (entry.load_counts || entry.tail_block_offset > 0) {
            let found = entry.fullness_hint;
            let what =
                format!("slab {slab} with {free} free blocks has the hint {found}, not {hint}");
            self.problems.push(what);
        }
    }
}
