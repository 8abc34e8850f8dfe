//! Programs from outside that tests drive, and files of the machine that they take for data.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Output};

/// Runs a program and returns what it wrote to its standard output.
///
/// # Panics
/// When it cannot be run or fails; what it wrote is in the message.
pub fn run<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// All that a program wrote, and how it ended.
pub fn text(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    format!("{}\n{out}{err}", output.status)
}

/// Says that a test could not run here, and why. Goes past the capture of test output, so that no test is
/// left out without being named.
pub fn skipped(test: &str, why: impl std::fmt::Display) {
    let line = format!("skipped: {test}: {why}\n");
    // Nothing can be done about a standard output that is closed.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes());
}

/// Hands out what is in each file in a folder and below, in the order of their paths, until `take` has enough. What cannot be
/// read is left out, or empty.
pub fn files_below(
    folder: &Path,
    take: &mut impl FnMut(Vec<u8>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(about) = path.symlink_metadata() else {
            continue;
        };
        if about.is_dir() {
            files_below(&path, take)?;
        } else if about.is_file() {
            take(std::fs::read(&path).unwrap_or_default())?;
        }
    }
    ControlFlow::Continue(())
}
