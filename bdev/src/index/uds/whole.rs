//! An index of all its zones at once, on one thread: opened, asked, saved.
//!
//! It is the index with nothing around it. Chapters are written while nothing is asked, and a page that is not in memory is waited for.

use std::sync::Arc;

use super::chapter_pages::ChapterPages;
use super::device::{self, IndexDevice};
use super::lookup::Chapters;
use super::rebuild::{self, ChapterNames};
use super::ring::Ring;
use super::saves::{self, LastSave, LoadedSave, SaveSheet};
use super::volume_index::VolumeIndexCounts;
use super::zone::{IndexZone, Outcome, Question, Seen};
use crate::format::index::nonce::NonceInfo;
use crate::format::index::record_page::RecordData;
use crate::format::index::super_block::IndexLayout;
use crate::format::index::{IndexGeometry, IndexRecord};
use crate::index::{IndexError, IndexOp, NameZones};
use crate::types::{Pbn, RecordName, ZoneIndex};

/// Where an index is, and how it is cut.
#[derive(Clone, Copy, Debug)]
pub struct IndexPlan {
    /// Its sizes.
    pub geometry: IndexGeometry,
    /// Its first block.
    pub start: Pbn,
    /// The nonce of its volume.
    pub volume: u64,
    /// Zones, 1 to 16.
    pub zones: u8,
    /// Pages of chapters that are kept in memory.
    pub cache_pages: usize,
}

/// How an index came to be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It was saved, and is as it was.
    Loaded,
    /// It was not, and was made again from its chapters.
    Rebuilt,
}

/// An open index.
pub struct WholeIndex<D> {
    device: D,
    chapters: Chapters,
    zones: Vec<IndexZone>,
    names: NameZones,
    last_save: Option<LastSave>,
}

impl<D: IndexDevice> WholeIndex<D> {
    fn empty(plan: &IndexPlan, device: D, nonce: u64) -> Result<WholeIndex<D>, IndexError> {
        let geometry = plan.geometry;
        let layout = IndexLayout::new(plan.start, &geometry);
        let zone = |zone| IndexZone::new(&geometry, zone, plan.zones);
        let ring = Ring {
            geometry,
            layout,
            nonce,
        };
        Ok(WholeIndex {
            device,
            chapters: Chapters::new(ring, plan.cache_pages, plan.zones)?,
            zones: (0..plan.zones).map(zone).collect::<Result<_, _>>()?,
            names: NameZones::new(&geometry, plan.zones),
            last_save: None,
        })
    }

    /// Makes an index without records, over whatever was there.
    ///
    /// # Errors
    /// [`IndexError::Io`], [`IndexError::NoMemory`].
    pub async fn create(
        plan: IndexPlan,
        device: D,
        info: NonceInfo,
    ) -> Result<WholeIndex<D>, IndexError> {
        let layout = IndexLayout::new(plan.start, &plan.geometry);
        let nonce = saves::create(&device, &layout, &plan.geometry, plan.volume, info).await?;
        WholeIndex::empty(&plan, device, nonce)
    }

    /// Opens the index there is, and makes what was not saved again from its chapters.
    ///
    /// # Errors
    /// [`IndexError::Missing`] and [`IndexError::Damaged`] mean that a new one is to be made; [`IndexError::Foreign`], that it is to be
    /// left alone.
    pub async fn open(plan: IndexPlan, device: D) -> Result<(WholeIndex<D>, Opened), IndexError> {
        let layout = IndexLayout::new(plan.start, &plan.geometry);
        let nonce = saves::find(&device, &layout, &plan.geometry, plan.volume).await?;
        let mut index = WholeIndex::empty(&plan, device, nonce)?;
        match index.load().await {
            Ok(()) => return Ok((index, Opened::Loaded)),
            Err(IndexError::Damaged) => {}
            Err(error) => return Err(error),
        }
        let mut index = WholeIndex::empty(&plan, index.device, nonce)?;
        index.rebuild().await?;
        Ok((index, Opened::Rebuilt))
    }

    async fn load(&mut self) -> Result<(), IndexError> {
        let (device, ring) = (&self.device, &self.chapters.ring);
        let save = LoadedSave::read(device, ring).await?;
        for (number, zone) in (0..).zip(&mut self.zones) {
            save.load_zone(device, zone, (&self.names, ZoneIndex(number)))
                .await?;
        }
        self.last_save = Some(save.last_save());
        self.chapters.page_map = save.page_map;
        Ok(())
    }

    async fn rebuild(&mut self) -> Result<(), IndexError> {
        let (device, ring) = (&self.device, self.chapters.ring);
        let Some(reach) = rebuild::find_chapters(device, &ring).await? else {
            return Ok(());
        };
        let replayed = reach.replayed(&ring.geometry);
        for chapter in replayed.clone() {
            let read = ChapterNames::read(device, &ring, chapter, &replayed).await?;
            for (number, zone) in (0..).zip(&mut self.zones) {
                let dealt = (&self.names, ZoneIndex(number));
                rebuild::replay(device, zone, &mut self.chapters, &read, dealt).await?;
            }
        }
        self.zones
            .iter_mut()
            .for_each(|zone| zone.open_chapter(replayed.end));
        Ok(())
    }

    /// Asks, and waits for the answer: what was known of the name.
    ///
    /// # Errors
    /// [`IndexError::Io`] and [`IndexError::Damaged`], after which the index is of no use any more.
    pub async fn ask(
        &mut self,
        op: IndexOp,
        record: IndexRecord,
    ) -> Result<Option<RecordData>, IndexError> {
        let zone = self.names.of(&record.name).index();
        let question = Question { op, record };
        let mut seen = Seen::default();
        loop {
            match self.zones[zone]
                .ask(&question, seen)
                .map_err(|_| IndexError::Damaged)?
            {
                Outcome::LookIn(chapter) => {
                    if self.zones[zone].is_sparse(chapter) && op != IndexOp::Peek {
                        self.take_in(chapter).await?;
                    }
                    let (device, chapters) = (&self.device, &mut self.chapters);
                    let record = device::find(device, chapters, chapter, &record.name).await?;
                    seen.noted = Some((chapter, record));
                }
                Outcome::LookBeyond => {
                    let (device, chapters) = (&self.device, &mut self.chapters);
                    let record = device::find_beyond(device, chapters, &record.name).await?;
                    seen.beyond = Some(record);
                }
                Outcome::Answer(known) => {
                    if self.zones[zone].is_full() {
                        self.close_chapter().await?;
                    }
                    return Ok(known);
                }
            }
        }
    }

    /// Looks in a chapter from now on for names that the volume index does not know.
    async fn take_in(&mut self, chapter: u64) -> Result<(), IndexError> {
        let sparse = &mut self.chapters.sparse;
        if sparse.want(chapter) {
            let pages = ChapterPages::read(&self.device, self.chapters.ring, chapter).await?;
            sparse.take_in(Arc::new(pages));
        }
        Ok(())
    }

    /// The chapters that are looked in for names the volume index does not know, the newest first.
    pub fn sparse_chapters(&self) -> Vec<u64> {
        self.chapters.sparse.chapters().collect()
    }

    /// What is known of `name`, as far as the volume index knows; changes nothing but the order in which pages are forgotten.
    ///
    /// # Errors
    /// As [`WholeIndex::ask`].
    pub async fn peek(&mut self, name: RecordName) -> Result<Option<RecordData>, IndexError> {
        let record = IndexRecord {
            name,
            ..IndexRecord::default()
        };
        self.ask(IndexOp::Peek, record).await
    }

    /// These names are about to be asked for.
    pub fn foresee(&self, names: &[RecordName]) {
        self.zones.iter().for_each(|zone| zone.foresee(names));
    }

    /// The chapter in which `name` may be, as far as the volume index knows.
    pub fn chapter_hint(&mut self, name: &RecordName) -> Option<u64> {
        let zone = self.names.of(name).index();
        self.zones[zone].volume_index.find(name).ok()?.chapter
    }

    async fn close_chapter(&mut self) -> Result<(), IndexError> {
        if let Some(save) = self.last_save.take() {
            saves::spoil(&self.device, save).await?;
        }
        let chapter = self.newest();
        let closed: Vec<_> = self.zones.iter_mut().map(IndexZone::close).collect();
        let shares: Vec<&[IndexRecord]> = closed.iter().map(|share| share.records()).collect();
        let ring = self.chapters.ring;
        let last_lists = ring.write(&self.device, chapter, &shares).await?;
        self.chapters.note(chapter, &last_lists);
        drop(closed);
        self.zones.iter_mut().for_each(IndexZone::written);
        let oldest = self.zones.iter().map(IndexZone::oldest).max();
        self.chapters.sparse.forget_before(oldest.unwrap_or(0));
        Ok(())
    }

    /// Saves it, at `now` (milliseconds since 1970).
    ///
    /// # Errors
    /// [`IndexError::Io`]: the save before it may be gone then.
    pub async fn save(&mut self, now: u64) -> Result<(), IndexError> {
        self.last_save = None;
        let (device, ring) = (&self.device, &self.chapters.ring);
        let of = (self.newest(), self.zones.len() as u8);
        let sheet = SaveSheet::begin(device, ring, of, now).await?;
        for (number, zone) in (0..).zip(&self.zones) {
            sheet
                .write_zone(device, ring, ZoneIndex(number), zone)
                .await?;
        }
        let open: Vec<&[IndexRecord]> = self.zones.iter().map(IndexZone::open_records).collect();
        let saved = sheet.finish(device, ring, &self.chapters.page_map, &open);
        self.last_save = Some(saved.await?);
        Ok(())
    }

    /// The open chapter.
    pub fn newest(&self) -> u64 {
        self.zones.first().map_or(0, |zone| zone.newest)
    }

    /// Records in the open chapter.
    pub fn open_records(&self) -> usize {
        self.zones
            .iter()
            .map(|zone| zone.open_records().len())
            .sum()
    }

    /// What the volume index holds.
    pub fn counts(&self) -> VolumeIndexCounts {
        let mut sum = VolumeIndexCounts::default();
        for counts in self.zones.iter().map(|zone| zone.volume_index.counts()) {
            sum.records += counts.records;
            sum.collisions += counts.collisions;
            sum.discarded += counts.discarded;
            sum.overflows += counts.overflows;
            sum.early_flushes += counts.early_flushes;
            sum.moves += counts.moves;
            sum.used_bytes += counts.used_bytes;
        }
        sum
    }

    /// Bytes that the volume index takes.
    pub fn memory_bytes(&self) -> u64 {
        self.zones
            .iter()
            .map(|zone| zone.volume_index.memory_bytes())
            .sum()
    }

    /// Pages read from the device so far.
    pub fn page_reads(&self) -> u64 {
        self.chapters.cache.misses
    }
}
