//! What `vdo_tgt` keeps from others, and from itself: its sockets, its locked-in threads, the files it may open, its limits.
//! (That all of its methods work locked in, every other test shows: they start it so.)

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::json;
use vdo_tests::nbd_probe::NbdProbe;
use vdo_tests::rig::{BLOCK, MIB, ROOMY, block};
use vdo_tests::target::{Options, Target, bdev_config};
use vdo_tests::tools::skipped;

/// A target with a malloc bdev, `m`, and more arguments.
fn target(arguments: &[&str]) -> Target {
    let malloc = json!({"name": "m", "num_blocks": 4096, "block_size": 4096});
    let call = json!({"method": "bdev_malloc_create", "params": malloc});
    Target::start_with(Options {
        config: Some(bdev_config(vec![call])),
        arguments: arguments.iter().map(|one| (*one).to_owned()).collect(),
        ..Options::default()
    })
}

/// A member of each thread's status, each value once.
fn of_all_threads(target: &Target, member: &str) -> Vec<String> {
    let pid = target.pid().unwrap();
    let mut all = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let value = status
            .lines()
            .find_map(|line| line.strip_prefix(member))
            .unwrap_or_else(|| panic!("{member} is not in {status}"));
        all.push(value.trim().to_owned());
    }
    all.sort();
    all.dedup();
    all
}

#[test]
fn every_thread_is_locked_in_unless_the_program_is_told_otherwise() {
    let locked_in = target(&[]);
    locked_in.export("m");
    assert_eq!(of_all_threads(&locked_in, "NoNewPrivs:"), ["1"]);
    // Filtered, by two filters.
    assert_eq!(of_all_threads(&locked_in, "Seccomp:"), ["2"]);
    assert_eq!(of_all_threads(&locked_in, "Seccomp_filters:"), ["2"]);
    assert!(locked_in.stop().success());
    let free = target(&["--no-sandbox"]);
    assert_eq!(of_all_threads(&free, "NoNewPrivs:"), ["0"]);
    assert_eq!(of_all_threads(&free, "Seccomp:"), ["0"]);
    assert!(free.stop().success());
}

fn mode_and_owner(path: &Path) -> (u32, u32, u32) {
    let file = std::fs::metadata(path).unwrap();
    (file.permissions().mode() & 0o7777, file.uid(), file.gid())
}

#[test]
fn sockets_are_for_their_owner_unless_they_are_given_to_others() {
    let (own, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let (own, group) = (own.as_raw(), group.as_raw());
    let plain = target(&[]);
    plain.export("m");
    for socket in ["rpc.sock", "m.nbd", "rpc.sock.lock", "m.nbd.lock"] {
        assert_eq!(mode_and_owner(&plain.path(socket)), (0o600, own, group));
    }
    assert!(plain.stop().success());
    // Whatever the umask is.
    let open = target(&["--socket-mode", "0666"]);
    open.export("m");
    for socket in ["rpc.sock", "m.nbd"] {
        assert_eq!(mode_and_owner(&open.path(socket)), (0o666, own, group));
    }
    assert_eq!(mode_and_owner(&open.path("m.nbd.lock")).0, 0o600);
    assert!(open.stop().success());
    if own != 0 {
        let test = "sockets_are_for_their_owner_unless_they_are_given_to_others";
        skipped(test, "only root can give a socket to others");
        return;
    }
    let given = target(&["--socket-mode", "0660", "--socket-owner", "12345:54321"]);
    given.export("m");
    for socket in ["rpc.sock", "m.nbd"] {
        assert_eq!(mode_and_owner(&given.path(socket)), (0o660, 12345, 54321));
    }
    assert!(given.stop().success());
}

#[test]
fn only_named_files_and_those_that_come_later_in_named_folders_are_opened() {
    let probe = target(&[]);
    if probe.log().contains("have landlock") {
        let test = "only_named_files_and_those_that_come_later_in_named_folders_are_opened";
        return skipped(test, "this kernel has no landlock");
    }
    assert!(probe.stop().success());
    let [disks, others] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let target = target(&["--allow-path", disks.path().to_str().unwrap()]);
    let file = |folder: &tempfile::TempDir| {
        let path = folder.path().join("disk");
        File::create(&path).unwrap().set_len(ROOMY * MIB).unwrap();
        path
    };
    let (disk, other) = (file(&disks), file(&others));
    let create = |name: &str, path: &Path| {
        let params = json!({"name": name, "filename": path, "block_size": 4096});
        target.rpc("bdev_uring_create", params)
    };
    let refused = create("other", &other).unwrap_err();
    assert_eq!(refused.code.0, -13, "{refused}");
    create("base", &disk).unwrap();
    let params = json!({"name": "v", "base_bdev_name": "base", "slab_size_mib": 32});
    target.rpc("bdev_vdo_create", params).unwrap();
    let serve = |path: &Path| {
        let params = json!({"bdev_name": "v", "nbd_device": path});
        target.rpc("nbd_start_disk", params)
    };
    let refused = serve(&others.path().join("v.sock")).unwrap_err();
    assert_eq!(refused.code.0, -13, "{refused}");
    let socket = disks.path().join("v.sock");
    serve(&socket).unwrap();
    let mut client = NbdProbe::connect(&socket).unwrap();
    assert_eq!(client.write(7 * BLOCK, &block(7)), Ok(()));
    assert_eq!(client.flush(), Ok(()));
    drop(client);
    let saved = target.rpc("framework_get_config", json!({"name": "bdev"}));
    assert_eq!(saved.unwrap().as_array().unwrap().len(), 3);
    assert!(target.stop().success());
}

#[test]
fn clients_and_their_memory_have_limits_that_can_be_set() {
    let target = target(&["--nbd-clients", "2", "--nbd-memory-mib", "2"]);
    target.export("m");
    let socket = target.path("m.nbd");
    let connect = || NbdProbe::connect(&socket);
    let mut first = connect().unwrap();
    let second = connect().unwrap();
    assert!(connect().is_err(), "there are two");
    // Small requests have their memory; for larger ones none is left.
    assert_eq!(first.write(0, &block(1)), Ok(()));
    assert_eq!(first.write(0, &vec![1; 64 * BLOCK as usize]), Err(12));
    drop(second);
    let begun = std::time::Instant::now();
    while first.write(0, &vec![1; 64 * BLOCK as usize]) != Ok(()) {
        assert!(
            begun.elapsed().as_secs() < 20,
            "what it had does not come back"
        );
    }
    drop(first);
    assert!(target.stop().success());
}

#[test]
fn options_that_make_no_sense_are_refused_in_words() {
    for (arguments, said) in [
        (["--socket-owner", "no-such-user"], "there is no user"),
        (
            ["--socket-owner", "root:no-such-group"],
            "there is no group",
        ),
        (["--socket-mode", "999"], "octal"),
        (["--rpc-clients", "0"], "0"),
        (["--nbd-clients", "5000"], "5000"),
        (["--nbd-memory-mib", "0"], "0"),
        (["--allow-path", "/no/such/folder"], "/no/such/folder"),
    ] {
        let refused = Target::refuse(Options {
            arguments: arguments.map(str::to_owned).to_vec(),
            ..Options::default()
        });
        assert!(refused.contains(said), "{arguments:?}: {refused}");
    }
}
