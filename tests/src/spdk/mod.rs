//! Programs built on SPDK, for end-to-end tests: `spdk_vdo_tgt` as a [`Target`], and SPDK's own programs as its peers.
//!
//! A volume is reached over NVMe/TCP on loopback: an [`Export`] is one bdev at one port. Tests talk to it
//! through an [`NvmeProbe`](crate::nvme_probe::NvmeProbe), or a [`Load`] of many requests, or let SPDK's `bdevperf`, `spdk_dd` and `spdk_nvme_perf` do so, each a process of its own.
//!
//! SPDK polls: each of these processes keeps a core busy from start to end. So tests take [`turn`]s, and the
//! target works on the first core and its peers on the second.
//!
//! What is installed is looked for under `SPDK_PREFIX` (`/opt/spdk` if it is not set), what is only built under
//! `SPDK_DIR` (`src` there). `spdk_vdo_tgt` is the program `SPDK_VDO_TGT` names, or the one built from this workspace.

mod export;
mod load;
mod peer;
mod remote;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::target::{Options, Program, Target, built};
use crate::tools::skipped;

pub use self::export::{Export, Served, connect_nvme_tcp, export_nvme_tcp, transport};
pub use self::load::{Load, LoadEnd};
pub use self::peer::{Outcome, Peer, Totals, dd, totals};
pub use self::remote::{Asked, Remote};

/// MiB of memory a target takes; SPDK's own pools need most of the first half.
const TARGET_MEMORY: &str = "1024";

/// What every program built on SPDK needs to run beside others, its own and strangers, on a machine without hugepages
/// or NVMe devices: each of them locks its cores unless it is told not to. (Traces lie in shared memory, which a program
/// that is killed leaves behind.)
pub const MODEST: [&str; 4] = [
    "--no-huge",
    "--no-pci",
    "--disable-cpumask-locks",
    "--num-trace-entries=0",
];

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
