//! The life of a volume: which of its phases may follow which.
//!
//! ```text
//!   New --start--> Starting --started--> Online --stop--> ShuttingDown --ended--> Down
//!    |                |  \\--failed------------------------------------------------^
//!    |                +--stop--> StopAsked --started--> ShuttingDown               |
//!    +--stop-----------------------------------------------------------------------+
//! ```
//!
//! A volume is started once and shut down once. Every step names the phase it leaves, and one that finds another
//! is refused; whoever asks is told what that means. Any thread may ask.

use std::sync::atomic::{AtomicU8, Ordering};

/// Where a volume is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Its zone threads are being made.
    New = 0,
    /// Its metadata is being loaded.
    Starting = 1,
    /// The same, and it is to be shut down as soon as that is done.
    StopAsked = 2,
    /// It takes requests.
    Online = 3,
    /// It takes no more requests and writes everything out.
    ShuttingDown = 4,
    /// It is shut down, or failed to start.
    Down = 5,
}

const PHASES: [Phase; 6] = [
    Phase::New,
    Phase::Starting,
    Phase::StopAsked,
    Phase::Online,
    Phase::ShuttingDown,
    Phase::Down,
];

/// What has to be done for a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Shut it down.
    Now,
    /// Wait until it has started, or failed to, and then shut it down if it is to be.
    AfterStart,
    /// Nothing: it is down.
    IsDown,
    /// Nothing: somebody else shuts it down.
    UnderWay,
}

/// The phase of a volume.
#[derive(Debug)]
pub(super) struct Life(AtomicU8);

impl Life {
    /// A volume that was never started.
    pub(super) fn new() -> Life {
        Life(AtomicU8::new(Phase::New as u8))
    }

    /// Where it is.
    #[inline]
    pub(super) fn phase(&self) -> Phase {
        PHASES[usize::from(self.0.load(Ordering::Acquire))]
    }

    fn go(&self, from: Phase, to: Phase) -> bool {
        self.0
            .compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The start begins; false if it may not, because there was one or the volume is down.
    pub(super) fn start(&self) -> bool {
        self.go(Phase::New, Phase::Starting)
    }

    /// The start has ended.
    pub(super) fn started(&self, succeeded: bool) {
        if !succeeded {
            _ = self.go(Phase::Starting, Phase::Down) || self.go(Phase::StopAsked, Phase::Down);
        } else if !self.go(Phase::Starting, Phase::Online) {
            _ = self.go(Phase::StopAsked, Phase::ShuttingDown);
        }
    }

    /// Whether a start is under way.
    pub(super) fn is_starting(&self) -> bool {
        matches!(self.phase(), Phase::Starting | Phase::StopAsked)
    }

    /// The volume is to be shut down.
    pub(super) fn stop(&self) -> Stop {
        loop {
            let (before, after, answer) = match self.phase() {
                Phase::New => (Phase::New, Phase::Down, Stop::IsDown),
                Phase::Starting => (Phase::Starting, Phase::StopAsked, Stop::AfterStart),
                Phase::Online => (Phase::Online, Phase::ShuttingDown, Stop::Now),
                Phase::StopAsked | Phase::ShuttingDown => return Stop::UnderWay,
                Phase::Down => return Stop::IsDown,
            };
            if self.go(before, after) {
                return answer;
            }
        }
    }

    /// The volume has come to rest.
    pub(super) fn ended(&self) {
        _ = self.go(Phase::ShuttingDown, Phase::Down);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_started_once_and_shut_down_once() {
        let life = Life::new();
        assert!(life.start());
        assert!(!life.start());
        life.started(true);
        assert_eq!(life.phase(), Phase::Online);
        assert!(!life.start());
        assert_eq!(life.stop(), Stop::Now);
        assert_eq!(life.stop(), Stop::UnderWay);
        life.ended();
        assert_eq!((life.phase(), life.stop()), (Phase::Down, Stop::IsDown));
        assert!(!life.start());
    }

    #[test]
    fn a_stop_before_the_start_has_ended_is_kept_until_then() {
        for (succeeded, after) in [(true, Phase::ShuttingDown), (false, Phase::Down)] {
            let life = Life::new();
            assert!(life.start());
            assert_eq!(life.stop(), Stop::AfterStart);
            assert!(life.is_starting());
            life.started(succeeded);
            assert_eq!(life.phase(), after, "and not online");
        }
    }

    #[test]
    fn a_volume_that_was_never_started_is_down_at_once_and_stays_so() {
        let life = Life::new();
        assert_eq!(life.stop(), Stop::IsDown);
        assert!(!life.start());
        assert_eq!(life.phase(), Phase::Down);
    }
}
