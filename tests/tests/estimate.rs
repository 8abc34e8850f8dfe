//! What `vdo_estimate` says is what a volume then uses, and what it cannot read it names.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tempfile::TempDir;
use vdo_tests::nbd_client::NbdClient;
use vdo_tests::target::{Target, bdev_config, built};
use vdo_tests::tools::{files_below, skipped, text};

const BLOCK: usize = 4096;
const MIB: usize = 1 << 20;

/// Bytes of a write.
const WRITE: usize = 64 * 1024;

/// Writes in flight: so many that the volume always has some, and does not take it that no more are coming.
const DEPTH: usize = 32;

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| built("VDO_ESTIMATE", "vdo-estimate", "vdo_estimate"))
}

fn run(arguments: &[&str], paths: &[&Path]) -> Output {
    let mut command = Command::new(program());
    command.args(arguments).args(paths);
    command.output().expect("the program was built")
}

/// The estimate, of what can all be read.
fn estimate(arguments: &[&str], paths: &[&Path]) -> Value {
    let output = run(&[&["--json"], arguments].concat(), paths);
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn number(value: &Value, path: &str) -> u64 {
    let found = value.pointer(path).and_then(Value::as_u64);
    found.unwrap_or_else(|| panic!("{path} in {value:#}"))
}

/// Puts files into a folder: text that compresses more or less, random bytes, copies, zeroes, a hot page, and ends of any length.
fn make_files(folder: &Path) {
    let random = &mut ChaCha8Rng::seed_from_u64(7);
    let words: Vec<String> = (0..2000)
        .map(|_| {
            let letters = random.random_range(2..10);
            (0..letters)
                .map(|_| random.random_range('a'..='z'))
                .collect()
        })
        .collect();
    let save = |name: String, bytes: &[u8]| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("it is in the folder")).expect("a folder");
        fs::write(path, bytes).expect("a file");
    };
    for number in 0..40_usize {
        let length = 20_000 * number + number * number * 13 + 1;
        // The fewer words there are, the more is saved.
        let few = 1 << (number % 11);
        let mut prose = Vec::with_capacity(length + 10);
        while prose.len() < length {
            prose.extend_from_slice(words[random.random_range(0..few)].as_bytes());
            prose.push(b' ');
        }
        save(format!("text/{number}"), &prose);
        if number.is_multiple_of(4) {
            save(format!("copies/{number}"), &prose);
            save(format!("copies/{number} again"), &prose[..prose.len() / 2]);
        }
    }
    for number in 0..8_usize {
        let mut bytes = vec![0; 700_000 + 4097 * number];
        random.fill_bytes(&mut bytes);
        let third = bytes.len() / 3;
        bytes[third..][..100_000].fill(0);
        save(format!("random/{number}"), &bytes);
    }
    let mut pages = Vec::new();
    for number in 0..1500_usize {
        let mut page = [0x11; BLOCK];
        page[7] = (number % 3) as u8;
        pages.extend_from_slice(&page);
        if number.is_multiple_of(10) {
            random.fill_bytes(&mut page);
            pages.extend_from_slice(&page);
        }
    }
    save("pages".to_owned(), &pages);
    save("zeroes".to_owned(), &[0; 300_001]);
    save("nothing".to_owned(), &[]);
}

/// Copies files of this machine into a folder, up to so many bytes.
fn copy_files(from: &Path, folder: &Path, most: usize) {
    let mut taken = 0;
    let mut number = 0;
    let _ = files_below(from, &mut |bytes| {
        number += 1;
        taken += bytes.len();
        fs::write(folder.join(format!("{number:06}")), bytes).expect("a file");
        match taken < most {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    });
}

/// All files in a folder as a file system would write them, one behind the other, each from a new block on.
fn as_blocks(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = files_below(folder, &mut |bytes| {
        all.extend_from_slice(&bytes);
        all.resize(all.len().next_multiple_of(BLOCK), 0);
        ControlFlow::Continue(())
    });
    all
}

/// What a volume says when these bytes have been written to it, over zeroes: so the pages of its block map are there, and nothing has to wait for them.
fn written(bytes: &[u8], compression: bool) -> Value {
    // One at a time, that it has the machine.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let base = tempfile::NamedTempFile::new().expect("a file");
    base.as_file().set_len(3 << 30).expect("a size");
    let target = Target::start(bdev_config(vec![
        json!({"method": "bdev_uring_create", "params": {
            "name": "base0", "filename": base.path(), "block_size": BLOCK}}),
        json!({"method": "bdev_vdo_create", "params": {
            "name": "vdo0", "base_bdev_name": "base0", "slab_size_mib": 32,
            "logical_size_mib": 1024, "compression": compression}}),
    ]));
    let _ = target.export("vdo0");
    let socket = target.path("vdo0.nbd");
    let mut client = NbdClient::connect(&socket, DEPTH, Arc::new(|_, _| {})).expect("a server");
    for data in [&vec![0; bytes.len()][..], bytes] {
        for (at, part) in data.chunks(WRITE).enumerate() {
            client.write((at * WRITE) as u64, part).expect("a write");
        }
        client.flush().expect("a flush");
    }
    drop(client);
    let stats = target.rpc("bdev_vdo_get_stats", json!({"name": "vdo0"}));
    let stats = stats.expect("statistics")[0].clone();
    assert!(target.stop().success());
    stats
}

/// How often a volume is written to at most. Whenever the data does not come for a millisecond, as on a machine that is busy with other things,
/// blocks leave the packer half empty.
const TRIES: usize = 10;

/// Compares the estimate of a folder with volumes that have been written the same, with and without compression.
fn compare(folder: &Path) {
    let estimate = estimate(&["--compression"], &[folder]);
    let bytes = as_blocks(folder);
    let read = (bytes.len() / BLOCK) as u64;
    assert_eq!(number(&estimate, "/blocks/read"), read);

    let stats = written(&bytes, false);
    for (told, counted, written_before) in [
        ("/stored/without_compression", "/data_blocks_used", 0),
        ("/blocks/zero", "/data/zero_blocks", read),
        ("/saved/by_duplicates", "/data/deduplicated_blocks", 0),
    ] {
        let counted = number(&stats, counted) - written_before;
        assert_eq!(number(&estimate, told), counted, "{told}");
    }

    let told = number(&estimate, "/stored/with_compression");
    let used: Vec<u64> = (0..TRIES)
        .map(|_| number(&written(&bytes, true), "/data_blocks_used"))
        .scan(false, |is_near, used| {
            let go_on = !*is_near;
            *is_near = told.abs_diff(used) * 100 <= used;
            go_on.then_some(used)
        })
        .collect();
    let last = used.last().copied().unwrap_or(0);
    eprintln!("{told} told, {used:?} used");
    assert!(
        told.abs_diff(last) * 100 <= last,
        "{told} told, {used:?} used\n{estimate:#}"
    );
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn files_of_every_kind_take_what_was_estimated() {
    let folder = folder();
    make_files(folder.path());
    compare(folder.path());
}

#[test]
fn the_block_map_takes_what_was_estimated() {
    let folder = folder();
    let mut bytes = vec![0; 1000 * BLOCK];
    ChaCha8Rng::seed_from_u64(11).fill_bytes(&mut bytes);
    fs::write(folder.path().join("one"), &bytes).expect("a file");
    let estimate = estimate(&[], &[folder.path()]);
    let overhead = |bytes: &[u8]| number(&written(bytes, false), "/overhead_blocks_used");
    let pages = overhead(&bytes) - overhead(&[]);
    let told = "/indexes/0/without_compression/block_map_blocks";
    assert_eq!(number(&estimate, told), pages);
}

#[test]
fn files_of_this_machine_take_what_was_estimated() {
    for from in ["/usr/lib", "/usr/share"] {
        let folder = folder();
        copy_files(from.as_ref(), folder.path(), 16 * MIB);
        compare(folder.path());
    }
}

/// The order in which threads get at things makes no difference.
#[test]
fn the_same_is_told_with_one_thread_and_with_many() {
    let folder = folder();
    make_files(folder.path());
    let one = estimate(&["-c", "-t", "1"], &[folder.path()]);
    assert_eq!(one, estimate(&["-c", "-t", "13"], &[folder.path()]));
    let mut names = estimate(&[], &[folder.path()]);
    assert_eq!(names["compression"], Value::Null);
    names["compression"] = one["compression"].clone();
    assert_eq!(
        names["stored"]["without_compression"],
        one["stored"]["without_compression"]
    );
    assert_eq!(names["repeats"], one["repeats"]);
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_is_estimated() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("a file"), vec![1; 3 * BLOCK + 1]).expect("a file");
    let socket = UnixListener::bind(path("a socket")).expect("a socket");
    let missing = path("missing");
    let paths = [
        &*missing,
        &path("a socket"),
        &path("a file"),
        Path::new("/dev/zero"),
    ];
    let output = run(&["--json"], &paths);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(told["complete"], json!(false));
    assert_eq!(told["error_count"], json!(3));
    assert_eq!(told["blocks"]["read"], json!(4));
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    for (number, (name, why)) in [
        ("missing", "No such file or directory"),
        ("a socket", "is no file, folder or block device"),
        ("/dev/zero", "is no file, folder or block device"),
    ]
    .into_iter()
    .enumerate()
    {
        let line = log.lines().nth(number).expect("a line for each");
        assert!(line.contains(name) && line.contains(why), "{log}");
        let error = told["errors"][number]["error"].as_str().expect("an error");
        assert!(error.contains(why), "{told:#}");
    }
    drop(socket);

    // In a folder, what is no file takes no blocks, and is no error.
    let report = run(&[], &[folder.path()]);
    let report = text(&report);
    assert!(
        report.contains("1 files in 1 folders, 0 devices: 12.00 KiB"),
        "{report}"
    );
    assert!(!report.contains("NOT ALL"), "{report}");
    let part = text(&run(&[], &paths));
    assert!(part.contains("NOT ALL COULD BE READ: 3 errors"), "{part}");

    for wrong in [
        &["--memory", "0"][..],
        &["--threads", "0"],
        &["--nonsense"],
        &[],
    ] {
        let output = run(wrong, &[]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    }
}

/// Past the cache, and with an end that is no whole block.
#[test]
fn a_block_device_is_read_as_a_file_with_the_same_bytes() {
    let folder = folder();
    let image = folder.path().join("image");
    let mut bytes = vec![0; 3 * MIB + 512];
    ChaCha8Rng::seed_from_u64(9).fill_bytes(&mut bytes);
    bytes.copy_within(..MIB, MIB);
    fs::write(&image, &bytes).expect("a file");
    let test = "a_block_device_is_read_as_a_file_with_the_same_bytes";
    let attached = Command::new("losetup")
        .args(["--find", "--show"])
        .arg(&image)
        .output();
    let device = match attached {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        Ok(output) => return skipped(test, text(&output).trim().replace('\n', ": ")),
        Err(error) => return skipped(test, format!("losetup: {error}")),
    };
    let of_device = run(&["--json", "-c"], &[device.as_ref()]);
    let detached = Command::new("losetup").args(["--detach", &device]).status();
    assert!(
        detached.is_ok_and(|status| status.success()),
        "{device} stays attached"
    );
    assert!(of_device.status.success(), "{}", text(&of_device));
    let of_device: Value = serde_json::from_slice(&of_device.stdout).expect("JSON");
    let of_file = estimate(&["-c"], &[&image]);
    assert_eq!(of_device["blocks"], of_file["blocks"]);
    assert_eq!(of_device["compression"], of_file["compression"]);
    assert_eq!(number(&of_device, "/blocks/read"), 769);
    assert_eq!(number(&of_device, "/blocks/unique"), 513);
    assert_eq!(number(&of_device, "/inputs/devices"), 1);
}

/// Every member that the JSON has is in the documentation.
#[test]
fn the_json_is_documented() {
    let folder = folder();
    fs::write(folder.path().join("one"), [1; BLOCK]).expect("a file");
    let output = run(&["--json", "-c"], &[folder.path(), Path::new("/dev/null")]);
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let page = fs::read_to_string(page).expect("documentation");
    let mut missing = Vec::new();
    let mut left = vec![told];
    while let Some(value) = left.pop() {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    if !page.contains(&format!("`{name}`")) {
                        missing.push(name);
                    }
                    left.push(value);
                }
            }
            Value::Array(values) => left.extend(values),
            _ => {}
        }
    }
    assert!(missing.is_empty(), "{missing:?} are not documented");
}
