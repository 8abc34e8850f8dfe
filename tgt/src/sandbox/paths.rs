//! Landlock: what the program may do with files and the network.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::{Extent, SandboxError};

/// The newest interface this knows of; an older kernel takes what it can.
const KNOWN: ABI = ABI::V6;

/// What the program opens itself, whatever it is allowed to.
pub(super) struct Own<'a> {
    /// Its configuration.
    pub(super) config: Option<&'a Path>,
    /// The folder of its RPC socket.
    pub(super) sockets: Option<&'a Path>,
}

/// What the system tells of itself: memory, limits, processors, devices.
const SYSTEM: [&str; 2] = ["/proc", "/sys"];

/// What no file is for.
fn never() -> BitFlags<AccessFs> {
    AccessFs::Execute
        | AccessFs::MakeChar
        | AccessFs::MakeBlock
        | AccessFs::MakeFifo
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::RemoveDir
        | AccessFs::Refer
}

/// What base devices and sockets need of files, and of the folders they are in.
fn work() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::ReadDir
        | AccessFs::Truncate
        | AccessFs::IoctlDev
        | AccessFs::MakeReg
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
}

/// What sockets and their locks need of a folder.
fn sockets() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::MakeReg
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
}

/// Keeps the calling thread, and those it starts, from what no part of the program does; and, if `allowed` is not empty, from all files
/// but those.
pub(super) fn enter(own: &Own<'_>, allowed: &[PathBuf]) -> Result<Extent, SandboxError> {
    let files = match allowed.is_empty() {
        true => never(),
        false => never() | work(),
    };
    let mut rules = Ruleset::default()
        .handle_access(files)?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?;
    if !allowed.is_empty() {
        for path in allowed {
            let refused = |source| SandboxError::Path {
                path: path.clone(),
                source,
            };
            rules = allow(rules, PathFd::new(path).map_err(refused)?, path, work())?;
        }
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let own = SYSTEM
            .map(|path| (Path::new(path), read))
            .into_iter()
            .chain(own.config.map(|path| (path, AccessFs::ReadFile.into())))
            .chain(own.sockets.map(|path| (path, sockets())));
        for (path, access) in own {
            // What is not there is refused when it is used, by the name it has then.
            if let Ok(opened) = PathFd::new(path) {
                rules = allow(rules, opened, path, access)?;
            }
        }
    }
    Ok(match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Extent::Whole,
        RulesetStatus::PartiallyEnforced => Extent::Part,
        RulesetStatus::NotEnforced => Extent::Nothing,
    })
}

fn allow(
    rules: RulesetCreated,
    opened: PathFd,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, SandboxError> {
    let access = match path.is_dir() {
        true => access,
        false => access & AccessFs::from_file(KNOWN),
    };
    Ok(rules.add_rule(PathBeneath::new(opened, access))?)
}
