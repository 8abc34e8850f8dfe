//! What an index of a certain size would still remember: a model, of chapters and not of names.
//!
//! An index is a ring of chapters. What is new, or seen again, goes into the open chapter, unless it is in it already. When that is full the next one is
//! opened, and with the ring full the oldest is forgotten. So a name is known if the chapter it came into last is still there; that is all
//! the model needs to know of it: when it came last, and when each chapter was opened.
//!
//! A sparse index knows its older chapters by a sample of their names, one in [`SAMPLE_RATE`]. If such a name comes again, all of its
//! chapter is looked at from then on, for as long as the chapter is among the last few that were wanted so.
//!
//! What the model leaves out: time is counted in steps of [`STEP`] blocks, so that a name may be taken to be in the chapter beside its own; an index
//! drops chapters early when its memory runs short; and one that is asked too much at once lets writes go on without it.
//!
//! If only a sample of all names is followed, each counts for many, and so do the samples of a sparse index: of those that are followed, more are
//! taken to be samples, that a run of names has one as early as all of its names would.

use std::collections::VecDeque;

use vdo::format::index::config::CACHE_CHAPTERS;
use vdo::format::index::geometry::{IndexGeometry, SAMPLE_RATE};
use vdo::types::RecordName;

/// Blocks of a step of time.
pub const STEP: u64 = 64;

/// When a block came: how many came before, in steps of [`STEP`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u32);

impl Time {
    /// The time when so many blocks have come; it stands still after a pebibyte of them.
    pub fn after(blocks: u64) -> Time {
        Time(u32::try_from(blocks / STEP).unwrap_or(u32::MAX))
    }
}

/// An index, as far as what it remembers. See the [module](self).
#[derive(Debug)]
pub struct Window {
    geometry: IndexGeometry,
    /// When each chapter was opened that there is, the open one last.
    opened: VecDeque<Time>,
    /// The number of the oldest of them.
    oldest: u64,
    /// Names in the open chapter.
    in_open: u64,
    /// Sparse chapters that are looked at, the one wanted last at the end.
    wanted: Vec<u64>,
    /// Blocks that are duplicates of what it had forgotten.
    forgotten: u64,
}

impl Window {
    /// An empty index.
    pub fn new(geometry: IndexGeometry) -> Window {
        Window {
            geometry,
            opened: VecDeque::from([Time(0)]),
            oldest: 0,
            in_open: 0,
            wanted: Vec::with_capacity(CACHE_CHAPTERS as usize + 1),
            forgotten: 0,
        }
    }

    /// Names it remembers when it is full.
    pub fn capacity(geometry: &IndexGeometry) -> u64 {
        u64::from(geometry.records_per_chapter()) * u64::from(geometry.chapters)
    }

    /// Duplicates that it did not know as such.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// A name came that had come last at `last`, if ever, and that stands for `weight` of them.
    pub fn meet(&mut self, name: &RecordName, last: Option<Time>, now: Time, weight: u64) {
        if let Some(last) = last {
            if self.opened.back().is_some_and(|open| last >= *open) {
                return;
            }
            if !self.knows(name, last, weight) {
                self.forgotten += weight;
            }
        }
        self.in_open += weight;
        if self.in_open >= u64::from(self.geometry.records_per_chapter()) {
            self.open_next(now);
        }
    }

    /// Whether a name is known that came last at `last`, before the open chapter.
    fn knows(&mut self, name: &RecordName, last: Time, weight: u64) -> bool {
        let Some(before) = self
            .opened
            .partition_point(|opened| *opened <= last)
            .checked_sub(1)
        else {
            return false;
        };
        let chapter = self.oldest + before as u64;
        let open = self.oldest + self.opened.len() as u64 - 1;
        if !self.geometry.is_chapter_sparse(self.oldest, open, chapter) {
            return true;
        }
        let known = self.wanted.iter().position(|wanted| *wanted == chapter);
        if known.is_none() && !is_sample(name, weight) {
            return false;
        }
        known.map(|place| self.wanted.remove(place));
        self.wanted.push(chapter);
        if self.wanted.len() > CACHE_CHAPTERS as usize {
            self.wanted.remove(0);
        }
        true
    }

    fn open_next(&mut self, now: Time) {
        self.in_open = 0;
        self.opened.push_back(now);
        if self.opened.len() > self.geometry.chapters as usize {
            self.opened.pop_front();
            self.oldest += 1;
        }
    }
}

/// Whether a name is one that sparse chapters are known by, or is taken for one.
fn is_sample(name: &RecordName, weight: u64) -> bool {
    let bits = u16::from_be_bytes([name.0[14], name.0[15]]);
    let rate = u64::from(SAMPLE_RATE) / weight;
    u64::from(bits).is_multiple_of(rate.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of 1024 names to a chapter.
    fn window(chapters: u32, sparse: u32) -> Window {
        Window::new(IndexGeometry::new(4096, 8, chapters, sparse, false))
    }

    /// A name whose sample bits are its number.
    fn name(number: u64) -> RecordName {
        let mut name = RecordName([0; 16]);
        name.0[..8].copy_from_slice(&number.to_be_bytes());
        name.0[14..].copy_from_slice(&(number as u16).to_be_bytes());
        name
    }

    /// Goes through so many names again and again, which each time come for the first time, or came one round before.
    fn rounds(window: &mut Window, names: u64, rounds: u64, weight: u64) {
        for round in 0..rounds {
            for number in (0..names).step_by(weight as usize) {
                let now = Time::after(round * names + number);
                let last = round
                    .checked_sub(1)
                    .map(|before| Time::after(before * names + number));
                // The first sample of a chapter is its seventeenth name.
                window.meet(&name(number + 16), last, now, weight);
            }
        }
    }

    #[test]
    fn what_fits_is_remembered_and_what_is_longer_ago_is_not() {
        let mut roomy = window(8, 0);
        assert_eq!(Window::capacity(&roomy.geometry), 8192);
        rounds(&mut roomy, 7000, 4, 1);
        assert_eq!(roomy.forgotten(), 0);
        // As with every ring that is gone round: nothing is there any more when it comes again.
        let mut tight = window(8, 0);
        rounds(&mut tight, 9000, 4, 1);
        assert_eq!(tight.forgotten(), 27_000);
        let mut sampled = window(8, 0);
        rounds(&mut sampled, 9000, 4, 8);
        assert_eq!(sampled.forgotten(), 27_000);
    }

    #[test]
    fn a_name_that_comes_again_and_again_stays_known() {
        let mut window = window(2, 0);
        let mut last = None;
        for number in 0..20_000 {
            let now = Time::after(number);
            window.meet(&name(1 + number), None, now, 1);
            if number.is_multiple_of(500) {
                window.meet(&name(0), last, now, 1);
                last = Some(now);
            }
        }
        assert_eq!(window.forgotten(), 0);
    }

    #[test]
    fn a_sparse_index_knows_old_runs_from_their_first_sample_on() {
        let mut window = window(80, 76);
        rounds(&mut window, 60_000, 2, 1);
        // In each of nearly sixty chapters up to the first sample, or in the one before for as long as a step of time.
        let forgotten = window.forgotten();
        assert!((57 * 16..60 * STEP).contains(&forgotten), "{forgotten}");

        // One here and one there, in more chapters than are looked at: only samples are known.
        let mut scattered = self::window(80, 76);
        rounds(&mut scattered, 60_000, 1, 1);
        let mut known = 0;
        for step in 0..600 {
            let number = step * 7919 % 56_000;
            let before = scattered.forgotten();
            scattered.meet(
                &name(number + 16),
                Some(Time::after(number)),
                Time::after(60_000),
                1,
            );
            known += u64::from(scattered.forgotten() == before);
        }
        assert!(known < 120, "{known}");
    }
}
