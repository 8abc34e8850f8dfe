//! One client of the RPC socket: what it sent, what is being done for it, what it is owed.
//!
//! A connection reads until a request is whole, queues it for its worker, and writes answers as they
//! come. It holds back, by not reading, while much is under way or unread by the client; so a client
//! that only talks or never listens costs a bounded amount of memory and nobody else anything. When
//! the client has shut down its sending side, what it asked before is still done and answered. After
//! bytes that cannot be understood the connection answers with an error and closes.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use serde_json::Value;
use vdo_rpc::{ErrorCode, RpcError};

use super::message::{self, Incoming};
use super::splitter::Splitter;

/// Longest request, in bytes: the size of SPDK's receive buffer.
pub const LONGEST_REQUEST: usize = 256 * 1024;

/// Requests of one connection that may be under way before it is read on.
const MOST_UNDER_WAY: usize = 128;

/// Bytes of answers the client has not read that stop the connection from being read on.
const MOST_UNREAD: usize = 1024 * 1024;

/// How much is read at once.
const READ_SIZE: usize = 64 * 1024;

/// One client.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    splitter: Splitter,
    /// Answers, the first of them partly written.
    output: VecDeque<Vec<u8>>,
    written: usize,
    unread: usize,
    under_way: usize,
    /// Nothing more is read: the client shut its side, or cannot be understood.
    deaf: bool,
    /// Nothing can be written: the client is gone.
    gone: bool,
    /// When anything last moved.
    active: Instant,
}

impl Connection {
    /// A connection on an accepted, non-blocking socket.
    pub(super) fn new(stream: UnixStream) -> Connection {
        Connection {
            stream,
            input: Vec::new(),
            splitter: Splitter::new(LONGEST_REQUEST),
            output: VecDeque::new(),
            written: 0,
            unread: 0,
            under_way: 0,
            deaf: false,
            gone: false,
            active: Instant::now(),
        }
    }

    /// The socket.
    pub(super) fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Whether input is wanted.
    pub(super) fn wants_input(&self) -> bool {
        !self.deaf && !self.gone && !self.is_held_back()
    }

    /// Whether there is something to write.
    pub(super) fn wants_output(&self) -> bool {
        !self.gone && !self.output.is_empty()
    }

    /// Whether there is nothing left to do and the connection can be closed.
    pub(super) fn is_finished(&self) -> bool {
        self.gone || (self.deaf && self.under_way == 0 && self.output.is_empty())
    }

    /// Since when nothing has moved, if nothing is being done for the client.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.under_way == 0).then_some(self.active)
    }

    fn is_held_back(&self) -> bool {
        self.under_way >= MOST_UNDER_WAY || self.unread >= MOST_UNREAD
    }

    /// Reads what there is and gives each whole request to `take`.
    pub(super) fn read(&mut self, take: &mut dyn FnMut(Incoming)) {
        while self.wants_input() {
            let have = self.input.len();
            self.input.resize(have + READ_SIZE, 0);
            let result = self.stream.read(&mut self.input[have..]);
            self.input
                .truncate(have + result.as_ref().map_or(0, |count| *count));
            match result {
                Ok(0) => {
                    self.deaf = true;
                    if self.splitter.is_within() {
                        self.complain("the connection was closed within a request".to_owned());
                    }
                }
                Ok(_) => {
                    self.active = Instant::now();
                    self.split(take);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.gone = true,
            }
        }
    }

    /// Takes requests that arrived earlier and were held back.
    pub(super) fn resume(&mut self, take: &mut dyn FnMut(Incoming)) {
        if !self.input.is_empty() {
            self.split(take);
        }
    }

    fn split(&mut self, take: &mut dyn FnMut(Incoming)) {
        // What came before bytes that cannot be understood is still done, but nothing after.
        let mut given_up = None;
        let mut consumed = 0;
        while !self.is_held_back() && given_up.is_none() {
            match self.splitter.next(&self.input[consumed..]) {
                Ok(None) => break,
                Ok(Some(range)) => {
                    let incoming =
                        message::parse(&self.input[consumed + range.start..consumed + range.end]);
                    consumed += range.end;
                    if let Incoming::Garbage(error) = incoming {
                        given_up = Some(error);
                    } else {
                        self.under_way += 1;
                        take(incoming);
                    }
                }
                Err(error) => {
                    given_up = Some(RpcError::new(
                        ErrorCode::PARSE,
                        format!("Parse error: {error}"),
                    ));
                }
            }
        }
        self.input.drain(..consumed);
        if let Some(error) = given_up {
            self.complain(error.message);
        } else {
            self.splitter.compact(&mut self.input);
        }
    }

    /// Answers that the stream makes no sense, and stops listening.
    fn complain(&mut self, reason: String) {
        self.deaf = true;
        self.input = Vec::new();
        let error = RpcError::new(ErrorCode::PARSE, reason);
        if let Some(answer) = message::answer(&Value::Null, Err(error)) {
            self.push(message::encode(&answer));
        }
    }

    /// A request was carried out; `answer` is what the client gets for it, if anything.
    pub(super) fn finish(&mut self, answer: Option<Vec<u8>>) {
        self.under_way -= 1;
        self.active = Instant::now();
        if let Some(answer) = answer {
            self.push(answer);
        }
    }

    fn push(&mut self, answer: Vec<u8>) {
        self.unread += answer.len();
        self.output.push_back(answer);
    }

    /// Writes what the client takes.
    pub(super) fn write(&mut self) {
        while !self.gone
            && let Some(first) = self.output.front()
        {
            match self.stream.write(&first[self.written..]) {
                Ok(count) => {
                    self.active = Instant::now();
                    self.written += count;
                    self.unread -= count;
                    if self.written == first.len() {
                        self.output.pop_front();
                        self.written = 0;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.gone = true,
            }
        }
    }

    /// Takes note that the socket failed.
    pub(super) fn hang_up(&mut self) {
        self.gone = true;
    }

    /// Tells the client that nothing more will come.
    pub(super) fn close(&self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Both)
    }
}
