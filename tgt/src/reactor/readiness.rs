//! File descriptors a reactor watches, in two ways.
//!
//! A socket is *watched*: [`Watched`] owns it, and tells whether it may be readable or writable since
//! the owner last found it was not (edge-triggered epoll, asked by the reactor between polls). The
//! owner's poller does its reads until the kernel says `EAGAIN` and then clears the readiness; so a
//! quiet connection costs no system call per turn, and data that arrives wakes a sleeping reactor.
//!
//! A completion ring is only *slept on*: its owner sees completions in shared memory while the reactor
//! runs, so the kernel need not tell anybody; [`SleepFd`] makes the reactor include the descriptor
//! when it goes to sleep.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const READABLE: u8 = 1;
const WRITABLE: u8 = 2;

/// How many events one call of epoll may return.
const EVENTS: usize = 64;

/// The descriptors one reactor watches. Shared with the owners of the descriptors.
#[derive(Debug)]
pub(super) struct FdSet {
    epoll: OwnedFd,
    watched: Mutex<HashMap<u64, Arc<AtomicU8>>>,
    count: AtomicUsize,
    next_key: Mutex<u64>,
    sleep_on: Mutex<Vec<RawFd>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FdSet {
    pub(super) fn new() -> io::Result<FdSet> {
        // SAFETY: epoll_create1 takes no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(FdSet {
            // SAFETY: `fd` was just made and nobody else owns it.
            epoll: unsafe { OwnedFd::from_raw_fd(fd) },
            watched: Mutex::default(),
            count: AtomicUsize::new(0),
            next_key: Mutex::new(0),
            sleep_on: Mutex::default(),
        })
    }

    fn control(&self, operation: i32, fd: RawFd, mut event: libc::epoll_event) -> io::Result<()> {
        // SAFETY: `event` lives through the call, which keeps no pointer to it.
        let result = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &mut event) };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Whether anything is watched at all.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Asks the kernel, without waiting, what became ready; says whether anything did.
    pub(super) fn refresh(&self) -> bool {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        // SAFETY: `events` has room for EVENTS entries, and a zero timeout does not wait.
        let found = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                events.as_mut_ptr(),
                EVENTS as i32,
                0,
            )
        };
        if found <= 0 {
            return false;
        }
        let watched = lock(&self.watched);
        for event in &events[..found as usize] {
            let (bits, key) = (event.events as i32, event.u64);
            let mut ready = 0;
            if bits & !libc::EPOLLOUT != 0 {
                ready |= READABLE;
            }
            if bits & (libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR) != 0 {
                ready |= WRITABLE;
            }
            if let Some(flags) = watched.get(&key) {
                flags.fetch_or(ready, Ordering::Relaxed);
            }
        }
        true
    }

    /// Sleeps until something is ready, `waker` is written, or `timeout` passes (`None`: for ever).
    pub(super) fn sleep(
        &self,
        waker: RawFd,
        timeout: Option<std::time::Duration>,
        polled: &mut Vec<libc::pollfd>,
    ) {
        let entry = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        polled.clear();
        polled.push(entry(waker));
        polled.push(entry(self.epoll.as_raw_fd()));
        polled.extend(lock(&self.sleep_on).iter().map(|&fd| entry(fd)));
        let timeout = timeout.map(|timeout| libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let timeout = timeout
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: `polled` is a valid array of its length, `timeout` is null or points to a timespec
        // that lives through the call, and a null signal mask leaves the mask alone. An interrupted
        // or failed call is a spurious wake-up, which is harmless.
        unsafe {
            libc::ppoll(
                polled.as_mut_ptr(),
                polled.len() as libc::nfds_t,
                timeout,
                std::ptr::null(),
            )
        };
    }

    pub(super) fn watch<F: AsRawFd>(self: &Arc<Self>, io: F) -> io::Result<Watched<F>> {
        let key = {
            let mut next = lock(&self.next_key);
            *next += 1;
            *next
        };
        // Ready at first, so that the owner tries once and finds out.
        let ready = Arc::new(AtomicU8::new(READABLE | WRITABLE));
        lock(&self.watched).insert(key, Arc::clone(&ready));
        let events = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
        if let Err(error) = self.control(
            libc::EPOLL_CTL_ADD,
            io.as_raw_fd(),
            libc::epoll_event { events, u64: key },
        ) {
            lock(&self.watched).remove(&key);
            return Err(error);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(Watched {
            set: Arc::clone(self),
            key,
            ready,
            io,
        })
    }

    pub(super) fn sleep_on(self: &Arc<Self>, fd: RawFd) -> SleepFd {
        lock(&self.sleep_on).push(fd);
        SleepFd {
            set: Arc::clone(self),
            fd,
        }
    }
}

/// A descriptor together with what is known of its readiness. To be used on the reactor's thread
/// that watches it; dropping it stops the watch, then closes the descriptor.
#[derive(Debug)]
pub struct Watched<F: AsRawFd> {
    set: Arc<FdSet>,
    key: u64,
    ready: Arc<AtomicU8>,
    io: F,
}

impl<F: AsRawFd> Watched<F> {
    /// Whether a read may find something (data, end of file or an error).
    pub fn is_readable(&self) -> bool {
        self.ready.load(Ordering::Relaxed) & READABLE != 0
    }

    /// Whether a write may be taken.
    pub fn is_writable(&self) -> bool {
        self.ready.load(Ordering::Relaxed) & WRITABLE != 0
    }

    /// To be called when a read answered `EAGAIN`, and only then.
    pub fn clear_readable(&self) {
        self.ready.fetch_and(!READABLE, Ordering::Relaxed);
    }

    /// To be called when a write answered `EAGAIN`, and only then.
    pub fn clear_writable(&self) {
        self.ready.fetch_and(!WRITABLE, Ordering::Relaxed);
    }

    /// The descriptor's object.
    pub fn io(&self) -> &F {
        &self.io
    }

    /// The descriptor's object.
    pub fn io_mut(&mut self) -> &mut F {
        &mut self.io
    }
}

impl<F: AsRawFd> Drop for Watched<F> {
    fn drop(&mut self) {
        let none = libc::epoll_event { events: 0, u64: 0 };
        if let Err(error) = self
            .set
            .control(libc::EPOLL_CTL_DEL, self.io.as_raw_fd(), none)
        {
            log::warn!("could not stop watching a file descriptor: {error}");
        }
        lock(&self.set.watched).remove(&self.key);
        self.set.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps a descriptor among those a reactor sleeps on. Must be dropped before the descriptor closes.
#[derive(Debug)]
pub struct SleepFd {
    set: Arc<FdSet>,
    fd: RawFd,
}

impl Drop for SleepFd {
    fn drop(&mut self) {
        let mut fds = lock(&self.set.sleep_on);
        if let Some(place) = fds.iter().position(|&fd| fd == self.fd) {
            fds.swap_remove(place);
        }
    }
}
