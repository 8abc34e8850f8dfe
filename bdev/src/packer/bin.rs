//! One bin of the packer: a block, and the fragments in it so far.

use crate::buffer::Buffer;
use crate::dedupe::RequestId;
use crate::format::compressed_block::{self, DATA_SIZE, MAXIMUM_FRAGMENTS};
use crate::seam::Nanos;

/// Nobody: a place that is not taken.
const NOBODY: RequestId = RequestId(u32::MAX);

/// The writes whose fragments make up one block, in the order of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Company {
    ids: [RequestId; MAXIMUM_FRAGMENTS],
    len: usize,
}

impl Company {
    const NONE: Company = Company {
        ids: [NOBODY; MAXIMUM_FRAGMENTS],
        len: 0,
    };

    /// How many there are: two or more, once they have left the packer.
    pub fn size(&self) -> u8 {
        self.len as u8
    }

    /// Each of them.
    pub fn ids(&self) -> &[RequestId] {
        &self.ids[..self.len]
    }

    /// The one there is, if there is but one.
    pub(super) fn only(&self) -> Option<RequestId> {
        (self.len == 1).then_some(self.ids[0])
    }
}

/// One bin.
#[derive(Debug)]
pub(super) struct Bin {
    block: Buffer,
    company: Company,
    /// How long each fragment is.
    sizes: [u16; MAXIMUM_FRAGMENTS],
    /// The fragments together, in bytes.
    used: usize,
    opened: Nanos,
}

impl Bin {
    /// An empty bin over `block`.
    pub(super) fn new(block: Buffer, now: Nanos) -> Bin {
        Bin {
            block,
            company: Company::NONE,
            sizes: [0; MAXIMUM_FRAGMENTS],
            used: 0,
            opened: now,
        }
    }

    /// Bytes in it.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Since when it is there.
    pub(super) fn opened(&self) -> Nanos {
        self.opened
    }

    /// Whether a fragment of so many bytes goes in besides.
    pub(super) fn has_room_for(&self, size: usize) -> bool {
        size <= DATA_SIZE - self.used
    }

    /// Whether no other fragment can.
    pub(super) fn is_full(&self) -> bool {
        self.company.len == MAXIMUM_FRAGMENTS || self.used == DATA_SIZE
    }

    /// Whether a write's fragment is in it.
    pub(super) fn holds(&self, id: RequestId) -> bool {
        self.company.ids().contains(&id)
    }

    /// Adds a fragment, for which there is room.
    pub(super) fn add(&mut self, id: RequestId, fragment: &[u8]) {
        let slot = self.company.len;
        let data = compressed_block::data_mut(self.block.first_block_mut());
        data[self.used..][..fragment.len()].copy_from_slice(fragment);
        self.company.ids[slot] = id;
        self.company.len += 1;
        self.sizes[slot] = fragment.len() as u16;
        self.used += fragment.len();
    }

    /// Takes the fragment of a write out; those behind it move up. Says whether any is left.
    pub(super) fn take_out(&mut self, id: RequestId) -> bool {
        let Some(slot) = self.company.ids().iter().position(|other| *other == id) else {
            return true;
        };
        let size = usize::from(self.sizes[slot]);
        let start: usize = self.sizes[..slot].iter().copied().map(usize::from).sum();
        let data = compressed_block::data_mut(self.block.first_block_mut());
        data.copy_within(start + size..self.used, start);
        let len = self.company.len;
        self.company.ids.copy_within(slot + 1..len, slot);
        self.sizes.copy_within(slot + 1..len, slot);
        self.company.ids[len - 1] = NOBODY;
        self.sizes[len - 1] = 0;
        self.company.len -= 1;
        self.used -= size;
        self.company.len > 0
    }

    /// Whose fragments are in it.
    pub(super) fn company(&self) -> &Company {
        &self.company
    }

    /// The block as it is to be written. Behind the fragments it is zero.
    pub(super) fn finish(mut self) -> Buffer {
        compressed_block::finish(self.block.first_block_mut(), &self.sizes);
        self.block
    }

    /// The block, for another bin.
    pub(super) fn into_block(self) -> Buffer {
        self.block
    }
}
