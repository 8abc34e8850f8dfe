//! `spdk_vdo_tgt` killed in the midst of work, again and again, under hosts that come by NVMe/TCP.

use serde_json::json;
use vdo_tests::nvme_probe::NvmeProbe;
use vdo_tests::rig::{BLOCK, ROOMY, Setup, stats};
use vdo_tests::script::Script;
use vdo_tests::spdk::{self, Served};
use vdo_tests::target::Target;
use vdo_tests::work::{check_ledger, kill_again_and_again, rounds};

#[test]
fn a_target_that_is_killed_again_and_again_loses_nothing_that_was_flushed() {
    let test = "a_target_that_is_killed_again_and_again_loses_nothing_that_was_flushed";
    spdk::program();
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let rounds = rounds(6);
    let start = |round| {
        let cpumask = ["0x1", "0x3"][round as usize % 2];
        let mut options = served.options(&Setup::on(cpumask).with("slab_size_mib", 2));
        // Half of them on an aio bdev, which unlike a uring bdev has flushes.
        if round % 4 < 2 {
            let calls = &mut options.config.as_mut().unwrap()["subsystems"][0]["config"];
            calls[0] = json!({"method": "bdev_aio_create", "params":
                {"name": "base", "filename": served.rig.file(), "block_size": BLOCK}});
        }
        let target = Target::start_with(options);
        assert_eq!(stats(&target)["complete_recoveries"], round);
        target
    };
    let connect = || NvmeProbe::connect(served.export.port(), served.export.nqn());
    let script = Script {
        seed: 22,
        compressible: false,
    };
    let ledger = kill_again_and_again(script, rounds, start, connect);
    let target = start(rounds);
    check_ledger(&ledger, connect);
    assert!(target.stop().success());
    served.rig.audit(test);
}
