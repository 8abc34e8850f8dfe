//! What an operator is told of a volume of `spdk_vdo_tgt`, in time: see [`vdo_tests::told`] for what that is.

use serde_json::{Value, json};
use vdo_tests::rig::{Between, MIB, ROOMY, Setup, fill};
use vdo_tests::spdk::{self, Served};
use vdo_tests::told;

#[test]
fn shares_of_space_are_told_of_once_each_and_again_when_there_was_room() {
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::on("0x1"));
    let types = spdk::call(&target, "notify_get_types", Value::Null);
    let types = types.as_array().unwrap();
    for kind in vdo_rpc::events::TYPES {
        assert!(types.contains(&json!(kind)), "{types:?}");
    }
    let shares = told::low_space(&target, &mut served.connect(), || {
        let file = std::fs::File::options().write(true).open(served.rig.file());
        file.unwrap().set_len((ROOMY + 300) * MIB).unwrap();
        spdk::call(&target, "bdev_uring_rescan", json!({"name": "base"}));
        spdk::call(&target, "bdev_vdo_grow_physical", json!({"name": "vdo0"}));
    });
    assert!(target.stop().success());
    // Above both when it starts.
    let target = served.start(&Setup::on("0x3").with("low_space_percent", shares.percents()));
    told::reached_at_start(&target, shares);
    assert!(target.stop().success());
}

#[test]
fn a_volume_that_turns_read_only_is_told_of_and_so_is_its_rebuild() {
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let setup = Setup::over(Between::Errors);
    let target = served.start(&setup);
    told::read_only(&target, &mut served.connect());
    let target = target.restart();
    told::rebuilt(&target);
    assert!(target.stop().success());
}

#[test]
fn a_volume_that_was_killed_is_told_of_until_it_is_whole() {
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::on("0x3"));
    fill(&mut served.connect(), 0..2000, |lbn| lbn);
    let target = target.crash_and_restart();
    told::recovered(&target);
    told::index_states(&target);
    assert!(target.stop().success());
}
