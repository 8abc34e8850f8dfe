//! Every step a hash lock may take, as a table, and how often each was taken.
//!
//! The machine changes a lock's state in one place only, by naming a [`Row`]; the row says from where
//! and to where, so that a step that is not in the table cannot be written down. Each taken row is
//! counted per zone, which costs one addition and is how tests prove that none was forgotten and how a
//! user sees which paths the data takes.

use super::state::LockState::{self, *};
use crate::stats::HashLockStepStatistics;

/// Declares the rows: name, from, to, and why in words.
macro_rules! rows {
    ($( $row:ident: $from:ident => $to:ident, $why:literal; )*) => {
        /// One allowed step of a hash lock.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Row { $( #[doc = $why] $row, )* }

        impl Row {
            /// The whole table, in the order of a lock's life.
            pub const ALL: [Row; Row::COUNT] = [ $( Row::$row, )* ];

            /// How many rows there are.
            pub const COUNT: usize = [ $( Row::$row, )* ].len();

            /// The state the step leaves.
            pub const fn from(self) -> LockState {
                match self { $( Row::$row => $from, )* }
            }

            /// The state the step enters.
            pub const fn to(self) -> LockState {
                match self { $( Row::$row => $to, )* }
            }

            /// When the step is taken, in words.
            pub const fn why(self) -> &'static str {
                match self { $( Row::$row => $why, )* }
            }

            /// The row's name, for machines.
            pub const fn name(self) -> &'static str {
                match self { $( Row::$row => stringify!($row), )* }
            }
        }
    };
}

rows! {
    Taken: Initializing => Querying,
        "the first request took the lock and became its agent";
    Forked: Initializing => Writing,
        "the lock takes the place of one that can use its copy no more, with its waiters";

    Advised: Querying => Locking,
        "the advice names a usable block";
    Unadvised: Querying => Writing,
        "no advice, bad advice, no answer in time, or the index is off";

    Refused: Locking => Writing,
        "the block is write-locked or has no increments left: the advice is stale";
    Unverified: Locking => Verifying,
        "the read lock is held, the block not yet compared";
    RelockedUnclaimed: Locking => Unlocking,
        "already verified, but no increment could be claimed";
    RelockedClaimed: Locking => Deduping,
        "already verified and an increment claimed";

    Equal: Verifying => Deduping,
        "the bytes are equal and an increment is claimed";
    Different: Verifying => Unlocking,
        "the bytes differ or could not be read";
    EqualUnclaimed: Verifying => Unlocking,
        "the bytes are equal, but no increment could be claimed";

    WrittenForWaiters: Writing => Deduping,
        "written, and someone waits";
    WrittenElsewhere: Writing => Updating,
        "written, nobody waits, the advice must change (compressed, rolled over, or asked without an allocation)";
    WrittenShared: Writing => Unlocking,
        "written, nobody waits, a compressed write left a shared lock and the index need not know";
    Written: Writing => Bypassing,
        "written, nothing left to do";
    NoSpace: Writing => Bypassing,
        "no request of the lock holds an allocation";

    LastWithAdvice: Deduping => Updating,
        "the last holder is done, the advice must change";
    Last: Deduping => Unlocking,
        "the last holder is done";

    UpdatedForWaiters: Updating => Deduping,
        "someone arrived during the update";
    UpdatedLocked: Updating => Unlocking,
        "a duplicate lock is held";
    Updated: Updating => Bypassing,
        "no duplicate lock is held";

    UnlockedUnverified: Unlocking => Writing,
        "what was locked cannot be used";
    UnlockedAnchored: Unlocking => Locking,
        "someone arrived meanwhile, and the agent's own reference keeps the block: it is locked again, verified as it is";
    UnlockedForWaiters: Unlocking => Locking,
        "someone arrived meanwhile: the agent leaves, the first waiter locks and verifies again";
    Unlocked: Unlocking => Bypassing,
        "done";

    RefusedAfterWriting: Locking => Bypassing,
        "the block is refused and this lock has written once already: a new lock takes its place";
    UnverifiedAfterWriting: Unlocking => Bypassing,
        "what was locked cannot be used and this lock has written once already: a new lock takes its place";

    FailedQuerying: Querying => Bypassing, "the agent failed";
    FailedLocking: Locking => Bypassing, "the agent failed";
    FailedVerifying: Verifying => Bypassing, "the agent failed";
    FailedWriting: Writing => Bypassing, "the agent failed";
    FailedDeduping: Deduping => Bypassing, "one of the holders failed";
    FailedUpdating: Updating => Bypassing, "the agent failed";
    FailedUnlocking: Unlocking => Bypassing, "the agent failed";
}

impl Row {
    /// The row by which a lock in `state` ends because a request failed; none from the two ends.
    pub(super) const fn failure(state: LockState) -> Option<Row> {
        match state {
            Initializing | Bypassing => None,
            Querying => Some(Row::FailedQuerying),
            Locking => Some(Row::FailedLocking),
            Verifying => Some(Row::FailedVerifying),
            Writing => Some(Row::FailedWriting),
            Deduping => Some(Row::FailedDeduping),
            Updating => Some(Row::FailedUpdating),
            Unlocking => Some(Row::FailedUnlocking),
        }
    }
}

/// How often each row was taken, by one zone or several.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TransitionCounts([u64; Row::COUNT]);

impl Default for TransitionCounts {
    fn default() -> Self {
        TransitionCounts([0; Row::COUNT])
    }
}

impl TransitionCounts {
    /// Counts a step.
    #[inline]
    pub(super) fn count(&mut self, row: Row) {
        self.0[row as usize] += 1;
    }

    /// How often `row` was taken.
    pub fn get(&self, row: Row) -> u64 {
        self.0[row as usize]
    }

    /// How often any row entered `state`.
    pub fn entered(&self, state: LockState) -> u64 {
        self.iter()
            .filter(|(row, _)| row.to() == state)
            .map(|(_, count)| count)
            .sum()
    }

    /// How often any row led from one state to another.
    pub fn between(&self, from: LockState, to: LockState) -> u64 {
        self.iter()
            .filter(|(row, _)| row.from() == from && row.to() == to)
            .map(|(_, count)| count)
            .sum()
    }

    /// The counts by the states that steps lead from and to.
    pub fn steps(&self) -> HashLockStepStatistics {
        use crate::stats::{
            DedupingSteps, InitializingSteps, LockingSteps, QueryingSteps, UnlockingSteps,
            UpdatingSteps, VerifyingSteps, WritingSteps,
        };

        HashLockStepStatistics {
            initializing: InitializingSteps {
                querying: self.between(Initializing, Querying),
                writing: self.between(Initializing, Writing),
            },
            querying: QueryingSteps {
                locking: self.between(Querying, Locking),
                writing: self.between(Querying, Writing),
                bypassing: self.between(Querying, Bypassing),
            },
            locking: LockingSteps {
                verifying: self.between(Locking, Verifying),
                writing: self.between(Locking, Writing),
                deduping: self.between(Locking, Deduping),
                unlocking: self.between(Locking, Unlocking),
                bypassing: self.between(Locking, Bypassing),
            },
            verifying: VerifyingSteps {
                deduping: self.between(Verifying, Deduping),
                unlocking: self.between(Verifying, Unlocking),
                bypassing: self.between(Verifying, Bypassing),
            },
            writing: WritingSteps {
                deduping: self.between(Writing, Deduping),
                updating: self.between(Writing, Updating),
                unlocking: self.between(Writing, Unlocking),
                bypassing: self.between(Writing, Bypassing),
            },
            deduping: DedupingSteps {
                updating: self.between(Deduping, Updating),
                unlocking: self.between(Deduping, Unlocking),
                bypassing: self.between(Deduping, Bypassing),
            },
            updating: UpdatingSteps {
                deduping: self.between(Updating, Deduping),
                unlocking: self.between(Updating, Unlocking),
                bypassing: self.between(Updating, Bypassing),
            },
            unlocking: UnlockingSteps {
                writing: self.between(Unlocking, Writing),
                locking: self.between(Unlocking, Locking),
                bypassing: self.between(Unlocking, Bypassing),
            },
        }
    }

    /// Every row with its count, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = (Row, u64)> + '_ {
        Row::ALL.iter().map(|&row| (row, self.get(row)))
    }

    /// Adds another zone's counts.
    pub fn add(&mut self, other: &TransitionCounts) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine += theirs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_leaves_the_end_or_enters_the_beginning() {
        for row in Row::ALL {
            assert_ne!(row.from(), Bypassing, "{row:?}");
            assert_ne!(row.to(), Initializing, "{row:?}");
            assert_ne!(row.from(), row.to(), "{row:?}");
        }
    }

    #[test]
    fn every_state_that_lasts_can_fail() {
        for state in LockState::ALL {
            match Row::failure(state) {
                Some(row) => assert_eq!((row.from(), row.to()), (state, Bypassing)),
                None => assert!(matches!(state, Initializing | Bypassing)),
            }
        }
    }

    /// Adds up all numbers of a walk.
    struct Sum(u64);

    impl crate::stats::Visitor for Sum {
        fn number(&mut self, _: &'static str, value: u64) {
            self.0 += value;
        }
        fn text(&mut self, _: &'static str, _: &'static str) {}
        fn flag(&mut self, _: &'static str, _: bool) {}
        fn enter(&mut self, _: &'static str) {}
        fn leave(&mut self) {}
    }

    #[test]
    fn every_row_is_a_step_between_two_states() {
        for row in Row::ALL {
            let mut counts = TransitionCounts::default();
            counts.count(row);
            let mut sum = Sum(0);
            crate::stats::Statistics::visit(&counts.steps(), &mut sum);
            assert_eq!(sum.0, 1, "{row:?}");
        }
    }

    #[test]
    fn counts_of_zones_add_up() {
        let mut one = TransitionCounts::default();
        let mut two = TransitionCounts::default();
        one.count(Row::Taken);
        two.count(Row::Taken);
        two.count(Row::Unadvised);
        one.add(&two);
        assert_eq!(one.get(Row::Taken), 2);
        assert_eq!(one.entered(Writing), 1);
        assert_eq!(one.iter().map(|(_, count)| count).sum::<u64>(), 3);
    }
}
