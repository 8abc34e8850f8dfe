//! What each zone thread does with its share when the index is opened and closed.

use std::sync::{Arc, Mutex, PoisonError};

use crate::format::index::IndexRecord;
use crate::index::uds::rebuild::{self, ChapterNames};
use crate::index::uds::ring::Ring;
use crate::index::uds::saves::{LoadedSave, SaveSheet};
use crate::index::{IndexError, ShardParts};
use crate::zone::owner::Zone;

/// A step that all zone threads take, each with its share of the index.
#[derive(Clone, Debug)]
pub enum ShardStep {
    /// Make an empty share.
    Make(Arc<Ring>),
    /// Load a share of what was saved.
    Load(Arc<LoadedSave>),
    /// Put a chapter's names into the volume index.
    Replay(Arc<ChapterNames>),
    /// Answer from now on, with this chapter open if it is not the one that was loaded.
    Open(Option<u64>),
    /// Answer nothing more, and wait until what was asked has ended.
    Stop,
    /// Write the share to a save.
    Save(Arc<Saving>),
    /// Give up the share.
    GiveUp,
}

/// A save that all zone threads write to.
#[derive(Debug)]
pub struct Saving {
    pub(super) ring: Ring,
    pub(super) sheet: SaveSheet,
    /// Each share's records of the open chapter.
    pub(super) open: Mutex<Vec<Vec<IndexRecord>>>,
}

impl Zone {
    /// Takes a step with the share of the index that is here.
    pub(crate) async fn take_shard_step(&self, step: ShardStep) -> Result<(), IndexError> {
        let device = &*self.index_device;
        let (number, zones) = (self.index, self.shared.zones);
        match step {
            ShardStep::Make(ring) => {
                let parts = Box::new(ShardParts::new(*ring, number, zones)?);
                self.hash.with_index(|shard| shard.install(parts));
                Ok(())
            }
            ShardStep::Load(save) => {
                let mut parts = Box::new(ShardParts::new(*save.ring(), number, zones)?);
                let dealt = (&parts.dealt.0, number);
                save.load_zone(device, &mut parts.zone, dealt).await?;
                parts.chapters.page_map = save.page_map.clone();
                self.hash.with_index(|shard| shard.install(parts));
                Ok(())
            }
            ShardStep::Replay(names) => {
                let parts = self.hash.with_index(|shard| shard.take());
                let mut parts = parts.ok_or(IndexError::NotOpen)?;
                let ShardParts {
                    zone,
                    chapters,
                    dealt,
                } = &mut *parts;
                let dealt = (&dealt.0, dealt.1);
                let replayed = rebuild::replay(device, zone, chapters, &names, dealt).await;
                self.hash.with_index(|shard| shard.install(parts));
                replayed
            }
            ShardStep::Open(newest) => {
                self.hash.with_index(|shard| shard.open(newest));
                Ok(())
            }
            ShardStep::Stop => {
                self.hash.stop_index().await;
                self.look_at_index();
                if self.hash.with_index(|shard| shard.is_touched()) {
                    self.shared.index_touched();
                }
                Ok(())
            }
            ShardStep::Save(saving) => {
                let parts = self.hash.with_index(|shard| shard.take());
                let parts = parts.ok_or(IndexError::NotOpen)?;
                let written = saving
                    .sheet
                    .write_zone(device, &saving.ring, number, &parts.zone)
                    .await;
                let mut open = saving.open.lock().unwrap_or_else(PoisonError::into_inner);
                open[number.index()] = parts.zone.open_records().to_vec();
                written
            }
            ShardStep::GiveUp => {
                self.hash.with_index(|shard| drop(shard.take()));
                Ok(())
            }
        }
    }
}
