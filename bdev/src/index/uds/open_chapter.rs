//! The open chapter: one zone's share of the newest records, until there are so many that they make a chapter on disk.
//!
//! Records are kept in the order they came, and found by a table of places that is never more than half full. A name that comes
//! again takes its old record's place. When one zone's share is full, the chapter of all zones is closed, however full theirs are.

use crate::format::index::names::chapter_bits;
use crate::format::index::record_page::RecordData;
use crate::format::index::{IndexGeometry, IndexRecord};
use crate::index::IndexError;
use crate::runtime::prefetch::prefetch;
use crate::types::RecordName;

/// One zone's share of a chapter in memory.
#[derive(Debug)]
pub struct OpenChapter {
    records: Vec<IndexRecord>,
    capacity: usize,
    /// Numbers of records, from 1; 0 for none.
    places: Vec<u32>,
}

impl OpenChapter {
    /// An empty share for one of `zones` zones.
    ///
    /// # Errors
    /// [`IndexError::NoMemory`].
    pub fn new(geometry: &IndexGeometry, zones: u8) -> Result<OpenChapter, IndexError> {
        let capacity = geometry.records_per_chapter() as usize / usize::from(zones.max(1));
        let count = (2 * capacity + 1).next_power_of_two();
        let bytes = (capacity * IndexRecord::SIZE + count * 4) as u64;
        let no_memory = |_| IndexError::NoMemory { bytes };
        let mut records = Vec::new();
        records.try_reserve_exact(capacity).map_err(no_memory)?;
        let mut places = Vec::new();
        places.try_reserve_exact(count).map_err(no_memory)?;
        places.resize(count, 0);
        Ok(OpenChapter {
            records,
            capacity,
            places,
        })
    }

    /// Another one of this size, with nothing in it.
    pub(super) fn empty_copy(&self) -> OpenChapter {
        OpenChapter {
            records: Vec::with_capacity(self.capacity),
            capacity: self.capacity,
            places: vec![0; self.places.len()],
        }
    }

    /// Its records, in the order they came.
    pub fn records(&self) -> &[IndexRecord] {
        &self.records
    }

    /// Records it may have.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether there is room for no more.
    pub fn is_full(&self) -> bool {
        self.records.len() >= self.capacity
    }

    /// Bytes of memory taken.
    pub fn memory_bytes(&self) -> u64 {
        (self.capacity * IndexRecord::SIZE + self.places.len() * 4) as u64
    }

    /// The place of `name`, or the empty one where it would be.
    #[inline]
    fn place(&self, name: &RecordName) -> usize {
        let mask = self.places.len() - 1;
        let mut place = chapter_bits(name) as usize & mask;
        let mut step = 1;
        loop {
            match (self.places[place] as usize).checked_sub(1) {
                None => return place,
                Some(record) if self.records[record].name == *name => return place,
                Some(_) => {
                    place = (place + step) & mask;
                    step += 1;
                }
            }
        }
    }

    /// Somebody is about to look for `name`.
    #[inline]
    pub fn foresee(&self, name: &RecordName) {
        prefetch(&self.places[chapter_bits(name) as usize & (self.places.len() - 1)]);
    }

    /// What is known of `name`.
    #[inline]
    pub fn find(&self, name: &RecordName) -> Option<RecordData> {
        let number = self.places[self.place(name)] as usize;
        Some(self.records[number.checked_sub(1)?].data)
    }

    /// Remembers a record, in place of an older one of the name. Does nothing if it is full and the name is new.
    #[inline]
    pub fn put(&mut self, record: IndexRecord) {
        let place = self.place(&record.name);
        match (self.places[place] as usize).checked_sub(1) {
            Some(known) => self.records[known] = record,
            None if self.is_full() => {}
            None => {
                self.records.push(record);
                self.places[place] = self.records.len() as u32;
            }
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.records.clear();
        self.places.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_until_it_is_full(
            puts in prop::collection::vec((0_u8..90, any::<[u8; 16]>()), 0..300), zones in 1_u8..5, alike: bool,
        ) {
            let geometry = IndexGeometry::new(1024, 4, 4, 0, false);
            let mut chapter = OpenChapter::new(&geometry, zones).expect("little memory");
            let mut model = HashMap::new();
            for (number, data) in puts {
                let mut name = RecordName([number; 16]);
                if alike {
                    // The same place for all.
                    name.0[8..14].fill(3);
                }
                let data = RecordData(data);
                if !chapter.is_full() || model.contains_key(&name) {
                    model.insert(name, data);
                }
                chapter.put(IndexRecord { name, data });
                prop_assert_eq!(chapter.records().len(), model.len());
                prop_assert_eq!(chapter.find(&name), model.get(&name).copied());
            }
            prop_assert!(chapter.records().len() <= 128 / usize::from(zones));
            for record in chapter.records() {
                prop_assert_eq!(model.get(&record.name), Some(&record.data));
            }
            chapter.clear();
            prop_assert!(model.keys().all(|name| chapter.find(name).is_none()));
        }
    }
}
