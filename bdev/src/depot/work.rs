//! What the zone has to write, the memory it is written from, and who does it.
//!
//! A fixed number of one-block buffers serves slab-journal blocks and reference blocks alike. Whoever has
//! a block to write takes a buffer and packs it on the spot, so that the block in memory can go on
//! changing; if there is none, the *need* is noted and served when a buffer comes back. What has been
//! packed is a [`Job`], and so are flushes and summary writes; writer tasks take jobs in order.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use crate::buffer::{Buffer, DmaMemory};
use crate::error::VdoError;
use crate::format::slab_summary;
use crate::runtime::task::{Scheduler, WaitList};
use crate::types::SequenceNumber;

/// Blocks of the slab summary at most.
const SUMMARY_BLOCKS: usize = slab_summary::BLOCKS_PER_ZONE as usize;

/// Reference blocks that want to be written at once, beyond the buffers: room for this many is taken at
/// start. A save may need more.
const COMMON_NEEDS: usize = 4096;

/// Something to be done on the base device. Slabs are numbered within the zone.
#[derive(Debug)]
pub(super) enum Job {
    /// Write a block of a slab journal.
    JournalBlock {
        slab: u32,
        sequence: SequenceNumber,
        buffer: Buffer,
    },
    /// Write a reference block, after a flush.
    ReferenceBlock {
        slab: u32,
        block: u32,
        buffer: Buffer,
    },
    /// Flush, so that blocks of a slab journal may be overwritten.
    Reap { slab: u32 },
    /// Write a block of the slab summary, after a flush.
    Summary { block: u32 },
}

/// Something to be packed as soon as there is a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// The tail block of a slab's journal.
    Journal { slab: u32 },
    /// A reference block of a slab.
    Reference { slab: u32, block: u32 },
}

/// Jobs, buffers and needs of a zone.
#[derive(Debug)]
pub(super) struct Work {
    jobs: VecDeque<Job>,
    buffers: Vec<Buffer>,
    needs: VecDeque<Need>,
    /// Jobs not finished and needs not served.
    outstanding: usize,
    wanted: Rc<WaitList>,
    idle: Rc<WaitList>,
}

impl Work {
    /// Takes `buffers` buffers, for `slabs` slabs.
    ///
    /// # Errors
    /// When the host has no memory.
    pub(super) fn new(
        buffers: usize,
        slabs: usize,
        scheduler: &Rc<Scheduler>,
        memory: &Arc<dyn DmaMemory>,
    ) -> Result<Work, VdoError> {
        let buffer = |_| {
            let none = || VdoError::Invalid("the host has no memory for slab metadata".into());
            Buffer::new(memory, 1).ok_or_else(none)
        };
        Ok(Work {
            jobs: VecDeque::with_capacity(buffers + slabs + SUMMARY_BLOCKS),
            buffers: (0..buffers).map(buffer).collect::<Result<_, _>>()?,
            needs: VecDeque::with_capacity(slabs + COMMON_NEEDS),
            outstanding: 0,
            wanted: Rc::new(WaitList::new(scheduler)),
            idle: Rc::new(WaitList::new(scheduler)),
        })
    }

    /// Where writer tasks wait for jobs.
    pub(super) fn wanted(&self) -> Rc<WaitList> {
        Rc::clone(&self.wanted)
    }

    /// Where others wait until there is nothing to do. Look at [`Work::is_idle`] after waking up.
    pub(super) fn idle(&self) -> Rc<WaitList> {
        Rc::clone(&self.idle)
    }

    /// Whether nothing is under way or waits.
    pub(super) fn is_idle(&self) -> bool {
        self.outstanding == 0
    }

    /// Takes a buffer, or notes the need for one.
    pub(super) fn take_buffer(&mut self, need: Need) -> Option<Buffer> {
        let buffer = self.buffers.pop();
        if buffer.is_none() {
            self.needs.push_back(need);
            self.outstanding += 1;
        }
        buffer
    }

    /// Takes a buffer back. Returns the oldest need and a buffer for it, if there is one.
    pub(super) fn return_buffer(&mut self, buffer: Buffer) -> Option<(Need, Buffer)> {
        let Some(need) = self.needs.pop_front() else {
            self.buffers.push(buffer);
            return None;
        };
        self.outstanding -= 1;
        Some((need, buffer))
    }

    /// Adds a job.
    pub(super) fn push(&mut self, job: Job) {
        self.jobs.push_back(job);
        self.outstanding += 1;
        self.wanted.wake_one();
    }

    /// Takes the oldest job; [`Work::finished`] must follow.
    pub(super) fn next(&mut self) -> Option<Job> {
        self.jobs.pop_front()
    }

    /// A job is finished, and everything that follows from it has been added.
    pub(super) fn finished(&mut self) {
        self.outstanding -= 1;
        if self.outstanding == 0 {
            self.idle.wake_all();
        }
    }
}
