//! The record of one request for one block, and what it waits for.
//!
//! Each zone thread has a fixed number of records, made when the volume starts. A record is filled when
//! the front desk admits a piece of a caller's request, and is free again when the piece is done with and
//! nobody refers to it by its number any more. Between the two it stands at a [`Stage`], which says what it
//! waits for; nothing else about it changes while it waits.

use std::sync::Arc;

use super::pieces::Piece;
use crate::block_map::Way;
use crate::buffer::Buffer;
use crate::error::VdoError;
use crate::runtime::stopwatch::Stretch;
use crate::seam::{HostRequest, Nanos, RequestKind};
use crate::types::{BLOCK_SIZE, JournalPoint, Lbn, Mapping, ZoneIndex};
use crate::zone::events::Placed;
use crate::zone::generations::Generation;

/// What a mapping or the data of a mapped block is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To answer a read.
    Answer,
    /// To merge a partial write into it.
    Merge,
    /// To know what a new mapping replaces.
    Replace,
}

/// What a record waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// For a caller's piece: the record is free.
    #[default]
    Idle,
    /// For a page that an unmap or a write of zeroes has to see; no block is served yet.
    Sweep,
    /// For the requests of the same logical block that came before.
    Lock,
    /// For the way to its block-map entry, perhaps for missing pages to be made.
    Find,
    /// For the block-map page to be read.
    LookUp(Purpose),
    /// For a buffer to read into.
    Buffer(Purpose),
    /// For the base device to read a block.
    Read(Purpose),
    /// For others to gather whose data is named together with its own.
    Name,
    /// For its hash zone to say where the data is to be.
    Share,
    /// For the journal, and, unless somebody keeps time, for the reference counts after it.
    Journal,
    /// For the reference counts.
    Count,
    /// For the block-map page to be changed.
    Map,
    /// For its hash zone to forget its number. The caller has its answer.
    Leave,
}

impl Stage {
    /// Which stretch of a request's way it is; `None` if the record has no request.
    pub fn stretch(self) -> Option<Stretch> {
        Some(match self {
            Stage::Idle => return None,
            Stage::Sweep => Stretch::BlockMapSweep,
            Stage::Lock => Stretch::LogicalLock,
            Stage::Find => Stretch::BlockMapTree,
            Stage::LookUp(_) => Stretch::BlockMapPage,
            Stage::Buffer(_) => Stretch::Buffer,
            Stage::Read(_) => Stretch::BaseRead,
            Stage::Name => Stretch::Name,
            Stage::Share => Stretch::HashZone,
            Stage::Journal => Stretch::Journal,
            Stage::Count => Stretch::SlabJournal,
            Stage::Map => Stretch::BlockMapUpdate,
            Stage::Leave => Stretch::HashZoneExit,
        })
    }

    /// The stage in a word.
    pub fn name(self) -> &'static str {
        self.stretch().map_or("idle", Stretch::name)
    }
}

/// One request for one block. See the [module](self).
pub(super) struct DataVio<R> {
    pub(super) stage: Stage,
    /// When it came to its stage.
    pub(super) since: Nanos,
    /// The caller; `None` once answered.
    pub(super) caller: Option<R>,
    pub(super) kind: RequestKind,
    pub(super) fua: bool,
    pub(super) lbn: Lbn,
    /// Where the piece begins, in bytes into the caller's request.
    pub(super) start: usize,
    /// First byte in the block.
    pub(super) offset: u32,
    /// Bytes of the piece.
    pub(super) length: u32,
    /// What a flush waits for, once the write has its lock.
    pub(super) generation: Option<Generation>,
    /// The way to the block-map entry as it was seen at admission, if the request has not found it yet.
    pub(super) foreseen: Option<Way>,
    /// The way to the block-map entry, once found.
    pub(super) way: Way,
    /// What the entry is to say.
    pub(super) target: Mapping,
    /// The hash zone that has the request, once its data has a name.
    pub(super) hash_zone: ZoneIndex,
    /// Where the data is to be, once the hash zone has said so.
    pub(super) placed: Option<Placed>,
    /// The journal entry it holds.
    pub(super) point: Option<JournalPoint>,
    /// Whether `data` is what the block will hold, certain to find a place.
    pub(super) promised: bool,
    /// The data of a write. Shared, and so not to be changed, while its hash zone has the request.
    pub(super) data: Arc<Buffer>,
}

impl<R: HostRequest> DataVio<R> {
    /// A free record over its buffer.
    pub(super) fn new(data: Buffer) -> DataVio<R> {
        DataVio {
            stage: Stage::Idle,
            since: Nanos(0),
            caller: None,
            kind: RequestKind::Flush,
            fua: false,
            lbn: Lbn(0),
            start: 0,
            offset: 0,
            length: 0,
            generation: None,
            foreseen: None,
            way: Way::default(),
            target: Mapping::UNMAPPED,
            hash_zone: ZoneIndex(0),
            placed: None,
            point: None,
            promised: false,
            data: Arc::new(data),
        }
    }

    /// Takes up a piece.
    pub(super) fn fill(&mut self, piece: Piece<R>) {
        self.kind = piece.kind;
        self.fua = piece.fua;
        self.lbn = piece.lbn;
        self.start = piece.start;
        self.offset = piece.offset as u32;
        self.length = piece.length as u32;
        self.caller = Some(piece.request);
        self.placed = None;
    }

    /// Whether the piece covers only part of its block.
    #[inline]
    pub(super) fn is_partial(&self) -> bool {
        (self.length as usize) < BLOCK_SIZE
    }

    /// The bytes of the block the piece covers.
    #[inline]
    pub(super) fn range(&self) -> std::ops::Range<usize> {
        self.offset as usize..(self.offset + self.length) as usize
    }

    /// The buffer of its write, to be filled.
    pub(super) fn data_mut(&mut self) -> Result<&mut Buffer, VdoError> {
        Arc::get_mut(&mut self.data).ok_or_else(|| {
            VdoError::Inconsistent("a request's data is still in use by the one before".into())
        })
    }

    /// Tells the caller how the piece ended, if that was not done before; says whether it was now.
    #[inline]
    pub(super) fn answer(&mut self, errno: i32) -> bool {
        let Some(caller) = self.caller.take() else {
            return false;
        };
        caller.complete(u64::from(self.length), errno);
        true
    }
}
