//! The saved open chapter: the records that were in no chapter on disk yet, in the order they came.
//!
//! ```text
//!   "ALBOC"   "02.00"   records   record, record, ...
//!      5         5         4         32 each              bytes
//! ```
//!
//! The records of several zones take turns. Who loads them deals them out again.

use super::geometry::{IndexGeometry, RECORD_BYTES};
use super::record_page::IndexRecord;
use super::regions::check_magic;
use crate::format::codec::{le32, put32};
use crate::format::error::DecodeError;

const MAGIC: [u8; 10] = *b"ALBOC02.00";

/// Bytes before the records.
pub const HEADER: usize = 14;

/// Bytes that a full open chapter takes in a save.
pub fn saved_bytes(geometry: &IndexGeometry) -> u64 {
    HEADER as u64 + u64::from(geometry.records_per_chapter()) * u64::from(RECORD_BYTES)
}

/// What stands before the records.
pub fn header(records: u32) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..10].copy_from_slice(&MAGIC);
    put32(&mut bytes, 10, records);
    bytes
}

/// How many records follow.
///
/// # Errors
/// Bytes that are no open chapter (for one that was discarded, zeroes), or more records than a chapter has.
pub fn read_header(geometry: &IndexGeometry, bytes: &[u8; HEADER]) -> Result<u32, DecodeError> {
    const WHAT: &str = "the saved open chapter";
    check_magic(WHAT, bytes, &MAGIC)?;
    let records = le32(bytes, 10);
    if records > geometry.records_per_chapter() {
        return Err(DecodeError::Field {
            what: WHAT,
            field: "records",
            found: records.into(),
            why: "a chapter does not have so many",
        });
    }
    Ok(records)
}

/// The records of a saved open chapter that is in memory whole.
///
/// # Errors
/// As [`read_header`], or too few bytes.
pub fn read<'a>(
    geometry: &IndexGeometry,
    bytes: &'a [u8],
) -> Result<impl Iterator<Item = IndexRecord> + use<'a>, DecodeError> {
    let short = |needed| DecodeError::TooShort {
        what: "the saved open chapter",
        needed,
        found: bytes.len(),
    };
    let header = bytes.first_chunk::<HEADER>().ok_or(short(HEADER))?;
    let records = read_header(geometry, header)?;
    let end = HEADER + records as usize * IndexRecord::SIZE;
    let bytes = bytes.get(HEADER..end).ok_or(short(end))?;
    Ok(super::record_page::records(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::RecordName;

    #[test]
    fn records_come_back_and_damage_is_named() {
        let geometry = IndexGeometry::new(1024, 2, 4, 0, false);
        let record = |tag| IndexRecord {
            name: RecordName([tag; 16]),
            ..IndexRecord::default()
        };
        let mut bytes = header(3).to_vec();
        (0..3).for_each(|tag| bytes.extend(record(tag).encode()));
        let read_all = |bytes: &[u8]| read(&geometry, bytes).map(Iterator::collect::<Vec<_>>);
        assert_eq!(read_all(&bytes), Ok((0..3).map(record).collect()));
        assert!(matches!(
            read_all(&bytes[..109]),
            Err(DecodeError::TooShort { needed: 110, .. })
        ));
        assert!(read_all(&bytes[..5]).is_err());
        assert!(read_all(&[0; 4096]).is_err());
        bytes[10] = 65;
        let error = read_all(&bytes).expect_err("too many").to_string();
        assert!(error.contains("does not have so many"), "{error}");
    }

    #[test]
    fn the_header_is_as_the_format_says() {
        assert_eq!(header(0x0102), *b"ALBOC02.00\x02\x01\0\0");
    }
}
