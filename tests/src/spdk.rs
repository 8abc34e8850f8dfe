//! Programs built on SPDK, for end-to-end tests: `spdk_vdo_tgt` as a [`Target`], and SPDK's own programs as its peers.
//!
//! A volume is reached over NVMe/TCP on loopback: an [`Export`] is one bdev at one port. Tests talk to it
//! through an [`NvmeProbe`], or let SPDK's `bdevperf`, `spdk_dd` and `spdk_nvme_perf` do so, each a process of its own.
//!
//! SPDK polls: each of these processes keeps a core busy from start to end. So tests take [`turn`]s, and the
//! target works on the first core and its peers on the second.
//!
//! What is installed is looked for under `SPDK_PREFIX` (`/opt/spdk` if it is not set), what is only built under
//! `SPDK_DIR` (`src` there). `spdk_vdo_tgt` is the program `SPDK_VDO_TGT` names, or the one built from this workspace.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::nvme_probe::NvmeProbe;
use crate::rig::{Rig, Setup};
use crate::target::{Options, Program, Target, built};
use crate::tools::skipped;

/// MiB of memory a target takes; SPDK's own pools need most of the first half.
const TARGET_MEMORY: &str = "1024";

/// MiB of memory a peer takes.
const PEER_MEMORY: &str = "512";

/// How long a peer may take beyond what it was told to.
const PEER_PATIENCE: Duration = Duration::from_secs(60);

/// What every program built on SPDK needs to run beside others on a machine without hugepages or NVMe devices.
const MODEST: [&str; 3] = ["--no-huge", "--no-pci", "--disable-cpumask-locks"];

/// Where SPDK is installed.
pub fn prefix() -> PathBuf {
    let prefix = std::env::var_os("SPDK_PREFIX");
    prefix.map_or_else(|| PathBuf::from("/opt/spdk"), PathBuf::from)
}

/// An installed program of SPDK.
pub fn installed(name: &str) -> PathBuf {
    prefix().join("bin").join(name)
}

/// A program of SPDK that is built and not installed, by its path in the source tree.
pub fn in_tree(path: &str) -> PathBuf {
    let tree = std::env::var_os("SPDK_DIR");
    let tree = tree.map_or_else(|| prefix().join("src"), PathBuf::from);
    tree.join(path)
}

/// `bdevperf`, which SPDK builds and does not install.
pub fn bdevperf() -> PathBuf {
    in_tree("build/examples/bdevperf")
}

/// Says whether a program is missing here, and if so prints which, so that the test can return.
pub fn lacking(test: &str, programs: &[PathBuf]) -> bool {
    match programs.iter().find(|program| !program.is_file()) {
        Some(missing) => {
            skipped(test, format_args!("there is no {}", missing.display()));
            true
        }
        None => false,
    }
}

/// The `spdk_vdo_tgt` program.
///
/// # Panics
/// When it cannot be built.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| built("SPDK_VDO_TGT", "spdk", "spdk_vdo_tgt"))
}

/// How to start `spdk_vdo_tgt` with a configuration.
pub fn options(config: Value) -> Options {
    other(program().to_owned(), config)
}

/// How to start SPDK's own target, which has no volumes, with a configuration.
pub fn stock_options(config: Value) -> Options {
    Options {
        cpumask: peer_cpumask().to_owned(),
        ..other(installed("spdk_tgt"), config)
    }
}

fn other(path: PathBuf, config: Value) -> Options {
    let arguments = MODEST.into_iter().chain(["-s", TARGET_MEMORY]);
    Options {
        program: Program::Other {
            path,
            arguments: arguments.map(str::to_owned).collect(),
        },
        config: Some(config),
        ..Options::default()
    }
}

/// The cores of processes beside the target.
fn peer_cpumask() -> &'static str {
    match std::thread::available_parallelism() {
        Ok(cores) if cores.get() > 1 => "0x2",
        _ => "0x1",
    }
}

/// A turn: while one lives no other test has one, in this process or another.
#[derive(Debug)]
pub struct Turn {
    _locked: File,
}

/// Waits for a turn. It is to be taken before the first target of a test, so that it outlives the last.
pub fn turn() -> Turn {
    let path = std::env::temp_dir().join("spdk-vdo-tests.lock");
    let file = File::create(path).expect("there is a place for temporary files");
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .expect("a file can be locked");
    Turn { _locked: file }
}

/// A bdev as the first namespace of a subsystem of its own, at a port of its own.
#[derive(Clone, Debug)]
pub struct Export {
    port: u16,
    nqn: String,
}

impl Export {
    /// A place for a bdev, where nobody listens yet.
    pub fn somewhere() -> Export {
        let free = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let port = free.local_addr().expect("it has an address").port();
        let nqn = format!("nqn.2016-06.io.spdk:port{port}");
        Export { port, nqn }
    }

    /// The port it is served at.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The subsystem's name.
    pub fn nqn(&self) -> &str {
        &self.nqn
    }

    fn address(&self) -> Value {
        json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": self.port.to_string()})
    }

    /// The calls that serve a bdev here, in a program that has the transport.
    pub fn calls(&self, bdev: &str) -> Vec<Value> {
        let call = |method: &str, mut params: Value| {
            params["nqn"] = json!(self.nqn);
            json!({"method": method, "params": params})
        };
        vec![
            call(
                "nvmf_create_subsystem",
                json!({"allow_any_host": true, "serial_number": "SPDKVDO0"}),
            ),
            call("nvmf_subsystem_add_ns", self.namespace(bdev)),
            call(
                "nvmf_subsystem_add_listener",
                json!({"listen_address": self.address()}),
            ),
        ]
    }

    fn namespace(&self, bdev: &str) -> Value {
        json!({"nqn": self.nqn, "namespace": {"nsid": 1, "bdev_name": bdev}})
    }

    /// Serves a bdev here after the one before it went away.
    ///
    /// # Panics
    /// When the target refuses.
    pub fn serve_again(&self, target: &Target, bdev: &str) {
        call(target, "nvmf_subsystem_add_ns", self.namespace(bdev));
    }

    /// Connects to it.
    ///
    /// # Panics
    /// When it is not served.
    pub fn connect(&self) -> NvmeProbe {
        NvmeProbe::connect(self.port, &self.nqn).expect("the bdev is served")
    }

    /// The parameters of `bdev_nvme_attach_controller` that make it a controller of this name.
    pub fn remote(&self, name: &str) -> Value {
        let mut params = self.address();
        params["name"] = json!(name);
        params["subnqn"] = json!(self.nqn);
        params
    }

    /// A configuration that has it as the bdev `remoten1`.
    pub fn remote_config(&self) -> Value {
        crate::target::bdev_config(vec![
            json!({"method": "bdev_nvme_attach_controller", "params": self.remote("remote")}),
        ])
    }

    /// What `spdk_nvme_perf` and others of its kind call a transport ID.
    pub fn transport_id(&self) -> String {
        let Export { port, nqn } = self;
        format!("trtype:TCP adrfam:IPv4 traddr:127.0.0.1 trsvcid:{port} subnqn:{nqn}")
    }
}

/// The call that makes the transport of all [`Export`]s.
pub fn transport() -> Value {
    json!({"method": "nvmf_create_transport", "params": {"trtype": "TCP"}})
}

/// Calls a method that must succeed.
///
/// # Panics
/// When it does not.
pub fn call(target: &Target, method: &str, params: Value) -> Value {
    let answer = target.rpc(method, params.clone());
    answer.unwrap_or_else(|error| panic!("{method} {params}: {error}"))
}

/// Makes a bdev of memory with blocks of 4096 bytes.
///
/// # Panics
/// When the target refuses.
pub fn create_malloc(target: &Target, name: &str, mib: u64) {
    let params = json!({"name": name, "num_blocks": mib * 256, "block_size": 4096});
    call(target, "bdev_malloc_create", params);
}

/// Makes a bdev of a file with blocks of 4096 bytes.
///
/// # Panics
/// When the target refuses.
pub fn create_aio(target: &Target, name: &str, file: &Path) {
    let params = json!({"name": name, "filename": file, "block_size": 4096});
    call(target, "bdev_aio_create", params);
}

/// Serves a bdev over NVMe/TCP.
///
/// # Panics
/// When the target refuses.
pub fn export_nvme_tcp(target: &Target, bdev: &str) -> Export {
    let transports = call(target, "nvmf_get_transports", Value::Null);
    let export = Export::somewhere();
    let mut calls = export.calls(bdev);
    if transports.as_array().is_none_or(Vec::is_empty) {
        calls.insert(0, transport());
    }
    for each in calls {
        let method = each["method"].as_str().expect("a call has a method");
        call(target, method, each["params"].clone());
    }
    export
}

/// Attaches what another program serves, as a controller of this name; the bdev's name.
///
/// # Panics
/// When the target refuses.
pub fn connect_nvme_tcp(target: &Target, export: &Export, name: &str) -> String {
    let bdevs = call(target, "bdev_nvme_attach_controller", export.remote(name));
    let first = bdevs[0].as_str();
    first.expect("a controller has a namespace").to_owned()
}

/// A [`Rig`] whose volume is served over NVMe/TCP by `spdk_vdo_tgt`, always at the same place.
#[derive(Debug)]
pub struct Served {
    /// The file.
    pub rig: Rig,
    /// Where the volume is served.
    pub export: Export,
}

impl Served {
    /// A sparse file of this many MiB.
    pub fn new(mib: u64) -> Served {
        Served {
            rig: Rig::new(mib),
            export: Export::somewhere(),
        }
    }

    /// How to start a target with the volume `vdo0` on the file.
    pub fn options(&self, setup: &Setup) -> Options {
        let mut exports = vec![transport()];
        exports.extend(self.export.calls("vdo0"));
        let config = json!({"subsystems": [
            {"subsystem": "bdev", "config": self.rig.bdev_calls(setup)},
            {"subsystem": "nvmf", "config": exports}]});
        Options {
            cpumask: setup.cpumask.to_owned(),
            ..options(config)
        }
    }

    /// Starts a target.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(&self, setup: &Setup) -> Target {
        Target::start_with(self.options(setup))
    }

    /// A connection to the volume.
    pub fn connect(&self) -> NvmeProbe {
        self.export.connect()
    }
}

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
