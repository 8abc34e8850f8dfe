//! The listening UNIX socket: owner-only from its first moment, with SPDK's lock file beside it.
//!
//! `PATH.lock` is locked for as long as the socket lives, so a socket file that is there while the lock
//! is free was left by a program that died, and is replaced. A file that is no socket is never touched.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Connections the kernel keeps waiting to be accepted, as in SPDK.
const BACKLOG: i32 = 512;

/// Why a path cannot be listened on.
#[derive(Debug, Error)]
pub enum SocketError {
    /// A UNIX socket's path has little room.
    #[error("socket path {path}: {length} bytes are too many, the system allows {most}")]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
        /// The longest there can be.
        most: usize,
    },
    /// Another program holds the lock.
    #[error("socket path {0} is in use by another program; choose another")]
    InUse(PathBuf),
    /// There is a file that is not a socket.
    #[error("{0} exists and is not a socket; remove it or choose another path")]
    NotASocket(PathBuf),
    /// The system refused something.
    #[error("{what} {path}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl SocketError {
    /// The positive errno that says the same.
    pub fn errno(&self) -> i32 {
        match self {
            SocketError::TooLong { .. } => libc::ENAMETOOLONG,
            SocketError::InUse(_) => libc::EBUSY,
            SocketError::NotASocket(_) => libc::EEXIST,
            SocketError::System { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

/// A non-blocking listening socket and its lock. Dropping it removes both files.
#[derive(Debug)]
pub struct LockedListener {
    listener: UnixListener,
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl LockedListener {
    /// Listens on `path`, for the owner only (mode 0600).
    pub fn bind(path: &Path) -> Result<LockedListener, SocketError> {
        let system = |what, path: &Path| {
            let path = path.to_path_buf();
            move |source| SocketError::System { what, path, source }
        };
        let address = address(path)?;
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(system("cannot open lock file", &lock_path))?;
        // SAFETY: flock takes a descriptor, which `lock` keeps open, and no pointer.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } < 0 {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::EWOULDBLOCK) => SocketError::InUse(path.to_path_buf()),
                _ => system("cannot lock", &lock_path)(error),
            });
        }
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                std::fs::remove_file(path)
                    .map_err(system("cannot remove the stale socket", path))?;
            }
            Ok(_) => return Err(SocketError::NotASocket(path.to_path_buf())),
            Err(_) => {}
        }
        let listener = listen(&address).map_err(system("cannot listen on", path))?;
        Ok(LockedListener {
            listener,
            path: path.to_path_buf(),
            lock_path,
            _lock: lock,
        })
    }

    /// The listening socket; it does not block.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsRawFd for LockedListener {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.listener.as_raw_fd()
    }
}

impl Drop for LockedListener {
    fn drop(&mut self) {
        // The lock is still held, so these are ours; that one is gone already is no harm.
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

fn address(path: &Path) -> Result<libc::sockaddr_un, SocketError> {
    // SAFETY: an address of all zeroes is a valid value of this plain C struct.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let bytes = path.as_os_str().as_bytes();
    let most = address.sun_path.len() - 1;
    if bytes.len() > most {
        return Err(SocketError::TooLong {
            path: path.to_path_buf(),
            length: bytes.len(),
            most,
        });
    }
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok(address)
}

fn listen(address: &libc::sockaddr_un) -> io::Result<UnixListener> {
    let check = |result: i32| {
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(result)
        }
    };
    // SAFETY: no pointers.
    let fd = check(unsafe {
        libc::socket(
            libc::AF_UNIX,
            libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            0,
        )
    })?;
    // SAFETY: the descriptor was just made and is owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // The mode an unbound socket has is the mode its file gets: nobody else can slip in before a chmod.
    // SAFETY: no pointers.
    check(unsafe { libc::fchmod(socket.as_raw_fd(), 0o600) })?;
    let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: `address` is a whole sockaddr_un and outlives the call.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(address).cast(),
            length,
        )
    })?;
    // SAFETY: no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    Ok(UnixListener::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_socket_is_for_its_owner_only_and_goes_with_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rpc.sock");
        let listener = LockedListener::bind(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        UnixStream::connect(&path).unwrap();
        assert!(matches!(
            LockedListener::bind(&path),
            Err(SocketError::InUse(_))
        ));
        UnixStream::connect(&path).expect("a refused second listener leaves the first alone");
        drop(listener);
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            0,
            "both files are gone"
        );
    }

    #[test]
    fn a_stale_socket_is_replaced_and_any_other_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rpc.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a socket file outlives its listener");
        drop(LockedListener::bind(&path).unwrap());
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(
            LockedListener::bind(&path),
            Err(SocketError::NotASocket(_))
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_path_that_cannot_be_a_socket_is_refused_with_its_length() {
        let error = LockedListener::bind(Path::new(&"x".repeat(108))).unwrap_err();
        assert!(error.to_string().contains("108 bytes"), "{error}");
    }
}
