//! SPDK threads: light threads that reactors poll.
//!
//! A [`Thread`] is a name for one, usable from anywhere to send it work. It stays valid as long as the
//! thread has not exited; the module keeps no name of a thread longer than something that lives on it.
//! [`OnThread`] is a value that lives on one thread: made there, used there, dropped there.

use std::ffi::{CString, c_void};
use std::ptr::NonNull;

use spdk_sys as sys;
use thiserror::Error;

/// What can go wrong with threads.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ThreadError {
    /// SPDK could not make one.
    #[error("SPDK cannot make thread {name:?}: it is out of memory")]
    Create {
        /// What it was to be called.
        name: String,
    },
    /// The thread is on its way out, or SPDK has no message left to send.
    #[error("the SPDK thread takes no message (errno {errno})")]
    Send {
        /// SPDK's errno, positive.
        errno: i32,
    },
}

/// The name of an SPDK thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread(NonNull<sys::spdk_thread>);

// SAFETY: a name; what is done with it is sending messages, which SPDK allows from any thread.
unsafe impl Send for Thread {}
// SAFETY: as above.
unsafe impl Sync for Thread {}

impl Thread {
    /// The SPDK thread this runs on.
    pub fn current() -> Option<Thread> {
        // SAFETY: asks for a thread-local.
        NonNull::new(unsafe { sys::spdk_get_thread() }).map(Thread)
    }

    /// The thread RPCs, examinations and the events of the bdev layer run on.
    ///
    /// # Panics
    /// Before SPDK's framework is up.
    pub fn app() -> Thread {
        // SAFETY: asks for a global that is set when the framework starts.
        let thread = unsafe { sys::spdk_thread_get_app_thread() };
        Thread(NonNull::new(thread).expect("bdev modules are called while there is an app thread"))
    }

    /// A name of no thread, for tests that send nothing.
    #[cfg(test)]
    pub(crate) fn nobody() -> Thread {
        Thread(NonNull::dangling())
    }

    /// Whether this runs on the app thread.
    pub fn is_app() -> bool {
        // SAFETY: null stands for the current thread.
        unsafe { sys::spdk_thread_is_app_thread(std::ptr::null_mut()) }
    }

    /// A new thread that stays on `core`.
    ///
    /// # Errors
    /// When SPDK is out of memory.
    pub fn create(name: &str, core: u32) -> Result<Thread, ThreadError> {
        let failed = || ThreadError::Create { name: name.into() };
        let text = CString::new(name).map_err(|_| failed())?;
        // SAFETY: the set is ours from `alloc` to `free`; SPDK copies the set and the name.
        let thread = unsafe {
            let set = sys::spdk_cpuset_alloc();
            if set.is_null() {
                return Err(failed());
            }
            sys::spdk_cpuset_set_cpu(set, core, true);
            let thread = sys::spdk_thread_create(text.as_ptr(), set);
            sys::spdk_cpuset_free(set);
            thread
        };
        NonNull::new(thread).map(Thread).ok_or_else(failed)
    }

    /// Has `work` done on this thread, soon.
    ///
    /// # Errors
    /// When the thread takes no message; `work` is dropped here then.
    pub fn send<F: FnOnce() + Send + 'static>(self, work: F) -> Result<(), ThreadError> {
        unsafe extern "C" fn run<F: FnOnce()>(work: *mut c_void) {
            // SAFETY: the pointer came from `into_raw` below, and a message arrives once.
            let work = unsafe { Box::from_raw(work.cast::<F>()) };
            work();
        }
        let raw = Box::into_raw(Box::new(work));
        // SAFETY: `run` takes the box back when it is called.
        let sent = unsafe { self.send_raw(run::<F>, raw.cast()) };
        if sent.is_err() {
            // SAFETY: the message was refused, so the box is still ours.
            drop(unsafe { Box::from_raw(raw) });
        }
        sent
    }

    /// Has `function` called on this thread, soon, without allocating.
    ///
    /// # Errors
    /// When the thread takes no message; `function` will not be called then.
    ///
    /// # Safety
    /// `function` may be called with `context` once on that thread.
    pub unsafe fn send_raw(
        self,
        function: unsafe extern "C" fn(*mut c_void),
        context: *mut c_void,
    ) -> Result<(), ThreadError> {
        // SAFETY: the thread has not exited, or SPDK refuses; the caller vouches for the rest.
        let rc = unsafe { sys::spdk_thread_send_msg(self.0.as_ptr(), Some(function), context) };
        match rc {
            0 => Ok(()),
            rc => Err(ThreadError::Send { errno: -rc }),
        }
    }

    /// Ends the thread this runs on once what it still has to do is done.
    pub fn exit_current() {
        // SAFETY: the current thread, if any, may be marked as exiting by itself.
        unsafe {
            let thread = sys::spdk_get_thread();
            if !thread.is_null() {
                sys::spdk_thread_exit(thread);
            }
        }
    }
}

/// The cores the program has reactors on.
pub fn cores() -> Vec<u32> {
    let mut cores = Vec::new();
    // SAFETY: walks a list that is fixed once the environment is up.
    let mut core = unsafe { sys::spdk_env_get_first_core() };
    while core != u32::MAX {
        cores.push(core);
        // SAFETY: as above.
        core = unsafe { sys::spdk_env_get_next_core(core) };
    }
    cores
}

/// Whether reactors may sleep, so that work must be announced.
pub fn interrupts() -> bool {
    // SAFETY: asks for a flag that is set before the reactors start.
    unsafe { sys::spdk_interrupt_mode_is_enabled() }
}

/// A value that lives on one SPDK thread, held from elsewhere.
pub struct OnThread<T: 'static> {
    thread: Thread,
    value: Option<Box<T>>,
}

// SAFETY: the value is only touched in messages to its thread.
unsafe impl<T> Send for OnThread<T> {}

struct Carried<T>(T);
// SAFETY: carried between holder and owner; the value is only touched on its own thread.
unsafe impl<T> Send for Carried<T> {}

impl<T> Carried<T> {
    fn take(self) -> T {
        self.0
    }
}

impl<T: 'static> OnThread<T> {
    /// A value made on the thread this runs on.
    ///
    /// # Panics
    /// When this is no SPDK thread.
    pub fn here(value: T) -> OnThread<T> {
        OnThread {
            thread: Thread::current().expect("a value for an SPDK thread is made on it"),
            value: Some(Box::new(value)),
        }
    }

    /// The thread it lives on.
    pub fn thread(&self) -> Thread {
        self.thread
    }

    /// Hands the value to `end` on its thread.
    ///
    /// # Errors
    /// When the thread takes no message; the value is leaked then, since nobody else may touch it.
    pub fn end(mut self, end: impl FnOnce(T) + Send + 'static) -> Result<(), ThreadError> {
        let Some(value) = self.value.take() else {
            return Ok(());
        };
        let carried = Carried(std::mem::ManuallyDrop::new(value));
        self.thread.send(move || {
            let value = std::mem::ManuallyDrop::into_inner(carried.take());
            end(*value);
        })
    }
}

impl<T> Drop for OnThread<T> {
    fn drop(&mut self) {
        if let Some(value) = self.value.take() {
            let carried = Carried(std::mem::ManuallyDrop::new(value));
            let sent = self
                .thread
                .send(move || drop(std::mem::ManuallyDrop::into_inner(carried.take())));
            if let Err(error) = sent {
                log::error!("what lives on an SPDK thread is leaked: {error}");
            }
        }
    }
}
