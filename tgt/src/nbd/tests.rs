//! Exports of malloc bdevs on real reactors, against clients that speak the protocol byte by byte.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::export::{ExportOptions, NbdExports};
use super::places::Limits;
use super::protocol::{REQUEST, STRUCTURED_REPLY, option, transmission};
use crate::bdev::MallocBdev;
use crate::reactor::CpuMask;
use crate::target::Target;

const MIB: u64 = 1 << 20;

/// Command numbers on the wire.
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const CACHE: u16 = 5;
const WRITE_ZEROES: u16 = 6;
const BLOCK_STATUS: u16 = 7;

const FUA: u16 = 1;
const NO_HOLE: u16 = 2;
const FAST_ZERO: u16 = 16;

/// A target with one malloc bdev, "disk", and its export.
struct Fixture {
    folder: tempfile::TempDir,
    target: Target,
    exports: NbdExports,
}

impl Fixture {
    fn new(block_size: u32) -> Fixture {
        Fixture::sized(64 * MIB, block_size)
    }

    fn sized(bytes: u64, block_size: u32) -> Fixture {
        let target = Target::start(&CpuMask::single(0)).unwrap();
        let blocks = bytes / u64::from(block_size);
        let disk = MallocBdev::new("disk".to_owned(), blocks, block_size, None).unwrap();
        target.bdevs.add(disk).unwrap();
        let fixture = Fixture {
            folder: tempfile::tempdir().unwrap(),
            target,
            exports: NbdExports::new(ExportOptions::default()),
        };
        fixture.start().unwrap();
        fixture
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk.sock")
    }

    fn text_path(&self) -> String {
        self.path().to_str().unwrap().to_owned()
    }

    fn start(&self) -> Result<(), super::NbdError> {
        self.exports.start(
            &self.target.bdevs,
            &self.target.reactors,
            "disk",
            &self.text_path(),
        )
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
            .set_write_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    fn connect(&self, structured: bool) -> Client {
        let mut stream = self.raw();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        if structured {
            stream
                .write_all(&opt(option::STRUCTURED_REPLY, &[]))
                .unwrap();
            assert_eq!(option_reply(&mut stream).0, 1);
        }
        stream.write_all(&opt(option::GO, &[0; 6])).unwrap();
        let (mut size, mut flags) = (0, 0);
        loop {
            let (kind, data) = option_reply(&mut stream);
            match kind {
                1 => break,
                3 if data[..2] == [0, 0] => {
                    size = u64::from_be_bytes(data[2..10].try_into().unwrap());
                    flags = u16::from_be_bytes(data[10..12].try_into().unwrap());
                }
                _ => {}
            }
        }
        Client {
            stream,
            structured,
            size,
            flags,
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.exports.stop_all();
        self.target.shutdown();
    }
}

fn opt(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

fn option_reply(stream: &mut UnixStream) -> (u32, Vec<u8>) {
    let mut header = [0; 20];
    stream.read_exact(&mut header).unwrap();
    let length = u32::from_be_bytes(header[16..20].try_into().unwrap());
    let mut data = vec![0; length as usize];
    stream.read_exact(&mut data).unwrap();
    (u32::from_be_bytes(header[12..16].try_into().unwrap()), data)
}

fn request(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = REQUEST.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

struct Client {
    stream: UnixStream,
    structured: bool,
    size: u64,
    flags: u16,
}

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// One reply: cookie and error, or the data; `read` is the length if it is a read's.
    fn reply(&mut self, read: Option<u32>) -> (u64, Result<Vec<u8>, u32>) {
        self.reply_to(|_| read)
    }

    /// One reply: cookie and error, or the data; `read` tells the length of the read of a cookie.
    fn reply_to(&mut self, read: impl Fn(u64) -> Option<u32>) -> (u64, Result<Vec<u8>, u32>) {
        let magic = u32::from_be_bytes(self.take());
        if magic == STRUCTURED_REPLY {
            assert!(self.structured);
            let (flags, kind) = (
                u16::from_be_bytes(self.take()),
                u16::from_be_bytes(self.take()),
            );
            assert_eq!(flags, 1, "there is but one chunk");
            let cookie = u64::from_be_bytes(self.take());
            let length = u32::from_be_bytes(self.take());
            if kind == 1 {
                self.take::<8>();
                let mut data = vec![0; length as usize - 8];
                self.stream.read_exact(&mut data).unwrap();
                return (cookie, Ok(data));
            }
            assert_eq!((kind, length), (0x8001, 6));
            let error = u32::from_be_bytes(self.take());
            self.take::<2>();
            return (cookie, Err(error));
        }
        assert_eq!(magic, 0x6744_6698);
        let error = u32::from_be_bytes(self.take());
        let cookie = u64::from_be_bytes(self.take());
        if error != 0 {
            return (cookie, Err(error));
        }
        let mut data = vec![0; read(cookie).unwrap_or(0) as usize];
        self.stream.read_exact(&mut data).unwrap();
        (cookie, Ok(data))
    }

    fn call(
        &mut self,
        flags: u16,
        command: u16,
        offset: u64,
        length: u32,
        data: &[u8],
    ) -> Result<Vec<u8>, u32> {
        let mut bytes = request(flags, command, 77, offset, length);
        bytes.extend(data);
        self.send(&bytes);
        let (cookie, result) = self.reply((command == READ).then_some(length));
        assert_eq!(cookie, 77);
        result
    }

    fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>, u32> {
        self.call(0, READ, offset, length, &[])
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<Vec<u8>, u32> {
        self.call(0, WRITE, offset, data.len() as u32, data)
    }

    /// Whether the server has closed the connection, having sent nothing more.
    fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }

    fn disconnect(mut self) {
        self.send(&request(0, DISCONNECT, 0, 0, 0));
        assert!(self.is_closed());
    }
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length)
        .map(|index| (index as u8).wrapping_mul(31).wrapping_add(seed) ^ (index >> 8) as u8)
        .collect()
}

#[test]
fn what_is_written_is_read_in_simple_and_structured_replies() {
    let fixture = Fixture::new(512);
    for structured in [false, true] {
        let mut client = fixture.connect(structured);
        assert_eq!(client.size, 64 * MIB);
        for (offset, length) in [
            (0, 512),
            (4096, 4096),
            (8192, 200_704),
            (MIB, 4 << 20),
            (8 * MIB, 32 << 20),
        ] {
            let data = pattern(length, structured as u8);
            assert_eq!(
                client.write(offset, &data),
                Ok(vec![]),
                "{length} bytes at {offset}"
            );
            assert!(
                client.read(offset, length as u32) == Ok(data),
                "{length} bytes at {offset}"
            );
        }
        client.disconnect();
    }
}

#[test]
fn everything_the_bdev_can_do_is_promised_and_kept() {
    let fixture = Fixture::new(4096);
    let mut client = fixture.connect(true);
    use transmission::*;
    let promised = HAS_FLAGS
        | SEND_FLUSH
        | SEND_FUA
        | SEND_TRIM
        | SEND_WRITE_ZEROES
        | SEND_DF
        | CAN_MULTI_CONN
        | SEND_CACHE
        | SEND_FAST_ZERO;
    assert_eq!(client.flags, promised);
    let data = pattern(65536, 1);
    assert!(client.call(FUA, WRITE, 0, 65536, &data).is_ok());
    assert!(client.call(0, FLUSH, 0, 0, &[]).is_ok());
    assert!(client.call(FUA, TRIM, 4096, 4096, &[]).is_ok());
    assert_eq!(
        client.read(4096, 4096),
        Ok(vec![0; 4096]),
        "a malloc bdev forgets what is unmapped"
    );
    assert!(
        client
            .call(FUA | NO_HOLE, WRITE_ZEROES, 8192, 4096, &[])
            .is_ok()
    );
    assert!(
        client
            .call(FAST_ZERO, WRITE_ZEROES, 16384, 4096, &[])
            .is_ok()
    );
    assert_eq!(client.read(8192, 4096), Ok(vec![0; 4096]));
    assert_eq!(client.read(16384, 4096), Ok(vec![0; 4096]));
    assert_eq!(
        client.read(12288, 4096),
        Ok(data[12288..16384].to_vec()),
        "its neighbours are unharmed"
    );
    assert!(client.call(0, CACHE, 0, 4096, &[]).is_ok());
    assert!(
        client.call(4, READ, 0, 4096, &[]).is_ok(),
        "DF: replies are never fragmented"
    );
}

#[test]
fn a_trim_is_rounded_to_whole_blocks_and_data_is_not() {
    let fixture = Fixture::new(4096);
    let mut client = fixture.connect(false);
    let data = pattern(16384, 3);
    client.write(0, &data).unwrap();
    assert!(client.call(0, TRIM, 4095, 4098, &[]).is_ok());
    let mut expected = data.clone();
    expected[4096..8192].fill(0);
    assert_eq!(client.read(0, 16384), Ok(expected));
    assert!(
        client.call(0, TRIM, 1, 4096, &[]).is_ok(),
        "less than a block is nothing"
    );
    assert_eq!(client.read(1, 4096), Err(22));
    assert_eq!(client.write(0, &[0; 512]), Err(22));
    assert_eq!(client.call(0, WRITE_ZEROES, 512, 4096, &[]), Err(22));
    assert_eq!(client.read(0, 4096), Ok(data[..4096].to_vec()));
}

#[test]
fn requests_out_of_range_or_nonsensical_are_refused_one_by_one() {
    let fixture = Fixture::new(512);
    for structured in [false, true] {
        let mut client = fixture.connect(structured);
        let end = client.size;
        assert_eq!(client.read(end, 512), Err(22));
        assert_eq!(client.read(end - 512, 1024), Err(22));
        assert_eq!(client.read(u64::MAX - 511, 512), Err(22));
        assert_eq!(client.write(end, &[1; 512]), Err(28));
        assert_eq!(client.write(u64::MAX - 511, &[1; 512]), Err(28));
        assert_eq!(client.call(0, TRIM, end - 512, 1024, &[]), Err(28));
        assert_eq!(client.call(0, WRITE_ZEROES, 0, u32::MAX, &[]), Err(28));
        for command in [READ, WRITE, TRIM, WRITE_ZEROES, CACHE] {
            assert_eq!(
                client.call(0, command, 0, 0, &[]),
                Err(22),
                "no bytes: command {command}"
            );
        }
        assert_eq!(client.call(0, BLOCK_STATUS, 0, 4096, &[]), Err(22));
        assert_eq!(client.call(0, 999, 0, 4096, &[]), Err(22));
        assert_eq!(
            client.call(0x8000, READ, 0, 512, &[]),
            Err(22),
            "an unknown flag"
        );
        assert_eq!(client.call(FAST_ZERO, WRITE, 0, 512, &[9; 512]), Err(22));
        assert_eq!(
            client.read(0, 33 << 20),
            Err(22),
            "more than the largest request"
        );
        assert_eq!(
            client.read(0, 512),
            Ok(vec![0; 512]),
            "and the connection goes on"
        );
    }
}

#[test]
fn the_data_of_a_refused_write_is_dropped_however_long() {
    let fixture = Fixture::new(512);
    let mut client = fixture.connect(true);
    let data = pattern(40 << 20, 5);
    assert_eq!(client.write(0, &data), Err(22));
    assert_eq!(client.read(0, 512), Ok(vec![0; 512]));
}

#[test]
fn many_requests_in_one_piece_are_all_answered() {
    let fixture = Fixture::new(512);
    let mut client = fixture.connect(true);
    let mut bytes = Vec::new();
    for cookie in 0..1000 {
        bytes.extend(request(0, WRITE, cookie, cookie * 512, 512));
        bytes.extend([cookie as u8; 512]);
    }
    let mut writer = client.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
    let mut cookies: Vec<u64> = (0..1000)
        .map(|_| client.reply(None))
        .map(|(cookie, result)| {
            assert_eq!(result, Ok(vec![]));
            cookie
        })
        .collect();
    sender.join().unwrap();
    cookies.sort_unstable();
    assert_eq!(cookies, (0..1000).collect::<Vec<_>>());
    for block in [0u64, 1, 500, 999] {
        assert_eq!(client.read(block * 512, 512), Ok(vec![block as u8; 512]));
    }
}

#[test]
fn more_than_the_pool_holds_waits_its_turn() {
    let fixture = Fixture::new(4096);
    let mut client = fixture.connect(true);
    // The largest buffer is there once; eight reads want it, while nobody reads the replies.
    let data = pattern(32 << 20, 9);
    client.write(0, &data).unwrap();
    let bytes: Vec<u8> = (0..8)
        .flat_map(|cookie| request(0, READ, cookie, 0, 32 << 20))
        .collect();
    client.send(&bytes);
    for _ in 0..8 {
        let (_, result) = client.reply(Some(32 << 20));
        assert!(result == Ok(data.clone()));
    }
    let bytes: Vec<u8> = (0..2000)
        .flat_map(|cookie| request(0, READ, cookie, 0, 4096))
        .collect();
    client.send(&bytes);
    std::thread::sleep(Duration::from_millis(100));
    for _ in 0..2000 {
        assert_eq!(client.reply(Some(4096)).1, Ok(data[..4096].to_vec()));
    }
}

#[test]
fn a_write_may_come_in_single_bytes() {
    let fixture = Fixture::new(512);
    let mut client = fixture.connect(false);
    let data = pattern(512, 7);
    let mut bytes = request(0, WRITE, 1, 512, 512);
    bytes.extend(&data);
    for byte in bytes {
        client.send(&[byte]);
    }
    assert_eq!(client.reply(None), (1, Ok(vec![])));
    assert_eq!(client.read(512, 512), Ok(data));
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let fixture = Fixture::new(512);
    let mut bystander = fixture.connect(true);
    let mut client = fixture.connect(false);
    client.send(&[0xa5; 300]);
    assert!(client.is_closed());
    for garbage in [
        &[0xff; 64][..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0, 0, 0, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9, 9, 9, 9, 9],
    ] {
        let mut stream = fixture.raw();
        stream.write_all(garbage).unwrap();
        stream.read_exact(&mut [0; 18]).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(rest, [0u8; 0]);
    }
    assert_eq!(bystander.write(0, &[1; 512]), Ok(vec![]));
    assert_eq!(bystander.read(0, 512), Ok(vec![1; 512]));
}

#[test]
fn clients_that_vanish_at_any_moment_leave_nothing_behind() {
    let fixture = Fixture::new(512);
    for step in 0..60 {
        let mut client = fixture.connect(step % 2 == 0);
        let mut bytes = Vec::new();
        for cookie in 0..step {
            bytes.extend(request(0, READ, cookie, 0, 65536));
        }
        bytes.extend(request(0, WRITE, 99, 0, 65536));
        bytes.extend(vec![1; step as usize * 1000]);
        client.send(&bytes);
        drop(client);
    }
    drop(fixture.raw());
    let mut client = fixture.connect(true);
    assert!(client.write(0, &[2; 512]).is_ok());
    client.disconnect();
    // Stopping waits for every one of them to be gone.
    let begun = Instant::now();
    fixture.exports.stop(&fixture.text_path()).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn clients_share_what_they_write() {
    let fixture = Fixture::new(512);
    let mut clients: Vec<Client> = (0..8).map(|_| fixture.connect(true)).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        client
            .write(index as u64 * 512, &[index as u8 + 1; 512])
            .unwrap();
    }
    for client in &mut clients {
        assert!(client.call(0, FLUSH, 0, 0, &[]).is_ok());
        for index in 0..8u8 {
            assert_eq!(
                client.read(u64::from(index) * 512, 512),
                Ok(vec![index + 1; 512])
            );
        }
    }
}

#[test]
fn a_path_serves_one_bdev_and_a_stopped_one_is_free_again() {
    let fixture = Fixture::new(512);
    let error = fixture.start().unwrap_err();
    assert!(
        error.to_string().contains("serves bdev \"disk\" already"),
        "{error}"
    );
    let mut client = fixture.connect(true);
    fixture.exports.stop(&fixture.text_path()).unwrap();
    assert!(client.is_closed());
    assert!(!fixture.path().exists());
    assert!(fixture.exports.stop(&fixture.text_path()).is_err());
    fixture.start().unwrap();
    assert!(fixture.connect(true).read(0, 512).is_ok());
}

#[test]
fn a_client_that_does_not_read_cannot_keep_an_export_open() {
    let fixture = Fixture::new(512);
    let mut client = fixture.connect(true);
    let bytes: Vec<u8> = (0..8)
        .flat_map(|cookie| request(0, READ, cookie, 0, 8 << 20))
        .collect();
    client.send(&bytes);
    std::thread::sleep(Duration::from_millis(50));
    let begun = Instant::now();
    fixture.exports.stop(&fixture.text_path()).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn removing_the_bdev_ends_its_exports() {
    let fixture = Fixture::new(512);
    let mut client = fixture.connect(true);
    assert!(client.read(0, 512).is_ok());
    fixture.target.bdevs.remove("disk", "malloc").unwrap();
    assert!(client.is_closed());
    assert_eq!(fixture.exports.list(), []);
}

/// An export with few places, where a handshake may take half a second, or this long while others wait.
fn narrow(hurried: Duration) -> Fixture {
    let limits = Limits {
        shaking_hands: 4,
        served: 2,
        patience: Duration::from_millis(500),
        hurried,
    };
    let mut fixture = Fixture::new(512);
    fixture.exports.stop_all();
    fixture.exports = NbdExports::with_limits(limits);
    fixture.start().unwrap();
    fixture
}

#[test]
fn clients_that_never_shake_hands_are_let_go() {
    let fixture = narrow(Duration::from_secs(60));
    let begun = Instant::now();
    let mut silent = fixture.raw();
    silent.read_exact(&mut [0; 18]).unwrap();
    // It comes as far as an option, and stops there.
    silent.write_all(&3u32.to_be_bytes()).unwrap();
    silent.write_all(b"IHAVE").unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    assert!(begun.elapsed() >= Duration::from_millis(500));
    // One that has shaken hands may be as quiet as it likes.
    let mut client = fixture.connect(true);
    std::thread::sleep(Duration::from_millis(800));
    assert!(client.read(0, 512).is_ok());
}

#[test]
fn clients_that_never_shake_hands_keep_nobody_out() {
    let fixture = narrow(Duration::from_millis(20));
    let silent: Vec<_> = (0..40).map(|_| fixture.raw()).collect();
    // Ten rounds of four, each hurried: far less than ten times half a second.
    let begun = Instant::now();
    let mut client = fixture.connect(true);
    assert!(begun.elapsed() < Duration::from_secs(4), "{begun:?}");
    assert!(client.read(0, 512).is_ok());
    drop(silent);
}

#[test]
fn a_client_too_many_is_told_so_until_one_leaves() {
    let fixture = narrow(Duration::from_secs(60));
    let mut clients = vec![fixture.connect(false), fixture.connect(true)];
    let mut late = fixture.raw();
    late.read_exact(&mut [0; 18]).unwrap();
    late.write_all(&3u32.to_be_bytes()).unwrap();
    late.write_all(&opt(option::GO, &[0; 6])).unwrap();
    let (kind, reason) = option_reply(&mut late);
    assert_eq!(kind, 0x8000_0002, "{}", String::from_utf8_lossy(&reason));
    clients.pop().unwrap().disconnect();
    // The place is free a moment after the socket is closed.
    let kinds = std::iter::repeat_with(|| {
        late.write_all(&opt(option::GO, &[0; 6])).unwrap();
        option_reply(&mut late).0
    });
    assert_eq!(
        kinds.take(10_000).find(|kind| *kind != 0x8000_0002),
        Some(3)
    );
    assert!(clients[0].read(0, 512).is_ok());
}

/// One request of a random stream.
#[derive(Clone, Copy, Debug)]
struct Step {
    command: u16,
    block: u64,
    blocks: u32,
    fill: u8,
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    use proptest::prelude::*;
    let command = prop::sample::select(vec![
        READ,
        READ,
        WRITE,
        WRITE,
        WRITE,
        TRIM,
        WRITE_ZEROES,
        FLUSH,
        CACHE,
        42,
    ]);
    // A small disk, so that ranges overlap; some lie beyond its end, and some hold nothing.
    (command, 0u64..70, 0u32..20, 1u8..255).prop_map(|(command, block, blocks, fill)| Step {
        command,
        block,
        blocks,
        fill,
    })
}

const SMALL: u64 = 64 * 512;

/// What a disk of `SMALL` bytes answers, and what it holds afterwards.
fn expect(disk: &mut [u8], step: Step) -> Result<Vec<u8>, u32> {
    let (start, length) = (step.block * 512, u64::from(step.blocks) * 512);
    match step.command {
        FLUSH => return Ok(vec![]),
        READ | WRITE | TRIM | WRITE_ZEROES | CACHE if length > 0 => {}
        _ => return Err(22),
    }
    let Some(range) = disk.get_mut(start as usize..(start + length) as usize) else {
        return Err(if matches!(step.command, READ | CACHE) {
            22
        } else {
            28
        });
    };
    match step.command {
        READ => return Ok(range.to_vec()),
        WRITE => range.fill(step.fill),
        TRIM | WRITE_ZEROES => range.fill(0),
        _ => {}
    }
    Ok(vec![])
}

#[test]
fn random_requests_in_random_pieces_do_what_a_model_does() {
    use proptest::prelude::*;
    let fixture = Fixture::sized(SMALL, 512);
    let mut disk = vec![0; SMALL as usize];
    let strategy = (
        prop::collection::vec(step(), 1..60),
        prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        any::<bool>(),
    );
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 64,
        // The disk remembers, so a failing case cannot be made smaller.
        max_shrink_iters: 0,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let disk = std::cell::RefCell::new(&mut disk);
    runner
        .run(&strategy, |(steps, cuts, structured)| {
            let mut client = fixture.connect(structured);
            let mut stream = Vec::new();
            for (cookie, step) in steps.iter().enumerate() {
                let length = if step.command == FLUSH {
                    0
                } else {
                    step.blocks * 512
                };
                let offset = if step.command == FLUSH {
                    0
                } else {
                    step.block * 512
                };
                stream.extend(request(0, step.command, cookie as u64, offset, length));
                if step.command == WRITE {
                    stream.extend(vec![step.fill; length as usize]);
                }
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let mut socket = client.stream.try_clone().unwrap();
            let sender = std::thread::spawn(move || {
                for cut in cuts.windows(2) {
                    socket.write_all(&stream[cut[0]..cut[1]]).unwrap();
                    std::thread::yield_now();
                }
            });
            // A malloc bdev does its work in the order it is asked; only refusals may overtake it.
            let mut answers = vec![None; steps.len()];
            let mut expected = Vec::new();
            for step in &steps {
                expected.push(expect(&mut disk.borrow_mut(), *step));
            }
            for _ in &steps {
                let (cookie, result) = client.reply_to(|cookie| {
                    let step = steps[cookie as usize];
                    (step.command == READ).then_some(step.blocks * 512)
                });
                answers[cookie as usize] = Some(result);
            }
            sender.join().unwrap();
            for ((step, answer), expected) in steps.iter().zip(answers).zip(expected) {
                prop_assert_eq!(answer, Some(expected), "{:?}", step);
            }
            Ok(())
        })
        .unwrap();
}
