//! The seam between the engine and its host: all the engine needs of the world.
//!
//! A host (SPDK, the embedded target, the simulator) gives each zone thread a [`BaseChannel`] to the
//! base device, tells it the time at each poll, and wakes it when another thread puts something in
//! its mailbox. It hands in requests as [`HostRequest`]s, and gets each back by its completion. What an operator
//! should hear of is told to its [`Listener`], once.
//! Everything is monomorphised over [`Host`]: no virtual call per block.
//!
//! What a host owes: it polls every zone thread from before the volume's start until the shutdown has been answered, and
//! drops them only then; it submits nothing once it has dropped one. A request that is submitted while the volume shuts down is
//! served or refused, whichever; every request is completed.

use std::fmt::Debug;
use std::ptr::NonNull;

use crate::types::Pbn;

/// Time as the host tells it: nanoseconds on a clock that never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nanos(pub u64);

/// The kinds of things a host brings.
pub trait Host: 'static {
    /// A zone thread's way to the base device.
    type Channel: BaseChannel;
    /// A caller's request.
    type Request: HostRequest;
    /// Wakes a zone thread that may sleep.
    type Waker: ZoneWaker;
}

/// Names one base-device I/O from submission to completion.
pub type IoToken = u32;

/// What to do on the base device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseOp {
    /// Read whole blocks into `memory`.
    Read,
    /// Write whole blocks from `memory`.
    Write,
    /// Make every completed write durable. No memory, no blocks.
    Flush,
    /// Tell the device the blocks hold nothing of use. Advice; no memory.
    Discard,
}

/// One I/O to the base device.
#[derive(Clone, Copy, Debug)]
pub struct BaseIo {
    /// What to do.
    pub op: BaseOp,
    /// The first block.
    pub pbn: Pbn,
    /// How many blocks of 4096 bytes.
    pub blocks: u32,
    /// `blocks` blocks of memory, aligned to 4096 bytes; dangling for flush and discard. The engine
    /// keeps it alive, and for a read touches it not at all, until the completion is returned.
    pub memory: NonNull<u8>,
    /// Whether the write must be durable when it completes.
    pub fua: bool,
    /// Returned with the completion.
    pub token: IoToken,
}

/// The end of one base-device I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoCompletion {
    /// The token it was submitted with.
    pub token: IoToken,
    /// Zero, or a positive errno.
    pub errno: i32,
}

/// A zone thread's way to the base device. Used by that thread only.
pub trait BaseChannel: 'static {
    /// Starts an I/O. Never fails and never blocks: an error is a completion, and a device that
    /// takes no more for now makes the channel queue. The completion must not arrive before
    /// [`BaseChannel::poll`] is next called.
    ///
    /// # Safety
    /// `io.memory` must stay valid for `io.blocks` blocks, and be used by no one else (by no one who
    /// writes, for a write), until the completion with `io.token` has been returned by `poll`.
    unsafe fn submit(&mut self, io: BaseIo);

    /// Hands each I/O that has ended to `done`, in any order, and says whether there were any.
    fn poll(&mut self, done: &mut dyn FnMut(IoCompletion)) -> bool;
}

/// What a caller wants of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Read `length` bytes at `offset`.
    Read,
    /// Write `length` bytes at `offset`.
    Write,
    /// Make `length` bytes at `offset` read as zeroes.
    WriteZeroes,
    /// The caller needs `length` bytes at `offset` no more; they read as zeroes after.
    Unmap,
    /// Make every write acknowledged before this durable.
    Flush,
}

/// Where a request lies and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// What is wanted.
    pub kind: RequestKind,
    /// First byte in the volume; any alignment.
    pub offset: u64,
    /// How many bytes; any alignment.
    pub length: u64,
    /// Whether a write must be durable before it is acknowledged.
    pub fua: bool,
}

/// A caller's request as the host holds it. The engine clones it once for each piece it splits the
/// request into (a clone is a handle, not a copy of the data), uses each clone on one zone thread,
/// and completes each exactly once; the host answers the caller when every clone is complete.
pub trait HostRequest: Clone + Send + 'static {
    /// Copies the caller's bytes from `start` (an offset into the request) to fill `block`.
    /// Only for writes. Different pieces are copied on different threads at once.
    fn copy_in(&self, start: usize, block: &mut [u8]);

    /// Copies `data` to the caller's bytes from `start`. Only for reads; pieces never overlap.
    fn copy_out(&self, start: usize, data: &[u8]);

    /// Where a read may be done straight into the caller's memory: the address of `length` bytes at
    /// `start`, if they lie in one piece, aligned as the base device needs. `None` makes the engine
    /// read into its own buffer and [`HostRequest::copy_out`].
    fn direct(&self, start: usize, length: usize) -> Option<NonNull<u8>>;

    /// One piece has ended: `bytes` of the request are done, with zero or a positive errno. When the
    /// bytes of all pieces add up to the request's length (for a flush: the one piece), the host
    /// answers the caller with the first error, if any.
    fn complete(self, bytes: u64, errno: i32);
}

/// Wakes a zone thread whose mailbox turned non-empty. Called from any thread.
pub trait ZoneWaker: Send + Sync + 'static {
    /// Sees to it that the zone thread is polled soon. Cheap when it is awake already.
    fn wake(&self);
}

/// What an operator should hear of, before it is too late or when it is over. Each is told once, when it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeEvent {
    /// So many percent of the physical blocks are in use, which was to be told. Told again only after the use has fallen
    /// (see [`VolumeOptions::low_space_percent`](crate::volume::VolumeOptions::low_space_percent)).
    LowSpace {
        /// The share that was reached.
        percent: u8,
        /// Physical blocks in use, of data and metadata.
        used_blocks: u64,
        /// All physical blocks.
        physical_blocks: u64,
    },
    /// The volume turned read-only, or is.
    ReadOnly {
        /// Why.
        reason: String,
        /// Whether its super block said so when it was opened.
        was_found: bool,
    },
    /// The volume was not shut down, and is brought back.
    RecoveryBegun,
    /// It is as if it had been: its journal is replayed and its slabs are scrubbed; or it could not be, for this reason.
    RecoveryEnded(Result<(), String>),
    /// The volume is rebuilt from its block map, as was asked for.
    RebuildBegun,
    /// It is rebuilt, and this had to be dropped; or it could not be, for this reason.
    RebuildEnded(Result<String, String>),
    /// The deduplication index has come to another state.
    Index(IndexState),
}

/// The states of a deduplication index that last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexState {
    /// It is open, and asked.
    Online,
    /// It is open, and not asked.
    Offline,
    /// It is closed.
    Closed,
    /// It was not saved, and is made again from its chapters, while the volume works.
    Rebuilding,
    /// It failed, and is closed.
    Error,
}

/// Who is told of a volume's [`VolumeEvent`]s.
pub trait Listener: Send + Sync + Debug {
    /// This has happened. Called on any thread, zone threads too: it must not wait for anything.
    fn told(&self, event: &VolumeEvent);
}
