//! Writes whose data is compressed: into the packer, out of it, and onto the base device.
//!
//! 1. A write that would be written now is compressed, if its request may lie in the packer ([`Entrant::packs`]). If its
//!    fragment finds a place there, it lies in wait for company, and gets its hash lock if it has none: what follows is
//!    out of the ordinary. Its caller has its answer.
//! 2. Somebody comes to wait for it (a write of the same data, or of the same logical block), and it is taken out and written
//!    as it is. A flush, a shutdown, a deadline take all out.
//! 3. With others it becomes a block, which is written to the block allocated to the first of them ([`HashZone::depart`]).
//! 4. When the block is on disk, its write lock becomes a read lock shared by all, with a reference set apart for each. The
//!    others give up their own allocations. Each request is told its fragment, and goes on by itself.
//!
//! A block that cannot be written leaves each of them where it was: each is written to its own allocation.
//!
//! [`Entrant::packs`]: super::super::message::Entrant::packs

use super::super::events::Placed;
use super::super::generations::Generation;
use super::super::message::{MemberCall, RequestAddress};
use super::super::owner::Zone;
use super::action::hold;
use super::member::{Place, Waits, number_of};
use super::{HashState, HashZone};
use crate::dedupe::{Answer, RequestId, WrittenAt};
use crate::depot::IncrementBudget;
use crate::error::VdoError;
use crate::format::compressed_block::state_of_slot;
use crate::lz4::Compressor;
use crate::packer::{Company, Leaving, Packer, Put};
use crate::runtime::base::{IoEnd, IoOwner};
use crate::runtime::table::{Key, Table};
use crate::seam::Nanos;
use crate::stats::PackerStatistics;
use crate::types::{Mapping, ZoneIndex};

/// What a hash zone needs to pack.
pub(super) struct Packing {
    packer: Packer,
    compressor: Compressor,
    /// Whose data is in the blocks that are being written.
    batches: Table<Company>,
    /// Of each zone thread the last generation of which no write is to lie in the packer.
    closed: Box<[Generation]>,
    /// The volume shuts down: nothing is packed any more.
    shut: bool,
    /// Fragments written, and blocks of them.
    written: (u64, u64),
}

impl Packing {
    /// With an empty packer, for a volume of so many zone threads.
    pub(super) fn new(packer: Packer, zones: u8) -> Packing {
        Packing {
            batches: Table::with_capacity(packer.blocks()),
            packer,
            compressor: Compressor::default(),
            closed: vec![Generation::BEFORE_ALL; usize::from(zones)].into(),
            shut: false,
            written: (0, 0),
        }
    }

    /// Bytes of memory it holds, blocks for I/O aside.
    pub(super) fn memory_held(&self) -> usize {
        let closed = size_of_val(&*self.closed);
        let tables = self.packer.memory_held() + self.batches.memory_held();
        tables + self.compressor.memory_held() + closed
    }

    pub(super) fn statistics(&self) -> PackerStatistics {
        let (fragments, blocks) = self.written;
        PackerStatistics {
            compressed_fragments_written: fragments,
            compressed_blocks_written: blocks,
            compressed_fragments_in_packer: u64::from(self.packer.lying()),
        }
    }

    /// Whether nothing lies here or is being written.
    pub(super) fn is_empty(&self) -> bool {
        self.packer.lying() == 0 && self.batches.len() == 0
    }

    pub(super) fn deadline(&self) -> Option<Nanos> {
        self.packer.deadline()
    }
}

impl HashState {
    /// Compresses the data of a write that may lie in the packer, and puts it there if there is a place.
    fn put(&mut self, id: RequestId, now: Nanos) -> Put {
        let packing = &mut self.packing;
        let Some(member) = &mut self.members[id.0 as usize] else {
            return Put::Alone;
        };
        let closed = packing.closed[member.from.zone.index()];
        if packing.shut || member.packs <= closed {
            return Put::Alone;
        }
        let block = member.data.first_block();
        let Some(fragment) = packing.compressor.compress(block) else {
            return Put::Alone;
        };
        let put = packing.packer.put(id, fragment, now);
        if let Put::Lies(_) = put {
            member.waits = Waits::Packer;
            self.adopt(id);
        }
        put
    }
}

impl HashZone {
    /// Writes the data of a write for its hash lock, or for itself alone: packed, if that can be.
    #[inline]
    pub(super) fn write_or_pack(&self, zone: &Zone, id: RequestId) {
        if !zone.shared.compression() || !self.pack(zone, id) {
            self.write(zone, id, false);
        }
    }

    fn pack(&self, zone: &Zone, id: RequestId) -> bool {
        if zone.is_read_only() {
            return false;
        }
        let put = self.state.borrow_mut().put(id, zone.scheduler.now());
        match put {
            Put::Alone => false,
            Put::Lies(leaving) => {
                if let Some(leaving) = leaving {
                    self.depart(zone, leaving);
                }
                true
            }
        }
    }

    /// Writes what has left the packer.
    fn depart(&self, zone: &Zone, leaving: Leaving) {
        let (company, block) = match leaving {
            Leaving::Alone(id) => return self.write(zone, id, false),
            Leaving::Together(company, block) => (company, block),
        };
        let first = company.ids()[0];
        let pbn = self.with(first, |member| member.allocation).flatten();
        let Some(pbn) = pbn.filter(|_| !zone.is_read_only()) else {
            self.state.borrow_mut().packing.packer.give_back(block);
            return company
                .ids()
                .iter()
                .for_each(|id| self.fail(zone, *id, VdoError::ReadOnly));
        };
        {
            let state = &mut *self.state.borrow_mut();
            let (fragments, blocks) = &mut state.packing.written;
            *fragments += u64::from(company.size());
            *blocks += 1;
            let batch = state.packing.batches.insert(company);
            for id in company.ids() {
                if let Some(member) = &mut state.members[id.0 as usize] {
                    member.waits = Waits::Packed { batch };
                }
            }
        }
        let owner = IoOwner::Member(first.0);
        zone.base.start_write_owned(owner, pbn, block);
    }

    /// A block of fragments has been written, or could not be.
    pub(super) fn packed_written(&self, zone: &Zone, batch: Key<Company>, end: IoEnd) {
        let result = end.result();
        let company = {
            let packing = &mut self.state.borrow_mut().packing;
            if let Some(block) = end.into_buffer() {
                packing.packer.give_back(block);
            }
            match result {
                Ok(()) => packing.batches.get(batch).copied(),
                Err(_) => packing.batches.remove(batch),
            }
        };
        let Some(company) = company else {
            return;
        };
        if result.is_err() {
            return company
                .ids()
                .iter()
                .for_each(|id| self.write(zone, *id, false));
        }
        let (first, writers) = (company.ids()[0], company.size());
        let Some(pbn) = self.with(first, |member| member.allocation).flatten() else {
            return self.astray(zone, first, "was packed into no block");
        };
        match zone.owner_of(pbn) {
            Ok(owner) if owner == zone.index => {
                let budget = zone.physical.downgrade_write(pbn, writers);
                self.packed_shared(zone, batch, budget);
            }
            Ok(owner) => {
                zone.call_for_member(owner, first, MemberCall::Downgrade(pbn, writers));
            }
            Err(error) => self.packed_shared(zone, batch, Err(error)),
        }
    }

    /// The lock on a block of fragments is shared by all whose data is in it, or cannot be.
    pub(super) fn packed_shared(
        &self,
        zone: &Zone,
        batch: Key<Company>,
        budget: Result<IncrementBudget, VdoError>,
    ) {
        let company = self.state.borrow_mut().packing.batches.remove(batch);
        let Some(company) = company else {
            return;
        };
        let budget = match budget {
            Ok(budget) => budget,
            Err(error) => {
                return company
                    .ids()
                    .iter()
                    .for_each(|id| self.fail(zone, *id, error.clone()));
            }
        };
        let mut block = None;
        for (slot, &id) in company.ids().iter().enumerate() {
            let taken = {
                let state = &mut *self.state.borrow_mut();
                let member = state.members[id.0 as usize].as_mut();
                // From now on the hold on it is one of the shared, or there is none.
                let own = member.and_then(|member| member.allocation.take());
                let lock = hold(&mut state.locks, budget.clone());
                own.zip(state_of_slot(slot)).map(|place| (place, lock))
            };
            let Some(((own, fragment), lock)) = taken else {
                self.astray(zone, id, "was packed and had no block of its own");
                continue;
            };
            let pbn = *block.get_or_insert(own);
            if own != pbn {
                zone.release_lock(own);
            }
            let at = Mapping {
                pbn,
                state: fragment,
            };
            self.with(id, |member| member.fragment = Some((at, lock)));
            self.place(zone, id, Placed::Fragment(at), Place::Fragment);
        }
    }

    /// A request has mapped its block to its fragment, or failed to.
    pub(super) fn fragment_mapped(&self, zone: &Zone, id: RequestId, succeeded: bool) {
        let shared = self.with(id, |member| member.fragment.take()).flatten();
        let answer = match shared {
            Some((at, lock)) if succeeded => Answer::Written(WrittenAt::Compressed(at, lock)),
            shared => Answer::Failed { shared },
        };
        self.answer(zone, id, answer);
    }

    /// Takes a write that somebody waits for out of the packer, if it lies there.
    pub(super) fn take_out(&self, zone: &Zone, id: RequestId) {
        let lay = self.state.borrow_mut().packing.packer.take_out(id);
        if lay {
            self.write(zone, id, false);
        }
    }

    /// Somebody waits for the write of a request: it is not to lie in the packer.
    pub fn hurry(&self, zone: &Zone, from: RequestAddress) {
        let id = number_of(from, zone.shared.slots_per_zone);
        if self
            .with(id, |member| member.packs = Generation::BEFORE_ALL)
            .is_some()
        {
            self.take_out(zone, id);
        }
    }

    /// Takes all out of the packer.
    pub fn empty_packer(&self, zone: &Zone) {
        while let Some(leaving) = self.next_leaving() {
            self.depart(zone, leaving);
        }
    }

    fn next_leaving(&self) -> Option<Leaving> {
        self.state.borrow_mut().packing.packer.leave_next()
    }

    /// Takes all out of the packer; no write of zone thread `from` that is of `closed` or an older generation comes in any more.
    pub fn empty_packer_for(&self, zone: &Zone, from: ZoneIndex, closed: Generation) {
        {
            let known = &mut self.state.borrow_mut().packing.closed[from.index()];
            *known = closed.max(*known);
        }
        self.empty_packer(zone);
    }

    /// Takes all out of the packer, and lets none in again.
    pub fn close_packer(&self, zone: &Zone) {
        self.state.borrow_mut().packing.shut = true;
        self.empty_packer(zone);
    }

    /// Takes those out of the packer that are due, if the deadline has come; says whether there were any.
    pub(super) fn expire_packed(&self, zone: &Zone, now: Nanos) -> bool {
        let mut any = false;
        while let Some(leaving) = self.next_due(now) {
            any = true;
            self.depart(zone, leaving);
        }
        any
    }

    fn next_due(&self, now: Nanos) -> Option<Leaving> {
        self.state.borrow_mut().packing.packer.next_due(now)
    }
}
