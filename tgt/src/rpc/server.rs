//! The RPC server: one thread that waits for the socket and its clients.
//!
//! It is no part of the data path, so it has a thread of its own and sleeps in `poll(2)`. Requests of
//! one connection are carried out in order, each by that connection's worker, a thread that lives
//! while there is something to do; so a slow request holds up its own client only. A method whose
//! point is to wait gets a thread to itself. Workers hand answers back and wake the server.
//!
//! Limits are SPDK's: 64 connections (or as many as [`ServerOptions`] says), 256 KiB a request, 32 MiB an answer. When all places are taken and
//! another client knocks, the one that has been quiet longest (and for ten seconds at least) goes.
//!
//! Life cycle: [`RpcServer::start`] listens and answers; [`RpcServer::stop`] takes no more, lets
//! what is under way end, delivers the answers clients will take, and removes the socket.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use vdo_rpc::RpcError;

use super::access::SocketAccess;
use super::connection::Connection;
use super::dispatch::{Dispatcher, State};
use super::message::{self, Incoming, Request};
use super::socket::{LockedListener, SocketError};

/// Most clients at once, if nobody says otherwise: as many as SPDK has.
pub const MOST_CONNECTIONS: usize = 64;

/// For whom a server is.
#[derive(Clone, Copy, Debug)]
pub struct ServerOptions {
    /// Who may connect.
    pub access: SocketAccess,
    /// Most clients at once.
    pub most_connections: usize,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            access: SocketAccess::default(),
            most_connections: MOST_CONNECTIONS,
        }
    }
}

/// How long a client must have been quiet before it can lose its place to another.
const QUIET: Duration = Duration::from_secs(10);

/// How long a stopping server waits for work under way and for clients to read.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Names a connection; never reused.
type ConnectionId = u64;

/// What the server's thread and the workers share.
struct Shared {
    dispatcher: Arc<Dispatcher>,
    state: Box<dyn Fn() -> State + Send + Sync>,
    answers: Mutex<Vec<(ConnectionId, Option<Vec<u8>>)>>,
    waker: UnixStream,
    stopping: std::sync::atomic::AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn wake(&self) {
        // A full pipe wakes as well as one more byte.
        let _ = (&self.waker).write(&[0]);
    }

    fn answer(&self, connection: ConnectionId, answer: Option<Vec<u8>>) {
        lock(&self.answers).push((connection, answer));
        self.wake();
    }

    fn call(&self, request: &Request) -> Result<Value, RpcError> {
        log::debug!("rpc: {} {:?}", request.method, request.params);
        let result = self
            .dispatcher
            .call((self.state)(), &request.method, request.params.as_ref());
        if let Err(error) = &result {
            log::info!("rpc: {}: {error}", request.method);
        }
        result
    }

    fn single(&self, request: Result<Request, RpcError>) -> Option<Value> {
        match request {
            Ok(request) => message::answer(&request.id, self.call(&request)),
            Err(error) => message::answer(&Value::Null, Err(error)),
        }
    }

    /// Carries out a request or a batch; the text of its answer.
    fn carry_out(&self, incoming: Incoming) -> Option<Vec<u8>> {
        let answer = match incoming {
            Incoming::Single(request) => self.single(request)?,
            Incoming::Garbage(error) => self.single(Err(error))?,
            Incoming::Batch(calls) => {
                let answers: Vec<Value> = calls
                    .into_iter()
                    .filter_map(|call| self.single(call))
                    .collect();
                if answers.is_empty() {
                    return None;
                }
                Value::Array(answers)
            }
        };
        Some(message::encode(&answer))
    }
}

/// The requests of one connection that wait for its worker.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Incoming>,
    worked_on: bool,
}

struct Client {
    connection: Connection,
    queue: Arc<Mutex<Queue>>,
}

/// A running server.
pub struct RpcServer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for RpcServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RpcServer")
    }
}

impl RpcServer {
    /// Listens on `path` and answers with `dispatcher`; `state` tells where the program is in its life.
    pub fn start(
        path: &Path,
        options: ServerOptions,
        dispatcher: Arc<Dispatcher>,
        state: impl Fn() -> State + Send + Sync + 'static,
    ) -> Result<RpcServer, SocketError> {
        let listener = LockedListener::bind(path, options.access)?;
        let system = |source| SocketError::System {
            what: "cannot serve",
            path: path.to_path_buf(),
            source,
        };
        let (waker, woken) = UnixStream::pair().map_err(system)?;
        waker.set_nonblocking(true).map_err(system)?;
        woken.set_nonblocking(true).map_err(system)?;
        let shared = Arc::new(Shared {
            dispatcher,
            state: Box::new(state),
            answers: Mutex::default(),
            waker,
            stopping: false.into(),
        });
        let server = Server {
            shared: Arc::clone(&shared),
            listener: Some(listener),
            most_connections: options.most_connections,
            woken,
            clients: BTreeMap::new(),
            last_id: 0,
        };
        let thread = std::thread::Builder::new()
            .name("rpc".to_owned())
            .spawn(move || server.run());
        Ok(RpcServer {
            shared,
            thread: Some(thread.map_err(system)?),
        })
    }

    /// Takes no more requests, waits a little for those under way, and removes the socket.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared
            .stopping
            .store(true, std::sync::atomic::Ordering::Release);
        self.shared.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the RPC server ended with a panic");
        }
    }
}

impl Drop for RpcServer {
    fn drop(&mut self) {
        self.end();
    }
}

/// The server's thread.
struct Server {
    shared: Arc<Shared>,
    listener: Option<LockedListener>,
    most_connections: usize,
    woken: UnixStream,
    clients: BTreeMap<ConnectionId, Client>,
    last_id: ConnectionId,
}

/// What a descriptor in the poll set belongs to.
#[derive(Clone, Copy)]
enum Watched {
    Waker,
    Listener,
    Client(ConnectionId),
}

impl Server {
    fn run(mut self) {
        let mut deadline = None;
        loop {
            if deadline.is_none()
                && self
                    .shared
                    .stopping
                    .load(std::sync::atomic::Ordering::Acquire)
            {
                self.listener = None;
                deadline = Some(Instant::now() + STOP_PATIENCE);
            }
            if let Some(deadline) = deadline {
                let owed = |client: &Client| {
                    client.connection.idle_since().is_none() || client.connection.wants_output()
                };
                if Instant::now() >= deadline || !self.clients.values().any(owed) {
                    return;
                }
            }
            self.wait(deadline);
            self.deliver();
            self.clients.retain(|_, client| {
                let finished = client.connection.is_finished();
                if finished {
                    // The peer may be gone already.
                    let _ = client.connection.close();
                }
                !finished
            });
        }
    }

    /// Waits until something can be done, and reads, writes and accepts.
    fn wait(&mut self, deadline: Option<Instant>) {
        let mut polled = vec![entry(self.woken.as_raw_fd(), libc::POLLIN)];
        let mut owners = vec![Watched::Waker];
        let crowded = self.clients.len() >= self.most_connections;
        if let Some(listener) = &self.listener
            && (!crowded || self.quietest().is_some())
        {
            polled.push(entry(listener.as_raw_fd(), libc::POLLIN));
            owners.push(Watched::Listener);
        }
        for (id, client) in &self.clients {
            let mut events = 0;
            if client.connection.wants_input() && deadline.is_none() {
                events |= libc::POLLIN;
            }
            if client.connection.wants_output() {
                events |= libc::POLLOUT;
            }
            polled.push(entry(client.connection.fd(), events));
            owners.push(Watched::Client(*id));
        }
        let timeout = match deadline {
            Some(deadline) => {
                deadline
                    .saturating_duration_since(Instant::now())
                    .as_millis() as i32
                    + 1
            }
            None if crowded => 1000,
            None => -1,
        };
        // SAFETY: `polled` is an array of its length and outlives the call.
        let found =
            unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
        if found <= 0 {
            return;
        }
        for (entry, owner) in polled.iter().zip(owners) {
            match owner {
                _ if entry.revents == 0 => {}
                Watched::Waker => self.drain_waker(),
                Watched::Listener => self.accept(),
                Watched::Client(id) => self.serve(id, entry.revents),
            }
        }
    }

    fn drain_waker(&mut self) {
        let mut bytes = [0; 256];
        while matches!(self.woken.read(&mut bytes), Ok(count) if count > 0) {}
    }

    /// The client that has been quiet longest, if long enough to lose its place.
    fn quietest(&self) -> Option<ConnectionId> {
        let quiet = self
            .clients
            .iter()
            .filter_map(|(id, client)| client.connection.idle_since().map(|since| (since, *id)));
        quiet
            .min()
            .filter(|(since, _)| since.elapsed() >= QUIET)
            .map(|(_, id)| id)
    }

    fn accept(&mut self) {
        while let Some(listener) = &self.listener {
            if self.clients.len() >= self.most_connections {
                let Some(quietest) = self.quietest() else {
                    return;
                };
                log::info!(
                    "rpc: {} clients are connected; the quietest one has to go",
                    self.most_connections
                );
                self.clients.remove(&quietest);
            }
            let stream = match listener.listener().accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    log::warn!("rpc: cannot accept a client: {error}");
                    // Out of descriptors, most likely: give others time to close some.
                    std::thread::sleep(Duration::from_millis(10));
                    return;
                }
            };
            if let Err(error) = stream.set_nonblocking(true) {
                log::warn!("rpc: cannot use a client's socket: {error}");
                continue;
            }
            self.last_id += 1;
            let client = Client {
                connection: Connection::new(stream),
                queue: Arc::default(),
            };
            self.clients.insert(self.last_id, client);
        }
    }

    fn serve(&mut self, id: ConnectionId, events: libc::c_short) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        if events & libc::POLLOUT != 0 {
            client.connection.write();
        }
        if events & libc::POLLIN != 0 {
            let Client { connection, queue } = client;
            connection.read(&mut |incoming| assign(&self.shared, id, queue, incoming));
        } else if events & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0 {
            client.connection.hang_up();
        }
        client.connection.write();
    }

    /// Gives the answers that workers left to their connections.
    fn deliver(&mut self) {
        let answers = std::mem::take(&mut *lock(&self.shared.answers));
        for (id, answer) in answers {
            // The client may have gone meanwhile.
            let Some(client) = self.clients.get_mut(&id) else {
                continue;
            };
            client.connection.finish(answer);
            client.connection.write();
        }
        for (id, client) in &mut self.clients {
            let Client { connection, queue } = client;
            connection.resume(&mut |incoming| assign(&self.shared, *id, queue, incoming));
        }
    }
}

fn entry(fd: RawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd {
        fd,
        events,
        revents: 0,
    }
}

/// Has a request carried out, in its turn.
fn assign(shared: &Arc<Shared>, id: ConnectionId, queue: &Arc<Mutex<Queue>>, incoming: Incoming) {
    if let Incoming::Single(Ok(request)) = &incoming
        && shared.dispatcher.waits(&request.method)
    {
        let own = Arc::clone(shared);
        spawn(shared, id, move || own.answer(id, own.carry_out(incoming)));
        return;
    }
    let mut waiting = lock(queue);
    waiting.waiting.push_back(incoming);
    if std::mem::replace(&mut waiting.worked_on, true) {
        return;
    }
    drop(waiting);
    let (own, queue) = (Arc::clone(shared), Arc::clone(queue));
    spawn(shared, id, move || {
        loop {
            let mut waiting = lock(&queue);
            let Some(incoming) = waiting.waiting.pop_front() else {
                waiting.worked_on = false;
                return;
            };
            drop(waiting);
            own.answer(id, own.carry_out(incoming));
        }
    });
}

fn spawn(shared: &Arc<Shared>, id: ConnectionId, work: impl FnOnce() + Send + 'static) {
    let spawned: io::Result<_> = std::thread::Builder::new()
        .name("rpc worker".to_owned())
        .spawn(work);
    if let Err(error) = spawned {
        log::error!("rpc: cannot start a worker for client {id}: {error}");
        let error = RpcError::internal(format!("cannot start a thread: {error}"));
        shared.answer(
            id,
            message::answer(&Value::Null, Err(error)).map(|answer| message::encode(&answer)),
        );
    }
}
