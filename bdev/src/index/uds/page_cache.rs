//! Pages of chapters that are kept in memory: those that were looked at last.
//!
//! A page is asked for, and if it is not there, is *wanted*: it gets a place, from the page that was not looked at for longest, and
//! stands in line to be read. Who waits for it is a number that is handed out again when it is there. So many pages may be wanted at
//! once as there are places.

use std::collections::VecDeque;

use crate::format::index::chapter_page::PageFront;
use crate::index::IndexError;
use crate::runtime::chains::Chains;
use crate::runtime::list::{Links, List};

/// A page of the ring: which chapter's, and which of its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageOf {
    /// The virtual chapter.
    pub chapter: u64,
    /// The page in it, index pages first.
    pub page: u32,
}

impl PageOf {
    /// No chapter has so many pages.
    fn key(self) -> u64 {
        self.chapter << 12 | u64::from(self.page)
    }
}

/// A page that stands in line, and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which page.
    pub page: PageOf,
    place: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Empty,
    Wanted(PageOf),
    Ready,
}

/// See the [module](self).
#[derive(Debug)]
pub struct PageCache {
    bytes: Vec<u8>,
    page_bytes: usize,
    places: Vec<Place>,
    /// Of index pages that have been judged, what their fronts say.
    fronts: Vec<Option<PageFront>>,
    by_page: Chains,
    links: Links,
    /// Places that may be taken for another page, the one that was looked at last at the end.
    order: List,
    line: VecDeque<Wanted>,
    waiting: Vec<Vec<u32>>,
    /// Pages that were there when they were asked for.
    pub hits: u64,
    /// Pages that were not.
    pub misses: u64,
}

impl PageCache {
    /// Room for so many pages, at least one.
    ///
    /// # Errors
    /// [`IndexError::NoMemory`].
    pub fn new(pages: usize, page_bytes: u32) -> Result<PageCache, IndexError> {
        let (pages, page_bytes) = (pages.max(1), page_bytes as usize);
        let bytes = super::zeroed(pages as u64 * page_bytes as u64)?;
        let mut links = Links::new(pages);
        let mut order = List::EMPTY;
        (0..pages as u32).for_each(|place| order.push(&mut links, place));
        Ok(PageCache {
            bytes,
            page_bytes,
            places: vec![Place::Empty; pages],
            fronts: vec![None; pages],
            by_page: Chains::new(pages),
            links,
            order,
            line: VecDeque::with_capacity(pages),
            waiting: vec![Vec::new(); pages],
            hits: 0,
            misses: 0,
        })
    }

    /// Bytes of memory taken.
    pub fn memory_bytes(&self) -> u64 {
        let waiting: usize = self.waiting.iter().map(|who| who.capacity() * 4).sum();
        let fronts = self.fronts.capacity() * size_of::<Option<PageFront>>();
        let tables = self.by_page.memory_held() + self.links.memory_held() + fronts;
        (self.bytes.len() + tables + waiting) as u64
    }

    fn range(&self, place: u32) -> std::ops::Range<usize> {
        let start = place as usize * self.page_bytes;
        start..start + self.page_bytes
    }

    /// The page, if it is here.
    #[inline]
    pub fn get(&mut self, page: PageOf) -> Option<&[u8]> {
        let place = self.look_up(page)?;
        Some(&self.bytes[self.range(place)])
    }

    /// The page, if it is here, and what is known of its front: nothing before it is noted.
    #[inline]
    pub fn get_judged(&mut self, page: PageOf) -> Option<(&[u8], &mut Option<PageFront>)> {
        let place = self.look_up(page)?;
        let range = self.range(place);
        Some((&self.bytes[range], &mut self.fronts[place as usize]))
    }

    #[inline]
    fn look_up(&mut self, page: PageOf) -> Option<u32> {
        let place = self.by_page.find(page.key());
        let ready = place.filter(|place| self.places[*place as usize] == Place::Ready);
        let Some(place) = ready else {
            self.misses += 1;
            return None;
        };
        self.hits += 1;
        if self.order.last() != Some(place) {
            self.order.remove(&mut self.links, place);
            self.order.push(&mut self.links, place);
        }
        Some(place)
    }

    /// Wants a page that is not here, for `who`. False if every place waits to be filled: then it is to be tried again when one is.
    pub fn want(&mut self, page: PageOf, who: u32) -> bool {
        let place = match self.by_page.find(page.key()) {
            Some(place) => place,
            None => {
                let Some(place) = self.order.pop(&mut self.links) else {
                    return false;
                };
                if self.places[place as usize] == Place::Ready {
                    self.by_page.remove(place);
                }
                self.by_page.insert(page.key(), place);
                self.places[place as usize] = Place::Wanted(page);
                self.line.push_back(Wanted { page, place });
                place
            }
        };
        self.waiting[place as usize].push(who);
        true
    }

    /// The next page to be read.
    pub fn next_wanted(&mut self) -> Option<Wanted> {
        self.line.pop_front()
    }

    /// A wanted page was read; or, without `bytes`, could not be. Hands out who waited for it.
    pub fn fill(&mut self, wanted: Wanted, bytes: Option<&[u8]>, mut waited: impl FnMut(u32)) {
        let place = wanted.place;
        self.fronts[place as usize] = None;
        self.places[place as usize] = match bytes {
            Some(bytes) => {
                let range = self.range(place);
                self.bytes[range].copy_from_slice(bytes);
                Place::Ready
            }
            None => {
                self.by_page.remove(place);
                Place::Empty
            }
        };
        self.order.push(&mut self.links, place);
        // Put back below, so that it is never allocated again.
        let mut who = std::mem::take(&mut self.waiting[place as usize]);
        who.drain(..).for_each(&mut waited);
        self.waiting[place as usize] = who;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn page(number: u32) -> PageOf {
        PageOf {
            chapter: u64::from(number / 3),
            page: number % 3,
        }
    }

    proptest! {
        /// PageCache_t1 of the original, at random: the pages looked at last are there, and whoever waits is told once.
        #[test]
        fn the_pages_looked_at_last_are_there_and_who_waits_is_told(
            places in 1_usize..6, asked in prop::collection::vec((0_u32..12, 0_u8..4), 1..200),
        ) {
            let mut cache = PageCache::new(places, 1024).expect("little memory");
            let mut recent: Vec<u32> = Vec::new();
            let mut line: Vec<Wanted> = Vec::new();
            let mut waiting: HashMap<u32, Vec<u32>> = HashMap::new();
            for (who, (number, then)) in (0..).zip(asked) {
                let known = recent.contains(&number);
                let found = cache.get(page(number)).map(|bytes| bytes[7]);
                prop_assert_eq!(found, known.then_some(number as u8));
                if known {
                    recent.retain(|other| *other != number);
                    recent.push(number);
                } else {
                    let takes = !waiting.contains_key(&number);
                    let room = waiting.len() < places || !takes;
                    prop_assert_eq!(cache.want(page(number), who), room);
                    if room {
                        waiting.entry(number).or_default().push(who);
                        if takes && recent.len() + waiting.len() > places {
                            recent.remove(0);
                        }
                    }
                }
                line.extend(std::iter::from_fn(|| cache.next_wanted()));
                if then > 0 && !line.is_empty() {
                    let wanted = line.remove(usize::from(then) % line.len());
                    let number = wanted.page.chapter as u32 * 3 + wanted.page.page;
                    let fails = then == 3;
                    let bytes = [number as u8; 1024];
                    let mut told = Vec::new();
                    cache.fill(wanted, (!fails).then_some(&bytes[..]), |who| told.push(who));
                    prop_assert_eq!(Some(told), waiting.remove(&number));
                    if fails {
                        prop_assert!(cache.get(page(number)).is_none());
                        break;
                    }
                    recent.push(number);
                }
            }
        }
    }
}
