//! The loop a reactor's thread runs, and when it sleeps.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use vdo::seam::Nanos;

use super::{ReactorCtx, ReactorHandle, clock};

/// How long a reactor turns without finding anything before it goes to sleep. Long enough to
/// cover the gap between two requests of a busy client, short enough to be lost in a scheduler's slice.
const SPIN: u64 = 20_000;

/// While a reactor is busy it asks epoll for ready sockets this often, not every turn: in nanoseconds.
const REFRESH: u64 = 5_000;

thread_local! {
    static REACTOR: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is a reactor.
pub fn is_reactor() -> bool {
    REACTOR.get()
}

/// Starts the thread of a reactor.
pub(super) fn spawn(handle: ReactorHandle) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(format!("reactor_{}", handle.core()))
        .spawn(move || {
            REACTOR.set(true);
            let core = core_affinity::CoreId { id: handle.core() };
            if !core_affinity::set_for_current(core) {
                log::warn!(
                    "could not pin the reactor to core {}; it runs anywhere",
                    handle.core()
                );
            }
            // SAFETY: gettid takes no arguments and cannot fail.
            handle
                .0
                .thread
                .store(unsafe { libc::gettid() }, Ordering::Relaxed);
            Turner::new(handle).run();
        })
}

/// Adds to a counter that only this thread writes.
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

struct Turner {
    handle: ReactorHandle,
    ctx: ReactorCtx,
    /// When the last turn began.
    last_turn: Nanos,
    /// When epoll was last asked.
    refreshed: Nanos,
    /// Since when nothing was found.
    idle_since: Option<Nanos>,
    /// Whether the waker is armed: this is the last look before sleeping.
    armed: bool,
    /// Reused by each sleep.
    polled: Vec<libc::pollfd>,
}

/// Marks the reactor as stopped however its thread ends, so that nobody waits for it.
struct StopMark(ReactorHandle);

impl Drop for StopMark {
    fn drop(&mut self) {
        self.0.0.stopped.store(true, Ordering::SeqCst);
        // What was queued meanwhile is dropped, which tells its senders.
        self.0.drop_messages();
    }
}

impl Turner {
    fn new(handle: ReactorHandle) -> Turner {
        Turner {
            ctx: ReactorCtx::new(handle.clone()),
            handle,
            last_turn: clock::clock(),
            refreshed: Nanos(0),
            idle_since: None,
            armed: false,
            polled: Vec::new(),
        }
    }

    fn run(mut self) {
        let _mark = StopMark(self.handle.clone());
        loop {
            let stopping = self.handle.0.stopping.load(Ordering::Acquire);
            let busy = self.turn();
            if stopping && !busy {
                break;
            }
            if busy || stopping {
                self.idle_since = None;
                if self.armed {
                    self.armed = false;
                    self.handle.0.waker.disarm();
                }
            } else {
                self.rest();
            }
        }
        self.ctx.clear();
    }

    /// One turn; says whether anything was found to do.
    fn turn(&mut self) -> bool {
        let now = clock::begin_turn();
        let since_last = now.0 - self.last_turn.0;
        self.last_turn = now;
        let spent = if self.idle_since.is_some() {
            &self.handle.0.idle_ns
        } else {
            &self.handle.0.busy_ns
        };
        bump(spent, since_last);

        let mut busy = false;
        // Only those there now: a message that sends another must not starve the pollers.
        for _ in 0..self.handle.0.messages.len() {
            let Some(message) = self.handle.0.messages.pop() else {
                break;
            };
            message(&mut self.ctx);
            busy = true;
        }
        let idle = self.idle_since.is_some();
        if !self.handle.0.fds.is_empty() && (idle || now.0 - self.refreshed.0 >= REFRESH) {
            self.refreshed = now;
            busy |= self.handle.0.fds.refresh();
        }
        busy | self.ctx.poll_all(now)
    }

    /// After a turn that found nothing: spin on, arm, or sleep.
    fn rest(&mut self) {
        let since = *self.idle_since.get_or_insert(self.last_turn);
        if self.armed {
            self.sleep();
            self.armed = false;
            self.handle.0.waker.disarm();
        } else if self.last_turn.0 - since.0 >= SPIN {
            self.armed = true;
            self.handle.0.waker.arm();
        } else {
            std::hint::spin_loop();
        }
    }

    fn sleep(&mut self) {
        let deadline = [clock::deadline(), self.ctx.next_due()]
            .into_iter()
            .flatten()
            .min();
        let timeout = match deadline {
            None => None,
            Some(deadline) => match deadline.0.saturating_sub(clock::clock().0) {
                0 => return,
                nanos => Some(Duration::from_nanos(nanos)),
            },
        };
        bump(&self.handle.0.sleeps, 1);
        self.handle
            .0
            .fds
            .sleep(self.handle.0.waker.raw_fd(), timeout, &mut self.polled);
    }
}
