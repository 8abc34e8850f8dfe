//! How long requests stay at each stage of their way, for who looks into latency.
//!
//! Off at first. Then a stage costs one look at a flag, and no memory is held. Switched on, a thread keeps a histogram for each
//! [`Stretch`], and hands each stretch that ends to its host's tracer, if there is one: a host may trace without
//! histograms.
//!
//! Time here is that of polls: all that happens in one poll happens at once. So a stretch that ends in the poll it began in took no
//! time, and the rest is told to within the length of a poll.

use std::cell::{Cell, RefCell};

use hdrhistogram::Histogram;

use crate::seam::Nanos;

/// The longest time that is told apart from longer ones.
const LONGEST: u64 = 3_600_000_000_000;

/// Decimal digits to which times are kept.
const DIGITS: u8 = 2;

macro_rules! stretches {
    ($( $(#[$doc:meta])* $stretch:ident = $name:literal, )*) => {
        /// A part of a request's way that takes time.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Stretch {
            $( $(#[$doc])* $stretch, )*
        }

        impl Stretch {
            /// All of them, in the order of a write's way.
            pub const ALL: &[Stretch] = &[$( Stretch::$stretch, )*];

            /// Its name, as reports have it.
            pub fn name(self) -> &'static str {
                match self {
                    $( Stretch::$stretch => $name, )*
                }
            }
        }
    };
}

stretches! {
    /// In the line: the zone thread has the caller's request, and the block's turn has not come.
    Line = "line",
    /// For the requests of the same logical block that came before.
    LogicalLock = "logical_lock",
    /// For the way to the block-map entry, perhaps for missing pages to be made.
    BlockMapTree = "block_map_tree",
    /// For a page that an unmap or a write of zeroes has to see.
    BlockMapSweep = "block_map_sweep",
    /// For a block-map page to be read.
    BlockMapPage = "block_map_page",
    /// For a buffer to read into.
    Buffer = "buffer",
    /// For the base device to read a block for its caller.
    BaseRead = "base_read",
    /// For others to gather whose data is named together with its own.
    Name = "name",
    /// In the hash zone, until that says where the data is to be: all of the next three.
    HashZone = "hash_zone",
    /// For the index.
    Index = "index",
    /// For a block that may hold the same data to be read.
    DataVerify = "data_verify",
    /// For new data to be written.
    DataWrite = "data_write",
    /// For the journal entry to be durable. Where nobody keeps time, until the counts are changed.
    Journal = "journal",
    /// For the changes of reference counts, each an entry in a slab journal.
    SlabJournal = "slab_journal",
    /// For the block-map page to be changed.
    BlockMapUpdate = "block_map_update",
    /// For the hash zone to let go, after the caller was answered.
    HashZoneExit = "hash_zone_exit",
}

/// A stretch that has ended, for a host that traces.
#[derive(Clone, Copy, Debug)]
pub struct Lap {
    /// Which stretch of the way.
    pub stretch: Stretch,
    /// Whose way: a number that no other request of the zone thread has at the time. Of [`Stretch::Index`],
    /// [`Stretch::DataVerify`] and [`Stretch::DataWrite`]: of the volume.
    pub request: u32,
    /// How long it took.
    pub took: Nanos,
}

/// Writes a lap down. Called while the zone thread is polled, so it must not be slow.
pub type Tracer = fn(Lap);

/// The histograms of one zone thread, or of all of them together.
#[derive(Clone, Debug)]
pub struct StageTimes(Vec<Histogram<u64>>);

/// What is known of one stretch. Times are exact to two decimal digits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageTime {
    /// Which it is.
    pub stretch: Stretch,
    /// How often it ended since times are kept.
    pub count: u64,
    /// How long it took on average.
    pub mean: Nanos,
    /// At most this long half of the time ...
    pub p50: Nanos,
    /// ... 99 times in a hundred ...
    pub p99: Nanos,
    /// ... 999 times in a thousand.
    pub p999: Nanos,
    /// And always.
    pub max: Nanos,
}

impl StageTimes {
    fn new() -> StageTimes {
        let histogram = Histogram::new_with_bounds(1, LONGEST, DIGITS);
        let histogram = histogram.expect("the bounds of a histogram are fixed, and right");
        StageTimes(vec![histogram; Stretch::ALL.len()])
    }

    /// Bytes of memory it holds.
    pub fn memory_held(&self) -> usize {
        let buckets = self.0.iter().map(Histogram::distinct_values);
        buckets.sum::<usize>() * size_of::<u64>()
    }

    fn add(&mut self, stretch: Stretch, took: Nanos) {
        self.0[stretch as usize].saturating_record(took.0);
    }

    /// Adds what another thread knows.
    pub fn merge(&mut self, other: &StageTimes) {
        for (mine, other) in self.0.iter_mut().zip(&other.0) {
            mine.add(other)
                .expect("all histograms have the same bounds");
        }
    }

    /// Each stretch that has ended at least once.
    pub fn report(&self) -> Vec<StageTime> {
        let ended = Stretch::ALL.iter().zip(&self.0);
        let ended = ended.filter(|(_, histogram)| !histogram.is_empty());
        ended
            .map(|(stretch, histogram)| StageTime {
                stretch: *stretch,
                count: histogram.len(),
                mean: Nanos(histogram.mean() as u64),
                p50: Nanos(histogram.value_at_quantile(0.5)),
                p99: Nanos(histogram.value_at_quantile(0.99)),
                p999: Nanos(histogram.value_at_quantile(0.999)),
                max: Nanos(histogram.max()),
            })
            .collect()
    }
}

/// Keeps time on one zone thread. See the [module](self).
#[derive(Debug, Default)]
pub struct Stopwatch {
    /// Whether anybody wants to know.
    running: Cell<bool>,
    tracer: Cell<Option<Tracer>>,
    times: RefCell<Option<Box<StageTimes>>>,
}

impl Stopwatch {
    /// Whether anybody wants to know.
    #[inline]
    pub fn is_running(&self) -> bool {
        self.running.get()
    }

    /// Keeps histograms from now on, anew; or forgets them.
    pub fn keep_times(&self, on: bool) {
        *self.times.borrow_mut() = on.then(|| Box::new(StageTimes::new()));
        self.look();
    }

    /// Hands laps to `tracer` from now on, or to nobody.
    pub fn trace(&self, tracer: Option<Tracer>) {
        self.tracer.set(tracer);
        self.look();
    }

    fn look(&self) {
        self.running
            .set(self.tracer.get().is_some() || self.times.borrow().is_some());
    }

    /// A stretch of the way of `request`, which began at `since`, ends at `now`. To be called only if somebody wants to know.
    #[cold]
    pub fn lap(&self, stretch: Stretch, request: u32, since: Nanos, now: Nanos) {
        let took = Nanos(now.0.saturating_sub(since.0));
        if let Some(times) = &mut *self.times.borrow_mut() {
            times.add(stretch, took);
        }
        if let Some(trace) = self.tracer.get() {
            trace(Lap {
                stretch,
                request,
                took,
            });
        }
    }

    /// What is known, if histograms are kept.
    pub fn times(&self) -> Option<StageTimes> {
        self.times.borrow().as_deref().cloned()
    }

    /// Bytes of memory it holds.
    pub fn memory_held(&self) -> usize {
        let times = self.times.borrow();
        times.as_ref().map_or(0, |times| times.memory_held())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_and_nobody_told_until_somebody_wants_to_know() {
        let stopwatch = Stopwatch::default();
        assert!(!stopwatch.is_running());
        assert!(stopwatch.times().is_none());
        assert_eq!(stopwatch.memory_held(), 0);
        stopwatch.trace(Some(|_| ()));
        assert!(stopwatch.is_running());
        assert!(stopwatch.times().is_none());
        stopwatch.keep_times(true);
        stopwatch.trace(None);
        assert!(stopwatch.is_running());
        stopwatch.keep_times(false);
        assert!(!stopwatch.is_running());
    }

    #[test]
    fn times_of_two_threads_are_told_together_and_exact_to_two_digits() {
        let one = Stopwatch::default();
        let other = Stopwatch::default();
        for stopwatch in [&one, &other] {
            stopwatch.keep_times(true);
        }
        for microseconds in 1..=99 {
            let end = Nanos(7 + microseconds * 1000);
            one.lap(Stretch::Journal, 0, Nanos(7), end);
        }
        other.lap(Stretch::Journal, 0, Nanos(0), Nanos(5_000_000));
        let mut all = one.times().expect("kept");
        all.merge(&other.times().expect("kept"));
        let [journal] = all.report()[..] else {
            panic!("only the journal was waited for")
        };
        let near = |time: Nanos, wanted: u64| time.0.abs_diff(wanted) <= wanted / 100;
        assert_eq!((journal.stretch, journal.count), (Stretch::Journal, 100));
        assert!(near(journal.p50, 50_000), "{journal:?}");
        assert!(near(journal.p99, 99_000), "{journal:?}");
        assert!(near(journal.p999, 5_000_000), "{journal:?}");
        assert!(near(journal.mean, 99_500), "{journal:?}");
    }

    #[test]
    fn a_clock_that_went_back_and_a_wait_of_a_day_are_no_errors() {
        let stopwatch = Stopwatch::default();
        stopwatch.keep_times(true);
        stopwatch.lap(Stretch::Line, 0, Nanos(10), Nanos(9));
        stopwatch.lap(Stretch::Line, 0, Nanos(0), Nanos(86_400_000_000_000));
        let times = stopwatch.times().expect("kept").report();
        assert_eq!(times[0].count, 2);
    }
}
