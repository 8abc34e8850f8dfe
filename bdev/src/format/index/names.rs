//! Where a name belongs. Names are hashes, so any of their bits are as good as others; each use has its own.
//!
//! ```text
//!   byte   0         8                14       16
//!          | volume  | chapter index  | sample |        all big-endian
//!          |  index  |                |        |
//! ```

use super::geometry::{IndexGeometry, SAMPLE_RATE, SubIndexGeometry};
use crate::types::RecordName;

/// A delta list, and the key of a name in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListKey {
    /// The list.
    pub list: u32,
    /// The key.
    pub key: u32,
}

#[inline]
fn volume_bits(name: &RecordName) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&name.0[..8]);
    u64::from_be_bytes(bytes)
}

/// The bits of a name that its chapter's index goes by: 48 of them.
#[inline]
pub fn chapter_bits(name: &RecordName) -> u64 {
    let mut bytes = [0; 8];
    bytes[2..].copy_from_slice(&name.0[8..14]);
    u64::from_be_bytes(bytes)
}

impl SubIndexGeometry {
    /// Where a name belongs in this part of the volume index.
    #[inline]
    pub fn list_key(&self, name: &RecordName) -> ListKey {
        let bits = volume_bits(name);
        let upper = bits >> self.key_bits;
        let list = match self.lists.is_power_of_two() {
            true => upper & (self.lists - 1),
            // Division is slow.
            false => upper % self.lists,
        };
        ListKey {
            list: list as u32,
            key: (bits & ((1 << self.key_bits) - 1)) as u32,
        }
    }
}

impl IndexGeometry {
    /// Where a name belongs in its chapter's index.
    #[inline]
    pub fn chapter_list_key(&self, name: &RecordName) -> ListKey {
        let bits = chapter_bits(name);
        ListKey {
            list: (bits >> self.chapter_key_bits) as u32 & (self.chapter_lists() - 1),
            key: (bits & ((1 << self.chapter_key_bits) - 1)) as u32,
        }
    }

    /// Whether a name is one of those that a sparse chapter is known by.
    #[inline]
    pub fn is_sample(&self, name: &RecordName) -> bool {
        let bits = u32::from(u16::from_be_bytes([name.0[14], name.0[15]]));
        self.is_sparse() && bits.is_multiple_of(SAMPLE_RATE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_use_takes_its_own_bytes() {
        let mut name = RecordName([0; 16]);
        name.0[5] = 0x1f;
        name.0[7] = 0x34;
        name.0[6] = 0x12;
        let geometry = IndexGeometry::new(4096, 16, 10_240, 9728, false);
        let part = geometry.sampled_part().expect("samples");
        assert_eq!(
            part.list_key(&name),
            ListKey {
                list: 1,
                key: 0xf_1234
            }
        );
        assert_eq!(
            geometry.chapter_list_key(&name),
            ListKey { list: 0, key: 0 }
        );
        assert!(geometry.is_sample(&name));
        name.0[15] = 31;
        assert!(!geometry.is_sample(&name));
        name.0[8..14].copy_from_slice(&[0, 0, 0xff, 0xc0, 0, 3]);
        let place = geometry.chapter_list_key(&name);
        let bits = 0xffc0_0003_u64;
        assert_eq!(u64::from(place.key), bits & 0x3f_ffff);
        assert_eq!(u64::from(place.list), bits >> 22 & 0x1f);
    }
}
