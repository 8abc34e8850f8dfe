//! Unmaps and writes of zeroes, which cost what is mapped, not what is named.
//!
//! Such a request may name the whole volume, most of which was never written. On each zone thread it is a [`Sweep`]: it
//! goes through the thread's trees one after the other, and in each from leaf to leaf that exists, past whole
//! subtrees that do not. In a leaf it yields a [`Piece`] for each block that is mapped to something; the others are
//! as they should be already. Its pieces are served like all others, many at a time, so that their journal entries share blocks.
//!
//! 1. A sweep stands in the line of callers' requests. At its turn it looks at the pages in memory, passes what is
//!    not mapped, and may yield a piece. Each turn is short, however much it passes.
//! 2. If a page is not in memory, the sweep is *parked* with a free record, whose assistant brings the page.
//!    Then it looks again. If a leaf has left memory again by then, the record takes the next block of it, mapped or not.
//! 3. At its end the bytes it passed are answered at one go.
//!
//! *Order.* What a sweep passes is as the block map has it at that instant. A write under way, which the block map may not
//! know yet, holds the lock of its block: a locked block gets a piece, which waits behind it. This goes also for a block without a leaf, if
//! a request is about to make that. A write that came after the sweep may be passed or not: both were under way at once.

use super::assist::Job;
use super::line::Waiting;
use super::pieces::Piece;
use super::record::Stage;
use super::{Outcome, Requests};
use crate::block_map::{NextLeaf, TreeSet};
use crate::error::VdoError;
use crate::format::tree::{ENTRIES_PER_PAGE, TreeGeometry};
use crate::runtime::services::BlockMapSlot;
use crate::seam::{HostRequest, Nanos, RequestHeader, RequestKind};
use crate::types::{BLOCK_SIZE, Lbn, Mapping, Pbn, ZoneIndex};
use crate::zone::logical_locks::SlotIndex;

const BLOCK: u64 = BLOCK_SIZE as u64;

/// How often a sweep that takes long says how far it is.
const SAY_EVERY: Nanos = Nanos(5_000_000_000);

/// What is left of an unmap or a write of zeroes for one zone thread. See the [module](self).
#[derive(Debug)]
pub(super) struct Sweep<R> {
    request: R,
    route: Route,
    began: Nanos,
    /// When it last said how far it is.
    said: Nanos,
    /// Bytes passed, which the request has not been told of.
    passed: u64,
    /// Bytes done with, passed or yielded.
    done: u64,
}

/// How far an unmap or a write of zeroes is, as a dump shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepReport {
    /// What was asked.
    pub header: RequestHeader,
    /// Since when the zone thread is at it.
    pub since: Nanos,
    /// Bytes of the request that are the zone thread's.
    pub bytes: u64,
    /// Bytes of these that are done with or under way.
    pub done: u64,
}

/// What a sweep does at its turn.
enum Turn<R> {
    /// It wants this block served.
    Piece(Piece<R>),
    /// It has passed something, and goes on at its next turn.
    Passed,
    /// It needs a page, which this brings.
    Needs(Job),
}

impl<R> Sweep<R> {
    /// What was asked.
    pub(super) fn header(&self) -> &RequestHeader {
        &self.route.header
    }
}

impl<R: HostRequest> Sweep<R> {
    /// All of a request that lies in `trees`, those of the zone thread. There must be something.
    pub(super) fn new(
        request: R,
        header: RequestHeader,
        forest: TreeGeometry,
        trees: TreeSet,
        now: Nanos,
    ) -> Sweep<R> {
        Sweep {
            request,
            route: Route::new(header, forest, trees),
            began: now,
            said: now,
            passed: 0,
            done: 0,
        }
    }

    fn pass(&mut self, bytes: u64) {
        self.passed += bytes;
        self.done += bytes;
    }

    /// Passes what comes before `block` in the leaf it is at, and yields that.
    fn take(&mut self, block: u64) -> Piece<R> {
        let passed = self.route.skip_to(block);
        self.pass(passed);
        let header = self.route.header;
        let begin = (block * BLOCK).max(header.offset);
        let length = self.route.skip_to(block + 1);
        self.done += length;
        Piece {
            request: self.request.clone(),
            kind: header.kind,
            lbn: Lbn(block),
            start: (begin - header.offset) as usize,
            offset: (begin % BLOCK) as usize,
            length: length as usize,
            fua: header.fua,
        }
    }

    /// Answers all that is left with an error.
    pub(super) fn refuse(self, error: &VdoError) {
        let bytes = self.passed + self.route.left();
        if bytes > 0 {
            self.request.complete(bytes, error.errno());
        }
    }

    pub(super) fn report(&self) -> SweepReport {
        SweepReport {
            header: self.route.header,
            since: self.began,
            bytes: self.done + self.route.left(),
            done: self.done,
        }
    }

    /// Says how far it is, if it takes long and has not said so lately.
    fn say(&mut self, volume: &str, zone: ZoneIndex, now: Nanos) {
        if now.0.saturating_sub(self.said.0) < SAY_EVERY.0 {
            return;
        }
        self.said = now;
        let SweepReport {
            header,
            since,
            bytes,
            done,
        } = self.report();
        log::info!(
            "volume {volume}: {:?} of {} bytes at {} has done {done} of the {bytes} bytes of zone {} after {} s",
            header.kind,
            header.length,
            header.offset,
            zone,
            (now.0 - since.0) / 1_000_000_000,
        );
    }
}

impl<R: HostRequest> Requests<R> {
    /// Gives a sweep its turn, with a record of its own in case it needs one. `brought` is whether a page was just
    /// read for it.
    pub(super) fn take_turn(&mut self, slot: SlotIndex, mut sweep: Box<Sweep<R>>, brought: bool) {
        if self.zone.is_read_only() {
            self.zone.counters.count_error(&VdoError::ReadOnly);
            sweep.refuse(&VdoError::ReadOnly);
            return self.idle.push(slot);
        }
        let passed = sweep.passed;
        let turn = self.look(&mut sweep, brought);
        let RequestHeader { kind, fua, .. } = sweep.route.header;
        let blocks = (sweep.passed - passed).div_ceil(BLOCK);
        self.zone.counters.passed(kind, blocks, fua);
        match turn {
            Turn::Needs(job) => self.park(slot, sweep, job),
            Turn::Passed => {
                self.line_up(sweep);
                self.idle.push(slot);
            }
            Turn::Piece(piece) => {
                self.line_up(sweep);
                self.take_up(slot, piece);
                self.admit_taken_up();
            }
        }
    }

    /// Puts a sweep that has had its turn back into the line, or ends it.
    fn line_up(&mut self, mut sweep: Box<Sweep<R>>) {
        if sweep.route.is_over() {
            if sweep.passed > 0 {
                sweep.request.complete(sweep.passed, 0);
            }
            return;
        }
        sweep.say(
            &self.zone.shared.name,
            self.zone.index,
            self.zone.scheduler.now(),
        );
        self.line.join(Waiting::Sweep(sweep));
    }

    /// Keeps a sweep in a record until the page it needs is there.
    fn park(&mut self, slot: SlotIndex, sweep: Box<Sweep<R>>, job: Job) {
        let lbn = sweep.route.blocks(sweep.route.leaf).start;
        let vio = self.vio(slot);
        vio.kind = sweep.route.header.kind;
        vio.lbn = Lbn(lbn);
        self.parked.insert(slot, sweep);
        self.assist(slot, Stage::Sweep, job);
    }

    /// The page that a parked sweep needs was brought, or not.
    pub(super) fn brought(&mut self, slot: SlotIndex, result: Outcome<()>) {
        let Some(sweep) = self.parked.remove(&slot) else {
            return self.astray(slot, Stage::Sweep, &"a page for no sweep");
        };
        self.wait(slot, Stage::Idle);
        match result {
            Err(error) if !matches!(*error, VdoError::BadMapping { .. }) => {
                self.zone.counters.count_error(&error);
                sweep.refuse(&error);
                self.idle.push(slot);
            }
            // An entry that cannot be true is replaced like any other.
            _ => self.take_turn(slot, sweep, true),
        }
        self.count_waiting();
        self.zone.wake_if_quiet();
    }

    /// Looks at what lies ahead, as far as one can see.
    fn look(&self, sweep: &mut Sweep<R>, brought: bool) -> Turn<R> {
        let (map, route) = (&self.zone.block_map, &mut sweep.route);
        let (next, page) = match map.next_leaf(route.root(), route.leaf, route.leaf_end()) {
            NextLeaf::At(leaf, pbn) => (leaf, Some(pbn)),
            NextLeaf::NoneBefore(leaf) => (leaf, None),
            NextLeaf::Unknown(leaf) => {
                let lbn = Lbn(route.leaf_number(leaf) * ENTRIES_PER_PAGE);
                return Turn::Needs(Job::Find { lbn, grow: false });
            }
        };
        let coming = self.first_leaf_sought(route, next);
        let passed = route.skip_to_leaf(coming.unwrap_or(next));
        sweep.pass(passed);
        match (coming, page) {
            (None, None) => Turn::Passed,
            (Some(_), _) => self.look_in_leaf(sweep, None, brought),
            (None, Some(pbn)) => self.look_in_leaf(sweep, Some(pbn), brought),
        }
    }

    /// Looks at what lies ahead in the leaf the sweep is at, which has a `page` or may be about to get one.
    fn look_in_leaf(&self, sweep: &mut Sweep<R>, page: Option<Pbn>, brought: bool) -> Turn<R> {
        let (zone, route) = (&self.zone, &mut sweep.route);
        let blocks = route.blocks(route.leaf);
        let first = route.leaf_number(route.leaf) * ENTRIES_PER_PAGE;
        let slots = (blocks.start - first) as u16..(blocks.end - first) as u16;
        let mapped = match page {
            None => None,
            Some(pbn) => match zone
                .block_map
                .next_entry(pbn, slots.clone(), route.matters())
            {
                Some(entry) => entry.map(|slot| first + u64::from(slot)),
                // It has left memory again: one block at least gets on.
                None if brought => Some(blocks.start),
                None => {
                    let slot = slots.start;
                    return Turn::Needs(Job::LookUp(BlockMapSlot { pbn, slot }));
                }
            },
        };
        let mut unmapped = blocks.start..mapped.unwrap_or(blocks.end);
        let is_locked = |block: &u64| zone.locks.holder(Lbn(*block)).is_some();
        let locked = match zone.locks.is_empty() {
            true => None,
            false => unmapped.find(is_locked),
        };
        match locked.or(mapped) {
            Some(block) => Turn::Piece(sweep.take(block)),
            None => {
                let passed = route.skip_to(blocks.end);
                sweep.pass(passed);
                Turn::Passed
            }
        }
    }

    /// The first leaf in the tree a sweep is in, from where it is and before leaf `end`, that a request under way is looking for,
    /// and perhaps about to make.
    fn first_leaf_sought(&self, route: &Route, end: u64) -> Option<u64> {
        if self.finding == 0 {
            return None;
        }
        let finding = self.records.iter().filter(|vio| vio.stage == Stage::Find);
        let leaves = finding.map(|vio| route.forest.leaf(vio.lbn).0);
        let here = leaves
            .filter(|leaf| leaf.root == route.root() && (route.leaf..end).contains(&leaf.index));
        here.map(|leaf| leaf.index).min()
    }
}

/// A way through a request, tree by tree and leaf by leaf, and where on it one is.
#[derive(Clone, Copy, Debug)]
struct Route {
    header: RequestHeader,
    forest: TreeGeometry,
    /// Those of the zone thread.
    trees: TreeSet,
    /// The first leaf of the request in this tree, counted over all trees.
    tree: u64,
    /// The next leaf in this tree, by its number there.
    leaf: u64,
    /// The next block, if it lies in that leaf; else that begins with its first.
    block: u64,
}

impl Route {
    fn new(header: RequestHeader, forest: TreeGeometry, trees: TreeSet) -> Route {
        let mut route = Route {
            header,
            forest,
            trees,
            tree: header.offset / BLOCK / ENTRIES_PER_PAGE,
            leaf: 0,
            block: 0,
        };
        route.enter_tree();
        route
    }

    /// Goes to the beginning of this tree, or of the next that is the zone's.
    fn enter_tree(&mut self) {
        while !self.is_over() && !self.trees.contains(self.root()) {
            self.tree += 1;
        }
        self.leaf = self.forest.leaf_page(self.tree).index;
        self.block = 0;
    }

    fn root(&self) -> u32 {
        self.forest.leaf_page(self.tree).root
    }

    fn end(&self) -> u64 {
        self.header.offset + self.header.length
    }

    /// The last leaf of the request, counted over all trees.
    fn last_leaf(&self) -> u64 {
        (self.end() - 1) / BLOCK / ENTRIES_PER_PAGE
    }

    /// Whether nothing is left.
    fn is_over(&self) -> bool {
        let first = self.header.offset / BLOCK / ENTRIES_PER_PAGE;
        self.tree
            > self
                .last_leaf()
                .min(first + u64::from(self.forest.roots) - 1)
    }

    /// Behind the last leaf of the request in this tree.
    fn leaf_end(&self) -> u64 {
        let root = u64::from(self.root());
        (self.last_leaf() - root) / u64::from(self.forest.roots) + 1
    }

    /// A leaf of this tree, counted over all trees.
    fn leaf_number(&self, leaf: u64) -> u64 {
        leaf * u64::from(self.forest.roots) + u64::from(self.root())
    }

    /// The blocks of the request that lie in a leaf of this tree and ahead.
    fn blocks(&self, leaf: u64) -> std::ops::Range<u64> {
        let first = self.leaf_number(leaf) * ENTRIES_PER_PAGE;
        let begin = first.max(self.header.offset / BLOCK).max(self.block);
        begin..(first + ENTRIES_PER_PAGE).min(self.end().div_ceil(BLOCK))
    }

    /// How many bytes of the request lie in these blocks.
    fn bytes(&self, blocks: std::ops::Range<u64>) -> u64 {
        let begin = (blocks.start * BLOCK).max(self.header.offset);
        (blocks.end * BLOCK).min(self.end()).saturating_sub(begin)
    }

    /// How many bytes of the request lie ahead in this tree before leaf `to`.
    fn bytes_before(&self, to: u64) -> u64 {
        let leaves = to.saturating_sub(self.leaf);
        if leaves == 0 {
            return 0;
        }
        let first = self.bytes(self.blocks(self.leaf));
        if leaves == 1 {
            return first;
        }
        // Between two leaves of the request all are whole.
        first + (leaves - 2) * ENTRIES_PER_PAGE * BLOCK + self.bytes(self.blocks(to - 1))
    }

    /// How many bytes of the request lie ahead, in all trees of the zone.
    fn left(mut self) -> u64 {
        let mut left = 0;
        while !self.is_over() {
            left += self.skip_to_leaf(self.leaf_end());
        }
        left
    }

    /// Goes to leaf `to` of this tree, or to the next tree if this one ends there; says how many bytes were between.
    fn skip_to_leaf(&mut self, to: u64) -> u64 {
        let bytes = self.bytes_before(to);
        if to > self.leaf {
            (self.leaf, self.block) = (to, 0);
        }
        if self.leaf >= self.leaf_end() {
            self.tree += 1;
            self.enter_tree();
        }
        bytes
    }

    /// Goes to a block of the leaf it is at, or to the next leaf if that ends there; says how many bytes were between.
    fn skip_to(&mut self, block: u64) -> u64 {
        let blocks = self.blocks(self.leaf);
        let bytes = self.bytes(blocks.start..block);
        self.block = block;
        if block >= blocks.end {
            self.skip_to_leaf(self.leaf + 1);
        }
        bytes
    }

    /// Tells of a mapping whether a block that has it is not yet as the request wants it.
    fn matters(&self) -> impl Fn(Mapping) -> bool + use<> {
        let zeroes = self.header.kind == RequestKind::WriteZeroes;
        move |mapping| mapping != Mapping::UNMAPPED && !(zeroes && mapping == Mapping::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::block_map::TreeOwners;

    fn header(offset: u64, length: u64) -> RequestHeader {
        RequestHeader {
            kind: RequestKind::Unmap,
            offset,
            length,
            fua: false,
        }
    }

    fn forest(roots: u32) -> TreeGeometry {
        TreeGeometry {
            root_origin: Pbn(1),
            roots,
            logical_blocks: 1 << 40,
        }
    }

    proptest! {
        /// In strides of any length, by leaves and by blocks.
        #[test]
        fn the_ways_of_all_zones_cover_a_request_exactly_once(
            zones in 1u8..8,
            roots in 8u32..100,
            offset in 0u64..3_000_000_000,
            length in 1u64..1_000_000_000,
            strides in prop::collection::vec((any::<bool>(), 1u64..2000), 1..50),
        ) {
            let header = header(offset, length);
            let mut spans = Vec::new();
            let mut passed = 0;
            let mut strides = strides.iter().cycle();
            let owners = TreeOwners::new(roots, zones);
            for zone in 0..zones {
                let trees = owners.trees_of(ZoneIndex(zone));
                let mut route = Route::new(header, forest(roots), trees);
                let mut left = route.left();
                while !route.is_over() {
                    let before = route;
                    let (by_leaves, stride) = *strides.next().unwrap();
                    let bytes = match by_leaves {
                        true => {
                            let to = (route.leaf + 1 + stride % 4).min(route.leaf_end());
                            let bytes = route.skip_to_leaf(to);
                            for leaf in before.leaf..to {
                                spans.push(before.blocks(leaf));
                            }
                            bytes
                        }
                        false => {
                            let blocks = route.blocks(route.leaf);
                            let to = (blocks.start + stride).min(blocks.end);
                            spans.push(blocks.start..to);
                            route.skip_to(to)
                        }
                    };
                    left -= bytes;
                    passed += bytes;
                    prop_assert_eq!(route.left(), left);
                    prop_assert!(owners.of_block(Lbn(before.blocks(before.leaf).start)) == ZoneIndex(zone));
                }
                prop_assert_eq!(left, 0);
            }
            prop_assert_eq!(passed, length);
            spans.retain(|span| !span.is_empty());
            spans.sort_unstable_by_key(|span| span.start);
            let mut at = offset / BLOCK;
            for span in spans {
                prop_assert_eq!(span.start, at);
                at = span.end;
            }
            prop_assert_eq!(at, (offset + length).div_ceil(BLOCK));
        }
    }

    #[test]
    fn a_petabyte_is_sixty_strides() {
        let route = Route::new(
            header(0, 1 << 50),
            forest(60),
            TreeOwners::new(60, 1).trees_of(ZoneIndex(0)),
        );
        let (mut ahead, mut strides, mut bytes) = (route, 0, 0);
        while !ahead.is_over() {
            bytes += ahead.skip_to_leaf(ahead.leaf_end());
            strides += 1;
        }
        assert_eq!((strides, bytes), (60, 1 << 50));
    }
}
