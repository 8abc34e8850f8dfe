//! Locks on physical blocks: who writes a block, and who relies on what it holds.
//!
//! A *write lock* belongs to the request that allocated the block, until its data is on disk. Then it
//! becomes a *read lock*: the data may be shared, and must not go away while a hash lock compares with
//! it or is about to add a reference. A read lock is shared by holders, and carries an *increment
//! budget*: how many references the block could still take when the lock was made. Whoever wants to
//! add one claims it first, from any thread; so the count can never overflow, whoever comes.
//!
//! A lock on a block nobody refers to (newly allocated, or freed since) holds a *provisional* reference,
//! which keeps the block from being allocated. The first real reference takes its place; if none was
//! made, releasing the lock frees the block.
//!
//! Locks come from a pool taken when the zone starts: every request may need two, one for the block it
//! writes and one for the block it hopes to share. Only the zone's thread touches the pool; only budgets
//! leave it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::VdoError;
use crate::runtime::chains::Chains;
use crate::types::Pbn;

/// What a newly allocated block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// User data, shared with others once it is on disk.
    Data,
    /// A page of the block map, never shared.
    BlockMap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LockKind {
    Read,
    Write(WriteKind),
}

/// The right to add references to a locked block, as many as the lock found room for.
///
/// Clones share the one count, and may be used on any thread. Once the lock is released nothing more can
/// be claimed.
#[derive(Clone, Debug)]
pub struct IncrementBudget {
    cell: Arc<AtomicU64>,
    generation: u32,
}

/// The budget's word: which use of the lock it is for, and how many references are left.
const fn word(generation: u32, left: u8) -> u64 {
    ((generation as u64) << 32) | left as u64
}

impl IncrementBudget {
    /// Claims one reference; false when none is left.
    pub fn claim(&self) -> bool {
        let one_less = |now: u64| {
            let valid = (now >> 32) as u32 == self.generation && now as u32 > 0;
            valid.then(|| now - 1)
        };
        // Nothing but the count itself is handed over, so its own order is enough.
        self.cell
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_ok()
    }

    /// How many claims would still succeed.
    #[cfg(test)]
    pub fn left(&self) -> u32 {
        let now = self.cell.load(Ordering::Relaxed);
        if (now >> 32) as u32 == self.generation {
            now as u32
        } else {
            0
        }
    }
}

#[derive(Debug)]
struct Lock {
    kind: LockKind,
    holders: u32,
    provisional: bool,
    generation: u32,
    budget: Arc<AtomicU64>,
}

impl Lock {
    /// Says how many references its holders may add.
    fn set_limit(&self, limit: u8) {
        let word = word(self.generation, limit);
        self.budget.store(word, Ordering::Relaxed);
    }

    fn budget(&self) -> IncrementBudget {
        IncrementBudget {
            cell: Arc::clone(&self.budget),
            generation: self.generation,
        }
    }
}

#[cold]
fn not_locked(pbn: Pbn) -> VdoError {
    VdoError::Inconsistent(format!("physical block {pbn} should be locked and is not"))
}

/// What became of an attempt to lock a block for reading.
#[derive(Debug)]
pub(super) enum ReadLock {
    /// A new lock, with one holder.
    New(IncrementBudget),
    /// There was a read lock; it has one holder more.
    Shared(IncrementBudget),
    /// Someone is writing the block.
    WriteLocked,
}

/// The locks of one zone.
#[derive(Debug)]
pub(super) struct PbnLocks {
    locks: Vec<Lock>,
    idle: Vec<u32>,
    by_block: Chains,
}

impl PbnLocks {
    /// A pool of `capacity` locks.
    pub(super) fn new(capacity: usize) -> PbnLocks {
        let lock = |_| Lock {
            kind: LockKind::Read,
            holders: 0,
            provisional: false,
            generation: 0,
            budget: Arc::new(AtomicU64::new(word(0, 0))),
        };
        PbnLocks {
            locks: (0..capacity).map(lock).collect(),
            idle: (0..capacity as u32).rev().collect(),
            by_block: Chains::new(capacity),
        }
    }

    /// Bytes of memory the pool holds.
    pub(super) fn memory_held(&self) -> usize {
        // Each budget is a word of its own, with two counts before it.
        let lock = size_of::<Lock>() + 3 * size_of::<u64>() + size_of::<u32>();
        self.locks.len() * lock + self.by_block.memory_held()
    }

    /// How many locks are held.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn held(&self) -> usize {
        self.locks.len() - self.idle.len()
    }

    #[inline]
    fn find(&mut self, pbn: Pbn) -> Option<&mut Lock> {
        let index = self.by_block.find(pbn.get())?;
        Some(&mut self.locks[index as usize])
    }

    fn held_lock(&mut self, pbn: Pbn) -> Result<&mut Lock, VdoError> {
        self.find(pbn).ok_or_else(|| not_locked(pbn))
    }

    fn insert(&mut self, pbn: Pbn, kind: LockKind) -> Result<&mut Lock, VdoError> {
        let Some(index) = self.idle.pop() else {
            let all = self.locks.len();
            return Err(VdoError::Inconsistent(format!(
                "all {all} locks on physical blocks are in use, which is more than requests can need"
            )));
        };
        self.by_block.insert(pbn.get(), index);
        let lock = &mut self.locks[index as usize];
        lock.kind = kind;
        lock.holders = 1;
        Ok(lock)
    }

    /// Locks a newly allocated block, which has a provisional reference.
    pub(super) fn lock_allocation(&mut self, pbn: Pbn, kind: WriteKind) -> Result<(), VdoError> {
        if let Some(lock) = self.find(pbn) {
            let holders = lock.holders;
            return Err(VdoError::Inconsistent(format!(
                "physical block {pbn} was free and yet locked by {holders} holders"
            )));
        }
        self.insert(pbn, LockKind::Write(kind))?.provisional = true;
        Ok(())
    }

    /// Locks a block for reading, if nobody writes it. Holders of a new lock may add `limit` references.
    pub(super) fn lock_for_reading(&mut self, pbn: Pbn, limit: u8) -> Result<ReadLock, VdoError> {
        match self.find(pbn) {
            Some(Lock {
                kind: LockKind::Write(_),
                ..
            }) => Ok(ReadLock::WriteLocked),
            Some(lock) => {
                lock.holders += 1;
                Ok(ReadLock::Shared(lock.budget()))
            }
            None => {
                let lock = self.insert(pbn, LockKind::Read)?;
                lock.set_limit(limit);
                Ok(ReadLock::New(lock.budget()))
            }
        }
    }

    /// Turns the lock of the one who wrote a data block into a read lock with so many holders, and room for `limit`
    /// references.
    pub(super) fn downgrade(
        &mut self,
        pbn: Pbn,
        holders: u8,
        limit: u8,
    ) -> Result<IncrementBudget, VdoError> {
        let lock = self.held_lock(pbn)?;
        if lock.kind != LockKind::Write(WriteKind::Data) || lock.holders != 1 {
            let (kind, holders) = (lock.kind, lock.holders);
            return Err(VdoError::Inconsistent(format!(
                "physical block {pbn} should have the one lock of its writer, and has {kind:?} with \
                 {holders} holders"
            )));
        }
        lock.kind = LockKind::Read;
        lock.holders = u32::from(holders);
        lock.set_limit(limit);
        Ok(lock.budget())
    }

    /// Whether a block is locked in any way.
    #[inline]
    pub(super) fn is_locked(&self, pbn: Pbn) -> bool {
        self.by_block.find(pbn.get()).is_some()
    }

    /// Says whether the lock on a block, if there is one, answers for a provisional reference.
    #[inline]
    pub(super) fn set_provisional(&mut self, pbn: Pbn, provisional: bool) {
        if let Some(lock) = self.find(pbn) {
            lock.provisional = provisional;
        }
    }

    /// Takes a holder off a lock. With the last the lock is gone; true if a provisional reference
    /// stays behind, which the caller must release.
    pub(super) fn release(&mut self, pbn: Pbn) -> Result<bool, VdoError> {
        let Some(index) = self.by_block.find(pbn.get()) else {
            return Err(not_locked(pbn));
        };
        let lock = &mut self.locks[index as usize];
        lock.holders -= 1;
        if lock.holders > 0 {
            return Ok(false);
        }
        let provisional = std::mem::take(&mut lock.provisional);
        lock.generation = lock.generation.wrapping_add(1);
        lock.set_limit(0);
        self.by_block.remove(index);
        self.idle.push(index);
        Ok(provisional)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_lock(locks: &mut PbnLocks, pbn: Pbn, limit: u8) -> IncrementBudget {
        match locks.lock_for_reading(pbn, limit) {
            Ok(ReadLock::New(budget)) => budget,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_pool_lends_every_lock_once_and_takes_each_back() {
        let mut locks = PbnLocks::new(3);
        for round in 0..3 {
            for pbn in 0..3 {
                locks.lock_allocation(Pbn(pbn), WriteKind::Data).unwrap();
            }
            assert_eq!(locks.held(), 3);
            let refused = locks.lock_for_reading(Pbn(9), 5).unwrap_err();
            assert!(
                refused.to_string().contains("all 3 locks"),
                "{refused} in round {round}"
            );
            for pbn in (0..3).rev() {
                assert_eq!(locks.release(Pbn(pbn)), Ok(true));
            }
            assert_eq!(locks.held(), 0);
        }
        assert!(
            locks.release(Pbn(0)).is_err(),
            "a lock can not be released twice"
        );
    }

    #[test]
    fn a_write_lock_can_be_neither_shared_nor_taken_again() {
        let mut locks = PbnLocks::new(4);
        locks.lock_allocation(Pbn(7), WriteKind::Data).unwrap();
        let refused = locks.lock_for_reading(Pbn(7), 5).unwrap();
        assert!(matches!(refused, ReadLock::WriteLocked));
        assert!(locks.lock_allocation(Pbn(7), WriteKind::Data).is_err());
        locks.lock_allocation(Pbn(8), WriteKind::BlockMap).unwrap();
        assert!(
            locks.downgrade(Pbn(8), 1, 253).is_err(),
            "a block-map page is never shared"
        );
        assert!(
            locks.downgrade(Pbn(9), 1, 253).is_err(),
            "an unlocked block can not be downgraded"
        );
    }

    #[test]
    fn a_downgraded_lock_is_shared_until_its_last_holder_lets_go() {
        let mut locks = PbnLocks::new(4);
        locks.lock_allocation(Pbn(7), WriteKind::Data).unwrap();
        let budget = locks.downgrade(Pbn(7), 1, 2).unwrap();
        assert!(
            locks.downgrade(Pbn(7), 1, 2).is_err(),
            "a read lock can not be downgraded"
        );
        let ReadLock::Shared(other) = locks.lock_for_reading(Pbn(7), 9).unwrap() else {
            panic!("it is locked for reading");
        };
        assert!(budget.claim() && other.claim());
        assert!(!budget.claim() && !other.claim());
        locks.set_provisional(Pbn(7), false);
        assert_eq!(locks.release(Pbn(7)), Ok(false));
        assert!(locks.is_locked(Pbn(7)));
        assert_eq!(locks.release(Pbn(7)), Ok(false));
        assert!(!locks.is_locked(Pbn(7)));
    }

    #[test]
    fn a_lock_downgraded_for_several_stays_until_each_of_them_lets_go() {
        let mut locks = PbnLocks::new(1);
        locks.lock_allocation(Pbn(7), WriteKind::Data).unwrap();
        locks.downgrade(Pbn(7), 3, 253).unwrap();
        locks.set_provisional(Pbn(7), false);
        for _ in 0..2 {
            assert_eq!(locks.release(Pbn(7)), Ok(false));
            assert!(locks.is_locked(Pbn(7)));
        }
        assert_eq!(locks.release(Pbn(7)), Ok(false));
        assert_eq!((locks.is_locked(Pbn(7)), locks.held()), (false, 0));
    }

    #[test]
    fn a_budget_outlives_its_lock_without_claiming_from_the_next() {
        let mut locks = PbnLocks::new(1);
        let old = new_lock(&mut locks, Pbn(1), 5);
        assert!(old.claim());
        locks.release(Pbn(1)).unwrap();
        assert!(!old.claim());
        let new = new_lock(&mut locks, Pbn(2), 3);
        assert!(!old.claim());
        assert_eq!(new.left(), 3);
    }

    #[test]
    fn threads_claim_no_more_than_the_budget() {
        let mut locks = PbnLocks::new(1);
        let budget = new_lock(&mut locks, Pbn(1), 254);
        let claim_many = |budget: IncrementBudget| {
            std::thread::spawn(move || (0..200).filter(|_| budget.claim()).count())
        };
        let threads = [claim_many(budget.clone()), claim_many(budget.clone())];
        let claimed: usize = threads.map(|thread| thread.join().unwrap()).iter().sum();
        assert_eq!(claimed, 254);
    }
}
