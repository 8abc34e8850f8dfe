//! Base bdevs of volumes of `spdk_vdo_tgt` that go away under load: deleted, their lower bdev deleted, their controller
//! detached, or their controller lost because the program that served it was killed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vdo_tests::nvme_probe::NvmeProbe;
use vdo_tests::rig::{Between, ROOMY, Setup, check, fill};
use vdo_tests::spdk::{self, Export, Load, Remote, Served};
use vdo_tests::target::{Options, Target, bdev_config};

fn names(target: &Target) -> Vec<String> {
    let bdevs = spdk::call(target, "bdev_get_bdevs", Value::Null);
    let name = |bdev: &Value| bdev["name"].as_str().unwrap().to_owned();
    bdevs.as_array().unwrap().iter().map(name).collect()
}

/// Waits until only these bdevs are left.
fn left(target: &Target, expected: &[&str]) {
    let begun = Instant::now();
    while names(target) != expected && begun.elapsed() < Duration::from_secs(15) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(names(target), expected, "{}", target.log());
}

/// A bdev that has nothing to do with the volume, and requests to it.
fn bystander(target: &Target) -> Load {
    spdk::create_malloc(target, "other", 16);
    Load::start(&spdk::export_nvme_tcp(target, "other"), 0..128)
}

fn unharmed(bystander: Load) {
    bystander.go_on(2);
    let end = bystander.stop();
    assert_eq!(end.error, None, "{end:?}");
}

#[test]
fn a_base_bdev_deleted_under_load_takes_the_volume_down_cleanly() {
    let test = "a_base_bdev_deleted_under_load_takes_the_volume_down_cleanly";
    let _turn = spdk::turn();
    for (between, top, delete) in [
        (Between::Nothing, "base", ("bdev_uring_delete", "base")),
        (Between::Errors, "EE_base", ("bdev_uring_delete", "base")),
        (
            Between::Delay(200, 500),
            "slow",
            ("bdev_delay_delete", "slow"),
        ),
    ] {
        let served = Served::new(ROOMY);
        let target = served.start(&Setup {
            cpumask: "0x3",
            ..Setup::over(between)
        });
        fill(&mut served.connect(), 0..300, |lbn| lbn);
        let bystander = bystander(&target);
        let loads = [1000, 2000].map(|start| Load::start(&served.export, start..start + 128));
        let (method, name) = delete;
        let deleted = target.rpc(method, json!({"name": name}));
        assert_eq!(deleted.unwrap(), true, "{method} {top}");
        let ends = loads.map(Load::fail);
        assert!(
            !names(&target)
                .iter()
                .any(|name| name == "vdo0" || name == top)
        );
        unharmed(bystander);
        // The base bdev was there until the volume let go of it.
        served.rig.audit(test);
        assert!(target.stop().success());
        let target = served.start(&Setup::default().with("format", "never"));
        let mut client = served.connect();
        check(&mut client, 0..300, |lbn| lbn);
        ends.iter().for_each(|end| end.check(&mut client));
        assert!(target.stop().success());
        served.rig.audit(test);
    }
}

/// A target with the volume `vdo0` on what is served elsewhere; where it serves the volume.
fn on_remote(remote: &Export, attach: Value) -> (Target, Export) {
    let target = Target::start_with(Options {
        cpumask: "0x1".to_owned(),
        ..spdk::options(bdev_config(Vec::new()))
    });
    let mut params = remote.remote("far");
    params
        .as_object_mut()
        .unwrap()
        .extend(attach.as_object().unwrap().clone());
    let bdevs = spdk::call(&target, "bdev_nvme_attach_controller", params);
    assert_eq!(bdevs, json!(["farn1"]));
    spdk::call(&target, "bdev_wait_for_examine", Value::Null);
    let create = json!({"name": "vdo0", "base_bdev_name": "farn1", "slab_size_mib": 32, "logical_size_mib": 1024});
    spdk::call(&target, "bdev_vdo_create", create);
    let export = spdk::export_nvme_tcp(&target, "vdo0");
    (target, export)
}

#[test]
fn a_volume_on_an_nvme_controller_keeps_its_data_and_goes_when_the_controller_is_detached() {
    let test =
        "a_volume_on_an_nvme_controller_keeps_its_data_and_goes_when_the_controller_is_detached";
    if spdk::lacking(test, &[spdk::installed("spdk_tgt")]) {
        return;
    }
    let _turn = spdk::turn();
    let remote = Remote::new();
    let (target, export) = on_remote(&remote.export, json!({}));
    fill(&mut export.connect(), 0..500, |lbn| lbn % 300);
    let bystander = bystander(&target);
    let load = Load::start(&export, 1000..1128);
    let detached = target.rpc("bdev_nvme_detach_controller", json!({"name": "far"}));
    assert_eq!(detached.unwrap(), true);
    let end = load.fail();
    left(&target, &["other"]);
    unharmed(bystander);
    // The volume on it is found when it comes again.
    let base = spdk::connect_nvme_tcp(&target, &remote.export, "far");
    assert_eq!(base, "farn1");
    spdk::call(&target, "bdev_wait_for_examine", Value::Null);
    left(&target, &["other", "farn1", "farn1_vdo"]);
    export.serve_again(&target, "farn1_vdo");
    let mut client = export.connect();
    check(&mut client, 0..500, |lbn| lbn % 300);
    // A detached controller may lose the volume's last words, never what was flushed.
    end.check(&mut client);
    assert!(target.stop().success());
    remote.stop().audit(test);
}

#[test]
fn a_target_survives_the_death_of_the_controller_its_volume_is_on() {
    let test = "a_target_survives_the_death_of_the_controller_its_volume_is_on";
    if spdk::lacking(test, &[spdk::installed("spdk_tgt")]) {
        return;
    }
    let _turn = spdk::turn();
    let mut remote = Remote::new();
    let patience = json!({"ctrlr_loss_timeout_sec": 2, "reconnect_delay_sec": 1, "fast_io_fail_timeout_sec": 1});
    let (target, export) = on_remote(&remote.export, patience);
    fill(&mut export.connect(), 0..200, |lbn| lbn);
    let bystander = bystander(&target);
    let load = Load::start(&export, 1000..1128);
    remote.die();
    let end = load.fail();
    assert!(end.error.is_some(), "{end:?}");
    // SPDK gives the controller up, and with it its bdev; the volume goes too.
    left(&target, &["other"]);
    let gone = NvmeProbe::connect(export.port(), export.nqn());
    assert!(gone.is_err(), "there is nothing behind the namespace");
    unharmed(bystander);
    assert!(target.stop().success());
    // It was not shut down, and is recovered when it is found.
    remote.come_back();
    let target = Target::start_with(spdk::options(bdev_config(Vec::new())));
    spdk::connect_nvme_tcp(&target, &remote.export, "far");
    spdk::call(&target, "bdev_wait_for_examine", Value::Null);
    left(&target, &["farn1", "farn1_vdo"]);
    let export = spdk::export_nvme_tcp(&target, "farn1_vdo");
    check(&mut export.connect(), 0..200, |lbn| lbn);
    assert!(target.stop().success());
    remote.stop();
}
