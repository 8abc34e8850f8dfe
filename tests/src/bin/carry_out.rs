//! Carries out a script of `vdo_tests::script` on a volume, in a guest: on a device of the kernel's, or on what is served
//! over NBD. After each epoch it leaves a mark in the log of the `dm-log-writes` device below. Or it checks that a volume
//! holds what it must.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Parser, Subcommand};
use rustix::fs::OFlags;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
use vdo_tests::nbd_probe::NbdProbe;
use vdo_tests::rig::BLOCK;
use vdo_tests::script::{Act, Change, LANES, Script};

/// `BLKDISCARD` and `BLKZEROOUT` of `linux/fs.h`; each takes the first byte and how many.
const DISCARD: Opcode = opcode::none(0x12, 119);
const ZERO: Opcode = opcode::none(0x12, 127);

/// Carries out a script on a volume, or checks what it left.
#[derive(Parser)]
struct Arguments {
    /// The script's number.
    #[arg(long)]
    seed: u64,
    /// Whether data is compressible.
    #[arg(long)]
    compressible: bool,
    /// The volume is served over NBD at the path.
    #[arg(long)]
    nbd: bool,
    /// The volume.
    #[arg(long)]
    volume: PathBuf,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Carries out epochs.
    Write {
        /// The first.
        from: u64,
        /// The one after the last.
        to: u64,
        /// The device-mapper device that takes the marks.
        log: String,
    },
    /// Checks.
    Check {
        /// How many epochs are safe.
        safe: u64,
    },
}

/// A way to a volume.
enum Volume {
    Device(File),
    Nbd(NbdProbe),
}

type Answer = Result<(), String>;

impl Volume {
    fn open(path: &Path, nbd: bool) -> Result<Volume, String> {
        let opened = match nbd {
            true => NbdProbe::connect(path).map(Volume::Nbd),
            false => OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(OFlags::DIRECT.bits() as i32)
                .open(path)
                .map(Volume::Device),
        };
        opened.map_err(|error| format!("{}: {error}", path.display()))
    }

    fn carry_out(&mut self, script: &Script, act: &Act) -> Answer {
        let at = act.lbn * BLOCK;
        match (self, &act.change) {
            (Volume::Device(file), Change::Write(names)) => {
                let mut buffer = Aligned::new(names.len() as u64 * BLOCK);
                for (block, name) in buffer.bytes().chunks_mut(BLOCK as usize).zip(names) {
                    block.copy_from_slice(&script.data(*name));
                }
                file.write_all_at(buffer.bytes(), at)
                    .map_err(|error| error.to_string())
            }
            (Volume::Device(file), Change::Zero(blocks)) => {
                change_range::<ZERO>(file, at, blocks * BLOCK)
            }
            (Volume::Device(file), Change::Discard(blocks)) => {
                change_range::<DISCARD>(file, at, blocks * BLOCK)
            }
            (Volume::Nbd(probe), _) => told(act.carry_out(script, probe)),
        }
    }

    fn flush(&mut self) -> Answer {
        match self {
            Volume::Device(file) => file.sync_all().map_err(|error| error.to_string()),
            Volume::Nbd(probe) => told(probe.flush()),
        }
    }

    fn read(&mut self, lbn: u64, data: &mut [u8]) -> Answer {
        match self {
            Volume::Device(file) => {
                let mut buffer = Aligned::new(data.len() as u64);
                let read = file.read_exact_at(buffer.bytes(), lbn * BLOCK);
                data.copy_from_slice(buffer.bytes());
                read.map_err(|error| error.to_string())
            }
            Volume::Nbd(probe) => told(probe.read(lbn * BLOCK, data)),
        }
    }
}

fn told(answer: Result<(), u32>) -> Answer {
    answer.map_err(|error| format!("the server says {error}"))
}

/// Zeroes or discards a part of a device.
fn change_range<const WHAT: Opcode>(file: &File, at: u64, length: u64) -> Answer {
    // SAFETY: both calls take a pointer to two numbers of 64 bits, which they only read.
    let done = unsafe { ioctl(file.as_fd(), Setter::<WHAT, [u64; 2]>::new([at, length])) };
    done.map_err(|error| error.to_string())
}

/// Memory that a device can be given directly.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn new(length: u64) -> Aligned {
        let (length, block) = (length as usize, BLOCK as usize);
        let memory = vec![0; length + block];
        let start = memory.as_ptr().align_offset(block);
        Aligned {
            memory,
            start,
            length,
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

fn main() -> Result<(), String> {
    let arguments = Arguments::parse();
    let script = Script {
        seed: arguments.seed,
        compressible: arguments.compressible,
    };
    let open = || Volume::open(&arguments.volume, arguments.nbd);
    match &arguments.task {
        Task::Write { from, to, log } => {
            for epoch in *from..*to {
                write(&script, epoch, &open)?;
                mark(log, epoch + 1)?;
            }
            Ok(())
        }
        Task::Check { safe } => {
            let mut volume = open()?;
            script
                .ledger(*safe)
                .check_all(|lbn, data| volume.read(lbn, data))
        }
    }
}

/// Carries out one epoch, every lane by a thread of its own, and flushes. The first lane flushes half-way too.
fn write(
    script: &Script,
    epoch: u64,
    open: &(impl Fn() -> Result<Volume, String> + Sync),
) -> Answer {
    let lane = |lane| {
        let mut volume = open()?;
        let acts = script.acts(epoch, lane);
        for (number, act) in acts.iter().enumerate() {
            volume
                .carry_out(script, act)
                .map_err(|error| format!("{act:?}: {error}"))?;
            if lane == 0 && number == acts.len() / 2 {
                volume.flush()?;
            }
        }
        Ok(volume)
    };
    let ended: Result<Vec<Volume>, String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..LANES)
            .map(|number| scope.spawn(move || lane(number)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a lane ends in words"))
            .collect()
    });
    ended?[0].flush()
}

/// Leaves a mark that so many epochs are safe.
fn mark(log: &str, safe: u64) -> Answer {
    let marked = Command::new("dmsetup")
        .args(["message", log, "0", "mark", &format!("safe={safe}")])
        .status();
    match marked {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("the mark cannot be made: {other:?}")),
    }
}
