//! How a sleeping reactor is woken: an eventfd that is written only when the reactor sleeps.
//!
//! Who sees whom is told in [`super::armed`].

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use vdo::seam::ZoneWaker;

use super::armed::Armed;

/// A close-on-exec, non-blocking eventfd.
#[derive(Debug)]
struct EventFd(OwnedFd);

impl EventFd {
    fn new() -> io::Result<EventFd> {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made and nobody else owns it.
        Ok(EventFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn signal(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the pointer is to eight readable bytes. It can only fail when the counter is full,
        // and then the sleeper is woken all the same.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    fn drain(&self) {
        let mut count = [0u8; 8];
        // SAFETY: the pointer is to eight writable bytes; an empty counter answers EAGAIN.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

#[derive(Debug)]
struct WakeState {
    armed: Armed,
    event: EventFd,
}

/// Wakes one reactor from any thread. A clone is a handle to the same reactor.
#[derive(Clone, Debug)]
pub struct Waker(Arc<WakeState>);

impl Waker {
    pub(super) fn new() -> io::Result<Waker> {
        Ok(Waker(Arc::new(WakeState {
            armed: Armed::new(),
            event: EventFd::new()?,
        })))
    }

    /// Sees to it that every poller of the reactor is polled after this call. Costs a fence and a
    /// load when the reactor is awake.
    #[inline]
    pub fn wake(&self) {
        if self.0.armed.needs_signal() {
            self.0.event.signal();
        }
    }

    /// Adds a waker to those of a list, unless one of the same reactor is there.
    pub fn add_once(list: &Mutex<Vec<Waker>>, waker: &Waker) {
        let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
        if !list.iter().any(|other| Arc::ptr_eq(&other.0, &waker.0)) {
            list.push(waker.clone());
        }
    }

    /// Wakes every reactor of a list.
    pub fn wake_all(list: &Mutex<Vec<Waker>>) {
        for waker in list.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            waker.wake();
        }
    }

    /// Declares that this reactor is about to sleep; it must look at all its work again after.
    pub(super) fn arm(&self) {
        self.0.armed.arm();
    }

    /// Declares that this reactor is awake.
    pub(super) fn disarm(&self) {
        if self.0.armed.disarm() {
            self.0.event.drain();
        }
    }

    /// Whether the reactor sleeps or is about to.
    #[cfg(test)]
    pub(super) fn is_armed(&self) -> bool {
        self.0.armed.is_armed()
    }

    /// What a sleeping reactor polls for input.
    pub(super) fn raw_fd(&self) -> RawFd {
        self.0.event.0.as_raw_fd()
    }
}

impl ZoneWaker for Waker {
    #[inline]
    fn wake(&self) {
        Waker::wake(self);
    }
}
