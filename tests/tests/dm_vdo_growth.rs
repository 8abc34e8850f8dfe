//! Growth in the kernel's own dm-vdo and here, one after the other, on the same volume.

use vdo_tests::guest::{Guest, Kit, Machine, Recipe};
use vdo_tests::rig::{BLOCK, MIB, ROOMY, Rig, Setup, check, fill, info};
use vdo_tests::tools::skipped;

use serde_json::json;

fn boot(kit: &Kit, rig: &Rig) -> Guest {
    let machine = Machine::for_dm_vdo([rig.file()]);
    Guest::boot(kit, machine).unwrap_or_else(|error| panic!("{error}"))
}

/// The kernel's table for a volume of so many blocks on a device of so many.
fn table(logical: u64, physical: u64) -> String {
    format!(
        "0 {} vdo V4 /dev/vda {physical} 4096 32768 16380",
        logical * 8
    )
}

#[test]
fn what_grew_here_opens_in_the_kernel_and_what_grew_there_opens_here() {
    let test = "what_grew_here_opens_in_the_kernel_and_what_grew_there_opens_here";
    let kit = match Kit::gather(&Recipe::dm_vdo()) {
        Ok(kit) => kit,
        Err(why) => return skipped(test, why),
    };
    let rig = Rig::new(ROOMY);
    let physical = ROOMY * MIB / BLOCK;
    let target = rig.start(&Setup::on("0x3"));
    fill(&mut rig.connect(), 0..2000, |lbn| lbn);
    let here = 3000 * MIB / BLOCK;
    let params = json!({"name": "vdo0", "logical_size_mib": 3000});
    target.rpc("bdev_vdo_grow_logical", params).unwrap();
    fill(&mut rig.connect(), here - 1000..here, |lbn| lbn);
    assert!(target.stop().success());
    rig.audit(test);

    let there = 5000 * MIB / BLOCK;
    let (before, after) = (table(here, physical), table(there, physical));
    let mut guest = boot(&kit, &rig);
    let (last, end) = (here - 1000, there - 1000);
    guest.tell(&format!(
        "export DM_DISABLE_UDEV=1
         dmsetup create vdo0 --table '{before}'
         dd if=/dev/mapper/vdo0 of=/tmp/last bs=4096 skip={last} count=1000
         dmsetup reload vdo0 --table '{after}'
         dmsetup suspend vdo0
         dmsetup resume vdo0
         dd if=/tmp/last of=/dev/mapper/vdo0 bs=4096 seek={end} conv=fsync
         dmsetup remove vdo0"
    ));
    guest.power_off().unwrap_or_else(|error| panic!("{error}"));
    rig.audit(test);

    let target = rig.start(&Setup::on("0x3"));
    assert_eq!(info(&target)["logical_blocks"], there);
    let mut client = rig.connect();
    check(&mut client, 0..2000, |lbn| lbn);
    check(&mut client, last..here, |lbn| lbn);
    check(&mut client, end..there, |lbn| lbn - end + last);
    fill(&mut client, there - 3000..there - 2000, |lbn| lbn);
    drop(client);
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn a_device_that_grew_under_a_volume_here_is_taken_on_in_the_kernel_and_the_other_way_round() {
    let test =
        "a_device_that_grew_under_a_volume_here_is_taken_on_in_the_kernel_and_the_other_way_round";
    let kit = match Kit::gather(&Recipe::dm_vdo()) {
        Ok(kit) => kit,
        Err(why) => return skipped(test, why),
    };
    let rig = Rig::new(ROOMY);
    let enlarge = |mib: u64| {
        let file = std::fs::File::options().write(true).open(rig.file());
        file.unwrap().set_len(mib * MIB).unwrap();
        mib * MIB / BLOCK
    };
    let logical = 1024 * MIB / BLOCK;
    let target = rig.start(&Setup::on("0x3"));
    fill(&mut rig.connect(), 0..3000, |lbn| lbn);
    let here = enlarge(ROOMY + 300);
    let rescan = target.rpc("bdev_uring_rescan", json!({"name": "base"}));
    assert_eq!(rescan, Ok(json!(true)));
    let grown = target
        .rpc("bdev_vdo_grow_physical", json!({"name": "vdo0"}))
        .unwrap();
    assert_eq!(grown["physical_blocks"], here);
    fill(&mut rig.connect(), 3000..6000, |lbn| lbn);
    // Killed, so that the kernel recovers it: from the journal at its new place.
    target.kill();

    let there = enlarge(ROOMY + 600);
    let (before, after) = (table(logical, here), table(logical, there));
    let mut guest = boot(&kit, &rig);
    let end = logical - 3000;
    let said = guest.tell(&format!(
        "export DM_DISABLE_UDEV=1
         dmsetup create vdo0 --table '{before}'
         for wait in $(seq 300); do
             dmsetup status vdo0 | grep -q recovering || break; usleep 200000
         done
         dd if=/dev/mapper/vdo0 of=/tmp/last bs=4096 skip=3000 count=3000
         dmsetup reload vdo0 --table '{after}'
         dmsetup suspend vdo0
         dmsetup resume vdo0
         dd if=/tmp/last of=/dev/mapper/vdo0 bs=4096 seek={end} conv=fsync
         dmsetup status vdo0
         dmsetup remove vdo0"
    ));
    // The last figure of its status: blocks of the device.
    assert!(said.contains(&format!(" {there}")), "{said}");
    guest.power_off().unwrap_or_else(|error| panic!("{error}"));
    rig.audit(test);

    let target = rig.start(&Setup::on("0x3"));
    assert_eq!(info(&target)["physical_blocks"], there);
    let mut client = rig.connect();
    check(&mut client, 0..6000, |lbn| lbn);
    check(&mut client, end..logical, |lbn| lbn - end + 3000);
    fill(&mut client, 20_000..25_000, |lbn| lbn);
    drop(client);
    // And once more here, what was grown there.
    let again = enlarge(ROOMY + 900);
    target
        .rpc("bdev_uring_rescan", json!({"name": "base"}))
        .unwrap();
    let grown = target
        .rpc("bdev_vdo_grow_physical", json!({"name": "vdo0"}))
        .unwrap();
    assert_eq!(grown["physical_blocks"], again);
    fill(&mut rig.connect(), 30_000..35_000, |lbn| lbn);
    assert!(target.stop().success());
    rig.audit(test);
}
