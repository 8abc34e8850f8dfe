//! One client of an export, from its first byte to its last: a poller on one reactor.
//!
//! It shakes hands [`Negotiation`] for as long as its [`Place`] lets it, then takes a place to be served at, opens
//! its own channel to the bdev and serves requests ([`Transmission`]) until the client leaves or the export closes. Its socket never blocks; while there
//! is nothing to do the reactor may sleep and is woken by the socket or the bdev.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use vdo::seam::Nanos;

use super::export::{Member, Shared};
use super::negotiation::{Negotiation, Progress};
use super::places::Place;
use super::pool::Pool;
use super::transmission::Transmission;
use crate::bdev::BufferChannel;
use crate::reactor::{Activity, Poller, ReactorCtx, ReactorHandle, Watched, poll_by};

/// Bytes of a handshake that are read ahead.
const HANDSHAKE_INPUT: usize = 16 * 1024;

/// Bytes of answers to options the client may leave unread.
const HANDSHAKE_UNREAD: usize = 64 * 1024;

/// Bytes the socket may hold for the client: enough for the replies of a deep queue.
const SEND_BUFFER: libc::c_int = 4 * 1024 * 1024;

enum Phase {
    Handshake {
        negotiation: Negotiation,
        input: Vec<u8>,
        output: Vec<u8>,
        over: bool,
        /// When it began.
        began: Nanos,
    },
    Transmission(Box<Transmission>),
}

/// One client.
pub(super) struct Connection {
    phase: Phase,
    socket: Watched<UnixStream>,
    shared: Arc<Shared>,
    /// Where it shakes hands, then where it is served.
    place: Place,
    /// Dropped last: only then does the export count the client out.
    _member: Member,
}

impl Connection {
    /// Greets the client of `socket`, which must not block, on the reactor it will live on.
    pub(super) fn new(
        socket: UnixStream,
        place: Place,
        member: Member,
        reactor: &ReactorCtx,
    ) -> io::Result<Connection> {
        widen(&socket);
        let mut output = Vec::new();
        let negotiation = Negotiation::begin(&mut output);
        Ok(Connection {
            phase: Phase::Handshake {
                negotiation,
                input: Vec::new(),
                output,
                over: false,
                began: reactor.now(),
            },
            socket: reactor.handle().watch(socket)?,
            shared: Arc::clone(member.shared()),
            place,
            _member: member,
        })
    }

    /// Goes on with the handshake; says whether anything moved, or that it is over.
    fn shake_hands(&mut self, reactor: &ReactorCtx) -> Activity {
        let Phase::Handshake {
            negotiation,
            input,
            output,
            over,
            began,
        } = &mut self.phase
        else {
            return Activity::Idle;
        };
        let mut busy = false;
        let mut ready = None;
        if !*over && output.len() < HANDSHAKE_UNREAD && self.socket.is_readable() {
            let have = input.len();
            input.resize(have + HANDSHAKE_INPUT, 0);
            let result = self.socket.io_mut().read(&mut input[have..]);
            input.truncate(have + *result.as_ref().unwrap_or(&0));
            match result {
                Ok(0) => return Activity::Finished,
                Ok(_) => {
                    busy = true;
                    let mut room = || match self.shared.places().be_served() {
                        Some(taken) => {
                            self.place = taken;
                            true
                        }
                        None => false,
                    };
                    let (taken, progress) =
                        negotiation.step(input, self.shared.info(), &mut room, output);
                    input.drain(..taken);
                    match progress {
                        Progress::Going => {}
                        Progress::Over => *over = true,
                        Progress::Ready { structured } => ready = Some(structured),
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.socket.clear_readable(),
                Err(error) if error.kind() == ErrorKind::Interrupted => busy = true,
                Err(_) => return Activity::Finished,
            }
        }
        while !output.is_empty() && (self.socket.is_writable() || ready.is_some()) {
            match self.socket.io_mut().write(output) {
                Ok(count) => {
                    busy = true;
                    output.drain(..count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.socket.clear_writable();
                    if ready.is_some() {
                        // The client asked much, read nothing, and now wants to go on.
                        return Activity::Finished;
                    }
                }
                Err(_) => return Activity::Finished,
            }
        }
        if *over && output.is_empty() {
            return Activity::Finished;
        }
        if let Some(structured) = ready {
            let early = std::mem::take(input);
            return match self.open(reactor.handle(), structured, &early) {
                Some(transmission) => {
                    self.phase = Phase::Transmission(Box::new(transmission));
                    Activity::Busy
                }
                None => Activity::Finished,
            };
        }
        let deadline = self.shared.places().deadline(*began);
        if reactor.now() >= deadline {
            self.shared.places().was_slow();
            return Activity::Finished;
        }
        poll_by(deadline);
        busy.into()
    }

    /// Opens the bdev for requests; `None`, with a line in the log, if that fails.
    fn open(
        &self,
        reactor: &ReactorHandle,
        structured: bool,
        early: &[u8],
    ) -> Option<Transmission> {
        let info = self.shared.info();
        let channel = self.shared.open_channel(reactor)?;
        let Some(pool) = Pool::new(self.shared.memory()) else {
            log::error!(
                "nbd: no memory is left for another client of {} (--nbd-memory-mib)",
                info.name
            );
            return None;
        };
        log::debug!("nbd: a client of {} is served by {reactor:?}", info.name);
        Some(Transmission::new(
            BufferChannel::new(channel),
            pool,
            info.clone(),
            structured,
            early,
        ))
    }
}

impl Poller for Connection {
    fn poll(&mut self, reactor: &mut ReactorCtx) -> Activity {
        let closing = self.shared.is_closing();
        let Phase::Transmission(transmission) = &mut self.phase else {
            if closing {
                return Activity::Finished;
            }
            return self.shake_hands(reactor);
        };
        if closing {
            transmission.end();
        }
        let busy = transmission.poll(&mut self.socket);
        // A client that does not read its last replies cannot keep an export from closing.
        if transmission.is_finished() || (closing && transmission.is_quiet()) {
            return Activity::Finished;
        }
        busy.into()
    }
}

/// Gives the socket room for many replies, as far as the system allows.
fn widen(socket: &UnixStream) {
    for option in [libc::SO_SNDBUFFORCE, libc::SO_SNDBUF] {
        // SAFETY: the pointer is to one int that outlives the call.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                std::ptr::from_ref(&SEND_BUFFER).cast(),
                size_of_val(&SEND_BUFFER) as libc::socklen_t,
            )
        };
        if result == 0 {
            return;
        }
    }
}
