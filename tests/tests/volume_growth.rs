//! A volume that grows under load, as its users see it over NBD; dm-vdo's own checker looks at what is left.

use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use vdo_tests::dm_vdo::lacking;
use vdo_tests::rig::{BLOCK, MIB, ROOMY, Rig, Setup, TIGHT, block, check, fill, info, stats};
use vdo_tests::target::Target;
use vdo_tests::tools::text;

fn grow_logical(target: &Target, mib: u64) -> Value {
    let params = json!({"name": "vdo0", "logical_size_mib": mib});
    let grown = target.rpc("bdev_vdo_grow_logical", params);
    grown.unwrap_or_else(|error| panic!("{error}"))
}

fn blocks(target: &Target) -> Value {
    target
        .rpc("bdev_get_bdevs", json!({"name": "vdo0"}))
        .unwrap()[0]["num_blocks"]
        .take()
}

/// fio in the background: random writes, read back and verified.
fn fio(rig: &Rig, target: &Target, seconds: u32) -> std::process::Child {
    let folder = target.path("fio");
    std::fs::create_dir_all(&folder).unwrap();
    Command::new("fio")
        .args([
            "--name=verify",
            "--ioengine=nbd",
            "--iodepth=16",
            "--rw=randrw",
            "--bs=4k",
        ])
        .args([
            "--verify=crc32c",
            "--verify_fatal=1",
            "--size=24m",
            "--thread",
        ])
        .args([
            "--time_based",
            "--verify_state_save=0",
            "--output-format=json",
        ])
        .arg(format!("--runtime={seconds}"))
        .arg(format!("--uri={}", rig.uri()))
        .current_dir(folder)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("fio runs")
}

fn ends_well(fio: std::process::Child) {
    let output = fio.wait_with_output().unwrap();
    assert!(output.status.success(), "fio: {}", text(&output));
}

#[test]
fn a_volume_presents_more_under_fio_and_its_clients_write_there() {
    let test = "a_volume_presents_more_under_fio_and_its_clients_write_there";
    if lacking(test, &["fio"], false) {
        return;
    }
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::on("0x3"));
    let mut before = rig.connect();
    let fio = fio(&rig, &target, 4);
    thread::sleep(Duration::from_secs(1));
    for mib in [1025, 1500, 1 << 20] {
        let end = mib * MIB / BLOCK;
        let grown = grow_logical(&target, mib);
        assert_eq!(grown["logical_blocks"], end);
        assert_eq!(blocks(&target), end);
        assert_eq!(info(&target)["logical_blocks"], end);
        // Who comes now is told the size; who came before may go there all the same.
        let mut client = rig.connect();
        assert_eq!(client.size(), end * BLOCK);
        fill(&mut client, end - 100..end, |lbn| lbn);
        check(&mut before, end - 100..end, |lbn| lbn);
        assert!(client.write(end * BLOCK, &[1; 4096]).is_err());
        thread::sleep(Duration::from_millis(300));
    }
    ends_well(fio);
    let now = stats(&target);
    assert_eq!(
        (&now["mode"], &now["logical_blocks"]),
        (&json!("normal"), &json!(1 << 28))
    );
    drop(before);
    let target = target.restart();
    assert_eq!(info(&target)["logical_blocks"], 1 << 28);
    check(&mut rig.connect(), (1 << 28) - 100..1 << 28, |lbn| lbn);
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn sizes_that_cannot_be_are_refused_with_the_numbers_and_the_volume_goes_on() {
    let test = "sizes_that_cannot_be_are_refused_with_the_numbers_and_the_volume_goes_on";
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::default());
    fill(&mut rig.connect(), 0..100, |lbn| lbn);
    let refused = |params: Value| target.rpc("bdev_vdo_grow_logical", params).unwrap_err();
    for (mib, words) in [
        (1024, ["262144 blocks", "not 262144"]),
        (1000, ["262144 blocks", "not 256000"]),
        (1_u64 << 33, ["8589934592", "4 PiB"]),
        (0, ["logical_size_mib", "0 "]),
    ] {
        let error = refused(json!({"name": "vdo0", "logical_size_mib": mib}));
        assert_eq!(error.code.0, -22, "{error}");
        assert!(error.message.starts_with("logical_size_mib"), "{error}");
        assert!(
            words.iter().all(|word| error.message.contains(word)),
            "{error}"
        );
    }
    assert_eq!(
        refused(json!({"name": "no", "logical_size_mib": 2000}))
            .code
            .0,
        -19
    );
    assert_eq!(
        refused(json!({"name": "base", "logical_size_mib": 2000}))
            .code
            .0,
        -19
    );
    assert_eq!(blocks(&target), 262_144);
    check(&mut rig.connect(), 0..100, |lbn| lbn);
    assert!(target.stop().success());
    rig.audit(test);
}

/// The file has become larger, and the base bdev has noticed.
fn enlarge(rig: &Rig, target: &Target, mib: u64) {
    let file = std::fs::File::options().write(true).open(rig.file());
    file.unwrap().set_len(mib * MIB).unwrap();
    let rescan = target.rpc("bdev_uring_rescan", json!({"name": "base"}));
    assert_eq!(rescan, Ok(json!(true)));
}

fn grow_physical(target: &Target) -> Result<Value, vdo_rpc::RpcError> {
    target.rpc("bdev_vdo_grow_physical", json!({"name": "vdo0"}))
}

#[test]
fn a_full_volume_on_a_file_that_grows_goes_on_under_fio_and_after_a_kill() {
    let test = "a_full_volume_on_a_file_that_grows_goes_on_under_fio_and_after_a_kill";
    if lacking(test, &["fio"], false) {
        return;
    }
    let rig = Rig::new(TIGHT);
    let setup = Setup::on("0x3").with("slab_size_mib", 8);
    let target = rig.start(&setup);
    let mut client = rig.connect();
    let mut full = 100_000;
    while client.write(full * BLOCK, &block(full)).is_ok() {
        full += 1;
    }
    let error = grow_physical(&target).unwrap_err();
    assert_eq!(error.code.0, -22, "{error}");
    assert!(error.message.contains("716800"), "{error}");
    enlarge(&rig, &target, TIGHT + 100);
    let error = grow_physical(&target).unwrap_err();
    assert!(
        error.message.contains("742400") && error.message.contains("at least"),
        "{error}"
    );

    // Whoever was told "no space" tries again.
    let mut first = full;
    let mut grow = |mib: u64| {
        enlarge(&rig, &target, mib);
        let grown = grow_physical(&target).unwrap();
        assert_eq!(grown["physical_blocks"], mib * MIB / BLOCK);
        assert_eq!(info(&target)["physical_blocks"], mib * MIB / BLOCK);
        fill(&mut client, first..first + 5000, |lbn| lbn);
        first += 5000;
    };
    grow(TIGHT + 300);
    let fio = fio(&rig, &target, 4);
    for mib in [TIGHT + 450, TIGHT + 600, TIGHT + 800] {
        thread::sleep(Duration::from_millis(700));
        grow(mib);
    }
    ends_well(fio);
    assert_eq!(stats(&target)["mode"], "normal");
    drop(client);
    let target = target.crash_and_restart();
    check(&mut rig.connect(), full..first, |lbn| lbn);
    assert_eq!(
        info(&target)["physical_blocks"],
        (TIGHT + 800) * MIB / BLOCK
    );
    let target = target.restart();
    // A device that is larger than the volume uses: it keeps its size, and the log says what to do.
    assert!(target.stop().success());
    let file = std::fs::File::options().write(true).open(rig.file());
    file.unwrap().set_len((TIGHT + 1000) * MIB).unwrap();
    let target = rig.start(&setup);
    assert_eq!(
        info(&target)["physical_blocks"],
        (TIGHT + 800) * MIB / BLOCK
    );
    assert!(target.log().contains("bdev_vdo_grow_physical"));
    grow_physical(&target).unwrap();
    check(&mut rig.connect(), full..first, |lbn| lbn);
    assert!(target.stop().success());
    rig.audit(test);
}
