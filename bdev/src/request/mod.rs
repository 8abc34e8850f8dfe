//! The life of one request for one block, from a caller's piece to its acknowledgement.
//!
//! Each zone thread has a fixed number of request slots. A slot is one task that never ends
//! ([`slot::serve`]): it takes the next piece, serves it, and takes another. It owns the buffer the
//! caller's data is copied to (step 3 of a write) and one more to read blocks into. What it needs of
//! other zones it asks by message; it never moves itself.
//!
//! - [`pieces`]: a caller's request becomes requests for single blocks.
//! - [`slot`]: where pieces wait for a slot, and what a slot has.
//! - [`read`]: a block is read.
//! - [`write`]: a block is written, zeroed or unmapped.
//! - [`share`]: a write meets others with the same data in its hash zone.
//! - [`remap`]: the journal, the reference counts and the block map learn where the data is now.

pub(crate) mod pieces;
pub(crate) mod read;
pub(crate) mod remap;
pub(crate) mod share;
pub(crate) mod slot;
pub(crate) mod write;
