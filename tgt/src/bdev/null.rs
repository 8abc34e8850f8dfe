//! The null bdev: takes everything, keeps nothing, reads as zeroes.

use std::any::Any;
use std::collections::VecDeque;

use serde_json::{Value, json};
use uuid::Uuid;

use super::io::{BdevIo, IoKind, IoKinds, IoMeta};
use super::{Bdev, BdevError, BdevInfo, Device, DeviceChannel, check_block_size, check_num_blocks};
use crate::reactor::ReactorHandle;

/// A disk that keeps nothing.
pub struct NullBdev {
    info: BdevInfo,
}

impl NullBdev {
    /// A disk of `num_blocks` blocks of `block_size` bytes that are always zero.
    ///
    /// # Errors
    /// When the sizes make no sense.
    pub fn new(
        name: String,
        num_blocks: u64,
        block_size: u32,
        uuid: Option<Uuid>,
    ) -> Result<NullBdev, BdevError> {
        check_block_size(block_size)?;
        check_num_blocks(num_blocks, block_size)?;
        Ok(NullBdev {
            info: BdevInfo {
                name,
                product_name: "Null disk",
                uuid: uuid.unwrap_or_else(Uuid::new_v4),
                block_size,
                num_blocks: num_blocks.into(),
                supports: IoKinds::of(&[IoKind::Read, IoKind::Write, IoKind::WriteZeroes]),
            },
        })
    }
}

impl Bdev for NullBdev {
    fn info(&self) -> &BdevInfo {
        &self.info
    }

    fn module(&self) -> &'static str {
        "null"
    }

    fn open_device(&self, _reactor: &ReactorHandle) -> Result<Device, BdevError> {
        Ok(Device::Null(NullDevice {
            ended: VecDeque::with_capacity(256),
        }))
    }

    fn config(&self) -> Vec<Value> {
        vec![json!({
            "method": "bdev_null_create",
            "params": {
                "name": self.info.name,
                "num_blocks": self.info.num_blocks.get(),
                "block_size": self.info.block_size,
                "uuid": self.info.uuid.to_string(),
            },
        })]
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A channel's end of a null bdev.
pub struct NullDevice {
    ended: VecDeque<IoMeta>,
}

impl DeviceChannel for NullDevice {
    unsafe fn submit(&mut self, io: BdevIo) {
        if io.meta.kind == IoKind::Read {
            // SAFETY: the caller vouches for this much memory.
            unsafe { std::ptr::write_bytes(io.memory.as_ptr(), 0, io.meta.length as usize) };
        }
        self.ended.push_back(io.meta);
    }

    fn poll(&mut self, done: &mut dyn FnMut(IoMeta, i32)) -> bool {
        let any = !self.ended.is_empty();
        while let Some(meta) = self.ended.pop_front() {
            done(meta, 0);
        }
        any
    }
}
