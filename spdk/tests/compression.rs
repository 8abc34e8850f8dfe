//! Data that compresses, in `spdk_vdo_tgt`: written over NVMe/TCP while compression is switched, killed, recovered, and read back.

use serde_json::json;
use vdo_tests::probe::Probe;
use vdo_tests::rig::{BLOCK, ROOMY, Setup, check_with, compressible, fill_with, info, stats};
use vdo_tests::spdk::{self, Served, call};

/// Blocks that are written each time.
const BLOCKS: u64 = 2000;

#[test]
fn what_compresses_is_packed_and_comes_back_after_a_kill() {
    let test = "what_compresses_is_packed_and_comes_back_after_a_kill";
    spdk::program();
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let setup = Setup::default().with("compression", true);
    let target = served.start(&setup);
    let mut host = served.connect();
    fill_with(&mut host, 0..BLOCKS, compressible);
    let packed = stats(&target);
    let fragments = packed["packer"]["compressed_fragments_written"].as_u64();
    assert!(fragments > Some(BLOCKS / 2), "{packed}");
    assert_eq!(packed["packer"]["compressed_fragments_in_packer"], 0);
    assert!(
        info(&target)["saving_percent"].as_u64() > Some(25),
        "{packed}"
    );

    let second = |lbn: u64| compressible(lbn + 1);
    for turn in 0..8 {
        let options = json!({"name": "vdo0", "compression": turn % 2 == 0});
        call(&target, "bdev_vdo_set_options", options);
        let share = BLOCKS / 8;
        fill_with(&mut host, turn * share..(turn + 1) * share, second);
    }
    assert_eq!(info(&target)["compression"], false);
    check_with(&mut host, 0..BLOCKS, second);

    call(
        &target,
        "bdev_vdo_set_options",
        json!({"name": "vdo0", "compression": true}),
    );
    fill_with(&mut host, BLOCKS..2 * BLOCKS, compressible);
    let more = (2 * BLOCKS..4 * BLOCKS).map(|lbn| (lbn * BLOCK, compressible(lbn)));
    assert!(host.write_all(more).iter().all(Result::is_ok));
    target.kill();
    drop(host);

    let target = served.start(&setup);
    let mut host = served.connect();
    check_with(&mut host, 0..BLOCKS, second);
    check_with(&mut host, BLOCKS..2 * BLOCKS, compressible);
    drop(host);
    assert!(target.stop().success());
    served.rig.audit(test);
}
