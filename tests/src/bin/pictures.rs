//! `make pictures`: what is seen of two volumes under load, for the manual.
//!
//! 1. A target with two volumes is started; one gets data that it knows already, the other data that compresses.
//! 2. `vdo_top` runs at a terminal beside it. What is seen there becomes `vdo_top.svg`.
//! 3. `vdo_exporter` runs beside it, and a Prometheus that scrapes it. What that answers to the queries of
//!    `docs/grafana-dashboard.json` becomes `grafana.svg`: the dashboard's panels, drawn here and not by Grafana.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use serde_json::{Value, json};
use vdo_tests::nbd_probe::NbdProbe;
use vdo_tests::picture::{dashboard, screen};
use vdo_tests::rig::{MIB, block, compressible, fill_with};
use vdo_tests::target::{Options, Target};
use vdo_tests::terminal::Terminal;

const DASHBOARD: &str = include_str!("../../../docs/grafana-dashboard.json");

/// Draws the pictures of the manual, of what is really seen.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder that the pictures are written to
    #[arg(long, value_name = "FOLDER", default_value = "docs/pictures")]
    folder: PathBuf,

    /// Seconds that the volumes are under load
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
}

/// A program that is ended when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program that was built beside this one.
fn beside(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a path");
    own.with_file_name(name)
}

/// A target with two volumes, served over NBD.
fn start_target(folder: &Path) -> Result<Target, Box<dyn Error>> {
    let (mut bdevs, mut exports) = (Vec::new(), Vec::new());
    for (number, name) in ["archive", "machines"].into_iter().enumerate() {
        let (base, file) = (format!("disk{number}"), folder.join(name));
        fs::File::create(&file)?.set_len(4096 * MIB)?;
        bdevs.push(json!({"method": "bdev_uring_create", "params":
            {"name": base, "filename": file, "block_size": 4096}}));
        bdevs.push(json!({"method": "bdev_vdo_create", "params":
            {"name": name, "base_bdev_name": base, "slab_size_mib": 32, "logical_size_mib": 8192, "compression": number == 1}}));
        exports.push(json!({"method": "nbd_start_disk", "params":
            {"bdev_name": name, "nbd_device": folder.join(format!("{name}.sock"))}}));
    }
    let config = json!({"subsystems": [
        {"subsystem": "bdev", "config": bdevs}, {"subsystem": "nbd", "config": exports}]});
    Ok(Target::start_with(Options {
        config: Some(config),
        cpumask: "0x3".to_owned(),
        ..Options::default()
    }))
}

/// Writes to a volume and reads from it until it is told to end.
fn load(socket: &Path, is_over: &AtomicBool, data: impl Fn(u64) -> Vec<u8>) {
    let mut client = NbdProbe::connect(socket).expect("the target serves the volume");
    let mut room = vec![0; 64 * 4096];
    let mut round = 0;
    while !is_over.load(Ordering::Relaxed) {
        let first = round * 512 % 20_000;
        fill_with(&mut client, first..first + 512, |lbn| {
            data(round * 512 + lbn % 512)
        });
        for at in 0..round % 5 {
            let offset = (first + at * 64) * 4096;
            client
                .read(offset, &mut room)
                .expect("what was written can be read");
        }
        if round % 17 == 0 {
            client
                .trim(first * 4096, 128 * 4096)
                .expect("trims are taken");
        }
        round += 1;
        std::thread::sleep(Duration::from_millis(20 + 30 * (round / 64 % 3)));
    }
}

/// Starts the exporter; its address.
fn start_exporter(socket: &Path) -> Result<(Running, String), Box<dyn Error>> {
    let mut child = Command::new(beside("vdo_exporter"))
        .arg("-s")
        .arg(socket)
        .args(["--listen", "127.0.0.1:0"])
        .stderr(Stdio::piped())
        .spawn()?;
    let log = child.stderr.take().ok_or("the exporter has no log")?;
    let mut line = String::new();
    BufReader::new(log).read_line(&mut line)?;
    let address = line
        .split_once("http://")
        .and_then(|(_, rest)| rest.split('/').next());
    let address = address.ok_or("the exporter says no address")?.to_owned();
    Ok((Running(child), address))
}

/// Starts a Prometheus that scrapes the exporter each second; its address.
fn start_prometheus(folder: &Path, exporter: &str) -> Result<(Running, String), Box<dyn Error>> {
    let config = folder.join("prometheus.yml");
    let text = format!(
        "global:\n  scrape_interval: 1s\nscrape_configs:\n- job_name: vdo\n  static_configs:\n  - targets: [\"{exporter}\"]\n"
    );
    fs::write(&config, text)?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = format!("127.0.0.1:{port}");
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            folder.join("data").display()
        ))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("prometheus (Debian's package of that name): {error}"))?;
    Ok((Running(child), address))
}

/// Asks Prometheus a query over a time; the lines it gives, named by a legend.
fn ask(
    address: &str,
    query: &str,
    legend: &str,
    (from, to): (f64, f64),
) -> Result<Vec<dashboard::Line>, Box<dyn Error>> {
    let letters = query.bytes().map(|letter| match letter {
        letter if letter.is_ascii_alphanumeric() => char::from(letter).to_string(),
        letter => format!("%{letter:02X}"),
    });
    let query: String = letters.collect();
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "GET /api/v1/query_range?query={query}&start={from}&end={to}&step=1 HTTP/1.0\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .ok_or("no answer of Prometheus")?;
    let answer: Value = serde_json::from_str(body)?;
    let results = answer.pointer("/data/result").and_then(Value::as_array);
    let results = results.ok_or_else(|| format!("Prometheus: {body}"))?;
    let line = |result: &Value| {
        let mut name = legend.to_owned();
        for (label, text) in result["metric"].as_object().into_iter().flatten() {
            name = name.replace(
                &format!("{{{{{label}}}}}"),
                text.as_str().unwrap_or_default(),
            );
        }
        let points = result["values"].as_array().into_iter().flatten();
        let point = |point: &Value| {
            let value: f64 = point[1].as_str()?.parse().ok()?;
            value.is_finite().then_some((point[0].as_f64()?, value))
        };
        (name, points.filter_map(point).collect())
    };
    Ok(results.iter().map(line).collect())
}

/// The panels of the dashboard with what Prometheus answers to their queries.
fn draw_dashboard(address: &str, time: (f64, f64)) -> Result<String, Box<dyn Error>> {
    let dashboard: Value = serde_json::from_str(DASHBOARD)?;
    let mut panels = Vec::new();
    for panel in dashboard["panels"].as_array().into_iter().flatten() {
        let mut lines = Vec::new();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap_or_default();
            let query = query
                .replace("$__rate_interval", "5s")
                .replace("$volume", ".*");
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            lines.extend(ask(address, &query, legend, time)?);
        }
        panels.push(dashboard::Panel { panel, lines });
    }
    Ok(dashboard::svg(&panels))
}

fn now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0.0, |now| now.as_secs_f64())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir()?;
    let target = start_target(folder.path())?;
    let (_exporter, exporter) = start_exporter(&target.socket())?;
    let (_prometheus, prometheus) = start_prometheus(folder.path(), &exporter)?;
    let (top, socket) = (beside("vdo_top"), target.socket());
    let command = [&top, Path::new("-s"), &socket].map(|part| part.display().to_string());
    let terminal = Terminal::start(&command.each_ref().map(String::as_str), (47, 100));
    let begun = now();
    let is_over = AtomicBool::new(false);
    let socket = |name: &str| folder.path().join(format!("{name}.sock"));
    std::thread::scope(|scope| {
        // Every block comes again, once it is known; and what compresses comes once.
        scope.spawn(|| load(&socket("archive"), &is_over, |tag| block(tag % 30_000)));
        scope.spawn(|| load(&socket("machines"), &is_over, compressible));
        std::thread::sleep(Duration::from_secs(arguments.seconds));
        let seen = terminal.screen();
        let drawn = draw_dashboard(&prometheus, (begun, now()));
        is_over.store(true, Ordering::Relaxed);
        fs::create_dir_all(&arguments.folder)?;
        fs::write(arguments.folder.join("vdo_top.svg"), screen::svg(&seen))?;
        fs::write(arguments.folder.join("grafana.svg"), drawn?)?;
        Ok::<_, Box<dyn Error>>(())
    })?;
    println!("pictures are in {}", arguments.folder.display());
    target.stop();
    Ok(())
}
