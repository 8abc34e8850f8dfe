//! Which entries of a recovery journal can be true.
//!
//! An entry is believed only if it could have been made by this volume: it names a slot there is, in a page on the
//! device, and mappings that lead to blocks that may hold data. A recovery that meets another one applies nothing at
//! all; a rebuild leaves it out.

use thiserror::Error;

use crate::format::block_map_page::is_valid;
use crate::format::error::DecodeError;
use crate::format::recovery_journal::{JournalOperation, RecoveryJournalEntry};
use crate::format::slab::SlabGeometry;
use crate::format::tree::ENTRIES_PER_PAGE;
use crate::types::{Mapping, Pbn};

/// Why an entry cannot be true. One byte, so that it can be kept for each block of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Implausible {
    /// Its operation is none.
    #[error("it is of an unknown operation")]
    Operation,
    /// Pages have fewer slots.
    #[error("it names a slot that no page has")]
    Slot,
    /// The page lies outside the volume.
    #[error("it names a page that lies outside the volume")]
    Page,
    /// The new mapping is ill-formed, or leads where no data can be.
    #[error("its new mapping leads to no block of data")]
    Mapping,
    /// The mapping that is replaced is.
    #[error("the mapping it replaces leads to no block of data")]
    Unmapping,
    /// A page of the block map is added once, as a block of its own.
    #[error("it is about a page of the block map and does not just add one")]
    Tree,
}

/// What entries are judged by.
#[derive(Clone, Copy, Debug)]
pub struct EntryRules {
    /// Blocks of the device the volume uses.
    pub physical_blocks: u64,
    /// Where data may be.
    pub slabs: SlabGeometry,
}

impl EntryRules {
    /// Whether an entry as it was read can be true.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn judge(
        &self,
        read: Result<RecoveryJournalEntry, DecodeError>,
    ) -> Result<RecoveryJournalEntry, Implausible> {
        let entry = read.map_err(|_| Implausible::Operation)?;
        if u64::from(entry.slot.slot) >= ENTRIES_PER_PAGE {
            return Err(Implausible::Slot);
        }
        if entry.slot.pbn.get() >= self.physical_blocks {
            return Err(Implausible::Page);
        }
        if !self.may_be(entry.mapping) {
            return Err(Implausible::Mapping);
        }
        if !self.may_be(entry.unmapping) {
            return Err(Implausible::Unmapping);
        }
        if entry.operation == JournalOperation::BlockMapRemapping {
            let adds_a_page = entry.mapping.pbn != Pbn::ZERO
                && !entry.mapping.state.is_compressed()
                && entry.unmapping == Mapping::UNMAPPED;
            if !adds_a_page {
                return Err(Implausible::Tree);
            }
        }
        Ok(entry)
    }

    /// Whether a mapping is well formed and leads to a block that may hold data, or to none.
    #[inline]
    fn may_be(&self, mapping: Mapping) -> bool {
        is_valid(mapping) && (mapping.pbn == Pbn::ZERO || self.slabs.is_data_block(mapping.pbn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::recovery_journal::BlockMapSlot;
    use crate::format::slab::SlabConfig;
    use crate::types::MappingState;

    fn rules() -> EntryRules {
        let config = SlabConfig::new(64, 8).unwrap();
        EntryRules {
            physical_blocks: 300,
            slabs: SlabGeometry::new(Pbn(100), 2, config),
        }
    }

    fn mapping(pbn: u64, state: u8) -> Mapping {
        Mapping {
            pbn: Pbn(pbn),
            state: MappingState::from_bits(state).unwrap(),
        }
    }

    fn data(page: u64, slot: u16, new: Mapping, old: Mapping) -> RecoveryJournalEntry {
        RecoveryJournalEntry {
            operation: JournalOperation::DataRemapping,
            slot: BlockMapSlot {
                pbn: Pbn(page),
                slot,
            },
            mapping: new,
            unmapping: old,
        }
    }

    #[test]
    fn each_part_of_an_entry_must_be_possible() {
        let rules = rules();
        let none = Mapping::UNMAPPED;
        let judge = |entry| rules.judge(Ok(entry)).map(drop);
        let sound = data(299, 811, mapping(100, 1), mapping(101, 15));
        assert_eq!(judge(sound), Ok(()));
        assert_eq!(judge(data(0, 0, none, Mapping::ZERO)), Ok(()));
        assert_eq!(judge(data(299, 812, none, none)), Err(Implausible::Slot));
        assert_eq!(judge(data(300, 0, none, none)), Err(Implausible::Page));
        // Ill-formed; before, between the data of and after the slabs.
        for bad in [
            mapping(0, 2),
            mapping(100, 0),
            mapping(99, 1),
            mapping(160, 1),
            mapping(228, 1),
        ] {
            assert_eq!(judge(data(1, 0, bad, none)), Err(Implausible::Mapping));
            assert_eq!(judge(data(1, 0, none, bad)), Err(Implausible::Unmapping));
        }
        let unknown = RecoveryJournalEntry::decode(&[2; 16]);
        assert_eq!(rules.judge(unknown), Err(Implausible::Operation));
    }

    #[test]
    fn an_entry_about_a_page_only_adds_one() {
        let rules = rules();
        let tree = |new, old| {
            let entry = RecoveryJournalEntry {
                operation: JournalOperation::BlockMapRemapping,
                ..data(1, 0, new, old)
            };
            rules.judge(Ok(entry)).map(drop)
        };
        assert_eq!(tree(mapping(100, 1), Mapping::UNMAPPED), Ok(()));
        let no_page = Err(Implausible::Tree);
        assert_eq!(tree(mapping(100, 2), Mapping::UNMAPPED), no_page);
        assert_eq!(tree(Mapping::ZERO, Mapping::UNMAPPED), no_page);
        assert_eq!(tree(mapping(100, 1), Mapping::ZERO), no_page);
        assert_eq!(tree(mapping(100, 1), mapping(101, 1)), no_page);
    }
}
