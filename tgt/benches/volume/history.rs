//! What earlier runs found: a file with one line for each run, and a loud word if requests cost more than last time.
//!
//! The file is `bench/history.csv`, which git ignores: it is a machine's own memory, and `cargo clean` leaves it alone.
//! Each line begins with the time and the kind of machine, then has the copy's I/O per second, then for each row of the
//! table its I/O per second and its instructions per 4 KiB, empty where there was no valgrind. A line is only compared
//! with the last one of the same kind of machine. Where `CI` is set, figures are kept and nothing is said.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Columns before those of the rows: the time, the kind of machine, the copy.
const BEFORE_ROWS: usize = 3;
/// A row that costs more than so many times what it did is spoken of.
const TOLERATED: f64 = 1.03;

/// One row of the table in one run.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// With one zone thread.
    pub(crate) iops: f64,
    /// For 4 KiB; `None` without valgrind.
    pub(crate) instructions: Option<f64>,
}

/// Adds a run to the history and says what has become dearer; returns where the history is.
///
/// # Errors
/// When the file cannot be read or written.
pub(crate) fn append(copy_iops: f64, entries: &[Entry]) -> io::Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench");
    std::fs::create_dir_all(&folder)?;
    let path = folder.canonicalize()?.join("history.csv");
    let before = if path.exists() {
        std::fs::read_to_string(&path)?
    } else {
        String::new()
    };
    let machine = machine();
    if std::env::var_os("CI").is_none() {
        for dearer in dearer(&before, &machine, entries) {
            eprintln!("!!! MORE INSTRUCTIONS THAN LAST TIME: {dearer}");
        }
    }
    let header = header(entries);
    let mut text = String::new();
    // A row more or less makes a new header, and what is below it is compared by that one.
    if before.lines().rfind(|line| line.starts_with("time,")) != Some(header.as_str()) {
        text = header + "\n";
    }
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = time.map_or(0, |time| time.as_secs());
    text += &format!("{seconds},{machine},{copy_iops:.0}");
    for entry in entries {
        let cost = entry.instructions.map(|cost| format!("{cost:.0}"));
        text += &format!(",{:.0},{}", entry.iops, cost.unwrap_or_default());
    }
    text += "\n";
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    file.write_all(text.as_bytes())?;
    Ok(path)
}

fn header(entries: &[Entry]) -> String {
    let mut header = "time,machine,copy iops".to_owned();
    for entry in entries {
        let name = entry.name.replace(',', "");
        header += &format!(",{name} iops,{name} instructions");
    }
    header
}

/// The rows that cost more than in the last run on such a machine with the same rows, as sentences.
fn dearer(history: &str, machine: &str, entries: &[Entry]) -> Vec<String> {
    let Some((_, since)) = history.rsplit_once(&(header(entries) + "\n")) else {
        return Vec::new();
    };
    let mut lines = since
        .lines()
        .rev()
        .map(|line| line.split(',').collect::<Vec<_>>());
    let Some(last) = lines.find(|line| line.get(1) == Some(&machine)) else {
        return Vec::new();
    };
    let rows = entries.iter().enumerate();
    rows.filter_map(|(row, entry)| {
        let old: f64 = last.get(BEFORE_ROWS + 2 * row + 1)?.parse().ok()?;
        let new = entry.instructions?;
        (new > old * TOLERATED).then(|| {
            let percent = (new / old - 1.0) * 100.0;
            format!("{}: {new:.0}, was {old:.0} (+{percent:.1} %)", entry.name)
        })
    })
    .collect()
}

/// The processor's name and how many there are: what makes two runs comparable.
fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().replace(',', " "))
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{} x {cores}", model.unwrap_or_else(|| "unknown".into()))
}
