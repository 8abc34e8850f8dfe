//! SPDK's own programs as peers: `bdevperf`, `spdk_dd` and `spdk_nvme_perf`, each a process of its own that reaches the
//! target over NVMe/TCP.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::{Export, MODEST, bdevperf, installed, peer_cpumask};

/// MiB of memory a peer takes.
const PEER_MEMORY: &str = "512";

/// How long a peer may take beyond what it was told to.
const PEER_PATIENCE: Duration = Duration::from_secs(60);

/// One of SPDK's own programs at work; what it says goes into a file. It is killed when it is dropped.
#[derive(Debug)]
pub struct Peer {
    folder: TempDir,
    child: Child,
    what: String,
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// All that it said.
    pub text: String,
}

impl Peer {
    /// Starts a program of SPDK's application framework with a configuration.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(program: &Path, config: &Value, arguments: &[&str]) -> Peer {
        let folder = tempfile::tempdir().expect("the system has room for a folder");
        let file = folder.path().join("config.json");
        std::fs::write(&file, config.to_string()).expect("the folder is ours");
        let mut command = Command::new(program);
        command
            .args(MODEST)
            .args(["-s", PEER_MEMORY, "-m", peer_cpumask()]);
        command.arg("-c").arg(file);
        command.arg("-r").arg(folder.path().join("rpc.sock"));
        Peer::spawn(folder, command, arguments)
    }

    /// Starts `bdevperf` on what is exported.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn bdevperf(export: &Export, arguments: &[&str]) -> Peer {
        Peer::start(&bdevperf(), &export.remote_config(), arguments)
    }

    /// Starts `spdk_nvme_perf` on what is exported.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn nvme_perf(export: &Export, arguments: &[&str]) -> Peer {
        let folder = tempfile::tempdir().expect("the system has room for a folder");
        let mut command = Command::new(installed("spdk_nvme_perf"));
        command.args(["--no-huge", "-s", PEER_MEMORY, "-c", peer_cpumask()]);
        command.args(["-r", &export.transport_id()]);
        Peer::spawn(folder, command, arguments)
    }

    fn spawn(folder: TempDir, mut command: Command, arguments: &[&str]) -> Peer {
        let log = File::create(folder.path().join("log")).expect("the folder is ours");
        command.args(arguments).current_dir(folder.path());
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be opened twice"))
            .stderr(log);
        let what = format!("{command:?}");
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        Peer {
            folder,
            child,
            what,
        }
    }

    /// All that it has said.
    pub fn text(&self) -> String {
        let text = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits until it says something.
    ///
    /// # Panics
    /// When it does not, or ends before.
    pub fn wait_for(&mut self, word: &str) {
        let begun = Instant::now();
        while !self.text().contains(word) {
            let ended = self
                .child
                .try_wait()
                .expect("the child is ours to wait for");
            assert!(
                ended.is_none() && begun.elapsed() < PEER_PATIENCE,
                "{}: {ended:?} without {word:?}:\n{}",
                self.what,
                self.text()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn finish(mut self) -> Outcome {
        let begun = Instant::now();
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .expect("the child is ours to wait for")
            {
                return Outcome {
                    status,
                    text: self.text(),
                };
            }
            assert!(
                begun.elapsed() < PEER_PATIENCE,
                "{} does not end:\n{}",
                self.what,
                self.text()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end, which must be a good one; what it said.
    ///
    /// # Panics
    /// When it fails.
    pub fn succeed(self) -> String {
        let what = self.what.clone();
        let outcome = self.finish();
        assert!(
            outcome.status.success(),
            "{what}: {}\n{}",
            outcome.status,
            outcome.text
        );
        outcome.text
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies with `spdk_dd`, between files and what is exported, which is the bdev `remoten1`.
///
/// # Panics
/// When it fails.
pub fn dd(export: &Export, arguments: &[&str]) {
    Peer::start(&installed("spdk_dd"), &export.remote_config(), arguments).succeed();
}

/// The line of totals of `bdevperf`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Totals {
    /// Requests that ended, well or not, in a second.
    pub iops: f64,
    /// Requests that failed in a second.
    pub failed: f64,
}

/// Finds the totals in what `bdevperf` said.
///
/// # Panics
/// When they are not there.
pub fn totals(text: &str) -> Totals {
    let figures = text.lines().rev().find_map(|line| {
        let figures = line
            .trim()
            .strip_prefix("Total")?
            .trim()
            .strip_prefix(':')?;
        figures
            .split_whitespace()
            .map(|figure| figure.parse().ok())
            .collect::<Option<Vec<f64>>>()
    });
    match figures.as_deref() {
        Some([iops, _, failed, ..]) => Totals {
            iops: *iops,
            failed: *failed,
        },
        _ => panic!("no totals in:\n{text}"),
    }
}
