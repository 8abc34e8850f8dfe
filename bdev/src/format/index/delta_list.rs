//! Delta lists: sorted keys, each with a small value, as a stream of bits that holds the differences between them.
//!
//! ```text
//!   | value | difference |   | value | difference |   | value | 0 | whole name, 128 bits |   ...
//!     fixed   at least                                  a collision: another name with the key before it
//!            min_bits
//! ```
//!
//! A difference less than `min_keys` is written as it is, in `min_bits` bits. A larger one is split: what is left of it after
//! dividing by `increment` goes into the `min_bits` bits, and as many zeroes as the quotient says, and a one, follow. Which
//! numbers these are follows from the mean difference of a list that is as full as it is meant to be, so that an entry takes about
//! one bit and a half more than the best code would.
//!
//! The first difference of a list may be 0; any other 0 marks a *collision*: the name is another one than the one before it,
//! although both have the same key, and so it is written out. (The name before it is not. That the keys of two names are the same
//! is only found out in the chapters.)
//!
//! A list may have 65 535 bits.

use thiserror::Error;

use super::bits;
use super::geometry;
use crate::types::RecordName;

/// The most bits a list may have.
pub const LONGEST_LIST: u32 = u16::MAX as u32;

/// Bits of the name in an entry that is a collision.
pub const NAME_BITS: u32 = 128;

/// Why an entry could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DeltaError {
    /// The bits make no list.
    #[error("a delta list of the index is damaged: an entry reaches past its end")]
    Corrupt,
    /// A list has no room for the entry, or its zone has none.
    #[error("a delta list of the index has no room for another entry")]
    Overflow,
    /// The name is there already.
    #[error("a name is in a delta list of the index already")]
    Duplicate,
}

/// How the entries of a list are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaCode {
    /// Bits of a value.
    pub value_bits: u32,
    /// Bits of the shortest difference.
    pub min_bits: u32,
    /// How many differences are that short.
    pub min_keys: u32,
    /// How many more differences fit with each more bit.
    pub increment: u32,
}

impl DeltaCode {
    /// The code for lists whose keys are `mean_delta` apart on average.
    pub fn new(mean_delta: u32, value_bits: u32) -> DeltaCode {
        // ln(2) * mean delta, rounded.
        let increment = (836_158 * u64::from(mean_delta) + 603_160) / 1_206_321;
        let min_bits = geometry::bits(increment + 1);
        DeltaCode {
            value_bits,
            min_bits,
            min_keys: ((1 << min_bits) - increment) as u32,
            increment: increment as u32,
        }
    }

    /// Bits that so many entries are expected to take.
    pub fn expected_bits(&self, entries: u64) -> u64 {
        entries * u64::from(self.value_bits + self.min_bits + 1) + entries / 2
    }

    /// Bits of a value and a difference.
    #[inline]
    pub fn entry_bits(&self, delta: u32) -> u32 {
        self.value_bits
            + self.min_bits
            + match delta.checked_sub(self.min_keys) {
                None => 0,
                Some(more) => more / self.increment + 1,
            }
    }

    /// Writes a value and a difference at `bit`, and for a collision the name behind them.
    #[inline]
    pub fn write(
        &self,
        to: &mut [u8],
        bit: u64,
        delta: u32,
        value: u32,
        name: Option<&RecordName>,
    ) {
        let fixed = self.value_bits + self.min_bits;
        // What is behind the fixed part: zeroes and a one, or nothing.
        let (low, more_bits) = match delta.checked_sub(self.min_keys) {
            None => (delta, 0),
            Some(more) => {
                let rest = more % self.increment + self.min_keys;
                (rest, more / self.increment + 1)
            }
        };
        let field = u64::from(value) | u64::from(low) << self.value_bits;
        let all = fixed + more_bits;
        let end = bit + u64::from(all);
        if all <= bits::LONGEST_FIELD {
            // Nearly every entry fits in one field.
            let one = u64::from(more_bits > 0) << (all - 1);
            bits::set(to, bit, all, field | one);
        } else {
            bits::set(to, bit, fixed, field);
            let mut at = bit + u64::from(fixed);
            while at < end - 1 {
                let count = (end - 1 - at).min(u64::from(bits::LONGEST_FIELD));
                bits::set(to, at, count as u32, 0);
                at += count;
            }
            bits::set(to, end - 1, 1, 1);
        }
        if let Some(name) = name {
            for (at, byte) in (end..).step_by(8).zip(name.0) {
                bits::set(to, at, 8, u64::from(byte));
            }
        }
    }
}

/// A place in a list: before the first entry, at one, or behind the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The key; behind the last entry, that entry's.
    pub key: u32,
    /// The difference to the key before; 0 behind the last entry.
    pub delta: u32,
    /// Bits of the list before the entry.
    pub offset: u32,
    /// Bits of the entry; 0 before the first and behind the last.
    pub bits: u32,
    /// Whether this is behind the last entry.
    pub at_end: bool,
    /// Whether the entry has a whole name.
    pub is_collision: bool,
}

impl Entry {
    /// Before the first entry.
    pub const START: Entry = Entry {
        key: 0,
        delta: 0,
        offset: 0,
        bits: 0,
        at_end: false,
        is_collision: false,
    };

    /// Whether this is an entry with `key`.
    #[inline]
    pub fn is(&self, key: u32) -> bool {
        !self.at_end && self.key == key
    }
}

/// A list, to be read.
#[derive(Clone, Copy, Debug)]
pub struct DeltaList<'a> {
    /// The bytes it lies in, and others.
    pub bytes: &'a [u8],
    /// Its first bit in them.
    pub start: u64,
    /// Its bits.
    pub size: u32,
    /// How it is written.
    pub code: DeltaCode,
}

impl DeltaList<'_> {
    /// The entry behind `entry`.
    ///
    /// # Errors
    /// [`DeltaError::Corrupt`] if it would reach past the end of the list.
    #[inline]
    pub fn next(&self, entry: &Entry) -> Result<Entry, DeltaError> {
        let offset = entry.offset + entry.bits;
        if offset >= self.size {
            return if offset == self.size {
                Ok(Entry {
                    key: entry.key,
                    offset,
                    at_end: true,
                    ..Entry::START
                })
            } else {
                Err(DeltaError::Corrupt)
            };
        }
        let code = &self.code;
        let at = self.start + u64::from(offset + code.value_bits);
        let field = bits::load64(self.bytes, (at / 8) as usize) >> (at % 8);
        let low = field as u32 & ((1 << code.min_bits) - 1);
        let (delta, delta_bits) = if low < code.min_keys {
            (low, code.min_bits)
        } else {
            let rest = field >> code.min_bits;
            let zeroes = if rest != 0 {
                rest.trailing_zeros()
            } else {
                self.zeroes(at)?
            };
            let delta = u64::from(zeroes) * u64::from(code.increment) + u64::from(low);
            let delta = u32::try_from(delta).map_err(|_| DeltaError::Corrupt)?;
            (delta, code.min_bits + zeroes + 1)
        };
        let is_collision = delta == 0 && offset > 0;
        let name_bits = if is_collision { NAME_BITS } else { 0 };
        let next = Entry {
            key: entry.key.checked_add(delta).ok_or(DeltaError::Corrupt)?,
            delta,
            offset,
            bits: code.value_bits + delta_bits + name_bits,
            at_end: false,
            is_collision,
        };
        if next.offset + next.bits > self.size {
            return Err(DeltaError::Corrupt);
        }
        Ok(next)
    }

    /// The zeroes behind the fixed part of a difference at `at`, if they are many.
    #[cold]
    fn zeroes(&self, at: u64) -> Result<u32, DeltaError> {
        let end = self.start + u64::from(self.size);
        let first = at + u64::from(self.code.min_bits);
        let mut bit = first;
        while bit < end {
            let count = (end - bit).min(u64::from(bits::LONGEST_FIELD)) as u32;
            let field = bits::get(self.bytes, bit, count);
            if field != 0 {
                return Ok((bit - first) as u32 + field.trailing_zeros());
            }
            bit += u64::from(count);
        }
        Err(DeltaError::Corrupt)
    }

    /// The value of an entry.
    #[inline]
    pub fn value(&self, entry: &Entry) -> u32 {
        let at = self.start + u64::from(entry.offset);
        bits::get(self.bytes, at, self.code.value_bits) as u32
    }

    /// The name of an entry that is a collision.
    pub fn name(&self, entry: &Entry) -> RecordName {
        let at = self.start + u64::from(entry.offset + entry.bits - NAME_BITS);
        let mut name = RecordName::default();
        for (at, byte) in (at..).step_by(8).zip(&mut name.0) {
            *byte = bits::get(self.bytes, at, 8) as u8;
        }
        name
    }

    /// The entry of `name`, whose key is `key`: the collision that has the name, or else the first entry with the key, whose name
    /// it may be; or the entry that such a one would be put before. The search begins behind `from`.
    ///
    /// The second result is the last entry before the key's: where another search for it may begin.
    #[inline]
    pub fn find(
        &self,
        key: u32,
        name: &RecordName,
        from: Entry,
    ) -> Result<(Entry, Entry), DeltaError> {
        let mut before = from;
        let entry = loop {
            let entry = self.next(&before)?;
            if entry.at_end || key <= entry.key {
                break entry;
            }
            before = entry;
        };
        if entry.is(key) {
            let mut other = entry;
            loop {
                other = self.next(&other)?;
                if other.at_end || !other.is_collision {
                    break;
                }
                if self.name(&other) == *name {
                    return Ok((other, before));
                }
            }
        }
        Ok((entry, before))
    }

    /// All entries, in order, up to the first that cannot be read.
    pub fn entries(&self) -> impl Iterator<Item = Result<Entry, DeltaError>> {
        let mut last = Some(Entry::START);
        std::iter::from_fn(move || {
            let next = self.next(&last?);
            last = next.ok().filter(|entry| !entry.at_end);
            next.map_or_else(
                |error| Some(Err(error)),
                |entry| (!entry.at_end).then_some(Ok(entry)),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes entries one behind the other.
    fn written(code: DeltaCode, entries: &[(u32, u32, Option<RecordName>)]) -> (Vec<u8>, u32) {
        let mut bytes = vec![0xa5; 9000];
        let mut at = 5_u64;
        for (delta, value, name) in entries {
            code.write(&mut bytes, at, *delta, *value, name.as_ref());
            let name_bits = if name.is_some() { NAME_BITS } else { 0 };
            at += u64::from(code.entry_bits(*delta) + name_bits);
        }
        (bytes, (at - 5) as u32)
    }

    proptest! {
        #[test]
        fn entries_come_back(
            mean in 2_u32..100_000, value_bits in 1_u32..=24,
            raw in prop::collection::vec((any::<u32>(), any::<u32>(), any::<[u8; 16]>()), 0..60),
        ) {
            let code = DeltaCode::new(mean, value_bits);
            let entries: Vec<_> = raw
                .iter()
                .enumerate()
                .map(|(index, (delta, value, name))| {
                    let delta = if delta % 7 == 0 { 0 } else { delta % (mean * 6) };
                    let name = (delta == 0 && index > 0).then_some(RecordName(*name));
                    (delta, value & ((1 << value_bits) - 1), name)
                })
                .collect();
            let (bytes, size) = written(code, &entries);
            let list = DeltaList { bytes: &bytes, start: 5, size, code };
            let mut key = 0;
            let mut read = list.entries();
            for (delta, value, name) in &entries {
                let entry = read.next().expect("an entry")?;
                key += delta;
                prop_assert_eq!((entry.key, entry.delta, entry.is_collision), (key, *delta, name.is_some()));
                prop_assert_eq!(list.value(&entry), *value);
                if let Some(name) = name {
                    prop_assert_eq!(list.name(&entry), *name);
                }
            }
            prop_assert!(read.next().is_none());
        }

        #[test]
        fn any_bits_are_read_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..200), mean in 1_u32..200_000, value_bits in 1_u32..=24,
            start in 0_u64..20, size in 0_u32..2000, key: u32,
        ) {
            let list = DeltaList { bytes: &bytes, start, size, code: DeltaCode::new(mean, value_bits) };
            for entry in list.entries().flatten() {
                list.value(&entry);
            }
            let _ = list.find(key, &RecordName::default(), Entry::START);
        }
    }

    #[test]
    fn the_code_is_that_of_the_format() {
        let code = DeltaCode::new(4080, 10);
        assert_eq!(
            (code.min_bits, code.min_keys, code.increment),
            (12, 1268, 2828)
        );
        assert_eq!(code.entry_bits(1267), 22);
        assert_eq!(code.entry_bits(1268), 23);
        assert_eq!(code.entry_bits(1268 + 2827), 23);
        assert_eq!(code.entry_bits(1268 + 2828), 24);
        let mut bytes = [0; 16];
        // 1268 + 2828 + 5: the fixed part is 1268 + 5, then one zero and a one.
        code.write(&mut bytes, 0, 1268 + 2828 + 5, 0x3ff, None);
        let stream = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        assert_eq!(stream, 0x3ff | 1273 << 10 | 0b10 << 22);
    }

    #[test]
    fn a_run_of_zeroes_longer_than_a_word_is_counted_whole() {
        let code = DeltaCode::new(2, 3);
        let delta = code.min_keys + code.increment * 300 + 1;
        let (bytes, size) = written(code, &[(delta, 5, None), (3, 1, None)]);
        let list = DeltaList {
            bytes: &bytes,
            start: 5,
            size,
            code,
        };
        let keys: Vec<u32> = list
            .entries()
            .map(|entry| entry.expect("whole").key)
            .collect();
        assert_eq!(keys, [delta, delta + 3]);
    }

    #[test]
    fn a_search_finds_the_name_among_its_collisions_or_the_place_for_it() {
        let code = DeltaCode::new(100, 4);
        let name = |byte| RecordName([byte; 16]);
        let entries = [
            (50, 1, None),
            (20, 2, None),
            (0, 3, Some(name(7))),
            (0, 4, Some(name(8))),
            (9, 5, None),
        ];
        let (bytes, size) = written(code, &entries);
        let list = DeltaList {
            bytes: &bytes,
            start: 5,
            size,
            code,
        };
        let found = |key, byte| {
            let (entry, before) = list.find(key, &name(byte), Entry::START).expect("whole");
            assert_eq!(list.find(key, &name(byte), before), Ok((entry, before)));
            (!entry.at_end).then(|| (entry.key, list.value(&entry), entry.is_collision))
        };
        assert_eq!(found(70, 7), Some((70, 3, true)));
        assert_eq!(found(70, 8), Some((70, 4, true)));
        assert_eq!(found(70, 9), Some((70, 2, false)));
        assert_eq!(found(60, 9), Some((70, 2, false)));
        assert_eq!(found(71, 9), Some((79, 5, false)));
        assert_eq!(found(80, 9), None);
    }
}
