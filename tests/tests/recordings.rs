//! Runs of the kernel's dm-vdo and of `vdo_tgt`, recorded by `dm-log-writes` in a guest, and cut short at moments of the
//! tests' choice: each volume that is left comes back on the other side.
//!
//! The volumes are as small as the kernel takes them, with journals that go round several times in a run. With
//! `THOROUGH` set, there are ten times as many cuts.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use vdo::format::FormatOptions;
use vdo::format::index_region::{IndexConfig, IndexMemory};
use vdo::seam::{RequestHeader, RequestKind};
use vdo::volume::{OpenRequest, VolumeOptions};
use vdo_tests::guest::{Disk, Guest, Kit, Machine, Recipe};
use vdo_tests::recording::{Cut, Event, Interest, Recording};
use vdo_tests::rig::{BLOCK, MIB, Rig};
use vdo_tests::script::{Change, LOGICAL_BLOCKS, Ledger, Script};
use vdo_tests::sim::audit::{Blocks, audit_recovered};
use vdo_tests::sim::disk::{Fuse, Marked, PowerLost};
use vdo_tests::sim::salvage::Salvage;
use vdo_tests::sim::small::request_for;
use vdo_tests::sim::{SimDisk, World, complaints};
use vdo_tests::target::program;
use vdo_tests::tools::skipped;

/// Blocks of a slab; the depot has a dozen of them.
const SLAB: u64 = 512;

/// The volume before anything happens to it.
fn request() -> OpenRequest {
    request_for(FormatOptions {
        logical_blocks: Some(LOGICAL_BLOCKS),
        index: IndexConfig {
            memory: IndexMemory::MB_256,
            sparse: false,
        },
        ..FormatOptions::miniature(SLAB, 16, 32)
    })
}

/// MiB of the device.
fn device_mib() -> u64 {
    let least = request()
        .format
        .minimum_device_blocks()
        .expect("the index can be");
    ((least + 11 * SLAB) * BLOCK).div_ceil(MIB)
}

fn open(disk: &SimDisk, random: &mut ChaCha8Rng) -> World {
    let options = VolumeOptions {
        zones: random.random_range(1..=3),
        block_map_cache_blocks: random.random_range(8..=64),
        requests: 64,
        ..VolumeOptions::default()
    };
    let random = ChaCha8Rng::seed_from_u64(random.random());
    World::open(disk, request(), options, random)
        .unwrap_or_else(|error| panic!("it is not opened: {error}"))
}

/// A new volume, shut down.
fn new_volume() -> Blocks {
    let disk = SimDisk::new(device_mib() * MIB / BLOCK);
    let world = open(&disk, &mut ChaCha8Rng::seed_from_u64(1));
    world.shut_down().0.expect("it is shut down");
    disk.blocks()
}

/// A folder in memory for the files of a test.
struct Files {
    rig: Rig,
    kit: Kit,
}

impl Files {
    /// What a test needs, unless something is missing.
    fn new(test: &str) -> Option<Files> {
        let recipe = Recipe::dm_vdo().modules(&["dm-log-writes"]);
        match Kit::gather(&recipe) {
            Ok(kit) => Some(Files {
                rig: Rig::new(device_mib()),
                kit,
            }),
            Err(why) => {
                skipped(test, why);
                None
            }
        }
    }

    /// Runs a script in a guest whose disks are a device that holds `before` and a log of it, and switches that off in the
    /// midst of it all; the recording, and what the script said. When it ends, so many epochs are safe.
    ///
    /// The guest has one processor. With several, a block of a journal may stand in the log before data that was durable by then,
    /// and that is the recorder's doing: `dm-log-writes` gives a write that has ended to the flush that *comes* next, and
    /// logs it when that flush *ends*. If another thread's flush comes after the first and ends before it, everything is durable that had
    /// ended when the second came; but the log has the writes only at the end of the first, after whatever durable write was waiting for
    /// the second alone. So it looks as if a journal block had passed the data it names. It had not: its flush is
    /// asked for when its entries are packed, an entry is made when the end of its data's write has been seen, and
    /// `dm-log-writes` has put a write among those for the next flush before anybody sees its end.
    fn record(&self, before: Blocks, safe: u64, script: &str) -> (Recording, String) {
        let log = self.rig.path("log");
        write_image(&self.rig.file(), &before);
        let file = std::fs::File::create(&log).expect("the folder is ours");
        file.set_len(1024 * MIB).expect("files can have holes");
        let machine = Machine {
            memory: 1536,
            disks: [self.rig.file(), log.clone()]
                .map(|image| Disk { image, sector: 512 })
                .into(),
            programs: vec![carry_out(), program().to_owned()],
            ..Machine::default()
        };
        let mut guest = Guest::boot(&self.kit, machine).unwrap_or_else(|error| panic!("{error}"));
        let said = guest.tell(&format!(
            "export DM_DISABLE_UDEV=1
             dmsetup create log --table \"0 $(blockdev --getsz /dev/vda) log-writes /dev/vda /dev/vdb\"
             {script}"
        ));
        let size = device_mib() * MIB / BLOCK;
        let read = || {
            let recording = Recording::read(&log, before.clone(), size);
            recording.unwrap_or_else(|error| panic!("{error}"))
        };
        let (begun, last) = (Instant::now(), Event::Mark(format!("safe={safe}")));
        while !read().events.contains(&last) {
            let patient = begun.elapsed() < Duration::from_secs(600);
            assert!(patient, "the last mark does not get to the log");
            std::thread::sleep(Duration::from_millis(100));
        }
        // What comes before the mark has been sent to the log before it, and need not be there yet.
        std::thread::sleep(Duration::from_secs(1));
        drop(guest);
        (read(), said)
    }
}

/// The program that carries out scripts in a guest.
fn carry_out() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_carry_out"))
}

/// Makes a file what a device is.
fn write_image(path: &Path, blocks: &Blocks) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).expect("the folder is ours");
    file.set_len(device_mib() * MIB)
        .expect("files can have holes");
    for (pbn, block) in blocks
        .iter()
        .filter(|(_, block)| block.iter().any(|byte| *byte != 0))
    {
        file.write_all_at(block, pbn * BLOCK)
            .expect("there is room");
    }
}

/// A configuration that serves the volume on the recorded device.
fn vdo_tgt_config() -> Value {
    let call = |method: &str, params: Value| json!({"method": method, "params": params});
    let bdevs = [
        call(
            "bdev_uring_create",
            json!({"name": "base", "filename": "/dev/mapper/log", "block_size": BLOCK}),
        ),
        call(
            "bdev_vdo_create",
            json!({"name": "vdo0", "base_bdev_name": "base", "compression": true}),
        ),
    ];
    let exports = [call(
        "nbd_start_disk",
        json!({"bdev_name": "vdo0", "nbd_device": "/tmp/vdo0.sock"}),
    )];
    json!({"subsystems": [
        {"subsystem": "bdev", "config": bdevs},
        {"subsystem": "nbd", "config": exports}]})
}

/// What makes the volume `vdo0` of the kernel's on a device. A changed page of the block map is written soon.
fn dm_vdo(device: &str, more: &str) -> String {
    let (sectors, blocks) = (LOGICAL_BLOCKS * BLOCK / 512, device_mib() * MIB / BLOCK);
    format!(
        "dmsetup create vdo0 --table '0 {sectors} vdo V4 {device} {blocks} 4096 32768 8 {more}'\n"
    )
}

/// The same on the recorded device, with its index at work.
fn dm_vdo_recorded(more: &str) -> String {
    let online = wait_for("dmsetup status vdo0 | grep -q ' online '");
    dm_vdo("/dev/mapper/log", more) + &online
}

/// Waits in a guest until something is so.
fn wait_for(condition: &str) -> String {
    format!("for wait in $(seq 600); do {condition} && break; usleep 200000; done; {condition}\n")
}

/// How many epochs are safe at an event of a recording that began with so many.
fn safe_at(recording: &Recording, at: usize, before: u64) -> u64 {
    let marks = recording.events[..at].iter().rev();
    let number = |event: &Event| match event {
        Event::Mark(text) => text.strip_prefix("safe=")?.parse().ok(),
        _ => None,
    };
    marks.filter_map(number).next().unwrap_or(before)
}

/// How many cuts of a kind to try.
fn count(usual: usize) -> usize {
    match std::env::var_os("THOROUGH") {
        Some(_) => 10 * usual,
        None => usual,
    }
}

/// Lets the power go while a volume is brought back, if it takes that many I/Os; what is left, or what was there.
fn interrupted(disk: SimDisk, cut: &Cut, random: &mut ChaCha8Rng) -> SimDisk {
    disk.remember_durable();
    let before = disk.blocks();
    disk.state().fuse = Some(Fuse {
        marked: Marked::None,
        left: random.random_range(0..300),
        from: None,
        loss: cut.loss,
        random: ChaCha8Rng::seed_from_u64(random.random()),
    });
    match catch_unwind(AssertUnwindSafe(|| drop(open(&disk, random)))) {
        Ok(()) => SimDisk::holding(before, disk.size()),
        Err(panic) => match panic.downcast::<PowerLost>() {
            Ok(lost) => lost.0,
            Err(panic) => resume_unwind(panic),
        },
    }
}

/// Brings back what a cut left, checks it, writes on, and looks over what it is when it is shut down.
fn comes_back(disk: &SimDisk, script: &Script, ledger: &Ledger, random: &mut ChaCha8Rng) {
    let mut world = open(disk, random);
    assert!(!world.volume.is_read_only(), "it came back read-only");
    let held = ledger.check_all(|lbn, data| {
        let read = world.read(lbn * BLOCK, data.len());
        data.copy_from_slice(&read.map_err(|errno| format!("errno {errno}"))?);
        Ok(())
    });
    held.unwrap_or_else(|wrong| panic!("{wrong}"));
    // An epoch that was never recorded.
    for act in script.acts(u64::from(u32::MAX), 0) {
        let (kind, blocks) = match &act.change {
            Change::Write(names) => (RequestKind::Write, names.len() as u64),
            Change::Zero(blocks) => (RequestKind::WriteZeroes, *blocks),
            Change::Discard(blocks) => (RequestKind::Unmap, *blocks),
        };
        let (offset, length) = (act.lbn * BLOCK, blocks * BLOCK);
        let header = RequestHeader {
            kind,
            offset,
            length,
            fua: false,
        };
        let data = match &act.change {
            Change::Write(names) => names.iter().flat_map(|name| script.data(*name)).collect(),
            _ => Vec::new(),
        };
        assert_eq!(world.run(header, data.clone()).map(drop), Ok(()), "{act:?}");
        let expected = if data.is_empty() {
            vec![0; length as usize]
        } else {
            data
        };
        assert!(
            world.read(offset, length as usize) == Ok(expected),
            "{act:?}"
        );
    }
    world.shut_down().0.expect("it is shut down");
    if let Err(problems) = audit_recovered(&disk.blocks(), disk.size()) {
        panic!("the volume on disk is wrong: {problems:#?}");
    }
    let complaints = complaints::take();
    assert!(complaints.is_empty(), "the log holds: {complaints:#?}");
}

/// Cuts a recording short so many times, and brings each volume that is left back here.
fn cut_and_bring_back(
    test: &str,
    files: &Files,
    recording: &Recording,
    script: &Script,
    before: u64,
    cuts: usize,
) {
    complaints::listen();
    let begun = Instant::now();
    let mut random = ChaCha8Rng::seed_from_u64(script.seed);
    let mut playback = recording.play();
    let chosen = recording.cuts(cuts, &mut random);
    let (few, found) = (cuts.min(100), chosen.len());
    assert!(found >= few, "there are only {found} moments to cut");
    for (number, cut) in chosen.iter().enumerate() {
        let left = playback.cut(cut, &mut random);
        let safe = safe_at(recording, cut.at, before);
        let seed: u64 = random.random();
        let tried = catch_unwind(AssertUnwindSafe(|| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut disk = SimDisk::holding(left, recording.size);
            if random.random_bool(0.3) {
                disk = interrupted(disk, cut, &mut random);
            }
            comes_back(&disk, script, &script.ledger(safe), &mut random);
            disk
        }));
        let disk = tried.unwrap_or_else(|panic| {
            panic!(
                "cut {number}, {cut:?}, {safe} epochs safe: {}",
                complaints::of_panic(&*panic)
            )
        });
        if number % 20 == 0 {
            write_image(&files.rig.file(), &disk.blocks());
            files.rig.audit(test);
        }
    }
    let of = |interest| chosen.iter().filter(|cut| cut.interest == interest).count();
    println!(
        "{found} cuts in {:?}: {:?}",
        begun.elapsed(),
        Interest::ALL.map(|interest| (interest, of(interest)))
    );
}

#[test]
fn a_volume_of_the_kernel_comes_back_here_whenever_the_power_goes() {
    let test = "a_volume_of_the_kernel_comes_back_here_whenever_the_power_goes";
    let Some(files) = Files::new(test) else {
        return;
    };
    let script = Script {
        seed: 11,
        compressible: true,
    };
    let write = |from, to| {
        format!(
            "carry_out --seed 11 --compressible --volume /dev/mapper/vdo0 write {from} {to} log"
        )
    };
    let create = dm_vdo_recorded("");
    let first = files.record(new_volume(), 8, &(create + &write(0, 8))).0;
    cut_and_bring_back(test, &files, &first, &script, 0, count(100));

    // It is brought back by the kernel itself, with other zones, and goes on; that is recorded too.
    let zones = "compression on hash 3 logical 3 physical 3";
    let more = format!(
        "{}{}\ndmsetup message vdo0 0 stats",
        dm_vdo_recorded(zones),
        write(8, 16)
    );
    let (second, said) = files.record(first.after(), 16, &more);
    assert!(said.contains("completeRecoveries : 1"), "{said}");
    assert!(!said.contains("compressedBlocksWritten : 0"), "{said}");
    cut_and_bring_back(test, &files, &second, &script, 8, count(100));
}

#[test]
fn a_volume_of_vdo_tgt_comes_back_in_the_kernel_whenever_the_power_goes() {
    let test = "a_volume_of_vdo_tgt_comes_back_in_the_kernel_whenever_the_power_goes";
    let Some(files) = Files::new(test) else {
        return;
    };
    let script = Script {
        seed: 12,
        compressible: true,
    };
    let run = format!(
        "echo '{}' >/tmp/config.json
         vdo_tgt -r /tmp/rpc.sock -m 0x1 -c /tmp/config.json >/tmp/said 2>&1 &
         {}
         carry_out --seed 12 --compressible --nbd --volume /tmp/vdo0.sock write 0 10 log",
        vdo_tgt_config(),
        wait_for("test -S /tmp/vdo0.sock")
    );
    let (recording, _) = files.record(new_volume(), 10, &run);
    let end = Salvage::new(recording.after(), recording.size).expect("a volume was recorded");
    let lbns = Script::runs().flat_map(|(first, blocks)| first..first + blocks);
    let compressed = lbns.filter(|lbn| end.mapping(*lbn).state.is_compressed());
    assert!(compressed.count() > 100, "much of it is compressed");
    cut_and_bring_back(test, &files, &recording, &script, 0, count(50));
    cut_and_bring_back_in_the_kernel(test, &files, &recording, &script, count(10).min(25));
}

/// Cuts a recording short so many times, and has the kernel bring each volume back, or go on with what was begun here.
fn cut_and_bring_back_in_the_kernel(
    test: &str,
    files: &Files,
    recording: &Recording,
    script: &Script,
    cuts: usize,
) {
    let mut random = ChaCha8Rng::seed_from_u64(script.seed);
    let mut playback = recording.play();
    let mut machine = Machine {
        memory: 1024,
        programs: vec![carry_out()],
        ..Machine::default()
    };
    let mut tasks = Vec::new();
    for ((number, letter), cut) in (0..).zip('a'..).zip(recording.cuts(cuts, &mut random)) {
        let mut disk = SimDisk::holding(playback.cut(&cut, &mut random), recording.size);
        if number % 2 == 1 {
            disk = interrupted(disk, &cut, &mut random);
        }
        let image = files.rig.path(&format!("cut{number}"));
        write_image(&image, &disk.blocks());
        let sector = 512;
        machine.disks.push(Disk { image, sector });
        // Without its index, it starts and ends quickly.
        let zones = ["", "hash 3 logical 3 physical 3 "][number / 2 % 2];
        let more = format!("{zones}deduplication off");
        let (seed, safe) = (script.seed, safe_at(recording, cut.at, 0));
        tasks.push(format!(
            "echo '{cut:?}, {safe} epochs safe'
             export DM_DISABLE_UDEV=1
             {}
             carry_out --seed {seed} --compressible --volume /dev/mapper/vdo0 check {safe}
             {}
             dmsetup remove vdo0",
            dm_vdo(&format!("/dev/vd{letter}"), &more),
            wait_for("dmsetup status vdo0 | grep -q ' normal - '"),
        ));
    }
    let disks = machine.disks.clone();
    let mut guest = Guest::boot(&files.kit, machine).unwrap_or_else(|error| panic!("{error}"));
    for task in tasks {
        guest.tell(&task);
    }
    guest.power_off().unwrap_or_else(|error| panic!("{error}"));
    for Disk { image, .. } in disks {
        std::fs::rename(image, files.rig.file()).expect("both are ours");
        files.rig.audit(test);
    }
}
