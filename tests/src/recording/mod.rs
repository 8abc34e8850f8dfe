//! What a device may be after a loss of power at any moment of a run that `dm-log-writes` recorded.
//!
//! 1. A run in a guest, on a device that `dm-log-writes` covers, leaves a log of every write, flush and durable write
//!    ([`log_writes`] reads it), with a mark wherever somebody knew that all he had written was safe.
//! 2. A [`Recording`] is the device as it was before the run, and the events of the log. A [`Cut`] is a loss
//!    of power at one event, and what became of the writes that were not durable then ([`cuts`]).
//! 3. [`Playback::cut`] makes the device that is left.
//!
//! In the log a write that was not durable by itself stands right before the first flush that surely covered it: so
//! between two flushes there come first the durable writes, in the order in which they ended, and then all
//! that the second flush has made durable. From this follows what there may be when the power goes at an event:
//!
//! - at a durable write: all before it is there; of the write itself each sector may be, or not; nothing else.
//! - at a flush: each sector of what it would have made durable may be there, or not; all before that is.

mod cuts;
mod log_writes;

pub use self::cuts::{Cut, Interest, Playback, Recording};
pub use self::log_writes::{Event, LogError};
