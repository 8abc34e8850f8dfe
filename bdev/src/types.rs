//! Newtypes for every kind of number that must not be mistaken for another.

use std::fmt;

/// Size of a block, logical or physical, in bytes.
pub const BLOCK_SIZE: usize = 4096;

/// References a data block can hold at most.
pub const MAXIMUM_REFERENCE_COUNT: u8 = 254;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            /// The bare number.
            #[inline]
            pub const fn get(self) -> $inner {
                self.0
            }

            /// The number as an index into memory.
            #[inline]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Logical block number: which 4 KiB block of the volume, from zero.
    Lbn(u64)
}
number! {
    /// Physical block number: which 4 KiB block of the base device, from zero.
    Pbn(u64)
}
number! {
    /// Which zone thread, from zero. Zone thread *i* owns hash, logical and physical zone *i*.
    ZoneIndex(u8)
}
number! {
    /// Which slab of the depot, from zero.
    SlabNumber(u32)
}
number! {
    /// Position of a block in a journal that only ever grows; its place on disk is this modulo the
    /// journal's size.
    SequenceNumber(u64)
}

impl Pbn {
    /// The block that stands for "all zero" and, with the unmapped state, for "no data".
    pub const ZERO: Pbn = Pbn(0);
}

/// Where one entry stands in a journal: its block, and its place in that block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalPoint {
    /// The block that holds the entry.
    pub sequence: SequenceNumber,
    /// The entry's place in the block, from zero.
    pub entry: u16,
}

/// The 16-byte name of a block's content: its MurmurHash3 x64 128.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordName(pub [u8; 16]);

impl RecordName {
    /// Where a table by name puts it. Names are hashes already; of this part nothing chose the zone.
    #[inline]
    pub fn key(&self) -> u64 {
        let [_, _, _, _, _, _, _, _, tail @ ..] = self.0;
        u64::from_le_bytes(tail)
    }
}

/// What a block-map entry says of its logical block: the four-bit state of the on-disk entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MappingState(u8);

impl MappingState {
    /// Nothing was ever written here, or it was discarded.
    pub const UNMAPPED: MappingState = MappingState(0);
    /// A whole physical block.
    pub const UNCOMPRESSED: MappingState = MappingState(1);
    /// The first of the fourteen fragments of a compressed block.
    pub const COMPRESSED_BASE: MappingState = MappingState(2);
    /// The largest state there is (fragment 13).
    pub const MAX: MappingState = MappingState(15);

    /// A state from its four bits; `None` above 15.
    pub const fn from_bits(bits: u8) -> Option<MappingState> {
        if bits <= 15 {
            Some(MappingState(bits))
        } else {
            None
        }
    }

    /// The four bits.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether the data is a fragment of a compressed block.
    pub const fn is_compressed(self) -> bool {
        self.0 >= 2
    }

    /// Whether there is data at all.
    pub const fn is_mapped(self) -> bool {
        self.0 != 0
    }
}

/// Where the data of a logical block is: a physical block and how the data lies in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mapping {
    /// The physical block; [`Pbn::ZERO`] for no data and for all zeroes.
    pub pbn: Pbn,
    /// How the data lies in it.
    pub state: MappingState,
}

impl Mapping {
    /// No data.
    pub const UNMAPPED: Mapping = Mapping {
        pbn: Pbn::ZERO,
        state: MappingState::UNMAPPED,
    };
    /// All zeroes, written as such.
    pub const ZERO: Mapping = Mapping {
        pbn: Pbn::ZERO,
        state: MappingState::UNCOMPRESSED,
    };

    /// A whole block of data at `pbn`.
    #[inline]
    pub const fn block(pbn: Pbn) -> Mapping {
        Mapping {
            pbn,
            state: MappingState::UNCOMPRESSED,
        }
    }
}
