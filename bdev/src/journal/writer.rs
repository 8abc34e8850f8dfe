//! The journal's I/O: writing blocks, and flushing before heads move.
//!
//! Three kinds of task live as long as the journal:
//!
//! - the *leader* starts a round of writes when none is under way and entries wait. It runs after the
//!   tasks that were ready with it, so that what they append goes into the same round. It packs the
//!   chosen blocks, flushes the base device once for all of them, and hands each to its writer;
//! - one *block writer* for each block in memory writes it, durably, and reports what became of it;
//! - the *reaper* finds how far the heads may go, flushes the base device, and moves them.

use std::rc::Rc;
use std::task::Poll;

use super::RecoveryJournal;
use super::tail::WritePhase;
use crate::buffer::Buffer;
use crate::error::VdoError;
use crate::format::recovery_journal::block_number;
use crate::runtime::base::IoClass;
use crate::runtime::task::TaskId;
use crate::types::Pbn;

/// The tasks of a journal.
#[derive(Debug)]
pub(super) struct Tasks {
    leader: TaskId,
    reaper: TaskId,
    block_writers: Vec<TaskId>,
}

impl Tasks {
    pub(super) fn spawn(journal: &Rc<RecoveryJournal>, blocks: usize) -> Tasks {
        let scheduler = &journal.scheduler;
        Tasks {
            leader: scheduler.spawn(lead_writes(Rc::clone(journal))),
            reaper: scheduler.spawn(reap(Rc::clone(journal))),
            block_writers: (0..blocks)
                .map(|index| scheduler.spawn(write_block(Rc::clone(journal), index)))
                .collect(),
        }
    }
}

async fn lead_writes(journal: Rc<RecoveryJournal>) {
    loop {
        std::future::poll_fn(|_| ready_if(journal.pack_round())).await;
        match journal.base.flush(IoClass::Journal).await {
            Ok(()) if !journal.is_read_only() => journal.launch_round(),
            Ok(()) => journal.abandon_round(None),
            Err(error) => journal.abandon_round(Some(error)),
        }
    }
}

async fn write_block(journal: Rc<RecoveryJournal>, index: usize) {
    loop {
        let (pbn, buffer) = std::future::poll_fn(|_| match journal.take_for_write(index) {
            Some(work) => Poll::Ready(work),
            None => Poll::Pending,
        })
        .await;
        let write = journal.base.write(IoClass::Journal, pbn, buffer, 1, true);
        let (buffer, result) = write.await;
        journal.finish_write(index, buffer, result);
    }
}

async fn reap(journal: Rc<RecoveryJournal>) {
    loop {
        std::future::poll_fn(|_| ready_if(journal.take_reaping())).await;
        let result = journal.base.flush(IoClass::Journal).await;
        journal.finish_reaping(result);
    }
}

fn ready_if(condition: bool) -> Poll<()> {
    if condition {
        Poll::Ready(())
    } else {
        Poll::Pending
    }
}

impl RecoveryJournal {
    fn tasks(&self) -> &Tasks {
        self.tasks.get().expect("the tasks are set before use")
    }

    /// Lets the leader look for work if there is some.
    pub(super) fn start_writing(&self) {
        if self.state.borrow().writes == 0 {
            self.wake_leader();
        }
    }

    #[inline]
    pub(super) fn wake_leader(&self) {
        self.scheduler.wake(self.tasks().leader);
    }

    /// Lets the reaper look for work if it may.
    pub(super) fn start_reaping(&self) {
        if self.state.borrow().may_reap() {
            self.scheduler.wake(self.tasks().reaper);
        }
    }

    /// Packs the blocks of a round, unless one is under way or there is nothing to write.
    fn pack_round(&self) -> bool {
        if self.is_read_only() {
            return false;
        }
        self.state.borrow_mut().pack_round()
    }

    /// The flush is done: each block of the round may be written.
    fn launch_round(&self) {
        let writers = &self.tasks().block_writers;
        let tail = &mut self.state.borrow_mut().tail;
        tail.for_each_flushing(|index, block| {
            block.phase = WritePhase::Ready;
            self.scheduler.wake(writers[index]);
        });
    }

    /// The blocks of the round will not be written, because the volume is read-only, or becomes so now
    /// that the flush has failed with `error`.
    fn abandon_round(&self, error: Option<VdoError>) {
        {
            let state = &mut *self.state.borrow_mut();
            state.tail.for_each_flushing(|_, block| {
                block.phase = WritePhase::Idle;
                state.writes -= 1;
            });
            self.failed.set(true);
        }
        match error {
            Some(error) => self.fail(&error),
            None => self.settle(),
        }
    }

    fn take_for_write(&self, index: usize) -> Option<(Pbn, Buffer)> {
        let state = &mut *self.state.borrow_mut();
        let block = &mut state.tail.blocks[index];
        if block.phase != WritePhase::Ready {
            return None;
        }
        block.phase = WritePhase::Writing;
        let offset = block_number(block.sequence, self.blocks);
        let buffer = block.buffer.take();
        let buffer = buffer.expect("a block that is not being written has its buffer");
        Some((Pbn(self.start.get().get() + offset), buffer))
    }

    fn finish_write(&self, index: usize, buffer: Buffer, result: Result<(), VdoError>) {
        {
            let state = &mut *self.state.borrow_mut();
            let block = &mut state.tail.blocks[index];
            block.buffer = Some(buffer);
            block.phase = WritePhase::Idle;
            state.writes -= 1;
            if result.is_ok() {
                state.extent.acknowledge(block.sequence);
                state.statistics.blocks.committed += 1;
                state.statistics.entries.committed += u64::from(block.in_write);
            } else {
                // Before anybody can ask: no entry of this block is committed.
                self.failed.set(true);
            }
        }
        match result {
            Ok(()) => self.settle(),
            Err(error) => self.fail(&error),
        }
    }

    /// Finds how far the heads may go; says whether they may go at all, and a flush is needed.
    fn take_reaping(&self) -> bool {
        if self.is_read_only() {
            return false;
        }
        let state = &mut *self.state.borrow_mut();
        state.reaping = state.may_reap() && state.extent.start_reaping(&state.locks);
        state.reaping
    }

    fn finish_reaping(&self, result: Result<(), VdoError>) {
        {
            let state = &mut *self.state.borrow_mut();
            state.reaping = false;
            if result.is_ok() {
                state.extent.finish_reaping();
            }
        }
        match result {
            Ok(()) => {
                self.press_slab_journals();
                self.settle();
            }
            Err(error) => self.fail(&error),
        }
    }
}
