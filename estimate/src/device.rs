//! The device that a volume for so much data needs, and how much of it would be used.
//!
//! A volume is recommended that is used to four fifths of what its slabs offer, about where it begins to warn. Its size is what the engine's own plan for a
//! new volume says, with slabs as docs/operations.md advises: small ones on small devices, 2048 MiB from 256 GiB on, and larger ones where there would be too many.

use serde::Serialize;
use uuid::Uuid;
use vdo::format::index_region::IndexConfig;
use vdo::format::slab::{MAXIMUM_SLABS, SlabConfig};
use vdo::format::tree::{DEFAULT_ROOTS, TreeGeometry};
use vdo::format::{FormatOptions, FormatPlan, MAXIMUM_PHYSICAL_BLOCKS};
use vdo::types::Pbn;

use crate::BLOCK;

const MIB_BLOCKS: u64 = (1 << 20) / BLOCK;
const GIB_BLOCKS: u64 = 1024 * MIB_BLOCKS;

/// Slabs of so many MiB, for devices of up to so many GiB.
const SLABS: [(u64, u64); 6] = [
    (128, 32),
    (512, 256),
    (2048, 16 << 10),
    (8192, 64 << 10),
    (16384, 128 << 10),
    (32768, 256 << 10),
];

/// How full a volume is to be, in percent of what its slabs offer.
const FILL_PERCENT: u64 = 80;

/// A device to buy, and what a volume on it would use of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its size, whole GiB.
    pub bytes: u64,
    /// The parameter `slab_size_mib`.
    pub slab_size_mib: u64,
    /// Blocks of metadata whose place is fixed, the index among them.
    pub overhead_blocks: u64,
    /// Of these, those of the index.
    pub index_blocks: u64,
    /// Blocks of the block map.
    pub block_map_blocks: u64,
    /// Blocks of data.
    pub data_blocks: u64,
}

impl Device {
    /// The smallest that takes `data_blocks` blocks of data, for `logical_blocks` that are mapped, and an index like this. `None` if no
    /// volume is as large.
    pub fn new(index: IndexConfig, data_blocks: u64, logical_blocks: u64) -> Option<Device> {
        let block_map_blocks = block_map_blocks(logical_blocks);
        let wanted = (data_blocks + block_map_blocks) * 100 / FILL_PERCENT + 1;
        SLABS.iter().find_map(|&(slab_size_mib, largest_gib)| {
            let options = FormatOptions {
                slab_blocks: slab_size_mib * MIB_BLOCKS,
                index,
                ..FormatOptions::default()
            };
            let slab = SlabConfig::new(options.slab_blocks, options.slab_journal_blocks).ok()?;
            let slabs = wanted.div_ceil(slab.data_blocks);
            let fixed = options.minimum_device_blocks().ok()? - options.slab_blocks;
            let blocks = (fixed + slabs * options.slab_blocks).next_multiple_of(GIB_BLOCKS);
            let is_fit = blocks <= (largest_gib * GIB_BLOCKS).min(MAXIMUM_PHYSICAL_BLOCKS)
                && slabs <= MAXIMUM_SLABS;
            let plan = is_fit.then(|| FormatPlan::new(&options, blocks, 0, Uuid::nil()));
            let layout = plan?.ok()?.layout;
            Some(Device {
                bytes: blocks * BLOCK,
                slab_size_mib,
                overhead_blocks: layout.fixed_overhead(),
                index_blocks: layout.index_region.blocks,
                block_map_blocks,
                data_blocks,
            })
        })
    }

    /// Blocks that a volume would use.
    pub fn used_blocks(&self) -> u64 {
        self.overhead_blocks + self.block_map_blocks + self.data_blocks
    }

    /// How much of the device that is, in percent, as a volume says it.
    pub fn used_percent(&self) -> u64 {
        self.used_blocks() * 100 / (self.bytes / BLOCK).max(1)
    }
}

/// Blocks that the block map takes when so many logical blocks, from the first one on, are mapped.
fn block_map_blocks(logical_blocks: u64) -> u64 {
    if logical_blocks == 0 {
        return 0;
    }
    let tree = TreeGeometry {
        root_origin: Pbn::ZERO,
        roots: DEFAULT_ROOTS as u32,
        logical_blocks,
    };
    // Leaves are dealt to the trees in turn, so a few of them are in as many trees.
    let leaves = tree.leaf_count();
    leaves + tree.interior_pages() / DEFAULT_ROOTS * leaves.min(DEFAULT_ROOTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vdo::format::index_region::IndexMemory;

    const GIB: u64 = 1 << 30;

    fn device(data_gib: u64) -> Device {
        let blocks = data_gib * GIB_BLOCKS;
        Device::new(IndexConfig::default(), blocks, 2 * blocks).expect("a device there is")
    }

    #[test]
    fn a_device_holds_the_data_with_a_fifth_to_spare_and_not_much_more() {
        for (gib, slab_size_mib) in [
            (1, 128),
            (20, 128),
            (100, 512),
            (1000, 2048),
            (20_000, 8192),
            (200_000, 32768),
        ] {
            let device = device(gib);
            assert_eq!(device.slab_size_mib, slab_size_mib, "{gib} GiB");
            let offered = device.bytes / BLOCK - device.overhead_blocks;
            let wanted = device.data_blocks + device.block_map_blocks;
            assert!(wanted * 100 <= offered * FILL_PERCENT, "{gib} GiB");
            let spare = offered - wanted * 100 / FILL_PERCENT;
            assert!(
                spare <= 2 * slab_size_mib.max(1024) * MIB_BLOCKS,
                "{gib} GiB: {spare}"
            );
            assert_eq!(device.bytes % GIB, 0);
        }
        // 812 entries to a page, for each of 60 trees at three heights above the leaves.
        assert_eq!(device(1000).block_map_blocks, 645_675 + 60 * (14 + 1 + 1));
    }

    #[test]
    fn what_no_volume_holds_needs_no_device() {
        let blocks = 250 * 1024 * GIB_BLOCKS;
        assert_eq!(Device::new(IndexConfig::default(), blocks, blocks), None);
    }

    #[test]
    fn an_index_takes_what_its_memory_asks_for() {
        let mut sizes = Vec::new();
        for (gb, sparse) in [(0.25, false), (1.0, false), (0.25, true)] {
            let memory = IndexMemory::from_gb(gb).expect("a size there is");
            let device = Device::new(IndexConfig { memory, sparse }, 1000, 1000);
            sizes.push(device.expect("a small one").bytes / GIB);
        }
        assert_eq!(sizes, [3, 11, 23]);
    }
}
