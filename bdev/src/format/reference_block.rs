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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SequenceNumber;
    use proptest::prelude::*;

    const POINT: JournalPoint = JournalPoint {
        sequence: SequenceNumber(0x0102),
        entry: 3,
    };

    #[test]
    fn each_sector_begins_with_the_commit_point() {
        let mut block = [0xee; BLOCK_SIZE];
        let mut counts = [0; COUNTS_PER_BLOCK];
        counts[0] = 1;
        counts[503] = 254;
        counts[504] = 7;
        counts[4031] = 255;
        encode(&mut block, POINT, &counts);
        for sector in block.as_chunks::<SECTOR_SIZE>().0 {
            assert_eq!(sector[..8], [3, 0, 2, 1, 0, 0, 0, 0]);
        }
        assert_eq!(
            (block[8], block[511], block[520], block[4095]),
            (1, 254, 7, 255)
        );
        assert_eq!((block_of(4031), block_of(4032)), (0, 1));
        assert_eq!((sector_of(503), sector_of(504), sector_of(4032)), (0, 1, 0));
    }

    #[test]
    fn a_torn_block_shows_in_its_commit_points() {
        let mut block = [0; BLOCK_SIZE];
        encode(&mut block, POINT, &[1; COUNTS_PER_BLOCK]);
        let newer = JournalPoint { entry: 9, ..POINT };
        let mut torn = [0; BLOCK_SIZE];
        encode(&mut torn, newer, &[2; COUNTS_PER_BLOCK]);
        torn[SECTOR_SIZE * 5..].copy_from_slice(&block[SECTOR_SIZE * 5..]);
        let mut counts = [0; COUNTS_PER_BLOCK];
        let points = decode(&torn, &mut counts);
        assert_eq!(
            points,
            [newer, newer, newer, newer, newer, POINT, POINT, POINT]
        );
        assert_eq!(
            (
                counts[5 * COUNTS_PER_SECTOR - 1],
                counts[5 * COUNTS_PER_SECTOR]
            ),
            (2, 1)
        );
    }

    proptest! {
        #[test]
        fn counters_survive_packing(
            counts in prop::collection::vec(any::<u8>(), 0..=COUNTS_PER_BLOCK), noise: u8,
        ) {
            let mut block = [noise; BLOCK_SIZE];
            encode(&mut block, POINT, &counts);
            let mut read = [noise; COUNTS_PER_BLOCK];
            prop_assert_eq!(decode(&block, &mut read), [POINT; SECTORS_PER_BLOCK]);
            prop_assert_eq!(&read[..counts.len()], &counts[..]);
            prop_assert!(read[counts.len()..].iter().all(|&count| count == EMPTY));
            let mut part = vec![noise; counts.len()];
            decode(&block, &mut part);
            prop_assert_eq!(part, counts);
        }
    }
}
