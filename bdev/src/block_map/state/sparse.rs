//! Looking for what is mapped, past what is not: whole subtrees and the rest of a leaf in one step.
//!
//! Every look is at pages in memory and at an instant, so that whoever asks can weigh it against the locks on
//! logical blocks as they are at the same instant. A page that is needed and not there is named, for the asker to
//! have brought.

use super::MapState;
use crate::block_map::pages::Contents;
use crate::format::tree::{ENTRIES_PER_PAGE, TreePage};
use crate::types::{Mapping, MappingState, Pbn};

/// Tree pages looked at in one go.
const PAGES_AT_A_TIME: usize = 16;

/// What a look for the next leaf of a tree came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextLeaf {
    /// The leaf of this number in its tree is at this block, and there is none before it.
    At(u64, Pbn),
    /// There is no leaf before this number; further was not looked.
    NoneBefore(u64),
    /// There is no leaf before this number. A page on the way to it is not in memory, or damaged.
    Unknown(u64),
}

impl MapState {
    /// Looks for the first leaf of tree `root`, which must be the zone's, numbered `from` or more and below `end`.
    pub(in crate::block_map) fn next_leaf(&self, root: u32, mut from: u64, end: u64) -> NextLeaf {
        for _ in 0..PAGES_AT_A_TIME {
            if from >= end {
                return NextLeaf::NoneBefore(end);
            }
            let leaf = TreePage {
                root,
                height: 0,
                index: from,
            };
            let Some((page, parent, slot)) = self.lowest_parent(leaf) else {
                return NextLeaf::Unknown(from);
            };
            if self.pages.get(parent).contents != Contents::Valid {
                return NextLeaf::Unknown(from);
            }
            let entries = self.pages.entries(parent);
            let is_taken = |slot: &u16| {
                let child = entries.get(*slot);
                child.state.is_mapped() || child.pbn != Pbn::ZERO
            };
            let leaves_each = ENTRIES_PER_PAGE.pow(u32::from(page.height));
            let first_child = page.index - u64::from(slot);
            match (slot..ENTRIES_PER_PAGE as u16).find(is_taken) {
                None => from = (first_child + ENTRIES_PER_PAGE) * leaves_each,
                Some(taken) if taken > slot => {
                    from = (first_child + u64::from(taken)) * leaves_each
                }
                Some(_) if page.height > 0 => return NextLeaf::Unknown(from),
                Some(taken) => {
                    let child = entries.get(taken);
                    let is_good = child.state == MappingState::UNCOMPRESSED
                        && (self.is_data_block)(child.pbn);
                    return match is_good {
                        true => NextLeaf::At(from, child.pbn),
                        false => NextLeaf::Unknown(from),
                    };
                }
            }
        }
        NextLeaf::NoneBefore(from.min(end))
    }

    /// Looks for the first entry in `slots` of the leaf at `pbn` that `matters`; `None` if the leaf is not in
    /// memory.
    pub(in crate::block_map) fn next_entry(
        &self,
        pbn: Pbn,
        mut slots: std::ops::Range<u16>,
        matters: impl Fn(Mapping) -> bool,
    ) -> Option<Option<u16>> {
        let entries = self.pages.entries(self.find_now(pbn)?);
        Some(slots.find(|slot| matters(entries.get(*slot))))
    }
}
