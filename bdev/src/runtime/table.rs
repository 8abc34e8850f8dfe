//! Things that come and go, by number.
//!
//! A [`Table`] keeps things whose number (a [`Key`]) can be handed to a device, to another zone thread or to a
//! machine, and comes back later. A thing is inserted, which gives it the number that became free last;
//! it is looked at by that number, and taken out; then the number is free again. Nothing is allocated
//! as long as there are no more things than the table was made for.
//!
//! A number says nothing of the thing that had it before. So whoever gives numbers away knows when the last use is over;
//! a number from outside is looked up by [`Table::get`], which says whether it is taken at all.

use std::fmt;
use std::marker::PhantomData;

/// The end of the list of free entries.
const END: u32 = u32::MAX;

/// The number of a thing in a [`Table`] of its type.
pub(crate) struct Key<T> {
    number: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    /// The key that was given away as `number`.
    #[inline]
    pub(crate) fn new(number: u32) -> Key<T> {
        Key {
            number,
            of: PhantomData,
        }
    }

    /// The key as a plain number.
    #[inline]
    pub(crate) fn number(self) -> u32 {
        self.number
    }
}

impl<T> Clone for Key<T> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> PartialEq for Key<T> {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<T> Eq for Key<T> {}

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.number)
    }
}

#[derive(Debug)]
enum Entry<T> {
    Free { next: u32 },
    Taken(T),
}

/// Things by number.
#[derive(Debug)]
pub(crate) struct Table<T> {
    entries: Vec<Entry<T>>,
    free: u32,
    len: usize,
}

impl<T> Table<T> {
    /// Bytes of memory it holds.
    pub(crate) fn memory_held(&self) -> usize {
        self.entries.capacity() * size_of::<Entry<T>>()
    }

    /// An empty table that holds `capacity` things before it has to grow.
    pub(crate) fn with_capacity(capacity: usize) -> Table<T> {
        Table {
            entries: Vec::with_capacity(capacity),
            free: END,
            len: 0,
        }
    }

    /// How many things are in it.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many things were ever in it at once: every number is below that.
    #[cfg(test)]
    pub(crate) fn numbers(&self) -> usize {
        self.entries.len()
    }

    /// Puts a thing in.
    #[inline]
    pub(crate) fn insert(&mut self, thing: T) -> Key<T> {
        self.len += 1;
        let number = self.free;
        if number == END {
            self.entries.push(Entry::Taken(thing));
            return Key::new((self.entries.len() - 1) as u32);
        }
        let entry = &mut self.entries[number as usize];
        let Entry::Free { next } = *entry else {
            unreachable!("the free list holds free entries")
        };
        self.free = next;
        *entry = Entry::Taken(thing);
        Key::new(number)
    }

    /// The thing with this number; `None` if none has it.
    #[inline]
    pub(crate) fn get(&self, key: Key<T>) -> Option<&T> {
        match self.entries.get(key.number as usize) {
            Some(Entry::Taken(thing)) => Some(thing),
            _ => None,
        }
    }

    /// The thing with this number, to be changed; `None` if none has it.
    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        match self.entries.get_mut(key.number as usize) {
            Some(Entry::Taken(thing)) => Some(thing),
            _ => None,
        }
    }

    /// Takes the thing with this number out; `None` if none has it.
    #[inline]
    pub(crate) fn remove(&mut self, key: Key<T>) -> Option<T> {
        let entry = self.entries.get_mut(key.number as usize)?;
        if let Entry::Free { .. } = entry {
            return None;
        }
        let free = Entry::Free { next: self.free };
        let Entry::Taken(thing) = std::mem::replace(entry, free) else {
            unreachable!("checked above")
        };
        self.free = key.number;
        self.len -= 1;
        Some(thing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_number_that_became_free_last_is_given_next_and_the_table_grows_only_when_full() {
        let mut table = Table::with_capacity(3);
        let keys: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .map(|thing| table.insert(thing))
            .collect();
        assert_eq!(table.remove(keys[0]), Some("a"));
        assert_eq!(table.remove(keys[2]), Some("c"));
        assert_eq!(table.insert("d"), keys[2]);
        assert_eq!(table.insert("e"), keys[0]);
        assert_eq!(table.numbers(), 3);
        assert_eq!(table.insert("f").number(), 3);
    }

    proptest! {
        #[test]
        fn a_table_is_a_map_whose_keys_it_chooses(
            moves in prop::collection::vec((any::<bool>(), 0u32..12), 0..200)
        ) {
            let mut table = Table::with_capacity(4);
            let mut model = BTreeMap::new();
            for (serial, (insert, number)) in moves.into_iter().enumerate() {
                if insert {
                    let key = table.insert(serial);
                    prop_assert_eq!(model.insert(key.number(), serial), None);
                } else {
                    prop_assert_eq!(table.remove(Key::new(number)), model.remove(&number));
                }
                prop_assert_eq!(table.len(), model.len());
                for number in 0..14 {
                    prop_assert_eq!(table.get(Key::new(number)), model.get(&number));
                    prop_assert_eq!(table.get_mut(Key::new(number)), model.get_mut(&number));
                }
            }
        }
    }
}
