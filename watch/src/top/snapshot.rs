//! A file of what is seen: the figures as they are shown, and the target's answer they were worked out from.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::model::Model;

/// Writes a snapshot into a folder, to a file that is not there yet; its path.
///
/// # Errors
/// When the file cannot be written.
pub fn write(model: &Model, folder: &Path) -> io::Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0, |now| now.as_secs());
    let (path, mut file) = new_file(folder, seconds)?;
    let statistics: Vec<Value> = model.sample().map_or(Vec::new(), |sample| {
        let volumes = sample.volumes.iter();
        volumes.map(|volume| volume.statistics.clone()).collect()
    });
    let snapshot = json!({
        "taken_at": seconds,
        "screen": model.screen(),
        "bdev_vdo_get_stats": statistics,
    });
    serde_json::to_writer_pretty(&mut file, &snapshot)?;
    file.write_all(b"\n")?;
    Ok(path)
}

/// A file that is named after the second, with a number behind it if there is one already.
fn new_file(folder: &Path, seconds: u64) -> io::Result<(PathBuf, File)> {
    let mut number = 0;
    loop {
        let behind = match number {
            0 => String::new(),
            number => format!("-{number}"),
        };
        let path = folder.join(format!("vdo_top-{seconds}{behind}.json"));
        match File::create_new(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 100 => {
                number += 1;
            }
            Err(error) => return Err(error),
        }
    }
}
