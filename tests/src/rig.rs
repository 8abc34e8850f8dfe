//! A volume in a file, for end-to-end tests: the file, what lies between it and the volume, and a
//! target that serves it over NBD.
//!
//! A [`Rig`] owns the file and outlives the targets that a test starts on it, one after another. A
//! [`Setup`] says how: on which cores, through which other bdevs, with which parameters.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;
use vdo::format::components::VolumeState;
use vdo::format::open::{Volume, read_geometry, read_volume};

use crate::dm_vdo::{lacking, text};
use crate::nbd_probe::NbdProbe;
use crate::probe::Probe;
use crate::target::{Options, Target};

/// Bytes of a block.
pub const BLOCK: u64 = 4096;

/// Bytes of a MiB.
pub const MIB: u64 = 1 << 20;

/// MiB of a file with room for the smallest index and journals and nearly 300 MiB of data.
pub const ROOMY: u64 = 3072;

/// MiB of a file in which nothing but two slabs of 8 MiB is left for data.
pub const TIGHT: u64 = 2800;

/// What lies between the file and the volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Between {
    /// Nothing.
    #[default]
    Nothing,
    /// The error bdev, `EE_base`.
    Errors,
    /// The delay bdev: microseconds a read takes, and a write.
    Delay(u64, u64),
}

/// How a target is started on the file.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The target's cores.
    pub cpumask: &'static str,
    /// What lies below the volume.
    pub between: Between,
    /// Parameters of `bdev_vdo_create` beyond the names.
    pub create: Value,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            cpumask: "0x1",
            between: Between::Nothing,
            create: json!({"slab_size_mib": 32, "logical_size_mib": 1024}),
        }
    }
}

impl Setup {
    /// The usual one, on these cores.
    pub fn on(cpumask: &'static str) -> Setup {
        Setup {
            cpumask,
            ..Setup::default()
        }
    }

    /// The usual one, over another bdev.
    pub fn over(between: Between) -> Setup {
        Setup {
            between,
            ..Setup::default()
        }
    }

    /// The usual one, with one more parameter of `bdev_vdo_create`.
    #[must_use]
    pub fn with(mut self, parameter: &str, value: impl Into<Value>) -> Setup {
        self.create[parameter] = value.into();
        self
    }
}

/// A file for a volume.
#[derive(Debug)]
pub struct Rig {
    folder: TempDir,
}

impl Rig {
    /// A sparse file of this many MiB, in memory if the system offers that: a disk that others use too
    /// makes every flush slow.
    pub fn new(mib: u64) -> Rig {
        let memory = Path::new("/dev/shm");
        let room = rustix::fs::statvfs(memory)
            .is_ok_and(|memory| memory.f_bavail * memory.f_frsize > 1024 * MIB);
        match room {
            true => Rig::within(mib, memory),
            false => Rig::on_disk(mib),
        }
    }

    /// A sparse file of this many MiB where temporary files are.
    pub fn on_disk(mib: u64) -> Rig {
        Rig::within(mib, &std::env::temp_dir())
    }

    fn within(mib: u64, folder: &Path) -> Rig {
        let folder = tempfile::tempdir_in(folder).expect("the system has room for a folder");
        let file = File::create(folder.path().join("base")).expect("the folder is ours");
        file.set_len(mib * MIB)
            .expect("the file system has sparse files");
        Rig { folder }
    }

    /// The file.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("base")
    }

    /// Where the volume is served.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("vdo0.sock")
    }

    /// Where the volume is served, for programs.
    pub fn uri(&self) -> String {
        crate::target::nbd_uri(&self.socket())
    }

    /// Another file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The calls that make the volume `vdo0` on the file.
    pub fn bdev_calls(&self, setup: &Setup) -> Vec<Value> {
        let mut calls = vec![json!({"method": "bdev_uring_create", "params":
            {"name": "base", "filename": self.file(), "block_size": BLOCK}})];
        let below = match setup.between {
            Between::Nothing => "base",
            Between::Errors => {
                calls.push(json!({"method": "bdev_error_create", "params": {"base_name": "base"}}));
                "EE_base"
            }
            Between::Delay(read, write) => {
                calls.push(json!({"method": "bdev_delay_create", "params": {"name": "slow", "base_bdev_name": "base",
                    "avg_read_latency": read, "p99_read_latency": read,
                    "avg_write_latency": write, "p99_write_latency": write}}));
                "slow"
            }
        };
        let mut create = setup.create.clone();
        create["name"] = json!("vdo0");
        create["base_bdev_name"] = json!(below);
        calls.push(json!({"method": "bdev_vdo_create", "params": create}));
        calls
    }

    /// How to start a target with the volume `vdo0` on the file, served over NBD.
    pub fn options(&self, setup: &Setup) -> Options {
        let serve = json!({"method": "nbd_start_disk", "params":
            {"bdev_name": "vdo0", "nbd_device": self.socket()}});
        let config = json!({"subsystems": [
            {"subsystem": "bdev", "config": self.bdev_calls(setup)},
            {"subsystem": "nbd", "config": [serve]}]});
        Options {
            config: Some(config),
            cpumask: setup.cpumask.to_owned(),
            ..Options::default()
        }
    }

    /// Starts a target.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(&self, setup: &Setup) -> Target {
        Target::start_with(self.options(setup))
    }

    /// Starts a target and kills it after a while, wherever it is then.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn kill_early(&self, setup: &Setup, after: std::time::Duration) {
        Target::kill_early(self.options(setup), after);
    }

    /// Starts a target that must not come up, and returns what it says; the file must be the same afterwards.
    ///
    /// # Panics
    /// When it comes up, or changes the file.
    pub fn refused(&self, setup: &Setup) -> String {
        let before = self.fingerprint();
        let said = Target::refuse(self.options(setup));
        assert_eq!(
            before,
            self.fingerprint(),
            "the base device was changed:\n{said}"
        );
        said
    }

    /// The volume in the file.
    ///
    /// # Panics
    /// When there is none.
    pub fn volume(&self) -> Volume {
        let file = File::open(self.file()).expect("the file is there");
        let blocks = file.metadata().expect("it can be asked").len() / BLOCK;
        let mut block = [0; BLOCK as usize];
        file.read_exact_at(&mut block, 0).expect("it is that long");
        let geometry = read_geometry(&block, blocks).expect("a volume is there");
        let at = geometry.super_block().get() * BLOCK;
        file.read_exact_at(&mut block, at).expect("it is that long");
        read_volume(geometry, &block, blocks).expect("a volume is there")
    }

    /// What the super block says of the volume.
    ///
    /// # Panics
    /// When there is no volume.
    pub fn state(&self) -> VolumeState {
        self.volume().super_block.volume.state
    }

    /// Has the super block say that the volume is in this state.
    ///
    /// # Panics
    /// When there is no volume.
    pub fn set_state(&self, state: VolumeState) {
        let mut volume = self.volume();
        volume.super_block.volume.state = state;
        let mut block = [0; BLOCK as usize];
        volume.super_block.encode(&mut block);
        let file = File::options().write(true).open(self.file());
        let at = volume.geometry.super_block().get() * BLOCK;
        let written = file.and_then(|file| file.write_all_at(&block, at));
        written.expect("the file can be written");
    }

    /// A connection to the volume.
    pub fn connect(&self) -> NbdProbe {
        NbdProbe::connect(&self.socket()).expect("the volume is served")
    }

    /// Checks the file with dm-vdo's `vdoaudit`, where it is installed.
    ///
    /// # Panics
    /// When it finds anything.
    pub fn audit(&self, test: &str) {
        if lacking(
            &format!("{test}: the check of the volume"),
            &["vdoaudit"],
            false,
        ) {
            return;
        }
        let output = self.vdoaudit();
        let said = text(&output);
        assert!(
            output.status.success() && said.contains("All pbn references matched"),
            "{said}"
        );
        assert!(
            !said.contains("WARNING") && !said.contains("mismatch"),
            "{said}"
        );
    }

    /// What `vdoaudit` says of the file.
    pub fn vdoaudit(&self) -> Output {
        let output = Command::new("vdoaudit")
            .arg("--verbose")
            .arg(self.file())
            .output();
        output.expect("vdoaudit runs")
    }

    /// A number that depends on every byte of the file and where it is.
    pub fn fingerprint(&self) -> u64 {
        use rustix::fs::{SeekFrom, seek};
        let mut hasher = DefaultHasher::new();
        let file = File::open(self.file()).expect("the file is there");
        hasher.write_u64(file.metadata().expect("it can be asked").len());
        let (zeroes, mut piece) = (vec![0; MIB as usize], vec![0; MIB as usize]);
        let mut at = 0;
        // Holes are as good as zeroes, but need no reading.
        while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
            at = seek(&file, SeekFrom::Hole(start)).expect("data ends in a hole");
            let mut next = start / MIB * MIB;
            while next < at {
                let length = file
                    .read_at(&mut piece, next)
                    .expect("the file can be read");
                if piece[..length] != zeroes[..length] {
                    hasher.write_u64(next);
                    hasher.write(&piece[..length]);
                }
                next += MIB;
            }
            // Further data in the last piece has been seen.
            at = at.max(next);
        }
        hasher.finish()
    }
}

/// A block of data that depends on every bit of `tag`, and is not zero.
pub fn block(tag: u64) -> Vec<u8> {
    let mut state = tag;
    let words = (0..BLOCK / 8).flat_map(|_| {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_le_bytes()
    });
    words.collect()
}

/// A block of data that depends on every bit of `tag`, and compresses by 0 to 99 percent.
pub fn compressible(tag: u64) -> Vec<u8> {
    let mut data = block(tag);
    let random = (1 + tag % 100) * BLOCK / 100;
    data[random as usize..].fill(tag as u8);
    data
}

/// Writes block `tag(lbn)` to each of the logical blocks, and waits until they are durable.
///
/// # Panics
/// When a write fails.
pub fn fill(client: &mut impl Probe, lbns: std::ops::Range<u64>, tag: impl Fn(u64) -> u64) {
    fill_with(client, lbns, |lbn| block(tag(lbn)));
}

/// Writes `data(lbn)` to each of the logical blocks, and waits until they are durable.
///
/// # Panics
/// When a write fails.
pub fn fill_with(
    client: &mut impl Probe,
    lbns: std::ops::Range<u64>,
    data: impl Fn(u64) -> Vec<u8>,
) {
    let answers = client.write_all(lbns.map(|lbn| (lbn * BLOCK, data(lbn))));
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(client.flush(), Ok(()));
}

/// Checks that each of the logical blocks holds block `tag(lbn)`.
///
/// # Panics
/// When one does not.
pub fn check(client: &mut impl Probe, lbns: std::ops::Range<u64>, tag: impl Fn(u64) -> u64) {
    check_with(client, lbns, |lbn| block(tag(lbn)));
}

/// Checks that each of the logical blocks holds `data(lbn)`.
///
/// # Panics
/// When one does not.
pub fn check_with(
    client: &mut impl Probe,
    lbns: std::ops::Range<u64>,
    wanted: impl Fn(u64) -> Vec<u8>,
) {
    let mut data = vec![0; 64 * BLOCK as usize];
    let mut lbn = lbns.start;
    while lbn < lbns.end {
        let count = (lbns.end - lbn).min(64);
        let bytes = &mut data[..(count * BLOCK) as usize];
        assert_eq!(
            client.read(lbn * BLOCK, bytes),
            Ok(()),
            "the read of block {lbn}"
        );
        for (found, at) in bytes.chunks(BLOCK as usize).zip(lbn..) {
            assert!(found == wanted(at), "block {at} holds something else");
        }
        lbn += count;
    }
}

/// The volume's statistics.
///
/// # Panics
/// When there are none.
pub fn stats(target: &Target) -> Value {
    let answer = target.rpc("bdev_vdo_get_stats", json!({"name": "vdo0"}));
    let mut answer = answer.expect("the volume is there");
    answer[0].take()
}

/// The state of the volume as `bdev_get_bdevs` shows it.
///
/// # Panics
/// When it does not.
pub fn info(target: &Target) -> Value {
    let answer = target.rpc("bdev_get_bdevs", json!({"name": "vdo0"}));
    let mut answer = answer.expect("the volume is there");
    answer[0]["driver_specific"]["vdo"].take()
}
