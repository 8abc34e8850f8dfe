//! Asking the owner of something: a plain call if that is this thread, a message if not. So the code that serves
//! a request reads the same for one zone thread and for eight.

use std::sync::Arc;

use super::events::{Event, Verdict};
use super::generations::Generation;
use super::logical_locks::SlotIndex;
use super::message::{
    AdminStep, Call, Entrant, MemberCall, Note, PeerMessage, Reply, RequestAddress,
};
use super::owner::Zone;
use super::post::wrong_reply;
use crate::buffer::Buffer;
use crate::dedupe::RequestId;
use crate::depot::WriteKind;
use crate::error::VdoError;
use crate::types::{JournalPoint, Pbn, RecordName, SequenceNumber, ZoneIndex};

/// Messages of another zone thread that are looked over together before they are taken in.
pub(super) const LETTERS_AT_ONCE: usize = 32;

impl Zone {
    pub(super) fn owner_of(&self, pbn: Pbn) -> Result<ZoneIndex, VdoError> {
        self.shared.physical_zone(pbn).ok_or_else(|| {
            VdoError::Inconsistent(format!("physical block {pbn} belongs to no slab"))
        })
    }

    /// A free block for a page of the block map, write-locked: of this thread's slabs if they have one, else of
    /// others'. While free blocks are not to be had yet, this waits for them rather than find none.
    pub async fn allocate_tree_page(&self) -> Result<Pbn, VdoError> {
        loop {
            let seen = self.shared.room.seen();
            let result = self.try_allocate_tree_page().await;
            let found_none = matches!(result, Err(VdoError::NoSpace));
            if !found_none || !self.shared.room.may_come(seen) {
                return result;
            }
            let is_settled = || self.shared.is_room_settled(seen);
            self.room_came.wait_until(is_settled).await;
        }
    }

    async fn try_allocate_tree_page(&self) -> Result<Pbn, VdoError> {
        let kind = WriteKind::BlockMap;
        let mut result = self.physical.allocate(kind);
        for step in 1..self.shared.zones {
            if !matches!(result, Err(VdoError::NoSpace)) {
                break;
            }
            let other = ZoneIndex((self.index.get() + step) % self.shared.zones);
            result = match self.post.call(other, Call::Allocate(kind)).await {
                Reply::Allocated(result) => result,
                reply => Err(wrong_reply("Allocate", &reply)),
            };
        }
        result
    }

    /// Gives up one hold on a block's lock.
    pub fn release_lock(&self, pbn: Pbn) {
        match self.owner_of(pbn) {
            Ok(owner) if owner == self.index => self.physical.release(pbn),
            Ok(owner) => self.post.note(owner, Note::ReleaseLock(pbn)),
            Err(error) => self.services.enter_read_only_because(
                &error,
                format_args!("a lock was to be released on a block that cannot be locked"),
            ),
        }
    }

    /// Asks the owner of a block, which is another thread, on behalf of a write of the hash zone here.
    pub(super) fn call_for_member(&self, to: ZoneIndex, member: RequestId, call: MemberCall) {
        let from = self.index;
        self.post.note(to, Note::MemberCall { from, member, call });
    }

    /// A request is done with its journal entry. The journal hears of several at once.
    pub fn release_entry(&self, point: JournalPoint) {
        let (sequence, number) = self.released.get();
        if sequence == point.sequence {
            self.released.set((sequence, number + 1));
        } else {
            self.tell_released();
            self.released.set((point.sequence, 1));
        }
    }

    /// Tells the journal which entries requests are done with.
    pub(crate) fn tell_released(&self) {
        let (sequence, number) = self.released.replace((SequenceNumber(0), 0));
        if number == 0 {
            return;
        }
        match &self.journal {
            Some(journal) => journal.release_entries(sequence, number),
            None => self
                .post
                .note(ZoneIndex(0), Note::ReleaseEntries(sequence, number)),
        }
    }

    /// Writes of data with these names are about to enter their hash zones, this one among them.
    pub fn foresee(&self, names: &[RecordName]) {
        self.hash.with_index(|shard| shard.foresee(names));
    }

    /// These messages are about to be taken in.
    pub(super) fn foresee_letters(&self, letters: &[PeerMessage]) {
        let mut names = [RecordName::default(); LETTERS_AT_ONCE];
        let entrants = letters.iter().filter_map(|letter| match letter {
            PeerMessage::Note(Note::Enter(entrant)) => Some(entrant.name),
            _ => None,
        });
        let mut count = 0;
        for (place, name) in names.iter_mut().zip(entrants) {
            *place = name;
            count += 1;
        }
        self.foresee(&names[..count]);
    }

    /// Takes the write in `slot` to the hash zone of its data's name, and says which that is, and whether it is known
    /// already that there will be a place for the data. It may lie in the packer there until `packs` is closed.
    pub fn enter_hash_zone(
        &self,
        slot: SlotIndex,
        name: RecordName,
        data: Arc<Buffer>,
        packs: Generation,
    ) -> (ZoneIndex, bool) {
        let from = RequestAddress {
            zone: self.index,
            slot,
        };
        let entrant = Entrant {
            from,
            name,
            data,
            packs,
        };
        let to = self.shared.names.of(&name);
        if packs > Generation::BEFORE_ALL {
            self.packing.set(self.packing.get() | 1 << to.get());
        }
        let promised = match to == self.index {
            true => self.hash.enter(self, entrant),
            false => {
                self.post.note(to, Note::Enter(entrant));
                false
            }
        };
        (to, promised)
    }

    /// Tells the hash zone that the write in `slot` is mapped to where its data is, or failed to be. Says whether the hash
    /// zone has forgotten its number; if not yet, the request will hear of it.
    pub fn report_mapped(&self, hash_zone: ZoneIndex, slot: SlotIndex, succeeded: bool) -> bool {
        let from = RequestAddress {
            zone: self.index,
            slot,
        };
        match hash_zone == self.index {
            true => self.hash.mapped(self, from, succeeded),
            false => {
                self.post.note(hash_zone, Note::Mapped(from, succeeded));
                false
            }
        }
    }

    /// Somebody waits for the write in `slot`, which has entered this hash zone: it is not to lie in the packer there.
    pub fn hurry(&self, hash_zone: ZoneIndex, slot: SlotIndex) {
        let from = RequestAddress {
            zone: self.index,
            slot,
        };
        match hash_zone == self.index {
            true => self.hash.hurry(self, from),
            false => self.post.note(hash_zone, Note::Hurry(from)),
        }
    }

    /// Takes the writes of this thread that are of `closed` or an older generation out of all packers, also those that are
    /// still on their way there.
    pub(crate) fn empty_packers(&self, closed: Generation) {
        let mut packing = self.packing.get();
        while packing != 0 {
            let to = ZoneIndex(packing.trailing_zeros() as u8);
            packing &= packing - 1;
            match to == self.index {
                true => self.hash.empty_packer_for(self, self.index, closed),
                false => self.post.note(to, Note::EmptyPacker(self.index, closed)),
            }
        }
    }

    /// Waits until the writes that are under way here now are over.
    pub(super) async fn barrier(&self) {
        if let Some(closed) = self.generations.close() {
            self.empty_packers(closed);
            self.packing.set(0);
            self.generations.wait_for(closed).await;
        }
    }

    /// Tells a request what its hash zone, which is here, says.
    pub(super) fn tell(&self, to: RequestAddress, verdict: Verdict) {
        match to.zone == self.index {
            true => self.events.put(to.slot, Event::Verdict(verdict)),
            false => self.post.note(to.zone, Note::Verdict(to.slot, verdict)),
        }
    }

    /// Waits, on every zone thread, for the writes now under way.
    pub(crate) async fn barrier_everywhere(&self) -> Result<(), VdoError> {
        let tokens = self.call_everywhere(|| Call::Barrier);
        self.barrier().await;
        self.replies_of_all(tokens, Ok(())).await
    }

    /// Takes a step on every zone thread at once; the first error is returned.
    pub(crate) async fn step_everywhere(&self, step: AdminStep) -> Result<(), VdoError> {
        let tokens = self.call_everywhere(|| Call::Admin(step.clone()));
        let mine = self.take_admin_step(step).await;
        self.replies_of_all(tokens, mine).await
    }

    /// Calls every other zone thread.
    fn call_everywhere(&self, call: impl Fn() -> Call) -> Vec<u32> {
        let others = (0..self.shared.zones)
            .map(ZoneIndex)
            .filter(|zone| *zone != self.index);
        others
            .map(|zone| self.post.start_call(zone, call()))
            .collect()
    }

    /// Waits for all replies, whatever comes, and returns the first error.
    async fn replies_of_all(
        &self,
        tokens: Vec<u32>,
        mut result: Result<(), VdoError>,
    ) -> Result<(), VdoError> {
        for token in tokens {
            let one = match self.post.reply_to(token).await {
                Reply::Done(result) => result,
                reply => Err(wrong_reply("Barrier or Admin", &reply)),
            };
            result = result.and(one);
        }
        result
    }
}
