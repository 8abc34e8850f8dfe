//! An index that was not saved, made again from its chapters.
//!
//! First the ring is searched for its ends: chapters are numbered upwards from place to place, and somewhere the newest is followed by
//! the oldest. At one stretch of places there may be no whole chapter: where none was written yet, or where the last one was under
//! way. Then the records of all chapters are put into the volume index again, oldest first. What was in the open chapter is lost.
//!
//! A chapter's index says which of its records are its own. Copies that fill gaps are not, nor is what an old chapter left on a record
//! page that was not written any more; so neither gets into the volume index.

use std::ops::Range;

use hashbrown::HashMap;

use super::chapter_pages::ChapterPages;
use super::device::{IndexDevice, find};
use super::lookup::Chapters;
use super::page_cache::PageOf;
use super::ring::Ring;
use super::volume_index::VolumeIndexZone;
use super::zone::IndexZone;
use crate::format::index::chapter_page::ChapterPage;
use crate::format::index::delta_list::DeltaError;
use crate::format::index::{IndexGeometry, record_page};
use crate::index::{IndexError, NameZones};
use crate::types::{RecordName, ZoneIndex};

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
    device: &D,
    ring: &Ring,
) -> Result<Option<Reach>, IndexError> {
    let places = end_of_volume(device, ring).await?;
    if places == 0 {
        return Ok(None);
    }
    // The place of the least number below that of the first place, if there is one, has the oldest chapter. A place without a
    // chapter counts as one with a number above all others.
    let at_front = ring.probe(device, 0).await?.unwrap_or(u64::MAX);
    let (mut low, mut high) = (0, places);
    while low < high {
        let place = low.midpoint(high);
        let chapter = ring.probe(device, place).await?.unwrap_or(u64::MAX);
        if at_front <= chapter {
            low = place + 1;
        } else {
            high = place;
        }
    }
    let first = if low >= places { 0 } else { low };
    let oldest = ring.probe(device, first).await?;
    let mut place = high;
    for _ in 0..=MOST_BAD {
        place = (place + places - 1) % places;
        if let Some(newest) = ring.probe(device, place).await? {
            let oldest = oldest.unwrap_or(newest);
            let chapters = u64::from(ring.geometry.chapters);
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
async fn end_of_volume<D: IndexDevice>(device: &D, ring: &Ring) -> Result<u32, IndexError> {
    let mut end = ring.geometry.chapters;
    let (mut span, mut tries) = (1, 0);
    while end > 0 {
        let place = end.saturating_sub(span);
        if ring.probe(device, place).await?.is_some() {
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

impl Reach {
    /// The chapters to be replayed, oldest first. The place of the oldest may be the one the open chapter will have.
    pub fn replayed(&self, geometry: &IndexGeometry) -> Range<u64> {
        let newest = self.newest + 1;
        self.oldest.max(geometry.oldest(newest))..newest
    }
}

/// What a chapter puts into the volume index.
#[derive(Debug)]
pub struct ChapterNames {
    /// Which chapter.
    pub chapter: u64,
    /// The last list on each of its index pages.
    pub last_lists: Vec<u32>,
    /// Its names; of a chapter that will be sparse, its samples. They are in the order of the lists they go to, so that these
    /// are gone through from one end of the memory to the other.
    pub names: Vec<RecordName>,
}

impl ChapterNames {
    /// Reads a chapter, one of those to be `replayed`.
    ///
    /// # Errors
    /// [`IndexError::Io`], or [`IndexError::Damaged`].
    pub async fn read<D: IndexDevice>(
        device: &D,
        ring: &Ring,
        chapter: u64,
        replayed: &Range<u64>,
    ) -> Result<ChapterNames, IndexError> {
        let geometry = &ring.geometry;
        let only_samples = geometry.is_chapter_sparse(replayed.start, replayed.end, chapter);
        let index = ChapterPages::read(device, *ring, chapter).await?;
        let last_list = |page: ChapterPage<'_>| u32::try_from(page.last_list()).unwrap_or(0);
        let last_lists = index.pages().map(last_list).collect();
        let own = OwnRecords::of(&index, geometry)?;
        let mut names = Vec::with_capacity(own.places.len());
        let mut bytes = vec![0; geometry.page_bytes as usize];
        for number in 0..geometry.record_pages {
            let page = PageOf {
                chapter,
                page: geometry.index_pages + number,
            };
            device.read(ring.block_of(page), &mut bytes).await?;
            let on_page = record_page::records(&bytes).map(|record| record.name);
            names.extend(on_page.filter(|name| {
                (!only_samples || geometry.is_sample(name)) && own.has(geometry, name, number)
            }));
        }
        let (dense, samples) = (geometry.dense_part(), geometry.sampled_part());
        names.sort_by_cached_key(|name| {
            let list = match &samples {
                Some(samples) if geometry.is_sample(name) => (1, samples.list_key(name).list),
                _ => (0, dense.list_key(name).list),
            };
            (list, name.key())
        });
        // A copy that fills a gap may be on the page of its original.
        names.dedup();
        Ok(ChapterNames {
            chapter,
            last_lists,
            names,
        })
    }
}

/// What the index of a chapter knows: on which record page each of its names is.
struct OwnRecords {
    /// List, key and record page, in one number, in order.
    places: Vec<u64>,
    /// For each list, the first of its places; and where the last list ends.
    starts: Vec<u32>,
    /// Names with the list and key of another one, and their record pages.
    collisions: HashMap<RecordName, u32>,
}

/// Bits for a record page.
const PAGE_BITS: u32 = 16;

impl OwnRecords {
    fn of(index: &ChapterPages, geometry: &IndexGeometry) -> Result<OwnRecords, IndexError> {
        let mut own = OwnRecords {
            places: Vec::with_capacity(geometry.records_per_chapter() as usize),
            starts: Vec::with_capacity(geometry.chapter_lists() as usize + 1),
            collisions: HashMap::new(),
        };
        for page in index.pages() {
            for list in 0..page.lists {
                let (global, list) = (page.first_list + list, page.list(list));
                own.starts.push(own.places.len() as u32);
                for entry in list.entries() {
                    let entry = entry.map_err(|_| IndexError::Damaged)?;
                    let page = list.value(&entry);
                    if entry.is_collision {
                        own.collisions.insert(list.name(&entry), page);
                    } else {
                        let place = place_of(geometry, global, entry.key);
                        own.places.push(place << PAGE_BITS | u64::from(page));
                    }
                }
            }
        }
        own.starts.push(own.places.len() as u32);
        Ok(own)
    }

    /// Whether the name, met on a record page, is there by right.
    fn has(&self, geometry: &IndexGeometry, name: &RecordName, page: u32) -> bool {
        if let Some(known) = self.collisions.get(name) {
            return *known == page;
        }
        let place = geometry.chapter_list_key(name);
        let list = place.list as usize;
        let of_list = self.starts[list] as usize..self.starts[list + 1] as usize;
        let place = place_of(geometry, place.list, place.key) << PAGE_BITS;
        self.places[of_list]
            .binary_search(&(place | u64::from(page)))
            .is_ok()
    }
}

fn place_of(geometry: &IndexGeometry, list: u32, key: u32) -> u64 {
    u64::from(list) << geometry.chapter_key_bits | u64::from(key)
}

/// Puts the names of a chapter that are of `zone`, number `number` of those that names are dealt out to, into its volume index,
/// after the chapters before it. A chapter without names only opens it.
///
/// # Errors
/// [`IndexError::Io`], or [`IndexError::Damaged`].
pub async fn replay<D: IndexDevice>(
    device: &D,
    zone: &mut IndexZone,
    chapters: &mut Chapters,
    read: &ChapterNames,
    (dealt, number): (&NameZones, ZoneIndex),
) -> Result<(), IndexError> {
    zone.open_chapter(read.chapter);
    chapters.note(read.chapter, &read.last_lists);
    for some in read.names.chunks(NAMES_AT_ONCE) {
        for name in some.iter().filter(|name| dealt.of(name) == number) {
            replay_name(device, &mut zone.volume_index, chapters, read.chapter, name).await?;
        }
        device.turn().await;
    }
    Ok(())
}

/// Names that are replayed before others have their turn.
const NAMES_AT_ONCE: usize = 1024;

async fn replay_name<D: IndexDevice>(
    device: &D,
    index: &mut VolumeIndexZone,
    chapters: &mut Chapters,
    chapter: u64,
    name: &RecordName,
) -> Result<(), IndexError> {
    let sighting = index.find(name).map_err(|_| IndexError::Damaged)?;
    let is_its_own = match sighting.chapter {
        None => false,
        Some(other) if other == chapter && sighting.is_exact() => return Ok(()),
        // Another name of this chapter that has the same key.
        Some(other) if other == chapter => false,
        Some(_) if sighting.is_exact() => true,
        Some(other) => find(device, chapters, other, name).await?.is_some(),
    };
    if is_its_own {
        index.set_chapter(&sighting, chapter);
        return Ok(());
    }
    match index.put(&sighting, name, chapter) {
        // The rebuilt index does without these.
        Ok(()) | Err(DeltaError::Overflow | DeltaError::Duplicate) => Ok(()),
        Err(DeltaError::Corrupt) => Err(IndexError::Damaged),
    }
}
