//! A zone of the index: the names of some delta lists, where they are, and the newest of their records.
//!
//! A question is answered from memory if the volume index does not know the name, or says that it is in the open chapter. Otherwise
//! its record, if there is one, is in a chapter on disk; then the question is to be asked again when that chapter has been looked
//! at. Meanwhile the name may have moved, so everything is looked up again, and what was found on disk counts only if it is still the
//! chapter the volume index speaks of.
//!
//! What is found moves to the open chapter, as what is new goes there: so the names that are asked for stay.

use super::open_chapter::OpenChapter;
use super::volume_index::VolumeIndexZone;
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
}

/// One zone of an index.
#[derive(Debug)]
pub struct IndexZone {
    pub(super) volume_index: VolumeIndexZone,
    pub(super) open: OpenChapter,
    pub(super) newest: u64,
}

/// The zone, of `zones`, that `name` belongs to.
#[inline]
pub fn zone_of(geometry: &IndexGeometry, name: &RecordName, zones: u8) -> u8 {
    let part = match geometry.sampled_part() {
        Some(samples) if geometry.is_sample(name) => samples,
        _ => geometry.dense_part(),
    };
    (part.list_key(name).list / part.lists_per_zone(zones)) as u8
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
        })
    }

    /// Takes a question as far as it can be taken without I/O. `seen` is what the last chapter that was looked in had.
    ///
    /// # Errors
    /// [`DeltaError::Corrupt`], after which the index is of no use any more.
    pub fn ask(
        &mut self,
        question: &Question,
        seen: Option<(u64, Option<RecordData>)>,
    ) -> Result<Outcome, DeltaError> {
        let name = &question.record.name;
        let sighting = self.volume_index.find(name)?;
        let known = match sighting.chapter {
            None => None,
            Some(chapter) if chapter == self.newest => self.open.find(name),
            Some(chapter) => match seen {
                Some((looked_in, record)) if looked_in == chapter => record,
                _ => return Ok(Outcome::LookIn(chapter)),
            },
        };
        // The volume index has the whole name, but the chapter lost it for want of room in its own index.
        let was_lost = known.is_none() && sighting.chapter.is_some() && sighting.is_exact();
        let only_asks = matches!(question.op, IndexOp::Query | IndexOp::Peek);
        if question.op == IndexOp::Peek || (known.is_none() && only_asks) {
            return Ok(Outcome::Answer(known));
        }
        if known.is_some() || was_lost {
            if sighting.chapter != Some(self.newest) {
                self.volume_index.set_chapter(&sighting, self.newest);
            } else if question.op != IndexOp::Update {
                return Ok(Outcome::Answer(known));
            }
        } else {
            match self.volume_index.put(&sighting, name, self.newest) {
                Ok(()) => {}
                // It is not remembered; that costs savings only.
                Err(DeltaError::Overflow) => return Ok(Outcome::Answer(None)),
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

    /// Whether the chapter has to be closed before anything else is asked.
    pub fn is_full(&self) -> bool {
        self.open.is_full()
    }

    /// The open chapter's records are on disk, or have been given up; `newest` is open now.
    pub fn open_chapter(&mut self, newest: u64) {
        self.open.clear();
        self.newest = newest;
        self.volume_index.open_chapter(newest);
    }

    /// Takes back a record that was saved with the open chapter. A zone that is nearly full leaves it out: no zone may be full
    /// before it is asked something.
    pub fn reload(&mut self, record: IndexRecord) {
        if self.open.records().len() + 1 < self.open.capacity() {
            self.open.put(record);
        }
    }
}
