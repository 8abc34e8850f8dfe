//! Counters: every statistic dm-vdo reports, under its dm-vdo name, and a few of our own.
//!
//! A zone thread owns one [`ZoneStatistics`] and counts in it with plain additions; nobody else
//! touches it. When somebody asks, each zone thread is sent a request, answers with a copy, and the
//! copies are added up ([`VolumeStatistics`]). Nothing on the data path is atomic or shared for the
//! sake of a counter.
//!
//! The field lists are written once, here: [`Statistics::visit`] walks name and value of each, so that
//! a host can print or encode them without repeating a name.

/// Receives the statistics of a group in order of declaration.
pub trait Visitor {
    /// A counter or gauge.
    fn number(&mut self, name: &'static str, value: u64);
    /// A word, such as the operating mode.
    fn text(&mut self, name: &'static str, value: &'static str);
    /// A yes or no.
    fn flag(&mut self, name: &'static str, value: bool);
    /// What follows, up to the matching [`Visitor::leave`], belongs to the group `name`.
    fn enter(&mut self, name: &'static str);
    /// The group ends.
    fn leave(&mut self);
}

/// Something that is counted: a number, or a group of numbers.
pub trait Statistic: Copy + Default {
    /// Adds another zone's share. Numbers add up (and stop at their largest value).
    fn add(&mut self, other: &Self);
    /// Shows this under `name`.
    fn show(&self, name: &'static str, visitor: &mut dyn Visitor);
}

/// A group of statistics.
pub trait Statistics: Statistic {
    /// Shows every member.
    fn visit(&self, visitor: &mut dyn Visitor);
}

impl Statistic for u64 {
    #[inline]
    fn add(&mut self, other: &u64) {
        *self = self.saturating_add(*other);
    }

    fn show(&self, name: &'static str, visitor: &mut dyn Visitor) {
        visitor.number(name, *self);
    }
}

/// Declares a group: a plain struct of numbers and groups, its sum and its visit.
macro_rules! statistics {
    ($(
        $(#[$doc:meta])*
        pub struct $group:ident {
            $( $(#[$field_doc:meta])* $field:ident: $kind:ty, )*
        }
    )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $group {
            $( $(#[$field_doc])* pub $field: $kind, )*
        }

        impl Statistic for $group {
            fn add(&mut self, other: &Self) {
                $( Statistic::add(&mut self.$field, &other.$field); )*
            }

            fn show(&self, name: &'static str, visitor: &mut dyn Visitor) {
                visitor.enter(name);
                self.visit(visitor);
                visitor.leave();
            }
        }

        impl Statistics for $group {
            fn visit(&self, visitor: &mut dyn Visitor) {
                $( self.$field.show(stringify!($field), visitor); )*
            }
        }
    )* };
}

statistics! {
    /// The packer of compressed blocks.
    pub struct PackerStatistics {
        /// Compressed fragments written.
        compressed_fragments_written: u64,
        /// Blocks of compressed fragments written.
        compressed_blocks_written: u64,
        /// Fragments waiting in the packer now.
        compressed_fragments_in_packer: u64,
    }

    /// Allocation of data blocks.
    pub struct AllocatorStatistics {
        /// Slabs there are.
        slab_count: u64,
        /// Slabs from which blocks were ever allocated.
        slabs_opened: u64,
        /// Slabs taken up again since the volume was opened.
        slabs_reopened: u64,
        /// Slabs without a free block now, among those known. Not in dm-vdo.
        full_slabs: u64,
    }

    /// Things on their way to disk: the difference between two neighbours is what is under way.
    pub struct CommitStatistics {
        /// Begun.
        started: u64,
        /// Writes issued.
        written: u64,
        /// Writes completed.
        committed: u64,
    }

    /// The recovery journal.
    pub struct JournalStatistics {
        /// Times the journal was full on disk.
        disk_full: u64,
        /// Times it asked the slab journals to commit.
        slab_journal_commits_requested: u64,
        /// Entries.
        entries: CommitStatistics,
        /// Blocks.
        blocks: CommitStatistics,
        /// Blocks of it that are still needed now. Not in dm-vdo.
        blocks_in_use: u64,
        /// Most blocks of it that can be needed at once. Not in dm-vdo.
        blocks_limit: u64,
    }

    /// The slab journals.
    pub struct SlabJournalStatistics {
        /// Times a slab journal was full on disk.
        disk_full_count: u64,
        /// Entries added above the flushing threshold.
        flush_count: u64,
        /// Entries that had to wait above the blocking threshold.
        blocked_count: u64,
        /// Blocks written.
        blocks_written: u64,
        /// Times an entry waited for the tail block's write.
        tail_busy_count: u64,
    }

    /// The slab summary.
    pub struct SlabSummaryStatistics {
        /// Blocks written.
        blocks_written: u64,
    }

    /// The reference counters.
    pub struct RefCountsStatistics {
        /// Blocks written.
        blocks_written: u64,
    }

    /// The block map's page cache.
    pub struct BlockMapStatistics {
        /// Pages changed and not yet written.
        dirty_pages: u64,
        /// Pages as they are on disk.
        clean_pages: u64,
        /// Empty page slots.
        free_pages: u64,
        /// Pages whose read failed.
        failed_pages: u64,
        /// Pages being read.
        incoming_pages: u64,
        /// Pages being written.
        outgoing_pages: u64,
        /// Times no slot was free since one was last; back to zero then, as in dm-vdo.
        cache_pressure: u64,
        /// Pages asked for to be read.
        read_count: u64,
        /// Pages asked for to be changed.
        write_count: u64,
        /// Page reads that failed.
        failed_reads: u64,
        /// Page writes that failed.
        failed_writes: u64,
        /// Requests that took back a page about to be dropped.
        reclaimed: u64,
        /// Reads of a page being written.
        read_outgoing: u64,
        /// Requests that found their page in the cache.
        found_in_cache: u64,
        /// Requests that had to fetch their page, for which another page had to go.
        discard_required: u64,
        /// Requests that waited for a page under way.
        wait_for_page: u64,
        /// Requests that had to fetch their page, and found a free slot for it.
        fetch_required: u64,
        /// Pages fetched.
        pages_loaded: u64,
        /// Pages written.
        pages_saved: u64,
        /// Flushes of the base device.
        flush_count: u64,
    }

    /// What the hash locks saw.
    pub struct HashLockStatistics {
        /// Advice that proved right.
        dedupe_advice_valid: u64,
        /// Advice that proved wrong.
        dedupe_advice_stale: u64,
        /// Writes with the data of another write in flight.
        concurrent_data_matches: u64,
        /// Writes with the name, but not the data, of another write in flight.
        concurrent_hash_collisions: u64,
        /// Index requests under way.
        curr_dedupe_queries: u64,
    }

    /// Requests that met an error.
    pub struct ErrorStatistics {
        /// Advice that named a block that holds no data.
        invalid_advice_pbn_count: u64,
        /// Requests that found no space.
        no_space_error_count: u64,
        /// Requests that found the volume read-only.
        read_only_error_count: u64,
    }

    /// I/O of one kind, counted by what it does.
    pub struct BioStatistics {
        /// Reads.
        read: u64,
        /// Writes with data.
        write: u64,
        /// Flushes without data.
        empty_flush: u64,
        /// Discards.
        discard: u64,
        /// I/O preceded by a flush.
        flush: u64,
        /// Writes that must be durable before they complete.
        fua: u64,
    }

    /// The deduplication index.
    pub struct IndexStatistics {
        /// Records it holds.
        entries_indexed: u64,
        /// Posts that found an entry.
        posts_found: u64,
        /// Posts that made one.
        posts_not_found: u64,
        /// Queries that found an entry.
        queries_found: u64,
        /// Queries that found none.
        queries_not_found: u64,
        /// Updates that found an entry.
        updates_found: u64,
        /// Updates that made one.
        updates_not_found: u64,
        /// Entries that made room for newer ones.
        entries_discarded: u64,
        /// Entries with a whole name, because another one has the same key.
        collisions: u64,
        /// Chapters forgotten before their time, because their names took too much memory. Not in dm-vdo.
        early_flushes: u64,
        /// Records of the open chapter. Not in dm-vdo.
        open_chapter_entries: u64,
        /// Pages of chapters that were in memory when they were looked at. Not in dm-vdo.
        page_hits: u64,
        /// Pages of chapters that had to be read. Not in dm-vdo.
        page_reads: u64,
    }

    /// Times each state of the hash-lock machine was entered. Not in dm-vdo.
    pub struct HashLockPathStatistics {
        /// Locks taken into use.
        initializing: u64,
        /// The index was asked.
        querying: u64,
        /// A block was locked on the index's advice.
        locking: u64,
        /// A block was read and compared.
        verifying: u64,
        /// The lock wrote its data.
        writing: u64,
        /// References were shared.
        deduping: u64,
        /// The index was told of a change.
        updating: u64,
        /// The duplicate's lock was given up.
        unlocking: u64,
        /// The lock was on its way out.
        bypassing: u64,
        /// A new lock took over because a block's references ran out.
        forked: u64,
        /// An agent failed and its waiters wrote without deduplication.
        failed: u64,
        /// Index requests not made because no dedupe context was idle; dm-vdo counts these as timeouts.
        context_busy: u64,
    }

    /// Times a hash lock went from INITIALIZING to ...
    pub struct InitializingSteps {
        /// ... QUERYING: the first request took it.
        querying: u64,
        /// ... WRITING: it takes the place of one that can use its copy no more.
        writing: u64,
    }

    /// Times a hash lock went from QUERYING to ...
    pub struct QueryingSteps {
        /// ... LOCKING: the advice names a usable block.
        locking: u64,
        /// ... WRITING: there is no advice.
        writing: u64,
        /// ... BYPASSING: the agent failed.
        bypassing: u64,
    }

    /// Times a hash lock went from LOCKING to ...
    pub struct LockingSteps {
        /// ... VERIFYING: the block is locked.
        verifying: u64,
        /// ... WRITING: it cannot be, the advice is stale.
        writing: u64,
        /// ... DEDUPING: it was verified before.
        deduping: u64,
        /// ... UNLOCKING: it was verified before, and has all the references it can have.
        unlocking: u64,
        /// ... BYPASSING: the agent failed, or a new lock has to write.
        bypassing: u64,
    }

    /// Times a hash lock went from VERIFYING to ...
    pub struct VerifyingSteps {
        /// ... DEDUPING: the bytes are equal.
        deduping: u64,
        /// ... UNLOCKING: they are not, or the block has all the references it can have.
        unlocking: u64,
        /// ... BYPASSING: the agent failed.
        bypassing: u64,
    }

    /// Times a hash lock went from WRITING to ...
    pub struct WritingSteps {
        /// ... DEDUPING: someone waits.
        deduping: u64,
        /// ... UPDATING: the index must be told.
        updating: u64,
        /// ... UNLOCKING: a compressed write left a lock.
        unlocking: u64,
        /// ... BYPASSING: nothing is left to do, there is no space, or the agent failed.
        bypassing: u64,
    }

    /// Times a hash lock went from DEDUPING to ...
    pub struct DedupingSteps {
        /// ... UPDATING: the last holder is done, the index must be told.
        updating: u64,
        /// ... UNLOCKING: the last holder is done.
        unlocking: u64,
        /// ... BYPASSING: a holder failed.
        bypassing: u64,
    }

    /// Times a hash lock went from UPDATING to ...
    pub struct UpdatingSteps {
        /// ... DEDUPING: someone came meanwhile.
        deduping: u64,
        /// ... UNLOCKING: a block is locked.
        unlocking: u64,
        /// ... BYPASSING: none is, or the agent failed.
        bypassing: u64,
    }

    /// Times a hash lock went from UNLOCKING to ...
    pub struct UnlockingSteps {
        /// ... WRITING: what was locked cannot be used.
        writing: u64,
        /// ... LOCKING: someone came meanwhile.
        locking: u64,
        /// ... BYPASSING: it is done, the agent failed, or a new lock has to write.
        bypassing: u64,
    }

    /// Times a hash lock went from each state to each other. Not in dm-vdo.
    pub struct HashLockStepStatistics {
        /// From INITIALIZING.
        initializing: InitializingSteps,
        /// From QUERYING.
        querying: QueryingSteps,
        /// From LOCKING.
        locking: LockingSteps,
        /// From VERIFYING.
        verifying: VerifyingSteps,
        /// From WRITING.
        writing: WritingSteps,
        /// From DEDUPING.
        deduping: DedupingSteps,
        /// From UPDATING.
        updating: UpdatingSteps,
        /// From UNLOCKING.
        unlocking: UnlockingSteps,
    }

    /// What became of blocks. Not in dm-vdo, which leaves it to be inferred.
    pub struct DataStatistics {
        /// Blocks written that were all zero.
        zero_blocks: u64,
        /// Blocks whose data was written to the base device uncompressed.
        new_blocks: u64,
        /// Blocks that share data already there.
        deduplicated_blocks: u64,
        /// Blocks written as a compressed fragment.
        compressed_blocks: u64,
        /// Mapped blocks unmapped by a discard.
        discarded_blocks: u64,
        /// Reads of blocks that hold no data or zeroes.
        unmapped_reads: u64,
        /// Read-modify-writes of part of a block.
        partial_writes: u64,
    }

    /// Freed blocks that are discarded on the base device. Not in dm-vdo, which discards none.
    pub struct FreedDiscardStatistics {
        /// Discards that succeeded, each of blocks side by side.
        discards: u64,
        /// Discards that failed; after the first no more are begun.
        failed_discards: u64,
        /// Blocks that were discarded.
        blocks_discarded: u64,
        /// Blocks that are to be discarded, unless they are used again first, or are being discarded.
        blocks_waiting: u64,
    }

    /// Everything one zone thread counts.
    pub struct ZoneStatistics {
        /// Data blocks in use, without metadata.
        data_blocks_used: u64,
        /// Logical blocks that are mapped, to data or to zeroes.
        logical_blocks_used: u64,
        /// The packer.
        packer: PackerStatistics,
        /// Block allocation.
        allocator: AllocatorStatistics,
        /// The recovery journal; counted by the zone thread that owns it.
        journal: JournalStatistics,
        /// Slab journals.
        slab_journal: SlabJournalStatistics,
        /// Slab summary.
        slab_summary: SlabSummaryStatistics,
        /// Reference counters.
        ref_counts: RefCountsStatistics,
        /// Block-map pages.
        block_map: BlockMapStatistics,
        /// Hash locks.
        hash_lock: HashLockStatistics,
        /// Errors.
        errors: ErrorStatistics,
        /// Requests for one block under way.
        current_vios_in_progress: u64,
        /// Times the index was too slow, or no dedupe context was idle.
        dedupe_advice_timeouts: u64,
        /// Flushes sent to the base device.
        flush_out: u64,
        /// Requests from the host.
        bios_in: BioStatistics,
        /// Those of them that cover part of a block.
        bios_in_partial: BioStatistics,
        /// Data I/O to the base device.
        bios_out: BioStatistics,
        /// Metadata I/O to the base device.
        bios_meta: BioStatistics,
        /// Recovery-journal I/O.
        bios_journal: BioStatistics,
        /// Block-map page I/O.
        bios_page_cache: BioStatistics,
        /// Data I/O completed.
        bios_out_completed: BioStatistics,
        /// Metadata I/O completed.
        bios_meta_completed: BioStatistics,
        /// Recovery-journal I/O completed.
        bios_journal_completed: BioStatistics,
        /// Block-map page I/O completed.
        bios_page_cache_completed: BioStatistics,
        /// Requests answered to the host.
        bios_acknowledged: BioStatistics,
        /// Those of them that covered part of a block.
        bios_acknowledged_partial: BioStatistics,
        /// The index.
        index: IndexStatistics,
        /// States of the hash-lock machine.
        hash_lock_paths: HashLockPathStatistics,
        /// Steps of the hash-lock machine.
        hash_lock_steps: HashLockStepStatistics,
        /// What became of blocks.
        data: DataStatistics,
        /// Freed blocks discarded on the base device.
        freed_discards: FreedDiscardStatistics,
    }

    /// Memory the volume has taken.
    pub struct MemoryUsage {
        /// Bytes now.
        bytes_used: u64,
        /// Most bytes ever.
        peak_bytes_used: u64,
    }
}

impl BioStatistics {
    /// What is in here and not in `other`: those begun that have not completed. Zones count a request
    /// where it arrives and where it leaves, so only the sum over all zones makes sense of this.
    #[must_use]
    pub fn minus(&self, other: &BioStatistics) -> BioStatistics {
        BioStatistics {
            read: self.read.saturating_sub(other.read),
            write: self.write.saturating_sub(other.write),
            empty_flush: self.empty_flush.saturating_sub(other.empty_flush),
            discard: self.discard.saturating_sub(other.discard),
            flush: self.flush.saturating_sub(other.flush),
            fua: self.fua.saturating_sub(other.fua),
        }
    }
}

/// Whether a volume works as it should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OperatingMode {
    /// All is well.
    #[default]
    Normal,
    /// It is being put right after an unclean shutdown.
    Recovering,
    /// An error that could have corrupted it stopped all writes.
    ReadOnly,
}

impl OperatingMode {
    /// The word dm-vdo uses for it.
    pub fn name(self) -> &'static str {
        match self {
            OperatingMode::Normal => "normal",
            OperatingMode::Recovering => "recovering",
            OperatingMode::ReadOnly => "read-only",
        }
    }
}

/// The version of dm-vdo's list of statistics this one follows.
pub const STATISTICS_VERSION: u64 = 36;

/// What is true of the volume as a whole rather than counted by a zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeFigures {
    /// Blocks used for metadata.
    pub overhead_blocks_used: u64,
    /// Blocks of the base device that belong to the volume.
    pub physical_blocks: u64,
    /// Blocks of the volume.
    pub logical_blocks: u64,
    /// Bytes of the block map's page cache.
    pub block_map_cache_size: u64,
    /// Times the volume recovered from an unclean shutdown.
    pub complete_recoveries: u64,
    /// Times it was brought back from read-only.
    pub read_only_recoveries: u64,
    /// Whether it works as it should.
    pub mode: OperatingMode,
    /// How much of a recovery is done, in percent.
    pub recovery_percentage: u64,
    /// A number that tells volumes of one process apart.
    pub instance: u64,
    /// Most requests for one block that can be under way.
    pub vio_limit: u64,
    /// Memory.
    pub memory_usage: MemoryUsage,
    /// The index's state: `closed`, `closing`, `error`, `offline`, `online`, `opening`, `suspended` or `unknown`.
    pub index_state: &'static str,
    /// Most names the index can hold.
    pub index_entries_limit: u64,
    /// Chapters of the index that a rebuild has read, and all it is to read; both 0 if there is none.
    pub index_rebuild: (u64, u64),
    /// Most requests for one block that were ever under way at once.
    pub max_vios: u64,
}

/// The statistics of a volume at one moment (each zone's at a moment of its own).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeStatistics {
    /// What is true of the whole.
    pub figures: VolumeFigures,
    /// What each zone thread counted, in order.
    pub zones: Vec<ZoneStatistics>,
}

impl VolumeStatistics {
    /// The zones' counters added up.
    pub fn total(&self) -> ZoneStatistics {
        let mut total = ZoneStatistics::default();
        for zone in &self.zones {
            total.add(zone);
        }
        total
    }

    /// Shows the figures of the whole and the sum of all zones.
    pub fn visit(&self, visitor: &mut dyn Visitor) {
        let figures = &self.figures;
        visitor.number("version", STATISTICS_VERSION);
        visitor.number("overhead_blocks_used", figures.overhead_blocks_used);
        visitor.number("physical_blocks", figures.physical_blocks);
        visitor.number("logical_blocks", figures.logical_blocks);
        visitor.number("block_map_cache_size", figures.block_map_cache_size);
        visitor.number("block_size", crate::types::BLOCK_SIZE as u64);
        visitor.number("complete_recoveries", figures.complete_recoveries);
        visitor.number("read_only_recoveries", figures.read_only_recoveries);
        visitor.text("mode", figures.mode.name());
        visitor.flag(
            "in_recovery_mode",
            figures.mode == OperatingMode::Recovering,
        );
        visitor.number("recovery_percentage", figures.recovery_percentage);
        visitor.number("instance", figures.instance);
        visitor.number("max_vios", figures.max_vios);
        visitor.number("vio_limit", figures.vio_limit);
        visitor.number("logical_block_size", crate::types::BLOCK_SIZE as u64);
        figures.memory_usage.show("memory_usage", visitor);
        visitor.text("index_state", figures.index_state);
        visitor.number("index_entries_limit", figures.index_entries_limit);
        visitor.number("index_rebuild_done", figures.index_rebuild.0);
        visitor.number("index_rebuild_all", figures.index_rebuild.1);
        let total = self.total();
        total.visit(visitor);
        total
            .bios_in
            .minus(&total.bios_acknowledged)
            .show("bios_in_progress", visitor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Names {
        path: Vec<&'static str>,
        seen: Vec<(String, u64)>,
    }

    impl Names {
        fn record(&mut self, name: &str, value: u64) {
            let mut path = self.path.join(".");
            if !path.is_empty() {
                path.push('.');
            }
            self.seen.push((path + name, value));
        }
    }

    impl Visitor for Names {
        fn number(&mut self, name: &'static str, value: u64) {
            self.record(name, value);
        }
        fn text(&mut self, name: &'static str, _value: &'static str) {
            self.record(name, 0);
        }
        fn flag(&mut self, name: &'static str, value: bool) {
            self.record(name, u64::from(value));
        }
        fn enter(&mut self, name: &'static str) {
            self.path.push(name);
        }
        fn leave(&mut self) {
            self.path.pop();
        }
    }

    #[test]
    fn sums_every_member_of_every_zone() {
        let mut zone = ZoneStatistics::default();
        zone.journal.entries.committed = 5;
        zone.bios_in.write = 7;
        zone.hash_lock.dedupe_advice_valid = u64::MAX;
        let volume = VolumeStatistics {
            zones: vec![zone, zone],
            ..Default::default()
        };
        let mut names = Names::default();
        volume.visit(&mut names);
        let value = |name: &str| names.seen.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
        assert_eq!(value("journal.entries.committed"), Some(10));
        assert_eq!(value("bios_in.write"), Some(14));
        assert_eq!(value("bios_in_progress.write"), Some(14));
        assert_eq!(
            value("hash_lock.dedupe_advice_valid"),
            Some(u64::MAX),
            "sums stop at the top"
        );
        assert_eq!(value("errors.no_space_error_count"), Some(0));
    }

    #[test]
    fn no_name_is_shown_twice() {
        let mut names = Names::default();
        VolumeStatistics::default().visit(&mut names);
        assert!(
            names.path.is_empty(),
            "every group that was entered was left"
        );
        let mut all: Vec<_> = names.seen.iter().map(|(name, _)| name).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
