//! A volume beside SPDK's passthru bdev, both on a malloc bdev, under SPDK's own `bdevperf`: in its process on one
//! core, and over NVMe/TCP on loopback with the target on one core and `bdevperf` on another.
//!
//! Each row compares what ran one after the other in one run. On one core a reactor never rests, so its figures are
//! I/Os per second of processor time, which others on the machine take away from less. Every process begins with a
//! fresh volume of 256 MiB:
//! - unique writes: random, every block written is a new one;
//! - duplicate writes: random, the same 64 blocks over and over;
//! - random reads: of blocks that are mapped, each to data of its own.

use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use tempfile::TempDir;
use vdo_rpc::client::RpcClient;
use vdo_tests::spdk::{Export, transport};

/// Seconds that each figure is measured for.
const SECONDS: u64 = 4;

/// Requests in flight.
const DEPTH: u64 = 64;

/// Blocks of the bdevs under test.
const BLOCKS: u64 = 65536;

/// Blocks of the malloc bdev under the volume: room for the index, which is not used here, and the slabs.
const BASE_BLOCKS: u64 = 921_600;

/// MiB of memory of a process with such a malloc bdev, and of one without.
const LARGE: u64 = 4700;
const SMALL: u64 = 1400;

/// How long a process may take to come up: its memory is cleared first.
const PATIENCE: Duration = Duration::from_secs(120);

/// What lies on the malloc bdev.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Passthru,
    Vdo,
}

impl Kind {
    fn calls(self) -> Vec<Value> {
        let malloc = |blocks: u64| {
            json!({"method": "bdev_malloc_create", "params":
                {"name": "Malloc0", "num_blocks": blocks, "block_size": 4096}})
        };
        match self {
            Kind::Passthru => vec![
                malloc(BLOCKS),
                json!({"method": "bdev_passthru_create", "params":
                    {"name": "under_test", "base_bdev_name": "Malloc0"}}),
            ],
            Kind::Vdo => vec![
                malloc(BASE_BLOCKS),
                json!({"method": "bdev_vdo_create", "params":
                    {"name": "under_test", "base_bdev_name": "Malloc0", "slab_size_mib": 128,
                     "logical_size_mib": BLOCKS / 256}}),
            ],
        }
    }

    fn memory(self) -> u64 {
        if self == Kind::Vdo { LARGE } else { SMALL }
    }
}

/// What writes contain.
#[derive(Clone, Copy, PartialEq)]
enum Data {
    Unique,
    Repeated,
}

/// A program built on SPDK; killed when dropped.
struct Process {
    child: Child,
    rpc: RpcClient,
    _folder: TempDir,
}

impl Process {
    fn start(
        program: &Path,
        core: &str,
        memory: u64,
        config: &Value,
        data: Option<Data>,
    ) -> Result<Process, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (socket, file) = (
            folder.path().join("rpc.sock"),
            folder.path().join("config.json"),
        );
        std::fs::write(&file, config.to_string()).map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args([
            "--no-pci",
            "--num-trace-entries=0",
            "--disable-cpumask-locks",
            "-m",
            core,
            "-s",
            &memory.to_string(),
        ]);
        if free_hugepages_mib() < memory {
            command.arg("--no-huge");
        }
        command.arg("-r").arg(&socket).arg("-c").arg(&file);
        if let Some(data) = data {
            let (depth, seconds) = (DEPTH.to_string(), SECONDS.to_string());
            command.args([
                "-z",
                "-q",
                &depth,
                "-o",
                "4096",
                "-w",
                "randwrite",
                "-t",
                &seconds,
            ]);
            match data {
                Data::Unique => command.arg("-U"),
                Data::Repeated => command.env("BDEVPERF_REPEAT", "1"),
            };
        }
        let log =
            std::fs::File::create(folder.path().join("log")).map_err(|error| error.to_string())?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let mut child = command
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let begun = Instant::now();
        loop {
            std::thread::sleep(Duration::from_millis(100));
            if let Ok(mut rpc) = RpcClient::connect(&socket)
                && rpc.call("bdev_get_bdevs", &Value::Null).is_ok()
            {
                return Ok(Process {
                    child,
                    rpc,
                    _folder: folder,
                });
            }
            let ended = child.try_wait().ok().flatten();
            if ended.is_some() || begun.elapsed() > PATIENCE {
                let _ = child.kill();
                let said = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
                return Err(format!("{} does not come up:\n{said}", program.display()));
            }
        }
    }

    /// I/Os of a workload per second of processor time.
    fn measure_alone(&mut self, workload: &str) -> Result<f64, String> {
        let (begun, used) = (Instant::now(), self.processor_time()?);
        let rate = self.measure(workload)?;
        let used = (self.processor_time()? - used).as_secs_f64();
        Ok(rate * begun.elapsed().as_secs_f64() / used)
    }

    /// What its threads have used so far.
    fn processor_time(&self) -> Result<Duration, String> {
        let path = format!("/proc/{}/schedstat", self.child.id());
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let nanos = text
            .split_whitespace()
            .next()
            .and_then(|word| word.parse().ok());
        nanos
            .map(Duration::from_nanos)
            .ok_or(format!("{path}: {text:?} is not understood"))
    }

    /// I/Os of a workload per second.
    fn measure(&mut self, workload: &str) -> Result<f64, String> {
        let params = json!({"workload_type": workload, "time_in_sec": SECONDS});
        let result = self.rpc.call("perform_tests", &params);
        let result = result.map_err(|error| error.to_string())?;
        let jobs = result["results"].as_array();
        let jobs = jobs.ok_or_else(|| format!("no results in {result}"))?;
        let failed: f64 = jobs
            .iter()
            .filter_map(|job| job["fails_per_second"].as_f64())
            .sum();
        if failed > 0.0 {
            return Err(format!("{workload}: I/Os failed: {result}"));
        }
        Ok(jobs.iter().filter_map(|job| job["iops"].as_f64()).sum())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing of value is lost: the base is memory.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_hugepages_mib() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let number = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
    };
    number("HugePages_Free:").unwrap_or(0) * number("Hugepagesize:").unwrap_or(0) / 1024
}

/// Unique writes, duplicate writes and random reads per second.
struct Figures([f64; 3]);

fn in_process(kind: Kind) -> Result<Figures, String> {
    let program = Path::new(env!("CARGO_BIN_EXE_spdk_vdo_bdevperf"));
    let config = json!({"subsystems": [{"subsystem": "bdev", "config": kind.calls()}]});
    let mut unique = Process::start(program, "0x1", kind.memory(), &config, Some(Data::Unique))?;
    let (written, read) = (
        unique.measure_alone("randwrite")?,
        unique.measure_alone("randread")?,
    );
    drop(unique);
    let mut repeated =
        Process::start(program, "0x1", kind.memory(), &config, Some(Data::Repeated))?;
    Ok(Figures([
        written,
        repeated.measure_alone("randwrite")?,
        read,
    ]))
}

fn over_tcp(kind: Kind) -> Result<Figures, String> {
    let run = |data| {
        let export = Export::somewhere();
        let serve: Vec<Value> = std::iter::once(transport())
            .chain(export.calls("under_test"))
            .collect();
        let config = json!({"subsystems": [
            {"subsystem": "bdev", "config": kind.calls()},
            {"subsystem": "nvmf", "config": serve}]});
        let target = Path::new(env!("CARGO_BIN_EXE_spdk_vdo_tgt"));
        let client = Path::new(env!("CARGO_BIN_EXE_spdk_vdo_bdevperf"));
        let _target = Process::start(target, "0x1", kind.memory() + 300, &config, None)?;
        let mut client = Process::start(client, "0x2", SMALL, &export.remote_config(), Some(data))?;
        let written = client.measure("randwrite")?;
        let read = if data == Data::Unique {
            client.measure("randread")?
        } else {
            0.0
        };
        Ok::<_, String>((written, read))
    };
    let (unique, read) = run(Data::Unique)?;
    let (repeated, _) = run(Data::Repeated)?;
    Ok(Figures([unique, repeated, read]))
}

fn rows(table: &mut Table, place: &str, passthru: &Figures, vdo: &Figures) {
    let what = ["unique writes", "duplicate writes", "random reads"];
    for ((what, passthru), vdo) in what.iter().zip(passthru.0).zip(vdo.0) {
        table.add_row([
            format!("{what}, {place}"),
            format!("{:.0} k", passthru / 1000.0),
            format!("{:.0} k", vdo / 1000.0),
            format!("{:.0}%", 100.0 * vdo / passthru),
        ]);
    }
}

fn run() -> Result<(), String> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["I/Os per second", "passthru", "vdo", "of passthru"]);
    let memory = if free_hugepages_mib() < LARGE {
        "no hugepages"
    } else {
        "hugepages"
    };
    println!("bdevperf, 4 KiB, queue depth {DEPTH}, malloc base, {memory}");
    let (passthru, vdo) = (in_process(Kind::Passthru)?, in_process(Kind::Vdo)?);
    rows(&mut table, "one core", &passthru, &vdo);
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) {
        let (passthru, vdo) = (over_tcp(Kind::Passthru)?, over_tcp(Kind::Vdo)?);
        rows(&mut table, "NVMe/TCP", &passthru, &vdo);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("\n{table}");
    Ok(())
}

fn main() -> ExitCode {
    // Cargo runs benches as tests, too; there is nothing to test.
    if std::env::args().any(|argument| argument == "--test") {
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}
