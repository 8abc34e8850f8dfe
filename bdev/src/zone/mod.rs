//! Zone threads: who owns what, and how they talk.
//!
//! A volume's state is split over zone threads, and only its owner touches a part ([`owner`]). A zone
//! thread is polled by its host ([`thread`]) and runs cooperative tasks ([`task`]); what it needs of another it asks
//! by message ([`message`], [`post`], [`mailbox`]). Requests arrive as pieces ([`pieces`]), and their I/O goes by one
//! table ([`base`]).

pub mod base;
pub mod batch_hasher;
pub mod counters;
pub mod generations;
pub mod logical_locks;
pub mod mailbox;
pub mod message;
pub mod owner;
pub mod pieces;
pub mod post;
pub mod remapping;
pub mod service_desk;
pub mod services;
pub mod shared;
pub mod task;
#[cfg(test)]
pub(crate) mod test_disk;
pub mod thread;
pub mod usage;
