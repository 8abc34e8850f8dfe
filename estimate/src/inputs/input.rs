//! One file or device, and reading a piece of it.

use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::OFlags;

use crate::BLOCK;
use crate::complaints::{Complaints, Trouble};

/// What kind of thing is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file, through the system's cache.
    File,
    /// A block device, past the cache if it lets us.
    Device,
}

/// One file or device. Opened when it is first needed, closed when nobody holds it any more.
#[derive(Debug)]
pub struct Input {
    path: PathBuf,
    kind: Kind,
    bytes: u64,
    file: OnceLock<io::Result<File>>,
    /// Whether it was complained of.
    is_told: AtomicBool,
}

impl Input {
    /// One of `bytes` bytes at `path`, not open.
    pub fn new(path: &Path, kind: Kind, bytes: u64) -> Input {
        Input {
            path: path.to_owned(),
            kind,
            bytes,
            file: OnceLock::new(),
            is_told: AtomicBool::new(false),
        }
    }

    /// A block device, open.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn device(path: &Path) -> io::Result<Input> {
        let mut file = open(path, Kind::Device)?;
        let bytes = file.seek(SeekFrom::End(0))?;
        let input = Input::new(path, Kind::Device, bytes);
        // It was made just now, so nothing is in the way.
        let _ = input.file.set(Ok(file));
        Ok(input)
    }

    /// How long it was when it was found.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file, opened if it was not.
    ///
    /// # Errors
    /// When it cannot be opened, the same each time.
    pub(super) fn file(&self) -> io::Result<&File> {
        let opened = self.file.get_or_init(|| open(&self.path, self.kind));
        opened.as_ref().map_err(|error| match error.raw_os_error() {
            Some(number) => io::Error::from_raw_os_error(number),
            None => error.kind().into(),
        })
    }

    /// Complains of it, the first time.
    fn complain(&self, complaints: &Complaints, trouble: &Trouble) {
        if !self.is_told.swap(true, Ordering::Relaxed) {
            complaints.add(&self.path, trouble);
        }
    }
}

/// A device's reads go past the cache, which would only throw out what others need.
fn open(path: &Path, kind: Kind) -> io::Result<File> {
    let mut options = File::options();
    options.read(true);
    if kind == Kind::Device {
        let direct = options
            .clone()
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(path);
        if direct.is_ok() {
            return direct;
        }
    }
    options.open(path)
}

/// Some blocks of an input, side by side.
#[derive(Debug)]
pub struct Piece {
    /// Of what.
    pub input: Arc<Input>,
    /// The first block.
    pub first: u64,
    /// How many.
    pub blocks: usize,
}

impl Piece {
    /// Reads it into `room`, which is as long. Behind the end of the input it is zero. Returns how many blocks were read: if they are not
    /// all, there has been a complaint.
    pub fn read(&self, room: &mut [u8], complaints: &Complaints) -> usize {
        let offset = self.first * BLOCK;
        let wanted = (room.len() as u64).min(self.input.bytes - offset) as usize;
        let (got, trouble) = self.read_bytes(room, wanted);
        if let Some(trouble) = trouble {
            self.input.complain(complaints, &trouble);
        }
        room[got..].fill(0);
        got.div_ceil(BLOCK as usize)
    }

    /// Reads `wanted` bytes; how many there were, and why not more. All of `room` is read into, as a read past the cache has to be of whole sectors.
    fn read_bytes(&self, room: &mut [u8], wanted: usize) -> (usize, Option<Trouble>) {
        let file = match self.input.file() {
            Ok(file) => file,
            Err(error) => return (0, Some(error.into())),
        };
        let start = self.first * BLOCK;
        let mut got = 0;
        while got < wanted {
            let offset = start + got as u64;
            match file.read_at(&mut room[got..], offset) {
                Ok(0) => {
                    let bytes = self.input.bytes;
                    return (got, Some(Trouble::Shorter { offset, bytes }));
                }
                Ok(more) => got += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return (got, Some(Trouble::Reading { offset, error })),
            }
        }
        (wanted, None)
    }
}
