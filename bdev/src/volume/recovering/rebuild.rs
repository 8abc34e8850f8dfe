//! Rebuilding a volume from its block map, because someone asked for it.
//!
//! Slab journals, counters and the summary on disk are believed nothing; they are made anew. While the super block still
//! asks for the rebuild, a crash only means to begin again.

use super::medium::Medium;
use super::slabs::{Summary, Writes};
use super::walk::{Strictness, Visitor, Walk};
use super::{Obstacle, map, scan};
use crate::format::tree::TreePage;
use crate::format::{self, Block};
use crate::recovery::rebuild::{Losses, Recount};
use crate::types::SlabNumber;
use crate::volume::progress::Work;

/// One of the two walks a recount takes.
struct Counting<'a> {
    recount: &'a mut Recount,
    /// First the pages, so that no leaf refers to one.
    leaves: bool,
}

impl Visitor for Counting<'_> {
    fn interior(&mut self, page: TreePage, block: &mut Block) -> bool {
        !self.leaves && self.recount.tree_page(page, block)
    }

    fn leaf(&mut self, page: TreePage, block: &mut Block) -> bool {
        self.recount.leaf(page, block)
    }

    fn lost(&mut self, unreadable: bool) {
        let losses = &mut self.recount.losses;
        match unreadable {
            true => losses.unreadable_pages += 1,
            false => losses.misplaced_pages += 1,
        }
    }

    fn lowest(&self) -> u8 {
        u8::from(!self.leaves)
    }
}

/// Rebuilds the volume. `volume` is as it is on disk, and afterwards as it is then.
///
/// Returns what had to be dropped.
pub(super) async fn rebuild(
    medium: &Medium,
    volume: &mut format::Volume,
) -> Result<Losses, Obstacle> {
    let scan = scan(medium, volume).await?;
    let ring = scan.ring();
    let plan = scan.rebuild()?;
    medium.flush().await?;
    let losses = match plan.block_map {
        Some(range) => {
            let journal = volume.layout.recovery_journal.start;
            map::salvage(medium, &ring, journal, range).await?
        }
        None => Losses::default(),
    };

    let slabs = volume.layout.slabs;
    let mut recount = Recount::new(slabs, volume.layout.tree)?;
    recount.losses = losses;
    let mut walk = Walk::new(medium, volume, Strictness::Lenient)?;
    for leaves in [false, true] {
        let recount = &mut recount;
        walk.run(&mut Counting { recount, leaves }).await?;
    }
    medium.flush().await?;

    let mut summary = Summary::blank(volume);
    erase_journals(medium, volume).await?;
    let mut writes = Writes::new(medium)?;
    for slab in (0..slabs.slab_count).map(SlabNumber) {
        let entry = recount.summary(slab);
        summary.set(slab, entry);
        if !entry.load_counts {
            continue;
        }
        let blocks = slabs.reference_blocks(slab);
        for index in 0..blocks.blocks {
            let pack = |block: &mut Block| {
                recount.pack(slab, index, block);
                blocks.start.get() + index
            };
            writes.push(pack).await?;
        }
        let all = u64::from(slabs.slab_count);
        medium.progress(Work::WriteCounters, u64::from(slab.get()) + 1, all);
    }
    writes.finish().await?;
    summary.save(medium).await?;
    plan.ending.apply(&mut volume.super_block, recount.usage());
    medium.save_super_block(volume).await?;
    Ok(recount.losses)
}

/// Overwrites every slab journal with zeroes.
async fn erase_journals(medium: &Medium, volume: &format::Volume) -> Result<(), Obstacle> {
    let slabs = volume.layout.slabs;
    let blocks = slabs.config.slab_journal_blocks as usize;
    let mut zeroes = medium.buffers(1, blocks)?.remove(0);
    for slab in (0..slabs.slab_count).map(SlabNumber) {
        let start = slabs.journal_blocks(slab).start.get();
        zeroes = medium.write(start, zeroes, blocks).await?;
        let all = u64::from(slabs.slab_count);
        medium.progress(Work::EraseSlabJournals, u64::from(slab.get()) + 1, all);
    }
    Ok(())
}
