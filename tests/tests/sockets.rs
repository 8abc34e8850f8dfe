//! Sockets the target shares a machine with: those of other programs, and connections nobody uses.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use vdo_tests::dm_vdo::lacking;
use vdo_tests::nbd_probe::NbdProbe;
use vdo_tests::target::{Target, bdev_config, nbd_uri, program};
use vdo_tests::tools::{run, text};

const EBUSY: i32 = -16;

/// A target with a malloc bdev, "disk", of 64 MiB.
fn target() -> Target {
    let call = json!({"method": "bdev_malloc_create", "params":
        {"name": "disk", "num_blocks": 16384, "block_size": 4096}});
    Target::start(bdev_config(vec![call]))
}

/// A program of another maker that serves something; killed in the end.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn qemu_nbd(image: &Path, socket: &Path) -> Other {
    let before = std::fs::metadata(socket).map(|found| found.ino()).ok();
    let child = Command::new("qemu-nbd")
        .args(["--persistent", "--format=raw", "--shared=8", "--socket"])
        .args([socket, image])
        .stdin(Stdio::null())
        .spawn()
        .expect("qemu-nbd runs");
    let other = Other(child);
    // It takes the place of whatever socket is there, so that being let in is not enough.
    let inode = || std::fs::metadata(socket).map(|found| found.ino()).ok();
    wait_for("qemu-nbd serves", || {
        inode() != before && UnixStream::connect(socket).is_ok()
    });
    other
}

#[test]
fn the_socket_of_a_running_qemu_nbd_is_left_alone_and_that_of_a_dead_one_taken() {
    let name = "the_socket_of_a_running_qemu_nbd_is_left_alone_and_that_of_a_dead_one_taken";
    if lacking(name, &["qemu-nbd", "nbdinfo"], false) {
        return;
    }
    let target = target();
    let (image, socket) = (target.path("image"), target.path("q.sock"));
    std::fs::File::create(&image)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let other = qemu_nbd(&image, &socket);
    let start = || {
        let params = json!({"bdev_name": "disk", "nbd_device": socket});
        target.rpc("nbd_start_disk", params)
    };
    let size = || run("nbdinfo", ["--size", &nbd_uri(&socket)]);
    for _ in 0..3 {
        let error = start().unwrap_err();
        assert_eq!(error.code.0, EBUSY, "{error}");
        assert!(error.message.contains("q.sock"), "{error}");
        assert_eq!(size().trim(), "1048576", "qemu-nbd's clients find qemu-nbd");
    }
    assert_eq!(target.rpc("nbd_get_disks", json!({})), Ok(json!([])));
    drop(other);
    assert!(socket.exists(), "a killed program leaves its socket behind");
    start().unwrap();
    assert_eq!(size().trim(), "67108864");
    // Taken over by a program that does not ask, it is not removed when the export ends.
    let _other = qemu_nbd(&image, &socket);
    target
        .rpc("nbd_stop_disk", json!({"nbd_device": socket}))
        .unwrap();
    assert_eq!(size().trim(), "1048576");
    assert!(target.stop().success());
}

#[test]
fn what_is_no_socket_is_never_removed() {
    let target = target();
    let file = target.path("precious");
    std::fs::write(&file, "precious").unwrap();
    let link = target.path("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for path in [&file, &link] {
        let params = json!({"bdev_name": "disk", "nbd_device": path});
        let error = target.rpc("nbd_start_disk", params).unwrap_err();
        assert!(error.message.contains("not a socket"), "{error}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    assert!(link.is_symlink());
    assert!(target.stop().success());
}

#[test]
fn a_target_does_not_come_up_on_an_rpc_socket_that_somebody_listens_on() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("rpc.sock");
    let other = UnixListener::bind(&socket).unwrap();
    let start = || {
        let mut command = Command::new(program());
        command.arg("-r").arg(&socket).output().unwrap()
    };
    let output = start();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains("in use by another program"),
        "{}",
        text(&output)
    );
    UnixStream::connect(&socket).expect("the other still listens");
    drop(other);
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "precious").unwrap();
    let output = start();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(std::fs::read(&socket).unwrap(), b"precious");
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "no lock file is left"
    );
}

#[test]
fn connections_that_say_nothing_keep_no_client_out_and_the_log_says_so_once() {
    let target = target();
    let uri = target.export("disk");
    let socket = target.path("disk.nbd");
    assert!(uri.contains("disk.nbd"));
    // As many as there are places to be served at, before anybody is.
    let silent: Vec<_> = (0..130)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    let begun = Instant::now();
    let mut client = NbdProbe::connect(&socket).unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    let mut data = [1; 4096];
    assert_eq!(client.read(0, &mut data), Ok(()));
    assert_eq!(data, [0; 4096]);
    let said = "did not finish their handshake in time";
    wait_for("the log says why they were let go", || {
        target.log().contains(said)
    });
    let lines = target.log().matches(said).count() as u64;
    assert!(
        lines <= 1 + begun.elapsed().as_secs() / 10,
        "{lines} lines for one crowd:\n{}",
        target.log()
    );
    drop(silent);
    assert!(target.stop().success());
}
