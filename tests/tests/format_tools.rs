//! Volumes put together here, before the tools of dm-vdo: `vdoaudit`, `vdolistmetadata`,
//! `vdodumpblockmap` and `vdodumpmetadata` read plain image files and must find in them what was meant.
//!
//! The volumes are written with the format alone, without the engine: tree pages, counters, slab
//! summary and super block as a clean shutdown leaves them.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Output};

use vdo::format::block_map_page::{BlockMapPage, BlockMapPageMut};
use vdo::format::components::VolumeState;
use vdo::format::geometry::GeometryVersion;
use vdo::format::reference_block::{self, COUNTS_PER_BLOCK};
use vdo::format::slab_summary::{SlabSummaryEntry, entry_place, fullness_hint};
use vdo::format::tree::TREE_HEIGHT;
use vdo::format::{Extent, FormatOptions, FormatPlan, Volume};
use vdo::types::{
    BLOCK_SIZE, JournalPoint, Lbn, Mapping, MappingState, Pbn, SlabNumber, ZoneIndex,
};
use vdo_tests::dm_vdo::{Image, lacking, text};

const MIB: u64 = 1 << 20;

/// The miniature volume of the tool tests, big enough for several slabs and every root.
fn miniature() -> (Image, FormatPlan) {
    let image = Image::new(64 * MIB);
    let options = FormatOptions::miniature(1 << 11, 16, 256);
    let plan = FormatPlan::new(&options, image.blocks, 0x5eed, uuid::Uuid::from_u128(42));
    let plan = plan.expect("a miniature fits 64 MiB");
    image.format(&plan);
    (image, plan)
}

/// A volume in use, put together by hand: mapped blocks with their tree pages, counted in the slabs,
/// summed up in the slab summary, shut down.
struct Written {
    image: Image,
    volume: Volume,
    counts: Vec<Vec<u8>>,
    used: Vec<u32>,
    mapped: u64,
    tree_pages: u64,
}

impl Written {
    fn new() -> Written {
        let (image, plan) = miniature();
        let volume = plan.into_volume();
        let slabs = &volume.layout.slabs;
        let count = slabs.slab_count as usize;
        let counts = vec![vec![0; slabs.config.data_blocks as usize]; count];
        Written {
            image,
            volume,
            counts,
            used: vec![0; count],
            mapped: 0,
            tree_pages: 0,
        }
    }

    /// Takes the next unused block, from the slabs in turn.
    fn allocate(&mut self, references: u8) -> Pbn {
        let turn = self.used.iter().sum::<u32>() as usize % self.used.len();
        let place = self.used[turn];
        self.used[turn] += 1;
        self.counts[turn][place as usize] = references;
        self.volume.layout.slabs.pbn(SlabNumber(turn as u32), place)
    }

    /// Finds the page that maps a logical block and makes the pages on the way that are not there.
    fn leaf_for(&mut self, lbn: Lbn) -> (Pbn, u16) {
        let (leaf, slot) = self.volume.layout.tree.leaf(lbn);
        let mut way = Vec::new();
        let mut page = leaf;
        while let Some((parent, slot)) = page.parent() {
            way.push(slot);
            page = parent;
        }
        assert_eq!(way.len(), TREE_HEIGHT - 1);
        let mut pbn = self.volume.layout.tree.root_pbn(leaf.root);
        for slot in way.into_iter().rev() {
            let child = BlockMapPage::new(&self.image.read(pbn)).get(slot).pbn;
            let child = if child == Pbn::ZERO {
                let child = self.allocate(254);
                self.tree_pages += 1;
                self.set(pbn, slot, child);
                child
            } else {
                child
            };
            pbn = child;
        }
        (pbn, slot)
    }

    /// Points a slot of a page at a block; the page is formatted if it never was.
    fn set(&self, page: Pbn, slot: u16, pbn: Pbn) {
        let mut block = self.image.read(page);
        let nonce = self.volume.layout.nonce;
        if !BlockMapPage::new(&block).is_initialized() {
            BlockMapPageMut::format(&mut block, nonce, page, true);
        }
        let mapping = Mapping {
            pbn,
            state: MappingState::UNCOMPRESSED,
        };
        BlockMapPageMut::new(&mut block).set(slot, mapping);
        self.image.write(page, &block);
    }

    fn map(&mut self, lbn: Lbn, pbn: Pbn) {
        let (page, slot) = self.leaf_for(lbn);
        self.set(page, slot, pbn);
        self.mapped += 1;
    }

    /// Writes counters, summary and super block as a clean shutdown leaves them.
    fn shut_down(&mut self) {
        let layout = &self.volume.layout;
        let slabs = &layout.slabs;
        let mut summary = vec![[0; BLOCK_SIZE]; layout.slab_summary.blocks as usize];
        for (number, counts) in self.counts.iter().enumerate() {
            let slab = SlabNumber(number as u32);
            let mut pbn = slabs.reference_blocks(slab).start;
            for counts in counts.chunks(COUNTS_PER_BLOCK) {
                let mut block = [0; BLOCK_SIZE];
                reference_block::encode(&mut block, JournalPoint::default(), counts);
                self.image.write(pbn, &block);
                pbn = Pbn(pbn.get() + 1);
            }
            let free = counts.iter().filter(|&&count| count == 0).count() as u64;
            let entry = SlabSummaryEntry {
                tail_block_offset: 0,
                fullness_hint: fullness_hint(free, slabs.slab_shift()),
                load_counts: self.used[number] > 0,
                is_dirty: false,
            };
            let (block, at) = entry_place(ZoneIndex(0), slab);
            summary[block as usize][at..at + 2].copy_from_slice(&entry.encode());
        }
        for (block, pbn) in summary.iter().zip(layout.slab_summary.start.get()..) {
            self.image.write(Pbn(pbn), block);
        }
        let super_block = &mut self.volume.super_block;
        super_block.volume.state = VolumeState::Clean;
        super_block.slab_depot.zone_count = 1;
        super_block.recovery_journal.logical_blocks_used = self.mapped;
        super_block.recovery_journal.block_map_data_blocks = self.tree_pages;
        let mut block = [0; BLOCK_SIZE];
        super_block.encode(&mut block);
        self.image.write(layout.super_block, &block);
    }

    fn audit(&self) -> Output {
        let audit = Command::new("vdoaudit")
            .arg("--verbose")
            .arg(self.image.path())
            .output();
        audit.expect("vdoaudit runs")
    }
}

/// A volume with blocks in every tree, some shared, one 254 times, one read as zeroes.
fn volume_in_use() -> Written {
    let mut written = Written::new();
    let logical = written.volume.layout.logical_blocks;
    for lbn in (0..logical).step_by(97) {
        let pbn = written.allocate(1);
        written.map(Lbn(lbn), pbn);
    }
    let shared = written.allocate(254);
    for lbn in (1..logical).step_by(97).take(254 - 127) {
        written.map(Lbn(lbn), shared);
    }
    for lbn in (2..logical).step_by(97).take(127) {
        written.map(Lbn(lbn), shared);
    }
    written.map(Lbn(3), Pbn::ZERO);
    written
}

#[test]
fn a_volume_put_together_here_passes_the_audit() {
    let test = "a_volume_put_together_here_passes_the_audit";
    if lacking(test, &["vdoaudit"], false) {
        return;
    }
    let mut written = volume_in_use();
    written.shut_down();
    let audit = written.audit();
    assert!(audit.status.success(), "{}", text(&audit));
    assert!(
        text(&audit).contains("All pbn references matched"),
        "{}",
        text(&audit)
    );
    assert_eq!(written.image.open().as_ref(), Ok(&written.volume));
}

#[test]
fn the_audit_finds_a_count_that_is_wrong_by_one() {
    let test = "the_audit_finds_a_count_that_is_wrong_by_one";
    if lacking(test, &["vdoaudit"], false) {
        return;
    }
    let mut written = volume_in_use();
    let (slab, place) = (1, written.used[1] as usize - 1);
    written.counts[slab][place] += 1;
    written.shut_down();
    let audit = text(&written.audit());
    let pbn = written
        .volume
        .layout
        .slabs
        .pbn(SlabNumber(slab as u32), place as u32);
    assert!(
        audit.contains(&format!("Reference mismatch for pbn {pbn}")),
        "{audit}"
    );
}

#[test]
fn a_volume_formatted_here_is_new_to_the_audit() {
    let test = "a_volume_formatted_here_is_new_to_the_audit";
    if lacking(test, &["vdoaudit"], false) {
        return;
    }
    let (image, _) = miniature();
    let audit = Command::new("vdoaudit")
        .arg("--verbose")
        .arg(image.path())
        .output();
    let audit = text(&audit.expect("vdoaudit runs"));
    assert!(audit.contains("newly formatted"), "{audit}");
}

#[test]
fn the_tools_find_every_part_where_the_layout_says() {
    let test = "the_tools_find_every_part_where_the_layout_says";
    if lacking(test, &["vdolistmetadata"], false) {
        return;
    }
    let (image, plan) = miniature();
    let listed = Command::new("vdolistmetadata").arg(image.path()).output();
    let listed = listed.expect("vdolistmetadata runs");
    assert!(listed.status.success(), "{}", text(&listed));
    let listed = text(&listed);
    let expect = |extent: Extent, name: &str| {
        let line = format!("{} .. {}: {name}", extent.start, extent.end().get() - 1);
        assert!(
            listed.lines().any(|found| found == line),
            "{line} is missing in\n{listed}"
        );
    };
    let layout = &plan.layout;
    expect(
        Extent {
            start: Pbn(0),
            blocks: 1,
        },
        "geometry block",
    );
    expect(
        Extent {
            start: layout.super_block,
            blocks: 1,
        },
        "super block",
    );
    expect(layout.block_map_roots, "block map tree roots");
    for number in 0..layout.slabs.slab_count {
        let slab = SlabNumber(number);
        let references = layout.slabs.reference_blocks(slab);
        expect(references, &format!("slab {number} reference blocks"));
        expect(
            layout.slabs.journal_blocks(slab),
            &format!("slab {number} journal"),
        );
    }
    expect(layout.recovery_journal, "recovery journal");
    expect(layout.slab_summary, "slab summary");
}

#[test]
fn the_tools_read_every_mapping_that_was_written_here() {
    let test = "the_tools_read_every_mapping_that_was_written_here";
    if lacking(test, &["vdodumpblockmap", "vdodumpmetadata"], false) {
        return;
    }
    let mut written = volume_in_use();
    written.shut_down();
    let dump = Command::new("vdodumpblockmap")
        .arg(written.image.path())
        .output();
    let dump = dump.expect("vdodumpblockmap runs");
    assert!(dump.status.success(), "{}", text(&dump));
    let dump = text(&dump);
    // Each line: "PBN page  slot s  height h  -> PBN pbn (compression state n)".
    let mut by_height = [0; TREE_HEIGHT];
    for line in dump.lines() {
        let numbers: Vec<u64> = line
            .split(|other: char| !other.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect();
        let &[page, slot, height, pbn, state] = &numbers[..] else {
            continue;
        };
        let mapping = BlockMapPage::new(&written.image.read(Pbn(page))).get(slot as u16);
        assert_eq!(
            (mapping.pbn, mapping.state.bits()),
            (Pbn(pbn), state as u8),
            "{line}"
        );
        by_height[height as usize] += 1;
    }
    assert_eq!(by_height[0], written.mapped, "{dump}");
    assert_eq!(
        by_height[1..].iter().sum::<u64>(),
        written.tree_pages,
        "{dump}"
    );

    // The tool's own way from a logical block to its mapping.
    let last = written.volume.layout.logical_blocks - 1;
    for lbn in [0, 1, 2, 3, 4, 97, 811, 812, 97 * 100, last / 97 * 97, last] {
        let one = Command::new("vdodumpblockmap")
            .arg(format!("--lba={lbn}"))
            .arg(written.image.path())
            .output()
            .expect("vdodumpblockmap runs");
        assert!(one.status.success(), "{}", text(&one));
        let (page, slot) = written.leaf_for(Lbn(lbn));
        let mapping = BlockMapPage::new(&written.image.read(page)).get(slot);
        let state = if mapping.state.is_mapped() {
            "mapped"
        } else {
            "unmapped"
        };
        let line = text(&one);
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        assert_eq!(
            words,
            [lbn.to_string(), state.to_owned(), mapping.pbn.to_string()]
        );
    }

    let output = written.image.folder.path().join("metadata");
    let dumped = Command::new("vdodumpmetadata")
        .arg(written.image.path())
        .arg(&output)
        .output();
    let dumped = dumped.expect("vdodumpmetadata runs");
    assert!(dumped.status.success(), "{}", text(&dumped));
    let mut metadata = File::open(output).expect("the dumped metadata");
    let mut geometry = [0; BLOCK_SIZE];
    metadata
        .read_exact(&mut geometry)
        .expect("the geometry block comes first");
    let mut expected = [0; BLOCK_SIZE];
    written
        .volume
        .geometry
        .encode(GeometryVersion::V5, &mut expected);
    assert_eq!(geometry[..101], expected[..101]);
}
