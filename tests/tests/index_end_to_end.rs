//! Deduplication survives, seen from outside: `vdo_tgt` with an index of the smallest real size, stopped and killed.

use std::time::{Duration, Instant};

use serde_json::Value;
use vdo_tests::rig::{Rig, Setup, fill, stats};
use vdo_tests::target::Target;

/// Blocks that are written: a chapter of 65 536 names, and a few more.
const WRITTEN: u64 = 66_000;

/// MiB of a file with room for the smallest index, and for twice as many.
const ROOM: u64 = 3400;

/// Names of a chapter.
const CHAPTER: u64 = 65_536;

/// Where blocks are written again.
const AGAIN: u64 = 100_000;

fn number(statistics: &Value, name: &str) -> u64 {
    statistics["index"][name].as_u64().expect("a number")
}

/// Waits until the index is online, and says which states it was seen in before.
fn wait_until_online(target: &Target) -> Vec<String> {
    let begun = Instant::now();
    let mut seen = Vec::new();
    loop {
        let state = stats(target)["index_state"]
            .as_str()
            .expect("a word")
            .to_owned();
        if state == "online" {
            return seen;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "it stays {state}"
        );
        if seen.last() != Some(&state) {
            seen.push(state);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Writes the first blocks again, and says how many of them the index knew; those needed no new block.
fn known_again(rig: &Rig, target: &Target, blocks: u64, to: u64) -> u64 {
    let before = stats(target);
    let mut client = rig.connect();
    fill(&mut client, to..to + blocks, |lbn| lbn - to);
    drop(client);
    let after = stats(target);
    let data = |statistics: &Value| statistics["data_blocks_used"].as_u64().expect("a number");
    let new = data(&after) - data(&before);
    let found = number(&after, "posts_found") - number(&before, "posts_found");
    assert_eq!(found, blocks - new, "{}", after["index"]);
    found
}

#[test]
fn vdo_tgt_knows_after_a_restart_and_after_a_kill_what_it_has_indexed() {
    let rig = Rig::new(ROOM);
    let target = rig.start(&Setup::on("0x3"));
    let mut client = rig.connect();
    fill(&mut client, 0..WRITTEN, |lbn| lbn);
    drop(client);
    let now = stats(&target);
    assert_eq!(number(&now, "posts_not_found"), WRITTEN);
    assert_eq!(number(&now, "entries_indexed"), WRITTEN);
    assert!(target.stop().success());

    let target = rig.start(&Setup::on("0x1"));
    assert_eq!(
        stats(&target)["index_state"],
        "online",
        "it is loaded before requests are taken"
    );
    assert_eq!(number(&stats(&target), "entries_indexed"), WRITTEN);
    let blocks = 20_000;
    assert!(known_again(&rig, &target, blocks, AGAIN) * 100 >= blocks * 99);
    assert!(target.stop().success());

    // A chapter is closed after the load, so the save does not count any more when the target is killed.
    let target = rig.start(&Setup::on("0x3"));
    let mut client = rig.connect();
    fill(&mut client, 130_000..130_000 + CHAPTER, |lbn| lbn);
    drop(client);
    let before = stats(&target);
    let in_chapters = number(&before, "entries_indexed") - number(&before, "open_chapter_entries");
    assert!(in_chapters > CHAPTER, "{}", before["index"]);
    target.kill();
    let target = rig.start(&Setup::on("0x1"));
    wait_until_online(&target);
    let now = stats(&target);
    let indexed = number(&now, "entries_indexed");
    assert!(indexed <= in_chapters, "{}", now["index"]);
    assert!(indexed * 1000 >= in_chapters * 999, "{}", now["index"]);
    let log = target.log();
    assert!(log.contains("made again from"), "{log}");
    let known = known_again(&rig, &target, blocks, 230_000);
    assert!(known * 100 >= blocks * 99, "{known}");
    assert!(target.stop().success());
}
