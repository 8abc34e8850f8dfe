//! What the volume must say: a plain model of the device that tolerates requests under way at once.
//!
//! For every block the model keeps the writes whose data a read may still see. A write that ended before
//! another of the same bytes began is hidden by it; of writes that were under way at once either may be
//! the last. So where nothing overlaps exactly one value is right, and where requests overlap each
//! of theirs is. Within a block a write happens as a whole: bytes of two writes never mix but where
//! their ranges say so.
//!
//! Times are numbers of the world's events; the model asks only which came first.

use std::collections::HashMap;
use std::sync::Arc;

use vdo::types::BLOCK_SIZE;

use super::growth::Sizes;

/// A moment of the run.
pub type Moment = u64;

const OPEN: Moment = Moment::MAX;

/// Names a write: the moment it began.
pub type WriteId = Moment;

/// Where a write's bytes are.
#[derive(Clone, Debug)]
enum Bytes {
    Zero,
    /// Byte `i` of the block is at `shift + i` of the data.
    Of(Arc<[u8]>, isize),
}

impl Bytes {
    fn equal(&self, from: usize, got: &[u8]) -> bool {
        match self {
            Bytes::Zero => got.iter().all(|&byte| byte == 0),
            Bytes::Of(data, shift) => {
                let at = (from as isize + shift) as usize;
                data[at..at + got.len()] == *got
            }
        }
    }
}

/// A write's part in one block.
#[derive(Clone, Debug)]
struct Version {
    write: WriteId,
    start: Moment,
    end: Moment,
    /// Whether it surely happened, once ended; a write that failed may have.
    certain: bool,
    /// Whether it is durable once it has ended.
    durable: bool,
    from: usize,
    to: usize,
    bytes: Bytes,
}

impl Version {
    /// Whether nobody who began to look at `at` can see this any more because of `other`.
    fn is_hidden_by(&self, other: &Version, at: Moment) -> bool {
        other.certain && other.end <= at && other.start > self.end
    }

    /// Whether this can not be what a loss leaves, because of `other`: that was flushed by the flush
    /// that began at `flushed`, or needed none.
    fn is_outlived_by(&self, other: &Version, flushed: Moment) -> bool {
        let stays = other.end <= flushed || (other.durable && other.end != OPEN);
        other.certain && stays && other.start > self.end
    }

    fn covers(&self, from: usize, to: usize) -> bool {
        self.from <= from && to <= self.to
    }
}

/// A write of zeroes under way.
#[derive(Clone, Copy, Debug)]
struct Zeroing {
    write: WriteId,
    offset: u64,
    length: u64,
    durable: bool,
}

/// A value that no order of the requests explains.
#[derive(Debug)]
pub struct Wrong {
    /// Which block.
    pub lbn: u64,
    /// Which bytes of it.
    pub from: usize,
    /// To where.
    pub to: usize,
    /// What was read, the beginning.
    pub got: Vec<u8>,
    /// What might have been: each write, when it began and ended, and its beginning.
    pub wanted: Vec<String>,
}

/// What the device should hold.
#[derive(Default)]
pub struct Model {
    blocks: HashMap<u64, Vec<Version>>,
    /// Blocks a write under way has a part in.
    parts: HashMap<WriteId, Vec<u64>>,
    /// Writes of zeroes under way, in order. They may be large: their parts are kept only of blocks that somebody writes.
    zeroing: Vec<Zeroing>,
    /// Whether the volume may have lost what it had promised and nobody had flushed.
    lost: bool,
    /// Whether what was acknowledged may be lost, so that older values are to be remembered.
    pub may_lose: bool,
    /// When the last flush that succeeded began.
    flushed: Moment,
    /// How large it should be.
    pub sizes: Sizes,
}

/// The parts of `length` bytes at `offset`: block, first and last byte in it, place in the request.
pub fn parts(offset: u64, length: u64) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let size = BLOCK_SIZE as u64;
    let mut at = offset;
    let end = offset + length;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let from = (at % size) as usize;
            let to = (size).min(from as u64 + end - at) as usize;
            let part = (at / size, from, to, (at - offset) as usize);
            at += (to - from) as u64;
            part
        })
    })
}

impl Model {
    /// A write of `data` (or of zeroes) begins, which with `durable` needs no flush.
    pub fn begin(
        &mut self,
        write: WriteId,
        oldest_active: Moment,
        (offset, length): (u64, u64),
        data: Option<Arc<[u8]>>,
        durable: bool,
    ) {
        let settled = match self.may_lose {
            true => oldest_active.min(self.flushed),
            false => oldest_active,
        };
        let Some(data) = data else {
            let zeroing = Zeroing {
                write,
                offset,
                length,
                durable,
            };
            let blocks = offset / BLOCK_SIZE as u64..(offset + length).div_ceil(BLOCK_SIZE as u64);
            let mut touched: Vec<u64> = match blocks.end - blocks.start < self.blocks.len() as u64 {
                true => blocks.filter(|lbn| self.blocks.contains_key(lbn)).collect(),
                false => self
                    .blocks
                    .keys()
                    .copied()
                    .filter(|lbn| blocks.contains(lbn))
                    .collect(),
            };
            touched.sort_unstable();
            for &lbn in &touched {
                let versions = self.blocks.entry(lbn).or_default();
                forget(versions, settled);
                versions.extend(zeroing.part(lbn));
            }
            self.parts.insert(write, touched);
            return self.zeroing.push(zeroing);
        };
        let mut touched = Vec::new();
        for (lbn, from, to, start) in parts(offset, length) {
            touched.push(lbn);
            let versions = self.blocks.entry(lbn).or_insert_with(|| {
                let mut versions = vec![never()];
                for zeroing in &self.zeroing {
                    if let Some(version) = zeroing.part(lbn) {
                        versions.push(version);
                        self.parts.entry(zeroing.write).or_default().push(lbn);
                    }
                }
                versions
            });
            forget(versions, settled);
            versions.push(Version {
                write,
                start: write,
                end: OPEN,
                certain: false,
                durable,
                from,
                to,
                bytes: Bytes::Of(Arc::clone(&data), start as isize - from as isize),
            });
        }
        self.parts.insert(write, touched);
    }

    /// A write ends: it happened, it did not, or nobody knows.
    pub fn end(&mut self, write: WriteId, now: Moment, happened: Option<bool>) {
        self.zeroing.retain(|zeroing| zeroing.write != write);
        for lbn in self.parts.remove(&write).unwrap_or_default() {
            let versions = self.blocks.entry(lbn).or_default();
            if happened == Some(false) {
                versions.retain(|version| version.write != write);
                continue;
            }
            for version in versions.iter_mut().filter(|version| version.write == write) {
                version.end = now;
                version.certain = happened == Some(true);
            }
        }
    }

    /// A flush that began at `start` has succeeded.
    pub fn flushed(&mut self, start: Moment) {
        self.flushed = self.flushed.max(start);
    }

    /// The volume has turned read-only: what it acknowledged and did not flush may be lost.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    /// The power was gone, and what a block holds now is `got`. It must be something that may have been left; from now on
    /// it is what the block holds, durably.
    pub fn survives(&mut self, lbn: u64, got: &[u8]) -> Result<(), Box<Wrong>> {
        self.check_after_loss(lbn, got)?;
        let bytes = Bytes::Of(Arc::from(got), 0);
        self.blocks.insert(lbn, vec![Version { bytes, ..never() }]);
        Ok(())
    }

    /// Everything that was under way is over, for whoever asked is no more.
    pub fn forget_callers(&mut self) {
        self.parts.clear();
        self.zeroing.clear();
        self.lost = false;
    }

    /// Whether `got`, read at `offset` by a request that began at `start`, is right.
    pub fn check(&self, start: Moment, offset: u64, got: &[u8]) -> Result<(), Box<Wrong>> {
        for (lbn, from, to, place) in parts(offset, got.len() as u64) {
            let got = &got[place..place + to - from];
            self.check_block(start, self.lost, lbn, from, got)?;
        }
        Ok(())
    }

    /// Whether `got` may be what a block holds after a loss of power now.
    pub fn check_after_loss(&self, lbn: u64, got: &[u8]) -> Result<(), Box<Wrong>> {
        self.check_block(OPEN, true, lbn, 0, got)
    }

    fn check_block(
        &self,
        start: Moment,
        lost: bool,
        lbn: u64,
        from: usize,
        got: &[u8],
    ) -> Result<(), Box<Wrong>> {
        let nothing = [never()];
        let versions = self.blocks.get(&lbn).map_or(&nothing[..], Vec::as_slice);
        let to = from + got.len();
        let mut cuts = vec![from, to];
        for version in versions {
            cuts.extend(
                [version.from, version.to]
                    .into_iter()
                    .filter(|&cut| cut > from && cut < to),
            );
        }
        cuts.sort_unstable();
        cuts.dedup();
        // A read that began before what was lost was lost may have seen it.
        let hides = |version: &Version, other: &Version| {
            version.is_hidden_by(other, start)
                && (!lost || version.is_outlived_by(other, self.flushed))
        };
        for pair in cuts.windows(2) {
            let (first, last) = (pair[0], pair[1]);
            let bytes = &got[first - from..last - from];
            let here = || {
                versions
                    .iter()
                    .filter(|version| version.covers(first, last))
            };
            let allowed = || here().filter(|version| !here().any(|other| hides(version, other)));
            if !allowed().any(|version| version.bytes.equal(first, bytes)) {
                let show = |version: &Version| {
                    let hidden = here().any(|other| hides(version, other));
                    let equal = version.bytes.equal(first, bytes);
                    format!(
                        "write {} began {} ended {} certain {} hidden {hidden} equal {equal}",
                        version.write, version.start, version.end, version.certain
                    )
                };
                return Err(Box::new(Wrong {
                    lbn,
                    from: first,
                    to: last,
                    got: bytes[..bytes.len().min(16)].to_vec(),
                    wanted: here().map(show).collect(),
                }));
            }
        }
        Ok(())
    }

    /// Every block that was ever written, in order.
    pub fn touched(&self) -> Vec<u64> {
        let mut blocks: Vec<_> = self.blocks.keys().copied().collect();
        blocks.sort_unstable();
        blocks
    }
}

impl Zeroing {
    /// Its part in a block, if it has one.
    fn part(&self, lbn: u64) -> Option<Version> {
        let block = lbn * BLOCK_SIZE as u64..(lbn + 1) * BLOCK_SIZE as u64;
        let from = self.offset.max(block.start);
        let to = (self.offset + self.length).min(block.end);
        (from < to).then(|| Version {
            write: self.write,
            start: self.write,
            end: OPEN,
            certain: false,
            durable: self.durable,
            from: (from - block.start) as usize,
            to: (to - block.start) as usize,
            bytes: Bytes::Zero,
        })
    }
}

/// What a block holds that nobody has written.
fn never() -> Version {
    Version {
        write: 0,
        start: 0,
        end: 0,
        certain: true,
        durable: true,
        from: 0,
        to: BLOCK_SIZE,
        bytes: Bytes::Zero,
    }
}

/// Drops versions that nobody can see any more who begins at `settled` or later.
fn forget(versions: &mut Vec<Version>, settled: Moment) {
    if versions.len() < 2 {
        return;
    }
    let hidden: Vec<bool> = versions
        .iter()
        .map(|version| {
            versions.iter().any(|other| {
                other.covers(version.from, version.to) && version.is_hidden_by(other, settled)
            })
        })
        .collect();
    let mut hidden = hidden.into_iter();
    versions.retain(|_| !hidden.next().unwrap_or(false));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(byte: u8) -> Option<Arc<[u8]>> {
        Some(vec![byte; BLOCK_SIZE].into())
    }

    #[test]
    fn only_the_last_of_writes_that_do_not_overlap_is_right() {
        let mut model = Model::default();
        model.begin(1, 1, (0, 4096), data(1), false);
        model.end(1, 2, Some(true));
        model.begin(3, 3, (0, 4096), data(2), false);
        model.end(3, 4, Some(true));
        assert!(model.check(5, 0, &[2; 4096]).is_ok());
        assert!(model.check(5, 0, &[1; 4096]).is_err());
        assert!(model.check(5, 0, &[0; 4096]).is_err());
        assert!(model.check(5, 4096, &[0; 4096]).is_ok());
    }

    #[test]
    fn either_of_two_overlapping_writes_is_right_but_no_mixture() {
        let mut model = Model::default();
        model.begin(1, 1, (0, 4096), data(1), false);
        model.begin(2, 1, (0, 4096), data(2), false);
        assert!(model.check(3, 0, &[0; 4096]).is_ok());
        model.end(1, 4, Some(true));
        model.end(2, 5, Some(true));
        assert!(model.check(6, 0, &[1; 4096]).is_ok());
        assert!(model.check(6, 0, &[2; 4096]).is_ok());
        assert!(model.check(6, 0, &[0; 4096]).is_err());
        let mut mixed = [1; 4096];
        mixed[4095] = 2;
        assert!(model.check(6, 0, &mixed).is_err());
    }

    #[test]
    fn zeroes_under_way_when_a_block_is_first_written_may_come_before_or_after() {
        let mut model = Model::default();
        model.begin(1, 1, (0, 1 << 40), None, false);
        model.begin(2, 1, (4096, 4096), data(1), false);
        model.end(2, 3, Some(true));
        assert!(model.check(4, 4096, &[0; 4096]).is_ok());
        assert!(model.check(4, 4096, &[1; 4096]).is_ok());
        model.end(1, 5, Some(true));
        assert!(model.check(6, 4096, &[0; 4096]).is_ok());
        model.begin(7, 7, (0, 1 << 40), None, false);
        model.end(7, 8, Some(true));
        assert!(model.check(9, 4096, &[1; 4096]).is_err());
        assert!(model.check(9, 4096, &[0; 4096]).is_ok());
        assert_eq!(model.touched(), [1]);
    }

    #[test]
    fn a_part_of_a_block_changes_alone() {
        let mut model = Model::default();
        model.begin(1, 1, (0, 4096), data(1), false);
        model.end(1, 2, Some(true));
        model.begin(3, 3, (1024, 512), data(2), false);
        model.end(3, 4, Some(true));
        let mut block = [1; 4096];
        assert!(model.check(5, 0, &block).is_err());
        block[1024..1536].fill(2);
        assert!(model.check(5, 0, &block).is_ok());
    }

    #[test]
    fn a_write_that_failed_without_a_trace_must_not_be_seen() {
        let mut model = Model::default();
        model.begin(1, 1, (0, 4096), data(1), false);
        model.end(1, 2, Some(false));
        assert!(model.check(5, 0, &[1; 4096]).is_err());
        assert!(model.check(5, 0, &[0; 4096]).is_ok());
        model.begin(3, 3, (0, 4096), data(2), false);
        model.end(3, 4, None);
        assert!(model.check(5, 0, &[2; 4096]).is_ok());
        assert!(model.check(5, 0, &[0; 4096]).is_ok());
    }

    #[test]
    fn what_was_flushed_stays_even_when_the_volume_loses_the_rest() {
        let mut model = Model {
            may_lose: true,
            ..Model::default()
        };
        model.begin(1, 1, (0, 4096), data(1), false);
        model.end(1, 2, Some(true));
        model.flushed(3);
        model.begin(4, 4, (0, 4096), data(2), false);
        model.end(4, 5, Some(true));
        assert!(model.check(6, 0, &[1; 4096]).is_err());
        model.lose();
        assert!(model.check(6, 0, &[1; 4096]).is_ok());
        assert!(model.check(6, 0, &[2; 4096]).is_ok());
        assert!(model.check(6, 0, &[0; 4096]).is_err());
    }
}
