//! A volume that grows, as its host asks for it. How it is done is in [`crate::zone::growth`].

use std::rc::Rc;
use std::sync::{Arc, PoisonError};

use super::{Demand, Done, Kept, Phase, Volume, VolumeError};
use crate::error::VdoError;
use crate::format::{Growth, VolumeLayout};
use crate::seam::Host;
use crate::zone::growth::Grower;
use crate::zone::owner::Zone;

/// Asks the host for the memory a volume will want beside what it was given, and returns what stands for it.
pub type MemoryKeeper = Box<dyn FnOnce(&Demand) -> Result<Kept, VolumeError> + Send>;

impl<H: Host> Volume<H> {
    /// Makes the volume larger while it works, and says where everything is then. When `done` is called, requests up to the new end are served;
    /// the host tells its users. Growths and a shutdown wait for each other.
    ///
    /// # Errors
    /// [`VolumeError::Growth`], [`VolumeError::StillRecovering`], [`VolumeError::TooMuchMemory`] and [`VolumeError::NoMemory`], if it cannot, and nothing has happened; if it failed, the volume is read-only, and
    /// has the old size or the new one when it is opened next.
    pub fn grow(
        self: &Arc<Self>,
        growth: Growth,
        keep: MemoryKeeper,
        done: Done<Result<Arc<VolumeLayout>, VolumeError>>,
    ) {
        let volume = Arc::clone(self);
        self.on_zone_0(move |zone| async move {
            done(volume.grow_here(&zone, growth, keep).await);
        });
    }

    async fn grow_here(
        &self,
        zone: &Rc<Zone>,
        growth: Growth,
        keep: MemoryKeeper,
    ) -> Result<Arc<VolumeLayout>, VolumeError> {
        let grower = Grower::new(zone).await?;
        if self.phase() != Phase::Online {
            return Err(VdoError::ShuttingDown.into());
        }
        if self.is_read_only() {
            return Err(VdoError::ReadOnly.into());
        }
        let grown = grower.plan(growth)?;
        let (left, slabs) = (
            self.shared.room.unrecovered(),
            self.layout().slabs.slab_count,
        );
        if self.is_recovering() && matches!(growth, Growth::Physical(_)) {
            return Err(VolumeError::StillRecovering { left, slabs });
        }
        let demand = |layout: &VolumeLayout| {
            let index = grown.geometry.index.memory;
            let index = self.options.deduplication.then_some(index);
            let cache = self.options.block_map_cache_blocks;
            Demand::of(layout, index, cache, self.options.requests)
        };
        let kept = keep(&demand(&grown.layout).beyond(&demand(&self.layout())))?;
        grower.carry_out(&grown).await?;
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(kept);
        drop(all);
        let layout = self.layout();
        log::info!(
            "volume {} has grown: it presents {} blocks, and uses {} of its base device",
            self.name(),
            layout.logical_blocks,
            layout.physical_blocks
        );
        Ok(layout)
    }
}
