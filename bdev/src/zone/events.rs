//! What has happened to the requests of a zone thread.
//!
//! A request waits at its stage, and whoever it waits for puts an event here: the parts of the zone, its
//! hash zone, the journal, an assistant. The thread's poll takes the events, in order, to the records they
//! are for. So nobody calls into the requests, and nothing that happens can find a request half
//! moved.

use std::cell::RefCell;

use super::logical_locks::SlotIndex;
use crate::error::VdoError;
use crate::runtime::queue::Queue;
use crate::runtime::services::BlockMapSlot;
use crate::types::{JournalPoint, Mapping};

/// Where the data of a write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// In the block that was allocated for it; nobody refers to that yet.
    Own(Mapping),
    /// In a copy that was there before, with a reference set apart for the request.
    Shared(Mapping),
    /// In a fragment of a block that others' data is in too, with a reference set apart for the request.
    Fragment(Mapping),
}

impl Placed {
    /// The place.
    #[inline]
    pub fn mapping(self) -> Mapping {
        match self {
            Placed::Own(mapping) | Placed::Shared(mapping) | Placed::Fragment(mapping) => mapping,
        }
    }
}

/// What a hash zone says to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There will be a place for the data, whatever comes.
    Promise,
    /// The data is there: map the block to it, and say how that went.
    Place(Placed),
    /// It failed. The last word.
    Refuse(Box<VdoError>),
    /// The hash zone has forgotten the request's number. The last word.
    Release,
}

/// Something a request waited for. Errors are rare and boxed, so that an event is small.
#[derive(Clone, Debug)]
pub enum Event {
    /// It has the lock of its logical block.
    Locked,
    /// The way to its block-map entry; `None` if no page maps the block.
    Found(Result<Option<BlockMapSlot>, Box<VdoError>>),
    /// What its block-map entry says.
    LookedUp(Result<Mapping, Box<VdoError>>),
    /// What its hash zone says.
    Verdict(Verdict),
    /// Its journal entry is durable. Said only if somebody keeps time.
    Durable,
    /// Its journal entry is durable, and its changes of reference counts are made.
    Counted(Result<JournalPoint, Box<VdoError>>),
    /// Its block-map entry is changed.
    Mapped(Result<(), Box<VdoError>>),
}

/// The events of one zone thread not yet taken to their records.
#[derive(Debug)]
pub struct Events(RefCell<Queue<(SlotIndex, Event)>>);

impl Events {
    /// None, with room for some of each of `slots` requests.
    pub fn new(slots: usize) -> Events {
        Events(RefCell::new(Queue::with_capacity(2 * slots)))
    }

    /// Bytes of memory it holds.
    pub fn memory_held(&self) -> usize {
        self.0.borrow().memory_held()
    }

    /// Something has happened to the request in `slot`.
    #[inline]
    pub fn put(&self, slot: SlotIndex, event: Event) {
        self.0.borrow_mut().push((slot, event));
    }

    /// The oldest event.
    #[inline]
    pub fn next(&self) -> Option<(SlotIndex, Event)> {
        self.0.borrow_mut().pop()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}
