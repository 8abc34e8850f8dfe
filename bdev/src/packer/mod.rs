//! The packer: compressed data of several writes becomes one block.
//!
//! What is compressed to less than a block is of use only if it shares a block with others. So a write whose data
//! was compressed lies here until it has company:
//!
//! 1. Its *fragment* is put into a [`bin`] ([`Packer::put`]): of those with room for it the fullest. If none has room, it
//!    begins a bin of its own. If there are as many bins as there may be, the fullest leaves to make room, unless the
//!    newcomer is as big as all that lies in it: then it is the newcomer that is better written alone.
//! 2. A bin with fourteen fragments, or without a byte left, leaves at once ([`Leaving`]). All in it are written together, as
//!    one block; one that is in it by itself is written uncompressed.
//! 3. Whoever somebody waits for is taken out before, and is written uncompressed ([`Packer::take_out`]).
//! 4. Nobody lies here for ever: bins leave when nothing has come for [`QUIET`], one that is [`OLD`] leaves in any
//!    case ([`Packer::next_due`]), and all leave when they have to ([`Packer::leave_next`]).
//!
//! The bytes lie in the block that is going to be written from the beginning, one behind the other. The blocks are a fixed
//! number; one that leaves comes back when it is on disk ([`Packer::give_back`]). There are enough of them for all requests to be under way in
//! packed blocks, so that a slow device costs no room. With none left, a write that finds no room would be written alone.
//!
//! One packer lies beside each hash zone, on its thread: there the data is, its allocation and its hash lock. So nothing
//! is under way to a packer or out of it, and what dm-vdo needs for writes that are (stages, a bin of
//! cancelled writes that wait for their canceller) has no counterpart here.
//!
//! It does no I/O and reads no clock; the hash zone's driver writes what leaves.

mod bin;
#[cfg(test)]
mod tests;

use self::bin::Bin;
pub use self::bin::Company;
use crate::buffer::Buffer;
use crate::dedupe::RequestId;
use crate::seam::Nanos;

/// Bins of a packer at most, as in dm-vdo.
const BINS: u32 = 16;

/// One bin for so many requests, that no more than a part of them lies in bins that nothing comes to any more.
const REQUESTS_PER_BIN: u32 = 4;

/// Writes whose fragments are in a block that leaves, at least.
const LEAST_COMPANY: u32 = 2;

/// When nothing has come for so long, nothing is taken to be coming.
pub const QUIET: Nanos = Nanos(1_000_000);

/// No bin waits longer for its last fragment, whatever comes.
pub const OLD: Nanos = Nanos(20_000_000);

/// How many bins a packer beside a zone thread with records for `requests` requests has.
fn bins_for(requests: u32) -> u32 {
    (requests / REQUESTS_PER_BIN).clamp(1, BINS)
}

/// How many blocks such a packer needs: one for each bin, and those that can be being written at once.
pub fn blocks_for(requests: u32) -> u32 {
    bins_for(requests) + requests / LEAST_COMPANY
}

/// What became of a fragment.
#[derive(Debug)]
pub enum Put {
    /// There is no good place for it.
    Alone,
    /// It lies in a bin. If a bin had to leave, perhaps with this fragment in it, it is to be written.
    Lies(Option<Leaving>),
}

/// Writes that lie in the packer no longer.
#[derive(Debug)]
pub enum Leaving {
    /// It had no company: its data is to be written uncompressed.
    Alone(RequestId),
    /// A block with the fragments of all of them, in the order of slots.
    Together(Company, Buffer),
}

/// A packer. See the [module](self).
#[derive(Debug)]
pub struct Packer {
    /// Those that hold something, the fullest first.
    bins: Vec<Bin>,
    most_bins: usize,
    /// Blocks nobody packs into.
    blocks: Vec<Buffer>,
    lying: u32,
    /// When a fragment came last.
    last: Nanos,
    /// When the next look for bins that are due makes sense. Set anew only by that look.
    due: Option<Nanos>,
}

impl Packer {
    /// An empty packer for a zone thread with records for `requests` requests, over [`blocks_for`] as many.
    pub fn new(requests: u32, blocks: Vec<Buffer>) -> Packer {
        let most_bins = bins_for(requests) as usize;
        Packer {
            bins: Vec::with_capacity(most_bins),
            most_bins,
            blocks,
            lying: 0,
            last: Nanos(0),
            due: None,
        }
    }

    /// Bytes of memory it holds, its blocks aside.
    pub fn memory_held(&self) -> usize {
        self.bins.capacity() * size_of::<Bin>() + self.blocks.capacity() * size_of::<Buffer>()
    }

    /// How many blocks are here, those being written not among them.
    pub fn blocks(&self) -> usize {
        self.blocks.len() + self.bins.len()
    }

    /// How many fragments lie here.
    pub fn lying(&self) -> u32 {
        self.lying
    }

    /// Finds a place for the fragment of a write that is not here.
    pub fn put(&mut self, id: RequestId, fragment: &[u8], now: Nanos) -> Put {
        let fits = |bin: &Bin| bin.has_room_for(fragment.len());
        if let Some(place) = self.bins.iter().position(fits) {
            self.add(place, id, fragment, now);
            if self.bins[place].is_full() {
                return Put::Lies(Some(self.leave(place)));
            }
            self.sort(place);
            return Put::Lies(None);
        }
        let crowded = self.bins.len() == self.most_bins;
        let smaller = |fullest: &Bin| fullest.used() <= fragment.len();
        if crowded && self.bins.first().is_none_or(smaller) {
            return Put::Alone;
        }
        let Some(block) = self.blocks.pop() else {
            return Put::Alone;
        };
        let leaving = crowded.then(|| self.leave(0));
        self.bins.push(Bin::new(block, now));
        let place = self.bins.len() - 1;
        self.add(place, id, fragment, now);
        self.sort(place);
        Put::Lies(leaving)
    }

    fn add(&mut self, place: usize, id: RequestId, fragment: &[u8], now: Nanos) {
        self.bins[place].add(id, fragment);
        self.lying += 1;
        self.last = now;
        self.due.get_or_insert(Nanos(now.0 + QUIET.0));
    }

    /// Brings the bin at `place`, the only one that may be out of order, to where it belongs.
    fn sort(&mut self, mut place: usize) {
        while place > 0 && self.bins[place - 1].used() < self.bins[place].used() {
            self.bins.swap(place - 1, place);
            place -= 1;
        }
        while place + 1 < self.bins.len() && self.bins[place].used() < self.bins[place + 1].used() {
            self.bins.swap(place, place + 1);
            place += 1;
        }
    }

    fn leave(&mut self, place: usize) -> Leaving {
        let bin = self.bins.remove(place);
        let company = *bin.company();
        self.lying -= u32::from(company.size());
        match company.only() {
            Some(id) => {
                self.blocks.push(bin.into_block());
                Leaving::Alone(id)
            }
            None => Leaving::Together(company, bin.finish()),
        }
    }

    /// Takes a write out, if it lies here; says whether it did.
    pub fn take_out(&mut self, id: RequestId) -> bool {
        let Some(place) = self.bins.iter().position(|bin| bin.holds(id)) else {
            return false;
        };
        self.lying -= 1;
        if self.bins[place].take_out(id) {
            self.sort(place);
        } else {
            let bin = self.bins.remove(place);
            self.blocks.push(bin.into_block());
        }
        true
    }

    /// The next bin, if all are to leave.
    pub fn leave_next(&mut self) -> Option<Leaving> {
        (!self.bins.is_empty()).then(|| self.leave(0))
    }

    /// When [`Packer::next_due`] is to be asked; `None` for never.
    pub fn deadline(&self) -> Option<Nanos> {
        self.due
    }

    /// The next bin that is due to leave, once the deadline has come. To be asked until there is none.
    pub fn next_due(&mut self, now: Nanos) -> Option<Leaving> {
        self.due.filter(|due| *due <= now)?;
        let over = now.0 >= self.last.0 + QUIET.0;
        let due = |bin: &Bin| over || now.0 >= bin.opened().0 + OLD.0;
        if let Some(place) = self.bins.iter().position(due) {
            return Some(self.leave(place));
        }
        let busy = !self.bins.is_empty();
        self.due = busy.then(|| Nanos(self.last.0 + QUIET.0));
        None
    }

    /// Takes back the block of a bin that left.
    pub fn give_back(&mut self, block: Buffer) {
        self.blocks.push(block);
    }
}
