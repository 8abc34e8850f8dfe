//! An index that was not saved, made again from its chapters.
//!
//! First the ring is searched for its ends: chapters are numbered upwards from place to place, and somewhere the newest is followed by
//! the oldest. At one stretch of places there may be no whole chapter: where none was written yet, or where the last one was under
//! way. Then the records of all chapters are put into the volume index again, oldest first. What was in the open chapter is lost.
//!
//! A chapter's index says which of its records are its own. Copies that fill gaps are not, nor is what an old chapter left on a record
//! page that was not written any more; so neither gets into the volume index.

use hashbrown::HashMap;

use super::chapter_store::ChapterStore;
use super::device::IndexDevice;
use super::zone::{IndexZone, zone_of};
use crate::format::index::chapter_page::ChapterPage;
use crate::format::index::delta_list::DeltaError;
use crate::format::index::{IndexGeometry, IndexRecord, record_page};
use crate::index::IndexError;
use crate::types::RecordName;

/// The most places in a row without a whole chapter, between the newest and the oldest.
const MOST_BAD: u32 = 100;

/// The first and the last chapter on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The oldest.
    pub oldest: u64,
    /// The newest.
    pub newest: u64,
}

/// Finds the chapters on disk; `None` if there is none.
///
/// # Errors
/// [`IndexError::Io`], or [`IndexError::Damaged`] if what there is makes no ring.
pub async fn find_chapters<D: IndexDevice>(
    store: &mut ChapterStore<D>,
) -> Result<Option<Reach>, IndexError> {
    let places = end_of_volume(store).await?;
    if places == 0 {
        return Ok(None);
    }
    // The place of the least number below that of the first place, if there is one, has the oldest chapter. A place without a
    // chapter counts as one with a number above all others.
    let at_front = store.probe(0).await?.unwrap_or(u64::MAX);
    let (mut low, mut high) = (0, places);
    while low < high {
        let place = low.midpoint(high);
        let chapter = store.probe(place).await?.unwrap_or(u64::MAX);
        if at_front <= chapter {
            low = place + 1;
        } else {
            high = place;
        }
    }
    let first = if low >= places { 0 } else { low };
    let oldest = store.probe(first).await?;
    let mut place = high;
    for _ in 0..=MOST_BAD {
        place = (place + places - 1) % places;
        if let Some(newest) = store.probe(place).await? {
            let oldest = oldest.unwrap_or(newest);
            let chapters = u64::from(store.geometry.chapters);
            return if oldest <= newest && newest - oldest < chapters {
                Ok(Some(Reach { oldest, newest }))
            } else {
                Err(IndexError::Damaged)
            };
        }
    }
    Err(IndexError::Damaged)
}

/// How many places of the ring were ever written: the place behind the last whole chapter.
async fn end_of_volume<D: IndexDevice>(store: &mut ChapterStore<D>) -> Result<u32, IndexError> {
    let mut end = store.geometry.chapters;
    let (mut span, mut tries) = (1, 0);
    while end > 0 {
        let place = end.saturating_sub(span);
        if store.probe(place).await?.is_some() {
            if span == 1 {
                break;
            }
            span /= 2;
            tries = 0;
        } else {
            end = place;
            tries += 1;
            if tries > 1 {
                span *= 2;
            }
        }
    }
    Ok(end)
}

/// Puts the records of all chapters of `reach` into the zones, which are empty, and opens the chapter after them. Returns that, and
/// the oldest that there still is.
///
/// # Errors
/// [`IndexError::Io`], or [`IndexError::Damaged`].
pub async fn replay<D: IndexDevice>(
    store: &mut ChapterStore<D>,
    zones: &mut [IndexZone],
    reach: Reach,
) -> Result<(), IndexError> {
    let geometry = store.geometry;
    let newest = reach.newest + 1;
    // The place of the oldest may be the one the open chapter will have.
    let oldest = reach.oldest.max(geometry.oldest(newest));
    for chapter in oldest..newest {
        zones.iter_mut().for_each(|zone| zone.open_chapter(chapter));
        store.note_pages(chapter).await?;
        let will_be_sparse = geometry.is_chapter_sparse(oldest, newest, chapter);
        let own = OwnRecords::read(store, chapter).await?;
        let mut records = Vec::with_capacity(geometry.records_per_page() as usize);
        for page in 0..geometry.record_pages {
            let bytes = store
                .page(geometry.place(chapter), geometry.index_pages + page)
                .await?;
            records.clear();
            records.extend(record_page::records(bytes));
            // A copy that fills a gap may be on the page of its original.
            records.sort_unstable_by_key(|record| u128::from_be_bytes(record.name.0));
            records.dedup_by_key(|record| record.name);
            for record in &records {
                let is_wanted = !will_be_sparse || geometry.is_sample(&record.name);
                if is_wanted && own.has(&geometry, &record.name, page) {
                    replay_record(store, zones, chapter, record).await?;
                }
            }
        }
    }
    zones.iter_mut().for_each(|zone| zone.open_chapter(newest));
    Ok(())
}

/// What the index of a chapter knows: on which record page each of its names is.
struct OwnRecords {
    /// List, key and record page, in one number, in order.
    places: Vec<u64>,
    /// Names with the list and key of another one, and their record pages.
    collisions: HashMap<RecordName, u32>,
}

/// Bits for a record page.
const PAGE_BITS: u32 = 16;

impl OwnRecords {
    async fn read<D: IndexDevice>(
        store: &mut ChapterStore<D>,
        chapter: u64,
    ) -> Result<OwnRecords, IndexError> {
        let (geometry, nonce) = (store.geometry, store.nonce);
        let place = geometry.place(chapter);
        let mut own = OwnRecords {
            places: Vec::with_capacity(geometry.records_per_chapter() as usize),
            collisions: HashMap::new(),
        };
        for number in 0..geometry.index_pages {
            let bytes = store.page(place, number).await?;
            let page =
                ChapterPage::read(bytes, nonce, &geometry).map_err(|_| IndexError::Damaged)?;
            for list in 0..page.lists {
                let (global, list) = (page.first_list + list, page.list(list));
                for entry in list.entries() {
                    let entry = entry.map_err(|_| IndexError::Damaged)?;
                    let page = list.value(&entry);
                    if entry.is_collision {
                        own.collisions.insert(list.name(&entry), page);
                    } else {
                        let place = place_of(&geometry, global, entry.key);
                        own.places.push(place << PAGE_BITS | u64::from(page));
                    }
                }
            }
        }
        Ok(own)
    }

    /// Whether the name, met on a record page, is there by right.
    fn has(&self, geometry: &IndexGeometry, name: &RecordName, page: u32) -> bool {
        if let Some(known) = self.collisions.get(name) {
            return *known == page;
        }
        let place = geometry.chapter_list_key(name);
        let place = place_of(geometry, place.list, place.key) << PAGE_BITS;
        self.places
            .binary_search(&(place | u64::from(page)))
            .is_ok()
    }
}

fn place_of(geometry: &IndexGeometry, list: u32, key: u32) -> u64 {
    u64::from(list) << geometry.chapter_key_bits | u64::from(key)
}

async fn replay_record<D: IndexDevice>(
    store: &mut ChapterStore<D>,
    zones: &mut [IndexZone],
    chapter: u64,
    record: &IndexRecord,
) -> Result<(), IndexError> {
    let zone = zone_of(&store.geometry, &record.name, zones.len() as u8);
    let index = &mut zones[usize::from(zone)].volume_index;
    let sighting = index.find(&record.name).map_err(|_| IndexError::Damaged)?;
    let is_its_own = match sighting.chapter {
        None => false,
        Some(other) if other == chapter && sighting.is_exact() => return Ok(()),
        // Another name of this chapter that has the same key.
        Some(other) if other == chapter => false,
        Some(_) if sighting.is_exact() => true,
        Some(other) => store.find(other, &record.name).await?.is_some(),
    };
    if is_its_own {
        index.set_chapter(&sighting, chapter);
        return Ok(());
    }
    match index.put(&sighting, &record.name, chapter) {
        // The rebuilt index does without these.
        Ok(()) | Err(DeltaError::Overflow | DeltaError::Duplicate) => Ok(()),
        Err(DeltaError::Corrupt) => Err(IndexError::Damaged),
    }
}
