//! Zones: who owns what, and how the owners talk.
//!
//! A volume's state is split over zone threads, and only its owner touches a part ([`owner`]). What it needs
//! of another it asks by message ([`message`], [`post`]). Parts that know nothing of the rest (block map, depot,
//! journal) are served by [`service_desk`]; the hash-lock machine by its driver, [`hash_zone`]. Zone thread 0 also
//! keeps the super block ([`super_block`]), starts, stops and steers the volume ([`admin`]), has it grow ([`growth`]), and sees to the index as a whole ([`index`]). Each looks whether space runs low ([`low_space`]).

pub mod admin;
pub(crate) mod asking;
pub mod counters;
pub mod discarding;
pub mod events;
pub mod extent;
pub mod fragments;
pub mod generations;
pub(crate) mod growth;
pub mod hash_zone;
pub mod index;
pub mod journaling;
pub mod logical_locks;
pub mod low_space;
pub mod message;
pub mod owner;
pub mod post;
pub mod room;
pub mod scratch;
pub mod service_desk;
pub(crate) mod serving;
pub mod shared;
pub(crate) mod super_block;
pub mod usage;
