//! What the owners of a zone (block map, depot, journal) ask of the rest of the volume.
//!
//! None of them knows which thread the others live on. The zone's glue implements these traits by
//! a call or by a message; unit tests implement them by a recorder.

use std::future::Future;
use std::pin::Pin;

use crate::error::VdoError;
pub use crate::format::recovery_journal::BlockMapSlot;
use crate::types::{JournalPoint, Mapping, SequenceNumber, ZoneIndex};

/// Who keeps a block of the recovery journal from being reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JournalHolder {
    /// Dirty block-map pages of this logical zone hold entries of the block.
    Logical(ZoneIndex),
    /// Slab journals of this physical zone hold entries of the block in memory only.
    Physical(ZoneIndex),
}

/// Volume-wide services every owner may use. All calls return at once.
pub trait ZoneServices: 'static {
    /// Keeps block `sequence` of the recovery journal from being reused, once more on behalf of
    /// `holder`. The caller holds a request whose entry in that block is not released yet, or another
    /// lock on the same block, so that the block cannot be reused before this arrives.
    fn acquire_journal_lock(&self, sequence: SequenceNumber, holder: JournalHolder);

    /// Takes back one [`ZoneServices::acquire_journal_lock`].
    fn release_journal_lock(&self, sequence: SequenceNumber, holder: JournalHolder);

    /// Turns the volume read-only at once, everywhere, and says why in the log (the first time).
    fn enter_read_only(&self, why: &VdoError);

    /// Whether the volume is read-only.
    fn is_read_only(&self) -> bool;

    /// So many slabs of this zone are to be scrubbed.
    fn slabs_to_scrub(&self, slabs: u32);

    /// A slab of this zone was scrubbed: there may be room now.
    fn slab_scrubbed(&self);

    /// Whether freed blocks are to be discarded on the base device.
    fn discards_freed(&self) -> bool {
        false
    }

    /// Free blocks of this zone are about to be discarded, and are not to be had until [`ZoneServices::discard_ended`].
    fn discard_began(&self) {}

    /// They are to be had again, whatever came of the discard. After a failure no more are tried.
    fn discard_ended(&self, _result: &Result<(), VdoError>) {}
}

/// A future that is boxed because it is rare: growing the block-map tree.
pub type Rare<T> = Pin<Box<dyn Future<Output = T>>>;

/// How the block map gets a page for its tree: an allocated block, journaled and counted.
pub trait TreePageSource: 'static {
    /// Allocates a physical block for a block-map page whose parent entry is `parent`, adds the
    /// recovery-journal entry (block-map increment), waits for its commit, and sets the block's reference
    /// count to "block map page". On success the caller must write the parent entry under the given
    /// journal point, and then call [`TreePageSource::finish`].
    fn allocate(&self, parent: BlockMapSlot) -> Rare<Result<(Mapping, JournalPoint), VdoError>>;

    /// The parent entry has been written in memory: the write lock on the page's block and the hold
    /// on the journal entry are released.
    fn finish(&self, page: Mapping, point: JournalPoint);
}
