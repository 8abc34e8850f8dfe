//! The trace of a run: every poll, every I/O and every answer, in the order they happened.
//!
//! It is kept on request only, at the disk, which outlives the volume's lives and losses of power. Of each event the
//! trace remembers one number, in which the event and all before it are hashed: two traces that part are
//! different from there on, and the first difference tells where to look.

use std::hash::{DefaultHasher, Hash, Hasher};

/// What happened so far.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    hasher: DefaultHasher,
    digests: Vec<u64>,
}

impl Trace {
    /// Adds an event.
    pub fn note(&mut self, event: impl Hash) {
        event.hash(&mut self.hasher);
        self.digests.push(self.hasher.finish());
    }

    /// How many events there were.
    pub fn events(&self) -> usize {
        self.digests.len()
    }

    /// The number of the first event that is not the same in both, or that only one has.
    pub fn first_difference(&self, other: &Trace) -> Option<usize> {
        let same = self.digests.iter().zip(&other.digests);
        let same = same.take_while(|(ours, theirs)| ours == theirs).count();
        (same < self.events().max(other.events())).then_some(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(events: &[u32]) -> Trace {
        let mut trace = Trace::default();
        events.iter().for_each(|event| trace.note(event));
        trace
    }

    #[test]
    fn traces_part_at_the_first_event_that_differs_and_stay_apart() {
        let whole = trace(&[1, 2, 3, 4]);
        assert_eq!(whole.first_difference(&trace(&[1, 2, 3, 4])), None);
        assert_eq!(whole.first_difference(&trace(&[1, 9, 3, 4])), Some(1));
        assert_eq!(whole.first_difference(&trace(&[1, 2])), Some(2));
        assert_eq!(trace(&[]).first_difference(&whole), Some(0));
        assert_ne!(whole.digests[3], trace(&[2, 1, 3, 4]).digests[3]);
    }
}
