//! What the engine makes of the content of a block, for programs that have data and no volume.
//!
//! A volume treats each block that is written to it alike: one that is all zero ([`is_zero_block`]) takes no room; any other gets
//! its name ([`hash_blocks`]), and what has a name that is known is stored once; what is new is squeezed ([`Compressor`]) and packed
//! with others into one block ([`Packer`]). These are the very parts that a hash zone works with.

pub use crate::dedupe::RequestId;
pub use crate::hash::{hash_blocks, is_zero_block, preferred_batch, record_name};
pub use crate::lz4::Compressor;
pub use crate::packer::{Company, Leaving, Packer, Put, blocks_for};
