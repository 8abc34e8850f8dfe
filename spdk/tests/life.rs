//! What becomes of a volume's data under `spdk_vdo_tgt`: deleted and made again, restarted, found on a new bdev, moved from
//! `vdo_tgt` and back, told to stop in the middle of things, and after a loss of power.

use std::ops::Range;

use serde_json::{Value, json};
use vdo_tests::dm_vdo::{Loop, lacking};
use vdo_tests::probe::Probe;
use vdo_tests::rig::{BLOCK, MIB, ROOMY, Rig, Setup, block, check, fill, info, stats};
use vdo_tests::spdk::{self, Load, Peer, Served};
use vdo_tests::target::{Options, Target, bdev_config};
use vdo_tests::tools::run;

/// Unique blocks, then each again.
fn tag(lbn: u64) -> u64 {
    lbn % 1000
}

#[test]
fn data_and_figures_survive_deletion_and_restarts_on_other_cores() {
    let test = "data_and_figures_survive_deletion_and_restarts_on_other_cores";
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    for (round, cpumask) in ["0x1", "0x3", "0x2"].into_iter().enumerate() {
        let target = served.start(&Setup::on(cpumask));
        if round == 0 {
            fill(&mut served.connect(), 0..2000, tag);
        }
        check(&mut served.connect(), 0..2000, tag);
        let before = info(&target);
        assert_eq!(before["data_blocks_used"], 1000);
        assert_eq!(before["zones"], if cpumask == "0x3" { 2 } else { 1 });
        spdk::call(&target, "bdev_vdo_delete", json!({"name": "vdo0"}));
        served.rig.audit(test);
        // What is asked for of the format is of no account any more.
        let create = json!({"name": "vdo0", "base_bdev_name": "base", "logical_size_mib": 7});
        spdk::call(&target, "bdev_vdo_create", create);
        let after = info(&target);
        for figure in [
            "logical_blocks",
            "logical_blocks_used",
            "physical_blocks",
            "data_blocks_used",
        ] {
            assert_eq!(after[figure], before[figure], "{figure}");
        }
        served.export.serve_again(&target, "vdo0");
        check(&mut served.connect(), 0..2000, tag);
        let target = target.restart();
        check(&mut served.connect(), 0..2000, tag);
        assert_eq!(stats(&target)["mode"], "normal");
        assert!(target.stop().success());
        served.rig.audit(test);
    }
}

#[test]
fn memory_the_machine_cannot_have_is_refused_by_name_and_the_volume_beside_goes_on() {
    let test = "memory_the_machine_cannot_have_is_refused_by_name_and_the_volume_beside_goes_on";
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::default());
    fill(&mut served.connect(), 0..100, tag);
    let null = json!({"name": "large", "num_blocks": 1_u64 << 31, "block_size": BLOCK});
    spdk::call(&target, "bdev_null_create", null);
    let create =
        json!({"name": "vdo1", "base_bdev_name": "large", "block_map_cache_mib": 4_000_000});
    let error = target.rpc("bdev_vdo_create", create).unwrap_err();
    assert_eq!(error.code.0, -12, "{error:?}");
    let said = "block_map_cache_mib: bdev \"large\"";
    assert!(error.message.contains(said), "{error:?}");
    check(&mut served.connect(), 0..100, tag);
    assert!(target.stop().success());
    served.rig.audit(test);
}

#[test]
fn a_volume_moves_from_vdo_tgt_to_spdk_and_back() {
    let test = "a_volume_moves_from_vdo_tgt_to_spdk_and_back";
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    // Each writes 300 blocks twice, and reads what all before it wrote.
    let range = |round: u64| 5000 * round..5000 * round + 600;
    let tag = |lbn: u64| lbn / 5000 * 1000 + lbn % 300;
    fn work(
        client: &mut impl Probe,
        round: u64,
        range: impl Fn(u64) -> Range<u64>,
        tag: impl Fn(u64) -> u64,
    ) {
        fill(client, range(round), &tag);
        (0..=round).for_each(|earlier| check(client, range(earlier), &tag));
    }
    for (round, cpumask) in (0..).zip(["0x1", "0x3", "0x1", "0x3"]) {
        let setup = Setup::on(cpumask);
        let target = if round % 2 == 0 {
            let target = served.rig.start(&setup);
            work(&mut served.rig.connect(), round, range, tag);
            target
        } else {
            let target = served.start(&setup);
            work(&mut served.connect(), round, range, tag);
            target
        };
        let now = info(&target);
        assert_eq!(now["data_blocks_used"], 300 * (round + 1), "{now}");
        assert_eq!(now["logical_blocks_used"], 600 * (round + 1), "{now}");
        assert!(target.stop().success());
        served.rig.audit(test);
    }
}

/// A target with nothing but the base bdev, on which whatever is found is brought up.
fn with_base_only(rig: &Rig, more: &[Value]) -> Target {
    let mut calls = more.to_vec();
    let base = json!({"name": "base", "filename": rig.file(), "block_size": BLOCK});
    calls.push(json!({"method": "bdev_aio_create", "params": base}));
    Target::start_with(spdk::options(bdev_config(calls)))
}

fn names(target: &Target) -> Vec<String> {
    spdk::call(target, "bdev_wait_for_examine", Value::Null);
    let bdevs = spdk::call(target, "bdev_get_bdevs", Value::Null);
    let name = |bdev: &Value| bdev["name"].as_str().unwrap().to_owned();
    bdevs.as_array().unwrap().iter().map(name).collect()
}

/// A volume with a little in it, shut down.
fn made() -> Served {
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::default());
    fill(&mut served.connect(), 0..300, tag);
    assert!(target.stop().success());
    served
}

#[test]
fn a_volume_on_a_new_bdev_is_found_and_comes_up_by_itself() {
    let test = "a_volume_on_a_new_bdev_is_found_and_comes_up_by_itself";
    let _turn = spdk::turn();
    let served = made();
    let target = with_base_only(&served.rig, &[]);
    assert_eq!(names(&target), ["base", "base_vdo"]);
    let export = spdk::export_nvme_tcp(&target, "base_vdo");
    check(&mut export.connect(), 0..300, tag);
    fill(&mut export.connect(), 300..400, tag);
    // It goes with its base bdev and comes with it.
    spdk::call(&target, "bdev_aio_delete", json!({"name": "base"}));
    assert_eq!(names(&target), [""; 0]);
    spdk::create_aio(&target, "base", &served.rig.file());
    assert_eq!(names(&target), ["base", "base_vdo"]);
    export.serve_again(&target, "base_vdo");
    check(&mut export.connect(), 0..400, tag);
    // A copy of the base bdev's blocks is no second volume.
    spdk::call(&target, "bdev_vdo_delete", json!({"name": "base_vdo"}));
    assert_eq!(names(&target), ["base"]);
    assert!(target.stop().success());
    served.rig.audit(test);
}

#[test]
fn a_found_volume_gives_way_to_the_one_that_is_asked_for() {
    let test = "a_found_volume_gives_way_to_the_one_that_is_asked_for";
    let _turn = spdk::turn();
    let served = made();
    let target = with_base_only(&served.rig, &[]);
    assert_eq!(names(&target), ["base", "base_vdo"]);
    let create = |name: &str| {
        let params = json!({"name": name, "base_bdev_name": "base", "compression": true, "block_map_cache_mib": 64});
        target.rpc("bdev_vdo_create", params)
    };
    let export = spdk::export_nvme_tcp(&target, "base_vdo");
    let refused = create("mine").unwrap_err();
    assert_eq!(refused.code.0, -16, "{refused}");
    assert!(refused.message.contains("\"base_vdo\""), "{refused}");
    check(&mut export.connect(), 0..300, tag);
    spdk::call(
        &target,
        "nvmf_subsystem_remove_ns",
        json!({"nqn": export.nqn(), "nsid": 1}),
    );
    assert_eq!(create("mine").unwrap(), "mine");
    assert_eq!(names(&target), ["base", "mine"]);
    let shown = spdk::call(&target, "bdev_get_bdevs", json!({"name": "mine"}));
    assert_eq!(shown[0]["driver_specific"]["vdo"]["compression"], true);
    export.serve_again(&target, "mine");
    check(&mut export.connect(), 0..300, tag);
    // One that was asked for gives way to nobody.
    let refused = create("other").unwrap_err();
    assert_eq!(refused.code.0, -1, "{refused}");
    assert!(target.stop().success());
    served.rig.audit(test);
}

#[test]
fn finding_can_be_switched_off() {
    let test = "finding_can_be_switched_off";
    let _turn = spdk::turn();
    let served = made();
    let before = served.rig.fingerprint();
    let off = json!({"method": "bdev_vdo_set_examine", "params": {"enable": false}});
    let target = with_base_only(&served.rig, &[off]);
    assert_eq!(names(&target), ["base"]);
    let saved = spdk::call(&target, "framework_get_config", json!({"name": "bdev"}));
    assert!(
        saved.to_string().contains("bdev_vdo_set_examine"),
        "{saved}"
    );
    let wrong = target
        .rpc("bdev_vdo_set_examine", json!({"enable": "no"}))
        .unwrap_err();
    assert_eq!(
        (wrong.code.0, wrong.message.contains("enable")),
        (-32602, true),
        "{wrong}"
    );
    assert!(target.stop().success());
    assert_eq!(
        served.rig.fingerprint(),
        before,
        "nobody asked for it to be opened"
    );
    // Nor is anything found by SPDK's own switch; then a bdev is looked at when somebody says so.
    let off = json!({"method": "bdev_set_options", "params": {"bdev_auto_examine": false}});
    let target = with_base_only(&served.rig, &[off]);
    assert_eq!(names(&target), ["base"]);
    spdk::call(&target, "bdev_examine", json!({"name": "base"}));
    assert_eq!(names(&target), ["base", "base_vdo"]);
    assert!(target.stop().success());
    served.rig.audit(test);
}

#[test]
fn a_volume_that_was_not_shut_down_is_recovered_when_it_is_found_or_asked_for() {
    let test = "a_volume_that_was_not_shut_down_is_recovered_when_it_is_found_or_asked_for";
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::on("0x3"));
    fill(&mut served.connect(), 0..500, tag);
    target.kill();
    let target = with_base_only(&served.rig, &[]);
    assert_eq!(names(&target), ["base", "base_vdo"]);
    let export = spdk::export_nvme_tcp(&target, "base_vdo");
    check(&mut export.connect(), 0..500, tag);
    target.kill();
    let target = served.start(&Setup::default());
    check(&mut served.connect(), 0..500, tag);
    assert!(target.stop().success());
    served.rig.audit(test);
}

#[test]
fn a_volume_made_by_vdoformat_is_found_and_filled() {
    let test = "a_volume_made_by_vdoformat_is_found_and_filled";
    if lacking(test, &["vdoformat", "losetup"], true) {
        return;
    }
    let _turn = spdk::turn();
    let rig = Rig::on_disk(ROOMY);
    {
        let device = Loop::on(&rig.file());
        run(
            "vdoformat",
            ["--force", "--slab-bits=13", "--logical-size=2G", &device.0],
        );
    }
    let target = with_base_only(&rig, &[]);
    assert_eq!(names(&target), ["base", "base_vdo"]);
    let export = spdk::export_nvme_tcp(&target, "base_vdo");
    let mut client = export.connect();
    assert_eq!(client.size(), 2048 * MIB);
    fill(&mut client, 0..1500, tag);
    let last = client.size() / BLOCK - 1;
    assert_eq!(client.write(last * BLOCK, &block(5)), Ok(()));
    let target = target.restart();
    names(&target);
    let mut client = spdk::export_nvme_tcp(&target, "base_vdo").connect();
    check(&mut client, 0..1500, tag);
    check(&mut client, last..last + 1, |_| 5);
    assert!(target.stop().success());
    rig.audit(test);
}

/// Writes from two clients until the target is gone; what they wrote and flushed must be there afterwards.
fn stop_under_load(test: &str, stop: impl FnOnce(Target) -> std::process::ExitStatus) {
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::on("0x3"));
    fill(&mut served.connect(), 0..500, tag);
    let loads = [1000, 2000].map(|start| Load::start(&served.export, start..start + 256));
    loads.iter().for_each(|load| load.go_on(2));
    // One that is connected and silent holds nothing up.
    let idle = served.connect();
    let status = stop(target);
    assert!(status.success(), "{status}");
    drop(idle);
    let ends = loads.map(Load::fail);
    served.rig.audit(test);
    let target = served.start(&Setup::default());
    let mut client = served.connect();
    check(&mut client, 0..500, tag);
    for end in ends {
        assert!(end.error.is_some(), "{end:?}");
        end.check(&mut client);
    }
    assert!(target.stop().success());
    served.rig.audit(test);
}

#[test]
fn sigterm_under_load_leaves_a_clean_volume() {
    stop_under_load("sigterm_under_load_leaves_a_clean_volume", Target::stop);
}

#[test]
fn sigint_under_load_leaves_a_clean_volume() {
    stop_under_load("sigint_under_load_leaves_a_clean_volume", Target::interrupt);
}

#[test]
fn reactors_that_sleep_do_the_same_work() {
    let test = "reactors_that_sleep_do_the_same_work";
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let mut options = served.options(&Setup::on("0x3"));
    options.arguments = vec!["--interrupt-mode".to_owned()];
    let target = Target::start_with(options);
    fill(&mut served.connect(), 0..2000, tag);
    check(&mut served.connect(), 0..2000, tag);
    let load = Load::start(&served.export, 5000..5256);
    load.go_on(3);
    let end = load.stop();
    assert_eq!(end.error, None, "{end:?}");
    assert_eq!(info(&target)["index_state"], "online");
    spdk::call(&target, "bdev_vdo_delete", json!({"name": "vdo0"}));
    let create = json!({"name": "vdo0", "base_bdev_name": "base", "format": "never"});
    spdk::call(&target, "bdev_vdo_create", create);
    served.export.serve_again(&target, "vdo0");
    check(&mut served.connect(), 0..2000, tag);
    end.check(&mut served.connect());
    // No zone thread is polled without a reason.
    let threads = spdk::call(&target, "thread_get_pollers", Value::Null);
    let threads = threads["threads"].as_array().unwrap().iter();
    let ours = threads.filter(|thread| thread["name"].as_str().unwrap().starts_with("vdo_"));
    let ours: Vec<_> = ours.collect();
    assert_eq!(ours.len(), 2);
    for thread in ours {
        assert!(
            !thread["active_pollers"].to_string().contains("vdo"),
            "{thread}"
        );
    }
    assert!(target.stop().success());
    served.rig.audit(test);
}

#[test]
fn spdks_load_generators_find_over_nvme_tcp_what_they_wrote() {
    let test = "spdks_load_generators_find_over_nvme_tcp_what_they_wrote";
    let programs = [spdk::bdevperf(), spdk::installed("spdk_nvme_perf")];
    if spdk::lacking(test, &programs) {
        return;
    }
    let _turn = spdk::turn();
    for (cpumask, size) in [("0x1", "4096"), ("0x3", "65536")] {
        let served = Served::new(ROOMY);
        let target = served.start(&Setup::on(cpumask).with("logical_size_mib", 64));
        let load = ["-q", "32", "-o", size, "-w", "verify", "-t", "1"];
        let said = Peer::bdevperf(&served.export, &load).succeed();
        let totals = spdk::totals(&said);
        assert!(totals.iops > 10.0 && totals.failed == 0.0, "{said}");
        let load = [
            "-q", "32", "-o", "4096", "-w", "randrw", "-M", "50", "-t", "1",
        ];
        let said = Peer::nvme_perf(&served.export, &load).succeed();
        assert!(
            said.contains("Total") && !said.contains("completed with error"),
            "{said}"
        );
        let now = stats(&target);
        assert_eq!(now["mode"], "normal");
        assert!(now["bios_in"]["read"].as_u64().unwrap() > 100, "{now}");
        assert!(target.stop().success());
        served.rig.audit(test);
    }
}

#[test]
fn spdk_dd_brings_files_in_and_out() {
    let test = "spdk_dd_brings_files_in_and_out";
    if spdk::lacking(test, &[spdk::installed("spdk_dd")]) {
        return;
    }
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::default());
    let (input, output) = (served.rig.path("in"), served.rig.path("out"));
    // Half of it twice, some of it zeroes, and sizes that are no multiple of anything but blocks.
    let data: Vec<u8> = (0..3001u64)
        .flat_map(|lbn| {
            if lbn % 7 == 0 {
                vec![0; BLOCK as usize]
            } else {
                block(lbn % 1500)
            }
        })
        .collect();
    std::fs::write(&input, &data).unwrap();
    let (from, to) = (
        format!("--if={}", input.display()),
        format!("--of={}", output.display()),
    );
    spdk::dd(
        &served.export,
        &[&from, "--ob=remoten1", "--bs=4096", "--qd=32", "--seek=77"],
    );
    let target = target.restart();
    let length = data.len() as u64 / BLOCK;
    let count = format!("--count={length}");
    spdk::dd(
        &served.export,
        &[
            "--ib=remoten1",
            &to,
            "--bs=4096",
            "--qd=32",
            "--skip=77",
            &count,
        ],
    );
    run("cmp", [&input, &output]);
    let now = stats(&target);
    assert!(now["data_blocks_used"].as_u64().unwrap() <= 1500, "{now}");
    assert!(target.stop().success());
    served.rig.audit(test);
}

#[test]
fn options_of_the_program_are_those_of_spdk_tgt() {
    let _turn = spdk::turn();
    let target = Target::start_with(Options {
        wait_for_rpc: true,
        config: None,
        ..spdk::options(Value::Null)
    });
    let early = target.rpc("bdev_vdo_get_stats", Value::Null).unwrap_err();
    assert_eq!(early.code.0, -1, "{early}");
    spdk::call(&target, "framework_start_init", Value::Null);
    assert_eq!(
        spdk::call(&target, "bdev_vdo_get_stats", Value::Null),
        json!([])
    );
    let subsystems = spdk::call(&target, "framework_get_subsystems", Value::Null);
    for subsystem in ["bdev", "nvmf", "nbd", "vhost_blk", "iscsi", "scheduler"] {
        assert!(
            subsystems.to_string().contains(&format!("\"{subsystem}\"")),
            "{subsystems}"
        );
    }
    spdk::call(
        &target,
        "spdk_kill_instance",
        json!({"sig_name": "SIGTERM"}),
    );
    let mut target = target;
    let status = target.wait(std::time::Duration::from_secs(20));
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
}
