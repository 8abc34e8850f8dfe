//! The volume index: in which chapter a name is. One zone's share of it.
//!
//! It knows no names but by the key they have in their delta list, and so its answers are hints: a name that is not in the
//! index is found about once in many thousand times, in a chapter that does not have it. Only of names that were found to have
//! the key of another one, and to be in the index too, the whole name is kept.
//!
//! A chapter is known by the low bits of its number. What they mean depends on the oldest chapter: they count from there. So
//! entries of chapters that were dropped must be gone before their bits are used again; each list is cleared of them the next time it
//! is looked at, which costs a walk through it. To walk less often, each list has its *flush chapter*: nothing in it is older.
//!
//! When the lists need more memory than is good, more chapters are dropped than the ring would.

use crate::format::index::delta_list::{DeltaError, Entry};
use crate::format::index::volume_index::{DeltaHeader, Part, PartHeader};
use crate::format::index::{IndexGeometry, SubIndexGeometry};
use crate::index::IndexError;
use crate::runtime::prefetch::prefetch;
use crate::types::RecordName;

use super::delta_lists::DeltaLists;

/// Where a name is in the volume index, or would be put. Good until the volume index is changed otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Sighting {
    sampled: bool,
    list: usize,
    key: u32,
    entry: Entry,
    /// The chapter in which the name may be, if there is any.
    pub chapter: Option<u64>,
}

impl Sighting {
    /// Whether the whole name was compared, so that it is no other's.
    pub fn is_exact(&self) -> bool {
        self.entry.is_collision
    }
}

/// One zone's share of one part of the volume index.
#[derive(Debug)]
pub struct PartZone {
    part: Part,
    geometry: SubIndexGeometry,
    first_list: u32,
    pub(super) lists: DeltaLists,
    /// For each list, the oldest chapter of which it may have entries.
    pub(super) flush_chapters: Vec<u64>,
    pub(super) oldest: u64,
    pub(super) newest: u64,
    zone: u8,
    zones: u8,
    /// Chapters dropped for want of memory.
    early_flushes: u64,
}

impl PartZone {
    fn new(
        part: Part,
        geometry: SubIndexGeometry,
        zone: u8,
        zones: u8,
    ) -> Result<PartZone, IndexError> {
        let lists = geometry.zone_lists(zone, zones);
        let bytes = geometry.zone_memory(zones);
        Ok(PartZone {
            part,
            geometry,
            first_list: lists.start,
            lists: DeltaLists::new(lists.len(), geometry.code, bytes)?,
            flush_chapters: vec![0; lists.len()],
            oldest: 0,
            newest: 0,
            zone,
            zones,
            early_flushes: 0,
        })
    }

    fn mask(&self) -> u32 {
        (1 << self.geometry.chapter_bits) - 1
    }

    /// The chapter that has these low bits.
    fn chapter(&self, low: u32) -> u64 {
        let since_oldest = low.wrapping_sub(self.oldest as u32) & self.mask();
        self.oldest + u64::from(since_oldest)
    }

    /// Whether a list of the whole index is in this zone, and which it is here.
    pub(super) fn local(&self, list: u32) -> Option<usize> {
        let local = list.checked_sub(self.first_list)? as usize;
        (local < self.lists.count()).then_some(local)
    }

    pub(super) fn tag(&self) -> u8 {
        self.part.tag()
    }

    pub(super) fn global(&self, list: usize) -> u32 {
        self.first_list + list as u32
    }

    pub(super) fn all_lists(&self) -> u64 {
        self.geometry.lists
    }

    pub(super) fn header(&self, nonce: u64) -> PartHeader {
        PartHeader {
            nonce,
            oldest: self.oldest,
            newest: self.newest,
            first_list: self.first_list,
            lists: self.lists.count() as u32,
        }
    }

    pub(super) fn delta_header(&self) -> DeltaHeader {
        DeltaHeader {
            zone: self.zone.into(),
            zones: self.zones.into(),
            first_list: self.first_list,
            lists: self.lists.count() as u32,
            records: self.lists.records,
            collisions: self.lists.collisions,
        }
    }

    /// Somebody is about to look for a name.
    #[inline]
    fn foresee(&self, name: &RecordName) {
        if let Some(list) = self.local(self.geometry.list_key(name).list) {
            prefetch(&self.flush_chapters[list]);
            self.lists.foresee(list);
        }
    }

    /// As [`PartZone::foresee`], when that has had its effect.
    #[inline]
    fn foresee_key(&self, name: &RecordName) {
        let place = self.geometry.list_key(name);
        if let Some(list) = self.local(place.list) {
            self.lists.foresee_key(list, place.key);
        }
    }

    /// Finds a name.
    fn find(&mut self, sampled: bool, name: &RecordName) -> Result<Sighting, DeltaError> {
        let place = self.geometry.list_key(name);
        let list = self.local(place.list).ok_or(DeltaError::Corrupt)?;
        let entry = if self.flush_chapters[list] < self.oldest {
            self.find_and_flush(list, place.key, name)?
        } else {
            self.lists.find(list, place.key, name)?
        };
        let found = entry
            .is(place.key)
            .then(|| self.lists.list(list).value(&entry));
        Ok(Sighting {
            sampled,
            list,
            key: place.key,
            entry,
            chapter: found.map(|low| self.chapter(low)),
        })
    }

    /// Finds a name, and takes out of its list what is of chapters that were dropped.
    fn find_and_flush(
        &mut self,
        list: usize,
        key: u32,
        name: &RecordName,
    ) -> Result<Entry, DeltaError> {
        let mask = self.mask();
        let first = self.flush_chapters[list];
        let dropped = self.oldest - first;
        let mut flush = Flush {
            first: first as u32 & mask,
            dropped: dropped.min(u64::from(mask) + 1) as u32,
            mask,
            oldest_left: mask,
        };
        let lists = &mut self.lists;
        let mut cursor = Entry::START;
        let found = loop {
            let entry = flush.next(lists, list, &cursor)?;
            if entry.at_end || key <= entry.key {
                break entry;
            }
            cursor = entry;
        };
        let (mut result, mut other) = (found, found);
        if found.is(key) {
            loop {
                other = flush.next(lists, list, &other)?;
                if other.at_end || !other.is_collision {
                    break;
                }
                if lists.list(list).name(&other) == *name {
                    result = other;
                    break;
                }
            }
        }
        while !other.at_end {
            other = flush.next(lists, list, &other)?;
        }
        let low = flush.first.wrapping_add(flush.oldest_left) & mask;
        self.flush_chapters[list] = self.chapter(low).min(self.newest);
        Ok(result)
    }

    /// The chapter in which a name may be; changes nothing.
    fn peek(&self, name: &RecordName) -> Option<u64> {
        let place = self.geometry.list_key(name);
        let list = self.local(place.list)?;
        let entry = self.lists.peek(list, place.key, name).ok()?;
        let low = entry
            .is(place.key)
            .then(|| self.lists.list(list).value(&entry))?;
        let chapter = self.chapter(low);
        (chapter <= self.newest).then_some(chapter)
    }

    /// `newest` is the open chapter from now on.
    fn open_chapter(&mut self, newest: u64) {
        self.newest = newest;
        self.oldest = (newest + 1).saturating_sub(self.geometry.chapters.into());
        let limit = self.geometry.zone_bits_limit(self.zones);
        if let Some(over) = self.lists.used_bits().checked_sub(limit + 1) {
            let chapter_bits = (self.geometry.chapter_size_bits / u64::from(self.zones)).max(1);
            let chapters = (1 + (over + 1) / chapter_bits).min(newest - self.oldest);
            log::info!(
                "the deduplication index is fuller than it should be: {chapters} of its oldest chapters are forgotten before their time"
            );
            self.oldest += chapters;
            self.early_flushes += chapters;
        }
    }
}

/// Which chapters were dropped, as low bits, and the oldest that was met and was not.
struct Flush {
    first: u32,
    dropped: u32,
    mask: u32,
    oldest_left: u32,
}

impl Flush {
    /// The next entry that stays; those before it are taken out.
    #[inline]
    fn next(
        &mut self,
        lists: &mut DeltaLists,
        list: usize,
        cursor: &Entry,
    ) -> Result<Entry, DeltaError> {
        let view = lists.list(list);
        let mut entry = view.next(cursor)?;
        if entry.at_end {
            return Ok(entry);
        }
        let mut value = view.value(&entry);
        loop {
            let since = value.wrapping_sub(self.first) & self.mask;
            if since >= self.dropped {
                self.oldest_left = self.oldest_left.min(since);
                return Ok(entry);
            }
            entry = lists.remove(list, &entry)?;
            if entry.at_end {
                return Ok(entry);
            }
            value = lists.list(list).value(&entry);
        }
    }
}

/// One zone's share of the volume index.
#[derive(Debug)]
pub struct VolumeIndexZone {
    geometry: IndexGeometry,
    pub(super) dense: PartZone,
    pub(super) samples: Option<PartZone>,
}

impl VolumeIndexZone {
    /// The share of zone `zone` of `zones`, with nothing in it.
    ///
    /// # Errors
    /// [`IndexError::NoMemory`].
    pub fn new(
        geometry: &IndexGeometry,
        zone: u8,
        zones: u8,
    ) -> Result<VolumeIndexZone, IndexError> {
        let part = if geometry.is_sparse() {
            Part::Dense
        } else {
            Part::Whole
        };
        let sampled = geometry.sampled_part();
        let samples = sampled.map(|sampled| PartZone::new(Part::Samples, sampled, zone, zones));
        Ok(VolumeIndexZone {
            geometry: *geometry,
            dense: PartZone::new(part, geometry.dense_part(), zone, zones)?,
            samples: samples.transpose()?,
        })
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = &PartZone> {
        [Some(&self.dense), self.samples.as_ref()]
            .into_iter()
            .flatten()
    }

    pub(super) fn part(&self, number: usize) -> Option<&PartZone> {
        self.parts().nth(number)
    }

    pub(super) fn part_mut(&mut self, number: usize) -> Option<&mut PartZone> {
        [Some(&mut self.dense), self.samples.as_mut()]
            .into_iter()
            .flatten()
            .nth(number)
    }

    fn part_with(&self, name: &RecordName) -> &PartZone {
        match &self.samples {
            Some(samples) if self.geometry.is_sample(name) => samples,
            _ => &self.dense,
        }
    }

    /// Somebody is about to look for these names. First it is to be known where their lists are, then what is in these.
    pub fn foresee(&self, names: &[RecordName]) {
        for name in names {
            self.part_with(name).foresee(name);
        }
        for name in names {
            self.part_with(name).foresee_key(name);
        }
    }

    fn part_of(&mut self, sampled: bool) -> &mut PartZone {
        match &mut self.samples {
            Some(samples) if sampled => samples,
            _ => &mut self.dense,
        }
    }

    /// In which chapter a name may be.
    ///
    /// # Errors
    /// [`DeltaError::Corrupt`] for a damaged list, or a name of another zone.
    #[inline]
    pub fn find(&mut self, name: &RecordName) -> Result<Sighting, DeltaError> {
        let sampled = self.geometry.is_sample(name);
        self.part_of(sampled).find(sampled, name)
    }

    /// Whether there may be chapters with a name that is not here.
    #[inline]
    pub fn may_lack(&self, name: &RecordName) -> bool {
        self.samples.is_some() && !self.geometry.is_sample(name)
    }

    /// Whether of the names of this chapter only the samples are here.
    #[inline]
    pub fn is_sparse(&self, chapter: u64) -> bool {
        self.geometry
            .is_chapter_sparse(self.oldest(), self.dense.newest, chapter)
    }

    /// The chapter in which a sample may be; changes nothing.
    pub fn peek_sample(&self, name: &RecordName) -> Option<u64> {
        let samples = self.samples.as_ref()?;
        self.geometry
            .is_sample(name)
            .then(|| samples.peek(name))
            .flatten()
    }

    /// Notes that `name`, which was looked for just now, is in `chapter` too. What was found has another name.
    ///
    /// # Errors
    /// No room, or the name is there already.
    pub fn put(
        &mut self,
        at: &Sighting,
        name: &RecordName,
        chapter: u64,
    ) -> Result<(), DeltaError> {
        let part = self.part_of(at.sampled);
        debug_assert!((part.oldest..=part.newest).contains(&chapter));
        let low = chapter as u32 & part.mask();
        part.lists.insert(at.list, &at.entry, at.key, low, name)?;
        Ok(())
    }

    /// Notes that what was found just now is in `chapter` instead.
    pub fn set_chapter(&mut self, at: &Sighting, chapter: u64) {
        let part = self.part_of(at.sampled);
        debug_assert!((part.oldest..=part.newest).contains(&chapter));
        let low = chapter as u32 & part.mask();
        part.lists.set_value(at.list, &at.entry, low);
    }

    /// `newest` is the open chapter from now on, and chapters that have no place any more are dropped.
    pub fn open_chapter(&mut self, newest: u64) {
        self.dense.open_chapter(newest);
        if let Some(samples) = &mut self.samples {
            samples.open_chapter(newest);
        }
    }

    /// The oldest chapter of which there may be names.
    pub fn oldest(&self) -> u64 {
        self.parts().map(|part| part.oldest).min().unwrap_or(0)
    }

    /// Entries, collisions among them, and entries taken out or lost since it was made.
    pub fn counts(&self) -> VolumeIndexCounts {
        let mut counts = VolumeIndexCounts::default();
        for part in self.parts() {
            counts.records += part.lists.records;
            counts.collisions += part.lists.collisions;
            counts.discarded += part.lists.discarded;
            counts.overflows += part.lists.overflows;
            counts.early_flushes += part.early_flushes;
            counts.moves += part.lists.moves;
            counts.used_bytes += part.lists.used_bits() / 8;
        }
        counts
    }

    /// Bytes of memory taken.
    pub fn memory_bytes(&self) -> u64 {
        let flush = |part: &PartZone| part.flush_chapters.len() as u64 * 8;
        self.parts()
            .map(|part| part.lists.memory_bytes() + flush(part))
            .sum()
    }
}

/// What a zone's share of the volume index holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeIndexCounts {
    /// Entries.
    pub records: u64,
    /// How many of these have a whole name.
    pub collisions: u64,
    /// Entries taken out since it was made.
    pub discarded: u64,
    /// Entries that were not put in for want of room.
    pub overflows: u64,
    /// Chapters dropped for want of memory.
    pub early_flushes: u64,
    /// How often lists were moved to make room.
    pub moves: u64,
    /// Bytes of the entries.
    pub used_bytes: u64,
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::hash::murmur3_x64_128;
    use crate::index::NameZones;

    fn name(number: u64) -> RecordName {
        RecordName(murmur3_x64_128(&number.to_le_bytes(), 0))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Through several turns of the chapters' bits: a name that was noted is found in its chapter as long as that is there,
        /// and never in one that is not.
        #[test]
        fn names_are_found_in_their_chapters_until_these_are_dropped(
            numbers in prop::collection::vec(0_u64..300, 1..900), each in 1_usize..40, sparse: bool, zones in 1_u8..4,
        ) {
            let geometry = if sparse {
                IndexGeometry::new(4096, 2, 40, 38, false)
            } else {
                IndexGeometry::new(4096, 2, 5, 0, false)
            };
            let mut index: Vec<_> = (0..zones)
                .map(|zone| VolumeIndexZone::new(&geometry, zone, zones).expect("little memory"))
                .collect();
            let mut known: HashMap<RecordName, u64> = HashMap::new();
            for (at, number) in numbers.into_iter().enumerate() {
                let chapter = (at / each) as u64;
                if at % each == 0 {
                    index.iter_mut().for_each(|zone| zone.open_chapter(chapter));
                }
                let name = name(number);
                let zone = &mut index[NameZones::new(&geometry, zones).of(&name).index()];
                let sighting = zone.find(&name).expect("whole");
                let reach = if sparse && !geometry.is_sample(&name) { geometry.dense_chapters() } else { geometry.chapters };
                let expected = known.get(&name).copied().filter(|known| known + u64::from(reach) > chapter);
                // With 20 bits of key and so few names, no two have the same.
                prop_assert_eq!(sighting.chapter, expected);
                match expected {
                    Some(_) => zone.set_chapter(&sighting, chapter),
                    None => zone.put(&sighting, &name, chapter).expect("room"),
                }
                known.insert(name, chapter);
                prop_assert_eq!(zone.find(&name).expect("whole").chapter, Some(chapter));
            }
        }
    }

    #[test]
    fn two_names_with_one_key_are_told_apart_by_the_second_ones_name() {
        let geometry = IndexGeometry::new(4096, 2, 5, 0, false);
        let mut index = VolumeIndexZone::new(&geometry, 0, 1).expect("little memory");
        let (one, mut other) = (name(1), name(1));
        other.0[12] ^= 1;
        index.open_chapter(0);
        let sighting = index.find(&one).expect("whole");
        index.put(&sighting, &one, 0).expect("room");
        index.open_chapter(1);
        let sighting = index.find(&other).expect("whole");
        // The hint is the other name's.
        assert_eq!((sighting.chapter, sighting.is_exact()), (Some(0), false));
        index.put(&sighting, &other, 1).expect("room");
        let sighting = index.find(&other).expect("whole");
        assert_eq!((sighting.chapter, sighting.is_exact()), (Some(1), true));
        assert_eq!(index.put(&sighting, &other, 1), Err(DeltaError::Duplicate));
        let sighting = index.find(&one).expect("whole");
        assert_eq!((sighting.chapter, sighting.is_exact()), (Some(0), false));
        assert_eq!(index.counts().collisions, 1);
        // When the first is dropped, the second takes its place, and is only a hint.
        index.open_chapter(5);
        let sighting = index.find(&other).expect("whole");
        assert_eq!((sighting.chapter, sighting.is_exact()), (Some(1), false));
        assert_eq!((index.counts().records, index.counts().collisions), (1, 0));
    }

    #[test]
    fn a_full_index_forgets_chapters_early() {
        let geometry = IndexGeometry::new(4096, 64, 8, 0, false);
        let mut index = VolumeIndexZone::new(&geometry, 0, 1).expect("little memory");
        let mut number = 0;
        for chapter in 0..12 {
            index.open_chapter(chapter);
            // Twice as many as a chapter takes.
            for _ in 0..2 * geometry.records_per_chapter() {
                number += 1;
                let name = name(number);
                let sighting = index.find(&name).expect("whole");
                match index.put(&sighting, &name, chapter) {
                    Ok(()) | Err(DeltaError::Overflow | DeltaError::Duplicate) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        let counts = index.counts();
        assert!(counts.early_flushes > 0, "{counts:?}");
        assert!(counts.used_bytes <= geometry.dense_part().zone_memory(1));
    }
}
