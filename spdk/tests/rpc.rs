//! Volumes steered by RPC while they are at work: deleted, asked, their index switched; and what is saved and loaded.

use std::time::Duration;

use serde_json::{Value, json};
use vdo_tests::nvme_probe::status;
use vdo_tests::probe::Probe;
use vdo_tests::rig::{BLOCK, ROOMY, Rig, Setup, check, fill, info, stats};
use vdo_tests::spdk::{self, Export, Load, Peer, Served};
use vdo_tests::stock_client::Stock;
use vdo_tests::target::{Options, Program, Target, bdev_config};

/// Reads of `bdevperf`, anywhere, for longer than any test takes.
const LONG: [&str; 8] = ["-q", "32", "-o", "4096", "-w", "randread", "-t", "60"];

#[test]
fn a_volume_is_deleted_under_load_and_bystanders_notice_nothing() {
    let test = "a_volume_is_deleted_under_load_and_bystanders_notice_nothing";
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::on("0x3"));
    fill(&mut served.connect(), 0..500, |lbn| lbn);
    spdk::create_malloc(&target, "other", 16);
    let other = spdk::export_nvme_tcp(&target, "other");
    let bystander = Load::start(&other, 0..200);
    let load = Load::start(&served.export, 10_000..10_256);
    let peer = (!spdk::lacking(test, &[spdk::bdevperf()])).then(|| {
        let mut peer = Peer::bdevperf(&served.export, &LONG);
        peer.wait_for("Running I/O");
        peer
    });
    load.go_on(2);
    let deleted = target.rpc("bdev_vdo_delete", json!({"name": "vdo0"}));
    assert_eq!(deleted.unwrap(), true);
    let load = load.fail();
    assert_eq!(load.error, Some(status::INVALID_NAMESPACE), "{load:?}");
    if let Some(peer) = peer {
        let end = peer.finish();
        assert!(
            !end.status.success(),
            "the namespace went away:\n{}",
            end.text
        );
    }
    let gone = target.rpc("bdev_get_bdevs", json!({"name": "vdo0"}));
    assert_eq!(gone.unwrap_err().code.0, -19);
    served.rig.audit(test);
    bystander.go_on(2);
    // Its name and its base bdev are free again, and its data is there.
    let create = json!({"name": "vdo0", "base_bdev_name": "base", "format": "never"});
    assert_eq!(target.rpc("bdev_vdo_create", create).unwrap(), "vdo0");
    served.export.serve_again(&target, "vdo0");
    let mut client = served.connect();
    check(&mut client, 0..500, |lbn| lbn);
    load.check(&mut client);
    bystander.go_on(2);
    let bystander = bystander.stop();
    assert_eq!(bystander.error, None, "{bystander:?}");
    assert!(target.stop().success());
    served.rig.audit(test);
}

#[test]
fn a_volume_that_nobody_reads_goes_at_once_and_one_that_is_deleted_twice_goes_once() {
    let test = "a_volume_that_nobody_reads_goes_at_once_and_one_that_is_deleted_twice_goes_once";
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::default());
    fill(&mut served.connect(), 0..2000, |lbn| lbn);
    let socket = target.socket();
    let delete = || {
        let mut client = vdo_rpc::client::RpcClient::connect(&socket).unwrap();
        client.call("bdev_vdo_delete", &json!({"name": "vdo0"}))
    };
    let answers = std::thread::scope(|scope| {
        let both = [scope.spawn(delete), scope.spawn(delete)];
        both.map(|one| one.join().unwrap())
    });
    let done = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(done, 1, "{answers:?}");
    let refused = answers.into_iter().find_map(Result::err).unwrap();
    assert!(
        [-16, -19].contains(&refused.code.0) && refused.message.contains("vdo0"),
        "{refused}"
    );
    served.rig.audit(test);
    assert!(target.stop().success());
}

/// Queries and posts the index has answered.
fn asked(stats: &Value) -> u64 {
    let names = [
        "posts_found",
        "posts_not_found",
        "queries_found",
        "queries_not_found",
    ];
    let count = |name: &&str| stats["index"][*name].as_u64().unwrap();
    names.iter().map(count).sum()
}

fn verb(target: &Target, verb: &str) -> Value {
    let answer = target.rpc(&format!("bdev_vdo_index_{verb}"), json!({"name": "vdo0"}));
    assert_eq!(answer.unwrap(), true, "{verb}");
    info(target)["index_state"].clone()
}

#[test]
fn the_index_is_asked_only_while_it_is_online_and_load_goes_on() {
    let test = "the_index_is_asked_only_while_it_is_online_and_load_goes_on";
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::on("0x3"));
    let load = Load::start(&served.export, 0..256);
    let written = |stats: &Value| stats["bios_in"]["write"].as_u64().unwrap();
    // What two more rounds of load do to the figures.
    let moves = || {
        // Requests that were under way when the state changed are past.
        load.go_on(1);
        let before = stats(&target);
        load.go_on(2);
        let after = stats(&target);
        assert!(
            written(&after) >= written(&before) + 256,
            "the load goes on"
        );
        (asked(&after) - asked(&before), after)
    };
    for _ in 0..2 {
        assert_eq!(info(&target)["index_state"], "online");
        let (grown, now) = moves();
        assert!(grown > 0);
        assert_eq!(now["index_state"], "online");
        assert_eq!(verb(&target, "offline"), "offline");
        let (grown, now) = moves();
        assert_eq!(grown, 0, "an index that is offline is not asked");
        assert_eq!(
            (&now["index_state"], &now["mode"]),
            (&json!("offline"), &json!("normal"))
        );
        assert_eq!(verb(&target, "online"), "online");
        assert!(moves().0 > 0);
        assert_eq!(verb(&target, "close"), "closed");
        let index = &moves().1["index"];
        assert_eq!(index["curr_dedupe_queries"], Value::Null, "{index}");
        assert_eq!(verb(&target, "create"), "online");
    }
    let end = load.stop();
    assert_eq!(end.error, None, "{end:?}");
    end.check(&mut served.connect());
    // What repeats is stored once.
    let now = info(&target);
    assert_eq!(now["logical_blocks_used"], 256);
    assert!(now["data_blocks_used"].as_u64().unwrap() < 256, "{now}");
    assert!(target.stop().success());
    served.rig.audit(test);
}

#[test]
fn spdks_own_figures_count_what_the_volume_does() {
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::default());
    let mut client = served.connect();
    let name = || json!({"name": "vdo0"});
    let iostat = || {
        let params = json!({"names": ["vdo0"]});
        spdk::call(&target, "bdev_get_iostat", params)["bdevs"][0].take()
    };
    let before = iostat();
    spdk::call(
        &target,
        "bdev_enable_histogram",
        json!({"name": "vdo0", "enable": true}),
    );
    let empty = spdk::call(&target, "bdev_get_histogram", name());
    fill(&mut client, 0..300, |lbn| lbn % 100);
    let mut data = vec![0; BLOCK as usize];
    for lbn in 0..50 {
        client.read(lbn * BLOCK, &mut data).unwrap();
    }
    client.trim(0, 10 * BLOCK).unwrap();
    let after = iostat();
    let grown = |figure: &str| after[figure].as_u64().unwrap() - before[figure].as_u64().unwrap();
    assert_eq!(
        (grown("num_write_ops"), grown("bytes_written")),
        (300, 300 * BLOCK)
    );
    assert_eq!(
        (grown("num_read_ops"), grown("bytes_read")),
        (50, 50 * BLOCK)
    );
    assert_eq!(grown("num_unmap_ops"), 1);
    assert!(grown("write_latency_ticks") > 0);
    let full = spdk::call(&target, "bdev_get_histogram", name());
    assert_ne!(full["histogram"], empty["histogram"], "requests are timed");
    spdk::call(
        &target,
        "bdev_enable_histogram",
        json!({"name": "vdo0", "enable": false}),
    );

    let shown = spdk::call(&target, "bdev_get_bdevs", name())[0].take();
    assert_eq!(shown["product_name"], "VDO bdev");
    assert_eq!(
        (&shown["block_size"], &shown["num_blocks"]),
        (&json!(4096), &json!(262_144))
    );
    let vdo = &shown["driver_specific"]["vdo"];
    assert_eq!(
        (&vdo["mode"], &vdo["index_state"]),
        (&json!("normal"), &json!("online"))
    );
    assert_eq!(
        (&vdo["base_bdev_name"], &vdo["zones"]),
        (&json!("base"), &json!(1))
    );
    assert_eq!(
        (&vdo["logical_blocks_used"], &vdo["saving_percent"]),
        (&json!(290), &json!(65))
    );
    let base = spdk::call(&target, "bdev_get_bdevs", json!({"name": "base"}))[0].take();
    assert_eq!(
        (&base["claimed"], &base["claim_type"]),
        (&json!(true), &json!("read_many_write_one"))
    );
    assert!(target.stop().success());
}

/// The calls that restore the named subsystems.
fn saved(target: &Target, subsystems: &[&str]) -> Value {
    let config = subsystems.iter().map(|name| {
        let calls = spdk::call(target, "framework_get_config", json!({"name": name}));
        json!({"subsystem": name, "config": calls})
    });
    json!({"subsystems": config.collect::<Vec<_>>()})
}

#[test]
fn a_saved_configuration_makes_the_same_target() {
    let test = "a_saved_configuration_makes_the_same_target";
    let _turn = spdk::turn();
    let (first, second) = (Rig::new(ROOMY), Rig::new(ROOMY));
    let target = Target::start_with(Options {
        cpumask: "0x3".to_owned(),
        ..spdk::options(bdev_config(Vec::new()))
    });
    spdk::create_aio(&target, "one", &first.file());
    spdk::create_aio(&target, "two", &second.file());
    let first_params = json!({"name": "v1", "base_bdev_name": "one", "slab_size_mib": 32, "logical_size_mib": 512,
        "cpumask": "0x2", "block_map_cache_mib": 16, "compression": true});
    spdk::call(&target, "bdev_vdo_create", first_params.clone());
    let create = json!({"name": "v2", "base_bdev_name": "two", "slab_size_mib": 64, "format": "force", "deduplication": false});
    spdk::call(&target, "bdev_vdo_create", create);
    let options = json!({"name": "v2", "dedupe_timeout_ms": 700, "compression": true});
    spdk::call(&target, "bdev_vdo_set_options", options);
    let exports = ["v1", "v2"].map(|name| spdk::export_nvme_tcp(&target, name));
    for export in &exports {
        fill(&mut export.connect(), 0..200, |lbn| lbn);
    }
    let shown = |target: &Target| {
        ["v1", "v2"].map(|name| {
            let mut shown = spdk::call(target, "bdev_get_bdevs", json!({"name": name}))[0].take();
            // Whether it was written to since it was opened shows in nothing else.
            shown["driver_specific"]["vdo"]
                .as_object_mut()
                .unwrap()
                .remove("overhead_blocks_used");
            shown
        })
    };
    let (config, before) = (saved(&target, &["bdev", "nvmf"]), shown(&target));
    let calls = config["subsystems"][0]["config"].as_array().unwrap();
    let options = json!({"method": "bdev_vdo_set_options", "params": {"name": "v2", "dedupe_timeout_ms": 700}});
    assert!(calls.contains(&options), "{config}");
    let created = |call: &&Value| call["method"] == "bdev_vdo_create";
    let created: Vec<_> = calls.iter().filter(created).collect();
    assert_eq!(created.len(), 2);
    for (parameter, value) in first_params.as_object().unwrap() {
        assert_eq!(&created[0]["params"][parameter], value, "{parameter}");
    }
    assert_eq!(
        (
            &created[1]["params"]["deduplication"],
            &created[1]["params"]["compression"]
        ),
        (&json!(false), &json!(true)),
        "as it is now"
    );
    assert!(
        !config.to_string().contains("force"),
        "a saved configuration formats nothing: {config}"
    );
    assert!(target.stop().success());

    let target = Target::start_with(Options {
        cpumask: "0x3".to_owned(),
        ..spdk::options(config.clone())
    });
    assert_eq!(saved(&target, &["bdev", "nvmf"]), config);
    assert_eq!(shown(&target), before);
    for export in &exports {
        check(&mut export.connect(), 0..200, |lbn| lbn);
    }
    assert!(target.stop().success());
    first.audit(test);
    second.audit(test);
}

#[test]
fn the_stock_client_makes_asks_saves_and_deletes_volumes() {
    let test = "the_stock_client_makes_asks_saves_and_deletes_volumes";
    let _turn = spdk::turn();
    let rig = Rig::new(ROOMY);
    let file = rig.file();
    let Some(stock) = Stock::new(test, spdk::options(bdev_config(Vec::new()))) else {
        return;
    };
    assert_eq!(
        stock.run(&["bdev_aio_create", file.to_str().unwrap(), "base", "4096"]),
        "base"
    );
    let create = [
        "bdev_vdo_create",
        "-b",
        "v",
        "-d",
        "base",
        "--slab-size-mib",
        "32",
        "--logical-size-mib",
        "512",
    ];
    assert_eq!(stock.run(&create), "v");
    let (code, message) = stock.fail(&create);
    assert_eq!(code, -17);
    assert!(message.contains("\"v\""), "{message}");
    stock.run(&["bdev_vdo_index_offline", "v"]);
    stock.run(&["bdev_vdo_set_options", "v", "-t", "900"]);
    let stats = stock.run(&["bdev_vdo_get_stats", "v"]);
    assert_eq!(
        (&stats[0]["name"], &stats[0]["index_state"]),
        (&json!("v"), &json!("offline"))
    );
    assert_eq!(
        stock.run(&["bdev_get_bdevs", "-b", "v"])[0]["num_blocks"],
        131_072
    );
    let config = stock.run(&["save_config"]);
    assert!(stock.target.stop().success());

    let saved = rig.path("saved.json");
    std::fs::write(&saved, config.to_string()).unwrap();
    let options = Options {
        config: None,
        wait_for_rpc: true,
        ..spdk::options(Value::Null)
    };
    let stock = Stock::new(test, options).expect("it was there before");
    let loaded = stock.output(&["load_config", "-j", saved.to_str().unwrap()], None);
    assert!(
        loaded.status.success(),
        "{}",
        vdo_tests::tools::text(&loaded)
    );
    let again = stock.run(&["save_config"]);
    let calls = |config: &Value| {
        let all = config["subsystems"].as_array().unwrap().iter();
        let mut bdev = all.filter(|one| one["subsystem"] == "bdev");
        bdev.next().unwrap()["config"].clone()
    };
    assert_eq!(calls(&again), calls(&config));
    stock.run(&["bdev_vdo_delete", "v"]);
    let (code, _) = stock.fail(&["bdev_vdo_get_stats", "v"]);
    assert_eq!(code, -19);
    assert!(stock.target.stop().success());
    rig.audit(test);
}

#[test]
fn two_volumes_work_side_by_side_and_are_asked_one_by_one() {
    let test = "two_volumes_work_side_by_side_and_are_asked_one_by_one";
    let _turn = spdk::turn();
    let rigs = [Rig::new(ROOMY), Rig::new(ROOMY)];
    let target = Target::start_with(Options {
        cpumask: "0x3".to_owned(),
        ..spdk::options(bdev_config(Vec::new()))
    });
    let exports: Vec<Export> = (0..2)
        .map(|n| {
            let (base, name) = (format!("base{n}"), format!("vdo{n}"));
            spdk::create_aio(&target, &base, &rigs[n].file());
            let params = json!({"name": name, "base_bdev_name": base, "slab_size_mib": 32, "logical_size_mib": 512});
            spdk::call(&target, "bdev_vdo_create", params);
            spdk::export_nvme_tcp(&target, &name)
        })
        .collect();
    let loads = exports
        .iter()
        // Two pages of the block map, which belong to two zones.
        .map(|export| Load::start(export, 748..876))
        .collect::<Vec<_>>();
    loads.iter().for_each(|load| load.go_on(3));
    let all = spdk::call(&target, "bdev_vdo_get_stats", json!({"per_zone": true}));
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 2);
    for (stats, name) in all.iter().zip(["vdo0", "vdo1"]) {
        assert_eq!(stats["name"], name);
        let zones = stats["per_zone"].as_array().unwrap();
        let sum: u64 = zones
            .iter()
            .map(|zone| zone["bios_in"]["write"].as_u64().unwrap())
            .sum();
        assert_eq!((zones.len(), sum >= 128 * 3), (2, true), "{sum}");
        assert!(zones.iter().all(|zone| zone["bios_in"]["write"] != 0));
    }
    spdk::call(&target, "bdev_vdo_delete", json!({"name": "vdo0"}));
    let mut loads = loads.into_iter();
    assert!(loads.next().unwrap().fail().error.is_some());
    let second = loads.next().unwrap();
    second.go_on(2);
    let end = second.stop();
    assert_eq!(end.error, None, "{end:?}");
    std::thread::sleep(Duration::from_millis(10));
    assert!(target.stop().success());
    rigs.iter().for_each(|rig| rig.audit(test));
}

#[test]
fn requests_leave_traces_at_each_stage_while_their_tracepoints_are_on() {
    let test = "requests_leave_traces_at_each_stage_while_their_tracepoints_are_on";
    let _turn = spdk::turn();
    let reader = spdk::in_tree("build/bin/spdk_trace");
    if spdk::lacking(test, std::slice::from_ref(&reader)) {
        return;
    }
    let served = Served::new(ROOMY);
    let mut options = served.options(&Setup::default());
    if let Program::Other { arguments, .. } = &mut options.program {
        arguments.push("--num-trace-entries=16384".to_owned());
    }
    let target = Target::start_with(options);
    let mut client = served.connect();
    let traced = || {
        let info = spdk::call(&target, "trace_get_info", Value::Null);
        let file = info["tpoint_shm_path"].as_str().unwrap().to_owned();
        let output = std::process::Command::new(&reader)
            .args(["-f", &file])
            .output();
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
    };
    let group = json!({"name": "bdev_vdo"});
    fill(&mut client, 0..100, |lbn| lbn);
    assert!(!traced().contains("VDO_"), "off at first");
    spdk::call(&target, "trace_enable_tpoint_group", group.clone());
    fill(&mut client, 100..300, |lbn| lbn - 100);
    let text = traced();
    for stage in [
        "LINE",
        "HASH_ZONE",
        "INDEX",
        "DATA_VERIFY",
        "DATA_WRITE",
        "JOURNAL",
        "SLAB_JOURNAL",
    ] {
        let name = format!("VDO_{stage} ");
        let lines = text.lines().filter(|line| line.contains(&name));
        assert!(lines.clone().count() >= 90, "{stage}:\n{text}");
        assert!(
            lines.clone().all(|line| line.contains(" ns:")),
            "{stage}:\n{text}"
        );
    }
    spdk::call(&target, "trace_disable_tpoint_group", group);
    assert!(target.stop().success());
}

#[test]
fn times_of_stages_are_told_once_they_are_kept() {
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::on("0x3"));
    let name = json!({"name": "vdo0"});
    let get = || target.rpc("bdev_vdo_get_histograms", name.clone());
    let refused = get().unwrap_err();
    assert_eq!(refused.code.0, -22, "{refused:?}");
    let enable = |on: bool| {
        let params = json!({"name": "vdo0", "enable": on});
        spdk::call(&target, "bdev_vdo_enable_histograms", params)
    };
    assert_eq!(enable(true), true);
    fill(&mut served.connect(), 0..500, |lbn| lbn);
    let times = get().unwrap();
    let stages = times["stages"].as_array().unwrap();
    for wanted in [
        "line",
        "hash_zone",
        "index",
        "data_write",
        "journal",
        "slab_journal",
    ] {
        let stage = stages.iter().find(|stage| stage["stage"] == wanted);
        let stage = stage.unwrap_or_else(|| panic!("{wanted} is missing: {times}"));
        assert_eq!(stage["count"], 500, "{stage}");
        assert!(
            stage["p50_us"].as_f64() <= stage["max_us"].as_f64(),
            "{stage}"
        );
    }
    assert_eq!(enable(false), true);
    assert!(get().is_err());
    assert!(target.stop().success());
}
