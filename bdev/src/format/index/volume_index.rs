//! The saved volume index, one stream of bytes for each zone it was saved by.
//!
//! ```text
//!   dense:    part header | flush chapters | delta header | sizes | list, list, ...                       | guard
//!   sparse:   sparse header | the first four for dense | the same for samples | dense lists | sample lists | guard
//! ```
//!
//! *Sizes* are the bits of each list, two bytes each. Only lists that have any follow, each behind a header that says which it is
//! and at which bit of its first byte it begins. *Flush chapters* are, for each list, the oldest chapter of which it may still
//! have entries, eight bytes each.

use super::regions::check_magic;
use crate::format::codec::{le16, le32, le64, put16, put32, put64};
use crate::format::error::DecodeError;

const PART_MAGIC: [u8; 8] = *b"MI5-0005";
const SPARSE_MAGIC: [u8; 8] = *b"MI6-0001";
const DELTA_MAGIC: [u8; 8] = *b"DI-00002";

/// Bytes of a [`PartHeader`].
pub const PART_HEADER: usize = 40;
/// Bytes of a [`DeltaHeader`].
pub const DELTA_HEADER: usize = 40;
/// Bytes of the header of a sparse volume index.
pub const SPARSE_HEADER: usize = 12;
/// Bytes of a [`ListHeader`].
pub const LIST_HEADER: usize = 8;
/// The tag of the guard at the end.
pub const GUARD_TAG: u8 = b'z';

/// The parts of a volume index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The only part of a dense index.
    Whole,
    /// The names of a sparse index that are no samples.
    Dense,
    /// Its samples.
    Samples,
}

impl Part {
    /// The byte before each of its lists.
    pub const fn tag(self) -> u8 {
        match self {
            Part::Whole => b'm',
            Part::Dense => b'd',
            Part::Samples => b's',
        }
    }
}

/// What is before the flush chapters of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartHeader {
    /// The index's volume nonce.
    pub nonce: u64,
    /// The oldest chapter of which there are entries.
    pub oldest: u64,
    /// The open chapter.
    pub newest: u64,
    /// The zone's first list.
    pub first_list: u32,
    /// The zone's lists.
    pub lists: u32,
}

impl PartHeader {
    /// As it is on disk.
    pub fn encode(&self) -> [u8; PART_HEADER] {
        let mut bytes = [0; PART_HEADER];
        bytes[..8].copy_from_slice(&PART_MAGIC);
        put64(&mut bytes, 8, self.nonce);
        put64(&mut bytes, 16, self.oldest);
        put64(&mut bytes, 24, self.newest);
        put32(&mut bytes, 32, self.first_list);
        put32(&mut bytes, 36, self.lists);
        bytes
    }

    /// From disk.
    ///
    /// # Errors
    /// Another magic.
    pub fn decode(bytes: &[u8; PART_HEADER]) -> Result<PartHeader, DecodeError> {
        check_magic("the saved volume index", bytes, &PART_MAGIC)?;
        Ok(PartHeader {
            nonce: le64(bytes, 8),
            oldest: le64(bytes, 16),
            newest: le64(bytes, 24),
            first_list: le32(bytes, 32),
            lists: le32(bytes, 36),
        })
    }
}

/// What is before the sizes of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaHeader {
    /// The zone this was.
    pub zone: u32,
    /// How many zones there were.
    pub zones: u32,
    /// Its first list.
    pub first_list: u32,
    /// Its lists.
    pub lists: u32,
    /// Entries in them.
    pub records: u64,
    /// How many of these are collisions.
    pub collisions: u64,
}

impl DeltaHeader {
    /// As it is on disk.
    pub fn encode(&self) -> [u8; DELTA_HEADER] {
        let mut bytes = [0; DELTA_HEADER];
        bytes[..8].copy_from_slice(&DELTA_MAGIC);
        put32(&mut bytes, 8, self.zone);
        put32(&mut bytes, 12, self.zones);
        put32(&mut bytes, 16, self.first_list);
        put32(&mut bytes, 20, self.lists);
        put64(&mut bytes, 24, self.records);
        put64(&mut bytes, 32, self.collisions);
        bytes
    }

    /// From disk.
    ///
    /// # Errors
    /// Another magic.
    pub fn decode(bytes: &[u8; DELTA_HEADER]) -> Result<DeltaHeader, DecodeError> {
        check_magic("the saved delta lists", bytes, &DELTA_MAGIC)?;
        Ok(DeltaHeader {
            zone: le32(bytes, 8),
            zones: le32(bytes, 12),
            first_list: le32(bytes, 16),
            lists: le32(bytes, 20),
            records: le64(bytes, 24),
            collisions: le64(bytes, 32),
        })
    }
}

/// What is at the front of a sparse volume index: the rate of samples.
pub fn sparse_header(rate: u32) -> [u8; SPARSE_HEADER] {
    let mut bytes = [0; SPARSE_HEADER];
    bytes[..8].copy_from_slice(&SPARSE_MAGIC);
    put32(&mut bytes, 8, rate);
    bytes
}

/// The rate of samples of a sparse volume index.
///
/// # Errors
/// Another magic.
pub fn read_sparse_header(bytes: &[u8; SPARSE_HEADER]) -> Result<u32, DecodeError> {
    check_magic("the saved sparse volume index", bytes, &SPARSE_MAGIC)?;
    Ok(le32(bytes, 8))
}

/// What is before each list, and, with [`GUARD_TAG`], at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListHeader {
    /// The part's tag.
    pub tag: u8,
    /// The bit of the first byte at which the list begins.
    pub bit_offset: u8,
    /// Bytes that follow.
    pub bytes: u16,
    /// The list's number.
    pub list: u32,
}

impl ListHeader {
    /// What is at the end.
    pub const GUARD: ListHeader = ListHeader {
        tag: GUARD_TAG,
        bit_offset: 0,
        bytes: 0,
        list: 0,
    };

    /// As it is on disk.
    pub fn encode(&self) -> [u8; LIST_HEADER] {
        let mut bytes = [0; LIST_HEADER];
        bytes[0] = self.tag;
        bytes[1] = self.bit_offset;
        put16(&mut bytes, 2, self.bytes);
        put32(&mut bytes, 4, self.list);
        bytes
    }

    /// From disk; any bytes are one.
    pub fn decode(bytes: &[u8; LIST_HEADER]) -> ListHeader {
        ListHeader {
            tag: bytes[0],
            bit_offset: bytes[1],
            bytes: le16(bytes, 2),
            list: le32(bytes, 4),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn headers_come_back(a: u64, b: u64, c: u64, d: u32, e: u32, f: u32, g: u32) {
            let part = PartHeader { nonce: a, oldest: b, newest: c, first_list: d, lists: e };
            prop_assert_eq!(PartHeader::decode(&part.encode()), Ok(part));
            let delta = DeltaHeader { zone: d, zones: e, first_list: f, lists: g, records: a, collisions: b };
            prop_assert_eq!(DeltaHeader::decode(&delta.encode()), Ok(delta));
            prop_assert_eq!(read_sparse_header(&sparse_header(d)), Ok(d));
            let list = ListHeader { tag: a as u8, bit_offset: b as u8, bytes: c as u16, list: d };
            prop_assert_eq!(ListHeader::decode(&list.encode()), list);
        }
    }

    #[test]
    fn other_magics_are_refused_by_name() {
        let error = PartHeader::decode(&[0; PART_HEADER]).expect_err("zeroes");
        assert!(error.to_string().contains("MI5-0005"), "{error}");
        assert!(DeltaHeader::decode(&[0; DELTA_HEADER]).is_err());
        assert!(read_sparse_header(&[0; SPARSE_HEADER]).is_err());
    }
}
