//! A volume under the clients people use, on one core and on two; after each, dm-vdo's own checker looks at
//! what is left on the device.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use vdo_tests::dm_vdo::lacking;
use vdo_tests::rig::{BLOCK, MIB, ROOMY, Rig, Setup, block, info, stats};
use vdo_tests::target::Target;
use vdo_tests::tools::{run, text};

/// Stops the target and checks the volume.
fn end(target: Target, rig: &Rig, test: &str) {
    let log = target.path("log");
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    assert!(target.stop().success(), "{said}");
    rig.audit(test);
}

fn fio(target: &Target, rig: &Rig, arguments: &[&str]) {
    let uri = format!("--uri={}", rig.uri());
    let mut all = vec![
        "--name=verify",
        "--ioengine=nbd",
        "--iodepth=32",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--size=12m",
        "--offset_increment=12m",
        "--numjobs=3",
        "--thread",
        "--group_reporting",
        "--output-format=json",
        &uri,
    ];
    all.extend(arguments);
    let folder = target.path("fio");
    std::fs::create_dir_all(&folder).unwrap();
    let output = Command::new("fio")
        .args(&all)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "fio {all:?}: {}", text(&output));
}

fn fio_on(cpumask: &'static str, test: &str) {
    if lacking(test, &["fio"], false) {
        return;
    }
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::on(cpumask));
    let zones = cpumask
        .trim_start_matches("0x")
        .parse::<u64>()
        .unwrap()
        .count_ones();
    assert_eq!(info(&target)["zones"], zones);
    fio(&target, &rig, &["--rw=randwrite", "--bs=4k"]);
    fio(&target, &rig, &["--rw=randrw", "--bsrange=4k-256k"]);
    fio(&target, &rig, &["--rw=randwrite", "--bs=4k", "--fsync=16"]);
    // What is trimmed is written anew; nothing is verified that may be gone.
    fio(
        &target,
        &rig,
        &["--rw=randtrimwrite", "--bs=8k", "--verify=0"],
    );
    let before = stats(&target);
    fio(
        &target,
        &rig,
        &[
            "--rw=randwrite",
            "--bs=4k",
            "--verify=0",
            "--dedupe_percentage=80",
        ],
    );
    let after = stats(&target);
    let shared = |stats: &serde_json::Value| stats["data"]["deduplicated_blocks"].as_u64().unwrap();
    let blocks = 3 * 12 * MIB / BLOCK;
    assert!(
        shared(&after) - shared(&before) > blocks / 2,
        "of {blocks} blocks, four fifths copies: {after}"
    );
    assert_eq!(after["mode"], "normal");
    end(target, &rig, test);
}

#[test]
fn fio_verifies_data_that_compresses_while_compression_is_switched() {
    let test = "fio_verifies_data_that_compresses_while_compression_is_switched";
    if lacking(test, &["fio"], false) {
        return;
    }
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::on("0x3").with("compression", true));
    let compress = |on: bool| {
        let options = json!({"name": "vdo0", "compression": on});
        assert_eq!(target.rpc("bdev_vdo_set_options", options), Ok(json!(true)));
    };
    let over = AtomicBool::new(false);
    for percent in [0, 50, 90] {
        let before = stats(&target);
        let compressible = format!("--buffer_compress_percentage={percent}");
        let usual = [
            "--refill_buffers",
            "--rw=randwrite",
            "--bsrange=4k-64k",
            &compressible,
        ];
        fio(&target, &rig, &usual);
        let after = stats(&target);
        let fragments = |stats: &serde_json::Value| {
            let written = &stats["packer"]["compressed_fragments_written"];
            written.as_u64().unwrap()
        };
        let packed = fragments(&after) - fragments(&before);
        let blocks = 3 * 12 * MIB / BLOCK;
        let least = match percent {
            0 => 0,
            50 => blocks / 10,
            _ => blocks * 3 / 4,
        };
        assert!(
            packed >= least,
            "{packed} of {blocks} blocks at {percent} %"
        );
        assert!(percent > 0 || packed < blocks / 100, "{packed} at random");

        // The same while it is switched on and off.
        over.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 0.. {
                    if over.load(Ordering::Relaxed) {
                        return compress(true);
                    }
                    compress(turn % 2 == 0);
                    std::thread::sleep(Duration::from_millis(15));
                }
            });
            fio(&target, &rig, &usual);
            over.store(true, Ordering::Relaxed);
        });
    }
    let packer = &stats(&target)["packer"];
    assert_eq!(packer["compressed_fragments_in_packer"], 0, "{packer}");
    end(target, &rig, test);
}

#[test]
fn fio_verifies_all_its_data_on_one_zone_thread() {
    fio_on("0x1", "fio_verifies_all_its_data_on_one_zone_thread");
}

#[test]
fn fio_verifies_all_its_data_on_two_zone_threads() {
    fio_on("0x3", "fio_verifies_all_its_data_on_two_zone_threads");
}

/// A file in which there is a bit of everything: unique blocks, copies, zeroes.
fn image(path: &Path, blocks: u64) -> Vec<u8> {
    let data: Vec<u8> = (0..blocks)
        .flat_map(|at| match at / 64 % 4 {
            0 => vec![0; BLOCK as usize],
            1 => block(at % 7),
            _ => block(1000 + at),
        })
        .collect();
    std::fs::write(path, &data).unwrap();
    data
}

#[test]
fn nbdcopy_and_qemu_img_bring_back_what_they_took_there() {
    let test = "nbdcopy_and_qemu_img_bring_back_what_they_took_there";
    if lacking(test, &["nbdcopy", "qemu-img"], false) {
        return;
    }
    let rig = Rig::new(ROOMY);
    // As large as the file to copy, so that whole devices can be compared.
    let setup = Setup::on("0x3").with("logical_size_mib", 48);
    let target = rig.start(&setup);
    let (there, back) = (rig.path("there"), rig.path("back"));
    let (there_text, back_text) = (there.to_str().unwrap(), back.to_str().unwrap());
    let data = image(&there, 48 * MIB / BLOCK);
    run("nbdcopy", ["--flush", there_text, &rig.uri()]);
    run(
        "nbdcopy",
        ["--connections=4", "--requests=64", &rig.uri(), back_text],
    );
    assert!(std::fs::read(&back).unwrap() == data);
    let target = target.restart();
    run(
        "qemu-img",
        ["compare", "-f", "raw", "-F", "raw", there_text, &rig.uri()],
    );
    // Over what is there, with other data and other requests.
    let shifted: Vec<u8> = data[BLOCK as usize..]
        .iter()
        .chain(&data[..BLOCK as usize])
        .copied()
        .collect();
    std::fs::write(&there, &shifted).unwrap();
    run(
        "qemu-img",
        [
            "convert",
            "-n",
            "-f",
            "raw",
            "-O",
            "raw",
            there_text,
            &rig.uri(),
        ],
    );
    run(
        "qemu-img",
        ["convert", "-f", "raw", "-O", "raw", &rig.uri(), back_text],
    );
    assert!(std::fs::read(&back).unwrap() == shifted);
    end(target, &rig, test);
}

#[test]
fn qemu_io_writes_parts_of_blocks_zeroes_discards_and_flushes() {
    let test = "qemu_io_writes_parts_of_blocks_zeroes_discards_and_flushes";
    if lacking(test, &["qemu-io"], false) {
        return;
    }
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::on("0x3"));
    let qemu_io = |commands: &[&str]| {
        let mut arguments = vec!["-f", "raw"];
        arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
        let uri = rig.uri();
        arguments.push(&uri);
        let said = run("qemu-io", arguments);
        assert!(
            !said.contains("failed") && !said.contains("erification"),
            "{said}"
        );
    };
    qemu_io(&[
        "write -P 0x5a 0 1M",
        "write -f -P 0xa5 1M 64k",
        "write -z 64k 64k",
        "write -z -u 128k 64k",
        "discard 256k 64k",
        "discard 513M 64M",
        "flush",
        "read -P 0x5a 0 64k",
        "read -P 0 64k 128k",
        "read -P 0x5a 192k 64k",
        "read -P 0 256k 64k",
        "read -P 0xa5 1M 64k",
        "read -P 0 512M 16M",
        // Less than a block: qemu reads, changes and writes whole ones.
        "write -P 0x11 2051k 1k",
        "write -P 0x22 2054k 7k",
        "read -P 0 2048k 3k",
        "read -P 0x11 2051k 1k",
        "read -P 0x22 2054k 7k",
        "read -P 0 2061k 3k",
        "aio_write -P 0x77 8M 4M",
        "aio_write -P 0x78 12M 4M",
        "aio_write -z 16M 4M",
        "aio_flush",
        "read -P 0x78 15M 1M",
    ]);
    let used = stats(&target);
    assert!(
        used["data"]["zero_blocks"].as_u64().unwrap() >= 16,
        "{used}"
    );
    let target = target.restart();
    qemu_io(&[
        "read -P 0x5a 192k 64k",
        "read -P 0 256k 64k",
        "read -P 0xa5 1M 64k",
        "read -P 0x22 2054k 7k",
        "read -P 0x77 8M 4M",
        "read -P 0 16M 8M",
        // All of it goes, and its blocks come free.
        "discard 0 32M",
        "flush",
        "read -P 0 0 32M",
    ]);
    assert_eq!(info(&target)["data_blocks_used"], 0);
    end(target, &rig, test);
}
