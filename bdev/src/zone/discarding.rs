//! Whether freed blocks are discarded on the base device, and when the block map has forgotten them.
//!
//! The user switches it; a base device that cannot discard keeps it off, and one that fails to stops it until it is switched
//! on again: a discard is advice, and nothing a user waits for depends on it.

use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::owner::Zone;

/// What becomes of freed blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Discarding {
    /// They stay as they are on the base device.
    #[default]
    Off,
    /// They are discarded there, in the background.
    On,
    /// They were to be, and the base device has no unmap.
    Unsupported,
    /// They were to be, and the base device failed to: no more are tried.
    Failed,
}

impl Discarding {
    const ALL: [Discarding; 4] = [
        Discarding::Off,
        Discarding::On,
        Discarding::Unsupported,
        Discarding::Failed,
    ];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Discarding::Off => "off",
            Discarding::On => "on",
            Discarding::Unsupported => "unsupported",
            Discarding::Failed => "failed",
        }
    }

    /// Whether the user wants freed blocks to be discarded.
    pub fn is_wanted(self) -> bool {
        self != Discarding::Off
    }
}

/// A [`Discarding`] that all zone threads see.
#[derive(Debug, Default)]
pub struct DiscardSwitch(AtomicU8);

impl DiscardSwitch {
    /// How it is.
    #[inline]
    pub fn get(&self) -> Discarding {
        Discarding::ALL[usize::from(self.0.load(Ordering::Relaxed))]
    }

    /// Changes it.
    pub fn set(&self, discarding: Discarding) {
        self.0.store(discarding as u8, Ordering::Relaxed);
    }

    /// Stops discards because one failed; false if somebody else did, or they are off.
    pub fn fail(&self) -> bool {
        let (on, failed) = (Discarding::On as u8, Discarding::Failed as u8);
        let order = Ordering::Relaxed;
        self.0.compare_exchange(on, failed, order, order).is_ok()
    }
}

impl Zone {
    /// Has blocks that were freed here discarded, round by round, for ever.
    pub(crate) async fn discard_freed(self: Rc<Self>) {
        loop {
            self.physical.ripen().await;
            // An error is one of the volume, which turns read-only; then nothing is discarded.
            _ = self.barrier_everywhere().await;
            self.physical.discard_ripe().await;
        }
    }
}
