//! Pages and entries of the block map.
//!
//! A page, leaf or interior, is one block: a header of 36 bytes and 812 entries of five bytes. An entry
//! packs a 36-bit physical block number and a four-bit mapping state:
//!
//! ```text
//!   byte 0          bytes 1-4
//!   | pbn 35..32 | state |  pbn 31..0, little-endian |
//!      bits 7-4    bits 3-0
//! ```
//!
//! In a leaf the entry says where a logical block's data is; in an interior page it says where a page
//! one height lower is. The header names the volume (nonce) and the page's own place, so that a
//! misdirected write shows. A page's first write to its place is done twice, without and then with the
//! `initialized` flag, so that a torn first write is never taken for a page.
//!
//! There is no checksum. But everything in the header is known to whoever looks for the page, so a header with one bit
//! wrong is told from that of a block that never was this page.
//!
//! The views here work in place on the buffer of a cached page and cost no more than the loads and
//! stores.

use super::codec::{Version, le32, le64, put32, put64};
use super::tree::ENTRIES_PER_PAGE;
use crate::types::{BLOCK_SIZE, Mapping, MappingState, Pbn};

/// Bytes of an entry, here and in the recovery journal.
pub const ENTRY_SIZE: usize = 5;

/// The largest physical block number an entry can hold.
pub const MAXIMUM_ENTRY_PBN: Pbn = Pbn((1 << 36) - 1);

const VERSION: Version = Version::new(4, 1);
const NONCE: usize = 8;
const PBN: usize = 16;
const INITIALIZED: usize = 32;
const ENTRIES: usize = 36;
const _: () = assert!(ENTRIES + ENTRIES_PER_PAGE as usize * ENTRY_SIZE == BLOCK_SIZE);

/// Packs an entry. Bits of the block number above the 36 an entry has are lost; no volume has them.
#[inline]
pub fn encode_entry(mapping: Mapping) -> [u8; ENTRY_SIZE] {
    debug_assert!(mapping.pbn <= MAXIMUM_ENTRY_PBN);
    let pbn = mapping.pbn.get();
    let low = (pbn as u32).to_le_bytes();
    let first = mapping.state.bits() | ((pbn >> 28) as u8 & 0xf0);
    [first, low[0], low[1], low[2], low[3]]
}

/// Unpacks an entry; every five bytes are one.
#[inline]
pub fn decode_entry(bytes: [u8; ENTRY_SIZE]) -> Mapping {
    let low = u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
    let pbn = Pbn(u64::from(bytes[0] >> 4) << 32 | u64::from(low));
    let state = MappingState::from_bits(bytes[0] & 0xf).unwrap_or_default();
    Mapping { pbn, state }
}

/// Whether a leaf may hold this entry: block 0 stands only for zeroes, and no other block for no data.
#[inline]
pub fn is_valid(mapping: Mapping) -> bool {
    if mapping.pbn == Pbn::ZERO {
        !mapping.state.is_compressed()
    } else {
        mapping.state.is_mapped()
    }
}

/// What the header of a page says about it, compared with what was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageValidity {
    /// It is the page looked for.
    Valid,
    /// It was never written as a page of this volume; to be taken as empty.
    Unwritten,
    /// It is the page looked for, but one bit of its header is not as it was written.
    Damaged,
    /// It is a page of this volume, but another one.
    Misplaced {
        /// Which.
        found: Pbn,
    },
}

/// A page to read from.
#[derive(Clone, Copy)]
pub struct BlockMapPage<'a>(&'a [u8; BLOCK_SIZE]);

impl<'a> BlockMapPage<'a> {
    /// Looks at a block as a page.
    #[inline]
    pub fn new(block: &'a [u8; BLOCK_SIZE]) -> BlockMapPage<'a> {
        BlockMapPage(block)
    }

    /// The entry in a slot (0 to 811).
    #[inline]
    pub fn get(self, slot: u16) -> Mapping {
        let at = entry_at(slot);
        decode_entry(
            *self.0[at..]
                .first_chunk()
                .expect("slots end with the block"),
        )
    }

    /// Where the entry in a slot lies.
    #[inline]
    pub fn place(self, slot: u16) -> &'a u8 {
        &self.0[entry_at(slot)]
    }

    /// Whether the page says of itself that it has been written.
    #[inline]
    pub fn is_initialized(self) -> bool {
        self.0[INITIALIZED] != 0
    }

    /// The page's own place, as its header has it.
    pub fn pbn(self) -> Pbn {
        Pbn(le64(self.0, PBN))
    }

    /// The nonce of the volume that wrote the page.
    pub fn nonce(self) -> u64 {
        le64(self.0, NONCE)
    }

    /// Compares the header with what was looked for: a page of the volume with `nonce`, at `pbn`.
    pub fn validity(self, nonce: u64, pbn: Pbn) -> PageValidity {
        let version = Version::new(le32(self.0, 0), le32(self.0, 4));
        let is_ours = version == VERSION && self.is_initialized() && self.nonce() == nonce;
        match is_ours {
            true if self.pbn() == pbn => PageValidity::Valid,
            true => PageValidity::Misplaced { found: self.pbn() },
            false if self.wrong_bits(nonce, pbn) == 1 => PageValidity::Damaged,
            false => PageValidity::Unwritten,
        }
    }

    /// Whether the first of the two writes of a new page was done, and the second was not.
    pub fn is_begun(self, nonce: u64, pbn: Pbn) -> bool {
        !self.is_initialized() && self.wrong_bits(nonce, pbn) == 0
    }

    /// How many bits of the header are not those of the page looked for, the mark that it was written aside.
    fn wrong_bits(self, nonce: u64, pbn: Pbn) -> u32 {
        let version = Version::new(le32(self.0, 0), le32(self.0, 4));
        (version.major ^ VERSION.major).count_ones()
            + (version.minor ^ VERSION.minor).count_ones()
            + (self.nonce() ^ nonce).count_ones()
            + (self.pbn().get() ^ pbn.get()).count_ones()
    }

    /// All entries in order of their slots.
    pub fn entries(self) -> impl Iterator<Item = Mapping> + 'a {
        self.0[ENTRIES..]
            .as_chunks()
            .0
            .iter()
            .map(|bytes| decode_entry(*bytes))
    }
}

/// A page to change.
pub struct BlockMapPageMut<'a>(&'a mut [u8; BLOCK_SIZE]);

impl<'a> BlockMapPageMut<'a> {
    /// Looks at a block as a page.
    #[inline]
    pub fn new(block: &'a mut [u8; BLOCK_SIZE]) -> BlockMapPageMut<'a> {
        BlockMapPageMut(block)
    }

    /// Makes a block an empty page: every entry unmapped.
    pub fn format(
        block: &'a mut [u8; BLOCK_SIZE],
        nonce: u64,
        pbn: Pbn,
        initialized: bool,
    ) -> Self {
        block.fill(0);
        let mut page = BlockMapPageMut(block);
        page.put_header(nonce, pbn, initialized);
        page
    }

    /// Writes the header, over entries that are there.
    pub fn put_header(&mut self, nonce: u64, pbn: Pbn, initialized: bool) {
        put32(self.0, 0, VERSION.major);
        put32(self.0, 4, VERSION.minor);
        put64(self.0, NONCE, nonce);
        put64(self.0, PBN, pbn.get());
        self.0[INITIALIZED] = u8::from(initialized);
    }

    /// Puts an entry in a slot (0 to 811).
    #[inline]
    pub fn set(&mut self, slot: u16, mapping: Mapping) {
        let at = entry_at(slot);
        self.0[at..at + ENTRY_SIZE].copy_from_slice(&encode_entry(mapping));
    }

    /// Says whether the page has been written; returns what it said before.
    #[inline]
    pub fn set_initialized(&mut self, initialized: bool) -> bool {
        std::mem::replace(&mut self.0[INITIALIZED], u8::from(initialized)) != 0
    }

    /// The same page to read from.
    #[inline]
    pub fn as_page(&self) -> BlockMapPage<'_> {
        BlockMapPage(self.0)
    }
}

#[inline]
fn entry_at(slot: u16) -> usize {
    assert!(u64::from(slot) < ENTRIES_PER_PAGE, "a page has 812 slots");
    ENTRIES + usize::from(slot) * ENTRY_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn mappings()(pbn in 0..=MAXIMUM_ENTRY_PBN.get(), state in 0u8..=15) -> Mapping {
            Mapping { pbn: Pbn(pbn), state: MappingState::from_bits(state).unwrap() }
        }
    }

    #[test]
    fn an_entry_has_its_high_nibble_and_state_in_the_first_byte() {
        let state = MappingState::from_bits(0xb).unwrap();
        let mapping = Mapping {
            pbn: Pbn(0xa_1234_5678),
            state,
        };
        assert_eq!(encode_entry(mapping), [0xab, 0x78, 0x56, 0x34, 0x12]);
        assert_eq!(encode_entry(Mapping::UNMAPPED), [0; 5]);
        assert_eq!(encode_entry(Mapping::ZERO), [1, 0, 0, 0, 0]);
    }

    #[test]
    fn a_page_is_laid_out_as_dm_vdo_lays_it_out() {
        let mut block = [0xee; BLOCK_SIZE];
        let mut page = BlockMapPageMut::format(&mut block, 0x0102_0304, Pbn(0x55), true);
        let last = Mapping {
            pbn: Pbn(0x9),
            state: MappingState::UNCOMPRESSED,
        };
        page.set(811, last);
        let mut expected = [0; BLOCK_SIZE];
        expected[0] = 4;
        expected[4] = 1;
        expected[8..12].copy_from_slice(&[4, 3, 2, 1]);
        expected[16] = 0x55;
        expected[32] = 1;
        expected[4091..].copy_from_slice(&[1, 9, 0, 0, 0]);
        assert_eq!(block, expected);
    }

    #[test]
    fn a_page_is_valid_only_for_its_own_volume_and_place() {
        let mut block = [0; BLOCK_SIZE];
        assert_eq!(
            BlockMapPage::new(&block).validity(0, Pbn(0)),
            PageValidity::Unwritten
        );
        let mut page = BlockMapPageMut::format(&mut block, 7, Pbn(3), false);
        assert_eq!(page.as_page().validity(7, Pbn(3)), PageValidity::Unwritten);
        assert!(!page.set_initialized(true));
        assert!(page.set_initialized(true));
        assert_eq!(page.as_page().validity(7, Pbn(3)), PageValidity::Valid);
        assert_eq!(page.as_page().validity(8, Pbn(3)), PageValidity::Unwritten);
        let misplaced = PageValidity::Misplaced { found: Pbn(3) };
        assert_eq!(page.as_page().validity(7, Pbn(4)), misplaced);
        block[0] = 3;
        assert_eq!(
            BlockMapPage::new(&block).validity(7, Pbn(3)),
            PageValidity::Unwritten
        );
    }

    #[test]
    fn a_header_with_one_wrong_bit_is_told_from_that_of_a_block_that_never_was_this_page() {
        let mut good = [0; BLOCK_SIZE];
        BlockMapPageMut::format(&mut good, 7, Pbn(3), true);
        let validity = |block: &[u8; BLOCK_SIZE]| BlockMapPage::new(block).validity(7, Pbn(3));
        for bit in 0..INITIALIZED * 8 {
            let mut block = good;
            block[bit / 8] ^= 1 << (bit % 8);
            match bit / 8 {
                PBN..24 => assert!(matches!(validity(&block), PageValidity::Misplaced { .. })),
                // Nothing is kept there.
                24.. => assert_eq!(validity(&block), PageValidity::Valid),
                _ => assert_eq!(validity(&block), PageValidity::Damaged),
            }
            BlockMapPageMut::new(&mut block).put_header(7, Pbn(3), true);
            assert_eq!(validity(&block), PageValidity::Valid);
            block[0] ^= 3;
            assert_eq!(validity(&block), PageValidity::Unwritten);
        }
        let is_begun = |block: &[u8; BLOCK_SIZE]| BlockMapPage::new(block).is_begun(7, Pbn(3));
        assert!(!is_begun(&good));
        good[INITIALIZED] = 0;
        assert!(is_begun(&good));
        assert_eq!(validity(&good), PageValidity::Unwritten);
    }

    #[test]
    fn block_zero_holds_no_fragment_and_no_other_block_holds_nothing() {
        let mapping = |pbn, state| Mapping {
            pbn: Pbn(pbn),
            state,
        };
        assert!(is_valid(Mapping::UNMAPPED) && is_valid(Mapping::ZERO));
        assert!(!is_valid(mapping(0, MappingState::COMPRESSED_BASE)));
        assert!(!is_valid(mapping(1, MappingState::UNMAPPED)));
        assert!(is_valid(mapping(1, MappingState::MAX)));
    }

    proptest! {
        #[test]
        fn an_entry_survives_packing(mapping in mappings()) {
            prop_assert_eq!(decode_entry(encode_entry(mapping)), mapping);
        }

        #[test]
        fn every_five_bytes_are_an_entry(bytes: [u8; ENTRY_SIZE]) {
            prop_assert_eq!(encode_entry(decode_entry(bytes)), bytes);
        }

        #[test]
        fn slots_do_not_touch_each_other(
            puts in prop::collection::vec((0u16..812, mappings()), 0..50), nonce: u64,
        ) {
            let mut block = [0; BLOCK_SIZE];
            let mut page = BlockMapPageMut::format(&mut block, nonce, Pbn(1), true);
            let mut model = vec![Mapping::UNMAPPED; 812];
            for (slot, mapping) in puts {
                page.set(slot, mapping);
                model[usize::from(slot)] = mapping;
            }
            let page = page.as_page();
            prop_assert_eq!(page.validity(nonce, Pbn(1)), PageValidity::Valid);
            prop_assert_eq!(page.entries().collect::<Vec<_>>(), model.clone());
            for (slot, mapping) in model.into_iter().enumerate() {
                prop_assert_eq!(page.get(slot as u16), mapping);
            }
        }
    }
}
