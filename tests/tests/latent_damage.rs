//! Latent damage: a block of metadata is not what was written last. Each kind of block, damaged in each way, on a volume that was
//! shut down, on one that crashed, and underneath one that runs.
//!
//! The answer must be a correct volume, one that is read-only and says why, or a refusal; never a panic, a hang, or wrong data
//! without a word. Where the format cannot tell (most of it has no checksums), that is said in docs/format.md, and is a
//! [`Silent`](Answer::Silent) here.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use Answer::{FailedRead, ReadOnly, Refused, Silent, Told, Whole};
use Damage::{Flip, Garbage, Older, Zero};
use Moment::{Clean, Dirty, Running};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vdo::format::Block;
use vdo::format::block_map_page::BlockMapPage;
use vdo::format::recovery_journal::RecoveryBlockHeader;
use vdo::format::slab_summary::SlabSummaryEntry;
use vdo::format::tree::{ENTRIES_PER_PAGE, TreePage};
use vdo::types::{BLOCK_SIZE, Lbn, SlabNumber};
use vdo::volume::{FormatPolicy, OpenRequest};
use vdo_tests::sim::audit::{audit_recovered, volume_on};
use vdo_tests::sim::complaints;
use vdo_tests::sim::small::{self, BLOCK, data};
use vdo_tests::sim::{SimDisk, World};

type Blocks = BTreeMap<u64, Block>;

/// A kind of metadata block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Geometry,
    SuperBlock,
    Root,
    Interior,
    Leaf,
    /// The last block of a slab's journal.
    SlabJournal,
    Counters,
    Summary,
    /// A block of the recovery journal with many after it.
    JournalEarly,
    /// One with a single block after it.
    JournalLate,
}

const PARTS: [Part; 10] = [
    Part::Geometry,
    Part::SuperBlock,
    Part::Root,
    Part::Interior,
    Part::Leaf,
    Part::SlabJournal,
    Part::Counters,
    Part::Summary,
    Part::JournalEarly,
    Part::JournalLate,
];

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    /// It is overwritten with something else.
    Garbage,
    /// One bit of it is.
    Flip,
    Zero,
    /// It is as it was at an earlier shutdown.
    Older,
}

/// What the volume does meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// It was shut down.
    Clean,
    /// It was not.
    Dirty,
    /// It runs, and is shut down and opened again afterwards.
    Running,
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    /// All data is right, and so is all that counts.
    Whole,
    /// The volume is read-only, and says why.
    ReadOnly,
    /// The volume is not opened, and why is said.
    Refused,
    /// Some reads fail; others are right.
    FailedRead,
    /// Data is missing, and the log names the block.
    Told,
    /// Data or counts are wrong, and nothing is said.
    Silent,
}

/// Leaves 0 and 60 are under one root, 1 and 2 under others.
const LEAVES: [u64; 4] = [0, 1, 60, 2];

/// A volume and what it holds, at two shutdowns and between.
struct History {
    size: u64,
    /// At the first shutdown.
    old: Blocks,
    /// Everything flushed, before the second.
    dirty: Blocks,
    /// At the second.
    clean: Blocks,
    /// What each block of data should be, at last.
    holds: BTreeMap<u64, u64>,
}

fn request() -> OpenRequest {
    let mut request = small::request();
    request.format = vdo::format::FormatOptions::miniature(512, 16, 64);
    request.format.logical_blocks = Some(62 * ENTRIES_PER_PAGE);
    request
}

fn open(disk: &SimDisk, policy: FormatPolicy) -> Result<World, String> {
    let request = OpenRequest {
        policy,
        ..request()
    };
    let mut options = small::options(1);
    options.block_map_cache_blocks = 2;
    let random = ChaCha8Rng::seed_from_u64(3);
    World::open(disk, request, options, random).map_err(|error| error.to_string())
}

/// Writes `count` blocks from `lbn` on, the first with the data `id`.
fn write(world: &mut World, holds: &mut BTreeMap<u64, u64>, lbn: u64, count: u64, id: u64) -> bool {
    let bytes: Vec<u8> = (id..id + count).flat_map(data).collect();
    let written = world.write(lbn * BLOCK, &bytes).is_ok();
    if written {
        holds.extend((lbn..lbn + count).zip(id..));
    }
    written
}

impl History {
    fn new() -> History {
        let slabs = 8;
        let least = request().format.minimum_device_blocks().expect("no index");
        let size = least + (slabs - 1) * 512;
        let disk = SimDisk::new(size);
        let mut holds = BTreeMap::new();
        let mut world = open(&disk, FormatPolicy::IfBlank).expect("it is new");
        for leaf in &LEAVES[..2] {
            assert!(write(
                &mut world,
                &mut holds,
                leaf * ENTRIES_PER_PAGE,
                250,
                leaf * 1000 + 1
            ));
        }
        world.shut_down().0.expect("it is shut down");
        let old = disk.blocks();

        let mut world = open(&disk, FormatPolicy::Never).expect("it was shut down");
        for round in 1..=25 {
            for leaf in LEAVES {
                let id = (round * 100 + leaf) * 1000;
                let lbn = leaf * ENTRIES_PER_PAGE + round % 5 * 40;
                assert!(write(&mut world, &mut holds, lbn, 40, id));
            }
        }
        world.flush().expect("it is flushed");
        world.settle();
        let dirty = disk.blocks();
        world.shut_down().0.expect("it is shut down");
        let clean = disk.blocks();
        History {
            size,
            old,
            dirty,
            clean,
            holds,
        }
    }

    fn blocks(&self, moment: Moment) -> &Blocks {
        match moment {
            Clean | Running => &self.clean,
            Dirty => &self.dirty,
        }
    }

    /// The block of a kind that is damaged.
    fn place(&self, part: Part, damage: Damage, moment: Moment) -> u64 {
        let blocks = self.blocks(moment);
        let at = |pbn: u64| blocks.get(&pbn).copied().unwrap_or([0; BLOCK_SIZE]);
        let volume = volume_on(blocks, self.size).expect("it is there");
        let layout = &volume.layout;
        // The tree whose root was as new at the first shutdown, and the one with most in it.
        let lbn = match (part, damage) {
            (Part::Root, Older) => 2 * ENTRIES_PER_PAGE,
            _ => 0,
        };
        let height = match part {
            Part::Root => 4,
            Part::Interior => 1,
            _ => 0,
        };
        let (leaf, _) = layout.tree.leaf(Lbn(lbn));
        let path = |height: u8| {
            let mut page = leaf;
            let mut slots: Vec<(TreePage, u16)> = Vec::new();
            while let Some((parent, slot)) = page.parent() {
                slots.push((parent, slot));
                page = parent;
            }
            let mut pbn = layout.tree.root_pbn(leaf.root);
            for (parent, slot) in slots.into_iter().rev() {
                if parent.height == height {
                    return pbn;
                }
                pbn = BlockMapPage::new(&at(pbn.get())).get(slot).pbn;
            }
            pbn
        };
        let slab = SlabNumber(0);
        let slab_journal = layout.slabs.journal_blocks(slab);
        let summary = layout.slab_summary.start.get();
        let entry = SlabSummaryEntry::decode(*at(summary).first_chunk().expect("two bytes"));
        let tail = u64::from(entry.tail_block_offset) + slab_journal.blocks;
        let journal = layout.recovery_journal;
        let numbers = (0..journal.blocks).filter_map(|place| {
            let block = at(journal.start.get() + place);
            let (_, header) = RecoveryBlockHeader::decode_any(&block)?;
            (header.nonce == layout.nonce).then(|| header.sequence.get())
        });
        let highest = numbers.max().expect("the journal was used");
        let journal_block = |number| journal.start.get() + number % journal.blocks;
        match part {
            Part::Geometry => 0,
            Part::SuperBlock => layout.super_block.get(),
            Part::Root | Part::Interior | Part::Leaf => path(height).get(),
            Part::SlabJournal => slab_journal.start.get() + (tail - 1) % slab_journal.blocks,
            Part::Counters => layout.slabs.reference_blocks(slab).start.get(),
            Part::Summary => summary,
            Part::JournalEarly => journal_block(highest - 14),
            Part::JournalLate => journal_block(highest - 1),
        }
    }

    /// The block as damage leaves it; of flipped bits, each in turn.
    fn damaged(&self, part: Part, damage: Damage, moment: Moment) -> Vec<(u64, Block)> {
        let pbn = self.place(part, damage, moment);
        let of = |blocks: &Blocks| blocks.get(&pbn).copied().unwrap_or([0; BLOCK_SIZE]);
        let now = of(self.blocks(moment));
        let blocks = match damage {
            Garbage => {
                let mut block = [0; BLOCK_SIZE];
                ChaCha8Rng::seed_from_u64(pbn).fill(&mut block[..]);
                vec![block]
            }
            Zero => vec![[0; BLOCK_SIZE]],
            Older => vec![of(&self.old)],
            Flip => BITS
                .map(|bit| {
                    let mut block = now;
                    block[bit / 8] ^= 1 << (bit % 8);
                    block
                })
                .to_vec(),
        };
        blocks.into_iter().map(|block| (pbn, block)).collect()
    }
}

/// What the log says of a page that is none.
const TELLS: &str = "should hold a page of the block map, and is none";

/// What a volume with a damaged block says and does.
struct Examination {
    answer: Answer,
    /// Everything it said.
    said: String,
}

/// Opens a volume, reads all of it, uses it, shuts it down and opens it again.
fn examine(history: &History, moment: Moment, pbn: u64, block: &Block) -> Examination {
    complaints::take_all();
    let disk = SimDisk::holding(history.blocks(moment).clone(), history.size);
    let mut holds = history.holds.clone();
    let mut seen = BTreeSet::new();
    let mut reasons = Vec::new();
    if moment == Running {
        let mut world = open(&disk, FormatPolicy::Never).expect("it is whole");
        assert!(write(&mut world, &mut holds, 300, 5, 7_000_000));
        disk.overwrite(pbn, block);
        use_it(world, &mut holds, &mut seen, &mut reasons);
    } else {
        disk.overwrite(pbn, block);
    }
    for _ in 0..2 {
        match open(&disk, FormatPolicy::Never) {
            Ok(world) => use_it(world, &mut holds, &mut seen, &mut reasons),
            Err(why) => {
                seen.insert(Refused);
                reasons.push(why);
            }
        }
    }
    if !seen.contains(&Refused)
        && !seen.contains(&ReadOnly)
        && let Err(problems) = audit_recovered(&disk.blocks(), disk.size())
    {
        seen.insert(Silent);
        reasons.push(format!("{problems:?}"));
    }
    reasons.extend(complaints::take_all());
    let said = reasons.join("\n");
    // Whatever was wrong before, a volume that stops in the end has said so.
    let answer = [Refused, ReadOnly, FailedRead, Silent]
        .into_iter()
        .find(|answer| seen.contains(answer));
    let answer = match answer {
        Some(Silent) if said.contains(TELLS) => Told,
        Some(answer) => answer,
        None => Whole,
    };
    Examination { answer, said }
}

fn use_it(
    mut world: World,
    holds: &mut BTreeMap<u64, u64>,
    seen: &mut BTreeSet<Answer>,
    reasons: &mut Vec<String>,
) {
    let mut look = |world: &mut World, holds: &BTreeMap<u64, u64>| {
        for (lbn, id) in holds {
            match world.read(lbn * BLOCK, BLOCK_SIZE) {
                Err(_) => seen.insert(FailedRead),
                Ok(read) if read != data(*id) => seen.insert(Silent),
                Ok(_) => false,
            };
        }
    };
    look(&mut world, holds);
    let first = 9_000_000 + holds.len() as u64 * 1000;
    for (at, lbn) in [(0, 0), (1, 60), (2, 700), (3, ENTRIES_PER_PAGE + 5)] {
        if !write(&mut world, holds, lbn, 4, first + at * 10) {
            break;
        }
    }
    let _ = world.flush();
    if !world.volume.is_read_only() {
        look(&mut world, holds);
    }
    let volume = std::sync::Arc::clone(&world.volume);
    let (shut, _) = world.shut_down();
    if volume.is_read_only() || shut.is_err() {
        seen.insert(ReadOnly);
        reasons.extend(volume.read_only_reason().map(str::to_owned));
    }
}

/// Bits to flip: one in each second byte of what is a header in most kinds of block, and some further on.
const BITS: [usize; 24] = {
    let mut bits = [0; 24];
    let mut at = 0;
    while at < 20 {
        bits[at] = 2 * at * 8 + (at * 3 + 1) % 8;
        at += 1;
    }
    while at < 24 {
        bits[at] = (64 + (at - 20) * 1007) * 8 + at % 8;
        at += 1;
    }
    bits
};

/// The answers there may be to damage: of several, it depends on which bit was flipped, and on what the block held.
fn answers(part: Part, damage: Damage, moment: Moment) -> &'static [Answer] {
    use Part::*;
    match (part, damage, moment) {
        // Written when the volume is made, and never changed.
        (Geometry, Older, _) => &[Whole],
        (Geometry, Garbage | Zero, _) => &[Refused],
        // Behind what the checksum covers there is nothing.
        (Geometry, Flip, _) | (SuperBlock, Flip, Clean | Dirty) => &[Whole, Refused],
        // What runs has these in memory, and writes them anew at the end.
        (SuperBlock | SlabJournal | Counters | Summary, _, Running) => &[Whole],
        // An old one is right by itself, but the journal goes on after it.
        (SuperBlock, _, Clean | Dirty) => &[Refused],
        // These were not written since.
        (Root | Interior | Leaf, Older, Dirty) => &[Whole],
        (Root, Flip, _) => &[Whole, ReadOnly],
        // An entry may lead to a block that is no page.
        (Interior, Flip, _) => &[Whole, ReadOnly, Told],
        (Root | Interior, _, _) => &[ReadOnly],
        // What was never written looks the same. The log names it.
        (Leaf, Garbage | Zero, _) => &[Told],
        // Nothing else says what a leaf says.
        (Leaf, Older, _) => &[Silent],
        (Leaf, Flip, _) => &[Whole, ReadOnly, FailedRead, Silent],
        // A journal that was shut down is empty, but for where it ends.
        (SlabJournal, Flip, Clean) => &[Whole, ReadOnly],
        // An entry about another block can be true.
        (SlabJournal, Flip, Dirty) => &[ReadOnly, Silent],
        (SlabJournal, _, _) => &[ReadOnly],
        (Counters, Older, Dirty) => &[Whole],
        // Each counter is known by itself alone.
        (Counters, Flip, _) => &[Whole, ReadOnly, Silent],
        (Counters, _, _) => &[ReadOnly],
        (Summary, Flip, _) => &[Whole, ReadOnly],
        (Summary, _, _) => &[ReadOnly],
        // Nobody reads the journal of a volume that was shut down.
        (JournalEarly | JournalLate, _, Clean | Running) => &[Whole],
        // What was lost was not under way when the power went.
        (JournalEarly, Garbage | Zero | Older, Dirty) => &[ReadOnly],
        // It may have been; but slab journals know what came after it.
        (JournalLate, Garbage | Zero | Older, Dirty) => &[ReadOnly],
        (JournalEarly | JournalLate, Flip, Dirty) => &[Whole, ReadOnly],
    }
}

/// What a message about a block has in it, if not its number: blocks that contradict each other are told together.
fn names(part: Part) -> &'static [&'static str] {
    match part {
        Part::Geometry => &["geometry block", "first block", "not a VDO"],
        Part::SuperBlock => &["super block"],
        Part::Root | Part::Interior => &["of the block map"],
        Part::Leaf => &[
            "block-map page",
            "of the block map",
            "the block map points to",
        ],
        Part::SlabJournal | Part::Counters => &["slab 0: "],
        Part::Summary => &["slab summary", "slab 0: ", "slab 2: "],
        Part::JournalEarly | Part::JournalLate => {
            &["recovery journal", "slab 0: ", "of the block map"]
        }
    }
}

/// Tries every damage at a moment.
fn try_all(moment: Moment) {
    complaints::listen();
    let history = History::new();
    let mut wrong = Vec::new();
    for part in PARTS {
        for damage in [Garbage, Zero, Older, Flip] {
            let wanted = answers(part, damage, moment);
            for (index, (pbn, block)) in history.damaged(part, damage, moment).iter().enumerate() {
                let what = || format!("{part:?}, {damage:?} {index}, {moment:?}, block {pbn}");
                let examined = AssertUnwindSafe(|| examine(&history, moment, *pbn, block));
                let Examination { answer, said } = match catch_unwind(examined) {
                    Ok(examination) => examination,
                    Err(panic) => {
                        wrong.push(format!("{}: {}", what(), complaints::of_panic(&*panic)));
                        continue;
                    }
                };
                let named = said.contains(&format!("block {pbn}"))
                    || names(part).iter().any(|name| said.contains(name));
                let must_name = ![Whole, Silent].contains(&answer);
                if !wanted.contains(&answer) || must_name && !named {
                    wrong.push(format!("{}: {answer:?}: {said}", what()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn a_damaged_block_of_a_volume_that_was_shut_down_is_told() {
    try_all(Clean);
}

#[test]
fn a_damaged_block_of_a_volume_that_crashed_is_told() {
    try_all(Dirty);
}

#[test]
fn a_block_damaged_underneath_a_running_volume_is_written_anew_or_told() {
    try_all(Running);
}
