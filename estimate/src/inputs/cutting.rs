//! A file or device that is being cut into pieces, holes left out.

use std::sync::Arc;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::blocks_of;
use super::input::{Input, Piece};
use crate::BLOCK;
use crate::complaints::Trouble;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Cutting {
    input: Arc<Input>,
    /// The next block.
    at: u64,
    /// The block where the data that `at` is in ends.
    data_end: u64,
    end: u64,
}

impl Cutting {
    /// All of an input. If it has holes, it is opened to find them.
    pub(super) fn new(input: &Arc<Input>, has_holes: bool) -> Result<Cutting, Trouble> {
        let end = blocks_of(input.bytes());
        if has_holes {
            input.file()?;
        }
        Ok(Cutting {
            input: Arc::clone(input),
            at: 0,
            data_end: if has_holes { 0 } else { end },
            end,
        })
    }

    /// The next piece, of `most` blocks at most. Holes before it, or before the end, are added to `holes`.
    pub(super) fn next_piece(&mut self, most: usize, holes: &mut u64) -> Option<Piece> {
        if self.at >= self.data_end && self.at < self.end {
            let (start, end) = self.next_data();
            *holes += start - self.at;
            (self.at, self.data_end) = (start, end);
        }
        let blocks = (self.data_end - self.at).min(most as u64) as usize;
        let piece = Piece {
            input: Arc::clone(&self.input),
            first: self.at,
            blocks,
        };
        self.at += blocks as u64;
        (blocks > 0).then_some(piece)
    }

    /// From which to before which block there is data next. A file system that knows of no holes has data up to the end.
    fn next_data(&self) -> (u64, u64) {
        let all = (self.at, self.end);
        let Ok(file) = self.input.file() else {
            return all;
        };
        let start = match seek(file, SeekFrom::Data(self.at * BLOCK)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return (self.end, self.end),
            Err(_) => return all,
        };
        let hole = seek(file, SeekFrom::Hole(start)).map_or(self.end, blocks_of);
        let start = (start / BLOCK).clamp(self.at, self.end);
        (start, hole.clamp(start, self.end))
    }
}
