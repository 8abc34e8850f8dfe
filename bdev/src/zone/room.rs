//! Whether a free block may still come when there is none.
//!
//! Two kinds of free blocks are not to be had for a while: those of slabs that are not scrubbed or not read yet, and those
//! that are being discarded on the base device. Whoever finds none looks here whether to wait for them: it remembers how
//! often room had come before it asked ([`Room::seen`]), so that none that comes while it asks is missed.

use std::sync::atomic::{AtomicU32, Ordering};

/// How often room had come at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomSeen(u32);

/// The free blocks of a volume that are not to be had yet. Counted by all zone threads.
#[derive(Debug, Default)]
pub struct Room {
    /// Slabs that are not scrubbed yet, or not read.
    unrecovered: AtomicU32,
    /// Discards of free blocks that are under way.
    discards: AtomicU32,
    /// How often room has come.
    came: AtomicU32,
}

impl Room {
    /// How often room has come. To be asked before a block is, and after [`Room::unrecovered`] by whoever needs both.
    #[inline]
    pub fn seen(&self) -> RoomSeen {
        RoomSeen(self.came.load(Ordering::Acquire))
    }

    /// Whether there may be room for one who found none, or may come to be, since it looked at `seen`.
    pub fn may_come(&self, seen: RoomSeen) -> bool {
        self.is_expected() || self.seen() != seen
    }

    /// Whether one who waits for room since it looked at `seen` should ask again: some has come, or none will.
    pub fn has_come(&self, seen: RoomSeen) -> bool {
        !self.is_expected() || self.seen() != seen
    }

    fn is_expected(&self) -> bool {
        self.unrecovered() > 0 || self.discards.load(Ordering::Acquire) > 0
    }

    /// How many slabs are not scrubbed yet.
    #[inline]
    pub fn unrecovered(&self) -> u32 {
        self.unrecovered.load(Ordering::Acquire)
    }

    /// So many more slabs are to be scrubbed.
    pub fn slabs_to_scrub(&self, slabs: u32) {
        self.unrecovered.fetch_add(slabs, Ordering::AcqRel);
    }

    /// A slab was scrubbed. Says whether it was the last.
    pub fn slab_scrubbed(&self) -> bool {
        self.came.fetch_add(1, Ordering::AcqRel);
        self.unrecovered.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// One that stood for those that were not found yet is none. Says whether none is left.
    pub fn slabs_found(&self) -> bool {
        self.unrecovered.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// The volume has taken a larger device.
    pub fn grown(&self) {
        self.came.fetch_add(1, Ordering::AcqRel);
    }

    /// Free blocks are about to be discarded, and are not to be had until that has ended.
    pub fn discard_began(&self) {
        self.discards.fetch_add(1, Ordering::AcqRel);
    }

    /// They are to be had again.
    pub fn discard_ended(&self) {
        self.came.fetch_add(1, Ordering::AcqRel);
        self.discards.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_waited_for_while_slabs_are_scrubbed_or_blocks_discarded_and_no_longer() {
        let room = Room::default();
        let seen = room.seen();
        assert!(!room.may_come(seen), "a full volume is full");
        room.discard_began();
        assert!(room.may_come(seen) && !room.has_come(seen));
        room.discard_ended();
        assert!(room.has_come(seen));
        assert!(
            room.may_come(seen),
            "whoever asked before the discard ended asks once more"
        );
        assert!(!room.may_come(room.seen()));
        room.slabs_to_scrub(2);
        let seen = room.seen();
        assert!(room.may_come(seen) && !room.has_come(seen));
        assert!(!room.slab_scrubbed());
        assert!(room.has_come(seen) && !room.has_come(room.seen()));
        assert!(room.slab_scrubbed());
        let seen = room.seen();
        room.grown();
        assert!(room.may_come(seen), "whoever asked before asks once more");
        assert!(room.has_come(room.seen()));
    }
}
