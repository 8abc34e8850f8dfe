//! Numbered things found by a key: chained buckets, made once for all of them.
//!
//! Whoever has things numbered from zero (locks, request slots, cache slots) finds the one that holds a key through
//! this. Nothing grows and nothing is ever rebuilt: a thing has one link, which lies beside its key.
//!
//! ```text
//!   buckets        things (by key)
//!   [ 3 ] -------> 3 -----> 8
//!   [ - ]
//!   [ 5 ] -------> 5
//! ```

/// Nothing.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    key: u64,
    /// The next thing in the same bucket.
    next: u32,
}

/// Which thing has which key. Things that have none are in no chain.
#[derive(Debug)]
pub struct Chains {
    buckets: Box<[u32]>,
    shift: u32,
    links: Box<[Link]>,
}

impl Chains {
    /// For things numbered below `things`, none of which has a key.
    pub fn new(things: usize) -> Chains {
        let buckets = (2 * things).next_power_of_two().max(2);
        let unused = Link { key: 0, next: NONE };
        Chains {
            buckets: vec![NONE; buckets].into(),
            shift: u64::BITS - buckets.trailing_zeros(),
            links: vec![unused; things].into(),
        }
    }

    /// Bytes of memory it holds.
    pub fn memory_held(&self) -> usize {
        self.buckets.len() * size_of::<u32>() + self.links.len() * size_of::<Link>()
    }

    #[inline]
    fn bucket(&self, key: u64) -> usize {
        // The high bits of a product with 2^64 / phi are spread evenly, for neighbours above all.
        (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    /// The thing that has `key`.
    #[inline]
    pub fn find(&self, key: u64) -> Option<u32> {
        let mut at = self.buckets[self.bucket(key)];
        while at != NONE {
            let link = &self.links[at as usize];
            if link.key == key {
                return Some(at);
            }
            at = link.next;
        }
        None
    }

    /// Gives `thing`, which has no key, one that nothing has.
    #[inline]
    pub fn insert(&mut self, key: u64, thing: u32) {
        let bucket = self.bucket(key);
        let next = std::mem::replace(&mut self.buckets[bucket], thing);
        self.links[thing as usize] = Link { key, next };
    }

    /// Takes its key from `thing`, which must have one.
    #[inline]
    pub fn remove(&mut self, thing: u32) {
        let next = self.links[thing as usize].next;
        self.relink(thing, next);
    }

    /// Gives the key of `old`, which must have one, to `new`, which has none.
    #[inline]
    pub fn replace(&mut self, old: u32, new: u32) {
        self.links[new as usize] = self.links[old as usize];
        self.relink(old, new);
    }

    /// Puts `new` where the chain of `old` has that.
    fn relink(&mut self, old: u32, new: u32) {
        let bucket = self.bucket(self.links[old as usize].key);
        let mut at = self.buckets[bucket];
        if at == old {
            self.buckets[bucket] = new;
            return;
        }
        while self.links[at as usize].next != old {
            at = self.links[at as usize].next;
        }
        self.links[at as usize].next = new;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few things and so few buckets that chains are long.
        #[test]
        fn chains_are_a_map_from_keys_to_things(
            moves in prop::collection::vec((0u32..3, 0u64..20, 0u32..8), 0..200),
        ) {
            let mut chains = Chains::new(8);
            let mut model: BTreeMap<u64, u32> = BTreeMap::new();
            for (what, key, thing) in moves {
                let has_key = model.values().any(|other| *other == thing);
                match (what, model.get(&key).copied()) {
                    (0, None) if !has_key => {
                        chains.insert(key, thing);
                        model.insert(key, thing);
                    }
                    (1, Some(held)) => {
                        chains.remove(held);
                        model.remove(&key);
                    }
                    (2, Some(held)) if !has_key => {
                        chains.replace(held, thing);
                        model.insert(key, thing);
                    }
                    _ => {}
                }
                for key in 0..20 {
                    prop_assert_eq!(chains.find(key), model.get(&key).copied());
                }
            }
        }
    }
}
