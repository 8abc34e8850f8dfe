//! The block map: where the data of each logical block is.
//!
//! It is a forest of trees of fixed height (see [`crate::format::tree`] for which page is where). Leaf
//! pages hold the mappings, 812 each; the pages above them say where the pages below are. Trees are dealt to
//! the zone threads ([`TreeOwners`]), and each owns a [`BlockMapZone`] with its trees, its share of
//! the leaf cache and its own eras. Nothing here is shared between threads.
//!
//! A request first *locates* its leaf: down the tree, whose pages, once needed, stay in memory. A page that
//! is missing is made on the way if the request is a write: a block is allocated and journaled, and the
//! parent's entry is set. Then it *gets* and *puts* its entry in the leaf, through the cache. What is in
//! memory is used at once, without suspending and without allocating.
//!
//! A change lives in memory at first, and in the recovery journal. A dirty page keeps the journal block of
//! its oldest unwritten change from being reused; pages whose oldest change gets old, or whose slot is wanted
//! for another leaf, are written.
//!
//! | file | what |
//! |---|---|
//! | `config` | how large and how old it may get |
//! | `owners` | which zone thread has which tree |
//! | `zone` | the zone as others see it: locate, get, put, drain |
//! | `core` | what its requests and its I/O tasks share |
//! | `state` | what it knows and decides, free of waiting and I/O: leaves and room for them |
//! | `state/trees` | the way down a tree, and making what is missing on it |
//! | `state/sparse` | looking for what is mapped, past what is not |
//! | `state/transfers` | pages on their way from and to disk |
//! | `pages` | the pages in memory: contents, dirt, locks |
//! | `cache` | which leaf is in which slot, who goes next, who wants a slot |
//! | `forest` | which tree pages are in memory, which are being made |
//! | `eras` | when a dirty page must be written |
//! | `page_io` | the tasks that read and write |
//! | `waiters` | requests that wait for a page |

mod cache;
mod config;
mod core;
mod eras;
mod forest;
mod owners;
mod page_io;
mod pages;
mod state;
#[cfg(test)]
mod tests;
mod waiters;
mod zone;

pub use config::{BlockMapConfig, DEFAULT_BLOCK_MAP_MAXIMUM_AGE, maximum_age};
pub use owners::{TreeOwners, TreeSet};
pub use pages::{CACHE_PAGE_BYTES, Way};
pub use state::NextLeaf;
pub use zone::{BlockMapEnvironment, BlockMapZone};
