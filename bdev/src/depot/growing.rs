//! More slabs for a zone that is at work, when the volume takes a larger device.
//!
//! 1. [`PhysicalZone::prepare_extension`] takes the memory for the zone's new slabs. Nothing knows of them yet.
//! 2. [`PhysicalZone::hold_summary`] waits for the writes of the zone's copy of the summary, which is about to be moved. What is to be written
//!    from then on waits.
//! 3. [`PhysicalZone::extend`] takes up the new slabs, all of them free and never used, and goes on with the summary at its new place;
//!    or [`PhysicalZone::abandon_extension`] goes on as before.
//!
//! The numbers of the slabs that were there do not change, nor whose they are.

use super::slab::Slab;
use super::state::DepotState;
use super::summary::Summary;
use super::zone::{DepotGeometry, PhysicalZone};
use crate::error::VdoError;
use crate::format::slab::SlabGeometry;
use crate::types::{Pbn, SlabNumber};

/// What a zone needs for more slabs.
pub(super) struct Extension {
    geometry: DepotGeometry,
    slabs: Vec<Slab>,
    summary: Summary,
}

impl PhysicalZone {
    /// Takes the memory for slabs and summary to be as these say. Slab after slab: there may be many, and others are to get on meanwhile.
    ///
    /// # Errors
    /// When there is not so much; nothing has changed then.
    pub async fn prepare_extension(
        &self,
        slabs: SlabGeometry,
        summary: Pbn,
    ) -> Result<(), VdoError> {
        let geometry = DepotGeometry {
            slabs,
            summary,
            ..self.geometry()
        };
        let DepotGeometry {
            nonce, zone, zones, ..
        } = geometry;
        let (zones, first) = (u32::from(zones), u32::from(zone.get()));
        let known = self.with(|state| state.slabs.len() as u32);
        let numbers = (known..).map(|local| (local, SlabNumber(local * zones + first)));
        let mut more = Vec::new();
        for (local, number) in numbers.take_while(|(_, number)| number.get() < slabs.slab_count) {
            more.push(Slab::new(
                local,
                number,
                &slabs,
                nonce,
                self.limits.writers,
            )?);
            self.scheduler.yield_now().await;
        }
        let extension = Extension {
            geometry,
            slabs: more,
            summary: Summary::new(&slabs, summary, zone, &self.memory)?,
        };
        *self.extension.borrow_mut() = Some(extension);
        Ok(())
    }

    /// Waits until the zone's copy of the summary is not being written, and lets no write of it begin.
    pub async fn hold_summary(&self) {
        self.with(|state| state.core.summary.set_held(true));
        let is_still = || self.with(|state| state.core.summary.is_still());
        self.summary_changed.wait_until(is_still).await;
    }

    /// Takes up what was prepared, if anything was.
    pub fn extend(&self) {
        if let Some(extension) = self.extension.take() {
            self.geometry.set(extension.geometry);
            let data_blocks = extension.geometry.slabs.config.data_blocks;
            self.with(|state| state.extend(extension, data_blocks));
        }
        self.release_summary();
    }

    /// Gives back what was prepared.
    pub fn abandon_extension(&self) {
        *self.extension.borrow_mut() = None;
        self.release_summary();
    }

    fn release_summary(&self) {
        self.with(|state| state.core.summary.set_held(false));
        self.summary_changed.wake_all();
    }
}

impl DepotState {
    fn extend(&mut self, extension: Extension, data_blocks: u64) {
        let Extension {
            slabs: mut more,
            mut summary,
            ..
        } = extension;
        let core = &mut self.core;
        summary.replace(&mut core.summary);
        core.summary = summary;
        let first = self.slabs.len();
        self.slabs.append(&mut more);
        let slabs = self.slabs.len();
        core.dirty_journals.extend(slabs);
        core.discards.extend(slabs);
        core.allocator.extend(slabs, data_blocks);
        for slab in &self.slabs[first..] {
            core.allocator
                .add(slab.local, slab.counts.free(), slab.journal.is_blank());
        }
    }
}
