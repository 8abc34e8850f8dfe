//! Recovery-journal blocks: the first place on disk that hears of a new mapping.
//!
//! A block is eight sectors. The first holds only the block's header; each of the other seven begins
//! with three bytes that repeat what identifies this writing of the block, and then holds up to 31
//! entries of 16 bytes, 217 in all:
//!
//! ```text
//!   sector 0      header (53 bytes)
//!   sector 1..7   | check byte | recovery count | entries here | entry | entry | ... 31
//! ```
//!
//! A block is written again and again while it fills, so a write may be torn between sectors. A sector
//! counts only if its check byte and recovery count are those of the header: the check byte changes
//! each time the journal wraps around, the recovery count each time the volume is recovered.
//!
//! An entry says that one slot of one block-map page goes from one mapping to another:
//!
//! ```text
//!   bytes 0-1    | page pbn 35..32 | slot | operation |   bits 15-12, 11-2, 1-0
//!   bytes 2-5    page pbn 31..0
//!   bytes 6-10   the new mapping, as a block-map entry
//!   bytes 11-15  the mapping it replaces, as a block-map entry
//! ```

use super::block_map_page::{ENTRY_SIZE as MAPPING_SIZE, decode_entry, encode_entry};
use super::codec::{le16, le64, put16, put64};
use super::error::DecodeError;
use super::{SECTOR_SIZE, SECTORS_PER_BLOCK};
use crate::types::{BLOCK_SIZE, Mapping, Pbn, SequenceNumber};

/// Bytes of an entry.
pub const ENTRY_SIZE: usize = 16;

/// Entries in a full sector.
pub const ENTRIES_PER_SECTOR: u16 = ((SECTOR_SIZE - SECTOR_HEADER) / ENTRY_SIZE) as u16;

/// Entries in a full block.
pub const ENTRIES_PER_BLOCK: u16 = ENTRIES_PER_SECTOR * (SECTORS_PER_BLOCK as u16 - 1);

/// Blocks of the recovery journal of a new volume.
pub const DEFAULT_JOURNAL_BLOCKS: u64 = 32 * 1024;

const SECTOR_HEADER: usize = 3;
const HEADER_BYTES: usize = 53;

const BLOCK_MAP_HEAD: usize = 0;
const SLAB_JOURNAL_HEAD: usize = 8;
const SEQUENCE: usize = 16;
const NONCE: usize = 24;
const METADATA_TYPE: usize = 32;
const ENTRY_COUNT: usize = 33;
const LOGICAL_USED: usize = 35;
const BLOCK_MAP_BLOCKS: usize = 43;
const CHECK_BYTE: usize = 51;
const RECOVERY_COUNT: usize = 52;

/// What kind of block a journal header says it heads.
const TYPE_OLD_RECOVERY_JOURNAL: u8 = 1;
const TYPE_RECOVERY_JOURNAL: u8 = 3;

/// Where in a journal of `journal_blocks` blocks (a power of two) a block is written, counted from the
/// journal's start.
#[inline]
pub fn block_number(sequence: SequenceNumber, journal_blocks: u64) -> u64 {
    sequence.get() & (journal_blocks - 1)
}

/// The byte that tells this trip around the journal from the last.
#[inline]
pub fn check_byte(sequence: SequenceNumber, journal_blocks: u64) -> u8 {
    let trip = sequence.get() >> journal_blocks.trailing_zeros();
    (trip as u8 & 0x7f) | 0x80
}

/// Entries in a full block of the form older programs wrote.
const OLD_ENTRIES_PER_BLOCK: u16 = 311;

/// Which form a block of a recovery journal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalForm {
    /// The form described here.
    Current,
    /// The form older programs wrote, with other entries behind the same header.
    Old,
}

/// What an entry's mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalOperation {
    /// A logical block; the slot is one of a leaf page.
    DataRemapping,
    /// A page of the block map; the slot is one of an interior page.
    BlockMapRemapping,
}

/// A slot in a page of the block map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BlockMapSlot {
    /// Where the page is.
    pub pbn: Pbn,
    /// Which slot of it, 0 to 811.
    pub slot: u16,
}

/// One entry: a slot goes from one mapping to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryJournalEntry {
    /// What is mapped.
    pub operation: JournalOperation,
    /// Where the mapping is kept.
    pub slot: BlockMapSlot,
    /// What it becomes: the block that gains a reference.
    pub mapping: Mapping,
    /// What it was: the block that loses one.
    pub unmapping: Mapping,
}

impl RecoveryJournalEntry {
    /// Packs an entry.
    #[inline]
    pub fn encode(&self) -> [u8; ENTRY_SIZE] {
        let BlockMapSlot { pbn, slot } = self.slot;
        debug_assert!(slot < 1 << 10);
        let operation = match self.operation {
            JournalOperation::DataRemapping => 0,
            JournalOperation::BlockMapRemapping => 1,
        };
        let first = operation | (slot & 0x3ff) << 2 | ((pbn.get() >> 32) as u16 & 0xf) << 12;
        let mut bytes = [0; ENTRY_SIZE];
        bytes[0..2].copy_from_slice(&first.to_le_bytes());
        bytes[2..6].copy_from_slice(&(pbn.get() as u32).to_le_bytes());
        bytes[6..6 + MAPPING_SIZE].copy_from_slice(&encode_entry(self.mapping));
        bytes[11..11 + MAPPING_SIZE].copy_from_slice(&encode_entry(self.unmapping));
        bytes
    }

    /// Unpacks an entry; an error for an operation there is none of.
    pub fn decode(bytes: &[u8; ENTRY_SIZE]) -> Result<RecoveryJournalEntry, DecodeError> {
        let first = le16(bytes, 0);
        let operation = match first & 3 {
            0 => JournalOperation::DataRemapping,
            1 => JournalOperation::BlockMapRemapping,
            other => {
                return Err(DecodeError::Field {
                    what: "a recovery journal entry",
                    field: "its operation",
                    found: other.into(),
                    why: "it is 0 or 1",
                });
            }
        };
        let low = u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
        let pbn = Pbn(u64::from(first >> 12) << 32 | u64::from(low));
        let mapping = |at: usize| {
            decode_entry(
                *bytes[at..]
                    .first_chunk()
                    .expect("a mapping ends inside its entry"),
            )
        };
        Ok(RecoveryJournalEntry {
            operation,
            slot: BlockMapSlot {
                pbn,
                slot: first >> 2 & 0x3ff,
            },
            mapping: mapping(6),
            unmapping: mapping(11),
        })
    }
}

/// The header of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryBlockHeader {
    /// The oldest block some dirty block-map page still needs.
    pub block_map_head: SequenceNumber,
    /// The oldest block some slab journal still needs.
    pub slab_journal_head: SequenceNumber,
    /// This block's own number.
    pub sequence: SequenceNumber,
    /// The volume's nonce.
    pub nonce: u64,
    /// Entries in the block.
    pub entry_count: u16,
    /// Logical blocks mapped when the block was begun.
    pub logical_blocks_used: u64,
    /// Block-map pages allocated when the block was begun.
    pub block_map_data_blocks: u64,
    /// What marks this trip around the journal; see [`check_byte`].
    pub check_byte: u8,
    /// The low byte of the recoveries the volume has completed.
    pub recovery_count: u8,
}

impl RecoveryBlockHeader {
    /// Writes the header into sector 0 of a block and leaves the rest alone.
    pub fn encode(&self, block: &mut [u8; BLOCK_SIZE]) {
        put64(block, BLOCK_MAP_HEAD, self.block_map_head.get());
        put64(block, SLAB_JOURNAL_HEAD, self.slab_journal_head.get());
        put64(block, SEQUENCE, self.sequence.get());
        put64(block, NONCE, self.nonce);
        block[METADATA_TYPE] = TYPE_RECOVERY_JOURNAL;
        put16(block, ENTRY_COUNT, self.entry_count);
        put64(block, LOGICAL_USED, self.logical_blocks_used);
        put64(block, BLOCK_MAP_BLOCKS, self.block_map_data_blocks);
        block[CHECK_BYTE] = self.check_byte;
        block[RECOVERY_COUNT] = self.recovery_count;
    }

    /// Reads the header of a block of the current kind.
    ///
    /// # Errors
    /// When the block is of the kind older programs wrote, or of no kind a recovery journal has. A
    /// journal that has never been around holds blocks of zeroes, which are such.
    pub fn decode(block: &[u8; BLOCK_SIZE]) -> Result<RecoveryBlockHeader, DecodeError> {
        let kind = block[METADATA_TYPE];
        if kind != TYPE_RECOVERY_JOURNAL {
            let why = if kind == TYPE_OLD_RECOVERY_JOURNAL {
                "that is the form older programs wrote; shut the volume down with such a program"
            } else {
                "a block of this journal has 3"
            };
            let (what, field) = ("a recovery journal block", "its metadata type");
            return Err(DecodeError::Field {
                what,
                field,
                found: kind.into(),
                why,
            });
        }
        Ok(RecoveryBlockHeader::fields(block))
    }

    /// Reads the header of a block of either form; `None` for a block of no kind a recovery journal has, and for
    /// one that counts more entries than its form can hold.
    pub fn decode_any(block: &[u8; BLOCK_SIZE]) -> Option<(JournalForm, RecoveryBlockHeader)> {
        let (form, most) = match block[METADATA_TYPE] {
            TYPE_RECOVERY_JOURNAL => (JournalForm::Current, ENTRIES_PER_BLOCK),
            TYPE_OLD_RECOVERY_JOURNAL => (JournalForm::Old, OLD_ENTRIES_PER_BLOCK),
            _ => return None,
        };
        let header = RecoveryBlockHeader::fields(block);
        (header.entry_count <= most).then_some((form, header))
    }

    fn fields(block: &[u8; BLOCK_SIZE]) -> RecoveryBlockHeader {
        RecoveryBlockHeader {
            block_map_head: SequenceNumber(le64(block, BLOCK_MAP_HEAD)),
            slab_journal_head: SequenceNumber(le64(block, SLAB_JOURNAL_HEAD)),
            sequence: SequenceNumber(le64(block, SEQUENCE)),
            nonce: le64(block, NONCE),
            entry_count: le16(block, ENTRY_COUNT),
            logical_blocks_used: le64(block, LOGICAL_USED),
            block_map_data_blocks: le64(block, BLOCK_MAP_BLOCKS),
            check_byte: block[CHECK_BYTE],
            recovery_count: block[RECOVERY_COUNT],
        }
    }
}

/// A block that is being filled. The buffer is the only state: begin it, append entries, set the heads
/// before each write.
pub struct RecoveryJournalBlockMut<'a>(&'a mut [u8; BLOCK_SIZE]);

impl<'a> RecoveryJournalBlockMut<'a> {
    /// Goes on with a block that was begun before.
    #[inline]
    pub fn new(block: &'a mut [u8; BLOCK_SIZE]) -> RecoveryJournalBlockMut<'a> {
        RecoveryJournalBlockMut(block)
    }

    /// Begins a block: zeroes, the header, and the first sector made ready. `header.entry_count` should
    /// be zero.
    pub fn begin(block: &'a mut [u8; BLOCK_SIZE], header: &RecoveryBlockHeader) -> Self {
        block.fill(0);
        header.encode(block);
        let mut begun = RecoveryJournalBlockMut(block);
        begun.begin_sector(1);
        begun
    }

    fn begin_sector(&mut self, sector: usize) {
        let at = sector * SECTOR_SIZE;
        self.0[at] = self.0[CHECK_BYTE];
        self.0[at + 1] = self.0[RECOVERY_COUNT];
        self.0[at + 2] = 0;
    }

    /// Puts the entry numbered `index` (0 to 216) in its place. Entries are appended in order: the
    /// first of a sector begins it, and each makes its sector one longer. The header's count is not
    /// touched; see [`RecoveryJournalBlockMut::prepare_write`].
    #[inline]
    pub fn append(&mut self, index: u16, entry: &RecoveryJournalEntry) {
        assert!(index < ENTRIES_PER_BLOCK, "a block has 217 entries");
        let (sector, place) = (index / ENTRIES_PER_SECTOR, index % ENTRIES_PER_SECTOR);
        let sector = usize::from(sector) + 1;
        if place == 0 {
            self.begin_sector(sector);
        }
        let at = sector * SECTOR_SIZE;
        debug_assert_eq!(
            u16::from(self.0[at + 2]),
            place,
            "entries are appended in order"
        );
        self.0[at + 2] = place as u8 + 1;
        let at = at + SECTOR_HEADER + usize::from(place) * ENTRY_SIZE;
        self.0[at..at + ENTRY_SIZE].copy_from_slice(&entry.encode());
    }

    /// Brings the header up to date before the block is written.
    #[inline]
    pub fn prepare_write(
        &mut self,
        block_map_head: SequenceNumber,
        slab_journal_head: SequenceNumber,
        entry_count: u16,
    ) {
        put64(self.0, BLOCK_MAP_HEAD, block_map_head.get());
        put64(self.0, SLAB_JOURNAL_HEAD, slab_journal_head.get());
        put16(self.0, ENTRY_COUNT, entry_count);
    }
}

/// A block read back.
#[derive(Clone, Copy)]
pub struct RecoveryJournalBlock<'a>(&'a [u8; BLOCK_SIZE]);

impl<'a> RecoveryJournalBlock<'a> {
    /// Looks at a block as one of the journal.
    pub fn new(block: &'a [u8; BLOCK_SIZE]) -> RecoveryJournalBlock<'a> {
        RecoveryJournalBlock(block)
    }

    /// The header, if the block is of the current kind.
    ///
    /// # Errors
    /// As [`RecoveryBlockHeader::decode`].
    pub fn header(self) -> Result<RecoveryBlockHeader, DecodeError> {
        RecoveryBlockHeader::decode(self.0)
    }

    /// How many entries of a sector (1 to 7) can be trusted: `None` if the sector is not of the same
    /// writing as `header`, or counts more entries than it can hold.
    pub fn sector_entries(self, header: &RecoveryBlockHeader, sector: usize) -> Option<u16> {
        assert!(
            (1..SECTORS_PER_BLOCK).contains(&sector),
            "entries are in sectors 1 to 7"
        );
        let at = sector * SECTOR_SIZE;
        let count = u16::from(self.0[at + 2]);
        let same = self.0[at] == header.check_byte && self.0[at + 1] == header.recovery_count;
        (same && count <= ENTRIES_PER_SECTOR).then_some(count)
    }

    /// The entry numbered `index` (0 to 216), as it stands.
    ///
    /// # Errors
    /// When it is of an unknown operation.
    pub fn entry(self, index: u16) -> Result<RecoveryJournalEntry, DecodeError> {
        assert!(index < ENTRIES_PER_BLOCK, "a block has 217 entries");
        let sector = usize::from(index / ENTRIES_PER_SECTOR) + 1;
        let place = usize::from(index % ENTRIES_PER_SECTOR);
        let at = sector * SECTOR_SIZE + SECTOR_HEADER + place * ENTRY_SIZE;
        let bytes = self.0[at..]
            .first_chunk()
            .expect("an entry ends inside its sector");
        RecoveryJournalEntry::decode(bytes)
    }
}

const _: () = assert!(HEADER_BYTES == RECOVERY_COUNT + 1 && HEADER_BYTES <= SECTOR_SIZE);
const _: () = assert!(ENTRIES_PER_BLOCK == 217);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::MappingState;
    use proptest::prelude::*;

    prop_compose! {
        fn mappings()(pbn in 0u64..1 << 36, state in 0u8..=15) -> Mapping {
            Mapping { pbn: Pbn(pbn), state: MappingState::from_bits(state).unwrap() }
        }
    }

    prop_compose! {
        fn entries()(
            data: bool, pbn in 0u64..1 << 36, slot in 0u16..812,
            mapping in mappings(), unmapping in mappings(),
        ) -> RecoveryJournalEntry {
            let operation = if data {
                JournalOperation::DataRemapping
            } else {
                JournalOperation::BlockMapRemapping
            };
            let slot = BlockMapSlot { pbn: Pbn(pbn), slot };
            RecoveryJournalEntry { operation, slot, mapping, unmapping }
        }
    }

    prop_compose! {
        fn headers()(
            numbers: [u64; 6], check_byte: u8, recovery_count: u8,
        ) -> RecoveryBlockHeader {
            RecoveryBlockHeader {
                block_map_head: SequenceNumber(numbers[0]),
                slab_journal_head: SequenceNumber(numbers[1]),
                sequence: SequenceNumber(numbers[2]),
                nonce: numbers[3],
                entry_count: 0,
                logical_blocks_used: numbers[4],
                block_map_data_blocks: numbers[5],
                check_byte,
                recovery_count,
            }
        }
    }

    #[test]
    fn an_entry_is_packed_as_dm_vdo_packs_it() {
        let state = |bits| MappingState::from_bits(bits).unwrap();
        let entry = RecoveryJournalEntry {
            operation: JournalOperation::BlockMapRemapping,
            slot: BlockMapSlot {
                pbn: Pbn(0x9_8765_4321),
                slot: 0x2aa,
            },
            mapping: Mapping {
                pbn: Pbn(0xc_0000_00ff),
                state: state(1),
            },
            unmapping: Mapping {
                pbn: Pbn(0xd_1122_3344),
                state: state(15),
            },
        };
        // 0x2aa << 2 | 1 = 0x0aa9, with the page's nibble on top.
        let expected = [
            0xa9, 0x9a, 0x21, 0x43, 0x65, 0x87, 0xc1, 0xff, 0, 0, 0, 0xdf, 0x44, 0x33, 0x22, 0x11,
        ];
        assert_eq!(entry.encode(), expected);
    }

    #[test]
    fn a_header_is_laid_out_as_dm_vdo_lays_it_out() {
        let header = RecoveryBlockHeader {
            block_map_head: SequenceNumber(0x01),
            slab_journal_head: SequenceNumber(0x02),
            sequence: SequenceNumber(0x03),
            nonce: 0x04,
            entry_count: 0x0605,
            logical_blocks_used: 0x07,
            block_map_data_blocks: 0x08,
            check_byte: 0x89,
            recovery_count: 0x0a,
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
            (16, 3),
            (24, 4),
            (32, 3),
            (33, 5),
            (34, 6),
            (35, 7),
            (43, 8),
            (51, 0x89),
            (52, 10),
        ];
        assert_eq!(set, expected);
    }

    #[test]
    fn the_check_byte_changes_with_each_trip_and_is_never_zero() {
        let check = |sequence| check_byte(SequenceNumber(sequence), 8);
        assert_eq!(
            (check(0), check(7), check(8), check(16)),
            (0x80, 0x80, 0x81, 0x82)
        );
        assert_eq!(check(8 * 128), 0x80);
        assert_eq!(block_number(SequenceNumber(17), 8), 1);
    }

    #[test]
    fn a_block_of_zeroes_or_of_the_old_kind_is_no_block() {
        let mut block = [0; BLOCK_SIZE];
        assert!(RecoveryBlockHeader::decode(&block).is_err());
        block[METADATA_TYPE] = TYPE_OLD_RECOVERY_JOURNAL;
        let error = RecoveryBlockHeader::decode(&block).unwrap_err().to_string();
        assert!(error.contains("older programs"), "{error}");
        block[ENTRY_COUNT..ENTRY_COUNT + 2].copy_from_slice(&311_u16.to_le_bytes());
        let form =
            |block: &[u8; BLOCK_SIZE]| RecoveryBlockHeader::decode_any(block).map(|(form, _)| form);
        assert_eq!(form(&block), Some(JournalForm::Old));
        block[METADATA_TYPE] = TYPE_RECOVERY_JOURNAL;
        assert_eq!(form(&block), None, "the current form holds 217 entries");
        block[ENTRY_COUNT..ENTRY_COUNT + 2].copy_from_slice(&217_u16.to_le_bytes());
        assert_eq!(form(&block), Some(JournalForm::Current));
    }

    #[test]
    fn a_sector_of_another_writing_or_with_too_many_entries_is_not_trusted() {
        let mut block = [0; BLOCK_SIZE];
        let header = RecoveryBlockHeader {
            block_map_head: SequenceNumber(1),
            slab_journal_head: SequenceNumber(1),
            sequence: SequenceNumber(1),
            nonce: 1,
            entry_count: 0,
            logical_blocks_used: 0,
            block_map_data_blocks: 0,
            check_byte: 0x80,
            recovery_count: 2,
        };
        RecoveryJournalBlockMut::begin(&mut block, &header);
        let trusted = |block: &[u8; BLOCK_SIZE], header: &RecoveryBlockHeader| {
            RecoveryJournalBlock::new(block).sector_entries(header, 1)
        };
        assert_eq!(trusted(&block, &header), Some(0));
        assert_eq!(
            RecoveryJournalBlock::new(&block).sector_entries(&header, 2),
            None
        );
        let other = RecoveryBlockHeader {
            check_byte: 0x81,
            ..header
        };
        assert_eq!(trusted(&block, &other), None);
        let other = RecoveryBlockHeader {
            recovery_count: 3,
            ..header
        };
        assert_eq!(trusted(&block, &other), None);
        block[SECTOR_SIZE + 2] = ENTRIES_PER_SECTOR as u8;
        assert_eq!(trusted(&block, &header), Some(ENTRIES_PER_SECTOR));
        block[SECTOR_SIZE + 2] += 1;
        assert_eq!(trusted(&block, &header), None);
    }

    proptest! {
        #[test]
        fn an_entry_survives_packing(entry in entries()) {
            prop_assert_eq!(RecoveryJournalEntry::decode(&entry.encode()), Ok(entry));
        }

        #[test]
        fn sixteen_bytes_are_an_entry_unless_their_operation_is_unknown(bytes: [u8; ENTRY_SIZE]) {
            match RecoveryJournalEntry::decode(&bytes) {
                Ok(entry) => prop_assert_eq!(entry.encode(), bytes),
                Err(_) => prop_assert!(bytes[0] & 2 != 0),
            }
        }

        #[test]
        fn a_header_survives_encoding(header in headers(), entry_count: u16) {
            let header = RecoveryBlockHeader { entry_count, ..header };
            let mut block = [0; BLOCK_SIZE];
            header.encode(&mut block);
            prop_assert_eq!(RecoveryBlockHeader::decode(&block), Ok(header));
        }

        #[test]
        fn a_block_gives_back_what_was_appended(
            header in headers(),
            entries in prop::collection::vec(entries(), 1..=usize::from(ENTRIES_PER_BLOCK)),
        ) {
            let mut block = [0xee; BLOCK_SIZE];
            let mut filling = RecoveryJournalBlockMut::begin(&mut block, &header);
            for (index, entry) in entries.iter().enumerate() {
                filling.append(index as u16, entry);
            }
            let count = entries.len() as u16;
            filling.prepare_write(SequenceNumber(11), SequenceNumber(12), count);

            let read = RecoveryJournalBlock::new(&block);
            let expected = RecoveryBlockHeader {
                block_map_head: SequenceNumber(11),
                slab_journal_head: SequenceNumber(12),
                entry_count: count,
                ..header
            };
            prop_assert_eq!(read.header().unwrap(), expected);
            let in_sector = |sector: u16| count.saturating_sub((sector - 1) * 31).min(31);
            for sector in 1..8 {
                let begun = in_sector(sector) > 0;
                if begun {
                    let found = read.sector_entries(&expected, usize::from(sector));
                    prop_assert_eq!(found, Some(in_sector(sector)));
                }
            }
            for (index, entry) in entries.iter().enumerate() {
                prop_assert_eq!(read.entry(index as u16).unwrap(), *entry);
            }
        }
    }
}
