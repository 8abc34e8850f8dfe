//! The kernel's own dm-vdo, in a guest, on volumes that were filled here.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use vdo_tests::guest::{Guest, Kit, Machine, Recipe};
use vdo_tests::nbd_probe::NbdProbe;
use vdo_tests::rig::{
    BLOCK, MIB, ROOMY, Rig, Setup, check, check_with, compressible, fill, fill_with, stats,
};
use vdo_tests::tools::{files_below, skipped};

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
    filled_here_and_there(test, &kit, ROOMY, &Setup::default());
}

/// MiB of a volume with a sparse index, which takes more than 22 GiB.
const SPARSE_ROOMY: u64 = 26 * 1024;

#[test]
fn a_volume_with_a_sparse_index_is_deduplicated_by_the_kernel_and_comes_back_deduplicated_by_it() {
    let test = "a_volume_with_a_sparse_index_is_deduplicated_by_the_kernel_and_comes_back_deduplicated_by_it";
    let kit = match Kit::gather(&Recipe::dm_vdo()) {
        Ok(kit) => kit,
        Err(why) => return skipped(test, why),
    };
    let setup = Setup::default().with("index_sparse", true);
    filled_here_and_there(test, &kit, SPARSE_ROOMY, &setup);
}

/// Fills a volume of so many MiB here, then in the kernel with the same data, and then here again.
fn filled_here_and_there(test: &str, kit: &Kit, mib: u64, setup: &Setup) {
    let rig = Rig::new(mib);
    let target = rig.start(setup);
    let mut client = rig.connect();
    fill(&mut client, 0..WRITTEN, |lbn| lbn);
    fill(&mut client, WRITTEN..WRITTEN + COPIED, |lbn| lbn - WRITTEN);
    assert_eq!(stats(&target)["data_blocks_used"], WRITTEN);
    drop(client);
    assert!(target.stop().success());
    rig.audit(test);

    let machine = Machine::for_dm_vdo([rig.file()]);
    let mut guest = Guest::boot(kit, machine).unwrap_or_else(|error| panic!("{error}"));
    // The device, its blocks, the least block map cache and the longest block map era there can be.
    let (sectors, blocks) = (LOGICAL * 8, mib * MIB / BLOCK);
    // It loads the index that was saved here.
    let said = guest.tell(&format!(
        "export DM_DISABLE_UDEV=1
         dmsetup create vdo0 --table '0 {sectors} vdo V4 /dev/vda {blocks} 4096 32768 16380'
         for wait in $(seq 300); do
             dmsetup status vdo0 | grep -q ' online ' && break; usleep 200000
         done
         dmsetup status vdo0
         dmesg | grep 'loaded index from chapter 0'"
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

    let target = rig.start(setup);
    let mut client = rig.connect();
    check(&mut client, 0..WRITTEN, |lbn| lbn);
    check(&mut client, WRITTEN..WRITTEN + COPIED, |lbn| lbn - WRITTEN);
    check(&mut client, second..second + WRITTEN, |lbn| lbn - second);
    check(&mut client, third..third + WRITTEN, |lbn| lbn - third);
    let used = stats(&target);
    assert_eq!(used["logical_blocks_used"], 3 * WRITTEN + COPIED);
    // The kernel shared all it wrote with what was there: it found that by the index that was saved here.
    let few = WRITTEN / 20;
    let data = used["data_blocks_used"].as_u64().unwrap();
    assert!((WRITTEN..WRITTEN + few).contains(&data), "{used}");
    // And what it saved is loaded here.
    assert_eq!(used["index_state"], "online");
    let indexed = used["index"]["entries_indexed"].as_u64().unwrap();
    assert!((WRITTEN..WRITTEN + few).contains(&indexed), "{used}");
    let fourth = 3 * LOGICAL / 4;
    fill(&mut client, fourth..fourth + WRITTEN, |lbn| lbn - fourth);
    let again = stats(&target);
    let found = again["index"]["posts_found"].as_u64().unwrap();
    assert!(found * 100 >= WRITTEN * 99, "{again}");
    let new = again["data_blocks_used"].as_u64().unwrap() - data;
    assert_eq!(new, WRITTEN - found, "{again}");
    drop(client);
    assert!(target.stop().success());
    rig.audit(test);
}

/// A guest that has started dm-vdo with compression on the first of `disks`.
fn boot_compressing(kit: &Kit, disks: &[PathBuf]) -> Guest {
    let machine = Machine::for_dm_vdo(disks.iter().cloned());
    let mut guest = Guest::boot(kit, machine).unwrap_or_else(|error| panic!("{error}"));
    let (sectors, blocks) = (LOGICAL * 8, ROOMY * MIB / BLOCK);
    let said = guest.tell(&format!(
        "export DM_DISABLE_UDEV=1
         dmsetup create vdo0 --table '0 {sectors} vdo V4 /dev/vda {blocks} 4096 32768 16380 compression on'
         for wait in $(seq 300); do
             dmsetup status vdo0 | grep -q ' normal - online ' && break; usleep 200000
         done
         dmsetup status vdo0"
    ));
    assert!(said.contains(" normal - online online "), "{said}");
    guest
}

#[test]
fn what_is_compressed_here_is_read_and_shared_by_the_kernel_and_the_other_way_round() {
    let test = "what_is_compressed_here_is_read_and_shared_by_the_kernel_and_the_other_way_round";
    let kit = match Kit::gather(&Recipe::dm_vdo()) {
        Ok(kit) => kit,
        Err(why) => return skipped(test, why),
    };
    let rig = Rig::new(ROOMY);
    let setup = Setup::on("0x3").with("compression", true);
    let target = rig.start(&setup);
    let mut client = rig.connect();
    fill_with(&mut client, 0..WRITTEN, compressible);
    let here = stats(&target);
    let fragments = &here["packer"]["compressed_fragments_written"];
    assert!(fragments.as_u64() > Some(WRITTEN / 2), "{here}");
    drop(client);
    assert!(target.stop().success());
    rig.audit(test);
    let data_blocks = |stats: &serde_json::Value| stats["data_blocks_used"].as_u64().unwrap();
    let own = data_blocks(&here);

    let mut guest = boot_compressing(&kit, &[rig.file()]);
    let (second, third) = (LOGICAL / 4, LOGICAL / 2);
    // The kernel, not compressing, writes what is compressed here: it knows that by the index that was saved here. Then it
    // compresses data of its own, which is that of here with each byte one higher. It overwrites some of what was
    // compressed here with more of that, and unmaps some.
    let (part, last) = (WRITTEN / 8, WRITTEN * 7 / 8);
    let said = guest.tell(&format!(
        "used() {{ dmsetup message vdo0 0 stats | grep -o 'dataBlocksUsed : [0-9]*'; }}
         dd if=/dev/mapper/vdo0 of=/tmp/all bs=4096 count={WRITTEN}
         used
         dmsetup message vdo0 0 compression off
         dd if=/tmp/all of=/dev/mapper/vdo0 bs=4096 seek={second} conv=fsync
         used
         dmsetup message vdo0 0 compression on
         tr '\\000-\\377' '\\001-\\377\\000' </tmp/all >/tmp/higher
         dd if=/tmp/higher of=/dev/mapper/vdo0 bs=4096 seek={third} conv=fsync
         used
         dd if=/tmp/all of=/dev/mapper/vdo0 bs=4096 skip={part} count={part} conv=fsync
         blkdiscard -o $(({last} * 4096)) -l $(({part} * 4096)) /dev/mapper/vdo0 ||
             dd if=/dev/zero of=/dev/mapper/vdo0 bs=4096 seek={last} count={part} conv=fsync
         DM_DISABLE_UDEV=1 dmsetup remove vdo0"
    ));
    guest.power_off().unwrap_or_else(|error| panic!("{error}"));
    rig.audit(test);
    let used: Vec<u64> = said
        .lines()
        .filter_map(|line| line.strip_prefix("dataBlocksUsed : "))
        .map(|number| number.parse().expect("a number"))
        .collect();
    let few = WRITTEN / 20;
    let [first, shared, packed] = used[..] else {
        panic!("{said}");
    };
    assert_eq!(first, own, "blocks of here, as the kernel counts them");
    assert!(
        shared < own + few,
        "the kernel shares what is packed: {said}"
    );
    let theirs = packed - shared;
    // How much it packs depends on how many writes it has under way at once.
    assert!(theirs < WRITTEN - few, "the kernel packed: {said}");

    let target = rig.start(&setup);
    let mut client = rig.connect();
    let higher = |lbn: u64| {
        let data = compressible(lbn);
        data.iter().map(|byte| byte.wrapping_add(1)).collect()
    };
    let zeroes = |_| vec![0; BLOCK as usize];
    let contents = |client: &mut NbdProbe| {
        check_with(client, 0..part, |lbn| compressible(lbn + part));
        check_with(client, part..last, compressible);
        check_with(client, last..last + part, zeroes);
        check_with(client, third..third + WRITTEN, |lbn| higher(lbn - third));
    };
    contents(&mut client);
    check_with(&mut client, second..second + WRITTEN, |lbn| {
        compressible(lbn - second)
    });
    // Without compression: what the kernel packed is found and shared here.
    let options = serde_json::json!({"name": "vdo0", "compression": false});
    target.rpc("bdev_vdo_set_options", options).expect("no");
    let before = data_blocks(&stats(&target));
    let fourth = 3 * LOGICAL / 4;
    fill_with(&mut client, fourth..fourth + WRITTEN, |lbn| {
        higher(lbn - fourth)
    });
    let after = stats(&target);
    assert!(data_blocks(&after) < before + few, "{before}: {after}");
    // Over what was packed here and is shared by the kernel.
    let over = |lbn: u64| higher(lbn + WRITTEN);
    fill_with(&mut client, second..second + WRITTEN / 2, over);
    check_with(&mut client, second..second + WRITTEN / 2, over);
    contents(&mut client);
    drop(client);
    assert!(target.stop().success());
    rig.audit(test);
}

/// Blocks of the files below a folder, each file from the beginning of a block, until there are so many.
fn gather(folder: &Path, blocks: usize) -> Vec<u8> {
    let (all, mut data) = (blocks * BLOCK as usize, Vec::new());
    _ = files_below(folder, &mut |bytes| {
        data.extend(bytes);
        data.resize(data.len().next_multiple_of(BLOCK as usize), 0);
        match data.len() >= all {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    data.truncate(all);
    data
}

/// MiB of files that are written here and there; with `VDO_SAVINGS_MIB=256` it takes some minutes.
const FILES_MIB: u64 = 12;

#[test]
fn the_files_of_this_machine_take_as_many_blocks_here_as_in_the_kernel() {
    let test = "the_files_of_this_machine_take_as_many_blocks_here_as_in_the_kernel";
    let kit = match Kit::gather(&Recipe::dm_vdo()) {
        Ok(kit) => kit,
        Err(why) => return skipped(test, why),
    };
    let wanted = std::env::var("VDO_SAVINGS_MIB").map(|mib| mib.parse().expect("a number of MiB"));
    let blocks = wanted.unwrap_or(FILES_MIB) * MIB / BLOCK;
    let data = gather(Path::new("/usr/lib"), blocks as usize);
    let block = |lbn: u64| data[(lbn * BLOCK) as usize..][..BLOCK as usize].to_vec();
    let blocks = data.len() as u64 / BLOCK;

    let ours = Rig::new(ROOMY);
    let setup = Setup::default().with("compression", true);
    let target = ours.start(&setup);
    let mut client = ours.connect();
    fill_with(&mut client, 0..blocks, block);
    let here = stats(&target)["data_blocks_used"]
        .as_u64()
        .expect("a number");
    drop(client);
    assert!(target.stop().success());
    ours.audit(test);

    let theirs = Rig::new(ROOMY);
    assert!(
        theirs.start(&setup).stop().success(),
        "it is only formatted"
    );
    let files = theirs.path("files");
    std::fs::write(&files, &data).expect("room for the files");
    let mut guest = boot_compressing(&kit, &[theirs.file(), files]);
    let copy = "dd if=/dev/vdb of=/dev/mapper/vdo0 bs=1M conv=fsync
         DM_DISABLE_UDEV=1 dmsetup remove vdo0";
    let answer = guest.run(copy, std::time::Duration::from_secs(1800));
    let answer = answer.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(answer.status, 0, "{}", answer.output);
    guest.power_off().unwrap_or_else(|error| panic!("{error}"));
    theirs.audit(test);
    let target = theirs.start(&setup);
    let there = stats(&target)["data_blocks_used"]
        .as_u64()
        .expect("a number");
    check_with(&mut theirs.connect(), 0..blocks, block);
    assert!(target.stop().success());

    println!("{blocks} blocks of files take {here} blocks here and {there} in the kernel");
    assert!(here < blocks, "{here} of {blocks}");
    assert!(
        here * 100 <= there * 102,
        "{here} here, {there} in the kernel"
    );
}
