//! Growing while the volume works: the work of zone thread 0, with a step here and there of all others.
//!
//! What a grown volume looks like is said in [`crate::format::growth`]. This is how it comes to be, in this order:
//!
//! 1. *Prepare.* Every zone thread takes the memory it will need. If one cannot have it, all give it back,
//!    and nothing has happened.
//! 2. *Move*, if the device has become larger: recovery journal and slab summary are copied to its end ([`moving`]).
//! 3. *Save.* The super block is written with the new sizes, durably. This one write is the growth: before it, a crash leaves the old
//!    size, after it the new one. If it fails, nobody knows which, so the volume turns read-only, and the next start finds out.
//! 4. *Commit.* Every zone thread begins to use what it has prepared; then everyone else hears of it.
//!
//! Requests are served all the time, but for a moment around 3 if something moves. No mapping beyond the old end of the volume is made before the super block allows it, and none
//! is lost after it, since the volume never gets smaller.

mod moving;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use self::moving::Move;
use super::admin::{Admin, admin};
use super::message::AdminStep;
use super::owner::Zone;
use crate::error::VdoError;
use crate::format::{self, Growth, GrowthError, VolumeLayout};
use crate::runtime::task::{Scheduler, WaitList};

/// A step of growth that each zone thread takes for itself.
#[derive(Clone, Debug)]
pub enum GrowthStep {
    /// Take the memory for a volume of this layout.
    Prepare(Arc<VolumeLayout>),
    /// Write no block of the slab summary until one of the next.
    HoldSummary,
    /// Use what was prepared.
    Commit,
    /// Give back what was prepared.
    Abandon,
}

/// Who may have the volume grow, or shut it down: one at a time.
pub(crate) struct GrowthTurns {
    taken: Cell<bool>,
    free: WaitList,
}

impl GrowthTurns {
    pub(crate) fn new(scheduler: &Rc<Scheduler>) -> GrowthTurns {
        GrowthTurns {
            taken: Cell::new(false),
            free: WaitList::new(scheduler),
        }
    }

    /// Waits for one's turn, which lasts until what is returned is dropped.
    pub(crate) async fn take(&self) -> GrowthTurn<'_> {
        self.free.wait_until(|| !self.taken.get()).await;
        self.taken.set(true);
        GrowthTurn(self)
    }
}

/// One's turn.
pub(crate) struct GrowthTurn<'a>(&'a GrowthTurns);

impl Drop for GrowthTurn<'_> {
    fn drop(&mut self) {
        self.0.taken.set(false);
        self.0.free.wake_one();
    }
}

/// Zone thread 0 on behalf of all, in its turn.
pub(crate) struct Grower<'a> {
    zone: &'a Rc<Zone>,
    admin: &'a Admin,
    _turn: GrowthTurn<'a>,
}

impl<'a> Grower<'a> {
    /// Waits until no other growth is under way.
    ///
    /// # Errors
    /// If this is not zone thread 0.
    pub(crate) async fn new(zone: &'a Rc<Zone>) -> Result<Grower<'a>, VdoError> {
        let admin = admin(zone)?;
        Ok(Grower {
            zone,
            admin,
            _turn: admin.growth_turns.take().await,
        })
    }

    /// What the volume will be.
    ///
    /// # Errors
    /// Why it cannot grow so.
    pub(crate) fn plan(&self, growth: Growth) -> Result<format::Volume, GrowthError> {
        self.admin.super_block.volume().grown(growth)
    }

    /// Makes it so.
    ///
    /// # Errors
    /// [`VdoError::NoMemory`], or one of the base device. Nothing has changed then, unless the volume is read-only.
    pub(crate) async fn carry_out(self, grown: &format::Volume) -> Result<(), VdoError> {
        let zone = self.zone;
        let layout = Arc::new(grown.layout.clone());
        let prepare = GrowthStep::Prepare(Arc::clone(&layout));
        let prepared = zone.step_everywhere(AdminStep::Grow(prepare)).await;
        let mut moving = match prepared.and_then(|()| Move::new(zone, &self.admin.memory, &layout))
        {
            Ok(moving) => moving,
            Err(error) => return self.abandon(error).await,
        };
        if let Some(moving) = &mut moving
            && let Err(error) = moving.copy().await
        {
            return self.abandon(error).await;
        }
        if let Err(error) = self.admin.super_block.save_grown(&zone.base, grown).await {
            zone.services
                .enter_read_only_because(&error, format_args!("the volume cannot grow"));
            if let Some(moving) = &mut moving {
                moving.release();
            }
            return self.abandon(error).await;
        }
        let commit = AdminStep::Grow(GrowthStep::Commit);
        match &mut moving {
            Some(moving) => {
                moving.commit();
                zone.shared.extent.set(&layout);
                zone.step_everywhere(commit).await?;
                zone.shared.room.grown();
                zone.shared.tell_of_room();
                let held = moving.release();
                log::info!(
                    "volume {}: recovery journal and slab summary have moved; requests waited for {} us",
                    zone.shared.name,
                    held / 1000
                );
            }
            None => {
                zone.step_everywhere(commit).await?;
                zone.shared.extent.set(&layout);
            }
        }
        Ok(())
    }

    /// Everything goes on as before, because of an error.
    async fn abandon(&self, error: VdoError) -> Result<(), VdoError> {
        let step = AdminStep::Grow(GrowthStep::Abandon);
        self.zone.step_everywhere(step).await?;
        Err(error)
    }
}

impl Zone {
    /// Takes a step of growth.
    pub(super) async fn take_growth_step(&self, step: GrowthStep) -> Result<(), VdoError> {
        let now = self.shared.extent.layout();
        match step {
            GrowthStep::Prepare(layout) => {
                if layout.tree != now.tree {
                    self.block_map.prepare_extension(layout.tree)?;
                }
                if layout.slabs != now.slabs {
                    let summary = layout.slab_summary.start;
                    self.physical
                        .prepare_extension(layout.slabs, summary)
                        .await?;
                }
            }
            GrowthStep::HoldSummary => self.physical.hold_summary().await,
            GrowthStep::Commit => {
                self.block_map.extend();
                self.physical.extend();
            }
            GrowthStep::Abandon => {
                self.block_map.abandon_extension();
                self.physical.abandon_extension();
            }
        }
        Ok(())
    }
}
