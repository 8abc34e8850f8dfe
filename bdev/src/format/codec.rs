//! Little-endian numbers, component headers and the checksum: what every structure is made of.

use std::fmt;

use super::error::DecodeError;

/// A format version. A higher major number means an incompatible layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Changes when older programs can not read the structure.
    pub major: u32,
    /// Changes when they can.
    pub minor: u32,
}

impl Version {
    /// `major.minor`.
    pub const fn new(major: u32, minor: u32) -> Version {
        Version { major, minor }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Two little-endian bytes at `at`.
#[inline]
pub(super) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Four little-endian bytes at `at`.
#[inline]
pub(super) fn le32(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// Eight little-endian bytes at `at`.
#[inline]
pub(super) fn le64(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// Puts two little-endian bytes at `at`.
#[inline]
pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// Puts four little-endian bytes at `at`.
#[inline]
pub(super) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Puts eight little-endian bytes at `at`.
#[inline]
pub(super) fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// The checksum of geometry block and super block: the usual CRC-32 polynomial, begun from a register
/// of zero instead of all ones, inverted at the end.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(u32::MAX);
    hasher.update(bytes);
    hasher.finalize()
}

/// Takes numbers off the front of a structure.
pub(super) struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`; `what` names the structure in errors.
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Reader<'a> {
        Reader { what, bytes, at: 0 }
    }

    /// How many bytes have been taken.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The next `N` bytes as they are.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.bytes[self.at..].first_chunk::<N>() {
            Some(chunk) => {
                self.at += N;
                Ok(*chunk)
            }
            None => Err(DecodeError::TooShort {
                what: self.what,
                needed: self.at + N,
                found: self.bytes.len(),
            }),
        }
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn version(&mut self) -> Result<Version, DecodeError> {
        Ok(Version {
            major: self.u32()?,
            minor: self.u32()?,
        })
    }
}

/// Puts numbers one after the other into a buffer that is known to be large enough.
pub(super) struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(bytes: &'a mut [u8]) -> Writer<'a> {
        Writer { bytes, at: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// What has been written so far.
    pub(super) fn written(&self) -> &[u8] {
        &self.bytes[..self.at]
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn version(&mut self, version: Version) {
        self.u32(version.major);
        self.u32(version.minor);
    }
}

/// The 20 bytes that stand before a component: what it is, its version, how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: u32,
    pub(super) version: Version,
    pub(super) size: u64,
}

impl Header {
    /// Bytes of an encoded header.
    pub(super) const SIZE: usize = 20;

    pub(super) fn encode(&self, to: &mut Writer<'_>) {
        to.u32(self.id);
        to.version(self.version);
        to.u64(self.size);
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Header, DecodeError> {
        Ok(Header {
            id: from.u32()?,
            version: from.version()?,
            size: from.u64()?,
        })
    }

    /// Reads a header and refuses any that is not exactly this one.
    pub(super) fn expect(
        &self,
        what: &'static str,
        from: &mut Reader<'_>,
    ) -> Result<(), DecodeError> {
        let found = Header::decode(from)?;
        found.check_id(what, self.id)?;
        if found.version != self.version {
            return Err(DecodeError::UnknownVersion {
                what,
                found: found.version,
                known: self.version.to_string(),
            });
        }
        found.check_size(what, self.size)
    }

    pub(super) fn check_id(&self, what: &'static str, expected: u32) -> Result<(), DecodeError> {
        if self.id == expected {
            return Ok(());
        }
        Err(DecodeError::WrongComponent {
            what,
            expected,
            found: self.id,
        })
    }

    pub(super) fn check_size(&self, what: &'static str, expected: u64) -> Result<(), DecodeError> {
        if self.size == expected {
            return Ok(());
        }
        Err(DecodeError::WrongSize {
            what,
            expected,
            found: self.size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_header_survives_encoding(id: u32, major: u32, minor: u32, size: u64) {
            let header = Header { id, version: Version { major, minor }, size };
            let mut bytes = [0; Header::SIZE];
            header.encode(&mut Writer::new(&mut bytes));
            let mut reader = Reader::new("header", &bytes);
            prop_assert_eq!(Header::decode(&mut reader).unwrap(), header);
            prop_assert_eq!(reader.position(), Header::SIZE);
        }

        #[test]
        fn a_short_structure_is_an_error(length in 0usize..Header::SIZE) {
            let bytes = vec![0; length];
            let result = Header::decode(&mut Reader::new("header", &bytes));
            prop_assert!(
                matches!(result, Err(DecodeError::TooShort { what: "header", .. })),
                "{:?}", result
            );
        }
    }

    #[test]
    fn a_header_is_laid_out_little_endian() {
        let header = Header {
            id: 0x0102_0304,
            version: Version::new(5, 0x0a),
            size: 0x1122,
        };
        let mut bytes = [0; Header::SIZE];
        header.encode(&mut Writer::new(&mut bytes));
        assert_eq!(
            bytes,
            [
                4, 3, 2, 1, 5, 0, 0, 0, 10, 0, 0, 0, 0x22, 0x11, 0, 0, 0, 0, 0, 0
            ]
        );
    }

    #[test]
    fn a_header_of_another_component_version_or_size_is_refused_by_name() {
        let known = Header {
            id: 3,
            version: Version::new(2, 0),
            size: 73,
        };
        let check = |found: Header| {
            let mut bytes = [0; Header::SIZE];
            found.encode(&mut Writer::new(&mut bytes));
            known.expect("slab depot", &mut Reader::new("slab depot", &bytes))
        };
        assert_eq!(check(known), Ok(()));
        let text = |found| check(found).unwrap_err().to_string();
        assert!(text(Header { id: 4, ..known }).contains("component 4 where 3"));
        assert!(
            text(Header {
                version: Version::new(2, 1),
                ..known
            })
            .contains("version 2.1")
        );
        assert!(text(Header { size: 72, ..known }).contains("72 bytes"));
    }

    #[test]
    fn the_checksum_starts_from_zero_and_ends_inverted() {
        // With a zero register, zero bytes leave it zero: only the final inversion shows.
        assert_eq!(crc32(&[0; 16]), u32::MAX);
        assert_eq!(crc32(&[]), u32::MAX);
        assert_ne!(crc32(b"123456789"), crc32fast::hash(b"123456789"));
    }
}
