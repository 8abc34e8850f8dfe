//! Nothing is left behind: the programs run with AddressSanitizer's allocator in the place of the usual one, which finds
//! memory that was lost, freed twice, or written past its end by a C function, and SPDK's own checks at the end of a
//! program (threads that did not exit, I/Os missing from their pools) must have nothing to say.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vdo_rpc::client::RpcClient;
use vdo_tests::rig::{Rig, Setup};
use vdo_tests::spdk::{MODEST, turn};
use vdo_tests::target::bdev_config;
use vdo_tests::tools::skipped;

/// How long a program may take to come up, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The status AddressSanitizer ends a program with that lost memory.
const LOST: &str = "23";

/// AddressSanitizer's library, as the C compiler knows it.
fn sanitizer() -> Option<PathBuf> {
    let output = Command::new("gcc")
        .arg("-print-file-name=libasan.so")
        .output()
        .ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_absolute().then_some(path)
}

fn start(
    program: &Path,
    sanitizer: &Path,
    rig: &Rig,
    calls: Vec<Value>,
    arguments: &[&str],
) -> Child {
    let config = rig.path("config.json");
    std::fs::write(&config, bdev_config(calls).to_string()).expect("the folder is ours");
    let log = std::fs::File::create(rig.path("log")).expect("the folder is ours");
    let mut command = Command::new(program);
    command
        .args(MODEST)
        .args(["-s", "1024", "-m", "0x1"])
        .arg("-r")
        .arg(rig.path("rpc.sock"))
        .arg("-c")
        .arg(config)
        .args(arguments)
        .env("LD_PRELOAD", sanitizer)
        .env("ASAN_OPTIONS", format!("detect_leaks=1:exitcode={LOST}"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file can be opened twice"))
        .stderr(log);
    command.spawn().expect("the program starts")
}

/// Waits for the end, which must be a good one.
fn end(mut child: Child, rig: &Rig) {
    let begun = Instant::now();
    let status = loop {
        match child.try_wait().expect("the child is ours") {
            Some(status) => break status,
            None if begun.elapsed() > PATIENCE => {
                let _ = child.kill();
                panic!("the program does not end:\n{}", said(rig));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let said = said(rig);
    assert!(status.success(), "{status}\n{said}");
    assert!(
        !said.contains("*ERROR*") && !said.contains("Sanitizer"),
        "{said}"
    );
}

fn said(rig: &Rig) -> String {
    std::fs::read_to_string(rig.path("log")).unwrap_or_default()
}

fn connect(rig: &Rig) -> RpcClient {
    let begun = Instant::now();
    loop {
        if let Ok(mut rpc) = RpcClient::connect(&rig.path("rpc.sock"))
            && rpc.call("bdev_get_bdevs", &Value::Null).is_ok()
        {
            return rpc;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "the program does not come up:\n{}",
            said(rig)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_volume_that_was_made_written_and_shut_down_leaves_nothing_behind() {
    let test = "leaks of a volume under load";
    let _turn = turn();
    let program = option_env!("CARGO_BIN_EXE_spdk_vdo_bdevperf").map(Path::new);
    let (Some(program), Some(sanitizer)) = (program, sanitizer()) else {
        return skipped(
            test,
            "there is no libasan, or SPDK's bdevperf was not linked",
        );
    };
    let rig = Rig::new(4096);
    let arguments = [
        "-q", "32", "-o", "12288", "-w", "verify", "-U", "-t", "2", "-T", "vdo0",
    ];
    let calls = rig.bdev_calls(&Setup::default());
    end(start(program, &sanitizer, &rig, calls, &arguments), &rig);
    rig.audit(test);
}

#[test]
fn volumes_that_come_and_go_leave_nothing_behind() {
    let test = "leaks of volumes that come and go";
    let _turn = turn();
    let Some(sanitizer) = sanitizer() else {
        return skipped(test, "there is no libasan");
    };
    let rig = Rig::new(4096);
    let program = Path::new(env!("CARGO_BIN_EXE_spdk_vdo_tgt"));
    let base = rig.bdev_calls(&Setup::default()).remove(0);
    let child = start(program, &sanitizer, &rig, vec![base], &[]);
    let mut rpc = connect(&rig);
    let create = json!({"name": "vdo0", "base_bdev_name": "base", "slab_size_mib": 32});
    let name = json!({"name": "vdo0"});
    for _ in 0..4 {
        rpc.call("bdev_vdo_create", &create).unwrap();
        rpc.call("bdev_vdo_create", &create).unwrap_err();
        rpc.call("bdev_vdo_get_stats", &json!({"per_zone": true}))
            .unwrap();
        rpc.call("bdev_vdo_index_offline", &name).unwrap();
        rpc.call("bdev_vdo_dump", &name).unwrap();
        rpc.call("bdev_get_bdevs", &name).unwrap();
        rpc.call("bdev_vdo_delete", &name).unwrap();
        rpc.call("bdev_vdo_delete", &name).unwrap_err();
        let wrong = json!({"name": "vdo0", "base_bdev_name": "base", "cpumask": "0xf0"});
        rpc.call("bdev_vdo_create", &wrong).unwrap_err();
    }
    // One more is up when the program ends.
    rpc.call("bdev_vdo_create", &create).unwrap();
    assert_eq!(
        rpc.call("spdk_kill_instance", &json!({"sig_name": "SIGTERM"})),
        Ok(json!(true))
    );
    end(child, &rig);
    rig.audit(test);
}
