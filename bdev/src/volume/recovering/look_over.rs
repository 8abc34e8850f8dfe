//! Looking whether a volume is whole, as far as a few reads tell, before it is used.
//!
//! The format has no checksums but those of the geometry block and the super block, and even an old copy of the super block is
//! right by itself. What can be known is what two blocks say of the same thing:
//!
//! - Of a volume that was shut down the super block says where its journal ended. If the journal goes on from there, the super
//!   block is an old one.
//! - The super block counts the pages of the block map. Nothing else tells a root or an interior page that was lost from one that
//!   was never written, or a newer one from an older. dm-vdo keeps this count exactly, too: it counts a page when it is journaled, each journal block
//!   begins with the count before its entries, a recovery goes on from that of the last block, a rebuild counts anew, and a volume
//!   that grows gets no page by that.
//!
//! What slabs say twice is compared when they are loaded.

use std::rc::Rc;
use std::sync::Arc;

use super::medium::Medium;
use super::walk::{Strictness, Visitor, Walk};
use super::{Obstacle, give_up, ring_of};
use crate::buffer::DmaMemory;
use crate::format::block_map_page::BlockMapPageMut;
use crate::format::recovery_journal::block_number;
use crate::format::slab::SlabGeometry;
use crate::format::tree::{ENTRIES_PER_PAGE, TreePage};
use crate::format::{self, Block};
use crate::recovery::Refusal;
use crate::runtime::base::BaseDevice;
use crate::runtime::task::Scheduler;
use crate::types::{Mapping, MappingState, Pbn};
use crate::volume::progress::Progress;
use crate::volume::{Found, VolumeError};

/// Memory for a look over a volume, in blocks: half of them are read at once.
const CACHE_BLOCKS: u32 = 256;

/// Interior pages that are read, at most, to see whether the block map is whole: those of two to three tebibytes of
/// mapped blocks, which takes some milliseconds on flash.
const INTERIOR_PAGES: u64 = 1024;

/// Looks over a volume that was shut down. If its block map is damaged, it is marked read-only and found so.
///
/// # Errors
/// When the device fails; when the super block is an old one.
pub(in crate::volume) async fn look_over(
    base: &Rc<BaseDevice>,
    scheduler: &Rc<Scheduler>,
    memory: &Arc<dyn DmaMemory>,
    told: &Arc<Progress>,
    volume: format::Volume,
) -> Result<Found, VolumeError> {
    let medium = Medium::new(base, scheduler, memory, told, &volume, CACHE_BLOCKS);
    let looked = async {
        require_last_super_block(&medium, &volume).await?;
        require_pages(&medium, &volume).await
    };
    match looked.await {
        Ok(()) => Ok(volume.into()),
        Err(obstacle) => give_up(&medium, volume, "it is damaged", obstacle).await,
    }
}

/// Whether a journal that ended has not been gone on with. Whoever goes on begins with the block of this number; a later lap
/// has a later one in its place.
async fn require_last_super_block(
    medium: &Medium,
    volume: &format::Volume,
) -> Result<(), Obstacle> {
    let ring = ring_of(volume);
    let place = block_number(ring.journal_start, ring.blocks);
    let at = volume.layout.recovery_journal.start.get() + place;
    let buffer = medium.buffers(1, 1)?.remove(0);
    let buffer = medium.read(at, buffer, 1).await?;
    match ring.number_at(place, buffer.first_block()) {
        Some(sequence) if sequence >= ring.journal_start => Err(Refusal::OldSuperBlock {
            sequence,
            place,
            super_block: volume.layout.super_block,
        }
        .into()),
        _ => Ok(()),
    }
}

/// Whether roots and interior pages name as many pages as the super block counts, each a block that can be one, and none twice.
/// Of a volume so large that this would take long, nothing is read.
///
/// # Errors
/// When they do not.
pub(super) async fn require_pages(
    medium: &Medium,
    volume: &format::Volume,
) -> Result<(), Obstacle> {
    let counted = volume.super_block.recovery_journal.block_map_data_blocks;
    if counted / ENTRIES_PER_PAGE > INTERIOR_PAGES {
        return Ok(());
    }
    let mut pages = Pages {
        slabs: volume.layout.slabs,
        named: Vec::new(),
        wrong: None,
    };
    let mut walk = Walk::new(medium, volume, Strictness::Strict)?;
    walk.run(&mut pages).await?;
    pages.named.sort_unstable();
    let twice = pages.named.windows(2).find(|pair| pair[0].0 == pair[1].0);
    let twice = twice.map(|pair| (pair[1], "as another entry does"));
    if let Some(((pbn, page, slot), why)) = pages.wrong.or(twice) {
        let entry = Refusal::PageEntry {
            page,
            slot,
            pbn,
            why,
        };
        return Err(entry.into());
    }
    let found = pages.named.len() as u64;
    if found != counted {
        return Err(Refusal::PageCount {
            roots: volume.layout.block_map_roots.start,
            found,
            super_block: volume.layout.super_block,
            counted,
        }
        .into());
    }
    Ok(())
}

/// A page that is named, by which page, in which slot.
type Name = (Pbn, Pbn, u16);

struct Pages {
    slabs: SlabGeometry,
    named: Vec<Name>,
    /// The first that cannot be.
    wrong: Option<(Name, &'static str)>,
}

impl Visitor for Pages {
    fn interior(&mut self, _: TreePage, block: &mut Block) -> bool {
        let mut page = BlockMapPageMut::new(block);
        for slot in 0..ENTRIES_PER_PAGE as u16 {
            let mapping = page.as_page().get(slot);
            if mapping == Mapping::UNMAPPED {
                continue;
            }
            let name = (mapping.pbn, page.as_page().pbn(), slot);
            let can_be = mapping.state == MappingState::UNCOMPRESSED
                && self.slabs.is_data_block(mapping.pbn);
            if can_be {
                self.named.push(name);
                continue;
            }
            self.wrong = self.wrong.or(Some((name, "which is no place for one")));
            // In memory only: the walk does not go there.
            page.set(slot, Mapping::UNMAPPED);
        }
        false
    }

    fn leaf(&mut self, _: TreePage, _: &mut Block) -> bool {
        false
    }

    fn lost(&mut self, _: bool) {}

    fn lowest(&self) -> u8 {
        1
    }
}
