//! Writing, zeroing or unmapping a block, step by step.
//!
//! 1. The logical block is locked, and the write enters the current flush generation.
//! 2. The block map finds, or makes, the leaf page and the slot in it.
//! 3. The caller's bytes are copied into the slot's buffer, merged with the old block if they are a part of it.
//!    All zero, zeroed or unmapped: on to 7.
//! 4. A physical block is allocated, and the write acknowledged unless it must be durable first.
//! 5. The data is named, and meets others with the same in the hash zone ([`super::share`]).
//! 6. New data is written to the base device.
//! 7. The mapping is journaled, counted and put into the leaf ([`super::remap`]).
//! 8. Everything is let go of.
//!
//! Once a write is acknowledged its failure can no longer be told. Losing it would break the promise
//! a flush makes, so such a failure turns the volume read-only.

use std::rc::Rc;

use super::pieces::Piece;
use super::slot::{Caller, Slot};
use crate::error::VdoError;
use crate::hash::is_zero_block;
use crate::runtime::services::BlockMapSlot;
use crate::seam::{HostRequest, RequestKind};
use crate::types::{Mapping, Pbn};

impl Slot {
    pub(super) async fn write<R: HostRequest>(&mut self, piece: Piece<R>) {
        let zone = Rc::clone(&self.zone);
        let lbn = piece.lbn;
        zone.locks.lock(lbn, self.index).await;
        let generation = zone.generations.enter();
        let mut caller = Caller::new(piece.request.clone(), piece.length);
        let result = self.write_locked(piece, &mut caller).await;
        zone.hide_written_data(self.index);
        if let Err(error) = &result {
            zone.counters.count_error(error);
            if caller.data().is_none() {
                zone.services.enter_read_only_because(
                    error,
                    format_args!("a write of logical block {lbn} failed after it was acknowledged"),
                );
            }
        }
        caller.finish(&result);
        zone.locks.unlock(lbn, self.index);
        zone.generations.leave(generation);
    }

    async fn write_locked<R: HostRequest>(
        &mut self,
        piece: Piece<R>,
        caller: &mut Caller<R>,
    ) -> Result<(), VdoError> {
        let zone = Rc::clone(&self.zone);
        if zone.is_read_only() {
            return Err(VdoError::ReadOnly);
        }
        let clears = piece.kind != RequestKind::Write;
        let Some(slot) = zone.block_map.locate(piece.lbn, !clears).await? else {
            // Nothing is mapped here, not even by a page: it reads as zeroes already.
            return Ok(());
        };
        if clears && !piece.is_partial() {
            let target = match piece.kind {
                RequestKind::Unmap => Mapping::UNMAPPED,
                _ => Mapping::ZERO,
            };
            return self.map_nothing(slot, target, piece.fua, caller).await;
        }
        self.fill(&piece, slot).await?;
        if is_zero_block(&self.data) {
            return self
                .map_nothing(slot, Mapping::ZERO, piece.fua, caller)
                .await;
        }
        zone.show_written_data(self.index, &self.data);

        let allocation = match zone.allocate().await {
            Ok(pbn) => Some(pbn),
            Err(VdoError::NoSpace) => None,
            Err(error) => return Err(error),
        };
        if allocation.is_some() {
            zone.promise_written_data(self.index);
            if !piece.fua {
                caller.acknowledge();
            }
        }
        drop(piece);
        self.place(slot, allocation, caller).await
    }

    /// Fills the slot's buffer with the block as it is to be.
    async fn fill<R: HostRequest>(
        &mut self,
        piece: &Piece<R>,
        slot: BlockMapSlot,
    ) -> Result<(), VdoError> {
        if !piece.is_partial() {
            piece.request.copy_in(piece.start, self.data_mut()?);
            return Ok(());
        }
        self.zone.counters.partial_write();
        let old = self.zone.block_map.get(slot).await?;
        self.read_mapped(old).await?;
        let scratch = self
            .scratch
            .take()
            .expect("the scratch buffer is home between I/Os");
        let range = piece.offset..piece.offset + piece.length;
        let data = self.data_mut()?;
        data.copy_from_slice(&scratch);
        match piece.kind {
            RequestKind::Write => piece.request.copy_in(piece.start, &mut data[range]),
            _ => data[range].fill(0),
        }
        self.scratch = Some(scratch);
        Ok(())
    }

    /// Maps the block to zeroes or to nothing.
    async fn map_nothing<R: HostRequest>(
        &mut self,
        slot: BlockMapSlot,
        target: Mapping,
        fua: bool,
        caller: &mut Caller<R>,
    ) -> Result<(), VdoError> {
        if !fua {
            caller.acknowledge();
        }
        match target.state.is_mapped() {
            true => self.zone.counters.zero_block(),
            false => self.zone.counters.discarded_block(),
        }
        self.remap(slot, target).await?;
        Ok(())
    }

    /// Names the data, finds or makes its one copy, and maps the block to it.
    async fn place<R: HostRequest>(
        &mut self,
        slot: BlockMapSlot,
        allocation: Option<Pbn>,
        caller: &mut Caller<R>,
    ) -> Result<(), VdoError> {
        let zone = Rc::clone(&self.zone);
        let name = zone.hasher.name(self.index, &self.data).await;
        let (result, lock_left) = self.share(slot, name, allocation, caller).await;
        if let Some(pbn) = lock_left {
            zone.release_lock(pbn);
        }
        result
    }
}
