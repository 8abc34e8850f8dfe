//! The target: everything one running `vdo_tgt` consists of, and how it ends.
//!
//! A [`Target`] is made once, shared by `Arc`, and reached by RPC handlers, which run on control
//! threads (never on a reactor) and may block: where they need a reactor they
//! [`call`](crate::reactor::ReactorHandle::call) it. What must end in order registers a hook at its
//! [`Stage`]; [`Target::shutdown`] runs the hooks stage by stage, the youngest first, and then stops
//! the reactors.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::bdev::Registry;
use crate::notify::Notifications;
use crate::reactor::{CpuMask, ReactorError, Reactors};

/// When a shutdown hook runs. Stages run in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// RPC and other listeners: nothing new comes in.
    Listeners,
    /// Virtual bdevs with state of their own hear that their users will let go: long requests give way.
    Notice,
    /// Exports: clients are let go.
    Exports,
    /// Virtual bdevs with state of their own (vdo volumes), shut down cleanly.
    Volumes,
}

type Hook = Box<dyn FnOnce(&Target) + Send>;

/// Where a target is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Only start-up methods are answered; the configuration has not been applied.
    #[default]
    Startup,
    /// Everything works.
    Running,
    /// On the way out.
    Stopping,
}

/// Everything of one running target.
#[derive(Debug)]
pub struct Target {
    /// The reactor threads.
    pub reactors: Reactors,
    /// All bdevs by name.
    pub bdevs: Registry,
    /// What has happened.
    pub notifications: Arc<Notifications>,
    phase: Mutex<Phase>,
    changed: Condvar,
    stop_requested: AtomicBool,
    hooks: Hooks,
}

#[derive(Default)]
struct Hooks(Mutex<Vec<(Stage, Hook)>>);

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} hooks", lock(&self.0).len())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Target {
    /// Starts the reactors of `mask`; no bdev exists yet.
    ///
    /// # Errors
    /// When a core of the mask is missing or the system refuses a thread.
    pub fn start(mask: &CpuMask) -> Result<Target, ReactorError> {
        let notifications = Arc::<Notifications>::default();
        Ok(Target {
            reactors: Reactors::start(mask)?,
            bdevs: Registry::telling(Arc::clone(&notifications)),
            notifications,
            phase: Mutex::default(),
            changed: Condvar::new(),
            stop_requested: AtomicBool::new(false),
            hooks: Hooks::default(),
        })
    }

    /// Where the target is in its life.
    pub fn phase(&self) -> Phase {
        *lock(&self.phase)
    }

    /// Goes on to a later phase and tells who waits for it.
    pub fn set_phase(&self, phase: Phase) {
        *lock(&self.phase) = phase;
        self.changed.notify_all();
    }

    /// Waits until the target leaves [`Phase::Startup`], is asked to stop, or `timeout` passes; says
    /// whether it left.
    pub fn wait_for_start(&self, timeout: Duration) -> bool {
        let waiting = |phase: &mut Phase| *phase == Phase::Startup && !self.stop_requested();
        let (phase, _) = self
            .changed
            .wait_timeout_while(lock(&self.phase), timeout, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        *phase != Phase::Startup
    }

    /// Asks the program to end; whoever waits in [`Target::wait_for_stop`] goes on to shut down.
    pub fn request_stop(&self) {
        // Under the lock, so that a waiter cannot miss it between its look and its sleep.
        let _phase = lock(&self.phase);
        self.stop_requested.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Whether the program was asked to end.
    pub fn stop_requested(&self) -> bool {
        self.stop_requested.load(Ordering::Acquire)
    }

    /// Waits until the program is asked to end.
    pub fn wait_for_stop(&self) {
        let waiting = |_: &mut Phase| !self.stop_requested();
        drop(
            self.changed
                .wait_while(lock(&self.phase), waiting)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Runs `hook` when the target shuts down, at `stage`.
    pub fn on_shutdown(&self, stage: Stage, hook: impl FnOnce(&Target) + Send + 'static) {
        lock(&self.hooks.0).push((stage, Box::new(hook)));
    }

    /// Ends everything in order: hooks by stage (I/O that error and delay bdevs hold back is let go before
    /// exports end), then bdevs, the youngest first, then the reactors.
    /// Not to be called on a reactor. Does nothing the second time.
    pub fn shutdown(&self) {
        self.set_phase(Phase::Stopping);
        for stage in [
            Stage::Listeners,
            Stage::Notice,
            Stage::Exports,
            Stage::Volumes,
        ] {
            // One at a time: a hook may register another.
            while let Some(hook) = self.take_hook(stage) {
                hook(self);
            }
            if stage == Stage::Listeners {
                // Nobody can inject anything any more, and clients and volumes wait for their I/O.
                self.bdevs.let_go_all();
            }
        }
        self.bdevs.close_all();
        self.reactors.stop();
    }

    fn take_hook(&self, stage: Stage) -> Option<Hook> {
        let mut hooks = lock(&self.hooks.0);
        let place = hooks.iter().rposition(|(of, _)| *of == stage)?;
        Some(hooks.remove(place).1)
    }
}
