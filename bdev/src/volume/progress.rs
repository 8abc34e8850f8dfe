//! How far the opening of a volume is. A recovery or a rebuild may take minutes; whoever waits for it can ask, from any
//! thread, without disturbing it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::seam::{Listener, VolumeEvent};

/// What is done to a volume while it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Blocks of the recovery journal are read.
    ReadJournal,
    /// Entries of the journal are put into the block map.
    ReplayBlockMap,
    /// Blocks of the journal are put into the journals of slabs.
    ReplaySlabJournals,
    /// Trees of the block map are gone through, for a rebuild, once for their pages and once for what they map.
    Recount,
    /// Slab journals are erased, for a rebuild.
    EraseSlabJournals,
    /// Counters of slabs are written anew.
    WriteCounters,
    /// Chapters of the deduplication index are read, to make it again. The volume is up meanwhile.
    RebuildIndex,
}

impl Work {
    /// One word for a program.
    pub fn name(self) -> &'static str {
        match self {
            Work::ReadJournal => "read_journal",
            Work::ReplayBlockMap => "replay_block_map",
            Work::ReplaySlabJournals => "replay_slab_journals",
            Work::Recount => "recount",
            Work::EraseSlabJournals => "erase_slab_journals",
            Work::WriteCounters => "write_counters",
            Work::RebuildIndex => "rebuild_index",
        }
    }

    /// What has been done of it, for a person.
    fn sentence(self) -> &'static str {
        match self {
            Work::ReadJournal => "blocks of the recovery journal read",
            Work::ReplayBlockMap => "journal entries gathered for the block map",
            Work::ReplaySlabJournals => "journal blocks put into slab journals",
            Work::Recount => "trees of the block map gone through",
            Work::EraseSlabJournals => "slab journals erased",
            Work::WriteCounters => "slabs rebuilt",
            Work::RebuildIndex => "chapters of the deduplication index read",
        }
    }
}

/// How far some work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub work: Work,
    /// How much of it has been done.
    pub done: u64,
    /// How much there is.
    pub all: u64,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Step { work, done, all } = self;
        write!(f, "{done} of {all} {}", work.sentence())
    }
}

/// How far the opening of a volume is.
#[derive(Debug, Default)]
pub struct Progress {
    step: Mutex<Option<Step>>,
    listener: OnceLock<Arc<dyn Listener>>,
}

impl Progress {
    /// What is being done; `None` as long as nothing is that may take long.
    pub fn step(&self) -> Option<Step> {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, step: Step) {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = Some(step);
    }

    pub(super) fn listen(&self, listener: Arc<dyn Listener>) {
        // The first stays.
        _ = self.listener.set(listener);
    }

    /// Tells who listens.
    pub(super) fn happened(&self, event: &VolumeEvent) {
        if let Some(listener) = self.listener.get() {
            listener.told(event);
        }
    }
}
