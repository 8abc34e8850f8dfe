//! Block devices of the target ("bdevs"): what a volume lies on and what an export serves.
//!
//! A [`Bdev`] is made by an RPC, named, and entered into the [`Registry`]. Whoever uses it opens it by
//! name, perhaps *claims* it (one exclusive writer), and then opens a [`Channel`] per reactor thread.
//! A channel takes I/O ([`BdevIo`]: any multiple of the block size) and gives completions back when
//! polled, always on the thread that uses it; it is also the engine's
//! [`BaseChannel`](vdo::seam::BaseChannel) (whole 4 KiB blocks). Nothing is shared between channels but
//! what the device itself shares.
//!
//! When a bdev is deleted, those who hold it open are told and must let go; the device is dropped when
//! the last channel and descriptor are.

mod channel;
mod delay;
mod error;
mod file;
mod io;
mod malloc;
mod null;
mod owned;
mod registry;
mod rpc;
mod stat;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use thiserror::Error;
use uuid::Uuid;

use crate::reactor::ReactorHandle;

pub use channel::{Channel, Device, DeviceChannel};
pub use delay::{DelayBdev, Latencies, LatencyKind};
pub use error::{ErrorBdev, ErrorType, InjectOn, Injection};
pub use file::{EngineKind, FileBdev, FileModule, FileOptions};
pub use io::{BdevCompletion, BdevIo, IoKind, IoKinds, IoMeta};
pub use malloc::MallocBdev;
pub use null::NullBdev;
pub use owned::{BufferChannel, BufferCompletion, BufferIo};
pub use registry::{BdevDesc, Claim, OpenOptions, Registry, RemoveHook, Reset};
pub use rpc::register;
pub use stat::{IoStat, IoTotals, KindTotals};

/// What every bdev says of itself; fixed for its life, but for the number of blocks, which may grow.
#[derive(Clone, Debug)]
pub struct BdevInfo {
    /// The name it is found by.
    pub name: String,
    /// What kind of thing it is, in words, as SPDK prints it.
    pub product_name: &'static str,
    /// Its identity; also an alias it is found by.
    pub uuid: Uuid,
    /// Bytes per block: 512 or 4096.
    pub block_size: u32,
    /// How many blocks.
    pub num_blocks: BlockCount,
    /// What it can do.
    pub supports: IoKinds,
}

impl BdevInfo {
    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.num_blocks.get() * u64::from(self.block_size)
    }
}

/// How many blocks a bdev has. Its clones are of the same bdev, or of one that lies on all of it, and grow with it.
#[derive(Clone, Debug)]
pub struct BlockCount(Arc<AtomicU64>);

impl BlockCount {
    /// How many there are now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// There are so many from now on, not fewer than before.
    pub fn grow(&self, blocks: u64) {
        self.0.fetch_max(blocks, Ordering::AcqRel);
    }
}

impl From<u64> for BlockCount {
    fn from(blocks: u64) -> BlockCount {
        BlockCount(Arc::new(AtomicU64::new(blocks)))
    }
}

/// A block device. Shared by all threads; I/O goes through channels.
pub trait Bdev: Send + Sync + 'static {
    /// What it says of itself.
    fn info(&self) -> &BdevInfo;

    /// Which RPC family made it ("malloc", "uring", ...); its delete method refuses others.
    fn module(&self) -> &'static str;

    /// A way to it for the thread of `reactor`.
    ///
    /// # Errors
    /// When the system refuses memory or descriptors.
    fn open_device(&self, reactor: &ReactorHandle) -> Result<Device, BdevError>;

    /// Its members of `driver_specific` in `bdev_get_bdevs`.
    fn driver_specific(&self) -> Value {
        json!({})
    }

    /// The RPC calls, `{"method": ..., "params": ...}`, that make it again from the same configuration.
    fn config(&self) -> Vec<Value>;

    /// Called once when the target ends, before anything is closed: what the bdev holds back on purpose
    /// must be let go, so that those above it can finish.
    fn let_go(&self) {}

    /// The bdev as what it is, for methods of its own kind.
    fn as_any(&self) -> &dyn Any;
}

impl fmt::Debug for dyn Bdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.info().product_name, self.info().name)
    }
}

/// Why something about a bdev was refused.
#[derive(Debug, Error)]
pub enum BdevError {
    /// No bdev has the name.
    #[error("no bdev is named {0:?}; bdev_get_bdevs lists those there are")]
    NotFound(String),
    /// The name, alias or UUID is taken.
    #[error("a bdev named {0:?} exists already")]
    Exists(String),
    /// Someone has claimed it for exclusive writing.
    #[error("bdev {name:?} is already claimed by module {module}")]
    Claimed {
        /// The bdev.
        name: String,
        /// Who has claimed it.
        module: String,
    },
    /// It is open and its user cannot let go, or a claim needs it unwritten.
    #[error("bdev {name:?} is in use by {user}")]
    Busy {
        /// The bdev.
        name: String,
        /// Who uses it.
        user: String,
    },
    /// Someone else has the file open as a disk.
    #[error(
        "{path:?} is in use: another bdev or program has it open or locked; one file can be one disk only"
    )]
    FileInUse {
        /// The file.
        path: String,
    },
    /// It is of another kind than the method is for.
    #[error("bdev {name:?} is a {found}; the method is for {wanted} bdevs only")]
    WrongKind {
        /// The bdev.
        name: String,
        /// What it is.
        found: String,
        /// What the method is for.
        wanted: &'static str,
    },
    /// There is not so much memory.
    #[error(
        "num_blocks: bdev {name:?} wants {wanted} MiB of memory, and {had} MiB can be had here; make it smaller"
    )]
    NoMemory {
        /// The bdev.
        name: String,
        /// What it will come to use, in MiB.
        wanted: u64,
        /// What there is, in MiB.
        had: u64,
    },
    /// A parameter makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried, on what.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl BdevError {
    /// The positive errno that says the same.
    pub fn errno(&self) -> i32 {
        match self {
            BdevError::NotFound(_) => libc::ENODEV,
            BdevError::Exists(_) => libc::EEXIST,
            BdevError::Claimed { .. } => libc::EPERM,
            BdevError::Busy { .. } | BdevError::FileInUse { .. } => libc::EBUSY,
            BdevError::WrongKind { .. } | BdevError::Invalid(_) => libc::EINVAL,
            BdevError::NoMemory { .. } => libc::ENOMEM,
            BdevError::System { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

impl From<BdevError> for vdo_rpc::RpcError {
    fn from(error: BdevError) -> vdo_rpc::RpcError {
        let code = vdo_rpc::ErrorCode::from_errno(error.errno());
        vdo_rpc::RpcError::new(code, error.to_string())
    }
}

/// Refuses a block size other than the two there are.
pub(crate) fn check_block_size(block_size: u32) -> Result<(), BdevError> {
    match block_size {
        512 | 4096 => Ok(()),
        other => Err(BdevError::Invalid(format!(
            "block_size is {other}; it must be 512 or 4096"
        ))),
    }
}

/// Refuses a device of no blocks, or of more bytes than an offset can name.
pub(crate) fn check_num_blocks(num_blocks: u64, block_size: u32) -> Result<(), BdevError> {
    if num_blocks == 0 {
        return Err(BdevError::Invalid(
            "num_blocks is 0; it must be at least 1".to_owned(),
        ));
    }
    match num_blocks.checked_mul(u64::from(block_size)) {
        Some(bytes) if i64::try_from(bytes).is_ok() => Ok(()),
        _ => Err(BdevError::Invalid(format!(
            "num_blocks {num_blocks} of {block_size} bytes is more than a device can hold"
        ))),
    }
}

#[cfg(test)]
mod tests;
