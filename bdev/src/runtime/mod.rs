//! What every part of a zone thread stands on: tasks, base I/O, and the traits by which a part asks for what is not its own.
//!
//! A zone thread runs cooperative tasks ([`task`]), and their I/O to the base device goes by one table
//! ([`base`]); many who need a flush share one ([`shared_flush`]). What is under way has a number in a
//! [`table`], and stands in line on a [`list`] or in a [`queue`], or is found by a key through [`chains`].
//! How long requests wait for what, a [`stopwatch`] knows. Memory that many requests are about to look at is asked for beforehand ([`mod@prefetch`]).
//! What an option or a disk decides the size of is taken by way of [`mod@memory`]. Block map, depot and journal know no more of a volume
//! than that and the traits in [`services`], so that each can be tested alone, on a disk in memory.

pub mod base;
pub mod chains;
pub mod list;
pub mod memory;
pub mod prefetch;
pub mod queue;
pub mod services;
pub mod shared_flush;
pub mod stopwatch;
pub mod table;
pub mod task;
#[cfg(test)]
pub(crate) mod test_disk;
