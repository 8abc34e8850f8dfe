//! A disk in memory for unit tests of the metadata subsystems, with faults and reordering.
//!
//! A test builds a [`TestDisk`] over a scheduler, spawns tasks that use its [`BaseDevice`], and calls
//! [`TestDisk::run`] until they are done.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

use super::base::BaseDevice;
use super::task::{Executor, Scheduler};
use crate::seam::{BaseIo, BaseOp, IoCompletion};
use crate::types::BLOCK_SIZE;

/// Blocks in memory behind a [`BaseDevice`].
pub(crate) struct TestDisk {
    pub(crate) scheduler: Rc<Scheduler>,
    pub(crate) base: Rc<BaseDevice>,
    executor: Executor,
    pub(crate) blocks: BTreeMap<u64, Vec<u8>>,
    held: Vec<BaseIo>,
    /// While true, I/Os are taken but not completed.
    pub(crate) hold: bool,
    /// Reads of these blocks fail with EIO.
    pub(crate) bad_reads: HashSet<u64>,
    /// Writes of these blocks fail with EIO.
    pub(crate) bad_writes: HashSet<u64>,
    /// Flushes fail with EIO.
    pub(crate) bad_flushes: bool,
    /// Every I/O in the order it was taken.
    pub(crate) trace: Vec<(BaseOp, u64, u32)>,
}

impl TestDisk {
    pub(crate) fn new() -> TestDisk {
        let scheduler = Scheduler::new();
        TestDisk {
            base: BaseDevice::new(&scheduler, 64),
            executor: Executor::new(Rc::clone(&scheduler)),
            scheduler,
            blocks: BTreeMap::new(),
            held: Vec::new(),
            hold: false,
            bad_reads: HashSet::new(),
            bad_writes: HashSet::new(),
            bad_flushes: false,
            trace: Vec::new(),
        }
    }

    /// Runs tasks and I/O until nothing more happens.
    pub(crate) fn run(&mut self) {
        loop {
            let ran = self.executor.run(100_000);
            while let Some(io) = self.base.next_outgoing() {
                self.trace.push((io.op, io.pbn.get(), io.blocks));
                self.held.push(io);
            }
            if self.hold || self.held.is_empty() {
                if ran {
                    continue;
                }
                return;
            }
            for io in std::mem::take(&mut self.held) {
                let errno = self.perform(&io);
                self.base.complete(IoCompletion {
                    token: io.token,
                    errno,
                });
            }
        }
    }

    /// Runs tasks until none is ready. I/Os are taken and held, for [`TestDisk::complete_held`].
    pub(crate) fn step(&mut self) {
        let hold = std::mem::replace(&mut self.hold, true);
        self.run();
        self.hold = hold;
    }

    /// The I/Os taken and not completed, oldest first.
    pub(crate) fn held(&self) -> &[BaseIo] {
        &self.held
    }

    /// The first block that a held write is to write.
    pub(crate) fn held_block(&self, index: usize) -> Vec<u8> {
        let io = &self.held[index];
        assert_eq!(io.op, BaseOp::Write);
        // SAFETY: the engine keeps the memory of an I/O valid, and to us, until `complete`.
        unsafe { std::slice::from_raw_parts(io.memory.as_ptr(), BLOCK_SIZE) }.to_vec()
    }

    /// Completes one held I/O, and runs no task.
    pub(crate) fn complete_held(&mut self, index: usize) {
        let io = self.held.remove(index);
        let errno = self.perform(&io);
        self.base.complete(IoCompletion {
            token: io.token,
            errno,
        });
    }

    /// Runs a future to its end and returns its result; panics if it hangs.
    pub(crate) fn block_on<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        self.scheduler.spawn(async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        self.run();
        result
            .borrow_mut()
            .take()
            .expect("the future ends once nothing more happens")
    }

    fn perform(&mut self, io: &BaseIo) -> i32 {
        if io.op == BaseOp::Flush && self.bad_flushes {
            return 5;
        }
        let range = io.pbn.get()..io.pbn.get() + u64::from(io.blocks);
        for (index, pbn) in range.enumerate() {
            // SAFETY: the engine keeps the memory of an I/O valid, and to us, until `complete`.
            let memory = || unsafe {
                std::slice::from_raw_parts_mut(
                    io.memory.as_ptr().add(index * BLOCK_SIZE),
                    BLOCK_SIZE,
                )
            };
            match io.op {
                BaseOp::Read if self.bad_reads.contains(&pbn) => return 5,
                BaseOp::Write if self.bad_writes.contains(&pbn) => return 5,
                BaseOp::Read => match self.blocks.get(&pbn) {
                    Some(block) => memory().copy_from_slice(block),
                    None => memory().fill(0),
                },
                BaseOp::Write => {
                    self.blocks.insert(pbn, memory().to_vec());
                }
                BaseOp::Discard => {
                    self.blocks.remove(&pbn);
                }
                BaseOp::Flush => {}
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::VdoError;
    use crate::buffer::{Buffer, DmaMemory, HeapMemory};
    use crate::types::Pbn;
    use crate::zone::base::IoClass;

    #[test]
    fn a_block_written_reads_back_and_a_bad_block_fails() {
        let mut disk = TestDisk::new();
        disk.bad_reads.insert(9);
        let base = Rc::clone(&disk.base);
        disk.block_on(async move {
            let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
            let mut buffer = Buffer::new(&memory, 1).unwrap();
            buffer.fill(7);
            let (mut buffer, result) = base.write(IoClass::Data, Pbn(3), buffer, 1, false).await;
            assert_eq!(result, Ok(()));
            buffer.fill(0);
            let (buffer, result) = base.read(IoClass::Data, Pbn(3), buffer, 1).await;
            assert_eq!(result, Ok(()));
            assert!(buffer.iter().all(|&byte| byte == 7));
            let (_, result) = base.read(IoClass::Data, Pbn(9), buffer, 1).await;
            let error = VdoError::Io {
                operation: "read",
                pbn: Pbn(9),
                errno: 5,
            };
            assert_eq!(result, Err(error));
        });
    }
}
