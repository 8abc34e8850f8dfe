//! `vdo_top` at a terminal, beside a real target: figures change, keys do what they say, the target goes away and comes back.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use vdo_tests::rig::{ROOMY, Rig, Setup, fill};
use vdo_tests::terminal::Terminal;

/// How long load may go on until something is seen of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// `vdo_top` at a terminal of so many rows and columns.
fn start(socket: &Path, folder: &Path, size: (u16, u16)) -> Terminal {
    let (socket, folder) = (socket.display().to_string(), folder.display().to_string());
    let quickly = ["--interval", "100", "--patience", "1"];
    let own = [
        env!("CARGO_BIN_EXE_vdo_top"),
        "-s",
        &socket,
        "--snapshots",
        &folder,
    ];
    Terminal::start(&[&own[..], &quickly].concat(), size)
}

#[test]
fn figures_change_under_load_and_keys_do_what_they_say() {
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::on("0x3"));
    let mut top = start(&target.socket(), &rig.path(""), (50, 100));
    let quiet = top.shows("valid 0/s");
    assert!(
        quiet.contains("vdo0") && quiet.contains("online"),
        "{quiet}"
    );

    let mut client = rig.connect();
    let mut round = 0;
    let mut load = |top: &Terminal, what: &str, is_so: &dyn Fn(&str) -> bool| {
        let begun = Instant::now();
        loop {
            fill(&mut client, 0..2000, |lbn| (lbn + round * 1000) % 3000);
            round += 1;
            let seen = top.text();
            if is_so(&seen) {
                return seen;
            }
            assert!(begun.elapsed() < PATIENCE, "not {what}:\n{seen}");
        }
    };
    let is_busy = |seen: &str| {
        let advice = seen.lines().find(|line| line.contains("valid"));
        advice.is_some_and(|line| !line.contains("valid 0/s") && !line.contains("valid -"))
    };
    load(&top, "valid advice", &is_busy);
    top.press("2");
    let paths = load(&top, "the paths", &|seen| {
        let at = |word: &str| seen.find(word).unwrap_or(usize::MAX);
        at("paths of its hash locks") < at("vdo0: on")
            && !seen.contains("VERIFYING 0/s")
            && seen.contains("VERIFYING")
    });
    assert!(paths.contains("▸ deduping"), "{paths}");

    // Held, it stays as it is whatever happens.
    top.press("p");
    let held = top.shows("PAUSED");
    load(&top, "some time", &|_| true);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(top.text(), held);
    top.press("p");
    top.shows("live");
    top.press("c");
    top.until("counts", |seen| {
        let states = seen.lines().find(|line| line.contains("INITIALIZING"));
        states.is_some_and(|line| !line.contains("/s"))
    });
    top.press("c");
    top.press("s");
    top.shows("USED▾");
    top.press("r");
    top.shows("USED▴");
    top.press("h");
    top.shows("sort by the next column");
    top.press("h");
    top.until("without help", |seen| !seen.contains("sort by the next"));

    top.press("w");
    let seen = top.shows("written to ");
    let line = seen.lines().last().unwrap();
    let path = line.trim().strip_prefix("written to ").unwrap();
    let snapshot: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(snapshot["screen"]["volumes"][0]["name"], "vdo0");
    let written = snapshot.pointer("/bdev_vdo_get_stats/0/bios_in/write");
    assert!(written.unwrap().as_u64().unwrap() >= 4000);

    // A smaller terminal shows what fits.
    top.resize(12, 60);
    top.until("a small screen", |seen| {
        seen.contains("vdo0") && !seen.contains("vdo0: zones")
    });
    top.press("q");
    assert!(top.ended());
}

#[test]
fn a_target_that_goes_away_is_said_to_and_found_again() {
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::default());
    let mut top = start(&target.socket(), &rig.path(""), (24, 80));
    top.shows("live");
    let pid = Pid::from_raw(target.pid().unwrap() as i32).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let lost = top.shows("NO ANSWER for");
    assert!(lost.contains("vdo0"), "what was known stays: {lost}");
    kill_process(pid, Signal::CONT).unwrap();
    top.shows("the target is back");

    let target = target.restart();
    top.shows("live");
    assert!(target.stop().success());
    top.shows("NO ANSWER for");
    // Ctrl-C, as it comes from a terminal in raw mode.
    top.press("\u{3}");
    assert!(top.ended());
}

fn once(socket: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vdo_top"))
        .arg("-s")
        .arg(socket)
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn one_frame_is_printed_as_text_for_scripts_or_it_is_said_why_not() {
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::default());
    let output = once(&target.socket(), &["--once", "--interval", "100"]);
    assert!(output.status.success(), "{output:?}");
    let frame = String::from_utf8(output.stdout).unwrap();
    for part in [
        "vdo0",
        "normal",
        "paths of its hash locks",
        "zones",
        "Journal",
    ] {
        assert!(frame.contains(part), "{part} in\n{frame}");
    }
    assert!(!frame.contains('\u{1b}'), "plain text: {frame}");

    let output = once(&target.socket(), &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("--once"),
        "{said}"
    );
    let output = once(Path::new("/nonexistent"), &["--once"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("no answer"),
        "{said}"
    );
}
