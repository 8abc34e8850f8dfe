//! A request slot: one task, one request at a time, and the memory it works with.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::pieces::{Cursor, Piece};
use crate::buffer::Buffer;
use crate::error::VdoError;
use crate::runtime::task::TaskId;
use crate::seam::{HostRequest, RequestKind};
use crate::types::Lbn;
use crate::zone::logical_locks::SlotIndex;
use crate::zone::owner::Zone;

/// Where requests wait for a slot, and idle slots for a request.
///
/// The slot that became idle last gets the next request, since its memory is warmest.
pub(crate) struct FrontDesk<R> {
    waiting: RefCell<VecDeque<Cursor<R>>>,
    idle: RefCell<Vec<TaskId>>,
}

impl<R: HostRequest> FrontDesk<R> {
    pub(crate) fn new(slots: usize) -> FrontDesk<R> {
        FrontDesk {
            waiting: RefCell::new(VecDeque::with_capacity(slots)),
            idle: RefCell::new(Vec::with_capacity(slots)),
        }
    }

    /// A request has come for this zone.
    pub(crate) fn admit(&self, zone: &Zone, cursor: Cursor<R>) {
        self.waiting.borrow_mut().push_back(cursor);
        zone.gauge.waiting.set(zone.gauge.waiting.get() + 1);
        self.call_one(zone);
    }

    fn call_one(&self, zone: &Zone) {
        if let Some(task) = self.idle.borrow_mut().pop() {
            zone.scheduler.wake(task);
        }
    }

    fn take(&self, zone: &Zone) -> Option<Piece<R>> {
        let mut waiting = self.waiting.borrow_mut();
        let mut piece = None;
        while piece.is_none()
            && let Some(cursor) = waiting.front_mut()
        {
            piece = cursor.next(&zone.shared.tree, zone.index, zone.shared.zones);
            if piece.is_none() || cursor.is_finished() {
                waiting.pop_front();
            }
        }
        let gauge = &zone.gauge;
        gauge.waiting.set(waiting.len() as u32);
        let Some(piece) = piece else {
            zone.wake_if_quiet();
            return None;
        };
        gauge.busy.set(gauge.busy.get() + 1);
        gauge.peak.set(gauge.peak.get().max(gauge.busy.get()));
        if !waiting.is_empty() {
            drop(waiting);
            self.call_one(zone);
        }
        Some(piece)
    }

    async fn next(&self, zone: &Zone) -> Piece<R> {
        std::future::poll_fn(|_| match self.take(zone) {
            Some(piece) => Poll::Ready(piece),
            None => {
                self.idle.borrow_mut().push(zone.scheduler.current());
                Poll::Pending
            }
        })
        .await
    }

    fn finish(&self, zone: &Zone) {
        let gauge = &zone.gauge;
        gauge.busy.set(gauge.busy.get() - 1);
        zone.wake_if_quiet();
    }
}

/// The memory and the place of one slot.
pub(crate) struct Slot {
    pub(crate) zone: Rc<Zone>,
    pub(crate) index: SlotIndex,
    /// The data of the write being served. Shared (and so not to be changed) while the base device
    /// or the hash zone looks at it, the slot's own again when the write ends.
    pub(crate) data: Arc<Buffer>,
    /// A block read to be compared, merged or copied out. Away while the base device fills it.
    pub(crate) scratch: Option<Buffer>,
}

impl Slot {
    /// Reads the block at `pbn` into the scratch buffer.
    pub(crate) async fn read_scratch(&mut self, pbn: crate::types::Pbn) -> Result<(), VdoError> {
        let buffer = self
            .scratch
            .take()
            .expect("the scratch buffer is home between I/Os");
        let class = crate::runtime::base::IoClass::Data;
        let (buffer, result) = self.zone.base.read(class, pbn, buffer, 1).await;
        self.scratch = Some(buffer);
        result
    }

    pub(crate) fn scratch(&mut self) -> &mut Buffer {
        self.scratch
            .as_mut()
            .expect("the scratch buffer is home between I/Os")
    }

    /// The slot's write buffer, to be filled.
    pub(crate) fn data_mut(&mut self) -> Result<&mut Buffer, VdoError> {
        Arc::get_mut(&mut self.data).ok_or_else(|| {
            VdoError::Inconsistent("a request's data is still in use by the one before".into())
        })
    }
}

/// A caller who waits for an answer about one piece.
pub(crate) struct Caller<R: HostRequest> {
    request: Option<R>,
    bytes: u64,
}

impl<R: HostRequest> Caller<R> {
    pub(crate) fn new(request: R, bytes: usize) -> Caller<R> {
        Caller {
            request: Some(request),
            bytes: bytes as u64,
        }
    }

    /// The caller's data; `None` once answered.
    pub(crate) fn data(&self) -> Option<&R> {
        self.request.as_ref()
    }

    /// Says that all went well. Only the first answer counts.
    pub(crate) fn acknowledge(&mut self) {
        if let Some(request) = self.request.take() {
            request.complete(self.bytes, 0);
        }
    }

    /// Ends the piece. An error after the acknowledgement cannot be told any more: then the answer
    /// is false.
    pub(crate) fn finish(mut self, result: &Result<(), VdoError>) -> bool {
        match self.request.take() {
            Some(request) => {
                request.complete(self.bytes, result.as_ref().err().map_or(0, VdoError::errno));
                true
            }
            None => result.is_ok(),
        }
    }
}

/// Serves one piece after another, for ever.
pub(crate) async fn serve<R: HostRequest>(mut slot: Slot, desk: Rc<FrontDesk<R>>) {
    loop {
        let zone = Rc::clone(&slot.zone);
        let piece = desk.next(&zone).await;
        let (kind, partial, fua) = (piece.kind, piece.is_partial(), piece.fua);
        zone.counters.admitted(kind, partial, fua);
        match piece.kind {
            RequestKind::Read => slot.read(piece).await,
            RequestKind::Write => slot.write(piece).await,
            RequestKind::Unmap | RequestKind::WriteZeroes => slot.clear(piece).await,
            // Flushes have a desk of their own; one that comes here has nothing to wait for.
            RequestKind::Flush => piece.request.complete(0, 0),
        }
        zone.counters.acknowledged(kind, partial, fua);
        desk.finish(&zone);
    }
}

impl Slot {
    /// Unmaps or zeroes a run of blocks one by one.
    async fn clear<R: HostRequest>(&mut self, piece: Piece<R>) {
        if piece.is_partial() || piece.blocks == 1 {
            return self.write(piece).await;
        }
        let block = crate::types::BLOCK_SIZE;
        for number in 0..piece.blocks as usize {
            let one = Piece {
                request: piece.request.clone(),
                lbn: Lbn(piece.lbn.get() + number as u64),
                blocks: 1,
                start: piece.start + number * block,
                length: block,
                ..piece
            };
            self.write(one).await;
        }
    }
}
