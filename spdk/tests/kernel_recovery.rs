//! What `docs/operations.md` says about volumes that crashed or turned read-only in `spdk_vdo_tgt`: dm-vdo of Linux puts them
//! right, and they open again.

use serde_json::json;
use vdo_tests::guest::{Guest, Kit, Machine, Recipe};
use vdo_tests::probe::Probe;
use vdo_tests::rig::{BLOCK, Between, MIB, ROOMY, Setup, block, check, fill, info};
use vdo_tests::spdk::{self, Served, Turn, call};
use vdo_tests::tools::skipped;

/// Blocks that are written and flushed before anything goes wrong.
const SAFE: u64 = 3000;

/// What a test needs, unless something is missing.
fn stage(test: &str) -> Option<(Turn, Kit, Served)> {
    let recipe = Recipe::dm_vdo().programs(&["vdoforcerebuild"]);
    match Kit::gather(&recipe) {
        Ok(kit) => {
            spdk::program();
            let turn = spdk::turn();
            Some((turn, kit, Served::new(ROOMY)))
        }
        Err(why) => {
            skipped(test, why);
            None
        }
    }
}

/// Has a Linux machine start the volume and stop it, after `first`, as the manual says.
fn start_and_stop_in_the_kernel(kit: &Kit, served: &Served, first: &str) {
    let machine = Machine::for_dm_vdo([served.rig.file()]);
    let mut guest = Guest::boot(kit, machine).unwrap_or_else(|error| panic!("{error}"));
    let (logical, physical) = (1024 * MIB / BLOCK, ROOMY * MIB / BLOCK);
    let said = guest.tell(&format!(
        "export DM_DISABLE_UDEV=1
         DEVICE=/dev/vda LOGICAL_BLOCKS={logical} PHYSICAL_BLOCKS={physical}
         {first}
         dmsetup create vdo0 --table \"0 $((8 * LOGICAL_BLOCKS)) vdo V4 $DEVICE $PHYSICAL_BLOCKS 4096 32768 16380\"
         for wait in $(seq 300); do
             dmsetup status vdo0 | grep -q ' normal - ' && break; usleep 200000
         done
         dmsetup status vdo0
         dmsetup remove vdo0"
    ));
    assert!(said.contains(" normal - "), "{said}");
    guest.power_off().unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_volume_whose_target_was_killed_is_recovered_by_the_kernel_and_opens_again() {
    let test = "a_volume_whose_target_was_killed_is_recovered_by_the_kernel_and_opens_again";
    let Some((_turn, kit, served)) = stage(test) else {
        return;
    };
    let setup = Setup::default();
    let target = served.start(&setup);
    let mut host = served.connect();
    fill(&mut host, 0..SAFE, |lbn| lbn % 1000);
    let more = host.write_all((SAFE..2 * SAFE).map(|lbn| (lbn * BLOCK, block(lbn))));
    assert!(more.iter().all(Result::is_ok));
    target.kill();
    drop(host);
    start_and_stop_in_the_kernel(&kit, &served, "");
    served.rig.audit(test);
    let target = served.start(&setup);
    let mut host = served.connect();
    check(&mut host, 0..SAFE, |lbn| lbn % 1000);
    fill(&mut host, 0..SAFE, |lbn| lbn);
    drop(host);
    assert!(target.stop().success());
    served.rig.audit(test);
}

#[test]
fn a_volume_that_turned_read_only_is_rebuilt_by_the_kernel_and_opens_again() {
    let test = "a_volume_that_turned_read_only_is_rebuilt_by_the_kernel_and_opens_again";
    let Some((_turn, kit, served)) = stage(test) else {
        return;
    };
    let setup = Setup::over(Between::Errors);
    let target = served.start(&setup);
    let mut host = served.connect();
    fill(&mut host, 0..SAFE, |lbn| lbn % 1000);
    let once = json!({"name": "EE_base", "io_type": "write", "error_type": "failure", "num": 1});
    call(&target, "bdev_error_inject_error", once);
    assert_eq!(
        host.write(SAFE * BLOCK, &block(SAFE)),
        Ok(()),
        "it is not known to be lost yet"
    );
    assert!(host.flush().is_err());
    assert_eq!(info(&target)["mode"], "read-only");
    check(&mut host, 0..SAFE, |lbn| lbn % 1000);
    drop(host);
    let _ = target.stop();
    let target = served.start(&setup);
    assert_eq!(info(&target)["mode"], "read-only");
    check(&mut served.connect(), 0..SAFE, |lbn| lbn % 1000);
    assert!(target.stop().success());

    start_and_stop_in_the_kernel(&kit, &served, "vdoforcerebuild $DEVICE");
    served.rig.audit(test);
    let target = served.start(&Setup::default());
    let mut host = served.connect();
    check(&mut host, 0..SAFE, |lbn| lbn % 1000);
    drop(host);
    assert!(target.stop().success());
    served.rig.audit(test);
}
