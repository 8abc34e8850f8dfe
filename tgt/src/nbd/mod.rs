//! NBD: any bdev, served at a UNIX socket to any number of clients.
//!
//! The protocol is the NBD project's: fixed newstyle negotiation, simple and structured replies. An
//! `export` listens and hands each client to a reactor, where the `connection` is a poller: it
//! shakes hands (`negotiation`) and then serves requests (`transmission`) with memory of its own
//! `pool`. How many may do either is a matter of `places`, and how those with long requests leave time for the others, of `turns`. There is no thread per client and nothing
//! that blocks; `protocol` alone knows the bytes of the hot path.

mod connection;
mod export;
mod memory;
mod negotiation;
mod places;
mod pool;
mod protocol;
mod rpc;
mod transmission;
mod turns;

pub use export::{ExportOptions, MEMORY_MIB, NbdError, NbdExports};
pub use places::MOST_CLIENTS;
pub use rpc::register;

#[cfg(test)]
mod tests;
