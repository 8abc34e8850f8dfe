//! Data that compresses, in `spdk_vdo_tgt`: written over NVMe/TCP while compression is switched, killed, recovered, and read back.

use serde_json::json;
use vdo_tests::guest::{Kit, NvmeHost, Recipe};
use vdo_tests::probe::Probe;
use vdo_tests::rig::{BLOCK, MIB, ROOMY, Setup, check_with, compressible, fill_with, info, stats};
use vdo_tests::spdk::{self, Served, call};
use vdo_tests::tools::skipped;

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

/// MiB that fio writes each time.
const FIO_MIB: u64 = 8;

#[test]
fn a_linux_hosts_fio_verifies_data_that_compresses_while_compression_is_switched() {
    let test = "a_linux_hosts_fio_verifies_data_that_compresses_while_compression_is_switched";
    let kit = match Kit::gather(&Recipe::nvme_host().programs(&["fio"])) {
        Ok(kit) => kit,
        Err(why) => return skipped(test, why),
    };
    spdk::program();
    let _turn = spdk::turn();
    let mut host = NvmeHost::boot(&kit);
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::default().with("compression", true));
    let compress = |on: bool| {
        let options = json!({"name": "vdo0", "compression": on});
        call(&target, "bdev_vdo_set_options", options);
    };
    let fragments = || {
        let written = &stats(&target)["packer"]["compressed_fragments_written"];
        written.as_u64().expect("a number")
    };
    host.connect(&served.export);
    for percent in [0, 50, 90] {
        let fio = format!(
            "fio --name=one --filename=$DEVICE --ioengine=libaio --iodepth=16 --direct=1 --size={FIO_MIB}m \
             --rw=randwrite --bsrange=4k-64k --refill_buffers --buffer_compress_percentage={percent} --verify=crc32c"
        );
        let before = fragments();
        host.tell(&fio);
        let packed = fragments() - before;
        let blocks = FIO_MIB * MIB / BLOCK;
        let expected = match percent {
            0 => 0..blocks / 100,
            50 => blocks / 10..blocks,
            _ => blocks * 3 / 4..blocks + 1,
        };
        assert!(
            expected.contains(&packed),
            "{packed} of {blocks} blocks at {percent} %"
        );
        // The same while it is switched off and on again.
        host.tell(&format!(
            "({fio} || touch /tmp/failed; touch /tmp/over) </dev/null >/tmp/said 2>&1 &"
        ));
        while !host
            .tell("test ! -e /tmp/over || echo over")
            .contains("over")
        {
            compress(false);
            compress(true);
        }
        host.tell("cat /tmp/said; rm /tmp/over; test ! -e /tmp/failed");
    }
    host.disconnect(&served.export);
    host.power_off();
    assert!(target.stop().success());
    served.rig.audit(test);
}
