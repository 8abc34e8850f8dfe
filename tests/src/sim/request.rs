//! A caller's request in the simulator.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vdo::seam::{HostRequest, RequestHeader, RequestKind};

/// What the caller keeps of a request.
pub struct Ticket {
    /// What was asked.
    pub header: RequestHeader,
    /// The data: what is to be written, or what was read.
    pub data: Mutex<Vec<u8>>,
    left: AtomicU64,
    errno: AtomicI32,
    completions: AtomicU64,
}

/// A handle to a request, given to the engine.
#[derive(Clone)]
pub struct SimRequest(pub Arc<Ticket>);

impl SimRequest {
    /// A request with its data; for a read, room for it.
    pub fn new(header: RequestHeader, data: Vec<u8>) -> SimRequest {
        let left = if header.kind == RequestKind::Flush {
            0
        } else {
            header.length
        };
        SimRequest(Arc::new(Ticket {
            header,
            data: Mutex::new(data),
            left: AtomicU64::new(left),
            errno: AtomicI32::new(0),
            completions: AtomicU64::new(0),
        }))
    }
}

impl Ticket {
    /// Zero or an errno, once the request is over.
    pub fn result(&self) -> Option<i32> {
        let over =
            self.left.load(Ordering::Relaxed) == 0 && self.completions.load(Ordering::Relaxed) > 0;
        over.then(|| self.errno.load(Ordering::Relaxed))
    }
}

impl HostRequest for SimRequest {
    fn copy_in(&self, start: usize, block: &mut [u8]) {
        let data = self.0.data.lock().unwrap_or_else(PoisonError::into_inner);
        block.copy_from_slice(&data[start..start + block.len()]);
    }

    fn copy_out(&self, start: usize, data: &[u8]) {
        let mut to = self.0.data.lock().unwrap_or_else(PoisonError::into_inner);
        to[start..start + data.len()].copy_from_slice(data);
    }

    fn direct(&self, _start: usize, _length: usize) -> Option<NonNull<u8>> {
        None
    }

    fn complete(self, bytes: u64, errno: i32) {
        if errno != 0 {
            let _ = self
                .0
                .errno
                .compare_exchange(0, errno, Ordering::Relaxed, Ordering::Relaxed);
        }
        self.0.completions.fetch_add(1, Ordering::Relaxed);
        let before = self.0.left.fetch_sub(bytes, Ordering::Relaxed);
        assert!(before >= bytes, "a request was completed twice");
    }
}
