//! How large a volume is, and where its parts are: what all threads know alike, and what changes when it grows.
//!
//! The layout as a whole is for those who ask now and then. The few numbers that each request needs stand beside it,
//! where they are read without a lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::format::VolumeLayout;
use crate::format::slab::SlabGeometry;
use crate::format::tree::TreeGeometry;

/// The layout of a volume that is up.
#[derive(Debug)]
pub struct VolumeExtent {
    layout: RwLock<Arc<VolumeLayout>>,
    /// As it was at the start; its number of logical blocks is the one below.
    tree: TreeGeometry,
    /// As they were at the start; their number is the one below.
    slabs: SlabGeometry,
    logical_blocks: AtomicU64,
    slab_count: AtomicU32,
}

impl VolumeExtent {
    /// That of a volume that was found so.
    pub fn new(layout: VolumeLayout) -> VolumeExtent {
        VolumeExtent {
            tree: layout.tree,
            slabs: layout.slabs,
            logical_blocks: AtomicU64::new(layout.logical_blocks),
            slab_count: AtomicU32::new(layout.slabs.slab_count),
            layout: RwLock::new(Arc::new(layout)),
        }
    }

    /// Where everything is.
    pub fn layout(&self) -> Arc<VolumeLayout> {
        let layout = self.layout.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&layout)
    }

    /// Blocks the volume presents.
    #[inline]
    pub fn logical_blocks(&self) -> u64 {
        self.logical_blocks.load(Ordering::Acquire)
    }

    /// The block map's forest.
    #[inline]
    pub fn tree(&self) -> TreeGeometry {
        TreeGeometry {
            logical_blocks: self.logical_blocks(),
            ..self.tree
        }
    }

    /// Where the slabs are.
    #[inline]
    pub fn slabs(&self) -> SlabGeometry {
        let mut slabs = self.slabs;
        slabs.slab_count = self.slab_count.load(Ordering::Acquire);
        slabs
    }

    /// The volume has grown. More slabs are told of before any zone thread allocates there, so that whoever hears of a new
    /// block knows it; more logical blocks when every zone thread is ready for them.
    pub fn set(&self, layout: &VolumeLayout) {
        let mut place = self.layout.write().unwrap_or_else(PoisonError::into_inner);
        *place = Arc::new(layout.clone());
        self.slab_count
            .store(layout.slabs.slab_count, Ordering::Release);
        self.logical_blocks
            .store(layout.logical_blocks, Ordering::Release);
    }
}
