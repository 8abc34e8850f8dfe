//! What takes time at one step: a task does it, and hands the request back to its step.
//!
//! Nearly always the block map has what a request wants in memory. When it has not, the request's
//! assistant waits in its place: a task that is spawned the first time the record needs one and sleeps between
//! jobs. Each record has its own, so that no request ever waits for another's assistant.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Poll;

use super::Requests;
use super::record::Stage;
use crate::runtime::services::BlockMapSlot;
use crate::runtime::task::TaskId;
use crate::seam::HostRequest;
use crate::types::{JournalPoint, Lbn, Mapping};
use crate::zone::events::Event;
use crate::zone::logical_locks::SlotIndex;
use crate::zone::owner::Zone;

/// What an assistant is to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Job {
    /// Find the way to a block's entry, and make the pages that are missing if it is to `grow`.
    Find { lbn: Lbn, grow: bool },
    /// Look at an entry whose page is not in memory.
    LookUp(BlockMapSlot),
    /// Change an entry whose page is not in memory.
    Map {
        entry: BlockMapSlot,
        target: Mapping,
        point: JournalPoint,
    },
}

struct Assistant {
    task: TaskId,
    job: Rc<Cell<Option<Job>>>,
}

/// The assistants of one zone thread's records.
pub(super) struct Assistants(Vec<Option<Assistant>>);

impl Assistants {
    /// None yet, of `slots` records.
    pub(super) fn new(slots: usize) -> Assistants {
        Assistants((0..slots).map(|_| None).collect())
    }
}

impl<R: HostRequest> Requests<R> {
    /// Has the record's assistant do a job, and the record wait for it at `stage`.
    #[cold]
    pub(super) fn assist(&mut self, slot: SlotIndex, stage: Stage, job: Job) {
        self.wait(slot, stage);
        let scheduler = &self.zone.scheduler;
        match &self.assistants.0[slot.0 as usize] {
            Some(assistant) => {
                assistant.job.set(Some(job));
                scheduler.wake(assistant.task);
            }
            None => {
                let job = Rc::new(Cell::new(Some(job)));
                let task = scheduler.spawn(serve(Rc::clone(&self.zone), slot, Rc::clone(&job)));
                self.assistants.0[slot.0 as usize] = Some(Assistant { task, job });
            }
        }
    }
}

/// Does one job after another, for ever.
async fn serve(zone: Rc<Zone>, slot: SlotIndex, job: Rc<Cell<Option<Job>>>) {
    loop {
        let next = std::future::poll_fn(|_| match job.take() {
            Some(job) => Poll::Ready(job),
            None => Poll::Pending,
        });
        let event = match next.await {
            Job::Find { lbn, grow } => {
                Event::Found(zone.block_map.locate(lbn, grow).await.map_err(Box::new))
            }
            Job::LookUp(entry) => {
                Event::LookedUp(zone.block_map.get(entry).await.map_err(Box::new))
            }
            Job::Map {
                entry,
                target,
                point,
            } => {
                let put = zone.block_map.put(entry, target, point).await;
                Event::Mapped(put.map_err(Box::new))
            }
        };
        zone.events.put(slot, event);
    }
}
