//! Work an SPDK thread does again and again.
//!
//! A [`Poller`] belongs to the thread it was registered on: it cannot be sent elsewhere, and dropping it
//! ends it. It may be dropped from inside its own work.

use std::cell::RefCell;
use std::ffi::{CString, c_int, c_void};
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::Duration;

use spdk_sys as sys;

/// Whether a poller found something to do; SPDK accounts a thread's time by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// There was nothing to do.
    Idle,
    /// There was.
    Busy,
}

impl From<bool> for Activity {
    fn from(busy: bool) -> Activity {
        if busy { Activity::Busy } else { Activity::Idle }
    }
}

/// What a poller keeps alive; its type does not matter any more.
trait Work {}
impl<F> Work for RefCell<F> {}

/// A registered poller.
#[must_use = "a poller that is dropped is unregistered"]
pub struct Poller {
    raw: *mut sys::spdk_poller,
    _work: Rc<dyn Work>,
    _here: PhantomData<*const ()>,
}

impl Poller {
    /// Has `work` called by the current thread every `period`; each time the thread is polled if that is zero.
    /// `None` when SPDK is out of memory.
    pub fn register<F>(name: &str, period: Duration, work: F) -> Option<Poller>
    where
        F: FnMut() -> Activity + 'static,
    {
        unsafe extern "C" fn run<F: FnMut() -> Activity>(work: *mut c_void) -> c_int {
            let work = work.cast_const().cast::<RefCell<F>>();
            // SAFETY: the poller, which is registered while this runs, holds one count. One more keeps the
            // work alive should it drop its own poller.
            let work = unsafe {
                Rc::increment_strong_count(work);
                Rc::from_raw(work)
            };
            let activity = (work.borrow_mut())();
            (activity == Activity::Busy).into()
        }
        let name = CString::new(name).unwrap_or_default();
        let work = Rc::new(RefCell::new(work));
        let period = u64::try_from(period.as_micros()).unwrap_or(u64::MAX);
        // SAFETY: SPDK calls `run` with a pointer to what the poller keeps alive, until unregistered.
        let raw = unsafe {
            let context = Rc::as_ptr(&work).cast_mut().cast();
            sys::spdk_poller_register_named(Some(run::<F>), context, period, name.as_ptr())
        };
        (!raw.is_null()).then(|| Poller {
            raw,
            _work: work,
            _here: PhantomData,
        })
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        // SAFETY: registered on this thread (the type cannot be sent), and not unregistered before.
        unsafe { sys::spdk_poller_unregister(&raw mut self.raw) }
    }
}
