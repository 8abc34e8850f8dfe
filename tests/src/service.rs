//! A target as a service manager runs it: it is told by datagrams when the target is up and when it ends.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long a target may take for what is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A target that tells how it is. One that is dropped is killed.
#[derive(Debug)]
pub struct Service {
    child: Child,
    messages: UnixDatagram,
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    /// Runs a command; the socket for its messages, and its log, are in `folder`.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn start(mut command: Command, folder: &Path) -> Service {
        let socket = folder.join("notify");
        // That of the one before.
        let _ = fs::remove_file(&socket);
        let messages = UnixDatagram::bind(&socket).expect("the folder is ours");
        let patience = messages.set_read_timeout(Some(PATIENCE));
        patience.expect("a socket can be waited for");
        let log = File::create(folder.join("log")).expect("the folder is ours");
        command.env("NOTIFY_SOCKET", &socket);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(log).spawn().expect("the program is there");
        Service { child, messages }
    }

    /// All that it says until it says this.
    ///
    /// # Panics
    /// When it does not say it in two minutes.
    pub fn wait_for(&self, wanted: &str) -> String {
        let mut all = String::new();
        let mut room = [0; 4096];
        while !all.lines().any(|line| line == wanted) {
            match self.messages.recv(&mut room) {
                Ok(got) => all.push_str(&String::from_utf8_lossy(&room[..got])),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{wanted}: {error}, after {all:?}"),
            }
        }
        all
    }

    /// Stops it as a service manager does, and waits until it has said so and ended well.
    ///
    /// # Panics
    /// When it does not.
    pub fn stop(mut self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", "TERM", &pid]).status();
        assert!(sent.is_ok_and(|status| status.success()));
        self.wait_for("STOPPING=1");
        let status = self.child.wait().expect("the child is ours to wait for");
        assert!(status.success(), "{status}");
    }
}
