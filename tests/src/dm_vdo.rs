//! What tests against dm-vdo's own tools share: an image in a file, that file on a loop device, and a
//! word on what is missing here. Nothing in it is used by more than one test at a time.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use vdo::format::identify::{Contents, identify, probe_extents};
use vdo::format::open::{read_geometry, read_volume};
use vdo::format::plan::{Content, FormatStep};
use vdo::format::{Block, Extent, FormatPlan, OpenError, Volume};
use vdo::types::{BLOCK_SIZE, Pbn};

use crate::tools::skipped;

/// Says whether a tool (or, if wanted, root) is missing here, and if so prints which, so that the test can
/// return: a test that was skipped is named.
pub fn lacking(test: &str, tools: &[&str], root: bool) -> bool {
    let found = |tool: &&&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        std::env::split_paths(&path)
            .chain(more)
            .any(|folder| folder.join(tool).is_file())
    };
    if let Some(missing) = tools.iter().find(|tool| !found(tool)) {
        skipped(test, format_args!("{missing} is not installed"));
        return true;
    }
    let is_root = || {
        let id = Command::new("id").arg("-u").output();
        id.is_ok_and(|id| id.stdout.trim_ascii() == b"0")
    };
    if root && !(is_root() && Path::new("/dev/loop-control").exists()) {
        skipped(test, "loop devices need root");
        return true;
    }
    false
}

/// A sparse file to format.
pub struct Image {
    /// Where the file is, and room beside it; removed with this.
    pub folder: TempDir,
    file: File,
    /// Whole blocks of the device it stands for.
    pub blocks: u64,
}

impl Image {
    /// A file of this size with nothing in it.
    pub fn new(bytes: u64) -> Image {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let file = options
            .open(folder.path().join("image"))
            .expect("a new file");
        file.set_len(bytes).expect("a sparse file of this size");
        Image {
            folder,
            file,
            blocks: bytes / BLOCK_SIZE as u64,
        }
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// One block of it.
    pub fn read(&self, pbn: Pbn) -> Block {
        let mut block = [0; BLOCK_SIZE];
        self.file
            .read_exact_at(&mut block, offset(pbn))
            .expect("a block of the image");
        block
    }

    /// Writes one block of it.
    pub fn write(&self, pbn: Pbn, block: &Block) {
        self.file
            .write_all_at(block, offset(pbn))
            .expect("a block of the image");
    }

    /// Carries out a plan.
    pub fn format(&self, plan: &FormatPlan) {
        for step in plan.steps() {
            match step {
                FormatStep::Flush => {}
                FormatStep::Write {
                    extent,
                    content: Content::Block(block),
                } => {
                    self.write(extent.start, &block);
                }
                FormatStep::Write {
                    extent,
                    content: Content::Zeroes,
                } => {
                    for pbn in extent.start.get()..extent.end().get() {
                        self.write(Pbn(pbn), &[0; BLOCK_SIZE]);
                    }
                }
            }
        }
    }

    /// Opens the volume on it, whatever its state.
    ///
    /// # Errors
    /// Why it is none.
    pub fn open(&self) -> Result<Volume, OpenError> {
        let geometry = read_geometry(&self.read(Pbn(0)), self.blocks)?;
        let super_block = self.read(geometry.super_block());
        read_volume(geometry, &super_block, self.blocks)
    }

    /// What its two ends tell.
    pub fn contents(&self) -> Contents {
        let (head, tail) = probe_extents(self.blocks);
        let bytes = |extent: Extent| {
            let mut bytes = vec![0; extent.blocks as usize * BLOCK_SIZE];
            self.file
                .read_exact_at(&mut bytes, offset(extent.start))
                .expect("an end of the image");
            bytes
        };
        identify(&bytes(head), &bytes(tail), self.blocks)
    }
}

fn offset(pbn: Pbn) -> u64 {
    pbn.get() * BLOCK_SIZE as u64
}

/// A loop device on an image, for as long as this lives.
pub struct Loop(pub String);

impl Loop {
    /// Attaches the image to a free loop device; its name is the field.
    pub fn new(image: &Image) -> Loop {
        Loop::on(&image.path())
    }

    /// Attaches a file to a free loop device.
    pub fn on(file: &Path) -> Loop {
        let attached = Command::new("losetup")
            .args(["--find", "--show", "--nooverlap"])
            .arg(file)
            .output()
            .expect("losetup runs");
        assert!(attached.status.success(), "losetup: {}", text(&attached));
        Loop(String::from_utf8_lossy(&attached.stdout).trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Command::new("losetup").args(["--detach", &self.0]).status();
        assert!(
            detached.is_ok_and(|status| status.success()),
            "{} stays attached",
            self.0
        );
    }
}

/// All that a program said.
pub fn text(output: &Output) -> String {
    let lossy = |bytes| String::from_utf8_lossy(bytes).into_owned();
    lossy(&output.stdout) + &lossy(&output.stderr)
}
