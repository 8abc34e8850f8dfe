//! The table of names: of each different content how often it came, when last, and where the volume would have it.
//!
//! ```text
//!   entry    half of the name    times    last seen    place        20 bytes, and one of the table
//!                  8               4          4          4
//! ```
//!
//! Eight of a name's sixteen bytes are enough: of a thousand million different blocks, two are taken for the same with a probability of one in
//! forty. The table doubles when it is full to seven eighths, and for a moment there is the old one beside the new one. So a content takes 26 to 48
//! bytes, and 72 in that moment.
//!
//! When the memory does not allow for another doubling, every second name is dropped, those with a certain bit, and only the others are followed
//! ([`NameTable::halve`]). Each stands for [`NameTable::weight`] names, from then on. One that is followed has been from the beginning, so how
//! often it came is right.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use vdo::types::RecordName;

use crate::window::Time;

/// Bytes that each place of a table needs while it grows: of the new one, and half as much of the old one.
const BYTES_PER_PLACE: u64 = (size_of::<Entry>() as u64 + 1) * 3 / 2;

/// The bit of a name's half that is looked at first to leave names out. Those below it say where in the table a name is.
const SAMPLE_SHIFT: u32 = 32;

/// The half of a name that the table goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Half([u32; 2]);

impl Half {
    fn of(name: &RecordName) -> Half {
        let key = name.key();
        Half([key as u32, (key >> 32) as u32])
    }

    fn key(self) -> u64 {
        u64::from(self.0[0]) | u64::from(self.0[1]) << 32
    }

    /// Whether it is still followed when names were dropped so many times.
    fn is_followed(self, halvings: u32) -> bool {
        (self.key() >> SAMPLE_SHIFT).trailing_zeros() >= halvings
    }
}

/// Where the volume would have a content, if it compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a block of its own, with so many references.
    Single {
        /// 1 to 254.
        references: u8,
    },
    /// In the packer, as this write's.
    Lying(u32),
    /// With others, in this one of all packed blocks.
    Packed(u32),
}

/// A [`Place`] in 32 bits: two say which it is.
#[derive(Clone, Copy, Debug)]
struct PackedPlace(u32);

const PLACE_SHIFT: u32 = 30;
const PLACE_MASK: u32 = (1 << PLACE_SHIFT) - 1;

impl From<Place> for PackedPlace {
    fn from(place: Place) -> PackedPlace {
        let (kind, number) = match place {
            Place::Single { references } => (0, u32::from(references)),
            Place::Lying(id) => (1, id),
            Place::Packed(block) => (2, block),
        };
        PackedPlace(kind << PLACE_SHIFT | number & PLACE_MASK)
    }
}

impl From<PackedPlace> for Place {
    fn from(place: PackedPlace) -> Place {
        let number = place.0 & PLACE_MASK;
        match place.0 >> PLACE_SHIFT {
            0 => Place::Single {
                references: number as u8,
            },
            1 => Place::Lying(number),
            _ => Place::Packed(number),
        }
    }
}

/// What is known of a content.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    half: Half,
    /// How often it came.
    pub times: u32,
    /// When it came last.
    pub last: Time,
    place: PackedPlace,
}

impl Entry {
    /// Where it is.
    pub fn place(&self) -> Place {
        self.place.into()
    }

    /// Notes where it is.
    pub fn set_place(&mut self, place: Place) {
        self.place = place.into();
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct NameTable {
    entries: HashTable<Entry>,
    /// Places of the largest table there may be: a power of two.
    places: usize,
    halvings: u32,
}

impl NameTable {
    /// An empty table that never takes more than `memory` bytes, which are enough for a few names at least.
    pub fn new(memory: u64) -> NameTable {
        let places = (memory / BYTES_PER_PLACE).max(16);
        NameTable {
            entries: HashTable::new(),
            places: 1 << places.ilog2(),
            halvings: 0,
        }
    }

    /// How many names are in it at most. That leaves some room: half of them are to fit into half of the places.
    pub fn most(&self) -> usize {
        self.places / 16 * 13
    }

    /// How many names each of those that are followed stands for.
    pub fn weight(&self) -> u64 {
        1 << self.halvings
    }

    /// Whether a name is followed.
    pub fn is_followed(&self, name: &RecordName) -> bool {
        Half::of(name).is_followed(self.halvings)
    }

    /// Whether a name is known.
    pub fn knows(&self, name: &RecordName) -> bool {
        self.find(Half::of(name)).is_some()
    }

    fn find(&self, half: Half) -> Option<&Entry> {
        let is_it = |entry: &Entry| entry.half == half;
        self.entries.find(half.key(), is_it)
    }

    /// The entry of a half that is in the table.
    pub fn get_mut(&mut self, half: Half) -> Option<&mut Entry> {
        let is_it = |entry: &Entry| entry.half == half;
        self.entries.find_mut(half.key(), is_it)
    }

    /// The half and the entry of a name, which came now, and when it came last, if ever. A new one is taken to be in a block of its own.
    pub fn meet(&mut self, name: &RecordName, now: Time) -> (Half, &mut Entry, Option<Time>) {
        let half = Half::of(name);
        let is_it = |entry: &Entry| entry.half == half;
        let rehash = |entry: &Entry| entry.half.key();
        match self.entries.entry(half.key(), is_it, rehash) {
            Slot::Occupied(slot) => {
                let entry = slot.into_mut();
                let last = entry.last;
                entry.times = entry.times.saturating_add(1);
                entry.last = now;
                (half, entry, Some(last))
            }
            Slot::Vacant(slot) => {
                let new = Entry {
                    half,
                    times: 1,
                    last: now,
                    place: Place::Single { references: 1 }.into(),
                };
                (half, slot.insert(new).into_mut(), None)
            }
        }
    }

    /// Whether no other name may come in before half of them are dropped.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.most()
    }

    /// Drops every second name, for good, and again if that was not enough.
    pub fn halve(&mut self) {
        loop {
            self.halvings += 1;
            let halvings = self.halvings;
            self.entries
                .retain(|entry| entry.half.is_followed(halvings));
            if self.entries.len() <= self.places / 16 * 7 {
                break;
            }
        }
        // Places that names were dropped from are not as good as new ones: with too many of them the table would double beyond its limit.
        self.entries.shrink_to_fit(|entry| entry.half.key());
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// All entries, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vdo::content::record_name;
    use vdo::types::BLOCK_SIZE;

    fn name(number: u64) -> RecordName {
        let mut block = [0; BLOCK_SIZE];
        block[..8].copy_from_slice(&number.to_le_bytes());
        record_name(&block)
    }

    #[test]
    fn an_entry_is_as_large_as_is_said() {
        assert_eq!(size_of::<Entry>(), 20);
        for place in [
            Place::Single { references: 254 },
            Place::Lying(223),
            Place::Packed(PLACE_MASK),
        ] {
            assert_eq!(Place::from(PackedPlace::from(place)), place);
        }
    }

    #[test]
    fn a_table_stays_within_its_memory_and_says_what_its_names_stand_for() {
        let memory = 1 << 20;
        let mut table = NameTable::new(memory);
        let all = 300_000;
        let mut largest = 0;
        for number in 0..all {
            largest = largest.max(table.entries.capacity());
            let name = name(number);
            if !table.is_followed(&name) {
                continue;
            }
            if table.is_full() && !table.knows(&name) {
                table.halve();
                if !table.is_followed(&name) {
                    continue;
                }
            }
            let (_, entry, last) = table.meet(&name, Time(7));
            assert_eq!((last, entry.times), (None, 1));
        }
        assert!(table.places as u64 * BYTES_PER_PLACE <= memory);
        assert!(largest <= table.places / 8 * 7);
        assert!(table.weight() >= 16);
        let told = table.iter().count() as u64 * table.weight();
        assert!(told.abs_diff(all) < all / 50, "{told} of {all}");

        let followed: Vec<_> = (0..all)
            .map(name)
            .filter(|one| table.is_followed(one))
            .collect();
        for one in &followed {
            let (_, entry, last) = table.meet(one, Time(9));
            assert_eq!((last, entry.times), (Some(Time(7)), 2));
        }
    }
}
