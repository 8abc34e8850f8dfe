//! What can go wrong with a request or a volume, as sentences a person can act on.

use thiserror::Error;

use crate::types::Pbn;

/// Why a request failed. Each has an errno a host can answer with.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VdoError {
    /// No physical block is free and nothing could be deduplicated.
    #[error("no free physical block is left; delete or discard data, or grow the base device")]
    NoSpace,
    /// The volume is read-only after an error that could have corrupted it.
    #[error("the volume is read-only after an earlier error; see the log for the first one")]
    ReadOnly,
    /// The volume turned read-only after a change of this block was durable, and before the block map knew of it.
    #[error(
        "the volume turned read-only before it was known where the data of this block is now; \
         it can be read when the volume was opened again"
    )]
    Unsettled,
    /// The base device failed.
    #[error("{operation} of block {pbn} on the base device failed ({})", device_error(*.errno))]
    Io {
        /// What was tried: "read", "write" or "flush".
        operation: &'static str,
        /// Which physical block.
        pbn: Pbn,
        /// The device's errno, positive.
        errno: i32,
    },
    /// Metadata contradicts itself; the volume turns read-only.
    #[error("metadata is inconsistent: {0}")]
    Inconsistent(String),
    /// The block map says of a logical block what can not be true. A read must fail; a write replaces it.
    #[error(
        "the block map points to block {pbn} (state {state}), which can not hold data; \
         what was there is lost, write the block anew"
    )]
    BadMapping {
        /// The physical block it points to.
        pbn: Pbn,
        /// The four bits of its mapping state.
        state: u8,
    },
    /// The request lies outside the volume or is malformed.
    #[error("bad request: {0}")]
    Invalid(String),
    /// A fragment of a compressed block cannot be unpacked.
    #[error("the compressed block {pbn} cannot be read: {why}")]
    BadFragment {
        /// The compressed block.
        pbn: Pbn,
        /// What is wrong with it.
        why: String,
    },
    /// The index did not do what it was told.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The host has not the memory.
    #[error("no memory for {what} ({bytes} bytes); give the process more, or configure less")]
    NoMemory {
        /// What it was for.
        what: &'static str,
        /// How much, in bytes.
        bytes: u64,
    },
    /// The volume is shutting down.
    #[error("the volume is shutting down")]
    ShuttingDown,
}

/// The errno of a device in words.
fn device_error(errno: i32) -> String {
    /// `EBADE`: what Linux makes of a reservation conflict.
    const RESERVED: i32 = 52;
    match errno {
        RESERVED => "another host has reserved it".to_owned(),
        errno => format!("errno {errno}"),
    }
}

impl VdoError {
    /// The positive errno a host answers with.
    pub fn errno(&self) -> i32 {
        match self {
            VdoError::NoSpace => 28,
            VdoError::ReadOnly
            | VdoError::Unsettled
            | VdoError::Io { .. }
            | VdoError::Inconsistent(_)
            | VdoError::BadFragment { .. }
            | VdoError::Index(_)
            | VdoError::BadMapping { .. } => 5,
            VdoError::Invalid(_) => 22,
            VdoError::NoMemory { .. } => 12,
            VdoError::ShuttingDown => 19,
        }
    }
}

/// Why the index did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IndexError {
    /// The index is closed.
    #[error("the deduplication index is not open; open or create it first")]
    NotOpen,
    /// There is no index in the region to open, or none that can be used.
    #[error("there is no deduplication index that can be opened; create one")]
    Missing,
    /// The volume's index region is too small, or of no size there is.
    #[error("the volume has no room for the deduplication index it was formatted with")]
    NoRoom,
    /// The index is one of a program of another age.
    #[error(
        "the deduplication index was made by a program of another age; use such a one, or create a new index"
    )]
    Foreign,
    /// What the index has on the base device contradicts itself.
    #[error("the deduplication index is damaged; create a new one")]
    Damaged,
    /// The machine has not the memory the index was configured to use.
    #[error("no memory for {bytes} bytes of deduplication index; configure a smaller one")]
    NoMemory {
        /// The bytes asked for.
        bytes: u64,
    },
    /// The base device failed.
    #[error("the base device failed at block {pbn} of the deduplication index (errno {errno})")]
    Io {
        /// The physical block.
        pbn: Pbn,
        /// The device's errno, positive.
        errno: i32,
    },
    /// It was to be closed before it was open.
    #[error("the deduplication index was closed before it was open; open it again")]
    Interrupted,
    /// The answer was withheld, and now the index stops.
    #[error("the deduplication index stopped before it answered")]
    Abandoned,
    /// A failure made on purpose.
    #[error("the deduplication index was told to fail")]
    Injected,
}
