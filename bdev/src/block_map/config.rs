//! How large and how old one zone's part of the block map may get.

use crate::format::tree::TreeGeometry;
use crate::types::{SequenceNumber, ZoneIndex};

/// How large and how old a zone's part of the block map may get.
#[derive(Clone, Copy, Debug)]
pub struct BlockMapConfig {
    /// The forest of the whole volume.
    pub geometry: TreeGeometry,
    /// The volume's nonce, in the header of every page.
    pub nonce: u64,
    /// This zone.
    pub zone: ZoneIndex,
    /// How many zones share the forest, as [`TreeOwners`](super::TreeOwners) says.
    pub zones: u8,
    /// Leaf pages this zone keeps in memory, at least one: its share of the volume's cache.
    pub cache_pages: u32,
    /// How many journal blocks a change may wait before its page is written; see [`maximum_age`].
    pub maximum_age: u32,
    /// The recovery journal's newest block when the volume is opened.
    pub journal_tail: SequenceNumber,
    /// How many requests may wait at a time before memory must be allocated.
    pub requests: usize,
    /// Pages read at a time, at least one.
    pub readers: usize,
    /// Pages written at a time, at least one.
    pub writers: usize,
}

/// dm-vdo's default of the user's "block map maximum age", the argument of [`maximum_age`].
pub const DEFAULT_BLOCK_MAP_MAXIMUM_AGE: u32 = 16380;

/// The age in journal blocks from the user's "block map maximum age".
///
/// That figure speaks of an older journal format, with 311 entries in a block and two of them for each
/// write; now there are 217, and one for each write. The conversion keeps the number of writes.
pub fn maximum_age(user: u32) -> u32 {
    (u64::from(user) * 311).div_ceil(2 * 217) as u32
}
