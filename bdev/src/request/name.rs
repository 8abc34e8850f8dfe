//! Step 4: the data is named, and its hash zone finds or makes its one copy.
//!
//! Hashing several blocks together takes a fraction of the time of one after the other. So a write whose
//! data is complete waits until the thread has nothing else to move, and all that have gathered are named
//! at one go. Then each enters the hash zone of its name, which speaks in [`Verdict`]s.

use std::sync::Arc;

use super::Requests;
use super::record::Stage;
use crate::hash::{Block, hash_blocks};
use crate::seam::{HostRequest, RequestKind};
use crate::types::{BLOCK_SIZE, RecordName};
use crate::zone::events::Verdict;
use crate::zone::generations::Generation;
use crate::zone::logical_locks::SlotIndex;

/// Most blocks hashed in one go.
const GROUP: usize = 32;

impl<R: HostRequest> Requests<R> {
    /// Names what has gathered and sends it on; says whether there was any.
    pub(super) fn name_gathered(&mut self) -> bool {
        if self.unnamed.is_empty() {
            return false;
        }
        let mut unnamed = std::mem::take(&mut self.unnamed);
        for group in unnamed.chunks(GROUP) {
            static NOTHING: Block = [0; BLOCK_SIZE];
            let mut blocks = [&NOTHING; GROUP];
            for (block, slot) in blocks.iter_mut().zip(group) {
                let data = &self.records[slot.0 as usize].data;
                *block = data.first_block();
            }
            let mut names = [RecordName::default(); GROUP];
            let names = &mut names[..group.len()];
            hash_blocks(&blocks[..group.len()], names);
            self.zone.foresee(names);
            for (slot, name) in group.iter().zip(names) {
                self.share(*slot, *name);
            }
        }
        unnamed.clear();
        self.unnamed = unnamed;
        true
    }

    fn share(&mut self, slot: SlotIndex, name: RecordName) {
        self.wait(slot, Stage::Share);
        let data = Arc::clone(&self.vio(slot).data);
        let packs = self.may_pack(slot);
        let (hash_zone, promised) = self.zone.enter_hash_zone(slot, name, data, packs);
        self.vio(slot).hash_zone = hash_zone;
        if promised {
            self.promised(slot);
        }
    }

    /// Until which generation is closed a write may lie in a packer: its own, if its caller does not wait for it, nor anyone
    /// else yet.
    #[inline]
    fn may_pack(&mut self, slot: SlotIndex) -> Generation {
        if !self.zone.shared.compression() {
            return Generation::BEFORE_ALL;
        }
        let vio = &self.records[slot.0 as usize];
        let waited_for =
            vio.fua || vio.kind != RequestKind::Write || self.zone.locks.is_awaited(slot);
        vio.generation
            .filter(|generation| !waited_for && !self.zone.generations.is_closed(*generation))
            .unwrap_or(Generation::BEFORE_ALL)
    }

    /// There will be a place for the data, whatever comes.
    fn promised(&mut self, slot: SlotIndex) {
        let vio = self.vio(slot);
        vio.promised = true;
        if !vio.fua {
            vio.answer(0);
        }
    }

    /// The hash zone has something to say.
    pub(super) fn judged(&mut self, slot: SlotIndex, verdict: Verdict) {
        match verdict {
            Verdict::Promise => self.promised(slot),
            Verdict::Place(placed) => {
                let vio = self.vio(slot);
                vio.placed = Some(placed);
                vio.target = placed.mapping();
                self.replace(slot);
            }
            Verdict::Refuse(error) => self.finish(slot, Err(error)),
            Verdict::Release => self.astray(slot, Stage::Share, &"a release before a place"),
        }
    }
}
