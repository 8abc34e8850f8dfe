//! The index of dm-vdo, UDS: its records are on the base device, what finds them is in memory, and what is in memory is saved when
//! the index is closed. The format of all that is in [`crate::format::index`].
//!
//! - [`delta_lists`] is the memory of the [`volume_index`], which says in which chapter a name is;
//! - [`open_chapter`] takes in records until it is full; then [`chapter`] makes pages of them;
//! - [`zone`] answers questions out of these two; an index may be cut into up to 16 zones, by the delta lists of names;
//! - [`chapter_store`] has the chapters on disk, by an [`IndexDevice`](device::IndexDevice);
//! - [`saved`] makes a stream of bytes of the volume index, and [`saves`] puts that and the rest where it belongs;
//! - [`rebuild`] makes an index that was not saved again from its chapters;
//! - [`whole`] is all of it together, on one thread.

pub mod chapter;
pub mod chapter_store;
pub mod delta_lists;
pub mod device;
pub mod open_chapter;
pub mod rebuild;
pub mod saved;
pub mod saves;
pub mod volume_index;
pub mod whole;
pub mod zone;
