//! The delay bdev: another bdev, slower.
//!
//! An I/O goes to the base at once; when it ends there, its completion is held back for a time that
//! depends on its kind: the average latency of reads or of writes, or, for one in a hundred at random, the
//! 99th percentile. Other kinds are not held back. The reactor is told
//! when the next is due, so that it may sleep until then.

use std::any::Any;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use uuid::Uuid;
use vdo::seam::Nanos;

use super::channel::Channel;
use super::io::{BdevIo, IoKind, IoMeta};
use super::registry::{BdevDesc, OpenOptions, Registry};
use super::{Bdev, BdevError, BdevInfo, Device, DeviceChannel};
use crate::reactor::{self, ReactorHandle, Waker};

/// Which latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatencyKind {
    /// Of ninety-nine reads in a hundred.
    AverageRead,
    /// Of one read in a hundred.
    P99Read,
    /// Of ninety-nine writes in a hundred.
    AverageWrite,
    /// Of one write in a hundred.
    P99Write,
}

/// The four latencies, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latencies {
    /// Of ninety-nine reads in a hundred.
    pub average_read: u64,
    /// Of one read in a hundred.
    pub p99_read: u64,
    /// Of ninety-nine writes in a hundred.
    pub average_write: u64,
    /// Of one write in a hundred.
    pub p99_write: u64,
}

/// A slower bdev.
pub struct DelayBdev {
    info: BdevInfo,
    base: BdevDesc,
    settings: Arc<Settings>,
    /// Those who must hear when delays end.
    wakers: Mutex<Vec<Waker>>,
}

/// What the channels are told.
struct Settings {
    /// In microseconds, by [`LatencyKind`].
    latencies: [AtomicU64; 4],
    /// Whether everything is let through at once from now on.
    at_once: AtomicBool,
}

impl DelayBdev {
    /// Claims `base` and passes I/O on to it.
    ///
    /// # Errors
    /// When there is no such base, it is in use, or a p99 latency is below its average.
    pub fn new(
        registry: &Registry,
        base: &str,
        name: String,
        uuid: Option<Uuid>,
        latencies: Latencies,
    ) -> Result<DelayBdev, BdevError> {
        let Latencies {
            average_read,
            p99_read,
            average_write,
            p99_write,
        } = latencies;
        for (which, average, p99) in [
            ("read", average_read, p99_read),
            ("write", average_write, p99_write),
        ] {
            if p99 < average {
                return Err(BdevError::Invalid(format!(
                    "p99_{which}_latency is {p99}, less than avg_{which}_latency, which is {average}"
                )));
            }
        }
        let base = registry.open(base, OpenOptions::claimed("delay"))?;
        let below = base.info().clone();
        let info = BdevInfo {
            name,
            product_name: "delay",
            uuid: uuid.unwrap_or_else(Uuid::new_v4),
            ..below
        };
        let values = [average_read, p99_read, average_write, p99_write].map(AtomicU64::new);
        Ok(DelayBdev {
            info,
            base,
            settings: Arc::new(Settings {
                latencies: values,
                at_once: AtomicBool::new(false),
            }),
            wakers: Mutex::default(),
        })
    }

    /// Changes one latency, in microseconds; for I/O that ends at the base from now on.
    pub fn set_latency(&self, kind: LatencyKind, microseconds: u64) {
        self.settings.latencies[kind as usize].store(microseconds, Ordering::Relaxed);
    }

    fn values(&self) -> Value {
        let value =
            |kind: LatencyKind| self.settings.latencies[kind as usize].load(Ordering::Relaxed);
        json!({
            "name": self.info.name,
            "base_bdev_name": self.base.info().name,
            "uuid": self.info.uuid.to_string(),
            "avg_read_latency": value(LatencyKind::AverageRead),
            "p99_read_latency": value(LatencyKind::P99Read),
            "avg_write_latency": value(LatencyKind::AverageWrite),
            "p99_write_latency": value(LatencyKind::P99Write),
        })
    }
}

impl Bdev for DelayBdev {
    fn info(&self) -> &BdevInfo {
        &self.info
    }

    fn module(&self) -> &'static str {
        "delay"
    }

    fn open_device(&self, reactor: &ReactorHandle) -> Result<Device, BdevError> {
        let base = self.base.open_channel(reactor)?;
        Waker::add_once(&self.wakers, reactor.waker());
        Ok(Device::Delay(Box::new(DelayDevice {
            base,
            settings: Arc::clone(&self.settings),
            held: BinaryHeap::with_capacity(256),
            sequence: 0,
            random: 0x9e37_79b9_7f4a_7c15,
        })))
    }

    fn driver_specific(&self) -> Value {
        json!({ "delay": self.values() })
    }

    fn config(&self) -> Vec<Value> {
        vec![json!({ "method": "bdev_delay_create", "params": self.values() })]
    }

    fn let_go(&self) {
        self.settings.at_once.store(true, Ordering::Release);
        Waker::wake_all(&self.wakers);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A completion held back. Ordered by when it is due, then by when it came.
#[derive(Clone, Copy, Debug)]
struct Held {
    due: Nanos,
    sequence: u64,
    meta: IoMeta,
    errno: i32,
}

impl Held {
    fn key(&self) -> (Nanos, u64) {
        (self.due, self.sequence)
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Held) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Held) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Held) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// A channel's end of a delay bdev.
pub struct DelayDevice {
    base: Channel,
    settings: Arc<Settings>,
    held: BinaryHeap<Reverse<Held>>,
    sequence: u64,
    random: u64,
}

/// One step of xorshift; says whether this is the one in a hundred.
fn one_in_a_hundred(state: &mut u64) -> bool {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 32).is_multiple_of(100)
}

impl DeviceChannel for DelayDevice {
    unsafe fn submit(&mut self, io: BdevIo) {
        // SAFETY: the caller's promise is the one asked for.
        unsafe { self.base.submit_io(io) }
    }

    fn poll(&mut self, done: &mut dyn FnMut(IoMeta, i32)) -> bool {
        let DelayDevice {
            base,
            settings,
            held,
            sequence,
            random,
        } = self;
        let now = reactor::now();
        let mut any = base.poll_meta(&mut |meta, errno| {
            let p99 = one_in_a_hundred(random);
            let kind = match (meta.kind, p99) {
                (IoKind::Read, false) => LatencyKind::AverageRead,
                (IoKind::Read, true) => LatencyKind::P99Read,
                (IoKind::Write, false) => LatencyKind::AverageWrite,
                (IoKind::Write, true) => LatencyKind::P99Write,
                (IoKind::Unmap | IoKind::WriteZeroes | IoKind::Flush, _) => {
                    return done(meta, errno);
                }
            };
            let latency = settings.latencies[kind as usize]
                .load(Ordering::Relaxed)
                .saturating_mul(1000);
            *sequence += 1;
            let due = Nanos(now.0.saturating_add(latency));
            held.push(Reverse(Held {
                due,
                sequence: *sequence,
                meta,
                errno,
            }));
        });
        let at_once = settings.at_once.load(Ordering::Acquire);
        while let Some(Reverse(first)) = held.peek() {
            if first.due > now && !at_once {
                reactor::poll_by(first.due);
                break;
            }
            any = true;
            let (meta, errno) = (first.meta, first.errno);
            held.pop();
            done(meta, errno);
        }
        any
    }
}
