//! The embedded host: the engine on pinned threads, io_uring below and NBD above.

pub mod app;
pub mod bdev;
pub mod cli;
pub mod nbd;
pub mod notify;
pub mod reactor;
pub mod rpc;
pub mod sandbox;
pub mod target;
pub mod vdo;
