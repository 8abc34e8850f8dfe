//! Slab-journal blocks: changes to a slab's reference counts that its counters on disk do not have yet.
//!
//! A block has a header of 36 bytes and entries of three bytes: 23 bits say which block of the slab, the
//! top bit whether it gains a reference or loses one. Nearly all entries are about data. When one is
//! about a page of the block map, the block changes to a form with a bit for each entry at its end,
//! which leaves room for fewer:
//!
//! ```text
//!   data only          | header 36 | 1353 entries                        | 1 byte unused |
//!   with block map     | header 36 | 1299 entries      | 163 bytes, one bit per entry    |
//! ```
//!
//! The header is kept in memory while a block fills, and encoded when it is written. A block is begun
//! without clearing the buffer: what stands after the last entry means nothing.

use super::codec::{le16, le64, put16, put64};
use super::error::DecodeError;
use super::recovery_journal::JournalOperation;
use crate::types::{BLOCK_SIZE, JournalPoint, SequenceNumber};

/// Entries in a full block that has none about the block map.
pub const ENTRIES_PER_BLOCK: u16 = (PAYLOAD / ENTRY_SIZE) as u16;

/// Entries in a full block that has some about the block map.
pub const FULL_ENTRIES_PER_BLOCK: u16 = (PAYLOAD * 8 / (8 * ENTRY_SIZE + 1)) as u16;

const ENTRY_SIZE: usize = 3;
const HEADER: usize = 36;
const PAYLOAD: usize = BLOCK_SIZE - HEADER;
const TYPES: usize = HEADER + FULL_ENTRIES_PER_BLOCK as usize * ENTRY_SIZE;
const TYPES_BYTES: usize = (FULL_ENTRIES_PER_BLOCK as usize).div_ceil(8);
const INCREMENT: u32 = 1 << 23;
const METADATA_TYPE: u8 = 2;

const _: () = assert!(TYPES + TYPES_BYTES <= BLOCK_SIZE);
const _: () = assert!(ENTRIES_PER_BLOCK == 1353 && FULL_ENTRIES_PER_BLOCK == 1299);

/// Packs a journal point: 48 bits of sequence number above 16 bits of entry.
#[inline]
pub fn pack_point(point: JournalPoint) -> u64 {
    point.sequence.get() << 16 | u64::from(point.entry)
}

/// Unpacks a journal point.
#[inline]
pub fn unpack_point(packed: u64) -> JournalPoint {
    JournalPoint {
        sequence: SequenceNumber(packed >> 16),
        entry: packed as u16,
    }
}

/// A recovery-journal entry stands for an increment and a decrement; a slab journal names the two
/// apart. This is the point of one of them, given the point of the entry.
#[inline]
pub fn expand_point(recovery: JournalPoint, increment: bool) -> JournalPoint {
    JournalPoint {
        entry: recovery.entry * 2 + u16::from(!increment),
        ..recovery
    }
}

/// One change of a reference count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlabJournalEntry {
    /// Which block of the slab, 0 to 2^23 - 1.
    pub offset: u32,
    /// What the block is used for.
    pub operation: JournalOperation,
    /// Whether it gains a reference; else it loses one.
    pub increment: bool,
}

/// The header of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlabJournalHeader {
    /// The oldest block of this journal still needed.
    pub head: SequenceNumber,
    /// This block's own number.
    pub sequence: SequenceNumber,
    /// Where in the recovery journal the last entry comes from, as [`expand_point`] gives it.
    pub recovery_point: JournalPoint,
    /// The volume's nonce.
    pub nonce: u64,
    /// Whether the block has the form with a bit for each entry.
    pub has_block_map_increments: bool,
    /// Entries in the block.
    pub entry_count: u16,
}

impl SlabJournalHeader {
    /// Writes the header to the front of a block.
    pub fn encode(&self, block: &mut [u8; BLOCK_SIZE]) {
        put64(block, 0, self.head.get());
        put64(block, 8, self.sequence.get());
        put64(block, 16, pack_point(self.recovery_point));
        put64(block, 24, self.nonce);
        block[32] = METADATA_TYPE;
        block[33] = u8::from(self.has_block_map_increments);
        put16(block, 34, self.entry_count);
    }

    /// Reads the header of a block.
    ///
    /// # Errors
    /// When the block is not of a slab journal, or counts more entries than it can hold.
    pub fn decode(block: &[u8; BLOCK_SIZE]) -> Result<SlabJournalHeader, DecodeError> {
        let what = "a slab journal block";
        let kind = block[32];
        if kind != METADATA_TYPE {
            let (field, why) = ("its metadata type", "a block of a slab journal has 2");
            return Err(DecodeError::Field {
                what,
                field,
                found: kind.into(),
                why,
            });
        }
        let header = SlabJournalHeader {
            head: SequenceNumber(le64(block, 0)),
            sequence: SequenceNumber(le64(block, 8)),
            recovery_point: unpack_point(le64(block, 16)),
            nonce: le64(block, 24),
            has_block_map_increments: block[33] != 0,
            entry_count: le16(block, 34),
        };
        if header.entry_count > header.capacity() {
            let (field, why) = ("its number of entries", "the block does not hold so many");
            return Err(DecodeError::Field {
                what,
                field,
                found: header.entry_count.into(),
                why,
            });
        }
        Ok(header)
    }

    /// Entries the block can hold in the form it has.
    #[inline]
    pub fn capacity(&self) -> u16 {
        if self.has_block_map_increments {
            FULL_ENTRIES_PER_BLOCK
        } else {
            ENTRIES_PER_BLOCK
        }
    }

    /// Whether no entry fits any more.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.entry_count >= self.capacity()
    }

    /// Whether an entry of this kind still fits: one about the block map makes the block change its
    /// form, and must come before the form's last entry.
    #[inline]
    pub fn has_room_for(&self, operation: JournalOperation) -> bool {
        match operation {
            JournalOperation::DataRemapping => !self.is_full(),
            JournalOperation::BlockMapRemapping => self.entry_count < FULL_ENTRIES_PER_BLOCK,
        }
    }

    /// Appends an entry to the block's payload and counts it here; there must be room for it. The
    /// header in the buffer is not touched.
    #[inline]
    pub fn append(&mut self, block: &mut [u8; BLOCK_SIZE], entry: &SlabJournalEntry) {
        assert!(
            self.has_room_for(entry.operation),
            "the caller looked for room"
        );
        debug_assert!(entry.offset < INCREMENT);
        let index = usize::from(self.entry_count);
        self.entry_count += 1;
        if entry.operation == JournalOperation::BlockMapRemapping {
            if !self.has_block_map_increments {
                block[TYPES..TYPES + TYPES_BYTES].fill(0);
                self.has_block_map_increments = true;
            }
            block[TYPES + index / 8] |= 1 << (index % 8);
        }
        let increment = if entry.increment { INCREMENT } else { 0 };
        let packed = (entry.offset & (INCREMENT - 1) | increment).to_le_bytes();
        let at = HEADER + index * ENTRY_SIZE;
        block[at..at + ENTRY_SIZE].copy_from_slice(&packed[..ENTRY_SIZE]);
    }

    /// The entry numbered `index` of a block with this header.
    #[inline]
    pub fn entry(&self, block: &[u8; BLOCK_SIZE], index: u16) -> SlabJournalEntry {
        assert!(
            index < self.capacity(),
            "the block does not hold so many entries"
        );
        let index = usize::from(index);
        let at = HEADER + index * ENTRY_SIZE;
        let packed = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], 0]);
        let about_block_map =
            self.has_block_map_increments && block[TYPES + index / 8] & 1 << (index % 8) != 0;
        let operation = if about_block_map {
            JournalOperation::BlockMapRemapping
        } else {
            JournalOperation::DataRemapping
        };
        let offset = packed & (INCREMENT - 1);
        SlabJournalEntry {
            offset,
            operation,
            increment: packed & INCREMENT != 0,
        }
    }

    /// All entries of a block with this header.
    pub fn entries(self, block: &[u8; BLOCK_SIZE]) -> impl Iterator<Item = SlabJournalEntry> {
        let count = self.entry_count.min(self.capacity());
        (0..count).map(move |index| self.entry(block, index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EMPTY: SlabJournalHeader = SlabJournalHeader {
        head: SequenceNumber(1),
        sequence: SequenceNumber(2),
        recovery_point: JournalPoint {
            sequence: SequenceNumber(3),
            entry: 4,
        },
        nonce: 5,
        has_block_map_increments: false,
        entry_count: 0,
    };

    fn entry(offset: u32, block_map: bool, increment: bool) -> SlabJournalEntry {
        let operation = if block_map {
            JournalOperation::BlockMapRemapping
        } else {
            JournalOperation::DataRemapping
        };
        SlabJournalEntry {
            offset,
            operation,
            increment,
        }
    }

    #[test]
    fn a_header_is_laid_out_as_dm_vdo_lays_it_out() {
        let header = SlabJournalHeader {
            has_block_map_increments: true,
            entry_count: 0x0102,
            ..EMPTY
        };
        let mut block = [0; BLOCK_SIZE];
        header.encode(&mut block);
        let set: Vec<_> = (0..BLOCK_SIZE)
            .filter(|&at| block[at] != 0)
            .map(|at| (at, block[at]))
            .collect();
        let expected = [
            (0, 1),
            (8, 2),
            (16, 4),
            (18, 3),
            (24, 5),
            (32, 2),
            (33, 1),
            (34, 2),
            (35, 1),
        ];
        assert_eq!(set, expected);
    }

    #[test]
    fn an_entry_has_its_direction_in_the_top_bit() {
        let mut block = [0; BLOCK_SIZE];
        let mut header = EMPTY;
        header.append(&mut block, &entry(0x12_3456, false, true));
        header.append(&mut block, &entry(0x7f_ffff, false, false));
        assert_eq!(block[36..42], [0x56, 0x34, 0x92, 0xff, 0xff, 0x7f]);
        assert_eq!(header.entry_count, 2);
    }

    #[test]
    fn an_entry_about_the_block_map_clears_and_sets_the_bits_at_the_end() {
        let mut block = [0xff; BLOCK_SIZE];
        let mut header = EMPTY;
        for index in 0..9 {
            header.append(&mut block, &entry(index, false, true));
        }
        assert!(
            block[3933..].iter().all(|&byte| byte == 0xff),
            "data entries leave the end alone"
        );
        header.append(&mut block, &entry(9, true, true));
        assert!(header.has_block_map_increments);
        assert_eq!(block[3933..3936], [0, 0b10, 0]);
        assert_eq!(block[4095], 0);
    }

    #[test]
    fn a_block_fills_up_sooner_once_it_has_block_map_entries() {
        let mut block = [0; BLOCK_SIZE];
        let mut header = EMPTY;
        for _ in 0..FULL_ENTRIES_PER_BLOCK - 1 {
            header.append(&mut block, &entry(1, false, true));
        }
        assert!(header.has_room_for(JournalOperation::BlockMapRemapping));
        let mut with_map = header;
        with_map.append(&mut block, &entry(1, true, true));
        assert!(with_map.is_full());
        assert!(!with_map.has_room_for(JournalOperation::DataRemapping));

        header.append(&mut block, &entry(1, false, true));
        assert!(!header.has_room_for(JournalOperation::BlockMapRemapping));
        assert!(header.has_room_for(JournalOperation::DataRemapping));
        for _ in FULL_ENTRIES_PER_BLOCK..ENTRIES_PER_BLOCK {
            header.append(&mut block, &entry(1, false, true));
        }
        assert!(header.is_full());
    }

    #[test]
    fn increment_and_decrement_of_one_recovery_entry_are_in_order() {
        let point = JournalPoint {
            sequence: SequenceNumber(7),
            entry: 216,
        };
        let increment = expand_point(point, true);
        let decrement = expand_point(point, false);
        assert!(increment < decrement);
        assert_eq!((increment.entry, decrement.entry), (432, 433));
    }

    #[test]
    fn a_block_of_another_kind_or_with_too_many_entries_is_refused() {
        let mut block = [0; BLOCK_SIZE];
        assert!(SlabJournalHeader::decode(&block).is_err());
        SlabJournalHeader {
            entry_count: ENTRIES_PER_BLOCK,
            ..EMPTY
        }
        .encode(&mut block);
        assert!(SlabJournalHeader::decode(&block).is_ok());
        block[33] = 1;
        assert!(SlabJournalHeader::decode(&block).is_err());
    }

    proptest! {
        #[test]
        fn a_journal_point_survives_packing(sequence in 0u64..1 << 48, number: u16) {
            let point = JournalPoint { sequence: SequenceNumber(sequence), entry: number };
            prop_assert_eq!(unpack_point(pack_point(point)), point);
        }

        #[test]
        fn packed_journal_points_keep_their_order(a in (0u64..1 << 48, any::<u16>()), b in (0u64..1 << 48, any::<u16>())) {
            let point = |(sequence, entry)| JournalPoint { sequence: SequenceNumber(sequence), entry };
            prop_assert_eq!(point(a).cmp(&point(b)), pack_point(point(a)).cmp(&pack_point(point(b))));
        }

        #[test]
        fn a_block_gives_back_what_was_appended(
            entries in prop::collection::vec((0u32..1 << 23, any::<bool>(), any::<bool>()), 0..1299),
            only_data: bool, noise: u8,
        ) {
            let entries: Vec<_> = entries
                .into_iter()
                .map(|(offset, block_map, increment)| entry(offset, block_map && !only_data, increment))
                .collect();
            let mut block = [noise; BLOCK_SIZE];
            let mut header = EMPTY;
            for entry in &entries {
                header.append(&mut block, entry);
            }
            header.encode(&mut block);
            let read = SlabJournalHeader::decode(&block).unwrap();
            prop_assert_eq!(read, header);
            prop_assert_eq!(read.entries(&block).collect::<Vec<_>>(), entries);
        }
    }
}
