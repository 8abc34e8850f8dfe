//! What becomes of a volume's data: through restarts, on other numbers of zone threads, shared more often than one
//! block can be, on a device that is full, and when the target is told to stop in the middle of things.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use vdo_tests::nbd_probe::errno::ENOSPC;
use vdo_tests::rig::{BLOCK, ROOMY, Rig, Setup, TIGHT, block, check, fill, info, stats};
use vdo_tests::target::Target;

#[test]
fn data_and_figures_survive_restarts_on_other_numbers_of_zone_threads() {
    let test = "data_and_figures_survive_restarts_on_other_numbers_of_zone_threads";
    let rig = Rig::new(ROOMY);
    // Unique blocks, then each again.
    let tag = |lbn: u64| lbn % 2000;
    let mut before = None;
    for (round, cpumask) in ["0x1", "0x3", "0x2", "0x3", "0x1"].into_iter().enumerate() {
        let target = rig.start(&Setup::on(cpumask));
        let mut client = rig.connect();
        match round {
            0 => {
                fill(&mut client, 0..4000, tag);
                let index = stats(&target)["index"].clone();
                assert!(
                    index["posts_not_found"].as_u64().unwrap() >= 2000,
                    "{index}"
                );
            }
            // A little more each time, far from what is there.
            _ => fill(
                &mut client,
                50_000 * round as u64..50_000 * round as u64 + 300,
                |lbn| lbn,
            ),
        }
        check(&mut client, 0..4000, tag);
        for earlier in 1..=round as u64 {
            check(
                &mut client,
                50_000 * earlier..50_000 * earlier + 300,
                |lbn| lbn,
            );
        }
        let now = stats(&target);
        assert_eq!(now["mode"], "normal");
        assert_eq!(now["data_blocks_used"], 2000 + 300 * round);
        assert_eq!(now["logical_blocks_used"], 4000 + 300 * round);
        assert_eq!(now["index_state"], "online");
        let overhead = now["overhead_blocks_used"].as_u64().unwrap();
        if let Some((physical, least)) = before {
            assert_eq!(now["physical_blocks"], physical);
            assert!(overhead >= least, "{now}");
        }
        before = Some((now["physical_blocks"].clone(), overhead));
        drop(client);
        assert!(target.stop().success());
        rig.audit(test);
    }
}

#[test]
fn a_thousand_copies_of_one_block_take_few_blocks_and_all_read_back() {
    let test = "a_thousand_copies_of_one_block_take_few_blocks_and_all_read_back";
    let rig = Rig::new(ROOMY);
    let mut target = rig.start(&Setup::on("0x3"));
    let mut client = rig.connect();
    fill(&mut client, 0..1000, |_| 7);
    check(&mut client, 0..1000, |_| 7);
    // A block holds at most 254 references, so a thousand need four; some more may be written while the
    // first is on its way.
    let used = info(&target)["data_blocks_used"].as_u64().unwrap();
    assert!((4..64).contains(&used), "{used} blocks are used");
    assert_eq!(stats(&target)["logical_blocks_used"], 1000);
    drop(client);
    target = target.restart();
    let mut client = rig.connect();
    assert_eq!(info(&target)["data_blocks_used"], used);
    check(&mut client, 0..1000, |_| 7);
    // Most go; what is left must still be counted right.
    assert_eq!(client.trim(0, (900 * BLOCK) as u32), Ok(()));
    assert_eq!(client.flush(), Ok(()));
    check(&mut client, 900..1000, |_| 7);
    assert_eq!(stats(&target)["logical_blocks_used"], 100);
    assert_eq!(client.zero(900 * BLOCK, (100 * BLOCK) as u32), Ok(()));
    assert_eq!(client.flush(), Ok(()));
    assert_eq!(info(&target)["data_blocks_used"], 0);
    // What holds nothing is not discarded again, and zeroes alone are no saving.
    let discarded = || stats(&target)["data"]["discarded_blocks"].clone();
    assert_eq!(discarded(), 900);
    assert_eq!(client.trim(0, (900 * BLOCK) as u32), Ok(()));
    assert_eq!(client.flush(), Ok(()));
    assert_eq!(discarded(), 900);
    assert_eq!(stats(&target)["logical_blocks_used"], 100);
    assert_eq!(stats(&target)["saving_percent"], Value::Null);
    drop(client);
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn a_full_device_says_so_keeps_its_data_and_takes_more_once_there_is_room() {
    let test = "a_full_device_says_so_keeps_its_data_and_takes_more_once_there_is_room";
    for cpumask in ["0x1", "0x3"] {
        let rig = Rig::new(TIGHT);
        let setup = Setup::on(cpumask).with("slab_size_mib", 8);
        let target = rig.start(&setup);
        let mut client = rig.connect();
        // Far more than there is room for. Once a write fails, others may still find the last blocks.
        let answers = client.write_all((0..6000).map(|lbn| (lbn * BLOCK, block(lbn))));
        let kept: Vec<u64> = (0..)
            .zip(&answers)
            .filter(|(_, answer)| answer.is_ok())
            .map(|(lbn, _)| lbn)
            .collect();
        let first = answers
            .iter()
            .position(Result::is_err)
            .expect("the device is too small");
        assert!(
            answers
                .iter()
                .all(|answer| matches!(answer, Ok(()) | Err(ENOSPC)))
        );
        assert!(first > 1000, "full after {first} blocks");
        assert_eq!(client.flush(), Ok(()), "what was acknowledged has a place");
        for &lbn in &kept {
            check(&mut client, lbn..lbn + 1, |lbn| lbn);
        }
        let lost = (0..6000).find(|lbn| !kept.contains(lbn)).unwrap();
        let mut data = vec![1; BLOCK as usize];
        assert_eq!(client.read(lost * BLOCK, &mut data), Ok(()));
        assert!(
            data.iter().all(|byte| *byte == 0),
            "a write that failed left something"
        );
        let now = stats(&target);
        assert_eq!(now["mode"], "normal", "full is not broken");
        assert!(
            now["errors"]["no_space_error_count"].as_u64().unwrap() > 0,
            "{}",
            now["errors"]
        );

        // A copy of what is there needs no room; something new has none.
        assert_eq!(client.write(lost * BLOCK, &block(0)), Ok(()));
        check(&mut client, lost..lost + 1, |_| 0);
        assert_eq!(client.write(5999 * BLOCK, &block(99_999)), Err(ENOSPC));
        assert_eq!(client.write_fua(5999 * BLOCK, &block(99_999)), Err(ENOSPC));
        // Nor does a zero block.
        assert_eq!(client.write(BLOCK, &[0; BLOCK as usize]), Ok(()));

        assert_eq!(client.trim(10 * BLOCK, (500 * BLOCK) as u32), Ok(()));
        assert_eq!(client.flush(), Ok(()));
        fill(&mut client, 10..410, |lbn| 50_000 + lbn);
        check(&mut client, 10..410, |lbn| 50_000 + lbn);
        drop(client);

        let target = target.restart();
        let mut client = rig.connect();
        check(&mut client, 10..410, |lbn| 50_000 + lbn);
        check(&mut client, 510..first as u64, |lbn| lbn);
        check(&mut client, lost..lost + 1, |_| 0);
        drop(client);
        assert!(target.stop().success());
        rig.audit(test);
    }
}

/// Writes and trims from several connections until the volume is gone; what was acknowledged and flushed
/// before must be there afterwards.
fn stop_under_load(interrupt: bool, test: &str) {
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::on("0x3"));
    fill(&mut rig.connect(), 0..500, |lbn| lbn);
    let (stopping, busy) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for worker in 0..3u64 {
            let (rig, stopping, busy) = (&rig, &stopping, &busy);
            scope.spawn(move || {
                let mut client = rig.connect();
                for round in 0u64.. {
                    // The connection ends when the target does, in the middle of a request.
                    let outcome = catch_unwind(AssertUnwindSafe(|| {
                        let start = 1000 * (worker + 1);
                        let writes =
                            (start..start + 256).map(|lbn| (lbn * BLOCK, block(lbn ^ (round % 5))));
                        let answers = client.write_all(writes);
                        client
                            .trim(start * BLOCK, 65536)
                            .and(answers.into_iter().collect())
                    }));
                    busy.store(true, Ordering::Release);
                    if !matches!(outcome, Ok(Ok(()))) {
                        assert!(
                            stopping.load(Ordering::Acquire),
                            "before the end: {outcome:?}"
                        );
                        std::mem::forget(client);
                        return;
                    }
                }
            });
        }
        while !busy.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        // An idle client and one that has only just connected must not hold the target up.
        let _idle = rig.connect();
        let _mute = std::os::unix::net::UnixStream::connect(rig.socket()).unwrap();
        stopping.store(true, Ordering::Release);
        let status = match interrupt {
            true => target.interrupt(),
            false => target.stop(),
        };
        assert!(status.success(), "{status}");
    });
    rig.audit(test);
    let target = rig.start(&Setup::on("0x1"));
    check(&mut rig.connect(), 0..500, |lbn| lbn);
    assert_eq!(stats(&target)["mode"], "normal");
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn sigterm_under_load_leaves_a_clean_volume() {
    stop_under_load(false, "sigterm_under_load_leaves_a_clean_volume");
}

#[test]
fn sigint_under_load_leaves_a_clean_volume() {
    stop_under_load(true, "sigint_under_load_leaves_a_clean_volume");
}

#[test]
fn a_volume_deleted_and_made_again_by_rpc_has_its_data() {
    let test = "a_volume_deleted_and_made_again_by_rpc_has_its_data";
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::default());
    let mut client = rig.connect();
    fill(&mut client, 0..100, |lbn| lbn);
    drop(client);
    assert_eq!(
        target
            .rpc("bdev_vdo_delete", json!({"name": "vdo0"}))
            .unwrap(),
        true
    );
    rig.audit(test);
    let params = json!({"name": "other", "base_bdev_name": "base", "format": "never"});
    assert_eq!(target.rpc("bdev_vdo_create", params).unwrap(), "other");
    target
        .rpc(
            "nbd_start_disk",
            json!({"bdev_name": "other", "nbd_device": rig.socket()}),
        )
        .unwrap();
    check(&mut rig.connect(), 0..100, |lbn| lbn);
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn a_volume_whose_base_bdev_is_deleted_is_shut_down_first() {
    let test = "a_volume_whose_base_bdev_is_deleted_is_shut_down_first";
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::on("0x3"));
    fill(&mut rig.connect(), 0..100, |lbn| lbn);
    let deleted = target.rpc("bdev_uring_delete", json!({"name": "base"}));
    assert_eq!(deleted.unwrap(), true);
    assert_eq!(target.rpc("bdev_get_bdevs", json!({})).unwrap(), json!([]));
    rig.audit(test);
    assert!(target.stop().success());
    let target = rig.start(&Setup::default().with("format", "never"));
    check(&mut rig.connect(), 0..100, |lbn| lbn);
    assert!(target.stop().success());
}

#[test]
fn a_saved_configuration_brings_a_volume_back_as_it_was_set_and_formats_nothing() {
    let test = "a_saved_configuration_brings_a_volume_back_as_it_was_set_and_formats_nothing";
    let rig = Rig::new(ROOMY);
    let setup = Setup::on("0x3")
        .with("format", "force")
        .with("cpumask", "0x2")
        .with("block_map_cache_mib", 16);
    let target = rig.start(&setup);
    fill(&mut rig.connect(), 0..100, |lbn| lbn);
    let set = json!({"name": "vdo0", "dedupe_timeout_ms": 1, "compression": true});
    target.rpc("bdev_vdo_set_options", set).unwrap();
    let saved = |target: &Target| {
        let config = target.rpc("framework_get_config", json!({"name": "bdev"}));
        config.unwrap()
    };
    let config = saved(&target);
    let calls = config.as_array().unwrap();
    let of = |method: &str| {
        let call = calls.iter().find(|call| call["method"] == method);
        call.unwrap_or_else(|| panic!("no {method} in {config}"))["params"].clone()
    };
    let create = of("bdev_vdo_create");
    for (name, value) in [
        ("format", json!("if_blank")),
        ("cpumask", json!("0x2")),
        ("block_map_cache_mib", json!(16)),
        ("compression", json!(true)),
    ] {
        assert_eq!(create[name], value, "{name} in {create}");
    }
    // The least the engine does.
    assert_eq!(
        of("bdev_vdo_set_options"),
        json!({"name": "vdo0", "dedupe_timeout_ms": 2})
    );
    assert!(target.stop().success());

    let mut options = rig.options(&setup);
    let loaded = options.config.as_mut().unwrap();
    loaded["subsystems"][0]["config"] = config.clone();
    let target = Target::start_with(options);
    assert_eq!(saved(&target), config);
    assert_eq!(info(&target)["compression"], true);
    check(&mut rig.connect(), 0..100, |lbn| lbn);
    assert!(target.stop().success());
    rig.audit(test);
}
