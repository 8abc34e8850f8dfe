//! Growth in the kernel's own dm-vdo and here, one after the other, on the same volume.

use vdo_tests::guest::{Disk, Guest, Kit, Machine, Recipe};
use vdo_tests::rig::{BLOCK, MIB, ROOMY, Rig, Setup, check, fill, info};
use vdo_tests::tools::skipped;

use serde_json::json;

fn boot(kit: &Kit, rig: &Rig) -> Guest {
    let machine = Machine {
        memory: 1024,
        disks: vec![Disk {
            image: rig.file(),
            sector: 4096,
        }],
        ..Machine::default()
    };
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
