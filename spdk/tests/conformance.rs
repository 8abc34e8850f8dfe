//! SPDK's own programs with a vdo bdev in their own process: its conformance suite `bdevio`, and `bdevperf` writing,
//! reading back and comparing. No network and no other process lies between them and the bdev.
//!
//! They are linked from SPDK's objects (feature `spdk-programs`; `SPDK_DIR` names SPDK's source tree).

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use vdo_tests::rig::{Between, Rig, Setup};
use vdo_tests::spdk::{MODEST, turn};
use vdo_tests::target::bdev_config;
use vdo_tests::tools::{skipped, text};

/// Seconds that one load runs.
const SECONDS: &str = "2";

/// Runs a program on the volume of `rig` to its end, and audits the volume.
fn run(
    test: &str,
    program: Option<&str>,
    rig: &Rig,
    calls: Vec<Value>,
    arguments: &[&str],
) -> Option<String> {
    let Some(program) = program.filter(|program| Path::new(program).is_file()) else {
        skipped(
            test,
            "SPDK's own programs were not linked (feature spdk-programs)",
        );
        return None;
    };
    let config = rig.path("config.json");
    std::fs::write(&config, bdev_config(calls).to_string()).expect("the folder is ours");
    // The longest of them take half a minute on a quiet machine; one that hangs is stopped.
    let mut command = Command::new("timeout");
    command
        .args(["--signal=KILL", "300", program, "-s", "1024"])
        .args(MODEST)
        .arg("-r")
        .arg(rig.path("rpc.sock"))
        .arg("--json")
        .arg(config)
        .args(arguments)
        .env("BDEVIO_LCORES", "0@0,1@1,2@0")
        .stdin(Stdio::null());
    let output: Output = command.output().expect("the program starts");
    let said = text(&output);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{said}",
        output.status
    );
    // SPDK's own checks at the end of a program are errors that it logs. (A kind of socket it does without is none.)
    let is_complaint =
        |line: &&str| line.contains("*ERROR*") && !line.contains("uring_net_impl_init");
    let complaint = said.lines().find(is_complaint);
    assert_eq!(complaint, None, "{said}");
    rig.audit(test);
    Some(said)
}

/// The numbers behind a word in a line of `bdevio`'s summary: total, run, passed, failed.
fn summary(said: &str, word: &str) -> Vec<u64> {
    let line = said
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix(word))
        .next_back();
    let line = line.unwrap_or_else(|| panic!("no line {word:?} in\n{said}"));
    line.split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect()
}

fn bdevio(test: &str, rig: &Rig, calls: Vec<Value>) {
    let program = option_env!("CARGO_BIN_EXE_spdk_vdo_bdevio");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 {
        return skipped(test, "bdevio blocks one core and needs another");
    }
    let Some(said) = run(test, program, rig, calls, &[]) else {
        return;
    };
    assert!(said.contains("bdevio tests on: vdo0"), "{said}");
    let asserts = summary(&said, "asserts");
    assert!(asserts[0] > 100, "{said}");
    assert_eq!((asserts[1], asserts[3]), (asserts[2], 0), "{said}");
}

fn bdevperf(test: &str, rig: &Rig, calls: Vec<Value>, arguments: &[&str]) {
    let program = option_env!("CARGO_BIN_EXE_spdk_vdo_bdevperf");
    let usual = ["-t", SECONDS, "-T", "vdo0"];
    let arguments = [arguments, &usual].concat();
    let Some(said) = run(test, program, rig, calls, &arguments) else {
        return;
    };
    // Device, seconds, I/Os per second, MiB per second, failed, timed out, ...
    let line = said
        .lines()
        .find(|line| line.trim_start().starts_with("Total "));
    let numbers: Vec<f64> = line
        .unwrap_or_else(|| panic!("no total in\n{said}"))
        .split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect();
    let (ios, failed, timed_out) = (numbers[0], numbers[2], numbers[3]);
    assert!(ios > 0.0 && failed == 0.0 && timed_out == 0.0, "{said}");
}

/// As [`Rig::bdev_calls`], with another bdev as the base.
fn over(rig: &Rig, base: Value, setup: &Setup) -> Vec<Value> {
    let mut calls = rig.bdev_calls(setup);
    calls[0] = base;
    calls
}

#[test]
fn bdevio_finds_nothing_on_a_volume_of_two_zone_threads() {
    let _turn = turn();
    let rig = Rig::new(4096);
    // bdevio lets core 1 wait, so no zone thread may live there.
    let calls = rig.bdev_calls(&Setup::default().with("cpumask", "[0,2]"));
    bdevio("bdevio on two zone threads", &rig, calls);
}

#[test]
fn bdevio_finds_nothing_on_a_volume_over_blocks_of_512_bytes() {
    let _turn = turn();
    let rig = Rig::new(4096);
    let base = json!({"method": "bdev_aio_create", "params":
        {"name": "base", "filename": rig.file(), "block_size": 512}});
    let calls = over(&rig, base, &Setup::default().with("cpumask", "[0]"));
    bdevio("bdevio over blocks of 512 bytes", &rig, calls);
}

#[test]
fn what_is_written_reads_back_on_one_core() {
    let _turn = turn();
    let rig = Rig::new(4096);
    let calls = rig.bdev_calls(&Setup::default());
    bdevperf(
        "verify on one core",
        &rig,
        calls,
        &["-m", "0x1", "-q", "64", "-o", "4096", "-w", "verify"],
    );
}

#[test]
fn what_is_written_reads_back_on_two_cores_each_with_a_zone_thread() {
    let _turn = turn();
    let rig = Rig::new(4096);
    let calls = rig.bdev_calls(&Setup::default());
    let arguments = [
        "-m", "0x3", "-C", "-q", "32", "-o", "12288", "-w", "verify", "-U",
    ];
    bdevperf("verify on two cores", &rig, calls, &arguments);
}

#[test]
fn what_is_compressed_reads_back() {
    let _turn = turn();
    let rig = Rig::new(4096);
    let calls = rig.bdev_calls(&Setup::default().with("compression", true));
    let arguments = ["-m", "0x3", "-q", "64", "-o", "4096", "-w", "verify", "-U"];
    bdevperf("verify with compression", &rig, calls, &arguments);
}

#[test]
fn large_ios_read_back() {
    let _turn = turn();
    let rig = Rig::new(4096);
    let calls = rig.bdev_calls(&Setup::default());
    let arguments = [
        "-m", "0x3", "-q", "8", "-o", "1048576", "-w", "verify", "-U",
    ];
    bdevperf("verify of large I/Os", &rig, calls, &arguments);
}

#[test]
fn what_is_written_reads_back_where_reactors_sleep() {
    let _turn = turn();
    let rig = Rig::new(4096);
    let calls = rig.bdev_calls(&Setup::default());
    let arguments = [
        "--interrupt-mode",
        "-m",
        "0x3",
        "-q",
        "32",
        "-o",
        "8192",
        "-w",
        "verify",
        "-U",
    ];
    bdevperf("verify in interrupt mode", &rig, calls, &arguments);
}

#[test]
fn what_is_written_reads_back_over_a_slow_base() {
    let _turn = turn();
    let rig = Rig::new(4096);
    let calls = rig.bdev_calls(&Setup::over(Between::Delay(200, 500)));
    let arguments = ["-m", "0x1", "-q", "128", "-o", "4096", "-w", "verify", "-U"];
    bdevperf("verify over a slow base", &rig, calls, &arguments);
}

#[test]
fn a_base_that_is_out_of_ios_makes_requests_wait_and_not_fail() {
    let _turn = turn();
    let rig = Rig::new(4096);
    let mut calls = rig.bdev_calls(&Setup::default());
    // Hardly more I/Os than bdevperf has in flight itself, and no caches: the bdev layer says "no memory".
    let few = json!({"method": "bdev_set_options", "params":
        {"bdev_io_pool_size": 512, "bdev_io_cache_size": 32}});
    calls.insert(0, few);
    let arguments = [
        "-m", "0x1", "-q", "256", "-o", "16384", "-w", "verify", "-U",
    ];
    bdevperf("verify with few I/Os", &rig, calls, &arguments);
}

#[test]
fn resets_under_load_lose_nothing() {
    let _turn = turn();
    let rig = Rig::new(4096);
    let calls = rig.bdev_calls(&Setup::default());
    let arguments = ["-m", "0x1", "-q", "64", "-o", "4096", "-w", "reset"];
    bdevperf("resets under load", &rig, calls, &arguments);
}

#[test]
fn unmaps_zeroes_and_flushes_come_to_an_end() {
    let _turn = turn();
    for workload in ["unmap", "write_zeroes", "flush"] {
        let rig = Rig::new(4096);
        let calls = rig.bdev_calls(&Setup::default());
        let arguments = ["-m", "0x1", "-q", "32", "-o", "65536", "-w", workload];
        bdevperf(workload, &rig, calls, &arguments);
    }
}
