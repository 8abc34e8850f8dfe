//! What one program saves loads in another, and in itself, whatever bdevs a volume lies on and bears.

use serde_json::{Value, json};
use vdo_tests::rig::{ROOMY, Rig, Setup, check, fill, info, stats};
use vdo_tests::spdk::{self, Served};
use vdo_tests::target::{Options, Target, bdev_config};

/// Unique blocks, then each again.
fn tag(lbn: u64) -> u64 {
    lbn % 100
}

/// All that `save_config` of SPDK's client would write.
fn saved(target: &Target) -> Value {
    let subsystems = spdk::call(target, "framework_get_subsystems", Value::Null);
    let config = subsystems.as_array().unwrap().iter().map(|subsystem| {
        let name = &subsystem["subsystem"];
        let calls = spdk::call(target, "framework_get_config", json!({"name": name}));
        json!({"subsystem": name, "config": calls})
    });
    json!({"subsystems": config.collect::<Vec<_>>()})
}

/// All bdevs, once everybody has looked at everything.
fn names(target: &Target) -> Vec<String> {
    spdk::call(target, "bdev_wait_for_examine", Value::Null);
    let bdevs = spdk::call(target, "bdev_get_bdevs", Value::Null);
    let name = |bdev: &Value| bdev["name"].as_str().unwrap().to_owned();
    let mut names: Vec<_> = bdevs.as_array().unwrap().iter().map(name).collect();
    names.sort();
    names
}

#[test]
fn what_spdk_vdo_tgt_saves_vdo_tgt_loads_but_for_its_exports() {
    let test = "what_spdk_vdo_tgt_saves_vdo_tgt_loads_but_for_its_exports";
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::default());
    fill(&mut served.connect(), 0..300, tag);
    let other = Rig::new(64);
    for (method, params) in [
        (
            "bdev_malloc_create",
            json!({"name": "m", "num_blocks": 2048, "block_size": 512}),
        ),
        (
            "bdev_null_create",
            json!({"name": "n", "num_blocks": 2048, "block_size": 4096}),
        ),
        (
            "bdev_uring_create",
            json!({"name": "u", "filename": other.file(), "block_size": 4096}),
        ),
        ("bdev_error_create", json!({"base_name": "m"})),
        (
            "bdev_delay_create",
            json!({"name": "d", "base_bdev_name": "n", "avg_read_latency": 1, "p99_read_latency": 2,
            "avg_write_latency": 1, "p99_write_latency": 2}),
        ),
    ] {
        spdk::call(&target, method, params);
    }
    let (mut config, before) = (saved(&target), names(&target));
    assert!(target.stop().success());
    let embedded = |config: &Value| Options {
        config: Some(config.clone()),
        ..Options::default()
    };
    // What serves it cannot be had there.
    let said = Target::refuse(embedded(&config));
    assert!(said.contains("nvmf_create_subsystem"), "{said}");
    let sections = config["subsystems"].as_array_mut().unwrap();
    let nvmf = sections
        .iter_mut()
        .find(|section| section["subsystem"] == "nvmf");
    let calls = nvmf.unwrap()["config"].as_array_mut().unwrap();
    let serves = |call: &Value| {
        let method = call["method"].as_str().unwrap();
        method == "nvmf_create_subsystem" || method.starts_with("nvmf_subsystem_")
    };
    calls.retain(|call| !serves(call));
    let target = Target::start_with(embedded(&config));
    assert_eq!(names(&target), before);
    target.export("vdo0");
    let socket = target.path("vdo0.nbd");
    let mut client = vdo_tests::nbd_probe::NbdProbe::connect(&socket).unwrap();
    check(&mut client, 0..300, tag);
    assert!(target.stop().success());
    served.rig.audit(test);
}

/// What lies between the file's bdev `disk` and the volume, or between the volume and its user.
#[derive(Clone, Copy, Debug)]
enum Layer {
    Nothing,
    Error,
    Delay,
    Passthru,
    Split,
    /// A mirror on this and a bdev of its own.
    Mirror,
    /// A mirror that says on its legs that it is one.
    MirrorWithSuperblock,
    /// Two logical volumes.
    Lvol,
}

impl Layer {
    /// Lays it on a bdev, with names that begin with a word of one's own; what is on top then.
    fn on(self, target: &Target, rig: &Rig, below: &str, word: &str) -> String {
        let made = |method: &str, params: Value| drop(spdk::call(target, method, params));
        let name = |what: &str| format!("{word}_{what}");
        match self {
            Layer::Nothing => below.to_owned(),
            Layer::Error => {
                made("bdev_error_create", json!({"base_name": below}));
                format!("EE_{below}")
            }
            Layer::Delay => {
                let params = json!({"name": name("delay"), "base_bdev_name": below, "avg_read_latency": 0,
                    "p99_read_latency": 0, "avg_write_latency": 0, "p99_write_latency": 0});
                made("bdev_delay_create", params);
                name("delay")
            }
            Layer::Passthru => {
                made(
                    "bdev_passthru_create",
                    json!({"name": name("passthru"), "base_bdev_name": below}),
                );
                name("passthru")
            }
            Layer::Split => {
                made(
                    "bdev_split_create",
                    json!({"base_bdev": below, "split_count": 1}),
                );
                format!("{below}p0")
            }
            Layer::Mirror | Layer::MirrorWithSuperblock => {
                let file = rig.path(&name("leg"));
                let size = spdk::call(target, "bdev_get_bdevs", json!({"name": below}));
                let blocks = size[0]["num_blocks"].as_u64().unwrap();
                std::fs::File::create(&file)
                    .unwrap()
                    .set_len(blocks * 4096)
                    .unwrap();
                spdk::create_aio(target, &name("leg"), &file);
                let superblock = matches!(self, Layer::MirrorWithSuperblock);
                let params = json!({"name": name("mirror"), "raid_level": "raid1", "superblock": superblock,
                    "base_bdevs": [below, name("leg")]});
                made("bdev_raid_create", params);
                name("mirror")
            }
            Layer::Lvol => {
                made(
                    "bdev_lvol_create_lvstore",
                    json!({"bdev_name": below, "lvs_name": name("store")}),
                );
                let free = spdk::call(
                    target,
                    "bdev_lvol_get_lvstores",
                    json!({"lvs_name": name("store")}),
                );
                let size = |field: &str| free[0][field].as_u64().unwrap();
                let mib = (size("free_clusters") * size("cluster_size")) >> 20;
                for (lvol, mib) in [("small", 16), ("large", mib - 32)] {
                    let params = json!({"lvs_name": name("store"), "lvol_name": lvol, "size_in_mib": mib, "thin_provision": true});
                    made("bdev_lvol_create", params);
                }
                format!("{}/large", name("store"))
            }
        }
    }
}

/// A target that has nothing, to be told by RPC.
fn blank() -> Target {
    Target::start_with(spdk::options(bdev_config(Vec::new())))
}

/// The calls of a configuration's bdev section.
fn bdev_calls(config: &Value) -> &Vec<Value> {
    let mut sections = config["subsystems"].as_array().unwrap().iter();
    let section = sections.find(|section| section["subsystem"] == "bdev");
    section.unwrap()["config"].as_array().unwrap()
}

/// Makes the calls of a saved configuration's bdevs, as `load_config` of SPDK's client does with a running target.
fn load(target: &Target, config: &Value) {
    let can = spdk::call(target, "rpc_get_methods", json!({"current": true}));
    for call in bdev_calls(config) {
        if can.as_array().unwrap().contains(&call["method"]) {
            let params = call.get("params").cloned().unwrap_or_default();
            spdk::call(target, call["method"].as_str().unwrap(), params);
        }
    }
}

/// The calls of a configuration that make bdevs.
fn makes(config: &Value) -> Vec<Value> {
    let mut calls = bdev_calls(config).clone();
    calls.retain(|call| call["method"].as_str().unwrap().ends_with("_create"));
    calls
}

/// Makes a volume between two layers, on files that outlive the target, and a configuration of it; which must make the
/// same again, in both ways of loading it.
fn comes_back(test: &str, below: Layer, above: Layer) {
    let what = format!("{below:?} below, {above:?} above");
    let rig = Rig::new(ROOMY + 512);
    let target = blank();
    spdk::create_aio(&target, "disk", &rig.file());
    let base = below.on(&target, &rig, "disk", "below");
    let params = json!({"name": "vdo0", "base_bdev_name": base, "slab_size_mib": 32, "logical_size_mib": 768,
        "block_map_cache_mib": 17, "cpumask": "0x1"});
    spdk::call(&target, "bdev_vdo_create", params);
    let top = above.on(&target, &rig, "vdo0", "above");
    let export = spdk::export_nvme_tcp(&target, &top);
    fill(&mut export.connect(), 0..300, tag);
    let (config, before) = (saved(&target), names(&target));
    assert!(target.stop().success(), "{what}");
    let unchanged = |target: &Target| {
        assert_eq!(names(target), before, "{what}");
        assert_eq!(makes(&saved(target)), makes(&config), "{what}");
        assert_eq!(info(target)["mode"], "normal", "{what}");
    };
    let target = Target::start_with(spdk::options(config.clone()));
    unchanged(&target);
    check(&mut export.connect(), 0..300, tag);
    fill(&mut export.connect(), 300..400, tag);
    assert!(target.stop().success(), "{what}");
    let target = blank();
    load(&target, &config);
    unchanged(&target);
    check(
        &mut spdk::export_nvme_tcp(&target, &top).connect(),
        0..400,
        tag,
    );
    assert!(target.stop().success(), "{what}");
    if matches!(
        below,
        Layer::Nothing | Layer::Error | Layer::Delay | Layer::Passthru
    ) {
        rig.audit(test);
    }
}

/// What is tried above and below a volume.
const LAYERS: [Layer; 7] = [
    Layer::Lvol,
    Layer::MirrorWithSuperblock,
    Layer::Mirror,
    Layer::Error,
    Layer::Delay,
    Layer::Passthru,
    Layer::Split,
];

#[test]
fn saved_volumes_come_back_below_whatever_lay_on_them() {
    let test = "saved_volumes_come_back_below_whatever_lay_on_them";
    let _turn = spdk::turn();
    for above in LAYERS {
        comes_back(test, Layer::Nothing, above);
    }
}

#[test]
fn saved_volumes_come_back_on_whatever_they_lay_on() {
    let test = "saved_volumes_come_back_on_whatever_they_lay_on";
    let _turn = spdk::turn();
    // With something on them that claims them as soon as they are there.
    for below in LAYERS {
        comes_back(test, below, Layer::Lvol);
    }
}

#[test]
fn a_file_written_by_hand_loads_with_a_store_on_its_volume() {
    let test = "a_file_written_by_hand_loads_with_a_store_on_its_volume";
    let _turn = spdk::turn();
    let rig = Rig::new(ROOMY);
    let calls = rig.bdev_calls(
        &Setup::on("0x3")
            .with("block_map_cache_mib", 17)
            .with("cpumask", "0x2"),
    );
    let options = Options {
        cpumask: "0x3".to_owned(),
        ..spdk::options(bdev_config(calls))
    };
    let target = Target::start_with(options.clone());
    let top = Layer::Lvol.on(&target, &rig, "vdo0", "above");
    fill(
        &mut spdk::export_nvme_tcp(&target, &top).connect(),
        0..300,
        tag,
    );
    let before = names(&target);
    assert!(target.stop().success());
    let target = Target::start_with(options);
    assert_eq!(names(&target), before);
    check(
        &mut spdk::export_nvme_tcp(&target, &top).connect(),
        0..300,
        tag,
    );
    assert!(target.stop().success());
    // Told by RPC, nothing is known beforehand: the volume is found and in use when it is named.
    let target = blank();
    spdk::create_aio(&target, "base", &rig.file());
    spdk::call(&target, "bdev_wait_for_examine", Value::Null);
    let create = |more: Value| {
        let mut params = json!({"name": "vdo0", "base_bdev_name": "base", "compression": true});
        params
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        target.rpc("bdev_vdo_create", params)
    };
    let refused = create(json!({"block_map_cache_mib": 17})).unwrap_err();
    assert_eq!(refused.code.0, -16, "{refused}");
    assert!(refused.message.contains("block_map_cache_mib"), "{refused}");
    assert_eq!(create(json!({})), Ok(json!("vdo0")));
    let shown = spdk::call(&target, "bdev_get_bdevs", json!({"name": "vdo0"}));
    assert_eq!(shown[0]["name"], "base_vdo");
    let aliases = shown[0]["aliases"].as_array().unwrap();
    assert!(aliases.contains(&json!("vdo0")), "{shown}");
    assert_eq!(shown[0]["driver_specific"]["vdo"]["compression"], true);
    assert_eq!(stats(&target)["name"], "vdo0");
    check(
        &mut spdk::export_nvme_tcp(&target, &top).connect(),
        0..300,
        tag,
    );
    // As it is named now, so it is saved.
    let config = saved(&target);
    assert!(target.stop().success());
    let target = Target::start_with(spdk::options(config));
    assert_eq!(names(&target), before);
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn a_volume_that_was_found_is_not_saved_unless_it_was_changed() {
    let test = "a_volume_that_was_found_is_not_saved_unless_it_was_changed";
    let _turn = spdk::turn();
    let rig = Rig::new(ROOMY);
    let target = Target::start_with(spdk::options(bdev_config(
        rig.bdev_calls(&Setup::default()),
    )));
    assert!(target.stop().success());
    let target = blank();
    spdk::create_aio(&target, "base", &rig.file());
    assert_eq!(names(&target), ["base", "base_vdo"]);
    let plain = saved(&target);
    assert!(!plain.to_string().contains("bdev_vdo_"), "{plain}");
    spdk::call(
        &target,
        "bdev_vdo_set_options",
        json!({"name": "base_vdo", "dedupe_timeout_ms": 700}),
    );
    let changed = saved(&target);
    assert!(changed.to_string().contains("bdev_vdo_create"), "{changed}");
    assert!(target.stop().success());
    for config in [plain, changed] {
        let target = Target::start_with(spdk::options(config.clone()));
        assert_eq!(names(&target), ["base", "base_vdo"]);
        assert_eq!(saved(&target), config);
        assert!(target.stop().success());
    }
    rig.audit(test);
}
