//! The index as a whole: what zone thread 0 does about it, with all others.
//!
//! 1. It is *made*, *loaded* or *rebuilt* ([`life`]): zone thread 0 reads or writes what all shares have in common, and each zone thread its own
//!    ([`steps`]). A rebuild is background work: it goes on while the volume serves requests.
//! 2. While it is open, a share that is full closes its chapter, and with it all others do ([`chapters`]): zone thread 0 gathers the
//!    shares, writes the chapter, and says so.
//! 3. It is *closed*: nothing is asked any more, what was asked ends, and each zone thread writes its share to a save.
//!
//! An error in any of this closes the index for good and is the state of the index (`error`), never an I/O's. What becomes of a volume
//! does not depend on its index.

mod chapters;
mod life;
mod steps;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

pub use self::chapters::WrittenChapter;
pub(crate) use self::chapters::{read_for_lookups, write_chapters};
pub(crate) use self::life::{close, open};
pub use self::steps::ShardStep;
use crate::format::Volume;
use crate::format::index::IndexGeometry;
use crate::format::index::super_block::IndexLayout;
use crate::index::uds::ring::Ring;
use crate::index::uds::saves::LastSave;
use crate::index::{ClosedShare, IndexError};
use crate::runtime::task::{Scheduler, WaitList};
use crate::seam::Nanos;
use crate::types::Pbn;

/// Where the index of a volume is.
#[derive(Clone, Copy, Debug)]
pub struct IndexPlace {
    /// Its sizes.
    pub geometry: IndexGeometry,
    /// Its first block.
    pub start: Pbn,
    /// The volume's nonce.
    pub volume: u64,
}

impl IndexPlace {
    /// Of this volume, if it has room for it.
    pub fn of(volume: &Volume) -> Option<IndexPlace> {
        let geometry = volume.geometry.index.geometry().ok()?;
        let region = volume.layout.index_region;
        (geometry.region_blocks() <= region.blocks).then_some(IndexPlace {
            geometry,
            start: region.start,
            volume: volume.layout.nonce,
        })
    }

    /// Where its parts are.
    pub(crate) fn layout(&self) -> IndexLayout {
        IndexLayout::new(self.start, &self.geometry)
    }

    /// The ring of its chapters, if they have this nonce.
    pub(crate) fn ring(&self, nonce: u64) -> Ring {
        Ring {
            geometry: self.geometry,
            layout: self.layout(),
            nonce,
        }
    }
}

/// Shares of a chapter that is being closed.
struct Gathering {
    chapter: u64,
    shares: Vec<Option<ClosedShare>>,
}

impl Gathering {
    fn is_complete(&self) -> bool {
        self.shares.iter().all(Option::is_some)
    }
}

/// What zone thread 0 keeps of the index for all.
pub(crate) struct IndexKeeper {
    /// `None` if the volume has no room for the index it is configured with.
    place: Option<IndexPlace>,
    /// Milliseconds since 1970 when the volume was assembled, and how late it was when it was started.
    unix_ms: u64,
    started: Cell<Nanos>,
    /// The ring of the open index.
    ring: Cell<Option<Ring>>,
    /// The save on disk, as long as it counts.
    last_save: Cell<Option<LastSave>>,
    gathering: RefCell<Option<Gathering>>,
    /// Woken when a chapter is gathered, or on disk, or will not be.
    changed: WaitList,
    failure: Cell<Option<IndexError>>,
    is_rebuilding: Cell<bool>,
}

impl IndexKeeper {
    /// The keeper of an index that is closed.
    pub(crate) fn new(
        scheduler: &Rc<Scheduler>,
        place: Option<IndexPlace>,
        unix_ms: u64,
    ) -> IndexKeeper {
        IndexKeeper {
            place,
            unix_ms,
            started: Cell::new(Nanos(0)),
            ring: Cell::new(None),
            last_save: Cell::new(None),
            gathering: RefCell::new(None),
            changed: WaitList::new(scheduler),
            failure: Cell::new(None),
            is_rebuilding: Cell::new(false),
        }
    }

    /// The volume is started.
    pub(crate) fn start(&self, now: Nanos) {
        self.started.set(now);
    }

    /// Whether the index has failed since it was last opened.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    /// Whether a rebuild is under way, which may take long.
    pub(crate) fn is_rebuilding(&self) -> bool {
        self.is_rebuilding.get()
    }
}
