//! Reading a block.
//!
//! 1. lock the logical block, after any write of it that is under way.
//! 2. find its mapping; a block that maps to nothing or to zeroes costs no I/O.
//! 3. read the physical block, straight into the caller's memory where that can be, else into the
//!    slot's and from there.
//!
//! A read that meets a write of the same block in flight, whose data is safe in memory and certain to
//! find a place, is answered from that memory at once: it sees what the caller of the write was told
//! is written.

use super::pieces::Piece;
use super::slot::{Caller, Slot};
use crate::error::VdoError;
use crate::format::compressed_block::fragment;
use crate::seam::HostRequest;
use crate::types::{BLOCK_SIZE, Mapping};

/// What a block that holds nothing reads as.
static ZEROES: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];

impl Slot {
    pub(super) async fn read<R: HostRequest>(&mut self, piece: Piece<R>) {
        let zone = std::rc::Rc::clone(&self.zone);
        if let Some(holder) = zone.locks.holder(piece.lbn)
            && let Some(data) = zone.written_data(holder)
        {
            let range = piece.offset..piece.offset + piece.length;
            piece.request.copy_out(piece.start, &data[range]);
            piece.request.complete(piece.length as u64, 0);
            return;
        }
        zone.locks.lock(piece.lbn, self.index).await;
        let result = self.read_locked(&piece).await;
        if let Err(error) = &result {
            zone.counters.count_error(error);
            log::debug!("read of logical block {} failed: {error}", piece.lbn);
        }
        let (lbn, length) = (piece.lbn, piece.length);
        Caller::new(piece.request, length).finish(&result);
        zone.locks.unlock(lbn, self.index);
    }

    async fn read_locked<R: HostRequest>(&mut self, piece: &Piece<R>) -> Result<(), VdoError> {
        let zone = std::rc::Rc::clone(&self.zone);
        let mapping = match zone.block_map.locate(piece.lbn, false).await? {
            Some(slot) => zone.block_map.get(slot).await?,
            None => Mapping::UNMAPPED,
        };
        let range = piece.offset..piece.offset + piece.length;
        if mapping.pbn == crate::types::Pbn::ZERO {
            zone.counters.unmapped_read();
            piece.request.copy_out(piece.start, &ZEROES[range]);
            return Ok(());
        }
        if !mapping.state.is_compressed()
            && !piece.is_partial()
            && let Some(memory) = piece.request.direct(piece.start, BLOCK_SIZE)
        {
            // SAFETY: the host vouches for the caller's memory until the request completes, and we
            // hold the request until the read is done.
            return unsafe { zone.base.read_direct(mapping.pbn, memory) }.await;
        }
        self.read_mapped(mapping).await?;
        piece.request.copy_out(piece.start, &self.scratch()[range]);
        Ok(())
    }

    /// Reads what `mapping` refers to into the scratch buffer; zeroes for nothing.
    pub(super) async fn read_mapped(&mut self, mapping: Mapping) -> Result<(), VdoError> {
        if mapping.pbn == crate::types::Pbn::ZERO {
            self.scratch().fill(0);
            return Ok(());
        }
        self.read_scratch(mapping.pbn).await?;
        if !mapping.state.is_compressed() {
            return Ok(());
        }
        let scratch = self.scratch();
        let unpacked = unpack(scratch, mapping)?;
        scratch[..BLOCK_SIZE].copy_from_slice(&unpacked);
        Ok(())
    }
}

/// The data of `mapping`, a fragment of the compressed block `packed`.
fn unpack(packed: &[u8], mapping: Mapping) -> Result<[u8; BLOCK_SIZE], VdoError> {
    let bad = |why: String| VdoError::BadFragment {
        pbn: mapping.pbn,
        why,
    };
    let block = packed.first_chunk().expect("a block was read");
    let range = fragment(block, mapping.state).map_err(|error| bad(error.to_string()))?;
    let mut data = [0; BLOCK_SIZE];
    match lz4_flex::block::decompress_into(&packed[range], &mut data) {
        Ok(BLOCK_SIZE) => Ok(data),
        Ok(size) => Err(bad(format!(
            "its fragment unpacks to {size} bytes, not {BLOCK_SIZE}"
        ))),
        Err(error) => Err(bad(error.to_string())),
    }
}
