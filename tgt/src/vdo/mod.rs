//! The vdo bdev: a volume of the engine as a bdev of the target.
//!
//! [`bring_up`](VdoBdev::bring_up) claims the base bdev, opens or formats the volume on a reactor, grows one zone
//! thread on each core of the bdev's core mask as a poller of that core's reactor, starts the
//! volume, and enters the bdev. Requests reach it through a channel ([`device`]) on whichever reactor its user
//! lives. Deleting it, the base bdev going away, or the end of the program shut the volume down in the
//! opposite order; the data stays on the base bdev.

mod device;
mod life;
mod methods;

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use vdo::seam::{Host, ZoneWaker};
use vdo::stats::VolumeStatistics;
use vdo::volume::Volume;
use vdo_rpc::params::Create;
use vdo_rpc::volume;

pub use device::{VdoDevice, VdoRequest};
pub use life::VdoError;
pub use methods::register;

use crate::bdev::{Bdev, BdevError, BdevInfo, BlockCount, Channel, Device};
use crate::reactor::{ReactorHandle, Waker};
use life::ZonePoller;

/// The kinds of things the embedded host gives the engine.
pub struct EmbeddedHost;

impl Host for EmbeddedHost {
    type Channel = Channel;
    type Request = VdoRequest;
    type Waker = ReactorWaker;
}

/// Wakes the reactor that polls a zone thread.
pub struct ReactorWaker(Waker);

impl ZoneWaker for ReactorWaker {
    fn wake(&self) {
        self.0.wake();
    }
}

/// The name of the module in claims and in `bdev_vdo_*`.
pub const MODULE: &str = "vdo";

/// What the target keeps of a volume.
pub struct VdoBdev {
    info: BdevInfo,
    params: Create,
    volume: Arc<Volume<EmbeddedHost>>,
    /// How large a block of what it is on is, in bytes, and how many that has.
    base_blocks: (u32, BlockCount),
    zones: Mutex<Vec<ZonePoller>>,
    stopped: Mutex<bool>,
}

impl VdoBdev {
    /// The volume.
    pub fn volume(&self) -> &Arc<Volume<EmbeddedHost>> {
        &self.volume
    }

    /// What it is on.
    pub fn base_bdev_name(&self) -> &str {
        &self.params.base_bdev_name
    }

    /// The size of what it is on, in bytes.
    pub fn base_bytes(&self) -> u64 {
        let (bytes, count) = &self.base_blocks;
        count.get() * u64::from(*bytes)
    }

    /// Counts everything. May wait a moment for the zone threads; not to be called on a reactor.
    pub fn statistics(&self) -> Option<VolumeStatistics> {
        life::ask(|done| self.volume.statistics(done))
    }
}

impl Bdev for Arc<VdoBdev> {
    fn info(&self) -> &BdevInfo {
        &self.info
    }

    fn module(&self) -> &'static str {
        MODULE
    }

    fn open_device(&self, reactor: &ReactorHandle) -> Result<Device, BdevError> {
        let device = VdoDevice::new(Arc::clone(&self.volume), reactor.waker().clone());
        Ok(Device::Vdo(Box::new(device)))
    }

    fn driver_specific(&self) -> Value {
        json!({ MODULE: volume::info(&self.volume, &self.params.base_bdev_name) })
    }

    fn config(&self) -> Vec<Value> {
        volume::config(&self.params, &self.volume)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
