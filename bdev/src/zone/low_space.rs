//! Shares of the physical blocks that an operator wants to hear of when they are in use.
//!
//! 1. A zone thread looks at most once in a [`LOOK_INTERVAL`], and before it sleeps: if it has allocated or freed blocks, it adds up
//!    what all zone threads have written down ([`super::usage`]). No write does so.
//! 2. A threshold that is reached is told of, and marked as told.
//! 3. It can be told of again once the use has fallen below [`Threshold::rearmed_at`], by discards or because the volume has
//!    grown: a volume that stays about a threshold is heard of once.
//!
//! As long as slabs are unread or not scrubbed their free blocks count as used, so nothing is told until all are known: what
//! a volume has reached by then is told of once after each start. A volume that came up read-only reads no slabs, and tells nothing.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::owner::Zone;
use super::shared::Shared;
use super::usage::{UsageCounts, ZoneUsage};
use crate::seam::{Nanos, VolumeEvent};

/// How often a zone thread looks at most.
const LOOK_INTERVAL: Nanos = Nanos(1_000_000);

/// How far below a threshold the use must fall before it is told of again, in thousandths of the physical blocks.
const HYSTERESIS: u64 = 20;

/// A share of the physical blocks.
#[derive(Clone, Copy, Debug)]
struct Threshold {
    percent: u8,
    is_told: bool,
}

impl Threshold {
    fn is_reached(self, used: u64, physical: u64) -> bool {
        u128::from(used) * 100 >= u128::from(self.percent) * u128::from(physical)
    }

    /// The use below which it can be told of again, in thousandths: two percent below it, or half of it if that is less.
    fn rearmed_at(self) -> u64 {
        let reached = u64::from(self.percent) * 10;
        reached - HYSTERESIS.min(reached / 2)
    }

    fn is_rearmed(self, used: u64, physical: u64) -> bool {
        u128::from(used) * 1000 < u128::from(self.rearmed_at()) * u128::from(physical)
    }
}

/// The thresholds of a volume, shared by its zone threads.
#[derive(Debug)]
pub struct LowSpace(Mutex<Vec<Threshold>>);

impl LowSpace {
    /// None of `percents` is told of yet.
    pub fn new(percents: &[u8]) -> LowSpace {
        let threshold = |&percent| Threshold {
            percent,
            is_told: false,
        };
        LowSpace(Mutex::new(percents.iter().map(threshold).collect()))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Threshold>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thresholds, in percent.
    pub fn percents(&self) -> Vec<u8> {
        self.lock().iter().map(|one| one.percent).collect()
    }

    /// Replaces the thresholds. What was told of one that stays is told.
    pub fn set(&self, percents: &[u8]) {
        let mut all = self.lock();
        let kept = percents.iter().map(|&percent| Threshold {
            percent,
            is_told: all.iter().any(|one| one.percent == percent && one.is_told),
        });
        *all = kept.collect();
    }

    /// The thresholds that are to be told of now that so many of the physical blocks are in use.
    pub fn reached(&self, used: u64, physical: u64) -> Vec<u8> {
        let mut reached = Vec::new();
        for one in self.lock().iter_mut() {
            if !one.is_told && one.is_reached(used, physical) {
                one.is_told = true;
                reached.push(one.percent);
            } else if one.is_told && one.is_rearmed(used, physical) {
                one.is_told = false;
            }
        }
        reached
    }
}

/// When a zone thread looked last.
#[derive(Debug, Default)]
pub(super) struct LastLook {
    /// Its allocated blocks then.
    allocated: Cell<Option<u64>>,
    /// The earliest time of the next look.
    next: Cell<Nanos>,
}

impl Zone {
    /// Looks, unless it did so just now.
    #[inline]
    pub(crate) fn look_at_space(&self) {
        if self.scheduler.now() >= self.last_look.next.get() {
            self.look_at_space_at_once();
        }
    }

    /// Looks at what is in use, if that has changed here.
    pub(crate) fn look_at_space_at_once(&self) {
        let next = Nanos(self.scheduler.now().0 + LOOK_INTERVAL.0);
        self.last_look.next.set(next);
        let allocated = Some(self.physical.allocated_blocks());
        if self.last_look.allocated.get() != allocated && self.shared.tell_low_space() {
            self.last_look.allocated.set(allocated);
        }
    }
}

impl Shared {
    /// Tells of the thresholds that are reached now; false if that is not known yet.
    pub(crate) fn tell_low_space(&self) -> bool {
        if !self.knows_free_blocks() {
            return false;
        }
        let layout = self.extent.layout();
        let counts: UsageCounts = self.usage.iter().map(ZoneUsage::read).sum();
        let physical_blocks = layout.physical_blocks;
        let used_blocks = layout.fixed_overhead() + counts.allocated;
        for percent in self.low_space.reached(used_blocks, physical_blocks) {
            self.tell(&VolumeEvent::LowSpace {
                percent,
                used_blocks,
                physical_blocks,
            });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_told_of_once_until_the_use_has_fallen_two_percent_below_it() {
        let space = LowSpace::new(&[80, 95]);
        assert!(space.reached(799, 1000).is_empty());
        assert_eq!(space.reached(800, 1000), [80]);
        assert!(space.reached(949, 1000).is_empty());
        assert_eq!(space.reached(1000, 1000), [95]);
        assert!(space.reached(930, 1000).is_empty());
        assert!(space.reached(950, 1000).is_empty(), "it fell by too little");
        assert!(space.reached(929, 1000).is_empty());
        assert_eq!(space.reached(950, 1000), [95]);
        assert!(space.reached(779, 1000).is_empty());
        assert_eq!(space.reached(990, 1000), [80, 95]);
    }

    #[test]
    fn a_volume_that_has_grown_is_told_of_again() {
        let space = LowSpace::new(&[80]);
        assert_eq!(space.reached(800, 1000), [80]);
        assert!(space.reached(801, 2000).is_empty());
        assert_eq!(space.reached(1600, 2000), [80]);
    }

    #[test]
    fn thresholds_that_stay_are_not_told_of_again() {
        let space = LowSpace::new(&[50, 80]);
        assert_eq!(space.reached(85, 100), [50, 80]);
        space.set(&[70, 80]);
        assert_eq!(space.percents(), [70, 80]);
        assert_eq!(space.reached(85, 100), [70]);
        space.set(&[]);
        assert!(space.reached(100, 100).is_empty());
    }

    #[test]
    fn the_smallest_and_the_largest_threshold_can_be_reached_and_left() {
        let space = LowSpace::new(&[1, 100]);
        assert_eq!(space.reached(10, 1000), [1]);
        assert!(space.reached(4, 1000).is_empty());
        assert_eq!(space.reached(10, 1000), [1]);
        assert!(space.reached(999, 1000).is_empty());
        assert_eq!(space.reached(1000, 1000), [100]);
        assert_eq!(LowSpace::new(&[100]).reached(u64::MAX, u64::MAX), [100]);
    }
}
