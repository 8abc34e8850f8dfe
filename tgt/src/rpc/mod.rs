//! JSON-RPC 2.0 on a UNIX socket, as SPDK speaks it.
//!
//! Bytes come in at a `server`, which owns the listening `socket` and the `connection`s; the
//! `splitter` finds where each request ends, `message` reads it, and `dispatch` knows whom to
//! call; `config` makes the calls of a file, with `foreign` telling what may be left out of another program's,
//! and `framework` has the methods about the program itself. None of it runs on a reactor: handlers run on threads of their own and may wait.

mod access;
mod accounts;
pub mod config;
mod connection;
pub mod dispatch;
mod foreign;
pub mod framework;
mod message;
mod server;
mod socket;
mod splitter;

pub use access::{SocketAccess, SocketMode, SocketOwner};
pub use config::{ConfigError, Configuration};
pub use connection::LONGEST_REQUEST;
pub use dispatch::{Allowed, Dispatcher, Nothing, State};
pub use framework::Subsystem;
pub use message::LONGEST_ANSWER;
pub use server::{MOST_CONNECTIONS, RpcServer, ServerOptions};
pub use socket::{LockedListener, SocketError};

#[cfg(test)]
mod tests;
