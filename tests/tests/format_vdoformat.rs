//! The format against the real `vdoformat`: the images it makes are read here field by field, and what
//! is planned here for the same choices is compared with them byte by byte.
//!
//! `vdoformat` takes only a block device, so the image goes on a loop device, which needs root. A test
//! that lacks something says so and passes.

use std::process::{Command, Output};

use vdo::format::identify::Contents;
use vdo::format::index_region::{IndexConfig, IndexMemory};
use vdo::format::plan::{Content, FormatStep};
use vdo::format::{FormatOptions, FormatPlan, OpenError, Volume, VolumeLayout};
use vdo::types::{BLOCK_SIZE, Pbn, SlabNumber};
use vdo_tests::dm_vdo::{Image, Loop, lacking, text};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn vdoformat(image: &Image, arguments: &[String]) -> Output {
    let device = Loop::new(image);
    let output = Command::new("vdoformat")
        .args(arguments)
        .arg(&device.0)
        .output();
    output.expect("vdoformat runs")
}

/// What `vdoformat` is asked for, and the same for us.
struct Choice {
    bytes: u64,
    slab_bits: Option<u32>,
    memory_gb: Option<f64>,
    sparse: bool,
    logical_mib: Option<u64>,
}

const PLAIN: Choice = Choice {
    bytes: 6 * GIB,
    slab_bits: None,
    memory_gb: None,
    sparse: false,
    logical_mib: None,
};

impl Choice {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        arguments.extend(self.slab_bits.map(|bits| format!("--slab-bits={bits}")));
        arguments.extend(self.memory_gb.map(|gb| format!("--uds-memory-size={gb}")));
        arguments.extend(self.sparse.then(|| "--uds-sparse".to_owned()));
        arguments.extend(self.logical_mib.map(|mib| format!("--logical-size={mib}M")));
        arguments
    }

    fn options(&self) -> FormatOptions {
        let memory = self
            .memory_gb
            .map(|gb| IndexMemory::from_gb(gb).expect("an offered size"));
        let mut options = FormatOptions::default();
        options.index = IndexConfig {
            memory: memory.unwrap_or(IndexMemory::MB_256),
            sparse: self.sparse,
        };
        options.slab_blocks = self.slab_bits.map_or(options.slab_blocks, |bits| 1 << bits);
        options.logical_blocks = self.logical_mib.map(|mib| mib * MIB / BLOCK_SIZE as u64);
        options
    }
}

/// Blocks at the ends of every part of a volume, where one too many or too few would show.
fn edges(layout: &VolumeLayout) -> Vec<Pbn> {
    let last = SlabNumber(layout.slabs.slab_count - 1);
    let parts = [
        layout.index_region,
        layout.block_map_roots,
        layout.slab_depot,
        layout.slabs.reference_blocks(SlabNumber(0)),
        layout.slabs.journal_blocks(SlabNumber(0)),
        layout.slabs.journal_blocks(last),
        layout.recovery_journal,
        layout.slab_summary,
    ];
    let mut edges: Vec<_> = parts
        .iter()
        .flat_map(|part| {
            let (start, end) = (part.start.get(), part.end().get());
            [start, start + 1, start + part.blocks / 2, end - 2, end - 1]
        })
        .chain([0, layout.super_block.get()])
        .map(Pbn)
        .collect();
    edges.sort();
    edges.dedup();
    edges
}

/// Formats one device with `vdoformat` and plans another like it; they must be the same.
fn compare(choice: &Choice) -> Volume {
    let theirs = Image::new(choice.bytes);
    let guess = FormatPlan::new(&choice.options(), theirs.blocks, 1, uuid::Uuid::nil());
    let edges = edges(&guess.expect("the choice is possible").layout);
    // Everything that matters held something before: what is cleared shows, and what is left does.
    for &pbn in &edges {
        theirs.write(pbn, &[0xa5; BLOCK_SIZE]);
    }

    let formatted = vdoformat(&theirs, &choice.arguments());
    assert!(
        formatted.status.success(),
        "vdoformat: {}",
        text(&formatted)
    );

    // Field by field: the plan with their nonce and uuid is the volume they made.
    let volume = theirs.open().expect("what vdoformat made opens");
    let (nonce, uuid) = (volume.geometry.nonce, volume.geometry.uuid);
    assert_ne!(nonce, 0);
    let plan = FormatPlan::new(&choice.options(), theirs.blocks, nonce, uuid).expect("as before");
    assert_eq!(plan.geometry, volume.geometry);
    assert_eq!(plan.super_block, volume.super_block);
    assert_eq!(plan.layout, volume.layout);
    assert_eq!(volume.require_clean(), Ok(()));
    assert_eq!(theirs.contents(), Contents::Volume);

    // Byte by byte: what the plan writes is what they wrote, and what it leaves they left.
    let mut touched = vec![None; edges.len()];
    let mut geometry = None;
    for step in plan.steps() {
        let FormatStep::Write { extent, content } = step else {
            continue;
        };
        for (edge, touched) in edges.iter().zip(&mut touched) {
            if extent.contains(*edge) {
                *touched = Some(content.clone());
            }
        }
        match content {
            Content::Block(block) if extent.start == Pbn(0) => geometry = Some(block),
            Content::Block(block) => assert_eq!(theirs.read(extent.start), *block, "{extent:?}"),
            Content::Zeroes if extent.start == Pbn(0) => {}
            Content::Zeroes => {
                for pbn in extent.start.get()..extent.end().get() {
                    assert_eq!(theirs.read(Pbn(pbn)), [0; BLOCK_SIZE], "block {pbn}");
                }
            }
        }
    }
    assert_eq!(
        theirs.read(Pbn(0)),
        *geometry.expect("a plan writes the geometry block")
    );
    let mut left = 0;
    for (edge, touched) in edges.iter().zip(touched) {
        if touched.is_none() {
            assert_eq!(
                theirs.read(*edge),
                [0xa5; BLOCK_SIZE],
                "block {edge} was left alone"
            );
            left += 1;
        }
    }
    assert!(left > 10, "index, slabs and summary are left alone");
    volume
}

macro_rules! same_as_vdoformat {
    ($($(#[$doc:meta])* $name:ident: $choice:expr, $check:expr;)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            if lacking(stringify!($name), &["vdoformat", "losetup"], true) {
                return;
            }
            let volume = compare(&$choice);
            let check: fn(&VolumeLayout) = $check;
            check(&volume.layout);
        }
    )*};
}

same_as_vdoformat! {
    a_volume_without_options_is_the_one_vdoformat_makes: PLAIN, |layout| {
        assert_eq!(layout.slabs.config.slab_blocks, 1 << 19);
        assert_eq!(layout.slabs.slab_count, 1);
        assert_eq!(layout.logical_blocks, 523_108);
        assert_eq!(layout.index_region.blocks, 679_127);
    };
    small_slabs_are_cut_as_vdoformat_cuts_them:
        Choice { slab_bits: Some(15), bytes: 7 * GIB, ..PLAIN }, |layout| {
            assert_eq!(layout.slabs.slab_count, 34);
        };
    the_smallest_slabs_are_cut_as_vdoformat_cuts_them:
        Choice { slab_bits: Some(13), bytes: 3 * GIB, ..PLAIN }, |layout| {
            assert_eq!(layout.slabs.config.data_blocks, 7966);
        };
    a_logical_size_is_kept_as_vdoformat_keeps_it:
        Choice { logical_mib: Some(1 << 20), slab_bits: Some(17), ..PLAIN }, |layout| {
            assert_eq!(layout.logical_blocks, 1 << 28);
        };
    half_a_gigabyte_of_index_is_laid_out_as_vdoformat_does:
        Choice { memory_gb: Some(0.5), bytes: 10 * GIB, ..PLAIN }, |layout| {
            assert_eq!(layout.index_region.blocks, 1_366_399);
        };
    a_large_index_and_the_largest_slabs_are_laid_out_as_vdoformat_does:
        Choice { memory_gb: Some(2.0), slab_bits: Some(23), bytes: 90 * GIB, ..PLAIN }, |layout| {
            assert_eq!(layout.index_region.blocks, 5_496_229);
            assert_eq!(layout.slabs.slab_count, 2);
        };
    a_sparse_index_is_laid_out_as_vdoformat_does:
        Choice { memory_gb: Some(0.25), sparse: true, bytes: 40 * GIB, ..PLAIN }, |layout| {
            assert_eq!(layout.index_region.blocks, 5_822_251);
        };
}

/// A device whose size is not a whole number of blocks or slabs loses the odd end, as there.
#[test]
fn an_odd_device_size_is_used_as_vdoformat_uses_it() {
    let test = "an_odd_device_size_is_used_as_vdoformat_uses_it";
    if lacking(test, &["vdoformat", "losetup"], true) {
        return;
    }
    let volume = compare(&Choice {
        bytes: 5 * GIB + 37 * 4096 + 512 * 3,
        slab_bits: Some(16),
        ..PLAIN
    });
    assert_eq!(volume.layout.physical_blocks, (5 * GIB / 4096) + 37);
}

#[test]
fn what_vdoformat_refuses_is_refused_here() {
    let test = "what_vdoformat_refuses_is_refused_here";
    if lacking(test, &["vdoformat", "losetup"], true) {
        return;
    }
    let least = FormatOptions::default()
        .minimum_device_blocks()
        .expect("the default index is possible");
    let least_bytes = least * BLOCK_SIZE as u64;
    let cases = [
        (
            Choice {
                bytes: least_bytes,
                ..PLAIN
            },
            true,
        ),
        (
            Choice {
                bytes: least_bytes - 4096,
                ..PLAIN
            },
            false,
        ),
        (
            Choice {
                bytes: 1024 * GIB,
                slab_bits: Some(13),
                ..PLAIN
            },
            false,
        ),
        (
            Choice {
                slab_bits: Some(7),
                ..PLAIN
            },
            false,
        ),
        (
            Choice {
                slab_bits: Some(24),
                ..PLAIN
            },
            false,
        ),
        (
            Choice {
                logical_mib: Some((1 << 32) + 1),
                ..PLAIN
            },
            false,
        ),
        (
            Choice {
                logical_mib: Some(1 << 32),
                ..PLAIN
            },
            true,
        ),
    ];
    for (choice, possible) in cases {
        let image = Image::new(choice.bytes);
        let theirs = vdoformat(&image, &choice.arguments());
        assert_eq!(
            theirs.status.success(),
            possible,
            "{:?}: {}",
            choice.arguments(),
            text(&theirs)
        );
        let ours = FormatPlan::new(&choice.options(), image.blocks, 1, uuid::Uuid::nil());
        assert_eq!(ours.is_ok(), possible, "{:?}", choice.arguments());
        if !possible && theirs.status.code() == Some(1) && image.read(Pbn(0)) == [0; BLOCK_SIZE] {
            assert_eq!(image.open().unwrap_err(), OpenError::Blank);
        }
    }
}
