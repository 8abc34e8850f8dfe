//! `make demo`: a volume on a file, real data through NBD, and what became of it.
//!
//! 1. The files of this machine, end to end and each from a new block on, are an *archive* as a backup
//!    would see it. It is written to the volume twice; in the second copy one block in a hundred differs.
//! 2. All of it is read back and compared, byte by byte.
//! 3. A table says what was written, what is stored, and which paths the writes took.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use vdo_tests::nbd_client::NbdClient;
use vdo_tests::target::{Target, bdev_config};

const BLOCK: usize = 4096;
/// Bytes of one copy of the archive.
const ARCHIVE: usize = 192 << 20;
const DEPTH: usize = 64;
/// One block in so many differs between the copies.
const CHANGED: usize = 100;

/// Adds the files below `folder` to the archive, in order of name, until it is full.
fn collect(folder: &Path, archive: &mut Vec<u8>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(kind) = fs::symlink_metadata(&path) else {
            continue;
        };
        if kind.is_dir() {
            collect(&path, archive);
        } else if kind.is_file()
            && archive.len() + kind.len() as usize <= ARCHIVE
            && let Ok(bytes) = fs::read(&path)
        {
            archive.extend_from_slice(&bytes);
            archive.resize(archive.len().next_multiple_of(BLOCK), 0);
        }
        if archive.len() >= ARCHIVE - BLOCK {
            return;
        }
    }
}

/// The archive, and empty space after it as a disk image would have.
fn archive() -> Vec<u8> {
    let mut archive = Vec::with_capacity(ARCHIVE);
    for folder in ["/usr/share/doc", "/usr/lib", "/usr/bin", "/usr"] {
        collect(Path::new(folder), &mut archive);
    }
    let used = archive.len();
    archive.resize(used + used / 10 / BLOCK * BLOCK, 0);
    archive
}

fn changed(archive: &[u8]) -> Vec<u8> {
    let mut copy = archive.to_vec();
    for (number, block) in copy.chunks_mut(BLOCK).enumerate().step_by(CHANGED) {
        block[..8].copy_from_slice(&(number as u64 ^ 0x5bd1_e995_0000_0000).to_le_bytes());
    }
    copy
}

fn progress(what: &str, bytes: usize) -> ProgressBar {
    let style = "{msg:<22} {wide_bar} {bytes:>11} of {total_bytes}  {bytes_per_sec}";
    let bar = ProgressBar::new(bytes as u64).with_message(what.to_owned());
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar
}

fn write(client: &mut NbdClient, what: &str, at: u64, data: &[u8]) -> io::Result<Duration> {
    let bar = progress(what, data.len());
    let start = Instant::now();
    for (number, block) in data.chunks(BLOCK).enumerate() {
        client.write(at + (number * BLOCK) as u64, block)?;
        if number % 256 == 0 {
            bar.set_position((number * BLOCK) as u64);
        }
    }
    client.flush()?;
    bar.finish();
    Ok(start.elapsed())
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    println!("Collecting files of this machine ...");
    let first = archive();
    let second = changed(&first);
    let size = first.len();

    let base = tempfile::Builder::new().prefix("vdo-demo").tempfile()?;
    base.as_file().set_len(4 << 30)?;
    println!("Starting vdo_tgt: a volume of 8 GiB on a file of 4 GiB ...");
    let target = Target::start(bdev_config(vec![
        json!({"method": "bdev_uring_create", "params": {
            "name": "base0", "filename": base.path(), "block_size": BLOCK}}),
        json!({"method": "bdev_vdo_create", "params": {
            "name": "vdo0", "base_bdev_name": "base0", "slab_size_mib": 128,
            "logical_size_mib": 8192}}),
    ]));
    let socket = target.path("vdo0.sock");
    target.rpc(
        "nbd_start_disk",
        json!({"bdev_name": "vdo0", "nbd_device": socket}),
    )?;

    let expected: Arc<(Vec<u8>, Vec<u8>)> = Arc::new((first, second));
    let read = Arc::new(AtomicU64::new(0));
    let wrong = Arc::new(Mutex::new(None));
    let (known, count, mismatch) = (Arc::clone(&expected), Arc::clone(&read), Arc::clone(&wrong));
    let sink = move |offset: u64, data: &[u8]| {
        let at = offset as usize;
        let wanted = if at < size {
            &known.0[at..]
        } else {
            &known.1[at - size..]
        };
        if data != &wanted[..data.len()]
            && let Ok(mut wrong) = mismatch.lock()
        {
            wrong.get_or_insert(offset);
        }
        count.fetch_add(data.len() as u64, Ordering::Relaxed);
    };
    let mut client = NbdClient::connect(&socket, DEPTH, Arc::new(sink))?;

    let one = write(&mut client, "Writing the first copy", 0, &expected.0)?;
    let two = write(&mut client, "Writing the second", size as u64, &expected.1)?;
    let bar = progress("Reading both back", 2 * size);
    let start = Instant::now();
    for block in 0..2 * size / BLOCK {
        client.read((block * BLOCK) as u64, BLOCK as u32)?;
        if block % 256 == 0 {
            bar.set_position(read.load(Ordering::Relaxed));
        }
    }
    client.wait()?;
    let reading = start.elapsed();
    bar.finish();
    drop(client);
    if let Ok(wrong) = wrong.lock()
        && let Some(offset) = *wrong
    {
        return Err(format!("byte {offset} and after read back differently than written").into());
    }
    let stats = target.rpc("bdev_vdo_get_stats", json!({"name": "vdo0"}))?;
    if !target.stop().success() {
        return Err("vdo_tgt did not stop cleanly".into());
    }
    report(
        &stats[0],
        size,
        &[("first copy", one), ("second copy", two)],
        reading,
    );
    Ok(())
}

fn report(stats: &Value, size: usize, writes: &[(&str, Duration)], reading: Duration) {
    let number = |path: &str| stats.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let blocks = (2 * size / BLOCK) as u64;
    let share = |part: u64| {
        format!(
            "{} ({:.1} %)",
            HumanCount(part),
            part as f64 * 100.0 / blocks as f64
        )
    };
    let per_second = |blocks: u64, time: Duration| {
        let rate = (blocks as f64 / time.as_secs_f64()) as u64;
        format!(
            "{} IOPS, {}/s",
            HumanCount(rate),
            HumanBytes(rate * BLOCK as u64)
        )
    };
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row(
        "written",
        format!(
            "{} blocks, {}",
            HumanCount(blocks),
            HumanBytes(2 * size as u64)
        ),
    );
    row("read back and equal", "every byte".to_owned());
    row("blocks stored", share(number("/data/new_blocks")));
    row(
        "saved by deduplication",
        share(number("/data/deduplicated_blocks")),
    );
    row("saved as zero blocks", share(number("/data/zero_blocks")));
    for (name, time) in writes {
        row(&format!("writing, {name}"), per_second(blocks / 2, *time));
    }
    row("reading", per_second(blocks, reading));
    let state = stats
        .pointer("/index_state")
        .and_then(Value::as_str)
        .unwrap_or("unknown");
    row(
        "index",
        format!(
            "{state}, {} records",
            HumanCount(number("/index/entries_indexed"))
        ),
    );
    row(
        "advice of the index",
        format!(
            "{} right, {} wrong, {} too late",
            HumanCount(number("/hash_lock/dedupe_advice_valid")),
            HumanCount(number("/hash_lock/dedupe_advice_stale")),
            HumanCount(number("/dedupe_advice_timeouts")),
        ),
    );
    row(
        "met in flight",
        HumanCount(number("/hash_lock/concurrent_data_matches")).to_string(),
    );
    let states = [
        "querying",
        "locking",
        "verifying",
        "writing",
        "deduping",
        "updating",
        "unlocking",
    ];
    let paths = states.map(|state| {
        format!(
            "{state} {}",
            HumanCount(number(&format!("/hash_lock_paths/{state}")))
        )
    });
    row("hash-lock states", paths.join("\n"));
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
}

fn main() {
    if let Err(error) = run() {
        eprintln!("demo: {error}");
        std::process::exit(1);
    }
}
