//! `vdo_estimate`: what files, folders and devices would take on a volume, without one.
//!
//! 1. [`inputs`] finds what there is to read, each file once, and cuts it into batches of blocks of 4 KiB. Holes are counted
//!    without being read. What cannot be read is told and counted ([`complaints`]), and the rest goes on.
//! 2. Several threads read batches and name their blocks with the engine's own hash ([`survey`]); if compression is to be
//!    tried, they squeeze those whose names are new.
//! 3. In the order of their numbers, batches are put into the [`store`]: a table of [`names`], the engine's own packer, and for each
//!    size of index a [`window`] of what it would still remember. So the answer does not depend on which thread was faster.
//! 4. What came of it becomes [`figures`], with the [`device`] that a volume for it needs; they are printed as a [`report`], or as JSON.
//!
//! Memory is bounded. When the table is full, only every second name is followed from then on, those that have a certain bit, and what
//! they stand for is counted twice; and so on. What a name's bits are has nothing to do with its content, so the sample is fair.

pub mod cli;
pub mod complaints;
pub mod device;
pub mod figures;
pub mod inputs;
pub mod names;
pub mod progress;
pub mod report;
pub mod store;
pub mod survey;
pub mod window;

/// Bytes of a block.
const BLOCK: u64 = vdo::types::BLOCK_SIZE as u64;
