//! Reactors: one pinned thread per core of the target's core mask.
//!
//! A reactor turns: it runs the messages sent to it, looks which sockets became ready, polls every
//! poller once, and begins again. While there is nothing to do it spins for a moment and then sleeps
//! until a message, a wake-up, a ready descriptor or a deadline. All state of the data path belongs
//! to one reactor; another thread reaches it only by a message ([`ReactorHandle::send`],
//! [`ReactorHandle::call`]), which is for control, or by a queue of its own and a [`Waker`].
//!
//! Life cycle: [`Reactors::start`] pins and runs the threads; whoever adds pollers removes them;
//! [`Reactors::stop`] runs the messages still queued, drops what is left, and joins the threads.

mod armed;
mod clock;
mod context;
mod readiness;
mod thread;
mod wake;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{self, AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_queue::SegQueue;
use thiserror::Error;

pub use clock::{begin_turn, clock, now, poll_by};
pub use context::{Activity, Poller, PollerId, PollerInfo, ReactorCtx};
pub use readiness::{SleepFd, Watched};
pub use thread::is_reactor;
pub use vdo_rpc::cpumask::{CpuMask, CpuMaskError};
pub use wake::Waker;

use readiness::FdSet;

/// Something to run once on a reactor's thread.
pub type Message = Box<dyn FnOnce(&mut ReactorCtx) + Send>;

/// Why reactors could not be started or reached.
#[derive(Debug, Error)]
pub enum ReactorError {
    /// The core mask names a core this process cannot run on.
    #[error(
        "core {core} of core mask 0x{mask} is not available; this process may use cores {available:?}"
    )]
    NoSuchCore {
        /// The missing core.
        core: usize,
        /// The mask asked for.
        mask: CpuMask,
        /// The cores there are.
        available: Vec<usize>,
    },
    /// The system refused a thread or a descriptor.
    #[error("could not start the reactor of core {core}: {source}")]
    Start {
        /// Which core's.
        core: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The reactor has stopped, or the message panicked.
    #[error("the reactor of core {core} has stopped")]
    Stopped {
        /// Which core's.
        core: usize,
    },
    /// A blocking call from a reactor's own thread would wait for itself.
    #[error("a reactor's thread must not wait for another reactor")]
    WouldDeadlock,
}

/// What all threads share of one reactor.
#[derive(Debug)]
struct Shared {
    index: usize,
    core: usize,
    messages: SegQueue<Message>,
    waker: Waker,
    fds: Arc<FdSet>,
    stopping: AtomicBool,
    stopped: AtomicBool,
    thread: AtomicI32,
    busy_ns: AtomicU64,
    idle_ns: AtomicU64,
    sleeps: AtomicU64,
}

/// How a reactor spent its time so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReactorStats {
    /// The core it is pinned to.
    pub core: usize,
    /// The thread's id.
    pub thread: i32,
    /// Nanoseconds in turns that found something to do.
    pub busy_ns: u64,
    /// Nanoseconds in turns that found nothing, and asleep.
    pub idle_ns: u64,
    /// How often it went to sleep.
    pub sleeps: u64,
}

/// One reactor, as any thread knows it. A clone is a handle to the same reactor.
#[derive(Clone)]
pub struct ReactorHandle(Arc<Shared>);

impl std::fmt::Debug for ReactorHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "reactor {} on core {}", self.0.index, self.0.core)
    }
}

impl PartialEq for ReactorHandle {
    fn eq(&self, other: &ReactorHandle) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl ReactorHandle {
    fn new(index: usize, core: usize) -> io::Result<ReactorHandle> {
        Ok(ReactorHandle(Arc::new(Shared {
            index,
            core,
            messages: SegQueue::new(),
            waker: Waker::new()?,
            fds: Arc::new(FdSet::new()?),
            stopping: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            thread: AtomicI32::new(0),
            busy_ns: AtomicU64::new(0),
            idle_ns: AtomicU64::new(0),
            sleeps: AtomicU64::new(0),
        })))
    }

    /// A reactor without a thread, for channels that are polled by hand (tests, benchmarks). Messages
    /// sent to it are never run.
    pub fn detached() -> io::Result<ReactorHandle> {
        let handle = ReactorHandle::new(0, 0)?;
        handle.0.stopped.store(true, Ordering::Release);
        Ok(handle)
    }

    /// Its place among the target's reactors, from zero.
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// The core it is pinned to.
    pub fn core(&self) -> usize {
        self.0.core
    }

    /// What wakes it.
    pub fn waker(&self) -> &Waker {
        &self.0.waker
    }

    /// Runs `message` on the reactor's thread soon. Messages of one sender run in the order sent. A
    /// reactor that has stopped drops it.
    pub fn send(&self, message: impl FnOnce(&mut ReactorCtx) + Send + 'static) {
        if self.0.stopped.load(Ordering::Acquire) {
            return;
        }
        self.0.messages.push(Box::new(message));
        self.0.waker.wake();
        if self.0.stopped.load(Ordering::Acquire) {
            // It stopped between the two looks, and may not have seen the message.
            self.drop_messages();
        }
    }

    fn drop_messages(&self) {
        while self.0.messages.pop().is_some() {}
    }

    /// Runs `work` on the reactor's thread and waits for its answer. Not to be called on a reactor.
    ///
    /// # Errors
    /// When the reactor has stopped, or the caller is a reactor itself.
    pub fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut ReactorCtx) -> T + Send + 'static,
    ) -> Result<T, ReactorError> {
        if is_reactor() {
            return Err(ReactorError::WouldDeadlock);
        }
        let (answer, answered) = mpsc::sync_channel(1);
        self.send(move |reactor| {
            // A caller that gave up is no concern of the reactor's.
            let _ = answer.send(work(reactor));
        });
        answered
            .recv()
            .map_err(|_| ReactorError::Stopped { core: self.core() })
    }

    /// Watches a non-blocking descriptor: its readiness is known to its owner, on this reactor's
    /// thread, and wakes the reactor.
    ///
    /// # Errors
    /// What epoll says; a regular file cannot be watched.
    pub fn watch<F: AsRawFd>(&self, io: F) -> io::Result<Watched<F>> {
        self.0.fds.watch(io)
    }

    /// Wakes the reactor, when it sleeps, while `fd` has input. `fd` must outlive the answer.
    pub fn sleep_on(&self, fd: RawFd) -> SleepFd {
        self.0.fds.sleep_on(fd)
    }

    /// How the reactor spent its time so far.
    pub fn stats(&self) -> ReactorStats {
        ReactorStats {
            core: self.0.core,
            thread: self.0.thread.load(Ordering::Relaxed),
            busy_ns: self.0.busy_ns.load(Ordering::Relaxed),
            idle_ns: self.0.idle_ns.load(Ordering::Relaxed),
            sleeps: self.0.sleeps.load(Ordering::Relaxed),
        }
    }

    /// What is polled there; empty when the reactor has stopped. Waits for the reactor.
    pub fn pollers(&self) -> Vec<PollerInfo> {
        self.call(|reactor| reactor.pollers()).unwrap_or_default()
    }
}

/// All reactors of a target.
#[derive(Debug)]
pub struct Reactors {
    mask: CpuMask,
    handles: Vec<ReactorHandle>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Reactors {
    /// Starts one pinned thread per core of `mask`.
    ///
    /// # Errors
    /// When a core is missing, or the system refuses a thread.
    pub fn start(mask: &CpuMask) -> Result<Reactors, ReactorError> {
        let mut available: Vec<usize> = core_affinity::get_core_ids()
            .unwrap_or_default()
            .iter()
            .map(|core| core.id)
            .collect();
        available.sort_unstable();
        if let Some(&core) = mask.cores().iter().find(|&core| !available.contains(core)) {
            return Err(ReactorError::NoSuchCore {
                core,
                mask: mask.clone(),
                available,
            });
        }
        let mut reactors = Reactors {
            mask: mask.clone(),
            handles: Vec::new(),
            threads: Mutex::default(),
        };
        for (index, &core) in mask.cores().iter().enumerate() {
            let start = |source| ReactorError::Start { core, source };
            let handle = ReactorHandle::new(index, core).map_err(start)?;
            let thread = thread::spawn(handle.clone()).map_err(start)?;
            reactors.handles.push(handle);
            reactors
                .threads
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner)
                .push(thread);
        }
        Ok(reactors)
    }

    /// The cores they run on.
    pub fn mask(&self) -> &CpuMask {
        &self.mask
    }

    /// All of them, in the order of their cores. Never empty.
    pub fn all(&self) -> &[ReactorHandle] {
        &self.handles
    }

    /// The first one, for work that may be anywhere.
    pub fn first(&self) -> &ReactorHandle {
        &self.handles[0]
    }

    /// The reactor of a core, if the target runs there.
    pub fn by_core(&self, core: usize) -> Option<&ReactorHandle> {
        self.handles.iter().find(|handle| handle.core() == core)
    }

    /// Stops the threads and waits for them: messages queued so far are run, pollers left are dropped
    /// on their threads. Does nothing the second time.
    pub fn stop(&self) {
        for handle in &self.handles {
            handle.0.stopping.store(true, Ordering::Release);
            handle.0.waker.wake();
        }
        let threads: Vec<_> = self
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
            .collect();
        for thread in threads {
            if thread.join().is_err() {
                log::error!("a reactor's thread ended with a panic");
            }
        }
    }
}

impl Drop for Reactors {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
