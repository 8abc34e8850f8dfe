//! The NBD protocol's numbers, and the few byte layouts of its transmission phase.
//!
//! Everything on the wire is big-endian. Names and numbers are those of the protocol document of the NBD
//! project (`doc/proto.md`).

/// First word of the server's greeting: "NBDMAGIC".
pub(super) const GREETING: u64 = 0x4e42_444d_4147_4943;
/// Second word of the greeting and first of each option: "IHAVEOPT".
pub(super) const OPTION: u64 = 0x4948_4156_454f_5054;
/// First word of the answer to an option.
pub(super) const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
/// First word of a request.
pub(super) const REQUEST: u32 = 0x2560_9513;
/// First word of a simple reply.
pub(super) const SIMPLE_REPLY: u32 = 0x6744_6698;
/// First word of a chunk of a structured reply.
pub(super) const STRUCTURED_REPLY: u32 = 0x668e_33ef;

/// Flags of the handshake, the same bits for server and client.
pub(super) mod handshake {
    /// Fixed newstyle negotiation.
    pub(crate) const FIXED_NEWSTYLE: u16 = 1;
    /// No 124 zeroes after the answer to `EXPORT_NAME`.
    pub(crate) const NO_ZEROES: u16 = 2;
}

/// Options.
pub(super) mod option {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
    pub(crate) const LIST_META_CONTEXT: u32 = 9;
    pub(crate) const SET_META_CONTEXT: u32 = 10;
}

/// Kinds of answer to an option.
pub(super) mod option_reply {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    const ERROR: u32 = 1 << 31;
    pub(crate) const UNSUPPORTED: u32 = ERROR | 1;
    pub(crate) const POLICY: u32 = ERROR | 2;
    pub(crate) const INVALID: u32 = ERROR | 3;
    pub(crate) const UNKNOWN: u32 = ERROR | 6;
    pub(crate) const TOO_BIG: u32 = ERROR | 9;
}

/// Kinds of information in answers to `INFO` and `GO`.
pub(super) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// What an export can do.
pub(super) mod transmission {
    pub(crate) const HAS_FLAGS: u16 = 1;
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const SEND_FLUSH: u16 = 1 << 2;
    pub(crate) const SEND_FUA: u16 = 1 << 3;
    pub(crate) const SEND_TRIM: u16 = 1 << 5;
    pub(crate) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(crate) const SEND_DF: u16 = 1 << 7;
    pub(crate) const CAN_MULTI_CONN: u16 = 1 << 8;
    pub(crate) const SEND_CACHE: u16 = 1 << 10;
    pub(crate) const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Flags of a request.
pub(super) mod flag {
    pub(crate) const FUA: u16 = 1;
    pub(crate) const NO_HOLE: u16 = 1 << 1;
    pub(crate) const DF: u16 = 1 << 2;
    pub(crate) const FAST_ZERO: u16 = 1 << 4;
}

/// Errors on the wire. Not every errno is one.
pub(super) mod error {
    pub(crate) const NONE: u32 = 0;
    pub(crate) const EPERM: u32 = 1;
    pub(crate) const EIO: u32 = 5;
    pub(crate) const ENOMEM: u32 = 12;
    pub(crate) const EINVAL: u32 = 22;
    pub(crate) const ENOSPC: u32 = 28;
    pub(crate) const ENOTSUP: u32 = 95;
    pub(crate) const ESHUTDOWN: u32 = 108;

    /// The wire's error for a bdev's (positive) errno.
    pub(crate) fn of_errno(errno: i32) -> u32 {
        match errno {
            0 => NONE,
            libc::EPERM | libc::EACCES | libc::EROFS | libc::EBADF => EPERM,
            libc::ENOMEM => ENOMEM,
            libc::EINVAL => EINVAL,
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => ENOSPC,
            libc::EOPNOTSUPP => ENOTSUP,
            libc::ENODEV | libc::ESHUTDOWN => ESHUTDOWN,
            _ => EIO,
        }
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Read,
    Write,
    Disconnect,
    Flush,
    Trim,
    Cache,
    WriteZeroes,
    /// Anything else, `BLOCK_STATUS` included: no metadata context is ever agreed on.
    Other(u16),
}

impl Command {
    fn of_number(number: u16) -> Command {
        match number {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disconnect,
            3 => Command::Flush,
            4 => Command::Trim,
            5 => Command::Cache,
            6 => Command::WriteZeroes,
            other => Command::Other(other),
        }
    }
}

/// Bytes of a request without the data of a write.
pub(super) const REQUEST_SIZE: usize = 28;

/// A request as it comes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestHeader {
    pub(super) flags: u16,
    pub(super) command: Command,
    /// The client's name for it, given back as it came.
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// `N` bytes of `bytes` from `at`, which the caller has seen to be there.
fn field<const N: usize>(bytes: &[u8; REQUEST_SIZE], at: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes[at + index])
}

impl RequestHeader {
    /// Reads a request; `None` if the bytes do not begin with a request's first word.
    #[inline]
    pub(super) fn parse(bytes: &[u8; REQUEST_SIZE]) -> Option<RequestHeader> {
        if u32::from_be_bytes(field(bytes, 0)) != REQUEST {
            return None;
        }
        Some(RequestHeader {
            flags: u16::from_be_bytes(field(bytes, 4)),
            command: Command::of_number(u16::from_be_bytes(field(bytes, 6))),
            cookie: u64::from_be_bytes(field(bytes, 8)),
            offset: u64::from_be_bytes(field(bytes, 16)),
            length: u32::from_be_bytes(field(bytes, 24)),
        })
    }
}

/// Longest reply header.
const LONGEST_REPLY: usize = 28;

/// The bytes of a reply before its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReplyHeader {
    bytes: [u8; LONGEST_REPLY],
    length: usize,
}

impl ReplyHeader {
    /// No bytes.
    pub(super) const EMPTY: ReplyHeader = ReplyHeader {
        bytes: [0; LONGEST_REPLY],
        length: 0,
    };

    fn push<const N: usize>(&mut self, bytes: [u8; N]) {
        self.bytes[self.length..self.length + N].copy_from_slice(&bytes);
        self.length += N;
    }

    /// The bytes.
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// A simple reply; the data of a read follows when there is no error.
    #[inline]
    pub(super) fn simple(cookie: u64, error: u32) -> ReplyHeader {
        let mut header = ReplyHeader::EMPTY;
        header.push(SIMPLE_REPLY.to_be_bytes());
        header.push(error.to_be_bytes());
        header.push(cookie.to_be_bytes());
        header
    }

    fn chunk(cookie: u64, kind: u16, length: u32) -> ReplyHeader {
        /// No other chunk follows.
        const DONE: u16 = 1;
        let mut header = ReplyHeader::EMPTY;
        header.push(STRUCTURED_REPLY.to_be_bytes());
        header.push(DONE.to_be_bytes());
        header.push(kind.to_be_bytes());
        header.push(cookie.to_be_bytes());
        header.push(length.to_be_bytes());
        header
    }

    /// The one chunk of a structured reply to a read; `length` bytes of data follow.
    #[inline]
    pub(super) fn data(cookie: u64, offset: u64, length: u32) -> ReplyHeader {
        const OFFSET_DATA: u16 = 1;
        let mut header = ReplyHeader::chunk(cookie, OFFSET_DATA, length + 8);
        header.push(offset.to_be_bytes());
        header
    }

    /// A structured reply that says no more than that the request failed.
    pub(super) fn failure(cookie: u64, error: u32) -> ReplyHeader {
        const ERROR: u16 = (1 << 15) | 1;
        let mut header = ReplyHeader::chunk(cookie, ERROR, 6);
        header.push(error.to_be_bytes());
        // No message.
        header.push(0u16.to_be_bytes());
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_the_protocol_lays_them_out() {
        let mut bytes = [0; REQUEST_SIZE];
        bytes[..4].copy_from_slice(&[0x25, 0x60, 0x95, 0x13]);
        bytes[4..8].copy_from_slice(&[0, 1, 0, 6]);
        bytes[8..16].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        bytes[16..24].copy_from_slice(&0x1000u64.to_be_bytes());
        bytes[24..].copy_from_slice(&0x2000u32.to_be_bytes());
        let expected = RequestHeader {
            flags: flag::FUA,
            command: Command::WriteZeroes,
            cookie: 0x0102_0304_0506_0708,
            offset: 0x1000,
            length: 0x2000,
        };
        assert_eq!(RequestHeader::parse(&bytes), Some(expected));
        bytes[0] = 0;
        assert_eq!(RequestHeader::parse(&bytes), None);
    }

    #[test]
    fn replies_are_laid_out_as_in_the_protocol() {
        let simple = ReplyHeader::simple(7, 5);
        assert_eq!(
            simple.bytes(),
            [
                &[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5][..],
                &[0, 0, 0, 0, 0, 0, 0, 7]
            ]
            .concat()
        );
        let data = ReplyHeader::data(7, 0x200, 0x100);
        assert_eq!(data.bytes().len(), 28);
        assert_eq!(data.bytes()[..8], [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1]);
        assert_eq!(
            data.bytes()[16..20],
            [0, 0, 1, 8],
            "the chunk's length counts its offset"
        );
        let failure = ReplyHeader::failure(7, 28);
        assert_eq!(failure.bytes()[4..8], [0, 1, 0x80, 1]);
        assert_eq!(failure.bytes()[16..], [0, 0, 0, 6, 0, 0, 0, 28, 0, 0]);
    }
}
