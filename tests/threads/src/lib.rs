//! Every order in which threads of spdk-vdo can meet without a lock.
//!
//! What threads share without one is a few words, each kept in a file of its own: the doorbell of a zone thread's mailbox, the
//! word that says that a reactor sleeps, the one call for a poll in SPDK's interrupt mode, and the stack of ended
//! I/Os. Those very files are built here a second time, in `orders` over loom's atomics, which go through all that
//! a processor and a compiler may make of them, and in `memory` over the real ones, for Miri to watch.
//!
//! `make test` leaves out orders with more than three changes of thread at moments nobody asked for; `make loom` leaves out none.

// The same file over two kinds of atomics is two modules.
#![allow(clippy::duplicate_mod)]

#[cfg(test)]
mod memory;
#[cfg(all(test, not(miri)))]
mod orders;
