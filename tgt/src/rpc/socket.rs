//! The listening UNIX socket: for those it is for, and nobody else, from its first moment ([`super::access`]), with SPDK's lock file beside it, and never
//! in the place of anybody else's.
//!
//! 1. `PATH.lock` is locked, for as long as the socket lives. It settles who is first among programs that do
//!    the same: two of ours, or one of ours and an `spdk_tgt`.
//! 2. What is found at the path is looked at. Programs that know no lock (`qemu-nbd`, say) are asked by
//!    knocking: only a socket that the kernel says nobody listens on was left by a program that died, and is
//!    removed. A file that is no socket is never touched.
//! 3. It is bound, given to whom it is to belong, and listened on. Dropped, it removes both files, if they are still its own.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::access::SocketAccess;

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
    /// Somebody listens there, or holds the lock.
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
    /// Which file the socket's is, to know it again.
    file: Option<FileId>,
    /// Let go of last.
    _lock: LockFile,
}

/// Device and inode of a file.
type FileId = (u64, u64);

fn file_id(path: &Path) -> Option<FileId> {
    let found = std::fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

fn system(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_path_buf();
    move |source| SocketError::System { what, path, source }
}

impl LockedListener {
    /// Listens on `path`, for those who have `access`.
    ///
    /// # Errors
    /// When somebody listens there already, there is a file that is no socket, or the system refuses.
    pub fn bind(path: &Path, access: SocketAccess) -> Result<LockedListener, SocketError> {
        let address = address(path)?;
        let lock = LockFile::take(path)?;
        remove_if_stale(path, &address)?;
        let socket = bound(&address).map_err(|error| match error.raw_os_error() {
            // Somebody without a lock was quicker.
            Some(libc::EADDRINUSE) => SocketError::InUse(path.to_path_buf()),
            _ => system("cannot make socket", path)(error),
        })?;
        // From here on the file is removed whatever comes.
        let listener = LockedListener {
            listener: UnixListener::from(socket),
            path: path.to_path_buf(),
            file: file_id(path),
            _lock: lock,
        };
        let given = access.apply(path);
        given.map_err(system("cannot give owner and mode to socket", path))?;
        // SAFETY: no pointers.
        let listening = check(unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) });
        listening.map_err(system("cannot listen on", path))?;
        Ok(listener)
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
        // Others are less careful than we are: the path may be somebody else's by now.
        if self.file.is_some() && file_id(&self.path) == self.file {
            // That it is gone already is no harm.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// `PATH.lock`, locked. Dropping it removes the file, while it is still locked.
#[derive(Debug)]
struct LockFile {
    path: PathBuf,
    file: File,
}

impl LockFile {
    fn take(socket: &Path) -> Result<LockFile, SocketError> {
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                // A pipe of that name must not make the open wait, nor a link lead it elsewhere.
                .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
                .open(&path)
                .map_err(system("cannot open lock file", &path))?;
            // SAFETY: flock takes a descriptor, which `file` keeps open, and no pointer.
            if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } < 0 {
                let error = io::Error::last_os_error();
                return Err(match error.raw_os_error() {
                    Some(libc::EWOULDBLOCK) => SocketError::InUse(socket.to_path_buf()),
                    _ => system("cannot lock", &path)(error),
                });
            }
            let path = path.clone();
            let locked = LockFile { path, file };
            if locked.is_in_place() {
                return Ok(locked);
            }
            // Its last owner removed it between the open and the lock: what is locked nobody else would find.
        }
    }

    /// Whether the file that is locked is the one at the path.
    fn is_in_place(&self) -> bool {
        let own = self.file.metadata().map(|own| (own.dev(), own.ino()));
        own.is_ok_and(|own| file_id(&self.path) == Some(own))
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Somebody's file may only happen to have the name of a lock.
        let made_for_it =
            (self.file.metadata()).is_ok_and(|file| file.file_type().is_file() && file.len() == 0);
        if made_for_it && self.is_in_place() {
            // That it is gone already is no harm.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket at `path` if nobody listens there.
fn remove_if_stale(path: &Path, address: &libc::sockaddr_un) -> Result<(), SocketError> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Err(SocketError::NotASocket(path.to_path_buf())),
        Err(_) => return Ok(()),
    }
    let knocked = match knock(address) {
        // One that waits to be let in (EAGAIN), and one of another kind (EPROTOTYPE), is heard all the same.
        Ok(()) => Some(0),
        Err(error) => error.raw_os_error(),
    };
    match knocked {
        Some(libc::ECONNREFUSED) => match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(system("cannot remove the stale socket", path)(error))
            }
            _ => Ok(()),
        },
        Some(libc::ENOENT) => Ok(()),
        _ => Err(SocketError::InUse(path.to_path_buf())),
    }
}

/// Connects, and hangs up.
fn knock(address: &libc::sockaddr_un) -> io::Result<()> {
    let socket = unbound()?;
    // SAFETY: `address` is a whole sockaddr_un and outlives the call.
    let result = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            std::ptr::from_ref(address).cast(),
            size_of::<libc::sockaddr_un>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
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

fn check(result: i32) -> io::Result<i32> {
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A socket that does not block.
fn unbound() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = check(unsafe {
        libc::socket(
            libc::AF_UNIX,
            libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            0,
        )
    })?;
    // SAFETY: the descriptor was just made and is owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A socket with a file for its owner only, on which nobody listens yet.
fn bound(address: &libc::sockaddr_un) -> io::Result<OwnedFd> {
    let socket = unbound()?;
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
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    fn bind(path: &Path) -> Result<LockedListener, SocketError> {
        LockedListener::bind(path, SocketAccess::default())
    }

    #[test]
    fn the_socket_is_for_its_owner_only_and_goes_with_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rpc.sock");
        let listener = bind(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        UnixStream::connect(&path).unwrap();
        assert!(matches!(bind(&path), Err(SocketError::InUse(_))));
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
        drop(bind(&path).unwrap());
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_socket_that_somebody_else_listens_on_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.sock");
        let in_use = || matches!(bind(&path), Err(SocketError::InUse(_)));
        // One without a lock file, and then one that lets nobody in, so that more than its backlog wait.
        let other = UnixListener::bind(&path).unwrap();
        assert!(in_use());
        // SAFETY: no pointers; listening again only changes the backlog.
        assert_eq!(unsafe { libc::listen(other.as_raw_fd(), 0) }, 0);
        let address = address(&path).unwrap();
        let full =
            |_| knock(&address).is_err_and(|error| error.raw_os_error() == Some(libc::EAGAIN));
        assert!((0..4096).any(full), "its backlog has no end");
        assert!(in_use());
        drop(other.accept().unwrap());
        assert!(path.exists(), "it is still there");
        assert!(!folder.path().join("other.sock.lock").exists());
        drop(other);
        bind(&path).expect("nobody listens any more");
    }

    #[test]
    fn a_path_that_somebody_else_took_over_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rpc.sock");
        let ours = bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(ours);
        UnixStream::connect(&path).expect("the other's socket is still there");
    }

    #[test]
    fn a_file_that_only_has_the_name_of_a_lock_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Cargo");
        let precious = folder.path().join("Cargo.lock");
        std::fs::write(&precious, "precious").unwrap();
        drop(bind(&path).unwrap());
        assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
    }

    #[test]
    fn of_many_that_want_a_stale_socket_at_once_one_gets_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rpc.sock");
        for _ in 0..50 {
            drop(UnixListener::bind(&path).unwrap());
            let barrier = std::sync::Barrier::new(4);
            let got: Vec<_> = std::thread::scope(|scope| {
                let try_it = || {
                    barrier.wait();
                    bind(&path)
                };
                let tries: Vec<_> = (0..4).map(|_| scope.spawn(try_it)).collect();
                tries.into_iter().map(|one| one.join().unwrap()).collect()
            });
            let winners = got.iter().filter(|one| one.is_ok()).count();
            assert_eq!(winners, 1, "{got:?}");
            let refused = |one: &Result<_, _>| matches!(one, Ok(_) | Err(SocketError::InUse(_)));
            assert!(got.iter().all(refused), "{got:?}");
            UnixStream::connect(&path).expect("the winner listens");
        }
    }

    #[test]
    fn a_path_that_cannot_be_a_socket_is_refused_with_its_length() {
        let error = bind(Path::new(&"x".repeat(108))).unwrap_err();
        assert!(error.to_string().contains("108 bytes"), "{error}");
    }
}
