//! What dm-vdo's index costs, alone, on one thread and with its chapters in a file: posts of new names, duplicates in the open chapter and in
//! chapters on disk, saving, loading, rebuilding; and bytes of memory for each record.
//!
//! Times are of the processor, so that other programs on the machine count for little.
//!
//! `index_bench [MILLIONS]` says how many names are posted, of an index of 0.25 GB (default 4; it is full with 67).

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use vdo::format::index::IndexRecord;
use vdo::format::index::nonce::NonceInfo;
use vdo::format::index::record_page::RecordData;
use vdo::format::index_region::IndexConfig;
use vdo::hash::murmur3_x64_128;
use vdo::index::IndexOp;
use vdo::index::uds::saves;
use vdo::index::uds::whole::{IndexPlan, WholeIndex};
use vdo::types::{Mapping, MappingState, Pbn, RecordName};
use vdo_tests::index_image::{ImageDevice, at_once};

/// Names are made so many at a time, outside the time that counts.
const BATCH: u64 = 1 << 16;

/// So many are named together by a zone thread, which asks for them all at one go.
const GROUP: usize = 32;

fn record(number: u64) -> IndexRecord {
    let mapping = Mapping {
        pbn: Pbn(1 + number),
        state: MappingState::UNCOMPRESSED,
    };
    IndexRecord {
        name: RecordName(murmur3_x64_128(&number.to_le_bytes(), 0)),
        data: RecordData::of(mapping),
    }
}

/// What this thread has had of the processor so far.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Posts the records with these numbers, prints how fast that was, and says how many were known.
fn post(
    what: &str,
    index: &mut WholeIndex<ImageDevice>,
    numbers: impl Iterator<Item = u64>,
) -> u64 {
    let mut numbers = numbers.peekable();
    let (mut known, mut count, mut time) = (0, 0, Duration::ZERO);
    while numbers.peek().is_some() {
        let records: Vec<IndexRecord> = numbers.by_ref().take(BATCH as usize).map(record).collect();
        count += records.len();
        let start = processor_time();
        for group in records.chunks(GROUP) {
            let mut names = [RecordName::default(); GROUP];
            for (name, record) in names.iter_mut().zip(group) {
                *name = record.name;
            }
            index.foresee(&names[..group.len()]);
            for record in group {
                let found = at_once(index.ask(IndexOp::Post, *record)).expect("a whole index");
                known += u64::from(found.is_some());
            }
        }
        time += processor_time() - start;
    }
    let each = count as f64 / time.as_secs_f64() / 1e3;
    println!("{what:<44} {each:>8.0} thousand a second");
    known
}

fn main() {
    let millions = match std::env::args().nth(1).map(|text| text.parse::<u64>()) {
        None => 4,
        Some(Ok(millions @ 1..=1000)) => millions,
        Some(_) => {
            eprintln!("usage: index_bench [MILLIONS], 1 to 1000");
            std::process::exit(2);
        }
    };
    let geometry = IndexConfig::default()
        .geometry()
        .expect("an index of 0.25 GB");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let blocks = geometry.region_blocks() + 1;
    file.as_file()
        .set_len(blocks * 4096)
        .expect("a sparse file");
    let plan = IndexPlan {
        geometry,
        start: Pbn(1),
        volume: 1,
        zones: 1,
        cache_pages: 448,
    };
    let device = || ImageDevice::open(file.path());
    let created = WholeIndex::create(plan, device(), NonceInfo::new(1, 1));
    let mut index = at_once(created).expect("room for an index");

    let all = millions * 1_000_000;
    let tenth = all / 10;
    post("posts of new names, the first tenth", &mut index, 0..tenth);
    post("the next eight tenths", &mut index, tenth..9 * tenth);
    post("the last tenth", &mut index, 9 * tenth..all);
    let counts = index.counts();
    let bytes = |bytes: u64| bytes as f64 / counts.records as f64;
    println!(
        "{} records, {:.2} bytes of lists each; {} lists moved, {} records without room",
        counts.records,
        bytes(counts.used_bytes),
        counts.moves,
        counts.overflows
    );
    let full = f64::from(geometry.records_per_chapter()) * f64::from(geometry.chapters);
    println!(
        "{:.2} bytes are taken for each record of a full index",
        index.memory_bytes() as f64 / full
    );

    let open = index.open_records() as u64;
    let again = (0..10).flat_map(|_| all - open..all);
    post("duplicates in the open chapter", &mut index, again);
    let chapters = (all / 4).min(1 << 20);
    let reads = index.page_reads();
    let first = all - open - chapters;
    let known = post(
        "duplicates in chapters, in order",
        &mut index,
        first..first + chapters,
    );
    println!(
        "    {known} of {chapters} known; {} pages read",
        index.page_reads() - reads
    );
    let reads = index.page_reads();
    let oldest = all.saturating_sub(full as u64 * 9 / 10);
    let random = |number: u64| {
        oldest
            + record(number).name.0[..4]
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
                % (first - oldest)
    };
    let known = post(
        "duplicates in chapters, at random",
        &mut index,
        (0..20_000).map(random),
    );
    println!(
        "    {known} of 20000 known; {} pages read",
        index.page_reads() - reads
    );

    let timed = |what: &str, start: Duration| {
        let passed = processor_time() - start;
        println!("{what:<44} {:>8.2} seconds", passed.as_secs_f64())
    };
    let start = processor_time();
    at_once(index.save(1)).expect("room for a save");
    timed("save", start);
    drop(index);
    let start = processor_time();
    let (index, opened) = at_once(WholeIndex::open(plan, device())).expect("an index");
    timed(&format!("open, {opened:?}"), start);
    drop(index);
    let (_, parts) =
        at_once(saves::latest(&device(), plan.start, &geometry, plan.volume)).expect("a save");
    at_once(saves::spoil(&device(), saves::LastSave::of(&parts))).expect("an index");
    let start = processor_time();
    let (_, opened) = at_once(WholeIndex::open(plan, device())).expect("an index");
    timed(&format!("open, {opened:?}"), start);
}
