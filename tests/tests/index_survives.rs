//! Deduplication survives: what a volume has indexed is found again after a restart, after a crash, and by other numbers of zone threads.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use vdo::stats::IndexStatistics;
use vdo::volume::{IndexCommand, IndexWord};
use vdo_tests::sim::small::{BLOCK, data, disk, open, options, request};
use vdo_tests::sim::{SimDisk, World};

/// Blocks that are written: more than five chapters of the index of a small volume, and fewer than it holds.
const WRITTEN: u64 = 1500;

/// Records of a chapter of that index.
const CHAPTER: u64 = 256;

fn write(world: &mut World, blocks: u64, to: u64) {
    for id in 0..blocks {
        world.write((to + id) * BLOCK, &data(1 + id)).unwrap();
    }
    world.flush().unwrap();
    world.settle();
}

fn index(world: &mut World) -> IndexStatistics {
    world.statistics().total().index
}

fn wait_until_online(world: &mut World) {
    let volume = world.volume.clone();
    world.run_until(|| volume.index_word() == IndexWord::Online);
}

/// A volume that has indexed what was written.
fn written(disk: &SimDisk, zones: u8) -> World {
    let mut world = open(disk, zones);
    write(&mut world, WRITTEN, 0);
    let index = index(&mut world);
    assert_eq!((index.posts_not_found, index.posts_found), (WRITTEN, 0));
    assert!(index.entries_indexed * 100 >= WRITTEN * 99, "{index:?}");
    world
}

/// Writes the first blocks again, elsewhere, and says how many of them were known; each of those needed no new block.
fn known_again(world: &mut World, blocks: u64) -> u64 {
    let before = world.volume.usage().data_blocks_used;
    write(world, blocks, 10_000);
    let index = index(world);
    assert_eq!(index.posts_found + index.posts_not_found, blocks);
    let new = world.volume.usage().data_blocks_used - before;
    assert_eq!(index.posts_found, blocks - new, "{index:?}");
    index.posts_found
}

#[test]
fn what_is_indexed_is_found_again_after_a_restart_by_any_number_of_zone_threads() {
    for (first, second) in [(1, 1), (1, 4), (4, 1), (3, 2), (2, 3)] {
        let disk = disk(10);
        written(&disk, first).shut_down().0.unwrap();
        let mut world = open(&disk, second);
        assert_eq!(world.volume.index_word(), IndexWord::Online);
        // A share that is nearly full leaves records out when it is loaded.
        let known = known_again(&mut world, WRITTEN);
        assert!(
            known * 100 >= WRITTEN * 99,
            "{first} to {second} zones: {known}"
        );
        world.shut_down().0.unwrap();
    }
}

#[test]
fn what_is_in_chapters_is_found_again_after_a_crash_by_any_number_of_zone_threads() {
    for (first, second) in [(1, 1), (1, 3), (4, 2)] {
        let disk = disk(10);
        let mut world = written(&disk, first);
        let open_chapter = index(&mut world).open_chapter_entries;
        assert!(open_chapter < CHAPTER);
        drop(world);

        let mut world = open(&disk, second);
        wait_until_online(&mut world);
        let of_chapters = WRITTEN - open_chapter;
        assert_eq!(index(&mut world).entries_indexed, of_chapters);
        let known = known_again(&mut world, WRITTEN);
        assert!(
            known * 100 >= of_chapters * 99,
            "{first} to {second} zones: {known}"
        );
        assert!(known <= of_chapters);
        world.shut_down().0.unwrap();
    }
}

#[test]
fn an_index_that_is_closed_and_opened_knows_what_it_knew_and_one_that_is_created_nothing() {
    let disk = disk(10);
    let mut world = written(&disk, 2);
    assert_eq!(world.index(IndexCommand::Close), Ok(IndexWord::Closed));
    assert_eq!(world.index(IndexCommand::Online), Ok(IndexWord::Online));
    let known = known_again(&mut world, WRITTEN);
    assert!(known * 100 >= WRITTEN * 99, "{known}");
    assert_eq!(world.index(IndexCommand::Close), Ok(IndexWord::Closed));
    assert_eq!(world.index(IndexCommand::Create), Ok(IndexWord::Online));
    assert_eq!(index(&mut world).entries_indexed, 0);
    write(&mut world, 100, 15_000);
    assert_eq!(index(&mut world).posts_not_found, 100);
    world.shut_down().0.unwrap();
}

/// The save was loaded and is as old as the last shutdown; what came after it, up to the first chapter that was closed, is forgotten.
#[test]
fn a_crash_before_a_chapter_is_closed_leaves_the_save_that_was_loaded() {
    let disk = disk(10);
    written(&disk, 1).shut_down().0.unwrap();
    let mut world = open(&disk, 1);
    world.write(12_000 * BLOCK, &data(999_999)).unwrap();
    world.flush().unwrap();
    world.settle();
    drop(world);
    let mut world = open(&disk, 1);
    wait_until_online(&mut world);
    let known = known_again(&mut world, WRITTEN);
    assert!(known * 100 >= WRITTEN * 99, "{known}");
    world.shut_down().0.unwrap();
}

/// Every block of the index region, one after the other, is something else when the volume is opened: it comes up, with whatever of the
/// index is left, and the index is in use.
#[test]
fn an_index_with_any_block_damaged_is_loaded_rebuilt_or_replaced() {
    let source = disk(10);
    written(&source, 2).shut_down().0.unwrap();
    let blocks = source.blocks();
    let region = {
        let world = open(&source, 1);
        let region = world.volume.layout().index_region;
        world.shut_down().0.unwrap();
        region
    };
    for damaged in (region.start.get()..region.end().get()).step_by(3) {
        let disk = disk(10);
        for (pbn, block) in &blocks {
            disk.overwrite(*pbn, block);
        }
        let mut wrong = disk.block(damaged);
        wrong.iter_mut().for_each(|byte| *byte = !*byte);
        disk.overwrite(damaged, &wrong);
        let mut world = open(&disk, 1);
        wait_until_online(&mut world);
        write(&mut world, 40, 10_000);
        for id in 0..40 {
            assert_eq!(
                world.read((10_000 + id) * BLOCK, BLOCK as usize),
                Ok(data(1 + id))
            );
        }
        let word = world.volume.index_word();
        assert!(
            matches!(word, IndexWord::Online | IndexWord::Error),
            "block {damaged}: {word}"
        );
        world.shut_down().0.unwrap();
    }
}

/// A volume whose index knows most of its chapters by samples only.
fn open_sparse(disk: &SimDisk, zones: u8) -> World {
    let mut request = request();
    request.format.index.sparse = true;
    let random = ChaCha8Rng::seed_from_u64(3);
    World::open(disk, request, options(zones), random).expect("it is opened")
}

#[test]
fn a_sparse_index_knows_old_data_that_comes_again_in_order_by_its_samples() {
    /// Many more than the four chapters that are dense.
    const OLD: u64 = 14 * CHAPTER;
    for (first, second) in [(1, 1), (2, 3), (3, 1)] {
        let disk = disk(14);
        let mut world = open_sparse(&disk, first);
        write(&mut world, OLD, 0);
        assert_eq!(index(&mut world).posts_not_found, OLD);
        world.shut_down().0.unwrap();
        let mut world = open_sparse(&disk, second);
        let known = known_again(&mut world, OLD);
        // The first of each chapter are not known, before one comes that is a sample: of 256, 32 or so.
        assert!(
            known > OLD * 3 / 4,
            "{first} to {second} zones: {known} of {OLD}"
        );
        // By samples and dense chapters alone.
        assert!(known > 2 * (OLD / 32 + 4 * CHAPTER), "{known} of {OLD}");
        world.shut_down().0.unwrap();
    }
}
