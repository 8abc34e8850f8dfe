//! Hash zones, hash locks and dedupe contexts.
//!
//! Writes that are in flight with the same data at the same time meet in a *hash lock*, which finds
//! out once for all of them whether the data is on disk already, and lets all but one of them
//! share a single copy. What lives here is the thinking part alone: three machines that do no
//! I/O, read no clock and know no thread. A hash zone owns one of each (the index's states are the
//! volume's), and only its zone thread touches them. The zone's driver feeds them what happened and carries
//! out what they say.
//!
//! - [`HashZoneMachine`] ([`zone_machine`], [`paths`]): the hash locks of a zone. Requests speak to it by
//!   [`Answer`]s and it speaks to them by [`Action`]s ([`action`]). The states are in [`state`], every allowed
//!   step between them in [`transitions`]; [`lock`] is one lock, [`members`] says which request stands where.
//! - [`Contexts`] ([`contexts`]): who is waiting for the index, and since when.
//! - [`IndexStates`] ([`index_states`]): whether there is an index to ask.

pub mod action;
pub mod contexts;
pub mod index_states;
pub mod lock;
mod members;
mod paths;
pub mod state;
pub mod transitions;
pub mod zone_machine;

pub use action::{Action, Answer, Inconsistency, LockHost, ReadLock, RequestId, WrittenAt};
pub use contexts::{ContextId, ContextTally, Contexts, Expired, Reply};
pub use index_states::{IndexStates, IndexStep, IndexWord, OpenResult};
pub use lock::{LockId, LockReport};
pub use state::LockState;
pub use transitions::{Row, TransitionCounts};
pub use zone_machine::HashZoneMachine;
