//! What there is to see of a target at one moment, worked out from two samples: plain values, ready to be drawn or written
//! to a file.

use serde::Serialize;
use serde_json::Value;

use crate::target::{ThreadTime, Volume};

/// Bytes of a block.
const BLOCK: f64 = 4096.0;

/// A counter: how far it is, and how fast it grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Count {
    /// Since the volume was opened.
    pub total: f64,
    /// In a second, between the last two samples; `None` if there were not two.
    pub rate: Option<f64>,
}

/// How much of something limited is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Fill {
    /// What is used.
    pub used: f64,
    /// What there is.
    pub limit: f64,
}

impl Fill {
    /// The share that is used.
    pub fn ratio(self) -> f64 {
        if self.limit > 0.0 {
            self.used / self.limit
        } else {
            0.0
        }
    }
}

/// How the use of space grows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Growth {
    /// Bytes in a second; less than nothing if it shrinks.
    pub rate: f64,
    /// Seconds over which that was seen.
    pub over: f64,
    /// Seconds until nothing is free, if it goes on; `None` if it does not grow.
    pub full_in: Option<f64>,
}

/// One step of the hash locks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// The state that is left.
    pub from: String,
    /// The state that is entered.
    pub to: String,
    /// How often.
    pub count: Count,
}

/// A zone thread of a volume.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ZoneView {
    /// Blocks read by users.
    pub reads: Count,
    /// Blocks written by users.
    pub writes: Count,
    /// Blocks that were stored.
    pub stored: Count,
    /// Blocks whose data was there.
    pub shared: Count,
    /// I/Os to the base bdev.
    pub base_ios: Count,
    /// Requests for one block under way.
    pub in_progress: f64,
    /// The share of time in which its thread found something to do.
    pub busy: Option<f64>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VolumeView {
    /// Its name.
    pub name: String,
    /// The bdev it is on.
    pub base_bdev: String,
    /// `normal`, `recovering` or `read-only`.
    pub mode: String,
    /// Why it is read-only.
    pub read_only_reason: Option<String>,
    /// The share of slabs that are recovered.
    pub recovered: f64,
    /// Physical bytes in use, with metadata, and all.
    pub space: Fill,
    /// Of them, bytes of metadata.
    pub overhead: f64,
    /// Logical bytes that are mapped, and all.
    pub logical: Fill,
    /// The share of the mapped logical space that needed none of its own.
    pub saving: Option<f64>,
    /// How the use of space grows.
    pub growth: Option<Growth>,
    /// Blocks read by users.
    pub reads: Count,
    /// Blocks written by users.
    pub writes: Count,
    /// Blocks discarded by users.
    pub discards: Count,
    /// Written blocks that were stored as they are, that were there already, that were compressed, that were zero.
    pub written: [Count; 4],
    /// The index's state.
    pub index_state: String,
    /// Names in the index, and most there can be.
    pub index: Fill,
    /// Chapters read to make the index again, and all.
    pub index_rebuild: Fill,
    /// Advice that was right, that was wrong, that was not waited for.
    pub advice: [Count; 3],
    /// Blocks of the recovery journal that are needed, and most there can be.
    pub journal: Fill,
    /// Slabs that are full, and all.
    pub slabs: Fill,
    /// Slabs that were never used.
    pub unused_slabs: f64,
    /// Pages of the block map's cache that are used, and all.
    pub cache: Fill,
    /// I/Os to the base bdev for data, journal, other metadata and the block map, and flushes.
    pub base_ios: [Count; 5],
    /// Requests for one block under way, and most there can be.
    pub requests: Fill,
    /// Most there ever were.
    pub peak: f64,
    /// Bytes of memory.
    pub memory: f64,
    /// Whether new data is compressed.
    pub compression: bool,
    /// The steps of hash locks.
    pub steps: Vec<Step>,
    /// Hash locks that forked, that failed, and times the index was too busy.
    pub trouble: [Count; 3],
    /// The zone threads, in order.
    pub zones: Vec<ZoneView>,
}

/// What two samples say of a volume: that now, and that before, so many seconds ago.
#[derive(Clone, Copy)]
struct Pair<'a> {
    now: &'a Value,
    before: Option<(&'a Value, f64)>,
}

impl Pair<'_> {
    fn number(&self, path: &str) -> f64 {
        number(self.now, path)
    }

    /// The sum of some counters.
    fn sum(&self, paths: &[&str]) -> Count {
        let total: f64 = paths.iter().map(|path| self.number(path)).sum();
        let rate = self.before.and_then(|(before, seconds)| {
            let before: f64 = paths.iter().map(|path| number(before, path)).sum();
            // It counts anew if the volume was opened anew.
            (total >= before && seconds > 0.0).then(|| (total - before) / seconds)
        });
        Count { total, rate }
    }

    fn count(&self, path: &str) -> Count {
        self.sum(&[path])
    }

    fn counts<const N: usize>(&self, paths: [&str; N]) -> [Count; N] {
        paths.map(|path| self.count(path))
    }

    fn fill(&self, used: &str, limit: &str) -> Fill {
        Fill {
            used: self.number(used),
            limit: self.number(limit),
        }
    }
}

fn number(value: &Value, path: &str) -> f64 {
    value
        .pointer(path)
        .and_then(Value::as_f64)
        .unwrap_or_default()
}

/// Works out what there is to see of a volume. `before` is the sample before, so many seconds ago.
pub fn volume(now: &Volume, before: Option<(&Volume, f64)>, growth: Option<Growth>) -> VolumeView {
    let statistics = Pair {
        now: &now.statistics,
        before: before.map(|(volume, seconds)| (&volume.statistics, seconds)),
    };
    let word = |path: &str| {
        let word = now.statistics.pointer(path).and_then(Value::as_str);
        word.unwrap_or("unknown").to_owned()
    };
    let info = now.info.as_ref();
    let overhead = statistics.number("/overhead_blocks_used") * BLOCK;
    let logical = statistics.fill("/logical_blocks_used", "/logical_blocks");
    let requests = statistics.fill("/current_vios_in_progress", "/vio_limit");
    let pages = ["dirty", "clean", "incoming", "outgoing"]
        .map(|what| statistics.number(&format!("/block_map/{what}_pages")));
    VolumeView {
        name: now.name.clone(),
        base_bdev: info.map_or(String::new(), |info| info.base_bdev_name.clone()),
        mode: word("/mode"),
        read_only_reason: info.and_then(|info| info.read_only_reason.clone()),
        recovered: statistics.number("/recovery_percentage") / 100.0,
        space: space(now),
        overhead,
        logical: Fill {
            used: logical.used * BLOCK,
            limit: logical.limit * BLOCK,
        },
        saving: (now.statistics["saving_percent"].as_f64()).map(|percent| percent / 100.0),
        growth,
        reads: statistics.count("/bios_in/read"),
        writes: statistics.count("/bios_in/write"),
        discards: statistics.count("/bios_in/discard"),
        written: statistics.counts([
            "/data/new_blocks",
            "/data/deduplicated_blocks",
            "/data/compressed_blocks",
            "/data/zero_blocks",
        ]),
        index_state: word("/index_state"),
        index: statistics.fill("/index/entries_indexed", "/index_entries_limit"),
        index_rebuild: statistics.fill("/index_rebuild_done", "/index_rebuild_all"),
        advice: statistics.counts([
            "/hash_lock/dedupe_advice_valid",
            "/hash_lock/dedupe_advice_stale",
            "/dedupe_advice_timeouts",
        ]),
        journal: statistics.fill("/journal/blocks_in_use", "/journal/blocks_limit"),
        slabs: statistics.fill("/allocator/full_slabs", "/allocator/slab_count"),
        unused_slabs: statistics.number("/allocator/slab_count")
            - statistics.number("/allocator/slabs_opened"),
        cache: Fill {
            used: pages.iter().sum(),
            limit: statistics.number("/block_map_cache_size") / BLOCK,
        },
        base_ios: [
            statistics.sum(&IO_OF_DATA),
            statistics.sum(&["/bios_journal/read", "/bios_journal/write"]),
            statistics.sum(&["/bios_meta/read", "/bios_meta/write"]),
            statistics.sum(&["/bios_page_cache/read", "/bios_page_cache/write"]),
            statistics.count("/flush_out"),
        ],
        requests,
        peak: statistics.number("/max_vios"),
        memory: statistics.number("/memory_usage/bytes_used"),
        compression: info.is_some_and(|info| info.compression),
        steps: steps(&statistics),
        trouble: statistics.counts([
            "/hash_lock_paths/forked",
            "/hash_lock_paths/failed",
            "/hash_lock_paths/context_busy",
        ]),
        zones: zones(now, before),
    }
}

const IO_OF_DATA: [&str; 3] = ["/bios_out/read", "/bios_out/write", "/bios_out/discard"];

/// The physical bytes in use, and all.
pub fn space(volume: &Volume) -> Fill {
    let blocks = |path| number(&volume.statistics, path);
    Fill {
        used: (blocks("/data_blocks_used") + blocks("/overhead_blocks_used")) * BLOCK,
        limit: blocks("/physical_blocks") * BLOCK,
    }
}

/// Every step that the target tells of.
fn steps(statistics: &Pair<'_>) -> Vec<Step> {
    let members = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let mut steps = Vec::new();
    for (from, all) in members(&statistics.now["hash_lock_steps"]) {
        for to in members(&all).into_iter().map(|(to, _)| to) {
            let count = statistics.count(&format!("/hash_lock_steps/{from}/{to}"));
            let from = from.clone();
            steps.push(Step { from, to, count });
        }
    }
    steps
}

fn zones(now: &Volume, before: Option<(&Volume, f64)>) -> Vec<ZoneView> {
    let list = |volume: &Volume| volume.statistics["per_zone"].as_array().cloned();
    let before_zones = before.and_then(|(volume, _)| list(volume));
    let all = list(now).unwrap_or_default();
    let zone = |(number, zone): (usize, &Value)| {
        let earlier = before_zones.as_ref().and_then(|zones| zones.get(number));
        let counters = Pair {
            now: zone,
            before: earlier.zip(before.map(|(_, seconds)| seconds)),
        };
        let time = |volume: &Volume| volume.threads.get(number).copied().flatten();
        ZoneView {
            reads: counters.count("/bios_in/read"),
            writes: counters.count("/bios_in/write"),
            stored: counters.sum(&["/data/new_blocks", "/data/compressed_blocks"]),
            shared: counters.count("/data/deduplicated_blocks"),
            base_ios: counters.sum(&IO_TO_BASE),
            in_progress: counters.number("/current_vios_in_progress"),
            busy: busy(time(now), before.and_then(|(volume, _)| time(volume))),
        }
    };
    all.iter().enumerate().map(zone).collect()
}

const IO_TO_BASE: [&str; 9] = [
    "/bios_out/read",
    "/bios_out/write",
    "/bios_out/discard",
    "/bios_journal/read",
    "/bios_journal/write",
    "/bios_meta/read",
    "/bios_meta/write",
    "/bios_page_cache/read",
    "/bios_page_cache/write",
];

/// The share of the time between two samples that a thread was busy.
fn busy(now: Option<ThreadTime>, before: Option<ThreadTime>) -> Option<f64> {
    let (now, before) = (now?, before?);
    let (busy, idle) = (now.busy - before.busy, now.idle - before.idle);
    let all = busy + idle;
    (busy >= 0.0 && idle >= 0.0 && all > 0.0).then(|| busy / all)
}
