//! What a device holds, as far as its ends tell: a volume, nothing, or something that must not be
//! formatted over.
//!
//! A device counts as blank only if everything looked at is zero: the first MiB, where partition
//! tables, LVM and nearly every file system put their marks, and the last 128 KiB, where the second
//! partition table and old RAID metadata are. That is stricter than tools that look for known marks only,
//! and it needs no list to be complete. The list here serves the message alone.

use super::geometry::MAGIC;
use super::layout::Extent;
use crate::types::{BLOCK_SIZE, Pbn};

/// What a device holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Only zeroes where anything would be.
    Blank,
    /// The magic of a volume; whether it is a sound one is for [`super::open`] to say.
    Volume,
    /// Something known by its mark.
    Foreign {
        /// What, as in "an ext4 file system".
        what: String,
    },
    /// Something without a known mark.
    Unknown {
        /// The first byte that is not zero, as an offset into the device.
        offset: u64,
    },
}

const HEAD_BLOCKS: u64 = 256;
const TAIL_BLOCKS: u64 = 32;

/// Which blocks of a device of `device_blocks` blocks to read for [`identify`]: its head and its tail.
/// They do not overlap; on a small device the tail may be empty.
pub fn probe_extents(device_blocks: u64) -> (Extent, Extent) {
    let head = device_blocks.min(HEAD_BLOCKS);
    let tail = (device_blocks - head).min(TAIL_BLOCKS);
    (
        Extent {
            start: Pbn(0),
            blocks: head,
        },
        Extent {
            start: Pbn(device_blocks - tail),
            blocks: tail,
        },
    )
}

/// Says what a device of `device_blocks` blocks holds, given the bytes of the two extents of
/// [`probe_extents`].
pub fn identify(head: &[u8], tail: &[u8], device_blocks: u64) -> Contents {
    if head.starts_with(&MAGIC) {
        return Contents::Volume;
    }
    if let Some(what) = known(head) {
        return Contents::Foreign { what };
    }
    let tail_start = (device_blocks * BLOCK_SIZE as u64).saturating_sub(tail.len() as u64);
    let first_used = |bytes: &[u8]| bytes.iter().position(|&byte| byte != 0);
    if let Some(at) = first_used(head) {
        return Contents::Unknown { offset: at as u64 };
    }
    match first_used(tail) {
        Some(at) => Contents::Unknown {
            offset: tail_start + at as u64,
        },
        None => Contents::Blank,
    }
}

/// As [`identify`], of the first block alone; what is further in is not seen.
pub fn identify_first_block(block: &[u8]) -> Contents {
    identify(block, &[], 1)
}

/// A mark and where it is, in bytes from the start of the device.
const MARKS: &[(usize, &[u8], &str)] = &[
    (0x200, b"EFI PART", "a GPT partition table"),
    (0x018, b"LVM2 001", "an LVM physical volume"),
    (0x218, b"LVM2 001", "an LVM physical volume"),
    (0x418, b"LVM2 001", "an LVM physical volume"),
    (0x618, b"LVM2 001", "an LVM physical volume"),
    (0x000, b"XFSB", "an XFS file system"),
    (0x000, b"LUKS\xba\xbe", "a LUKS encrypted device"),
    (0x000, b"hsqs", "a squashfs file system"),
    (0x000, b"QFI\xfb", "a qcow2 image"),
    (0x003, b"NTFS    ", "an NTFS file system"),
    (0x003, b"EXFAT   ", "an exFAT file system"),
    (0x036, b"FAT", "a FAT file system"),
    (0x052, b"FAT32", "a FAT file system"),
    (0x438, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
    (0x400, b"\x10\x20\xf5\xf2", "an F2FS file system"),
    (0xff6, b"SWAPSPACE2", "swap space"),
    (0x1000, b"\xfc\x4e\x2b\xa9", "a member of a Linux RAID"),
    (
        0x1018,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
        "a bcachefs or bcache device",
    ),
    (0x10040, b"_BHRfS_M", "a btrfs file system"),
    (0x10000, b"\x01\x16\x19\x70", "a GFS2 file system"),
    (0x8001, b"CD001", "an ISO 9660 file system"),
];

fn known(head: &[u8]) -> Option<String> {
    let mark = MARKS
        .iter()
        .find(|(at, mark, _)| head.get(*at..at + mark.len()) == Some(*mark));
    if let Some((_, _, what)) = mark {
        return Some((*what).to_owned());
    }
    // The mark of a boot sector is weak, and file systems have it too: it is asked last.
    (head.get(0x1fe..0x200) == Some(b"\x55\xaa")).then(|| "an MBR partition table".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCKS: u64 = 1000;

    fn device() -> Vec<u8> {
        vec![0; BLOCKS as usize * BLOCK_SIZE]
    }

    fn look(device: &[u8]) -> Contents {
        let blocks = (device.len() / BLOCK_SIZE) as u64;
        let (head, tail) = probe_extents(blocks);
        let bytes = |extent: Extent| {
            &device[extent.start.index() * BLOCK_SIZE..extent.end().index() * BLOCK_SIZE]
        };
        identify(bytes(head), bytes(tail), blocks)
    }

    #[test]
    fn a_device_of_zeroes_is_blank() {
        assert_eq!(look(&device()), Contents::Blank);
        assert_eq!(look(&[]), Contents::Blank);
        assert_eq!(look(&[0; BLOCK_SIZE]), Contents::Blank);
    }

    #[test]
    fn one_byte_at_either_end_makes_a_device_not_blank() {
        let end = BLOCKS * BLOCK_SIZE as u64;
        for offset in [0, 1, 4095, (1 << 20) - 1, end - (128 << 10), end - 1] {
            let mut device = device();
            device[offset as usize] = 1;
            assert_eq!(look(&device), Contents::Unknown { offset });
        }
        let mut inside = device();
        inside[1 << 20] = 1;
        assert_eq!(
            look(&inside),
            Contents::Blank,
            "what lies in between is not looked at"
        );
    }

    #[test]
    fn a_volume_is_known_by_its_magic() {
        let mut device = device();
        device[..8].copy_from_slice(b"dmvdo001");
        assert_eq!(look(&device), Contents::Volume);
    }

    #[test]
    fn every_mark_of_the_list_is_found() {
        for (at, mark, what) in MARKS {
            let mut device = device();
            device[*at..at + mark.len()].copy_from_slice(mark);
            assert_eq!(
                look(&device),
                Contents::Foreign {
                    what: (*what).to_owned()
                }
            );
        }
        let mut device = device();
        device[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(
            look(&device),
            Contents::Foreign {
                what: "an MBR partition table".into()
            }
        );
        device[512..520].copy_from_slice(b"EFI PART");
        assert_eq!(
            look(&device),
            Contents::Foreign {
                what: "a GPT partition table".into()
            }
        );
    }

    proptest! {
        #[test]
        fn head_and_tail_lie_on_the_device_and_do_not_overlap(blocks in 0u64..1 << 36) {
            let (head, tail) = probe_extents(blocks);
            prop_assert!(head.end() <= tail.start);
            prop_assert_eq!(tail.end(), Pbn(blocks));
            prop_assert_eq!(head.start, Pbn(0));
        }
    }
}
