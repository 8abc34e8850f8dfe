//! Opening and closing the index, on zone thread 0.

use std::sync::{Arc, Mutex, PoisonError};

use super::steps::Saving;
use super::{IndexKeeper, ShardStep};
use crate::dedupe::OpenResult;
use crate::error::VdoError;
use crate::format::index::IndexRecord;
use crate::format::index::nonce::NonceInfo;
use crate::index::uds::rebuild::{self, ChapterNames};
use crate::index::uds::ring::Ring;
use crate::index::uds::saves::{self, LoadedSave, SaveSheet};
use crate::index::{IndexError, IndexShard};
use crate::zone::admin::tell_index;
use crate::zone::message::AdminStep;
use crate::zone::owner::Zone;

/// A rebuild says how far it is each time it has done such a part of it.
const REPORTS: u64 = 10;

async fn everywhere(zone: &Zone, step: ShardStep) -> Result<(), IndexError> {
    match zone.step_everywhere(AdminStep::Index(step)).await {
        Ok(()) => Ok(()),
        Err(VdoError::Index(error)) => Err(error),
        // No share fails with anything else.
        Err(_) => Err(IndexError::Damaged),
    }
}

/// Opens the index, or makes one.
pub(crate) async fn open(
    zone: &Zone,
    keeper: &IndexKeeper,
    create: bool,
    is_wanted: impl Fn() -> bool,
) -> OpenResult {
    let name = &zone.shared.name;
    keeper.failure.set(None);
    let opened = match create {
        true => make(zone, keeper).await,
        false => load_or_rebuild(zone, keeper, is_wanted).await,
    };
    keeper.is_rebuilding.set(false);
    zone.shared.index_rebuild.end();
    let Err(error) = opened else {
        return OpenResult::Opened;
    };
    keeper.ring.set(None);
    keeper.last_save.set(None);
    // Giving up cannot fail.
    _ = everywhere(zone, ShardStep::GiveUp).await;
    match error {
        IndexError::Missing => OpenResult::Missing,
        IndexError::Damaged if !create => {
            log::warn!(
                "volume {name}: the deduplication index is damaged; a new one takes its place"
            );
            OpenResult::Missing
        }
        IndexError::Interrupted => OpenResult::Interrupted,
        error => {
            log::error!("volume {name}: the index: {error}");
            OpenResult::Failed
        }
    }
}

async fn make(zone: &Zone, keeper: &IndexKeeper) -> Result<(), IndexError> {
    let place = keeper.place.as_ref().ok_or(IndexError::NoRoom)?;
    let device = &*zone.index_device;
    let layout = place.layout();
    let now = keeper.now_ms(zone).saturating_mul(1_000_000);
    // Whatever the clock says, it has another nonce than the one before it.
    let before = saves::nonce_info(device, &layout, &place.geometry).await?;
    let time = now.max(before.map_or(0, |info| info.nanoseconds().saturating_add(1)));
    let info = NonceInfo::new(time, place.volume as u32);
    let nonce = saves::create(device, &layout, &place.geometry, place.volume, info).await?;
    let ring = place.ring(nonce);
    everywhere(zone, ShardStep::Make(Arc::new(ring))).await?;
    go_online(zone, keeper, ring, None).await
}

async fn go_online(
    zone: &Zone,
    keeper: &IndexKeeper,
    ring: Ring,
    newest: Option<u64>,
) -> Result<(), IndexError> {
    keeper.ring.set(Some(ring));
    zone.shared.take_index_touched();
    everywhere(zone, ShardStep::Open(newest)).await
}

async fn load_or_rebuild(
    zone: &Zone,
    keeper: &IndexKeeper,
    is_wanted: impl Fn() -> bool,
) -> Result<(), IndexError> {
    let place = keeper.place.as_ref().ok_or(IndexError::NoRoom)?;
    let device = &*zone.index_device;
    let layout = place.layout();
    let nonce = saves::find(device, &layout, &place.geometry, place.volume).await?;
    let ring = place.ring(nonce);
    match load(zone, keeper, ring).await {
        Err(IndexError::Damaged | IndexError::Io { .. }) => {
            everywhere(zone, ShardStep::GiveUp).await?;
            rebuild(zone, keeper, ring, is_wanted).await
        }
        loaded => loaded,
    }
}

async fn load(zone: &Zone, keeper: &IndexKeeper, ring: Ring) -> Result<(), IndexError> {
    let save = Arc::new(LoadedSave::read(&*zone.index_device, &ring).await?);
    everywhere(zone, ShardStep::Load(Arc::clone(&save))).await?;
    let newest = save.newest();
    log::info!(
        "volume {}: the deduplication index is loaded; chapter {newest} is open",
        zone.shared.name
    );
    keeper.last_save.set(Some(save.last_save()));
    go_online(zone, keeper, ring, None).await
}

async fn rebuild(
    zone: &Zone,
    keeper: &IndexKeeper,
    ring: Ring,
    is_wanted: impl Fn() -> bool,
) -> Result<(), IndexError> {
    let (name, device) = (&zone.shared.name, &*zone.index_device);
    keeper.is_rebuilding.set(true);
    if let Some(admin) = zone.admin.get() {
        tell_index(zone, admin);
    }
    zone.index_news();
    everywhere(zone, ShardStep::Make(Arc::new(ring))).await?;
    let reach = rebuild::find_chapters(device, &ring).await?;
    let replayed = reach.map_or(0..0, |reach| reach.replayed(&ring.geometry));
    let all = replayed.end - replayed.start;
    for (done, chapter) in (0..).zip(replayed.clone()) {
        if !is_wanted() {
            return Err(IndexError::Interrupted);
        }
        zone.shared.index_rebuild.tell(done, all);
        if done % all.div_ceil(REPORTS) == 0 && done > 0 {
            log::info!(
                "volume {name}: {done} of {all} chapters of the deduplication index are read"
            );
        }
        let names = ChapterNames::read(device, &ring, chapter, &replayed).await?;
        everywhere(zone, ShardStep::Replay(Arc::new(names))).await?;
    }
    log::info!("volume {name}: the deduplication index is made again from {all} chapters");
    go_online(zone, keeper, ring, Some(replayed.end)).await
}

/// Closes the index: what was asked ends, and it is saved.
pub(crate) async fn close(zone: &Zone, keeper: &IndexKeeper) -> Result<(), IndexError> {
    // These two cannot fail.
    _ = everywhere(zone, ShardStep::Stop).await;
    let is_still = || keeper.gathering.borrow().is_none() || keeper.failure.get().is_some();
    keeper.changed.wait_until(is_still).await;
    let saved = save(zone, keeper).await;
    _ = everywhere(zone, ShardStep::GiveUp).await;
    keeper.gathering.replace(None);
    keeper.ring.set(None);
    keeper.last_save.set(None);
    if let Err(error) = saved
        && keeper.failure.get().is_none()
    {
        log::error!(
            "volume {}: the index is not saved: {error}",
            zone.shared.name
        );
    }
    saved
}

async fn save(zone: &Zone, keeper: &IndexKeeper) -> Result<(), IndexError> {
    if let Some(error) = keeper.failure.get() {
        return Err(error);
    }
    let (Some(ring), device) = (keeper.ring.get(), &*zone.index_device) else {
        return Ok(());
    };
    let is_touched = zone.shared.take_index_touched();
    if keeper.last_save.get().is_some() && !is_touched {
        return Ok(());
    }
    let parts = |shard: &mut IndexShard| {
        let parts = shard.parts()?;
        Some((parts.zone.newest(), parts.chapters.page_map.clone()))
    };
    let (newest, page_map) = zone.hash.with_index(parts).ok_or(IndexError::NotOpen)?;
    let zones = zone.shared.zones;
    let now = keeper.now_ms(zone);
    let sheet = SaveSheet::begin(device, &ring, (newest, zones), now).await?;
    let saving = Arc::new(Saving {
        ring,
        sheet,
        open: Mutex::new(vec![Vec::new(); usize::from(zones)]),
    });
    everywhere(zone, ShardStep::Save(Arc::clone(&saving))).await?;
    let open = std::mem::take(&mut *saving.open.lock().unwrap_or_else(PoisonError::into_inner));
    let open: Vec<&[IndexRecord]> = open.iter().map(Vec::as_slice).collect();
    saving.sheet.finish(device, &ring, &page_map, &open).await?;
    Ok(())
}

impl IndexKeeper {
    /// Milliseconds since 1970.
    fn now_ms(&self, zone: &Zone) -> u64 {
        let passed = zone.scheduler.now().0.saturating_sub(self.started.get().0);
        self.unix_ms + passed / 1_000_000
    }
}

impl Zone {
    /// Something has gone wrong with the index: it is closed.
    pub(crate) fn index_failed(&self, error: IndexError) {
        let Some(keeper) = self.index_keeper() else {
            return;
        };
        if keeper.failure.get().is_none() {
            keeper.failure.set(Some(error));
            log::error!("volume {}: the index: {error}", self.shared.name);
        }
        keeper.changed.wake_all();
        self.index_news();
    }

    /// Lets those know who wait for the index to come to something.
    fn index_news(&self) {
        if let Some(admin) = self.admin.get() {
            admin.index_changed.wake_all();
        }
    }
}
