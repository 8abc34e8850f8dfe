//! Volumes of `spdk_vdo_tgt` on base bdevs that fail, are slow, run short of memory or change their size, and with an
//! index that answers late. (Base bdevs that go away are in `removal.rs`.)

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vdo_tests::nvme_probe::status;
use vdo_tests::probe::{Answer, Probe};
use vdo_tests::rig::{BLOCK, Between, MIB, ROOMY, Setup, TIGHT, block, check, fill, info, stats};
use vdo_tests::spdk::{self, Load, Served};
use vdo_tests::target::{Options, Target};

fn inject(target: &Target, io_type: &str, error_type: &str, num: u32) {
    let params = json!({"name": "EE_base", "io_type": io_type, "error_type": error_type, "num": num,
        "corrupt_offset": 5, "corrupt_value": 255});
    spdk::call(target, "bdev_error_inject_error", params);
}

fn mode(target: &Target) -> Value {
    let mode = info(target)["mode"].clone();
    assert_eq!(mode, stats(target)["mode"]);
    mode
}

/// The options with the file as an aio bdev, which unlike a uring bdev has flushes and can be resized.
fn on_aio(mut options: Options, served: &Served) -> Options {
    let base = json!({"name": "base", "filename": served.rig.file(), "block_size": BLOCK});
    let calls = &mut options.config.as_mut().unwrap()["subsystems"][0]["config"];
    let calls = calls.as_array_mut().unwrap().iter_mut();
    for call in calls.filter(|call| call["method"] == "bdev_uring_create") {
        *call = json!({"method": "bdev_aio_create", "params": base});
    }
    options
}

/// A target over the error bdev with a hundred blocks written.
fn faulty(cpumask: &'static str) -> (Served, Setup, Target) {
    let served = Served::new(ROOMY);
    let setup = Setup {
        cpumask,
        ..Setup::over(Between::Errors)
    };
    let target = Target::start_with(on_aio(served.options(&setup), &served));
    fill(&mut served.connect(), 0..100, |lbn| lbn);
    (served, setup, target)
}

/// Waits until the volume is read-only.
fn becomes_read_only(target: &Target) {
    let begun = Instant::now();
    while mode(target) != "read-only" && begun.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let info = info(target);
    assert_eq!(info["mode"], "read-only", "{}", target.log());
    assert!(info["read_only_reason"].is_string(), "it says why: {info}");
    assert!(
        target.log().contains("read-only"),
        "the log says so:\n{}",
        target.log()
    );
}

/// What a read-only volume must do: show data, refuse writes and flushes, stop, come up again as read-only as it was, and be
/// whole when it is rebuilt.
fn is_read_only(served: &Served, setup: &Setup, target: Target) {
    becomes_read_only(&target);
    let mut client = served.connect();
    check(&mut client, 20..100, |lbn| lbn);
    assert!(client.write(500 * BLOCK, &block(500)).is_err());
    assert!(client.write(0, &[0; BLOCK as usize]).is_err());
    assert!(client.trim(50 * BLOCK, BLOCK).is_err());
    assert!(client.flush().is_err());
    let refused = &stats(&target)["errors"]["read_only_error_count"];
    assert!(refused.as_u64().unwrap() >= 3, "{refused}");
    // The program goes on, with other volumes and bdevs.
    spdk::create_malloc(&target, "other", 16);
    let load = Load::start(&spdk::export_nvme_tcp(&target, "other"), 0..64);
    assert_eq!(load.stop().error, None);
    assert!(target.stop().success());
    let target = served.start(setup);
    assert_eq!(mode(&target), "read-only");
    let mut client = served.connect();
    check(&mut client, 20..100, |lbn| lbn);
    assert!(client.write(500 * BLOCK, &block(500)).is_err());
    drop(client);
    let rebuilt = spdk::call(&target, "bdev_vdo_rebuild", json!({"name": "vdo0"}));
    assert_eq!(
        (&rebuilt["name"], &rebuilt["dropped"]["subtrees"]),
        (&json!("vdo0"), &json!(0))
    );
    assert_eq!(mode(&target), "normal");
    let refused = target.rpc("bdev_vdo_rebuild", json!({"name": "vdo0"}));
    let refused = refused.unwrap_err();
    assert!(
        refused.message.contains("not read-only"),
        "{}",
        refused.message
    );
    assert!(target.stop().success());
    let target = served.start(setup);
    check(&mut served.connect(), 20..100, |lbn| lbn);
    assert!(target.stop().success());
}

#[test]
fn a_lost_write_that_was_acknowledged_makes_the_volume_read_only() {
    let _turn = spdk::turn();
    for cpumask in ["0x1", "0x3"] {
        let (served, setup, target) = faulty(cpumask);
        inject(&target, "write", "failure", 1);
        assert_eq!(
            served.connect().write(10 * BLOCK, &block(1000)),
            Ok(()),
            "it is acknowledged first"
        );
        is_read_only(&served, &setup, target);
    }
}

#[test]
fn a_failed_journal_write_makes_the_volume_read_only() {
    let _turn = spdk::turn();
    let (served, setup, target) = faulty("0x3");
    // A trim writes nothing but its journal entry.
    inject(&target, "write", "failure", 1);
    let mut client = served.connect();
    assert_eq!(client.trim(3 * BLOCK, BLOCK), Ok(()));
    assert!(
        client.flush().is_err(),
        "what the trim promised cannot be kept"
    );
    is_read_only(&served, &setup, target);
}

#[test]
fn a_failed_flush_of_the_device_makes_the_volume_read_only() {
    let _turn = spdk::turn();
    let (served, setup, target) = faulty("0x1");
    inject(&target, "flush", "failure", 1);
    let mut client = served.connect();
    assert_eq!(client.write(200 * BLOCK, &block(200)), Ok(()));
    assert!(client.flush().is_err());
    is_read_only(&served, &setup, target);
}

#[test]
fn a_failed_read_of_the_block_map_makes_the_volume_read_only() {
    let _turn = spdk::turn();
    let (served, setup, target) = faulty("0x1");
    // Far from what SPDK's own modules read when they look at the new bdev.
    fill(&mut served.connect(), 100_000..100_001, |lbn| lbn);
    let target = target.restart();
    spdk::call(&target, "bdev_wait_for_examine", Value::Null);
    inject(&target, "read", "failure", 1);
    let mut data = vec![0; BLOCK as usize];
    assert!(served.connect().read(100_000 * BLOCK, &mut data).is_err());
    becomes_read_only(&target);
    assert!(target.stop().success());
    let target = served.start(&setup);
    assert_eq!(mode(&target), "read-only");
    assert!(target.stop().success());
}

#[test]
fn a_base_bdev_that_takes_no_more_writes_under_load_does_not_keep_the_target_from_stopping() {
    let _turn = spdk::turn();
    let (served, setup, target) = faulty("0x3");
    let loads = [1000, 2000].map(|start| Load::start(&served.export, start..start + 256));
    inject(&target, "write", "failure", 1_000_000);
    for load in loads {
        let end = load.fail();
        assert!(end.error.is_some(), "{end:?}");
    }
    becomes_read_only(&target);
    check(&mut served.connect(), 0..100, |lbn| lbn);
    assert!(target.stop().success());
    // It could not even be marked, so it is as after a power failure.
    let target = served.start(&setup);
    check(&mut served.connect(), 0..100, |lbn| lbn);
    assert!(target.stop().success());
}

#[test]
fn failures_that_can_be_told_are_told_and_harm_nothing() {
    let test = "failures_that_can_be_told_are_told_and_harm_nothing";
    let _turn = spdk::turn();
    let (served, _, target) = faulty("0x3");
    let mut client = served.connect();
    inject(&target, "write", "failure", 1);
    assert!(client.write_fua(10 * BLOCK, &block(1000)).is_err());
    assert_eq!(mode(&target), "normal", "nobody was promised anything");
    check(&mut client, 0..100, |lbn| lbn);
    assert_eq!(client.write_fua(10 * BLOCK, &block(1000)), Ok(()));
    check(&mut client, 10..11, |_| 1000);
    inject(&target, "read", "failure", 3);
    let mut data = vec![0; BLOCK as usize];
    for lbn in 0..3 {
        assert!(client.read(lbn * BLOCK, &mut data).is_err());
    }
    check(&mut client, 20..100, |lbn| lbn);
    assert_eq!(mode(&target), "normal");
    // A copy that reads differently or not at all is not shared.
    for (lbn, error) in (300u64..).zip(["corrupt_data", "failure"]) {
        let before = stats(&target);
        inject(&target, "read", error, 1);
        assert_eq!(client.write(lbn * BLOCK, &block(lbn - 270)), Ok(()));
        assert_eq!(client.flush(), Ok(()));
        let after = stats(&target);
        let grown = |name: &str| {
            after["data"][name].as_u64().unwrap() - before["data"][name].as_u64().unwrap()
        };
        assert_eq!(
            (grown("new_blocks"), grown("deduplicated_blocks")),
            (1, 0),
            "{error}"
        );
        check(&mut client, lbn..lbn + 1, |lbn| lbn - 270);
    }
    assert_eq!(mode(&target), "normal");
    assert!(target.stop().success());
    served.rig.audit(test);
}

#[test]
fn a_base_bdev_that_is_short_of_memory_or_holds_writes_back_is_only_slow() {
    let test = "a_base_bdev_that_is_short_of_memory_or_holds_writes_back_is_only_slow";
    let _turn = spdk::turn();
    let (served, _, target) = faulty("0x3");
    let load = Load::start(&served.export, 1000..1256);
    inject(&target, "write", "nomem", 50);
    load.go_on(2);
    inject(&target, "all", "nomem", 50);
    load.go_on(2);
    inject(&target, "write", "pending", 20);
    std::thread::sleep(Duration::from_millis(300));
    spdk::call(
        &target,
        "bdev_error_inject_error",
        json!({"name": "EE_base", "io_type": "clear", "error_type": "pending"}),
    );
    spdk::call(
        &target,
        "bdev_error_resume_pending",
        json!({"name": "EE_base"}),
    );
    load.go_on(2);
    let end = load.stop();
    assert_eq!(end.error, None, "{end:?}");
    assert_eq!(mode(&target), "normal");
    end.check(&mut served.connect());
    assert!(target.stop().success());
    served.rig.audit(test);
}

#[test]
fn a_program_with_few_bdev_ios_queues_for_them() {
    let test = "a_program_with_few_bdev_ios_queues_for_them";
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let mut options = served.options(&Setup::on("0x3"));
    let few = json!({"method": "bdev_set_options", "params": {"bdev_io_pool_size": 64, "bdev_io_cache_size": 4}});
    let calls = options.config.as_mut().unwrap()["subsystems"][0]["config"].as_array_mut();
    calls.unwrap().insert(0, few);
    let target = Target::start_with(options);
    let loads = [0u64, 1000, 2000].map(|start| Load::start(&served.export, start..start + 256));
    loads.iter().for_each(|load| load.go_on(3));
    for load in loads {
        let end = load.stop();
        assert_eq!(end.error, None, "{end:?}");
        end.check(&mut served.connect());
    }
    assert_eq!(mode(&target), "normal");
    assert!(target.stop().success());
    served.rig.audit(test);
}

#[test]
fn a_full_volume_says_so_keeps_its_data_and_takes_more_once_there_is_room() {
    let test = "a_full_volume_says_so_keeps_its_data_and_takes_more_once_there_is_room";
    let _turn = spdk::turn();
    let served = Served::new(TIGHT);
    let setup = Setup::on("0x3").with("slab_size_mib", 8);
    let target = served.start(&setup);
    let mut client = served.connect();
    // Far more than there is room for. Once a write fails, others may still find the last blocks.
    let answers = client.write_all((0..6000).map(|lbn| (lbn * BLOCK, block(lbn))));
    let kept: Vec<u64> = (0..6000)
        .filter(|lbn| answers[*lbn as usize].is_ok())
        .collect();
    assert!(kept.len() > 1000 && kept.len() < 6000, "{}", kept.len());
    let expected = |answer: &Answer| matches!(answer, Ok(()) | Err(status::CAPACITY_EXCEEDED));
    assert!(
        answers.iter().all(expected),
        "a host is told that it is full"
    );
    assert_eq!(client.flush(), Ok(()), "what was acknowledged has a place");
    for &lbn in &kept {
        check(&mut client, lbn..lbn + 1, |lbn| lbn);
    }
    assert_eq!(mode(&target), "normal", "full is not broken");
    // A copy of what is there needs no room; something new has none.
    let lost = (0..6000).find(|lbn| !kept.contains(lbn)).unwrap();
    assert_eq!(client.write(lost * BLOCK, &block(kept[0])), Ok(()));
    let full = Err(status::CAPACITY_EXCEEDED);
    assert_eq!(client.write(5999 * BLOCK, &block(99_999)), full);
    assert_eq!(client.write_fua(5999 * BLOCK, &block(99_999)), full);
    assert_eq!(client.trim(10 * BLOCK, 500 * BLOCK), Ok(()));
    assert_eq!(client.flush(), Ok(()));
    fill(&mut client, 10..410, |lbn| 50_000 + lbn);
    let target = target.restart();
    let mut client = served.connect();
    check(&mut client, 10..410, |lbn| 50_000 + lbn);
    check(&mut client, 510..1000, |lbn| lbn);
    check(&mut client, lost..lost + 1, |_| kept[0]);
    assert!(target.stop().success());
    served.rig.audit(test);
}

#[test]
fn a_slow_base_bdev_is_only_slow() {
    let test = "a_slow_base_bdev_is_only_slow";
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let setup = Setup {
        cpumask: "0x3",
        ..Setup::over(Between::Delay(3000, 10_000))
    };
    let target = served.start(&setup);
    // The index is in memory: a slow device does not make it late, however short the patience.
    let options = json!({"name": "vdo0", "dedupe_timeout_ms": 1000, "dedupe_min_timer_ms": 1});
    spdk::call(&target, "bdev_vdo_set_options", options);
    let mut client = served.connect();
    fill(&mut client, 0..600, |lbn| lbn % 400);
    check(&mut client, 0..600, |lbn| lbn % 400);
    let now = stats(&target);
    assert_eq!(now["mode"], "normal");
    assert_eq!(now["dedupe_advice_timeouts"], 0);
    assert!(
        now["data"]["deduplicated_blocks"].as_u64().unwrap() >= 100,
        "{}",
        now["data"]
    );
    // It is deleted and told to stop while requests are on their slow way.
    let load = Load::start(&served.export, 1000..1064);
    spdk::call(&target, "bdev_vdo_delete", json!({"name": "vdo0"}));
    let end = load.fail();
    served.rig.audit(test);
    let create = json!({"name": "vdo0", "base_bdev_name": "slow", "format": "never"});
    spdk::call(&target, "bdev_vdo_create", create);
    served.export.serve_again(&target, "vdo0");
    end.check(&mut served.connect());
    let load = Load::start(&served.export, 1000..1064);
    assert!(target.stop().success());
    load.fail();
    served.rig.audit(test);
}

#[test]
fn writes_whose_index_answers_too_late_go_on_without_it_and_are_counted() {
    let test = "writes_whose_index_answers_too_late_go_on_without_it_and_are_counted";
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::on("0x3"));
    let options = json!({"name": "vdo0", "dedupe_timeout_ms": 100, "dedupe_min_timer_ms": 20});
    spdk::call(&target, "bdev_vdo_set_options", options);
    let answers = |params: Value| {
        let done = spdk::call(&target, "bdev_vdo_inject_index_answers", params);
        assert_eq!(done, true);
    };
    let mut client = served.connect();
    fill(&mut client, 0..200, |lbn| lbn);
    answers(json!({"name": "vdo0", "answers": "delayed", "delay_ms": 1000}));
    let begun = Instant::now();
    fill(&mut client, 1000..1200, |lbn| lbn - 1000);
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "they did not wait for the answers"
    );
    let late = stats(&target);
    let timeouts = &late["dedupe_advice_timeouts"];
    assert!(timeouts.as_u64().unwrap() >= 200, "{timeouts}");
    assert_eq!(late["data_blocks_used"], 400, "nothing was shared");
    check(&mut client, 1000..1200, |lbn| lbn - 1000);
    // The late answers come in time for nobody, and give their contexts back.
    std::thread::sleep(Duration::from_millis(1500));
    let dump = spdk::call(&target, "bdev_vdo_dump", json!({"name": "vdo0"}));
    let zones = dump["hash_zones"].as_array().unwrap();
    assert_eq!(zones.len(), 2);
    for zone in zones {
        assert_eq!(
            (&zone["contexts"]["pending"], &zone["contexts"]["timed_out"]),
            (&json!(0), &json!(0)),
            "{zone}"
        );
        assert_eq!(zone["hash_locks"], json!([]), "{zone}");
    }
    answers(json!({"name": "vdo0", "answers": "prompt"}));
    fill(&mut client, 2000..2200, |lbn| lbn - 2000);
    assert_eq!(stats(&target)["data_blocks_used"], 400, "shared again");
    // An index that fails, or never answers, keeps nobody from stopping either.
    answers(json!({"name": "vdo0", "answers": "fail"}));
    fill(&mut client, 3000..3100, |lbn| lbn);
    answers(json!({"name": "vdo0", "answers": "never"}));
    fill(&mut client, 3100..3200, |lbn| lbn);
    check(&mut client, 3000..3200, |lbn| lbn);
    assert_eq!(mode(&target), "normal");
    assert!(target.stop().success());
    served.rig.audit(test);
}

#[test]
fn a_base_bdev_that_grows_changes_nothing_and_one_that_shrinks_stops_writes() {
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let target = Target::start_with(on_aio(served.options(&Setup::default()), &served));
    fill(&mut served.connect(), 0..100, |lbn| lbn);
    let before = info(&target);
    let resize = |mib: u64| {
        let file = std::fs::File::options().write(true).open(served.rig.file());
        file.unwrap().set_len(mib * MIB).unwrap();
        spdk::call(&target, "bdev_aio_rescan", json!({"name": "base"}));
    };
    let load = Load::start(&served.export, 1000..1064);
    resize(ROOMY + 64);
    load.go_on(2);
    assert_eq!(load.stop().error, None);
    let after = info(&target);
    assert_eq!(
        (&after["physical_blocks"], &after["mode"]),
        (&before["physical_blocks"], &json!("normal"))
    );
    // SPDK lets no open bdev shrink; if it did, or the device did so behind its back, nothing is written.
    let file = std::fs::File::options().write(true).open(served.rig.file());
    file.unwrap().set_len((ROOMY - 64) * MIB).unwrap();
    let rescanned = target.rpc("bdev_aio_rescan", json!({"name": "base"}));
    if rescanned.is_ok() {
        becomes_read_only(&target);
    }
    served
        .connect()
        .read(0, &mut vec![0; BLOCK as usize])
        .unwrap();
    assert!(target.stop().success());
}
