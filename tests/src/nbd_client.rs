//! A small NBD client: one connection over a UNIX socket, many requests in flight, simple replies.
//!
//! A thread of its own reads the replies; the caller submits, and waits only when as many requests are in
//! flight as were asked for.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

const MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const FIXED_NEWSTYLE: u32 = 1;
const NO_ZEROES: u32 = 2;
const EXPORT_NAME: u32 = 1;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;

/// What is done with the bytes of a read: its offset and the bytes.
pub type Sink = Arc<dyn Fn(u64, &[u8]) + Send + Sync>;

struct InFlight {
    requests: HashMap<u64, (u64, u32)>,
    error: Option<String>,
}

struct Shared {
    state: Mutex<InFlight>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, InFlight> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to the default export of a server.
pub struct NbdClient {
    stream: UnixStream,
    /// Bytes of the export.
    pub size: u64,
    depth: usize,
    next: u64,
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

fn bad(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl NbdClient {
    /// Connects, with at most `depth` requests in flight; what reads bring goes to `sink`.
    ///
    /// # Errors
    /// When there is no server, or it is none of NBD.
    pub fn connect(socket: &Path, depth: usize, sink: Sink) -> io::Result<NbdClient> {
        let mut stream = UnixStream::connect(socket)?;
        let mut hello = [0; 18];
        stream.read_exact(&mut hello)?;
        let magics = (
            u64::from_be_bytes(array(&hello[0..8])),
            u64::from_be_bytes(array(&hello[8..16])),
        );
        if magics != (MAGIC, OPTION_MAGIC) {
            return Err(bad("the server does not speak NBD's newstyle"));
        }
        stream.write_all(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes())?;
        stream.write_all(&OPTION_MAGIC.to_be_bytes())?;
        stream.write_all(&EXPORT_NAME.to_be_bytes())?;
        stream.write_all(&0_u32.to_be_bytes())?;
        let mut export = [0; 10];
        stream.read_exact(&mut export)?;
        let size = u64::from_be_bytes(array(&export[0..8]));
        let shared = Arc::new(Shared {
            state: Mutex::new(InFlight {
                requests: HashMap::new(),
                error: None,
            }),
            changed: Condvar::new(),
        });
        let (replies, known) = (stream.try_clone()?, Arc::clone(&shared));
        let reader = std::thread::spawn(move || {
            if let Err(error) = read_replies(replies, &known, &sink) {
                known.lock().error.get_or_insert(error.to_string());
            }
            known.changed.notify_all();
        });
        Ok(NbdClient {
            stream,
            size,
            depth,
            next: 0,
            shared,
            reader: Some(reader),
        })
    }

    fn submit(&mut self, command: u16, offset: u64, length: u32, data: &[u8]) -> io::Result<()> {
        let cookie = self.next;
        self.next += 1;
        {
            let full =
                |state: &mut InFlight| state.error.is_none() && state.requests.len() >= self.depth;
            let mut state = self
                .shared
                .changed
                .wait_while(self.shared.lock(), full)
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(error) = &state.error {
                return Err(bad(error.clone()));
            }
            let brings = if command == READ { length } else { 0 };
            state.requests.insert(cookie, (offset, brings));
        }
        let mut request = Vec::with_capacity(28 + data.len());
        request.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        request.extend_from_slice(&0_u16.to_be_bytes());
        request.extend_from_slice(&command.to_be_bytes());
        request.extend_from_slice(&cookie.to_be_bytes());
        request.extend_from_slice(&offset.to_be_bytes());
        request.extend_from_slice(&length.to_be_bytes());
        request.extend_from_slice(data);
        self.stream.write_all(&request)
    }

    /// Starts to write `data` at `offset`.
    ///
    /// # Errors
    /// When the connection broke or an earlier request failed.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.submit(WRITE, offset, data.len() as u32, data)
    }

    /// Starts to read `length` bytes at `offset`.
    ///
    /// # Errors
    /// When the connection broke or an earlier request failed.
    pub fn read(&mut self, offset: u64, length: u32) -> io::Result<()> {
        self.submit(READ, offset, length, &[])
    }

    /// Waits for everything in flight, flushes, and waits for that.
    ///
    /// # Errors
    /// When any request failed.
    pub fn flush(&mut self) -> io::Result<()> {
        self.wait()?;
        self.submit(FLUSH, 0, 0, &[])?;
        self.wait()
    }

    /// Waits for everything in flight.
    ///
    /// # Errors
    /// When any request failed.
    pub fn wait(&self) -> io::Result<()> {
        let busy = |state: &mut InFlight| state.error.is_none() && !state.requests.is_empty();
        let state = self
            .shared
            .changed
            .wait_while(self.shared.lock(), busy)
            .unwrap_or_else(PoisonError::into_inner);
        state
            .error
            .as_ref()
            .map_or(Ok(()), |error| Err(bad(error.clone())))
    }
}

impl Drop for NbdClient {
    fn drop(&mut self) {
        let _ = self.submit(DISCONNECT, 0, 0, &[]);
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the slice is as long as the array")
}

fn read_replies(stream: UnixStream, shared: &Shared, sink: &Sink) -> io::Result<()> {
    let mut stream = io::BufReader::with_capacity(1 << 20, stream);
    let mut data = Vec::new();
    loop {
        let mut header = [0; 16];
        if stream.read_exact(&mut header).is_err() {
            return match shared.lock().requests.is_empty() {
                true => Ok(()),
                false => Err(bad("the server hung up with requests in flight")),
            };
        }
        if u32::from_be_bytes(array(&header[0..4])) != REPLY_MAGIC {
            return Err(bad("the server sent something that is no reply"));
        }
        let error = u32::from_be_bytes(array(&header[4..8]));
        let cookie = u64::from_be_bytes(array(&header[8..16]));
        let Some(&(offset, length)) = shared.lock().requests.get(&cookie) else {
            return Err(bad("the server answered what nobody asked"));
        };
        if error != 0 {
            return Err(bad(format!(
                "the request at byte {offset} failed with errno {error}"
            )));
        }
        if length > 0 {
            data.resize(length as usize, 0);
            stream.read_exact(&mut data)?;
            sink(offset, &data);
        }
        shared.lock().requests.remove(&cookie);
        shared.changed.notify_all();
    }
}
