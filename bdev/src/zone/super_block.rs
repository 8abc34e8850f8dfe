//! The super block of a running volume, kept by zone thread 0.

use std::cell::RefCell;

use crate::buffer::Buffer;
use crate::error::VdoError;
use crate::format;
use crate::format::components::VolumeState;
use crate::runtime::base::{BaseDevice, IoClass};
use crate::runtime::task::WaitList;

/// The super block, and the buffer it is written from. One write at a time.
pub(crate) struct SuperBlockKeeper {
    volume: RefCell<format::Volume>,
    buffer: RefCell<Option<Buffer>>,
    returned: WaitList,
}

impl SuperBlockKeeper {
    pub(crate) fn new(volume: format::Volume, buffer: Buffer, returned: WaitList) -> Self {
        let buffer = RefCell::new(Some(buffer));
        SuperBlockKeeper {
            volume: RefCell::new(volume),
            buffer,
            returned,
        }
    }

    /// The volume as the super block describes it.
    pub(crate) fn volume(&self) -> format::Volume {
        self.volume.borrow().clone()
    }

    /// Changes the super block by `change`, gives it the state `state`, and writes it durably, after
    /// everything written before.
    pub(crate) async fn save(
        &self,
        base: &BaseDevice,
        state: VolumeState,
        change: impl FnOnce(&mut format::Volume),
    ) -> Result<(), VdoError> {
        self.returned
            .wait_until(|| self.buffer.borrow().is_some())
            .await;
        let taken = self.buffer.borrow_mut().take();
        let Some(mut buffer) = taken else {
            return Err(VdoError::Inconsistent(
                "the super block's buffer is gone".into(),
            ));
        };
        let pbn = {
            let mut volume = self.volume.borrow_mut();
            change(&mut volume);
            volume.super_block.volume.state = state;
            volume.super_block.encode(buffer.first_block_mut());
            volume.layout.super_block
        };
        let mut result = base.flush(IoClass::Metadata).await;
        if result.is_ok() {
            (buffer, result) = base.write(IoClass::Metadata, pbn, buffer, 1, true).await;
        }
        if result.is_ok() {
            result = base.flush(IoClass::Metadata).await;
        }
        *self.buffer.borrow_mut() = Some(buffer);
        self.returned.wake_one();
        result
    }
}
