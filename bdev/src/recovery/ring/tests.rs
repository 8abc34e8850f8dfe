//! Rings of eight blocks, made by hand, and what is to be made of them. The cases are those of dm-vdo's suite
//! RecoveryJournal_t2, and a few that it does not have.

use super::*;
use crate::format::SECTOR_SIZE;
use crate::format::recovery_journal::{BlockMapSlot, RecoveryJournalBlockMut, check_byte};
use crate::format::slab::{SlabConfig, SlabGeometry};
use crate::types::{BLOCK_SIZE, Mapping, MappingState, Pbn};
use proptest::prelude::*;

const BLOCKS: u64 = 8;
const NONCE: u64 = 0x1234;
const COUNT: u8 = 5;
const FIRST_DATA: u64 = 100;

fn rules() -> EntryRules {
    let config = SlabConfig::new(1 << 13, 224).unwrap();
    EntryRules {
        physical_blocks: 20_000,
        slabs: SlabGeometry::new(Pbn(FIRST_DATA), 2, config),
    }
}

fn ring_from(journal_start: u64) -> Ring {
    Ring {
        blocks: BLOCKS,
        nonce: NONCE,
        recovery_count: COUNT,
        journal_start: SequenceNumber(journal_start),
        super_block: Pbn(1),
        rules: rules(),
    }
}

/// The entry numbered `index` of block `number`: each maps something.
fn entry(number: u64, index: u16) -> RecoveryJournalEntry {
    let serial = number * 217 + u64::from(index);
    RecoveryJournalEntry {
        operation: JournalOperation::DataRemapping,
        slot: BlockMapSlot {
            pbn: Pbn(FIRST_DATA + serial % 7),
            slot: (serial % 812) as u16,
        },
        mapping: Mapping {
            pbn: Pbn(FIRST_DATA + serial % 7000),
            state: MappingState::UNCOMPRESSED,
        },
        unmapping: Mapping::UNMAPPED,
    }
}

/// A block of the ring as a test wants it.
#[derive(Clone)]
struct Made {
    number: u64,
    block: Box<Block>,
}

impl Made {
    /// A block whose two heads are `head`, with `entries` entries.
    fn with(head: u64, number: u64, entries: u16) -> Made {
        let mut block = Box::new([0; BLOCK_SIZE]);
        let header = RecoveryBlockHeader {
            block_map_head: SequenceNumber(head),
            slab_journal_head: SequenceNumber(head),
            sequence: SequenceNumber(number),
            nonce: NONCE,
            entry_count: 0,
            logical_blocks_used: 1000 + number * 217,
            block_map_data_blocks: 10,
            check_byte: check_byte(SequenceNumber(number), BLOCKS),
            recovery_count: COUNT,
        };
        let mut filling = RecoveryJournalBlockMut::begin(&mut block, &header);
        for index in 0..entries {
            filling.append(index, &entry(number, index));
        }
        let head = SequenceNumber(head);
        filling.prepare_write(head, head, entries);
        Made { number, block }
    }

    fn full(head: u64, number: u64) -> Made {
        Made::with(head, number, ENTRIES_PER_BLOCK)
    }

    fn change(mut self, change: impl FnOnce(&mut RecoveryBlockHeader)) -> Made {
        let (_, mut header) = RecoveryBlockHeader::decode_any(&self.block).unwrap();
        change(&mut header);
        let kind = self.block[32];
        header.encode(&mut self.block);
        self.block[32] = kind;
        self
    }

    /// Of another volume.
    fn foreign(self) -> Made {
        self.change(|header| header.nonce += 1)
    }

    /// From before a recovery.
    fn of_other_recovery(self) -> Made {
        self.change(|header| header.recovery_count -= 1)
    }

    /// In the form older programs wrote.
    fn old_form(mut self) -> Made {
        self.block[32] = 1;
        self
    }

    fn sector(mut self, sector: usize, change: impl FnOnce(&mut [u8])) -> Made {
        change(&mut self.block[sector * SECTOR_SIZE..][..SECTOR_SIZE]);
        self
    }

    /// The sector is one of the last trip around the ring.
    fn old_sector(self, sector: usize) -> Made {
        self.sector(sector, |bytes| bytes[0] = bytes[0].wrapping_sub(1))
    }
}

fn ring_of(blocks: &[(u64, Made)]) -> Vec<Block> {
    let mut ring = vec![[0; BLOCK_SIZE]; BLOCKS as usize];
    for (place, made) in blocks {
        ring[*place as usize] = *made.block;
    }
    ring
}

fn placed(blocks: impl IntoIterator<Item = Made>) -> Vec<Block> {
    let blocks: Vec<_> = blocks
        .into_iter()
        .map(|made| (made.number % BLOCKS, made))
        .collect();
    ring_of(&blocks)
}

fn scan(ring: &[Block]) -> RingScan {
    let mut scan = RingScan::new(ring_from(1)).expect("little memory");
    // In any order, in chunks of any size.
    scan.take(5, &ring[5..]);
    scan.take(0, &ring[..2]);
    scan.take(2, &ring[2..5]);
    scan
}

/// Blocks of the plan for the block map, each with the entries used of it.
fn used(range: JournalRange) -> Vec<(u64, u16)> {
    let numbers = range.runs(BLOCKS, 1).map(|run| run.first);
    numbers
        .map(|number| (number.get(), range.entries_of(number)))
        .collect()
}

fn recover(ring: &[Block]) -> Result<Vec<(u64, u16)>, Refusal> {
    let plan = scan(ring).recovery()?;
    assert_eq!(plan.block_map.range(), plan.slab_journals.range());
    // What is in use is what the tail's header says, and its entries.
    if let Some((tail, entries)) = used(plan.block_map.range()).pop() {
        let usage = plan.ending.usage().unwrap();
        assert_eq!(usage.logical_blocks, 1000 + tail * 217 + u64::from(entries));
        assert_eq!(usage.block_map_pages, 10);
    }
    for (number, count) in used(plan.block_map.range()) {
        let block = &ring[(number % BLOCKS) as usize];
        let sequence = SequenceNumber(number);
        let found = ring_from(1).entries(sequence, block, count).unwrap();
        assert!(found.eq((0..count).map(|index| entry(number, index))));
    }
    Ok(used(plan.block_map.range()))
}

/// Entries that a rebuild finds in each block it looks at, and those it leaves out.
fn rebuild(ring: &[Block]) -> Vec<(u64, usize, usize)> {
    let plan = scan(ring).rebuild().unwrap();
    let Some(range) = plan.block_map else {
        return Vec::new();
    };
    let numbers = range.runs(BLOCKS, 1).map(|run| run.first);
    numbers
        .map(|number| {
            let block = &ring[(number.get() % BLOCKS) as usize];
            let (good, bad): (Vec<_>, Vec<_>) = ring_from(1)
                .salvage(number, block)
                .partition(|entry| entry.is_ok());
            (number.get(), good.len(), bad.len())
        })
        .filter(|(_, good, bad)| good + bad > 0)
        .collect()
}

/// A block torn in its second writing: the third sector is short.
fn short_sector(head: u64, number: u64) -> Made {
    Made::full(head, number).sector(3, |bytes| bytes[2] = 4)
}

/// As a journal looks that has wrapped around: 14 to 16 full, 17 with a few, and others' blocks.
fn wrapped() -> Vec<(u64, Made)> {
    vec![
        (0, Made::full(14, 16)),
        (1, Made::with(11, 17, 66)),
        (2, Made::full(0, 50).foreign()),
        (3, Made::full(5, 11)),
        (4, Made::full(2, 4)),
        (5, Made::full(1, 13).foreign()),
        (6, Made::full(9, 14)),
        (7, Made::full(11, 15)),
    ]
}

#[test]
fn a_journal_without_holes_is_used_from_head_to_tail() {
    let ring = placed((1..=5).map(|number| Made::full(1, number)));
    let all: Vec<_> = (1..=5).map(|number| (number, 217)).collect();
    assert_eq!(recover(&ring), Ok(all));
    assert_eq!(scan(&ring).recovery().unwrap().ending.next.get(), 6);
}

#[test]
fn a_short_tail_block_after_a_wrap_ends_the_journal() {
    let used = vec![(14, 217), (15, 217), (16, 217), (17, 66)];
    let mut blocks = wrapped();
    assert_eq!(recover(&ring_of(&blocks)), Ok(used.clone()));
    // Even if the block after it is there and full.
    blocks[2].1 = Made::full(11, 18);
    assert_eq!(recover(&ring_of(&blocks)), Ok(used));
}

#[test]
fn a_hole_at_the_head_leaves_nothing_to_use() {
    let ring = ring_of(&[
        (0, Made::full(1, 20)),
        (1, Made::full(1, 1)),
        (2, Made::full(1, 2).foreign()),
        (3, Made::full(1, 3).of_other_recovery()),
        (4, Made::full(2, 4)),
        (5, Made::with(1, 5, 66)),
    ]);
    let plan = scan(&ring).recovery().unwrap();
    assert_eq!(used(plan.block_map.range()), []);
    assert_eq!(plan.ending.next.get(), 6, "after the highest seen");
    // Block 1 is not needed, and says what was in use when the missing block was begun.
    assert_eq!(plan.ending.usage().unwrap().logical_blocks, 1000 + 2 * 217);
    assert!(!plan.ending.wants_count());
}

#[test]
fn a_hole_in_the_middle_ends_the_journal_before_it() {
    let mut blocks: Vec<_> = (1..=5).map(|number| Made::full(1, number)).collect();
    blocks[4] = Made::full(2, 5);
    blocks[3] = blocks[3].clone().of_other_recovery();
    blocks.push(Made::with(1, 6, 66));
    assert_eq!(recover(&placed(blocks)), Ok(vec![(2, 217), (3, 217)]));
}

#[test]
fn a_hole_before_the_tail_ends_the_journal_before_it() {
    let mut blocks = wrapped();
    blocks[0].1 = Made::full(1, 8);
    blocks[7].1 = Made::full(14, 15);
    assert_eq!(recover(&ring_of(&blocks)), Ok(vec![(14, 217), (15, 217)]));
}

#[test]
fn of_two_holes_the_first_counts() {
    let mut blocks: Vec<_> = (2..=5).map(|number| Made::full(1, number)).collect();
    blocks[2] = Made::full(9, 12).of_other_recovery();
    blocks.push(Made::with(1, 1, 66));
    assert_eq!(recover(&placed(blocks)), Ok(vec![(1, 66)]));
    // Two that are missing, with blocks between them.
    let blocks = [1, 2, 4, 5, 7].map(|number| Made::full(1, number));
    assert_eq!(recover(&placed(blocks)), Ok(vec![(1, 217), (2, 217)]));
}

#[test]
fn a_hole_that_no_loss_of_power_leaves_is_damage() {
    let recover = |last: u64| {
        let mut blocks = vec![[0; BLOCK_SIZE]; 32];
        for number in (1..=last).filter(|number| *number != 3) {
            blocks[number as usize] = *Made::full(1, number).block;
        }
        let ring = Ring {
            blocks: 32,
            ..ring_from(1)
        };
        let mut scan = RingScan::new(ring).expect("little memory");
        scan.take(0, &blocks);
        scan.recovery()
    };
    assert_eq!(recover(13).unwrap().block_map.range().blocks(), 2);
    let refused = recover(14).unwrap_err();
    let hole = Refusal::Hole {
        sequence: SequenceNumber(3),
        place: 3,
        highest: SequenceNumber(14),
    };
    assert_eq!(refused, hole);
    assert!(refused.is_damage());
}

#[test]
fn blocks_of_a_later_recovery_show_that_the_super_block_is_an_old_one() {
    let mut blocks: Vec<_> = (1..=5).map(|number| Made::full(1, number)).collect();
    blocks.push(Made::full(6, 6).change(|header| header.recovery_count += 1));
    let refused = scan(&placed(blocks.clone())).recovery().unwrap_err();
    assert!(matches!(refused, Refusal::OldSuperBlock { place: 6, .. }));
    assert!(!refused.is_damage(), "nothing is written");
    blocks[5] = Made::full(1, 6).of_other_recovery();
    assert!(scan(&placed(blocks)).recovery().is_ok());
}

/// A ring full of holes for a rebuild: 13 is gone, 14 is not full, 15 is another volume's.
fn holed() -> Vec<(u64, Made)> {
    vec![
        (0, Made::full(12, 16)),
        (1, Made::with(11, 17, 66)),
        (2, Made::full(20, 26).foreign()),
        (3, Made::full(5, 11)),
        (4, Made::full(7, 12)),
        (5, Made::full(1, 5)),
        (6, Made::with(9, 14, 66)),
        (7, Made::full(11, 15).foreign()),
    ]
}

#[test]
fn a_rebuild_uses_every_block_between_head_and_highest_whatever_is_missing() {
    let found = vec![(12, 217, 0), (14, 66, 0), (16, 217, 0), (17, 66, 0)];
    assert_eq!(rebuild(&ring_of(&holed())), found);
    let plan = scan(&ring_of(&holed())).rebuild().unwrap();
    assert_eq!(plan.ending.next.get(), 18);
}

#[test]
fn a_rebuild_begins_at_the_head_of_the_block_map_whatever_slab_journals_need() {
    for (map, slabs) in [(2, 4), (4, 2)] {
        let blocks = (1..=5).map(|number| {
            Made::full(1, number).change(|header| {
                header.block_map_head = SequenceNumber(number.min(map));
                header.slab_journal_head = SequenceNumber(number.min(slabs));
            })
        });
        let found: Vec<_> = (map..=5).map(|number| (number, 217, 0)).collect();
        assert_eq!(rebuild(&placed(blocks)), found);
    }
}

#[test]
fn a_rebuild_over_a_ring_without_a_valid_block_uses_nothing() {
    let blocks: Vec<_> = holed()
        .into_iter()
        .map(|(place, made)| {
            (
                place,
                if place == 2 || place == 7 {
                    made
                } else {
                    made.foreign()
                },
            )
        })
        .collect();
    let plan = scan(&ring_of(&blocks)).rebuild().unwrap();
    assert_eq!((plan.block_map, plan.ending.next.get()), (None, 2));
}

#[test]
fn a_rebuild_over_a_valid_block_without_a_valid_sector_uses_nothing() {
    let mut blocks: Vec<_> = holed()
        .into_iter()
        .map(|(place, made)| (place, made.foreign()))
        .collect();
    let header_only = (1..8).fold(Made::full(5, 11), Made::old_sector);
    blocks[3].1 = header_only;
    let ring = ring_of(&blocks);
    assert_eq!(rebuild(&ring), []);
    assert_eq!(scan(&ring).rebuild().unwrap().ending.next.get(), 12);
}

/// Makes an entry of each block of a ring implausible.
fn spoil(blocks: Vec<(u64, Made)>, spoil: Spoil) -> Vec<Block> {
    let spoiled = blocks.into_iter().map(|(place, made)| {
        let number = made.number;
        let mut bad = entry(number, 40);
        spoil(&mut bad);
        let at = 3 + 9 * 16;
        let made = made.sector(2, |bytes| bytes[at..at + 16].copy_from_slice(&bad.encode()));
        (place, made)
    });
    ring_of(&spoiled.collect::<Vec<_>>())
}

type Spoil = fn(&mut RecoveryJournalEntry);

const SPOILED: [(Spoil, Implausible); 3] = [
    (|entry| entry.slot.slot = 812, Implausible::Slot),
    (|entry| entry.slot.pbn = Pbn(20_000), Implausible::Page),
    (
        |entry| entry.mapping.pbn = Pbn(20_000),
        Implausible::Mapping,
    ),
];

#[test]
fn one_bad_slot_page_or_block_refuses_a_recovery_and_names_the_entry() {
    for (spoil_one, why) in SPOILED {
        let refused = Refusal::Entry {
            sequence: SequenceNumber(14),
            place: 6,
            entry: 40,
            why,
        };
        assert!(refused.is_damage());
        assert_eq!(recover(&spoil(wrapped(), spoil_one)), Err(refused));
    }
}

#[test]
fn a_rebuild_leaves_out_bad_slots_pages_and_blocks_and_no_others() {
    for (spoil_one, _) in SPOILED {
        let found = vec![(12, 216, 1), (14, 65, 1), (16, 216, 1), (17, 65, 1)];
        assert_eq!(rebuild(&spoil(holed(), spoil_one)), found);
    }
}

#[test]
fn a_bad_entry_outside_what_is_used_does_not_matter() {
    let mut blocks = wrapped();
    let older = blocks[3].1.clone();
    blocks[3].1 = older.sector(1, |bytes| bytes[3..19].fill(0xff));
    let past_the_end = blocks[1].1.clone();
    blocks[1].1 = past_the_end.sector(3, |bytes| bytes[3 + 16 * 10..].fill(0xff));
    assert!(recover(&ring_of(&blocks)).is_ok());
}

/// 14 to 16 full, `torn` at 17, and 18 full, which must not be used.
fn torn_at_17(torn: Made) -> Vec<Block> {
    let mut blocks = wrapped();
    blocks[0].1 = Made::full(14, 16);
    blocks[1].1 = torn;
    blocks[2].1 = Made::full(11, 18);
    ring_of(&blocks)
}

fn up_to_17(entries: u16) -> Result<Vec<(u64, u16)>, Refusal> {
    Ok(vec![(14, 217), (15, 217), (16, 217), (17, entries)])
}

#[test]
fn a_sector_with_a_wrong_check_byte_ends_block_and_journal() {
    let torn = Made::full(14, 17).old_sector(4);
    assert_eq!(recover(&torn_at_17(torn)), up_to_17(93));
}

#[test]
fn a_sector_with_a_wrong_recovery_count_ends_block_and_journal() {
    let torn = Made::full(14, 17).sector(4, |bytes| bytes[1] += 1);
    assert_eq!(recover(&torn_at_17(torn)), up_to_17(93));
}

#[test]
fn a_short_sector_in_the_middle_ends_block_and_journal_after_it() {
    assert_eq!(recover(&torn_at_17(short_sector(14, 17))), up_to_17(66));
}

#[test]
fn an_old_header_over_new_sectors_counts() {
    let torn = Made::full(14, 17).change(|header| header.entry_count = 70);
    assert_eq!(recover(&torn_at_17(torn)), up_to_17(70));
}

#[test]
fn one_block_of_the_old_form_is_damage() {
    let mut blocks: Vec<_> = (1..=5).map(|number| Made::full(1, number)).collect();
    blocks[3] = blocks[3].clone().old_form();
    let refused = recover(&placed(blocks)).unwrap_err();
    assert_eq!(refused, Refusal::MixedForms { place: 4 });
    assert!(refused.is_damage());
}

#[test]
fn a_journal_of_the_old_form_is_left_alone() {
    let blocks = (1..=5).map(|number| Made::full(1, number).old_form());
    let ring = placed(blocks);
    let refused = recover(&ring).unwrap_err();
    assert_eq!(refused, Refusal::OldForm { place: 1 });
    assert!(!refused.is_damage());
    assert!(scan(&ring).rebuild().is_err());
}

#[test]
fn a_block_of_the_old_form_with_a_wrong_number_is_a_hole_like_any_other() {
    let ring = ring_of(&[
        (0, Made::full(6, 8)),
        (1, Made::full(9, 9)),
        (2, Made::full(9, 10)),
        (3, Made::full(9, 11)),
        (4, Made::full(1, 4).old_form()),
        (5, Made::full(9, 13)),
        (6, Made::full(6, 6)),
        (7, Made::full(6, 7)),
    ]);
    assert_eq!(recover(&ring), Ok(vec![(9, 217), (10, 217), (11, 217)]));
}

#[test]
fn each_consumer_has_its_own_head() {
    let behind = |made: Made, map, slabs| {
        made.change(|header| {
            header.block_map_head = SequenceNumber(map);
            header.slab_journal_head = SequenceNumber(slabs);
        })
    };
    let blocks = (1..=5).map(|number| behind(Made::full(1, number), number.min(2), number.min(4)));
    let plan = scan(&placed(blocks)).recovery().unwrap();
    assert_eq!(used(plan.block_map.range()).first(), Some(&(2, 217)));
    assert_eq!(used(plan.slab_journals.range()).first(), Some(&(4, 217)));
    assert_eq!(plan.block_map.range().entries(), 4 * 217);
}

#[test]
fn a_head_may_be_a_torn_tail_but_nothing_later() {
    let heads = |made: Made, map| made.change(|header| header.block_map_head = SequenceNumber(map));
    let torn = heads((1..8).fold(Made::full(3, 5), Made::old_sector), 5);
    let blocks = [Made::full(3, 3), Made::full(3, 4), torn.clone()];
    let plan = scan(&placed(blocks.clone())).recovery().unwrap();
    assert_eq!(plan.block_map.range().entries(), 0);
    assert_eq!(used(plan.slab_journals.range()), [(3, 217), (4, 217)]);
    assert_eq!(plan.ending.usage().unwrap().logical_blocks, 1000 + 5 * 217);

    let blocks = [Made::full(3, 3), Made::full(3, 4).foreign(), torn];
    let refused = scan(&placed(blocks)).recovery().unwrap_err();
    assert!(
        matches!(refused, Refusal::EndsTooEarly { place: 4, .. }),
        "{refused}"
    );
    assert!(
        refused
            .to_string()
            .contains("from number 5 on for the block map")
    );
}

#[test]
fn blocks_from_before_the_super_block_was_written_do_not_count() {
    let ring = placed((1..=5).map(|number| Made::full(1, number)));
    let mut scan = RingScan::new(ring_from(6)).expect("little memory");
    scan.take(0, &ring);
    let plan = scan.recovery().unwrap();
    assert_eq!(plan.block_map.range().entries(), 0);
    assert_eq!(plan.ending.next.get(), 7);
    assert!(
        plan.ending.usage().is_none() && !plan.ending.wants_count(),
        "the super block knows"
    );
}

#[test]
fn when_nobody_knows_how_much_is_in_use_it_is_to_be_counted() {
    let ring = placed([Made::full(2, 2).foreign(), Made::full(2, 3)]);
    let plan = scan(&ring).recovery().unwrap();
    assert!(plan.ending.wants_count());
}

#[test]
fn a_number_no_journal_reaches_is_damage() {
    let number = NUMBER_LIMIT - 1;
    let ring = placed([Made::full(number, number)]);
    assert!(matches!(
        recover(&ring),
        Err(Refusal::Number { place: 7, .. })
    ));
}

#[test]
fn a_block_that_changes_between_two_looks_is_noticed() {
    let made = Made::full(1, 1);
    let ring = ring_from(1);
    let changed = |made: &Made, count| {
        ring.entries(SequenceNumber(1), &made.block, count)
            .map(Iterator::count)
    };
    assert_eq!(changed(&made, 217), Ok(217));
    let torn = made.clone().old_sector(7);
    assert_eq!(changed(&torn, 186), Ok(186));
    assert!(changed(&torn, 187).is_err());
    assert!(changed(&made.foreign(), 1).is_err());
}

proptest! {
    #[test]
    fn whatever_the_ring_holds_a_scan_ends_and_what_it_plans_is_there(
        sectors in prop::collection::vec((0u64..8, 0u64..20, 0u16..=217, 0usize..8, any::<u8>()), 0..12),
        garbage in prop::collection::vec((0usize..8 * BLOCK_SIZE, any::<u8>()), 0..40),
        start in 0u64..20,
    ) {
        let mut ring = vec![[0; BLOCK_SIZE]; 8];
        for (place, number, count, sector, byte) in sectors {
            let number = number / 8 * 8 + place;
            let made = Made::with(number.saturating_sub(3), number, count);
            let made = made.sector(sector, |bytes| if byte < 64 { bytes[usize::from(byte) % 3] ^= byte });
            ring[place as usize] = *made.block;
        }
        for (at, byte) in garbage {
            ring[at / BLOCK_SIZE][at % BLOCK_SIZE] = byte;
        }
        let scan = || {
            let mut scan = RingScan::new(ring_from(start)).expect("little memory");
            scan.take(0, &ring);
            scan
        };
        if let Ok(plan) = scan().recovery() {
            for range in [plan.block_map.range(), plan.slab_journals.range()] {
                prop_assert!(range.entries() <= 8 * 217);
                for (number, count) in used(range) {
                    let block = &ring[(number % BLOCKS) as usize];
                    let found = ring_from(start).entries(SequenceNumber(number), block, count);
                    prop_assert_eq!(found.map(Iterator::count), Ok(usize::from(count)));
                }
            }
            prop_assert!(plan.ending.next.get() > start);
        }
        if let Ok(plan) = scan().rebuild()
            && let Some(range) = plan.block_map
        {
            prop_assert!(range.entries_at_most() <= 8 * 217);
            for run in range.runs(BLOCKS, 1) {
                let salvaged = ring_from(start).salvage(run.first, &ring[run.place as usize]);
                prop_assert!(salvaged.count() <= 217);
            }
        }
    }
}
