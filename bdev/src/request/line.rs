//! The line in which callers' requests wait for records.
//!
//! Each request gets a record for its next piece of one block in turn, and goes to the end again. Long requests
//! stand apart from short ones: the two take turns, so that neither waits for more than one piece of each of the
//! others; and a share of the records is kept from the long ones. So a short request finds a record at once, even
//! if those that long ones hold all wait for a slow disk.

use super::pieces::Cursor;
use super::sweep::{Sweep, SweepReport};
use crate::runtime::queue::Queue;
use crate::seam::{HostRequest, Nanos};

/// A request of more bytes than this is long.
const LONG: u64 = 64 * 1024;

/// One record of so many is kept from long requests.
const KEPT: usize = 4;

/// A caller's request in the line.
pub(super) enum Waiting<R> {
    /// Each of its blocks is served. When it came.
    Pieces(Cursor<R>, Nanos),
    /// Only those of its blocks that are mapped.
    Sweep(Box<Sweep<R>>),
}

impl<R: Clone> Waiting<R> {
    fn is_long(&self) -> bool {
        let header = match self {
            Waiting::Pieces(cursor, _) => cursor.header(),
            Waiting::Sweep(sweep) => sweep.header(),
        };
        header.length > LONG
    }
}

/// All that wait. See the [module](self).
pub(super) struct Line<R> {
    short: Queue<Waiting<R>>,
    long: Queue<Waiting<R>>,
    /// Whether it is a long one's turn.
    long_next: bool,
    /// How many records are kept from long requests.
    kept: usize,
}

impl<R: Clone> Line<R> {
    /// Nobody waits, for any of so many records.
    pub(super) fn new(records: usize) -> Line<R> {
        Line {
            short: Queue::with_capacity(records),
            long: Queue::with_capacity(records / KEPT),
            long_next: false,
            kept: records / KEPT,
        }
    }

    /// Puts a request at the end.
    pub(super) fn join(&mut self, waiting: Waiting<R>) {
        match waiting.is_long() {
            true => self.long.push(waiting),
            false => self.short.push(waiting),
        }
    }

    /// Whether a long one waits that may have one of `idle` free records.
    fn long_may(&self, idle: usize) -> bool {
        !self.long.is_empty() && idle > self.kept
    }

    /// Whether somebody may have one of `idle` free records.
    pub(super) fn may_proceed(&self, idle: usize) -> bool {
        self.long_may(idle) || (!self.short.is_empty() && idle > 0)
    }

    /// Whose turn it is to have one of `idle` free records.
    pub(super) fn next(&mut self, idle: usize) -> Option<Waiting<R>> {
        if !self.may_proceed(idle) {
            return None;
        }
        let long = self.long_may(idle) && (self.long_next || self.short.is_empty());
        self.long_next = !long;
        match long {
            true => self.long.pop(),
            false => self.short.pop(),
        }
    }

    /// Takes somebody out who will not be served.
    pub(super) fn send_away(&mut self) -> Option<Waiting<R>> {
        self.short.pop().or_else(|| self.long.pop())
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.short.len() + self.long.len()
    }

    /// Bytes of memory it holds.
    pub(super) fn memory_held(&self) -> usize {
        self.short.memory_held() + self.long.memory_held()
    }
}

impl<R: HostRequest> Line<R> {
    /// Each unmap and write of zeroes in it.
    pub(super) fn sweeps(&self) -> impl Iterator<Item = SweepReport> {
        let all = self.short.iter().chain(self.long.iter());
        all.filter_map(|waiting| match waiting {
            Waiting::Sweep(sweep) => Some(sweep.report()),
            Waiting::Pieces(..) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seam::{RequestHeader, RequestKind};

    fn request(name: char, length: u64) -> Waiting<char> {
        let header = RequestHeader {
            kind: RequestKind::Read,
            offset: 0,
            length,
            fua: false,
        };
        Waiting::Pieces(Cursor::new(name, header), Nanos(0))
    }

    /// Who has the next turns, with so many free records each time; each goes to the end again.
    fn turns(line: &mut Line<char>, idle: usize, count: usize) -> String {
        let mut names = String::new();
        for _ in 0..count {
            let Some(Waiting::Pieces(cursor, came)) = line.next(idle) else {
                break;
            };
            names.push(cursor.clone().into_parts().0);
            line.join(Waiting::Pieces(cursor, came));
        }
        names
    }

    #[test]
    fn long_and_short_requests_take_turns_and_a_share_of_records_is_kept_for_short_ones() {
        let mut line = Line::new(8);
        assert!(line.next(8).is_none());
        for name in ['A', 'B', 'C'] {
            line.join(request(name, LONG + 1));
        }
        assert_eq!(turns(&mut line, 3, 4), "ABCA");
        assert_eq!(turns(&mut line, 2, 4), "", "these are kept");
        assert!(!line.may_proceed(2));
        for name in ['x', 'y'] {
            line.join(request(name, LONG));
        }
        assert_eq!(turns(&mut line, 3, 6), "xByCxA");
        assert_eq!(turns(&mut line, 2, 4), "yxyx");
        assert!(line.may_proceed(1) && !line.may_proceed(0));
        assert_eq!(turns(&mut line, 8, 2), "By", "the long ones have waited");
        assert_eq!(line.len(), 5);
    }

    #[test]
    fn of_a_single_record_none_is_kept() {
        let mut line = Line::new(1);
        line.join(request('A', LONG + 1));
        assert_eq!(turns(&mut line, 1, 2), "AA");
        assert!(line.send_away().is_some() && line.send_away().is_none());
    }
}
