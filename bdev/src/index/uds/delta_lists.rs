//! Many delta lists in one piece of memory, to be searched and changed: what the volume index is made of.
//!
//! The lists lie in their order, with free bits between them. An entry that is put in or taken out moves the shorter side of its
//! list, into or out of the free bits there. If a list has no room on either side, its neighbours are moved: as few of them
//! as have enough free bits among them, so that no single request pays for all lists. (dm-vdo moves all of a zone's.)
//!
//! ```text
//!   ....| list 0 |..| list 1 |.....| list 2 || list 3 |...
//! ```
//!
//! A list is searched from its front, or from one of two places further in that earlier searches have left.

use std::ops::Range;

use crate::format::index::bits;
use crate::format::index::delta_list::{
    DeltaCode, DeltaError, DeltaList, Entry, LONGEST_LIST, NAME_BITS,
};
use crate::index::IndexError;
use crate::runtime::prefetch::prefetch;
use crate::types::RecordName;

/// Places in a list from which a search may begin.
const HINTS: usize = 2;

/// Free bits a list should have after it was moved to make room.
const COMFORT: u64 = 24;

/// Bytes that memory is brought close by.
const LINE: usize = 64;

/// How many of them a search is expected to look at: half of a third of a full list.
const FORESEEN_LINES: usize = 2;

/// How many neighbours on each side are looked at first.
const FIRST_REACH: usize = 8;

/// A place behind an entry.
#[derive(Clone, Copy, Debug, Default)]
struct Hint {
    key: u32,
    /// Bits of the list up to and with the entry; 0 for the list's front.
    offset: u16,
}

/// Where a list is.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    start: u64,
    size: u16,
    offsets: [u16; HINTS],
    keys: [u32; HINTS],
}

impl Place {
    fn end(&self) -> u64 {
        self.start + u64::from(self.size)
    }

    /// The last hint before a key.
    #[inline]
    fn before(&self, key: u32) -> Entry {
        let mut best = Hint::default();
        for (hint_key, offset) in self.keys.into_iter().zip(self.offsets) {
            if hint_key < key && offset > best.offset {
                best = Hint {
                    key: hint_key,
                    offset,
                };
            }
        }
        Entry {
            key: best.key,
            offset: best.offset.into(),
            ..Entry::START
        }
    }

    /// Notes a place behind an entry, if it cuts the list into more equal pieces than a place noted before.
    #[inline]
    fn note(&mut self, behind: &Entry) {
        let offset = behind.offset + behind.bits;
        for hint in 0..HINTS {
            let target = u32::from(self.size) / (HINTS as u32 + 1) * (hint as u32 + 1);
            let distance = |offset: u32| offset.abs_diff(target);
            if distance(offset) < distance(self.offsets[hint].into()) {
                self.offsets[hint] = offset as u16;
                self.keys[hint] = behind.key;
                return;
            }
        }
    }

    /// Bits were put in, or taken out, behind `offset`; places up to there stay, those from `old_end` on are moved.
    fn changed(&mut self, offset: u32, old_end: u32, new_end: u32, key_before: u32) {
        for hint in 0..HINTS {
            let at = u32::from(self.offsets[hint]);
            if at >= old_end && at > offset {
                self.offsets[hint] = (at - old_end + new_end) as u16;
            } else if at > offset {
                self.offsets[hint] = offset as u16;
                self.keys[hint] = key_before;
            }
        }
    }
}

/// Delta lists that can be changed.
pub struct DeltaLists {
    memory: Vec<u8>,
    places: Vec<Place>,
    code: DeltaCode,
    used_bits: u64,
    /// Entries in all lists.
    pub records: u64,
    /// How many of these are collisions.
    pub collisions: u64,
    /// Entries taken out so far.
    pub discarded: u64,
    /// Entries that were not put in for want of room.
    pub overflows: u64,
    /// How often lists were moved to make room.
    pub moves: u64,
    /// While lists are being loaded: the end of the last.
    loaded_to: u64,
}

impl std::fmt::Debug for DeltaLists {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "DeltaLists({} lists, {} records)",
            self.places.len(),
            self.records
        )
    }
}

impl DeltaLists {
    /// So many empty lists in so many bytes.
    ///
    /// # Errors
    /// [`IndexError::NoMemory`].
    pub fn new(lists: usize, code: DeltaCode, bytes: u64) -> Result<DeltaLists, IndexError> {
        let no_memory = |_| IndexError::NoMemory { bytes };
        let memory = super::zeroed(bytes)?;
        let mut places = Vec::new();
        places.try_reserve_exact(lists).map_err(no_memory)?;
        places.resize(lists, Place::default());
        let mut made = DeltaLists {
            memory,
            places,
            code,
            used_bits: 0,
            records: 0,
            collisions: 0,
            discarded: 0,
            overflows: 0,
            moves: 0,
            loaded_to: 0,
        };
        made.spread();
        Ok(made)
    }

    /// How many lists there are.
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// Bits of all lists.
    pub fn used_bits(&self) -> u64 {
        self.used_bits
    }

    /// Bytes of memory taken.
    pub fn memory_bytes(&self) -> u64 {
        (self.memory.len() + self.places.len() * size_of::<Place>()) as u64
    }

    fn memory_bits(&self) -> u64 {
        self.memory.len() as u64 * 8
    }

    /// A list, to be read.
    #[inline]
    pub fn list(&self, list: usize) -> DeltaList<'_> {
        let place = &self.places[list];
        DeltaList {
            bytes: &self.memory,
            start: place.start,
            size: place.size.into(),
            code: self.code,
        }
    }

    /// Somebody is about to search a list.
    #[inline]
    pub fn foresee(&self, list: usize) {
        if let Some(place) = self.places.get(list) {
            prefetch(place);
        }
    }

    /// Somebody is about to search a list for `key`, of which it was said before that it would be searched.
    #[inline]
    pub fn foresee_key(&self, list: usize, key: u32) {
        let Some(place) = self.places.get(list) else {
            return;
        };
        let first = (place.start + u64::from(place.before(key).offset)) / 8;
        for line in 0..FORESEEN_LINES {
            if let Some(byte) = self.memory.get(first as usize + line * LINE) {
                prefetch(byte);
            }
        }
    }

    /// See [`DeltaList::find`]. Leaves a place for later searches.
    ///
    /// # Errors
    /// [`DeltaError::Corrupt`].
    #[inline]
    pub fn find(&mut self, list: usize, key: u32, name: &RecordName) -> Result<Entry, DeltaError> {
        let from = self.places[list].before(key);
        let (entry, before) = self.list(list).find(key, name, from)?;
        self.places[list].note(&before);
        Ok(entry)
    }

    /// See [`DeltaList::find`]. Changes nothing.
    ///
    /// # Errors
    /// [`DeltaError::Corrupt`].
    pub fn peek(&self, list: usize, key: u32, name: &RecordName) -> Result<Entry, DeltaError> {
        let from = self.places[list].before(key);
        Ok(self.list(list).find(key, name, from)?.0)
    }

    /// Gives an entry another value.
    #[inline]
    pub fn set_value(&mut self, list: usize, entry: &Entry, value: u32) {
        let at = self.places[list].start + u64::from(entry.offset);
        bits::set(&mut self.memory, at, self.code.value_bits, value.into());
    }

    /// Puts an entry with `key` before `at`, which is what a search for the key found. If that has the same key, the new entry
    /// is a collision, with its name, behind it.
    ///
    /// # Errors
    /// [`DeltaError::Duplicate`] if `at` has the name already, [`DeltaError::Overflow`] if there is no room.
    pub fn insert(
        &mut self,
        list: usize,
        at: &Entry,
        key: u32,
        value: u32,
        name: &RecordName,
    ) -> Result<Entry, DeltaError> {
        if at.is_collision {
            return Err(DeltaError::Duplicate);
        }
        if at.is(key) {
            let entry = Entry {
                delta: 0,
                offset: at.offset + at.bits,
                bits: self.code.entry_bits(0) + NAME_BITS,
                is_collision: true,
                ..*at
            };
            self.grow(list, entry.offset, entry.bits)?;
            self.places[list].changed(entry.offset, entry.offset, entry.offset + entry.bits, key);
            self.write(list, &entry, value, Some(name));
            self.records += 1;
            self.collisions += 1;
            return Ok(entry);
        }
        let key_before = at.key - at.delta;
        let delta = key - key_before;
        let entry = Entry {
            key,
            delta,
            offset: at.offset,
            bits: self.code.entry_bits(delta),
            at_end: false,
            is_collision: false,
        };
        if at.at_end {
            self.grow(list, entry.offset, entry.bits)?;
        } else {
            let next_value = self.list(list).value(at);
            let next_delta = at.key - key;
            let next = Entry {
                delta: next_delta,
                offset: entry.offset + entry.bits,
                bits: self.code.entry_bits(next_delta),
                ..*at
            };
            let (old_end, new_end) = (at.offset + at.bits, next.offset + next.bits);
            self.grow(list, entry.offset, new_end - old_end)?;
            self.places[list].changed(entry.offset, old_end, new_end, key_before);
            self.write(list, &next, next_value, None);
        }
        self.write(list, &entry, value, None);
        self.records += 1;
        Ok(entry)
    }

    fn write(&mut self, list: usize, entry: &Entry, value: u32, name: Option<&RecordName>) {
        let at = self.places[list].start + u64::from(entry.offset);
        self.code
            .write(&mut self.memory, at, entry.delta, value, name);
    }

    /// Takes an entry out and returns the one behind it, which is now in its place. If that was a collision with it, it is none
    /// any more, and its name is no longer known.
    ///
    /// # Errors
    /// [`DeltaError::Corrupt`].
    pub fn remove(&mut self, list: usize, entry: &Entry) -> Result<Entry, DeltaError> {
        let next = self.list(list).next(entry)?;
        let key_before = entry.key - entry.delta;
        let mut behind = Entry {
            offset: entry.offset,
            ..next
        };
        if entry.is_collision || next.at_end {
            self.shrink(list, entry.offset, entry.bits);
            if entry.is_collision {
                self.collisions -= 1;
                let end = entry.offset + entry.bits;
                self.places[list].changed(entry.offset, end, entry.offset, key_before);
            } else {
                behind.key = key_before;
                self.places[list].changed(entry.offset, u32::MAX, 0, key_before);
            }
        } else {
            let value = self.list(list).value(&next);
            if next.is_collision {
                self.collisions -= 1;
            }
            behind.is_collision = false;
            behind.delta = entry.delta + next.delta;
            behind.bits = self.code.entry_bits(behind.delta);
            let old_end = next.offset + next.bits;
            self.shrink(list, entry.offset, old_end - entry.offset - behind.bits);
            let new_end = entry.offset + behind.bits;
            self.places[list].changed(entry.offset, old_end, new_end, key_before);
            self.write(list, &behind, value, None);
        }
        self.records -= 1;
        self.discarded += 1;
        Ok(behind)
    }

    /// Where the list before one ends, and where the one behind it begins.
    fn neighbours(&self, list: usize) -> (u64, u64) {
        let before = list
            .checked_sub(1)
            .map_or(0, |before| self.places[before].end());
        let behind = self
            .places
            .get(list + 1)
            .map_or(self.memory_bits(), |place| place.start);
        (before, behind)
    }

    /// Makes `count` bits of room in a list, at `offset`.
    fn grow(&mut self, list: usize, offset: u32, count: u32) -> Result<(), DeltaError> {
        let size = u32::from(self.places[list].size);
        if size + count > LONGEST_LIST {
            self.overflows += 1;
            return Err(DeltaError::Overflow);
        }
        let wanted = u64::from(count);
        let free = |lists: &DeltaLists| {
            let (before, behind) = lists.neighbours(list);
            let place = &lists.places[list];
            (place.start - before, behind - place.end())
        };
        let (mut before, mut behind) = free(self);
        if before < wanted && behind < wanted {
            if let Err(error) = self.make_room(list, wanted) {
                self.overflows += 1;
                return Err(error);
            }
            (before, behind) = free(self);
        }
        let (front, back) = (u64::from(offset), u64::from(size - offset));
        let move_front = before >= wanted && (behind < wanted || front < back);
        let place = &mut self.places[list];
        let start = place.start;
        place.size += count as u16;
        if move_front {
            place.start -= wanted;
            bits::shift(&mut self.memory, start, start - wanted, front);
        } else {
            let from = start + front;
            bits::shift(&mut self.memory, from, from + wanted, back);
        }
        self.used_bits += wanted;
        Ok(())
    }

    /// Takes `count` bits at `offset` out of a list.
    fn shrink(&mut self, list: usize, offset: u32, count: u32) {
        let place = &mut self.places[list];
        let start = place.start;
        let back = u32::from(place.size) - offset - count;
        let (front, back, gone) = (u64::from(offset), u64::from(back), u64::from(count));
        place.size -= count as u16;
        if front < back {
            place.start += gone;
            bits::shift(&mut self.memory, start, start + gone, front);
        } else {
            let to = start + front;
            bits::shift(&mut self.memory, to + gone, to, back);
        }
        self.used_bits -= gone;
    }

    /// Moves a list and some of its neighbours, so that it has `wanted` bits free behind it.
    #[cold]
    fn make_room(&mut self, list: usize, wanted: u64) -> Result<(), DeltaError> {
        let mut reach = FIRST_REACH;
        loop {
            let lists = list.saturating_sub(reach)..(list + reach + 1).min(self.count());
            let all = lists.len() == self.count();
            let (start, _) = self.neighbours(lists.start);
            let (_, end) = self.neighbours(lists.end - 1);
            let used: u64 = self.places[lists.clone()]
                .iter()
                .map(|place| u64::from(place.size))
                .sum();
            let free = end - start - used;
            let comfort = lists.len() as u64 * COMFORT;
            if free >= wanted + comfort || (all && free >= wanted) {
                self.moves += 1;
                self.pack(lists.clone(), start);
                self.space_out(lists, end, free - wanted, Some((list, wanted)));
                return Ok(());
            }
            if all {
                return Err(DeltaError::Overflow);
            }
            reach *= 2;
        }
    }

    /// Moves lists to the front, from `to` on, without free bits between.
    fn pack(&mut self, lists: Range<usize>, mut to: u64) {
        for place in &mut self.places[lists] {
            bits::shift(&mut self.memory, place.start, to, place.size.into());
            place.start = to;
            to += u64::from(place.size);
        }
    }

    /// Moves lists that are packed to the back, up to `end`, sharing `free` bits out between them; one of them gets more.
    fn space_out(&mut self, lists: Range<usize>, end: u64, free: u64, more: Option<(usize, u64)>) {
        let each = free / (lists.len() as u64 + 1);
        let mut to = end;
        for list in lists.rev() {
            let extra = more
                .filter(|(wanting, _)| *wanting == list)
                .map_or(0, |(_, bits)| bits);
            let place = &mut self.places[list];
            to -= each + extra + u64::from(place.size);
            bits::shift(&mut self.memory, place.start, to, place.size.into());
            place.start = to;
        }
    }

    /// Shares the free bits out evenly between all lists, which are packed.
    fn spread(&mut self) {
        let free = self.memory_bits() - self.used_bits;
        self.space_out(0..self.count(), self.memory_bits(), free, None);
    }

    /// Makes all lists empty, to be loaded.
    pub fn begin_load(&mut self) {
        self.places.fill(Place::default());
        self.used_bits = 0;
        self.records = 0;
        self.collisions = 0;
        self.loaded_to = 0;
    }

    /// Loads a list, after all that are before it: `size` bits, from bit `bit_offset` of `bytes` on.
    ///
    /// # Errors
    /// [`DeltaError::Corrupt`] for bits that make no list, [`DeltaError::Overflow`] if there is no room.
    pub fn load(
        &mut self,
        list: usize,
        bytes: &[u8],
        bit_offset: u8,
        size: u16,
    ) -> Result<(), DeltaError> {
        let start = self.loaded_to;
        if start + u64::from(size) > self.memory_bits() {
            return Err(DeltaError::Overflow);
        }
        bits::copy(
            bytes,
            bit_offset.into(),
            &mut self.memory,
            start,
            size.into(),
        );
        self.places[list] = Place {
            start,
            size,
            ..Place::default()
        };
        self.loaded_to += u64::from(size);
        self.used_bits += u64::from(size);
        let (mut records, mut collisions) = (0, 0);
        let mut cursor = Entry::START;
        loop {
            cursor = self.list(list).next(&cursor)?;
            if cursor.at_end {
                break;
            }
            records += 1;
            collisions += u64::from(cursor.is_collision);
        }
        self.records += records;
        self.collisions += collisions;
        Ok(())
    }

    /// All lists are loaded.
    pub fn finish_load(&mut self) {
        // Lists that are empty are where the ones before them end.
        let mut end = 0;
        for place in &mut self.places {
            if place.size == 0 {
                place.start = end;
            }
            end = place.end();
        }
        self.spread();
    }
}

#[cfg(test)]
mod tests;
