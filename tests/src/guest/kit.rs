//! What a guest boots from: a kernel of Debian's, and a first file system made of this machine's programs.
//!
//! A [`Recipe`] says which programs and modules a guest is to have. [`Kit::gather`] finds them and makes the
//! first file system from them, once: it stays in `target/guest` under a name that is made from all that went
//! into it. Nothing is installed. A kernel or a busybox that is not on the machine is fetched as a Debian package
//! with `apt-get download`, unpacked into `target/guest`, and found there the next time.
//!
//! Test programs may gather at the same time: they take turns at a lock in that folder.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cpio::Archive;
use super::modules::Modules;

/// The oldest kernel wanted: the first of Debian's that has dm-vdo in its cloud flavour.
const OLDEST_KERNEL: [u32; 2] = [6, 12];

/// The first qemu whose emulated processor computes as recent kernels need it.
const OLDEST_QEMU: u32 = 8;

/// The emulator.
pub(super) const QEMU: &str = "qemu-system-x86_64";

const INIT: &str = include_str!("init.sh");

/// Why no guest can be booted here: what is missing, in words for [`skipped`](crate::tools::skipped).
#[derive(Clone, Debug)]
pub struct Lacking(pub String);

impl std::fmt::Display for Lacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a guest has beside a busybox and a network.
#[derive(Clone, Debug, Default)]
pub struct Recipe {
    programs: Vec<String>,
    modules: Vec<String>,
}

impl Recipe {
    /// Nothing more: virtual disks can be seen, and that is all.
    pub fn plain() -> Recipe {
        Recipe::default().modules(&["virtio_net", "virtio_blk"])
    }

    /// An NVMe/TCP host with ext4.
    pub fn nvme_host() -> Recipe {
        Recipe::plain()
            .modules(&["nvme-tcp", "ext4"])
            .programs(&["nvme", "mkfs.ext4", "e2fsck"])
    }

    /// A machine that makes dm-vdo devices with `dmsetup`.
    pub fn dm_vdo() -> Recipe {
        Recipe::plain()
            .modules(&["dm-vdo", "ext4"])
            .programs(&["dmsetup"])
    }

    /// Adds programs of this machine, by name.
    #[must_use]
    pub fn programs(mut self, names: &[&str]) -> Recipe {
        self.programs
            .extend(names.iter().map(|&name| name.to_owned()));
        self
    }

    /// Adds modules of the kernel, by name, and what they need.
    #[must_use]
    pub fn modules(mut self, names: &[&str]) -> Recipe {
        self.modules
            .extend(names.iter().map(|&name| name.to_owned()));
        self
    }
}

/// A kernel and a first file system, ready to boot.
#[derive(Clone, Debug)]
pub struct Kit {
    /// The kernel image.
    pub kernel: PathBuf,
    /// Its release, as `uname -r` says it.
    pub release: String,
    /// The first file system.
    pub initramfs: PathBuf,
}

/// One file of the first file system.
struct Ingredient {
    /// Where it is here, and there.
    path: PathBuf,
    /// Its size and time here.
    stamp: (u64, i64),
}

impl Kit {
    /// Finds or makes what a guest of this recipe boots from.
    ///
    /// # Errors
    /// What this machine lacks, and how the attempt to fetch it failed.
    ///
    /// # Panics
    /// When the build folder cannot be written.
    pub fn gather(recipe: &Recipe) -> Result<Kit, Lacking> {
        check_qemu()?;
        let folder = build_folder().join("guest");
        std::fs::create_dir_all(&folder).expect("the build folder can be written");
        let lock = File::create(folder.join("lock")).expect("the build folder can be written");
        lock.lock().expect("a file of ours can be locked");

        let busybox = busybox(&folder)?;
        let (kernel, release, modules) = kernel(&folder)?;
        let mut ingredients = vec![ingredient(&busybox)?];
        for name in &recipe.programs {
            let program = find(name).ok_or_else(|| Lacking(format!("{name} is not installed")))?;
            ingredients.push(ingredient(&program)?);
        }
        for at in 0..ingredients.len() {
            for library in libraries(&ingredients[at].path)? {
                ingredients.push(ingredient(&library)?);
            }
        }
        ingredients[1..].sort_by(|a, b| a.path.cmp(&b.path));
        ingredients.dedup_by(|a, b| a.path == b.path);

        let mut key = DefaultHasher::new();
        (INIT, &release, &recipe.modules).hash(&mut key);
        for part in &ingredients {
            (&part.path, part.stamp).hash(&mut key);
        }
        let initramfs = folder.join(format!("initramfs-{:016x}.cpio", key.finish()));
        if !initramfs.is_file() {
            let modules = Modules::in_folder(&modules, &busybox);
            let archive = assemble(&ingredients, &modules, recipe)?;
            let unfinished = folder.join("initramfs-unfinished");
            std::fs::write(&unfinished, archive).expect("the build folder can be written");
            std::fs::rename(&unfinished, &initramfs).expect("the build folder can be written");
        }
        Ok(Kit {
            kernel,
            release,
            initramfs,
        })
    }

    /// The first file system with more programs in its `/bin`: another file, in a folder of the caller's. (A kernel unpacks
    /// archives that stand one behind the other.)
    pub(super) fn initramfs_with(
        &self,
        programs: &[PathBuf],
        folder: &Path,
    ) -> Result<PathBuf, Lacking> {
        if programs.is_empty() {
            return Ok(self.initramfs.clone());
        }
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| Lacking(format!("{}: {error}", path.display())))
        };
        let mut archive = Archive::default();
        for program in programs {
            let name = program.file_name().and_then(|name| name.to_str());
            let name = name.expect("programs have plain names");
            archive.file(&format!("/bin/{name}"), &read(program)?, true);
            for library in libraries(program)? {
                let path = library.to_str().expect("libraries have plain names");
                archive.file(path, &read(&library)?, true);
            }
        }
        let mut whole = read(&self.initramfs)?;
        whole.extend(archive.finish());
        let path = folder.join("initramfs");
        std::fs::write(&path, whole).expect("the folder is ours");
        Ok(path)
    }
}

/// The first file system of these parts, the first of which is the busybox.
fn assemble(
    ingredients: &[Ingredient],
    modules: &Modules,
    recipe: &Recipe,
) -> Result<Vec<u8>, Lacking> {
    let mut archive = Archive::default();
    archive.character_device("/dev/console", 5, 1);
    archive.file("/init", INIT.as_bytes(), true);
    for (number, part) in ingredients.iter().enumerate() {
        let content = std::fs::read(&part.path)
            .map_err(|error| Lacking(format!("{}: {error}", part.path.display())))?;
        let path = match number {
            0 => "/bin/busybox",
            _ => part.path.to_str().expect("programs have plain names"),
        };
        archive.file(path, &content, true);
    }
    let mut order = String::new();
    for module in modules.load_order(&recipe.modules)? {
        order.push_str(&module.name);
        order.push('\n');
        archive.file(
            &format!("/modules/{}.ko", module.name),
            &module.content,
            false,
        );
    }
    archive.file("/modules/order", order.as_bytes(), false);
    archive.link("/etc/mtab", "/proc/mounts");
    Ok(archive.finish())
}

fn ingredient(path: &Path) -> Result<Ingredient, Lacking> {
    use std::os::unix::fs::MetadataExt;
    let found =
        std::fs::metadata(path).map_err(|error| Lacking(format!("{}: {error}", path.display())))?;
    Ok(Ingredient {
        path: path.to_owned(),
        stamp: (found.len(), found.mtime()),
    })
}

/// The shared libraries of a program and its loader, as `ldd` lists them; none if it is linked statically.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, Lacking> {
    let listed = output(Command::new("ldd").arg(program)).unwrap_or_default();
    let mut found = Vec::new();
    for line in listed.lines() {
        if line.contains("not found") {
            let program = program.display();
            return Err(Lacking(format!("{program} lacks a library: {line}")));
        }
        let path = line.split_whitespace().find(|word| word.starts_with('/'));
        found.extend(path.map(PathBuf::from));
    }
    Ok(found)
}

/// Whether there is an emulator to boot in.
fn check_qemu() -> Result<(), Lacking> {
    let said = output(Command::new(QEMU).arg("--version"))
        .map_err(|_| Lacking(format!("{QEMU} is not installed")))?;
    let version = said
        .split_whitespace()
        .skip_while(|&word| word != "version")
        .nth(1);
    let major = version.and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    match major {
        Some(major) if major >= OLDEST_QEMU => Ok(()),
        _ => Err(Lacking(format!(
            "{QEMU} is {}, version {OLDEST_QEMU} or newer is needed",
            version.unwrap_or("of an unknown version")
        ))),
    }
}

/// A busybox: installed, fetched earlier, or fetched now.
fn busybox(folder: &Path) -> Result<PathBuf, Lacking> {
    if let Some(installed) = find("busybox") {
        return Ok(installed);
    }
    let unpacked = folder.join("busybox");
    let in_package = || {
        let places = ["bin/busybox", "usr/bin/busybox"].map(|place| unpacked.join(place));
        places.into_iter().find(|path| path.is_file())
    };
    if in_package().is_none() {
        fetch("busybox-static", folder, &unpacked)?;
    }
    in_package().ok_or_else(|| Lacking("the package busybox-static has no busybox".to_owned()))
}

/// A kernel image, its release, and the folder of its modules: installed, fetched earlier, or fetched now.
fn kernel(folder: &Path) -> Result<(PathBuf, String, PathBuf), Lacking> {
    let unpacked = folder.join("kernel");
    if let Some(found) = kernel_under(Path::new("/")).or_else(|| kernel_under(&unpacked)) {
        return Ok(found);
    }
    let packages = output(Command::new("apt-cache").args([
        "--names-only",
        "search",
        "^linux-image-[0-9].*cloud-amd64$",
    ]))
    .map_err(|why| {
        Lacking(format!(
            "no cloud kernel is installed, nor can be found: {why}"
        ))
    })?;
    let newest = packages
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter_map(|name| Some((cloud_version(name.strip_prefix("linux-image-")?)?, name)))
        .max();
    let Some((_, package)) = newest else {
        let [major, minor] = OLDEST_KERNEL;
        return Err(Lacking(format!(
            "neither /boot nor a package source has a cloud kernel of {major}.{minor} or newer"
        )));
    };
    fetch(package, folder, &unpacked)?;
    kernel_under(&unpacked).ok_or_else(|| Lacking(format!("the package {package} has no kernel")))
}

/// The newest cloud kernel that is new enough in a tree.
fn kernel_under(root: &Path) -> Option<(PathBuf, String, PathBuf)> {
    let mut newest = None;
    for entry in std::fs::read_dir(root.join("boot")).ok()?.flatten() {
        let name = entry.file_name();
        let Some(release) = name.to_str().and_then(|name| name.strip_prefix("vmlinuz-")) else {
            continue;
        };
        let places = ["lib/modules", "usr/lib/modules"].map(|place| root.join(place).join(release));
        let modules = places.into_iter().find(|place| place.is_dir());
        if let (Some(version), Some(modules)) = (cloud_version(release), modules) {
            newest = newest.max(Some((version, entry.path(), release.to_owned(), modules)));
        }
    }
    newest.map(|(_, image, release, modules)| (image, release, modules))
}

/// The numbers at the front of `6.12.95+deb12-cloud-amd64`; `None` for another flavour, for what is too old, and
/// for a package that stands for whichever kernel is current (`6.12-cloud-amd64`).
fn cloud_version(release: &str) -> Option<[u32; 3]> {
    let numbers = release.strip_suffix("-cloud-amd64")?;
    let end = numbers
        .find(|letter: char| !(letter.is_ascii_digit() || letter == '.'))
        .unwrap_or(numbers.len());
    let mut parts = numbers[..end].split('.').map(|part| part.parse().ok());
    let version = [parts.next()??, parts.next()??, parts.next()??];
    (version[..2] >= OLDEST_KERNEL[..]).then_some(version)
}

/// Fetches a Debian package and unpacks it into a folder of its own.
fn fetch(package: &str, folder: &Path, into: &Path) -> Result<(), Lacking> {
    let why = |why: String| {
        Lacking(format!(
            "{package} is not installed, nor can be fetched: {why}"
        ))
    };
    let download = tempfile::tempdir_in(folder).expect("the build folder can be written");
    let mut apt = Command::new("apt-get");
    apt.args(["-q", "download", package])
        .current_dir(download.path());
    output(&mut apt).map_err(why)?;
    let packages = std::fs::read_dir(download.path()).expect("a folder of ours can be read");
    let file = packages
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|kind| kind == "deb"))
        .ok_or_else(|| why("apt-get left no file".to_owned()))?;
    let unpacked = download.path().join("unpacked");
    output(Command::new("dpkg-deb").arg("-x").arg(file).arg(&unpacked)).map_err(why)?;
    // What is left of an earlier attempt is of no use.
    let _ = std::fs::remove_dir_all(into);
    std::fs::rename(&unpacked, into).expect("the build folder can be written");
    Ok(())
}

/// Where a program is, looking also where an administrator's programs are.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(more)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// What a program prints, or why it failed.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim().lines().last().unwrap_or_default();
        return Err(format!("{command:?}: {}: {last}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The folder cargo builds into: the one above this program that cargo has marked.
fn build_folder() -> PathBuf {
    let program = std::env::current_exe().expect("a running program has a path");
    let marked = |folder: &&Path| folder.join("CACHEDIR.TAG").is_file();
    program
        .ancestors()
        .find(marked)
        .map_or_else(std::env::temp_dir, Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_recent_kernel_of_the_cloud_flavour_will_do() {
        assert_eq!(
            cloud_version("6.12.95+deb12-cloud-amd64"),
            Some([6, 12, 95])
        );
        assert_eq!(cloud_version("7.0.1-cloud-amd64"), Some([7, 0, 1]));
        assert_eq!(cloud_version("6.1.192-cloud-amd64"), None);
        assert_eq!(cloud_version("6.12-cloud-amd64"), None);
        assert_eq!(cloud_version("6.12.95+deb12-amd64"), None);
        assert_eq!(cloud_version("6.12.95+deb12-cloud-amd64-dbg"), None);
    }
}
