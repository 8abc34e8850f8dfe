//! A bdev served at a UNIX socket, and all such exports of a target.
//!
//! [`NbdExports::start`] opens the bdev, listens, and leaves a poller on the first reactor that accepts
//! clients and spreads them over all reactors. An export closes when it is stopped, when its bdev is
//! removed, or when the target ends: nobody new is let in, each client's I/O under way ends, then
//! its channel and, with the last of them, the bdev are let go.

use std::fmt;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use thiserror::Error;
use vdo::buffer::DmaMemory;
use vdo::seam::Nanos;
use vdo_rpc::RpcError;

use super::connection::Connection;
use super::memory::RequestMemory;
use super::negotiation::ExportInfo;
use super::places::{Limits, MOST_CLIENTS, Place, Places};
use super::protocol::transmission;
use crate::bdev::{BdevDesc, BdevError, BdevInfo, Channel, IoKind, OpenOptions, Registry};
use crate::reactor::{Activity, ReactorCtx, ReactorHandle, Reactors, Watched};
use crate::rpc::{LockedListener, SocketAccess, SocketError};

/// How long stopping an export waits for I/O under way.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an export's listener and its clients share.
pub(super) struct Shared {
    info: ExportInfo,
    path: String,
    /// Gone once the export closes.
    desc: Mutex<Option<BdevDesc>>,
    closing: AtomicBool,
    reactors: Vec<ReactorHandle>,
    next_reactor: AtomicUsize,
    places: Arc<Places>,
    memory: Arc<RequestMemory>,
    /// The listener and the clients there are.
    members: Mutex<usize>,
    member_left: Condvar,
}

impl Shared {
    /// What the export says of itself.
    pub(super) fn info(&self) -> &ExportInfo {
        &self.info
    }

    /// The places for its clients.
    pub(super) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// The memory for its clients' requests.
    pub(super) fn memory(&self) -> Arc<dyn DmaMemory> {
        self.memory.clone()
    }

    /// Whether everybody is to leave.
    #[inline]
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// A channel to the bdev; `None` if the export is closing or the bdev refuses.
    pub(super) fn open_channel(&self, reactor: &ReactorHandle) -> Option<Channel> {
        // Opened outside the lock: it may take a moment.
        let desc = lock(&self.desc).clone()?;
        desc.open_channel(reactor)
            .inspect_err(|error| log::error!("nbd: cannot serve {}: {error}", self.info.name))
            .ok()
    }

    /// Has everybody leave, without waiting for it.
    fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        drop(lock(&self.desc).take());
        self.wake_all();
    }

    fn wake_all(&self) {
        for reactor in &self.reactors {
            reactor.waker().wake();
        }
    }

    /// Waits until everybody has left; says whether they have.
    fn wait(&self) -> bool {
        let waited =
            self.member_left
                .wait_timeout_while(lock(&self.members), STOP_TIMEOUT, |members| *members > 0);
        let (members, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *members == 0
    }
}

/// One client or listener that keeps an export from having ended.
pub(super) struct Member(Arc<Shared>);

impl Member {
    fn new(shared: &Arc<Shared>) -> Member {
        *lock(&shared.members) += 1;
        Member(Arc::clone(shared))
    }

    /// The export.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        *lock(&self.0.members) -= 1;
        self.0.member_left.notify_all();
    }
}

/// Why an export could not be started or stopped.
#[derive(Debug, Error)]
pub enum NbdError {
    /// The bdev refused.
    #[error("bdev_name: {0}")]
    Bdev(#[from] BdevError),
    /// The socket cannot be listened on.
    #[error("nbd_device: {0}")]
    Socket(#[from] SocketError),
    /// An export of this target has the path.
    #[error(
        "nbd_device: {path} serves bdev {bdev_name:?} already; stop that first or choose another path"
    )]
    Taken {
        /// The path.
        path: String,
        /// What is served there.
        bdev_name: String,
    },
    /// No export has the path.
    #[error("nbd_device: no bdev is served at {0}; nbd_get_disks lists those that are")]
    NotFound(String),
    /// I/O under way did not end.
    #[error(
        "nbd_device: I/O under way at {0} did not end within 30 seconds; it still holds the bdev"
    )]
    Stuck(String),
    /// The reactor cannot watch the socket.
    #[error("nbd_device: cannot watch the socket {path}: {source}")]
    Watch {
        /// The path.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl From<NbdError> for RpcError {
    fn from(error: NbdError) -> RpcError {
        let errno = match &error {
            NbdError::Bdev(error) => error.errno(),
            NbdError::Socket(error) => error.errno(),
            NbdError::Taken { .. } => libc::EBUSY,
            NbdError::NotFound(_) => libc::ENODEV,
            NbdError::Stuck(_) => libc::ETIMEDOUT,
            NbdError::Watch { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        };
        RpcError::errno(errno, error.to_string())
    }
}

/// Memory for the requests of all clients in MiB, if nobody says otherwise.
pub const MEMORY_MIB: u64 = 4096;

/// For whom exports are.
#[derive(Clone, Copy, Debug)]
pub struct ExportOptions {
    /// Who may connect.
    pub access: SocketAccess,
    /// Clients each export serves at once.
    pub most_clients: usize,
    /// Memory for the requests of all clients of all exports, in bytes.
    pub memory_bytes: u64,
}

impl Default for ExportOptions {
    fn default() -> ExportOptions {
        ExportOptions {
            access: SocketAccess::default(),
            most_clients: MOST_CLIENTS,
            memory_bytes: MEMORY_MIB << 20,
        }
    }
}

/// All exports of a target, by path.
pub struct NbdExports {
    access: SocketAccess,
    limits: Limits,
    memory: Arc<RequestMemory>,
    exports: Arc<Mutex<Vec<Arc<Shared>>>>,
}

impl fmt::Debug for NbdExports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(lock(&self.exports).iter().map(|export| &export.path))
            .finish()
    }
}

impl NbdExports {
    /// No exports yet.
    pub fn new(options: ExportOptions) -> NbdExports {
        let limits = Limits {
            served: options.most_clients,
            ..Limits::default()
        };
        NbdExports {
            access: options.access,
            limits,
            memory: Arc::new(RequestMemory::new(options.memory_bytes)),
            exports: Arc::default(),
        }
    }

    /// No exports, and other limits for those to come.
    #[cfg(test)]
    pub(super) fn with_limits(limits: Limits) -> NbdExports {
        NbdExports {
            limits,
            ..NbdExports::new(ExportOptions::default())
        }
    }

    /// Serves a bdev at a UNIX socket, for those who may connect, until it is stopped.
    ///
    /// # Errors
    /// When the bdev cannot be opened, or the path not be listened on.
    pub fn start(
        &self,
        bdevs: &Registry,
        reactors: &Reactors,
        bdev_name: &str,
        path: &str,
    ) -> Result<(), NbdError> {
        if let Some(export) = lock(&self.exports)
            .iter()
            .find(|export| export.path == path)
        {
            let bdev_name = export.info.name.clone();
            return Err(NbdError::Taken {
                path: path.to_owned(),
                bdev_name,
            });
        }
        let desc = self.open(bdevs, bdev_name, path)?;
        let listener = LockedListener::bind(Path::new(path), self.access)?;
        let reactor = reactors.first();
        let shared = Arc::new(Shared {
            info: export_info(desc.info()),
            path: path.to_owned(),
            desc: Mutex::new(Some(desc)),
            closing: AtomicBool::new(false),
            reactors: reactors.all().to_vec(),
            next_reactor: AtomicUsize::new(0),
            places: Arc::new(Places::new(self.limits, reactor.clone())),
            memory: Arc::clone(&self.memory),
            members: Mutex::default(),
            member_left: Condvar::new(),
        });
        let listener = reactor.watch(listener).map_err(|source| NbdError::Watch {
            path: path.to_owned(),
            source,
        })?;
        let mut doorman = Doorman {
            listener,
            member: Member::new(&shared),
        };
        let name = format!("nbd listener {path}");
        reactor.send(move |reactor| {
            reactor.add_poller(name, move |reactor: &mut ReactorCtx| {
                doorman.poll(reactor.now())
            });
        });
        log::info!("nbd: bdev {bdev_name:?} is served at {path}");
        lock(&self.exports).push(shared);
        Ok(())
    }

    fn open(&self, bdevs: &Registry, bdev_name: &str, path: &str) -> Result<BdevDesc, BdevError> {
        let user = format!("nbd export {path}");
        let options = |options: OpenOptions| {
            let (exports, path) = (Arc::downgrade(&self.exports), path.to_owned());
            options.on_remove(move || {
                let Some(exports) = exports.upgrade() else {
                    return;
                };
                let export = take(&exports, &path);
                if let Some(export) = export {
                    log::info!(
                        "nbd: the bdev served at {path} is being removed; its clients are let go"
                    );
                    export.close();
                }
            })
        };
        let desc = bdevs.open(bdev_name, options(OpenOptions::read_only(user.clone())))?;
        if !desc.info().supports.contains(IoKind::Write) {
            return Ok(desc);
        }
        drop(desc);
        bdevs.open(bdev_name, options(OpenOptions::read_write(user)))
    }

    /// Stops serving at `path`: I/O under way ends, clients are let go, the socket is removed. Not to
    /// be called on a reactor.
    ///
    /// # Errors
    /// When nothing is served there, or I/O does not end.
    pub fn stop(&self, path: &str) -> Result<(), NbdError> {
        let export =
            take(&self.exports, path).ok_or_else(|| NbdError::NotFound(path.to_owned()))?;
        export.close();
        if export.wait() {
            Ok(())
        } else {
            Err(NbdError::Stuck(path.to_owned()))
        }
    }

    /// Stops every export. Not to be called on a reactor.
    pub fn stop_all(&self) {
        let exports: Vec<_> = lock(&self.exports).drain(..).collect();
        for export in &exports {
            export.close();
        }
        for export in &exports {
            if !export.wait() {
                log::warn!("nbd: I/O under way at {} did not end", export.path);
            }
        }
    }

    /// Path and bdev name of each export, in the order they were started.
    pub fn list(&self) -> Vec<(String, String)> {
        lock(&self.exports)
            .iter()
            .map(|export| (export.path.clone(), export.info.name.clone()))
            .collect()
    }

    /// The calls that start every export again.
    pub fn config(&self) -> Vec<Value> {
        let call = |(path, bdev_name): (String, String)| json!({"method": "nbd_start_disk", "params": {"bdev_name": bdev_name, "nbd_device": path}});
        self.list().into_iter().map(call).collect()
    }
}

fn take(exports: &Mutex<Vec<Arc<Shared>>>, path: &str) -> Option<Arc<Shared>> {
    let mut exports = lock(exports);
    let place = exports.iter().position(|export| export.path == path)?;
    Some(exports.remove(place))
}

/// What the protocol is told of a bdev.
fn export_info(bdev: &BdevInfo) -> ExportInfo {
    use transmission::*;
    let mut flags = HAS_FLAGS | CAN_MULTI_CONN | SEND_CACHE | SEND_FLUSH;
    if bdev.supports.contains(IoKind::Write) {
        flags |= SEND_FUA;
        if bdev.supports.contains(IoKind::Unmap) {
            flags |= SEND_TRIM;
        }
        if bdev.supports.contains(IoKind::WriteZeroes) {
            // A bdev that can write zeroes at all does so without writing them out.
            flags |= SEND_WRITE_ZEROES | SEND_FAST_ZERO;
        }
    } else {
        flags |= READ_ONLY;
    }
    ExportInfo {
        name: bdev.name.clone(),
        blocks: bdev.num_blocks.clone(),
        block_size: bdev.block_size,
        flags,
    }
}

/// Lets clients in; a poller on the first reactor.
struct Doorman {
    listener: Watched<LockedListener>,
    member: Member,
}

impl Doorman {
    fn poll(&mut self, now: Nanos) -> Activity {
        let shared = self.member.shared();
        if shared.is_closing() {
            return Activity::Finished;
        }
        shared.places.report(now, &shared.path);
        let mut activity = Activity::Idle;
        let mut full = false;
        while self.listener.is_readable() {
            let Some(place) = shared.places.enter() else {
                full = true;
                break;
            };
            match self.listener.io().listener().accept() {
                Ok((stream, _)) => {
                    activity = Activity::Busy;
                    Doorman::let_in(shared, stream, place);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.listener.clear_readable(),
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => {
                        // Out of descriptors, most likely. The next client's knock tries again.
                        log::warn!("nbd: cannot accept a client of {}: {error}", shared.path);
                        self.listener.clear_readable();
                    }
                },
            }
        }
        if shared.places.hurry(full) && full {
            shared.wake_all();
        }
        activity
    }

    /// Gives a client to the next reactor in turn.
    fn let_in(shared: &Arc<Shared>, stream: UnixStream, place: Place) {
        if let Err(error) = stream.set_nonblocking(true) {
            log::warn!("nbd: cannot use a client's socket: {error}");
            return;
        }
        let next = shared.next_reactor.fetch_add(1, Ordering::Relaxed);
        let reactor = &shared.reactors[next % shared.reactors.len()];
        let member = Member::new(shared);
        reactor.send(move |reactor| {
            let name = format!("nbd client of {}", member.shared().info.name);
            match Connection::new(stream, place, member, reactor) {
                Ok(connection) => {
                    reactor.add_poller(name, connection);
                }
                Err(error) => {
                    log::warn!("nbd: cannot watch a client's socket: {error}")
                }
            }
        });
    }
}
