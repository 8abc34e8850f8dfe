//! The bdevs that make trouble on purpose: error and delay; and null, which makes none.

use std::time::{Duration, Instant};

use super::*;
use crate::reactor::{Activity, CpuMask, ReactorCtx, Reactors};

fn injection(on: InjectOn, error: ErrorType, num: u32) -> Injection {
    Injection {
        on,
        error,
        num,
        queue_depth: 0,
        corrupt_offset: 0,
        corrupt_value: 0,
    }
}

/// A malloc bdev `m` of 64 blocks of 4096 bytes and the error bdev over it.
fn error_over_malloc() -> Registry {
    let registry = Registry::default();
    registry
        .add(MallocBdev::new("m".to_owned(), 64, 4096, None).unwrap())
        .unwrap();
    registry
        .add(ErrorBdev::new(&registry, "m", None).unwrap())
        .unwrap();
    registry
}

fn inject(registry: &Registry, injection: Injection) {
    registry
        .with("EE_m", "error", |bdev: &ErrorBdev| bdev.inject(injection))
        .unwrap()
        .unwrap();
}

fn submit(bench: &mut Bench, kind: IoKind, tag: u64) {
    let buffer =
        matches!(kind, IoKind::Read | IoKind::Write).then(|| Buffer::new(&heap(), 1).unwrap());
    bench.channel.submit(BufferIo {
        kind,
        offset: 0,
        length: 4096,
        fua: false,
        buffer,
        tag,
    });
}

/// Polls some turns and tells what ended.
fn ended(bench: &mut Bench) -> Vec<(u64, i32)> {
    let mut all = Vec::new();
    for _ in 0..10 {
        bench
            .channel
            .poll(&mut |done| all.push((done.tag, done.errno)));
    }
    all
}

#[test]
fn a_null_bdev_reads_as_zeroes_whatever_was_written_and_cannot_flush_or_unmap() {
    let registry = Registry::default();
    registry
        .add(NullBdev::new("n".to_owned(), 1024, 512, None).unwrap())
        .unwrap();
    let mut bench = Bench::open(&registry, "n");
    assert_eq!(bench.write(512, &pattern(4096, 9)), 0);
    let mut buffer = Buffer::new(&heap(), 1).unwrap();
    buffer.fill(0xff);
    let done = bench.run(IoKind::Read, 512, 4096, false, Some(buffer));
    assert_eq!((done.errno, &done.buffer.unwrap()[..]), (0, &[0; 4096][..]));
    assert_eq!(bench.errno(IoKind::WriteZeroes, 0, 512), 0);
    refuses_partial_blocks_and_ranges_beyond_the_end(&mut bench);
    // As the engine's base device both are taken: there is nothing to flush and no use for advice.
    let desc = registry.open("n", OpenOptions::read_write("test")).unwrap();
    let mut channel = desc
        .open_channel(&ReactorHandle::detached().unwrap())
        .unwrap();
    for (op, token) in [(BaseOp::Flush, 1), (BaseOp::Discard, 2)] {
        let memory = std::ptr::NonNull::dangling();
        // SAFETY: neither touches memory.
        unsafe {
            channel.submit(BaseIo {
                op,
                pbn: Pbn(0),
                blocks: 1,
                memory,
                fua: false,
                token,
            })
        };
    }
    let mut ended = Vec::new();
    BaseChannel::poll(&mut channel, &mut |done| {
        ended.push((done.token, done.errno))
    });
    assert_eq!(ended, [(1, 0), (2, 0)]);
}

#[test]
fn an_error_bdev_without_rules_is_its_base() {
    let registry = error_over_malloc();
    let mut bench = Bench::open(&registry, "EE_m");
    keeps_what_is_written(&mut bench, 4096);
    refuses_partial_blocks_and_ranges_beyond_the_end(&mut bench);
    let described = registry.describe("EE_m").unwrap();
    assert_eq!(described["driver_specific"]["error_disk"]["base_bdev"], "m");
    assert_eq!(registry.describe("m").unwrap()["claimed"], true);
    assert!(matches!(
        registry.remove("m", "malloc"),
        Err(BdevError::Busy { .. })
    ));
}

#[test]
fn the_next_num_of_the_chosen_kind_fail_and_no_other() {
    let registry = error_over_malloc();
    let mut bench = Bench::open(&registry, "EE_m");
    inject(
        &registry,
        injection(InjectOn::Kind(IoKind::Write), ErrorType::Failure, 2),
    );
    assert_eq!(bench.errno(IoKind::Read, 0, 4096), 0);
    assert_eq!(bench.write(0, &pattern(4096, 1)), libc::EIO);
    assert_eq!(bench.write(0, &pattern(4096, 2)), libc::EIO);
    assert_eq!(
        bench.read(0, 4096).unwrap(),
        vec![0; 4096],
        "a failed write reached the base"
    );
    assert_eq!(bench.write(0, &pattern(4096, 3)), 0);
    assert_eq!(registry.totals("EE_m").unwrap().errors[&libc::EIO], 2);
    assert!(registry.totals("m").unwrap().errors.is_empty());

    inject(&registry, injection(InjectOn::All, ErrorType::Failure, 1));
    for kind in [IoKind::Read, IoKind::Write, IoKind::Unmap, IoKind::Flush] {
        assert_eq!(bench.errno(kind, 0, 4096), libc::EIO, "{kind:?}");
        assert_eq!(bench.errno(kind, 0, 4096), 0, "{kind:?}");
    }
    inject(
        &registry,
        injection(InjectOn::All, ErrorType::Failure, u32::MAX),
    );
    inject(&registry, injection(InjectOn::Clear, ErrorType::Failure, 0));
    assert_eq!(bench.errno(IoKind::Read, 0, 4096), 0);
}

#[test]
fn a_rule_with_a_queue_depth_spares_a_shallow_queue() {
    let registry = error_over_malloc();
    let mut bench = Bench::open(&registry, "EE_m");
    let rule = injection(InjectOn::Kind(IoKind::Read), ErrorType::Failure, 1);
    inject(
        &registry,
        Injection {
            queue_depth: 2,
            ..rule
        },
    );
    assert_eq!(bench.errno(IoKind::Read, 0, 4096), 0);
    for tag in 1..=3 {
        submit(&mut bench, IoKind::Read, tag);
    }
    let mut ended = ended(&mut bench);
    ended.sort_unstable();
    assert_eq!(ended, [(1, 0), (2, 0), (3, libc::EIO)]);
}

#[test]
fn pending_io_stays_until_it_is_resumed_and_then_does_what_it_was_for() {
    let registry = error_over_malloc();
    let mut bench = Bench::open(&registry, "EE_m");
    inject(
        &registry,
        injection(InjectOn::Kind(IoKind::Write), ErrorType::Pending, u32::MAX),
    );
    let mut buffer = Buffer::new(&heap(), 1).unwrap();
    buffer.copy_from_slice(&pattern(4096, 7));
    let io = BufferIo {
        kind: IoKind::Write,
        offset: 0,
        length: 4096,
        fua: false,
        buffer: Some(buffer),
        tag: 5,
    };
    bench.channel.submit(io);
    assert_eq!(ended(&mut bench), []);
    inject(&registry, injection(InjectOn::Clear, ErrorType::Pending, 0));
    assert_eq!(
        ended(&mut bench),
        [],
        "taking the rule back lets nothing go"
    );
    assert_eq!(bench.read(0, 4096).unwrap(), vec![0; 4096]);
    registry
        .with("EE_m", "error", ErrorBdev::resume_pending)
        .unwrap();
    assert_eq!(ended(&mut bench), [(5, 0)]);
    assert_eq!(bench.read(0, 4096).unwrap(), pattern(4096, 7));
}

#[test]
fn resuming_wakes_the_sleeping_reactor_of_a_pending_io() {
    let registry = Arc::new(error_over_malloc());
    inject(
        &registry,
        injection(InjectOn::Kind(IoKind::Flush), ErrorType::Pending, 1),
    );
    let reactors = Reactors::start(&CpuMask::single(0)).unwrap();
    let desc = registry
        .open("EE_m", OpenOptions::read_write("test"))
        .unwrap();
    let mut bench = BufferChannel::new(desc.open_channel(reactors.first()).unwrap());
    let (sender, receiver) = std::sync::mpsc::channel();
    reactors.first().send(move |reactor| {
        bench.submit(BufferIo {
            kind: IoKind::Flush,
            offset: 0,
            length: 0,
            fua: false,
            buffer: None,
            tag: 1,
        });
        reactor.add_poller("io", move |_: &mut ReactorCtx| {
            Activity::from(bench.poll(&mut |done| sender.send(done.errno).unwrap()))
        });
    });
    assert!(receiver.recv_timeout(Duration::from_millis(100)).is_err());
    registry
        .with("EE_m", "error", ErrorBdev::resume_pending)
        .unwrap();
    assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(0));
}

#[test]
fn corruption_changes_the_one_byte_asked_for_on_the_way_in_or_out() {
    let registry = error_over_malloc();
    let mut bench = Bench::open(&registry, "EE_m");
    let data = pattern(8192, 4);
    let rule = |kind| Injection {
        corrupt_offset: 5000,
        corrupt_value: 0x81,
        ..injection(InjectOn::Kind(kind), ErrorType::CorruptData, 1)
    };
    let mut changed = data.clone();
    changed[5000] ^= 0x81;
    inject(&registry, rule(IoKind::Write));
    assert_eq!(bench.write(0, &data), 0);
    assert_eq!(bench.read(0, 8192).unwrap(), changed, "what was stored");
    assert_eq!(bench.write(0, &data), 0);
    inject(&registry, rule(IoKind::Read));
    assert_eq!(bench.read(0, 8192).unwrap(), changed, "what was read");
    assert_eq!(bench.read(0, 8192).unwrap(), data, "what is stored");
    // Too short to have such a byte.
    inject(&registry, rule(IoKind::Read));
    assert_eq!(bench.read(0, 4096).unwrap(), data[..4096]);
    let nothing = injection(InjectOn::Kind(IoKind::Read), ErrorType::CorruptData, 1);
    let refused = registry
        .with("EE_m", "error", |bdev: &ErrorBdev| bdev.inject(nothing))
        .unwrap();
    assert!(
        matches!(refused, Err(BdevError::Invalid(message)) if message.contains("corrupt_value"))
    );
}

#[test]
fn an_io_without_memory_is_tried_again_until_the_rule_is_used_up() {
    let registry = error_over_malloc();
    let mut bench = Bench::open(&registry, "EE_m");
    inject(
        &registry,
        injection(InjectOn::Kind(IoKind::Read), ErrorType::NoMemory, 3),
    );
    submit(&mut bench, IoKind::Read, 1);
    for turn in 0..3 {
        assert!(bench.channel.poll(&mut |_| panic!("ended in turn {turn}")));
    }
    assert_eq!(ended(&mut bench), [(1, 0)]);
}

/// A malloc bdev and the delay bdev `d` over it.
fn delay_over_malloc(latencies: Latencies) -> Registry {
    let registry = Registry::default();
    registry
        .add(MallocBdev::new("m".to_owned(), 64, 4096, None).unwrap())
        .unwrap();
    registry
        .add(DelayBdev::new(&registry, "m", "d".to_owned(), None, latencies).unwrap())
        .unwrap();
    registry
}

#[test]
fn a_delay_bdev_is_its_base_and_holds_reads_and_writes_back_for_their_latencies() {
    let latencies = Latencies {
        average_read: 30_000,
        p99_read: 30_000,
        average_write: 60_000,
        p99_write: 60_000,
    };
    let registry = delay_over_malloc(latencies);
    let mut bench = Bench::open(&registry, "d");
    let mut time = |kind, length| {
        let start = Instant::now();
        assert_eq!(bench.errno(kind, 0, length), 0);
        start.elapsed().as_millis()
    };
    let (read, write, flush) = (
        time(IoKind::Read, 4096),
        time(IoKind::Write, 4096),
        time(IoKind::Flush, 0),
    );
    assert!((30..2000).contains(&read), "a read took {read} ms");
    assert!((60..2000).contains(&write), "a write took {write} ms");
    assert!(flush < 30, "a flush took {flush} ms");
    registry
        .with("d", "delay", |bdev: &DelayBdev| {
            bdev.set_latency(LatencyKind::AverageRead, 0)
        })
        .unwrap();
    registry
        .with("d", "delay", |bdev: &DelayBdev| {
            bdev.set_latency(LatencyKind::P99Read, 0)
        })
        .unwrap();
    for kind in [LatencyKind::AverageWrite, LatencyKind::P99Write] {
        registry
            .with("d", "delay", |bdev: &DelayBdev| bdev.set_latency(kind, 10))
            .unwrap();
    }
    keeps_what_is_written(&mut bench, 4096);
    assert_eq!(
        registry.describe("d").unwrap()["driver_specific"]["delay"]["avg_write_latency"],
        10
    );
}

#[test]
fn about_one_in_a_hundred_takes_the_99th_percentile() {
    let latencies = Latencies {
        average_read: 0,
        p99_read: 1 << 40,
        average_write: 0,
        p99_write: 0,
    };
    let registry = delay_over_malloc(latencies);
    let mut bench = Bench::open(&registry, "d");
    let mut quick = 0;
    for tag in 0..3000 {
        submit(&mut bench, IoKind::Read, tag);
        bench.channel.poll(&mut |_| quick += 1);
    }
    let slow = 3000 - quick;
    assert!((5..80).contains(&slow), "{slow} of 3000 were slow");
}

#[test]
fn a_sleeping_reactor_wakes_for_a_delayed_completion() {
    let registry = delay_over_malloc(Latencies {
        average_read: 50_000,
        p99_read: 50_000,
        average_write: 0,
        p99_write: 0,
    });
    let reactors = Reactors::start(&CpuMask::single(0)).unwrap();
    let desc = registry.open("d", OpenOptions::read_write("test")).unwrap();
    let mut bench = BufferChannel::new(desc.open_channel(reactors.first()).unwrap());
    let (sender, receiver) = std::sync::mpsc::channel();
    let start = Instant::now();
    reactors.first().send(move |reactor| {
        let buffer = Buffer::new(&heap(), 1);
        bench.submit(BufferIo {
            kind: IoKind::Read,
            offset: 0,
            length: 4096,
            fua: false,
            buffer,
            tag: 1,
        });
        reactor.add_poller("io", move |_: &mut ReactorCtx| {
            Activity::from(bench.poll(&mut |done| sender.send(done.errno).unwrap()))
        });
    });
    assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(0));
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert!(reactors.first().stats().sleeps > 0);
}

#[test]
fn a_p99_below_the_average_is_refused() {
    let registry = Registry::default();
    registry
        .add(MallocBdev::new("m".to_owned(), 64, 4096, None).unwrap())
        .unwrap();
    let latencies = Latencies {
        average_read: 2,
        p99_read: 1,
        average_write: 0,
        p99_write: 0,
    };
    let refused = DelayBdev::new(&registry, "m", "d".to_owned(), None, latencies)
        .err()
        .unwrap();
    assert!(
        refused.to_string().contains("p99_read_latency is 1"),
        "{refused}"
    );
    assert_eq!(
        registry.describe("m").unwrap()["claimed"],
        false,
        "the base stays free"
    );
}

#[test]
fn a_target_that_ends_lets_go_of_what_is_pending_or_delayed() {
    let slow = Latencies {
        average_read: 1 << 40,
        p99_read: 1 << 40,
        average_write: 0,
        p99_write: 0,
    };
    let registry = delay_over_malloc(slow);
    registry
        .add(ErrorBdev::new(&registry, "d", None).unwrap())
        .unwrap();
    registry
        .with("EE_d", "error", |bdev: &ErrorBdev| {
            bdev.inject(injection(
                InjectOn::Kind(IoKind::Write),
                ErrorType::Pending,
                1,
            ))
        })
        .unwrap()
        .unwrap();
    let mut bench = Bench::open(&registry, "EE_d");
    submit(&mut bench, IoKind::Read, 1);
    submit(&mut bench, IoKind::Write, 2);
    assert_eq!(ended(&mut bench), []);
    registry.let_go_all();
    let mut ended = ended(&mut bench);
    ended.sort_unstable();
    assert_eq!(ended, [(1, 0), (2, 0)]);
}
