//! Test support: the deterministic host and the helpers of the end-to-end tests.

pub mod dm_vdo;
pub mod fuzz;
pub mod guest;
pub mod index_image;
pub mod nbd_client;
pub mod nbd_probe;
pub mod nvme_probe;
pub mod picture;
pub mod probe;
pub mod recording;
pub mod rig;
pub mod script;
pub mod service;
pub mod sim;
pub mod spdk;
pub mod stock_client;
pub mod target;
pub mod terminal;
pub mod told;
pub mod tools;
pub mod work;
