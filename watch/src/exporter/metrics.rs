//! The table of metrics: what each statistic of `bdev_vdo_get_stats` is called in Prometheus, of what kind and unit it
//! is, and what it means.
//!
//! Names follow Prometheus' conventions: counters end in `_total`, space is in bytes and shares are ratios,
//! whatever the statistic is in. Statistics that say the same of several things are one metric with a label.

use super::exposition::Kind::{self, Counter, Gauge};
use Unit::{Blocks, Bytes, Count, Flag, Percent, Word};

/// What a statistic is in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unit {
    /// Things that are counted.
    Count,
    /// Bytes.
    Bytes,
    /// Blocks of 4096 bytes; shown in bytes.
    Blocks,
    /// Hundredths; shown as a ratio.
    Percent,
    /// Yes or no; shown as 1 or 0.
    Flag,
    /// One of some words; each is shown, 1 if it holds and 0 if not, with the word as a label of this name.
    Word(&'static str, &'static [&'static str]),
}

impl Unit {
    /// What one of it is, in what is shown.
    pub fn scale(self) -> f64 {
        match self {
            Count | Bytes | Flag | Word(..) => 1.0,
            Blocks => 4096.0,
            Percent => 0.01,
        }
    }
}

/// What becomes of one statistic.
#[derive(Clone, Debug)]
pub struct Metric {
    /// The statistic: its name, behind those of the groups it is in, with dots between.
    pub statistic: String,
    /// The metric.
    pub name: &'static str,
    /// Labels that tell it from other statistics of the same metric.
    pub labels: Vec<(&'static str, &'static str)>,
    /// Its kind.
    pub kind: Kind,
    /// Its unit.
    pub unit: Unit,
    /// What it means.
    pub help: &'static str,
}

/// A line of the table.
struct Row {
    /// The statistic; with `*` in place of the last name, each of `each`.
    statistic: &'static str,
    name: &'static str,
    label: Option<(&'static str, &'static str)>,
    each: Option<(&'static str, &'static [&'static str])>,
    kind: Kind,
    unit: Unit,
    help: &'static str,
}

/// Declares rows: the statistic, the metric with a label it has and one that has the last name of the statistic, its kind
/// and unit, and what it means.
macro_rules! rows {
    ($( $statistic:literal => $name:literal $([$label:ident = $text:literal])? $((each $each:ident of $words:expr))?
        $kind:ident $unit:expr, $help:expr; )*) => {
        &[ $( Row {
            statistic: $statistic,
            name: $name,
            label: pair!($(stringify!($label), $text)?),
            each: pair!($(stringify!($each), $words)?),
            kind: $kind,
            unit: $unit,
            help: $help,
        }, )* ]
    };
}

macro_rules! pair {
    () => {
        None
    };
    ($one:expr, $other:expr) => {
        Some(($one, $other))
    };
}

const MODES: &[&str] = &["normal", "recovering", "read-only"];

const INDEX_STATES: &[&str] = &[
    "closed",
    "closing",
    "error",
    "offline",
    "online",
    "opening",
    "suspended",
    "unknown",
];

/// The states of a hash lock.
const STATES: &[&str] = &[
    "initializing",
    "querying",
    "locking",
    "verifying",
    "writing",
    "deduping",
    "updating",
    "unlocking",
    "bypassing",
];

/// What a page of the block map's cache is.
const PAGES: &[&str] = &[
    "dirty_pages",
    "clean_pages",
    "free_pages",
    "failed_pages",
    "incoming_pages",
    "outgoing_pages",
];

/// What came of a request to the index.
const OUTCOMES: &[&str] = &[
    "posts_found",
    "posts_not_found",
    "queries_found",
    "queries_not_found",
    "updates_found",
    "updates_not_found",
];

/// How far something is that is written to the journal.
const STAGES: &[&str] = &["started", "written", "committed"];

/// What an I/O does.
const OPERATIONS: &[&str] = &["read", "write", "empty_flush", "discard", "flush", "fua"];

const STEPS_HELP: &str = "Times a hash lock went from one state to another.";
const BASE_HELP: &str = "I/O to the base bdev, by what it is for.";
const BASE_ENDED_HELP: &str = "I/O to the base bdev that ended, by what it is for.";

/// The table. Rows of the same metric stand side by side.
const ROWS: &[Row] = rows! {
    "version" => "vdo_statistics_version" Gauge Count,
        "Version of dm-vdo's list of statistics.";
    "instance" => "vdo_instance" Gauge Count,
        "Number of the instance; always 0.";
    "mode" => "vdo_mode" Gauge Word("mode", MODES),
        "Whether the volume works as it should.";
    "index_state" => "vdo_index_state" Gauge Word("state", INDEX_STATES),
        "State of the deduplication index.";
    "used_percent" => "vdo_used_ratio" Gauge Percent,
        "Share of the physical space that is in use; at 1 new data is refused.";
    "saving_percent" => "vdo_saving_ratio" Gauge Percent,
        "Share of the mapped logical space that needed none of its own; left out while no data is stored.";
    "physical_blocks" => "vdo_physical_bytes" Gauge Blocks,
        "Space of the base bdev that belongs to the volume.";
    "logical_blocks" => "vdo_logical_bytes" Gauge Blocks,
        "Size of the volume.";
    "data_blocks_used" => "vdo_data_used_bytes" Gauge Blocks,
        "Physical space that holds data.";
    "overhead_blocks_used" => "vdo_overhead_used_bytes" Gauge Blocks,
        "Physical space that holds metadata.";
    "logical_blocks_used" => "vdo_logical_used_bytes" Gauge Blocks,
        "Logical space that is mapped, to data or to zeroes; zone 0 counts for all.";
    "block_size" => "vdo_block_size_bytes" Gauge Bytes,
        "Size of a block.";
    "logical_block_size" => "vdo_logical_block_size_bytes" Gauge Bytes,
        "Size of a block that users see.";
    "block_map_cache_size" => "vdo_block_map_cache_bytes" Gauge Bytes,
        "Size of the block map's page cache.";
    "complete_recoveries" => "vdo_recoveries_total" Counter Count,
        "Times the volume was recovered after a crash, in its life.";
    "read_only_recoveries" => "vdo_rebuilds_total" Counter Count,
        "Times the volume was rebuilt, in its life.";
    "in_recovery_mode" => "vdo_recovering" Gauge Flag,
        "Whether slabs are still being scrubbed after a crash.";
    "recovery_percentage" => "vdo_recovered_ratio" Gauge Percent,
        "Share of the slabs that need not be scrubbed, or have been.";
    "current_vios_in_progress" => "vdo_block_requests_in_progress" Gauge Count,
        "Requests for one block under way.";
    "max_vios" => "vdo_block_requests_peak" Gauge Count,
        "Most requests for one block that ever were under way.";
    "vio_limit" => "vdo_block_requests_limit" Gauge Count,
        "Most requests for one block that can be under way; further ones wait.";
    "dedupe_advice_timeouts" => "vdo_dedupe_advice_timeouts_total" Counter Count,
        "Times a write went on without the index, which was too slow or asked too much.";
    "flush_out" => "vdo_base_flushes_total" Counter Count,
        "Flushes sent to the base bdev, whatever for.";
    "data.zero_blocks" => "vdo_zero_written_bytes_total" Counter Blocks,
        "Written data that was all zero.";
    "data.new_blocks" => "vdo_new_written_bytes_total" Counter Blocks,
        "Written data that was stored as it is.";
    "data.deduplicated_blocks" => "vdo_deduplicated_written_bytes_total" Counter Blocks,
        "Written data that was there already.";
    "data.compressed_blocks" => "vdo_compressed_written_bytes_total" Counter Blocks,
        "Written data that was stored as fragments of blocks.";
    "data.discarded_blocks" => "vdo_discarded_bytes_total" Counter Blocks,
        "Mapped space that was unmapped.";
    "data.unmapped_reads" => "vdo_unmapped_reads_total" Counter Count,
        "Reads of blocks that hold nothing.";
    "data.partial_writes" => "vdo_partial_writes_total" Counter Count,
        "Writes of part of a block, which read it first.";
    "hash_lock.dedupe_advice_valid" => "vdo_dedupe_advice_valid_total" Counter Count,
        "Times the index named a block whose data was the same.";
    "hash_lock.dedupe_advice_stale" => "vdo_dedupe_advice_stale_total" Counter Count,
        "Times the index named a block whose data was other, or that could not be shared.";
    "hash_lock.concurrent_data_matches" => "vdo_concurrent_data_matches_total" Counter Count,
        "Writes that found another of the same data under way.";
    "hash_lock.concurrent_hash_collisions" => "vdo_concurrent_hash_collisions_total" Counter Count,
        "Writes that found another of the same name and other data under way.";
    "hash_lock.curr_dedupe_queries" => "vdo_dedupe_queries_in_progress" Gauge Count,
        "Requests to the index under way.";
    "hash_lock_paths.forked" => "vdo_hash_locks_forked_total" Counter Count,
        "Hash locks that took over from one whose block had all the references it can have.";
    "hash_lock_paths.failed" => "vdo_hash_locks_failed_total" Counter Count,
        "Hash locks that met an error; their writes went on without deduplication.";
    "hash_lock_paths.context_busy" => "vdo_dedupe_contexts_busy_total" Counter Count,
        "Times the index was not asked because too many requests to it were waiting.";
    "index_entries_limit" => "vdo_index_entries_limit" Gauge Count,
        "Most names the index can hold.";
    "index_rebuild_done" => "vdo_index_rebuild_chapters_done" Gauge Count,
        "Chapters that were read to make the index again; 0 when that is not done.";
    "index_rebuild_all" => "vdo_index_rebuild_chapters" Gauge Count,
        "Chapters to be read to make the index again; 0 when that is not done.";
    "index.entries_indexed" => "vdo_index_entries" Gauge Count,
        "Names the index holds.";
    "index.entries_discarded" => "vdo_index_entries_discarded_total" Counter Count,
        "Old names dropped for newer ones.";
    "index.collisions" => "vdo_index_collisions" Gauge Count,
        "Names kept whole because another has the same key.";
    "index.early_flushes" => "vdo_index_early_flushes_total" Counter Count,
        "Chapters forgotten before their time, because names took too much memory.";
    "index.open_chapter_entries" => "vdo_index_open_chapter_entries" Gauge Count,
        "Names in the open chapter, which is in memory only.";
    "index.page_hits" => "vdo_index_page_hits_total" Counter Count,
        "Pages of chapters that were in memory when looked at.";
    "index.page_reads" => "vdo_index_page_reads_total" Counter Count,
        "Pages of chapters that had to be read.";
    "errors.invalid_advice_pbn_count" => "vdo_invalid_advice_total" Counter Count,
        "Times the index named a block that holds no data.";
    "errors.no_space_error_count" => "vdo_no_space_errors_total" Counter Count,
        "Requests that found no free block.";
    "errors.read_only_error_count" => "vdo_read_only_errors_total" Counter Count,
        "Requests that found the volume read-only.";
    "allocator.slab_count" => "vdo_slabs" Gauge Count,
        "Slabs there are.";
    "allocator.full_slabs" => "vdo_slabs_full" Gauge Count,
        "Slabs without a free block.";
    "allocator.slabs_opened" => "vdo_slabs_opened_total" Counter Count,
        "Slabs from which blocks were ever taken.";
    "allocator.slabs_reopened" => "vdo_slabs_reopened_total" Counter Count,
        "Times blocks were taken from a slab that had been used before.";
    "journal.disk_full" => "vdo_journal_full_total" Counter Count,
        "Times the recovery journal was full, so that writes waited.";
    "journal.slab_journal_commits_requested" => "vdo_journal_commit_requests_total" Counter Count,
        "Times the recovery journal asked slab journals to write, to free room.";
    "journal.blocks_in_use" => "vdo_journal_used_bytes" Gauge Blocks,
        "Recovery journal that is still needed.";
    "journal.blocks_limit" => "vdo_journal_limit_bytes" Gauge Blocks,
        "Most of the recovery journal that can be needed; then writes wait.";
    "slab_journal.disk_full_count" => "vdo_slab_journal_full_total" Counter Count,
        "Times a slab journal was full.";
    "slab_journal.flush_count" => "vdo_slab_journal_flushes_total" Counter Count,
        "Entries of slab journals above the mark where counts begin to be written.";
    "slab_journal.blocked_count" => "vdo_slab_journal_blocked_total" Counter Count,
        "Entries of slab journals that had to wait.";
    "slab_journal.blocks_written" => "vdo_slab_journal_written_bytes_total" Counter Blocks,
        "Slab journals written.";
    "slab_journal.tail_busy_count" => "vdo_slab_journal_tail_busy_total" Counter Count,
        "Entries of slab journals that waited for the last block's write.";
    "slab_summary.blocks_written" => "vdo_slab_summaries_written_bytes_total" Counter Blocks,
        "Slab summary written.";
    "ref_counts.blocks_written" => "vdo_reference_counts_written_bytes_total" Counter Blocks,
        "Reference counts written.";
    "block_map.cache_pressure" => "vdo_block_map_cache_pressure" Gauge Count,
        "Requests that found no page free since there last was one.";
    "block_map.read_count" => "vdo_block_map_reads_total" Counter Count,
        "Pages of the block map asked for to be read.";
    "block_map.write_count" => "vdo_block_map_writes_total" Counter Count,
        "Pages of the block map asked for to be changed.";
    "block_map.failed_reads" => "vdo_block_map_failed_reads_total" Counter Count,
        "Reads of pages of the block map that failed.";
    "block_map.failed_writes" => "vdo_block_map_failed_writes_total" Counter Count,
        "Writes of pages of the block map that failed.";
    "block_map.reclaimed" => "vdo_block_map_reclaimed_total" Counter Count,
        "Pages of the block map taken back while they were about to be dropped.";
    "block_map.read_outgoing" => "vdo_block_map_read_outgoing_total" Counter Count,
        "Pages of the block map read while they were being written.";
    "block_map.found_in_cache" => "vdo_block_map_found_in_cache_total" Counter Count,
        "Requests that found their page of the block map in the cache.";
    "block_map.discard_required" => "vdo_block_map_discards_required_total" Counter Count,
        "Requests that had to read their page of the block map, and to drop another first.";
    "block_map.wait_for_page" => "vdo_block_map_waits_for_page_total" Counter Count,
        "Requests that waited for a page of the block map under way.";
    "block_map.fetch_required" => "vdo_block_map_fetches_required_total" Counter Count,
        "Requests that had to read their page of the block map, and found room for it.";
    "block_map.pages_loaded" => "vdo_block_map_pages_loaded_total" Counter Count,
        "Pages of the block map read.";
    "block_map.pages_saved" => "vdo_block_map_pages_saved_total" Counter Count,
        "Pages of the block map written.";
    "block_map.flush_count" => "vdo_block_map_flushes_total" Counter Count,
        "Flushes of the base bdev for pages of the block map.";
    "packer.compressed_fragments_written" => "vdo_packer_fragments_written_total" Counter Count,
        "Compressed fragments written.";
    "packer.compressed_blocks_written" => "vdo_packer_written_bytes_total" Counter Blocks,
        "Blocks of compressed fragments written.";
    "packer.compressed_fragments_in_packer" => "vdo_packer_fragments_waiting" Gauge Count,
        "Compressed fragments that wait for company.";
    "freed_discards.discards" => "vdo_freed_discards_total" Counter Count,
        "Discards of freed blocks on the base bdev that succeeded.";
    "freed_discards.failed_discards" => "vdo_freed_discards_failed_total" Counter Count,
        "Discards of freed blocks on the base bdev that failed.";
    "freed_discards.blocks_discarded" => "vdo_freed_discarded_bytes_total" Counter Blocks,
        "Freed space that was discarded on the base bdev.";
    "freed_discards.blocks_waiting" => "vdo_freed_waiting_bytes" Gauge Blocks,
        "Freed space that is to be discarded on the base bdev.";
    "memory_usage.bytes_used" => "vdo_memory_used_bytes" Gauge Bytes,
        "Memory the volume holds.";
    "memory_usage.peak_bytes_used" => "vdo_memory_peak_bytes" Gauge Bytes,
        "Most memory the volume was found to hold.";
    "hash_lock_paths.*" => "vdo_hash_lock_states_entered_total" (each state of STATES) Counter Count,
        "Times a hash lock entered a state.";
    "block_map.*" => "vdo_block_map_cache_pages" (each state of PAGES) Gauge Count,
        "Pages of the block map's cache, by what they are.";
    "index.*" => "vdo_index_requests_total" (each outcome of OUTCOMES) Counter Count,
        "Requests to the index since it was opened.";
    "journal.entries.*" => "vdo_journal_entries_total" (each stage of STAGES) Counter Count,
        "Entries of the recovery journal.";
    "journal.blocks.*" => "vdo_journal_blocks_total" (each stage of STAGES) Counter Count,
        "Blocks of the recovery journal.";
    "hash_lock_steps.initializing.*" => "vdo_hash_lock_steps_total" [from = "initializing"]
        (each to of &["querying", "writing"]) Counter Count, STEPS_HELP;
    "hash_lock_steps.querying.*" => "vdo_hash_lock_steps_total" [from = "querying"]
        (each to of &["locking", "writing", "bypassing"]) Counter Count, STEPS_HELP;
    "hash_lock_steps.locking.*" => "vdo_hash_lock_steps_total" [from = "locking"]
        (each to of &["verifying", "writing", "deduping", "unlocking", "bypassing"]) Counter Count, STEPS_HELP;
    "hash_lock_steps.verifying.*" => "vdo_hash_lock_steps_total" [from = "verifying"]
        (each to of &["deduping", "unlocking", "bypassing"]) Counter Count, STEPS_HELP;
    "hash_lock_steps.writing.*" => "vdo_hash_lock_steps_total" [from = "writing"]
        (each to of &["deduping", "updating", "unlocking", "bypassing"]) Counter Count, STEPS_HELP;
    "hash_lock_steps.deduping.*" => "vdo_hash_lock_steps_total" [from = "deduping"]
        (each to of &["updating", "unlocking", "bypassing"]) Counter Count, STEPS_HELP;
    "hash_lock_steps.updating.*" => "vdo_hash_lock_steps_total" [from = "updating"]
        (each to of &["deduping", "unlocking", "bypassing"]) Counter Count, STEPS_HELP;
    "hash_lock_steps.unlocking.*" => "vdo_hash_lock_steps_total" [from = "unlocking"]
        (each to of &["writing", "locking", "bypassing"]) Counter Count, STEPS_HELP;
    "bios_in.*" => "vdo_requests_total" (each operation of OPERATIONS) Counter Count,
        "Requests of users, cut into blocks.";
    "bios_in_partial.*" => "vdo_partial_requests_total" (each operation of OPERATIONS) Counter Count,
        "Requests of users for a part of a block.";
    "bios_acknowledged.*" => "vdo_requests_answered_total" (each operation of OPERATIONS) Counter Count,
        "Requests of users that were answered.";
    "bios_acknowledged_partial.*" => "vdo_partial_requests_answered_total" (each operation of OPERATIONS) Counter Count,
        "Requests of users for a part of a block that were answered.";
    "bios_in_progress.*" => "vdo_requests_in_progress" (each operation of OPERATIONS) Gauge Count,
        "Requests of users under way.";
    "bios_out.*" => "vdo_base_ios_total" [class = "data"]
        (each operation of OPERATIONS) Counter Count, BASE_HELP;
    "bios_meta.*" => "vdo_base_ios_total" [class = "metadata"]
        (each operation of OPERATIONS) Counter Count, BASE_HELP;
    "bios_journal.*" => "vdo_base_ios_total" [class = "journal"]
        (each operation of OPERATIONS) Counter Count, BASE_HELP;
    "bios_page_cache.*" => "vdo_base_ios_total" [class = "block_map"]
        (each operation of OPERATIONS) Counter Count, BASE_HELP;
    "bios_out_completed.*" => "vdo_base_ios_completed_total" [class = "data"]
        (each operation of OPERATIONS) Counter Count, BASE_ENDED_HELP;
    "bios_meta_completed.*" => "vdo_base_ios_completed_total" [class = "metadata"]
        (each operation of OPERATIONS) Counter Count, BASE_ENDED_HELP;
    "bios_journal_completed.*" => "vdo_base_ios_completed_total" [class = "journal"]
        (each operation of OPERATIONS) Counter Count, BASE_ENDED_HELP;
    "bios_page_cache_completed.*" => "vdo_base_ios_completed_total" [class = "block_map"]
        (each operation of OPERATIONS) Counter Count, BASE_ENDED_HELP;
};

/// The whole table, each statistic by itself. Metrics that several statistics go into stand side by side.
pub fn table() -> Vec<Metric> {
    let metrics = |row: &'static Row| {
        let metric = move |statistic: String, member| Metric {
            statistic,
            name: row.name,
            labels: row.label.into_iter().chain(member).collect(),
            kind: row.kind,
            unit: row.unit,
            help: row.help,
        };
        match row.each {
            None => vec![metric(row.statistic.to_owned(), None)],
            Some((label, members)) => {
                let of = |&member: &&'static str| {
                    let statistic = row.statistic.replace('*', member);
                    metric(statistic, Some((label, member)))
                };
                members.iter().map(of).collect()
            }
        }
    };
    ROWS.iter().flat_map(metrics).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;
    use vdo::stats::{VolumeStatistics, ZoneStatistics};
    use vdo_rpc::stats::to_json;

    use super::*;

    fn leaves(value: &Value, path: &str, to: &mut BTreeSet<String>) {
        match value.as_object() {
            Some(members) => {
                for (name, member) in members {
                    let dot = if path.is_empty() { "" } else { "." };
                    leaves(member, &format!("{path}{dot}{name}"), to);
                }
            }
            None => _ = to.insert(path.to_owned()),
        }
    }

    #[test]
    fn the_table_has_every_statistic_once_and_no_other() {
        let volume = VolumeStatistics {
            zones: vec![ZoneStatistics::default()],
            ..VolumeStatistics::default()
        };
        let mut all = BTreeSet::new();
        leaves(&to_json("vdo0", &volume, false), "", &mut all);
        // That is the label.
        assert!(all.remove("name"));
        let table = table();
        let named: BTreeSet<_> = table
            .iter()
            .map(|metric| metric.statistic.clone())
            .collect();
        assert_eq!(named.len(), table.len(), "each statistic has one metric");
        let missing: Vec<_> = all.difference(&named).collect();
        assert!(
            missing.is_empty(),
            "statistics without a metric: {missing:?}"
        );
        let unknown: Vec<_> = named.difference(&all).collect();
        assert!(unknown.is_empty(), "metrics of no statistic: {unknown:?}");
    }

    #[test]
    fn a_metric_means_one_thing_and_its_samples_differ_in_their_labels() {
        let mut meanings = BTreeMap::new();
        let mut samples = BTreeSet::new();
        for metric in table() {
            let labels: Vec<_> = metric.labels.iter().map(|(label, _)| *label).collect();
            let meaning = (metric.kind == Counter, metric.help, labels);
            let first = meanings
                .entry(metric.name)
                .or_insert_with(|| meaning.clone());
            assert_eq!(*first, meaning, "{}", metric.name);
            assert!(
                samples.insert((metric.name, format!("{:?}", metric.labels))),
                "{metric:?}"
            );
            assert_eq!(
                metric.kind == Counter,
                metric.name.ends_with("_total"),
                "{}",
                metric.name
            );
        }
    }
}
