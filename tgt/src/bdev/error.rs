//! The error bdev: another bdev with faults on demand.
//!
//! `EE_<base>` passes everything on to its base until an RPC injects a rule for a kind of I/O: the next
//! `num` of that kind fail, stay pending, are corrupted or are put off. Rules belong to the bdev and are
//! shared by its channels; a channel looks at one atomic per I/O while there is no rule.
//!
//! A *pending* I/O is held by its channel until [`ErrorBdev::resume_pending`] sends it on to the base.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use uuid::Uuid;
use vdo::buffer::{Buffer, DmaMemory, HeapMemory};

use super::channel::Channel;
use super::io::{BdevIo, IoKind, IoMeta};
use super::registry::{BdevDesc, OpenOptions, Registry};
use super::{Bdev, BdevError, BdevInfo, Device, DeviceChannel};
use crate::reactor::{ReactorHandle, Waker};

/// What is done to an I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorType {
    /// It fails with `EIO`, and does not reach the base.
    #[default]
    Failure,
    /// It does not end.
    Pending,
    /// One byte of a read or write is changed; other kinds pass.
    CorruptData,
    /// It is tried again at the next poll, as a bdev that is out of memory has it.
    NoMemory,
}

/// Which I/O a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectOn {
    /// One kind. Zeroes cannot be chosen; they always pass.
    Kind(IoKind),
    /// Reads, writes, unmaps and flushes.
    All,
    /// None: every rule is taken back.
    Clear,
}

/// A rule to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    /// Which I/O.
    pub on: InjectOn,
    /// What is done to it.
    pub error: ErrorType,
    /// To how many; zero takes the rule back.
    pub num: u32,
    /// Only while the channel has at least this many I/Os at the base.
    pub queue_depth: u64,
    /// Which byte of the I/O is changed, if it is that long.
    pub corrupt_offset: u64,
    /// What the byte is XORed with; not zero when data is to be corrupted.
    pub corrupt_value: u8,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rule {
    error: ErrorType,
    queue_depth: u64,
    corrupt_offset: u64,
    corrupt_value: u8,
}

/// The rules for one kind of I/O.
#[derive(Debug, Default)]
struct KindRule {
    /// How many more the rule is for; looked at without the lock.
    left: AtomicU32,
    rule: Mutex<Rule>,
}

#[derive(Debug, Default)]
struct Rules {
    kinds: [KindRule; IoKind::ALL.len()],
    /// Counts the calls of `resume_pending`.
    resumed: AtomicU64,
    /// Those who must hear of a resumption.
    wakers: Mutex<Vec<Waker>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rules {
    /// What is to be done to an I/O of this kind, if anything; counts it.
    #[inline]
    fn apply(&self, kind: IoKind, in_flight: usize) -> Option<Rule> {
        let of = &self.kinds[kind as usize];
        if of.left.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let rule = lock(&of.rule);
        // Under the lock, so that the number and the rule belong together.
        let left = of.left.load(Ordering::Relaxed);
        if left == 0 || (in_flight as u64) < rule.queue_depth {
            return None;
        }
        of.left.store(left - 1, Ordering::Relaxed);
        Some(*rule)
    }

    fn set(&self, kind: IoKind, rule: Rule, num: u32) {
        let of = &self.kinds[kind as usize];
        let mut current = lock(&of.rule);
        *current = rule;
        of.left.store(num, Ordering::Relaxed);
    }

    fn clear(&self, which: impl Fn(&Rule) -> bool) {
        for of in &self.kinds {
            let rule = lock(&of.rule);
            if which(&rule) {
                of.left.store(0, Ordering::Relaxed);
            }
        }
    }
}

/// A bdev with faults on demand.
pub struct ErrorBdev {
    info: BdevInfo,
    base: BdevDesc,
    rules: Arc<Rules>,
    uuid_given: bool,
}

impl ErrorBdev {
    /// What the bdev over `base` is called.
    pub fn name_over(base: &str) -> String {
        format!("EE_{base}")
    }

    /// Claims `base` and passes I/O on to it.
    ///
    /// # Errors
    /// When there is no such base, or it is in use.
    pub fn new(
        registry: &Registry,
        base: &str,
        uuid: Option<Uuid>,
    ) -> Result<ErrorBdev, BdevError> {
        let base = registry.open(base, OpenOptions::claimed("error"))?;
        let below = base.info().clone();
        let info = BdevInfo {
            name: ErrorBdev::name_over(&below.name),
            product_name: "Error Injection Disk",
            uuid: uuid.unwrap_or_else(Uuid::new_v4),
            ..below
        };
        Ok(ErrorBdev {
            info,
            base,
            rules: Arc::default(),
            uuid_given: uuid.is_some(),
        })
    }

    /// Sets or takes back a rule.
    ///
    /// # Errors
    /// When data is to be corrupted by nothing.
    pub fn inject(&self, injection: Injection) -> Result<(), BdevError> {
        if injection.error == ErrorType::CorruptData && injection.corrupt_value == 0 {
            return Err(BdevError::Invalid(
                "corrupt_value is 0, which changes nothing; choose 1 to 255".to_owned(),
            ));
        }
        let rule = Rule {
            error: injection.error,
            queue_depth: injection.queue_depth,
            corrupt_offset: injection.corrupt_offset,
            corrupt_value: injection.corrupt_value,
        };
        match injection.on {
            InjectOn::Clear => self.rules.clear(|_| true),
            InjectOn::Kind(kind) => self.rules.set(kind, rule, injection.num),
            InjectOn::All => {
                for kind in [IoKind::Read, IoKind::Write, IoKind::Unmap, IoKind::Flush] {
                    self.rules.set(kind, rule, injection.num);
                }
            }
        }
        Ok(())
    }

    /// Lets no further I/O stay pending, and sends those that are on to the base.
    pub fn resume_pending(&self) {
        self.rules.clear(|rule| rule.error == ErrorType::Pending);
        self.rules.resumed.fetch_add(1, Ordering::Release);
        Waker::wake_all(&self.rules.wakers);
    }
}

impl Bdev for ErrorBdev {
    fn info(&self) -> &BdevInfo {
        &self.info
    }

    fn module(&self) -> &'static str {
        "error"
    }

    fn open_device(&self, reactor: &ReactorHandle) -> Result<Device, BdevError> {
        let base = self.base.open_channel(reactor)?;
        Waker::add_once(&self.rules.wakers, reactor.waker());
        Ok(Device::Error(Box::new(ErrorDevice {
            base,
            rules: Arc::clone(&self.rules),
            resumed: self.rules.resumed.load(Ordering::Acquire),
            ended: Vec::new(),
            pending: VecDeque::new(),
            again: Vec::new(),
            altered: Vec::new(),
            heap: Arc::new(HeapMemory),
        })))
    }

    fn driver_specific(&self) -> Value {
        json!({ "error_disk": { "base_bdev": self.base.info().name } })
    }

    fn config(&self) -> Vec<Value> {
        let mut params = json!({ "base_name": self.base.info().name });
        if self.uuid_given {
            params["uuid"] = json!(self.info.uuid.to_string());
        }
        vec![json!({ "method": "bdev_error_create", "params": params })]
    }

    fn let_go(&self) {
        self.resume_pending();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What is to be changed in one I/O at the base.
enum Altered {
    /// A read: XOR this byte when it ends.
    Read {
        token: u64,
        byte: *mut u8,
        value: u8,
    },
    /// A write: the changed copy it writes from.
    Write { token: u64, _copy: Buffer },
}

// SAFETY: the pointer is into memory the submitter vouched for, wherever the channel is.
unsafe impl Send for Altered {}

impl Altered {
    fn token(&self) -> u64 {
        match self {
            Altered::Read { token, .. } | Altered::Write { token, .. } => *token,
        }
    }
}

/// A channel's end of an error bdev.
pub struct ErrorDevice {
    base: Channel,
    rules: Arc<Rules>,
    /// The count of resumptions already heard of.
    resumed: u64,
    ended: Vec<(IoMeta, i32)>,
    pending: VecDeque<BdevIo>,
    /// To be tried again at the next poll.
    again: Vec<BdevIo>,
    // After `base`, which waits for the kernel to let go of the copies.
    altered: Vec<Altered>,
    heap: Arc<dyn DmaMemory>,
}

impl ErrorDevice {
    fn start(&mut self, io: BdevIo) {
        match self.rules.apply(io.meta.kind, self.base.in_flight()) {
            // SAFETY: the memory is vouched for by who submitted the I/O, until its end.
            None => unsafe { self.base.submit_io(io) },
            Some(rule) => match rule.error {
                ErrorType::Failure => self.ended.push((io.meta, libc::EIO)),
                ErrorType::Pending => self.pending.push_back(io),
                ErrorType::NoMemory => self.again.push(io),
                ErrorType::CorruptData => self.corrupt(io, rule),
            },
        }
    }

    fn corrupt(&mut self, mut io: BdevIo, rule: Rule) {
        let token = io.meta.token;
        let within = rule.corrupt_offset < io.meta.length;
        if within && io.meta.kind == IoKind::Read {
            // Within the I/O's memory, as just seen.
            let byte = io
                .memory
                .as_ptr()
                .wrapping_add(rule.corrupt_offset as usize);
            self.altered.push(Altered::Read {
                token,
                byte,
                value: rule.corrupt_value,
            });
        } else if within && io.meta.kind == IoKind::Write {
            let length = io.meta.length as usize;
            let Some(mut copy) = Buffer::new(&self.heap, length.div_ceil(4096)) else {
                self.ended.push((io.meta, libc::ENOMEM));
                return;
            };
            // SAFETY: the submitter vouches for this much memory, and the copy is no part of it.
            let data = unsafe { std::slice::from_raw_parts(io.memory.as_ptr(), length) };
            copy[..length].copy_from_slice(data);
            copy[rule.corrupt_offset as usize] ^= rule.corrupt_value;
            io.memory = copy.as_ptr();
            self.altered.push(Altered::Write { token, _copy: copy });
        }
        // SAFETY: the memory is the submitter's, or the copy, which is kept until the I/O ends.
        unsafe { self.base.submit_io(io) }
    }
}

impl DeviceChannel for ErrorDevice {
    unsafe fn submit(&mut self, io: BdevIo) {
        self.start(io);
    }

    fn poll(&mut self, done: &mut dyn FnMut(IoMeta, i32)) -> bool {
        let ErrorDevice {
            base,
            altered,
            ended,
            ..
        } = self;
        let mut any = base.poll_meta(&mut |meta, errno| {
            if !altered.is_empty()
                && let Some(place) = altered.iter().position(|one| one.token() == meta.token)
                && let Altered::Read { byte, value, .. } = altered.swap_remove(place)
                && errno == 0
            {
                // SAFETY: the byte lies within the memory the submitter vouched for until the end of
                // the I/O, which `done` is about to tell.
                unsafe { *byte ^= value };
            }
            done(meta, errno);
        });
        for (meta, errno) in ended.drain(..) {
            any = true;
            done(meta, errno);
        }
        let resumed = self.rules.resumed.load(Ordering::Acquire);
        if resumed != self.resumed {
            self.resumed = resumed;
            while let Some(io) = self.pending.pop_front() {
                any = true;
                // SAFETY: the memory is vouched for by who submitted the I/O, until its end.
                unsafe { self.base.submit_io(io) };
            }
        }
        for io in std::mem::take(&mut self.again) {
            any = true;
            self.start(io);
        }
        any
    }
}
