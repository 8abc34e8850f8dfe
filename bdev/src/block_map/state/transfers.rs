//! Pages on their way from and to disk, as steps: the next to read or write, and what when it is done.

use std::collections::VecDeque;

use super::{JournalCall, MapState};
use crate::block_map::pages::{Contents, Dirt, PageId};
use crate::block_map::waiters::WaitQueue;
use crate::error::VdoError;
use crate::format::Block;
use crate::format::block_map_page::{BlockMapPage, BlockMapPageMut, PageValidity};
use crate::types::{Pbn, SequenceNumber};

/// A page to be read.
#[derive(Clone, Copy, Debug)]
pub(in crate::block_map) struct PageRead {
    pub(in crate::block_map) id: PageId,
    pub(in crate::block_map) pbn: Pbn,
    pub(in crate::block_map) is_leaf: bool,
    /// Whether it was just made: then it is empty, whatever its block holds.
    pub(in crate::block_map) made: bool,
}

/// A copy of a page to be written; the copy itself is in the writer's buffer.
#[derive(Clone, Copy, Debug)]
pub(in crate::block_map) struct PageCopy {
    pub(in crate::block_map) id: PageId,
    pub(in crate::block_map) pbn: Pbn,
    pub(in crate::block_map) is_leaf: bool,
    /// Whether the page has never been written: it must be on disk once before it may say it is valid.
    pub(in crate::block_map) first: bool,
}

/// Pages to write: those that make room, for which requests wait, and those that are only old, by turns.
pub(in crate::block_map) struct Writes {
    urgent: VecDeque<PageId>,
    old: VecDeque<PageId>,
    urgent_next: bool,
}

impl Writes {
    pub(in crate::block_map) fn new(capacity: usize) -> Writes {
        Writes {
            urgent: VecDeque::with_capacity(capacity),
            old: VecDeque::with_capacity(capacity),
            urgent_next: true,
        }
    }

    /// Bytes of memory it holds.
    pub(in crate::block_map) fn memory_held(&self) -> usize {
        (self.urgent.capacity() + self.old.capacity()) * size_of::<PageId>()
    }

    fn push(&mut self, id: PageId, urgent: bool) {
        if urgent {
            self.urgent.push_back(id);
        } else {
            self.old.push_back(id);
        }
    }

    fn pop(&mut self) -> Option<PageId> {
        let (first, second) = if self.urgent_next {
            (&mut self.urgent, &mut self.old)
        } else {
            (&mut self.old, &mut self.urgent)
        };
        let id = first.pop_front().or_else(|| second.pop_front())?;
        self.urgent_next = !self.urgent_next;
        Some(id)
    }

    pub(in crate::block_map) fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.old.is_empty()
    }
}

impl MapState {
    /// The next page to read.
    pub(in crate::block_map) fn next_read(&mut self) -> Option<PageRead> {
        let id = self.reads.pop_front()?;
        self.in_flight += 1;
        let pbn = self.pages.get(id).pbn;
        let made = self.made.iter().position(|&made| made == pbn);
        Some(PageRead {
            id,
            pbn,
            is_leaf: self.pages.is_leaf(id),
            made: made.map(|at| self.made.swap_remove(at)).is_some(),
        })
    }

    /// Whether a block that was read can be taken for the page at `pbn`. One that never was a page is taken as an empty one:
    /// a crash may have come between the page's being named and its first write. But that is rare, and damage would look the
    /// same, so it is said.
    pub(in crate::block_map) fn check(&self, block: &Block, pbn: Pbn) -> Result<(), VdoError> {
        let page = BlockMapPage::new(block);
        let what = match page.validity(self.nonce, pbn) {
            PageValidity::Valid => return Ok(()),
            // Begun pages are what a crash left, and are finished when their volume is recovered.
            PageValidity::Unwritten if self.read_only || !page.is_begun(self.nonce, pbn) => {
                if !self.forest.is_root(pbn) {
                    log::warn!(
                        "block {pbn} should hold a page of the block map, and is none: it was never written, or was \
                         damaged since; it is taken as empty"
                    );
                }
                return Ok(());
            }
            PageValidity::Unwritten | PageValidity::Damaged => {
                "but its header is damaged".to_owned()
            }
            PageValidity::Misplaced { found } => format!("but holds that of block {found}"),
        };
        Err(VdoError::Inconsistent(format!(
            "block {pbn} should hold the block-map page of that number, {what}"
        )))
    }

    /// A page has been read and checked: it serves those who wait.
    pub(in crate::block_map) fn read_done(&mut self, id: PageId, block: &Block) {
        self.in_flight -= 1;
        let pbn = self.pages.get(id).pbn;
        let memory = self.pages.bytes_mut(id);
        match BlockMapPage::new(block).validity(self.nonce, pbn) {
            PageValidity::Valid => *memory = *block,
            _ => _ = BlockMapPageMut::format(memory, self.nonce, pbn, false),
        }
        let mut waiting = self.pages.update(id, |page| {
            page.contents = Contents::Valid;
            std::mem::replace(&mut page.waiting, WaitQueue::EMPTY)
        });
        while let Some((waiter, op)) = self.waiters.dequeue(&mut waiting) {
            let result = self.perform(id, op);
            self.waiters.finish(waiter, result);
        }
        self.make_room();
    }

    /// A page could not be read, or was not what it should be.
    pub(in crate::block_map) fn read_failed(&mut self, id: PageId, error: &VdoError) {
        self.in_flight -= 1;
        let mut waiting = self.pages.get(id).waiting;
        self.waiters.fail(&mut waiting, error);
        if self.pages.is_leaf(id) {
            self.statistics.failed_reads += 1;
            self.replace(id);
        } else {
            self.forest.remove(id);
            self.pages.clear(id);
        }
        self.make_room();
    }

    /// The journal's tail is now block `tail`.
    pub(in crate::block_map) fn advance(&mut self, tail: SequenceNumber) {
        self.eras.advance(tail);
        self.queue_expired();
    }

    /// Queues every dirty page to be written.
    pub(in crate::block_map) fn expire_all(&mut self) {
        self.eras.expire_all();
        self.queue_expired();
    }

    pub(super) fn queue_expired(&mut self) {
        while let Some(id) = self.eras.next_expired() {
            self.queue_write(id);
        }
    }

    pub(super) fn queue_write(&mut self, id: PageId) {
        let (writing, discarding) = self.pages.update(id, |page| {
            page.dirt = Dirt::Queued;
            (page.writing, page.discarding)
        });
        if !writing {
            self.writes.push(id, discarding);
            self.write_work.wake_one();
        }
    }

    /// The next page to write, copied into `buffer`.
    pub(in crate::block_map) fn next_write(&mut self, buffer: &mut Block) -> Option<PageCopy> {
        loop {
            let id = self.writes.pop()?;
            if self.read_only {
                self.give_up_write(id);
                self.make_room();
                continue;
            }
            buffer.copy_from_slice(self.pages.bytes(id));
            // From now on the page counts as written once: if this copy does not get to disk, nothing will.
            let first = !self.pages.entries_mut(id).set_initialized(true);
            let pbn = self.pages.update(id, |page| {
                page.dirt = Dirt::Clean;
                page.writing = true;
                page.copy_lock = page.lock.take();
                page.pbn
            });
            self.in_flight += 1;
            let is_leaf = self.pages.is_leaf(id);
            if is_leaf {
                self.statistics.pages_saved += 1;
            }
            return Some(PageCopy {
                id,
                pbn,
                is_leaf,
                first,
            });
        }
    }

    /// A copy is on disk.
    pub(in crate::block_map) fn write_done(&mut self, id: PageId) {
        self.in_flight -= 1;
        let (lock, discard, dirt) = self.pages.update(id, |page| {
            page.writing = false;
            let discard = std::mem::take(&mut page.discarding);
            (page.copy_lock.take(), discard, page.dirt)
        });
        if let Some(lock) = lock {
            self.journal_calls.push(JournalCall::Release(lock));
        }
        if dirt == Dirt::Queued {
            self.queue_write(id);
        }
        if discard {
            self.discards -= 1;
            if dirt != Dirt::Clean {
                self.statistics.reclaimed += 1;
            } else if self.cache.wants().len() > 0 {
                self.replace(id);
            }
        }
        self.make_room();
    }

    /// A copy could not be written; the volume is read-only.
    pub(in crate::block_map) fn write_failed(&mut self, id: PageId) {
        self.in_flight -= 1;
        self.pages.update(id, |page| {
            page.writing = false;
            let oldest = page.copy_lock.take().into_iter().chain(page.lock).min();
            page.lock = oldest;
        });
        self.eras.remove(id);
        self.give_up_write(id);
        self.make_room();
    }

    fn give_up_write(&mut self, id: PageId) {
        if self.pages.is_leaf(id) {
            self.statistics.failed_writes += 1;
        }
        let discard = self.pages.update(id, |page| {
            page.dirt = Dirt::Stuck;
            std::mem::take(&mut page.discarding)
        });
        if discard {
            self.discards -= 1;
        }
    }

    /// The volume is read-only: what can not be had any more is refused.
    pub(in crate::block_map) fn enter_read_only(&mut self) {
        self.read_only = true;
        self.make_room();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_make_room_and_pages_that_are_old_take_turns() {
        let mut writes = Writes::new(4);
        for (id, urgent) in [(1, false), (2, false), (3, true), (4, true), (5, true)] {
            writes.push(PageId::new(id), urgent);
        }
        let order: Vec<_> = std::iter::from_fn(|| writes.pop().map(PageId::get)).collect();
        assert_eq!(order, [3, 1, 4, 2, 5]);
        assert!(writes.is_empty());
    }
}
