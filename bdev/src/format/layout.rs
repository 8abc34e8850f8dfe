//! Partitions: which blocks of the data region belong to which part of the volume.
//!
//! The layout begins right after the super block and has four partitions, always in this order on the
//! device: the block-map roots, the slab depot, the recovery journal, the slab summary. The first
//! lies at the front and the last two at the end, so that the depot, between them, takes all that is
//! left. They are made once; growing a volume moves the last two.

use super::codec::{Header, Reader, Version, Writer};
use super::error::DecodeError;
use crate::types::Pbn;

/// A run of physical blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// The first block.
    pub start: Pbn,
    /// How many blocks.
    pub blocks: u64,
}

impl Extent {
    /// The block after the last.
    pub fn end(&self) -> Pbn {
        Pbn(self.start.get().saturating_add(self.blocks))
    }

    /// Whether `pbn` is one of the blocks.
    pub fn contains(&self, pbn: Pbn) -> bool {
        self.start <= pbn && pbn < self.end()
    }
}

/// The parts of the data region, by their number on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PartitionId {
    /// The root pages of the block map's trees.
    BlockMap = 0,
    /// The slabs.
    SlabDepot = 1,
    /// The recovery journal.
    RecoveryJournal = 2,
    /// The slab summary.
    SlabSummary = 3,
}

impl PartitionId {
    /// Every partition, in the order of the device.
    pub const ALL: [PartitionId; 4] = [
        PartitionId::BlockMap,
        PartitionId::SlabDepot,
        PartitionId::RecoveryJournal,
        PartitionId::SlabSummary,
    ];

    /// The order in which the partitions of a new volume stand in the super block.
    const WRITTEN: [PartitionId; 4] = [
        PartitionId::SlabDepot,
        PartitionId::RecoveryJournal,
        PartitionId::SlabSummary,
        PartitionId::BlockMap,
    ];

    fn name(self) -> &'static str {
        match self {
            PartitionId::BlockMap => "the block map partition",
            PartitionId::SlabDepot => "the slab depot partition",
            PartitionId::RecoveryJournal => "the recovery journal partition",
            PartitionId::SlabSummary => "the slab summary partition",
        }
    }
}

const WHAT: &str = "the layout component";
const PARTITION_BYTES: usize = 25;
const HEADER: Header = Header {
    id: 1,
    version: Version::new(3, 0),
    size: (17 + 4 * PARTITION_BYTES) as u64,
};

/// The layout as the super block holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The first block no partition at the front took; equal to `last_free` once the depot is made.
    pub first_free: Pbn,
    /// The end of the blocks no partition took.
    pub last_free: Pbn,
    /// The partitions in the order they stand in the super block, which means nothing but is kept.
    partitions: [(PartitionId, Extent); 4],
}

impl Layout {
    /// Bytes of the encoded component, header included.
    pub(super) const SIZE: usize = Header::SIZE + HEADER.size as usize;

    /// Lays out a volume that ends at block `end` (the number of blocks it has) and whose layout
    /// begins at `start`. `None` when the fixed parts leave no block for slabs.
    pub fn new(
        start: Pbn,
        end: u64,
        root_blocks: u64,
        journal_blocks: u64,
        summary_blocks: u64,
    ) -> Option<Layout> {
        let depot_start = start.get().checked_add(root_blocks)?;
        let summary_start = end.checked_sub(summary_blocks)?;
        let journal_start = summary_start.checked_sub(journal_blocks)?;
        let depot_blocks = journal_start
            .checked_sub(depot_start)
            .filter(|&blocks| blocks > 0)?;
        let partitions = PartitionId::WRITTEN.map(|id| {
            let (start, blocks) = match id {
                PartitionId::BlockMap => (start.get(), root_blocks),
                PartitionId::SlabDepot => (depot_start, depot_blocks),
                PartitionId::RecoveryJournal => (journal_start, journal_blocks),
                PartitionId::SlabSummary => (summary_start, summary_blocks),
            };
            (
                id,
                Extent {
                    start: Pbn(start),
                    blocks,
                },
            )
        });
        let free = Pbn(journal_start);
        Some(Layout {
            first_free: free,
            last_free: free,
            partitions,
        })
    }

    /// The blocks of a partition.
    pub fn partition(&self, id: PartitionId) -> Extent {
        let found = self
            .partitions
            .iter()
            .find(|(partition, _)| *partition == id);
        found
            .expect("a layout holds each of the four partitions once")
            .1
    }

    pub(super) fn encode(&self, to: &mut Writer<'_>) {
        HEADER.encode(to);
        to.u64(self.first_free.get());
        to.u64(self.last_free.get());
        to.u8(self.partitions.len() as u8);
        for (id, extent) in &self.partitions {
            to.u8(*id as u8);
            to.u64(extent.start.get());
            to.u64(0);
            to.u64(extent.blocks);
        }
    }

    /// Reads the layout of a volume whose layout must begin at `start` and end at `end`.
    pub(super) fn decode(
        from: &mut Reader<'_>,
        start: Pbn,
        end: u64,
    ) -> Result<Layout, DecodeError> {
        HEADER.expect(WHAT, from)?;
        let first_free = Pbn(from.u64()?);
        let last_free = Pbn(from.u64()?);
        let count = from.u8()?;
        let damaged = |field, found, why| {
            Err(DecodeError::Field {
                what: WHAT,
                field,
                found,
                why,
            })
        };
        if usize::from(count) != PartitionId::ALL.len() {
            return damaged("the number of partitions", count.into(), "there are four");
        }
        let mut partitions = [(PartitionId::BlockMap, Extent::default()); 4];
        for (place, partition) in partitions.iter_mut().enumerate() {
            let number = from.u8()?;
            let start = Pbn(from.u64()?);
            from.u64()?;
            let blocks = from.u64()?;
            let Some(id) = PartitionId::ALL.get(usize::from(number)).copied() else {
                return damaged(
                    "a partition's id",
                    number.into(),
                    "they are numbered 0 to 3",
                );
            };
            *partition = (id, Extent { start, blocks });
            debug_assert!(place < PartitionId::ALL.len());
        }
        for (place, (id, _)) in partitions.iter().enumerate() {
            if partitions[..place].iter().any(|(earlier, _)| earlier == id) {
                return damaged(
                    "a partition's id",
                    *id as u64,
                    "each partition stands there once",
                );
            }
        }
        let layout = Layout {
            first_free,
            last_free,
            partitions,
        };
        layout.check(start, end)?;
        Ok(layout)
    }

    /// Whether the partitions lie one behind the other from `start` to `end`.
    fn check(&self, start: Pbn, end: u64) -> Result<(), DecodeError> {
        let mut next = start.get();
        for id in PartitionId::ALL {
            let extent = self.partition(id);
            let found = extent.start.get();
            if found != next {
                let why = "it should begin where the part before it ends";
                return Err(DecodeError::Field {
                    what: id.name(),
                    field: "its start",
                    found,
                    why,
                });
            }
            next = match next.checked_add(extent.blocks) {
                Some(next) if next <= end && extent.blocks > 0 => next,
                _ => {
                    let (field, found) = ("its number of blocks", extent.blocks);
                    let why = "it should have some, and end within the volume";
                    return Err(DecodeError::Field {
                        what: id.name(),
                        field,
                        found,
                        why,
                    });
                }
            };
        }
        if next != end {
            let (field, why) = ("its end", "it should be the end of the volume");
            return Err(DecodeError::Field {
                what: WHAT,
                field,
                found: next,
                why,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(layout: &Layout) -> [u8; Layout::SIZE] {
        let mut bytes = [0; Layout::SIZE];
        layout.encode(&mut Writer::new(&mut bytes));
        bytes
    }

    fn decoded(bytes: &[u8], start: u64, end: u64) -> Result<Layout, DecodeError> {
        Layout::decode(&mut Reader::new(WHAT, bytes), Pbn(start), end)
    }

    fn extent(start: u64, blocks: u64) -> Extent {
        Extent {
            start: Pbn(start),
            blocks,
        }
    }

    #[test]
    fn roots_come_first_journal_and_summary_last_and_slabs_take_the_rest() {
        let size = 1 << 20;
        let layout = Layout::new(Pbn(5), size, 60, 8192, 64).unwrap();
        let check = |layout: &Layout| {
            assert_eq!(layout.partition(PartitionId::BlockMap), extent(5, 60));
            let rest = size - 65 - 8192 - 64;
            assert_eq!(layout.partition(PartitionId::SlabDepot), extent(65, rest));
            let journal = layout.partition(PartitionId::RecoveryJournal);
            assert_eq!(journal, extent(size - 8192 - 64, 8192));
            assert_eq!(
                layout.partition(PartitionId::SlabSummary),
                extent(size - 64, 64)
            );
        };
        check(&layout);
        let again = decoded(&encoded(&layout), 5, size).unwrap();
        check(&again);
        assert_eq!(again, layout);
    }

    #[test]
    fn no_layout_without_a_block_for_slabs() {
        assert!(Layout::new(Pbn(5), 5 + 60 + 32 + 64 + 1, 60, 32, 64).is_some());
        for end in [0, 5, 64, 5 + 60 + 32 + 64] {
            assert_eq!(Layout::new(Pbn(5), end, 60, 32, 64), None);
        }
        assert_eq!(Layout::new(Pbn(u64::MAX), u64::MAX, 60, 32, 64), None);
    }

    #[test]
    fn partitions_that_overlap_leave_gaps_or_leave_the_volume_are_refused() {
        let sound = Layout::new(Pbn(5), 1000, 60, 32, 64).unwrap();
        assert!(decoded(&encoded(&sound), 5, 1000).is_ok());
        assert!(
            decoded(&encoded(&sound), 6, 1000).is_err(),
            "begins too early"
        );
        assert!(decoded(&encoded(&sound), 5, 999).is_err(), "ends too late");
        assert!(
            decoded(&encoded(&sound), 5, 1001).is_err(),
            "ends too early"
        );
        for place in 0..4 {
            for change in [-1_i64, 1, i64::MAX, i64::MIN] {
                let mut moved = sound.clone();
                let start = &mut moved.partitions[place].1.start.0;
                *start = start.wrapping_add_signed(change);
                assert!(
                    decoded(&encoded(&moved), 5, 1000).is_err(),
                    "{place} moved by {change}"
                );
                let mut grown = sound.clone();
                let blocks = &mut grown.partitions[place].1.blocks;
                *blocks = blocks.wrapping_add_signed(change);
                assert!(
                    decoded(&encoded(&grown), 5, 1000).is_err(),
                    "{place} grown by {change}"
                );
            }
        }
    }

    #[test]
    fn missing_repeated_and_unknown_partitions_are_refused() {
        let sound = encoded(&Layout::new(Pbn(5), 1000, 60, 32, 64).unwrap());
        let first_id = Header::SIZE + 17;
        let refused = |at: usize, value: u8, expected: &str| {
            let mut bytes = sound;
            bytes[at] = value;
            let error = decoded(&bytes, 5, 1000).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        refused(Header::SIZE + 16, 3, "there are four");
        refused(Header::SIZE + 16, 5, "there are four");
        refused(first_id, 4, "numbered 0 to 3");
        refused(
            first_id,
            sound[first_id + PARTITION_BYTES],
            "stands there once",
        );
    }

    proptest! {
        #[test]
        fn a_layout_survives_encoding(
            start in 0u64..1 << 36, roots in 1u64..256, slabs in 1u64..1 << 35,
            journal in 1u64..1 << 20, summary in 1u64..1 << 10,
        ) {
            let end = start + roots + slabs + journal + summary;
            let layout = Layout::new(Pbn(start), end, roots, journal, summary).unwrap();
            prop_assert_eq!(layout.partition(PartitionId::SlabDepot).blocks, slabs);
            prop_assert_eq!(decoded(&encoded(&layout), start, end), Ok(layout));
        }

        #[test]
        fn an_extent_contains_what_lies_between_its_ends(
            start in 0u64..1 << 40, blocks in 0u64..1 << 20, pbn in 0u64..1 << 41,
        ) {
            let extent = extent(start, blocks);
            prop_assert_eq!(extent.contains(Pbn(pbn)), (start..start + blocks).contains(&pbn));
        }
    }
}
