//! A zone thread of the engine on an SPDK thread of its own.
//!
//! The SPDK thread stays on one core. There one poller polls the zone thread all the time, and a timed poller
//! looks for index answers that are overdue; it is armed only while the engine has a deadline.
//!
//! Where reactors may sleep (interrupt mode) there is no busy poller: mail from other threads, completions of
//! the base bdev and deadlines each call for a poll, and a poll that did something calls for the next.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use futures_channel::oneshot;
use spdk_sys as sys;
use vdo::seam::{Nanos, ZoneWaker};
use vdo::volume::{VolumeError, ZoneSeed, ZoneThread};

use super::SpdkHost;
use super::base::SpdkChannel;
use super::call::Call;
use super::trace;
use crate::desc::Desc;
use crate::poller::{Activity, Poller};
use crate::task;
use crate::thread::{self, OnThread, Thread, ThreadError};

/// The shortest time the timed poller is armed for.
const SHORTEST_TIMER: Duration = Duration::from_millis(1);

/// How often a zone thread that ends looks for I/Os in flight.
const DRAIN_INTERVAL: Duration = Duration::from_millis(1);

/// A zone thread looks at every so many polls whether requests are traced.
const POLLS_BETWEEN_LOOKS: u32 = 256;

/// SPDK's clock.
pub fn now() -> Nanos {
    // SAFETY: reads a clock.
    nanos(unsafe { sys::spdk_get_ticks() })
}

/// The time at which the thread this runs on was polled last, by the same clock: known without reading it.
fn last_poll() -> Nanos {
    // SAFETY: the current thread is there.
    nanos(unsafe { sys::spdk_thread_get_last_tsc(sys::spdk_get_thread()) })
}

fn nanos(ticks: u64) -> Nanos {
    /// Nanoseconds in a tick, times 2^32.
    static SCALE: LazyLock<u64> = LazyLock::new(|| {
        // SAFETY: asks for a constant of the machine.
        let hertz = unsafe { sys::spdk_get_ticks_hz() }.max(1);
        u64::try_from((1_000_000_000_u128 << 32) / u128::from(hertz)).unwrap_or(u64::MAX)
    });
    let scaled = u128::from(ticks) * u128::from(*SCALE);
    Nanos(u64::try_from(scaled >> 32).unwrap_or(u64::MAX))
}

/// Calls for a poll of a zone thread, from anywhere.
#[derive(Clone)]
pub struct SpdkWaker(Arc<Target>);

/// Who is woken, and how.
struct Target {
    sleeps: bool,
    thread: OnceLock<Thread>,
    /// Whether a message is on its way.
    call: Call,
    /// The runner; set, read and cleared on its thread only.
    runner: AtomicPtr<Runner>,
}

impl SpdkWaker {
    /// A waker of a zone thread that will get its SPDK thread later.
    pub fn new() -> SpdkWaker {
        SpdkWaker(Arc::new(Target {
            sleeps: thread::interrupts(),
            thread: OnceLock::new(),
            call: Call::new(),
            runner: AtomicPtr::new(std::ptr::null_mut()),
        }))
    }
}

impl Default for SpdkWaker {
    fn default() -> SpdkWaker {
        SpdkWaker::new()
    }
}

impl ZoneWaker for SpdkWaker {
    fn wake(&self) {
        unsafe extern "C" fn poll(target: *mut c_void) {
            // SAFETY: one count came with the message.
            let target = unsafe { Arc::from_raw(target.cast_const().cast::<Target>()) };
            target.call.answer();
            let runner = target.runner.load(Ordering::Relaxed);
            if !runner.is_null() {
                // SAFETY: the runner clears this on its thread, which this is, before it goes. The count
                // keeps it while it is polled.
                let runner = unsafe {
                    Rc::increment_strong_count(runner.cast_const());
                    Rc::from_raw(runner.cast_const())
                };
                runner.poll_and_call_again();
            }
        }
        let Some(&thread) = self.0.thread.get() else {
            return;
        };
        if !self.0.sleeps || !self.0.call.must_send() {
            return;
        }
        let target = Arc::into_raw(Arc::clone(&self.0));
        // SAFETY: the message takes the count; the thread exits after the last one who wakes it is gone.
        let sent = unsafe { thread.send_raw(poll, target.cast_mut().cast()) };
        if sent.is_err() {
            // SAFETY: the message was refused, so the count is still ours.
            drop(unsafe { Arc::from_raw(target) });
        }
    }
}

/// A zone thread and its pollers.
struct Runner {
    zone: RefCell<ZoneThread<SpdkHost>>,
    waker: SpdkWaker,
    busy: RefCell<Option<Poller>>,
    timer: RefCell<Option<Poller>>,
    /// When the timer is to go off.
    armed: Cell<Option<Nanos>>,
    /// When the timer went off last: the engine's time never goes back.
    time: Cell<Nanos>,
    /// Polls until the next look whether requests are traced.
    look_in: Cell<u32>,
    /// I/Os the base bdev has.
    in_flight: Rc<Cell<usize>>,
    itself: Weak<Runner>,
}

impl Runner {
    /// Polls the zone thread once; whether it did something.
    fn poll(&self) -> bool {
        // A thread that slept was polled long ago.
        let clock = if self.waker.0.sleeps {
            now()
        } else {
            last_poll()
        };
        let now = clock.max(self.time.get());
        let mut zone = self.zone.borrow_mut();
        match self.look_in.get() {
            0 => {
                zone.trace(trace::tracer());
                self.look_in.set(POLLS_BETWEEN_LOOKS);
            }
            polls => self.look_in.set(polls - 1),
        }
        let busy = zone.poll(now);
        if let Some(deadline) = zone.next_deadline()
            && self.armed.get().is_none_or(|armed| deadline < armed)
        {
            self.arm(now, deadline);
        }
        busy
    }

    /// For threads that sleep: polls, and sees to it that there will be another poll if there is more to do.
    fn poll_and_call_again(&self) {
        let busy = self.poll();
        if busy || !self.zone.borrow().prepare_to_sleep() {
            self.waker.wake();
        }
    }

    /// Sets the timed poller to go off at `deadline`.
    fn arm(&self, now: Nanos, deadline: Nanos) {
        let time = Duration::from_nanos(deadline.0.saturating_sub(now.0)).max(SHORTEST_TIMER);
        let runner = self.itself.clone();
        let timer = Poller::register("vdo_dedupe_timeouts", time, move || {
            if let Some(runner) = runner.upgrade() {
                runner.expire();
            }
            Activity::Busy
        });
        self.armed.set(timer.is_some().then_some(deadline));
        *self.timer.borrow_mut() = timer;
    }

    /// The timed poller went off.
    fn expire(&self) {
        let last = self.timer.borrow_mut().take();
        self.armed.set(None);
        let now = now();
        self.time.set(now);
        self.zone.borrow_mut().expire_contexts(now);
        if thread::interrupts() {
            self.poll_and_call_again();
        } else {
            self.poll();
        }
        drop(last);
    }
}

/// A zone thread in operation, as the app thread holds it.
pub struct RunningZone(OnThread<Rc<Runner>>);

/// Grows `seed` on a new SPDK thread on `core`.
///
/// # Errors
/// When there is no thread, no channel to the base bdev or no memory to be had.
pub async fn run(
    seed: ZoneSeed<SpdkHost>,
    waker: SpdkWaker,
    base: Desc,
    name: &str,
    core: u32,
) -> Result<RunningZone, VolumeError> {
    let refused = |error: ThreadError| VolumeError::Option(error.to_string());
    let thread = Thread::create(name, core).map_err(refused)?;
    let (answer, answered) = oneshot::channel();
    thread
        .send(move || {
            let grown = grow(seed, waker, base);
            if grown.is_err() {
                Thread::exit_current();
            }
            let _ = answer.send(grown.map(|runner| RunningZone(OnThread::here(runner))));
        })
        .map_err(refused)?;
    answered.await.unwrap_or(Err(VolumeError::NoMemory {
        what: "a zone thread",
    }))
}

fn grow(seed: ZoneSeed<SpdkHost>, waker: SpdkWaker, base: Desc) -> Result<Rc<Runner>, VolumeError> {
    let no_memory = |what| VolumeError::NoMemory { what };
    let channel = base
        .channel()
        .map_err(|_| no_memory("a channel to the base bdev"))?;
    drop(base);
    let mut channel = SpdkChannel::new(channel);
    let thread = Thread::current().ok_or(no_memory("a zone thread"))?;
    // Set once, here; the waker was made for this thread.
    let _ = waker.0.thread.set(thread);
    if waker.0.sleeps {
        let call = waker.clone();
        channel = channel.announcing(Box::new(move || call.wake()));
    }
    let in_flight = channel.in_flight();
    let zone = seed.grow(channel)?;
    let runner = Rc::new_cyclic(|itself| Runner {
        zone: RefCell::new(zone),
        waker: waker.clone(),
        busy: RefCell::new(None),
        timer: RefCell::new(None),
        armed: Cell::new(None),
        time: Cell::new(now()),
        look_in: Cell::new(0),
        in_flight,
        itself: itself.clone(),
    });
    if waker.0.sleeps {
        let address = Rc::as_ptr(&runner).cast_mut();
        waker.0.runner.store(address, Ordering::Relaxed);
        waker.wake();
    } else {
        let polled = Rc::downgrade(&runner);
        let busy = Poller::register("vdo_zone", Duration::ZERO, move || {
            polled
                .upgrade()
                .map_or(Activity::Idle, |runner| Activity::from(runner.poll()))
        })
        .ok_or(no_memory("a poller"))?;
        *runner.busy.borrow_mut() = Some(busy);
    }
    Ok(runner)
}

impl RunningZone {
    /// Drops the zone thread once the base bdev has none of its I/Os any more, and ends its SPDK thread. The volume
    /// is shut down, or failed to start.
    pub async fn end(self) {
        let (done, ended) = oneshot::channel();
        let sent = self.0.end(move |runner| {
            task::spawn(async move {
                while runner.in_flight.get() > 0 {
                    task::sleep(DRAIN_INTERVAL).await;
                }
                let target = &runner.waker.0;
                target.runner.store(std::ptr::null_mut(), Ordering::Relaxed);
                runner.busy.borrow_mut().take();
                runner.timer.borrow_mut().take();
                drop(runner);
                Thread::exit_current();
                let _ = done.send(());
            });
        });
        match sent {
            Ok(()) => drop(ended.await),
            Err(error) => log::error!("a zone thread cannot be ended: {error}"),
        }
    }
}
