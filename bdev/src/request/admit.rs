//! Step 1: a piece of a caller's request gets a record, and the lock of its logical block.
//!
//! Callers' requests wait in a [`line`](super::line), and each gets a record for its next piece in turn: a large request
//! never keeps a small one waiting for longer than one piece of each takes.
//!
//! An unmap or a write of zeroes has its turn in the same line, and passes what is not mapped ([`super::sweep`]).
//!
//! When the volume shuts down, what stands in the line is served for a while ([`Zone::is_late`]); then the rest of it is refused, so
//! that long requests hold up no shutdown.
//!
//! [`Zone::is_late`]: crate::zone::owner::Zone::is_late
//!
//! A read that meets a write of the same block in flight, whose data is safe in memory and certain to find
//! a place, is answered from that memory at once: it sees what the caller of the write was told is
//! written.

use super::Requests;
use super::line::Waiting;
use super::pieces::{Cursor, Piece};
use super::record::Stage;
use super::sweep::Sweep;
use crate::error::VdoError;
use crate::runtime::stopwatch::Stretch;
use crate::seam::{HostRequest, RequestKind};
use crate::types::Lbn;
use crate::zone::logical_locks::SlotIndex;

/// Most pieces that are admitted at one go. Before the first of them goes on, the memory of the block map that all of them need is on
/// its way.
pub(super) const GROUP: usize = 32;

impl<R: HostRequest> Requests<R> {
    /// A request has come for this zone. One that has overtaken the end of the volume is refused.
    pub(crate) fn arrive(&mut self, cursor: Cursor<R>) {
        let shared = &self.zone.shared;
        let now = self.zone.scheduler.now();
        let waiting = match cursor.header().kind {
            RequestKind::Unmap | RequestKind::WriteZeroes => {
                let (request, header) = cursor.into_parts();
                let forest = shared.extent.tree();
                let trees = shared.owners.trees_of(self.zone.index);
                let sweep = Sweep::new(request, header, forest, trees, now);
                Waiting::Sweep(Box::new(sweep))
            }
            _ => Waiting::Pieces(cursor, now),
        };
        if self.zone.is_late() {
            return self.refuse(waiting);
        }
        self.line.join(waiting);
        self.count_waiting();
    }

    /// Refuses what is left of a request, for the volume shuts down.
    fn refuse(&self, waiting: Waiting<R>) {
        let error = VdoError::ShuttingDown;
        match waiting {
            Waiting::Sweep(sweep) => sweep.refuse(&error),
            Waiting::Pieces(mut cursor, _) => {
                let shared = &self.zone.shared;
                while let Some(piece) = cursor.next(&shared.owners, self.zone.index) {
                    piece.request.complete(piece.length as u64, error.errno());
                }
            }
        }
    }

    pub(super) fn count_waiting(&self) {
        let waiting = self.line.len() + self.parked.len();
        self.zone.gauge.waiting.set(waiting as u32);
    }

    /// Gives records to waiting pieces, as many as there are of both and `room` allows; says whether there were any.
    pub(super) fn admit_waiting(&mut self, room: &mut usize) -> bool {
        if self.line.len() == 0 {
            return false;
        }
        if self.zone.is_late() {
            while let Some(waiting) = self.line.send_away() {
                self.refuse(waiting);
            }
        }
        let mut any = false;
        while *room > 0
            && let Some(&slot) = self.idle.last()
            && let Some(waiting) = self.line.next(self.idle.len())
        {
            any = true;
            match waiting {
                Waiting::Pieces(mut cursor, came) => {
                    let shared = &self.zone.shared;
                    let piece = cursor.next(&shared.owners, self.zone.index);
                    if piece.is_some() && !cursor.is_finished() {
                        self.line.join(Waiting::Pieces(cursor, came));
                    }
                    if let Some(piece) = piece {
                        *room -= 1;
                        self.idle.pop();
                        self.zone.lap(Stretch::Line, slot.0, came);
                        self.take_up(slot, piece);
                        if self.taken_up.len() == GROUP {
                            self.admit_taken_up();
                        }
                    }
                }
                Waiting::Sweep(sweep) => {
                    *room -= 1;
                    self.idle.pop();
                    // It has to see whose locks are held.
                    self.admit_taken_up();
                    self.take_turn(slot, sweep, false);
                }
            }
        }
        self.admit_taken_up();
        self.count_waiting();
        self.zone.wake_if_quiet();
        any
    }

    /// Puts a piece into a record, to be admitted with others.
    pub(super) fn take_up(&mut self, slot: SlotIndex, piece: Piece<R>) {
        self.vio(slot).fill(piece);
        self.foresee(slot);
        self.taken_up.push(slot);
    }

    /// Admits the pieces that were taken up, in their order.
    pub(super) fn admit_taken_up(&mut self) {
        let mut taken_up = std::mem::take(&mut self.taken_up);
        for slot in taken_up.drain(..) {
            self.admit(slot);
        }
        self.taken_up = taken_up;
    }

    /// A piece has its record.
    fn admit(&mut self, slot: SlotIndex) {
        let gauge = &self.zone.gauge;
        gauge.busy.set(gauge.busy.get() + 1);
        gauge.peak.set(gauge.peak.get().max(gauge.busy.get()));
        let vio = &self.records[slot.0 as usize];
        let (lbn, kind, partial, fua) = (vio.lbn, vio.kind, vio.is_partial(), vio.fua);
        self.zone.counters.admitted(kind, partial, fua);
        if kind == RequestKind::Read && self.read_from_write(slot) {
            return;
        }
        match self.zone.locks.lock(lbn, slot) {
            true => self.locked(slot),
            false => {
                self.hurry_holder(lbn);
                self.wait(slot, Stage::Lock);
            }
        }
    }

    /// Answers a read from the write that holds its block's lock, if that is certain to succeed.
    fn read_from_write(&mut self, slot: SlotIndex) -> bool {
        let vio = &self.records[slot.0 as usize];
        let Some(holder) = self.zone.locks.holder(vio.lbn) else {
            return false;
        };
        let write = &self.records[holder.0 as usize];
        if !write.promised {
            return false;
        }
        if let Some(caller) = &vio.caller {
            caller.copy_out(vio.start, &write.data[vio.range()]);
        }
        self.vio(slot).answer(0);
        self.free(slot);
        true
    }

    /// Somebody waits for the lock of a block: a write that holds it is not to lie in a packer. One that has not entered its hash
    /// zone yet sees that for itself.
    fn hurry_holder(&self, lbn: Lbn) {
        if !self.zone.shared.compression() {
            return;
        }
        let Some(holder) = self.zone.locks.holder(lbn) else {
            return;
        };
        let write = &self.records[holder.0 as usize];
        if write.stage == Stage::Share {
            self.zone.hurry(write.hash_zone, holder);
        }
    }

    /// The request has the lock of its logical block.
    pub(super) fn locked(&mut self, slot: SlotIndex) {
        let generations = &self.zone.generations;
        let vio = &mut self.records[slot.0 as usize];
        match vio.kind {
            RequestKind::Read => {}
            // Flushes have a desk of their own; one that comes here has nothing to wait for.
            RequestKind::Flush => return self.finish(slot, Ok(())),
            RequestKind::Write | RequestKind::WriteZeroes | RequestKind::Unmap => {
                vio.generation = Some(generations.enter());
                if self.zone.is_read_only() {
                    return self.finish(slot, Err(VdoError::ReadOnly.into()));
                }
            }
        }
        self.find(slot);
    }
}
