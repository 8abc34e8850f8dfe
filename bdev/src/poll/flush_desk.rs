//! Flushes: those of a volume all come to zone thread 0, and are served together.
//!
//! A flush waits until every zone thread's writes that were acknowledged before it are in the journal and mapped. That is all: a block
//! of the journal is written behind a flush of the base device, which makes durable the data its entries speak of, and is
//! durable itself when it ends. Whatever a write has changed beyond that is made again from the journal. All flushes that arrive
//! while one is under way share the next.

use std::cell::RefCell;
use std::rc::Rc;

use crate::error::VdoError;
use crate::runtime::task::WaitList;
use crate::seam::HostRequest;
use crate::zone::owner::Zone;

/// Where flushes wait for the one that is under way. All that wait share the next.
pub(crate) struct FlushDesk<R> {
    waiting: RefCell<Vec<R>>,
    arrived: WaitList,
}

impl<R: HostRequest> FlushDesk<R> {
    pub(crate) fn new(zone: &Zone) -> FlushDesk<R> {
        FlushDesk {
            waiting: RefCell::new(Vec::new()),
            arrived: WaitList::new(&zone.scheduler),
        }
    }

    pub(super) fn admit(&self, zone: &Zone, flush: R) {
        if zone.closed.get() {
            return flush.complete(0, VdoError::ShuttingDown.errno());
        }
        zone.counters.flush_in();
        zone.gauge
            .waiting_flushes
            .set(zone.gauge.waiting_flushes.get() + 1);
        self.waiting.borrow_mut().push(flush);
        self.arrived.wake_one();
    }

    /// Serves flushes, for ever: every write acknowledged before is durable when a flush completes.
    pub(crate) async fn serve(self: Rc<Self>, zone: Rc<Zone>) {
        let mut batch = Vec::new();
        loop {
            self.arrived
                .wait_until(|| !self.waiting.borrow().is_empty())
                .await;
            std::mem::swap(&mut batch, &mut *self.waiting.borrow_mut());
            let result = flush(&zone).await;
            let errno = result.as_ref().err().map_or(0, VdoError::errno);
            let served = batch.len() as u32;
            for request in batch.drain(..) {
                request.complete(0, errno);
                zone.counters.flush_acknowledged();
            }
            zone.gauge
                .waiting_flushes
                .set(zone.gauge.waiting_flushes.get() - served);
            zone.wake_if_quiet();
        }
    }
}

async fn flush(zone: &Rc<Zone>) -> Result<(), VdoError> {
    zone.barrier_everywhere().await?;
    // A volume that has been read-only all the time promised nothing that a flush could fail to keep.
    if zone.is_read_only() && !zone.shared.was_found_read_only() {
        return Err(VdoError::ReadOnly);
    }
    Ok(())
}
