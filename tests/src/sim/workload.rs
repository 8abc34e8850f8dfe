//! Random requests against a volume and the model beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rand::Rng;
use rand::seq::IndexedRandom;
use vdo::format::tree::ENTRIES_PER_PAGE;
use vdo::format::{Growth, MAXIMUM_LOGICAL_BLOCKS};
use vdo::seam::{Nanos, RequestHeader, RequestKind};
use vdo::types::BLOCK_SIZE;
use vdo::volume::{AnswerMode, IndexCommand, TransitionCounts, VolumeError};

use super::growth::Asked;
use super::model::{Model, Moment};
use super::profile::{Profile, Switch};
use super::request::Ticket;
use super::salvage::Salvage;
use super::world::World;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

struct UnderWay {
    number: u64,
    began: Moment,
    ticket: Arc<Ticket>,
    /// Whether the volume was known to be read-only when this was submitted.
    was_read_only: bool,
}

/// What happened to the requests of a life.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Requests that succeeded.
    pub done: u64,
    /// Requests that found no space.
    pub no_space: u64,
    /// Requests that failed otherwise.
    pub failed: u64,
    /// Times the volume grew.
    pub grown: u64,
}

impl Tally {
    /// Adds another life's.
    pub fn add(&mut self, other: &Tally) {
        self.done += other.done;
        self.no_space += other.no_space;
        self.failed += other.failed;
        self.grown += other.grown;
    }
}

/// The callers of a volume, and what they know.
pub struct Workload<'a> {
    profile: &'a Profile,
    model: &'a mut Model,
    clock: &'a mut Moment,
    under_way: Vec<UnderWay>,
    /// Administrators' questions not yet answered.
    questions: Arc<AtomicU32>,
    asked: u32,
    growth: Option<Asked>,
    fresh: u64,
    known_read_only: bool,
    /// What happened so far.
    pub tally: Tally,
}

/// The bytes of block of data number `id`; zero for 0.
pub fn content(id: u64, to: &mut [u8]) {
    if id == 0 {
        return to.fill(0);
    }
    let mut state = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for chunk in to.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
}

/// As [`content`], but with a last part that compresses: from nothing to all but a hundredth.
pub fn compressible(id: u64, to: &mut [u8]) {
    content(id, to);
    let percent = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize >> 32;
    let random = to.len() * (1 + percent % 100) / 100;
    to[random..].fill(id as u8);
}

impl<'a> Workload<'a> {
    /// Callers of a volume that holds what `model` says.
    pub fn new(profile: &'a Profile, model: &'a mut Model, clock: &'a mut Moment) -> Workload<'a> {
        Workload {
            profile,
            model,
            clock,
            under_way: Vec::new(),
            questions: Arc::default(),
            asked: 0,
            growth: None,
            fresh: 0,
            known_read_only: false,
            tally: Tally::default(),
        }
    }

    fn now(&mut self) -> Moment {
        *self.clock += 1;
        *self.clock
    }

    /// Does everything a life has, and waits for all answers.
    pub fn run(&mut self, world: &mut World) {
        let limit = self.profile.callers;
        for _ in 0..self.profile.operations {
            let full = limit.max(1);
            while self.under_way.len() >= full {
                self.advance(world, 20);
            }
            if world
                .random
                .random_bool(if self.profile.grows { 0.05 } else { 0.02 })
            {
                self.administer(world);
            }
            if self.profile.power && world.random.random_bool(0.01) {
                self.lose_power(world);
            }
            self.submit_one(world);
            let pause = world.random.random_range(0..30);
            self.advance(world, pause);
        }
        self.finish(world);
    }

    fn advance(&mut self, world: &mut World, steps: u32) {
        let before = self.under_way.len();
        let mut idle = 0;
        for _ in 0..steps {
            if !world.step() {
                idle += 1;
                world.pass_time();
            }
        }
        self.reap(world);
        if idle == steps && before == self.under_way.len() && steps > 0 {
            // Nothing but a deadline can help; the world knows when even that does not.
            let tickets: Vec<_> = self
                .under_way
                .iter()
                .map(|one| Arc::clone(&one.ticket))
                .collect();
            if tickets.len() >= self.profile.callers.max(1) {
                world.run_until(|| tickets.iter().any(|ticket| ticket.result().is_some()));
                self.reap(world);
            }
        }
    }

    /// Waits for every answer.
    pub fn finish(&mut self, world: &mut World) {
        world.volume.set_index_answer_mode(AnswerMode::Prompt);
        let tickets: Vec<_> = self
            .under_way
            .iter()
            .map(|one| Arc::clone(&one.ticket))
            .collect();
        world.run_until(|| tickets.iter().all(|ticket| ticket.result().is_some()));
        self.reap(world);
        assert!(self.under_way.is_empty(), "every request was answered");
        let (questions, asked) = (Arc::clone(&self.questions), self.asked);
        world.run_until(|| questions.load(Ordering::Relaxed) == asked);
        if let Some(growth) = &self.growth {
            world.run_until(|| growth.is_over());
            self.reap_growth(world);
        }
    }

    fn reap_growth(&mut self, world: &World) {
        let answer = self.growth.as_ref().and_then(Asked::answer);
        let Some(answer) = answer else { return };
        let growth = self.growth.take().expect("just asked");
        let sizes = &mut self.model.sizes;
        match answer {
            Ok(_) => {
                growth.grown(world, sizes);
                self.tally.grown += 1;
            }
            Err(VolumeError::Growth(error)) => growth.refused(world, &error, sizes),
            Err(VolumeError::StillRecovering { .. }) => {
                assert!(growth.was_recovering, "it is not recovering");
            }
            Err(error) => assert!(self.profile.trouble.is_heard_of(), "growing: {error}"),
        }
    }

    /// Has the device become larger, or not, and the volume take it.
    fn grow_physically(&mut self, world: &mut World) {
        let layout = world.volume.layout();
        let slab = layout.slabs.config.slab_blocks;
        let moved = layout.recovery_journal.blocks + layout.slab_summary.blocks;
        let random = &mut world.random;
        let more = match random.random_range(0..10) {
            0 => 0,
            1 => random.random_range(0..moved + slab),
            2..5 => moved + random.random_range(0..=slab),
            _ => moved + random.random_range(0..3) * slab,
        };
        world.disk.grow(more);
        let growth = Growth::Physical(world.disk.size());
        self.growth = Some(Asked::begin(world, &mut self.model.sizes, growth));
    }

    /// Has the volume grow, by a little or by much; or asks for what must be refused.
    fn grow(&mut self, world: &mut World) {
        if self.growth.is_some() {
            return;
        }
        let random = &mut world.random;
        match random.random_range(0..10) {
            // It takes some ten I/Os, among those of others.
            0 => world.disk.shorten_fuse(random.random_range(0..60), None),
            // Or when it is decided which size the volume has.
            1..3 => {
                let super_block = world.volume.layout().super_block.get();
                world
                    .disk
                    .shorten_fuse(random.random_range(0..4), Some(super_block));
            }
            _ => {}
        }
        if world.random.random_bool(0.4) {
            return self.grow_physically(world);
        }
        let now = world.volume.layout().logical_blocks;
        let random = &mut world.random;
        let growth = Growth::Logical(match random.random_range(0..10) {
            0 => now - random.random_range(0..now),
            1 => MAXIMUM_LOGICAL_BLOCKS + random.random_range(1..5),
            2..4 => now + random.random_range(1..200_000_000),
            4..7 => now + random.random_range(1..200_000),
            _ => now + random.random_range(1..2 * ENTRIES_PER_PAGE),
        });
        self.growth = Some(Asked::begin(world, &mut self.model.sizes, growth));
    }

    /// Reads every block that was ever written, and a few others.
    pub fn verify(&mut self, world: &mut World) {
        let touched = self.model.touched();
        let mut at = 0;
        while at < touched.len() {
            let first = touched[at];
            let mut blocks = 1;
            while at + blocks < touched.len()
                && touched[at + blocks] == first + blocks as u64
                && blocks < 64
            {
                blocks += 1;
            }
            at += blocks;
            self.submit(
                world,
                RequestKind::Read,
                first * BLOCK_SIZE as u64,
                (blocks * BLOCK_SIZE) as u64,
                false,
                None,
            );
            while self.under_way.len() >= 32 {
                self.advance(world, 20);
            }
        }
        self.finish(world);
    }

    /// Looks at what would be left if the power went now: all that was flushed must be.
    fn lose_power(&mut self, world: &mut World) {
        self.reap(world);
        let left = world.disk.after_power_loss(&mut world.random);
        let salvage = Salvage::new(left, world.disk.size()).expect("the volume is still there");
        for lbn in self.model.touched() {
            let data = salvage.read(lbn);
            if let Err(wrong) = self.model.check_after_loss(lbn, &data) {
                panic!(
                    "after a loss of power block {lbn}, mapped to {:?}, holds what it must not: {wrong:#?}",
                    salvage.mapping(lbn)
                );
            }
        }
    }

    fn reap(&mut self, world: &World) {
        self.reap_growth(world);
        if world.volume.is_read_only() && !self.known_read_only {
            self.known_read_only = true;
            self.model.lose();
            assert!(
                !self.profile.trouble.is_harmless(),
                "the volume is read-only without reason: {:?}",
                world.volume.read_only_reason()
            );
            assert!(world.volume.read_only_reason().is_some(), "it says why");
        }
        let mut index = 0;
        while index < self.under_way.len() {
            match self.under_way[index].ticket.result() {
                None => index += 1,
                Some(errno) => {
                    let one = self.under_way.swap_remove(index);
                    world
                        .disk
                        .note(|| ("answer", one.number, errno, one.ticket.data()));
                    self.answered(one, errno);
                }
            }
        }
    }

    fn answered(&mut self, one: UnderWay, errno: i32) {
        let now = self.now();
        let header = one.ticket.header;
        match errno {
            0 => self.tally.done += 1,
            ENOSPC => self.tally.no_space += 1,
            _ => self.tally.failed += 1,
        }
        let excused = match errno {
            0 => true,
            EIO => self.profile.trouble.is_heard_of(),
            ENOSPC => !self.profile.roomy && header.kind != RequestKind::Read,
            _ => false,
        };
        assert!(excused, "{header:?} failed with errno {errno}");
        match header.kind {
            RequestKind::Read if errno == 0 => {
                let data = one.ticket.data();
                if let Err(wrong) = self.model.check(one.began, header.offset, &data) {
                    panic!(
                        "wrong data for {header:?}, begun at {}, now {now}: {wrong:#?}",
                        one.began
                    );
                }
            }
            RequestKind::Read => {}
            RequestKind::Flush => {
                if errno == 0 {
                    assert!(
                        !one.was_read_only,
                        "a flush of a read-only volume succeeded"
                    );
                    self.model.flushed(one.began);
                }
            }
            _ => {
                let one_block = header.offset / BLOCK_SIZE as u64
                    == (header.offset + header.length - 1) / BLOCK_SIZE as u64;
                let happened = match errno {
                    0 => {
                        assert!(
                            !one.was_read_only,
                            "{header:?} succeeded on a read-only volume"
                        );
                        Some(true)
                    }
                    ENOSPC if one_block => Some(false),
                    _ => None,
                };
                self.model.end(one.number, now, happened);
            }
        }
    }

    fn submit(
        &mut self,
        world: &mut World,
        kind: RequestKind,
        offset: u64,
        length: u64,
        fua: bool,
        data: Option<Vec<u8>>,
    ) {
        self.reap(world);
        let began = self.now();
        let oldest = self
            .under_way
            .iter()
            .map(|one| one.began)
            .min()
            .unwrap_or(began);
        if !matches!(kind, RequestKind::Read | RequestKind::Flush) {
            let data = data.as_ref().map(|data| Arc::from(&data[..]));
            self.model.begin(began, oldest, (offset, length), data, fua);
        }
        let header = RequestHeader {
            kind,
            offset,
            length,
            fua,
        };
        let memory = match kind {
            RequestKind::Read => vec![0xaa; length as usize],
            _ => data.unwrap_or_default(),
        };
        let ticket = world.submit(header, memory);
        self.under_way.push(UnderWay {
            number: began,
            began,
            ticket,
            was_read_only: self.known_read_only,
        });
    }

    fn submit_one(&mut self, world: &mut World) {
        let random = &mut world.random;
        let block = BLOCK_SIZE as u64;
        let kind = match random.random_range(0..100) {
            0..55 => RequestKind::Write,
            55..80 => RequestKind::Read,
            80..85 => RequestKind::WriteZeroes,
            85..95 => RequestKind::Unmap,
            _ => RequestKind::Flush,
        };
        if kind == RequestKind::Flush {
            return self.submit(world, kind, 0, 0, false, None);
        }
        let profile = self.profile;
        let bytes = world.volume.bytes();
        let last = bytes / block - 1;
        let leaf = match profile.grows && random.random_bool(0.3) {
            true => last / ENTRIES_PER_PAGE,
            false => *profile.leaves.choose(random).expect("a leaf is used"),
        };
        let lbn = leaf * ENTRIES_PER_PAGE + random.random_range(0..profile.blocks_per_leaf);
        let lbn = lbn.min(last);
        let blocks = match random.random_range(0..4) {
            0 => random.random_range(1..=profile.longest),
            _ => 1,
        };
        let (mut offset, mut length) = (lbn * block, blocks * block);
        match random.random_range(0..10) {
            0..7 => {}
            7..9 => {
                offset += 512 * random.random_range(0..8);
                length = 512 * random.random_range(1..=blocks * 8);
            }
            _ => {
                offset += random.random_range(0..block);
                length = random.random_range(1..=blocks * block);
            }
        }
        if matches!(kind, RequestKind::Unmap | RequestKind::WriteZeroes) {
            match random.random_range(0..400) {
                // Across many leaf pages.
                0..12 => length = random.random_range(1..=6 * ENTRIES_PER_PAGE) * block,
                // Across trees, most of which are not there.
                12..16 => length = random.random_range(1..=bytes),
                16..18 => (offset, length) = (0, bytes),
                _ => {}
            }
        }
        length = length.min(bytes - offset);
        let fua = random.random_bool(0.1);
        let data = (kind == RequestKind::Write).then(|| {
            let mut data = vec![0; length as usize];
            for part in data.chunks_mut(BLOCK_SIZE) {
                let shared = random.random_bool(profile.sharing);
                let id = match shared {
                    true => random.random_range(0..=profile.pool),
                    false => {
                        self.fresh += 1;
                        (*self.clock << 20) + self.fresh
                    }
                };
                match profile.compression {
                    Switch::Off => content(id, part),
                    _ => compressible(id, part),
                }
            }
            data
        });
        self.submit(world, kind, offset, length, fua, data);
    }

    fn administer(&mut self, world: &mut World) {
        if self.profile.grows && world.random.random_bool(0.4) {
            return self.grow(world);
        }
        if self.profile.compression == Switch::Switched && world.random.random_bool(0.5) {
            let on = world.random.random_bool(0.6);
            return world.volume.set_compression(on);
        }
        if self.profile.discard_freed == Switch::Switched && world.random.random_bool(0.3) {
            let on = world.random.random_bool(0.6);
            let switched = world.volume.set_discard_freed(on);
            return switched.expect("the disk can discard");
        }
        let choice = world.random.random_range(0..10);
        let questions = Arc::clone(&self.questions);
        match choice {
            0 => {
                self.asked += 1;
                world.volume.statistics(Box::new(move |_| {
                    questions.fetch_add(1, Ordering::Relaxed);
                }));
            }
            1 => {
                self.asked += 1;
                world.volume.dump(Box::new(move |_| {
                    questions.fetch_add(1, Ordering::Relaxed);
                }));
            }
            2..4 => {
                let timeout = world.random.random_range(2..=5000);
                let timer = world.random.random_range(2..=200);
                world.volume.set_dedupe_timeouts(Some(timeout), Some(timer));
            }
            4..8 if self.profile.moody_index => {
                let delay = world.random.random_range(1_000..20_000_000);
                let mode = match world.random.random_range(0..5) {
                    0..2 => AnswerMode::Prompt,
                    2 => AnswerMode::Delayed(Nanos(delay)),
                    3 => AnswerMode::Never,
                    _ => AnswerMode::Fail,
                };
                world.volume.set_index_answer_mode(mode);
            }
            8.. if self.profile.moody_index => {
                let commands = [
                    IndexCommand::Create,
                    IndexCommand::Open,
                    IndexCommand::Close,
                    IndexCommand::Online,
                    IndexCommand::Online,
                    IndexCommand::Offline,
                ];
                let command = *commands.choose(&mut world.random).expect("not empty");
                self.asked += 1;
                let done = move |_| {
                    questions.fetch_add(1, Ordering::Relaxed);
                };
                world.volume.index(command, Box::new(done));
            }
            _ => {}
        }
    }
}

/// The rows of the hash-lock table that a volume's zones took.
pub fn transitions(world: &mut World) -> TransitionCounts {
    let mut sum = TransitionCounts::default();
    for zone in &world.dump().zones {
        sum.add(&zone.transitions);
    }
    sum
}
