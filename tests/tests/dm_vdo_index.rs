//! The deduplication index that the kernel's dm-vdo writes, read by the engine's structures; and the other way round. With
//! `THOROUGH` set, a sparse one too.

use std::time::{Duration, Instant};

use vdo::format::index::nonce::NonceInfo;
use vdo::format::index::record_page::RecordData;
use vdo::format::index::super_block::{IndexLayout, IndexSuperBlock};
use vdo::format::index::{IndexRecord, config, save};
use vdo::format::index_region::{IndexConfig, index_blocks};
use vdo::format::{FormatOptions, FormatPlan};
use vdo::hash::record_name;
use vdo::index::IndexOp;
use vdo::index::uds::saves::{self, LastSave};
use vdo::index::uds::whole::{IndexPlan, Opened, WholeIndex};
use vdo::types::{BLOCK_SIZE, Mapping, Pbn};
use vdo_tests::dm_vdo::Image;
use vdo_tests::guest::{Guest, Kit, Machine, Recipe};
use vdo_tests::index_image::{ImageDevice, IndexImage, at_once};
use vdo_tests::tools::skipped;

const GIB: u64 = 1 << 30;

/// Blocks the kernel writes, all different: more than a chapter takes.
const WRITTEN: usize = 67_000;

/// Blocks it writes again, to see what it still knows of them.
const AGAIN: u64 = 3000;

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

fn boot(kit: &Kit, image: &Image) -> Guest {
    let machine = Machine {
        // An index zone for every two.
        processors: 4,
        ..Machine::for_dm_vdo([image.path()])
    };
    Guest::boot(kit, machine).unwrap_or_else(|error| panic!("{error}"))
}

/// Starts the volume, writes `blocks` blocks of the lines from the first on to `place`, and stops it. Returns what was said, of blocks in
/// use among other things: before that and after it.
fn write_lines(guest: &mut Guest, image: &Image, blocks: u64, place: u64) -> String {
    let begun = Instant::now();
    let (sectors, all) = (GIB / 512, image.blocks);
    let script = format!(
        "set -e
         export DM_DISABLE_UDEV=1
         dmsetup create vdo0 --table '0 {sectors} vdo V4 /dev/vda {all} 4096 32768 16380'
         for wait in $(seq 600); do
             dmsetup status vdo0 | grep -q ' online ' && break; usleep 200000
         done
         dmsetup status vdo0
         seq 1 90000000 | head -c {bytes} | dd of=/dev/mapper/vdo0 bs={step} seek={place} iflag=fullblock conv=fsync 2>&1
         dmsetup status vdo0
         dmsetup remove vdo0
         dmesg | grep -iE 'index|replay' || true",
        bytes = blocks * BLOCK_SIZE as u64,
        step = if place == 0 { "1M" } else { "4096" },
    );
    let answer = guest.run(&script, Duration::from_secs(1500));
    let answer = answer.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(answer.status, 0, "{}", answer.output);
    println!(
        "the kernel wrote for {:?}: {}",
        begun.elapsed(),
        answer.output
    );
    answer.output
}

/// Blocks in use, each time the volume's status was asked for.
fn used(said: &str) -> Vec<u64> {
    let status = said.lines().filter(|line| line.contains(" vdo /dev/vda "));
    status
        .filter_map(|line| line.split_whitespace().rev().nth(1)?.parse().ok())
        .collect()
}

/// The kernel writes some blocks once more, and needs next to none for them.
fn expect_known(kit: &Kit, image: &Image, place: u64, how: &str) {
    let mut guest = boot(kit, image);
    let said = write_lines(&mut guest, image, AGAIN, place);
    guest.power_off().unwrap_or_else(|error| panic!("{error}"));
    assert!(said.contains(how), "{said}");
    let [before, after] = used(&said)[..] else {
        panic!("{said}");
    };
    // Pages of the block map, and blocks that were allocated in advance.
    assert!(
        after - before < AGAIN / 20,
        "{before} blocks were in use, and now {after}"
    );
}

#[test]
fn an_index_goes_to_the_kernel_and_back_saved_or_not_and_every_record_is_found() {
    let test = "an_index_goes_to_the_kernel_and_back_saved_or_not_and_every_record_is_found";
    let kit = match Kit::gather(&Recipe::dm_vdo()) {
        Ok(kit) => kit,
        Err(why) => return skipped(test, why),
    };
    to_the_kernel_and_back(&kit, false);
    if std::env::var_os("THOROUGH").is_some() {
        to_the_kernel_and_back(&kit, true);
    }
}

fn to_the_kernel_and_back(kit: &Kit, sparse: bool) {
    let index = IndexConfig {
        sparse,
        ..IndexConfig::default()
    };
    let region = index_blocks(&index).expect("an index of 0.25 GB") * BLOCK_SIZE as u64;
    let image = Image::new(region.next_multiple_of(GIB) + 3 * GIB);
    let options = FormatOptions {
        logical_blocks: Some(GIB / BLOCK_SIZE as u64),
        index,
        ..FormatOptions::default()
    };
    let plan = FormatPlan::new(&options, image.blocks, 7777, uuid::Uuid::nil());
    image.format(&plan.expect("a plain volume"));

    let mut guest = boot(kit, &image);
    write_lines(&mut guest, &image, WRITTEN as u64, 0);
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

    // The whole index here, as the kernel saved it; and made again from its chapter, as if it had not.
    let plan = |zones| IndexPlan {
        geometry,
        start: Pbn(1),
        volume: index.volume,
        zones,
        cache_pages: 448,
    };
    let known: Vec<Mapping> = data
        .iter()
        .map(|block| {
            loaded
                .find(&record_name(block))
                .expect("it was found before")
        })
        .collect();
    let found_of = |index: &mut WholeIndex<ImageDevice>| {
        let peek = |block| at_once(index.peek(record_name(block))).expect("a whole index");
        let answers = data.iter().map(peek).zip(&known);
        let right = answers
            .filter(|(found, known)| found.is_some_and(|data| data.mapping() == Some(**known)));
        right.count()
    };
    let device = || ImageDevice::open(&image.path());
    let (mut whole, opened) = at_once(WholeIndex::open(plan(3), device())).expect("an index");
    assert_eq!((opened, found_of(&mut whole)), (Opened::Loaded, WRITTEN));
    at_once(saves::spoil(&device(), LastSave::of(&parts))).expect("an image");
    let (mut whole, opened) = at_once(WholeIndex::open(plan(2), device())).expect("an index");
    assert_eq!(
        (opened, found_of(&mut whole)),
        (Opened::Rebuilt, records.len())
    );

    // An index made here, of the same names, is loaded by the kernel if it was saved, and made again from its chapter if not.
    let fill = |chance| {
        let created = WholeIndex::create(plan(3), device(), NonceInfo::new(1, chance));
        let mut whole = at_once(created).expect("an image");
        for (block, mapping) in data.iter().zip(&known) {
            let record = IndexRecord {
                name: record_name(block),
                data: RecordData::of(*mapping),
            };
            assert_eq!(at_once(whole.ask(IndexOp::Post, record)), Ok(None));
        }
        assert_eq!(whole.newest(), 1);
        whole
    };
    at_once(fill(1).save(5_000_000_000_000)).expect("an image");
    expect_known(kit, &image, 100_000, "loaded index from chapter 0");
    fill(2);
    expect_known(kit, &image, 150_000, "Replaying volume from chapter 0");
}
