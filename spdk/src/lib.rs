//! The vdo bdev module of SPDK, and safe wrappers of what it needs of SPDK.
//!
//! Wrappers, each with its ownership rule in its types:
//! - [`thread`]: SPDK threads, messages to them, values that live on one
//! - [`poller`]: work a thread does again and again; stops when dropped
//! - [`task`]: futures run by an SPDK thread
//! - [`dma`]: memory fit for DMA
//! - [`desc`]: an open bdev, its events, and channels to it
//! - [`json`], [`rpc`]: JSON in and out, methods of SPDK's RPC server
//! - [`logging`]: what the engine logs goes where SPDK logs
//! - [`notify`]: SPDK's notifications
//!
//! On top, [`vdo`]: the bdev module. A program that links this crate and calls [`vdo::linked`] has the module;
//! it enters itself, as SPDK's own modules do, before `main`.

pub mod desc;
pub mod dma;
pub mod json;
pub mod logging;
pub mod notify;
pub mod poller;
pub mod rpc;
pub mod task;
pub mod thread;
pub mod vdo;
