//! The pages a zone has in memory: what each holds, whether it is dirty, whether it is being written.
//!
//! There are two kinds, with one numbering. *Leaf slots* come first; their number is the size of the page
//! cache, their memory is taken at start, and they are used for one leaf after the other (`cache`).
//! *Tree pages* follow; each is one interior page or root of a tree, gets its memory when it is first
//! needed, and stays for good (`forest`). Changing, ageing, writing and journal locks are the same
//! for both.
//!
//! The life of a change:
//! 1. An entry is set. The page is `Dirt::Aging`, and holds a lock on the journal block of its oldest
//!    unwritten change.
//! 2. The page expires, or its slot is wanted for another page: `Dirt::Queued`.
//! 3. A writer takes a copy. The page is clean again, and `writing`; the lock passes to the copy. Further
//!    changes start again at 1; the next copy is not taken before this one is on disk.
//! 4. The copy is on disk. Its lock is released.
//!
//! When a write fails, the volume is read-only, and the page stays as it is in memory: `Dirt::Stuck`.

use super::waiters::WaitQueue;
use crate::error::VdoError;
use crate::format::Block;
use crate::format::block_map_page::{BlockMapPage, BlockMapPageMut};
use crate::runtime::memory;
use crate::runtime::prefetch::prefetch;
use crate::runtime::services::BlockMapSlot;
use crate::stats::BlockMapStatistics;
use crate::types::{BLOCK_SIZE, Pbn, SequenceNumber};

/// Names a page in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PageId(u32);

impl PageId {
    #[inline]
    pub(super) fn new(number: u32) -> PageId {
        PageId(number)
    }

    #[inline]
    pub(super) fn get(self) -> u32 {
        self.0
    }

    #[inline]
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a leaf was in memory when somebody looked, so that it need not be searched for again. Whoever uses it sees whether that is still so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LeafHint(Option<PageId>);

/// The way to what the block map says of a logical block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The entry. Where that is never changes.
    pub entry: BlockMapSlot,
    pub(super) leaf: LeafHint,
}

impl From<BlockMapSlot> for Way {
    /// The way to an entry whose leaf nobody has looked for.
    fn from(entry: BlockMapSlot) -> Way {
        Way {
            entry,
            leaf: LeafHint::default(),
        }
    }
}

/// What a page's memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    /// Nothing.
    Empty,
    /// Nothing yet: the page is being read.
    Incoming,
    /// The page.
    Valid,
}

/// Whether a page has changes that no copy was taken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dirt {
    /// None.
    Clean,
    /// Some; the page is in an era.
    Aging,
    /// Some; the page is queued to be written, or will be as soon as its present write ends.
    Queued,
    /// Some that will never be written, for the volume is read-only.
    Stuck,
}

/// What is known of a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    /// Where it belongs on disk.
    pub(super) pbn: Pbn,
    pub(super) contents: Contents,
    pub(super) dirt: Dirt,
    /// Whether a copy is on its way to disk.
    pub(super) writing: bool,
    /// Whether it is written to make room for another leaf.
    pub(super) discarding: bool,
    /// The journal block of the oldest change that no copy was taken of; locked.
    pub(super) lock: Option<SequenceNumber>,
    /// The journal block of the oldest change in the copy on its way; locked.
    pub(super) copy_lock: Option<SequenceNumber>,
    /// Who waits for it to arrive.
    pub(super) waiting: WaitQueue,
}

const EMPTY: Page = Page {
    pbn: Pbn::ZERO,
    contents: Contents::Empty,
    dirt: Dirt::Clean,
    writing: false,
    discarding: false,
    lock: None,
    copy_lock: None,
    waiting: WaitQueue::EMPTY,
};

/// What a page of the cache takes, in bytes: its memory, what is known of it, and its place in tables, lists and queues.
pub const CACHE_PAGE_BYTES: u64 = (BLOCK_SIZE + size_of::<Page>() + 80) as u64;

/// How the statistics count a leaf slot.
#[derive(Clone, Copy)]
enum Gauge {
    Free,
    Incoming,
    Clean,
    Dirty,
    Outgoing,
}

impl Page {
    fn gauge(&self) -> Gauge {
        match (self.contents, self.dirt) {
            (Contents::Empty, _) => Gauge::Free,
            (Contents::Incoming, _) => Gauge::Incoming,
            (Contents::Valid, Dirt::Queued) => Gauge::Outgoing,
            (Contents::Valid, _) if self.writing => Gauge::Outgoing,
            (Contents::Valid, Dirt::Clean) => Gauge::Clean,
            (Contents::Valid, Dirt::Aging | Dirt::Stuck) => Gauge::Dirty,
        }
    }

    /// Whether the page is as it is on disk, and nothing is under way with it.
    #[inline]
    pub(super) fn is_idle_and_clean(&self) -> bool {
        self.contents == Contents::Valid && self.dirt == Dirt::Clean && !self.writing
    }
}

/// All pages of a zone and their memory.
pub(super) struct Pages {
    table: Vec<Page>,
    leaf_slots: usize,
    leaf_memory: Box<[u8]>,
    tree_memory: Vec<Box<Block>>,
    spare: Vec<PageId>,
    gauges: [u64; 5],
}

impl Pages {
    /// `leaf_slots` empty leaf slots, no tree page.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub(super) fn new(leaf_slots: usize) -> Result<Pages, VdoError> {
        let mut gauges = [0; 5];
        gauges[Gauge::Free as usize] = leaf_slots as u64;
        Ok(Pages {
            table: memory::filled(EMPTY, leaf_slots, "the cache of block-map pages")?,
            leaf_slots,
            leaf_memory: memory::zeroed(leaf_slots, BLOCK_SIZE, "the cache of block-map pages")?
                .into_boxed_slice(),
            tree_memory: Vec::new(),
            spare: Vec::new(),
            gauges,
        })
    }

    /// Bytes of memory they hold: of the leaf slots, those in use.
    pub(super) fn memory_held(&self) -> usize {
        let leaves = self.leaf_slots - self.gauges[Gauge::Free as usize] as usize;
        (leaves + self.tree_memory.len()) * BLOCK_SIZE + self.table.len() * size_of::<Page>()
    }

    /// How many pages there are; numbers are below this.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether this is a leaf slot (else it is a tree page).
    #[inline]
    pub(super) fn is_leaf(&self, id: PageId) -> bool {
        id.index() < self.leaf_slots
    }

    /// What is known of a page.
    #[inline]
    pub(super) fn get(&self, id: PageId) -> &Page {
        &self.table[id.index()]
    }

    /// Where a leaf was found, of which an entry is to be read or changed soon: brings both close.
    #[inline]
    pub(super) fn hint(&self, id: PageId, slot: u16) -> LeafHint {
        prefetch(self.get(id));
        prefetch(self.entries(id).place(slot));
        LeafHint(Some(id))
    }

    /// The leaf at `pbn`, if it still is where it was.
    #[inline]
    pub(super) fn hinted(&self, hint: LeafHint, pbn: Pbn) -> Option<PageId> {
        hint.0.filter(|id| self.get(*id).pbn == pbn)
    }

    /// Changes what is known of a page, and how it is counted.
    #[inline]
    pub(super) fn update<T>(&mut self, id: PageId, change: impl FnOnce(&mut Page) -> T) -> T {
        let page = &mut self.table[id.index()];
        let before = page.gauge();
        let result = change(page);
        let after = page.gauge();
        if id.index() < self.leaf_slots {
            self.gauges[before as usize] -= 1;
            self.gauges[after as usize] += 1;
        }
        result
    }

    /// A new tree page that belongs at `pbn`, empty as yet.
    pub(super) fn add_tree_page(&mut self, pbn: Pbn) -> PageId {
        let page = Page { pbn, ..EMPTY };
        if let Some(id) = self.spare.pop() {
            self.table[id.index()] = page;
            return id;
        }
        let id = PageId(u32::try_from(self.table.len()).expect("fewer than 2^32 tree pages"));
        self.table.push(page);
        self.tree_memory.push(Box::new([0; BLOCK_SIZE]));
        id
    }

    /// Empties a page: a leaf slot can be used again, a tree page that could not be read is no more.
    pub(super) fn clear(&mut self, id: PageId) {
        self.update(id, |page| *page = EMPTY);
        if !self.is_leaf(id) {
            self.spare.push(id);
        }
    }

    /// The memory of a page.
    #[inline]
    pub(super) fn bytes(&self, id: PageId) -> &Block {
        match self.leaf_memory[..]
            .as_chunks::<BLOCK_SIZE>()
            .0
            .get(id.index())
        {
            Some(leaf) => leaf,
            None => &self.tree_memory[id.index() - self.leaf_slots],
        }
    }

    /// The memory of a page, to change.
    #[inline]
    pub(super) fn bytes_mut(&mut self, id: PageId) -> &mut Block {
        let leaves = self.leaf_memory.as_chunks_mut::<BLOCK_SIZE>().0;
        match leaves.get_mut(id.index()) {
            Some(leaf) => leaf,
            None => &mut self.tree_memory[id.index() - self.leaf_slots],
        }
    }

    /// The entries of a page, to read.
    #[inline]
    pub(super) fn entries(&self, id: PageId) -> BlockMapPage<'_> {
        BlockMapPage::new(self.bytes(id))
    }

    /// The entries of a page, to change.
    #[inline]
    pub(super) fn entries_mut(&mut self, id: PageId) -> BlockMapPageMut<'_> {
        BlockMapPageMut::new(self.bytes_mut(id))
    }

    /// Puts the gauges of the leaf slots into the statistics.
    pub(super) fn count(&self, statistics: &mut BlockMapStatistics) {
        let [free, incoming, clean, dirty, outgoing] = self.gauges;
        statistics.free_pages = free;
        statistics.incoming_pages = incoming;
        statistics.clean_pages = clean;
        statistics.dirty_pages = dirty;
        statistics.outgoing_pages = outgoing;
    }

    /// Whether any leaf slot is being read or written.
    pub(super) fn any_leaf_in_flight(&self) -> bool {
        self.gauges[Gauge::Incoming as usize] + self.gauges[Gauge::Outgoing as usize] > 0
    }
}
