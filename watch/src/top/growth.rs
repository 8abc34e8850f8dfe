//! How the use of space grows, over as much of the last day as it has been watched.

use std::collections::VecDeque;

use super::view::{Fill, Growth};

/// Seconds between two points that are kept.
const APART: f64 = 60.0;

/// Seconds after which a point is forgotten.
const DAY: f64 = 24.0 * 3600.0;

/// How much space of a volume was in use when.
#[derive(Clone, Debug, Default)]
pub struct SpaceHistory {
    /// Seconds, and bytes, oldest first; the newest comes anew with each sample until it is far enough from the one before.
    points: VecDeque<(f64, f64)>,
}

impl SpaceHistory {
    /// Notes how much is in use at a moment, in seconds.
    pub fn note(&mut self, at: f64, used: f64) {
        let kept = self.points.len();
        if kept >= 2 && self.points[kept - 1].0 - self.points[kept - 2].0 < APART {
            self.points.pop_back();
        }
        self.points.push_back((at, used));
        while self.points.len() > 2 && at - self.points[0].0 > DAY {
            self.points.pop_front();
        }
    }

    /// How the use of `space` grows; `None` until it was seen twice.
    pub fn growth(&self, space: Fill) -> Option<Growth> {
        let (first, last) = (self.points.front()?, self.points.back()?);
        let over = last.0 - first.0;
        if over <= 0.0 {
            return None;
        }
        let rate = (last.1 - first.1) / over;
        let free = (space.limit - space.used).max(0.0);
        Some(Growth {
            rate,
            over,
            full_in: (rate > 0.0).then(|| free / rate),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_until_full_is_that_of_the_growth_of_the_last_day() {
        let mut history = SpaceHistory::default();
        let space = |used| Fill { used, limit: 1e9 };
        assert_eq!(history.growth(space(0.0)), None);
        // Fast on the first day, slow on the second.
        let mut used = 0.0;
        for second in 0..2 * 24 * 3600 {
            used += if second < 24 * 3600 { 1000.0 } else { 10.0 };
            history.note(f64::from(second), used);
        }
        let growth = history.growth(space(used)).unwrap();
        assert!(
            (DAY - 2.0 * APART..=DAY + 2.0 * APART).contains(&growth.over),
            "{growth:?}"
        );
        assert!((growth.rate - 10.0).abs() < 2.0, "{growth:?}");
        let full_in = growth.full_in.unwrap();
        assert!(
            (full_in - (1e9 - used) / growth.rate).abs() < 1.0,
            "{growth:?}"
        );
        assert!(history.points.len() < 1500, "a day is some 1440 points");
    }

    #[test]
    fn what_does_not_grow_is_never_full() {
        let mut history = SpaceHistory::default();
        history.note(0.0, 50.0);
        history.note(10.0, 40.0);
        let growth = history.growth(Fill {
            used: 40.0,
            limit: 100.0,
        });
        let expected = Growth {
            rate: -1.0,
            over: 10.0,
            full_in: None,
        };
        assert_eq!(growth, Some(expected));
    }
}
