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
    /// The base device failed.
    #[error("{operation} of block {pbn} on the base device failed (errno {errno})")]
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
    #[error("{0}")]
    Index(String),
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

impl VdoError {
    /// The positive errno a host answers with.
    pub fn errno(&self) -> i32 {
        match self {
            VdoError::NoSpace => 28,
            VdoError::ReadOnly
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
