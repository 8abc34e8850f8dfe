//! The deduplication index that the kernel's dm-vdo writes, read whole by the engine's structures.

use std::time::{Duration, Instant};

use vdo::format::index::super_block::{IndexLayout, IndexSuperBlock};
use vdo::format::index::{config, save};
use vdo::format::{FormatOptions, FormatPlan};
use vdo::hash::record_name;
use vdo::types::{BLOCK_SIZE, Pbn};
use vdo_tests::dm_vdo::Image;
use vdo_tests::guest::{Disk, Guest, Kit, Machine, Recipe};
use vdo_tests::index_image::IndexImage;
use vdo_tests::tools::skipped;

const GIB: u64 = 1 << 30;

/// Blocks the kernel writes, all different: more than a chapter takes.
const WRITTEN: usize = 67_000;

/// The numbers from 1 on, a line for each, as `seq` prints them: no block of it is like another.
fn lines() -> Vec<u8> {
    let mut text = Vec::with_capacity(WRITTEN * BLOCK_SIZE + 16);
    for number in 1_u64.. {
        text.extend(format!("{number}\n").into_bytes());
        if text.len() >= WRITTEN * BLOCK_SIZE {
            break;
        }
    }
    text.truncate(WRITTEN * BLOCK_SIZE);
    text
}

#[test]
fn an_index_that_the_kernel_filled_is_read_whole_and_every_record_is_found() {
    let test = "an_index_that_the_kernel_filled_is_read_whole_and_every_record_is_found";
    let kit = match Kit::gather(&Recipe::dm_vdo()) {
        Ok(kit) => kit,
        Err(why) => return skipped(test, why),
    };
    let image = Image::new(6 * GIB);
    let options = FormatOptions {
        logical_blocks: Some(GIB / BLOCK_SIZE as u64),
        ..FormatOptions::default()
    };
    let plan = FormatPlan::new(&options, image.blocks, 7777, uuid::Uuid::nil());
    image.format(&plan.expect("a plain volume"));

    let machine = Machine {
        memory: 1024,
        // An index zone for every two.
        processors: 4,
        disks: vec![Disk {
            image: image.path(),
            sector: 4096,
        }],
    };
    let mut guest = Guest::boot(&kit, machine).unwrap_or_else(|error| panic!("{error}"));
    let (sectors, blocks) = (GIB / 512, image.blocks);
    let begun = Instant::now();
    let script = format!(
        "set -e
         export DM_DISABLE_UDEV=1
         dmsetup create vdo0 --table '0 {sectors} vdo V4 /dev/vda {blocks} 4096 32768 16380'
         for wait in $(seq 300); do
             dmsetup status vdo0 | grep -q ' online ' && break; usleep 200000
         done
         seq 1 90000000 | head -c {bytes} | dd of=/dev/mapper/vdo0 bs=1M iflag=fullblock conv=fsync
         dmsetup status vdo0
         dmsetup remove vdo0",
        bytes = WRITTEN * BLOCK_SIZE,
    );
    let answer = guest.run(&script, Duration::from_secs(1500));
    let answer = answer.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(answer.status, 0, "{}", answer.output);
    println!(
        "the kernel wrote for {:?}: {}",
        begun.elapsed(),
        answer.output
    );
    guest.power_off().unwrap_or_else(|error| panic!("{error}"));

    let index = IndexImage::open(&image.path());
    let (geometry, layout) = (index.geometry, index.layout);

    // What says what is where is what is written here for the same choices, byte for byte.
    assert_eq!(layout, IndexLayout::new(Pbn(1), &geometry));
    assert_eq!(
        index.super_block.encode(&layout, &geometry),
        index.block(layout.header)
    );
    let again = IndexSuperBlock::decode(&index.block(layout.header), &layout, &geometry);
    assert_eq!(again, Ok(index.super_block));
    assert_eq!(
        config::encode(&geometry, index.volume),
        index.block(layout.config)
    );
    let (slot, state, parts) = index.save.clone().expect("a save");
    let extent = layout.saves[slot];
    assert_eq!(
        parts.encode(extent, index.nonce(), &state),
        index.block(extent.start)
    );
    assert_eq!(
        parts,
        save::SaveLayout::new(extent, &geometry, parts.volume_index.len() as u8)
    );
    let other = layout.saves[1 - slot];
    assert_eq!(save::unsaved(other, &geometry), index.block(other.start));
    println!("saved by {} zones: {state:?}", parts.volume_index.len());
    assert_eq!((state.newest, state.oldest), (1, 0));

    // Every name, by way of volume index, page map, index page and record page, or the open chapter; and what it is said to be is
    // what is there.
    let text = lines();
    let (data, _) = text.as_chunks::<BLOCK_SIZE>();
    let mut loaded = index.load(0, 1);
    let mut found = 0;
    for block in data {
        if let Some(mapping) = loaded.find(&record_name(block)) {
            assert_eq!(index.block(mapping.pbn), *block, "{mapping:?}");
            found += 1;
        }
    }
    let counts = loaded.volume_index.counts();
    println!(
        "{found} of {WRITTEN} found; {counts:?}; {} in the open chapter",
        loaded.open.len()
    );
    assert_eq!(found, WRITTEN);
    assert_eq!(counts.records, WRITTEN as u64);

    // All that is in the one chapter on disk and in the open one is what was written, and nothing else.
    let (chapter, records) = index.chapter(0).expect("a chapter");
    assert_eq!(chapter, 0);
    assert_eq!(records.len() + loaded.open.len(), WRITTEN);
    assert!(index.chapter(1).is_none());

    // The same save, dealt out to other numbers of zones.
    for zones in [3, 4] {
        let mut shares: Vec<_> = (0..zones).map(|zone| index.load(zone, zones)).collect();
        let sum: u64 = shares
            .iter()
            .map(|share| share.volume_index.counts().records)
            .sum();
        assert_eq!(sum, WRITTEN as u64);
        for block in data.iter().step_by(997) {
            let name = record_name(block);
            assert_eq!(
                shares
                    .iter_mut()
                    .filter_map(|share| share.find(&name))
                    .count(),
                1
            );
        }
    }
}
