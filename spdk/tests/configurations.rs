//! What one program saves loads in another, and in itself, whatever bdevs a volume lies on and bears.

use serde_json::{Value, json};
use vdo_tests::rig::{ROOMY, Rig, Setup, check, fill};
use vdo_tests::spdk::{self, Served};
use vdo_tests::target::{Options, Target};

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

fn names(target: &Target) -> Vec<String> {
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
