//! Files as disks: data, durability calls, holes, errors of the file system, locks, waiting for the ring.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use vdo::buffer::Buffer;

use super::*;
use crate::bdev::tests::{
    Bench, heap, keeps_what_is_written, pattern, refuses_partial_blocks_and_ranges_beyond_the_end,
};
use crate::bdev::{BdevIo, BufferChannel, BufferIo, OpenOptions, Registry};
use crate::reactor::{Activity, CpuMask, ReactorCtx, Reactors};

const AIO: FileModule = FileModule::Aio {
    readonly: false,
    fallocate: false,
};

/// The engines to be had here; io_uring may be forbidden.
fn engines() -> Vec<EngineKind> {
    match ring::probe() {
        Ok(()) => vec![EngineKind::IoUring, EngineKind::Threads],
        Err(error) => {
            eprintln!("skipped: I/O with io_uring ({error})");
            vec![EngineKind::Threads]
        }
    }
}

fn options(path: &Path, name: &str, module: FileModule) -> FileOptions {
    let filename = path.to_str().unwrap().to_owned();
    FileOptions {
        name: name.to_owned(),
        filename,
        block_size: None,
        uuid: None,
        module,
        engine: None,
    }
}

/// A temporary file of that many bytes, on the disk of the build (temporary file systems have their own
/// ideas of direct I/O).
fn file(bytes: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new_in(std::env::current_exe().unwrap().parent().unwrap())
        .unwrap();
    file.as_file().set_len(bytes).unwrap();
    file
}

/// A uring bdev `f` with the engine, and a way to it.
fn open(registry: &Registry, path: &Path, engine: EngineKind) -> Bench {
    let options = FileOptions {
        engine: Some(engine),
        ..options(path, "f", FileModule::Uring)
    };
    registry.add(FileBdev::open(options).unwrap()).unwrap();
    Bench::open(registry, "f")
}

#[test]
fn a_file_keeps_what_is_written_under_both_names_and_block_sizes() {
    for engine in engines() {
        for module in [
            FileModule::Uring,
            AIO,
            FileModule::Aio {
                readonly: false,
                fallocate: true,
            },
        ] {
            for block_size in [512, 4096] {
                let file = file(65536);
                let registry = Registry::default();
                let options = FileOptions {
                    block_size: Some(block_size),
                    engine: Some(engine),
                    ..options(file.path(), "f", module)
                };
                let bdev = FileBdev::open(options).unwrap();
                let unmaps = bdev.info().supports.contains(IoKind::Unmap);
                registry.add(bdev).unwrap();
                let mut bench = Bench::open(&registry, "f");
                if unmaps {
                    keeps_what_is_written(&mut bench, block_size as usize);
                } else {
                    assert_eq!(bench.write(0, &pattern(16384, 1)), 0);
                    assert_eq!(bench.errno(IoKind::WriteZeroes, 4096, 8192), 0);
                    assert_eq!(bench.read(0, 4096).unwrap(), pattern(16384, 1)[..4096]);
                    assert_eq!(bench.read(4096, 8192).unwrap(), vec![0; 8192]);
                    assert_eq!(bench.read(12288, 4096).unwrap(), pattern(16384, 1)[12288..]);
                }
                refuses_partial_blocks_and_ranges_beyond_the_end(&mut bench);
            }
        }
    }
}

#[test]
fn what_was_written_is_in_the_file_and_unmapping_gives_its_room_back() {
    for engine in engines() {
        use std::os::unix::fs::MetadataExt;
        let file = file(4 << 20);
        let registry = Registry::default();
        let mut bench = open(&registry, file.path(), engine);
        let data = pattern(4 << 20, 5);
        assert_eq!(bench.write(0, &data), 0);
        assert_eq!(bench.errno(IoKind::Flush, 0, 0), 0);
        assert!(std::fs::read(file.path()).unwrap() == data);
        let before = file.as_file().metadata().unwrap().blocks();
        assert_eq!(bench.errno(IoKind::Unmap, 0, 4 << 20), 0);
        let after = file.as_file().metadata().unwrap();
        assert!(
            after.blocks() < before,
            "{before} sectors before, {} after",
            after.blocks()
        );
        assert_eq!(after.len(), 4 << 20);
    }
}

#[test]
fn durable_writes_and_zeroes_and_memory_of_any_alignment_are_taken() {
    for engine in engines() {
        let file = file(1 << 20);
        let registry = Registry::default();
        open(&registry, file.path(), engine);
        let desc = registry.open("f", OpenOptions::read_write("test")).unwrap();
        let mut channel = desc
            .open_channel(&ReactorHandle::detached().unwrap())
            .unwrap();
        let data = pattern(8193, 6);
        let mut back = vec![0u8; 8195];
        let mut run = |io: BdevIo| {
            // SAFETY: the memory of each I/O is borrowed below for longer than this call, which waits.
            unsafe { channel.submit_io(io) };
            let mut errno = None;
            while errno.is_none() {
                channel.poll_io(&mut |done| errno = Some(done.errno));
            }
            errno.unwrap()
        };
        let from = std::ptr::NonNull::from(&data[1]);
        let into = std::ptr::NonNull::from(&mut back[3]);
        assert_eq!(run(BdevIo::write(4096, 8192, from, 1).with_fua(true)), 0);
        assert_eq!(run(BdevIo::read(4096, 8192, into, 2)), 0);
        assert!(back[3..] == data[1..]);
        assert_eq!(run(BdevIo::write_zeroes(4096, 4096, 3).with_fua(true)), 0);
        assert_eq!(run(BdevIo::read(4096, 8192, into, 4)), 0);
        assert!(back[3..4099] == [0; 4096] && back[4099..] == data[4097..]);
    }
}

#[test]
fn more_io_than_the_ring_has_places_waits_in_line_and_all_of_it_ends() {
    for engine in engines() {
        let file = file(1 << 20);
        let registry = Registry::default();
        let mut bench = open(&registry, file.path(), engine);
        for tag in 0..1000u64 {
            let mut buffer = Buffer::new(&heap(), 1).unwrap();
            buffer.fill(tag as u8);
            let offset = (tag % 256) * 4096;
            bench.channel.submit(BufferIo {
                kind: IoKind::Read,
                offset,
                length: 4096,
                fua: false,
                buffer: Some(buffer),
                tag,
            });
        }
        let mut seen = [false; 1000];
        while seen.contains(&false) {
            bench.channel.poll(&mut |done| {
                assert_eq!(done.errno, 0);
                assert!(
                    !std::mem::replace(&mut seen[done.tag as usize], true),
                    "ended twice"
                );
                assert_eq!(done.buffer.unwrap()[..], [0; 4096]);
            });
        }
        assert_eq!(bench.channel.in_flight(), 0);
    }
}

#[test]
fn dropping_a_channel_waits_for_what_the_kernel_still_has() {
    for engine in engines() {
        let file = file(1 << 20);
        let registry = Registry::default();
        let mut bench = open(&registry, file.path(), engine);
        for tag in 0..600 {
            let buffer = Buffer::new(&heap(), 1);
            bench.channel.submit(BufferIo {
                kind: IoKind::Write,
                offset: 0,
                length: 4096,
                fua: true,
                buffer,
                tag,
            });
        }
        bench.channel.poll(&mut |_| {});
        drop(bench);
        registry.remove("f", "uring").unwrap();
    }
}

#[test]
fn a_file_cut_short_fails_reads_with_eio_and_only_beyond_its_end() {
    for engine in engines() {
        let file = file(1 << 20);
        let registry = Registry::default();
        let mut bench = open(&registry, file.path(), engine);
        file.as_file().set_len(8192).unwrap();
        assert_eq!(bench.errno(IoKind::Read, 0, 8192), 0);
        assert_eq!(bench.errno(IoKind::Read, 8192, 4096), libc::EIO);
        assert_eq!(bench.errno(IoKind::Read, 4096, 8192), libc::EIO);
        assert_eq!(registry.totals("f").unwrap().errors[&libc::EIO], 2);
    }
}

#[test]
fn the_file_systems_errors_come_through_with_their_errno() {
    for engine in engines() {
        // A sealed memory file takes neither writes nor holes, which nothing else tells at opening.
        // SAFETY: the name is a C string.
        let fd = unsafe {
            libc::memfd_create(
                c"disk".as_ptr(),
                libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
            )
        };
        assert!(fd >= 0);
        // SAFETY: `fd` was just made and nobody else owns it.
        let memory = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        memory.set_len(65536).unwrap();
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        let registry = Registry::default();
        let mut bench = open(&registry, Path::new(&path), engine);
        assert_eq!(bench.write(0, &pattern(4096, 1)), 0);
        // SAFETY: F_ADD_SEALS takes an int.
        let sealed =
            unsafe { libc::fcntl(memory.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) };
        assert_eq!(sealed, 0);
        assert_eq!(bench.write(0, &pattern(4096, 2)), libc::EPERM);
        assert_eq!(bench.errno(IoKind::WriteZeroes, 0, 4096), libc::EPERM);
        assert_eq!(bench.read(0, 4096).unwrap(), pattern(4096, 1));
    }
}

#[test]
fn a_file_that_is_open_as_a_disk_is_refused_to_others_until_it_is_closed() {
    let file = file(65536);
    let registry = Registry::default();
    registry
        .add(FileBdev::open(options(file.path(), "f", FileModule::Uring)).unwrap())
        .unwrap();
    for module in [
        FileModule::Uring,
        AIO,
        FileModule::Aio {
            readonly: true,
            fallocate: false,
        },
    ] {
        let refused = FileBdev::open(options(file.path(), "g", module))
            .err()
            .unwrap();
        assert_eq!(refused.errno(), libc::EBUSY);
        assert!(refused.to_string().contains("is in use"), "{refused}");
    }
    registry.remove("f", "uring").unwrap();
    let reader = FileModule::Aio {
        readonly: true,
        fallocate: false,
    };
    let one = FileBdev::open(options(file.path(), "f", reader)).unwrap();
    let two = FileBdev::open(options(file.path(), "g", reader)).unwrap();
    assert!(FileBdev::open(options(file.path(), "h", AIO)).is_err());
    drop((one, two));
    FileBdev::open(options(file.path(), "h", AIO)).unwrap();
}

#[test]
fn a_readonly_file_is_read_and_not_written() {
    let file = file(65536);
    let registry = Registry::default();
    let reader = FileModule::Aio {
        readonly: true,
        fallocate: true,
    };
    registry
        .add(FileBdev::open(options(file.path(), "f", reader)).unwrap())
        .unwrap();
    let mut bench = Bench::open(&registry, "f");
    assert_eq!(bench.errno(IoKind::Read, 0, 4096), 0);
    for kind in [IoKind::Write, IoKind::WriteZeroes, IoKind::Unmap] {
        assert_eq!(bench.errno(kind, 0, 4096), libc::EOPNOTSUPP);
    }
}

#[test]
fn what_cannot_be_a_disk_is_refused_with_the_reason() {
    let refuse = |path: &Path, block_size: Option<u32>| {
        let options = FileOptions {
            block_size,
            ..options(path, "f", FileModule::Uring)
        };
        FileBdev::open(options).err().unwrap()
    };
    let odd = file(65536 + 100);
    assert!(
        refuse(odd.path(), None)
            .to_string()
            .contains("not a multiple of the block size 512")
    );
    assert!(
        refuse(file(0).path(), None)
            .to_string()
            .contains("is empty")
    );
    assert!(
        refuse(file(65536).path(), Some(1024))
            .to_string()
            .contains("block_size is 1024")
    );
    assert!(
        refuse(Path::new("/dev/null"), None)
            .to_string()
            .contains("neither a file nor a block device")
    );
    let missing = refuse(Path::new("/nonexistent/file"), None);
    assert_eq!(missing.errno(), libc::ENOENT);
    assert!(missing.to_string().contains("/nonexistent/file"));
}

#[test]
fn a_completion_wakes_a_sleeping_reactor() {
    for engine in engines() {
        let file = file(1 << 20);
        let registry = Registry::default();
        open(&registry, file.path(), engine);
        let desc = registry.open("f", OpenOptions::read_write("test")).unwrap();
        let reactors = Reactors::start(&CpuMask::single(0)).unwrap();
        let mut bench = BufferChannel::new(desc.open_channel(reactors.first()).unwrap());
        drop(desc);
        let (sender, receiver) = std::sync::mpsc::channel();
        reactors.first().send(move |reactor| {
            let mut left = 200u64;
            reactor.add_poller("io", move |_: &mut ReactorCtx| {
                let mut busy = false;
                if bench.in_flight() == 0 {
                    if left == 0 {
                        sender.send(()).unwrap();
                        return Activity::Finished;
                    }
                    left -= 1;
                    // A durable write takes the disk long enough for the reactor to fall asleep.
                    let buffer = Buffer::new(&heap(), 1);
                    let io = BufferIo {
                        kind: IoKind::Write,
                        offset: left * 4096,
                        length: 4096,
                        fua: true,
                        buffer,
                        tag: left,
                    };
                    bench.submit(io);
                    busy = true;
                }
                busy |= bench.poll(&mut |done| assert_eq!(done.errno, 0));
                Activity::from(busy)
            });
        });
        receiver
            .recv_timeout(Duration::from_secs(60))
            .expect("a completion was slept through");
        assert!(reactors.first().stats().sleeps > 0, "it never slept");
    }
}
