//! The figures of an estimate, as they are printed and as they are in JSON.
//!
//! The JSON has exactly these structures; docs/operations.md says the same in words. What is there stays: later versions may add members, and raise
//! [`FORMAT`] if one has to change its meaning.

use serde::Serialize;
use vdo::format::index_region::{IndexConfig, IndexMemory};
use vdo::types::BLOCK_SIZE;

use crate::complaints::Complaint;
use crate::device::Device;
use crate::inputs::Found;
use crate::store::Counts;
use crate::survey::Survey;
use crate::window::Window;

/// The version of the structures.
pub const FORMAT: u32 = 1;

/// The indexes whose difference is told: the default first.
pub const INDEXES: [IndexConfig; 3] = [
    IndexConfig {
        memory: IndexMemory::MB_256,
        sparse: false,
    },
    IndexConfig {
        memory: IndexMemory::GB_1,
        sparse: false,
    },
    IndexConfig {
        memory: IndexMemory::MB_256,
        sparse: true,
    },
];

/// An estimate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// [`FORMAT`].
    pub format: u32,
    /// Bytes of a block.
    pub block_size: u64,
    /// Whether everything could be read.
    pub complete: bool,
    /// What was read.
    pub inputs: Found,
    /// How many things could not be.
    pub error_count: u64,
    /// The first thousand of them.
    pub errors: Vec<Complaint>,
    /// The share of all contents that was followed to the end: 1 if the memory was enough for all.
    pub sampled: f64,
    /// What was read, in blocks.
    pub blocks: Blocks,
    /// What compression does, if it was tried.
    pub compression: Option<Compression>,
    /// Blocks of data that a volume would store, if its index remembers all.
    pub stored: Stored,
    /// Blocks that it would save.
    pub saved: Saved,
    /// How often contents come.
    pub repeats: Vec<RepeatRow>,
    /// With each size of index.
    pub indexes: Vec<Index>,
    /// Which of `indexes` needs the smallest device.
    pub recommended_index: usize,
}

/// What was read, in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Blocks {
    /// All: zero, unique and duplicate ones.
    pub read: u64,
    /// Blocks that could not be read, and are in none of the other figures.
    pub unread: u64,
    /// Blocks that are zero, holes among them.
    pub zero: u64,
    /// Blocks that are holes.
    pub holes: u64,
    /// Different contents that are not zero.
    pub unique: u64,
    /// Blocks whose content came before.
    pub duplicate: u64,
}

/// What compression does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Compression {
    /// Contents that are stored as fragments.
    pub fragments: u64,
    /// Blocks that these share.
    pub packed_blocks: u64,
    /// Contents that have a block of their own.
    pub single_blocks: u64,
}

/// Blocks of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stored {
    /// Without compression.
    pub without_compression: u64,
    /// With it, if it was tried.
    pub with_compression: Option<u64>,
}

/// Blocks that need not be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Saved {
    /// For they are zero.
    pub by_zeroes: u64,
    /// For the same is stored.
    pub by_duplicates: u64,
    /// For they share a block, if compression was tried.
    pub by_compression: Option<u64>,
}

/// Contents that come a certain number of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RepeatRow {
    /// So often at least.
    pub from: u64,
    /// So often at most.
    pub to: u64,
    /// How many contents.
    pub contents: u64,
    /// How many blocks with these contents.
    pub blocks: u64,
}

/// What an index of a certain size makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Index {
    /// The parameter `index_memory_gb`.
    pub memory_gb: f64,
    /// The parameter `index_sparse`.
    pub sparse: bool,
    /// Blocks of data that it remembers.
    pub remembers_blocks: u64,
    /// Duplicates that it finds.
    pub duplicates_found: u64,
    /// Duplicates that it had forgotten, which are stored again.
    pub duplicates_missed: u64,
    /// The device, without compression; null if no volume holds that much.
    pub without_compression: Option<Device>,
    /// The device with compression, if that was tried.
    pub with_compression: Option<Device>,
}

impl Index {
    /// The device to buy: that with compression, if it was tried.
    pub fn device(&self) -> Option<Device> {
        self.with_compression.or(self.without_compression)
    }
}

impl Estimate {
    /// What a survey means, that was made with or without compression, for [`INDEXES`].
    pub fn new(survey: &Survey, compression: bool, complaints: (u64, Vec<Complaint>)) -> Estimate {
        let (passed, outcome) = (&survey.passed, &survey.outcome);
        let counts = &outcome.counts;
        let packed = counts.singles + counts.packed;
        let stored = Stored {
            without_compression: counts.copies,
            with_compression: compression.then_some(packed),
        };
        let forgotten = outcome.forgotten.iter().copied();
        let indexes: Vec<Index> = INDEXES
            .iter()
            .zip(forgotten)
            .map(|(config, missed)| {
                index(config, missed, counts, stored, passed.read - passed.holes)
            })
            .collect();
        let sizes = indexes.iter().enumerate();
        let smallest =
            sizes.min_by_key(|(_, index)| index.device().map_or(u64::MAX, |device| device.bytes));
        let recommended_index = smallest.map_or(0, |(place, _)| place);
        let (error_count, errors) = complaints;
        Estimate {
            format: FORMAT,
            block_size: BLOCK_SIZE as u64,
            complete: error_count == 0,
            inputs: survey.found,
            error_count,
            errors,
            sampled: 1.0 / outcome.weight.max(1) as f64,
            blocks: Blocks {
                read: passed.read,
                unread: passed.unread,
                zero: passed.zero,
                holes: passed.holes,
                unique: counts.unique,
                duplicate: counts.data.saturating_sub(counts.unique),
            },
            compression: compression.then_some(Compression {
                fragments: counts.fragments,
                packed_blocks: counts.packed,
                single_blocks: counts.singles,
            }),
            stored,
            saved: Saved {
                by_zeroes: passed.zero,
                by_duplicates: counts.data.saturating_sub(counts.copies),
                by_compression: compression.then(|| counts.copies.saturating_sub(packed)),
            },
            repeats: (0..)
                .zip(&outcome.repeats)
                .map(|(row, repeat)| RepeatRow {
                    from: 1 << row,
                    to: (2 << row) - 1,
                    contents: repeat.contents,
                    blocks: repeat.blocks,
                })
                .collect(),
            indexes,
            recommended_index,
        }
    }
}

/// What an index means that misses so many duplicates. They are stored again, and compress as all others do.
fn index(config: &IndexConfig, missed: u64, counts: &Counts, stored: Stored, mapped: u64) -> Index {
    let geometry = config.geometry().ok();
    let without = counts.copies + missed;
    let with = stored.with_compression.map(|packed| {
        let share = packed as f64 / counts.copies.max(1) as f64;
        packed + (missed as f64 * share).round() as u64
    });
    let duplicates = counts.data.saturating_sub(counts.unique);
    Index {
        memory_gb: config.memory.megabytes().unwrap_or(0) as f64 / 1024.0,
        sparse: config.sparse,
        remembers_blocks: geometry.as_ref().map_or(0, Window::capacity),
        duplicates_found: duplicates.saturating_sub(missed),
        duplicates_missed: missed,
        without_compression: Device::new(*config, without, mapped),
        with_compression: with.and_then(|blocks| Device::new(*config, blocks, mapped)),
    }
}
