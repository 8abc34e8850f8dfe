//! The modules of a kernel: which file holds a module, what else it needs, and in which order they load.
//!
//! A kernel package that was unpacked but not installed has no `modules.dep`, so the needs are read where
//! `depmod` reads them: each module says them in its `.modinfo` section.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::kit::Lacking;

/// The modules under `lib/modules/RELEASE` of one kernel.
#[derive(Debug)]
pub(super) struct Modules {
    /// By name, `_` for `-`.
    files: HashMap<String, PathBuf>,
    builtin: Vec<String>,
    /// A program for `.xz`: a busybox.
    busybox: PathBuf,
}

/// A module to load.
#[derive(Debug)]
pub(super) struct Module {
    /// Its name, `_` for `-`.
    pub(super) name: String,
    /// The module itself, not compressed.
    pub(super) content: Vec<u8>,
}

impl Modules {
    /// Lists the modules in a folder.
    pub(super) fn in_folder(folder: &Path, busybox: &Path) -> Modules {
        let mut files = HashMap::new();
        let mut folders = vec![folder.join("kernel")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Some(name) = module_name(&path) {
                    files.insert(name, path);
                }
            }
        }
        let builtin = std::fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
        let builtin = builtin
            .lines()
            .filter_map(|line| module_name(Path::new(line)))
            .collect();
        Modules {
            files,
            builtin,
            busybox: busybox.to_owned(),
        }
    }

    /// The modules of these names and all they need, each after what it needs. What is built into the kernel
    /// is left out.
    ///
    /// # Errors
    /// A module the kernel does not have, or that cannot be decompressed here.
    pub(super) fn load_order(&self, names: &[String]) -> Result<Vec<Module>, Lacking> {
        let mut order = Vec::new();
        for name in names {
            self.add(name, &mut order)?;
        }
        Ok(order)
    }

    fn add(&self, name: &str, order: &mut Vec<Module>) -> Result<(), Lacking> {
        let name = name.replace('-', "_");
        if self.builtin.contains(&name) || order.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let Some(file) = self.files.get(&name) else {
            return Err(Lacking(format!("the kernel has no module {name}")));
        };
        let content = self.read(file)?;
        for need in needs(&content) {
            self.add(&need, order)?;
        }
        order.push(Module { name, content });
        Ok(())
    }

    /// A module as the kernel takes it.
    fn read(&self, file: &Path) -> Result<Vec<u8>, Lacking> {
        let mut command = match file.extension().and_then(|kind| kind.to_str()) {
            Some("xz") => {
                let mut command = Command::new(&self.busybox);
                command.arg("xzcat");
                command
            }
            Some("zst") => {
                let mut command = Command::new("zstd");
                command.arg("-dc");
                command
            }
            _ => {
                return std::fs::read(file)
                    .map_err(|error| Lacking(format!("{}: {error}", file.display())));
            }
        };
        let output = command
            .arg(file)
            .output()
            .map_err(|error| Lacking(format!("{command:?}: {error}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Lacking(format!("{command:?}: {}", said.trim())));
        }
        Ok(output.stdout)
    }
}

/// `nvme_tcp` of `.../nvme-tcp.ko.xz`.
fn module_name(path: &Path) -> Option<String> {
    let (name, kind) = path.file_name()?.to_str()?.split_once(".ko")?;
    matches!(kind, "" | ".xz" | ".zst").then(|| name.replace('-', "_"))
}

/// The modules that a module says it needs.
fn needs(module: &[u8]) -> Vec<String> {
    module
        .split(|&byte| byte == 0)
        .filter_map(|text| std::str::from_utf8(text.strip_prefix(b"depends=")?).ok())
        .flat_map(|list| list.split(','))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(needs: &str) -> Vec<u8> {
        format!("\x7fELF\0license=GPL\0depends={needs}\0name=x\0").into_bytes()
    }

    fn names(modules: Result<Vec<Module>, Lacking>) -> Vec<String> {
        modules.unwrap().into_iter().map(|m| m.name).collect()
    }

    #[test]
    fn a_module_comes_once_and_after_all_it_needs_and_built_in_ones_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel/drivers/x");
        std::fs::create_dir_all(&kernel).unwrap();
        std::fs::write(kernel.join("top.ko"), module("left-side,right,core")).unwrap();
        std::fs::write(kernel.join("left-side.ko"), module("bottom")).unwrap();
        std::fs::write(kernel.join("right.ko"), module("bottom")).unwrap();
        std::fs::write(kernel.join("bottom.ko"), module("")).unwrap();
        std::fs::write(folder.path().join("modules.builtin"), "kernel/core.ko\n").unwrap();
        let modules = Modules::in_folder(folder.path(), Path::new("busybox"));
        assert_eq!(
            names(modules.load_order(&["top".into(), "right".into()])),
            ["bottom", "left_side", "right", "top"]
        );
        assert!(modules.load_order(&["absent".into()]).is_err());
    }
}
