//! Who may connect to a socket: its file's mode, user and group.
//!
//! All is settled between `bind` and `listen`, while nobody can connect: the file comes with mode 0600, is given
//! away, and gets its mode last.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::str::FromStr;

use super::accounts;

/// The user and group a socket is given to; what is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOwner {
    /// The user's number.
    pub user: Option<u32>,
    /// The group's number.
    pub group: Option<u32>,
}

impl FromStr for SocketOwner {
    type Err = String;

    /// `USER`, `USER:GROUP` or `:GROUP`, each by name or number.
    fn from_str(text: &str) -> Result<SocketOwner, String> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        if user.is_empty() && group.is_none_or(str::is_empty) {
            return Err("give USER, USER:GROUP or :GROUP".to_owned());
        }
        let user = match user {
            "" => None,
            user => Some(accounts::user(user)?),
        };
        let group = match group {
            Some("") => return Err(format!("no group follows the colon of {text:?}")),
            Some(group) => Some(accounts::group(group)?),
            None => None,
        };
        Ok(SocketOwner { user, group })
    }
}

/// The mode of a socket's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMode(pub u32);

impl Default for SocketMode {
    /// For its owner only.
    fn default() -> SocketMode {
        SocketMode(0o600)
    }
}

impl FromStr for SocketMode {
    type Err = String;

    /// Octal digits, such as `0660`.
    fn from_str(text: &str) -> Result<SocketMode, String> {
        match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o777 => Ok(SocketMode(mode)),
            _ => Err("give an octal mode up to 0777, such as 0660".to_owned()),
        }
    }
}

/// Who may connect to a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketAccess {
    /// Whose it is.
    pub owner: SocketOwner,
    /// Who may do what; to connect is to write.
    pub mode: SocketMode,
}

impl SocketAccess {
    /// Gives the socket file at `path`, which was just bound with mode 0600, its owner and mode.
    ///
    /// # Errors
    /// When another file lies there by now, or the system refuses.
    pub(super) fn apply(self, path: &Path) -> io::Result<()> {
        if self == SocketAccess::default() {
            return Ok(());
        }
        // Opened once, so that all of this happens to one file, whoever else may write the folder.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
            .open(path)?;
        let found = file.metadata()?;
        // SAFETY: no pointers.
        let own = unsafe { libc::geteuid() };
        if !found.file_type().is_socket() || found.uid() != own || found.nlink() != 1 {
            let what = "another file has taken its place";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        self.owner.take(&file)?;
        // A descriptor of that kind is changed by its name only.
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        std::fs::set_permissions(name, Permissions::from_mode(self.mode.0))
    }
}

impl SocketOwner {
    fn take(self, file: &File) -> io::Result<()> {
        /// What leaves a user or a group as it is.
        const AS_IT_IS: u32 = u32::MAX;
        if self == SocketOwner::default() {
            return Ok(());
        }
        let (user, group) = (
            self.user.unwrap_or(AS_IT_IS),
            self.group.unwrap_or(AS_IT_IS),
        );
        // SAFETY: the descriptor is open, and the path an empty string that outlives the call.
        let result = unsafe {
            libc::fchownat(
                file.as_raw_fd(),
                c"".as_ptr(),
                user,
                group,
                libc::AT_EMPTY_PATH,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_names_or_numbers() {
        let parse = |text: &str| text.parse::<SocketOwner>();
        let owner = |user, group| Ok(SocketOwner { user, group });
        assert_eq!(parse("root"), owner(Some(0), None));
        assert_eq!(parse("root:root"), owner(Some(0), Some(0)));
        assert_eq!(parse(":0"), owner(None, Some(0)));
        assert_eq!(parse("12:34"), owner(Some(12), Some(34)));
        for wrong in [
            "",
            ":",
            "root:",
            "nobody-is-called-so",
            ":nor-any-group",
            "-1",
        ] {
            let error = parse(wrong).expect_err(wrong);
            assert!(!error.is_empty());
        }
    }

    #[test]
    fn modes_are_octal_and_no_more_than_permissions() {
        let parse = |text: &str| text.parse::<SocketMode>();
        assert_eq!(parse("0660"), Ok(SocketMode(0o660)));
        assert_eq!(parse("600"), Ok(SocketMode(0o600)));
        for wrong in ["", "8", "1777", "rw", "-1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_the_socket_that_was_bound_is_given_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        std::fs::write(&path, "precious").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let before = std::fs::metadata(&path).unwrap().mode();
        let access = SocketAccess {
            mode: SocketMode(0o666),
            ..SocketAccess::default()
        };
        assert!(access.apply(&path).is_err());
        assert!(access.apply(&link).is_err());
        assert_eq!(std::fs::metadata(&path).unwrap().mode(), before);
    }
}
