//! A real Linux kernel for tests: one of Debian's, in an emulated machine of its own, doing what a test tells it.
//!
//! ```no_run
//! use std::time::Duration;
//! use vdo_tests::guest::{Guest, Kit, Machine, Recipe};
//! use vdo_tests::tools::skipped;
//!
//! let kit = match Kit::gather(&Recipe::nvme_host()) {
//!     Ok(kit) => kit,
//!     Err(why) => return skipped("the test's name", why),
//! };
//! let mut guest = Guest::boot(&kit, Machine::default()).unwrap();
//! let devices = guest.tell("nvme list");
//! let answer = guest.run("test -e /dev/nvme0", Duration::from_secs(10)).unwrap();
//! assert_eq!(answer.status, 1, "{}", answer.output);
//! guest.power_off().unwrap();
//! ```
//!
//! A [`Kit`] is what it boots from: a kernel and a first file system, gathered from this machine and from
//! Debian, never from this repository. A [`Guest`] is born by [`Guest::boot`], runs one shell script after another
//! (so that a test can look at the other side in between), and is gone with [`Guest::power_off`], or killed when it
//! is dropped. Every step has a time limit, and the error says what the console said last. What the guest prints to
//! its console is in [`Guest::console`]; with `VDO_GUEST_CONSOLE=1` it is also copied to standard error as it comes.
//! An [`NvmeHost`] is a guest that uses what is served over NVMe/TCP, a [`PcieMachine`] one that serves volumes on NVMe drives.
//!
//! The guest has no disk but those it is given (`/dev/vda` and so on, in their order), and finds
//! the loopback interface of this machine at 10.0.2.2. It is emulated, not virtualised, unless
//! `VDO_GUEST_ACCEL=kvm` says otherwise: a `/dev/kvm` that is there need not work, and an emulated
//! machine is the same everywhere. The processor it shows is as capable as can be emulated.
//!
//! Scripts go to the guest and answers come back through a virtual serial port that is the emulator's standard
//! input and output; `init.sh` describes the few words spoken there.

mod cpio;
mod kit;
mod modules;
mod monitor;
mod nvme_host;
mod pcie;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use monitor::Monitor;

pub use kit::{Kit, Lacking, Recipe};
pub use nvme_host::NvmeHost;
pub use pcie::{Drive, PcieMachine};

/// How this machine is called in a guest.
pub const HOST: &str = "10.0.2.2";

/// How long a guest may take to boot: many times what it takes when it has a core.
const BOOT_PATIENCE: Duration = Duration::from_secs(600);

/// How long a guest may take to do what it is told, if nothing else is said.
const TELL_PATIENCE: Duration = Duration::from_secs(600);

/// How long a guest may take to switch itself off.
const OFF_PATIENCE: Duration = Duration::from_secs(30);

/// What the emulator's trace says of each flush of an NVMe drive.
const FLUSH_TRACE: &str = "pci_nvme_flush_ns";

/// How much of the console an error shows.
const LAST_LINES: usize = 60;

/// How often a wait looks at the console.
const LOOK: Duration = Duration::from_millis(50);

/// The machine a guest is.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Memory, MiB.
    pub memory: u32,
    /// Processors. An emulator gives each a thread.
    pub processors: u32,
    /// Disks, in their order.
    pub disks: Vec<Disk>,
    /// Programs of this workspace, in `/bin` there, and the libraries they need.
    pub programs: Vec<PathBuf>,
    /// NVMe drives, in their order, behind an IOMMU.
    pub drives: Vec<Drive>,
    /// A port of this machine that leads to one of the guest, as the emulator's `hostfwd` has it.
    pub forwarded: Option<String>,
    /// More for the kernel's command line.
    pub kernel_arguments: String,
}

impl Default for Machine {
    fn default() -> Machine {
        Machine {
            memory: 512,
            processors: 1,
            disks: Vec::new(),
            programs: Vec::new(),
            drives: Vec::new(),
            forwarded: None,
            kernel_arguments: String::new(),
        }
    }
}

impl Machine {
    /// One that the kernel's dm-vdo has enough memory in, with these images as disks, whose sectors are blocks of a volume.
    pub fn for_dm_vdo(images: impl IntoIterator<Item = PathBuf>) -> Machine {
        let disk = |image| Disk {
            image,
            sector: 4096,
        };
        Machine {
            memory: 1024,
            disks: images.into_iter().map(disk).collect(),
            ..Machine::default()
        }
    }
}

/// A disk of a guest.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The raw image.
    pub image: PathBuf,
    /// Bytes in a sector: 512 or 4096.
    pub sector: u32,
}

/// What a script did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its exit status.
    pub status: i32,
    /// What it wrote to its standard output and its standard error.
    pub output: String,
}

/// Why a guest did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The emulator cannot be started.
    #[error("{qemu} cannot be started: {0}", qemu = kit::QEMU)]
    Start(std::io::Error),
    /// A program it is to have is not whole here.
    #[error("the guest cannot have its programs: {0}")]
    Programs(Lacking),
    /// It takes too long.
    #[error(
        "the guest is still busy with \"{what}\" after {limit:?}; its console ends:\n{console}"
    )]
    Hung {
        /// What it was doing: the first line of a script.
        what: String,
        /// How long it had.
        limit: Duration,
        /// The last lines of its console.
        console: String,
    },
    /// The emulator ended: the guest panicked, or the emulator could not make the machine.
    #[error("the guest ended during \"{what}\"; the last things said were:\n{console}")]
    Ended {
        /// What it was doing: the first line of a script.
        what: String,
        /// The last lines of the emulator and the console.
        console: String,
    },
    /// It says what it should not say.
    #[error("the guest answered \"{what}\" with \"{answer}\"")]
    Babble {
        /// What it was doing: the first line of a script.
        what: String,
        /// What it said.
        answer: String,
    },
}

/// A running guest.
#[derive(Debug)]
pub struct Guest {
    folder: TempDir,
    emulator: Child,
    requests: ChildStdin,
    pieces: Receiver<Vec<u8>>,
    received: Vec<u8>,
    /// What of the console was copied, bytes; `None` if it is not wanted.
    copied: Option<usize>,
}

impl Guest {
    /// Boots a guest and waits until it takes orders.
    ///
    /// # Errors
    /// Why it does not come up.
    ///
    /// # Panics
    /// When there is no room for its temporary files.
    pub fn boot(kit: &Kit, machine: Machine) -> Result<Guest, GuestError> {
        let folder = tempfile::tempdir().expect("the system has room for a folder");
        let complaints =
            File::create(folder.path().join("complaints")).expect("the folder is ours");
        let initramfs = kit.initramfs_with(&machine.programs, folder.path());
        let initramfs = initramfs.map_err(GuestError::Programs)?;
        let mut emulator = command(kit, &initramfs, &machine, folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints)
            .spawn()
            .map_err(GuestError::Start)?;
        let requests = emulator.stdin.take().expect("it was asked for");
        let pieces = listen(emulator.stdout.take().expect("it was asked for"));
        let mut guest = Guest {
            folder,
            emulator,
            requests,
            pieces,
            received: Vec::new(),
            copied: std::env::var_os("VDO_GUEST_CONSOLE").map(|_| 0),
        };
        let said = guest.receive_until("boot", b"ready\n", BOOT_PATIENCE)?;
        if said.is_empty() {
            Ok(guest)
        } else {
            Err(GuestError::Babble {
                what: "boot".to_owned(),
                answer: String::from_utf8_lossy(&said).into_owned(),
            })
        }
    }

    /// Runs a shell script and waits for its end. A job it leaves in the background must not hold its output.
    ///
    /// # Errors
    /// The guest hangs or ended. After that it can only be dropped.
    pub fn run(&mut self, script: &str, limit: Duration) -> Result<Answer, GuestError> {
        let what = script
            .trim()
            .trim_start_matches("set -e")
            .trim()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let request = format!("{nonce} {}\n{script}", script.len());
        self.send(&what, request.as_bytes())?;
        let output = self.receive_until(&what, format!("\n{nonce} ").as_bytes(), limit)?;
        let status = self.receive_until(&what, b"\n", limit)?;
        let status = String::from_utf8_lossy(&status).into_owned();
        let Ok(status) = status.parse() else {
            return Err(GuestError::Babble {
                what,
                answer: status,
            });
        };
        Ok(Answer {
            status,
            output: String::from_utf8_lossy(&output).into_owned(),
        })
    }

    /// Runs a shell script that has to end well, every command of it, within a few minutes; what it wrote.
    ///
    /// # Panics
    /// When it fails or hangs; what it wrote, or the end of the console, is in the message.
    pub fn tell(&mut self, script: &str) -> String {
        let careful = format!("set -e\n{script}");
        let answer = match self.run(&careful, TELL_PATIENCE) {
            Ok(answer) => answer,
            Err(error) => panic!("{script}\n{error}"),
        };
        let Answer { status, output } = answer;
        assert_eq!(
            status, 0,
            "the guest was told:\n{script}\nand said:\n{output}"
        );
        output
    }

    /// Switches the guest off and waits for that.
    ///
    /// # Errors
    /// It does not end.
    pub fn power_off(mut self) -> Result<(), GuestError> {
        let what = "power off";
        self.send(what, b"now off\n")?;
        match self.receive_until(what, b"more\n", OFF_PATIENCE) {
            Err(GuestError::Ended { .. }) => Ok(()),
            Err(other) => Err(other),
            Ok(answer) => Err(GuestError::Babble {
                what: what.to_owned(),
                answer: String::from_utf8_lossy(&answer).into_owned(),
            }),
        }
    }

    /// Changes the machine by a command of the emulator's monitor; its answer.
    ///
    /// # Panics
    /// When the emulator refuses.
    fn monitor(&mut self, command: &str, arguments: serde_json::Value) -> serde_json::Value {
        let answer = Monitor::connect(&self.folder.path().join("monitor"))
            .and_then(|mut monitor| monitor.call(command, arguments));
        answer.unwrap_or_else(|error| panic!("{error}"))
    }

    /// All that the guest has said on its console.
    pub fn console(&self) -> String {
        self.file("console")
    }

    fn file(&self, name: &str) -> String {
        let bytes = std::fs::read(self.folder.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    fn send(&mut self, what: &str, request: &[u8]) -> Result<(), GuestError> {
        let sent = self.requests.write_all(request);
        sent.and_then(|()| self.requests.flush())
            .map_err(|_| self.ended(what))
    }

    /// What comes before a mark, which is taken too.
    fn receive_until(
        &mut self,
        what: &str,
        mark: &[u8],
        limit: Duration,
    ) -> Result<Vec<u8>, GuestError> {
        let begun = Instant::now();
        let mut searched = 0;
        loop {
            let found = self.received[searched..]
                .windows(mark.len())
                .position(|window| window == mark);
            if let Some(place) = found {
                let mut taken: Vec<u8> = self
                    .received
                    .drain(..searched + place + mark.len())
                    .collect();
                taken.truncate(searched + place);
                self.copy_console();
                return Ok(taken);
            }
            searched = self.received.len().saturating_sub(mark.len() - 1);
            match self.pieces.recv_timeout(LOOK) {
                Ok(piece) => self.received.extend_from_slice(&piece),
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended(what)),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.copy_console();
            if begun.elapsed() > limit {
                return Err(GuestError::Hung {
                    what: what.to_owned(),
                    limit,
                    console: last_lines(&self.console()),
                });
            }
        }
    }

    fn ended(&mut self, what: &str) -> GuestError {
        self.copy_console();
        let all = self.console() + &self.file("complaints");
        GuestError::Ended {
            what: what.to_owned(),
            console: last_lines(&all),
        }
    }

    /// Copies what is new on the console to standard error, if that is wanted.
    fn copy_console(&mut self) {
        if let Some(copied) = self.copied {
            let console = self.console();
            eprint!("{}", console.get(copied..).unwrap_or_default());
            self.copied = Some(console.len());
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is waited for.
        let _ = self.emulator.kill();
        let _ = self.emulator.wait();
    }
}

/// The emulator's command line.
fn command(kit: &Kit, initramfs: &Path, machine: &Machine, folder: &Path) -> Command {
    let accelerator = std::env::var("VDO_GUEST_ACCEL").unwrap_or_else(|_| "tcg".to_owned());
    let mut command = Command::new(kit::QEMU);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot"]);
    command.args(["-display", "none", "-machine", "q35"]);
    command.args(["-accel", &accelerator, "-cpu", "max"]);
    command.args(["-smp", &machine.processors.to_string()]);
    command.args(["-m", &machine.memory.to_string()]);
    command.arg("-kernel").arg(&kit.kernel);
    command.arg("-initrd").arg(initramfs);
    // A panic ends the emulator. Mitigations cost time and guard nothing here.
    command.arg("-append");
    command.arg(format!(
        "console=ttyS0 panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check {}",
        machine.kernel_arguments
    ));
    if !machine.drives.is_empty() {
        command.args(["-device", "intel-iommu,intremap=on"]);
        command.args(["-trace", FLUSH_TRACE, "-D"]);
        command.arg(folder.join("trace"));
    }
    command.arg("-serial");
    command.arg(format!("file:{}", folder.join("console").display()));
    command.arg("-qmp");
    command.arg(format!(
        "unix:{},server=on,wait=off",
        folder.join("monitor").display()
    ));
    command.args([
        "-chardev",
        "stdio,id=channel,signal=off",
        "-device",
        "virtio-serial-pci",
        "-device",
        "virtserialport,chardev=channel",
    ]);
    let forwarded = machine.forwarded.iter();
    let forwarded: String = forwarded.map(|from| format!(",hostfwd={from}")).collect();
    command.args([
        "-netdev",
        &format!("user,id=network{forwarded}"),
        "-device",
        "virtio-net-pci,netdev=network,romfile=",
    ]);
    for (number, disk) in machine.disks.iter().enumerate() {
        let (image, sector) = (disk.image.display(), disk.sector);
        command.arg("-drive");
        command.arg(format!("id=disk{number},if=none,format=raw,file={image}"));
        command.arg("-device");
        command.arg(format!(
            "virtio-blk-pci,drive=disk{number},logical_block_size={sector},physical_block_size={sector}"
        ));
    }
    for (number, drive) in machine.drives.iter().enumerate() {
        command.args(drive.options(number));
    }
    command
}

/// What comes from the emulator, piece by piece, until it ends.
fn listen(mut from: ChildStdout) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        loop {
            match from.read(&mut buffer) {
                Ok(count) if count > 0 => {
                    if sender.send(buffer[..count].to_vec()).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    });
    receiver
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}
