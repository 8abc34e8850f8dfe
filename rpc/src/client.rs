//! A JSON-RPC client: one connection, one call at a time, each within a time that is set beforehand.
//!
//! The time holds for the whole call, however the target dawdles: for the connection, for the request and for
//! each byte of the answer. A call that gets no answer gives the connection up, because the answer may come when
//! nobody waits for it any more; the next call makes a new one.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::{Value, json};

use crate::{ErrorCode, RpcError};

/// Where targets listen if they are not told where.
pub const DEFAULT_SOCKET: &str = "/var/tmp/spdk.sock";

/// How long a call may take if nothing is said: formatting a volume under load is the slowest there is.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Longest answer that is taken, in bytes: what claims to be a target may be anything.
const ANSWER_LIMIT: usize = 64 << 20;

/// How long to wait before a target that has too many callers at its door is tried again.
const KNOCK_AGAIN: Duration = Duration::from_millis(10);

/// A client of one target.
#[derive(Debug)]
pub struct RpcClient {
    path: PathBuf,
    patience: Duration,
    connection: Option<Connection>,
    last_id: u64,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
}

impl RpcClient {
    /// A client of the target that listens at `path`, which it connects to when it is first called.
    pub fn new(path: &Path, patience: Duration) -> RpcClient {
        RpcClient {
            path: path.to_owned(),
            patience,
            connection: None,
            last_id: 0,
        }
    }

    /// Connects to the target at `path`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(path: &Path) -> io::Result<RpcClient> {
        let mut client = RpcClient::new(path, PATIENCE);
        client.connection = Some(Connection::open(path, Instant::now() + PATIENCE)?);
        Ok(client)
    }

    /// How long each call may take from now on.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Whether there is a connection: not before the first call, nor after one without an answer.
    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Calls a method and waits for its result. `params` may be null.
    ///
    /// # Errors
    /// The target's error; or, with code `-ETIMEDOUT` or `-EIO`, that there was no answer: then the connection is given up.
    pub fn call(&mut self, method: &str, params: &Value) -> Result<Value, RpcError> {
        self.last_id += 1;
        let mut request = json!({"jsonrpc": "2.0", "id": self.last_id, "method": method});
        if !params.is_null() {
            request["params"] = params.clone();
        }
        let mut answer = self.exchange(&request).map_err(|error| {
            self.connection = None;
            let code = match error.kind() {
                ErrorKind::TimedOut => ErrorCode::ETIMEDOUT,
                _ => ErrorCode::EIO,
            };
            RpcError::new(code, format!("no answer to {method} {params}: {error}"))
        })?;
        match answer.get("error") {
            Some(error) => Err(RpcError {
                code: ErrorCode(error["code"].as_i64().unwrap_or(0) as i32),
                message: error["message"].as_str().unwrap_or_default().to_owned(),
            }),
            None => Ok(answer["result"].take()),
        }
    }

    fn exchange(&mut self, request: &Value) -> io::Result<Value> {
        let deadline = Instant::now() + self.patience;
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(Connection::open(&self.path, deadline)?),
        };
        connection.send(request.to_string().as_bytes(), deadline)?;
        let answer = connection.receive(deadline)?;
        if answer["id"] != request["id"] {
            let message = format!("the answer has another id: {answer}");
            return Err(io::Error::new(ErrorKind::InvalidData, message));
        }
        Ok(answer)
    }
}

impl Connection {
    /// Connects. A listener whose queue is full is tried again until the deadline.
    fn open(path: &Path, deadline: Instant) -> io::Result<Connection> {
        let address = SocketAddrUnix::new(path)?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        while let Err(error) = rustix::net::connect(&socket, &address) {
            if error != rustix::io::Errno::AGAIN {
                return Err(error.into());
            }
            std::thread::sleep(left(deadline)?.min(KNOCK_AGAIN));
        }
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false)?;
        Ok(Connection {
            stream,
            received: Vec::new(),
        })
    }

    fn send(&mut self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(left(deadline)?))?;
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) => is_transient(error)?,
            }
        }
        Ok(())
    }

    /// The next whole value of the stream.
    fn receive(&mut self, deadline: Instant) -> io::Result<Value> {
        let mut piece = vec![0; 65536];
        loop {
            let mut values = serde_json::Deserializer::from_slice(&self.received).into_iter();
            match values.next() {
                Some(Ok(value)) => {
                    let taken = values.byte_offset();
                    self.received.drain(..taken);
                    return Ok(value);
                }
                Some(Err(error)) if !error.is_eof() => return Err(error.into()),
                _ => {}
            }
            if self.received.len() > ANSWER_LIMIT {
                let message = format!("the answer is longer than {ANSWER_LIMIT} bytes");
                return Err(io::Error::new(ErrorKind::InvalidData, message));
            }
            self.stream.set_read_timeout(Some(left(deadline)?))?;
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received.extend_from_slice(&piece[..count]),
                Err(error) => is_transient(error)?,
            }
        }
    }
}

/// The time until `deadline`, which has not passed.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(io::Error::new(
            ErrorKind::TimedOut,
            "the target takes too long",
        )),
        false => Ok(left),
    }
}

/// Lets errors pass after which the deadline is looked at: the end of a socket's own time is one.
fn is_transient(error: io::Error) -> io::Result<()> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A listener in a folder of its own.
    fn listener() -> (tempfile::TempDir, PathBuf, UnixListener) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rpc.sock");
        let listener = UnixListener::bind(&path).unwrap();
        (folder, path, listener)
    }

    /// Reads one request, and answers with what `answer` makes of its id.
    fn serve(stream: &mut UnixStream, answer: impl Fn(&Value) -> String) {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).unwrap();
        let request: Value = serde_json::from_slice(&bytes[..count]).unwrap();
        stream.write_all(answer(&request["id"]).as_bytes()).unwrap();
    }

    #[test]
    fn answers_come_in_pieces_and_errors_are_the_targets() {
        let (_folder, path, listener) = listener();
        let target = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            serve(&mut stream, |id| format!("{{\"id\": {id}, \"result\""));
            std::thread::sleep(Duration::from_millis(20));
            stream.write_all(b": [1, 2]} \n").unwrap();
            let error = json!({"code": -19, "message": "name: no"});
            serve(&mut stream, |id| {
                json!({"id": id, "error": error}).to_string()
            });
        });
        let mut client = RpcClient::connect(&path).unwrap();
        assert_eq!(client.call("a", &Value::Null), Ok(json!([1, 2])));
        let error = client.call("b", &json!({})).unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (ErrorCode::ENODEV, "name: no")
        );
        assert!(client.is_connected());
        target.join().unwrap();
    }

    #[test]
    fn a_target_that_hangs_or_drips_costs_the_patience_and_no_more() {
        let (_folder, path, listener) = listener();
        let patience = Duration::from_millis(200);
        let mut client = RpcClient::new(&path, patience);
        let dripping = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
            listener
        });
        let begun = Instant::now();
        let error = client.call("a", &Value::Null).unwrap_err();
        assert_eq!(error.code, ErrorCode::ETIMEDOUT, "{error}");
        assert!(!client.is_connected());
        assert!(begun.elapsed() < patience * 10);

        // Nobody takes connections any more, and few fit into the listener's queue: then connecting waits.
        let listener = dripping.join().unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        for attempt in 0..5 {
            let begun = Instant::now();
            let error = client.call("a", &Value::Null).unwrap_err();
            assert_eq!(error.code, ErrorCode::ETIMEDOUT, "{attempt}: {error}");
            assert!(begun.elapsed() < patience * 10);
        }
    }

    #[test]
    fn a_target_that_went_away_is_connected_to_again() {
        let (_folder, path, listener) = listener();
        let target = std::thread::spawn(move || {
            drop(listener.accept().unwrap());
            let (mut stream, _) = listener.accept().unwrap();
            serve(&mut stream, |id| {
                json!({"id": id, "result": true}).to_string()
            });
        });
        let mut client = RpcClient::new(&path, PATIENCE);
        let error = client.call("a", &Value::Null).unwrap_err();
        assert_eq!(error.code, ErrorCode::EIO, "{error}");
        assert_eq!(client.call("a", &Value::Null), Ok(json!(true)));
        target.join().unwrap();
    }

    #[test]
    fn an_answer_to_something_else_is_none() {
        let (_folder, path, listener) = listener();
        let target = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            serve(&mut stream, |_| {
                json!({"id": "another", "result": true}).to_string()
            });
        });
        let mut client = RpcClient::connect(&path).unwrap();
        let error = client.call("a", &Value::Null).unwrap_err();
        assert!(error.message.contains("another id"), "{error}");
        assert!(!client.is_connected());
        target.join().unwrap();
    }
}
