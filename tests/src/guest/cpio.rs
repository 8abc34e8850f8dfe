//! The archive the kernel unpacks as its first file system: cpio in the "new ASCII" form, which
//! `Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel describes.
//!
//! An [`Archive`] is made, given folders, files and links in any order (folders above a file are made when they
//! are first needed), and finished into bytes. Everything belongs to root and no time is recorded, so the same
//! files make the same bytes.

use std::collections::HashSet;

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive being written.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: HashSet<String>,
}

impl Archive {
    /// A file, executable or not; `path` is absolute.
    pub(super) fn file(&mut self, path: &str, content: &[u8], executable: bool) {
        self.folders_above(path);
        let mode = if executable { 0o755 } else { 0o644 };
        self.entry(path, FILE | mode, content, (0, 0));
    }

    /// A symbolic link at `path` to `target`.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.folders_above(path);
        self.entry(path, LINK | 0o777, target.as_bytes(), (0, 0));
    }

    /// A character device.
    pub(super) fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.folders_above(path);
        self.entry(path, CHARACTER_DEVICE | 0o600, &[], (major, minor));
    }

    /// The finished archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.entry("/TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }

    fn folders_above(&mut self, path: &str) {
        for (end, _) in path.match_indices('/').skip(1) {
            let folder = &path[..end];
            if self.folders.insert(folder.to_owned()) {
                self.entry(folder, FOLDER | 0o755, &[], (0, 0));
            }
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8], device: (u32, u32)) {
        self.entries += 1;
        let name = path.trim_start_matches('/');
        let links = 1;
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            u32::try_from(content.len()).expect("no file of a guest has 4 GiB"),
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_every_folder_once_before_what_is_in_it() {
        let mut archive = Archive::default();
        archive.file("/a/b/c", b"12345", true);
        archive.link("/a/d", "b/c");
        let bytes = archive.finish();
        let mut names = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let field = |number: usize| {
                let digits = &bytes[at + 6 + number * 8..at + 14 + number * 8];
                usize::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
            };
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (mode, size, length) = (field(1), field(6), field(11));
            let name = std::str::from_utf8(&bytes[at + 110..at + 110 + length - 1]).unwrap();
            let content = (at + 110 + length).next_multiple_of(4);
            names.push((
                name.to_owned(),
                mode,
                bytes[content..content + size].to_vec(),
            ));
            at = (content + size).next_multiple_of(4);
        }
        let expected = [
            ("a", 0o040_755, &b""[..]),
            ("a/b", 0o040_755, b""),
            ("a/b/c", 0o100_755, b"12345"),
            ("a/d", 0o120_777, b"b/c"),
            ("TRAILER!!!", 0, b""),
        ];
        let expected =
            expected.map(|(name, mode, content)| (name.to_owned(), mode, content.to_vec()));
        assert_eq!(names, expected);
    }
}
