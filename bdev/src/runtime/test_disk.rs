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
    /// Discards fail with EIO.
    pub(crate) bad_discards: bool,
    /// Every I/O in the order it was taken.
    pub(crate) trace: Vec<(BaseOp, u64, u32)>,
    /// When not zero, I/Os complete in an order drawn from this state, one at a time.
    pub(crate) shuffle: u64,
    /// Writes completed and not known to be durable, oldest first.
    unflushed: Vec<UnflushedWrite>,
    /// How many writes had completed when each flush under way was taken, by its token.
    flushes: Vec<(u32, u64)>,
    completed_writes: u64,
}

/// A write that a power failure may undo.
struct UnflushedWrite {
    number: u64,
    pbn: u64,
    before: Option<Vec<u8>>,
    after: Vec<u8>,
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
            bad_discards: false,
            trace: Vec::new(),
            shuffle: 0,
            unflushed: Vec::new(),
            flushes: Vec::new(),
            completed_writes: 0,
        }
    }

    /// Runs tasks and I/O until nothing more happens.
    pub(crate) fn run(&mut self) {
        while self.advance() {}
    }

    /// Runs ready tasks, then completes some I/O; false when there was nothing to do.
    pub(crate) fn advance(&mut self) -> bool {
        let ran = self.executor.run(100_000);
        while let Some(io) = self.base.next_outgoing() {
            self.trace.push((io.op, io.pbn.get(), io.blocks));
            if io.op == BaseOp::Flush {
                self.flushes.push((io.token, self.completed_writes));
            }
            self.held.push(io);
        }
        if self.hold || self.held.is_empty() {
            return ran;
        }
        let batch = if self.shuffle == 0 {
            std::mem::take(&mut self.held)
        } else {
            let drawn = self.draw() as usize % self.held.len();
            vec![self.held.swap_remove(drawn)]
        };
        for io in batch {
            let errno = self.perform(&io);
            self.base.complete(IoCompletion {
                token: io.token,
                errno,
            });
        }
        true
    }

    /// The next number of the shuffle's sequence.
    fn draw(&mut self) -> u64 {
        self.shuffle ^= self.shuffle << 13;
        self.shuffle ^= self.shuffle >> 7;
        self.shuffle ^= self.shuffle << 17;
        self.shuffle
    }

    /// What the disk may hold after a power failure now: `survives` decides for each write that was
    /// completed and not flushed.
    pub(crate) fn after_power_failure(
        &self,
        mut survives: impl FnMut() -> bool,
    ) -> BTreeMap<u64, Vec<u8>> {
        let mut blocks = self.blocks.clone();
        for write in self.unflushed.iter().rev() {
            match &write.before {
                Some(before) => blocks.insert(write.pbn, before.clone()),
                None => blocks.remove(&write.pbn),
            };
        }
        for write in &self.unflushed {
            if survives() {
                blocks.insert(write.pbn, write.after.clone());
            }
        }
        blocks
    }

    /// What the disk may hold after a power failure now that tears writes: `survives` decides for each
    /// sector of each write that was completed and not flushed, or is under way.
    pub(crate) fn after_torn_power_failure(
        &self,
        mut survives: impl FnMut() -> bool,
    ) -> BTreeMap<u64, Vec<u8>> {
        const SECTOR: usize = 512;
        let mut blocks = self.after_power_failure(|| false);
        let completed = self.unflushed.iter();
        let completed = completed.map(|write| (write.pbn, write.after.clone()));
        let writes = (0..self.held.len()).filter(|&index| self.held[index].op == BaseOp::Write);
        let under_way = writes.map(|index| (self.held[index].pbn.get(), self.held_block(index)));
        for (pbn, after) in completed.chain(under_way) {
            let block = blocks.entry(pbn).or_insert_with(|| vec![0; BLOCK_SIZE]);
            for (old, new) in block.chunks_mut(SECTOR).zip(after.chunks(SECTOR)) {
                if survives() {
                    old.copy_from_slice(new);
                }
            }
        }
        blocks
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
        if io.op == BaseOp::Flush {
            let flush = self
                .flushes
                .iter()
                .position(|(token, _)| *token == io.token);
            let (_, covered) = self
                .flushes
                .swap_remove(flush.expect("taken flushes are noted"));
            if self.bad_flushes {
                return 5;
            }
            self.unflushed.retain(|write| write.number > covered);
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
                    let after = memory().to_vec();
                    let before = self.blocks.insert(pbn, after.clone());
                    self.completed_writes += 1;
                    if !io.fua {
                        let number = self.completed_writes;
                        self.unflushed.push(UnflushedWrite {
                            number,
                            pbn,
                            before,
                            after,
                        });
                    }
                }
                BaseOp::Discard if self.bad_discards => return 5,
                BaseOp::Discard => {
                    self.blocks.remove(&pbn);
                }
                BaseOp::Flush => unreachable!("a flush has no blocks"),
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::buffer::{Buffer, DmaMemory, HeapMemory};
    use crate::error::VdoError;
    use crate::runtime::base::IoClass;
    use crate::types::Pbn;

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
