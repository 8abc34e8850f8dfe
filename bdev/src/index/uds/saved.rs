//! The volume index as a stream of bytes: written zone by zone when the index is saved, read when it is loaded.
//!
//! A save has a stream for each zone that wrote it. A zone that loads need not be one of those: it is fed all streams that have some
//! of its lists, in their order, and keeps what is its own. The format is [`crate::format::index::volume_index`]'s.

use thiserror::Error;

use super::volume_index::VolumeIndexZone;
use crate::format::DecodeError;
use crate::format::index::delta_list::DeltaError;
use crate::format::index::geometry::SAMPLE_RATE;
use crate::format::index::volume_index::{
    self, DELTA_HEADER, DeltaHeader, LIST_HEADER, ListHeader, PART_HEADER, PartHeader,
    SPARSE_HEADER,
};

/// Why a saved volume index cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LoadError {
    /// A header is not what it should be.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A list is damaged, or finds no room.
    #[error(transparent)]
    List(#[from] DeltaError),
    /// The streams contradict each other, or the index.
    #[error("the saved volume index is damaged: {field} is {found} where {expected} should be")]
    Mismatch {
        /// What is wrong.
        field: &'static str,
        /// What stands there.
        found: u64,
        /// What should.
        expected: u64,
    },
}

fn same(field: &'static str, found: u64, expected: u64) -> Result<(), LoadError> {
    if found == expected {
        return Ok(());
    }
    Err(LoadError::Mismatch {
        field,
        found,
        expected,
    })
}

/// Entries of a table that are written at a time.
const TABLE_STEP: usize = 512;

/// What is next in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    SparseHeader,
    PartHeader(usize),
    FlushChapters(usize, usize),
    DeltaHeader(usize),
    Sizes(usize, usize),
    Lists(usize, usize),
    Guard,
    Done,
}

/// Writes a zone's share of the volume index.
#[derive(Debug)]
pub struct VolumeIndexWriter {
    nonce: u64,
    step: Step,
    piece: Vec<u8>,
    at: usize,
}

impl VolumeIndexWriter {
    /// For an index with this volume nonce.
    pub fn new(index: &VolumeIndexZone, nonce: u64) -> VolumeIndexWriter {
        let is_sparse = index.samples.is_some();
        VolumeIndexWriter {
            nonce,
            step: if is_sparse {
                Step::SparseHeader
            } else {
                Step::PartHeader(0)
            },
            piece: Vec::with_capacity(usize::from(u16::MAX) / 8 + 16),
            at: 0,
        }
    }

    /// Writes the next bytes of the stream and says how many; fewer than there is room for only at its end. The index must not
    /// have changed since the first.
    pub fn fill(&mut self, index: &VolumeIndexZone, out: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < out.len() {
            if self.at == self.piece.len() {
                if self.step == Step::Done {
                    break;
                }
                self.piece.clear();
                self.at = 0;
                self.step = self.next_piece(index);
            }
            let count = (self.piece.len() - self.at).min(out.len() - filled);
            out[filled..filled + count].copy_from_slice(&self.piece[self.at..self.at + count]);
            self.at += count;
            filled += count;
        }
        filled
    }

    fn next_piece(&mut self, index: &VolumeIndexZone) -> Step {
        let piece = &mut self.piece;
        let part = |number| index.part(number);
        match self.step {
            Step::SparseHeader => {
                piece.extend(volume_index::sparse_header(SAMPLE_RATE));
                Step::PartHeader(0)
            }
            Step::PartHeader(number) => match part(number) {
                Some(part) => {
                    piece.extend(part.header(self.nonce).encode());
                    Step::FlushChapters(number, 0)
                }
                None => Step::Lists(0, 0),
            },
            Step::FlushChapters(number, first) => {
                let chapters = part(number).map_or(&[][..], |part| &part.flush_chapters[first..]);
                let some = &chapters[..chapters.len().min(TABLE_STEP)];
                piece.extend(some.iter().flat_map(|chapter| chapter.to_le_bytes()));
                if some.len() < chapters.len() {
                    Step::FlushChapters(number, first + some.len())
                } else {
                    Step::DeltaHeader(number)
                }
            }
            Step::DeltaHeader(number) => {
                piece.extend(
                    part(number)
                        .into_iter()
                        .flat_map(|part| part.delta_header().encode()),
                );
                Step::Sizes(number, 0)
            }
            Step::Sizes(number, first) => {
                let Some(part) = part(number) else {
                    return Step::Lists(0, 0);
                };
                let end = part.lists.count().min(first + TABLE_STEP);
                let sizes = (first..end).map(|list| part.lists.list(list).size as u16);
                piece.extend(sizes.flat_map(u16::to_le_bytes));
                if end < part.lists.count() {
                    Step::Sizes(number, end)
                } else {
                    Step::PartHeader(number + 1)
                }
            }
            Step::Lists(number, list) => {
                let Some(part) = part(number) else {
                    return Step::Guard;
                };
                if list == part.lists.count() {
                    return Step::Lists(number + 1, 0);
                }
                let view = part.lists.list(list);
                if view.size > 0 {
                    let first = (view.start / 8) as usize;
                    let end = (view.start + u64::from(view.size)).div_ceil(8) as usize;
                    let header = ListHeader {
                        tag: part.tag(),
                        bit_offset: (view.start % 8) as u8,
                        bytes: (end - first) as u16,
                        list: part.global(list),
                    };
                    piece.extend(header.encode());
                    piece.extend(&view.bytes[first..end]);
                }
                Step::Lists(number, list + 1)
            }
            Step::Guard => {
                piece.extend(ListHeader::GUARD.encode());
                Step::Done
            }
            Step::Done => Step::Done,
        }
    }
}

/// What a stream of one of the zones that saved said of one part.
#[derive(Clone, Debug, Default)]
struct Loading {
    first_list: u32,
    lists: u32,
    sizes: Vec<u16>,
    /// The next list that may come, of this stream's.
    next: usize,
}

/// Loads a zone's share of the volume index from the streams of all zones that saved it.
#[derive(Debug)]
pub struct VolumeIndexReader {
    nonce: u64,
    newest: u64,
    /// How many zones saved it, and the one whose stream is being read.
    zones: u32,
    zone: u32,
    step: Step,
    parts: [Loading; 2],
    /// For each part, the list with which the next stream must begin.
    expected_first: [u32; 2],
    /// For each part, the latest of the oldest chapters.
    oldest: [u64; 2],
    gathered: Vec<u8>,
}

impl VolumeIndexReader {
    /// Begins to load `index`, which loses what it has, from a save by `zones` zones with `newest` as its open chapter.
    pub fn new(
        index: &mut VolumeIndexZone,
        nonce: u64,
        newest: u64,
        zones: u32,
    ) -> VolumeIndexReader {
        let mut number = 0;
        while let Some(part) = index.part_mut(number) {
            part.lists.begin_load();
            number += 1;
        }
        VolumeIndexReader {
            nonce,
            newest,
            zones,
            zone: 0,
            step: first_step(index),
            parts: [Loading::default(), Loading::default()],
            expected_first: [0; 2],
            oldest: [0; 2],
            gathered: Vec::new(),
        }
    }

    /// Takes the next bytes of the stream of the present zone. Says whether that stream has ended, so that the next zone's is
    /// wanted, or [`VolumeIndexReader::finish`]. What is behind the end of a stream is ignored.
    ///
    /// # Errors
    /// What is wrong with the stream. The index is to be thrown away then.
    pub fn feed(
        &mut self,
        index: &mut VolumeIndexZone,
        mut bytes: &[u8],
    ) -> Result<bool, LoadError> {
        loop {
            let needed = self.needed();
            if self.step == Step::Done {
                return Ok(self.next_stream(index));
            }
            if self.gathered.is_empty() && bytes.len() >= needed {
                let (item, rest) = bytes.split_at(needed);
                self.step = self.take(index, item)?;
                bytes = rest;
                continue;
            }
            let count = bytes.len().min(needed.saturating_sub(self.gathered.len()));
            self.gathered.extend(&bytes[..count]);
            bytes = &bytes[count..];
            if self.gathered.len() < needed {
                return Ok(false);
            }
            let mut item = std::mem::take(&mut self.gathered);
            self.step = self.take(index, &item)?;
            if self.gathered.is_empty() {
                // So that it is not allocated each time.
                item.clear();
                self.gathered = item;
            }
        }
    }

    fn next_stream(&mut self, index: &VolumeIndexZone) -> bool {
        for (first, part) in self.expected_first.iter_mut().zip(&self.parts) {
            *first = part.first_list.saturating_add(part.lists);
        }
        self.zone += 1;
        self.step = first_step(index);
        true
    }

    /// Bytes of the next item.
    fn needed(&self) -> usize {
        match self.step {
            Step::SparseHeader => SPARSE_HEADER,
            Step::PartHeader(_) => PART_HEADER,
            Step::FlushChapters(_, _) => 8,
            Step::DeltaHeader(_) => DELTA_HEADER,
            Step::Sizes(_, _) => 2,
            // A list's number of bytes is known from its size, but not where it begins; so its header comes first.
            Step::Lists(_, _) | Step::Guard => match self.gathered.first_chunk::<LIST_HEADER>() {
                Some(header) => LIST_HEADER + usize::from(ListHeader::decode(header).bytes),
                None => LIST_HEADER,
            },
            Step::Done => 0,
        }
    }

    fn take(&mut self, index: &mut VolumeIndexZone, item: &[u8]) -> Result<Step, LoadError> {
        let array = |at: usize| {
            item.get(at..at + 8)
                .and_then(|bytes| bytes.first_chunk::<8>())
        };
        match self.step {
            Step::SparseHeader => {
                let header = item.first_chunk().copied().unwrap_or_default();
                let rate = volume_index::read_sparse_header(&header)?;
                same("the rate of samples", rate.into(), SAMPLE_RATE.into())?;
                Ok(Step::PartHeader(0))
            }
            Step::PartHeader(number) => {
                let header = item.first_chunk().copied().unwrap_or([0; PART_HEADER]);
                self.take_part_header(index, number, &PartHeader::decode(&header)?)
            }
            Step::FlushChapters(number, list) => {
                let chapter = u64::from_le_bytes(array(0).copied().unwrap_or_default());
                let global = self.parts[number].first_list + list as u32;
                if let Some(part) = index.part_mut(number)
                    && let Some(local) = part.local(global)
                {
                    part.flush_chapters[local] = chapter.min(self.newest);
                }
                Ok(self.flush_step(number, list + 1))
            }
            Step::DeltaHeader(number) => {
                let header = item.first_chunk().copied().unwrap_or([0; DELTA_HEADER]);
                let header = DeltaHeader::decode(&header)?;
                let part = &self.parts[number];
                same("a zone's number", header.zone.into(), self.zone.into())?;
                same(
                    "the number of zones",
                    header.zones.into(),
                    self.zones.into(),
                )?;
                same(
                    "a zone's first list",
                    header.first_list.into(),
                    part.first_list.into(),
                )?;
                same(
                    "a zone's number of lists",
                    header.lists.into(),
                    part.lists.into(),
                )?;
                Ok(self.size_step(index, number))
            }
            Step::Sizes(number, _) => {
                let size = item.first_chunk().copied().unwrap_or_default();
                self.parts[number].sizes.push(u16::from_le_bytes(size));
                Ok(self.size_step(index, number))
            }
            Step::Lists(number, _) => {
                let Some(header) = item.first_chunk::<LIST_HEADER>() else {
                    return Err(DeltaError::Corrupt.into());
                };
                let header = ListHeader::decode(header);
                let bytes = &item[LIST_HEADER..];
                if bytes.is_empty() {
                    // Only the header was waited for; now the list is.
                    self.gathered.clear();
                    if header.bytes == 0 {
                        return Err(DeltaError::Corrupt.into());
                    }
                    self.gathered.extend(item);
                    return Ok(self.step);
                }
                self.take_list(index, number, header, bytes)
            }
            Step::Guard => {
                let header = item.first_chunk().copied().unwrap_or_default();
                let tag = ListHeader::decode(&header).tag;
                same("the last tag", tag.into(), volume_index::GUARD_TAG.into())?;
                Ok(Step::Done)
            }
            Step::Done => Ok(Step::Done),
        }
    }

    fn take_part_header(
        &mut self,
        index: &VolumeIndexZone,
        number: usize,
        header: &PartHeader,
    ) -> Result<Step, LoadError> {
        same("the nonce", header.nonce, self.nonce)?;
        same("the open chapter", header.newest, self.newest)?;
        same(
            "a zone's first list",
            header.first_list.into(),
            self.expected_first[number].into(),
        )?;
        let all = index.part(number).map_or(0, |part| part.all_lists());
        let end = u64::from(header.first_list) + u64::from(header.lists);
        if end > all || header.oldest > header.newest {
            same("the end of a zone's lists", end, all)?;
            same("the oldest chapter", header.oldest, header.newest)?;
        }
        self.oldest[number] = self.oldest[number].max(header.oldest);
        self.parts[number] = Loading {
            first_list: header.first_list,
            lists: header.lists,
            sizes: Vec::with_capacity(header.lists as usize),
            next: 0,
        };
        Ok(self.flush_step(number, 0))
    }

    fn flush_step(&self, number: usize, list: usize) -> Step {
        if list < self.parts[number].lists as usize {
            Step::FlushChapters(number, list)
        } else {
            Step::DeltaHeader(number)
        }
    }

    fn size_step(&self, index: &VolumeIndexZone, number: usize) -> Step {
        let part = &self.parts[number];
        if part.sizes.len() < part.lists as usize {
            Step::Sizes(number, part.sizes.len())
        } else if index.part(number + 1).is_some() {
            Step::PartHeader(number + 1)
        } else {
            self.list_step(0)
        }
    }

    /// What comes after the lists so far: the next of this part, of a later one, or the guard.
    fn list_step(&self, mut number: usize) -> Step {
        while let Some(part) = self.parts.get(number) {
            if part.sizes[part.next..].iter().any(|size| *size > 0) {
                return Step::Lists(number, part.next);
            }
            number += 1;
        }
        Step::Guard
    }

    fn take_list(
        &mut self,
        index: &mut VolumeIndexZone,
        number: usize,
        header: ListHeader,
        bytes: &[u8],
    ) -> Result<Step, LoadError> {
        let Some(part) = index.part_mut(number) else {
            return Err(DeltaError::Corrupt.into());
        };
        let loading = &mut self.parts[number];
        same("the tag of a list", header.tag.into(), part.tag().into())?;
        // In their order: those before it must be empty.
        let skipped = loading.sizes[loading.next..]
            .iter()
            .position(|size| *size > 0);
        let expected = loading.next + skipped.unwrap_or(0);
        let first = u64::from(loading.first_list);
        same(
            "the number of a list",
            header.list.into(),
            first + expected as u64,
        )?;
        let size = loading.sizes[expected];
        let needed = (u64::from(header.bit_offset) + u64::from(size)).div_ceil(8);
        same("the bytes of a list", header.bytes.into(), needed)?;
        if header.bit_offset > 7 {
            return Err(DeltaError::Corrupt.into());
        }
        loading.next = expected + 1;
        if let Some(local) = part.local(header.list) {
            part.lists.load(local, bytes, header.bit_offset, size)?;
        }
        Ok(self.list_step(number))
    }

    /// All streams have been fed.
    ///
    /// # Errors
    /// They did not have all lists.
    pub fn finish(self, index: &mut VolumeIndexZone) -> Result<(), LoadError> {
        same(
            "the number of zones' streams",
            self.zone.into(),
            self.zones.into(),
        )?;
        for number in 0..2 {
            if let Some(part) = index.part_mut(number) {
                same(
                    "the number of lists",
                    self.expected_first[number].into(),
                    part.all_lists(),
                )?;
                part.oldest = self.oldest[number];
                part.newest = self.newest;
                part.lists.finish_load();
            }
        }
        Ok(())
    }
}

fn first_step(index: &VolumeIndexZone) -> Step {
    if index.samples.is_some() {
        Step::SparseHeader
    } else {
        Step::PartHeader(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::index::IndexGeometry;
    use crate::hash::murmur3_x64_128;
    use crate::index::NameZones;
    use crate::types::RecordName;

    const NONCE: u64 = 99;

    fn name(number: u64) -> RecordName {
        RecordName(murmur3_x64_128(&number.to_le_bytes(), 0))
    }

    fn empty(geometry: &IndexGeometry, zones: u8) -> Vec<VolumeIndexZone> {
        let zone = |zone| VolumeIndexZone::new(geometry, zone, zones).expect("little memory");
        (0..zones).map(zone).collect()
    }

    /// An index of so many names, a few in each chapter.
    fn filled(geometry: &IndexGeometry, zones: u8, names: u64) -> Vec<VolumeIndexZone> {
        let mut index = empty(geometry, zones);
        for number in 0..names {
            let chapter = number / 30;
            index.iter_mut().for_each(|zone| zone.open_chapter(chapter));
            let name = name(number);
            let zone = &mut index[NameZones::new(geometry, zones).of(&name).index()];
            let sighting = zone.find(&name).expect("whole");
            zone.put(&sighting, &name, chapter).expect("room");
        }
        index
    }

    fn written(index: &VolumeIndexZone, piece: usize) -> Vec<u8> {
        let mut writer = VolumeIndexWriter::new(index, NONCE);
        let mut stream = Vec::new();
        loop {
            let mut out = vec![0xcc; piece];
            let count = writer.fill(index, &mut out);
            stream.extend(&out[..count]);
            if count < piece {
                return stream;
            }
        }
    }

    fn read(
        index: &mut VolumeIndexZone,
        streams: &[Vec<u8>],
        newest: u64,
        piece: usize,
    ) -> Result<(), LoadError> {
        let mut reader = VolumeIndexReader::new(index, NONCE, newest, streams.len() as u32);
        for stream in streams {
            // The rest of the last block is anything.
            let mut stream = stream.clone();
            stream.resize(stream.len() + piece, 0xdd);
            for piece in stream.chunks(piece) {
                if reader.feed(index, piece)? {
                    break;
                }
            }
        }
        reader.finish(index)
    }

    fn geometry(sparse: bool) -> IndexGeometry {
        if sparse {
            IndexGeometry::new(4096, 2, 40, 38, false)
        } else {
            IndexGeometry::new(4096, 2, 5, 0, false)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn what_some_zones_saved_any_zones_load(
            names in 0_u64..700, sparse: bool, saving in 1_u8..6, loading in 1_u8..6, out in 1_usize..5000, into in 1_usize..5000,
        ) {
            let geometry = geometry(sparse);
            let mut saved = filled(&geometry, saving, names);
            let newest = names.saturating_sub(1) / 30;
            let streams: Vec<Vec<u8>> = saved.iter().map(|zone| written(zone, out)).collect();
            let mut loaded = empty(&geometry, loading);
            for zone in &mut loaded {
                prop_assert_eq!(read(zone, &streams, newest, into), Ok(()));
            }
            for number in 0..names + 50 {
                let name = name(number);
                let one = saved[NameZones::new(&geometry, saving).of(&name).index()].find(&name).expect("whole");
                let other = loaded[NameZones::new(&geometry, loading).of(&name).index()].find(&name).expect("whole");
                prop_assert_eq!(one.chapter, other.chapter, "name {}", number);
            }
            let all = |index: &[VolumeIndexZone]| index.iter().map(|zone| zone.counts().records).sum::<u64>();
            prop_assert_eq!(all(&saved), all(&loaded));
        }

        #[test]
        fn a_damaged_stream_is_loaded_or_refused(
            patches in prop::collection::vec((any::<u16>(), any::<u8>()), 1..6), sparse: bool, cut: Option<u16>,
        ) {
            let geometry = geometry(sparse);
            let mut streams: Vec<Vec<u8>> = filled(&geometry, 2, 300).iter().map(|zone| written(zone, 512)).collect();
            for (at, byte) in patches {
                let stream = &mut streams[usize::from(at % 2)];
                let at = usize::from(at) % stream.len();
                stream[at] = byte;
            }
            if let Some(cut) = cut {
                let length = streams[1].len();
                streams[1].truncate(usize::from(cut) % length);
            }
            for zone in &mut empty(&geometry, 3) {
                if read(zone, &streams, 9, 512).is_ok() {
                    for number in 0..400 {
                        let _ = zone.find(&name(number));
                    }
                }
            }
        }
    }

    #[test]
    fn a_stream_of_another_index_or_another_time_is_refused() {
        let geometry = geometry(false);
        let saved = filled(&geometry, 1, 100);
        let streams = [written(&saved[0], 100)];
        let mut zone = empty(&geometry, 1).remove(0);
        let error = read(&mut zone, &streams, 4, 100)
            .expect_err("another time")
            .to_string();
        assert!(error.contains("open chapter is 3"), "{error}");
        let mut reader = VolumeIndexReader::new(&mut zone, NONCE + 1, 3, 1);
        assert!(reader.feed(&mut zone, &streams[0]).is_err());
        let twice = [streams[0].clone(), streams[0].clone()];
        assert!(read(&mut zone, &twice, 3, 100).is_err());
    }
}
