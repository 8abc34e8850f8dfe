//! The slab depot: which physical blocks are free, how often the others are used, and who is at them.
//!
//! The depot is a row of *slabs*. Each zone thread has one [`PhysicalZone`], which owns every slab whose
//! number is the zone's modulo the number of zones; nobody else touches them, so there is no lock here
//! but those on physical blocks.
//!
//! The life of a physical block: it is *allocated* ([`PhysicalZone::allocate`]) for a request, which
//! thereby holds a write lock on it and a provisional reference. When its data is on disk and the
//! recovery journal has the new mapping, the request turns the lock into a read lock
//! ([`PhysicalZone::downgrade_write`]), so that others may share the block, and adds the first reference
//! ([`PhysicalZone::count`]). (A block of fragments has a read lock as soon as it is on disk, shared by those who each add one.) Others lock it ([`PhysicalZone::lock_duplicate`]), claim increments from the
//! lock's budget, and add theirs, up to 254. References are taken back when logical blocks are
//! overwritten. When the last is gone and nobody holds a lock, the block is free.
//!
//! - [`allocator`](self) and `priority`: which slab the next block comes from
//! - `locks`: locks on physical blocks
//! - `reference_counts`: the counters of a slab, and the search for a free block
//! - `slab_journal`: the ring of changes that the counters on disk lack
//! - `summary`: what the next start must know of each slab
//! - `slab`: the order in which a change reaches these, and the disk
//! - `state`, `work`, `writer`: what the slabs of a zone share, and what writes it
//! - `discards`: telling the base device of freed blocks
//! - `scrubbing`: bringing slabs up to date after a crash, while the zone is at work
//! - `growing`: more slabs, while the zone is at work
//! - `zone`, `load`: what the rest of the volume asks for

mod allocator;
mod discards;
mod growing;
mod load;
mod locks;
mod priority;
mod reference_counts;
mod scrubbing;
mod slab;
mod slab_journal;
mod state;
mod summary;
#[cfg(test)]
mod tests;
mod work;
mod writer;
mod zone;

pub use locks::{IncrementBudget, WriteKind};
pub use reference_counts::ReferenceOperation;
pub use slab::ReferenceChange;
pub use summary::{LastRun, combine_summaries};
pub use zone::{DEFAULT_DISCARD_DELAY, DepotGeometry, DepotLimits, DuplicateLock, PhysicalZone};
