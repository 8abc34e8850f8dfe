//! The uring and aio bdevs: files and block devices through io_uring.
//!
//! Both are the same thing under the two names and parameter sets SPDK gives them. A file is opened and
//! locked once ([`open`]); each channel ([`device`]) does its I/O step by step ([`slot`]) with a [`ring`]
//! of its own, or with [`threads`] where the system forbids io_uring.

mod device;
mod open;
mod ring;
mod slot;
#[cfg(test)]
mod tests;
mod threads;

use std::any::Any;
use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::io::{IoKind, IoKinds};
use super::{Bdev, BdevError, BdevInfo, Device, check_num_blocks};
use crate::reactor::ReactorHandle;

pub use device::EngineKind;
pub(super) use device::FileDevice;
use open::OpenFile;

/// Which of SPDK's two file bdevs it passes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileModule {
    /// `bdev_uring_create`.
    Uring,
    /// `bdev_aio_create`.
    Aio {
        /// Never writes, and shares the file with other readers.
        readonly: bool,
        /// Whether unmap is offered; without it, zeroes are written where they are asked for.
        fallocate: bool,
    },
}

/// What a file bdev is made from.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// The bdev's name.
    pub name: String,
    /// A regular file or a block device; it must exist.
    pub filename: String,
    /// Bytes per block; found out if `None`.
    pub block_size: Option<u32>,
    /// The bdev's UUID; a new one if `None`.
    pub uuid: Option<Uuid>,
    /// Under which name it goes.
    pub module: FileModule,
    /// Who talks to the kernel; found out if `None`.
    pub engine: Option<EngineKind>,
}

/// A file or block device.
pub struct FileBdev {
    info: BdevInfo,
    filename: String,
    module: FileModule,
    block_size_override: bool,
    engine: EngineKind,
    file: Arc<OpenFile>,
}

impl FileBdev {
    /// Opens and locks the file.
    ///
    /// # Errors
    /// When it cannot be opened, is locked by someone else, is neither a file nor a block device, or is
    /// not whole blocks long.
    pub fn open(options: FileOptions) -> Result<FileBdev, BdevError> {
        let readonly = matches!(options.module, FileModule::Aio { readonly: true, .. });
        let file = OpenFile::open(&options.filename, readonly, options.block_size)?;
        let block_size = file.block_size();
        if !file.bytes().is_multiple_of(u64::from(block_size)) {
            return Err(BdevError::Invalid(format!(
                "{:?} is {} bytes long, which is not a multiple of the block size {block_size}",
                options.filename,
                file.bytes()
            )));
        }
        let num_blocks = file.bytes() / u64::from(block_size);
        if num_blocks == 0 {
            return Err(BdevError::Invalid(format!(
                "{:?} is empty; give it the size the device shall have (truncate -s SIZE FILE)",
                options.filename
            )));
        }
        check_num_blocks(num_blocks, block_size)?;
        let engine = options.engine.unwrap_or_else(|| find_engine(&options.name));
        let supports = match options.module {
            FileModule::Uring => IoKinds::ALL,
            FileModule::Aio { readonly: true, .. } => IoKinds::of(&[IoKind::Read, IoKind::Flush]),
            FileModule::Aio {
                fallocate: true, ..
            } => IoKinds::ALL,
            FileModule::Aio {
                fallocate: false, ..
            } => IoKinds::ALL.without(IoKind::Unmap),
        };
        let info = BdevInfo {
            name: options.name,
            product_name: match options.module {
                FileModule::Uring => "URING bdev",
                FileModule::Aio { .. } => "AIO disk",
            },
            uuid: options.uuid.unwrap_or_else(Uuid::new_v4),
            block_size,
            num_blocks: num_blocks.into(),
            supports,
        };
        log::debug!(
            "{:?}: {} I/O",
            options.filename,
            if file.is_direct() {
                "direct"
            } else {
                "buffered"
            }
        );
        Ok(FileBdev {
            info,
            filename: options.filename,
            module: options.module,
            block_size_override: options.block_size.is_some(),
            engine,
            file: Arc::new(file),
        })
    }
}

impl FileBdev {
    /// Looks how large the file is now, and takes what it has become larger by, in whole blocks. Says whether it has.
    ///
    /// # Errors
    /// When it cannot be asked, or is smaller than it was.
    pub fn rescan(&self) -> Result<bool, BdevError> {
        let name = &self.info.name;
        let bytes = self.file.bytes_now();
        let bytes = bytes.map_err(|source| BdevError::System {
            what: format!("examining {:?}", self.filename),
            source,
        })?;
        let (now, before) = (
            bytes / u64::from(self.info.block_size),
            self.info.num_blocks.get(),
        );
        if now < before {
            return Err(BdevError::Invalid(format!(
                "bdev {name:?} has {before} blocks of {} bytes, and {:?} holds only {now}; give it its size back",
                self.info.block_size, self.filename
            )));
        }
        check_num_blocks(now, self.info.block_size)?;
        self.info.num_blocks.grow(now);
        if now > before {
            log::info!(
                "bdev {name:?} has {now} blocks now, {} more; a volume on it takes them with bdev_vdo_grow_physical",
                now - before
            );
        }
        Ok(now > before)
    }
}

/// The best engine the system lets us have.
fn find_engine(bdev: &str) -> EngineKind {
    match ring::probe() {
        Ok(()) => EngineKind::IoUring,
        Err(error) => {
            log::warn!(
                "bdev {bdev:?} does its I/O on threads, which is slower, because io_uring cannot be had \
                 ({error}); containers often forbid it, as does the sysctl kernel.io_uring_disabled"
            );
            EngineKind::Threads
        }
    }
}

impl Bdev for FileBdev {
    fn info(&self) -> &BdevInfo {
        &self.info
    }

    fn module(&self) -> &'static str {
        match self.module {
            FileModule::Uring => "uring",
            FileModule::Aio { .. } => "aio",
        }
    }

    fn open_device(&self, reactor: &ReactorHandle) -> Result<Device, BdevError> {
        let punch = !matches!(
            self.module,
            FileModule::Aio {
                fallocate: false,
                ..
            }
        );
        let device = FileDevice::new(self.engine, Arc::clone(&self.file), punch, reactor).map_err(
            |source| BdevError::System {
                what: format!(
                    "opening a channel to bdev {:?} ({})",
                    self.info.name,
                    self.engine.name()
                ),
                source,
            },
        )?;
        Ok(Device::File(Box::new(device)))
    }

    fn driver_specific(&self) -> Value {
        match self.module {
            FileModule::Uring => json!({
                "uring": { "filename": self.filename, "direct": self.file.is_direct(), "engine": self.engine.name() }
            }),
            FileModule::Aio {
                readonly,
                fallocate,
            } => json!({
                "aio": {
                    "filename": self.filename,
                    "block_size_override": self.block_size_override,
                    "readonly": readonly,
                    "fallocate": fallocate,
                    "nowait": false,
                    "direct": self.file.is_direct(),
                    "engine": self.engine.name(),
                }
            }),
        }
    }

    fn config(&self) -> Vec<Value> {
        let mut params = json!({
            "name": self.info.name,
            "filename": self.filename,
            "block_size": self.info.block_size,
            "uuid": self.info.uuid.to_string(),
        });
        let method = match self.module {
            FileModule::Uring => "bdev_uring_create",
            FileModule::Aio {
                readonly,
                fallocate,
            } => {
                params["readonly"] = json!(readonly);
                params["fallocate"] = json!(fallocate);
                "bdev_aio_create"
            }
        };
        vec![json!({ "method": method, "params": params })]
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
