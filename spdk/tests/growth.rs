//! A volume of `spdk_vdo_tgt` that grows under load over NVMe/TCP, and what its hosts hear of it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vdo_tests::probe::Probe;
use vdo_tests::rig::{BLOCK, MIB, ROOMY, Setup, check, fill, info};
use vdo_tests::spdk::{self, Load, Served};
use vdo_tests::target::{Target, bdev_config};

fn blocks(target: &Target, bdev: &str) -> u64 {
    let bdevs = spdk::call(target, "bdev_get_bdevs", json!({"name": bdev}));
    bdevs[0]["num_blocks"].as_u64().unwrap()
}

/// Another host's bdev gets this size by itself.
fn wait_for_size(host: &Target, bdev: &str, wanted: u64) {
    let since = Instant::now();
    while blocks(host, bdev) != wanted {
        assert!(
            since.elapsed() < Duration::from_secs(20),
            "the host sees {} blocks",
            blocks(host, bdev)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_host_hears_that_a_volume_presents_more_and_writes_there_under_load() {
    let test = "a_host_hears_that_a_volume_presents_more_and_writes_there_under_load";
    if spdk::lacking(test, &[spdk::installed("spdk_tgt")]) {
        return;
    }
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::on("0x1"));
    let load = Load::start(&served.export, 1000..1128);
    let host = Target::start_with(spdk::stock_options(bdev_config(Vec::new())));
    let far = spdk::connect_nvme_tcp(&host, &served.export, "far");
    assert_eq!(blocks(&host, &far), 1024 * MIB / BLOCK);
    for mib in [1025_u64, 4096, 1 << 20] {
        let end = mib * MIB / BLOCK;
        let params = json!({"name": "vdo0", "logical_size_mib": mib});
        let grown = spdk::call(&target, "bdev_vdo_grow_logical", params);
        assert_eq!(grown["logical_blocks"], end);
        assert_eq!(blocks(&target, "vdo0"), end);
        wait_for_size(&host, &far, end);
        let mut client = served.connect();
        assert_eq!(client.size(), end * BLOCK);
        fill(&mut client, end - 50..end, |lbn| lbn);
        load.go_on(2);
    }
    let refused = |params: Value| target.rpc("bdev_vdo_grow_logical", params).unwrap_err();
    let error = refused(json!({"name": "vdo0", "logical_size_mib": 4096}));
    assert_eq!(error.code.0, -22, "{error}");
    assert!(
        error.message.contains("268435456") && error.message.contains("1048576"),
        "{error}"
    );
    assert!(host.stop().success());
    load.stop().check(&mut served.connect());
    let target = target.restart();
    assert_eq!(info(&target)["logical_blocks"], 1 << 28);
    check(&mut served.connect(), (1 << 28) - 50..1 << 28, |lbn| lbn);
    assert!(target.stop().success());
    served.rig.audit(test);
}

#[test]
fn a_base_bdev_that_grows_is_told_of_in_the_log_and_taken_under_load() {
    let test = "a_base_bdev_that_grows_is_told_of_in_the_log_and_taken_under_load";
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::on("0x3"));
    let load = Load::start(&served.export, 1000..1128);
    fill(&mut served.connect(), 5000..8000, |lbn| lbn);
    let grow = || target.rpc("bdev_vdo_grow_physical", json!({"name": "vdo0"}));
    let error = grow().unwrap_err();
    assert_eq!(error.code.0, -22, "{error}");
    assert!(error.message.contains("786432"), "{error}");
    for (mib, lbn) in [(ROOMY + 300, 10_000), (ROOMY + 700, 20_000)] {
        let file = std::fs::File::options().write(true).open(served.rig.file());
        file.unwrap().set_len(mib * MIB).unwrap();
        spdk::call(&target, "bdev_uring_rescan", json!({"name": "base"}));
        load.go_on(1);
        assert!(target.log().contains("bdev_vdo_grow_physical takes them"));
        let grown = grow().unwrap();
        assert_eq!(grown["physical_blocks"], mib * MIB / BLOCK);
        assert_eq!(info(&target)["physical_blocks"], mib * MIB / BLOCK);
        fill(&mut served.connect(), lbn..lbn + 3000, |lbn| lbn);
        load.go_on(2);
    }
    load.stop().check(&mut served.connect());
    let target = target.crash_and_restart();
    let mut client = served.connect();
    for lbn in [5000, 10_000, 20_000] {
        check(&mut client, lbn..lbn + 3000, |lbn| lbn);
    }
    drop(client);
    let target = target.restart();
    assert!(target.stop().success());
    served.rig.audit(test);
}
