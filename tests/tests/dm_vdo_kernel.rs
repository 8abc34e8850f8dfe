//! The kernel's own dm-vdo, in a guest, on volumes that were filled here.

use vdo_tests::guest::{Disk, Guest, Kit, Machine, Recipe};
use vdo_tests::rig::{BLOCK, MIB, ROOMY, Rig, Setup, check, fill, stats};
use vdo_tests::tools::skipped;

/// Logical blocks of the volume.
const LOGICAL: u64 = 1024 * MIB / BLOCK;

/// Blocks written here.
const WRITTEN: u64 = 3000;

/// Copies of them, written here too.
const COPIED: u64 = 1000;

#[test]
fn a_volume_filled_here_opens_in_the_kernel_and_comes_back_filled_by_it() {
    let test = "a_volume_filled_here_opens_in_the_kernel_and_comes_back_filled_by_it";
    let kit = match Kit::gather(&Recipe::dm_vdo()) {
        Ok(kit) => kit,
        Err(why) => return skipped(test, why),
    };
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::default());
    let mut client = rig.connect();
    fill(&mut client, 0..WRITTEN, |lbn| lbn);
    fill(&mut client, WRITTEN..WRITTEN + COPIED, |lbn| lbn - WRITTEN);
    assert_eq!(stats(&target)["data_blocks_used"], WRITTEN);
    drop(client);
    assert!(target.stop().success());
    rig.audit(test);

    let machine = Machine {
        memory: 1024,
        disks: vec![Disk {
            image: rig.file(),
            sector: 4096,
        }],
        ..Machine::default()
    };
    let mut guest = Guest::boot(&kit, machine).unwrap_or_else(|error| panic!("{error}"));
    // The device, its blocks, the least block map cache and the longest block map era there can be.
    let (sectors, blocks) = (LOGICAL * 8, ROOMY * MIB / BLOCK);
    // An index that it does not find it makes; that takes a moment.
    let said = guest.tell(&format!(
        "export DM_DISABLE_UDEV=1
         dmsetup create vdo0 --table '0 {sectors} vdo V4 /dev/vda {blocks} 4096 32768 16380'
         for wait in $(seq 300); do
             dmsetup status vdo0 | grep -q ' online ' && break; usleep 200000
         done
         dmsetup status vdo0"
    ));
    // Mode, whether it recovers, the state of the index, whether it compresses, blocks used.
    assert!(said.contains(" normal - online offline "), "{said}");
    let (second, third) = (LOGICAL / 4, LOGICAL / 2);
    guest.tell(&format!(
        "dd if=/dev/mapper/vdo0 of=/tmp/all bs=4096 count={WRITTEN}
         dd if=/tmp/all of=/dev/mapper/vdo0 bs=4096 seek={second} conv=fsync
         dd if=/tmp/all of=/dev/mapper/vdo0 bs=4096 seek={third} conv=fsync
         DM_DISABLE_UDEV=1 dmsetup remove vdo0"
    ));
    guest.power_off().unwrap_or_else(|error| panic!("{error}"));
    rig.audit(test);

    let target = rig.start(&Setup::default());
    let mut client = rig.connect();
    check(&mut client, 0..WRITTEN, |lbn| lbn);
    check(&mut client, WRITTEN..WRITTEN + COPIED, |lbn| lbn - WRITTEN);
    check(&mut client, second..second + WRITTEN, |lbn| lbn - second);
    check(&mut client, third..third + WRITTEN, |lbn| lbn - third);
    let used = stats(&target);
    assert_eq!(used["logical_blocks_used"], 3 * WRITTEN + COPIED);
    // The kernel shared what it wrote last with what it wrote before, or with what was there.
    let data = used["data_blocks_used"].as_u64().unwrap();
    assert!((WRITTEN..=2 * WRITTEN).contains(&data), "{used}");
    drop(client);
    assert!(target.stop().success());
    rig.audit(test);
}
