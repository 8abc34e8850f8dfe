//! Volumes whose target was killed, and volumes that ask to be rebuilt, come back by themselves with everything that was
//! flushed.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use serde_json::{Value, json};
use vdo::format::components::VolumeState;
use vdo_tests::nbd_probe::NbdProbe;
use vdo_tests::rig::{
    BLOCK, ROOMY, Rig, Setup, block, check, check_with, compressible, fill, fill_with, info, stats,
};
use vdo_tests::script::Script;
use vdo_tests::target::Target;
use vdo_tests::work::{check_ledger, kill_again_and_again, rounds};

#[test]
fn a_target_that_is_killed_again_and_again_loses_nothing_that_was_flushed() {
    let test = "a_target_that_is_killed_again_and_again_loses_nothing_that_was_flushed";
    let rig = Rig::new(ROOMY);
    let setup = |round| Setup::on(["0x1", "0x3"][round as usize % 2]).with("slab_size_mib", 2);
    let rounds = rounds(8);
    let start = |round| {
        let target = rig.start(&setup(round));
        assert_eq!(stats(&target)["complete_recoveries"], round);
        target
    };
    let connect = || NbdProbe::connect(&rig.socket());
    let script = Script {
        seed: 21,
        compressible: false,
    };
    let ledger = kill_again_and_again(script, rounds, start, connect);
    let target = start(rounds);
    check_ledger(&ledger, connect);
    becomes_normal(&target);
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn what_was_compressed_and_flushed_is_there_after_a_kill() {
    let test = "what_was_compressed_and_flushed_is_there_after_a_kill";
    let rig = Rig::new(ROOMY);
    let setup = |cpumask| Setup::on(cpumask).with("compression", true);
    for round in 0..4 {
        let target = rig.start(&setup(["0x1", "0x3"][round as usize % 2]));
        let mut client = rig.connect();
        let data = |lbn: u64| compressible(lbn * 7 + round);
        if round > 0 {
            let before = |lbn: u64| compressible(lbn * 7 + round - 1);
            check_with(&mut client, 0..2000, before);
        }
        fill_with(&mut client, 0..2000, data);
        // Some that lie in packers, or in blocks that are being written.
        let more = (0..3000).map(|number| ((50_000 + number) * BLOCK, compressible(number * 3)));
        assert!(client.write_all(more).iter().all(Result::is_ok));
        target.kill();
    }
    let target = rig.start(&setup("0x1"));
    check_with(&mut rig.connect(), 0..2000, |lbn| compressible(lbn * 7 + 3));
    becomes_normal(&target);
    assert!(target.stop().success());
    rig.audit(test);
}

/// Waits until all slabs are scrubbed.
fn becomes_normal(target: &Target) {
    for _ in 0..3000 {
        let now = stats(target);
        let recovering = now["mode"] == "recovering";
        assert_eq!(now["in_recovery_mode"], recovering);
        assert!(now["recovery_percentage"].as_u64().unwrap() <= 100);
        if !recovering {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(info(target)["mode"], "normal");
}

#[test]
fn a_target_that_is_killed_while_it_starts_is_recovered_by_the_next() {
    let test = "a_target_that_is_killed_while_it_starts_is_recovered_by_the_next";
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::default());
    fill(&mut rig.connect(), 0..3000, |lbn| lbn % 1000);
    target.kill();
    for pause in [0, 20, 50, 100, 200, 400] {
        rig.kill_early(&Setup::on("0x3"), Duration::from_millis(pause));
    }
    let target = rig.start(&Setup::default());
    check(&mut rig.connect(), 0..3000, |lbn| lbn % 1000);
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn a_volume_that_asks_to_be_rebuilt_is_and_counts_it() {
    let test = "a_volume_that_asks_to_be_rebuilt_is_and_counts_it";
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::default());
    fill(&mut rig.connect(), 0..3000, |lbn| lbn % 1000);
    let used = stats(&target)["data_blocks_used"].clone();
    assert!(target.stop().success());
    rig.set_state(VolumeState::ForceRebuild);
    let target = rig.start(&Setup::on("0x3"));
    let now = stats(&target);
    assert_eq!(now["data_blocks_used"], used);
    assert_eq!(
        (&now["complete_recoveries"], &now["read_only_recoveries"]),
        (&1.into(), &1.into())
    );
    check(&mut rig.connect(), 0..3000, |lbn| lbn % 1000);
    fill(&mut rig.connect(), 5000..6000, |lbn| lbn);
    target.kill();
    let target = rig.start(&Setup::default());
    check(&mut rig.connect(), 0..3000, |lbn| lbn % 1000);
    check(&mut rig.connect(), 5000..6000, |lbn| lbn);
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn a_journal_that_contradicts_itself_makes_the_volume_read_only_and_the_message_names_the_block() {
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::default());
    fill(&mut rig.connect(), 0..500, |lbn| lbn);
    target.kill();
    let journal = rig.volume().layout.recovery_journal.start.get();
    let file = OpenOptions::new().write(true).open(rig.file()).unwrap();
    // Entry 100 of the journal's block 1, the eighth of its fourth sector, is about a slot that no page has. (The first are
    // about pages of the block map, without which all would be lost.)
    let at = (journal + 1) * BLOCK + 4 * 512 + 3 + 7 * 16;
    file.write_all_at(&[0xfc, 0x0f], at).unwrap();
    let target = rig.start(&Setup::default());
    let reason = info(&target)["read_only_reason"].clone();
    for word in [
        "entry 100 of block 1 of the recovery journal",
        "a slot that no page has",
    ] {
        let reason = reason.as_str().unwrap();
        assert!(reason.contains(word), "nothing of {word:?} in: {reason}");
    }
    assert_eq!(rig.state(), VolumeState::ReadOnly);
    // The entry was about one block; every other is seen, although only the journal knows of it.
    let lost = || {
        let mut client = rig.connect();
        let mut data = vec![0; BLOCK as usize];
        let mut lost = Vec::new();
        for lbn in 0..500 {
            client.read(lbn * BLOCK, &mut data).unwrap();
            if data != block(lbn) {
                assert!(data.iter().all(|byte| *byte == 0), "block {lbn}");
                lost.push(lbn);
            }
        }
        lost
    };
    let before = lost();
    assert_eq!(before.len(), 1, "{before:?}");
    let refused = rig.connect().write(0, &block(0));
    assert!(refused.is_err());
    let rebuilt = target.rpc("bdev_vdo_rebuild", json!({"base_bdev_name": "base"}));
    let dropped = json!({"journal_entries": 1, "malformed_mappings": 0, "mappings_outside": 0, "mappings_too_many": 0,
        "mappings_beyond_end": 0, "subtrees": 0, "unreadable_pages": 0, "misplaced_pages": 0});
    let expected = json!({"name": "vdo0", "base_bdev_name": "base", "dropped": dropped});
    assert_eq!(rebuilt.unwrap(), expected);
    assert_eq!(info(&target)["mode"], "normal");
    assert!(target.stop().success());
    let target = rig.start(&Setup::default());
    assert_eq!(lost(), before, "as it was seen when it was read-only");
    assert!(target.stop().success());
    rig.audit("a_journal_that_contradicts_itself_makes_the_volume_read_only_and_the_message_names_the_block");
}

#[test]
fn a_volume_that_is_not_up_is_rebuilt_by_its_base_bdev_if_it_is_read_only() {
    let test = "a_volume_that_is_not_up_is_rebuilt_by_its_base_bdev_if_it_is_read_only";
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::default());
    fill(&mut rig.connect(), 0..3000, |lbn| lbn % 1000);
    let delete = |target: &Target| target.rpc("bdev_vdo_delete", json!({"name": "vdo0"}));
    assert_eq!(delete(&target), Ok(json!(true)));
    let rebuild =
        |target: &Target| target.rpc("bdev_vdo_rebuild", json!({"base_bdev_name": "base"}));
    let refused = rebuild(&target).unwrap_err();
    assert!(
        refused.message.contains("is clean") && refused.message.contains("read-only"),
        "{}",
        refused.message
    );
    rig.set_state(VolumeState::ReadOnly);
    let rebuilt = rebuild(&target).unwrap();
    assert_eq!(rebuilt["base_bdev_name"], "base");
    assert_eq!(rebuilt.get("name"), None, "it is not brought up");
    let progress = target.rpc("bdev_vdo_get_progress", Value::Null);
    assert_eq!(progress, Ok(json!([])), "nothing is opened any more");
    assert!(target.stop().success());
    let target = rig.start(&Setup::on("0x3"));
    assert_eq!(stats(&target)["read_only_recoveries"], 1);
    check(&mut rig.connect(), 0..3000, |lbn| lbn % 1000);
    assert!(target.stop().success());
    rig.audit(test);
}
