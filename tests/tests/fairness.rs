//! What one client's long requests cost another's short ones.
//!
//! In the simulator that is counted: how many pieces of the long ones end between a short one and its answer. Over NBD
//! it is measured. The machine may have other things to do, so what is held to account is the time that the target's processor spends between
//! a short request and its answer. That is how long the client waits when nobody else uses the processor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use vdo::seam::RequestKind;
use vdo::volume::VolumeOptions;
use vdo_tests::nbd_probe::{Long, NbdProbe};
use vdo_tests::rig::{BLOCK, Between, MIB, ROOMY, Rig, Setup, fill};
use vdo_tests::sim::{Ticket, World, small};
use vdo_tests::target::{Options, Target};

/// The most an NBD request may carry.
const LONGEST: u32 = 32 << 20;

/// Long requests under way at once in the simulator.
const DEPTH: u64 = 64;

/// Where the short requests go; the long ones go before.
const APART: u64 = 128 * MIB;

/// What clients keep under way.
#[derive(Clone, Copy, Debug)]
struct Load {
    clients: u64,
    /// Requests of all clients together.
    requests: u64,
    /// Bytes of each.
    length: u32,
    /// How long it is tried, for each kind.
    lasts: Duration,
}

/// One client, and many: a little of each, or with FAIRNESS_SECONDS as much as there can be for so long.
fn loads() -> [Load; 2] {
    let seconds = std::env::var("FAIRNESS_SECONDS").ok();
    let seconds: Option<f64> = seconds.and_then(|seconds| seconds.parse().ok());
    let lasts = Duration::from_secs_f64(seconds.unwrap_or(0.5));
    let (requests, length) = match seconds {
        Some(_) => (64, LONGEST),
        None => (16, LONGEST / 4),
    };
    let one = Load {
        clients: 1,
        requests,
        length: LONGEST,
        lasts,
    };
    let many = Load {
        clients: requests,
        length,
        ..one
    };
    [one, many]
}

/// A target on one core with a volume in memory.
fn target() -> Target {
    let call = |method: &str, params| json!({"method": method, "params": params});
    let config = json!({"subsystems": [{"subsystem": "bdev", "config": [
        call("bdev_malloc_create", json!({"name": "disk", "num_blocks": ROOMY * MIB / BLOCK, "block_size": BLOCK})),
        call("bdev_vdo_create", json!({"name": "vdo0", "base_bdev_name": "disk", "slab_size_mib": 32,
            "logical_size_mib": 1024})),
    ]}]});
    Target::start_with(Options {
        config: Some(config),
        ..Options::default()
    })
}

/// Clients do not take turns with what they measure.
fn step_back() {
    rustix::process::nice(19).expect("a thread may be nicer");
}

/// How much time the target has used, on all its threads.
fn used(target: &Target) -> Duration {
    let pid = target.pid().expect("it runs") as libc::pid_t;
    let (mut clock, mut time) = (
        0,
        libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
    );
    // SAFETY: both pointers are to variables that outlive the calls.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid, &mut clock) + libc::clock_gettime(clock, &mut time)
    };
    assert_eq!(failed, 0, "a process that runs has a clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How much time the target uses for a short read under a load: for 99 in 100 at most.
fn measure(target: &Target, what: Long, load: Load) -> Duration {
    let Load {
        clients,
        requests,
        length,
        lasts,
    } = load;
    let socket = target.path("vdo0.nbd");
    let connect = || NbdProbe::connect(&socket).expect("the volume is served");
    let mut short = connect();
    fill(&mut short, APART / BLOCK..APART / BLOCK + 64, |lbn| lbn);
    let over = AtomicBool::new(false);
    let mut times = Vec::new();
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..clients)
            .map(|_| {
                let mut client = connect();
                let over = |_| over.load(Ordering::Relaxed);
                scope.spawn(move || {
                    step_back();
                    client.keep_busy(what, (length, requests / clients), APART, over)
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(200));
        let began = Instant::now();
        let mut data = vec![0; BLOCK as usize];
        while began.elapsed() < lasts {
            let (asked, before) = (Instant::now(), used(target));
            let lbn = APART / BLOCK + times.len() as u64 % 64;
            assert_eq!(short.read(lbn * BLOCK, &mut data), Ok(()));
            times.push((used(target) - before, asked.elapsed()));
            std::thread::sleep(Duration::from_millis(1));
        }
        over.store(true, Ordering::Relaxed);
        let answered: u64 = asked.into_iter().map(|client| client.join().unwrap()).sum();
        println!("{answered} long requests");
    });
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100].0;
    let clock = times.iter().map(|time| time.1).max().unwrap_or_default();
    println!(
        "{what:?} by {clients}: {} short reads, median {:?}, p99 {:?}, longest {:?} (by the clock {clock:?})",
        times.len(),
        at(50),
        at(99),
        at(100),
    );
    at(99)
}

/// Pieces a zone thread begins in one poll.
const PIECES_PER_POLL: u64 = 128;

fn open(zones: u8) -> World {
    let requests = 2048;
    let options = VolumeOptions {
        requests,
        ..small::options(zones)
    };
    small::open_with(&small::disk(64), options)
}

/// Turns until the threads answer as much in each as they begin.
const RAMP: usize = 4;

/// Blocks of a long request.
const LONG_BLOCKS: u64 = 300;

/// Starts long requests, each on blocks of its own.
fn long_requests(world: &mut World, kind: RequestKind, round: u64) -> Vec<Arc<Ticket>> {
    let request = |number| {
        let lbns = number * LONG_BLOCKS..(number + 1) * LONG_BLOCKS;
        if kind == RequestKind::Write {
            let tags = lbns.clone().map(|lbn| round << 32 | lbn);
            return small::submit_write(
                world,
                lbns.start,
                tags.flat_map(small::data).collect(),
                false,
            );
        }
        small::submit(world, kind, lbns.start * BLOCK, LONG_BLOCKS * BLOCK, false)
    };
    (0..DEPTH).map(request).collect()
}

/// A volume with so many zone threads, where the blocks of all long requests are mapped, and some behind them, which are not far.
fn mapped(zones: u8) -> World {
    let mut world = open(zones);
    let all = long_requests(&mut world, RequestKind::Write, 1);
    world.run_until(|| small::all_done(&all));
    for lbn in BEHIND {
        world.write(lbn * BLOCK, &small::data(lbn)).unwrap();
    }
    world.settle();
    world
}

/// Blocks of short requests.
const BEHIND: std::ops::Range<u64> = DEPTH * LONG_BLOCKS..DEPTH * LONG_BLOCKS + 50;

#[test]
fn few_pieces_of_long_requests_are_served_before_a_short_read() {
    use RequestKind::{Read, Unmap, Write, WriteZeroes};
    for (zones, kind) in [
        (1, Write),
        (1, Read),
        (1, WriteZeroes),
        (1, Unmap),
        (3, Write),
        (3, Unmap),
    ] {
        let mut world = mapped(zones);
        let long = long_requests(&mut world, kind, 2);
        let pieces = || long.iter().map(|one| one.pieces()).sum::<u64>();
        // What is begun at once, and answered by other threads a little later, is not begun before the first short read.
        for _ in 0..RAMP {
            world.turn();
        }
        let mut most = 0;
        let mut reads = 0;
        while !small::all_done(&long) {
            let lbn = BEHIND.start + reads % 50;
            let before = pieces();
            let short = small::submit(&mut world, Read, lbn * BLOCK, BLOCK, false);
            while short.result().is_none() {
                world.turn();
            }
            assert!(short.data() == small::data(lbn));
            most = most.max(pieces() - before);
            reads += 1;
        }
        println!("{kind:?}, {zones} zones: {most} before one of {reads} short reads");
        assert!(reads > 20, "they were at it for a while");
        assert!(
            most <= 2 * PIECES_PER_POLL * u64::from(zones),
            "{kind:?}, {zones} zones: {most} pieces were served before a short read"
        );
        world.shut_down().0.unwrap();
    }
}

#[test]
fn a_short_request_is_served_while_all_that_long_ones_may_have_waits_for_the_disk() {
    for kind in [RequestKind::Write, RequestKind::Read] {
        let mut world = mapped(1);
        let long = long_requests(&mut world, kind, 2);
        world.poll_without_io();
        assert!(!small::all_done(&long));
        let nothing = BEHIND.end * BLOCK;
        let short = small::submit(&mut world, RequestKind::Read, nothing, BLOCK, false);
        world.poll_without_io();
        assert_eq!(short.result(), Some(0), "no disk is needed to read nothing");
        world.run_until(|| small::all_done(&long));
        world.shut_down().0.unwrap();
    }
}

#[test]
fn short_reads_are_answered_soon_while_others_have_long_requests_under_way() {
    let target = target();
    target.export("vdo0");
    // All memory is touched once, which takes longer than ever after.
    let mut client = NbdProbe::connect(&target.path("vdo0.nbd")).expect("the volume is served");
    client.keep_busy(Long::Write, (LONGEST, 1), APART, |sent| sent == 20);
    for load in loads() {
        for what in [Long::Write, Long::Read, Long::Zero, Long::Trim] {
            // Unoptimised, and some memory is touched for the first time.
            let is_soon = || measure(&target, what, load) < Duration::from_millis(12);
            assert!(is_soon() || is_soon(), "{what:?}, {load:?}");
        }
    }
}

#[test]
fn a_volume_is_deleted_soon_though_many_long_requests_are_queued() {
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::over(Between::Delay(0, 0)));
    let mut clients: Vec<_> = (0..8).map(|_| rig.connect()).collect();
    let (requests, blocks) = (15, 256);
    fill(&mut clients[0], 0..8 * requests * blocks, |lbn| lbn);
    for latency_type in ["avg_read", "p99_read"] {
        let params =
            json!({"delay_bdev_name": "slow", "latency_type": latency_type, "latency_us": 500_000});
        target.rpc("bdev_delay_update_latency", params).unwrap();
    }
    // The volume serves 1536 of these 30 720 blocks at a time, each of which takes half a second.
    for (client, first) in clients.iter_mut().zip(0..) {
        for request in 0..requests {
            let lbn = (first * requests + request) * blocks;
            client.ask_only(Long::Read, lbn * BLOCK, (blocks * BLOCK) as u32);
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    target
        .rpc("bdev_vdo_delete", json!({"name": "vdo0"}))
        .unwrap();
    let took = began.elapsed();
    println!("deleted in {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    rig.audit("a_volume_is_deleted_soon_though_many_long_requests_are_queued");
    assert!(target.stop().success());
}
