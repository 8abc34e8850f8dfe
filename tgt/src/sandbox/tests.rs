//! What a thread that is locked in can do no more, and what it still can. Each test has its own thread, and locks in only that.

use std::fs::File;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use super::paths::Own;
use super::{Extent, calls, give_up_new_privileges, paths};

fn on_a_thread(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let done = scope.spawn(test).join();
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
}

fn errno() -> Option<i32> {
    io::Error::last_os_error().raw_os_error()
}

#[test]
fn calls_outside_the_filter_fail_and_those_of_the_program_do_not() {
    on_a_thread(|| {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(calls::enter().unwrap(), Extent::Whole);
        // SAFETY: no pointers in any of these.
        unsafe {
            assert_eq!(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0), -1);
            assert_eq!(errno(), Some(libc::EPERM), "the network");
            assert_eq!(libc::ptrace(libc::PTRACE_TRACEME), -1);
            assert_eq!(errno(), Some(libc::EPERM), "other processes");
            assert_eq!(libc::kill(1, 0), -1);
            assert_eq!(errno(), Some(libc::EPERM), "signals to others");
            assert_eq!(libc::kill(libc::getpid(), 0), 0);
            assert_eq!(libc::fork(), -1);
            assert_eq!(errno(), Some(libc::EPERM), "processes");
            let runs = libc::PROT_READ | libc::PROT_EXEC;
            let memory = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let mapped = libc::mmap(std::ptr::null_mut(), 4096, runs, memory, -1, 0);
            assert_eq!(mapped, libc::MAP_FAILED);
            assert_eq!(errno(), Some(libc::EPERM), "code made here");
        }
        assert!(Command::new("/bin/true").status().is_err(), "programs");
        let path = folder.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        File::create(folder.path().join("file")).unwrap();
        // A thread of it can be started, and is locked in too.
        let inherits = std::thread::spawn(|| {
            // SAFETY: no pointers.
            unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) }
        });
        assert_eq!(inherits.join().unwrap(), -1);
    });
}

/// Locks the thread in, if the kernel has landlock; says whether it has.
fn landlocked(own: &Own<'_>, allowed: &[&Path]) -> bool {
    let allowed: Vec<_> = allowed.iter().map(|path| path.to_path_buf()).collect();
    give_up_new_privileges();
    let extent = paths::enter(own, &allowed).unwrap();
    if extent == Extent::Nothing {
        eprintln!("skipped: landlocked: this kernel has no landlock");
    }
    extent != Extent::Nothing
}

const NOTHING_OF_ITS_OWN: Own<'static> = Own {
    config: None,
    sockets: None,
};

fn is_denied<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

#[test]
fn files_can_be_opened_anywhere_and_no_program_be_run_unless_paths_are_named() {
    on_a_thread(|| {
        let folder = tempfile::tempdir().unwrap();
        if !landlocked(&NOTHING_OF_ITS_OWN, &[]) {
            return;
        }
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"x");
        std::fs::remove_file(&file).unwrap();
        assert!(is_denied(std::fs::create_dir(folder.path().join("folder"))));
        assert!(is_denied(Command::new("/bin/true").status()));
    });
}

#[test]
fn files_that_are_not_named_cannot_be_opened_and_those_that_come_later_below_a_named_folder_can() {
    on_a_thread(|| {
        let [disks, others, run] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let config = others.path().join("config.json");
        let secret = others.path().join("secret");
        std::fs::write(&config, "{}").unwrap();
        std::fs::write(&secret, "x").unwrap();
        let own = Own {
            config: Some(&config),
            sockets: Some(run.path()),
        };
        if !landlocked(&own, &[disks.path()]) {
            return;
        }
        let disk = disks.path().join("disk");
        std::fs::write(&disk, "later").unwrap();
        assert_eq!(std::fs::read(&disk).unwrap(), b"later");
        assert!(is_denied(std::fs::read(&secret)));
        assert!(is_denied(std::fs::write(&secret, "y")));
        assert!(is_denied(File::create(others.path().join("new"))));
        assert_eq!(std::fs::read(&config).unwrap(), b"{}");
        assert!(is_denied(std::fs::write(&config, "y")));
        let socket = run.path().join("rpc.sock");
        drop(UnixListener::bind(&socket).unwrap());
        std::fs::remove_file(&socket).unwrap();
        std::fs::read("/proc/meminfo").unwrap();
    });
}
