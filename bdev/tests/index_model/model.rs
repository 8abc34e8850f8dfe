//! What an index should know: for each chapter, what it should hold.

use std::collections::{HashMap, HashSet};

use vdo::format::index::record_page::RecordData;
use vdo::format::index::{IndexGeometry, IndexRecord};
use vdo::hash::murmur3_x64_128;
use vdo::index::IndexOp;
use vdo::types::RecordName;

/// Numbers by chance, from a seed.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bytes = murmur3_x64_128(&self.0.to_le_bytes(), 3);
        u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
    }

    /// Less than `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// The name with a number.
pub(crate) fn name(number: u64) -> RecordName {
    RecordName(murmur3_x64_128(&number.to_le_bytes(), 0))
}

/// A record of that name.
pub(crate) fn record(number: u64, tag: u64) -> IndexRecord {
    let mut data = [0; 16];
    data[..8].copy_from_slice(&tag.to_le_bytes());
    IndexRecord {
        name: name(number),
        data: RecordData(data),
    }
}

type Chapter = HashMap<RecordName, RecordData>;

/// What is in memory and on disk, as it should be.
#[derive(Clone, Default)]
struct Contents {
    closed: Vec<Chapter>,
    open: Chapter,
    /// Names that were in an open chapter and found no room in their zone when it was loaded.
    lost: HashSet<RecordName>,
}

pub(crate) struct Model {
    geometry: IndexGeometry,
    contents: Contents,
    /// What was saved last, if that save still counts.
    saved: Option<Contents>,
    saving: Option<Contents>,
    /// Whether the last save may have been spoiled, because a chapter was being closed.
    may_be_spoiled: bool,
    /// All that was ever said of a name.
    said: HashMap<RecordName, HashSet<[u8; 16]>>,
    pub(crate) asked: u64,
}

impl Contents {
    /// What the index knows of a name when the chapter after the closed ones is open.
    fn expected(&self, geometry: &IndexGeometry, name: &RecordName) -> Option<RecordData> {
        if self.lost.contains(name) {
            return None;
        }
        if let Some(data) = self.open.get(name) {
            return Some(*data);
        }
        let newest = self.closed.len();
        let is_dense = geometry.is_sparse() && !geometry.is_sample(name);
        let reach = if is_dense {
            geometry.dense_chapters()
        } else {
            geometry.chapters
        };
        let oldest = (newest + 1).saturating_sub(reach as usize);
        self.closed[oldest..]
            .iter()
            .rev()
            .find_map(|chapter| chapter.get(name).copied())
    }
}

impl Model {
    pub(crate) fn new(geometry: IndexGeometry) -> Model {
        Model {
            geometry,
            contents: Contents::default(),
            saved: None,
            saving: None,
            may_be_spoiled: false,
            said: HashMap::new(),
            asked: 0,
        }
    }

    pub(crate) fn expected(&self, name: &RecordName) -> Option<RecordData> {
        self.contents.expected(&self.geometry, name)
    }

    /// The same, if names are looked for in these chapters too, the newest first.
    pub(crate) fn expected_beyond(
        &self,
        name: &RecordName,
        chapters: &[u64],
    ) -> Option<RecordData> {
        let in_one = |chapter: &u64| self.contents.closed[*chapter as usize].get(name).copied();
        let looked_for = self.geometry.is_sparse() && !self.geometry.is_sample(name);
        let beyond = || chapters.iter().filter(|_| looked_for).find_map(in_one);
        self.expected(name).or_else(beyond)
    }

    /// Something was asked and answered: this was known. `newest` is open now.
    pub(crate) fn asked(
        &mut self,
        op: IndexOp,
        record: IndexRecord,
        known: Option<RecordData>,
        newest: u64,
    ) {
        self.asked += 1;
        self.apply(op, record, known);
        if newest > self.contents.closed.len() as u64 {
            self.contents
                .closed
                .push(std::mem::take(&mut self.contents.open));
            self.saved = None;
            self.may_be_spoiled = false;
        }
        assert_eq!(newest, self.contents.closed.len() as u64);
    }

    /// Something was asked, and a chapter was about to be closed when the device failed.
    pub(crate) fn was_asking(
        &mut self,
        op: IndexOp,
        record: IndexRecord,
        known: Option<RecordData>,
    ) {
        self.apply(op, record, known);
        self.may_be_spoiled = true;
    }

    fn apply(&mut self, op: IndexOp, record: IndexRecord, known: Option<RecordData>) {
        let data = match (op, known) {
            (IndexOp::Peek, _) | (IndexOp::Query, None) => return,
            (IndexOp::Update, _) | (IndexOp::Post, None) => record.data,
            (IndexOp::Post | IndexOp::Query, Some(known)) => known,
        };
        self.said.entry(record.name).or_default().insert(data.0);
        self.contents.lost.remove(&record.name);
        self.contents.open.insert(record.name, data);
    }

    pub(crate) fn begin_save(&mut self) {
        self.saving = Some(self.contents.clone());
    }

    pub(crate) fn end_save(&mut self) {
        self.saved = self.saving.take();
        self.may_be_spoiled = false;
    }

    /// It was loaded, and knows this of all names: that must be the save before the crash, or the one that was being written.
    pub(crate) fn check_loaded(&mut self, answers: &[Option<RecordData>], open: usize) {
        let candidates = [self.saving.take(), self.saved.take()];
        // How many names found no room in their zone, of the last of the open chapter; if it is this save at all.
        let lost = |contents: &Contents| {
            let mut lost = 0;
            for (name, found) in (0..).map(name).zip(answers) {
                if found.is_none() && contents.open.contains_key(&name) {
                    lost += 1;
                } else if *found != contents.expected(&self.geometry, &name) {
                    return None;
                }
            }
            (contents.open.len() - lost == open).then_some(lost)
        };
        let fitting = candidates
            .iter()
            .flatten()
            .filter_map(|contents| Some((lost(contents)?, contents)));
        let found = fitting.min_by_key(|(lost, _)| *lost);
        let mut contents = found.expect("it is one of the saves").1.clone();
        // What is lost now is not lost from the save: other zones may find room for it.
        self.saved = Some(contents.clone());
        let lost_before = contents.lost.len();
        for (name, found) in (0..).map(name).zip(answers) {
            if found.is_none() && contents.open.remove(&name).is_some() {
                contents.lost.insert(name);
            }
        }
        assert_eq!(contents.open.len(), open);
        let lost = contents.lost.len() - lost_before;
        assert!(lost < 64, "{lost} names lost");
        self.contents = contents;
        self.may_be_spoiled = false;
    }

    /// It was made again, `newest` is open, and it knows this of all names; which of them, by its last chapter, is told too.
    pub(crate) fn check_rebuilt(
        &mut self,
        answers: &[Option<RecordData>],
        in_last: &[bool],
        newest: u64,
    ) {
        assert!(
            self.saved.is_none() || self.may_be_spoiled,
            "a save that counts was not loaded"
        );
        self.saving = None;
        self.saved = None;
        self.may_be_spoiled = false;
        let closed = self.contents.closed.len() as u64;
        let mut under_way = std::mem::take(&mut self.contents.open);
        self.contents.lost.clear();
        assert!(
            (closed..=closed + 1).contains(&newest),
            "chapter {newest} is open, {closed} were closed"
        );
        let names: Vec<RecordName> = (0..answers.len() as u64).map(name).collect();
        if newest > closed {
            // The chapter that was being written counts, but may not have all its pages.
            self.contents.closed.push(Chapter::new());
            for ((name, found), in_last) in names.iter().zip(answers).zip(in_last) {
                if let (true, Some(found)) = (in_last, found) {
                    assert!(
                        under_way.remove(name).is_some(),
                        "a name that was not in the chapter"
                    );
                    let said = self.said.get(name).expect("it was said");
                    assert!(said.contains(&found.0), "what was never said of a name");
                    self.contents.closed[closed as usize].insert(*name, *found);
                }
            }
        }
        for (name, found) in names.iter().zip(answers) {
            assert_eq!(*found, self.expected(name), "after a rebuild");
        }
    }
}
