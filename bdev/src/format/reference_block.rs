//! Blocks of reference counters: how often each data block of a slab is used.
//!
//! A counter is one byte: 0 is free, 1 to 254 are references, 255 is provisional (being allocated; never
//! on disk after a clean shutdown). A block is eight sectors, each of which begins with the point of the
//! slab journal up to which its counters are right, so that a torn write is noticed sector by sector:
//!
//! ```text
//!   sector 0..7   | commit point 8 | 504 counters |      4032 counters in a block
//! ```

use super::codec::{le64, put64};
use super::slab_journal::{pack_point, unpack_point};
use super::{SECTOR_SIZE, SECTORS_PER_BLOCK};
use crate::types::{BLOCK_SIZE, JournalPoint};

/// Counters in a sector.
pub const COUNTS_PER_SECTOR: usize = SECTOR_SIZE - POINT_BYTES;

/// Counters in a block.
pub const COUNTS_PER_BLOCK: usize = COUNTS_PER_SECTOR * SECTORS_PER_BLOCK;

/// A block nobody uses.
pub const EMPTY: u8 = 0;

/// A block that is being allocated and not yet used.
pub const PROVISIONAL: u8 = 255;

const POINT_BYTES: usize = 8;

/// Packs the counters of one block: `counts` are those from the block's first on, at most 4032; the rest
/// is filled with zeroes. Every sector gets the same commit point.
pub fn encode(block: &mut [u8; BLOCK_SIZE], commit_point: JournalPoint, counts: &[u8]) {
    assert!(
        counts.len() <= COUNTS_PER_BLOCK,
        "a block has 4032 counters"
    );
    let (sectors, _) = block.as_chunks_mut::<SECTOR_SIZE>();
    for (index, sector) in sectors.iter_mut().enumerate() {
        put64(sector, 0, pack_point(commit_point));
        let from = (index * COUNTS_PER_SECTOR).min(counts.len());
        let to = (from + COUNTS_PER_SECTOR).min(counts.len());
        let (filled, rest) = sector[POINT_BYTES..].split_at_mut(to - from);
        filled.copy_from_slice(&counts[from..to]);
        rest.fill(0);
    }
}

/// Unpacks the counters of one block into `counts` (at most 4032, from the block's first on) and
/// returns the commit point of each sector.
pub fn decode(block: &[u8; BLOCK_SIZE], counts: &mut [u8]) -> [JournalPoint; SECTORS_PER_BLOCK] {
    assert!(
        counts.len() <= COUNTS_PER_BLOCK,
        "a block has 4032 counters"
    );
    let mut points = [JournalPoint::default(); SECTORS_PER_BLOCK];
    let (sectors, _) = block.as_chunks::<SECTOR_SIZE>();
    for (index, (sector, point)) in sectors.iter().zip(&mut points).enumerate() {
        *point = unpack_point(le64(sector, 0));
        let from = (index * COUNTS_PER_SECTOR).min(counts.len());
        let to = (from + COUNTS_PER_SECTOR).min(counts.len());
        counts[from..to].copy_from_slice(&sector[POINT_BYTES..POINT_BYTES + to - from]);
    }
    points
}

/// Which block of a slab's counters counts the data block at this place in the slab.
#[inline]
pub fn block_of(offset: u32) -> u32 {
    offset / COUNTS_PER_BLOCK as u32
}

/// Which sector of its block of counters counts the data block at this place in the slab.
#[inline]
pub fn sector_of(offset: u32) -> usize {
    offset as usize % COUNTS_PER_BLOCK / COUNTS_PER_SECTOR
}

const _: () = assert!(COUNTS_PER_BLOCK == 4032);
