//! What every bdev and channel promises: checks at the door, claims, removal, counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vdo::buffer::{Buffer, DmaMemory, HeapMemory};
use vdo::seam::{BaseChannel, BaseIo, BaseOp};
use vdo::types::Pbn;

mod faults;

use super::*;

pub(in crate::bdev) fn heap() -> Arc<dyn DmaMemory> {
    Arc::new(HeapMemory)
}

/// A channel polled by hand, with calls that submit one I/O and wait for it.
pub(in crate::bdev) struct Bench {
    pub(in crate::bdev) channel: BufferChannel,
}

impl Bench {
    pub(in crate::bdev) fn open(registry: &Registry, name: &str) -> Bench {
        let desc = registry
            .open(name, OpenOptions::read_write("test"))
            .unwrap();
        Bench::on(&desc)
    }

    pub(in crate::bdev) fn on(desc: &BdevDesc) -> Bench {
        let reactor = ReactorHandle::detached().unwrap();
        Bench {
            channel: BufferChannel::new(desc.open_channel(&reactor).unwrap()),
        }
    }

    pub(in crate::bdev) fn wait(&mut self) -> BufferCompletion {
        let start = std::time::Instant::now();
        loop {
            let mut ended = None;
            self.channel
                .poll(&mut |completion| assert!(ended.replace(completion).is_none()));
            if let Some(completion) = ended {
                return completion;
            }
            assert!(start.elapsed().as_secs() < 20, "the I/O never ended");
        }
    }

    pub(in crate::bdev) fn run(
        &mut self,
        kind: IoKind,
        offset: u64,
        length: u64,
        fua: bool,
        buffer: Option<Buffer>,
    ) -> BufferCompletion {
        self.channel.submit(BufferIo {
            kind,
            offset,
            length,
            fua,
            buffer,
            tag: 77,
        });
        let completion = self.wait();
        assert_eq!(completion.tag, 77);
        completion
    }

    pub(in crate::bdev) fn errno(&mut self, kind: IoKind, offset: u64, length: u64) -> i32 {
        let blocks = (length as usize).div_ceil(4096).max(1);
        let buffer = matches!(kind, IoKind::Read | IoKind::Write)
            .then(|| Buffer::new(&heap(), blocks).unwrap());
        self.run(kind, offset, length, false, buffer).errno
    }

    pub(in crate::bdev) fn write(&mut self, offset: u64, bytes: &[u8]) -> i32 {
        let mut buffer = Buffer::new(&heap(), bytes.len().div_ceil(4096)).unwrap();
        buffer[..bytes.len()].copy_from_slice(bytes);
        self.run(
            IoKind::Write,
            offset,
            bytes.len() as u64,
            false,
            Some(buffer),
        )
        .errno
    }

    pub(in crate::bdev) fn read(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, i32> {
        let buffer = Buffer::new(&heap(), length.div_ceil(4096)).unwrap();
        let done = self.run(IoKind::Read, offset, length as u64, false, Some(buffer));
        if done.errno == 0 {
            Ok(done.buffer.unwrap()[..length].to_vec())
        } else {
            Err(done.errno)
        }
    }
}

pub(in crate::bdev) fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length)
        .map(|place| {
            (place as u8)
                .wrapping_mul(31)
                .wrapping_add((place >> 8) as u8)
                ^ seed
        })
        .collect()
}

/// What every bdev of at least 64 KiB, at first zero, must do with data.
pub(in crate::bdev) fn keeps_what_is_written(bench: &mut Bench, block: usize) {
    assert_eq!(bench.read(0, 16384).unwrap(), vec![0; 16384]);
    let first = pattern(4 * block, 1);
    assert_eq!(bench.write(block as u64, &first), 0);
    assert_eq!(bench.read(block as u64, 4 * block).unwrap(), first);
    assert_eq!(bench.read(0, block).unwrap(), vec![0; block]);
    assert_eq!(bench.read(5 * block as u64, block).unwrap(), vec![0; block]);
    // One block in the middle of what was written.
    let second = pattern(block, 2);
    assert_eq!(bench.write(2 * block as u64, &second), 0);
    let mut whole = first.clone();
    whole[block..2 * block].copy_from_slice(&second);
    assert_eq!(bench.read(block as u64, 4 * block).unwrap(), whole);
    assert_eq!(bench.errno(IoKind::Flush, 0, 0), 0);
    assert_eq!(
        bench.errno(IoKind::WriteZeroes, 2 * block as u64, 2 * block as u64),
        0
    );
    whole[block..3 * block].fill(0);
    assert_eq!(bench.read(block as u64, 4 * block).unwrap(), whole);
    assert_eq!(bench.errno(IoKind::Unmap, block as u64, block as u64), 0);
    assert_eq!(
        bench.read(4 * block as u64, block).unwrap(),
        whole[3 * block..]
    );
}

/// What every channel must refuse.
pub(in crate::bdev) fn refuses_partial_blocks_and_ranges_beyond_the_end(bench: &mut Bench) {
    let info = bench.channel.channel().desc().info().clone();
    let (block, end) = (u64::from(info.block_size), info.bytes());
    for kind in [
        IoKind::Read,
        IoKind::Write,
        IoKind::Unmap,
        IoKind::WriteZeroes,
    ] {
        let expected = if info.supports.contains(kind) {
            libc::EINVAL
        } else {
            libc::EOPNOTSUPP
        };
        assert_eq!(bench.errno(kind, 1, block), expected, "{kind:?} at byte 1");
        assert_eq!(
            bench.errno(kind, 0, block - 1),
            expected,
            "{kind:?} of half a block"
        );
        assert_eq!(
            bench.errno(kind, end, block),
            expected,
            "{kind:?} beyond the end"
        );
        assert_eq!(
            bench.errno(kind, end - block, 2 * block),
            expected,
            "{kind:?} across the end"
        );
        assert_eq!(
            bench.errno(kind, !(block - 1), block),
            expected,
            "{kind:?} of the last address"
        );
    }
}

fn malloc(registry: &Registry, name: &str, block_size: u32) {
    let bdev = MallocBdev::new(
        name.to_owned(),
        65536 * 8 / u64::from(block_size),
        block_size,
        None,
    );
    registry.add(bdev.unwrap()).unwrap();
}

#[test]
fn a_malloc_bdev_keeps_what_is_written_and_refuses_what_is_no_block() {
    for block_size in [512, 4096] {
        let registry = Registry::default();
        malloc(&registry, "m", block_size);
        let mut bench = Bench::open(&registry, "m");
        keeps_what_is_written(&mut bench, block_size as usize);
        refuses_partial_blocks_and_ranges_beyond_the_end(&mut bench);
    }
}

#[test]
fn zeroing_a_large_part_of_a_malloc_bdev_leaves_its_neighbours() {
    let registry = Registry::default();
    registry
        .add(MallocBdev::new("m".to_owned(), 8192, 512, None).unwrap())
        .unwrap();
    let mut bench = Bench::open(&registry, "m");
    let data = pattern(8192 * 512, 3);
    assert_eq!(bench.write(0, &data), 0);
    // Begins and ends within a page, and is large enough to give pages back.
    let (from, to) = (3 * 512, (8192 - 3) * 512);
    assert_eq!(
        bench.errno(IoKind::Unmap, from as u64, (to - from) as u64),
        0
    );
    let mut expected = data;
    expected[from..to].fill(0);
    assert!(bench.read(0, expected.len()).unwrap() == expected);
}

#[test]
fn a_completion_waits_for_the_next_poll_and_carries_its_own_token() {
    let registry = Registry::default();
    malloc(&registry, "m", 4096);
    let desc = registry.open("m", OpenOptions::read_write("test")).unwrap();
    let mut channel = desc
        .open_channel(&ReactorHandle::detached().unwrap())
        .unwrap();
    let mut block = Buffer::new(&heap(), 1).unwrap();
    block.fill(9);
    let mut read = Buffer::new(&heap(), 1).unwrap();
    let io = |op, memory, token| BaseIo {
        op,
        pbn: Pbn(3),
        blocks: 1,
        memory,
        fua: true,
        token,
    };
    // SAFETY: both buffers outlive the poll that gives the tokens back.
    unsafe {
        channel.submit(io(BaseOp::Write, block.as_ptr(), 1));
        channel.submit(io(BaseOp::Read, read.as_ptr(), 2));
        channel.submit(BaseIo {
            blocks: 0,
            ..io(BaseOp::Flush, std::ptr::NonNull::dangling(), 3)
        });
        channel.submit(BaseIo {
            pbn: Pbn(u64::MAX),
            ..io(BaseOp::Discard, std::ptr::NonNull::dangling(), 4)
        });
    }
    assert_eq!(channel.in_flight(), 4);
    let mut ended = Vec::new();
    assert!(BaseChannel::poll(&mut channel, &mut |done| ended
        .push((done.token, done.errno))));
    ended.sort_unstable();
    assert_eq!(ended, [(1, 0), (2, 0), (3, 0), (4, libc::EINVAL)]);
    assert!(!BaseChannel::poll(&mut channel, &mut |_| panic!(
        "ended twice"
    )));
    assert_eq!(read[..], block[..]);
    block.fill(0);
    read.fill(0);
}

#[test]
fn names_and_uuids_are_unique_and_both_find_the_bdev() {
    let registry = Registry::default();
    let uuid = uuid::Uuid::new_v4();
    let make = |name: &str, uuid| MallocBdev::new(name.to_owned(), 16, 512, Some(uuid)).unwrap();
    registry.add(make("a", uuid)).unwrap();
    assert!(
        matches!(registry.add(make("a", uuid::Uuid::new_v4())), Err(BdevError::Exists(name)) if name == "a")
    );
    assert!(matches!(
        registry.add(make("b", uuid)),
        Err(BdevError::Exists(_))
    ));
    assert_eq!(registry.describe(&uuid.to_string()).unwrap()["name"], "a");
    assert!(matches!(
        registry.describe("c"),
        Err(BdevError::NotFound(_))
    ));
    assert_eq!(registry.free_name("a"), "a0");
}

#[test]
fn a_claim_keeps_other_writers_out_and_readers_in_until_it_is_dropped() {
    let registry = Registry::default();
    malloc(&registry, "m", 512);
    let claim = registry.open("m", OpenOptions::claimed("vdo")).unwrap();
    let refused = registry
        .open("m", OpenOptions::read_write("nbd"))
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "bdev \"m\" is already claimed by module vdo"
    );
    assert_eq!(
        registry
            .open("m", OpenOptions::claimed("raid"))
            .unwrap_err()
            .errno(),
        libc::EPERM
    );
    let reader = registry.open("m", OpenOptions::read_only("copy")).unwrap();
    assert_eq!(Bench::on(&reader).errno(IoKind::Write, 0, 512), libc::EBADF);
    assert_eq!(Bench::on(&reader).errno(IoKind::Read, 0, 512), 0);
    let described = registry.describe("m").unwrap();
    assert_eq!(
        (&described["claimed"], &described["claim_type"]),
        (&true.into(), &"exclusive_write".into())
    );
    // The channel keeps the claim when the descriptor is gone.
    let channel = claim
        .open_channel(&ReactorHandle::detached().unwrap())
        .unwrap();
    drop(claim);
    assert!(registry.open("m", OpenOptions::read_write("nbd")).is_err());
    drop(channel);
    let writer = registry.open("m", OpenOptions::read_write("nbd")).unwrap();
    assert!(
        matches!(registry.open("m", OpenOptions::claimed("vdo")), Err(BdevError::Busy { user, .. }) if user == "nbd")
    );
    drop(writer);
    assert!(registry.open("m", OpenOptions::claimed("vdo")).is_ok());
}

#[test]
fn removal_tells_openers_waits_for_them_and_is_refused_while_one_cannot_let_go() {
    let registry = Registry::default();
    malloc(&registry, "m", 512);
    assert!(matches!(
        registry.remove("m", "uring"),
        Err(BdevError::WrongKind { .. })
    ));
    let stuck = registry.open("m", OpenOptions::read_only("stuck")).unwrap();
    assert!(
        matches!(registry.remove("m", "malloc"), Err(BdevError::Busy { user, .. }) if user == "stuck")
    );
    drop(stuck);
    let told = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&told);
    let options =
        OpenOptions::read_only("export").on_remove(move || flag.store(true, Ordering::Release));
    let export = registry.open("m", options).unwrap();
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| registry.remove("m", "malloc"));
        while !told.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        assert!(
            registry.open("m", OpenOptions::read_only("late")).is_err(),
            "nobody may come in any more"
        );
        assert!(!removal.is_finished());
        drop(export);
        removal.join().unwrap().unwrap();
    });
    assert_eq!(registry.names(), Vec::<String>::new());
}

#[test]
fn counters_add_up_over_channels_survive_them_and_begin_anew_after_a_reset() {
    let registry = Registry::default();
    malloc(&registry, "m", 512);
    let mut one = Bench::open(&registry, "m");
    let mut two = Bench::open(&registry, "m");
    one.write(0, &pattern(1024, 0));
    two.write(0, &pattern(512, 0));
    two.read(0, 4096).unwrap();
    two.errno(IoKind::WriteZeroes, 0, 512);
    two.errno(IoKind::Unmap, 0, 2048);
    two.errno(IoKind::Read, 1, 1);
    drop(one);
    let json = registry.totals("m").unwrap().to_json();
    assert_eq!(json["bytes_written"], 2048);
    assert_eq!(json["num_write_ops"], 3);
    assert_eq!(json["bytes_read"], 4096);
    assert_eq!(json["num_read_ops"], 1);
    assert_eq!(json["bytes_unmapped"], 2048);
    assert_eq!(json["io_error"]["einval"], 1);
    assert!(json["max_read_latency_ticks"].as_u64().unwrap() > 0);
    registry.reset_totals("m", Reset::All).unwrap();
    let json = registry.totals("m").unwrap().to_json();
    assert_eq!(
        (&json["num_write_ops"], &json["io_error"]),
        (&0.into(), &serde_json::json!({}))
    );
    two.write(0, &pattern(512, 0));
    assert_eq!(registry.totals("m").unwrap().of(IoKind::Write).ops, 1);
}
