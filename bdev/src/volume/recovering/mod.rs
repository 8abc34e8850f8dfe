//! Bringing back a volume that was not shut down, or that someone asked to rebuild, before it has zones.
//!
//! What is to be read and written, and when, is here; what is made of the bytes, in [`crate::recovery`]. All of it runs in
//! the one task that opens the device, on its one channel:
//!
//! ```text
//!   scan the journal -- plan --> flush -> block map -> slab journals -> summary -> super block -> (scrub)
//!                                (map.rs)        (slabs.rs)                         depot::scrubbing
//!                    -- rebuild -> flush -> block map -> count anew -> slabs -> super block
//!                                          (map.rs)    (rebuild.rs)
//! ```
//!
//! A step's writes are durable before the next step's are begun. Until the super block is written, everything could be done again from
//! the start with the same outcome, and after a crash is. After it the journal is empty, and what is left is to scrub the
//! slabs that the summary calls dirty: a crash then means that the next opening finds nothing in the journal, and
//! scrubs those that are still called so. Other programs can take over at any moment: each of these states is one that
//! dm-vdo leaves, too.
//!
//! A volume that was shut down is only looked at ([`mod@look_over`]).
//!
//! The journal is read before everything else, but what was read may have been in the device's cache only, if it was not the
//! power that failed but the program. So the device is flushed before the first write.

mod look_over;
mod map;
mod medium;
mod rebuild;
mod slabs;
mod walk;

use std::rc::Rc;
use std::sync::Arc;

use super::progress::{Progress, Work};
use super::{Found, VolumeError};
use crate::buffer::DmaMemory;
use crate::error::VdoError;
use crate::format;
use crate::format::components::VolumeState;
use crate::recovery::map_replay::Overlay;
use crate::recovery::{EntryRules, Refusal, Ring, RingScan};
use crate::runtime::base::BaseDevice;
use crate::runtime::task::{Scheduler, join_all};
use crate::seam::VolumeEvent;
pub(super) use look_over::look_over;
use medium::{Medium, STRIDE, blocks_of};

/// What stands in the way.
#[derive(Debug)]
enum Obstacle {
    /// What the disk holds.
    Refused(Refusal),
    /// Anything else.
    Failed(VolumeError),
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Obstacle::Refused(refusal) => refusal.fmt(f),
            Obstacle::Failed(error) => error.fmt(f),
        }
    }
}

impl From<Refusal> for Obstacle {
    fn from(refusal: Refusal) -> Obstacle {
        Obstacle::Refused(refusal)
    }
}

impl From<VolumeError> for Obstacle {
    fn from(error: VolumeError) -> Obstacle {
        Obstacle::Failed(error)
    }
}

impl From<VdoError> for Obstacle {
    fn from(error: VdoError) -> Obstacle {
        Obstacle::Failed(error.into())
    }
}

/// Whether a volume in this state has to be brought back before it can be used.
pub(super) fn is_needed(state: VolumeState) -> bool {
    match state {
        VolumeState::New | VolumeState::Clean | VolumeState::ReadOnly => false,
        VolumeState::Dirty
        | VolumeState::Recovering
        | VolumeState::Replaying
        | VolumeState::ForceRebuild
        | VolumeState::RebuildForUpgrade => true,
    }
}

/// Brings a volume back, with the memory of `cache_blocks` blocks for pages of its block map. `volume` is as it is on disk.
/// If that contradicts itself, the volume is marked read-only and found so, with the reason.
///
/// # Errors
/// When the device fails: then the volume is as before, or somewhere on the way, and it can be tried again. When
/// its journal cannot be read by this program: then it is as before.
pub(super) async fn bring_back(
    base: &Rc<BaseDevice>,
    scheduler: &Rc<Scheduler>,
    memory: &Arc<dyn DmaMemory>,
    told: &Arc<Progress>,
    cache_blocks: u32,
    mut volume: format::Volume,
) -> Result<Found, VolumeError> {
    let medium = Medium::new(base, scheduler, memory, told, &volume, cache_blocks);
    let rebuilds = matches!(
        volume.super_block.volume.state,
        VolumeState::ForceRebuild | VolumeState::RebuildForUpgrade
    );
    let done = match rebuilds {
        true => {
            told.happened(&VolumeEvent::RebuildBegun);
            let rebuilt = rebuild::rebuild(&medium, &mut volume).await;
            let end = match &rebuilt {
                Ok(losses) => Ok(losses.to_string()),
                Err(obstacle) => Err(obstacle.to_string()),
            };
            told.happened(&VolumeEvent::RebuildEnded(end));
            rebuilt.map(Some)
        }
        false => {
            told.happened(&VolumeEvent::RecoveryBegun);
            // It has not ended before its slabs are scrubbed.
            let recovered = recover(&medium, &mut volume).await;
            if let Err(obstacle) = &recovered {
                told.happened(&VolumeEvent::RecoveryEnded(Err(obstacle.to_string())));
            }
            recovered.map(|()| None)
        }
    };
    match done {
        Ok(dropped) => Ok(Found {
            dropped,
            ..volume.into()
        }),
        Err(Obstacle::Refused(refusal)) if rebuilds => Err(VolumeError::NotRecovered { refusal }),
        Err(obstacle) => {
            let what = "it was not shut down and cannot be recovered";
            give_up(&medium, volume, what, obstacle).await
        }
    }
}

/// What becomes of a volume when there is something in the way: if that is damage, it is marked read-only and found so.
async fn give_up(
    medium: &Medium,
    mut volume: format::Volume,
    what: &str,
    obstacle: Obstacle,
) -> Result<Found, VolumeError> {
    let refusal = match obstacle {
        Obstacle::Failed(error) => return Err(error),
        Obstacle::Refused(refusal) => refusal,
    };
    if !refusal.is_damage() {
        return Err(VolumeError::NotRecovered { refusal });
    }
    volume.super_block.volume.state = VolumeState::ReadOnly;
    medium.save_super_block(&volume).await?;
    let why = format!("{what}: {refusal}");
    medium.happened(&VolumeEvent::ReadOnly {
        reason: why.clone(),
        was_found: false,
    });
    Ok(as_read_only(medium, volume, why).await)
}

/// A volume that is read-only, `why`, as it is to be read. Writes nothing.
pub(super) async fn found_read_only(
    base: &Rc<BaseDevice>,
    scheduler: &Rc<Scheduler>,
    memory: &Arc<dyn DmaMemory>,
    told: &Arc<Progress>,
    volume: format::Volume,
    why: &str,
) -> Found {
    told.happened(&VolumeEvent::ReadOnly {
        reason: why.to_owned(),
        was_found: true,
    });
    let medium = Medium::new(base, scheduler, memory, told, &volume, 1);
    as_read_only(&medium, volume, why.to_owned()).await
}

async fn as_read_only(medium: &Medium, volume: format::Volume, why: String) -> Found {
    let journal = volume.layout.recovery_journal.start;
    let known = async {
        let scan = scan(medium, &volume).await?;
        let ring = scan.ring();
        match scan.rebuild()?.block_map {
            None => Ok(Overlay::default()),
            Some(range) => map::overlay(medium, &ring, journal, range).await,
        }
    };
    let known: Result<Overlay, Obstacle> = known.await;
    let overlay = known.unwrap_or_else(|obstacle| {
        let uuid = volume.layout.uuid;
        log::warn!(
            "volume {uuid} is read-only, and what its recovery journal holds is not seen: {obstacle}"
        );
        Overlay::default()
    });
    Found {
        read_only: Some(why),
        overlay: (!overlay.is_empty()).then(|| Arc::new(overlay)),
        ..volume.into()
    }
}

/// Has the super block of a volume that is read-only ask for a rebuild.
pub(super) async fn ask_for_rebuild(
    base: &Rc<BaseDevice>,
    scheduler: &Rc<Scheduler>,
    memory: &Arc<dyn DmaMemory>,
    volume: &mut format::Volume,
) -> Result<(), VolumeError> {
    volume.super_block.volume.state = VolumeState::ForceRebuild;
    let told = Arc::default();
    let medium = Medium::new(base, scheduler, memory, &told, volume, 1);
    medium.save_super_block(volume).await
}

/// Replays what the journal holds. Slabs are scrubbed when the volume works.
async fn recover(medium: &Medium, volume: &mut format::Volume) -> Result<(), Obstacle> {
    let uuid = volume.layout.uuid;
    let scan = scan(medium, volume).await?;
    let ring = scan.ring();
    let plan = scan.recovery()?;
    let (map, slabs) = (plan.block_map.range(), plan.slab_journals.range());
    log::info!(
        "volume {uuid}: {} entries of its recovery journal for the block map, {} for the slab journals",
        map.entries(),
        slabs.entries()
    );
    medium.flush().await?;
    let journal = volume.layout.recovery_journal.start;
    let mapped = map::replay(medium, &ring, journal, plan.block_map).await?;
    let mut depot = slabs::Depot::load(medium, volume).await?;
    let counted = depot
        .replay(medium, &ring, journal, (plan.slab_journals, plan.end))
        .await?;
    let usage = match plan.ending.wants_count() {
        false => None,
        true => Some(walk::count(medium, volume).await?),
    };
    let mut after = volume.clone();
    plan.ending
        .apply(&mut after.super_block, mapped, counted, usage);
    look_over::require_pages(medium, &after).await?;
    *volume = after;
    medium.save_super_block(volume).await?;
    log::info!(
        "volume {uuid}: its journal is replayed; slabs that were in use are scrubbed while it works"
    );
    Ok(())
}

/// The journal, as the super block has it.
fn ring_of(volume: &format::Volume) -> Ring {
    let layout = &volume.layout;
    Ring {
        blocks: layout.recovery_journal.blocks,
        nonce: layout.nonce,
        recovery_count: volume.super_block.volume.complete_recoveries as u8,
        journal_start: volume.super_block.recovery_journal.journal_start,
        super_block: layout.super_block,
        rules: EntryRules {
            physical_blocks: layout.physical_blocks,
            slabs: layout.slabs,
        },
    }
}

/// Looks at every block of the journal.
async fn scan(medium: &Medium, volume: &format::Volume) -> Result<RingScan, VolumeError> {
    let layout = &volume.layout;
    let journal = layout.recovery_journal;
    let mut scan = RingScan::new(ring_of(volume))?;
    let mut buffers = medium.buffers(READERS, STRIDE.min(journal.blocks as usize))?;
    let mut at = 0;
    while at < journal.blocks {
        let mut reads = Vec::with_capacity(READERS);
        let mut next = at;
        while let Some(buffer) = buffers.pop_if(|_| next < journal.blocks) {
            let count = (STRIDE as u64).min(journal.blocks - next);
            reads.push(medium.read(journal.start.get() + next, buffer, count as usize));
            next += count;
        }
        for read in join_all(reads).await {
            let buffer = read?;
            let count = (STRIDE as u64).min(journal.blocks - at);
            scan.take(at, &blocks_of(&buffer)[..count as usize]);
            at += count;
            buffers.push(buffer);
        }
        medium.progress(Work::ReadJournal, at, journal.blocks);
    }
    Ok(scan)
}

/// Reads of the journal under way at once.
const READERS: usize = 4;
