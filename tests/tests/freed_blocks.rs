//! Blocks that are freed, on the base device: discarded there if the user wants it and the device can, and not otherwise.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vdo_tests::rig::{BLOCK, Between, ROOMY, Rig, Setup, check, fill, info, stats};
use vdo_tests::target::{Options, Target};

/// Blocks that are written.
const ALL: u64 = 3000;

/// Of those, blocks that stay.
const KEPT: u64 = 500;

/// Bytes of the file that are backed by anything.
fn backed(rig: &Rig) -> u64 {
    let file = std::fs::metadata(rig.file()).expect("the file is there");
    file.blocks() * 512
}

fn switch(target: &Target, on: bool) -> Result<(), String> {
    let options = json!({"name": "vdo0", "discard_freed": on});
    let answer = target.rpc("bdev_vdo_set_options", options);
    answer.map(drop).map_err(|error| error.message)
}

fn discards(target: &Target, what: &str) -> u64 {
    let number = &stats(target)["freed_discards"][what];
    number.as_u64().expect("a number")
}

/// Waits until nothing is left to be discarded.
fn settle(target: &Target) {
    let begun = Instant::now();
    while discards(target, "blocks_waiting") > 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "they wait still");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_file_gives_its_room_back_when_blocks_are_freed_if_it_is_to_and_only_then() {
    let test = "a_file_gives_its_room_back_when_blocks_are_freed_if_it_is_to_and_only_then";
    for (cpumask, on) in [("0x1", true), ("0x3", true), ("0x1", false)] {
        let rig = Rig::new(ROOMY);
        let target = rig.start(&Setup::on(cpumask).with("discard_freed", on));
        let mut client = rig.connect();
        // Every other block will be freed, and later what lies beside.
        fill(&mut client, 0..ALL, |lbn| lbn);
        assert_eq!(client.flush(), Ok(()));
        let full = backed(&rig);
        assert!(full > ALL * BLOCK);
        assert_eq!(
            client.trim(KEPT * BLOCK, ((ALL - KEPT) * BLOCK) as u32),
            Ok(())
        );
        assert_eq!(client.flush(), Ok(()));
        settle(&target);
        let freed = (ALL - KEPT) * BLOCK;
        let after = backed(&rig);
        match on {
            // Metadata is written meanwhile.
            true => assert!(after < full - freed + freed / 4, "{after} of {full}"),
            false => assert!(after >= full, "{after} of {full}"),
        }
        let expected = if on { ALL - KEPT } else { 0 };
        assert_eq!(discards(&target, "blocks_discarded"), expected);
        let (runs, asked) = (
            discards(&target, "discards"),
            stats(&target)["bios_out"]["discard"].clone(),
        );
        assert_eq!(asked, runs);
        assert!(runs <= expected / 50, "{runs} discards are no batches");
        check(&mut client, 0..KEPT, |lbn| lbn);
        // What was discarded is used again, and read back.
        fill(&mut client, KEPT..ALL, |lbn| lbn + ALL);
        check(&mut client, 0..KEPT, |lbn| lbn);
        check(&mut client, KEPT..ALL, |lbn| lbn + ALL);
        drop(client);
        assert!(target.stop().success());
        rig.audit(test);
        let target = rig.start(&Setup::on("0x1"));
        let mut client = rig.connect();
        check(&mut client, 0..KEPT, |lbn| lbn);
        check(&mut client, KEPT..ALL, |lbn| lbn + ALL);
        drop(client);
        assert!(target.stop().success());
    }
}

#[test]
fn what_was_freed_last_is_discarded_before_a_target_ends() {
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::on("0x3").with("discard_freed", true));
    let mut client = rig.connect();
    fill(&mut client, 0..ALL, |lbn| lbn);
    assert_eq!(client.flush(), Ok(()));
    let full = backed(&rig);
    assert_eq!(client.trim(0, (ALL * BLOCK) as u32), Ok(()));
    drop(client);
    assert!(target.stop().success());
    let after = backed(&rig);
    assert!(after < full - ALL * BLOCK / 2, "{after} of {full}");
}

#[test]
fn discarding_is_switched_while_a_volume_is_in_use_and_saved_as_it_is() {
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::on("0x3"));
    let mut client = rig.connect();
    let saved = || {
        let params = json!({"name": "bdev"});
        let config = target.rpc("framework_get_config", params).unwrap();
        let calls = config.as_array().expect("calls").iter();
        let create = calls
            .clone()
            .find(|call| call["method"] == "bdev_vdo_create");
        create.expect("the volume is saved")["params"]["discard_freed"].clone()
    };
    let mut discarded = 0;
    for (round, on) in [false, true, false, true].into_iter().enumerate() {
        switch(&target, on).unwrap();
        assert_eq!(
            info(&target)["discard_freed"],
            if on { "on" } else { "off" }
        );
        assert_eq!(saved(), on);
        fill(&mut client, 0..300, |lbn| lbn + 1000 * round as u64);
        assert_eq!(client.trim(0, (300 * BLOCK) as u32), Ok(()));
        assert_eq!(client.flush(), Ok(()));
        settle(&target);
        let now = discards(&target, "blocks_discarded");
        assert_eq!(now - discarded > 0, on, "round {round}: {now}");
        discarded = now;
    }
    drop(client);
    assert!(target.stop().success());
}

#[test]
fn a_base_bdev_without_unmap_is_told_in_one_line_and_the_volume_works() {
    let rig = Rig::new(ROOMY);
    let calls = vec![
        json!({"method": "bdev_aio_create", "params":
            {"name": "base", "filename": rig.file(), "block_size": BLOCK, "fallocate": false}}),
        json!({"method": "bdev_vdo_create", "params":
            {"name": "vdo0", "base_bdev_name": "base", "slab_size_mib": 32, "discard_freed": true}}),
        json!({"method": "nbd_start_disk", "params": {"bdev_name": "vdo0", "nbd_device": rig.socket()}}),
    ];
    let target = Target::start_with(Options {
        config: Some(json!({"subsystems": [{"subsystem": "bdev", "config": calls}]})),
        ..Options::default()
    });
    assert_eq!(info(&target)["discard_freed"], "unsupported");
    let log = target.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("unmap")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("vdo0"), "{lines:?}");
    switch(&target, false).unwrap();
    assert_eq!(info(&target)["discard_freed"], "off");
    let refused = switch(&target, true).unwrap_err();
    for word in ["discard_freed", "vdo0", "no unmap"] {
        assert!(refused.contains(word), "{refused}");
    }
    assert_eq!(info(&target)["discard_freed"], "off");
    let mut client = rig.connect();
    fill(&mut client, 0..50, |lbn| lbn);
    check(&mut client, 0..50, |lbn| lbn);
    drop(client);
    assert!(target.stop().success());
}

#[test]
fn an_unmap_that_fails_is_told_once_and_no_user_hears_of_it() {
    let rig = Rig::new(ROOMY);
    let setup = Setup {
        cpumask: "0x3",
        ..Setup::over(Between::Errors)
    };
    let target = rig.start(&setup.with("discard_freed", true));
    let mut client = rig.connect();
    let inject = |num: u32| {
        let params =
            json!({"name": "EE_base", "io_type": "unmap", "error_type": "failure", "num": num});
        target.rpc("bdev_error_inject_error", params).unwrap();
    };
    inject(1000);
    for round in 0..3 {
        fill(&mut client, 0..300, |lbn| lbn + 1000 * round);
        assert_eq!(client.trim(0, (200 * BLOCK) as u32), Ok(()));
        assert_eq!(client.flush(), Ok(()));
        settle(&target);
        check(&mut client, 200..300, |lbn| lbn + 1000 * round);
    }
    assert_eq!(info(&target)["discard_freed"], "failed");
    assert_eq!(info(&target)["mode"], "normal");
    assert_eq!(discards(&target, "blocks_discarded"), 0);
    assert!(discards(&target, "failed_discards") > 0);
    let told = |log: String| {
        let lines = log.lines().filter(|line| line.contains("not discarded"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(told(target.log()).len(), 1, "{:?}", told(target.log()));
    // Whoever has mended the device switches it on again.
    inject(0);
    switch(&target, true).unwrap();
    assert_eq!(info(&target)["discard_freed"], "on");
    fill(&mut client, 0..200, |lbn| lbn + 9000);
    assert_eq!(client.trim(0, (200 * BLOCK) as u32), Ok(()));
    assert_eq!(client.flush(), Ok(()));
    settle(&target);
    assert!(discards(&target, "blocks_discarded") > 0);
    let shown: Value = info(&target)["discard_freed"].clone();
    assert_eq!(shown, "on");
    drop(client);
    assert!(target.stop().success());
}
