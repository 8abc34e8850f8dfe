//! A real Linux kernel as the host of a volume: `spdk_vdo_tgt` serves it over NVMe/TCP on loopback, and a machine
//! that boots one of Debian's kernels connects to it, keeps a file system there and looks after it with its own tools.

use serde_json::Value;
use vdo_tests::guest::{Kit, Lacking, NvmeHost, Recipe};
use vdo_tests::rig::{BLOCK, ROOMY, Setup, stats};
use vdo_tests::spdk::{self, Served};
use vdo_tests::tools::skipped;

/// A host that has booted and a file to serve to it, unless something that takes is missing.
fn stage(test: &str) -> Option<(spdk::Turn, NvmeHost, Served)> {
    stage_with(test, NvmeHost::kit())
}

fn stage_with(test: &str, kit: Result<Kit, Lacking>) -> Option<(spdk::Turn, NvmeHost, Served)> {
    match kit {
        Ok(kit) => {
            spdk::program();
            let turn = spdk::turn();
            Some((turn, NvmeHost::boot(&kit), Served::new(ROOMY)))
        }
        Err(why) => {
            skipped(test, why);
            None
        }
    }
}

/// Makes a file system. Nothing of it is left for later, so that nothing happens behind the test's back.
const MAKE_FILE_SYSTEM: &str =
    "mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 $DEVICE; mount $DEVICE /mnt";

/// Checks a file system that is not mounted, changing nothing; any doubt is a failure.
const CHECK_FILE_SYSTEM: &str = "e2fsck -fn $DEVICE";

/// Blocks of a MiB.
const MIB: i64 = (1 << 20) / BLOCK as i64;

fn count(stats: &Value, pointer: &str) -> i64 {
    let number = stats.pointer(pointer).and_then(Value::as_i64);
    number.unwrap_or_else(|| panic!("no {pointer} in {stats}"))
}

#[test]
fn a_linux_host_keeps_its_files_on_a_volume_and_copies_take_no_room() {
    let test = "a_linux_host_keeps_its_files_on_a_volume_and_copies_take_no_room";
    let Some((_turn, mut host, served)) = stage(test) else {
        return;
    };
    let target = served.start(&Setup::default());

    host.connect(&served.export);
    let shape = host.tell("blockdev --getsize64 $DEVICE; blockdev --getss $DEVICE");
    assert_eq!(shape, "1073741824\n4096\n");
    assert!(host.tell("nvme list").contains("SPDKVDO0"));
    host.tell(MAKE_FILE_SYSTEM);
    host.tell("dd if=/dev/urandom of=/mnt/original bs=1M count=8 && sync");

    let before = stats(&target);
    host.tell("for copy in 1 2 3; do cp /mnt/original /mnt/copy$copy; done; sync");
    let copied = stats(&target);
    let grown = |what| count(&copied, what) - count(&before, what);
    assert!(grown("/logical_blocks_used") >= 24 * MIB, "{copied}");
    // The file system's own notes are all that is new.
    assert!(grown("/data_blocks_used") < MIB, "{before}\n{copied}");
    let shared =
        grown("/hash_lock/dedupe_advice_valid") + grown("/hash_lock/concurrent_data_matches");
    assert!(shared >= 24 * MIB, "{before}\n{copied}");

    host.tell("cd /mnt; sha256sum original copy1 copy2 >/tmp/sums; rm copy3; sync; fstrim /mnt");
    let trimmed = stats(&target);
    let freed = count(&copied, "/logical_blocks_used") - count(&trimmed, "/logical_blocks_used");
    assert!(freed > 7 * MIB, "{copied}\n{trimmed}");
    host.tell("umount /mnt");
    host.tell(CHECK_FILE_SYSTEM);

    host.disconnect(&served.export);
    host.connect(&served.export);
    host.tell("mount -o ro $DEVICE /mnt; cd /mnt; sha256sum -c /tmp/sums; ! test -e copy3; cd /; umount /mnt");
    host.disconnect(&served.export);
    host.power_off();
    assert!(target.stop().success());
    served.rig.audit(test);
}

/// A file system as its owner deals with it.
struct FileSystem {
    make: &'static str,
    check: &'static str,
}

#[test]
fn a_linux_host_with_ext4_writes_on_when_the_target_is_restarted_or_killed_under_it() {
    let test = "a_linux_host_with_ext4_writes_on_when_the_target_is_restarted_or_killed_under_it";
    let file_system = FileSystem {
        make: MAKE_FILE_SYSTEM,
        check: CHECK_FILE_SYSTEM,
    };
    writes_on(test, NvmeHost::kit(), &file_system);
}

#[test]
fn a_linux_host_with_xfs_writes_on_when_the_target_is_restarted_or_killed_under_it() {
    let test = "a_linux_host_with_xfs_writes_on_when_the_target_is_restarted_or_killed_under_it";
    let recipe = Recipe::nvme_host()
        .modules(&["xfs"])
        .programs(&["mkfs.xfs", "xfs_repair"]);
    let file_system = FileSystem {
        make: "mkfs.xfs -q $DEVICE; mount -t xfs $DEVICE /mnt",
        check: "xfs_repair -n $DEVICE",
    };
    writes_on(test, Kit::gather(&recipe), &file_system);
}

fn writes_on(test: &str, kit: Result<Kit, Lacking>, file_system: &FileSystem) {
    let Some((_turn, mut host, served)) = stage_with(test, kit) else {
        return;
    };
    let setup = Setup::default();
    let mut target = served.start(&setup);
    host.connect(&served.export);
    host.tell(file_system.make);
    // Somebody is at work who takes note of each file that is safe.
    host.tell(
        "work() {
             until test -e /tmp/enough; do
                 number=$((number + 1))
                 head -c 300000 /dev/urandom >/tmp/piece
                 dd if=/tmp/piece of=/mnt/$number bs=300000 conv=fsync || return
                 sha256sum </tmp/piece | sed s/-/$number/ >>/tmp/sums
             done
             touch /tmp/finished
         }
         touch /tmp/sums
         (work) </dev/null >/tmp/said 2>&1 &",
    );
    let three_more = "test $(cat /tmp/sums | wc -l) -ge $((before + 3))";
    host.wait_for(three_more);

    for killed in [false, true, true] {
        match killed {
            true => target.kill(),
            false => {
                assert!(target.stop().success());
                served.rig.audit(test);
            }
        }
        host.wait_for_controller("connecting");
        host.tell(
            "cat /tmp/sums | wc -l >/tmp/before; tail -n 1 /tmp/sums | sed 's/.* //' >/tmp/last",
        );
        target = served.start(&setup);
        host.wait_for_controller("live");
        host.wait_for(&format!("before=$(cat /tmp/before); {three_more}"));
        if killed {
            // Of the file that was being written, the host believes blocks safe that were not, as after any loss of a
            // volatile cache that it hears nothing of.
            host.tell("sed -i \"/ $(($(cat /tmp/last) + 1))\\$/d\" /tmp/sums");
        }
    }

    // Then the target is killed and the host gives up: it finds its files when it mounts what comes back.
    target.kill();
    host.wait_for_controller("connecting");
    let nqn = served.export.nqn();
    host.tell(&format!("touch /tmp/enough; nvme disconnect -n {nqn}"));
    host.wait_for("umount /mnt");
    let target = served.start(&setup);
    host.connect(&served.export);
    host.tell("mount $DEVICE /mnt; cd /mnt; sha256sum -c /tmp/sums; cd /; umount /mnt");
    host.tell(file_system.check);
    host.disconnect(&served.export);
    host.power_off();
    assert!(target.stop().success());
    served.rig.audit(test);
}
