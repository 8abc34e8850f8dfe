//! Losses of power, one after the other: what was flushed must come back, and everything that counts must agree.
//!
//! A seed is one volume and its lives. Each life begins with opening the volume, which recovers it if need be, and
//! ends with a loss of power, at any I/O: of the callers, of the recovery, of a shutdown. The disk then forgets any of the
//! writes that were not flushed, keeps others, and tears some. Each life has other zone threads and another cache.
//! When a life gets so far, every block is read: it must hold the last value that was flushed or a later one that
//! was submitted. Now and then the volume is shut down, and looked over by the auditor; then it may be asked to be rebuilt.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vdo::format::components::VolumeState;
use vdo::types::BLOCK_SIZE;

use super::audit::{audit_recovered, volume_on};
use super::complaints;
use super::disk::{Fuse, Loss, Marked, PowerLost, SimDisk};
use super::model::{Model, Moment};
use super::profile::{Limits, Profile};
use super::salvage::Salvage;
use super::trace::Trace;
use super::workload::Workload;
use super::world::World;

/// What came of a seed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survival {
    /// Losses of power.
    pub losses: u64,
    /// Those of them before the volume took requests again.
    pub while_opening: u64,
    /// Times the volume was recovered.
    pub recoveries: u64,
    /// Those of them in which requests came while slabs were still being scrubbed.
    pub scrubbing: u64,
    /// Times it was rebuilt.
    pub rebuilds: u64,
    /// Times it was looked over.
    pub audits: u64,
    /// Times it grew.
    pub growths: u64,
}

impl Survival {
    /// Adds another seed's.
    pub fn add(&mut self, other: &Survival) {
        self.losses += other.losses;
        self.while_opening += other.while_opening;
        self.recoveries += other.recoveries;
        self.scrubbing += other.scrubbing;
        self.rebuilds += other.rebuilds;
        self.audits += other.audits;
        self.growths += other.growths;
    }
}

/// Runs a seed with `losses` losses of power, made smaller.
///
/// # Errors
/// What went wrong, for a person to read.
pub fn lose_power(seed: u64, losses: u64, limits: Limits) -> Result<Survival, String> {
    run(seed, losses, limits, None).map(|(survival, _)| survival)
}

/// Runs a seed with `losses` losses of power, and keeps its trace.
///
/// # Errors
/// What went wrong, for a person to read.
pub fn trace_losses(seed: u64, losses: u64) -> Result<Trace, String> {
    run(seed, losses, Limits::default(), Some(Trace::default()))
        .map(|(_, trace)| trace.unwrap_or_default())
}

fn run(
    seed: u64,
    losses: u64,
    limits: Limits,
    trace: Option<Trace>,
) -> Result<(Survival, Option<Trace>), String> {
    complaints::listen();
    complaints::take();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut profile = Profile::of_losses(&mut random);
    profile.limit(limits);
    let mut lives = Lives {
        disk: SimDisk::new(profile.device_blocks),
        model: Model::default(),
        clock: 0,
        survival: Survival::default(),
        profile,
        random,
    };
    lives.model.may_lose = true;
    lives.disk.state().trace = trace;
    let shown = lives.profile.clone();
    match catch_unwind(AssertUnwindSafe(|| lives.run(losses))) {
        Ok(()) => {
            let trace = lives.disk.state().trace.take();
            Ok((lives.survival, trace))
        }
        Err(panic) => {
            let said = complaints::of_panic(&*panic);
            let so_far = lives.survival;
            Err(format!("{said}\nso far: {so_far:?}\nprofile: {shown:#?}"))
        }
    }
}

struct Lives {
    disk: SimDisk,
    model: Model,
    clock: Moment,
    survival: Survival,
    profile: Profile,
    random: ChaCha8Rng,
}

impl Lives {
    fn run(&mut self, losses: u64) {
        let formatted = self.open();
        let (shut, _) = formatted.shut_down();
        assert!(shut.is_ok(), "shutting down a new volume: {shut:?}");
        self.disk.remember_durable();
        self.disk.state().used_before = self.random.random_bool(0.5);
        while self.survival.losses < losses {
            self.random = ChaCha8Rng::seed_from_u64(self.random.random());
            let life = catch_unwind(AssertUnwindSafe(|| self.live()));
            match life.map_err(|panic| panic.downcast::<PowerLost>()) {
                Ok(()) => {}
                Err(Ok(lost)) => {
                    self.disk = lost.0;
                    self.survival.losses += 1;
                    self.model.forget_callers();
                }
                Err(Err(panic)) => resume_unwind(panic),
            }
        }
        self.disk.state().fuse = None;
        let mut world = self.open();
        self.verify(&mut world);
        self.shut_down(world);
    }

    fn open(&mut self) -> World {
        let zones = self.profile.run_otherwise(&mut self.random);
        let (request, options) = (self.profile.request(), self.profile.options(zones));
        let random = ChaCha8Rng::seed_from_u64(self.random.random());
        let mut world = World::open(&self.disk, request, options, random)
            .unwrap_or_else(|error| panic!("the volume does not come back: {error}"));
        world.pace = self.profile.pace;
        self.model.sizes.are(&world.volume.layout());
        world
    }

    fn fuse(&mut self, most: u64) -> Fuse {
        let luck = [0.0, 0.1, 0.5, 0.9, 1.0];
        let marked = [
            Marked::None,
            Marked::None,
            Marked::OneLost,
            Marked::OneKept,
            Marked::PlaceLost,
            Marked::PlaceLost,
            Marked::EarlyLost,
        ];
        let random = &mut self.random;
        Fuse {
            left: random.random_range(0..=most),
            from: None,
            loss: Loss {
                kept: *luck.choose(random).expect("not empty"),
                unanswered: *luck.choose(random).expect("not empty"),
                torn: random.random_bool(0.6),
            },
            marked: *marked.choose(random).expect("not empty"),
            random: ChaCha8Rng::seed_from_u64(random.random()),
        }
    }

    fn state(&self) -> VolumeState {
        let volume = volume_on(&self.disk.blocks(), self.disk.size()).expect("the volume is there");
        volume.super_block.volume.state
    }

    fn set_state(&self, state: VolumeState) {
        let mut volume =
            volume_on(&self.disk.blocks(), self.disk.size()).expect("the volume is there");
        volume.super_block.volume.state = state;
        let mut block = [0; BLOCK_SIZE];
        volume.super_block.encode(&mut block);
        self.disk
            .overwrite(volume.geometry.super_block().get(), &block);
    }

    /// One life, which ends by itself, or unwinds when the power goes.
    fn live(&mut self) {
        if self.state() == VolumeState::Dirty && self.random.random_bool(0.2) {
            // As a kernel leaves it that was suspended while it recovered.
            self.set_state(VolumeState::Recovering);
        }
        let before = self.state();
        let dies_early = self.random.random_bool(0.4);
        self.disk.state().fuse = dies_early.then(|| self.fuse(60));
        self.survival.while_opening += u64::from(dies_early);
        let mut world = self.open();
        self.survival.while_opening -= u64::from(dies_early);
        match before {
            VolumeState::ForceRebuild | VolumeState::RebuildForUpgrade => {
                self.survival.rebuilds += 1;
            }
            VolumeState::Clean => {}
            _ => self.survival.recoveries += 1,
        }
        self.disk.state().fuse = None;
        assert!(!world.volume.is_read_only(), "it came back read-only");
        // Reading every block takes so long that all slabs are scrubbed by then. Requests that come at once find some
        // that are not: then what is there is read off the disk, where the block map is whole.
        match world.volume.is_recovering() && self.random.random_bool(0.7) {
            true => {
                self.survival.scrubbing += 1;
                self.verify_on_disk();
            }
            false => self.verify(&mut world),
        }
        if self.random.random_bool(0.15) {
            return self.shut_down(world);
        }
        let fuse = self.fuse(2000);
        self.disk.state().fuse = Some(fuse);
        let mut workload = Workload::new(&self.profile, &mut self.model, &mut self.clock);
        workload.run(&mut world);
        self.survival.growths += workload.tally.grown;
        // The callers came to an end before the power did: it goes while the volume is shut down, or not at all.
        let fuse = self.fuse(40);
        self.disk.state().fuse = Some(fuse);
        self.shut_down(world);
    }

    /// As [`Lives::verify`], of a volume that was recovered and has had no request yet.
    fn verify_on_disk(&mut self) {
        let salvage = Salvage::new(self.disk.blocks(), self.disk.size());
        let salvage = salvage.unwrap_or_else(|error| panic!("no volume on disk: {error}"));
        assert_eq!(salvage.entries, 0, "its journal is empty");
        for lbn in self.model.touched() {
            if let Err(wrong) = self.model.survives(lbn, &salvage.read(lbn)) {
                panic!("after a recovery block {lbn} holds what it must not: {wrong:#?}");
            }
        }
        self.clock += 1;
        self.model.flushed(self.clock);
    }

    /// Every block holds what may have been left, and does so from now on.
    fn verify(&mut self, world: &mut World) {
        let touched = self.model.touched();
        let mut at = 0;
        while at < touched.len() {
            let first = touched[at];
            let run = touched[at..].iter().zip(first..).take(64);
            let blocks = run.take_while(|(lbn, next)| **lbn == *next).count();
            let length = blocks * BLOCK_SIZE;
            let read = world
                .read(first * BLOCK_SIZE as u64, length)
                .unwrap_or_else(|errno| panic!("reading block {first}: errno {errno}"));
            for (lbn, data) in (first..).zip(read.chunks(BLOCK_SIZE)) {
                if let Err(wrong) = self.model.survives(lbn, data) {
                    panic!("after a loss of power block {lbn} holds what it must not: {wrong:#?}");
                }
            }
            at += blocks;
        }
        self.clock += 1;
        self.model.flushed(self.clock);
    }

    /// Shuts the volume down, looks it over, and may ask for it to be rebuilt.
    fn shut_down(&mut self, world: World) {
        let (shut, _) = world.shut_down();
        assert!(shut.is_ok(), "shutting down: {shut:?}");
        self.disk.state().fuse = None;
        self.clock += 1;
        self.model.flushed(self.clock);
        self.survival.audits += 1;
        if let Err(problems) = audit_recovered(&self.disk.blocks(), self.disk.size()) {
            panic!("the volume on disk is wrong: {problems:#?}");
        }
        let complaints = complaints::take();
        assert!(complaints.is_empty(), "the log holds: {complaints:#?}");
        self.disk.remember_durable();
        if self.random.random_bool(0.2) {
            let states = [VolumeState::ForceRebuild, VolumeState::RebuildForUpgrade];
            let state = *states.choose(&mut self.random).expect("not empty");
            self.set_state(state);
        }
    }
}
