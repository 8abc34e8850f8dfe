//! Reading the block a request is about: to answer a read (its last step), or to merge a partial write into it.
//!
//! A block that maps to nothing or to zeroes costs no I/O. A whole block is read straight into the
//! caller's memory where that can be, else into a buffer of the zone's and from there.

use super::record::{Purpose, Stage};
use super::{Outcome, Requests};
use crate::buffer::Buffer;
use crate::runtime::base::{IoEnd, IoOwner};
use crate::seam::HostRequest;
use crate::types::{BLOCK_SIZE, Mapping, Pbn};
use crate::zone::fragments;
use crate::zone::logical_locks::SlotIndex;

/// What a block that holds nothing reads as.
static ZEROES: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];

impl<R: HostRequest> Requests<R> {
    /// Answers a read of a block that holds nothing.
    pub(super) fn answer_zeroes(&mut self, slot: SlotIndex) {
        self.zone.counters.unmapped_read();
        self.copy_out(slot, &ZEROES);
        self.finish(slot, Ok(()));
    }

    fn copy_out(&self, slot: SlotIndex, block: &[u8]) {
        let vio = &self.records[slot.0 as usize];
        if let Some(caller) = &vio.caller {
            caller.copy_out(vio.start, &block[vio.range()]);
        }
    }

    /// Reads what the block is mapped to.
    pub(super) fn read_mapped(&mut self, slot: SlotIndex, purpose: Purpose, mapping: Mapping) {
        if mapping.pbn == Pbn::ZERO {
            return match purpose {
                Purpose::Answer => self.answer_zeroes(slot),
                _ => self.merge(slot, Ok(&ZEROES)),
            };
        }
        let vio = &mut self.records[slot.0 as usize];
        vio.target = mapping;
        let direct =
            purpose == Purpose::Answer && !mapping.state.is_compressed() && !vio.is_partial();
        let memory = vio.caller.as_ref().filter(|_| direct);
        if let Some(memory) = memory.and_then(|caller| caller.direct(vio.start, BLOCK_SIZE)) {
            self.wait(slot, Stage::Read(purpose));
            let owner = IoOwner::Request(slot.0);
            // SAFETY: the host vouches for the caller's memory until the request completes, and the
            // record keeps the request until the read has ended.
            return unsafe { self.zone.base.start_read_direct(owner, mapping.pbn, memory) };
        }
        match self.zone.scratch.take(IoOwner::Request(slot.0)) {
            Some(buffer) => self.read_into(slot, purpose, buffer),
            None => self.wait(slot, Stage::Buffer(purpose)),
        }
    }

    pub(super) fn read_into(&mut self, slot: SlotIndex, purpose: Purpose, buffer: Buffer) {
        self.wait(slot, Stage::Read(purpose));
        let pbn = self.vio(slot).target.pbn;
        let owner = IoOwner::Request(slot.0);
        self.zone.base.start_read(owner, pbn, buffer);
    }

    pub(super) fn read_ended(&mut self, slot: SlotIndex, purpose: Purpose, end: IoEnd) {
        let result = end.result().map_err(Box::new);
        let Some(mut buffer) = end.into_buffer() else {
            // It went straight to the caller.
            return self.finish(slot, result);
        };
        let mapping = self.vio(slot).target;
        let result = result.and_then(|()| Ok(fragments::unpack(&mut buffer, mapping)?));
        match (purpose, result) {
            (Purpose::Answer, result) => {
                if result.is_ok() {
                    self.copy_out(slot, &buffer);
                }
                self.finish(slot, result);
            }
            (_, result) => self.merge(slot, result.map(|()| &buffer[..BLOCK_SIZE])),
        }
        self.zone.scratch.give(buffer);
    }

    fn merge(&mut self, slot: SlotIndex, old: Outcome<&[u8]>) {
        match old {
            Ok(old) => self.copy_in(slot, Some(old)),
            Err(error) => self.finish(slot, Err(error)),
        }
    }
}
