//! Volumes that crash or turn read-only on one side and come back on the other: here, and in the kernel's own dm-vdo in a
//! guest.

use std::time::Duration;

use serde_json::json;
use vdo::format::components::VolumeState;
use vdo_rpc::client::RpcClient;
use vdo_tests::dm_vdo::lacking;
use vdo_tests::guest::{Guest, Kit, Machine, Recipe};
use vdo_tests::rig::{BLOCK, Between, MIB, ROOMY, Rig, Setup, block, check, fill, info, stats};
use vdo_tests::tools::{run, skipped};

/// Logical blocks of the volume.
const LOGICAL: u64 = 1024 * MIB / BLOCK;

/// Blocks that are durable before anything goes wrong.
const SAFE: u64 = 3000;

fn kit(test: &str) -> Option<Kit> {
    match Kit::gather(&Recipe::dm_vdo()) {
        Ok(kit) => Some(kit),
        Err(why) => {
            skipped(test, why);
            None
        }
    }
}

fn boot(kit: &Kit, rig: &Rig) -> Guest {
    let machine = Machine::for_dm_vdo([rig.file()]);
    Guest::boot(kit, machine).unwrap_or_else(|error| panic!("{error}"))
}

/// What makes the volume `vdo0` in a guest.
fn create() -> String {
    create_on("/dev/vda")
}

/// What makes the volume `vdo0` on a device of a guest.
fn create_on(device: &str) -> String {
    let (sectors, blocks) = (LOGICAL * 8, ROOMY * MIB / BLOCK);
    format!(
        "export DM_DISABLE_UDEV=1
         dmsetup create vdo0 --table '0 {sectors} vdo V4 {device} {blocks} 4096 32768 16380'"
    )
}

/// Waits in a guest until the volume has no slab left to scrub, and stops it.
fn finish(guest: &mut Guest) {
    let said = guest.tell(
        "export DM_DISABLE_UDEV=1
         for wait in $(seq 300); do
             dmsetup status vdo0 | grep -q ' normal - ' && break; usleep 200000
         done
         dmsetup status vdo0; dmsetup remove vdo0",
    );
    assert!(said.contains(" normal - "), "{said}");
}

/// Slabs of 2 MiB: many have something in them.
fn setup(cpumask: &'static str) -> Setup {
    Setup::on(cpumask).with("slab_size_mib", 2)
}

/// Tag of each block that is durable: some are shared.
fn tag(lbn: u64) -> u64 {
    lbn % 2000
}

/// Writes that nobody waits for, over some of what is durable elsewhere, and far away.
fn unflushed(client: &mut impl vdo_tests::probe::Probe, round: u64) {
    let more = (0..6000).map(|number| {
        let lbn = SAFE + (number * 7919 + round) % (LOGICAL / 2);
        (lbn * BLOCK, block(1_000_000 * round + number))
    });
    assert!(client.write_all(more).iter().all(Result::is_ok));
}

#[test]
fn a_volume_whose_target_was_killed_recovers_in_the_kernel_even_if_it_had_begun_to_here() {
    let test =
        "a_volume_whose_target_was_killed_recovers_in_the_kernel_even_if_it_had_begun_to_here";
    let Some(kit) = kit(test) else { return };
    for (round, begun_here) in [(1, false), (2, true)] {
        let rig = Rig::new(ROOMY);
        let target = rig.start(&setup("0x3"));
        let mut client = rig.connect();
        unflushed(&mut client, 7);
        fill(&mut client, 0..SAFE, tag);
        unflushed(&mut client, round);
        target.kill();
        if begun_here {
            for pause in [40, 80, 120, 160] {
                rig.kill_early(&setup("0x1"), Duration::from_millis(pause));
            }
        }
        assert_eq!(rig.state(), VolumeState::Dirty);
        let mut guest = boot(&kit, &rig);
        guest.tell(&create());
        finish(&mut guest);
        guest.power_off().unwrap_or_else(|error| panic!("{error}"));
        rig.audit(test);
        let target = rig.start(&setup("0x1"));
        check(&mut rig.connect(), 0..SAFE, tag);
        assert!(target.stop().success());
        rig.audit(test);
    }
}

#[test]
fn a_volume_whose_kernel_was_reset_recovers_here_even_if_it_had_begun_to_there() {
    let test = "a_volume_whose_kernel_was_reset_recovers_here_even_if_it_had_begun_to_there";
    let Some(kit) = kit(test) else { return };
    let rig = Rig::new(ROOMY);
    let target = rig.start(&setup("0x1"));
    fill(&mut rig.connect(), 0..SAFE, tag);
    assert!(target.stop().success());

    let (second, third) = (LOGICAL / 4, LOGICAL / 2);
    let mut guest = boot(&kit, &rig);
    guest.tell(&create());
    let copy = format!("dd if=/dev/mapper/vdo0 of=/tmp/all bs=4096 count={SAFE}");
    // One copy is waited for, and then the kernel is in the midst of many things.
    guest.tell(&format!(
        "{copy}
         dd if=/tmp/all of=/dev/mapper/vdo0 bs=4096 seek={second} conv=fsync
         (for place in $(seq 30); do
             dd if=/dev/urandom of=/dev/mapper/vdo0 bs=4096 count=400 seek=$(({third} + place * 900))
         done) >/dev/null 2>&1 &
         sleep 2"
    ));
    drop(guest);
    assert_eq!(rig.state(), VolumeState::Dirty);

    // It begins to recover, and is reset again.
    let mut guest = boot(&kit, &rig);
    guest.tell(&create());
    drop(guest);

    let target = rig.start(&setup("0x3"));
    let mut client = rig.connect();
    check(&mut client, 0..SAFE, tag);
    check(&mut client, second..second + SAFE, |lbn| tag(lbn - second));
    let recoveries = stats(&target)["complete_recoveries"].as_u64().unwrap();
    assert!((1..=2).contains(&recoveries), "{recoveries}");
    fill(&mut client, SAFE..2 * SAFE, |lbn| lbn);
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn what_a_kernel_syncs_after_a_suspend_while_it_recovers_is_there_here() {
    let test = "what_a_kernel_syncs_after_a_suspend_while_it_recovers_is_there_here";
    let Some(kit) = kit(test) else { return };
    let rig = Rig::new(ROOMY);
    let target = rig.start(&setup("0x3"));
    let mut client = rig.connect();
    fill(&mut client, 0..SAFE, tag);
    // Nearly every slab has something to be scrubbed.
    for round in 3..9 {
        unflushed(&mut client, round);
    }
    target.kill();

    let second = LOGICAL / 4 * 3;
    let mut guest = boot(&kit, &rig);
    guest.tell(&format!(
        "{}; dmsetup suspend vdo0; dmsetup resume vdo0
         dd if=/dev/mapper/vdo0 of=/tmp/all bs=4096 count={SAFE}
         dd if=/tmp/all of=/dev/mapper/vdo0 bs=4096 seek={second} count=500 conv=fsync",
        create()
    ));
    drop(guest);
    // "recovering", which the kernel itself does not replay; "dirty" if it was done before the suspend.
    println!("the kernel left the volume {}", rig.state().name());
    let target = rig.start(&setup("0x1"));
    let mut client = rig.connect();
    check(&mut client, 0..SAFE, tag);
    check(&mut client, second..second + 500, |lbn| tag(lbn - second));
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn a_volume_that_was_to_be_rebuilt_here_is_rebuilt_by_the_kernel() {
    let test = "a_volume_that_was_to_be_rebuilt_here_is_rebuilt_by_the_kernel";
    let Some(kit) = kit(test) else { return };
    let rig = Rig::new(ROOMY);
    let target = rig.start(&setup("0x3"));
    fill(&mut rig.connect(), 0..SAFE, tag);
    let used = stats(&target)["data_blocks_used"].clone();
    assert!(target.stop().success());
    rig.set_state(VolumeState::ReadOnly);

    // A rebuild is asked for, and its target killed in the midst of it.
    let slow = Setup::over(Between::Delay(20_000, 20_000));
    let target = rig.start(&slow);
    let mut client = RpcClient::connect(&target.socket()).unwrap();
    let asked = std::thread::spawn(move || {
        client.call("bdev_vdo_rebuild", &json!({"base_bdev_name": "slow"}))
    });
    while rig.state() != VolumeState::ForceRebuild {
        assert!(!asked.is_finished(), "{:?}", asked.join());
        std::thread::sleep(Duration::from_millis(1));
    }
    target.kill();
    assert!(asked.join().unwrap().is_err(), "it was not done");
    assert_eq!(rig.state(), VolumeState::ForceRebuild);

    let mut guest = boot(&kit, &rig);
    let said = guest.tell(&format!("{}; dmsetup message vdo0 0 stats", create()));
    assert!(said.contains("readOnlyRecoveries : 1,"), "{said}");
    finish(&mut guest);
    guest.power_off().unwrap_or_else(|error| panic!("{error}"));
    rig.audit(test);
    let target = rig.start(&setup("0x1"));
    assert_eq!(stats(&target)["data_blocks_used"], used);
    check(&mut rig.connect(), 0..SAFE, tag);
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn a_volume_that_turned_read_only_in_the_kernel_is_read_here_and_rebuilt_once_vdoforcerebuild_marked_it()
 {
    let test = "a_volume_that_turned_read_only_in_the_kernel_is_read_here_and_rebuilt_once_vdoforcerebuild_marked_it";
    let Some(kit) = kit(test) else { return };
    if lacking(test, &["vdoforcerebuild"], false) {
        return;
    }
    let rig = Rig::new(ROOMY);
    let target = rig.start(&setup("0x1"));
    fill(&mut rig.connect(), 0..SAFE, tag);
    assert!(target.stop().success());

    // The device stops taking writes to the recovery journal.
    let journal = rig.volume().layout.recovery_journal;
    let [start, end, all] = [
        journal.start.get(),
        journal.end().get(),
        ROOMY * MIB / BLOCK,
    ]
    .map(|block| block * 8);
    let (failing, rest) = (end - start, all - end);
    let mut guest = boot(&kit, &rig);
    let said = guest.tell(&format!(
        "export DM_DISABLE_UDEV=1
         dmsetup create base --table '0 {all} linear /dev/vda 0'
         {}
         dd if=/dev/mapper/vdo0 of=/tmp/all bs=4096 count={SAFE}
         dd if=/tmp/all of=/dev/mapper/vdo0 bs=4096 seek={} conv=fsync
         dmsetup suspend base
         printf '0 {start} linear /dev/vda 0\n{start} {failing} error\n{end} {rest} linear /dev/vda {end}\n' |
             dmsetup load base
         dmsetup resume base
         ! dd if=/tmp/all of=/dev/mapper/vdo0 bs=4096 seek={} conv=fsync
         dmsetup status vdo0
         dmsetup remove vdo0; dmsetup remove base",
        create_on("/dev/mapper/base"),
        LOGICAL / 4,
        LOGICAL / 2,
    ));
    assert!(said.contains(" read-only "), "{said}");
    guest.power_off().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(rig.state(), VolumeState::ReadOnly);

    let expect_all = || {
        let mut client = rig.connect();
        check(&mut client, 0..SAFE, tag);
        let second = LOGICAL / 4;
        check(&mut client, second..second + SAFE, |lbn| tag(lbn - second));
    };
    let target = rig.start(&setup("0x3"));
    let shown = info(&target);
    assert_eq!(shown["mode"], "read-only");
    let reason = shown["read_only_reason"].as_str().unwrap_or_default();
    assert!(reason.contains("its super block says"), "{reason}");
    expect_all();
    assert!(rig.connect().write(0, &block(0)).is_err());
    assert!(target.stop().success());

    run("vdoforcerebuild", [rig.file()]);
    assert_eq!(rig.state(), VolumeState::ForceRebuild);
    let target = rig.start(&setup("0x3"));
    assert_eq!(stats(&target)["read_only_recoveries"], 1);
    assert_eq!(info(&target)["mode"], "normal");
    expect_all();
    fill(&mut rig.connect(), SAFE..2 * SAFE, |lbn| lbn);
    assert!(target.stop().success());
    rig.audit(test);
}
