//! Blocks that are freed, in `spdk_vdo_tgt`: unmapped on the base bdev if the user wants it and the bdev can.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use serde_json::json;
use vdo_tests::probe::Probe;
use vdo_tests::rig::{BLOCK, ROOMY, Setup, check, fill, info, stats};
use vdo_tests::spdk::{self, Served, call};
use vdo_tests::target::{Options, Target};

/// Blocks that are written.
const ALL: u64 = 3000;

/// Of those, blocks that stay.
const KEPT: u64 = 500;

/// The options with the file as an aio bdev that punches holes; a uring bdev of SPDK has no unmap.
fn on_aio(served: &Served, setup: &Setup) -> Options {
    let mut options = served.options(setup);
    let base = json!({"name": "base", "filename": served.rig.file(), "block_size": BLOCK, "fallocate": true});
    options.config.as_mut().unwrap()["subsystems"][0]["config"][0] =
        json!({"method": "bdev_aio_create", "params": base});
    options
}

fn backed(served: &Served) -> u64 {
    let file = std::fs::metadata(served.rig.file()).expect("the file is there");
    file.blocks() * 512
}

/// Waits until nothing is left to be discarded, and says how many blocks have been.
fn settle(target: &Target) -> u64 {
    let begun = Instant::now();
    loop {
        let counted = stats(target)["freed_discards"].clone();
        if counted["blocks_waiting"] == 0 {
            return counted["blocks_discarded"].as_u64().expect("a number");
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{counted}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_file_gives_its_room_back_when_blocks_are_freed_while_that_is_switched_on() {
    let test = "a_file_gives_its_room_back_when_blocks_are_freed_while_that_is_switched_on";
    spdk::program();
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let setup = Setup::on("0x3");
    let target = Target::start_with(on_aio(&served, &setup));
    let mut host = served.connect();
    fill(&mut host, 0..ALL, |lbn| lbn);
    assert_eq!(host.flush(), Ok(()));
    let full = backed(&served);
    let half = (ALL - KEPT) / 2;
    // While it is off.
    assert_eq!(host.trim(KEPT * BLOCK, half * BLOCK), Ok(()));
    assert_eq!(host.flush(), Ok(()));
    assert_eq!(settle(&target), 0);
    assert!(backed(&served) >= full);
    let on = json!({"name": "vdo0", "discard_freed": true});
    call(&target, "bdev_vdo_set_options", on);
    assert_eq!(info(&target)["discard_freed"], "on");
    let rest = (KEPT + half) * BLOCK;
    assert_eq!(host.trim(rest, half * BLOCK), Ok(()));
    assert_eq!(host.flush(), Ok(()));
    assert_eq!(settle(&target), half);
    let after = backed(&served);
    assert!(after < full - half * BLOCK * 3 / 4, "{after} of {full}");
    fill(&mut host, KEPT..ALL, |lbn| lbn + ALL);
    check(&mut host, 0..KEPT, |lbn| lbn);
    check(&mut host, KEPT..ALL, |lbn| lbn + ALL);
    drop(host);
    assert!(target.stop().success());
    served.rig.audit(test);
}

#[test]
fn a_base_bdev_without_unmap_is_told_in_one_line_and_the_volume_works() {
    spdk::program();
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::default().with("discard_freed", true));
    assert_eq!(info(&target)["discard_freed"], "unsupported");
    let log = target.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("unmap")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let mut host = served.connect();
    fill(&mut host, 0..50, |lbn| lbn);
    check(&mut host, 0..50, |lbn| lbn);
    drop(host);
    assert!(target.stop().success());
}
