//! A seed that fails, made smaller: fewer losses, requests, leaves, blocks and zones, as long as it still fails.
//!
//! Everything in a run depends on all that was drawn before, so a smaller run is another run; but what is wrong in the engine
//! mostly shows there, too, and sooner.

use super::losses::lose_power;
use super::profile::Limits;
use super::run::run_seed;

/// A seed, and what its run is limited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// The seed.
    pub seed: u64,
    /// How many losses of power, if any.
    pub losses: Option<u64>,
    /// What its profile is limited to.
    pub limits: Limits,
}

/// Runs that are tried, at most.
const TRIES: usize = 80;

impl Case {
    /// A seed as it is.
    pub fn of(seed: u64, losses: Option<u64>) -> Case {
        Case {
            seed,
            losses,
            limits: Limits::default(),
        }
    }

    /// The command that repeats it.
    pub fn command(&self) -> String {
        let losses = self.losses.map(|losses| format!(" LOSSES={losses}"));
        let limits = self.limits.to_string();
        let limits = (!limits.is_empty()).then(|| format!(" LIMITS=\"{limits}\""));
        let [losses, limits] = [losses, limits].map(Option::unwrap_or_default);
        format!("make sim SEEDS=1 FROM={}{losses}{limits}", self.seed)
    }

    fn fails(&self) -> Option<String> {
        match self.losses {
            Some(losses) => lose_power(self.seed, losses, self.limits).err(),
            None => run_seed(self.seed, self.limits).err(),
        }
    }

    /// A case that fails, as small as was found, and why it fails; `why` is why this one does.
    pub fn smaller(self, why: &str) -> (Case, String) {
        let (mut best, mut why) = (self, why.to_owned());
        let mut tries = 0;
        let mut divisors = vec![8, 4, 2];
        while let Some(divisor) = divisors.pop_if(|_| tries < TRIES) {
            let before = best;
            for reduce in REDUCTIONS {
                let Some(next) = reduce(best, divisor) else {
                    continue;
                };
                tries += 1;
                if let Some(other) = next.fails() {
                    (best, why) = (next, other);
                }
            }
            if best != before {
                divisors.push(divisor);
            }
        }
        (best, why)
    }

    /// What to tell of a case that fails.
    pub fn tell(self, why: &str) -> String {
        let (small, small_why) = self.smaller(why);
        let seed = self.seed;
        let whole = format!(
            "seed {seed} fails: {why}\nrepeat it with: {}",
            self.command()
        );
        match small == self {
            true => whole,
            false => format!(
                "{whole}\nmade smaller it fails: {small_why}\nrepeat that with: {}",
                small.command()
            ),
        }
    }
}

/// Ways to make a case smaller by a part of what it is limited to.
type Reduction = fn(Case, u64) -> Option<Case>;

const REDUCTIONS: [Reduction; 5] = [
    |mut case, part| {
        case.losses = Some(less(case.losses?, part)?);
        Some(case)
    },
    |mut case, part| {
        case.limits.requests = Some(less(case.limits.requests.unwrap_or(3000), part)?);
        Some(case)
    },
    |mut case, part| {
        case.limits.leaves = Some(less(case.limits.leaves.unwrap_or(8), part)?);
        Some(case)
    },
    |mut case, part| {
        case.limits.blocks = Some(less(case.limits.blocks.unwrap_or(500), part)?);
        Some(case)
    },
    |mut case, part| {
        case.limits.zones = Some(less(case.limits.zones.unwrap_or(4), part)?);
        Some(case)
    },
];

/// A number less a part of it; `None` if that is none less, or nothing.
fn less(number: u64, part: u64) -> Option<u64> {
    let less = number - number.div_ceil(part);
    (less > 0).then_some(less)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limited_case_runs_and_is_repeated_by_its_command() {
        let mut case = Case::of(3, Some(2));
        assert_eq!(case.command(), "make sim SEEDS=1 FROM=3 LOSSES=2");
        case.limits = Limits {
            requests: Some(20),
            leaves: Some(1),
            blocks: Some(4),
            zones: Some(1),
        };
        let command = "make sim SEEDS=1 FROM=3 LOSSES=2 \
                       LIMITS=\"--requests 20 --leaves 1 --blocks 4 --zones 1\"";
        assert_eq!(case.command(), command);
        assert_eq!(case.fails(), None);
        case.losses = None;
        assert_eq!(case.fails(), None);
        // It did not fail, so nothing smaller does.
        assert_eq!(case.smaller("no reason"), (case, "no reason".to_owned()));
    }
}
