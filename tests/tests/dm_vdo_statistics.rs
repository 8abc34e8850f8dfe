//! The numbers of dm-vdo in the kernel and ours, after the same requests, one by one.

use std::collections::BTreeMap;

use serde_json::Value;
use vdo_tests::guest::{Guest, Kit, Machine, Recipe};
use vdo_tests::nbd_probe::NbdProbe;
use vdo_tests::rig::{BLOCK, MIB, ROOMY, Rig, Setup, block, stats};
use vdo_tests::tools::skipped;

/// Logical blocks of the volume.
const LOGICAL: u64 = 1024 * MIB / BLOCK;

/// What a step does to blocks, one request for each block, one after the other.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Writes block *n* of the data to block *n* of the range, counted from this block of the data.
    Write(u64),
    Zero,
    Read,
    Discard,
    Flush,
}

/// First block, how many, and what is done. Data that was never written before, the same data elsewhere, over itself and over other
/// data; zeroes over nothing and over data; reads of data, of zeroes and of nothing; discards of data, of zeroes and of nothing.
const STEPS: &[(u64, u64, Act)] = &[
    (0, 600, Act::Write(0)),
    (10_000, 200, Act::Write(100)),
    (0, 50, Act::Write(0)),
    (100, 50, Act::Write(700)),
    (20_000, 40, Act::Zero),
    (200, 30, Act::Zero),
    (0, 300, Act::Read),
    (20_000, 10, Act::Read),
    (30_000, 20, Act::Read),
    (300, 60, Act::Discard),
    (20_000, 5, Act::Discard),
    (30_000, 25, Act::Discard),
    (0, 0, Act::Flush),
];

/// Numbers that may be others here, by the beginning of their paths, and why.
const OTHERS: &[(&str, &str)] = &[
    (
        "bios_journal",
        "the kernel gathers entries while it flushes, here a lone writer's entry is written at once; and a flush is an I/O of its own \
         here, while a bio of the kernel brings it along",
    ),
    ("journal.blocks", "as bios_journal"),
    (
        "bios_meta",
        "what opening a volume reads and writes; and the kernel counts journal blocks here, too",
    ),
    (
        "bios_page_cache.read",
        "the kernel reads a page that it has just allocated; here it is known that nothing is there",
    ),
    ("bios_page_cache_completed.read", "as bios_page_cache.read"),
    (
        "flush_out",
        "the kernel counts only flushes of users, which it passes on; here all flushes, and users' need none of their own",
    ),
    ("memory_usage", "another program uses other memory"),
];

/// Numbers that may be the same or not, by their paths, since writes are answered before they are done, and the next come
/// meanwhile.
const BY_CHANCE: &[&str] = &[
    // The most there were at once.
    "max_vios",
    // Whether a page was there, or on its way.
    "block_map.found_in_cache",
    "block_map.wait_for_page",
];

/// Numbers that there are only here, by the beginning of their paths.
const ONLY_HERE: &[&str] = &[
    "allocator.full_slabs",
    "data.",
    "freed_discards.",
    "hash_lock_paths.",
    "hash_lock_steps.",
    "index.collisions",
    "index.early_flushes",
    "index.open_chapter_entries",
    "index.page_",
    "index_entries_limit",
    "index_rebuild_",
    "index_state",
    "journal.blocks_in_use",
    "journal.blocks_limit",
    "name",
    "saving_percent",
    "used_percent",
    "vio_limit",
];

/// What a shell does for a step in the kernel.
fn command(&(first, blocks, act): &(u64, u64, Act)) -> String {
    let (volume, flags) = ("/dev/mapper/vdo0", format!("bs=4096 count={blocks}"));
    match act {
        Act::Write(from) => {
            format!("dd if=/dev/vdb of={volume} {flags} skip={from} seek={first} oflag=direct")
        }
        Act::Zero => format!("dd if=/dev/zero of={volume} {flags} seek={first} oflag=direct"),
        Act::Read => format!("dd if={volume} of=/dev/null {flags} skip={first} iflag=direct"),
        // One after the other: of many at once some would wait for a page that others have read.
        Act::Discard => format!(
            "for block in $(seq {first} {}); do blkdiscard -o $((block * 4096)) -l 4096 {volume}; done",
            first + blocks - 1
        ),
        Act::Flush => format!("dd if=/dev/zero of={volume} bs=4096 count=0 conv=fsync,notrunc"),
    }
}

/// Does a step here.
fn act(client: &mut NbdProbe, &(first, blocks, act): &(u64, u64, Act)) {
    let mut data = vec![0; BLOCK as usize];
    for number in 0..blocks {
        let offset = (first + number) * BLOCK;
        let answer = match act {
            Act::Write(from) => client.write(offset, &block(from + number)),
            Act::Zero => client.write(offset, &vec![0; BLOCK as usize]),
            Act::Read => client.read(offset, &mut data),
            Act::Discard => client.trim(offset, BLOCK as u32),
            Act::Flush => Ok(()),
        };
        assert_eq!(answer, Ok(()));
    }
    if let Act::Flush = act {
        assert_eq!(client.flush(), Ok(()));
    }
}

/// Numbers and words by path.
type Numbers = BTreeMap<String, String>;

/// Ours. Yes and no are 1 and 0 in the kernel.
fn ours(value: &Value, path: &str, to: &mut Numbers) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let dot = if path.is_empty() { "" } else { "." };
                ours(member, &format!("{path}{dot}{name}"), to);
            }
        }
        Value::Bool(yes) => _ = to.insert(path.to_owned(), u8::from(*yes).to_string()),
        Value::String(word) => _ = to.insert(path.to_owned(), word.clone()),
        other => _ = to.insert(path.to_owned(), other.to_string()),
    }
}

/// The kernel's: `{ name : value, group : { name : value, }, }`.
fn theirs(said: &str) -> Numbers {
    let (mut all, mut path, mut name) = (Numbers::new(), Vec::new(), String::new());
    for word in said.split_whitespace() {
        match word.trim_end_matches(',') {
            "{" => path.push(std::mem::take(&mut name)),
            "}" => _ = path.pop(),
            ":" | "" => {}
            word if name.is_empty() => name = snake_case(word),
            value => {
                let groups = path.iter().filter(|group| !group.is_empty());
                let path: Vec<_> = groups.chain([&name]).map(String::as_str).collect();
                all.insert(path.join("."), value.to_owned());
                name.clear();
            }
        }
    }
    all
}

/// `currentVIOsInProgress` is `current_vios_in_progress`.
fn snake_case(name: &str) -> String {
    let name = name.replace("VIOs", "Vios").replace("PBN", "Pbn");
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[test]
fn every_number_is_the_one_of_the_kernel_after_the_same_requests_or_it_is_said_why_not() {
    let test =
        "every_number_is_the_one_of_the_kernel_after_the_same_requests_or_it_is_said_why_not";
    let recipe = Recipe::dm_vdo().programs(&["blkdiscard"]);
    let kit = match Kit::gather(&recipe) {
        Ok(kit) => kit,
        Err(why) => return skipped(test, why),
    };
    let (one, other) = (Rig::new(ROOMY), Rig::new(ROOMY));
    for rig in [&one, &other] {
        assert!(rig.start(&Setup::default()).stop().success());
    }
    let target = one.start(&Setup::default());
    let mut client = one.connect();
    STEPS.iter().for_each(|step| act(&mut client, step));
    let mut here = Numbers::new();
    ours(&stats(&target), "", &mut here);
    drop(client);
    assert!(target.stop().success());

    let data: Vec<u8> = (0..1000).flat_map(block).collect();
    std::fs::write(other.path("data"), data).expect("room for the data");
    let machine = Machine::for_dm_vdo([other.file(), other.path("data")]);
    let mut guest = Guest::boot(&kit, machine).unwrap_or_else(|error| panic!("{error}"));
    let (sectors, blocks) = (LOGICAL * 8, ROOMY * MIB / BLOCK);
    guest.tell(&format!(
        "export DM_DISABLE_UDEV=1
         dmsetup create vdo0 --table '0 {sectors} vdo V4 /dev/vda {blocks} 4096 32768 16380'
         for wait in $(seq 300); do
             dmsetup status vdo0 | grep -q ' normal - online ' && break; usleep 200000
         done"
    ));
    let commands: Vec<_> = STEPS.iter().map(command).collect();
    guest.tell(&commands.join("\n"));
    let said = guest.tell("dmsetup message vdo0 0 stats");
    guest.power_off().unwrap_or_else(|error| panic!("{error}"));
    let there = theirs(&said);
    assert!(there.len() > 140, "{said}");
    let excused = |path: &str| OTHERS.iter().any(|(other, _)| path.starts_with(other));
    let differ: Vec<_> = there
        .iter()
        .filter(|(path, number)| here.get(*path) != Some(*number))
        .map(|(path, number)| format!("{path}: {number} there, {:?} here", here.get(path)))
        .collect();
    let by_chance = |line: &str| BY_CHANCE.iter().any(|path| line.starts_with(path));
    let wrong = differ.iter();
    let wrong: Vec<_> = wrong
        .filter(|line| !excused(line) && !by_chance(line))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let pages = |numbers: &Numbers| -> u64 {
        let number = |path: &str| numbers[path].parse::<u64>().expect("a number");
        number("block_map.found_in_cache") + number("block_map.wait_for_page")
    };
    assert_eq!(pages(&there), pages(&here));
    for (other, why) in OTHERS {
        let some = differ.iter().any(|line| line.starts_with(other));
        assert!(
            some,
            "{other} is the same in all: it is not true that {why}"
        );
    }
    let missing = there.keys().find(|path| !here.contains_key(*path));
    assert_eq!(missing, None);
    let only_here = here.keys().filter(|path| !there.contains_key(*path));
    for path in only_here {
        let known = ONLY_HERE.iter().any(|known| path.starts_with(known));
        assert!(known, "the kernel has no {path}");
    }
}
