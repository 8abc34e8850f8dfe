//! What the program gives up for good before it begins to work, so that who takes it over has little.
//!
//! 1. New privileges, by setuid programs and their like.
//! 2. By landlock ([`paths`]): to run programs, to make devices and folders, the network, abstract sockets and signals of others; and, if the
//!    administrator names what it may open, all other files.
//! 3. By seccomp ([`calls`]): every system call it does not need.
//!
//! It holds for the calling thread and those it starts, so it is done while there is no other. What a kernel does not
//! offer is left out, with a line in the log: the program works on it all the same.

mod calls;
mod paths;

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::app::AppOptions;

/// Why the program cannot be locked in as asked.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// A path that was named cannot be opened.
    #[error("--allow-path {path}: {source}; name what is there, or the folder it will be in")]
    Path {
        /// The path.
        path: PathBuf,
        /// What was said.
        source: landlock::PathFdError,
    },
    /// Paths were named, and the kernel has no landlock.
    #[error(
        "--allow-path: this kernel has no landlock, so files cannot be kept from the program; leave it out, or boot with lsm=landlock,..."
    )]
    NoPaths,
    /// The kernel refused rules that make sense.
    #[error("the sandbox cannot be made: {0}; --no-sandbox leaves it out")]
    Landlock(#[from] landlock::RulesetError),
    /// As above.
    #[error("the sandbox cannot be made: {0}; --no-sandbox leaves it out")]
    Seccomp(#[from] seccompiler::Error),
}

/// How much of something the kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Whole,
    Part,
    Nothing,
}

/// Locks the calling thread in, and those it will start. If `allowed` is not empty, no files are opened but those, and those below
/// them, beside what the program with these options opens itself.
///
/// # Errors
/// When `allowed` cannot be kept.
pub fn enter(options: &AppOptions, allowed: &[PathBuf]) -> Result<(), SandboxError> {
    give_up_new_privileges();
    let socket_folder = options.rpc_socket.as_deref().and_then(Path::parent);
    let own = paths::Own {
        config: options.config.as_deref(),
        sockets: socket_folder,
    };
    let paths = paths::enter(&own, allowed)?;
    if !allowed.is_empty() && paths == Extent::Nothing {
        return Err(SandboxError::NoPaths);
    }
    let calls = calls::enter()?;
    let missing = [("landlock", paths), ("seccomp", calls)].into_iter();
    let missing: Vec<_> = missing
        .filter_map(|(name, extent)| match extent {
            Extent::Whole => None,
            Extent::Part => Some(format!("all of {name}")),
            Extent::Nothing => Some(name.to_owned()),
        })
        .collect();
    if !missing.is_empty() {
        log::warn!(
            "the sandbox is weaker than it could be: this kernel does not have {}",
            missing.join(" and ")
        );
    }
    Ok(())
}

fn give_up_new_privileges() {
    // SAFETY: no pointers. Every kernel this runs on has it.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
}

#[cfg(test)]
mod tests;
