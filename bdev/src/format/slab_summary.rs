//! The slab summary: two bytes a slab, to know at start which slabs need a closer look.
//!
//! It has a copy for each of up to 16 physical zones, each with an entry for each of up to 8192 slabs;
//! a zone writes only its own copy and only the entries of its own slabs. When a volume is opened the
//! copies of the last run's zones are put together and written to all.
//!
//! ```text
//!   byte 0   offset in the slab journal of the block after the last one written
//!   byte 1   | dirty | load counters | fullness hint |     bits 7, 6, 5-0
//! ```
//!
//! A newly formatted volume's summary holds whatever the device held before: it is made, not read, when
//! the volume is first opened.

use crate::types::{BLOCK_SIZE, SequenceNumber, SlabNumber, ZoneIndex};

/// Bytes of an entry.
pub const ENTRY_SIZE: usize = 2;

/// Entries in a block.
pub const ENTRIES_PER_BLOCK: usize = BLOCK_SIZE / ENTRY_SIZE;

/// Blocks of one zone's copy.
pub const BLOCKS_PER_ZONE: u64 = super::slab::MAXIMUM_SLABS / ENTRIES_PER_BLOCK as u64;

/// The most physical zones a volume can have.
pub const MAXIMUM_PHYSICAL_ZONES: u64 = 16;

/// Blocks of all copies.
pub const SUMMARY_BLOCKS: u64 = BLOCKS_PER_ZONE * MAXIMUM_PHYSICAL_ZONES;

const HINT_BITS: u32 = 6;
const HINT_MASK: u8 = (1 << HINT_BITS) - 1;
const LOAD_COUNTS: u8 = 1 << 6;
const DIRTY: u8 = 1 << 7;

/// What the summary says of one slab.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlabSummaryEntry {
    /// Where in the slab journal the block after the last written one is, from the journal's start.
    pub tail_block_offset: u8,
    /// About how much of the slab is free, in 64ths; see [`fullness_hint`].
    pub fullness_hint: u8,
    /// Whether the slab's counters were ever written; if not, they are all zero.
    pub load_counts: bool,
    /// Whether the slab's journal may have entries its counters do not.
    pub is_dirty: bool,
}

impl SlabSummaryEntry {
    /// The entry of a slab with `data_blocks` data blocks that was never used.
    pub fn unused(data_blocks: u64, slab_shift: u32) -> SlabSummaryEntry {
        let fullness_hint = fullness_hint(data_blocks, slab_shift);
        SlabSummaryEntry {
            fullness_hint,
            ..SlabSummaryEntry::default()
        }
    }

    /// Whether the slab was never used.
    pub fn is_unused(&self) -> bool {
        self.tail_block_offset == 0 && !self.load_counts && !self.is_dirty
    }

    /// Packs an entry.
    #[inline]
    pub fn encode(&self) -> [u8; ENTRY_SIZE] {
        debug_assert!(self.fullness_hint <= HINT_MASK);
        let load_counts = if self.load_counts { LOAD_COUNTS } else { 0 };
        let dirty = if self.is_dirty { DIRTY } else { 0 };
        [
            self.tail_block_offset,
            self.fullness_hint & HINT_MASK | load_counts | dirty,
        ]
    }

    /// Unpacks an entry; every two bytes are one.
    #[inline]
    pub fn decode(bytes: [u8; ENTRY_SIZE]) -> SlabSummaryEntry {
        SlabSummaryEntry {
            tail_block_offset: bytes[0],
            fullness_hint: bytes[1] & HINT_MASK,
            load_counts: bytes[1] & LOAD_COUNTS != 0,
            is_dirty: bytes[1] & DIRTY != 0,
        }
    }
}

/// The block of the summary (counted from its start) and the byte in it of a slab's entry in a zone's
/// copy.
#[inline]
pub fn entry_place(zone: ZoneIndex, slab: SlabNumber) -> (u64, usize) {
    let block = slab.index() / ENTRIES_PER_BLOCK;
    (
        u64::from(zone.get()) * BLOCKS_PER_ZONE + block as u64,
        slab.index() % ENTRIES_PER_BLOCK * ENTRY_SIZE,
    )
}

/// How many free blocks one step of the hint stands for, as a power of two.
#[inline]
pub fn hint_shift(slab_shift: u32) -> u32 {
    slab_shift.saturating_sub(HINT_BITS)
}

/// The hint for a number of free blocks in a slab of 2^`slab_shift` blocks: zero only if none is free.
#[inline]
pub fn fullness_hint(free_blocks: u64, slab_shift: u32) -> u8 {
    if free_blocks == 0 {
        return 0;
    }
    let steps = (free_blocks >> hint_shift(slab_shift)).min(u64::from(HINT_MASK));
    (steps as u8).max(1)
}

/// Where a slab journal of `journal_blocks` blocks keeps the block with this number, from its start.
#[inline]
pub fn tail_offset(sequence: SequenceNumber, journal_blocks: u64) -> u8 {
    (sequence.get() % journal_blocks) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_entry_is_packed_as_dm_vdo_packs_it() {
        let entry = SlabSummaryEntry {
            tail_block_offset: 0xab,
            fullness_hint: 0x25,
            load_counts: true,
            is_dirty: false,
        };
        assert_eq!(entry.encode(), [0xab, 0x65]);
        let dirty = SlabSummaryEntry {
            load_counts: false,
            is_dirty: true,
            ..entry
        };
        assert_eq!(dirty.encode(), [0xab, 0xa5]);
    }

    #[test]
    fn each_zone_has_four_blocks_of_its_own() {
        assert_eq!(entry_place(ZoneIndex(0), SlabNumber(0)), (0, 0));
        assert_eq!(entry_place(ZoneIndex(0), SlabNumber(2047)), (0, 4094));
        assert_eq!(entry_place(ZoneIndex(0), SlabNumber(2048)), (1, 0));
        assert_eq!(entry_place(ZoneIndex(3), SlabNumber(8191)), (15, 4094));
        assert_eq!((BLOCKS_PER_ZONE, SUMMARY_BLOCKS), (4, 64));
    }

    #[test]
    fn the_hint_is_zero_only_for_a_full_slab() {
        assert_eq!(fullness_hint(0, 19), 0);
        assert_eq!(fullness_hint(1, 19), 1);
        assert_eq!(fullness_hint((1 << 19) - 354, 19), 63);
        assert_eq!(fullness_hint((1 << 13) * 3, 19), 3);
        // Slabs of fewer than 64 blocks are counted exactly.
        assert_eq!(
            (hint_shift(6), hint_shift(4), fullness_hint(9, 4)),
            (0, 0, 9)
        );
        assert_eq!(SlabSummaryEntry::unused(14, 4).encode(), [0, 14]);
    }

    proptest! {
        #[test]
        fn every_two_bytes_are_an_entry(bytes: [u8; ENTRY_SIZE]) {
            prop_assert_eq!(SlabSummaryEntry::decode(bytes).encode(), bytes);
        }

        #[test]
        fn a_hint_always_fits_its_bits(shift in 1u32..=23, free: u32) {
            let free = u64::from(free) % (1 << shift);
            let hint = fullness_hint(free, shift);
            prop_assert!(hint <= HINT_MASK);
            prop_assert_eq!(hint == 0, free == 0);
        }
    }
}
