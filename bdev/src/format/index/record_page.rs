//! A record page: a thousand names, each with where its block was, in the order that a search by halving visits them.
//!
//! The records are sorted by name and laid out as a binary tree without pointers: the root first, and the children of record *n*
//! at 2*n* + 1 and 2*n* + 2. A name is found in ten steps.
//!
//! ```text
//!   name                 version   state   block   unused       a record
//!    16                     1        1       8       6           bytes
//! ```

use super::geometry::RECORD_BYTES;
use crate::format::codec::le64;
use crate::types::{Mapping, MappingState, Pbn, RecordName};

/// The version of what a record says of its name.
const ADVICE_VERSION: u8 = 2;

/// What is known of a name, as it is on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordData(pub [u8; 16]);

impl RecordData {
    /// From where a block is.
    pub fn of(mapping: Mapping) -> RecordData {
        let mut data = [0; 16];
        data[0] = ADVICE_VERSION;
        data[1] = mapping.state.bits();
        data[2..10].copy_from_slice(&mapping.pbn.get().to_le_bytes());
        RecordData(data)
    }

    /// Where the block is; `None` if what stands there cannot be.
    pub fn mapping(&self) -> Option<Mapping> {
        let state = MappingState::from_bits(self.0[1])?;
        let pbn = Pbn(le64(&self.0, 2));
        let known = self.0[0] == ADVICE_VERSION && state != MappingState::UNMAPPED;
        (known && pbn != Pbn::ZERO && pbn.get() < crate::format::MAXIMUM_PHYSICAL_BLOCKS)
            .then_some(Mapping { pbn, state })
    }
}

/// A name and what is known of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexRecord {
    /// The name.
    pub name: RecordName,
    /// What is known of it.
    pub data: RecordData,
}

impl IndexRecord {
    /// Bytes on disk.
    pub const SIZE: usize = RECORD_BYTES as usize;

    /// As it is on disk.
    #[inline]
    pub fn encode(&self) -> [u8; IndexRecord::SIZE] {
        let mut bytes = [0; IndexRecord::SIZE];
        bytes[..16].copy_from_slice(&self.name.0);
        bytes[16..].copy_from_slice(&self.data.0);
        bytes
    }

    /// From disk; any bytes are a record.
    #[inline]
    pub fn decode(bytes: &[u8; IndexRecord::SIZE]) -> IndexRecord {
        let mut record = IndexRecord::default();
        record.name.0.copy_from_slice(&bytes[..16]);
        record.data.0.copy_from_slice(&bytes[16..]);
        record
    }
}

/// The records of a page, in the order they lie in.
pub fn records(page: &[u8]) -> impl Iterator<Item = IndexRecord> + '_ {
    let (records, _) = page.as_chunks::<{ IndexRecord::SIZE }>();
    records.iter().map(IndexRecord::decode)
}

/// What the page knows of `name`.
#[inline]
pub fn find(page: &[u8], name: &RecordName) -> Option<RecordData> {
    let (records, _) = page.as_chunks::<{ IndexRecord::SIZE }>();
    let mut node = 0;
    while let Some(record) = records.get(node) {
        match name.0.as_slice().cmp(&record[..16]) {
            std::cmp::Ordering::Equal => return Some(IndexRecord::decode(record).data),
            std::cmp::Ordering::Less => node = 2 * node + 1,
            std::cmp::Ordering::Greater => node = 2 * node + 2,
        }
    }
    None
}

/// Writes a page. `records` are as many as it has, and are sorted.
pub fn write(records: &mut [IndexRecord], page: &mut [u8]) {
    records.sort_unstable_by_key(|record| u128::from_be_bytes(record.name.0));
    let (places, _) = page.as_chunks_mut::<{ IndexRecord::SIZE }>();
    // The leftmost place of the tree, and then each place's successor.
    let count = places.len();
    let leftmost = |mut node: usize| {
        while 2 * node + 1 < count {
            node = 2 * node + 1;
        }
        node
    };
    let mut node = leftmost(0);
    for record in records.iter().take(count) {
        places[node] = record.encode();
        node = if 2 * node + 2 < count {
            leftmost(2 * node + 2)
        } else {
            // Up, until coming from a left child.
            while node > 0 && node % 2 == 0 {
                node = (node - 1) / 2;
            }
            node.saturating_sub(1) / 2
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(name: [u8; 16], tag: u8) -> IndexRecord {
        IndexRecord {
            name: RecordName(name),
            data: RecordData([tag; 16]),
        }
    }

    proptest! {
        #[test]
        fn every_name_is_found_and_no_other(
            names in prop::collection::btree_set(any::<[u8; 16]>(), 1..130), other: [u8; 16],
        ) {
            let all: Vec<IndexRecord> = names.iter().zip(0..).map(|(name, tag)| record(*name, tag)).collect();
            let mut shuffled: Vec<IndexRecord> = all.iter().rev().copied().collect();
            let mut page = vec![0; all.len() * IndexRecord::SIZE];
            write(&mut shuffled, &mut page);
            for known in &all {
                prop_assert_eq!(find(&page, &known.name), Some(known.data));
            }
            prop_assert_eq!(find(&page, &RecordName(other)).is_some(), names.contains(&other));
            prop_assert_eq!(records(&page).count(), all.len());
        }

        #[test]
        fn where_a_block_is_comes_back(pbn in 1_u64..1 << 36, state in 1_u8..16) {
            let state = MappingState::from_bits(state).expect("four bits");
            let mapping = Mapping { pbn: Pbn(pbn), state };
            prop_assert_eq!(RecordData::of(mapping).mapping(), Some(mapping));
        }

        #[test]
        fn any_data_is_a_mapping_or_none(bytes: [u8; 16]) {
            if let Some(mapping) = RecordData(bytes).mapping() {
                prop_assert_eq!(RecordData::of(mapping).0[..10].to_vec(), bytes[..10].to_vec());
            }
        }
    }

    #[test]
    fn the_root_is_first_and_its_children_follow() {
        let mut names: Vec<IndexRecord> = (0..7).map(|tag| record([tag; 16], tag)).collect();
        let mut page = vec![0; 7 * IndexRecord::SIZE];
        write(&mut names, &mut page);
        let order: Vec<u8> = records(&page).map(|record| record.name.0[0]).collect();
        assert_eq!(order, [3, 1, 5, 0, 2, 4, 6]);
        // With one more, the tree has a record at its fourth level, which is the least.
        let mut names: Vec<IndexRecord> = (0..8).map(|tag| record([tag; 16], tag)).collect();
        let mut page = vec![0; 8 * IndexRecord::SIZE];
        write(&mut names, &mut page);
        let order: Vec<u8> = records(&page).map(|record| record.name.0[0]).collect();
        assert_eq!(order, [4, 2, 6, 1, 3, 5, 7, 0]);
    }

    #[test]
    fn a_record_is_laid_out_as_the_format_says() {
        let mapping = Mapping {
            pbn: Pbn(0x0102_0304),
            state: MappingState::UNCOMPRESSED,
        };
        let bytes = IndexRecord {
            name: RecordName([9; 16]),
            data: RecordData::of(mapping),
        }
        .encode();
        assert_eq!(bytes[..16], [9; 16]);
        assert_eq!(
            bytes[16..],
            [2, 1, 4, 3, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
    }
}
