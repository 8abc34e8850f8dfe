//! How a caller's request becomes requests for single blocks.
//!
//! A request is handed to each zone thread that owns some of its blocks as a [`Cursor`], which yields
//! that zone's [`Piece`]s one by one, as request slots become free. So a request of any size costs one
//! message to each zone, and never more memory than its cursor.

use crate::block_map::TreeOwners;
use crate::format::tree::ENTRIES_PER_PAGE;
use crate::seam::{RequestHeader, RequestKind};
use crate::types::{BLOCK_SIZE, Lbn, ZoneIndex};

/// A part of a request, in one block: what one record serves.
#[derive(Clone, Debug)]
pub struct Piece<R> {
    /// The request it is a part of.
    pub request: R,
    /// What is wanted.
    pub kind: RequestKind,
    /// The logical block.
    pub lbn: Lbn,
    /// Where the piece begins, in bytes into the request.
    pub start: usize,
    /// First byte in the block; zero unless the piece is partial.
    pub offset: usize,
    /// Bytes of the piece.
    pub length: usize,
    /// Whether a write must be durable before it is acknowledged.
    pub fua: bool,
}

/// What is left of a request for one zone thread.
#[derive(Clone, Debug)]
pub struct Cursor<R> {
    request: R,
    header: RequestHeader,
    /// First byte of the volume not yet yielded.
    position: u64,
}

impl<R: Clone> Cursor<R> {
    /// All of a request.
    pub fn new(request: R, header: RequestHeader) -> Cursor<R> {
        Cursor {
            request,
            header,
            position: header.offset,
        }
    }

    /// What was asked.
    pub fn header(&self) -> &RequestHeader {
        &self.header
    }

    /// The request, and what was asked.
    pub fn into_parts(self) -> (R, RequestHeader) {
        (self.request, self.header)
    }

    /// The next piece that belongs to `zone`; `None` when there is none left.
    pub fn next(&mut self, owners: &TreeOwners, zone: ZoneIndex) -> Option<Piece<R>> {
        let block_size = BLOCK_SIZE as u64;
        let end = self.header.offset + self.header.length;
        loop {
            if self.position >= end {
                return None;
            }
            let lbn = self.position / block_size;
            let page = lbn / ENTRIES_PER_PAGE;
            if owners.is_one() || owners.of_block(Lbn(lbn)) == zone {
                return Some(self.take(lbn, end));
            }
            self.position = (page + 1) * ENTRIES_PER_PAGE * block_size;
        }
    }

    /// Whether nothing is left for any zone.
    pub fn is_finished(&self) -> bool {
        self.position >= self.header.offset + self.header.length
    }

    fn take(&mut self, lbn: u64, end: u64) -> Piece<R> {
        let block_size = BLOCK_SIZE as u64;
        let position = self.position;
        let offset = position % block_size;
        let length = (block_size - offset).min(end - position);
        self.position += length;
        Piece {
            request: self.request.clone(),
            kind: self.header.kind,
            lbn: Lbn(lbn),
            start: (position - self.header.offset) as usize,
            offset: offset as usize,
            length: length as usize,
            fua: self.header.fua,
        }
    }
}

/// Which zone threads own a part of a request: bit *i* for zone *i*.
pub(crate) fn zones_of(header: &RequestHeader, owners: &TreeOwners) -> u64 {
    if header.length == 0 {
        return 0;
    }
    let page_bytes = ENTRIES_PER_PAGE * BLOCK_SIZE as u64;
    let first = header.offset / page_bytes;
    let last = (header.offset + header.length - 1) / page_bytes;
    // After that come the same trees again.
    let last = last.min(first + owners.trees() - 1);
    let everyone = u64::MAX >> (64 - owners.zones());
    let mut set = 0;
    for page in first..=last {
        set |= 1 << owners.of_leaf(page).get();
        if set == everyone {
            break;
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(kind: RequestKind, offset: u64, length: u64) -> RequestHeader {
        RequestHeader {
            kind,
            offset,
            length,
            fua: false,
        }
    }

    proptest! {
        #[test]
        fn pieces_of_all_zones_cover_a_request_exactly_once(
            zones in 1u8..8,
            offset in 0u64..50_000_000,
            length in 1u64..20_000_000,
            unmap: bool,
        ) {
            let kind = if unmap { RequestKind::Unmap } else { RequestKind::Write };
            let header = header(kind, offset, length);
            let owners = TreeOwners::new(60, zones);
            let set = zones_of(&header, &owners);
            let mut spans = Vec::new();
            for zone in 0..zones {
                let mut cursor = Cursor::new((), header);
                let mut any = false;
                while let Some(piece) = cursor.next(&owners, ZoneIndex(zone)) {
                    any = true;
                    let begin = piece.lbn.get() * BLOCK_SIZE as u64 + piece.offset as u64;
                    prop_assert_eq!(begin, offset + piece.start as u64);
                    prop_assert!(piece.offset + piece.length <= BLOCK_SIZE);
                    spans.push((begin, piece.length as u64));
                }
                prop_assert_eq!(any, set & (1 << zone) != 0);
            }
            spans.sort_unstable();
            let mut at = offset;
            for (begin, length) in spans {
                prop_assert_eq!(begin, at);
                at += length;
            }
            prop_assert_eq!(at, offset + length);
        }
    }
}
