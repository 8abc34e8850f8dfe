//! How large the volume is, as far as its administrator knows.
//!
//! A volume that was asked to grow, and has not answered when the power goes, may come back with the old size or with the new
//! one, and with no other. Once it has answered, it has the new one.

use std::sync::{Arc, Mutex};

use vdo::format::{Growth, GrowthError, MAXIMUM_LOGICAL_BLOCKS, VolumeLayout};
use vdo::volume::{Kept, VolumeError};

use super::world::World;

/// A size in blocks: what it is at least, and at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    known: u64,
    asked: u64,
}

impl Size {
    fn is(&mut self, blocks: u64) {
        let fresh = self.known == 0;
        assert!(
            fresh || blocks == self.known || blocks == self.asked,
            "the volume has {blocks} blocks, and should have {} or {}",
            self.known,
            self.asked
        );
        (self.known, self.asked) = (blocks, blocks);
    }
}

/// The sizes of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    logical: Size,
    physical: Size,
}

impl Sizes {
    /// The volume says of itself where everything is; panics if it cannot be so large.
    pub fn are(&mut self, layout: &VolumeLayout) {
        self.logical.is(layout.logical_blocks);
        self.physical.is(layout.physical_blocks);
    }

    fn asked(&mut self, growth: Growth) {
        match growth {
            Growth::Logical(blocks) => self.logical.asked = blocks,
            Growth::Physical(blocks) => self.physical.asked = blocks,
        }
    }
}

type Answer = Result<Arc<VolumeLayout>, VolumeError>;

/// A growth that was asked for.
pub struct Asked {
    growth: Growth,
    /// Whether slabs were still being scrubbed.
    pub was_recovering: bool,
    answer: Arc<Mutex<Option<Answer>>>,
}

impl Asked {
    /// Has the volume grow.
    pub fn begin(world: &World, sizes: &mut Sizes, growth: Growth) -> Asked {
        // One that is read-only refuses, whatever became of the growth before.
        if !world.volume.is_read_only() {
            sizes.asked(growth);
        }
        let answer = Arc::new(Mutex::new(None));
        let told = Arc::clone(&answer);
        let keep = Box::new(|_: &_| Ok(Arc::new(()) as Kept));
        let done = move |grown| *told.lock().expect("one thread") = Some(grown);
        world.volume.grow(growth, keep, Box::new(done));
        Asked {
            growth,
            was_recovering: world.volume.is_recovering(),
            answer,
        }
    }

    /// Whether that is known.
    pub fn is_over(&self) -> bool {
        self.answer.lock().expect("one thread").is_some()
    }

    /// What came of it, once that is known.
    pub fn answer(&self) -> Option<Answer> {
        self.answer.lock().expect("one thread").take()
    }

    /// It has grown, as asked; what it says now is how large it is.
    pub fn grown(&self, world: &World, sizes: &mut Sizes) {
        let layout = world.volume.layout();
        match self.growth {
            Growth::Logical(blocks) => assert_eq!(layout.logical_blocks, blocks),
            Growth::Physical(blocks) => assert_eq!(layout.physical_blocks, blocks),
        }
        sizes.are(&layout);
    }

    /// It was refused. That must be for a reason, and nothing have changed.
    pub fn refused(&self, world: &World, error: &GrowthError, sizes: &mut Sizes) {
        let layout = world.volume.layout();
        let for_a_reason = match self.growth {
            Growth::Logical(blocks) => {
                blocks <= layout.logical_blocks || blocks > MAXIMUM_LOGICAL_BLOCKS
            }
            Growth::Physical(blocks) => {
                let moved = layout.recovery_journal.blocks + layout.slab_summary.blocks;
                let slab = layout.slabs.config.slab_blocks;
                blocks < layout.physical_blocks + moved
                    || blocks < layout.slabs.end().get() + slab + moved
            }
        };
        assert!(for_a_reason, "{:?}: {error}", self.growth);
        sizes.logical.asked = sizes.logical.known;
        sizes.physical.asked = sizes.physical.known;
        sizes.are(&layout);
    }
}
