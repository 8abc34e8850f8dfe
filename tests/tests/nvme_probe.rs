//! The NVMe/TCP host of the tests, and what starts SPDK's programs, against SPDK's own target.

use std::time::Duration;

use serde_json::json;
use vdo_tests::nvme_probe::status;
use vdo_tests::probe::Probe;
use vdo_tests::rig::{BLOCK, block, check, fill};
use vdo_tests::spdk::{self, Peer};
use vdo_tests::target::{Target, bdev_config};

/// SPDK's own target with a bdev of memory, unless it is missing.
fn stock(test: &str) -> Option<(spdk::Turn, Target)> {
    if spdk::lacking(test, &[spdk::installed("spdk_tgt")]) {
        return None;
    }
    let turn = spdk::turn();
    let target = Target::start_with(spdk::stock_options(bdev_config(Vec::new())));
    spdk::create_malloc(&target, "m", 64);
    Some((turn, target))
}

#[test]
fn what_the_probe_writes_it_reads() {
    let Some((_turn, target)) = stock("what_the_probe_writes_it_reads") else {
        return;
    };
    let export = spdk::export_nvme_tcp(&target, "m");
    let mut client = export.connect();
    assert_eq!((client.size(), client.block_size()), (64 << 20, BLOCK));
    fill(&mut client, 0..1000, |lbn| lbn);
    check(&mut client, 0..1000, |lbn| lbn);
    // More than goes with a command, and more than one command takes.
    let large: Vec<u8> = (0..100).flat_map(|tag| block(5000 + tag)).collect();
    assert_eq!(client.write(2000 * BLOCK, &large), Ok(()));
    check(&mut client, 2000..2100, |lbn| 3000 + lbn);
    let answers = client.write_all((0..20).map(|at| ((3000 + 100 * at) * BLOCK, &large[..65536])));
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    check(&mut client, 4900..4916, |lbn| 100 + lbn);
    assert_eq!(client.write_fua(5 * BLOCK, &block(9)), Ok(()));
    check(&mut export.connect(), 5..6, |_| 9);
    assert_eq!(client.zero(6 * BLOCK, 2 * BLOCK), Ok(()));
    assert_eq!(client.trim(10 * BLOCK, 5 * BLOCK), Ok(()));
    let mut data = vec![1; 2 * BLOCK as usize];
    assert_eq!(client.read(6 * BLOCK, &mut data), Ok(()));
    assert!(data.iter().all(|byte| *byte == 0));
    check(&mut client, 8..10, |lbn| lbn);
    check(&mut client, 15..20, |lbn| lbn);
    assert!(target.stop().success());
    assert_eq!(client.flush(), Err(status::LOST));
}

#[test]
fn errors_reach_the_probe_as_they_are() {
    let Some((_turn, target)) = stock("errors_reach_the_probe_as_they_are") else {
        return;
    };
    spdk::call(&target, "bdev_error_create", json!({"base_name": "m"}));
    let export = spdk::export_nvme_tcp(&target, "EE_m");
    let mut client = export.connect();
    let inject = |io_type: &str| {
        let params = json!({"name": "EE_m", "io_type": io_type, "error_type": "failure", "num": 1});
        spdk::call(&target, "bdev_error_inject_error", params);
    };
    let mut data = vec![0; BLOCK as usize];
    inject("read");
    assert_eq!(client.read(0, &mut data), Err(status::INTERNAL));
    assert_eq!(client.read(0, &mut data), Ok(()));
    inject("write");
    let answers = client.write_all((0..3).map(|lbn| (lbn * BLOCK, block(lbn))));
    assert_eq!(answers, [Err(status::INTERNAL), Ok(()), Ok(())]);
    let end = client.size();
    assert!(client.write(end, &block(1)).is_err());
    spdk::call(&target, "bdev_error_delete", json!({"name": "EE_m"}));
    assert_eq!(client.read(0, &mut data), Err(status::INVALID_NAMESPACE));
    assert_eq!(client.identify(), Err(status::INVALID_NAMESPACE));
    assert!(target.stop().success());
}

#[test]
fn spdks_programs_reach_what_is_exported() {
    let test = "spdks_programs_reach_what_is_exported";
    let Some((_turn, mut target)) = stock(test) else {
        return;
    };
    let export = spdk::export_nvme_tcp(&target, "m");
    fill(&mut export.connect(), 0..256, |lbn| lbn);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let to = format!("--of={}", out.display());
    let programs = [
        spdk::installed("spdk_dd"),
        spdk::installed("spdk_nvme_perf"),
    ];
    if !spdk::lacking(test, &programs) {
        spdk::dd(&export, &["--ib=remoten1", &to, "--bs=65536", "--count=16"]);
        let expected: Vec<u8> = (0..256).flat_map(block).collect();
        assert!(std::fs::read(&out).unwrap() == expected, "the copy differs");
        let load = ["-q", "16", "-o", "4096", "-w", "randwrite", "-t", "1"];
        Peer::nvme_perf(&export, &load).succeed();
    }
    if !spdk::lacking(test, &[spdk::bdevperf()]) {
        let load = ["-q", "16", "-o", "4096", "-w", "verify", "-t", "1"];
        let totals = spdk::totals(&Peer::bdevperf(&export, &load).succeed());
        assert!(totals.iops > 100.0 && totals.failed == 0.0, "{totals:?}");
        let load = ["-q", "16", "-o", "4096", "-w", "verify", "-t", "30"];
        let mut peer = Peer::bdevperf(&export, &load);
        peer.wait_for("Running I/O");
        spdk::call(&target, "bdev_malloc_delete", json!({"name": "m"}));
        assert!(!peer.finish().status.success(), "the bdev went away");
    }
    assert_eq!(target.wait(Duration::from_millis(10)), None);
    assert!(target.stop().success());
}

#[test]
fn a_wrong_configuration_ends_the_program_with_its_words() {
    let test = "a_wrong_configuration_ends_the_program_with_its_words";
    if spdk::lacking(test, &[spdk::installed("spdk_tgt")]) {
        return;
    }
    let _turn = spdk::turn();
    let wrong = bdev_config(vec![
        json!({"method": "bdev_malloc_create", "params": {"name": "m"}}),
    ]);
    let said = Target::refuse(spdk::stock_options(wrong));
    assert!(
        said.contains("ended with") && said.contains("decode_object"),
        "{said}"
    );
}
