//! What is written to a volume in tests of losses of power, epoch by epoch: the same on both sides of whatever lies between.
//!
//! A [`Script`] is a number from which everything follows. Somebody carries it out on a volume, by several *lanes* at
//! once, each with blocks of its own; at the end of each epoch all lanes have ended and everything is flushed, and he
//! takes note of that. Somebody else, who knows the note, has a [`Ledger`] of what the volume must hold: the last
//! of the epochs that are safe, or, of a block that the next epoch changes, anything that was written to it in
//! that one.
//!
//! Blocks stand in groups of a hundred that have a leaf of the block map each. Half of what is written is there several
//! times.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::probe::{Answer, Probe};
use crate::rig::{BLOCK, block, compressible};

/// Lanes that work at once.
pub const LANES: u64 = 8;

/// Logical blocks a volume needs.
pub const LOGICAL_BLOCKS: u64 = GROUPS * LEAF;

/// Groups of blocks.
const GROUPS: u64 = 5 * LANES;

/// Blocks in a group.
const GROUP: u64 = 100;

/// Blocks from one group to the next: what a leaf of the block map has.
const LEAF: u64 = 812;

/// What each lane does in an epoch.
const ACTS: usize = 12;

/// Most blocks of one act.
const LONGEST: u64 = 16;

/// Data of which there are several copies.
const POOL: u64 = 150;

/// What is written, and whether it can be compressed.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    /// What everything follows from.
    pub seed: u64,
    /// Whether what is written becomes smaller when it is compressed.
    pub compressible: bool,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// The first logical block.
    pub lbn: u64,
    /// What becomes of it and the following ones.
    pub change: Change,
}

/// What a request does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Data is written: what is called by these numbers, each for a block.
    Write(Vec<u64>),
    /// So many blocks become zeroes.
    Zero(u64),
    /// So many blocks are let go of.
    Discard(u64),
}

impl Script {
    /// What a lane does in an epoch, in order.
    pub fn acts(&self, epoch: u64, lane: u64) -> Vec<Act> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ (epoch << 32) ^ (lane << 48));
        (0..ACTS)
            .map(|number| act(&mut random, epoch, lane, number as u64))
            .collect()
    }

    /// The data that is called by a number.
    pub fn data(&self, name: u64) -> Vec<u8> {
        if name == 0 {
            return vec![0; BLOCK as usize];
        }
        let mut data = match self.compressible {
            true => compressible(name),
            false => block(name),
        };
        data[..8].copy_from_slice(&name.to_le_bytes());
        data
    }

    /// The logical blocks that are ever written, in runs: the first and how many.
    pub fn runs() -> impl Iterator<Item = (u64, u64)> {
        (0..GROUPS).map(|group| (group * LEAF, GROUP))
    }

    /// What a volume must hold when so many epochs are safe.
    pub fn ledger(&self, safe: u64) -> Ledger {
        let nothing = vec![vec![0]; (GROUPS * GROUP) as usize];
        let mut ledger = Ledger {
            script: *self,
            allowed: nothing,
        };
        for epoch in 0..safe {
            ledger.take(epoch, |allowed, name| *allowed = vec![name]);
        }
        ledger.take(safe, |allowed, name| allowed.push(name));
        ledger
    }
}

impl Act {
    /// Carries it out on a served volume.
    ///
    /// # Errors
    /// The server's number of the error.
    pub fn carry_out(&self, script: &Script, probe: &mut impl Probe) -> Answer {
        let at = self.lbn * BLOCK;
        match &self.change {
            Change::Write(names) => {
                let data: Vec<u8> = names.iter().flat_map(|name| script.data(*name)).collect();
                probe.write(at, &data)
            }
            Change::Zero(blocks) => probe.zero(at, blocks * BLOCK),
            Change::Discard(blocks) => probe.trim(at, blocks * BLOCK),
        }
    }
}

fn act(random: &mut ChaCha8Rng, epoch: u64, lane: u64, number: u64) -> Act {
    let group = lane * (GROUPS / LANES) + random.random_range(0..GROUPS / LANES);
    let blocks = random.random_range(1..=LONGEST);
    let lbn = group * LEAF + random.random_range(0..=GROUP - blocks);
    let only = 1000 + ((epoch * LANES + lane) * ACTS as u64 + number) * LONGEST;
    let change = match random.random_range(0..10) {
        0 => Change::Zero(blocks),
        1 => Change::Discard(blocks),
        _ => {
            let mut name = |at| match random.random_bool(0.5) {
                true => random.random_range(1..=POOL),
                false => only + at,
            };
            Change::Write((0..blocks).map(&mut name).collect())
        }
    };
    Act { lbn, change }
}

/// What a volume may hold.
#[derive(Clone, Debug)]
pub struct Ledger {
    script: Script,
    /// The names of what each block may hold, the oldest first.
    allowed: Vec<Vec<u64>>,
}

impl Ledger {
    fn take(&mut self, epoch: u64, mut change: impl FnMut(&mut Vec<u64>, u64)) {
        for act in (0..LANES).flat_map(|lane| self.script.acts(epoch, lane)) {
            let names = match act.change {
                Change::Write(names) => names,
                Change::Zero(blocks) | Change::Discard(blocks) => vec![0; blocks as usize],
            };
            for (lbn, name) in (act.lbn..).zip(names) {
                change(&mut self.allowed[place(lbn)], name);
            }
        }
    }

    /// Whether a logical block may hold this.
    ///
    /// # Errors
    /// What it holds, and what it should.
    pub fn check(&self, lbn: u64, data: &[u8]) -> Result<(), String> {
        let allowed = &self.allowed[place(lbn)];
        let name = u64::from_le_bytes(data[..8].try_into().expect("a block has eight bytes"));
        match allowed.contains(&name) && data == self.script.data(name) {
            true => Ok(()),
            false => Err(format!(
                "block {lbn} begins with {name}, it should hold one of {allowed:?}"
            )),
        }
    }

    /// Checks all that was ever written, as `read` reads it: the first block, and room for the data of some.
    ///
    /// # Errors
    /// The first block that holds what it must not, or cannot be read.
    pub fn check_all(
        &self,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        for (first, blocks) in Script::runs() {
            let mut data = vec![0; (blocks * BLOCK) as usize];
            read(first, &mut data).map_err(|error| format!("reading block {first}: {error}"))?;
            for (lbn, data) in (first..).zip(data.chunks(BLOCK as usize)) {
                self.check(lbn, data)?;
            }
        }
        Ok(())
    }

    /// How many blocks must hold one thing and no other, and that no zeroes.
    pub fn certain(&self) -> usize {
        self.allowed
            .iter()
            .filter(|names| matches!(names[..], [name] if name != 0))
            .count()
    }
}

/// The number of a logical block among those that are ever written.
fn place(lbn: u64) -> usize {
    (lbn / LEAF * GROUP + lbn % LEAF) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: Script = Script {
        seed: 5,
        compressible: false,
    };

    #[test]
    fn a_ledger_allows_the_last_safe_value_and_those_of_the_next_epoch_and_no_other() {
        let (safe, later) = (SCRIPT.ledger(4), SCRIPT.ledger(5));
        let changed = |ledger: &Ledger| {
            ledger
                .allowed
                .iter()
                .filter(|names| names.len() > 1)
                .count()
        };
        assert!(safe.certain() > 1000 && changed(&safe) > 300);
        // What epoch 4 wrote last is what must be there when it is safe.
        for lane in 0..LANES {
            let last = SCRIPT.acts(4, lane).pop().unwrap();
            let name = match last.change {
                Change::Write(names) => names[0],
                _ => 0,
            };
            assert_eq!(later.allowed[place(last.lbn)][0], name);
            for ledger in [&safe, &later] {
                assert_eq!(ledger.check(last.lbn, &SCRIPT.data(name)), Ok(()));
                let mut wrong = SCRIPT.data(name);
                wrong[4000] ^= 1;
                assert!(ledger.check(last.lbn, &wrong).is_err());
                assert!(ledger.check(last.lbn, &SCRIPT.data(999)).is_err());
            }
        }
    }

    #[test]
    fn lanes_have_blocks_of_their_own() {
        let mut owner = vec![None; (GROUPS * GROUP) as usize];
        for (epoch, lane) in (0..20).flat_map(|epoch| (0..LANES).map(move |lane| (epoch, lane))) {
            for act in SCRIPT.acts(epoch, lane) {
                let before = owner[place(act.lbn)].replace(lane);
                assert!(before.is_none_or(|before| before == lane));
            }
        }
    }
}
