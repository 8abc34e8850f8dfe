//! Coming back after a crash: from what the disk was left with to a volume whose parts agree again.
//!
//! Nothing in this folder does I/O. Each file takes images of blocks, in chunks of a size its caller chooses, and
//! says what is to be read or written next; [`crate::volume`] does that, before the zones of a volume exist.
//!
//! A *recovery* brings back a volume that was in use. What is true after a crash is what the recovery journal holds;
//! all other metadata may lag behind it, each part by another stretch:
//!
//! 1. [`ring`]: every block of the journal is looked at once. What is usable of it is a [`RecoveryPlan`](plan::RecoveryPlan): a range of entries
//!    for the block map, another for the slab journals, how much is mapped, and the number the journal goes on with.
//! 2. [`map_replay`]: the mappings are put into the pages of the block map, the last of each slot wins.
//! 3. [`slab_replay`]: the changes of reference counts are put into the slab journals that had not heard of them yet.
//! 4. One write of the super block then ends the use of the journal. Until it, a crash means beginning anew, and
//!    nothing done so far is in the way of that.
//! 5. [`scrub`]: each slab's counters are brought up to date from its journal, in the order [`order`] gives.
//!
//! A *rebuild* brings back, on request, a volume that turned read-only. It believes only the block map: what is left of the
//! journal is put into it, whatever is missing in between, and then [`rebuild`] counts every reference anew, drops
//! what cannot be, and tells how much that was.
//!
//! What is kept in memory: 40 bytes for a block of the journal while it is scanned; then a batch of mappings and the
//! pages they go to, bounded by the volume's cache; then one journal block for each slab that changes; then the
//! counters of one slab, or for a rebuild of all, as a running volume has them anyway.

pub mod entries;
pub mod map_replay;
pub mod order;
pub mod plan;
pub mod rebuild;
pub mod ring;
pub mod scrub;
pub mod slab_replay;

pub use entries::EntryRules;
pub use plan::Refusal;
pub use ring::{Ring, RingScan};
