//! The log of `dm-log-writes`, as `Documentation/admin-guide/device-mapper/log-writes.rst` of the kernel describes it.
//!
//! ```text
//!  sector 0         then, for each entry
//!  [super block]    [entry, one sector] [what was written: as many sectors as the entry says] ...
//! ```
//!
//! A sector is as large as the recorded device's. All numbers are little-endian. The super block says how many entries
//! there are; it is written with each durable write and each mark, so it may know of fewer than there are.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// First number of the super block.
const MAGIC: u64 = 0x006a_7366_7773_6872;

/// Second number of the super block.
const VERSION: u64 = 1;

const FLUSH: u64 = 1 << 0;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

/// Bytes of an entry before the text of a mark.
const ENTRY_SIZE: usize = 32;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It ends before it should, or cannot be read at all.
    #[error("the log ends within entry {entry}: {error}")]
    Short {
        /// The entry, or 0 for the super block too.
        entry: u64,
        /// What the system says.
        error: std::io::Error,
    },
    /// It is no log, or of another kind.
    #[error("the log begins with {magic:#x}, version {version}, sectors of {sector} bytes")]
    Stranger {
        /// What should be the magic number.
        magic: u64,
        /// What should be the version.
        version: u64,
        /// What should be the size of a sector.
        sector: u32,
    },
}

/// One thing that happened to the recorded device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All that is before it in the log became durable.
    Flush,
    /// Something was written.
    Write {
        /// Where, in bytes.
        at: u64,
        /// What.
        data: Vec<u8>,
        /// Whether it was durable by itself.
        durable: bool,
    },
    /// Something was let go of.
    Discard {
        /// Where, in bytes.
        at: u64,
        /// How much, in bytes.
        length: u64,
    },
    /// Somebody made a mark.
    Mark(String),
}

/// All events of a log, in its order.
///
/// # Errors
/// It is no log, or not whole.
pub(super) fn read(log: &Path) -> Result<Vec<Event>, LogError> {
    let short = |entry| move |error| LogError::Short { entry, error };
    let mut input = BufReader::new(File::open(log).map_err(short(0))?);
    let mut start = [0; 28];
    input.read_exact(&mut start).map_err(short(0))?;
    let (magic, version, entries) = (
        number(&start[0..]),
        number(&start[8..]),
        number(&start[16..]),
    );
    let sector = u32::from_le_bytes(start[24..].try_into().expect("four bytes"));
    if (magic, version) != (MAGIC, VERSION) || !matches!(sector, 512 | 4096) {
        return Err(LogError::Stranger {
            magic,
            version,
            sector,
        });
    }
    let mut rest = vec![0; sector as usize - start.len()];
    input.read_exact(&mut rest).map_err(short(0))?;
    let mut events = Vec::new();
    let mut head = vec![0; sector as usize];
    for entry in 0..entries {
        input.read_exact(&mut head).map_err(short(entry))?;
        let (at, length) = (
            number(&head[0..]) * u64::from(sector),
            number(&head[8..]) * u64::from(sector),
        );
        let (flags, text) = (number(&head[16..]), number(&head[24..]) as usize);
        if flags & MARK != 0 {
            let text = head.get(ENTRY_SIZE..ENTRY_SIZE + text).unwrap_or_default();
            events.push(Event::Mark(String::from_utf8_lossy(text).into_owned()));
            continue;
        }
        if flags & DISCARD != 0 {
            events.push(Event::Discard { at, length });
            continue;
        }
        if flags & FLUSH != 0 {
            events.push(Event::Flush);
        }
        if length > 0 {
            let mut data = vec![0; length as usize];
            input.read_exact(&mut data).map_err(short(entry))?;
            let durable = flags & FUA != 0;
            events.push(Event::Write { at, data, durable });
        }
    }
    Ok(events)
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(log: &mut Vec<u8>, sector: u64, sectors: u64, flags: u64, text: &[u8], data: &[u8]) {
        let start = log.len();
        for number in [sector, sectors, flags, text.len() as u64] {
            log.extend(number.to_le_bytes());
        }
        log.extend(text);
        log.resize(start + 512, 0);
        log.extend(data);
    }

    fn log(entries: u64, sector: u32) -> Vec<u8> {
        let mut log: Vec<u8> = [MAGIC, VERSION, entries]
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect();
        log.extend(sector.to_le_bytes());
        log.resize(512, 0);
        log
    }

    fn read_bytes(bytes: &[u8]) -> Result<Vec<Event>, LogError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, bytes).unwrap();
        read(&path)
    }

    #[test]
    fn each_kind_of_entry_is_an_event_and_what_the_super_block_does_not_know_is_left_out() {
        let mut bytes = log(5, 512);
        let data = vec![7; 1024];
        entry(&mut bytes, 16, 2, 0, b"", &data);
        entry(&mut bytes, 0, 0, FLUSH, b"", b"");
        entry(&mut bytes, 40, 2, FUA | 16, b"", &data);
        entry(&mut bytes, 80, 8, DISCARD, b"", b"");
        entry(&mut bytes, 0, 0, MARK, b"epoch 3", b"");
        entry(&mut bytes, 0, 0, FLUSH, b"", b"");
        let write = |at, durable| Event::Write {
            at,
            data: data.clone(),
            durable,
        };
        let expected = [
            write(16 * 512, false),
            Event::Flush,
            write(40 * 512, true),
            Event::Discard {
                at: 80 * 512,
                length: 8 * 512,
            },
            Event::Mark("epoch 3".to_owned()),
        ];
        assert_eq!(read_bytes(&bytes).unwrap(), expected);
    }

    #[test]
    fn what_is_no_log_and_what_ends_too_early_is_refused_in_words() {
        let stranger = read_bytes(&log(0, 520)).unwrap_err().to_string();
        assert!(stranger.contains("sectors of 520 bytes"), "{stranger}");
        let mut bytes = log(1, 512);
        entry(&mut bytes, 0, 2, 0, b"", &[0; 600]);
        let short = read_bytes(&bytes).unwrap_err().to_string();
        assert!(short.contains("within entry 0"), "{short}");
    }
}
