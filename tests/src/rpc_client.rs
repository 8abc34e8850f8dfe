//! A JSON-RPC client for tests: one connection, one call at a time.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use vdo_rpc::{ErrorCode, RpcError};

/// How long an answer may take: formatting a volume under load is the slowest there is.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection to a target's RPC socket.
#[derive(Debug)]
pub struct RpcClient {
    stream: UnixStream,
    received: Vec<u8>,
    last_id: u64,
}

impl RpcClient {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(path: &Path) -> std::io::Result<RpcClient> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(RpcClient {
            stream,
            received: Vec::new(),
            last_id: 0,
        })
    }

    /// Calls a method and waits for its result.
    ///
    /// # Errors
    /// The target's error; or, with code `-ETIMEDOUT` or `-EIO`, that there was no answer.
    pub fn call(&mut self, method: &str, params: &Value) -> Result<Value, RpcError> {
        self.last_id += 1;
        let mut request = json!({"jsonrpc": "2.0", "id": self.last_id, "method": method});
        if !params.is_null() {
            request["params"] = params.clone();
        }
        let lost = |error: std::io::Error| {
            RpcError::errno(5, format!("no answer to {method} {params}: {error}"))
        };
        self.stream
            .write_all(request.to_string().as_bytes())
            .map_err(lost)?;
        let mut answer = self.receive().map_err(lost)?;
        if answer["id"] != json!(self.last_id) {
            return Err(RpcError::errno(
                5,
                format!("the answer to {method} has another id: {answer}"),
            ));
        }
        if let Some(error) = answer.get("error") {
            return Err(RpcError {
                code: ErrorCode(error["code"].as_i64().unwrap_or(0) as i32),
                message: error["message"].as_str().unwrap_or_default().to_owned(),
            });
        }
        Ok(answer["result"].take())
    }

    /// The next whole value of the stream.
    fn receive(&mut self) -> std::io::Result<Value> {
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
            let mut piece = [0; 16384];
            match self.stream.read(&mut piece)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => self.received.extend_from_slice(&piece[..count]),
            }
        }
    }
}
