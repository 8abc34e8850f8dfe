//! The program as a person runs it: its options, its configuration file, its signals, its socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A running `vdo_tgt`, killed if the test forgets it.
struct Program {
    child: Child,
    socket: PathBuf,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn start(directory: &Path, arguments: &[&str]) -> Program {
        let socket = directory.join("rpc.sock");
        let child = Command::new(env!("CARGO_BIN_EXE_vdo_tgt"))
            .arg("-r")
            .arg(&socket)
            .args(arguments)
            .env_remove("RUST_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Program { child, socket }
    }

    /// Starts it and waits until it answers.
    fn ready(directory: &Path, arguments: &[&str]) -> Program {
        let mut program = Program::start(directory, arguments);
        let start = Instant::now();
        while UnixStream::connect(&program.socket).is_err() {
            if program.child.try_wait().unwrap().is_some() {
                panic!("it ended: {}", program.log());
            }
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "it does not open its socket"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        program
    }

    fn call(&self, method: &str, params: Value) -> Result<Value, Value> {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        stream.write_all(request.to_string().as_bytes()).unwrap();
        let answer: Value = serde_json::Deserializer::from_reader(stream)
            .into_iter()
            .next()
            .unwrap()
            .unwrap();
        match answer.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(answer["result"].clone()),
        }
    }

    fn signal(&self, signal: i32) {
        let pid = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: no pointers; the child has not been waited for, so the id is still its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn log(&mut self) -> String {
        let mut log = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut log)
            .unwrap();
        log
    }
}

/// Writes a configuration of one subsystem.
fn config(directory: &TempDir, subsystem: &str, calls: Value) -> String {
    let path = directory.path().join("config.json");
    let config = json!({"subsystems": [{"subsystem": subsystem, "config": calls}]});
    std::fs::write(&path, config.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn disk(directory: &TempDir) -> String {
    let path = directory.path().join("disk");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    path.to_str().unwrap().to_owned()
}

fn names(bdevs: &Value) -> Vec<&str> {
    bdevs
        .as_array()
        .unwrap()
        .iter()
        .map(|bdev| bdev["name"].as_str().unwrap())
        .collect()
}

#[test]
fn it_applies_its_configuration_serves_and_ends_on_either_signal() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let directory = TempDir::new().unwrap();
        let file = disk(&directory);
        let calls = json!([
            {"method": "bdev_malloc_create", "params": {"name": "m", "num_blocks": 64, "block_size": 4096}},
            {"method": "bdev_error_create", "params": {"base_name": "m"}},
            {"method": "bdev_uring_create", "params": {"name": "u", "filename": file}},
            {"method": "bdev_wait_for_examine"},
        ]);
        let mut program = Program::ready(
            directory.path(),
            &["-c", &config(&directory, "bdev", calls)],
        );
        let bdevs = program.call("bdev_get_bdevs", json!({})).unwrap();
        assert_eq!(names(&bdevs), ["m", "EE_m", "u"]);
        assert_eq!(
            (&bdevs[0]["claimed"], &bdevs[0]["claim_type"]),
            (&json!(true), &json!("exclusive_write"))
        );
        assert_eq!(bdevs[1]["product_name"], "Error Injection Disk");
        assert_eq!(bdevs[2]["num_blocks"], 256);
        assert_eq!(bdevs[2]["driver_specific"]["uring"]["filename"], file);
        program.signal(signal);
        assert_eq!(program.wait().code(), Some(0));
        assert!(!program.socket.exists(), "the socket is left behind");
    }
}

#[test]
fn what_it_saves_makes_the_same_bdevs_again() {
    let directory = TempDir::new().unwrap();
    let file = disk(&directory);
    let program = Program::ready(directory.path(), &["-m", "[0]"]);
    for (method, params) in [
        (
            "bdev_malloc_create",
            json!({"num_blocks": 64, "block_size": 512}),
        ),
        (
            "bdev_null_create",
            json!({"name": "n", "num_blocks": 64, "block_size": 4096}),
        ),
        (
            "bdev_aio_create",
            json!({"name": "a", "filename": file, "readonly": true}),
        ),
        (
            "bdev_error_create",
            json!({"base_name": "Malloc0", "uuid": "5a2c1a0e-0a2e-4b8e-9f0e-3a8a8f0f5a11"}),
        ),
        (
            "bdev_delay_create",
            json!({"base_bdev_name": "n", "name": "d", "avg_read_latency": 1,
            "p99_read_latency": 2, "avg_write_latency": 3, "p99_write_latency": 4}),
        ),
        (
            "bdev_delay_update_latency",
            json!({"delay_bdev_name": "d", "latency_type": "p99_write", "latency_us": 9}),
        ),
    ] {
        program
            .call(method, params)
            .unwrap_or_else(|error| panic!("{method}: {error}"));
    }
    let mut before = program.call("bdev_get_bdevs", json!({})).unwrap();
    let saved = program
        .call("framework_get_config", json!({"name": "bdev"}))
        .unwrap();
    drop(program);
    let _ = std::fs::remove_file(directory.path().join("rpc.sock"));
    let program = Program::ready(
        directory.path(),
        &["-c", &config(&directory, "bdev", saved)],
    );
    let mut after = program.call("bdev_get_bdevs", json!({})).unwrap();
    for bdevs in [&mut before, &mut after] {
        // It was not given one, so it is not saved.
        bdevs[2]["driver_specific"]["aio"]["block_size_override"].take();
    }
    assert_eq!(before, after);
}

#[test]
fn a_wrong_configuration_is_refused_with_its_place_and_exit_code_1() {
    let malloc = json!({"method": "bdev_malloc_create", "params": {"name": "m", "num_blocks": 64, "block_size": 512}});
    for (calls, expected) in [
        (
            json!([malloc, {"method": "bdev_floppy_create"}]),
            ["bdev", "2", "bdev_floppy_create"],
        ),
        (
            json!([malloc, malloc]),
            ["bdev", "2", "a bdev named \"m\" exists already"],
        ),
        (
            json!([{"method": "bdev_malloc_create", "params": {"num_blocks": "many"}}]),
            ["bdev", "1", "num_blocks"],
        ),
        (
            json!([{"method": "bdev_delay_create", "params": {"base_bdev_name": "m"}}]),
            ["bdev", "1", "name"],
        ),
    ] {
        let directory = TempDir::new().unwrap();
        let mut program = Program::start(
            directory.path(),
            &["-c", &config(&directory, "bdev", calls)],
        );
        let status = program.wait();
        let log = program.log();
        assert_eq!(status.code(), Some(1), "{log}");
        for part in expected {
            assert!(log.contains(part), "{part:?} is not in: {log}");
        }
        assert!(!program.socket.exists());
    }
    let directory = TempDir::new().unwrap();
    let mut program = Program::start(directory.path(), &["-c", "/nonexistent.json"]);
    assert_eq!(program.wait().code(), Some(1));
    assert!(program.log().contains("/nonexistent.json"));
}

#[test]
fn a_second_target_on_the_same_file_is_refused() {
    let directory = TempDir::new().unwrap();
    let file = disk(&directory);
    let calls = json!([{"method": "bdev_uring_create", "params": {"name": "u", "filename": file}}]);
    let config = config(&directory, "bdev", calls);
    let mut first = Program::ready(directory.path(), &["-c", &config]);
    let elsewhere = TempDir::new().unwrap();
    let mut second = Program::start(elsewhere.path(), &["-c", &config]);
    assert_eq!(second.wait().code(), Some(1));
    let log = second.log();
    assert!(log.contains("is in use") && log.contains(&file), "{log}");
    first.signal(libc::SIGTERM);
    assert_eq!(first.wait().code(), Some(0));
    Program::ready(elsewhere.path(), &["-c", &config]);
}

#[test]
fn with_wait_for_rpc_it_configures_itself_only_when_told_to_start() {
    let directory = TempDir::new().unwrap();
    let calls = json!([{"method": "bdev_malloc_create", "params": {"name": "m", "num_blocks": 64, "block_size": 512}}]);
    let config = config(&directory, "bdev", calls);
    let mut program = Program::ready(directory.path(), &["--wait-for-rpc", "-c", &config]);
    assert_eq!(
        program.call("bdev_get_bdevs", json!({})).unwrap_err()["code"],
        -1
    );
    program.call("framework_start_init", json!({})).unwrap();
    let bdevs = program
        .call("bdev_get_bdevs", json!({"name": "m", "timeout": 10000}))
        .unwrap();
    assert_eq!(names(&bdevs), ["m"]);
    program.signal(libc::SIGTERM);
    assert_eq!(program.wait().code(), Some(0));

    let mut waiting = Program::ready(directory.path(), &["--wait-for-rpc"]);
    waiting.signal(libc::SIGINT);
    assert_eq!(
        waiting.wait().code(),
        Some(0),
        "it can be stopped before it starts"
    );
}

#[test]
fn wrong_options_are_refused() {
    let directory = TempDir::new().unwrap();
    let mut program = Program::start(directory.path(), &["-m", "0xz"]);
    assert_eq!(program.wait().code(), Some(2));
    assert!(program.log().contains("core mask"));
    let mut program = Program::start(directory.path(), &["-m", "[900]"]);
    assert_eq!(program.wait().code(), Some(1));
    assert!(program.log().contains("core 900"));
}

#[test]
fn errors_of_bdev_methods_have_their_errno_and_say_what_is_wrong() {
    let directory = TempDir::new().unwrap();
    let program = Program::ready(directory.path(), &[]);
    let malloc = json!({"name": "m", "num_blocks": 64, "block_size": 512});
    assert_eq!(
        program.call("bdev_malloc_create", malloc.clone()),
        Ok(json!("m"))
    );
    program
        .call("bdev_error_create", json!({"base_name": "m"}))
        .unwrap();
    for (method, params, code, part) in [
        ("bdev_malloc_create", malloc, -17, "\"m\""),
        (
            "bdev_malloc_create",
            json!({"num_blocks": 1, "block_size": 520}),
            -22,
            "520",
        ),
        (
            "bdev_malloc_create",
            json!({"num_blocks": u64::MAX, "block_size": 512}),
            -22,
            "num_blocks",
        ),
        (
            "bdev_malloc_create",
            json!({"num_blocks": 1}),
            -32602,
            "block_size",
        ),
        (
            "bdev_malloc_delete",
            json!({"name": "m"}),
            -16,
            "in use by error",
        ),
        (
            "bdev_null_delete",
            json!({"name": "m"}),
            -22,
            "for null bdevs only",
        ),
        ("bdev_malloc_delete", json!({"name": "x"}), -19, "\"x\""),
        ("bdev_get_bdevs", json!({"name": "x"}), -19, "\"x\""),
        (
            "bdev_error_create",
            json!({"base_name": "m"}),
            -1,
            "claimed by module error",
        ),
        (
            "bdev_error_inject_error",
            json!({"name": "m", "io_type": "read"}),
            -22,
            "for error bdevs only",
        ),
        (
            "bdev_uring_create",
            json!({"name": "u", "filename": "/nonexistent"}),
            -2,
            "/nonexistent",
        ),
        (
            "bdev_uring_create",
            json!({"name": "u", "filename": "/dev/null"}),
            -22,
            "neither a file",
        ),
        (
            "bdev_get_iostat",
            json!({"per_channel": true}),
            -22,
            "per_channel",
        ),
    ] {
        let error = program.call(method, params).unwrap_err();
        assert_eq!(error["code"], code, "{method}: {error}");
        assert!(
            error["message"].as_str().unwrap().contains(part),
            "{method}: {error}"
        );
    }
    assert_eq!(
        program.call("bdev_error_delete", json!({"name": "EE_m"})),
        Ok(json!(true))
    );
    assert_eq!(
        program.call("bdev_malloc_delete", json!({"name": "m"})),
        Ok(json!(true))
    );
    let stat = program.call("bdev_get_iostat", json!({})).unwrap();
    assert_eq!(stat["bdevs"], json!([]));
    assert_eq!(stat["tick_rate"], 1_000_000_000);
}
