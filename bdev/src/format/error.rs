//! Why bytes could not be understood.

use thiserror::Error;

use super::codec::Version;

/// Bytes on disk are not what the format says they should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Fewer bytes than the structure has.
    #[error("{what} needs {needed} bytes, but only {found} are there")]
    TooShort {
        /// The structure.
        what: &'static str,
        /// Bytes it needs.
        needed: usize,
        /// Bytes there are.
        found: usize,
    },
    /// The first eight bytes of the device are not those of a VDO.
    #[error("not a VDO: the magic should be \"dmvdo001\", but is \"{}\"", .found.escape_ascii())]
    NotVdo {
        /// What stands there.
        found: [u8; 8],
    },
    /// The first bytes of a part of the index are not those it begins with.
    #[error("{what} should begin with \"{}\", but begins with \"{}\"", .expected.escape_ascii(), .found.escape_ascii())]
    WrongMagic {
        /// The structure.
        what: &'static str,
        /// What it begins with.
        expected: &'static [u8],
        /// What stands there.
        found: Vec<u8>,
    },
    /// A component header names another component.
    #[error("{what} is damaged: its header says component {found} where {expected} should be")]
    WrongComponent {
        /// The structure.
        what: &'static str,
        /// The number it should have.
        expected: u32,
        /// The number it has.
        found: u32,
    },
    /// A structure of a version this program does not know.
    #[error("{what} is version {found}, this program knows {known}; use a program of the same age")]
    UnknownVersion {
        /// The structure.
        what: &'static str,
        /// Its version.
        found: Version,
        /// The versions that can be read.
        known: String,
    },
    /// A component header gives a length that this version does not have.
    #[error("{what} is damaged: its header says {found} bytes where {expected} should be")]
    WrongSize {
        /// The structure.
        what: &'static str,
        /// The length of this version, in bytes.
        expected: u64,
        /// The length the header gives.
        found: u64,
    },
    /// The stored checksum is not the checksum of the bytes.
    #[error("{what} is damaged: its checksum is {stored:#010x}, its bytes give {computed:#010x}")]
    Checksum {
        /// The structure.
        what: &'static str,
        /// What is stored.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// A field holds a value it can not have.
    #[error("{what} is damaged: {field} is {found}, but {why}")]
    Field {
        /// The structure.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What it should be.
        why: &'static str,
    },
}

impl DecodeError {
    /// Makes the errors of one structure's fields: of the field, what it holds, and why that cannot be.
    pub(super) fn in_field_of(
        what: &'static str,
    ) -> impl Fn(&'static str, u64, &'static str) -> DecodeError {
        move |field, found, why| DecodeError::Field {
            what,
            field,
            found,
            why,
        }
    }
}
