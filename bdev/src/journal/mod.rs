//! The recovery journal: every change of a mapping, on disk before anything depends on it.
//!
//! The journal is a ring of blocks on the base device. Each block has a sequence number that only ever
//! grows; its place in the ring is that number modulo the ring's size. An entry says that one slot of
//! the block map goes from one mapping to another, which is also to say that one block gains a reference
//! and another loses one. As long as the journal has the entry, the block-map page and the slab
//! journals concerned may stay in memory and gather more changes. The journal belongs to one zone
//! thread, the journal's; other zones send that thread messages.
//!
//! # The life of an entry
//!
//! 1. A request that has written its data (or shares a block already there) *appends* an entry. The
//!    entry joins the end of one queue: everything below happens in the order of appending.
//! 2. It is *assigned* the next place in the newest block in memory (`tail`), if the ring has space
//!    (`extent`). From here on its [`JournalPoint`] is known, and the counts of logical blocks and
//!    block-map pages in use include it. If the block is full, the next is opened: its counters of holds
//!    are set (`locks`), and the block map hears that an *era* begins, upon which it starts writing the
//!    pages that were dirty longest. If there is no space, the entry waits; if no block in memory is
//!    free, likewise.
//! 3. When no write is under way, one is started (`writer`): all full blocks that have entries
//!    waiting, or else the newest one as far as it got. The base device is flushed first, so that the data
//!    the entries speak of is durable; then each block is written whole, and durably (FUA), so that
//!    the old data may be overwritten afterwards.
//! 4. When its block is written, and all earlier ones are, the entry is *committed*, and the request
//!    goes on. Completion order is append order.
//! 5. The request changes reference counts, and then the block map. The first entry of a slab-journal
//!    block, and the oldest of a block-map page, take a hold on the entry's journal block; then the
//!    request *releases* the entry.
//! 6. A block that is full and written gives up its own hold. When the last hold of a kind is gone,
//!    the block can be *reaped* (`writer` again): the base device is flushed, because the writes the
//!    holds stood for may sit in its cache, and a head moves past the block.
//! 7. The block's place in the ring is overwritten a turn later. Check byte (the number of the turn,
//!    modulo 128, with the top bit set) and recovery count, in the header and in each sector, tell the
//!    old from the new when a write tears.
//!
//! When slab journals lag so far behind that two thirds of the ring wait for them, the journal asks
//! them to write what holds back their head.
//!
//! # Start and end
//!
//! The super block keeps the number of the first block and the two counts. A volume that was just
//! formatted starts at block 1. A saved journal has nothing to replay, and starts at its tail: one past
//! the newest block, which need not be full. Suspending leaves the newest block as it is and goes on in
//! it; what the super block gets then is the head, where a recovery would start reading.
//!
//! # Errors
//!
//! A write or a flush that fails, a hold given back that was not taken, a block about to be
//! overwritten while something holds it: each makes the volume read-only. From then on every entry not
//! yet reported fails, oldest first, and so does every new one.

mod extent;
mod locks;
mod moving;
mod state;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use self::extent::{SEQUENCE_LIMIT, reserved_blocks};
use self::locks::Side;
use self::state::{Assigned, JournalState, Mode};
pub use self::tail::Pending;
use self::writer::Tasks;
use crate::buffer::{Buffer, DmaMemory};
use crate::error::VdoError;
use crate::format::components::RecoveryJournalState;
use crate::format::recovery_journal::{ENTRIES_PER_BLOCK, RecoveryJournalEntry};
use crate::runtime::base::BaseDevice;
use crate::runtime::services::{JournalHolder, ZoneServices};
use crate::runtime::task::{Scheduler, WaitList};
use crate::stats::JournalStatistics;
use crate::types::{JournalPoint, Pbn, SequenceNumber};

/// Where a journal lies and how it goes on.
#[derive(Clone, Copy, Debug)]
pub struct JournalConfig {
    /// The first block of the ring.
    pub start: Pbn,
    /// Blocks of the ring: a power of two, at least 4.
    pub blocks: u64,
    /// The volume's nonce; blocks with another are not the volume's.
    pub nonce: u64,
    /// How often the volume has been recovered; blocks keep the low byte.
    pub recovery_count: u64,
    /// What the super block says.
    pub state: RecoveryJournalState,
    /// Entries that may wait for their commit at a time: one for each request there can be.
    pub requests: usize,
}

/// What the journal tells the rest of the volume. Called on the journal's thread, at any time during
/// a call of the journal or a run of its tasks; an implementation may call the journal back.
pub trait JournalHooks: 'static {
    /// A block was opened, and `tail` is the next one: the block map's era advances.
    fn advance_era(&self, tail: SequenceNumber);

    /// Journal space is short because of slab journals: those with changes in memory from block
    /// `oldest` should write them. May come again with the same number.
    fn request_slab_journal_commits(&self, oldest: SequenceNumber);

    /// These entries are committed, the first of them at `first` and each other in the next place of the same block.
    fn entries_committed(&self, first: JournalPoint, entries: &[Pending]);

    /// The entry given to [`RecoveryJournal::submit`] under `tag` has failed.
    fn entry_failed(&self, tag: u64, error: VdoError);
}

/// The recovery journal of a volume. See the [module](self).
pub struct RecoveryJournal {
    scheduler: Rc<Scheduler>,
    base: Rc<BaseDevice>,
    services: Rc<dyn ZoneServices>,
    hooks: Rc<dyn JournalHooks>,
    start: Cell<Pbn>,
    blocks: u64,
    nonce: u64,
    recovery_count: u8,
    /// The journal met an error itself. It never trusts an entry after that.
    failed: Cell<bool>,
    /// Keeps [`RecoveryJournal::assign`] from running inside itself, by way of a hook.
    assigning: Cell<bool>,
    state: RefCell<JournalState>,
    /// Entries on their way to [`JournalHooks::entries_committed`].
    committed: Cell<Vec<Pending>>,
    drained: WaitList,
    /// Woken when a round of writes has ended.
    still: WaitList,
    tasks: OnceCell<Tasks>,
}

impl RecoveryJournal {
    /// A journal ready for entries. All its memory is taken here: one buffer for each block in memory
    /// (11, or fewer in a very small ring), and a slot for each request.
    ///
    /// # Errors
    /// [`VdoError::Invalid`] when the ring's size or its first sequence number makes no sense, or when the
    /// host has no memory.
    pub fn new(
        config: JournalConfig,
        scheduler: &Rc<Scheduler>,
        base: &Rc<BaseDevice>,
        services: Rc<dyn ZoneServices>,
        hooks: Rc<dyn JournalHooks>,
        memory: &Arc<dyn DmaMemory>,
    ) -> Result<Rc<RecoveryJournal>, VdoError> {
        if !config.blocks.is_power_of_two() || config.blocks < 4 {
            return Err(VdoError::Invalid(format!(
                "a recovery journal has a power of two of blocks, at least 4, not {}",
                config.blocks
            )));
        }
        let first = config.state.journal_start;
        if first.get() == 0 || first.get() >= SEQUENCE_LIMIT {
            return Err(VdoError::Invalid(format!(
                "a recovery journal starts at a block from 1 to 2^48 - 1, not {first}"
            )));
        }
        let in_memory = reserved_blocks(config.blocks) as usize;
        let buffers: Option<Vec<Buffer>> = (0..in_memory).map(|_| Buffer::new(memory, 1)).collect();
        let buffers = buffers.ok_or_else(|| {
            VdoError::Invalid(format!(
                "the host has no memory for {in_memory} blocks of the recovery journal"
            ))
        })?;
        let journal = Rc::new(RecoveryJournal {
            scheduler: Rc::clone(scheduler),
            base: Rc::clone(base),
            services,
            hooks,
            start: Cell::new(config.start),
            blocks: config.blocks,
            nonce: config.nonce,
            recovery_count: config.recovery_count as u8,
            failed: Cell::new(false),
            assigning: Cell::new(false),
            state: RefCell::new(JournalState::new(&config, buffers)),
            committed: Cell::new(Vec::with_capacity(usize::from(ENTRIES_PER_BLOCK))),
            drained: WaitList::new(scheduler),
            still: WaitList::new(scheduler),
            tasks: OnceCell::new(),
        });
        let tasks = Tasks::spawn(&journal, in_memory);
        let fresh = journal.tasks.set(tasks);
        debug_assert!(fresh.is_ok(), "a new journal has no tasks");
        Ok(journal)
    }

    /// Adds an entry. When it is committed, or fails, the [`JournalHooks`] are called with the same
    /// `tag`. The request then holds the entry until [`RecoveryJournal::release_entries`].
    ///
    /// # Errors
    /// [`VdoError::ShuttingDown`] when the journal is draining or at rest, [`VdoError::ReadOnly`] when
    /// the volume is read-only; the hook is not called then.
    pub fn submit(&self, tag: u64, entry: RecoveryJournalEntry) -> Result<(), VdoError> {
        let read_only = self.is_read_only();
        {
            let state = &mut *self.state.borrow_mut();
            if state.mode != Mode::Normal {
                return Err(VdoError::ShuttingDown);
            }
            if read_only {
                return Err(VdoError::ReadOnly);
            }
            if state.assign_at_once(Pending { tag, entry }) {
                let idle = state.writes == 0;
                if idle {
                    self.wake_leader();
                }
                return Ok(());
            }
            state.enqueue(tag, entry);
        }
        self.assign();
        Ok(())
    }

    /// Keeps block `sequence` from being reused, once more for `holder`. Number zero means no block.
    pub fn acquire(&self, sequence: SequenceNumber, holder: JournalHolder) {
        if sequence.get() == 0 {
            return;
        }
        let result = self
            .state
            .borrow_mut()
            .acquire(sequence, holder)
            .map(|()| false);
        self.after_release(result);
    }

    /// Takes back one [`RecoveryJournal::acquire`].
    pub fn release(&self, sequence: SequenceNumber, holder: JournalHolder) {
        if sequence.get() == 0 {
            return;
        }
        let result = self.state.borrow_mut().release(sequence, holder);
        self.after_release(result);
    }

    /// Gives up the holds of `number` entries of block `sequence`: their changes are in the block map in
    /// memory, and what they made dirty has its own holds.
    pub fn release_entries(&self, sequence: SequenceNumber, number: u16) {
        let result = self.state.borrow_mut().release_entries(sequence, number);
        self.after_release(result);
    }

    fn after_release(&self, freed: Result<bool, VdoError>) {
        match freed {
            Ok(false) => {}
            Ok(true) => {
                self.start_reaping();
                self.press_slab_journals();
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Takes no more entries, and waits until those there are have ended and no I/O is under way. With
    /// `save`, the journal has then ended for good at its tail; the caller sees to it that block map
    /// and slab journals are saved too before the super block says so.
    ///
    /// # Errors
    /// [`VdoError::ReadOnly`] when the volume is read-only; the journal has come to rest in any case.
    pub async fn drain(&self, save: bool) -> Result<(), VdoError> {
        self.state.borrow_mut().mode = Mode::Draining;
        self.settle();
        self.drained.wait_until(|| self.is_drained()).await;
        let read_only = self.is_read_only();
        let freed = {
            let state = &mut *self.state.borrow_mut();
            state.mode = if save { Mode::Saved } else { Mode::Suspended };
            state.free_blocks(save || read_only)
        };
        match freed {
            Err(error) => {
                self.fail(&error);
                Err(VdoError::ReadOnly)
            }
            Ok(_) if read_only => Err(VdoError::ReadOnly),
            Ok(_) => Ok(()),
        }
    }

    /// Takes entries again after [`RecoveryJournal::drain`].
    ///
    /// # Errors
    /// [`VdoError::Invalid`] when the journal is not at rest, [`VdoError::ReadOnly`] when the volume is
    /// read-only (or turns so because a saved journal's block is still held).
    #[allow(dead_code, reason = "a running volume cannot be suspended yet")]
    pub fn resume(&self) -> Result<(), VdoError> {
        if self.is_read_only() {
            return Err(VdoError::ReadOnly);
        }
        let idle = {
            let state = &mut *self.state.borrow_mut();
            match state.mode {
                Mode::Normal | Mode::Draining => {
                    return Err(VdoError::Invalid(
                        "the recovery journal is not suspended".into(),
                    ));
                }
                Mode::Suspended => true,
                Mode::Saved => {
                    state.extent.restart();
                    state.locks.is_idle()
                }
            }
        };
        if !idle {
            self.fail(&VdoError::Inconsistent(
                "the recovery journal was saved while blocks of it were held".into(),
            ));
            return Err(VdoError::ReadOnly);
        }
        self.state.borrow_mut().mode = Mode::Normal;
        // Holds may have been given up meanwhile.
        self.start_reaping();
        Ok(())
    }

    /// To be called when the volume turns read-only: entries that wait will not be written.
    pub fn read_only_entered(&self) {
        self.settle();
    }

    /// What the super block should say now: of a saved journal its tail, else the oldest block that
    /// a recovery would need.
    pub fn state_for_super_block(&self) -> RecoveryJournalState {
        let state = self.state.borrow();
        let ended = state.mode == Mode::Saved && !self.is_read_only();
        RecoveryJournalState {
            journal_start: if ended {
                state.extent.tail()
            } else {
                state.extent.heads().oldest()
            },
            logical_blocks_used: state.logical_blocks_used,
            block_map_data_blocks: state.block_map_data_blocks,
        }
    }

    /// The number the next block will get; the block map's first era.
    #[cfg(test)]
    pub fn tail(&self) -> SequenceNumber {
        self.state.borrow().extent.tail()
    }

    /// Entries that can be added before a block must be reaped.
    #[cfg(test)]
    pub fn available_space(&self) -> u64 {
        self.state.borrow().extent.space()
    }

    /// Logical blocks mapped, counting entries that have a place.
    pub fn logical_blocks_used(&self) -> u64 {
        self.state.borrow().logical_blocks_used
    }

    /// Physical blocks that hold pages of the block map, counting entries that have a place.
    pub fn block_map_data_blocks(&self) -> u64 {
        self.state.borrow().block_map_data_blocks
    }

    /// Bytes of memory it holds, buffers aside.
    pub fn memory_held(&self) -> u64 {
        self.state.borrow().memory_held() as u64
    }

    /// What the journal has counted.
    pub fn statistics(&self) -> JournalStatistics {
        let state = self.state.borrow();
        JournalStatistics {
            blocks_in_use: state.extent.in_use(),
            blocks_limit: state.extent.limit(),
            ..state.statistics
        }
    }

    fn is_read_only(&self) -> bool {
        self.failed.get() || self.services.is_read_only()
    }

    /// Turns the volume read-only.
    fn fail(&self, why: &VdoError) {
        self.failed.set(true);
        self.services.enter_read_only(why);
        self.settle();
    }

    fn is_drained(&self) -> bool {
        let state = self.state.borrow();
        state.outstanding == 0 && state.writes == 0 && !state.reaping
    }

    /// Gives waiting entries their places as far as there are any, and sees to their being written.
    fn assign(&self) {
        if self.assigning.replace(true) {
            return;
        }
        while !self.is_read_only() {
            let assigned = self.state.borrow_mut().assign_next(self);
            match assigned {
                Assigned::Entry => {}
                Assigned::Opened(tail) => {
                    self.hooks.advance_era(tail);
                    self.press_slab_journals();
                }
                Assigned::Nothing => break,
                Assigned::Broken(error) => self.fail(&error),
            }
        }
        self.assigning.set(false);
        self.start_writing();
    }

    /// Asks slab journals to write if they hold back too much of the ring. This is tried whenever a
    /// block is opened or freed, or the last of its entries is released; the last, because slab
    /// journals may come to hold the oldest block up to then.
    fn press_slab_journals(&self) {
        let oldest = {
            let state = &mut *self.state.borrow_mut();
            let oldest = state.extent.heads().slab_journal;
            if !state.extent.presses_slab_journals()
                || !state.locks.is_held_by(oldest, Side::SlabJournal)
            {
                return;
            }
            state.statistics.slab_journal_commits_requested += 1;
            oldest
        };
        self.hooks.request_slab_journal_commits(oldest);
    }

    /// Reports every entry that is committed, block by block.
    fn report_committed(&self) {
        let mut committed = self.committed.take();
        while !self.is_read_only() {
            let first = self.state.borrow_mut().take_committed(&mut committed);
            let Some(first) = first else { break };
            self.hooks.entries_committed(first, &committed);
        }
        self.committed.set(committed);
    }

    /// Reports every entry whose end is known, frees blocks, and goes on with what that makes possible.
    fn settle(&self) {
        self.report_committed();
        while self.is_read_only() {
            let failed = self.state.borrow_mut().fail_next();
            let Some(Pending { tag, .. }) = failed else {
                break;
            };
            self.hooks.entry_failed(tag, VdoError::ReadOnly);
        }
        let read_only = self.is_read_only();
        let freed = self.state.borrow_mut().free_blocks(read_only);
        match freed {
            Ok(true) => self.start_reaping(),
            Ok(false) => {}
            Err(error) if !self.failed.get() => return self.fail(&error),
            Err(_) => {}
        }
        self.assign();
        if self.state.borrow().writes == 0 {
            self.still.wake_all();
        }
        if self.is_drained() {
            self.drained.wake_all();
        }
    }
}

impl std::fmt::Debug for RecoveryJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state.borrow();
        f.debug_struct("RecoveryJournal")
            .field("mode", &state.mode)
            .field("extent", &state.extent)
            .field("outstanding", &state.outstanding)
            .field("unassigned", &state.unassigned.len())
            .field("writes", &state.writes)
            .field("reaping", &state.reaping)
            .finish_non_exhaustive()
    }
}
