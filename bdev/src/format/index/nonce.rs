//! The numbers that tie the parts of an index together, each made of the one before it and of where the part is.
//!
//! ```text
//!   nonce info (chance) --> primary nonce --> volume nonce --> save nonce
//!                           super block       index pages,     save headers
//!                                             volume index
//! ```
//!
//! So an index made anew knows none of what an old one left in the same blocks.

use super::super::codec::{le64, put32, put64};
use crate::hash::murmur3_x64_128;

/// Chance that an index's nonces come from: the time it is made, and a random number, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NonceInfo(pub [u8; 32]);

impl NonceInfo {
    /// From the time in nanoseconds since 1970 and a random number.
    pub fn new(nanoseconds: u64, random: u32) -> NonceInfo {
        let mut once = [0; 12];
        put64(&mut once, 0, nanoseconds);
        put32(&mut once, 8, random);
        let mut info = [0; 32];
        for (to, from) in info.iter_mut().zip(once.iter().cycle()) {
            *to = *from;
        }
        NonceInfo(info)
    }

    /// When it was made, in nanoseconds since 1970.
    pub fn nanoseconds(&self) -> u64 {
        le64(&self.0, 0)
    }

    /// The nonce in the super block.
    pub fn primary(&self) -> u64 {
        hash(0xa1b1_e0fc, &self.0)
    }

    /// The nonce in chapters and in the volume index, of an index whose volume region begins at block `volume_start`.
    pub fn volume(&self, volume_start: u64) -> u64 {
        let primary = self.primary();
        let mut place = [0; 16];
        put64(&mut place, 0, volume_start);
        match hash(primary.wrapping_add(1), &place) {
            0 => hash((!primary).wrapping_add(2), &place),
            nonce => nonce,
        }
    }
}

/// The nonce of a save that was begun at `time` (milliseconds since 1970) in the slot at block `slot_start`.
pub fn save_nonce(volume_nonce: u64, time: u64, slot_start: u64) -> u64 {
    let mut data = [0; 32];
    put64(&mut data, 0, time);
    put32(&mut data, 16, 1);
    put64(&mut data, 24, slot_start);
    hash(volume_nonce.wrapping_add(1), &data)
}

fn hash(start: u64, data: &[u8]) -> u64 {
    let seed = (start ^ start >> 27) as u32;
    le64(&murmur3_x64_128(data, seed), 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_nonce_depends_on_all_before_it() {
        let (one, other) = (NonceInfo::new(1, 2), NonceInfo::new(1, 3));
        assert_eq!(one.0[..12], one.0[12..24]);
        assert_ne!(one.primary(), other.primary());
        assert_ne!(one.volume(3), one.volume(4));
        let nonce = one.volume(3);
        assert_ne!(save_nonce(nonce, 5, 9), save_nonce(nonce, 6, 9));
        assert_ne!(save_nonce(nonce, 5, 9), save_nonce(nonce, 5, 10));
    }
}
