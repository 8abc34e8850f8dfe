//! Volumes of `spdk_vdo_tgt` whose base device is on other machines, of which one dies, loses a way, or has to give way.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vdo_tests::probe::Probe;
use vdo_tests::rig::{BLOCK, Rig, Setup, block, check, fill, info};
use vdo_tests::spdk::{self, Asked, Export, Load, Remote};
use vdo_tests::stock_client::Stock;
use vdo_tests::target::{Target, bdev_config};

/// The machine with the volume.
fn machine() -> Target {
    Target::start_with(spdk::options(bdev_config(Vec::new())))
}

/// How long the machine with the volume waits for one that serves it, if there is another.
fn impatient(mut attach: Value) -> Value {
    attach["ctrlr_loss_timeout_sec"] = json!(2);
    attach["reconnect_delay_sec"] = json!(1);
    attach["fast_io_fail_timeout_sec"] = json!(1);
    attach
}

fn attach(target: &Target, params: Value) {
    spdk::call(target, "bdev_nvme_attach_controller", params);
}

fn create(target: &Target, base: &str) -> Export {
    let mut params = Setup::default().create;
    params["name"] = json!("vdo0");
    params["base_bdev_name"] = json!(base);
    spdk::call(target, "bdev_vdo_create", params);
    spdk::export_nvme_tcp(target, "vdo0")
}

fn wait_until(what: &str, patience: u64, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(patience), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn send(target: &Target, signal: &str) {
    let pid = target.pid().unwrap().to_string();
    vdo_tests::tools::run("kill", ["-s", signal, &pid]);
}

fn mirror(target: &Target) -> Value {
    let all = spdk::call(target, "bdev_raid_get_bdevs", json!({"category": "all"}));
    all[0].clone()
}

/// Two machines with a file each, and a third with a mirror of them.
fn mirrored() -> ([Remote; 2], Target) {
    let legs = [Remote::new(), Remote::new()];
    let target = mirror_of(&legs);
    (legs, target)
}

fn mirror_of(legs: &[Remote; 2]) -> Target {
    let target = machine();
    let except = json!({"enable": true, "except": ["leftn1", "rightn1"]});
    spdk::call(&target, "bdev_vdo_set_examine", except);
    for (leg, name) in legs.iter().zip(["left", "right"]) {
        attach(&target, impatient(leg.export.remote(name)));
    }
    let params =
        json!({"name": "mirror", "raid_level": "raid1", "base_bdevs": ["leftn1", "rightn1"]});
    spdk::call(&target, "bdev_raid_create", params);
    target
}

/// Has the right leg copied from the left one, and waits for that: minutes where the machines share a core.
fn rebuild_right(target: &Target) {
    let params = json!({"raid_bdev": "mirror", "base_bdev": "rightn1"});
    spdk::call(target, "bdev_raid_add_base_bdev", params);
    wait_until("the mirror is whole", 600, || {
        let mirror = mirror(target);
        mirror["num_base_bdevs_operational"] == 2 && mirror.get("process").is_none()
    });
}

/// Whether there is time for minutes of copying.
fn is_thorough() -> bool {
    std::env::var_os("THOROUGH").is_some()
}

/// Checks what is on one leg by itself, whatever state it was left in.
fn check_leg(test: &str, rig: &Rig, lbns: std::ops::Range<u64>, load: &spdk::LoadEnd) {
    let target = rig.start(&Setup::default().with("format", "never"));
    let mut client = rig.connect();
    check(&mut client, lbns, |lbn| lbn);
    load.check(&mut client);
    drop(client);
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn a_volume_on_a_mirror_goes_on_when_a_machine_dies() {
    let test = "a_volume_on_a_mirror_goes_on_when_a_machine_dies";
    if spdk::lacking(test, &[spdk::installed("spdk_tgt")]) {
        return;
    }
    let _turn = spdk::turn();
    let ([left, mut right], target) = mirrored();
    let export = create(&target, "mirror");
    fill(&mut export.connect(), 0..300, |lbn| lbn);
    let load = Load::start(&export, 1000..1128);
    right.die();
    load.go_on(20);
    assert_eq!(mirror(&target)["num_base_bdevs_operational"], 1);
    assert_eq!(info(&target)["mode"], "normal");
    let mut legs = vec![left];
    if is_thorough() {
        wait_until("the leg is given up", 20, || {
            target
                .rpc("bdev_get_bdevs", json!({"name": "rightn1"}))
                .is_err()
        });
        right.come_back();
        // It holds an old state of the volume, which nobody is to find.
        let except = json!({"enable": true, "except": ["rightn1"]});
        spdk::call(&target, "bdev_vdo_set_examine", except);
        attach(&target, impatient(right.export.remote("right")));
        rebuild_right(&target);
        load.go_on(5);
        legs.push(right);
    }
    let end = load.stop();
    assert_eq!(end.error, None);
    assert!(target.stop().success());
    for leg in legs {
        check_leg(test, &leg.stop(), 0..300, &end);
    }
}

#[test]
fn each_leg_of_a_mirror_has_what_was_flushed_when_the_volumes_machine_is_killed() {
    let test = "each_leg_of_a_mirror_has_what_was_flushed_when_the_volumes_machine_is_killed";
    if spdk::lacking(test, &[spdk::installed("spdk_tgt")]) {
        return;
    }
    let _turn = spdk::turn();
    let (legs, target) = mirrored();
    let export = create(&target, "mirror");
    fill(&mut export.connect(), 0..300, |lbn| lbn);
    let load = Load::start(&export, 1000..1128);
    load.go_on(10);
    target.kill();
    let mut end = load.fail();
    if is_thorough() {
        // Writes that were under way have reached one leg and not the other: one of them counts.
        let target = mirror_of(&legs);
        let params = json!({"name": "rightn1"});
        spdk::call(&target, "bdev_raid_remove_base_bdev", params);
        let export = create(&target, "mirror");
        let mut client = export.connect();
        check(&mut client, 0..300, |lbn| lbn);
        end.check(&mut client);
        let load = Load::start(&export, 1000..1128);
        rebuild_right(&target);
        end = load.stop();
        assert_eq!(end.error, None);
        assert!(target.stop().success());
    }
    for leg in legs {
        check_leg(test, &leg.stop(), 0..300, &end);
    }
}

#[test]
fn a_volume_goes_on_when_a_way_to_its_base_device_fails_and_another_is_left() {
    let test = "a_volume_goes_on_when_a_way_to_its_base_device_fails_and_another_is_left";
    if spdk::lacking(test, &[spdk::installed("spdk_tgt")]) {
        return;
    }
    let _turn = spdk::turn();
    let remote = Remote::new();
    let ways = [remote.export.clone(), remote.second_way()];
    let target = machine();
    for way in &ways {
        let mut params = way.remote("far");
        params["multipath"] = json!("multipath");
        params["reconnect_delay_sec"] = json!(1);
        params["ctrlr_loss_timeout_sec"] = json!(-1);
        attach(&target, params);
    }
    let export = create(&target, "farn1");
    fill(&mut export.connect(), 0..300, |lbn| lbn);
    let load = Load::start(&export, 1000..1128);
    let connected = || {
        let paths = spdk::call(&target, "bdev_nvme_get_io_paths", json!({"name": "farn1"}));
        let groups = paths["poll_groups"].as_array().unwrap().clone();
        let paths = groups
            .iter()
            .flat_map(|group| group["io_paths"].as_array().unwrap().clone());
        let connected: Vec<Value> = paths.filter(|path| path["connected"] == true).collect();
        connected
            .iter()
            .map(|path| path["transport"]["trsvcid"].clone())
            .collect::<std::collections::HashSet<_>>()
            .len()
    };
    assert_eq!(connected(), 2);
    for way in &ways {
        remote.close(way);
        load.go_on(20);
        assert_eq!(connected(), 1);
        remote.open(way);
        wait_until("the way is back", 30, || connected() == 2);
    }
    let end = load.stop();
    assert_eq!(end.error, None);
    assert_eq!(info(&target)["mode"], "normal");
    assert!(target.stop().success());
    check_leg(test, &remote.stop(), 0..300, &end);
}

#[test]
fn a_volume_goes_on_when_the_controller_below_it_is_reset() {
    let test = "a_volume_goes_on_when_the_controller_below_it_is_reset";
    if spdk::lacking(test, &[spdk::installed("spdk_tgt")]) {
        return;
    }
    let _turn = spdk::turn();
    let remote = Remote::new();
    let target = machine();
    let mut params = remote.export.remote("far");
    params["reconnect_delay_sec"] = json!(1);
    params["ctrlr_loss_timeout_sec"] = json!(60);
    attach(&target, params);
    let export = create(&target, "farn1");
    fill(&mut export.connect(), 0..300, |lbn| lbn);
    let load = Load::start(&export, 1000..1128);
    for _ in 0..10 {
        spdk::call(
            &target,
            "bdev_nvme_reset_controller",
            json!({"name": "far"}),
        );
        load.go_on(2);
    }
    let end = load.stop();
    assert_eq!(end.error, None, "{}", target.log());
    assert_eq!(info(&target)["mode"], "normal");
    assert!(target.stop().success());
    check_leg(test, &remote.stop(), 0..300, &end);
}

/// Writes of one new block each that are followed by a flush.
const DURABLE_WRITES: u64 = 64;

/// What each machine is asked for by so many durable writes to the volume.
fn cost(export: &Export, legs: &[&Remote]) -> Vec<Asked> {
    let mut client = export.connect();
    fill(&mut client, 0..16, |lbn| lbn);
    let before: Vec<Asked> = legs.iter().map(|leg| leg.asked()).collect();
    for lbn in 0..DURABLE_WRITES {
        assert_eq!(client.write(lbn * BLOCK, &block(5000 + lbn)), Ok(()));
        assert_eq!(client.flush(), Ok(()));
    }
    let after = legs.iter().map(|leg| leg.asked());
    after
        .zip(before)
        .map(|(after, before)| after - before)
        .collect()
}

#[test]
fn every_flush_of_a_volume_reaches_each_machine_that_holds_it() {
    let test = "every_flush_of_a_volume_reaches_each_machine_that_holds_it";
    if spdk::lacking(test, &[spdk::installed("spdk_tgt")]) {
        return;
    }
    let _turn = spdk::turn();
    let remote = Remote::new();
    let target = machine();
    attach(&target, remote.export.remote("far"));
    let export = create(&target, "farn1");
    // The data, a flush, the journal block that names it, and a flush.
    let each = Asked {
        reads: 0,
        writes: 2 * DURABLE_WRITES,
        flushes: 2 * DURABLE_WRITES,
    };
    assert_eq!(cost(&export, &[&remote]), [each]);
    assert!(!target.log().contains("enable_flush"), "{}", target.log());
    assert!(target.stop().success());
    remote.stop();

    let (legs, target) = mirrored();
    let export = create(&target, "mirror");
    assert_eq!(cost(&export, &[&legs[0], &legs[1]]), [each, each]);
    assert!(target.stop().success());
}

#[test]
fn a_target_that_is_told_not_to_flush_its_devices_says_what_that_means() {
    let test = "a_target_that_is_told_not_to_flush_its_devices_says_what_that_means";
    if spdk::lacking(test, &[spdk::installed("spdk_tgt")]) {
        return;
    }
    let _turn = spdk::turn();
    let remote = Remote::new();
    let careless = json!({"method": "bdev_nvme_set_options", "params": {"enable_flush": false}});
    let target = Target::start_with(spdk::options(bdev_config(vec![careless])));
    attach(&target, remote.export.remote("far"));
    create(&target, "farn1");
    let warning = "flushes of NVMe bdevs are switched off (bdev_nvme_set_options: enable_flush), and farn1 has a volatile cache";
    assert!(target.log().contains(warning), "{}", target.log());
    assert!(target.stop().success());
}

/// A machine that is told by SPDK's client, and attaches what is remote without looking for volumes there.
fn standby(test: &str, remote: &Remote) -> Option<Stock> {
    let stock = Stock::new(test, spdk::options(bdev_config(Vec::new())))?;
    spdk::call(
        &stock.target,
        "bdev_vdo_set_examine",
        json!({"enable": false}),
    );
    attach(&stock.target, remote.export.remote("far"));
    Some(stock)
}

fn reserve(stock: &Stock, preempted: Option<&str>) -> String {
    let mut arguments = vec!["nvme_reserve", "-n", "far"];
    arguments.extend(preempted.iter().flat_map(|key| ["-p", key]));
    let answer = stock.run(&arguments);
    assert_eq!(answer["persists"], true);
    answer["key"].as_str().unwrap().to_owned()
}

fn holder(stock: &Stock) -> Value {
    let report = stock.run(&["nvme_reservation", "-n", "far"]);
    let registrants = report["registrants"].as_array().unwrap();
    let holder = registrants
        .iter()
        .find(|registrant| registrant["holds"] == true);
    holder.map_or(Value::Null, |holder| holder["key"].clone())
}

#[test]
fn a_volume_whose_machine_is_killed_goes_on_elsewhere_with_all_that_was_flushed() {
    let test = "a_volume_whose_machine_is_killed_goes_on_elsewhere_with_all_that_was_flushed";
    if spdk::lacking(test, &[spdk::installed("spdk_tgt")]) {
        return;
    }
    let _turn = spdk::turn();
    let remote = Remote::new();
    let Some(first) = standby(test, &remote) else {
        return;
    };
    let key = reserve(&first, None);
    let export = create(&first.target, "farn1");
    fill(&mut export.connect(), 0..300, |lbn| lbn);
    let load = Load::start(&export, 1000..1128);
    load.go_on(10);
    first.target.kill();
    let end = load.fail();
    let second = standby(test, &remote).unwrap();
    assert_eq!(holder(&second), *key);
    let refused = second.output(&["nvme_reserve", "-n", "far"], None);
    assert!(
        !refused.status.success(),
        "it is taken only from whom one knows"
    );
    let mine = reserve(&second, Some(&key));
    assert_eq!(holder(&second), *mine);
    let export = create(&second.target, "farn1");
    let mut client = export.connect();
    check(&mut client, 0..300, |lbn| lbn);
    end.check(&mut client);
    let load = Load::start(&export, 1000..1128);
    load.go_on(10);
    let end = load.stop();
    assert_eq!(end.error, None);
    spdk::call(&second.target, "bdev_vdo_delete", json!({"name": "vdo0"}));
    second.run(&["nvme_release", "-n", "far", "-k", &mine]);
    assert_eq!(holder(&second), Value::Null);
    assert!(second.target.stop().success());
    check_leg(test, &remote.stop(), 0..300, &end);
}

#[test]
fn a_machine_that_was_only_asleep_cannot_write_on_once_another_has_reserved_its_device() {
    let test =
        "a_machine_that_was_only_asleep_cannot_write_on_once_another_has_reserved_its_device";
    if spdk::lacking(test, &[spdk::installed("spdk_tgt")]) {
        return;
    }
    let _turn = spdk::turn();
    let mut remote = Remote::new();
    let Some(first) = standby(test, &remote) else {
        return;
    };
    let key = reserve(&first, None);
    let export = create(&first.target, "farn1");
    fill(&mut export.connect(), 0..300, |lbn| lbn);
    let asleep = Load::start(&export, 1000..1128);
    asleep.go_on(10);
    send(&first.target, "STOP");

    let second = standby(test, &remote).unwrap();
    let mut data = vec![0; BLOCK as usize];
    reserve(&second, Some(&key));
    let elsewhere = create(&second.target, "farn1");
    check(&mut elsewhere.connect(), 0..300, |lbn| lbn);
    let load = Load::start(&elsewhere, 1000..1128);
    load.go_on(10);

    send(&first.target, "CONT");
    let end = asleep.fail();
    assert!(end.error.is_some(), "{end:?}");
    // What failed may have been a read, which leaves the volume as it is.
    let mut client = export.connect();
    let refused = client.write(0, &block(7)).and_then(|()| client.flush());
    assert!(refused.is_err(), "another has the device");
    wait_until("it turns read-only", 10, || {
        info(&first.target)["mode"] == "read-only"
    });
    let state = info(&first.target);
    let reason = state["read_only_reason"].as_str().unwrap();
    assert!(reason.contains("another host has reserved it"), "{reason}");
    assert!(first.target.log().contains(reason));
    assert!(client.write(0, &block(7)).is_err());
    assert!(client.read(0, &mut data).is_err(), "it may be old");
    drop(client);
    load.go_on(10);

    // Nor can it after the device has lost power.
    let end = load.stop();
    assert_eq!(end.error, None);
    let target = second.target;
    assert!(target.stop().success());
    remote.die();
    remote.come_back();
    assert!(first.target.stop().success(), "{}", end.rounds);
    check_leg(test, &remote.stop(), 0..300, &end);
}
