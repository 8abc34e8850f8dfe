//! A volume on a device that fails, is slow or holds things back, and one whose index comes and goes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vdo_rpc::params::SetOptions;
use vdo_tests::nbd_probe::NbdProbe;
use vdo_tests::nbd_probe::errno::EIO;
use vdo_tests::rig::{BLOCK, Between, ROOMY, Rig, Setup, block, check, fill, info, stats};
use vdo_tests::target::Target;

fn inject(target: &Target, io_type: &str, error_type: &str, num: u32) {
    let params = json!({"name": "EE_base", "io_type": io_type, "error_type": error_type, "num": num,
        "corrupt_offset": 5, "corrupt_value": 255});
    target.rpc("bdev_error_inject_error", params).unwrap();
}

fn mode(target: &Target) -> Value {
    let mode = info(target)["mode"].clone();
    assert_eq!(mode, stats(target)["mode"]);
    mode
}

/// A rig over the error bdev with a hundred blocks written, and a target.
fn faulty(cpumask: &'static str) -> (Rig, Setup, Target) {
    let rig = Rig::new(ROOMY);
    let setup = Setup {
        cpumask,
        ..Setup::over(Between::Errors)
    };
    let target = rig.start(&setup);
    fill(&mut rig.connect(), 0..100, |lbn| lbn);
    (rig, setup, target)
}

/// What a read-only volume must do: show data, refuse writes and flushes, stop, come up again as read-only as it was, and be
/// whole when it is rebuilt.
fn is_read_only(rig: &Rig, setup: &Setup, target: Target) {
    let mut patience = 500;
    while mode(&target) != "read-only" && patience > 0 {
        std::thread::sleep(std::time::Duration::from_millis(10));
        patience -= 1;
    }
    assert_eq!(mode(&target), "read-only", "{}", target.log());
    let reason = info(&target)["read_only_reason"].clone();
    let reason = reason.as_str().expect("it says why");
    assert!(target.log().contains(reason), "{reason}");
    let mut client = rig.connect();
    check(&mut client, 20..100, |lbn| lbn);
    assert_eq!(client.write(500 * BLOCK, &block(500)), Err(EIO));
    assert_eq!(client.write(0, &[0; BLOCK as usize]), Err(EIO));
    assert_eq!(client.trim(50 * BLOCK, BLOCK as u32), Err(EIO));
    assert!(
        stats(&target)["errors"]["read_only_error_count"]
            .as_u64()
            .unwrap()
            >= 3
    );
    drop(client);
    assert!(target.log().contains("read-only"), "the log says so");
    target.stop();
    comes_back(rig, setup);
}

/// A volume that is read-only on disk, with a hundred blocks that were flushed, is read as it was and rebuilt.
fn comes_back(rig: &Rig, setup: &Setup) {
    let target = rig.start(setup);
    assert_eq!(mode(&target), "read-only");
    let reason = info(&target)["read_only_reason"].clone();
    assert!(reason.as_str().unwrap().contains("super block"), "{reason}");
    let mut client = rig.connect();
    check(&mut client, 20..100, |lbn| lbn);
    assert_eq!(client.write(500 * BLOCK, &block(500)), Err(EIO));
    assert_eq!(client.flush(), Ok(()));
    drop(client);
    let rebuilt = target.rpc("bdev_vdo_rebuild", json!({"name": "vdo0"}));
    let rebuilt = rebuilt.unwrap();
    assert_eq!(rebuilt["name"], "vdo0");
    assert_eq!(rebuilt["dropped"]["journal_entries"], 0);
    assert_eq!(mode(&target), "normal");
    assert_eq!(stats(&target)["read_only_recoveries"], 1);
    let refused = target.rpc("bdev_vdo_rebuild", json!({"name": "vdo0"}));
    let refused = refused.unwrap_err();
    assert!(
        refused.message.contains("not read-only"),
        "{}",
        refused.message
    );
    assert!(target.stop().success());
    let target = rig.start(setup);
    check(&mut rig.connect(), 20..100, |lbn| lbn);
    assert!(target.stop().success());
}

#[test]
fn a_lost_write_that_was_acknowledged_makes_the_volume_read_only() {
    for cpumask in ["0x1", "0x3"] {
        let (rig, setup, target) = faulty(cpumask);
        inject(&target, "write", "failure", 1);
        assert_eq!(
            rig.connect().write(10 * BLOCK, &block(1000)),
            Ok(()),
            "it is acknowledged first"
        );
        is_read_only(&rig, &setup, target);
    }
}

#[test]
fn a_failed_journal_write_makes_the_volume_read_only() {
    let (rig, setup, target) = faulty("0x3");
    // A trim writes nothing but its journal entry.
    inject(&target, "write", "failure", 1);
    let mut client = rig.connect();
    assert_eq!(client.trim(3 * BLOCK, BLOCK as u32), Ok(()));
    assert_eq!(
        client.flush(),
        Err(EIO),
        "what the trim promised cannot be kept"
    );
    is_read_only(&rig, &setup, target);
}

#[test]
fn a_durable_write_that_fails_is_told_and_harms_nothing() {
    let test = "a_durable_write_that_fails_is_told_and_harms_nothing";
    let (rig, _, target) = faulty("0x3");
    inject(&target, "write", "failure", 1);
    let mut client = rig.connect();
    assert_eq!(client.write_fua(10 * BLOCK, &block(1000)), Err(EIO));
    assert_eq!(mode(&target), "normal", "nobody was promised anything");
    check(&mut client, 0..100, |lbn| lbn);
    assert_eq!(client.write_fua(10 * BLOCK, &block(1000)), Ok(()));
    check(&mut client, 10..11, |_| 1000);
    drop(client);
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn a_failed_read_of_data_is_told_and_harms_nothing() {
    let test = "a_failed_read_of_data_is_told_and_harms_nothing";
    let (rig, _, target) = faulty("0x1");
    let mut client = rig.connect();
    inject(&target, "read", "failure", 3);
    let mut data = vec![0; BLOCK as usize];
    for lbn in 0..3 {
        assert_eq!(client.read(lbn * BLOCK, &mut data), Err(EIO));
    }
    check(&mut client, 0..100, |lbn| lbn);
    assert_eq!(mode(&target), "normal");
    drop(client);
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn a_failed_read_of_the_block_map_makes_the_volume_read_only() {
    let (rig, setup, target) = faulty("0x1");
    let target = target.restart();
    inject(&target, "read", "failure", 1);
    let mut data = vec![0; BLOCK as usize];
    assert_eq!(rig.connect().read(0, &mut data), Err(EIO));
    let mut patience = 500;
    while mode(&target) != "read-only" && patience > 0 {
        std::thread::sleep(std::time::Duration::from_millis(10));
        patience -= 1;
    }
    assert_eq!(mode(&target), "read-only", "{}", target.log());
    target.stop();
    comes_back(&rig, &setup);
}

#[test]
fn a_failed_flush_of_the_device_makes_the_volume_read_only() {
    let (rig, setup, target) = faulty("0x1");
    inject(&target, "flush", "failure", 1);
    let mut client = rig.connect();
    assert_eq!(client.write(200 * BLOCK, &block(200)), Ok(()));
    assert_eq!(client.flush(), Err(EIO));
    is_read_only(&rig, &setup, target);
}

#[test]
fn a_device_that_takes_no_more_writes_does_not_keep_the_target_from_stopping() {
    let (rig, setup, target) = faulty("0x3");
    inject(&target, "write", "failure", 1_000_000);
    let mut client = rig.connect();
    let answers = client.write_all((0..500).map(|lbn| (lbn * BLOCK, block(5000 + lbn))));
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer, Ok(()) | Err(EIO)))
    );
    assert_eq!(client.flush(), Err(EIO));
    drop(client);
    assert_eq!(mode(&target), "read-only");
    target.stop();
    // It could not even be marked, so it is as after a power failure.
    let target = rig.start(&setup);
    check(&mut rig.connect(), 0..100, |lbn| lbn);
    assert!(target.stop().success());
}

#[test]
fn a_copy_that_reads_differently_or_not_at_all_is_not_shared() {
    let test = "a_copy_that_reads_differently_or_not_at_all_is_not_shared";
    let (rig, _, target) = faulty("0x1");
    let mut client = rig.connect();
    for (round, error) in ["corrupt_data", "failure"].into_iter().enumerate() {
        let lbn = 300 + round as u64;
        let before = stats(&target);
        inject(&target, "read", error, 1);
        assert_eq!(client.write(lbn * BLOCK, &block(7 + round as u64)), Ok(()));
        assert_eq!(client.flush(), Ok(()));
        let after = stats(&target);
        let grown = |group: &str, name: &str| {
            after[group][name].as_u64().unwrap() - before[group][name].as_u64().unwrap()
        };
        assert_eq!(grown("data", "new_blocks"), 1, "{error}");
        assert_eq!(grown("data", "deduplicated_blocks"), 0, "{error}");
        assert_eq!(grown("hash_lock", "dedupe_advice_stale"), 1, "{error}");
        check(&mut client, lbn..lbn + 1, |_| 7 + round as u64);
    }
    assert_eq!(mode(&target), "normal");
    drop(client);
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn a_target_whose_device_holds_writes_back_stops_cleanly() {
    let test = "a_target_whose_device_holds_writes_back_stops_cleanly";
    let (rig, _, target) = faulty("0x1");
    inject(&target, "write", "pending", 50);
    let held = target.rpc("bdev_get_iostat", Value::Null).unwrap();
    let mut client = rig.connect();
    let answers = client.write_all((0..20).map(|lbn| (lbn * BLOCK, block(7000 + lbn))));
    assert!(answers.iter().all(Result::is_ok), "{answers:?} {held}");
    assert_eq!(
        stats(&target)["current_vios_in_progress"],
        20,
        "they wait for the device"
    );
    // The client stays connected and waits for nothing; the target lets the writes go when it ends.
    assert!(target.stop().success());
    rig.audit(test);
    let target = rig.start(&Setup::default());
    check(&mut rig.connect(), 0..20, |lbn| 7000 + lbn);
    assert!(target.stop().success());
}

#[test]
fn a_slow_device_is_only_slow() {
    let test = "a_slow_device_is_only_slow";
    let rig = Rig::new(ROOMY);
    let setup = Setup {
        cpumask: "0x3",
        ..Setup::over(Between::Delay(3000, 10_000))
    };
    let target = rig.start(&setup);
    // The index is in memory: a slow device does not make it late, however short the patience.
    let options = json!({"name": "vdo0", "dedupe_timeout_ms": 1, "dedupe_min_timer_ms": 1});
    assert_eq!(target.rpc("bdev_vdo_set_options", options).unwrap(), true);
    let mut client = rig.connect();
    fill(&mut client, 0..1000, |lbn| lbn % 600);
    check(&mut client, 0..1000, |lbn| lbn % 600);
    let now = stats(&target);
    assert_eq!(now["mode"], "normal");
    assert_eq!(now["logical_blocks_used"], 1000);
    assert!(
        now["data"]["deduplicated_blocks"].as_u64().unwrap() >= 300,
        "{}",
        now["data"]
    );
    drop(client);
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn writes_whose_index_answers_too_late_go_on_without_it_and_are_counted() {
    let test = "writes_whose_index_answers_too_late_go_on_without_it_and_are_counted";
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::on("0x3"));
    let options = json!({"name": "vdo0", "dedupe_timeout_ms": 100, "dedupe_min_timer_ms": 20});
    assert_eq!(target.rpc("bdev_vdo_set_options", options).unwrap(), true);
    let answers = |params: Value| {
        assert_eq!(
            target.rpc("bdev_vdo_inject_index_answers", params).unwrap(),
            true
        );
    };
    let mut client = rig.connect();
    fill(&mut client, 0..200, |lbn| lbn);
    answers(json!({"name": "vdo0", "answers": "delayed", "delay_ms": 1000}));
    fill(&mut client, 1000..1200, |lbn| lbn - 1000);
    client.flush().unwrap();
    let late = stats(&target);
    assert!(
        late["dedupe_advice_timeouts"].as_u64().unwrap() >= 200,
        "{}",
        late["dedupe_advice_timeouts"]
    );
    assert_eq!(late["data_blocks_used"], 400, "nothing was shared");
    check(&mut client, 1000..1200, |lbn| lbn - 1000);
    // The late answers come in time for nobody, and give their contexts back.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let dump = target
        .rpc("bdev_vdo_dump", json!({"name": "vdo0"}))
        .unwrap();
    for zone in dump["hash_zones"].as_array().unwrap() {
        assert_eq!(zone["contexts"]["pending"], 0, "{zone}");
        assert_eq!(zone["contexts"]["timed_out"], 0, "{zone}");
        assert_eq!(zone["hash_locks"].as_array().unwrap().len(), 0, "{zone}");
    }
    answers(json!({"name": "vdo0", "answers": "prompt"}));
    fill(&mut client, 2000..2200, |lbn| lbn - 2000);
    client.flush().unwrap();
    assert_eq!(stats(&target)["data_blocks_used"], 400, "shared again");
    drop(client);
    assert!(target.stop().success());
    rig.audit(test);
}

/// How long a write takes whose index does not answer.
fn patience(client: &mut NbdProbe, lbn: u64) -> Duration {
    let begin = Instant::now();
    assert_eq!(client.write(lbn * BLOCK, &block(500_000 + lbn)), Ok(()));
    assert_eq!(client.flush(), Ok(()));
    begin.elapsed()
}

#[test]
fn every_option_that_can_be_set_under_load_takes_hold_at_once_in_both_directions() {
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::on("0x3"));
    let set = |option: &str, value: Value| {
        let mut params = json!({"name": "vdo0"});
        params[option] = value;
        assert_eq!(target.rpc("bdev_vdo_set_options", params).unwrap(), true);
    };
    let silent = json!({"name": "vdo0", "answers": "never"});
    target.rpc("bdev_vdo_inject_index_answers", silent).unwrap();
    let (moment, while_) = (Duration::from_millis(250), Duration::from_secs(8));
    let (mut client, mut other) = (rig.connect(), rig.connect());
    // All there are, so that one that is added is missed here.
    let all = SetOptions {
        name: "vdo0".into(),
        low_space_percent: Some(vec![50]),
        dedupe_timeout_ms: Some(1),
        dedupe_min_timer_ms: Some(1),
        compression: Some(true),
        discard_freed: Some(true),
    };
    let Value::Object(all) = serde_json::to_value(all).unwrap() else {
        panic!("options are an object");
    };
    for option in all.keys().filter(|option| *option != "name") {
        match option.as_str() {
            "dedupe_timeout_ms" => {
                set("dedupe_timeout_ms", json!(20_000));
                std::thread::scope(|scope| {
                    // It waits already when the time is lowered, and so does not wait it out.
                    let waits = scope.spawn(|| patience(&mut other, 0));
                    std::thread::sleep(Duration::from_millis(300));
                    set("dedupe_timeout_ms", json!(300));
                    let next = patience(&mut client, 1);
                    assert!(next > moment && next < while_, "{next:?}");
                    let first = waits.join().unwrap();
                    assert!(first > moment && first < while_, "{first:?}");
                });
                std::thread::scope(|scope| {
                    let waits = scope.spawn(|| patience(&mut other, 2));
                    std::thread::sleep(Duration::from_millis(50));
                    set("dedupe_timeout_ms", json!(3000));
                    let first = waits.join().unwrap();
                    assert!(first > Duration::from_millis(2900), "raised too: {first:?}");
                });
            }
            "dedupe_min_timer_ms" => {
                set("dedupe_timeout_ms", json!(2));
                set("dedupe_min_timer_ms", json!(1000));
                let slow = patience(&mut client, 3);
                assert!(slow > Duration::from_millis(900), "{slow:?}");
                std::thread::scope(|scope| {
                    set("dedupe_timeout_ms", json!(20_000));
                    let waits = scope.spawn(|| patience(&mut other, 4));
                    std::thread::sleep(Duration::from_millis(100));
                    set("dedupe_min_timer_ms", json!(2));
                    set("dedupe_timeout_ms", json!(2));
                    let first = waits.join().unwrap();
                    assert!(first < while_, "{first:?}");
                });
            }
            "compression" => {
                for on in [true, false] {
                    set("compression", json!(on));
                    assert_eq!(info(&target)["compression"], on);
                }
            }
            "discard_freed" => {
                for (on, word) in [(true, "on"), (false, "off")] {
                    set("discard_freed", json!(on));
                    assert_eq!(info(&target)["discard_freed"], word);
                }
            }
            "low_space_percent" => {
                for percents in [json!([50, 99]), json!([])] {
                    set("low_space_percent", percents.clone());
                    assert_eq!(info(&target)["low_space_percent"], percents);
                }
            }
            option => panic!("nothing here tries {option}"),
        }
    }
    drop((client, other));
    assert!(target.stop().success());
}

fn verb(target: &Target, verb: &str) -> Value {
    let method = format!("bdev_vdo_index_{verb}");
    let answer = target.rpc(&method, json!({"name": "vdo0"}));
    assert_eq!(answer.unwrap(), true, "{verb}");
    info(target)["index_state"].clone()
}

#[test]
fn the_index_is_asked_only_while_it_is_online() {
    let test = "the_index_is_asked_only_while_it_is_online";
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::on("0x3"));
    let mut client = rig.connect();
    let mut next = 0;
    // Writes the same 300 blocks once more; how many were stored, and what the index was asked.
    let mut copy = |client: &mut _| {
        let before = stats(&target);
        fill(client, next..next + 300, |lbn| lbn - next);
        next += 1000;
        let after = stats(&target);
        let asked = |stats: &Value| -> u64 {
            [
                "posts_found",
                "posts_not_found",
                "queries_found",
                "queries_not_found",
            ]
            .iter()
            .map(|name| stats["index"][name].as_u64().unwrap())
            .sum()
        };
        let stored = |stats: &Value| stats["data_blocks_used"].as_u64().unwrap();
        (
            stored(&after) - stored(&before),
            asked(&after) - asked(&before),
        )
    };
    assert_eq!(info(&target)["index_state"], "online");
    assert_eq!(copy(&mut client), (300, 300), "new");
    assert_eq!(copy(&mut client), (0, 300), "found");
    assert_eq!(verb(&target, "offline"), "offline");
    assert_eq!(copy(&mut client), (300, 0), "not asked");
    assert_eq!(verb(&target, "online"), "online");
    assert_eq!(copy(&mut client), (0, 300), "found again");
    let refused = target
        .rpc("bdev_vdo_index_create", json!({"name": "vdo0"}))
        .unwrap_err();
    assert!(
        refused.message.contains("online") && refused.message.contains("close it"),
        "{refused}"
    );
    assert_eq!(verb(&target, "close"), "closed");
    assert_eq!(copy(&mut client), (300, 0), "nobody to ask");
    assert_eq!(verb(&target, "create"), "online");
    assert_eq!(copy(&mut client), (300, 300), "forgotten");
    assert_eq!(copy(&mut client), (0, 300), "and learnt anew");
    drop(client);
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn the_index_may_come_and_go_under_load() {
    let test = "the_index_may_come_and_go_under_load";
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::on("0x3"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2u64)
            .map(|worker| {
                let (rig, done) = (&rig, &done);
                scope.spawn(move || {
                    let mut client = rig.connect();
                    let start = worker * 10_000;
                    let mut round = 0;
                    while !done.load(Ordering::Acquire) {
                        round += 1;
                        fill(&mut client, start..start + 200, |lbn| lbn % 90 + round % 3);
                    }
                    (start, round)
                })
            })
            .collect();
        for _ in 0..8 {
            assert_eq!(verb(&target, "offline"), "offline");
            assert_eq!(verb(&target, "online"), "online");
            assert_eq!(verb(&target, "close"), "closed");
            assert_eq!(verb(&target, "create"), "online");
        }
        done.store(true, Ordering::Release);
        for worker in workers {
            let (start, round) = worker.join().unwrap();
            check(&mut rig.connect(), start..start + 200, |lbn| {
                lbn % 90 + round % 3
            });
        }
    });
    assert_eq!(mode(&target), "normal");
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::default());
    for (parameter, value) in [
        ("dedupe_timeout_ms", 0),
        ("dedupe_timeout_ms", 120_001),
        ("dedupe_min_timer_ms", 0),
        ("dedupe_min_timer_ms", 1001),
    ] {
        let mut params = json!({"name": "vdo0"});
        params[parameter] = json!(value);
        let error = target.rpc("bdev_vdo_set_options", params).unwrap_err();
        assert!(
            error.message.contains(parameter) && error.message.contains(&value.to_string()),
            "{error}"
        );
    }
    assert!(target.stop().success());
}
