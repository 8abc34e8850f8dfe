//! Going through the whole block map on disk, from the roots to the leaves.

use super::Obstacle;
use super::map::mark_written;
use super::medium::Medium;
use crate::buffer::Buffer;
use crate::format::block_map_page::{BlockMapPage, BlockMapPageMut, PageValidity};
use crate::format::tree::{ENTRIES_PER_PAGE, TREE_HEIGHT, TreeGeometry, TreePage};
use crate::format::{self, Block};
use crate::recovery::plan::{Refusal, Usage};
use crate::recovery::rebuild::{child, has_child};
use crate::runtime::task::join_all;
use crate::types::Pbn;
use crate::volume::progress::Work;

/// How pages are taken that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strictness {
    /// One that cannot be read is an error, and one of another place or with a damaged header damage.
    Strict,
    /// Of those, the first two are made empty pages, and the header is mended.
    Lenient,
}

/// What a walk tells whoever wants to know.
pub(super) trait Visitor {
    /// A root or interior page, before those it names. Says whether it was changed.
    fn interior(&mut self, page: TreePage, block: &mut Block) -> bool;

    /// A leaf. Says whether it was changed.
    fn leaf(&mut self, page: TreePage, block: &mut Block) -> bool;

    /// A page was lost: it could not be read, or was another one.
    fn lost(&mut self, unreadable: bool);

    /// How high above the leaves the lowest pages are that are wanted: they are read many at a time.
    fn lowest(&self) -> u8;
}

/// The block map of a volume.
pub(super) struct Walk<'a> {
    medium: &'a Medium,
    tree: TreeGeometry,
    nonce: u64,
    strictness: Strictness,
    /// Memory for the lowest pages that are wanted.
    lanes: Vec<Buffer>,
}

struct Fetched {
    pbn: Pbn,
    buffer: Buffer,
    state: PageState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PageState {
    Good,
    /// Never written; taken as empty.
    Empty,
    /// Made empty, to be written as if for the first time.
    Lost,
    /// Good since its header was mended, and to be written.
    Mended,
}

impl PageState {
    fn is_empty(self) -> bool {
        matches!(self, PageState::Empty | PageState::Lost)
    }
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        medium: &'a Medium,
        volume: &format::Volume,
        strictness: Strictness,
    ) -> Result<Walk<'a>, Obstacle> {
        Ok(Walk {
            medium,
            tree: volume.layout.tree,
            nonce: volume.layout.nonce,
            strictness,
            lanes: medium.page_memory()?.0,
        })
    }

    /// Shows every page to the visitor, and writes those that it changed.
    pub(super) async fn run(&mut self, visitor: &mut dyn Visitor) -> Result<(), Obstacle> {
        // A buffer for each height above the leaves.
        let mut spare = self.medium.buffers(TREE_HEIGHT - 1, 1)?;
        for root in 0..self.tree.roots {
            let (gone_through, all) = (u64::from(root), u64::from(self.tree.roots));
            self.medium.progress(Work::Recount, gone_through, all);
            let page = TreePage {
                root,
                height: TREE_HEIGHT as u8 - 1,
                index: 0,
            };
            let mut path = Vec::with_capacity(TREE_HEIGHT - 1);
            let mut next = Some((page, self.tree.root_pbn(root)));
            loop {
                if let Some((page, pbn)) = next.take()
                    && let Some(buffer) = spare.pop()
                {
                    let buffer = self.show_interior(page, pbn, buffer, visitor).await?;
                    path.push((page, buffer, 0));
                }
                let Some((page, buffer, slot)) = path.last_mut() else {
                    break;
                };
                if page.height == visitor.lowest() + 1 {
                    let (page, lowest) =
                        (*page, named(&self.tree, *page, buffer.first_block_mut()));
                    self.show_lowest(page, &lowest, visitor).await?;
                } else {
                    let view = BlockMapPage::new(buffer.first_block_mut());
                    let found = (*slot..ENTRIES_PER_PAGE as u16).find(|&slot| {
                        view.get(slot).state.is_mapped() && has_child(&self.tree, *page, slot)
                    });
                    if let Some(found) = found {
                        next = Some((child(*page, found), view.get(found).pbn));
                        *slot = found + 1;
                        continue;
                    }
                }
                spare.extend(path.pop().map(|(_, buffer, _)| buffer));
            }
        }
        Ok(())
    }

    async fn show_interior(
        &mut self,
        page: TreePage,
        pbn: Pbn,
        buffer: Buffer,
        visitor: &mut dyn Visitor,
    ) -> Result<Buffer, Obstacle> {
        let mut fetched = self.fetch(pbn, buffer, visitor).await?;
        let changed = visitor.interior(page, fetched.buffer.first_block_mut());
        let pbn = fetched.pbn.get();
        match fetched.state {
            PageState::Lost => {
                let buffer = self.medium.write(pbn, fetched.buffer, 1).await?;
                let written = mark_written(self.medium, vec![(fetched.pbn, buffer)]).await?;
                Ok(written.into_iter().next().ok_or_else(no_buffer)?)
            }
            PageState::Good if !changed => Ok(fetched.buffer),
            PageState::Good | PageState::Mended => {
                Ok(self.medium.write(pbn, fetched.buffer, 1).await?)
            }
            PageState::Empty => Ok(fetched.buffer),
        }
    }

    async fn show_lowest(
        &mut self,
        parent: TreePage,
        lowest: &[(u16, Pbn)],
        visitor: &mut dyn Visitor,
    ) -> Result<(), Obstacle> {
        for some in lowest.chunks(self.lanes.len().max(1)) {
            let reads = some
                .iter()
                .zip(self.lanes.drain(..))
                .map(|((_, pbn), buffer)| self.medium.try_read(pbn.get(), buffer, 1));
            let (mut changed, mut lost) = (Vec::new(), Vec::new());
            for (read, (slot, pbn)) in join_all(reads).await.into_iter().zip(some) {
                let mut fetched = self.check(*pbn, read, visitor)?;
                let page = child(parent, *slot);
                let block = fetched.buffer.first_block_mut();
                let shown = match page.height {
                    0 if fetched.state.is_empty() => false,
                    0 => visitor.leaf(page, block),
                    _ => visitor.interior(page, block),
                };
                let change = fetched.state == PageState::Mended || shown;
                match fetched.state {
                    PageState::Lost => lost.push((*pbn, fetched.buffer)),
                    _ if change => changed.push((*pbn, fetched.buffer)),
                    _ => self.lanes.push(fetched.buffer),
                }
            }
            let lost_count = lost.len();
            let writes = lost.into_iter().chain(changed);
            let writes = writes.map(async |(pbn, buffer)| {
                let written = self.medium.write(pbn.get(), buffer, 1).await;
                written.map(|buffer| (pbn, buffer))
            });
            let written: Result<Vec<_>, _> = join_all(writes).await.into_iter().collect();
            let mut lost = written?;
            let changed = lost.split_off(lost_count);
            self.lanes
                .extend(changed.into_iter().map(|(_, buffer)| buffer));
            self.lanes.extend(mark_written(self.medium, lost).await?);
        }
        Ok(())
    }

    async fn fetch(
        &self,
        pbn: Pbn,
        buffer: Buffer,
        visitor: &mut dyn Visitor,
    ) -> Result<Fetched, Obstacle> {
        let read = self.medium.try_read(pbn.get(), buffer, 1).await;
        self.check(pbn, read, visitor)
    }

    /// What was read, as the page that should be at `pbn`.
    fn check(
        &self,
        pbn: Pbn,
        (mut buffer, read): (Buffer, Result<(), crate::error::VdoError>),
        visitor: &mut dyn Visitor,
    ) -> Result<Fetched, Obstacle> {
        let block = buffer.first_block_mut();
        let state = match (read, BlockMapPage::new(block).validity(self.nonce, pbn)) {
            (Ok(()), PageValidity::Valid) => PageState::Good,
            (Ok(()), PageValidity::Unwritten) => PageState::Empty,
            (Ok(()), PageValidity::Damaged) if self.strictness == Strictness::Lenient => {
                log::warn!("the header of block {pbn}, a page of the block map, is mended");
                BlockMapPageMut::new(block).put_header(self.nonce, pbn, true);
                PageState::Mended
            }
            (read, validity) if self.strictness == Strictness::Lenient => {
                log::warn!(
                    "block {pbn} should hold a page of the block map, and is lost: {validity:?}"
                );
                visitor.lost(read.is_err());
                PageState::Lost
            }
            (Err(error), _) => return Err(error.into()),
            (Ok(()), PageValidity::Misplaced { found }) => {
                return Err(Refusal::MisplacedPage { pbn, found }.into());
            }
            (Ok(()), PageValidity::Damaged) => return Err(Refusal::DamagedPage { pbn }.into()),
        };
        if state.is_empty() {
            BlockMapPageMut::format(block, self.nonce, pbn, false);
        }
        Ok(Fetched { pbn, buffer, state })
    }
}

fn no_buffer() -> Obstacle {
    crate::error::VdoError::Inconsistent("no buffer came back".into()).into()
}

/// The pages that an interior page names, each with its slot.
fn named(tree: &TreeGeometry, page: TreePage, block: &Block) -> Vec<(u16, Pbn)> {
    let entries = (0..).zip(BlockMapPage::new(block).entries());
    entries
        .filter(|(slot, mapping)| mapping.state.is_mapped() && has_child(tree, page, *slot))
        .map(|(slot, mapping)| (slot, mapping.pbn))
        .collect()
}

struct Count {
    tree: TreeGeometry,
    usage: Usage,
}

impl Visitor for Count {
    fn interior(&mut self, page: TreePage, block: &mut Block) -> bool {
        self.usage.block_map_pages += named(&self.tree, page, block).len() as u64;
        false
    }

    fn leaf(&mut self, page: TreePage, block: &mut Block) -> bool {
        let first = self.tree.first_lbn(page).get();
        let slots = self.tree.logical_blocks.saturating_sub(first);
        let entries = BlockMapPage::new(block).entries();
        let mapped = entries.take(slots.min(ENTRIES_PER_PAGE) as usize);
        let mapped = mapped.filter(|mapping| mapping.state.is_mapped());
        self.usage.logical_blocks += mapped.count() as u64;
        false
    }

    fn lost(&mut self, _: bool) {}

    fn lowest(&self) -> u8 {
        0
    }
}

/// Counts how much of a volume is in use.
pub(super) async fn count(medium: &Medium, volume: &format::Volume) -> Result<Usage, Obstacle> {
    let mut count = Count {
        tree: volume.layout.tree,
        usage: Usage {
            logical_blocks: 0,
            block_map_pages: 0,
        },
    };
    let mut walk = Walk::new(medium, volume, Strictness::Strict)?;
    walk.run(&mut count).await?;
    Ok(count.usage)
}
