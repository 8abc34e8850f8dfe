//! The NBD server against the clients people use: libnbd's tools, qemu's, and fio.

use std::path::Path;

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use vdo_tests::dm_vdo::lacking;
use vdo_tests::target::{Options, Target, bdev_config};
use vdo_tests::tools::run;

const MIB: usize = 1 << 20;

/// A target with a malloc bdev, "disk".
fn target(mib: usize, block_size: usize, cpumask: &str) -> Target {
    let call = json!({"method": "bdev_malloc_create", "params":
        {"name": "disk", "num_blocks": mib * MIB / block_size, "block_size": block_size}});
    let config = Some(bdev_config(vec![call]));
    Target::start_with(Options {
        config,
        cpumask: cpumask.to_owned(),
        ..Options::default()
    })
}

/// A file of data with runs of zeroes in it.
fn image(path: &Path, bytes: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; bytes];
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.fill_bytes(&mut data);
    for piece in data.chunks_mut(MIB).step_by(3) {
        piece.fill(0);
    }
    std::fs::write(path, &data).unwrap();
    data
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn nbdinfo_sees_all_that_is_promised() {
    if lacking("nbdinfo_sees_all_that_is_promised", &["nbdinfo"], false) {
        return;
    }
    let target = target(64, 4096, "0x1");
    let uri = target.export("disk");
    let info: Value = serde_json::from_str(&run("nbdinfo", ["--json", &uri])).unwrap();
    assert_eq!(info["protocol"], "newstyle-fixed");
    assert_eq!(info["structured"], true);
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], 64 * MIB);
    for promise in [
        "can_cache",
        "can_df",
        "can_fast_zero",
        "can_flush",
        "can_fua",
        "can_multi_conn",
        "can_trim",
        "can_zero",
    ] {
        assert_eq!(export[promise], true, "{promise}");
    }
    assert_eq!(export["is_read_only"], false);
    let sizes = [
        &export["block_size_minimum"],
        &export["block_size_preferred"],
        &export["block_size_maximum"],
    ];
    assert_eq!(sizes, [&json!(4096), &json!(4096), &json!(32 * MIB)]);
    assert!(run("nbdinfo", ["--list", &uri]).contains("export=\"disk\""));
    assert_eq!(
        run("nbdinfo", ["--size", &uri]).trim(),
        (64 * MIB).to_string()
    );
    assert!(target.stop().success());
}

#[test]
fn nbdcopy_brings_back_what_it_took_there() {
    if lacking(
        "nbdcopy_brings_back_what_it_took_there",
        &["nbdcopy"],
        false,
    ) {
        return;
    }
    let target = target(64, 512, "0x1");
    let uri = target.export("disk");
    let (there, back) = (target.path("there"), target.path("back"));
    let data = image(&there, 64 * MIB, 1);
    // Several connections, many requests on each, and a flush at the end.
    run("nbdcopy", ["--flush", text(&there), &uri]);
    run(
        "nbdcopy",
        ["--connections=4", "--requests=64", &uri, text(&back)],
    );
    assert!(std::fs::read(&back).unwrap() == data);
    run(
        "nbdcopy",
        [
            "--connections=1",
            "--request-size=33554432",
            &uri,
            text(&back),
        ],
    );
    assert!(
        std::fs::read(&back).unwrap() == data,
        "with the largest requests there are"
    );
    assert!(target.stop().success());
}

#[test]
fn qemu_img_converts_to_and_from_it_and_compares() {
    if lacking(
        "qemu_img_converts_to_and_from_it_and_compares",
        &["qemu-img"],
        false,
    ) {
        return;
    }
    let target = target(64, 4096, "0x1");
    let uri = target.export("disk");
    let (there, back) = (target.path("there"), target.path("back"));
    let data = image(&there, 64 * MIB, 2);
    run(
        "qemu-img",
        [
            "convert",
            "-n",
            "-f",
            "raw",
            "-O",
            "raw",
            text(&there),
            &uri,
        ],
    );
    run(
        "qemu-img",
        ["compare", "-f", "raw", "-F", "raw", text(&there), &uri],
    );
    run(
        "qemu-img",
        ["convert", "-f", "raw", "-O", "raw", &uri, text(&back)],
    );
    assert!(std::fs::read(&back).unwrap() == data);
    assert!(target.stop().success());
}

#[test]
fn qemu_io_writes_zeroes_discards_and_flushes() {
    if lacking(
        "qemu_io_writes_zeroes_discards_and_flushes",
        &["qemu-io"],
        false,
    ) {
        return;
    }
    let target = target(64, 4096, "0x1");
    let uri = target.export("disk");
    let commands = [
        "write -P 0x5a 0 1M",
        "write -f -P 0xa5 1M 64k",
        "write -z 64k 64k",
        "write -z -u 128k 64k",
        "discard 256k 64k",
        "flush",
        "read -P 0x5a 0 64k",
        "read -P 0 64k 128k",
        "read -P 0x5a 192k 64k",
        "read -P 0 256k 64k",
        "read -P 0xa5 1M 64k",
        // Less than a block: qemu reads, changes and writes whole ones.
        "write -P 0x11 2051k 1k",
        "read -P 0x11 2051k 1k",
        "read -P 0 2048k 3k",
        "aio_write -P 0x77 8M 4M",
        "aio_write -P 0x78 12M 4M",
        "aio_flush",
        "read -P 0x78 15M 1M",
    ];
    let mut arguments = vec!["-f", "raw"];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
    arguments.push(&uri);
    let said = run("qemu-io", arguments);
    assert!(
        !said.contains("failed") && !said.contains("verification"),
        "{said}"
    );
    assert!(target.stop().success());
}

/// Runs fio's NBD engine with verification; several jobs with their own connections and ranges.
fn fio(target: &Target, uri: &str, arguments: &[&str]) {
    let mut all = vec![
        "--name=verify",
        "--ioengine=nbd",
        "--rw=randrw",
        "--bs=4k",
        "--iodepth=64",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--size=16m",
        "--offset_increment=16m",
        "--numjobs=4",
        "--group_reporting",
        "--output-format=json",
    ];
    let uri = format!("--uri={uri}");
    all.push(&uri);
    all.extend(arguments);
    let folder = target.path("fio");
    std::fs::create_dir_all(&folder).unwrap();
    let output = std::process::Command::new("fio")
        .args(&all)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "fio {all:?}: {}",
        vdo_tests::tools::text(&output)
    );
}

#[test]
fn fio_verifies_mixed_sizes_on_several_connections() {
    if lacking(
        "fio_verifies_mixed_sizes_on_several_connections",
        &["fio"],
        false,
    ) {
        return;
    }
    for (cpumask, block_size) in [("0x1", 512), ("0x3", 4096)] {
        let target = target(64, block_size, cpumask);
        let uri = target.export("disk");
        fio(&target, &uri, &[]);
        fio(&target, &uri, &["--bsrange=4k-1m"]);
        fio(&target, &uri, &["--rw=randwrite", "--fsync=32"]);
        assert!(target.stop().success());
    }
}

#[test]
fn two_exports_of_one_bdev_show_the_same_data() {
    if lacking(
        "two_exports_of_one_bdev_show_the_same_data",
        &["qemu-io", "nbdcopy"],
        false,
    ) {
        return;
    }
    let target = target(16, 512, "0x1");
    let first = target.export("disk");
    let second = target.path("second.nbd");
    target
        .rpc(
            "nbd_start_disk",
            json!({"bdev_name": "disk", "nbd_device": second}),
        )
        .unwrap();
    run(
        "qemu-io",
        [
            "-f",
            "raw",
            "-c",
            "write -P 0x42 4k 4k",
            "-c",
            "flush",
            &first,
        ],
    );
    let second = vdo_tests::target::nbd_uri(&second);
    run(
        "qemu-io",
        ["-f", "raw", "-c", "read -P 0x42 4k 4k", &second],
    );
    let disks = target.rpc("nbd_get_disks", Value::Null).unwrap();
    assert_eq!(disks.as_array().unwrap().len(), 2);
    assert!(target.stop().success());
}

#[test]
fn a_read_only_bdev_is_exported_read_only() {
    if lacking(
        "a_read_only_bdev_is_exported_read_only",
        &["nbdinfo"],
        false,
    ) {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(16 * MIB as u64).unwrap();
    let call = json!({"method": "bdev_aio_create", "params":
        {"name": "disk", "filename": file.path(), "block_size": 512, "readonly": true}});
    let target = Target::start(bdev_config(vec![call]));
    let uri = target.export("disk");
    assert_eq!(run("nbdinfo", ["--is", "read-only", &uri]), "");
    assert!(target.stop().success());
}
