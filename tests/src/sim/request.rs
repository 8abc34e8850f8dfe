//! A caller's request in the simulator.

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use vdo::seam::{HostRequest, RequestHeader, RequestKind};

/// Memory of a caller, which the engine and the disk fill and read by address.
struct CallerMemory(Box<[UnsafeCell<u8>]>);

// SAFETY: the simulator has one thread, and the seam's rules keep pieces of a request apart.
unsafe impl Send for CallerMemory {}
// SAFETY: as above.
unsafe impl Sync for CallerMemory {}

impl CallerMemory {
    fn new(data: Vec<u8>) -> CallerMemory {
        CallerMemory(data.into_iter().map(UnsafeCell::new).collect())
    }

    fn address(&self, start: usize, length: usize) -> *mut u8 {
        let range = &self.0[start..start + length];
        UnsafeCell::raw_get(range.as_ptr())
    }
}

/// What the caller keeps of a request.
pub struct Ticket {
    /// What was asked.
    pub header: RequestHeader,
    memory: CallerMemory,
    /// Whether reads go straight into the caller's memory.
    direct: bool,
    left: AtomicU64,
    errno: AtomicI32,
    completions: AtomicU64,
}

/// A handle to a request, given to the engine.
#[derive(Clone)]
pub struct SimRequest(pub Arc<Ticket>);

impl SimRequest {
    /// A request with its data; for a read, room for it. With `direct`, the engine may read straight
    /// into the caller's memory.
    pub fn new(header: RequestHeader, data: Vec<u8>, direct: bool) -> SimRequest {
        let left = if header.kind == RequestKind::Flush {
            0
        } else {
            header.length
        };
        SimRequest(Arc::new(Ticket {
            header,
            memory: CallerMemory::new(data),
            direct,
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

    /// How many pieces of it have ended.
    pub fn pieces(&self) -> u64 {
        self.completions.load(Ordering::Relaxed)
    }

    /// The data: what was to be written, or what was read.
    pub fn data(&self) -> Vec<u8> {
        let length = self.memory.0.len();
        let mut data = vec![0; length];
        // SAFETY: both are `length` bytes long, and the engine is done with the request.
        unsafe {
            self.memory
                .address(0, length)
                .copy_to(data.as_mut_ptr(), length)
        };
        data
    }
}

impl HostRequest for SimRequest {
    fn copy_in(&self, start: usize, block: &mut [u8]) {
        assert_eq!(
            self.0.header.kind,
            RequestKind::Write,
            "only writes bring data"
        );
        assert!(
            self.0.result().is_none(),
            "a caller's memory is used after the answer"
        );
        let from = self.0.memory.address(start, block.len());
        // SAFETY: `address` checked the range; nobody writes to a write's memory.
        unsafe { from.copy_to(block.as_mut_ptr(), block.len()) };
    }

    fn copy_out(&self, start: usize, data: &[u8]) {
        assert_eq!(
            self.0.header.kind,
            RequestKind::Read,
            "only reads take data"
        );
        assert!(
            self.0.result().is_none(),
            "a caller's memory is used after the answer"
        );
        let to = self.0.memory.address(start, data.len());
        // SAFETY: `address` checked the range; pieces of a request never overlap.
        unsafe { to.copy_from(data.as_ptr(), data.len()) };
    }

    fn direct(&self, start: usize, length: usize) -> Option<NonNull<u8>> {
        if !self.0.direct {
            return None;
        }
        NonNull::new(self.0.memory.address(start, length))
    }

    fn complete(self, bytes: u64, errno: i32) {
        if errno != 0 {
            let _ = self
                .0
                .errno
                .compare_exchange(0, errno, Ordering::Relaxed, Ordering::Relaxed);
        }
        let so_far = self.0.completions.fetch_add(1, Ordering::Relaxed);
        if self.0.header.kind == RequestKind::Flush {
            assert_eq!(so_far, 0, "a flush was completed twice");
        }
        let before = self.0.left.fetch_sub(bytes, Ordering::Relaxed);
        assert!(before >= bytes, "a request was completed twice");
    }
}
