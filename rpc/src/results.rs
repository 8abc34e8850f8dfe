//! What methods answer, apart from statistics.

use serde::{Deserialize, Serialize};
use vdo::volume::Losses;

/// `driver_specific.vdo` of a volume in `bdev_get_bdevs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VdoInfo {
    /// The bdev the volume is on.
    pub base_bdev_name: String,
    /// `normal`, `recovering` or `read-only`.
    pub mode: String,
    /// Why the mode is `read-only`; left out otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_reason: Option<String>,
    /// The index's state: `closed`, `closing`, `error`, `offline`, `online`, `opening`, `suspended` or `unknown`.
    pub index_state: String,
    /// Whether new data is compressed.
    pub compression: bool,
    /// What is done about freed blocks: `off`, `on` (they are discarded on the base bdev), `unsupported` or `failed`.
    pub discard_freed: String,
    /// Shares of the physical blocks, in percent, that are told of when they are in use.
    pub low_space_percent: Vec<u64>,
    /// How many zone threads share the work.
    pub zones: u64,
    /// Blocks (4 KiB) of the volume.
    pub logical_blocks: u64,
    /// Of those, blocks that are mapped to data.
    pub logical_blocks_used: u64,
    /// Blocks of the base bdev that belong to the volume.
    pub physical_blocks: u64,
    /// Of those, blocks that hold data.
    pub data_blocks_used: u64,
    /// Of those, blocks that hold metadata.
    pub overhead_blocks_used: u64,
    /// Share of the physical blocks in use, in percent.
    pub used_percent: u64,
    /// Share of the mapped logical blocks that needed no block of their own, in percent; null while
    /// no data is stored.
    pub saving_percent: Option<u64>,
}

/// Share of the physical blocks in use, in percent, rounded down: it is 100 when nothing is left, and not before.
pub fn used_percent(data_blocks: u64, overhead_blocks: u64, physical_blocks: u64) -> u64 {
    if physical_blocks == 0 {
        return 0;
    }
    let used = u128::from(data_blocks) + u128::from(overhead_blocks);
    let physical = u128::from(physical_blocks);
    u64::try_from(used * 100 / physical).unwrap_or(u64::MAX)
}

/// Share of the mapped logical blocks that needed no block of their own, in percent; `None` while
/// no data is stored: zero blocks alone are no saving. (More data blocks than logical ones, possible for a moment, is no saving.)
pub fn saving_percent(logical_blocks: u64, data_blocks: u64) -> Option<u64> {
    if logical_blocks == 0 || data_blocks == 0 {
        return None;
    }
    let saved = u128::from(logical_blocks.saturating_sub(data_blocks));
    u64::try_from(saved * 100 / u128::from(logical_blocks)).ok()
}

/// The answer of the methods that have a volume grow: its sizes now, in blocks (4 KiB).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grown {
    /// Blocks it presents.
    pub logical_blocks: u64,
    /// Blocks of the base bdev that belong to it.
    pub physical_blocks: u64,
}

/// One volume in the answer of `bdev_vdo_get_progress`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpeningInfo {
    /// What the volume will be called; left out if it is rebuilt and will not be a bdev.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The bdev the volume is on.
    pub base_bdev_name: String,
    /// What is being done: `open`, or a part of a recovery or rebuild; or `rebuild_index`, while the volume is up.
    pub work: String,
    /// How much of that has been done.
    pub done: u64,
    /// How much there is.
    pub all: u64,
}

/// What a rebuild had to drop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Entries of the recovery journal that could not be true.
    pub journal_entries: u64,
    /// Mappings that were ill-formed.
    pub malformed_mappings: u64,
    /// Mappings that led to no block of data.
    pub mappings_outside: u64,
    /// Mappings to a block that has all references it can have, or is a page of the block map.
    pub mappings_too_many: u64,
    /// Mappings beyond the end of the volume.
    pub mappings_beyond_end: u64,
    /// Pages of the block map, and all they named, that could not be where they were said to be.
    pub subtrees: u64,
    /// Pages of the block map that could not be read.
    pub unreadable_pages: u64,
    /// Pages of the block map whose place held another page.
    pub misplaced_pages: u64,
}

impl From<Losses> for Dropped {
    fn from(losses: Losses) -> Dropped {
        Dropped {
            journal_entries: losses.journal_entries,
            malformed_mappings: losses.malformed,
            mappings_outside: losses.outside,
            mappings_too_many: losses.too_many,
            mappings_beyond_end: losses.beyond_end,
            subtrees: losses.subtrees,
            unreadable_pages: losses.unreadable_pages,
            misplaced_pages: losses.misplaced_pages,
        }
    }
}

/// The answer of `bdev_vdo_rebuild`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuilt {
    /// The volume's bdev name; left out if it is not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The bdev the volume is on.
    pub base_bdev_name: String,
    /// What had to be dropped; all zero if nothing was.
    pub dropped: Dropped,
}

/// The answer of `bdev_vdo_dump`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// The volume's bdev name.
    pub name: String,
    /// Its hash zones in order.
    pub hash_zones: Vec<HashZoneDump>,
}

/// One hash zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashZoneDump {
    /// Which, from zero.
    pub zone: u64,
    /// The hash locks in use.
    pub hash_locks: Vec<HashLockDump>,
    /// The dedupe contexts, counted by state.
    pub contexts: ContextsDump,
    /// The requests of this zone thread's logical blocks that are under way.
    pub requests: Vec<RequestDump>,
    /// The unmaps and writes of zeroes that are not done, and how far this zone thread is with them.
    pub sweeps: Vec<SweepDump>,
    /// Requests of clients that wait, at least in part, to be taken up.
    pub waiting_requests: u64,
    /// I/Os to the base bdev under way.
    pub base_ios: u64,
    /// The share of the deduplication index; left out if that is not open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexShareDump>,
}

/// A zone thread's share of the deduplication index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexShareDump {
    /// The number of the open chapter.
    pub open_chapter: u64,
    /// The oldest chapter of which names are known.
    pub oldest_chapter: u64,
    /// Names of the open chapter that are in this share.
    pub open_entries: u64,
    /// Whether the chapter before it is on its way to the base bdev.
    pub closing: bool,
    /// Requests that wait for pages of chapters.
    pub lookups: u64,
    /// Requests that wait until the chapter before the open one is on the base bdev.
    pub stalled: u64,
}

/// One request for one block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestDump {
    /// What it is: `read`, `write`, `unmap` or `write_zeroes`.
    pub kind: String,
    /// The logical block.
    pub logical_block: u64,
    /// What it waits for.
    pub waits_for: String,
    /// For how long, in microseconds.
    pub waiting_us: u64,
}

/// One unmap or write of zeroes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepDump {
    /// What it is: `unmap` or `write_zeroes`.
    pub kind: String,
    /// Its first byte in the volume.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
    /// Those of them that belong to this zone thread.
    pub zone_bytes: u64,
    /// How many of these are done with or under way.
    pub zone_bytes_done: u64,
    /// For how long the zone thread is at it, in microseconds.
    pub running_us: u64,
}

/// The answer of `bdev_vdo_get_histograms`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histograms {
    /// The volume's bdev name.
    pub name: String,
    /// Each stage at which a request has been since times are kept, in the order of a write's way.
    pub stages: Vec<StageHistogram>,
}

/// How long requests stayed at one stage, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageHistogram {
    /// Which it is, in the words of [`RequestDump::waits_for`], and some more.
    pub stage: String,
    /// How many requests left it.
    pub count: u64,
    /// The average.
    pub mean_us: f64,
    /// At most this long half of the time ...
    pub p50_us: f64,
    /// ... 99 times in a hundred ...
    pub p99_us: f64,
    /// ... 999 times in a thousand.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

/// One hash lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashLockDump {
    /// The record name, as 32 hexadecimal digits.
    pub record_name: String,
    /// Its state, in capitals as the design writes it.
    pub state: String,
    /// Requests that hold a reference to it.
    pub references: u64,
    /// Requests that wait.
    pub waiters: u64,
    /// The physical block the lock deduplicates against, if it has one.
    pub duplicate: Option<u64>,
    /// Whether the duplicate was read and compared.
    pub verified: bool,
}

/// How many dedupe contexts are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextsDump {
    /// Free.
    pub idle: u64,
    /// The index was asked.
    pub pending: u64,
    /// The request went on without the answer.
    pub timed_out: u64,
    /// The late answer came.
    pub timed_out_complete: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_those_of_vdostats() {
        assert_eq!(used_percent(0, 0, 0), 0);
        assert_eq!(used_percent(1, 1, 3), 66);
        assert_eq!(used_percent(999_000, 0, 1_000_000), 99);
        assert_eq!(used_percent(999_999, 1, 1_000_000), 100);
        assert_eq!(used_percent(u64::MAX, u64::MAX, u64::MAX), 200);
        assert_eq!(saving_percent(0, 0), None);
        assert_eq!(saving_percent(10, 0), None);
        assert_eq!(saving_percent(3, 1), Some(66));
        assert_eq!(saving_percent(1, 3), Some(0));
    }
}
