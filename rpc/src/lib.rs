//! Every JSON-RPC method of spdk-vdo once: names, parameters, results and errors.
//!
//! Two hosts serve these methods, SPDK's bdev module and the embedded target, and they must agree to
//! the letter; so both take them from here. There is no I/O in this crate but the client's and what [`service`] sends, and no state but the list of
//! volumes that are being opened. A host looks
//! the method up in [`methods`], turns the request's `params` into the method's type with
//! [`Parameters::decode`] (which refuses what is unknown, missing, of the wrong type or out of range,
//! naming the parameter and the value), does the work, and answers with one of the result types or an
//! [`RpcError`].
//!
//! - [`methods`]: the names, and what each method takes
//! - [`params`]: the parameter types
//! - `profile`: parameters of `bdev_vdo_create` from a file
//! - [`results`]: what `bdev_get_bdevs` shows of a volume, `bdev_vdo_dump`, `bdev_vdo_get_histograms`, and `bdev_vdo_rebuild`
//! - [`volume`]: what the parameters mean to the engine, and what the engine's answers are called
//! - [`client`]: the other end of the socket, for programs that ask a target
//! - [`cpumask`]: core masks as SPDK writes them
//! - [`config_file`]: configuration files as text
//! - [`spdk`]: the parameters of SPDK's own bdev methods the embedded target has
//! - [`stats`]: statistics as JSON, and as YAML in the manner of `vdostats`
//! - [`events`]: what an operator is told of a volume, in the log and by notifications
//! - [`error`]: codes and messages
//! - [`service`]: what the service manager is told of a host

pub mod client;
pub mod config_file;
pub mod cpumask;
pub mod error;
pub mod events;
pub mod methods;
pub mod params;
mod profile;
pub mod results;
pub mod service;
pub mod spdk;
pub mod stats;
pub mod volume;

pub use error::{ErrorCode, RpcError};
pub use params::Parameters;
