//! The deterministic simulator: a host with one thread, a seeded order of everything, virtual time and
//! a disk that reorders, fails and forgets.
//!
//! [`world`] is the host, [`disk`] its base device, [`request`] a caller's request. [`run`] runs a seed: a
//! [`profile`] drawn from it, a [`workload`] against it, with [`faults`] under it and a [`model`] that knows what is
//! right beside it; [`complaints`] hears what the engine logs. [`audit`] looks
//! over the disk after each shutdown, [`salvage`] what is on it meanwhile. [`losses`] takes the power away. [`batch`] runs many seeds,
//! and [`smaller`] makes those that fail smaller.
//! [`growth`] is what is known of its size.
//! [`trace`] is what happened, to see that a seed repeats it. [`small`] is a volume for tests that say themselves what happens.

pub mod audit;
pub mod batch;
pub mod complaints;
pub mod disk;
pub mod faults;
pub mod growth;
pub mod losses;
pub mod model;
pub mod profile;
pub mod request;
pub mod run;
pub mod salvage;
pub mod small;
pub mod smaller;
pub mod trace;
pub mod workload;
pub mod world;

pub use disk::SimDisk;
pub use request::{SimRequest, Ticket};
pub use run::{Outcome, run_seed, run_seed_and};
pub use world::{SimHost, World};
