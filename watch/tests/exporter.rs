//! `vdo_exporter` beside a real target: a scrape that promtool has nothing against, targets that hang, die and come back, and callers
//! of every kind.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use vdo_tests::rig::{ROOMY, Rig, Setup, fill};
use vdo_tests::target::Target;
use vdo_tests::tools::skipped;

/// A running exporter; it is ended when it is dropped.
struct Exporter {
    child: Child,
    address: SocketAddr,
}

impl Exporter {
    fn start(socket: &Path) -> Exporter {
        let mut child = Command::new(env!("CARGO_BIN_EXE_vdo_exporter"))
            .arg("-s")
            .arg(socket)
            .args(["--listen", "127.0.0.1:0", "--patience", "1"])
            .env("RUST_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        // What it says later goes nowhere, and must not stop it.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let (_, address) = line.split_once("http://").unwrap();
        let address = address.trim().strip_suffix("/metrics").unwrap();
        Exporter {
            child,
            address: address.parse().unwrap(),
        }
    }

    /// Sends bytes, and takes all that comes back.
    fn say(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        // It may have heard enough before the end.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    fn get(&self, path: &str) -> (String, String) {
        let answer = self.say(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    fn scrape(&self) -> String {
        let (head, body) = self.get("/metrics");
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert!(
            head.contains("content-type: text/plain; version=0.0.4"),
            "{head}"
        );
        body
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number of a sample, by its name with its labels.
fn sample(scrape: &str, name: &str) -> f64 {
    let found = scrape
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let found = found.unwrap_or_else(|| panic!("{name} is not in:\n{scrape}"));
    found.parse().unwrap()
}

/// A target with the volume `vdo0`, half of whose data is there twice.
fn loaded(rig: &Rig) -> Target {
    let target = rig.start(&Setup::on("0x3"));
    let mut client = rig.connect();
    fill(&mut client, 0..1000, |lbn| lbn % 500);
    client.flush().unwrap();
    target
}

/// What promtool says of a scrape; `None` if there is none.
fn promtool(scrape: &str) -> Option<String> {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(scrape.as_bytes()).unwrap();
    drop(input);
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Some(if output.status.success() {
        said
    } else {
        format!("{}: {said}", output.status)
    })
}

#[test]
fn a_scrape_tells_what_the_volume_did_and_promtool_has_nothing_against_it() {
    let rig = Rig::new(ROOMY);
    let target = loaded(&rig);
    let exporter = Exporter::start(&target.socket());
    let scrape = exporter.scrape();
    assert_eq!(sample(&scrape, "vdo_up"), 1.0);
    assert_eq!(
        sample(&scrape, "vdo_mode{volume=\"vdo0\",mode=\"normal\"}"),
        1.0
    );
    assert_eq!(
        sample(&scrape, "vdo_index_state{volume=\"vdo0\",state=\"online\"}"),
        1.0
    );
    assert_eq!(
        sample(&scrape, "vdo_compression_enabled{volume=\"vdo0\"}"),
        0.0
    );
    let of_zones = |name: &str, labels: &str| -> f64 {
        let zone = |zone| {
            sample(
                &scrape,
                &format!("{name}{{volume=\"vdo0\"{labels},zone=\"{zone}\"}}"),
            )
        };
        zone(0) + zone(1)
    };
    assert_eq!(
        of_zones("vdo_requests_total", ",operation=\"write\""),
        1000.0
    );
    let (new, shared) = (
        of_zones("vdo_new_written_bytes_total", ""),
        of_zones("vdo_deduplicated_written_bytes_total", ""),
    );
    assert_eq!((new, shared), (500.0 * 4096.0, 500.0 * 4096.0));
    assert_eq!(of_zones("vdo_data_used_bytes", ""), 500.0 * 4096.0);
    assert!(of_zones("vdo_zone_thread_busy_seconds_total", "") > 0.0);
    assert!(of_zones("vdo_journal_used_bytes", "") > 0.0);
    assert!(sample(&scrape, "vdo_index_entries_limit{volume=\"vdo0\"}") > 1e6);
    let steps = of_zones(
        "vdo_hash_lock_steps_total",
        ",from=\"initializing\",to=\"querying\"",
    );
    assert_eq!(
        steps,
        of_zones("vdo_hash_lock_states_entered_total", ",state=\"querying\"")
    );
    assert!(steps >= 500.0);

    let test = "a_scrape_tells_what_the_volume_did_and_promtool_has_nothing_against_it";
    match promtool(&scrape) {
        Some(said) => assert_eq!(said, ""),
        None => skipped(
            test,
            "promtool (Debian: prometheus) is not here: the format was not checked",
        ),
    }
}

/// The queries of Grafana's dashboard.
fn queries() -> Vec<String> {
    let dashboard = include_str!("../../docs/grafana-dashboard.json");
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let expressions = targets.map(|target| target["expr"].as_str().unwrap().to_owned());
    let variable = dashboard.pointer("/templating/list/1/definition").unwrap();
    expressions
        .chain([variable.as_str().unwrap().to_owned()])
        .collect()
}

#[test]
fn every_metric_of_the_dashboard_is_in_a_scrape() {
    let rig = Rig::new(ROOMY);
    let target = loaded(&rig);
    let scrape = Exporter::start(&target.socket()).scrape();
    let queries = queries();
    assert!(queries.len() > 20, "{queries:?}");
    for query in &queries {
        let words = query.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let metrics: Vec<_> = words.filter(|word| word.starts_with("vdo_")).collect();
        assert!(!metrics.is_empty(), "{query}");
        for metric in metrics {
            assert!(
                scrape.contains(&format!("# TYPE {metric} ")),
                "{metric} of {query}"
            );
        }
    }
}

#[test]
fn a_target_that_hangs_or_dies_is_down_within_the_bound_and_up_when_it_is_back() {
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::default());
    let exporter = Exporter::start(&target.socket());
    assert_eq!(sample(&exporter.scrape(), "vdo_up"), 1.0);

    let pid = Pid::from_raw(target.pid().unwrap() as i32).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let begun = Instant::now();
    let scrapes = std::thread::scope(|scope| {
        let several = [(); 4].map(|()| scope.spawn(|| exporter.get("/metrics")));
        several.map(|one| one.join().unwrap())
    });
    let took = begun.elapsed();
    kill_process(pid, Signal::CONT).unwrap();
    // One patience for the target, one for those who asked before.
    assert!(took < Duration::from_secs(6), "{took:?}");
    let mut asked = 0;
    for (head, body) in scrapes {
        match head.starts_with("HTTP/1.1 503") {
            true => continue,
            false => asked += 1,
        }
        assert_eq!(sample(&body, "vdo_up"), 0.0);
        assert!(!body.contains("vdo_mode"), "{body}");
    }
    assert!(asked >= 1);
    assert_eq!(sample(&exporter.scrape(), "vdo_up"), 1.0);

    let target = target.restart();
    assert_eq!(sample(&exporter.scrape(), "vdo_up"), 1.0);
    assert!(target.stop().success());
    assert_eq!(sample(&exporter.scrape(), "vdo_up"), 0.0);
}

#[test]
fn callers_who_are_wrong_slow_or_many_are_answered_and_keep_nobody_out() {
    let exporter = Exporter::start(Path::new("/nonexistent/rpc.sock"));
    let status = |answer: &str| {
        answer
            .split_whitespace()
            .nth(1)
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(
        status(&exporter.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")),
        "200"
    );
    assert_eq!(
        status(&exporter.say(b"GET /etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n")),
        "404"
    );
    assert_eq!(
        status(&exporter.say(b"POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n")),
        "405"
    );
    assert_eq!(
        status(&exporter.say(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")),
        "400"
    );
    let long = format!(
        "GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n",
        "x".repeat(100_000)
    );
    assert_eq!(status(&exporter.say(long.as_bytes())), "431");
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
    assert_eq!(status(&exporter.say(many.as_bytes())), "431");

    // More than there are places for, and none of them says anything.
    let silent: Vec<_> = (0..40)
        .map(|_| TcpStream::connect(exporter.address).unwrap())
        .collect();
    let begun = Instant::now();
    assert_eq!(sample(&exporter.scrape(), "vdo_up"), 0.0);
    assert!(begun.elapsed() < Duration::from_secs(30));
    drop(silent);
}
