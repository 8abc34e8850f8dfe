//! What an operator is told of a volume of `vdo_tgt`, in time: see [`vdo_tests::told`] for what that is.

use serde_json::{Value, json};
use vdo_tests::rig::{Between, MIB, ROOMY, Rig, Setup, TIGHT, fill};
use vdo_tests::target::{Target, bdev_config};
use vdo_tests::told;

/// Has the base bdev grow, and the volume with it.
fn grow(rig: &Rig, target: &Target) {
    let file = std::fs::File::options().write(true).open(rig.file());
    file.unwrap().set_len((ROOMY + 300) * MIB).unwrap();
    for (method, name) in [
        ("bdev_uring_rescan", "base"),
        ("bdev_vdo_grow_physical", "vdo0"),
    ] {
        target.rpc(method, json!({"name": name})).unwrap();
    }
}

#[test]
fn shares_of_space_are_told_of_once_each_and_again_when_there_was_room() {
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::on("0x3"));
    let shares = told::low_space(&target, &mut rig.connect(), || grow(&rig, &target));
    assert!(target.stop().success());
    // Above both when it starts.
    let target = rig.start(&Setup::on("0x1").with("low_space_percent", shares.percents()));
    told::reached_at_start(&target, shares);
    // And once for each start, with what was saved.
    let target = target.restart();
    told::reached_at_start(&target, shares);
    assert!(target.stop().success());
}

#[test]
fn a_volume_that_turns_read_only_is_told_of_and_so_is_its_rebuild() {
    let rig = Rig::new(ROOMY);
    let setup = Setup::over(Between::Errors);
    let target = rig.start(&setup);
    told::read_only(&target, &mut rig.connect());
    let target = target.restart();
    told::rebuilt(&target);
    assert!(target.stop().success());
}

#[test]
fn a_volume_that_was_killed_is_told_of_until_it_is_whole() {
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::on("0x3"));
    fill(&mut rig.connect(), 0..2000, |lbn| lbn);
    let target = target.crash_and_restart();
    told::recovered(&target);
    assert!(target.stop().success());
}

#[test]
fn states_of_the_index_are_told_of_when_they_come_to_be() {
    let rig = Rig::new(TIGHT);
    let target = rig.start(&Setup::default().with("slab_size_mib", 8));
    told::index_states(&target);
    assert!(target.stop().success());
}

#[test]
fn notifications_are_asked_for_as_in_spdk() {
    let target = Target::start(bdev_config(Vec::new()));
    let ask = |method: &str, params: Value| target.rpc(method, params);
    let types = ask("notify_get_types", Value::Null).unwrap();
    let types = types.as_array().unwrap();
    for kind in ["bdev_register", "bdev_unregister", "bdev_resize"] {
        assert!(types.contains(&json!(kind)), "{types:?}");
    }
    for kind in vdo_rpc::events::TYPES {
        assert!(types.contains(&json!(kind)), "{types:?}");
    }
    let create = json!({"name": "m", "num_blocks": 2048, "block_size": 4096});
    ask("bdev_malloc_create", create).unwrap();
    ask("bdev_malloc_delete", json!({"name": "m"})).unwrap();
    let came = json!({"type": "bdev_register", "ctx": "m", "id": 0});
    let went = json!({"type": "bdev_unregister", "ctx": "m", "id": 1});
    let get = |params: Value| ask("notify_get_notifications", params);
    assert_eq!(get(Value::Null).unwrap(), json!([came, went]));
    assert_eq!(get(json!({"id": 1})).unwrap(), json!([went]));
    assert_eq!(get(json!({"max": 1})).unwrap(), json!([came]));
    assert_eq!(get(json!({"id": 0, "max": 0})).unwrap(), json!([]));
    assert_eq!(get(json!({"id": 2, "max": 9})).unwrap(), json!([]));
    for wrong in [json!({"id": "one"}), json!({"max": -1}), json!({"from": 1})] {
        assert_eq!(get(wrong).unwrap_err().code.0, -32602);
    }
    assert!(target.stop().success());
}
