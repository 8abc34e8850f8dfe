//! The super block of a running volume, kept by zone thread 0.

use std::cell::{Cell, RefCell};

use crate::buffer::Buffer;
use crate::error::VdoError;
use crate::format;
use crate::format::components::VolumeState;
use crate::runtime::base::{BaseDevice, IoClass};
use crate::runtime::task::WaitList;

/// The super block, and the buffer it is written from. One write at a time.
///
/// Once it says that the volume is read-only, it says nothing else in this run.
pub(crate) struct SuperBlockKeeper {
    volume: RefCell<format::Volume>,
    /// The write that failed of a super block with other sizes. Nobody knows which sizes are on disk, and either will do as long
    /// as nothing follows: so it is not written any more in this run, and the next recovers from whichever it finds.
    unsure: RefCell<Option<VdoError>>,
    buffer: RefCell<Option<Buffer>>,
    returned: WaitList,
}

impl SuperBlockKeeper {
    pub(crate) fn new(volume: format::Volume, buffer: Buffer, returned: WaitList) -> Self {
        let buffer = RefCell::new(Some(buffer));
        SuperBlockKeeper {
            volume: RefCell::new(volume),
            unsure: RefCell::new(None),
            buffer,
            returned,
        }
    }

    /// The volume as the super block describes it.
    pub(crate) fn volume(&self) -> format::Volume {
        self.volume.borrow().clone()
    }

    /// Changes the super block by `change`, gives it the state `state`, and writes it durably, after
    /// everything written before. Refused if it says that the volume is read-only, and is not to say so again.
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
        let refusal = self.refusal(state);
        if let Some(error) = refusal {
            self.give_back(buffer);
            return Err(error);
        }
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
        self.give_back(buffer);
        result
    }

    /// Writes the super block of the volume as it has grown; it stays dirty. If that fails, the super block is not written any more.
    pub(crate) async fn save_grown(
        &self,
        base: &BaseDevice,
        grown: &format::Volume,
    ) -> Result<(), VdoError> {
        let before = self.volume();
        let changed = Cell::new(false);
        let change = |volume: &mut format::Volume| {
            changed.set(true);
            *volume = grown.clone();
        };
        let result = self.save(base, VolumeState::Dirty, change).await;
        if let Err(error) = &result
            && changed.get()
        {
            *self.volume.borrow_mut() = before;
            *self.unsure.borrow_mut() = Some(error.clone());
        }
        result
    }

    /// Why the super block is not to be written, to say this.
    fn refusal(&self, state: VolumeState) -> Option<VdoError> {
        let now = self.volume.borrow().super_block.volume.state;
        let is_over = now == VolumeState::ReadOnly && state != VolumeState::ReadOnly;
        let unsure = self.unsure.borrow().clone();
        unsure.or(is_over.then_some(VdoError::ReadOnly))
    }

    fn give_back(&self, buffer: Buffer) {
        *self.buffer.borrow_mut() = Some(buffer);
        self.returned.wake_one();
    }
}
