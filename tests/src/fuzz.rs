//! What a fuzzer throws bytes at: parts of the engine that read what a disk holds, from a crash or from a hostile hand.
//!
//! Each function takes any bytes and must come to an end without a panic; whatever it makes of them. The fuzzer's
//! programs are in `tests/fuzz` (`make fuzz`); `tests/tests/fuzz.rs` calls the same functions with bytes by chance, and with what the
//! fuzzer once found.

use std::sync::OnceLock;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vdo::format::components::VolumeState;
use vdo::format::index::chapter_page::{ChapterPage, PackedLists};
use vdo::format::index::delta_list::DeltaCode;
use vdo::format::index::nonce::NonceInfo;
use vdo::format::index::page_map::IndexPageMap;
use vdo::format::index::save::{self, SaveLayout, SavedState};
use vdo::format::index::super_block::{IndexLayout, IndexSuperBlock};
use vdo::format::index::{IndexGeometry, config, open_chapter, record_page};
use vdo::format::open::{read_geometry, read_volume};
use vdo::format::recovery_journal::JournalOperation;
use vdo::format::slab::{SlabConfig, SlabGeometry};
use vdo::format::slab_journal::SlabJournalEntry;
use vdo::format::slab_summary::SlabSummaryEntry;
use vdo::format::{Block, FormatOptions, FormatPlan};
use vdo::index::uds::delta_lists::DeltaLists;
use vdo::index::uds::saved::{VolumeIndexReader, VolumeIndexWriter};
use vdo::index::uds::volume_index::VolumeIndexZone;
use vdo::recovery::map_replay::MapBatch;
use vdo::recovery::scrub::Scrub;
use vdo::recovery::slab_replay::{JournalEnd, Offered, SlabReplay, journal_end, last_block};
use vdo::recovery::{EntryRules, Ring, RingScan};
use vdo::types::{BLOCK_SIZE, JournalPoint, Pbn, RecordName, SequenceNumber, SlabNumber};
use vdo::volume::{FormatPolicy, OpenRequest, RecoveryPolicy, VolumeOptions};

use crate::sim::audit::{Blocks, volume_on};
use crate::sim::disk::Loss;
use crate::sim::{SimDisk, World};

/// Bytes, taken from the front; zeroes when there are no more.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let count = N.min(self.0.len());
        taken[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        taken
    }

    fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    fn number(&mut self) -> u64 {
        u16::from_le_bytes(self.take()).into()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Overwrites runs of bytes of some blocks.
    fn patch(&mut self, blocks: &mut [Block]) {
        while !self.is_empty() {
            let block = self.number() as usize % blocks.len();
            let at = self.number() as usize % BLOCK_SIZE;
            let count = (usize::from(self.byte()) % 32).min(BLOCK_SIZE - at);
            for byte in &mut blocks[block][at..at + count] {
                *byte = self.byte();
            }
        }
    }
}

const NONCE: u64 = 7;

fn rules() -> EntryRules {
    let config = SlabConfig::new(1 << 9, 16).expect("a slab can be so");
    EntryRules {
        physical_blocks: 4000,
        slabs: SlabGeometry::new(Pbn(100), 4, config),
    }
}

/// A ring of the recovery journal, to a plan, and the plan to pages.
pub fn ring(data: &[u8]) {
    let mut bytes = Bytes(data);
    let ring = Ring {
        blocks: 8,
        nonce: NONCE,
        recovery_count: bytes.byte() % 2,
        journal_start: SequenceNumber(bytes.number() % 40),
        super_block: Pbn(1),
        rules: rules(),
    };
    let mut blocks = vec![[0; BLOCK_SIZE]; 8];
    // Blocks that are nearly right, so that not all is in vain.
    for (place, block) in (0_u64..).zip(&mut blocks) {
        let number = u64::from(bytes.byte() % 6) * 8 + place;
        block[0..8].copy_from_slice(
            &number
                .saturating_sub(u64::from(bytes.byte() % 9))
                .to_le_bytes(),
        );
        block[8..16].copy_from_slice(
            &number
                .saturating_sub(u64::from(bytes.byte() % 9))
                .to_le_bytes(),
        );
        block[16..24].copy_from_slice(&number.to_le_bytes());
        block[24..32].copy_from_slice(&NONCE.to_le_bytes());
        block[32] = 3;
        block[33] = bytes.byte();
        for sector in 1..8 {
            block[sector * 512 + 2] = bytes.byte() % 33;
        }
    }
    bytes.patch(&mut blocks);
    let scan = || {
        let mut scan = RingScan::new(ring).expect("little memory");
        scan.take(0, &blocks);
        scan
    };
    let mut batch = MapBatch::new(1000, 1);
    let mut page = [0; BLOCK_SIZE];
    if let Ok(plan) = scan().recovery() {
        let range = plan.block_map.range();
        for run in range.runs(ring.blocks, 3) {
            for (number, block) in (run.first.get()..)
                .zip(&blocks[run.place as usize..])
                .take(run.blocks as usize)
            {
                let number = SequenceNumber(number);
                let entries = ring.entries(number, block, range.entries_of(number));
                for entry in entries.expect("nothing has changed since the scan") {
                    if batch.is_full() {
                        batch.clear();
                    }
                    batch.push(&entry);
                }
            }
        }
        for changes in batch.pages() {
            let _ = changes.apply(&mut page, NONCE);
        }
    }
    if let Ok(plan) = scan().rebuild()
        && let Some(range) = plan.block_map
    {
        for run in range.runs(ring.blocks, 1) {
            assert!(ring.salvage(run.first, &blocks[run.place as usize]).count() <= 217);
        }
    }
}

/// The journal of a slab: where it ends, what is added to it, and what it does to counters.
pub fn slab_journal(data: &[u8]) {
    let mut bytes = Bytes(data);
    let config = rules().slabs.config;
    let slab = SlabNumber(1);
    let entry = SlabSummaryEntry::decode(bytes.take());
    let mut blocks = vec![[0; BLOCK_SIZE]; config.slab_journal_blocks as usize];
    let first = u64::from(bytes.byte());
    for (place, block) in (0_u64..).zip(&mut blocks) {
        let number = first / 16 * 16 + place;
        block[0..8].copy_from_slice(&first.to_le_bytes());
        block[8..16].copy_from_slice(&number.to_le_bytes());
        block[24..32].copy_from_slice(&NONCE.to_le_bytes());
        block[32] = 2;
        block[34] = bytes.byte();
    }
    let added: Vec<[u8; 5]> = (0..bytes.byte()).map(|_| bytes.take()).collect();
    bytes.patch(&mut blocks);
    let Ok(place) = last_block(slab, entry, &config) else {
        return;
    };
    let end = match place {
        None => JournalEnd::BLANK,
        Some(place) => match journal_end(slab, entry, &config, NONCE, &blocks[place as usize]) {
            Ok(end) => end,
            Err(_) => return,
        },
    };
    let mut replay = SlabReplay::load(&config, NONCE, end);
    let mut packed = [0; BLOCK_SIZE];
    for [one, two, three, four, five] in added {
        let change = SlabJournalEntry {
            offset: u32::from(two) * 3,
            operation: match one & 1 {
                0 => JournalOperation::DataRemapping,
                _ => JournalOperation::BlockMapRemapping,
            },
            increment: one & 2 != 0,
        };
        let point = JournalPoint {
            sequence: SequenceNumber(u64::from(three) << 8 | u64::from(four)),
            entry: u16::from(five) % 217,
        };
        // As a journal has them many times over.
        for _ in 0..30 {
            while matches!(
                replay.offer(&change, point),
                Offered::NoRoom | Offered::Filled
            ) {
                replay.commit(&mut packed);
            }
        }
    }
    let _ = replay.summary(entry);
    let mut scrub = Scrub::new(&config, NONCE, bytes.byte() % 2 == 1);
    let counters = &blocks[..config.reference_count_blocks as usize];
    if scrub.begin(slab, entry, end).is_err() || scrub.take_counters(0, counters).is_err() {
        return;
    }
    while let Some(number) = scrub.wants() {
        let place = (number.get() % config.slab_journal_blocks) as usize;
        if scrub.take_journal_block(&blocks[place]).is_err() {
            return;
        }
    }
    if let Ok(result) = scrub.finish() {
        let _ = result.summary(entry, 9);
        scrub
            .changed()
            .for_each(|index| scrub.pack(index, &mut packed));
    }
}

/// Pages, tables and streams of the deduplication index.
pub fn index(data: &[u8]) {
    const PAGE: u32 = 4096;
    let geometry = IndexGeometry::new(PAGE, 4, 8, 0, false);
    let mut bytes = Bytes(data);
    let kind = bytes.byte() % 4;
    let name = RecordName(bytes.take());
    let mut page = [[0; BLOCK_SIZE]];
    match kind {
        // A page of a chapter's index whose table is right as far as the bytes do not say otherwise.
        0 => {
            let lists = u32::from(bytes.byte()) % 24;
            let places: Vec<u64> = (0..=u64::from(lists)).map(|list| list * 90).collect();
            let packed = PackedLists {
                bytes: data,
                places: &places,
            };
            packed.write_page(&mut page[0], NONCE, 3, 0, lists);
            bytes.patch(&mut page);
            if let Ok(page) = ChapterPage::read(&page[0], NONCE, &geometry) {
                let _ = page.validate();
                let _ = page.find(&name);
            }
        }
        // Delta lists in memory, loaded from the bytes and then changed.
        1 => {
            let mut lists =
                DeltaLists::new(3, DeltaCode::new(300, 6), 2000).expect("little memory");
            lists.begin_load();
            for list in 0..3 {
                let size = bytes.number() as u16 % 3000;
                if lists
                    .load(list, bytes.0, bytes.0.len() as u8 % 8, size)
                    .is_err()
                {
                    return;
                }
            }
            lists.finish_load();
            while !bytes.is_empty() {
                let (list, key) = (usize::from(bytes.byte() % 3), bytes.number() as u32);
                let name = RecordName([bytes.byte(); 16]);
                let Ok(entry) = lists.find(list, key, &name) else {
                    return;
                };
                let _ = match bytes.byte() % 2 {
                    0 => lists.insert(list, &entry, key, 1, &name),
                    _ if entry.is(key) => lists.remove(list, &entry),
                    _ => Ok(entry),
                };
            }
        }
        // The volume index as a save has it, in pieces.
        2 => {
            let mut index = VolumeIndexZone::new(&geometry, 0, 1).expect("little memory");
            index.open_chapter(3);
            let mut stream = vec![0; 20_000];
            let length = VolumeIndexWriter::new(&index, NONCE).fill(&index, &mut stream);
            stream.truncate(length);
            let mut blocks: Vec<Block> = stream
                .chunks(BLOCK_SIZE)
                .map(|piece| {
                    let mut block = [0; BLOCK_SIZE];
                    block[..piece.len()].copy_from_slice(piece);
                    block
                })
                .collect();
            bytes.patch(&mut blocks);
            let mut reader = VolumeIndexReader::new(&mut index, NONCE, 3, 1);
            for block in &blocks {
                match reader.feed(&mut index, block) {
                    Ok(false) => {}
                    Ok(true) => break,
                    Err(_) => return,
                }
            }
            if reader.finish(&mut index).is_ok() {
                let _ = index.find(&name);
            }
        }
        // Super block, configuration, header of a save, open chapter, page map.
        _ => {
            let layout = IndexLayout::new(Pbn(1), &geometry);
            let info = NonceInfo::new(1, 2);
            let super_block = IndexSuperBlock { nonce_info: info };
            let slot = layout.saves[0];
            let state = SavedState {
                time: 1,
                newest: 5,
                oldest: 1,
            };
            let save = SaveLayout::new(slot, &geometry, 1 + bytes.byte() % 16);
            let mut open = [0; BLOCK_SIZE];
            open[..14].copy_from_slice(&open_chapter::header(100));
            let mut map = [0; BLOCK_SIZE];
            IndexPageMap::new(&geometry).encode(0, &mut map);
            let mut blocks = [
                super_block.encode(&layout, &geometry),
                config::encode(&geometry, NONCE),
                save.encode(slot, NONCE, &state),
                open,
                map,
            ];
            bytes.patch(&mut blocks);
            let _ = IndexSuperBlock::decode(&blocks[0], &layout, &geometry);
            let _ = config::check(&blocks[1], &geometry, NONCE);
            let _ = save::decode(&blocks[2], slot, NONCE);
            let _ = open_chapter::read(&geometry, &blocks[3]).map(Iterator::count);
            let _ = IndexPageMap::decode(&geometry, &blocks[4]);
            let _ = record_page::find(&blocks[3], &name);
        }
    }
}

/// The geometry block and the super block, with a checksum that is right.
pub fn super_block(data: &[u8]) {
    const BLOCKS: u64 = 4096;
    let options = FormatOptions::miniature(64, 8, 32);
    let plan = FormatPlan::new(&options, BLOCKS, NONCE, uuid::Uuid::nil());
    let mut volume = plan.expect("a miniature fits").into_volume();
    let mut bytes = Bytes(data);
    let state = VolumeState::from_code(u32::from(bytes.byte() % 8));
    volume.super_block.volume.state = state.unwrap_or(VolumeState::New);
    let mut block = [0; BLOCK_SIZE];
    volume.super_block.encode(&mut block);
    let mut blocks = [block];
    bytes.patch(&mut blocks);
    let [mut block] = blocks;
    let checksum = crc32(&block[..434]);
    block[434..438].copy_from_slice(&checksum.to_le_bytes());
    if let Ok(read) = read_volume(volume.geometry, &block, BLOCKS) {
        let _ = read.require_clean();
    }
    let _ = read_geometry(data, BLOCKS);
}

/// dm-vdo's: it begins with zero, and is inverted at the end.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| match crc & 1 {
            0 => crc >> 1,
            _ => crc >> 1 ^ 0xedb8_8320,
        })
    };
    !bytes.iter().fold(0, step)
}

const SMALL: u64 = 1200;

fn small_request() -> OpenRequest {
    let mut format = FormatOptions::miniature(256, 8, 8);
    format.logical_blocks = Some(1624);
    OpenRequest {
        policy: FormatPolicy::IfBlank,
        format,
        nonce: NONCE,
        uuid: uuid::Uuid::nil(),
        slabs_wanted: 1,
        recovery: RecoveryPolicy::Recover { cache_blocks: 8 },
        available_memory: u64::MAX,
        deduplication: true,
    }
}

fn small_options() -> VolumeOptions {
    VolumeOptions {
        block_map_cache_blocks: 8,
        requests: 8,
        ..VolumeOptions::default()
    }
}

/// A small volume that lost power in the middle of something.
fn crashed() -> &'static Blocks {
    static CRASHED: OnceLock<Blocks> = OnceLock::new();
    CRASHED.get_or_init(|| {
        let disk = SimDisk::new(SMALL);
        let random = ChaCha8Rng::seed_from_u64(1);
        let opened = World::open(&disk, small_request(), small_options(), random);
        let mut world = opened.expect("a small volume can be made");
        disk.remember_durable();
        let mut random = ChaCha8Rng::seed_from_u64(2);
        for round in 0..1500_u64 {
            let lbn = random.random_range(0..300);
            let tag = random.random_range(1..200_u8);
            let _ = world.write(lbn * BLOCK_SIZE as u64, &[tag; BLOCK_SIZE]);
            if round % 100 == 0 {
                world.flush().expect("nothing fails");
            }
        }
        let loss = Loss {
            kept: 0.7,
            unanswered: 0.5,
            torn: true,
        };
        disk.after_loss(loss, &mut random).blocks()
    })
}

/// A whole small disk, damaged here and there, is opened, and if it opens it is read and shut down.
pub fn image(data: &[u8]) {
    let mut bytes = Bytes(data);
    let base = crashed();
    let volume = volume_on(base, SMALL).expect("it is a volume");
    let disk = SimDisk::new(SMALL);
    base.iter()
        .for_each(|(pbn, block)| disk.overwrite(*pbn, block));
    // In which state it says it is, and then damage in the metadata, where most of it is.
    let state = VolumeState::from_code(u32::from(bytes.byte() % 8)).unwrap_or(VolumeState::Dirty);
    let mut super_block = volume.super_block.clone();
    super_block.volume.state = state;
    let mut block = [0; BLOCK_SIZE];
    super_block.encode(&mut block);
    disk.overwrite(volume.geometry.super_block().get(), &block);
    let places: Vec<u64> = base.keys().copied().collect();
    while !bytes.is_empty() {
        let pbn = places[bytes.number() as usize % places.len()];
        let mut blocks = [disk.block(pbn)];
        let at = bytes.number() as usize % BLOCK_SIZE;
        let count = (usize::from(bytes.byte()) % 32).min(BLOCK_SIZE - at);
        for byte in &mut blocks[0][at..at + count] {
            *byte = bytes.byte();
        }
        disk.overwrite(pbn, &blocks[0]);
    }
    let random = ChaCha8Rng::seed_from_u64(3);
    let Ok(mut world) = World::open(&disk, small_request(), small_options(), random) else {
        return;
    };
    for lbn in (0..300).step_by(7) {
        let _ = world.read(lbn * BLOCK_SIZE as u64, BLOCK_SIZE);
        let _ = world.write(lbn * BLOCK_SIZE as u64, &[9; BLOCK_SIZE]);
    }
    let _ = world.flush();
    let _ = world.shut_down();
}
