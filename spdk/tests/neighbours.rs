//! Volumes of `spdk_vdo_tgt` among other bdevs: below logical volumes, partitions and other modules, beside copies of
//! themselves, and in configurations whose other lines are wrong.

use std::process::Command;

use serde_json::{Value, json};
use vdo_tests::probe::Probe;
use vdo_tests::rig::{MIB, ROOMY, Rig, Setup, check, fill};
use vdo_tests::spdk::{self, Load, Served};
use vdo_tests::target::{Options, Target, bdev_config};

fn names(target: &Target) -> Vec<String> {
    spdk::call(target, "bdev_wait_for_examine", Value::Null);
    let bdevs = spdk::call(target, "bdev_get_bdevs", Value::Null);
    let name = |bdev: &Value| bdev["name"].as_str().unwrap().to_owned();
    bdevs.as_array().unwrap().iter().map(name).collect()
}

fn base(rig: &Rig) -> Value {
    let params = json!({"name": "base", "filename": rig.file(), "block_size": 4096});
    json!({"method": "bdev_aio_create", "params": params})
}

#[test]
fn logical_volumes_lie_on_a_volume_and_are_found_after_a_restart() {
    let test = "logical_volumes_lie_on_a_volume_and_are_found_after_a_restart";
    let _turn = spdk::turn();
    let rig = Rig::new(ROOMY);
    let options = Options {
        cpumask: "0x3".to_owned(),
        ..spdk::options(bdev_config(vec![base(&rig)]))
    };
    let target = Target::start_with(options);
    let create = json!({"name": "base_vdo", "base_bdev_name": "base", "slab_size_mib": 32, "logical_size_mib": 1024});
    spdk::call(&target, "bdev_vdo_create", create);
    spdk::call(
        &target,
        "bdev_lvol_create_lvstore",
        json!({"bdev_name": "base_vdo", "lvs_name": "lvs"}),
    );
    let lvols = ["one", "two"].map(|name| {
        let lvol = json!({"lvs_name": "lvs", "lvol_name": name, "size_in_mib": 256, "thin_provision": true});
        spdk::call(&target, "bdev_lvol_create", lvol);
        format!("lvs/{name}")
    });
    for (lvol, start) in lvols.iter().zip([0, 500]) {
        let mut client = spdk::export_nvme_tcp(&target, lvol).connect();
        assert_eq!(client.size(), 256 * MIB);
        fill(&mut client, start..start + 300, |lbn| lbn % 100);
    }
    // The volume is found, and what lies on it.
    let target = target.restart();
    let found = names(&target);
    assert!(found.contains(&"base_vdo".to_owned()), "{found:?}");
    let exports = lvols.map(|lvol| spdk::export_nvme_tcp(&target, &lvol));
    for (export, start) in exports.iter().zip([0, 500]) {
        check(&mut export.connect(), start..start + 300, |lbn| lbn % 100);
    }
    // It goes with all that lies on it, also under load.
    let load = Load::start(&exports[0], 1000..1128);
    spdk::call(&target, "bdev_vdo_delete", json!({"name": "base_vdo"}));
    load.fail();
    assert_eq!(names(&target), ["base"]);
    rig.audit(test);
    let create = json!({"name": "base_vdo", "base_bdev_name": "base"});
    spdk::call(&target, "bdev_vdo_create", create);
    assert_eq!(names(&target).len(), 4, "it comes with them");
    assert!(target.stop().success());
}

#[test]
fn a_copy_of_a_volume_is_refused_while_the_original_is_up() {
    let test = "a_copy_of_a_volume_is_refused_while_the_original_is_up";
    let _turn = spdk::turn();
    let (original, copy) = (Served::new(ROOMY), Rig::new(ROOMY));
    let target = original.start(&Setup::default());
    fill(&mut original.connect(), 0..100, |lbn| lbn);
    assert!(target.stop().success());
    let copied = Command::new("cp")
        .arg("--sparse=always")
        .args([original.rig.file(), copy.file()])
        .status();
    assert!(copied.unwrap().success());

    let target = original.start(&Setup::default());
    let load = Load::start(&original.export, 1000..1064);
    // Found, it is left alone; asked for, it is refused.
    spdk::create_aio(&target, "copy", &copy.file());
    assert!(!names(&target).contains(&"copy_vdo".to_owned()));
    let params = json!({"name": "second", "base_bdev_name": "copy"});
    let refused = target.rpc("bdev_vdo_create", params).unwrap_err();
    assert_eq!(refused.code.0, -17, "{refused}");
    assert!(refused.message.contains("UUID"), "{refused}");
    let shown = spdk::call(&target, "bdev_get_bdevs", json!({"name": "copy"}));
    assert_eq!(shown[0]["claimed"], false);
    copy.audit(test);
    load.go_on(1);
    assert_eq!(load.stop().error, None);
    spdk::call(&target, "bdev_vdo_delete", json!({"name": "vdo0"}));
    let params = json!({"name": "second", "base_bdev_name": "copy"});
    spdk::call(&target, "bdev_vdo_create", params);
    let export = spdk::export_nvme_tcp(&target, "second");
    check(&mut export.connect(), 0..100, |lbn| lbn);
    assert!(target.stop().success());
    original.rig.audit(test);
    copy.audit(test);
}

#[test]
fn a_volume_opened_before_a_faulty_line_is_left_clean() {
    let test = "a_volume_opened_before_a_faulty_line_is_left_clean";
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::on("0x3"));
    fill(&mut served.connect(), 0..100, |lbn| lbn);
    assert!(target.stop().success());
    let faulty = [
        json!({"method": "bdev_vdo_create", "params": {"name": "vdo0", "base_bdev_name": "base"}}),
        json!({"method": "bdev_vdo_create", "params": {"name": "other", "base_bdev_name": "nobody"}}),
        json!({"method": "bdev_vdo_make", "params": {}}),
    ];
    for (line, said) in faulty.into_iter().zip(["vdo0", "nobody", "bdev_vdo_make"]) {
        let mut options = served.options(&Setup::on("0x3"));
        let calls = &mut options.config.as_mut().unwrap()["subsystems"][0]["config"];
        calls.as_array_mut().unwrap().push(line);
        let log = Target::refuse(options);
        assert!(
            log.contains("ended with exit status") && log.contains(said),
            "{log}"
        );
        served.rig.audit(test);
    }
    let target = served.start(&Setup::default());
    check(&mut served.connect(), 0..100, |lbn| lbn);
    assert!(target.stop().success());
}
