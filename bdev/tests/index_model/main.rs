//! The index alone, under a model: random posts, queries and updates on tiny rings, cut into one to four zones, saved, loaded into
//! other numbers of zones, and cut off at any I/O.
//!
//! The model keeps what each chapter should hold. While nothing fails, every answer is exactly what it says. After a crash the index is
//! as it was saved, or made again from the chapters that were durable: then nothing of these is missing, and nothing is answered that
//! was never said of the name.

mod disk;
mod model;

use proptest::prelude::*;
use vdo::format::index::IndexGeometry;
use vdo::format::index::nonce::NonceInfo;
use vdo::index::IndexOp;
use vdo::index::uds::whole::{IndexPlan, Opened, WholeIndex};
use vdo::types::Pbn;

use self::disk::{Disk, now};
use self::model::{Chance, Model, name, record};

/// Five chapters of 256 records.
fn dense() -> IndexGeometry {
    IndexGeometry::new(4096, 2, 5, 0, false)
}

/// Thirty chapters, two of which are dense.
fn sparse() -> IndexGeometry {
    IndexGeometry::new(4096, 2, 30, 28, false)
}

fn plan(geometry: IndexGeometry, zones: u8) -> IndexPlan {
    IndexPlan {
        geometry,
        start: Pbn(1),
        volume: 77,
        zones,
        cache_pages: 5,
    }
}

/// One index through several lives.
struct Run {
    geometry: IndexGeometry,
    chance: Chance,
    disk: Disk,
    index: WholeIndex<Disk>,
    model: Model,
    names: u64,
    time: u64,
    /// Names that were known by a chapter of which the volume index knows samples only.
    beyond: u64,
}

impl Run {
    fn new(geometry: IndexGeometry, seed: u64, names: u64) -> Run {
        let mut chance = Chance(seed);
        let disk = Disk::default();
        let zones = 1 + chance.below(4) as u8;
        let created =
            WholeIndex::create(plan(geometry, zones), disk.clone(), NonceInfo::new(seed, 1));
        Run {
            index: now(created).expect("nothing fails"),
            geometry,
            chance,
            disk,
            model: Model::new(geometry),
            names,
            time: 1000,
            beyond: 0,
        }
    }

    /// Asks something; `false` if the device failed.
    fn ask(&mut self) -> bool {
        // Mostly names that came lately, so that some come again in time.
        let number = match self.chance.below(3) {
            0 => self.chance.below(self.names),
            _ => (self.model.asked + self.chance.below(100)) % self.names,
        };
        let op = [
            IndexOp::Post,
            IndexOp::Post,
            IndexOp::Query,
            IndexOp::Update,
            IndexOp::Peek,
        ][self.chance.below(5) as usize];
        let record = record(number, self.chance.next());
        let expected = match op {
            IndexOp::Peek => self.model.expected(&record.name),
            _ => {
                let chapters = self.index.sparse_chapters();
                let expected = self.model.expected_beyond(&record.name, &chapters);
                self.beyond += u64::from(expected != self.model.expected(&record.name));
                expected
            }
        };
        match now(self.index.ask(op, record)) {
            Ok(known) => {
                assert_eq!(known, expected, "{op:?} of name {number}");
                self.model.asked(op, record, known, self.index.newest());
                true
            }
            Err(_) => {
                assert!(self.disk.has_failed(), "nothing else fails");
                // It may have got as far as a chapter that was closed with it.
                self.model.was_asking(op, record, expected);
                false
            }
        }
    }

    fn save(&mut self) -> bool {
        self.time += self.chance.below(3);
        self.model.begin_save();
        let saved = now(self.index.save(self.time)).is_ok();
        if saved {
            self.model.end_save();
        }
        saved
    }

    /// Opens it again, cut into some number of zones.
    fn reopen(&mut self) -> Opened {
        let zones = 1 + self.chance.below(4) as u8;
        let opened = now(WholeIndex::open(
            plan(self.geometry, zones),
            self.disk.clone(),
        ));
        let (index, opened) = opened.expect("an index that was made can be opened");
        self.index = index;
        opened
    }

    fn peek_all(&mut self) -> Vec<Option<vdo::format::index::record_page::RecordData>> {
        let index = &mut self.index;
        (0..self.names)
            .map(|number| now(index.peek(name(number))).expect("nothing fails"))
            .collect()
    }

    fn crash(&mut self) {
        self.disk.after_crash(&mut self.chance);
        let opened = self.reopen();
        let answers = self.peek_all();
        let open = self.index.open_records();
        match opened {
            Opened::Loaded => self.model.check_loaded(&answers, open),
            Opened::Rebuilt => {
                let index = &mut self.index;
                let last = index.newest().checked_sub(1);
                let is_in_last = |number: u64| index.chapter_hint(&name(number)) == last;
                let in_last: Vec<bool> = (0..self.names).map(is_in_last).collect();
                self.model
                    .check_rebuilt(&answers, &in_last, self.index.newest());
            }
        }
    }

    fn lives(&mut self, rounds: u64) {
        for _ in 0..rounds {
            let will_crash = self.chance.below(2) == 0;
            if will_crash {
                self.disk.fail_after(self.chance.below(60));
            }
            let mut alive = true;
            for _ in 0..self.chance.below(1500) {
                alive = alive && self.ask();
            }
            if alive && self.chance.below(2) == 0 {
                alive = self.save();
                for _ in 0..self.chance.below(200) {
                    alive = alive && self.ask();
                }
            }
            if will_crash {
                self.crash();
                continue;
            }
            assert!(alive && self.save());
            let open = self.index.open_records();
            assert_eq!(self.reopen(), Opened::Loaded);
            let answers = self.peek_all();
            assert!(self.index.open_records() <= open);
            self.model.check_loaded(&answers, self.index.open_records());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_dense_index_does_what_the_model_says_through_saves_and_crashes(seed: u64) {
        Run::new(dense(), seed, 1500).lives(8);
    }

    #[test]
    fn a_sparse_index_does_what_the_model_says_through_saves_and_crashes(seed: u64) {
        Run::new(sparse(), seed, 3000).lives(8);
    }
}

/// Every I/O of a chapter's closing, and of a save, is one after which nothing comes.
#[test]
fn an_index_survives_being_cut_off_at_each_io_of_closing_a_chapter_and_of_saving() {
    for (ios, seed) in (0..36).flat_map(|ios| (0..8).map(move |seed| (ios, seed))) {
        let mut run = Run::new(dense(), ios * 100 + seed, 1500);
        for _ in 0..2 {
            while !run.index.open_records().is_multiple_of(200) || run.index.open_records() == 0 {
                assert!(run.ask());
            }
            assert!(run.save());
            run.disk.fail_after(ios);
            let before = run.index.newest();
            while run.index.newest() < before + 2 && run.ask() {}
            if !run.disk.has_failed() {
                run.save();
            }
            run.crash();
        }
    }
}

#[test]
fn an_index_of_another_volume_or_none_is_missing() {
    let disk = Disk::default();
    let open = |volume| {
        let plan = IndexPlan {
            volume,
            ..plan(dense(), 1)
        };
        now(WholeIndex::open(plan, disk.clone())).map(|(_, opened)| opened)
    };
    assert_eq!(open(77), Err(vdo::index::IndexError::Missing));
    now(WholeIndex::create(
        plan(dense(), 1),
        disk.clone(),
        NonceInfo::new(1, 1),
    ))
    .expect("nothing fails");
    assert_eq!(open(77), Ok(Opened::Rebuilt));
    assert_eq!(open(78), Err(vdo::index::IndexError::Missing));
}

#[test]
fn a_new_index_knows_nothing_of_the_one_before_it() {
    let disk = Disk::default();
    let mut index = now(WholeIndex::create(
        plan(dense(), 2),
        disk.clone(),
        NonceInfo::new(1, 1),
    ))
    .expect("nothing fails");
    for number in 0..1000 {
        now(index.ask(IndexOp::Post, record(number, 1))).expect("nothing fails");
    }
    now(index.save(5)).expect("nothing fails");
    now(WholeIndex::create(
        plan(dense(), 2),
        disk.clone(),
        NonceInfo::new(1, 2),
    ))
    .expect("nothing fails");
    let (mut index, opened) = now(WholeIndex::open(plan(dense(), 1), disk)).expect("an index");
    assert_eq!((opened, index.newest()), (Opened::Rebuilt, 0));
    for number in 0..1000 {
        assert_eq!(now(index.peek(name(number))), Ok(None));
    }
}

/// Sparse_t1 of the original: chapters known by samples only know all their names once a sample has come.
#[test]
fn names_that_come_again_in_order_are_found_by_the_samples_among_them() {
    let geometry = sparse();
    // Few enough that no chapter is dropped while they come again.
    let names = u64::from(geometry.records_per_chapter()) * 12;
    for zones in 1..=3 {
        let mut run = Run::new(geometry, 7, names);
        let plan = plan(geometry, zones);
        let created = WholeIndex::create(plan, run.disk.clone(), NonceInfo::new(8, 1));
        run.index = now(created).expect("nothing fails");
        let mut post = |number: u64| {
            let posted = now(run.index.ask(IndexOp::Post, record(number, number)));
            posted
                .expect("nothing fails")
                .map(|data| data.0[..8].to_vec())
        };
        assert!((0..names).all(|number| post(number).is_none()));
        let known = |number: &u64| match post(*number) {
            Some(tag) => {
                assert_eq!(tag, number.to_le_bytes(), "what was said of it");
                true
            }
            None => false,
        };
        let known = (0..names).filter(known).count() as u64;
        // Of each chapter those are not known that come before its first sample: 32 of 256 or so. By samples alone it would
        // be one in 32, and what is in the dense chapters.
        assert!(known > names * 3 / 4, "{known} of {names}");
        assert!(known < names, "{known} of {names}");
        assert!(run.index.sparse_chapters().len() <= 7);
    }
}

/// One that is looked in for too long without having anything is passed over until a sample of it comes.
#[test]
fn a_chapter_that_has_nothing_for_long_is_passed_over_until_a_sample_of_it_comes() {
    let geometry = sparse();
    let mut run = Run::new(geometry, 9, 1);
    let created = WholeIndex::create(plan(geometry, 1), run.disk.clone(), NonceInfo::new(9, 1));
    run.index = now(created).expect("nothing fails");
    let each = u64::from(geometry.records_per_chapter());
    let ask = |index: &mut WholeIndex<Disk>, op, number| {
        now(index.ask(op, record(number, number))).expect("nothing fails")
    };
    let filled = each * 6;
    for number in 0..filled {
        assert_eq!(ask(&mut run.index, IndexOp::Post, number), None);
    }
    let is_sample = |number: &u64| geometry.is_sample(&name(*number));
    let samples: Vec<u64> = (0..each).filter(is_sample).collect();
    assert!(ask(&mut run.index, IndexOp::Query, samples[0]).is_some());
    assert_eq!(run.index.sparse_chapters(), [0]);
    for number in filled..filled + 25_000 {
        ask(&mut run.index, IndexOp::Query, number);
    }
    assert!(run.index.sparse_chapters().is_empty());
    let other = (0..each).find(|number| !is_sample(number)).expect("one");
    assert_eq!(ask(&mut run.index, IndexOp::Query, other), None);
    assert!(ask(&mut run.index, IndexOp::Query, samples[1]).is_some());
    assert_eq!(run.index.sparse_chapters(), [0]);
    assert!(ask(&mut run.index, IndexOp::Query, other).is_some());
}

/// The volume index takes some name here for another one that has its key, in a chapter that has only that one.
#[test]
fn a_name_that_is_taken_for_another_is_looked_for_by_samples_too() {
    Run::new(sparse(), 4_688_018_836_658_772_218, 3000).lives(8);
}
