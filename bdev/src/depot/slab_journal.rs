//! The journal of one slab: every change of a reference count, in order, until the counters are written.
//!
//! The journal is a ring of blocks. Entries go into the *tail block*, in memory; a full one (or one that
//! must be, see below) is written, and the next begins. Block *n* always lies at *n* modulo the ring's
//! size.
//!
//! ```text
//!   head ... unreapable ... last_summarized .. summarized .. next_commit .. tail
//!    |            |                 |              |              |           the block being filled
//!    |            |                 |              |              all before are written
//!    |            |                 |              as far as the summary on its way says
//!    |            |                 as far as the slab summary on disk says
//!    |            all before are no longer needed, once the device is flushed
//!    may be overwritten before this
//! ```
//!
//! Each block in the ring has a lock count, which keeps it from being reaped: one for the block itself
//! until the slab summary knows of it, and one for every reference block whose oldest change that is not on disk
//! has its entry here.
//!
//! A start after a crash reads the block the summary names last, and from there back to the head which that
//! block, once packed, says. So a block before the present head may still be looked for. It is not
//! overwritten before the summary names, for good, a block with a later head: that is so when the device was flushed
//! after the summary was written. This matters only when a ring nearly fills while one write of the summary is under way.
//!
//! The first entry of a block also locks the block of the *recovery journal* it comes from: until the
//! tail block is on disk and in the summary, that is the only durable record of the change. When the
//! recovery journal runs short, it asks for the tail block to be written even though it is not full
//! (*partial*), and no entry is made until the summary knows of it: otherwise replaying the recovery
//! journal would put entries elsewhere than they were.
//!
//! This file knows the ring and its numbers; what to do about them is in [`super::slab`].

use crate::format::Block;
use crate::format::slab::SlabConfig;
use crate::format::slab_journal::{SlabJournalEntry, SlabJournalHeader, expand_point};
use crate::format::slab_summary::tail_offset;
use crate::recovery::slab_replay::JournalEnd;
use crate::types::{BLOCK_SIZE, JournalPoint, SequenceNumber};

#[derive(Clone, Copy, Debug, Default)]
struct BlockLock {
    count: u32,
    /// The recovery-journal block the first entry came from.
    recovery: SequenceNumber,
    /// The head that the block says, once it is packed.
    head: u64,
}

/// A block that should have a lock has none.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotLocked;

/// One slab's journal.
#[derive(Debug)]
pub(super) struct SlabJournal {
    size: u64,
    pub(super) flushing_threshold: u64,
    /// From here on all dirty reference blocks are written at once.
    pub(super) flushing_deadline: u64,
    pub(super) blocking_threshold: u64,
    head: u64,
    unreapable: u64,
    tail: u64,
    next_commit: u64,
    summarized: u64,
    last_summarized: u64,
    /// Where a start would begin to read, going by the summary as it was written last ...
    named_head: u64,
    /// ... as it was when the flush under way began ...
    flushing_head: u64,
    /// ... and at worst, whatever the device loses.
    safe_head: u64,
    /// A reap's flush is under way.
    reaping: bool,
    /// Somebody waits until a start would begin to read later.
    wants_later_head: bool,
    header: SlabJournalHeader,
    block: Box<Block>,
    locks: Box<[BlockLock]>,
    /// Blocks being written, oldest first.
    uncommitted: Vec<u64>,
    /// The tail block waits for memory to be written from.
    pub(super) waiting_to_commit: bool,
    /// A block that was not full is on its way; no entry may be made.
    partial_write: bool,
    /// A summary update on the journal's behalf is under way.
    pub(super) updating_summary: bool,
}

impl SlabJournal {
    /// The journal of a slab that was never used.
    pub(super) fn new(config: &SlabConfig, nonce: u64, writers: usize) -> SlabJournal {
        let (flushing, blocking) = (config.flushing_threshold, config.blocking_threshold);
        // Some time between the deadline and the point where everybody waits.
        let early = blocking.saturating_sub(flushing) > 5;
        let first = SequenceNumber(1);
        let mut journal = SlabJournal {
            size: config.slab_journal_blocks,
            flushing_threshold: flushing,
            flushing_deadline: if early { blocking - 5 } else { flushing },
            blocking_threshold: blocking,
            head: 1,
            unreapable: 1,
            tail: 1,
            next_commit: 1,
            summarized: 1,
            last_summarized: 1,
            named_head: 1,
            flushing_head: 1,
            safe_head: 1,
            reaping: false,
            wants_later_head: false,
            header: SlabJournalHeader {
                head: first,
                sequence: first,
                recovery_point: JournalPoint::default(),
                nonce,
                has_block_map_increments: false,
                entry_count: 0,
            },
            block: Box::new([0; BLOCK_SIZE]),
            locks: vec![BlockLock::default(); config.slab_journal_blocks as usize].into(),
            uncommitted: Vec::with_capacity(writers.min(config.slab_journal_blocks as usize)),
            waiting_to_commit: false,
            partial_write: false,
            updating_summary: false,
        };
        journal.restart(1, 1);
        journal
    }

    /// Takes up a journal at `tail`, with everything before it committed, and needed from `head` on.
    fn restart(&mut self, head: u64, tail: u64) {
        self.head = head;
        self.unreapable = head;
        self.tail = tail;
        self.next_commit = tail;
        self.summarized = tail;
        self.last_summarized = tail;
        // The last block says where in the recovery journal to go on, even if none is replayed.
        self.named_head = head.min(tail - 1).max(1);
        self.flushing_head = self.named_head;
        self.safe_head = self.named_head;
        self.wants_later_head = false;
        self.begin_block();
    }

    fn begin_block(&mut self) {
        self.header.sequence = SequenceNumber(self.tail);
        self.header.entry_count = 0;
        self.header.has_block_map_increments = false;
    }

    /// Forgets all blocks: the counters on disk have every change in them.
    pub(super) fn reopen(&mut self) {
        debug_assert_eq!(self.header.entry_count, 0, "the tail block was written");
        debug_assert!(
            self.locks.iter().all(|lock| lock.count == 0),
            "nothing is needed"
        );
        self.restart(self.tail, self.tail);
    }

    /// Bytes of memory it holds beside itself.
    pub(super) fn memory_held(&self) -> usize {
        BLOCK_SIZE + self.locks.len() * size_of::<BlockLock>()
    }

    /// As [`SlabJournal::reopen`], of a slab whose entries were counted from the disk: their locks go too.
    pub(super) fn forget(&mut self) {
        self.locks.fill(BlockLock::default());
        self.reopen();
    }

    /// Takes up the journal of a slab where it ends on disk. That of a clean slab has no block that is needed.
    pub(super) fn take_up(&mut self, end: JournalEnd) {
        self.header.recovery_point = end.recovery_point;
        self.restart(end.head.get(), end.tail.get());
    }

    /// Whether all there is is on disk, and in the summary.
    pub(super) fn is_told(&self) -> bool {
        self.header.entry_count == 0
            && !self.waiting_to_commit
            && !self.updating_summary
            && self.last_summarized == self.tail
    }

    #[inline]
    fn lock(&mut self, sequence: u64) -> &mut BlockLock {
        &mut self.locks[(sequence % self.size) as usize]
    }

    /// The block being filled.
    #[inline]
    pub(super) fn tail(&self) -> SequenceNumber {
        SequenceNumber(self.tail)
    }

    /// The oldest block that must not be overwritten.
    pub(super) fn head(&self) -> SequenceNumber {
        SequenceNumber(self.head)
    }

    /// How many blocks of the ring are in use, the one being filled aside.
    #[inline]
    pub(super) fn length(&self) -> u64 {
        self.tail - self.head
    }

    /// Entries in the block being filled.
    #[inline]
    pub(super) fn entries(&self) -> u16 {
        self.header.entry_count
    }

    /// Whether no entry was ever made.
    #[inline]
    pub(super) fn is_blank(&self) -> bool {
        self.tail == 1 && self.header.entry_count == 0
    }

    /// Whether entries must wait for a block that was written before it was full.
    #[inline]
    pub(super) fn has_partial_write(&self) -> bool {
        self.partial_write
    }

    /// Whether the block being filled has room for this entry.
    #[inline]
    pub(super) fn has_room_for(&self, entry: &SlabJournalEntry) -> bool {
        self.header.has_room_for(entry.operation)
    }

    /// Whether an entry from this point of the recovery journal comes after all there are.
    #[inline]
    pub(super) fn accepts(&self, entry: &SlabJournalEntry, recovery: JournalPoint) -> bool {
        expand_point(recovery, entry.increment) > self.header.recovery_point
    }

    /// The entry of the recovery journal the last entry comes from, increments and decrements told apart.
    pub(super) fn recovery_point(&self) -> JournalPoint {
        self.header.recovery_point
    }

    /// Whether the place of the block to be begun is still taken by a block in use: the ring is full.
    pub(super) fn next_block_is_locked(&mut self) -> bool {
        let tail = self.tail;
        self.lock(tail).count > 0
    }

    /// Whether the block to be begun would overwrite one that a start might look for, and that will change.
    pub(super) fn next_block_is_looked_for(&mut self) -> bool {
        self.wants_later_head = self.tail >= self.safe_head + self.size
            && (self.named_head > self.safe_head || self.last_summarized < self.tail);
        self.wants_later_head
    }

    /// Begins a block with an entry from this block of the recovery journal.
    pub(super) fn start_block(&mut self, recovery: SequenceNumber) {
        let tail = self.tail;
        *self.lock(tail) = BlockLock {
            count: 1,
            recovery,
            head: 0,
        };
    }

    /// Appends an entry; there is room for it. Returns where it stands.
    #[inline]
    pub(super) fn append(
        &mut self,
        entry: &SlabJournalEntry,
        recovery: JournalPoint,
    ) -> JournalPoint {
        let point = JournalPoint {
            sequence: self.header.sequence,
            entry: self.header.entry_count,
        };
        self.header.append(&mut self.block, entry);
        self.header.recovery_point = expand_point(recovery, entry.increment);
        point
    }

    /// Whether the block being filled is full.
    #[inline]
    pub(super) fn tail_is_full(&self) -> bool {
        self.header.is_full()
    }

    /// Adds locks to a block.
    pub(super) fn add_locks(&mut self, sequence: SequenceNumber, count: u32) {
        self.lock(sequence.get()).count += count;
    }

    /// Takes a lock off a block, and says whether none is left. A sequence number of zero stands for no lock.
    ///
    /// # Errors
    /// When the block has none.
    #[inline]
    pub(super) fn drop_lock(&mut self, sequence: SequenceNumber) -> Result<bool, NotLocked> {
        if sequence.get() == 0 {
            return Ok(false);
        }
        let lock = self.lock(sequence.get());
        lock.count = lock.count.checked_sub(1).ok_or(NotLocked)?;
        Ok(lock.count == 0)
    }

    /// Packs the tail block as it goes to disk, and begins the next. Returns the block's number.
    pub(super) fn commit_tail(&mut self, to: &mut Block) -> SequenceNumber {
        self.header.head = SequenceNumber(self.head);
        self.header.encode(&mut self.block);
        to.copy_from_slice(&self.block[..]);
        let sequence = self.header.sequence;
        self.partial_write = !self.header.is_full();
        self.uncommitted.push(self.tail);
        let (tail, head) = (self.tail, self.head);
        self.lock(tail).head = head;
        self.tail += 1;
        self.waiting_to_commit = false;
        self.begin_block();
        sequence
    }

    /// A block is on disk.
    pub(super) fn finish_commit(&mut self, sequence: SequenceNumber) {
        self.uncommitted.retain(|&other| other != sequence.get());
        self.next_commit = self.uncommitted.first().copied().unwrap_or(self.tail);
    }

    /// Whether the summary should be told of newly written blocks, and is not being told already.
    pub(super) fn wants_summary(&self) -> bool {
        !self.updating_summary && self.last_summarized < self.next_commit
    }

    /// Starts to tell the summary. Returns what it should say of the journal: where the block after the
    /// last one written lies, and whether the counters must be read when the slab is loaded (the journal no
    /// longer has every change).
    pub(super) fn start_summary(&mut self) -> (u8, bool) {
        self.summarized = self.next_commit;
        self.updating_summary = true;
        (
            tail_offset(SequenceNumber(self.summarized), self.size),
            self.head > 1,
        )
    }

    /// The summary says what it was told. True if entries that waited for a partial block can go on.
    pub(super) fn finish_partial_write(&mut self) -> bool {
        let done = self.partial_write && self.summarized == self.tail;
        if done {
            self.partial_write = false;
        }
        done
    }

    /// The summary says what it was told: takes the blocks it now knows of, newest first, each with the
    /// recovery-journal block it locked.
    pub(super) fn next_summarized(
        &mut self,
        from: &mut SummarizedBlocks,
    ) -> Option<(SequenceNumber, SequenceNumber)> {
        if from.next <= from.first {
            return None;
        }
        from.next -= 1;
        let recovery = self.lock(from.next).recovery;
        Some((SequenceNumber(from.next), recovery))
    }

    /// The blocks the summary has learned of.
    pub(super) fn finish_summary(&mut self) -> SummarizedBlocks {
        self.updating_summary = false;
        let blocks = SummarizedBlocks {
            first: self.last_summarized,
            next: self.summarized,
        };
        self.last_summarized = self.summarized;
        self.named_head = self.lock(blocks.next - 1).head.max(self.named_head);
        blocks
    }

    /// Whether a reap waits for the device to be flushed.
    pub(super) fn is_reaping(&self) -> bool {
        self.reaping
    }

    /// Whether entries wait for what the summary just said, and would be helped by a flush.
    pub(super) fn wants_later_head(&self) -> bool {
        self.wants_later_head
    }

    /// Finds the blocks no longer needed; says whether there are any, or somebody waits for what else a flush brings. In
    /// that case the device must be flushed before they may be overwritten: the reference blocks that set them free
    /// are perhaps still in its cache.
    pub(super) fn start_reap(&mut self) -> bool {
        while self.unreapable < self.tail && self.lock(self.unreapable).count == 0 {
            self.unreapable += 1;
        }
        self.reaping = self.unreapable != self.head
            || self.wants_later_head && self.named_head > self.safe_head;
        self.flushing_head = self.named_head;
        self.reaping
    }

    /// The device was flushed.
    pub(super) fn finish_reap(&mut self) {
        self.reaping = false;
        self.head = self.unreapable;
        self.safe_head = self.flushing_head;
    }
}

/// See [`SlabJournal::next_summarized`].
#[derive(Debug)]
pub(super) struct SummarizedBlocks {
    first: u64,
    next: u64,
}
