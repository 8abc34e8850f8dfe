//! Futures run by an SPDK thread.
//!
//! The slow side of the module (bringing volumes up and down, RPCs) is written as `async` functions on the app
//! thread. A task may be woken from any thread; it is polled, and dropped, only on the one that spawned it:
//! a wake-up is a message to that thread.

use std::ffi::c_void;
use std::future::Future;
use std::ptr::NonNull;
use std::time::Duration;

use async_task::Runnable;
use futures_channel::oneshot;

use crate::poller::{Activity, Poller};
use crate::thread::Thread;

/// Runs `future` on the current SPDK thread, starting now.
///
/// # Panics
/// When this is no SPDK thread.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    unsafe extern "C" fn run(runnable: *mut c_void) {
        let runnable = NonNull::new(runnable.cast()).expect("a task's address");
        // SAFETY: the pointer came from `into_raw` in `schedule`, once.
        let runnable = unsafe { Runnable::<()>::from_raw(runnable) };
        runnable.run();
    }
    let thread = Thread::current().expect("tasks are spawned on an SPDK thread");
    let schedule = move |runnable: Runnable| {
        let raw = runnable.into_raw();
        // SAFETY: `run` takes the runnable back. If the thread takes no message it is leaked: it must not be
        // dropped on another thread.
        if let Err(error) = unsafe { thread.send_raw(run, raw.as_ptr().cast()) } {
            log::error!("a task of an SPDK thread is lost: {error}");
        }
    };
    // SAFETY: the future need not be `Send`, since it is polled and dropped by messages to this thread only,
    // and here; it borrows nothing; `schedule` may be called, and dropped, anywhere.
    let (runnable, task) = unsafe { async_task::spawn_unchecked(future, schedule) };
    task.detach();
    runnable.run();
}

/// Waits. For the slow side only: it registers a poller.
pub async fn sleep(time: Duration) {
    let (done, wait) = oneshot::channel();
    let mut done = Some(done);
    let poller = Poller::register("vdo_sleep", time, move || {
        if let Some(done) = done.take() {
            let _ = done.send(());
        }
        Activity::Busy
    });
    if poller.is_some() {
        let _ = wait.await;
    }
}
