//! The emulator's monitor, by which a test changes the machine under a guest: QMP, JSON over a socket, as qemu's
//! `docs/interop/qmp-spec.rst` describes it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to the monitor.
#[derive(Debug)]
pub(super) struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects to the monitor of an emulator that is up.
    pub(super) fn connect(socket: &Path) -> std::io::Result<Monitor> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut monitor = Monitor {
            stream: BufReader::new(stream),
        };
        monitor.next()?;
        monitor.call("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Gives a command; its answer, or what is wrong with it as an error.
    pub(super) fn call(&mut self, command: &str, arguments: Value) -> std::io::Result<Value> {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.stream.get_mut(), "{request}")?;
        loop {
            let mut answer = self.next()?;
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
            if answer.get("error").is_some() {
                return Err(std::io::Error::other(format!("{request}: {answer}")));
            }
            // What else comes tells of events.
        }
    }

    fn next(&mut self) -> std::io::Result<Value> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}
