//! Step 7: the caller is answered, if that was not done before, and everything is let go of.

use super::record::Stage;
use super::{Outcome, Requests};
use crate::error::VdoError;
use crate::seam::HostRequest;
use crate::zone::events::Event;
use crate::zone::logical_locks::SlotIndex;

impl<R: HostRequest> Requests<R> {
    /// Ends the request. Its record is free once its hash zone, if it has one that knows its number, has
    /// forgotten it.
    pub(super) fn finish(&mut self, slot: SlotIndex, result: Outcome<()>) {
        let vio = &mut self.records[slot.0 as usize];
        let lbn = vio.lbn;
        vio.promised = false;
        let errno = result.as_ref().map_or_else(|error| error.errno(), |()| 0);
        let told = vio.answer(errno);
        if let Err(error) = &result {
            self.fail(slot, error, told);
        }
        let vio = &mut self.records[slot.0 as usize];
        let generation = vio.generation.take();
        let known_to_hash_zone = vio.placed.is_some();
        if let Some(next) = self.zone.locks.unlock(lbn, slot) {
            self.zone.events.put(next, Event::Locked);
        }
        if let Some(generation) = generation {
            self.zone.generations.leave(generation);
        }
        match known_to_hash_zone {
            true => self.wait(slot, Stage::Leave),
            false => self.free(slot),
        }
    }

    #[cold]
    fn fail(&mut self, slot: SlotIndex, error: &VdoError, told: bool) {
        let vio = &self.records[slot.0 as usize];
        let (lbn, kind) = (vio.lbn, vio.kind);
        self.zone.counters.count_error(error);
        if told {
            log::debug!("{kind:?} of logical block {lbn} failed: {error}");
        } else {
            self.zone.services.enter_read_only_because(
                error,
                format_args!("a write of logical block {lbn} failed after it was acknowledged"),
            );
        }
    }

    /// The record is free for another piece.
    pub(super) fn free(&mut self, slot: SlotIndex) {
        let vio = &self.records[slot.0 as usize];
        let (kind, partial, fua) = (vio.kind, vio.is_partial(), vio.fua);
        self.wait(slot, Stage::Idle);
        self.zone.counters.acknowledged(kind, partial, fua);
        let gauge = &self.zone.gauge;
        gauge.busy.set(gauge.busy.get() - 1);
        self.idle.push(slot);
        self.zone.wake_if_quiet();
    }
}
