//! An index's life on disk: made, opened, saved.
//!
//! A save that was loaded stays as it is until the first chapter after it is closed; then it is spoiled, before the chapter is
//! written. So an index that crashes is either as it was saved, or has no save and is made again from its chapters.

use super::device::IndexDevice;
use super::ring::Ring;
use super::saved::{VolumeIndexReader, VolumeIndexWriter};
use super::zone::IndexZone;
use crate::format::index::nonce::NonceInfo;
use crate::format::index::page_map::IndexPageMap;
use crate::format::index::record_page;
use crate::format::index::save::{self, SaveLayout, SavedState};
use crate::format::index::super_block::{IndexLayout, IndexSuperBlock};
use crate::format::index::{IndexGeometry, IndexRecord, config, open_chapter};
use crate::format::{DecodeError, Extent};
use crate::index::{IndexError, NameZones};
use crate::types::{BLOCK_SIZE, Pbn, ZoneIndex};

/// Blocks read or written at a time.
pub const STRETCH: usize = 32;

/// The save that an index was loaded from or written to last, as long as it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastSave {
    /// The first block of its open chapter: spoiled when that is none any more.
    open_chapter: Pbn,
}

impl LastSave {
    /// The save that lies so.
    pub fn of(layout: &SaveLayout) -> LastSave {
        LastSave {
            open_chapter: layout.open_chapter.start,
        }
    }
}

/// Writes an index without chapters over whatever was there. Returns its volume nonce.
///
/// # Errors
/// [`IndexError::Io`].
pub async fn create<D: IndexDevice>(
    device: &D,
    layout: &IndexLayout,
    geometry: &IndexGeometry,
    volume: u64,
    info: NonceInfo,
) -> Result<u64, IndexError> {
    for slot in layout.saves {
        device
            .write(slot.start, &save::unsaved(slot, geometry))
            .await?;
    }
    device.flush().await?;
    device
        .write(layout.config, &config::encode(geometry, volume))
        .await?;
    device.flush().await?;
    let super_block = IndexSuperBlock { nonce_info: info };
    device
        .write(layout.header, &super_block.encode(layout, geometry))
        .await?;
    device.flush().await?;
    Ok(super_block.volume_nonce(layout))
}

/// What the nonces come from of the index that is there, if there is any.
///
/// # Errors
/// [`IndexError::Io`].
pub async fn nonce_info<D: IndexDevice>(
    device: &D,
    layout: &IndexLayout,
    geometry: &IndexGeometry,
) -> Result<Option<NonceInfo>, IndexError> {
    let mut block = [0; BLOCK_SIZE];
    device.read(layout.header, &mut block).await?;
    let found = IndexSuperBlock::decode(&block, layout, geometry);
    Ok(found.ok().map(|super_block| super_block.nonce_info))
}

/// Finds the index of a volume. Returns its volume nonce.
///
/// # Errors
/// [`IndexError::Io`]; [`IndexError::Foreign`] for one of a program of another age, which is to be left alone; and
/// [`IndexError::Missing`] if there is none, or none of this volume.
pub async fn find<D: IndexDevice>(
    device: &D,
    layout: &IndexLayout,
    geometry: &IndexGeometry,
    volume: u64,
) -> Result<u64, IndexError> {
    let mut block = [0; BLOCK_SIZE];
    device.read(layout.header, &mut block).await?;
    let super_block = IndexSuperBlock::decode(&block, layout, geometry).map_err(|error| {
        log::info!("no deduplication index: {error}");
        match error {
            DecodeError::UnknownVersion { .. } => IndexError::Foreign,
            _ => IndexError::Missing,
        }
    })?;
    device.read(layout.config, &mut block).await?;
    config::check(&block, geometry, volume).map_err(|error| {
        log::info!("no deduplication index: {error}");
        IndexError::Missing
    })?;
    Ok(super_block.volume_nonce(layout))
}

/// The saves in both slots.
async fn saves<D: IndexDevice>(
    device: &D,
    layout: &IndexLayout,
    nonce: u64,
) -> Result<[Option<(SavedState, SaveLayout)>; 2], IndexError> {
    let mut found = [None, None];
    let mut block = [0; BLOCK_SIZE];
    for (found, slot) in found.iter_mut().zip(layout.saves) {
        device.read(slot.start, &mut block).await?;
        // A header that makes no sense is no save.
        *found = save::decode(&block, slot, nonce).unwrap_or(None);
    }
    Ok(found)
}

/// The save that counts, of the index of a volume whose region begins at `start`.
///
/// # Errors
/// As [`find`]; or [`IndexError::Damaged`] if there is none.
pub async fn latest<D: IndexDevice>(
    device: &D,
    start: Pbn,
    geometry: &IndexGeometry,
    volume: u64,
) -> Result<(SavedState, SaveLayout), IndexError> {
    let layout = IndexLayout::new(start, geometry);
    let nonce = find(device, &layout, geometry, volume).await?;
    let found = saves(device, &layout, nonce).await?.into_iter().flatten();
    found
        .max_by_key(|(state, _)| state.time)
        .ok_or(IndexError::Damaged)
}

/// What of a save all zones share. Each loads its own of the volume index with it.
#[derive(Debug)]
pub struct LoadedSave {
    ring: Ring,
    newest: u64,
    layout: SaveLayout,
    /// Which lists are on which index page.
    pub page_map: IndexPageMap,
    open: Vec<IndexRecord>,
}

fn damaged(error: &dyn std::fmt::Display) -> IndexError {
    log::warn!("the save of the deduplication index cannot be used: {error}");
    IndexError::Damaged
}

impl LoadedSave {
    /// Reads the save that counts.
    ///
    /// # Errors
    /// [`IndexError::Io`], or [`IndexError::Damaged`] if there is none, or not a whole one.
    pub async fn read<D: IndexDevice>(device: &D, ring: &Ring) -> Result<LoadedSave, IndexError> {
        let latest = saves(device, &ring.layout, ring.nonce)
            .await?
            .into_iter()
            .flatten()
            .max_by_key(|(state, _)| state.time);
        let (state, layout) = latest.ok_or(IndexError::Damaged)?;
        let map = read_all(device, layout.page_map).await?;
        let page_map =
            IndexPageMap::decode(&ring.geometry, &map).map_err(|error| damaged(&error))?;
        let open = read_all(device, layout.open_chapter).await?;
        let records = open_chapter::read(&ring.geometry, &open).map_err(|error| damaged(&error))?;
        Ok(LoadedSave {
            ring: *ring,
            newest: state.newest,
            open: records.collect(),
            layout,
            page_map,
        })
    }

    /// The index it is of.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Its open chapter.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// The save as one that counts.
    pub fn last_save(&self) -> LastSave {
        LastSave::of(&self.layout)
    }

    /// Loads `zone`, number `number` of the zones that names are dealt out to.
    ///
    /// # Errors
    /// [`IndexError::Io`], or [`IndexError::Damaged`]. What is in the zone is of no use then.
    pub async fn load_zone<D: IndexDevice>(
        &self,
        device: &D,
        zone: &mut IndexZone,
        (names, number): (&NameZones, ZoneIndex),
    ) -> Result<(), IndexError> {
        let index = &mut zone.volume_index;
        let streams = self.layout.volume_index.len() as u32;
        let mut reader = VolumeIndexReader::new(index, self.ring.nonce, self.newest, streams);
        let mut piece = vec![0; STRETCH * BLOCK_SIZE];
        for stream in &self.layout.volume_index {
            let mut ended = false;
            let mut at = 0;
            while !ended {
                let blocks = (stream.blocks - at).min(STRETCH as u64) as usize;
                if blocks == 0 {
                    return Err(damaged(&"its volume index has no end"));
                }
                let piece = &mut piece[..blocks * BLOCK_SIZE];
                device.read(Pbn(stream.start.get() + at), piece).await?;
                ended = reader.feed(index, piece).map_err(|error| damaged(&error))?;
                at += blocks as u64;
            }
        }
        reader.finish(index).map_err(|error| damaged(&error))?;
        zone.newest = self.newest;
        zone.open.clear();
        let own = |record: &&IndexRecord| names.of(&record.name) == number;
        self.open
            .iter()
            .filter(own)
            .for_each(|record| zone.reload(*record));
        Ok(())
    }
}

async fn read_all<D: IndexDevice>(device: &D, extent: Extent) -> Result<Vec<u8>, IndexError> {
    let mut bytes = vec![0; extent.blocks as usize * BLOCK_SIZE];
    for (at, piece) in (0..)
        .step_by(STRETCH)
        .zip(bytes.chunks_mut(STRETCH * BLOCK_SIZE))
    {
        device.read(Pbn(extent.start.get() + at), piece).await?;
    }
    Ok(bytes)
}

/// A save being written: begun, then each zone's part of the volume index, then the rest and the header. Nothing may be asked of
/// the index meanwhile.
#[derive(Debug)]
pub struct SaveSheet {
    slot: Extent,
    state: SavedState,
    layout: SaveLayout,
}

impl SaveSheet {
    /// Begins a save at `now` (milliseconds since 1970) of an index of `zones` zones with `newest` as its open chapter: the older
    /// save does not count any more.
    ///
    /// # Errors
    /// [`IndexError::Io`].
    pub async fn begin<D: IndexDevice>(
        device: &D,
        ring: &Ring,
        (newest, zones): (u64, u8),
        now: u64,
    ) -> Result<SaveSheet, IndexError> {
        let geometry = &ring.geometry;
        let found = saves(device, &ring.layout, ring.nonce).await?;
        let time = |save: &Option<(SavedState, SaveLayout)>| {
            save.as_ref().map_or(0, |(state, _)| state.time)
        };
        let [first, second] = [time(&found[0]), time(&found[1])];
        let slot = ring.layout.saves[usize::from(second < first)];
        let state = SavedState {
            // The clock may have been set back.
            time: now.max(first.max(second) + 1),
            newest,
            oldest: geometry.oldest(newest),
        };
        device
            .write(slot.start, &save::unsaved(slot, geometry))
            .await?;
        device.flush().await?;
        Ok(SaveSheet {
            slot,
            state,
            layout: SaveLayout::new(slot, geometry, zones),
        })
    }

    /// Writes a zone's part of the volume index.
    ///
    /// # Errors
    /// [`IndexError::Io`].
    pub async fn write_zone<D: IndexDevice>(
        &self,
        device: &D,
        ring: &Ring,
        number: ZoneIndex,
        zone: &IndexZone,
    ) -> Result<(), IndexError> {
        let Some(extent) = self.layout.volume_index.get(number.index()) else {
            return Err(IndexError::Damaged);
        };
        let index = &zone.volume_index;
        let mut writer = VolumeIndexWriter::new(index, ring.nonce);
        write_stream(device, *extent, |out| writer.fill(index, out)).await?;
        device.flush().await
    }

    /// Writes the open chapter, which the zones gathered, the page map, and the header that makes the save count.
    ///
    /// # Errors
    /// [`IndexError::Io`].
    pub async fn finish<D: IndexDevice>(
        &self,
        device: &D,
        ring: &Ring,
        page_map: &IndexPageMap,
        open: &[&[IndexRecord]],
    ) -> Result<LastSave, IndexError> {
        write_stream(device, self.layout.open_chapter, open_chapter_stream(open)).await?;
        device.flush().await?;
        let mut at = 0;
        let end = crate::format::index::page_map::saved_bytes(&ring.geometry) as usize;
        let map = |out: &mut [u8]| {
            let count = out.len().min(end - at);
            page_map.encode(at, &mut out[..count]);
            at += count;
            count
        };
        write_stream(device, self.layout.page_map, map).await?;
        device.flush().await?;
        let header = self.layout.encode(self.slot, ring.nonce, &self.state);
        device.write(self.slot.start, &header).await?;
        device.flush().await?;
        Ok(LastSave::of(&self.layout))
    }
}

/// The saved open chapter: the zones' records take turns.
fn open_chapter_stream(open: &[&[IndexRecord]]) -> impl FnMut(&mut [u8]) -> usize {
    let all: usize = open.iter().map(|records| records.len()).sum();
    let most = open.iter().map(|records| records.len()).max().unwrap_or(0);
    let records = (0..most).flat_map(|index| open.iter().filter_map(move |share| share.get(index)));
    let mut bytes = open_chapter::header(all as u32)
        .into_iter()
        .chain(records.flat_map(record_page::IndexRecord::encode));
    move |out| {
        let mut count = 0;
        for (to, from) in out.iter_mut().zip(&mut bytes) {
            *to = from;
            count += 1;
        }
        count
    }
}

/// Writes what `fill` gives, until it gives less than it could; the rest of the last block is zero.
async fn write_stream<D: IndexDevice>(
    device: &D,
    extent: Extent,
    mut fill: impl FnMut(&mut [u8]) -> usize,
) -> Result<(), IndexError> {
    let mut piece = vec![0; STRETCH * BLOCK_SIZE];
    let mut at = 0;
    while at < extent.blocks {
        let room = (extent.blocks - at).min(STRETCH as u64) as usize * BLOCK_SIZE;
        let count = fill(&mut piece[..room]);
        let blocks = count.div_ceil(BLOCK_SIZE);
        piece[count..blocks * BLOCK_SIZE].fill(0);
        if blocks > 0 {
            device
                .write(Pbn(extent.start.get() + at), &piece[..blocks * BLOCK_SIZE])
                .await?;
        }
        at += blocks as u64;
        if count < room {
            return Ok(());
        }
    }
    Ok(())
}

/// Makes sure that a save does not count any more.
///
/// # Errors
/// [`IndexError::Io`].
pub async fn spoil<D: IndexDevice>(device: &D, save: LastSave) -> Result<(), IndexError> {
    device.write(save.open_chapter, &[0; BLOCK_SIZE]).await?;
    device.flush().await
}
