//! The deterministic simulator: a host with one thread, a seeded order of everything, virtual time and
//! a disk that reorders and fails.

pub mod disk;
pub mod request;
pub mod world;

pub use disk::SimDisk;
pub use request::{SimRequest, Ticket};
pub use world::{SimHost, World};
