//! Targets that are killed in the midst of work, again and again.
//!
//! Several connections carry out a [`Script`], epoch by epoch, and take note of each epoch that is flushed. When the target
//! is killed they all end. What the next target finds must agree with the note; then the epoch that was not finished is
//! begun again, so that it is always known what the volume must hold.

use std::io::Result;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::probe::{Answer, Probe};
use crate::rig::BLOCK;
use crate::script::{LANES, Ledger, Script};
use crate::target::Target;

/// The longest a target works before it is killed.
const LONGEST: Duration = Duration::from_millis(600);

/// How often to kill a target in a test: so often, or, with THOROUGH set, forty times.
pub fn rounds(usual: u64) -> u64 {
    match std::env::var_os("THOROUGH") {
        Some(_) => 40,
        None => usual,
    }
}

/// Starts a target and kills it in the midst of work, so many times. `start` gets the number of the round, `connect` is a new
/// connection to the volume. Returns what the volume must hold then.
///
/// # Panics
/// When the volume does not hold what it must, or does not count its recoveries.
pub fn kill_again_and_again<P: Probe + Send>(
    script: Script,
    rounds: u64,
    start: impl Fn(u64) -> Target,
    connect: impl Fn() -> Result<P> + Sync,
) -> Ledger {
    let mut random = ChaCha8Rng::seed_from_u64(script.seed);
    let (mut safe, mut interrupted) = (0, 0);
    for round in 0..rounds {
        let target = start(round);
        let ledger = script.ledger(safe);
        check_ledger(&ledger, &connect);
        let before = safe;
        let pause = random.random_range(Duration::ZERO..LONGEST);
        std::thread::scope(|scope| {
            let work = scope.spawn(|| work(&script, before, &connect));
            std::thread::sleep(pause);
            target.kill();
            safe = work.join().expect("those who work end without a word");
        });
        println!("round {round}: killed after {pause:?}, {safe} epochs are safe");
        interrupted += u64::from(safe > before);
    }
    assert!(interrupted > 0, "an epoch went through");
    script.ledger(safe)
}

/// Checks what a volume holds.
///
/// # Panics
/// When it holds what it must not, or cannot be read.
pub fn check_ledger<P: Probe>(ledger: &Ledger, connect: impl Fn() -> Result<P>) {
    let mut client = connect().expect("the volume is served");
    let held = ledger.check_all(|lbn, data| told(client.read(lbn * BLOCK, data)));
    held.unwrap_or_else(|wrong| panic!("{wrong}"));
}

fn told(answer: Answer) -> std::result::Result<(), String> {
    answer.map_err(|error| format!("error {error:#x}"))
}

/// Carries out epochs, from the first that is not safe, until a request fails; how many are safe.
fn work<P: Probe + Send>(
    script: &Script,
    safe: u64,
    connect: &(impl Fn() -> Result<P> + Sync),
) -> u64 {
    let lane = |epoch, lane| {
        let mut client = connect().ok()?;
        let acts = script.acts(epoch, lane);
        let done = acts
            .iter()
            .all(|act| act.carry_out(script, &mut client).is_ok());
        done.then_some(client)
    };
    for epoch in safe.. {
        let ended: Option<Vec<P>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..LANES)
                .map(|number| scope.spawn(move || lane(epoch, number)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("a lane does not panic"))
                .collect()
        });
        if ended.is_none_or(|mut clients| clients[0].flush().is_err()) {
            return epoch;
        }
    }
    safe
}
