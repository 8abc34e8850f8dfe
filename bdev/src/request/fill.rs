//! Step 3: the block as it is to be is put together in the record's own buffer.
//!
//! The caller's bytes are copied once, here. If they are a part of a block, the old block is read first and
//! they are merged into it. A block that turns out to be all zero needs no place.

use super::Requests;
use super::record::{Purpose, Stage};
use crate::hash::is_zero_block;
use crate::seam::{HostRequest, RequestKind};
use crate::types::Mapping;
use crate::zone::logical_locks::SlotIndex;

impl<R: HostRequest> Requests<R> {
    pub(super) fn fill(&mut self, slot: SlotIndex) {
        if self.vio(slot).is_partial() {
            self.zone.counters.partial_write();
            return self.look_up(slot, Purpose::Merge);
        }
        self.copy_in(slot, None);
    }

    /// Copies the caller's bytes in, over the `old` block if they are only a part.
    pub(super) fn copy_in(&mut self, slot: SlotIndex, old: Option<&[u8]>) {
        let vio = &mut self.records[slot.0 as usize];
        let (range, start, kind) = (vio.range(), vio.start, vio.kind);
        let caller = vio.caller.take();
        let data = match vio.data_mut() {
            Ok(data) => data,
            Err(error) => {
                vio.caller = caller;
                return self.finish(slot, Err(error.into()));
            }
        };
        if let Some(old) = old {
            data.copy_from_slice(old);
        }
        match (&caller, kind) {
            (Some(caller), RequestKind::Write) => caller.copy_in(start, &mut data[range]),
            _ => data[range].fill(0),
        }
        let is_zero = is_zero_block(data);
        vio.caller = caller;
        if is_zero {
            return self.map_nothing(slot, Mapping::ZERO);
        }
        self.unnamed.push(slot);
        self.wait(slot, Stage::Name);
    }
}
