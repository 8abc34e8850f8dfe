//! One seed from beginning to end: a new volume, its lives one after the other, and what is checked
//! between them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::{Rng as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vdo::format::components::VolumeState;
use vdo::types::BLOCK_SIZE;
use vdo::volume::{RecoveryPolicy, TransitionCounts};

use super::audit::{audit, audit_full, audit_recovered, volume_on};
use super::complaints;
use super::disk::SimDisk;
use super::faults;
use super::model::Model;
use super::profile::{Limits, Profile, Trouble};
use super::trace::Trace;
use super::workload::{Tally, Workload, transitions};
use super::world::World;

/// What a seed that went well tells.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The rows of the hash-lock table that were taken.
    pub transitions: TransitionCounts,
    /// What happened to the requests.
    pub tally: Tally,
    /// Whether the volume ended read-only.
    pub read_only: bool,
    /// Discards of freed blocks.
    pub discards: u64,
}

/// Runs a seed, made smaller.
///
/// # Errors
/// What went wrong, with the profile, for a person to read.
pub fn run_seed(seed: u64, limits: Limits) -> Result<Outcome, String> {
    run_limited(seed, limits, |_| {})
}

/// Runs a seed, and hands the disk to `look` after each clean shutdown.
///
/// # Errors
/// What went wrong, with the profile, for a person to read.
pub fn run_seed_and(seed: u64, look: impl Fn(&SimDisk)) -> Result<Outcome, String> {
    run_limited(seed, Limits::default(), look)
}

fn run_limited(seed: u64, limits: Limits, look: impl Fn(&SimDisk)) -> Result<Outcome, String> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut profile = Profile::random(&mut random);
    profile.limit(limits);
    let disk = SimDisk::new(profile.device_blocks);
    run_on(&disk, &profile, random, &look)
}

/// Runs a seed, and keeps its trace.
///
/// # Errors
/// What went wrong, with the profile, for a person to read.
pub fn trace_seed(seed: u64) -> Result<Trace, String> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let profile = Profile::random(&mut random);
    let disk = SimDisk::new(profile.device_blocks);
    disk.state().trace = Some(Trace::default());
    run_on(&disk, &profile, random, &|_| {})?;
    Ok(disk.state().trace.take().unwrap_or_default())
}

fn run_on(
    disk: &SimDisk,
    profile: &Profile,
    random: ChaCha8Rng,
    look: &dyn Fn(&SimDisk),
) -> Result<Outcome, String> {
    complaints::listen();
    complaints::take();
    let shown = profile.clone();
    match catch_unwind(AssertUnwindSafe(|| live(disk, profile, random, look))) {
        Ok(outcome) => Ok(outcome),
        Err(panic) => Err(format!(
            "{}\nprofile: {shown:#?}",
            complaints::of_panic(&*panic)
        )),
    }
}

fn live(
    disk: &SimDisk,
    profile: &Profile,
    mut random: ChaCha8Rng,
    look: &dyn Fn(&SimDisk),
) -> Outcome {
    let mut model = Model::default();
    model.may_lose = profile.power || profile.trouble != Trouble::None;
    let mut clock = 0;
    let mut outcome = Outcome::default();
    let last = profile.lives.len() - 1;
    for (life, &zones) in profile.lives.iter().enumerate() {
        let opened = World::open(disk, profile.request(), profile.options(zones), random);
        let mut world = opened.unwrap_or_else(|error| panic!("life {life} cannot begin: {error}"));
        world.pace = profile.pace;
        model.sizes.are(&world.volume.layout());
        if profile.power {
            disk.remember_durable();
        }
        let mut workload = Workload::new(profile, &mut model, &mut clock);
        if life > 0 {
            workload.verify(&mut world);
        }
        if life == last {
            faults::arm(disk, profile.trouble, &mut world.random);
        }
        workload.run(&mut world);
        if profile.trouble == Trouble::None || world.random.random_bool(0.5) {
            workload.verify(&mut world);
        }
        outcome.tally.add(&workload.tally);
        outcome.transitions.add(&transitions(&mut world));
        outcome.discards = disk.state().tally.discards;
        let read_only = world.volume.is_read_only();
        let shut;
        (shut, random) = world.shut_down();
        if let Err(error) = &shut {
            assert!(profile.trouble.is_heard_of(), "shutting down: {error}");
        }
        assert!(
            !(read_only && shut.is_ok()),
            "a read-only volume was shut down clean"
        );
        disk.state().fault = None;
        if shut.is_err() {
            outcome.read_only = true;
            comes_back(disk, profile, random.clone(), &mut model);
            return check_log(profile, outcome);
        }
        check_disk(disk, &outcome.tally);
        look(disk);
        model.flushed(clock);
    }
    let opened = World::open(disk, profile.request(), profile.options(1), random);
    let mut world = opened.unwrap_or_else(|error| panic!("the last life cannot begin: {error}"));
    model.sizes.are(&world.volume.layout());
    Workload::new(profile, &mut model, &mut clock).verify(&mut world);
    let (shut, _) = world.shut_down();
    assert!(shut.is_ok(), "shutting down at last: {shut:?}");
    check_disk(disk, &outcome.tally);
    check_log(profile, outcome)
}

/// What is on disk after a clean shutdown agrees with itself.
fn check_disk(disk: &SimDisk, tally: &Tally) {
    let look_over = match tally.no_space {
        0 => audit,
        _ => audit_full,
    };
    if let Err(problems) = look_over(&disk.blocks(), disk.size()) {
        panic!("the volume on disk is wrong: {problems:#?}");
    }
}

/// A volume that says of itself that it is read-only is opened so, which changes nothing on the disk, and is whole when it
/// was rebuilt. One that could not even say so is recovered, and is whole then.
fn comes_back(disk: &SimDisk, profile: &Profile, random: ChaCha8Rng, model: &mut Model) {
    let before = disk.blocks();
    let state = volume_on(&before, disk.size()).map(|volume| volume.super_block.volume.state);
    let mut request = profile.request();
    let opened = World::open(disk, request, profile.options(1), random);
    let mut world = opened.unwrap_or_else(|error| panic!("it does not come back: {error}"));
    if state == Ok(VolumeState::ReadOnly) {
        let mut random = looks_read_only(world, model);
        assert!(
            before == disk.blocks(),
            "a volume that is read-only was changed"
        );
        if let RecoveryPolicy::Recover { cache_blocks } = request.recovery {
            request.recovery = RecoveryPolicy::Rebuild { cache_blocks };
        }
        random = ChaCha8Rng::seed_from_u64(random.random());
        let opened = World::open(disk, request, profile.options(1), random);
        world = opened.unwrap_or_else(|error| panic!("it is not rebuilt: {error}"));
    }
    model.sizes.are(&world.volume.layout());
    let mut clock = 0;
    Workload::new(profile, model, &mut clock).verify(&mut world);
    let (shut, _) = world.shut_down();
    assert!(shut.is_ok(), "shutting down after it came back: {shut:?}");
    if let Err(problems) = audit_recovered(&disk.blocks(), disk.size()) {
        panic!("the volume that came back is wrong: {problems:#?}");
    }
}

/// A volume that was found read-only can be read and flushed, and refuses to be written.
fn looks_read_only(mut world: World, model: &Model) -> ChaCha8Rng {
    assert!(world.volume.is_read_only());
    let reason = world.volume.read_only_reason();
    assert!(reason.is_some_and(|reason| !reason.is_empty()));
    let page = BLOCK_SIZE as u64;
    for lbn in model.touched().into_iter().take(50) {
        // What is there is what the block map on disk says, which may be older than the journal.
        let read = world.read(lbn * page, BLOCK_SIZE);
        assert!(matches!(read, Ok(_) | Err(5)), "reading: {read:?}");
        assert_eq!(world.write(lbn * page, &[1; BLOCK_SIZE]), Err(5));
        assert_eq!(world.write(lbn * page, &[0; BLOCK_SIZE]), Err(5));
    }
    assert_eq!(world.flush(), Ok(()));
    assert_eq!(world.statistics().figures.mode.name(), "read-only");
    let (shut, random) = world.shut_down();
    assert!(
        shut.is_ok(),
        "closing a volume that was read-only: {shut:?}"
    );
    random
}

/// The log holds nothing but what the faults explain.
fn check_log(profile: &Profile, outcome: Outcome) -> Outcome {
    let lines = complaints::take();
    let explained = |line: &String| {
        profile.trouble != Trouble::None
            && [
                "turns read-only",
                "freed blocks are not discarded any more",
                "cannot be marked read-only",
                "of the deduplication index",
            ]
            .iter()
            .any(|known| line.contains(known))
    };
    let strange: Vec<_> = lines.iter().filter(|line| !explained(line)).collect();
    assert!(strange.is_empty(), "the log holds: {strange:#?}");
    outcome
}
