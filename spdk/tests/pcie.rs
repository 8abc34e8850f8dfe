//! Volumes of `spdk_vdo_tgt` on NVMe drives on PCIe: in a machine of their own, whose drives and processor are emulated.
//!
//! This takes an SPDK that is built for any processor, and minutes: `make test-pcie`. See `docs/hardware.md`.

use serde_json::{Value, json};
use vdo_tests::guest::{Drive, Kit, PcieMachine};
use vdo_tests::probe::Probe;
use vdo_tests::rig::{BLOCK, ROOMY, Rig, block, check, fill};
use vdo_tests::spdk::{Load, LoadEnd};
use vdo_tests::tools::skipped;

fn kit(test: &str) -> Option<Kit> {
    PcieMachine::kit().map_err(|why| skipped(test, why)).ok()
}

fn drive(rig: &Rig, block: u32) -> Drive {
    Drive {
        image: rig.file(),
        block,
        metadata: 0,
    }
}

/// Starts the program with the volume on drive 0, and serves it.
fn start(machine: &mut PcieMachine) {
    machine.start();
    machine.call("bdev_vdo_set_examine", json!({"enable": false}));
    let base = machine.attach(0);
    create(machine, &base);
    machine.serve("vdo0");
}

fn create(machine: &mut PcieMachine, base: &str) {
    let params = json!({"name": "vdo0", "base_bdev_name": base, "slab_size_mib": 32, "logical_size_mib": 1024});
    machine.call("bdev_vdo_create", params);
}

fn mode(machine: &mut PcieMachine) -> Value {
    let mut bdevs = machine.call("bdev_get_bdevs", json!({"name": "vdo0"}));
    bdevs[0]["driver_specific"]["vdo"]["mode"].take()
}

/// A machine with one drive and a volume on it, with a few hundred blocks written.
fn on_drive(kit: &Kit, rig: &Rig, block: u32) -> PcieMachine {
    let mut machine = PcieMachine::boot(kit, &[drive(rig, block)]);
    start(&mut machine);
    fill(&mut machine.export().connect(), 0..300, |lbn| lbn % 200);
    machine
}

fn load(machine: &PcieMachine) -> Load {
    let load = Load::start(machine.export(), 1000..1064);
    load.go_on(5);
    load
}

/// Checks what [`on_drive`] and a load have written.
fn all_is_there(machine: &PcieMachine, end: &LoadEnd) {
    let mut client = machine.export().connect();
    check(&mut client, 0..300, |lbn| lbn % 200);
    end.check(&mut client);
}

#[test]
fn a_volume_on_a_drive_keeps_what_is_written_in_both_formats_of_blocks() {
    let test = "a_volume_on_a_drive_keeps_what_is_written_in_both_formats_of_blocks";
    let Some(kit) = kit(test) else {
        return;
    };
    for block in [512, 4096] {
        let rig = Rig::new(ROOMY);
        let mut machine = on_drive(&kit, &rig, block);
        let bdevs = machine.call("bdev_get_bdevs", json!({"name": "drive0n1"}));
        assert_eq!(bdevs[0]["block_size"], block);
        let end = load(&machine).stop();
        assert_eq!(end.error, None);
        machine.stop();
        rig.audit(test);
        start(&mut machine);
        all_is_there(&machine, &end);
        machine.stop();
        machine.power_off();
        rig.audit(test);
    }
}

/// The NVMe commands "set features" that switch the volatile write cache off and on, as SPDK's client sends them.
const CACHE_OFF: &str =
    "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAYAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==";
const CACHE_ON: &str =
    "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAYAAAABAAAAAAAAAAAAAAAAAAAAAAAAAA==";

#[test]
fn every_flush_reaches_the_drive_and_a_drive_with_metadata_is_refused_by_name() {
    let test = "every_flush_reaches_the_drive_and_a_drive_with_metadata_is_refused_by_name";
    let Some(kit) = kit(test) else {
        return;
    };
    let (rig, other) = (Rig::new(ROOMY), Rig::new(ROOMY));
    let with_metadata = Drive {
        metadata: 8,
        ..drive(&other, 4096)
    };
    let mut machine = PcieMachine::boot(&kit, &[drive(&rig, 4096), with_metadata]);
    start(&mut machine);
    for command in ["", CACHE_OFF, CACHE_ON] {
        if !command.is_empty() {
            let params = json!({"name": "drive0", "cmd_type": "admin", "data_direction": "h2c", "cmdbuf": command});
            machine.call("bdev_nvme_send_cmd", params);
        }
        let mut client = machine.export().connect();
        let before = machine.flushes();
        for lbn in 0..16 {
            assert_eq!(client.write(lbn * BLOCK, &block(lbn + 100)), Ok(()));
            assert_eq!(client.flush(), Ok(()));
        }
        let flushes = machine.flushes() - before;
        assert!(flushes >= 32, "{flushes} flushes of 16 durable writes");
        check(&mut client, 0..16, |lbn| lbn + 100);
    }

    let base = machine.attach(1);
    let params = json!({"name": "vdo1", "base_bdev_name": base});
    let refused = machine.rpc("bdev_vdo_create", &params).unwrap_err();
    assert!(
        refused.contains(&base) && refused.contains("metadata"),
        "{refused}"
    );
    let before = other.fingerprint();
    machine.stop();
    machine.power_off();
    assert_eq!(other.fingerprint(), before);
    rig.audit(test);
}

#[test]
fn a_volume_goes_when_its_drive_is_pulled_out_and_comes_back_with_it() {
    let test = "a_volume_goes_when_its_drive_is_pulled_out_and_comes_back_with_it";
    let Some(kit) = kit(test) else {
        return;
    };
    let rig = Rig::new(ROOMY);
    let mut machine = on_drive(&kit, &rig, 4096);
    let load = load(&machine);
    machine.pull_out(0);
    let end = load.fail();
    assert!(end.error.is_some(), "{end:?}");
    machine.wait_for(r#"test "$(rpc_call /tmp/rpc.sock bdev_get_bdevs null)" = "[]""#);
    machine.put_in(0);
    machine.wait_for("test -e /sys/bus/pci/drivers/vfio-pci/0000:01:00.0");
    let base = machine.attach(0);
    create(&mut machine, &base);
    assert_ne!(mode(&mut machine), "read-only");
    machine.serve_again("vdo0");
    all_is_there(&machine, &end);
    machine.stop();
    machine.power_off();
    rig.audit(test);
}

#[test]
fn a_volume_goes_on_when_its_drive_is_reset() {
    let test = "a_volume_goes_on_when_its_drive_is_reset";
    let Some(kit) = kit(test) else {
        return;
    };
    let rig = Rig::new(ROOMY);
    let mut machine = on_drive(&kit, &rig, 4096);
    let load = load(&machine);
    for _ in 0..5 {
        machine.call("bdev_nvme_reset_controller", json!({"name": "drive0"}));
        load.go_on(2);
    }
    let end = load.stop();
    assert_eq!(end.error, None, "{}", machine.log());
    assert_eq!(mode(&mut machine), "normal");
    all_is_there(&machine, &end);
    machine.stop();
    machine.power_off();
    rig.audit(test);
}

#[test]
fn a_volume_on_a_drive_has_all_that_was_flushed_when_the_program_was_killed() {
    let test = "a_volume_on_a_drive_has_all_that_was_flushed_when_the_program_was_killed";
    let Some(kit) = kit(test) else {
        return;
    };
    let rig = Rig::new(ROOMY);
    let mut machine = on_drive(&kit, &rig, 4096);
    for _ in 0..3 {
        let load = load(&machine);
        machine.kill();
        let end = load.fail();
        start(&mut machine);
        all_is_there(&machine, &end);
    }
    machine.stop();
    machine.power_off();
    rig.audit(test);
}
