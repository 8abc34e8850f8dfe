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
fn what_spdk_tgt_saves_loads_and_what_cannot_be_had_here_is_named() {
    let directory = TempDir::new().unwrap();
    // As `save_config` of an `spdk_tgt` writes it that nobody told much.
    let text = r#"{"subsystems": [
      {"subsystem": "scheduler", "config": [{"method": "framework_set_scheduler", "params": {"name": "static"}}]},
      {"subsystem": "fsdev", "config": [{"method": "fsdev_set_opts", "params": {"fsdev_io_pool_size": 65535, "fsdev_io_cache_size": 256}}]},
      {"subsystem": "vmd", "config": []},
      {"subsystem": "sock", "config": [
        {"method": "sock_set_default_impl", "params": {"impl_name": "posix"}},
        {"method": "sock_impl_set_options", "params": {"impl_name": "ssl", "recv_buf_size": 4096, "enable_ktls": false}},
        {"method": "sock_impl_set_options", "params": {"impl_name": "posix", "recv_buf_size": 2097152}}]},
      {"subsystem": "iobuf", "config": [
        {"method": "iobuf_set_options", "params": {"small_pool_count": 8192, "large_pool_count": 1024, "enable_numa": false}}]},
      {"subsystem": "keyring", "config": []},
      {"subsystem": "accel", "config": [{"method": "accel_set_options", "params": {"small_cache_size": 128, "task_count": 2048}}]},
      {"subsystem": "bdev", "config": [
        {"method": "bdev_set_options", "params": {"bdev_io_pool_size": 65535, "bdev_auto_examine": true}},
        {"method": "bdev_raid_set_options", "params": {"process_window_size_kb": 1024}},
        {"method": "bdev_vdo_set_examine", "params": {"enable": false}},
        {"method": "bdev_iscsi_set_options", "params": {"timeout_sec": 30}},
        {"method": "bdev_nvme_set_options", "params": {"action_on_timeout": "none", "transport_retry_count": 4}},
        {"method": "bdev_nvme_set_hotplug", "params": {"period_us": 100000, "enable": false}},
        {"method": "bdev_malloc_create", "params": {"name": "m", "num_blocks": 64, "block_size": 4096, "physical_block_size": 4096,
          "uuid": "2b0f9aef-3b5d-4f5c-9a35-7f0b3ac0a3b6", "optimal_io_boundary": 0, "md_size": 0, "dif_type": 0,
          "dif_is_head_of_md": false, "dif_pi_format": 0, "numa_id": -1}},
        {"method": "bdev_wait_for_examine"}]},
      {"subsystem": "nbd", "config": []},
      {"subsystem": "nvmf", "config": [
        {"method": "nvmf_set_config", "params": {"discovery_filter": "match_any", "admin_cmd_passthru": {"identify_ctrlr": false}}},
        {"method": "nvmf_set_max_subsystems", "params": {"max_subsystems": 1024}},
        {"method": "nvmf_set_crdt", "params": {"crdt1": 0, "crdt2": 0, "crdt3": 0}}]},
      {"subsystem": "iscsi", "config": [{"method": "iscsi_set_options", "params": {"max_sessions": 128}}]}]}"#;
    let path = directory.path().join("config.json");
    let load = |text: &str| {
        std::fs::write(&path, text).unwrap();
        ["-c".to_owned(), path.to_str().unwrap().to_owned()]
    };
    let [flag, file] = load(text);
    let mut program = Program::ready(directory.path(), &[&flag, &file]);
    let bdevs = program.call("bdev_get_bdevs", json!({})).unwrap();
    assert_eq!(names(&bdevs), ["m"]);
    program.signal(libc::SIGTERM);
    assert_eq!(program.wait().code(), Some(0));
    let log = program.log();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("are skipped"))
        .collect();
    assert_eq!(lines.len(), 1, "{log}");
    for method in [
        "framework_set_scheduler",
        "iobuf_set_options",
        "bdev_set_options",
        "bdev_vdo_set_examine",
        "bdev_nvme_set_hotplug",
        "nvmf_set_config",
        "iscsi_set_options",
    ] {
        assert!(
            lines[0].contains(method),
            "{method} is not in: {}",
            lines[0]
        );
    }
    for (subsystem, method) in [
        ("nvmf", "nvmf_create_subsystem"),
        ("bdev", "bdev_nvme_attach_controller"),
        ("vhost_blk", "vhost_create_blk_controller"),
    ] {
        let call = format!(
            r#"{{"subsystems": [{{"subsystem": "{subsystem}", "config": [{{"method": "{method}", "params": {{}}}}]}},"#
        );
        let [flag, file] = load(&text.replacen(r#"{"subsystems": ["#, &call, 1));
        let mut program = Program::start(directory.path(), &[&flag, &file]);
        assert_eq!(program.wait().code(), Some(1));
        let log = program.log();
        assert!(log.contains(method), "{log}");
    }
}

#[test]
fn bdevs_may_come_before_those_they_lie_on_as_spdk_saves_them() {
    let directory = TempDir::new().unwrap();
    let delay = |name: &str, base: &str| {
        json!({"method": "bdev_delay_create", "params": {"name": name, "base_bdev_name": base, "avg_read_latency": 0,
            "p99_read_latency": 0, "avg_write_latency": 0, "p99_write_latency": 0}})
    };
    let malloc = json!({"method": "bdev_malloc_create", "params": {"name": "m", "num_blocks": 64, "block_size": 4096}});
    let error = json!({"method": "bdev_error_create", "params": {"base_name": "d1"}});
    let mut calls = json!([delay("d2", "EE_d1"), error, delay("d1", "m"), malloc]);
    let path = config(&directory, "bdev", calls.clone());
    let mut program = Program::ready(directory.path(), &["-c", &path]);
    let bdevs = program.call("bdev_get_bdevs", json!({})).unwrap();
    assert_eq!(names(&bdevs), ["m", "d1", "EE_d1", "d2"]);
    program.signal(libc::SIGTERM);
    assert_eq!(program.wait().code(), Some(0));
    // One that never comes is missed in the end.
    calls[3]["params"]["name"] = json!("other");
    let path = config(&directory, "bdev", calls);
    let mut program = Program::start(directory.path(), &["-c", &path]);
    assert_eq!(program.wait().code(), Some(1));
    let log = program.log();
    assert!(log.contains("call 1, bdev_delay_create"), "{log}");
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
