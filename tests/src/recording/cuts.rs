//! Losses of power in a recorded run: where, how, and what is left.

use std::path::Path;

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use vdo::format::block_map_page::{BlockMapPage, PageValidity};
use vdo::format::open::VolumeLayout;
use vdo::format::{Block, SECTOR_SIZE};
use vdo::types::{BLOCK_SIZE, Pbn};

use super::log_writes::{Event, LogError, read};
use crate::sim::audit::{Blocks, volume_on};
use crate::sim::disk::Loss;

/// A run of a volume, as its device saw it.
#[derive(Debug)]
pub struct Recording {
    /// The device before the run.
    pub before: Blocks,
    /// Blocks of the device.
    pub size: u64,
    /// What happened to it.
    pub events: Vec<Event>,
}

/// A loss of power.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// At which event: a flush, or a durable write.
    pub at: usize,
    /// What becomes of what is not durable then.
    pub loss: Loss,
    /// Why this event.
    pub interest: Interest,
}

/// What makes an event a moment at which much can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interest {
    /// The super block is written, or what must be durable before.
    SuperBlock,
    /// The recovery journal begins a new lap, or ends one.
    Lap,
    /// Slab journals, counters, the summary or pages of the block map are not durable yet.
    Metadata,
    /// None of these.
    Other,
}

impl Interest {
    /// All, the most doubtful first.
    pub const ALL: [Interest; 4] = [
        Interest::SuperBlock,
        Interest::Lap,
        Interest::Metadata,
        Interest::Other,
    ];
}

impl Recording {
    /// What the log at this path tells of a device that held `before`.
    ///
    /// # Errors
    /// It is no log, or not whole.
    pub fn read(log: &Path, before: Blocks, size: u64) -> Result<Recording, LogError> {
        let events = read(log)?;
        Ok(Recording {
            before,
            size,
            events,
        })
    }

    /// So many losses of power, or as many as there are moments for, the earliest first; of each interest about as many.
    ///
    /// # Panics
    /// When there was no volume on the device.
    pub fn cuts(&self, count: usize, random: &mut ChaCha8Rng) -> Vec<Cut> {
        let volume = volume_on(&self.before, self.size);
        let layout = volume.expect("a volume was recorded").layout;
        let mut moments = self.moments(&layout);
        moments.shuffle(random);
        let mut chosen = Vec::new();
        for (number, interest) in Interest::ALL.into_iter().enumerate() {
            // What the first ones had not enough moments for is left to the others.
            let share = (count - chosen.len()) / (Interest::ALL.len() - number);
            let of_it = moments.iter().filter(|(_, this)| *this == interest);
            chosen.extend(of_it.take(share).copied());
        }
        chosen.sort_unstable();
        let cut = |(at, interest)| Cut {
            at,
            interest,
            loss: loss(random),
        };
        chosen.into_iter().map(cut).collect()
    }

    /// Every moment at which the power can go, and what is remarkable about it.
    fn moments(&self, layout: &VolumeLayout) -> Vec<(usize, Interest)> {
        let mut moments = Vec::new();
        let mut cached = Interest::Other;
        for (at, event) in self.events.iter().enumerate() {
            match event {
                Event::Flush => {
                    moments.push((at, cached));
                    cached = Interest::Other;
                }
                Event::Write {
                    at: place,
                    data,
                    durable,
                } => {
                    let pbn = place / BLOCK_SIZE as u64;
                    let found = interest(layout, pbn, data);
                    match durable {
                        true => moments.push((at, found)),
                        false => cached = cached.min(found),
                    }
                    // The flush before a write of the super block, if this is one.
                    if let (Interest::SuperBlock, Some(last)) =
                        (found, moments.iter_mut().rev().nth(1))
                    {
                        last.1 = found;
                    }
                }
                Event::Discard { .. } | Event::Mark(_) => {}
            }
        }
        moments
    }

    /// Begins at the beginning.
    pub fn play(&self) -> Playback<'_> {
        Playback {
            recording: self,
            durable: self.before.clone(),
            next: 0,
        }
    }

    /// The device after the last event, with all that was durable by then.
    pub fn after(&self) -> Blocks {
        let mut playback = self.play();
        playback.wind_to(self.events.len());
        playback.durable
    }
}

/// A recording that is gone through from its beginning to its end, once.
#[derive(Debug)]
pub struct Playback<'a> {
    recording: &'a Recording,
    /// What is surely there.
    durable: Blocks,
    /// The event that comes next.
    next: usize,
}

impl Playback<'_> {
    /// Goes on to a cut; the device that is left.
    ///
    /// # Panics
    /// When that is past already, or at no flush and no durable write.
    pub fn cut(&mut self, cut: &Cut, random: &mut ChaCha8Rng) -> Blocks {
        assert!(cut.at >= self.next, "a playback goes forward");
        let events = &self.recording.events;
        let cached = events[..cut.at]
            .iter()
            .rev()
            .take_while(|event| is_cached(event))
            .count();
        let (doubtful, luck) = match &events[cut.at] {
            Event::Flush => (cut.at - cached..cut.at, cut.loss.kept),
            Event::Write { durable: true, .. } => (cut.at..cut.at + 1, cut.loss.unanswered),
            other => panic!("no cut at {other:?}"),
        };
        self.wind_to(doubtful.start);
        let mut left = self.durable.clone();
        for event in &events[doubtful] {
            let piece = if cut.loss.torn {
                SECTOR_SIZE
            } else {
                BLOCK_SIZE
            };
            happen(&mut left, event, piece, || random.random_bool(luck));
        }
        left
    }

    fn wind_to(&mut self, event: usize) {
        for event in &self.recording.events[self.next..event] {
            happen(&mut self.durable, event, BLOCK_SIZE, || true);
        }
        self.next = event;
    }
}

/// What becomes of writes that are not durable, by chance.
fn loss(random: &mut ChaCha8Rng) -> Loss {
    let luck = [0.0, 0.1, 0.5, 0.9, 1.0];
    Loss {
        kept: *luck.choose(random).expect("not empty"),
        unanswered: *luck.choose(random).expect("not empty"),
        torn: random.random_bool(0.6),
    }
}

/// Whether an event is one that the next flush makes durable.
fn is_cached(event: &Event) -> bool {
    matches!(
        event,
        Event::Write { durable: false, .. } | Event::Discard { .. }
    )
}

/// Lets an event happen to a device: to each piece of so many bytes, if `lands` says so.
fn happen(device: &mut Blocks, event: &Event, piece: usize, mut lands: impl FnMut() -> bool) {
    let (at, data) = match event {
        Event::Write { at, data, .. } => (*at, data.clone()),
        Event::Discard { at, length } => (*at, vec![0; *length as usize]),
        Event::Flush | Event::Mark(_) => return,
    };
    assert!(
        at % piece as u64 == 0,
        "what is written begins with a piece"
    );
    for (bytes, at) in data.chunks(piece).zip((at..).step_by(piece)) {
        if lands() {
            let block = device
                .entry(at / BLOCK_SIZE as u64)
                .or_insert([0; BLOCK_SIZE]);
            let within = (at % BLOCK_SIZE as u64) as usize;
            block[within..within + bytes.len()].copy_from_slice(bytes);
        }
    }
}

/// What a write of this data to this block has to do with.
fn interest(layout: &VolumeLayout, pbn: u64, data: &[u8]) -> Interest {
    let pbn = Pbn(pbn);
    let journal = layout.recovery_journal;
    if pbn == layout.super_block {
        return Interest::SuperBlock;
    }
    if journal.contains(pbn) {
        let first_or_last = pbn == journal.start || pbn.get() + 1 == journal.end().get();
        return if first_or_last {
            Interest::Lap
        } else {
            Interest::Other
        };
    }
    let page = <&Block>::try_from(data).is_ok_and(|block| {
        BlockMapPage::new(block).validity(layout.nonce, pbn) == PageValidity::Valid
    });
    match page || !layout.slabs.is_data_block(pbn) {
        true => Interest::Metadata,
        false => Interest::Other,
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn write(block: u64, byte: u8, durable: bool) -> Event {
        let (at, data) = (block * BLOCK_SIZE as u64, vec![byte; BLOCK_SIZE]);
        Event::Write { at, data, durable }
    }

    /// What is left of blocks 0 to 3 after a loss of power at an event: the first bytes of the first and the last sector.
    fn left(at: usize, luck: f64, torn: bool) -> Vec<[u8; 2]> {
        let events = vec![
            write(0, 1, true),
            write(1, 2, false),
            write(2, 3, false),
            Event::Flush,
            Event::Mark("done".to_owned()),
            write(0, 4, true),
            write(1, 5, false),
            Event::Discard {
                at: 2 * BLOCK_SIZE as u64,
                length: BLOCK_SIZE as u64,
            },
            Event::Flush,
            write(3, 6, true),
        ];
        let recording = Recording {
            before: Blocks::new(),
            size: 4,
            events,
        };
        let loss = Loss {
            kept: luck,
            unanswered: luck,
            torn,
        };
        let cut = Cut {
            at,
            loss,
            interest: Interest::Other,
        };
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let left = recording.play().cut(&cut, &mut random);
        let ends = |block: u64| {
            left.get(&block)
                .map_or([0; 2], |block| [block[0], block[BLOCK_SIZE - 1]])
        };
        (0..4).map(ends).collect()
    }

    #[test]
    fn what_was_flushed_is_there_and_what_was_not_may_be() {
        assert_eq!(left(3, 0.0, false), [[1; 2], [0; 2], [0; 2], [0; 2]]);
        assert_eq!(left(3, 1.0, true), [[1; 2], [2; 2], [3; 2], [0; 2]]);
        assert_eq!(left(8, 0.0, true), [[4; 2], [2; 2], [3; 2], [0; 2]]);
        assert_eq!(left(8, 1.0, false), [[4; 2], [5; 2], [0; 2], [0; 2]]);
    }

    #[test]
    fn at_a_durable_write_nothing_else_is_in_doubt() {
        assert_eq!(left(5, 0.0, true), [[1; 2], [2; 2], [3; 2], [0; 2]]);
        assert_eq!(left(5, 1.0, true), [[4; 2], [2; 2], [3; 2], [0; 2]]);
        assert_eq!(left(9, 0.0, false)[3], [0; 2]);
    }

    #[test]
    fn a_torn_write_has_old_and_new_sectors() {
        let torn = (0..40).map(|seed| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut device = Blocks::new();
            happen(&mut device, &write(0, 1, false), SECTOR_SIZE, || {
                random.random_bool(0.5)
            });
            device
                .get(&0)
                .map_or(0, |block| block.iter().map(|byte| usize::from(*byte)).sum())
        });
        let sizes: Vec<usize> = torn.collect();
        assert!(
            sizes.iter().all(|size| size % SECTOR_SIZE == 0),
            "{sizes:?}"
        );
        assert!(
            sizes.iter().any(|size| (1..BLOCK_SIZE).contains(size)),
            "{sizes:?}"
        );
    }
}
