//! What a volume would store of blocks that come in a certain order.
//!
//! - A block that is zero takes no room.
//! - A content that comes for the first time takes a block. A block takes 254 references: the 255th of the same content is stored again.
//! - With compression, a content that is new is squeezed and put into the engine's packer. If the same comes again while it lies there,
//!   it is taken out and gets a block of its own, as in the engine, where somebody would wait for it. The references to all fragments of a packed block
//!   are 254 at most, too.
//!
//! The packer is one, as beside a hash zone of a volume with one zone thread; bins leave it when they are full or in the way, that is, data is
//! taken to come fast enough.
//!
//! All [`Counts`] are of blocks, and what a sample stands for is in them.

use vdo::buffer::{Buffer, DmaMemory, HeapMemory};
use vdo::content::{Company, Compressor, Leaving, Packer, Put, RequestId, blocks_for};
use vdo::format::Block;
use vdo::format::index::geometry::IndexGeometry;
use vdo::seam::Nanos;
use vdo::types::{MAXIMUM_REFERENCE_COUNT, RecordName};
use vdo::volume::VolumeOptions;

use std::sync::Arc;

use crate::names::{Entry, Half, NameTable, Place};
use crate::window::{Time, Window};

/// Of the memory, one part in so many is for the references to packed blocks.
const PACKED_SHARE: u64 = 32;

/// What is known of a block's compressed data.
#[derive(Clone, Copy, Debug)]
pub enum Squeezed<'a> {
    /// Nothing, for its name seemed to be known.
    Untried,
    /// It does not become small enough to share a block.
    TooLarge,
    /// A fragment.
    Fragment(&'a [u8]),
}

/// What came, and what became of it, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Blocks that are not zero.
    pub data: u64,
    /// Different contents.
    pub unique: u64,
    /// Blocks stored without compression.
    pub copies: u64,
    /// Fragments stored with compression.
    pub fragments: u64,
    /// Blocks that they are stored in.
    pub packed: u64,
    /// Blocks that are stored with compression as they are.
    pub singles: u64,
}

/// How often contents came: so many contents came `1 << i` times or more, and less than twice as often.
pub type Repeats = Vec<Repeat>;

/// One row of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repeat {
    /// Contents.
    pub contents: u64,
    /// Blocks with these contents.
    pub blocks: u64,
}

/// What is stored. See the [module](self).
#[derive(Debug)]
pub struct Store {
    names: NameTable,
    windows: Vec<Window>,
    packing: Option<Packing>,
    counts: Counts,
}

impl Store {
    /// An empty one that takes `memory` bytes at most, for each of these indexes, with or without compression.
    pub fn new(memory: u64, indexes: &[IndexGeometry], compression: bool) -> Store {
        let for_packed = memory / PACKED_SHARE;
        Store {
            names: NameTable::new(memory - for_packed),
            windows: indexes.iter().copied().map(Window::new).collect(),
            packing: compression.then(|| Packing::new(for_packed as usize)),
            counts: Counts::default(),
        }
    }

    /// Whether a block with this name should be squeezed before it comes.
    pub fn wants_squeezed(&self, name: &RecordName) -> bool {
        self.packing.is_some() && self.names.is_followed(name) && !self.names.knows(name)
    }

    /// A block comes that is not zero.
    pub fn meet(&mut self, name: &RecordName, block: &Block, squeezed: Squeezed<'_>) {
        let now = Time::after(self.counts.data);
        self.counts.data += 1;
        if !self.names.is_followed(name) {
            return;
        }
        if self.is_full() {
            self.halve();
            if !self.names.is_followed(name) {
                return;
            }
        }
        let weight = self.names.weight();
        let (half, entry, last) = self.names.meet(name, now);
        let is_new = last.is_none();
        self.counts.unique += if is_new { weight } else { 0 };
        let is_copied = (entry.times - 1).is_multiple_of(MAXIMUM_REFERENCE_COUNT.into());
        self.counts.copies += if is_copied { weight } else { 0 };
        for window in &mut self.windows {
            window.meet(name, last, now, weight);
        }
        let Some(packing) = &mut self.packing else {
            return;
        };
        if is_new || !packing.refer(entry, weight, &mut self.counts) {
            let packed = packing.store(half, block, squeezed);
            self.settle(half, packed);
        }
    }

    /// Notes where a content is that was stored, and those that left the packer for it.
    fn settle(&mut self, half: Half, put: Stored) {
        let weight = self.names.weight();
        match put {
            Stored::Single => {
                self.counts.singles += weight;
                self.place(half, Place::Single { references: 1 });
            }
            Stored::Lying(id, leaving) => {
                self.place(half, Place::Lying(id.0));
                if let Some(leaving) = leaving {
                    self.leave(leaving);
                }
            }
        }
    }

    fn place(&mut self, half: Half, place: Place) {
        if let Some(entry) = self.names.get_mut(half) {
            entry.set_place(place);
        }
    }

    fn leave(&mut self, leaving: Leaving) {
        let weight = self.names.weight();
        let Some(packing) = &mut self.packing else {
            return;
        };
        match leaving {
            Leaving::Alone(id) => {
                self.counts.singles += weight;
                if let Some(half) = packing.let_go(id) {
                    self.place(half, Place::Single { references: 1 });
                }
            }
            Leaving::Together(company, buffer) => {
                self.counts.fragments += u64::from(company.size()) * weight;
                self.counts.packed += weight;
                let place = packing.pack(&company, buffer);
                for id in company.ids() {
                    let half = self
                        .packing
                        .as_mut()
                        .and_then(|packing| packing.let_go(*id));
                    if let Some(half) = half {
                        self.place(half, place);
                    }
                }
            }
        }
    }

    /// Whether there is no room for another content.
    fn is_full(&self) -> bool {
        self.names.is_full() || self.packing.as_ref().is_some_and(Packing::is_full)
    }

    /// Makes room: every second name is followed no more.
    fn halve(&mut self) {
        self.empty_packer();
        self.names.halve();
        if let Some(packing) = &mut self.packing {
            packing.forget_unused(&mut self.names);
        }
    }

    fn empty_packer(&mut self) {
        while let Some(leaving) = self
            .packing
            .as_mut()
            .and_then(|one| one.packer.leave_next())
        {
            self.leave(leaving);
        }
    }

    /// No more blocks come. What was counted, what each index forgot, how often contents came, and for how many each of those that were followed stands.
    pub fn finish(mut self) -> Outcome {
        self.empty_packer();
        let weight = self.names.weight();
        let mut repeats = Repeats::new();
        for entry in self.names.iter() {
            let row = entry.times.ilog2() as usize;
            if repeats.len() <= row {
                repeats.resize(row + 1, Repeat::default());
            }
            repeats[row].contents += weight;
            repeats[row].blocks += u64::from(entry.times) * weight;
        }
        Outcome {
            counts: self.counts,
            forgotten: self.windows.iter().map(Window::forgotten).collect(),
            repeats,
            weight,
        }
    }
}

/// What came of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Blocks.
    pub counts: Counts,
    /// Of each index, duplicates that it did not know as such.
    pub forgotten: Vec<u64>,
    /// How often contents came.
    pub repeats: Repeats,
    /// For how many contents each of those stands that were followed to the end; 1 if all were.
    pub weight: u64,
}

/// Where a content went that had to be stored.
#[derive(Debug)]
enum Stored {
    /// Into a block of its own.
    Single,
    /// Into the packer, as this write's; something else may have left it.
    Lying(RequestId, Option<Leaving>),
}

/// Compression: the packer and what is in packed blocks.
#[derive(Debug)]
struct Packing {
    packer: Packer,
    compressor: Compressor,
    /// Whose fragments lie in the packer, by the numbers it knows them by.
    lying: Vec<Option<Half>>,
    /// Numbers that are not in use.
    free: Vec<RequestId>,
    /// References to the fragments of each packed block.
    references: Vec<u8>,
    most_packed: usize,
}

impl Packing {
    /// With room for `bytes` bytes of references to packed blocks.
    fn new(bytes: usize) -> Packing {
        let requests = VolumeOptions::default().requests;
        let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
        let blocks = (0..blocks_for(requests)).filter_map(|_| Buffer::new(&memory, 1));
        Packing {
            packer: Packer::new(requests, blocks.collect()),
            compressor: Compressor::default(),
            lying: vec![None; requests as usize],
            free: (0..requests).map(RequestId).collect(),
            references: Vec::new(),
            // Room for those of the old and the new vector, while it grows.
            most_packed: bytes / 2,
        }
    }

    fn is_full(&self) -> bool {
        self.references.len() >= self.most_packed
    }

    /// A content came again that is stored: refers to it where it is, if that can be.
    fn refer(&mut self, entry: &mut Entry, weight: u64, counts: &mut Counts) -> bool {
        let references = match entry.place() {
            Place::Lying(id) => {
                self.packer.take_out(RequestId(id));
                self.let_go(RequestId(id));
                counts.singles += weight;
                entry.set_place(Place::Single { references: 2 });
                return true;
            }
            Place::Single { references } => references,
            Place::Packed(block) => self.references[block as usize],
        };
        if references >= MAXIMUM_REFERENCE_COUNT {
            return false;
        }
        match entry.place() {
            Place::Packed(block) => self.references[block as usize] += 1,
            _ => entry.set_place(Place::Single {
                references: references + 1,
            }),
        }
        true
    }

    /// Stores a content.
    fn store(&mut self, half: Half, block: &Block, squeezed: Squeezed<'_>) -> Stored {
        let fragment = match squeezed {
            Squeezed::Untried => self.compressor.compress(block),
            Squeezed::TooLarge => None,
            Squeezed::Fragment(fragment) => Some(fragment),
        };
        let (Some(fragment), Some(id)) = (fragment, self.free.pop()) else {
            return Stored::Single;
        };
        match self.packer.put(id, fragment, Nanos(0)) {
            Put::Alone => {
                self.free.push(id);
                Stored::Single
            }
            Put::Lies(leaving) => {
                self.lying[id.0 as usize] = Some(half);
                Stored::Lying(id, leaving)
            }
        }
    }

    /// Takes note that a write lies in the packer no more; whose it was.
    fn let_go(&mut self, id: RequestId) -> Option<Half> {
        self.free.push(id);
        self.lying[id.0 as usize].take()
    }

    /// A block of fragments is stored; where they are.
    fn pack(&mut self, company: &Company, buffer: Buffer) -> Place {
        self.packer.give_back(buffer);
        self.references.push(company.size());
        Place::Packed(self.references.len() as u32 - 1)
    }

    /// Numbers packed blocks anew, without those that none of these names is in.
    fn forget_unused(&mut self, names: &mut NameTable) {
        const UNUSED: u32 = u32::MAX;
        let mut numbers = vec![UNUSED; self.references.len()];
        let mut kept = Vec::new();
        for entry in names.iter_mut() {
            if let Place::Packed(block) = entry.place() {
                let number = &mut numbers[block as usize];
                if *number == UNUSED {
                    *number = kept.len() as u32;
                    kept.push(self.references[block as usize]);
                }
                entry.set_place(Place::Packed(*number));
            }
        }
        self.references = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vdo::content::record_name;
    use vdo::types::BLOCK_SIZE;

    const ROOMY: u64 = 1 << 24;

    /// Data that no other number has, of which so many bytes compress to next to nothing.
    fn block(number: u64, squeezable: usize) -> Box<Block> {
        let mut block = Box::new([0xee; BLOCK_SIZE]);
        let mut x = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for byte in &mut block[..BLOCK_SIZE - squeezable] {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            *byte = x as u8;
        }
        block
    }

    fn meet(store: &mut Store, block: &Block) {
        store.meet(&record_name(block), block, Squeezed::Untried);
    }

    /// What is stored of these blocks.
    fn stored(blocks: impl IntoIterator<Item = Box<Block>>) -> Counts {
        let mut store = Store::new(ROOMY, &[], true);
        blocks
            .into_iter()
            .for_each(|block| meet(&mut store, &block));
        store.finish().counts
    }

    #[test]
    fn a_content_is_stored_once_for_each_254_references() {
        for (times, copies) in [(1, 1), (254, 1), (255, 2), (508, 2), (509, 3)] {
            let counts = stored((0..times).map(|_| block(1, 0)));
            assert_eq!((counts.data, counts.unique), (times, 1));
            assert_eq!((counts.copies, counts.singles), (copies, copies), "{times}");
        }
    }

    #[test]
    fn what_compresses_by_half_shares_a_block_with_another() {
        let counts = stored((0..100).map(|number| block(number, 2200)));
        assert_eq!((counts.copies, counts.packed), (100, 50));
        assert_eq!((counts.fragments, counts.singles), (100, 0));
        let counts = stored((0..100).map(|number| block(number, 1900)));
        assert_eq!((counts.packed, counts.singles), (0, 100));
    }

    /// Contents by number, of which two fit into a block, and after the first two so many others that these have left the packer.
    fn two_packed_and_then(rest: impl Iterator<Item = u64>) -> Counts {
        let others = 2..OTHERS + 2;
        stored(
            (0..2)
                .chain(others)
                .chain(rest)
                .map(|number| block(number, 2200)),
        )
    }

    const OTHERS: u64 = 40;

    #[test]
    fn what_comes_again_while_it_lies_in_the_packer_is_stored_alone() {
        let counts = stored([0, 1, 0, 1, 0].map(|number| block(number, 2200)));
        assert_eq!((counts.packed, counts.singles), (0, 2));
        let counts = two_packed_and_then([0, 1, 0].into_iter());
        assert_eq!((counts.packed, counts.singles), (1 + OTHERS / 2, 0));
    }

    #[test]
    fn all_fragments_of_a_block_have_254_references_together() {
        for (again, packed, singles) in [(252, 0, 0), (253, 0, 1), (254, 1, 0)] {
            let counts = two_packed_and_then((0..again).map(|number| number % 2));
            assert_eq!(counts.copies, 2 + OTHERS);
            let more = (counts.packed - 1 - OTHERS / 2, counts.singles);
            assert_eq!(more, (packed, singles), "{again}");
        }
    }

    #[test]
    fn a_sample_tells_nearly_the_same_as_all() {
        let rounds = |store: &mut Store| {
            for number in 0..40_000_u64 {
                // A third of them came before; of the others, half can be packed.
                let content = if number % 3 == 2 { number / 2 } else { number };
                let squeezable = if content % 2 == 0 { 2500 } else { 100 };
                meet(store, &block(content, squeezable));
            }
        };
        let mut whole = Store::new(ROOMY, &[], true);
        rounds(&mut whole);
        let whole = whole.finish();
        assert_eq!(whole.weight, 1);
        let mut sampled = Store::new(150_000, &[], true);
        rounds(&mut sampled);
        let sampled = sampled.finish();
        assert!(sampled.weight >= 8, "{}", sampled.weight);
        let near = |what: &str, one: u64, other: u64| {
            assert!(one.abs_diff(other) * 10 <= one, "{what}: {one} and {other}");
        };
        let (all, some) = (&whole.counts, &sampled.counts);
        assert_eq!(all.data, some.data);
        near("unique", all.unique, some.unique);
        near("copies", all.copies, some.copies);
        near("packed", all.packed, some.packed);
        near("singles", all.singles, some.singles);
        for (one, other) in whole.repeats.iter().zip(&sampled.repeats) {
            near("contents", one.contents, other.contents);
            near("blocks", one.blocks, other.blocks);
        }
    }
}
