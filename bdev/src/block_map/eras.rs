//! When a dirty page must be written: pages by the age of their oldest unwritten change.
//!
//! A dirty page keeps the recovery-journal block of its oldest unwritten change from being reused, so
//! it has to be written before the journal comes round. Time is counted in journal blocks. The window
//! covers the last `maximum_age` of them, the newest included, with one list of pages for each. When the
//! journal's tail moves on by one block, the oldest list leaves the window and its pages expire: a
//! steady trickle of writes instead of a burst.
//!
//! ```text
//!   expired <- | oldest | ... | ... | newest |  <- tail
//!                `------ maximum_age ------'
//! ```

use super::pages::PageId;
use crate::runtime::list::{Links, List};
use crate::types::SequenceNumber;

/// A page that is in no era.
const NOWHERE: u32 = u32::MAX;

/// Dirty pages that wait to become old, and those that have.
pub(super) struct Eras {
    /// One list for each journal block of the window, at its sequence number modulo their number.
    lists: Vec<List>,
    expired: List,
    links: Links,
    /// Which list each page is on.
    home: Vec<u32>,
    /// The oldest journal block of the window.
    oldest: u64,
    /// One more than the newest journal block of the window.
    next: u64,
}

impl Eras {
    /// No dirty page, a window of `maximum_age` journal blocks (at least one) that begins at the
    /// journal's `tail`, and room for `pages` pages.
    pub(super) fn new(maximum_age: u32, tail: SequenceNumber, pages: usize) -> Eras {
        Eras {
            lists: vec![List::EMPTY; maximum_age.max(1) as usize],
            expired: List::EMPTY,
            links: Links::new(pages),
            home: vec![NOWHERE; pages],
            oldest: tail.get(),
            next: tail.get() + 1,
        }
    }

    /// Bytes of memory it holds.
    pub(super) fn memory_held(&self) -> usize {
        let lists = self.lists.capacity() * size_of::<List>();
        lists + self.links.memory_held() + self.home.capacity() * size_of::<u32>()
    }

    /// Makes room for `pages` pages.
    pub(super) fn resize(&mut self, pages: usize) {
        self.links.resize(pages);
        self.home.resize(pages, NOWHERE);
    }

    /// Puts a page whose oldest unwritten change is in journal block `sequence` where it belongs, taking
    /// it from where it was.
    pub(super) fn place(&mut self, page: PageId, sequence: SequenceNumber) {
        self.remove(page);
        if sequence.get() < self.oldest {
            self.expired.push(&mut self.links, page.get());
            self.home[page.index()] = self.lists.len() as u32;
            return;
        }
        self.advance(sequence);
        let era = self.era(sequence.get());
        self.lists[era].push(&mut self.links, page.get());
        self.home[page.index()] = era as u32;
    }

    /// Takes a page out, if it is in.
    pub(super) fn remove(&mut self, page: PageId) {
        let home = std::mem::replace(&mut self.home[page.index()], NOWHERE);
        if home == NOWHERE {
            return;
        }
        let list = self.lists.get_mut(home as usize);
        list.unwrap_or(&mut self.expired)
            .remove(&mut self.links, page.get());
    }

    /// The journal's tail is now block `tail`: what falls out of the window expires.
    pub(super) fn advance(&mut self, tail: SequenceNumber) {
        let length = self.lists.len() as u64;
        if tail.get() >= self.next.saturating_add(length) {
            self.expire_all();
            self.next = tail.get() + 1;
            self.oldest = self.next - length;
            return;
        }
        while self.next <= tail.get() {
            if self.next - self.oldest == length {
                let era = self.era(self.oldest);
                self.expire(era);
                self.oldest += 1;
            }
            self.next += 1;
        }
    }

    /// Makes every page expire, whatever its age.
    pub(super) fn expire_all(&mut self) {
        for sequence in self.oldest..self.next {
            let era = self.era(sequence);
            self.expire(era);
        }
    }

    /// Takes out the next page that has expired.
    #[inline]
    pub(super) fn next_expired(&mut self) -> Option<PageId> {
        let page = PageId::new(self.expired.pop(&mut self.links)?);
        self.home[page.index()] = NOWHERE;
        Some(page)
    }

    fn era(&self, sequence: u64) -> usize {
        (sequence % self.lists.len() as u64) as usize
    }

    fn expire(&mut self, era: usize) {
        while let Some(page) = self.lists[era].pop(&mut self.links) {
            self.expired.push(&mut self.links, page);
            self.home[page as usize] = self.lists.len() as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expired(eras: &mut Eras) -> Vec<u32> {
        std::iter::from_fn(|| eras.next_expired().map(PageId::get)).collect()
    }

    #[test]
    fn a_page_expires_when_its_block_is_a_full_window_behind_the_tail() {
        let mut eras = Eras::new(3, SequenceNumber(10), 4);
        eras.place(PageId::new(0), SequenceNumber(10));
        eras.place(PageId::new(1), SequenceNumber(11));
        eras.advance(SequenceNumber(12));
        assert!(expired(&mut eras).is_empty());
        eras.advance(SequenceNumber(13));
        assert_eq!(expired(&mut eras), [0]);
        eras.advance(SequenceNumber(14));
        assert_eq!(expired(&mut eras), [1]);
    }

    #[test]
    fn a_page_behind_the_window_expires_at_once_and_one_ahead_moves_the_window() {
        let mut eras = Eras::new(2, SequenceNumber(10), 4);
        eras.place(PageId::new(0), SequenceNumber(9));
        assert_eq!(expired(&mut eras), [0]);
        eras.place(PageId::new(1), SequenceNumber(10));
        eras.place(PageId::new(2), SequenceNumber(12));
        assert_eq!(expired(&mut eras), [1]);
    }

    #[test]
    fn a_tail_that_jumps_far_ahead_expires_all_and_leaves_a_full_window() {
        let mut eras = Eras::new(3, SequenceNumber(1), 4);
        eras.place(PageId::new(0), SequenceNumber(1));
        eras.advance(SequenceNumber(u64::MAX / 2));
        assert_eq!(expired(&mut eras), [0]);
        eras.place(PageId::new(1), SequenceNumber(u64::MAX / 2 - 2));
        assert_eq!(expired(&mut eras), []);
        eras.place(PageId::new(2), SequenceNumber(u64::MAX / 2 - 3));
        assert_eq!(expired(&mut eras), [2]);
        eras.advance(SequenceNumber(u64::MAX / 2 + 1));
        assert_eq!(expired(&mut eras), [1]);
    }

    #[test]
    fn a_page_that_was_removed_does_not_expire() {
        let mut eras = Eras::new(2, SequenceNumber(1), 2);
        eras.place(PageId::new(0), SequenceNumber(1));
        eras.place(PageId::new(1), SequenceNumber(1));
        eras.remove(PageId::new(0));
        eras.remove(PageId::new(0));
        eras.advance(SequenceNumber(9));
        assert_eq!(expired(&mut eras), [1]);
    }

    proptest! {
        #[test]
        fn exactly_what_is_older_than_the_window_has_expired(
            age in 1u32..6,
            steps in prop::collection::vec((0u32..5, 0u64..4, any::<bool>()), 1..60),
        ) {
            let mut eras = Eras::new(age, SequenceNumber(20), 5);
            let (mut tail, mut oldest) = (20, 20);
            let mut model = [None; 5];
            for (page, back, dirty) in steps {
                if dirty {
                    let sequence = tail - back;
                    // A page's oldest change can only become older.
                    if model[page as usize].is_none_or(|old| sequence < old) {
                        model[page as usize] = Some(sequence);
                        eras.place(PageId::new(page), SequenceNumber(sequence));
                    }
                } else {
                    tail += back;
                    eras.advance(SequenceNumber(tail));
                }
                oldest = oldest.max((tail + 1).saturating_sub(u64::from(age)));
                let mut got = expired(&mut eras);
                got.sort_unstable();
                let mut want = Vec::new();
                for (page, at) in model.iter_mut().enumerate() {
                    if at.is_some_and(|at| at < oldest) {
                        want.push(page as u32);
                        *at = None;
                    }
                }
                prop_assert_eq!(got, want);
            }
            eras.expire_all();
            prop_assert_eq!(expired(&mut eras).len(), model.iter().flatten().count());
        }
    }
}
