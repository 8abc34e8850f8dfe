//! Doubly linked lists of things with numbers, whose links are kept in one array.
//!
//! Lists that share one [`Links`] partition their elements: each is on one of them or on none.
//! Nothing is allocated when an element moves.

/// The end of a list.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
}

impl Link {
    const NONE: Link = Link {
        previous: NONE,
        next: NONE,
    };
}

/// The links of every element that may be on one of a family of lists.
#[derive(Clone, Debug, Default)]
pub struct Links(Vec<Link>);

impl Links {
    /// Links for elements `0..count`.
    pub fn new(count: usize) -> Links {
        let mut links = Links::default();
        links.resize(count);
        links
    }

    /// Makes room for elements `0..count`, which is no less than before.
    pub fn resize(&mut self, count: usize) {
        self.0.resize(count, Link::NONE);
    }

    /// Bytes of memory it holds.
    pub fn memory_held(&self) -> usize {
        self.0.capacity() * size_of::<Link>()
    }

    /// Makes room for `element` if there is none yet.
    #[inline]
    pub fn cover(&mut self, element: u32) {
        if element as usize >= self.0.len() {
            self.resize(element as usize + 1);
        }
    }
}

/// One list: its two ends.
#[derive(Clone, Copy, Debug)]
pub struct List {
    first: u32,
    last: u32,
}

impl Default for List {
    fn default() -> Self {
        List::EMPTY
    }
}

impl List {
    /// A list of nothing.
    pub const EMPTY: List = List {
        first: NONE,
        last: NONE,
    };

    /// Whether nothing is on it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first == NONE
    }

    /// The first element.
    #[inline]
    pub fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    /// The last element.
    #[inline]
    pub fn last(&self) -> Option<u32> {
        (self.last != NONE).then_some(self.last)
    }

    /// Puts an element that is on no list at the end.
    #[inline]
    pub fn push(&mut self, links: &mut Links, element: u32) {
        links.0[element as usize] = Link {
            previous: self.last,
            next: NONE,
        };
        match self.last {
            NONE => self.first = element,
            last => links.0[last as usize].next = element,
        }
        self.last = element;
    }

    /// Takes out an element that is on this list.
    #[inline]
    pub fn remove(&mut self, links: &mut Links, element: u32) {
        let Link { previous, next } = links.0[element as usize];
        match previous {
            NONE => self.first = next,
            previous => links.0[previous as usize].next = next,
        }
        match next {
            NONE => self.last = previous,
            next => links.0[next as usize].previous = previous,
        }
    }

    /// Takes out the first element.
    pub fn pop(&mut self, links: &mut Links) -> Option<u32> {
        let first = self.first;
        if first == NONE {
            return None;
        }
        self.remove(links, first);
        Some(first)
    }

    /// Takes out the last element.
    #[inline]
    pub fn pop_last(&mut self, links: &mut Links) -> Option<u32> {
        let last = self.last()?;
        self.remove(links, last);
        Some(last)
    }

    /// The elements from first to last.
    pub fn iter<'a>(&self, links: &'a Links) -> impl Iterator<Item = u32> + 'a {
        let mut at = self.first;
        std::iter::from_fn(move || {
            let element = at;
            if element == NONE {
                return None;
            }
            at = links.0[element as usize].next;
            Some(element)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn two_lists_over_one_table_behave_as_two_deques(
            moves in prop::collection::vec((0u32..8, 0usize..3), 0..100)
        ) {
            let mut links = Links::new(8);
            let mut lists = [List::EMPTY; 2];
            let mut model = [Vec::new(), Vec::new()];
            for (element, to) in moves {
                for (list, model) in lists.iter_mut().zip(&mut model) {
                    if let Some(at) = model.iter().position(|&other| other == element) {
                        model.remove(at);
                        list.remove(&mut links, element);
                    }
                }
                if let Some(list) = lists.get_mut(to) {
                    list.push(&mut links, element);
                    model[to].push(element);
                }
                for (list, model) in lists.iter().zip(&model) {
                    prop_assert_eq!(&list.iter(&links).collect::<Vec<_>>(), model);
                    prop_assert_eq!(list.first(), model.first().copied());
                    prop_assert_eq!(list.last(), model.last().copied());
                    prop_assert_eq!(list.is_empty(), model.is_empty());
                }
            }
            if let Some(element) = lists[0].pop_last(&mut links) {
                prop_assert_eq!(Some(element), model[0].pop());
            }
            while let Some(element) = lists[0].pop(&mut links) {
                prop_assert_eq!(element, model[0].remove(0));
            }
            prop_assert!(model[0].is_empty());
        }
    }
}
