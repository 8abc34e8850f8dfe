//! Zone threads: who owns what, and how they talk.

pub mod base;
pub mod services;
pub mod task;
#[cfg(test)]
pub(crate) mod test_disk;
