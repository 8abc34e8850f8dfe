//! Opening a file or block device as a disk: exclusively, directly if possible, and knowing its shape.
//!
//! Two targets that write one file would destroy it, so whoever opens it holds an exclusive `flock`
//! (a shared one to read only) for as long as it is open; a block device is besides opened with
//! `O_EXCL`, which keeps out mounts and other exclusive users.
//!
//! The lock is given back in so many words: an io_uring may hold its file for a while after it was closed.
//! That of a program that was killed does so too, so a file in use is tried again for a moment.
//!
//! Direct I/O goes past the page cache, and asks for aligned memory and offsets. Where the file system
//! has none, or wants more alignment than the block size gives, the file is opened without it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use super::super::{BdevError, check_block_size};

/// How long the file of a program that has just ended may stay in use.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is tried meanwhile.
const LOOK: Duration = Duration::from_millis(10);

/// An open, locked file. Dropping it lets go of the lock.
#[derive(Debug)]
pub(super) struct OpenFile {
    file: File,
    bytes: u64,
    block_size: u32,
    direct: Option<DirectAlignment>,
}

/// What direct I/O on a file asks for, in bytes; powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DirectAlignment {
    memory: u32,
    offset: u32,
}

fn failed<'a>(what: &'a str, path: &'a str) -> impl FnOnce(io::Error) -> BdevError + 'a {
    move |source| BdevError::System {
        what: format!("{what} {path:?}"),
        source,
    }
}

impl OpenFile {
    /// Opens `path`, for reading only if `readonly`. `block_size` is the one asked for, if any.
    pub(super) fn open(
        path: &str,
        readonly: bool,
        block_size: Option<u32>,
    ) -> Result<OpenFile, BdevError> {
        if let Some(block_size) = block_size {
            check_block_size(block_size)?;
        }
        let metadata = std::fs::metadata(path).map_err(failed("opening", path))?;
        let is_device = metadata.file_type().is_block_device();
        if !is_device && !metadata.is_file() {
            return Err(BdevError::Invalid(format!(
                "{path:?} is neither a file nor a block device"
            )));
        }
        let exclusive = if is_device && !readonly {
            libc::O_EXCL
        } else {
            0
        };
        let open = |direct: i32| {
            OpenOptions::new()
                .read(true)
                .write(!readonly)
                .custom_flags(direct | exclusive)
                .open(path)
        };
        let (mut file, mut has_direct) = patiently(|| {
            let opened = match open(libc::O_DIRECT) {
                Ok(file) => Ok((file, true)),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    open(0).map(|file| (file, false))
                }
                Err(error) => Err(error),
            };
            opened.map_err(|error| match error.raw_os_error() {
                Some(libc::EBUSY) => in_use(path),
                _ => failed("opening", path)(error),
            })
        })?;
        lock(&file, path, readonly)?;
        // The path may name something else by now.
        let opened = file.metadata().map_err(failed("examining", path))?;
        if opened.file_type() != metadata.file_type() {
            return Err(BdevError::Invalid(format!(
                "{path:?} changed while it was being opened"
            )));
        }
        let (bytes, natural) = if is_device {
            device_shape(&file).map_err(failed("examining the block device", path))?
        } else {
            (
                opened.len(),
                natural_block_size(opened.len(), opened.blksize()),
            )
        };
        let block_size = block_size.unwrap_or(natural);
        check_block_size(block_size)?;
        if is_device && block_size < natural {
            return Err(BdevError::Invalid(format!(
                "block_size is {block_size}, but the blocks of {path:?} have {natural} bytes"
            )));
        }
        let mut direct = None;
        if has_direct {
            direct = direct_alignment(&file, if is_device { natural } else { 512 });
            has_direct =
                direct.is_some_and(|direct| direct.offset <= block_size && direct.memory <= 4096);
        }
        if !has_direct && direct.take().is_some() {
            // The lock belongs to the open file, so let go of the first before locking the second.
            drop(file);
            file = open(0).map_err(failed("opening", path))?;
            lock(&file, path, readonly)?;
        }
        Ok(OpenFile {
            file,
            bytes,
            block_size,
            direct,
        })
    }

    /// How large it was when it was opened.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How large it is now.
    pub(super) fn bytes_now(&self) -> io::Result<u64> {
        let metadata = self.file.metadata()?;
        match metadata.file_type().is_block_device() {
            true => device_shape(&self.file).map(|(bytes, _)| bytes),
            false => Ok(metadata.len()),
        }
    }

    pub(super) fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Whether I/O goes past the page cache.
    pub(super) fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Whether memory at this address can be given to the kernel as it is.
    #[inline]
    pub(super) fn takes_memory_at(&self, address: usize) -> bool {
        self.direct
            .is_none_or(|direct| address & (direct.memory as usize - 1) == 0)
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // All I/O has ended: nothing is lost by letting others in before the file is closed for good.
        if let Err(error) = self.file.unlock() {
            log::warn!("a file's lock is let go of only when it closes: {error}");
        }
    }
}

/// Tries again what finds a file in use, until the patience is at its end.
fn patiently<T>(mut attempt: impl FnMut() -> Result<T, BdevError>) -> Result<T, BdevError> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Err(BdevError::FileInUse { .. }) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(LOOK);
            }
            result => return result,
        }
    }
}

fn in_use(path: &str) -> BdevError {
    BdevError::FileInUse {
        path: path.to_owned(),
    }
}

fn lock(file: &File, path: &str, shared: bool) -> Result<(), BdevError> {
    patiently(|| {
        let locked = if shared {
            file.try_lock_shared()
        } else {
            file.try_lock()
        };
        locked.map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => in_use(path),
            std::fs::TryLockError::Error(error) => failed("locking", path)(error),
        })
    })
}

/// The block size of a regular file: what its file system likes, if the file is whole blocks of that.
fn natural_block_size(bytes: u64, preferred: u64) -> u32 {
    if preferred >= 4096 && bytes.is_multiple_of(4096) {
        4096
    } else {
        512
    }
}

/// The ioctl that tells a block device's size in bytes, `_IOR(0x12, 114, size_t)` of linux/fs.h, on
/// machines of 64 bits that number ioctls as most do.
const BLKGETSIZE64: u32 = 0x8008_1272;

/// A block device's size and logical block size in bytes.
fn device_shape(file: &File) -> io::Result<(u64, u32)> {
    let (mut bytes, mut sector) = (0u64, 0i32);
    // SAFETY: BLKGETSIZE64 writes a u64 and BLKSSZGET an int; both live through the calls.
    let failed = unsafe {
        libc::ioctl(file.as_raw_fd(), BLKGETSIZE64 as _, &raw mut bytes) < 0
            || libc::ioctl(file.as_raw_fd(), libc::BLKSSZGET as _, &raw mut sector) < 0
    };
    if failed {
        return Err(io::Error::last_os_error());
    }
    Ok((bytes, u32::try_from(sector).unwrap_or(0)))
}

/// What direct I/O asks for: from the kernel if it says so, else `guess` for both.
fn direct_alignment(file: &File, guess: u32) -> Option<DirectAlignment> {
    // SAFETY: statx is plain data, for which zeroes are a value.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    let flags = libc::AT_EMPTY_PATH;
    // SAFETY: the path is an empty C string and `stat` lives through the call.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            flags,
            libc::STATX_DIOALIGN,
            &mut stat,
        )
    };
    if result < 0 || stat.stx_mask & libc::STATX_DIOALIGN == 0 {
        return Some(DirectAlignment {
            memory: guess.max(512),
            offset: guess,
        });
    }
    if stat.stx_dio_offset_align == 0 || !stat.stx_dio_mem_align.is_power_of_two() {
        // Zero says that the file has no direct I/O, whatever it said when it was opened.
        return None;
    }
    Some(DirectAlignment {
        memory: stat.stx_dio_mem_align,
        offset: stat.stx_dio_offset_align,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_4096_byte_blocks_if_it_is_whole_ones() {
        assert_eq!(natural_block_size(1 << 20, 4096), 4096);
        assert_eq!(natural_block_size((1 << 20) + 512, 4096), 512);
        assert_eq!(natural_block_size(1 << 20, 512), 512);
    }
}
