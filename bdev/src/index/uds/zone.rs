//! A zone of the index: the names of some delta lists, where they are, and the newest of their records.
//!
//! A question is answered from memory if the volume index does not know the name, or says that it is in the open chapter. Otherwise
//! its record, if there is one, is in a chapter on disk; then the question is to be asked again when that chapter has been looked
//! at. Meanwhile the name may have moved, so everything is looked up again, and what was found on disk counts only if it is still the
//! chapter the volume index speaks of.
//!
//! Of a sparse index, the volume index does not know all names. One that it does not know (or takes for another that has its key), and that is no
//! sample, may be in a chapter that is being looked in for such names; then the question is to be asked again with what was
//! found *beyond* the volume index.
//!
//! What is found moves to the open chapter, as what is new goes there: so the names that are asked for stay.
//!
//! When the share of a zone is full, the chapter of all zones is *closed* ([`IndexZone::close`]): each goes on in another one at once. The
//! closed share is asked, too, until its chapter is on disk ([`IndexZone::written`]). A zone that fills the next one before is *stalled*: it
//! cannot be asked until then.

use std::sync::Arc;

use super::open_chapter::OpenChapter;
use super::volume_index::{VolumeIndexCounts, VolumeIndexZone};
use crate::format::index::delta_list::DeltaError;
use crate::format::index::record_page::RecordData;
use crate::format::index::{IndexGeometry, IndexRecord};
use crate::index::{IndexError, IndexOp};
use crate::types::RecordName;

/// What is asked of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// What is to be done.
    pub op: IndexOp,
    /// The name, and for posts and updates what is to be remembered.
    pub record: IndexRecord,
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What was known of the name.
    Answer(Option<RecordData>),
    /// The name may be in this chapter on disk: ask again when that is known.
    LookIn(u64),
    /// The volume index does not know the name, and need not: ask again when those chapters were looked in that are looked in
    /// for such names.
    LookBeyond,
}

/// What was found of a name on disk so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// A chapter where the volume index said the name may be, and what that had.
    pub noted: Option<(u64, Option<RecordData>)>,
    /// What the chapters had of whose names the volume index does not know all.
    pub beyond: Option<Option<RecordData>>,
}

/// One zone of an index.
#[derive(Debug)]
pub struct IndexZone {
    pub(super) volume_index: VolumeIndexZone,
    pub(super) open: OpenChapter,
    pub(super) newest: u64,
    /// Its share of the chapter before the newest, while that is not on disk.
    closed: Option<Arc<OpenChapter>>,
    /// An empty share, for when the open one is closed.
    spare: Option<OpenChapter>,
}

impl IndexZone {
    /// Zone `zone` of `zones`, with nothing in it.
    ///
    /// # Errors
    /// [`IndexError::NoMemory`].
    pub fn new(geometry: &IndexGeometry, zone: u8, zones: u8) -> Result<IndexZone, IndexError> {
        Ok(IndexZone {
            volume_index: VolumeIndexZone::new(geometry, zone, zones)?,
            open: OpenChapter::new(geometry, zones)?,
            newest: 0,
            closed: None,
            spare: Some(OpenChapter::new(geometry, zones)?),
        })
    }

    /// Somebody is about to ask for these names.
    pub fn foresee(&self, names: &[RecordName]) {
        for name in names {
            self.open.foresee(name);
        }
        self.volume_index.foresee(names);
    }

    /// Takes a question as far as it can be taken without I/O. `seen` is what was found where the outcomes before said.
    ///
    /// # Errors
    /// [`DeltaError::Corrupt`], after which the index is of no use any more.
    pub fn ask(&mut self, question: &Question, seen: Seen) -> Result<Outcome, DeltaError> {
        let name = &question.record.name;
        let sighting = self.volume_index.find(name)?;
        let noted = match sighting.chapter {
            None => None,
            Some(chapter) if chapter == self.newest => self.open.find(name),
            Some(chapter) => match (&self.closed, seen.noted) {
                (Some(closed), _) if chapter + 1 == self.newest => closed.find(name),
                (_, Some((looked_in, record))) if looked_in == chapter => record,
                _ => return Ok(Outcome::LookIn(chapter)),
            },
        };
        // The volume index has the whole name, but the chapter lost it for want of room in its own index.
        let was_lost = noted.is_none() && sighting.chapter.is_some() && sighting.is_exact();
        let known = match (noted, seen.beyond) {
            (Some(record), _) => Some(record),
            (None, _) if was_lost => None,
            (None, Some(record)) => record,
            (None, None) if self.looks_beyond(question) => return Ok(Outcome::LookBeyond),
            (None, None) => None,
        };
        let only_asks = matches!(question.op, IndexOp::Query | IndexOp::Peek);
        if question.op == IndexOp::Peek || (known.is_none() && only_asks) {
            return Ok(Outcome::Answer(known));
        }
        if noted.is_some() || was_lost {
            if sighting.chapter != Some(self.newest) {
                self.volume_index.set_chapter(&sighting, self.newest);
            } else if question.op != IndexOp::Update {
                return Ok(Outcome::Answer(known));
            }
        } else {
            match self.volume_index.put(&sighting, name, self.newest) {
                Ok(()) => {}
                // It is not remembered; that costs savings only.
                Err(DeltaError::Overflow) => return Ok(Outcome::Answer(known)),
                Err(error) => return Err(error),
            }
        }
        let data = match (question.op, known) {
            (IndexOp::Update, _) | (_, None) => question.record.data,
            (_, Some(known)) => known,
        };
        self.open.put(IndexRecord { name: *name, data });
        Ok(Outcome::Answer(known))
    }

    /// Whether a name that the volume index does not know may be in the index all the same. Whoever only peeks need not know.
    fn looks_beyond(&self, question: &Question) -> bool {
        question.op != IndexOp::Peek && self.volume_index.may_lack(&question.record.name)
    }

    /// Whether `chapter` is one of those of which the volume index knows the samples only.
    pub fn is_sparse(&self, chapter: u64) -> bool {
        self.volume_index.is_sparse(chapter)
    }

    /// Whether the chapter is to be closed.
    pub fn is_full(&self) -> bool {
        self.open.is_full()
    }

    /// Whether nothing may be asked before the chapter that was closed is on disk.
    #[inline]
    pub fn is_stalled(&self) -> bool {
        self.closed.is_some() && self.open.is_full()
    }

    /// Whether a chapter was closed that is not on disk yet.
    pub fn is_closing(&self) -> bool {
        self.closed.is_some()
    }

    /// Closes the chapter, of which this is the share here, and opens the next. The one before it must be on disk.
    pub fn close(&mut self) -> Arc<OpenChapter> {
        debug_assert!(self.closed.is_none(), "one chapter is closed at a time");
        let next = self.spare.take().unwrap_or_else(|| self.open.empty_copy());
        let closed = Arc::new(std::mem::replace(&mut self.open, next));
        self.closed = Some(Arc::clone(&closed));
        self.open_chapter(self.newest + 1);
        closed
    }

    /// The chapter that was closed is on disk.
    pub fn written(&mut self) {
        let closed = self.closed.take().and_then(Arc::into_inner);
        if let Some(mut share) = closed {
            share.clear();
            self.spare = Some(share);
        }
    }

    /// `newest` is the open chapter from now on.
    pub fn open_chapter(&mut self, newest: u64) {
        self.newest = newest;
        self.volume_index.open_chapter(newest);
    }

    /// The oldest chapter of which there may be names.
    pub fn oldest(&self) -> u64 {
        self.volume_index.oldest()
    }

    /// The open chapter.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// The records of the open chapter, in the order they came.
    pub fn open_records(&self) -> &[IndexRecord] {
        self.open.records()
    }

    /// What the volume index holds.
    pub fn counts(&self) -> VolumeIndexCounts {
        self.volume_index.counts()
    }

    /// Bytes of memory taken.
    pub fn memory_bytes(&self) -> u64 {
        self.volume_index.memory_bytes() + 2 * self.open.memory_bytes()
    }

    /// Takes back a record that was saved with the open chapter. A zone that is nearly full leaves it out: no zone may be full
    /// before it is asked something.
    pub fn reload(&mut self, record: IndexRecord) {
        if self.open.records().len() + 1 < self.open.capacity() {
            self.open.put(record);
        }
    }
}
