//! What there is to read, in an order that is always the same: the paths as given, folders in order of names.
//!
//! [`Inputs`] goes through paths and folders only as fast as batches are asked for, so that little of a large tree is in memory: the names in the
//! folders that it is in. What is remembered of the rest is what could be met again: folders, files with several names, and files that were
//! themselves given.
//!
//! A [`Batch`] is up to [`BATCH_BLOCKS`] blocks, of one file or of many. A file is opened by whoever reads its first piece; the
//! one who goes through the paths opens only devices, to know how large they are, and files with holes, to leave these out.

mod cutting;
mod input;

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use self::cutting::Cutting;
pub use self::input::{Input, Kind, Piece};
use crate::BLOCK;
use crate::complaints::{Complaints, Trouble};

/// Blocks of a batch at most, 1 MiB.
pub const BATCH_BLOCKS: usize = 256;

/// Bytes of a unit in which the system counts what files take.
const STAT_UNIT: u64 = 512;

/// Blocks to be read, and blocks that need not be.
#[derive(Debug, Default)]
pub struct Batch {
    /// Batches are numbered from 0 on, without gaps.
    pub number: u64,
    /// What to read: [`BATCH_BLOCKS`] blocks at most.
    pub pieces: Vec<Piece>,
    /// Blocks that are holes, and so zero.
    pub holes: u64,
}

impl Batch {
    fn blocks(&self) -> usize {
        self.pieces.iter().map(|piece| piece.blocks).sum()
    }
}

/// What was found so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Files, each counted once however many names it has.
    pub files: u64,
    /// Folders that were entered.
    pub folders: u64,
    /// Block devices.
    pub devices: u64,
    /// Bytes of files and devices, holes included.
    pub bytes: u64,
    /// Bytes that files take on their file system, and devices have.
    pub allocated_bytes: u64,
}

/// A folder that is being gone through.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    device: u64,
    /// What is left, the next one last.
    names: Vec<OsString>,
}

/// Everything to read. See the [module](self).
#[derive(Debug)]
pub struct Inputs {
    one_file_system: bool,
    /// Paths that were given and not looked at yet, the next one last.
    given: Vec<PathBuf>,
    /// Files among them, by device and inode: they may be met in a folder before.
    given_files: HashSet<(u64, u64)>,
    folders: Vec<Folder>,
    /// What may be met again and is not to be read again.
    seen: HashSet<(u64, u64)>,
    cutting: Option<Cutting>,
    found: Found,
    next_batch: u64,
}

impl Inputs {
    /// All that is in `paths`. With `one_file_system`, folders that other file systems are mounted on are not entered.
    pub fn new(paths: &[PathBuf], one_file_system: bool) -> Inputs {
        let about = paths.iter().flat_map(|path| path.metadata());
        let files = about.filter(Metadata::is_file);
        Inputs {
            one_file_system,
            given: paths.iter().rev().cloned().collect(),
            given_files: files.map(|about| (about.dev(), about.ino())).collect(),
            folders: Vec::new(),
            seen: HashSet::new(),
            cutting: None,
            found: Found::default(),
            next_batch: 0,
        }
    }

    /// What was found so far.
    pub fn found(&self) -> Found {
        self.found
    }

    /// The next blocks; `None` when there are no more.
    pub fn next_batch(&mut self, complaints: &Complaints) -> Option<Batch> {
        let mut batch = Batch::default();
        while batch.blocks() < BATCH_BLOCKS {
            let Some(cutting) = &mut self.cutting else {
                if !self.find_next(complaints) {
                    break;
                }
                continue;
            };
            let room = BATCH_BLOCKS - batch.blocks();
            match cutting.next_piece(room, &mut batch.holes) {
                Some(piece) => batch.pieces.push(piece),
                None => self.cutting = None,
            }
        }
        if batch.pieces.is_empty() && batch.holes == 0 {
            return None;
        }
        batch.number = self.next_batch;
        self.next_batch += 1;
        Some(batch)
    }

    /// Looks at the next path; says whether there was one.
    fn find_next(&mut self, complaints: &Complaints) -> bool {
        let looked_at = if let Some(folder) = self.folders.last_mut() {
            let Some(name) = folder.names.pop() else {
                self.folders.pop();
                return true;
            };
            let (path, device) = (folder.path.join(name), folder.device);
            let about = path.symlink_metadata();
            (path, about, Some(device))
        } else if let Some(path) = self.given.pop() {
            let about = path.metadata();
            (path, about, None)
        } else {
            return false;
        };
        let (path, about, within) = looked_at;
        let result = about
            .map_err(Trouble::System)
            .and_then(|about| self.look_at(&path, &about, within));
        if let Err(trouble) = result {
            complaints.add(&path, &trouble);
        }
        true
    }

    /// Takes in what is at a path: one that was given, or in a folder on the device `within`.
    fn look_at(
        &mut self,
        path: &Path,
        about: &Metadata,
        within: Option<u64>,
    ) -> Result<(), Trouble> {
        let kind = about.file_type();
        let identity = (about.dev(), about.ino());
        if kind.is_dir() {
            let elsewhere = within.is_some_and(|device| device != about.dev());
            let is_entered = !elsewhere || (!self.one_file_system && has_a_size(path)?);
            if is_entered && self.seen.insert(identity) {
                self.enter(path, about.dev())?;
            }
            return Ok(());
        }
        if kind.is_file() {
            let may_come_again = about.nlink() > 1 || self.given_files.contains(&identity);
            if may_come_again && !self.seen.insert(identity) {
                return Ok(());
            }
            let input = Arc::new(Input::new(path, Kind::File, about.len()));
            let allocated = about.blocks() * STAT_UNIT;
            let has_holes = allocated < about.len();
            self.cutting = Some(Cutting::new(&input, has_holes)?);
            self.found.files += 1;
            self.found.bytes += about.len();
            self.found.allocated_bytes += allocated;
            return Ok(());
        }
        if within.is_some() {
            // Symbolic links, pipes, devices: a copy of the folder has them, and they take no blocks.
            return Ok(());
        }
        if !kind.is_block_device() {
            return Err(Trouble::OtherKind);
        }
        if self.seen.insert((u64::MAX, about.rdev())) {
            let input = Arc::new(Input::device(path)?);
            self.found.devices += 1;
            self.found.bytes += input.bytes();
            self.found.allocated_bytes += input.bytes();
            self.cutting = Some(Cutting::new(&input, false)?);
        }
        Ok(())
    }

    fn enter(&mut self, path: &Path, device: u64) -> Result<(), Trouble> {
        let entries = path.read_dir()?;
        let names: Result<Vec<_>, _> = entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect();
        let mut names = names?;
        names.sort_unstable_by(|one, other| other.cmp(one));
        self.found.folders += 1;
        self.folders.push(Folder {
            path: path.to_owned(),
            device,
            names,
        });
        Ok(())
    }
}

/// Whether a file system is one that stores something. Those that only show what the kernel knows (proc, sysfs) say they have no
/// blocks, and some of their files never end.
fn has_a_size(mounted_on: &Path) -> Result<bool, Trouble> {
    let about = rustix::fs::statvfs(mounted_on).map_err(std::io::Error::from)?;
    Ok(about.f_blocks > 0)
}

/// Blocks of so many bytes.
fn blocks_of(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK)
}

#[cfg(test)]
mod tests;
