//! I/O counters of a bdev, as `bdev_get_iostat` reports them.
//!
//! Each channel owns an [`IoStat`] and is its only writer, so counting is a plain load and store; a
//! query reads the counters of all channels and adds them up. A channel that goes away leaves its
//! sums behind. A reset remembers the sums as a base line to subtract, so that no query ever writes a
//! counter of the data path.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use serde_json::{Value, json};

use super::io::{IoKind, IoMeta};
use crate::reactor;

/// Errors are counted by errno up to here; higher ones with the last.
const ERRNOS: usize = 134;

/// The counters of one kind of I/O on one channel.
#[derive(Debug, Default)]
struct KindStat {
    ops: AtomicU64,
    bytes: AtomicU64,
    latency: AtomicU64,
    /// The longest; zero means none yet.
    longest: AtomicU64,
    /// The shortest; zero means none yet.
    shortest: AtomicU64,
}

/// The counters of one channel. Written by the channel's thread, read by anyone.
#[derive(Debug)]
pub struct IoStat {
    kinds: [KindStat; IoKind::ALL.len()],
    errors: [AtomicU32; ERRNOS],
}

impl Default for IoStat {
    fn default() -> IoStat {
        IoStat {
            kinds: Default::default(),
            errors: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }
}

fn bump(counter: &AtomicU64, by: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(by),
        Ordering::Relaxed,
    );
}

impl IoStat {
    /// Counts the end of one I/O. Only the channel's thread may call this.
    #[inline]
    pub fn count(&self, meta: &IoMeta, errno: i32) {
        if errno != 0 {
            let slot = &self.errors[usize::try_from(errno).unwrap_or(ERRNOS).min(ERRNOS - 1)];
            slot.store(
                slot.load(Ordering::Relaxed).wrapping_add(1),
                Ordering::Relaxed,
            );
            return;
        }
        let kind = &self.kinds[meta.kind as usize];
        // At least one nanosecond, so that zero can mean "none yet".
        let took = reactor::now().0.saturating_sub(meta.started.0).max(1);
        bump(&kind.ops, 1);
        bump(&kind.bytes, meta.length);
        bump(&kind.latency, took);
        if took > kind.longest.load(Ordering::Relaxed) {
            kind.longest.store(took, Ordering::Relaxed);
        }
        let shortest = kind.shortest.load(Ordering::Relaxed);
        if shortest == 0 || took < shortest {
            kind.shortest.store(took, Ordering::Relaxed);
        }
    }

    /// Forgets the longest and shortest latency. A count at the same moment may win.
    pub fn reset_extremes(&self) {
        for kind in &self.kinds {
            kind.longest.store(0, Ordering::Relaxed);
            kind.shortest.store(0, Ordering::Relaxed);
        }
    }

    /// The counters as they are now.
    pub fn totals(&self) -> IoTotals {
        let mut totals = IoTotals::default();
        for (kind, total) in self.kinds.iter().zip(&mut totals.kinds) {
            total.ops = kind.ops.load(Ordering::Relaxed);
            total.bytes = kind.bytes.load(Ordering::Relaxed);
            total.latency = kind.latency.load(Ordering::Relaxed);
            total.longest = kind.longest.load(Ordering::Relaxed);
            total.shortest = kind.shortest.load(Ordering::Relaxed);
        }
        for (errno, count) in self.errors.iter().enumerate() {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                totals.errors.insert(errno as i32, u64::from(count));
            }
        }
        totals
    }
}

/// Sums of one kind of I/O; latencies in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindTotals {
    /// How many ended well.
    pub ops: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their latencies added up.
    pub latency: u64,
    /// The longest latency; zero if there was none.
    pub longest: u64,
    /// The shortest latency; zero if there was none.
    pub shortest: u64,
}

impl KindTotals {
    fn add(&mut self, other: &KindTotals) {
        self.ops += other.ops;
        self.bytes += other.bytes;
        self.latency += other.latency;
        self.longest = self.longest.max(other.longest);
        self.shortest = match (self.shortest, other.shortest) {
            (0, shortest) | (shortest, 0) => shortest,
            (one, other) => one.min(other),
        };
    }
}

/// Sums over channels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoTotals {
    kinds: [KindTotals; IoKind::ALL.len()],
    /// How many ended with each errno.
    pub errors: BTreeMap<i32, u64>,
}

impl IoTotals {
    /// The sums of one kind.
    pub fn of(&self, kind: IoKind) -> &KindTotals {
        &self.kinds[kind as usize]
    }

    /// Adds another channel's.
    pub fn add(&mut self, other: &IoTotals) {
        for (sum, part) in self.kinds.iter_mut().zip(&other.kinds) {
            sum.add(part);
        }
        for (&errno, &count) in &other.errors {
            *self.errors.entry(errno).or_default() += count;
        }
    }

    /// Forgets the longest and shortest latencies.
    pub fn reset_extremes(&mut self) {
        for kind in &mut self.kinds {
            kind.longest = 0;
            kind.shortest = 0;
        }
    }

    /// What was counted since `base`, an earlier reading.
    pub fn since(&self, base: &IoTotals) -> IoTotals {
        let mut rest = self.clone();
        for (rest, base) in rest.kinds.iter_mut().zip(&base.kinds) {
            rest.ops = rest.ops.saturating_sub(base.ops);
            rest.bytes = rest.bytes.saturating_sub(base.bytes);
            rest.latency = rest.latency.saturating_sub(base.latency);
        }
        for (errno, count) in &mut rest.errors {
            *count = count.saturating_sub(base.errors.get(errno).copied().unwrap_or(0));
        }
        rest.errors.retain(|_, count| *count > 0);
        rest
    }

    /// The members of `bdev_get_iostat`, without the name. Writes of zeroes count as writes.
    pub fn to_json(&self) -> Value {
        let mut write = *self.of(IoKind::Write);
        write.add(self.of(IoKind::WriteZeroes));
        let (read, unmap) = (self.of(IoKind::Read), self.of(IoKind::Unmap));
        let errors: serde_json::Map<String, Value> = self
            .errors
            .iter()
            .map(|(errno, count)| (errno_name(*errno), json!(count)))
            .collect();
        json!({
            "bytes_read": read.bytes,
            "num_read_ops": read.ops,
            "bytes_written": write.bytes,
            "num_write_ops": write.ops,
            "bytes_unmapped": unmap.bytes,
            "num_unmap_ops": unmap.ops,
            "bytes_copied": 0,
            "num_copy_ops": 0,
            "read_latency_ticks": read.latency,
            "max_read_latency_ticks": read.longest,
            "min_read_latency_ticks": read.shortest,
            "write_latency_ticks": write.latency,
            "max_write_latency_ticks": write.longest,
            "min_write_latency_ticks": write.shortest,
            "unmap_latency_ticks": unmap.latency,
            "max_unmap_latency_ticks": unmap.longest,
            "min_unmap_latency_ticks": unmap.shortest,
            "copy_latency_ticks": 0,
            "max_copy_latency_ticks": 0,
            "min_copy_latency_ticks": 0,
            "io_error": errors,
        })
    }
}

/// What the report calls an errno.
fn errno_name(errno: i32) -> String {
    match errno {
        libc::EIO => "failed".to_owned(),
        libc::ENOMEM => "nomem".to_owned(),
        libc::ECANCELED => "aborted".to_owned(),
        libc::ENOSPC => "enospc".to_owned(),
        libc::EINVAL => "einval".to_owned(),
        libc::EOPNOTSUPP => "eopnotsupp".to_owned(),
        other => format!("errno_{other}"),
    }
}
