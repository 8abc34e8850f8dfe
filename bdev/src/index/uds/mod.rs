//! The index of dm-vdo, UDS: its records are on the base device, what finds them is in memory, and what is in memory is saved when
//! the index is closed. The format of all that is in [`crate::format::index`].
//!
//! - [`delta_lists`] is the memory of the [`volume_index`], which says in which chapter a name is;
//! - [`open_chapter`] takes in records until it is full; then [`chapter`] makes pages of them;
//! - [`saved`] makes a stream of bytes of the volume index, and loads it from such streams.
//!
//! Nothing here does I/O.

pub mod chapter;
pub mod delta_lists;
pub mod open_chapter;
pub mod saved;
pub mod volume_index;
