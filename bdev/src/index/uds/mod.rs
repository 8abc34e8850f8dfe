//! The index of dm-vdo, UDS: its records are on the base device, what finds them is in memory, and what is in memory is saved when
//! the index is closed. The format of all that is in [`crate::format::index`].
//!
//! - [`delta_lists`] is the memory of the [`volume_index`], which says in which chapter a name is;
//! - [`open_chapter`] takes in records until it is full; then [`chapter`] makes pages of them, which [`chapter_pages`] reads;
//! - [`zone`] answers questions out of these two; an index may be cut into up to 16 zones, by the delta lists of names;
//! - [`ring`] is where chapters are on disk, and [`lookup`] finds names in them, through a [`page_cache`]; in a sparse index also by way
//!   of the chapters in the [`sparse_cache`];
//! - [`saved`] makes a stream of bytes of the volume index, and [`saves`] puts that and the rest where it belongs;
//! - [`rebuild`] makes an index that was not saved again from its chapters;
//! - [`whole`] is all of it together, on one thread.
//!
//! I/O goes by an [`IndexDevice`](device::IndexDevice).

pub mod chapter;
pub mod chapter_pages;
pub mod delta_lists;
pub mod device;
pub mod lookup;
pub mod open_chapter;
pub mod page_cache;
pub mod rebuild;
pub mod ring;
pub mod saved;
pub mod saves;
pub mod sparse_cache;
pub mod volume_index;
pub mod whole;
pub mod zone;

use crate::index::IndexError;

/// So many bytes of zeroes, which cost nothing before they are touched.
fn zeroed(bytes: u64) -> Result<Vec<u8>, IndexError> {
    let no_memory = IndexError::NoMemory { bytes };
    let Ok(size) = usize::try_from(bytes) else {
        return Err(no_memory);
    };
    // Tried, and given back, before they are taken zeroed: that is how a Vec can fail.
    match Vec::<u8>::new().try_reserve_exact(size) {
        Ok(()) => Ok(vec![0; size]),
        Err(_) => Err(no_memory),
    }
}
