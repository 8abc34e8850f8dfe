//! A small world around the hash-lock machine: a few requests, a few blocks with reference counts and locks, and
//! an index that remembers one place per name.
//!
//! The world does what a driver would do with each action, in every order and with every outcome it
//! allows, and watches: every rule the machine must keep is checked where it could be broken, and the first one broken
//! is remembered in [`World::broken`].

mod rules;

use std::hash::{Hash, Hasher};

use vdo::dedupe::{
    Action, Answer, ContextId, Contexts, HashZoneMachine, LockHost, LockReport, ReadLock, Reply,
    RequestId, Row, WrittenAt,
};
use vdo::seam::Nanos;
use vdo::types::{Mapping, MappingState, Pbn, RecordName};

use crate::spec::{Data, Index, JUNK, Spec, Writer};

/// Fragments a packed block can have here, and so the most requests a world can have.
const FRAGMENTS: usize = 12;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// It has not come yet.
    Outside,
    /// It waits without having been told anything.
    Waiting,
    /// It does this.
    Doing(Action),
    /// It is over, and was served.
    Served,
    /// It is over, and was not.
    Failed,
}

#[derive(Clone, Debug, Hash)]
pub(crate) struct Request {
    pub(crate) phase: Phase,
    /// Its place in the order of arrival.
    arrival: u8,
    /// Where its logical block's data is.
    mapped: Option<Mapping>,
    /// It holds its logical block, so its reference cannot go away.
    anchored: bool,
    /// It owns the lock on its own block.
    owns_lock: bool,
    in_packer: bool,
    cancelled: bool,
    failed: bool,
    /// The question under way, and when it was asked.
    context: Option<Asked>,
}

/// A question to the index: its context, and when it was asked. Which of the contexts it is makes no difference.
#[derive(Clone, Copy, Debug)]
struct Asked(ContextId, u64);

impl Hash for Asked {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.1.hash(state);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum BlockLock {
    Free,
    Write,
    Read { holders: u8, limit: u8, claimed: u8 },
}

#[derive(Clone, Debug, Hash)]
struct Block {
    data: Data,
    fragments: [Data; FRAGMENTS],
    references: u8,
    lock: BlockLock,
}

/// How often a lock did what it may do but once in its life, and what the index knows by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Life {
    queries: u8,
    writes: u8,
    verdicts: u8,
    known: Option<Mapping>,
}

/// One thing that can happen next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// A request comes to the zone.
    Enter(u8),
    /// The index has nothing for a request, or does not say it in time.
    NoAdvice(u8),
    /// The index gives a request what it remembers.
    Advice(u8),
    /// The time has come to look for overdue questions, which are given up.
    Overdue,
    /// An answer nobody waits for any more arrives.
    LateAnswer(u8),
    /// What a request does succeeds, or ends as the blocks have it.
    Done(u8),
    /// A request's block was unlocked; it holds its logical block still.
    UnlockedAnchored(u8),
    /// The index loses an update.
    UpdateLost(u8),
    /// A block cannot be read.
    Unreadable(u8),
    /// A writing request goes to the packer.
    Pack(u8),
    /// A packed request is written with others.
    Packed(u8),
    /// A packed request is written, but then fails.
    PackedFailed(u8),
    /// What a request does fails.
    Fail(u8),
    /// Somebody else writes a block that is not protected; it is left locked for writing, or not.
    Reuse(u8, bool),
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    machine: HashZoneMachine,
    pub(crate) requests: Vec<Request>,
    blocks: Vec<Block>,
    index: [Option<Mapping>; 2],
    lives: Vec<Life>,
    contexts: Contexts,
    /// Contexts whose requests have gone on.
    late: Vec<ContextId>,
    now: u64,
    arrivals: u8,
    errors: u8,
    reuses: u8,
    losses: u8,
    /// The first rule broken.
    pub(crate) broken: Option<&'static str>,
}

/// The machine's side of the world: what it may ask at once.
struct Host<'a> {
    spec: &'a Spec,
    blocks: &'a mut [Block],
    broken: &'a mut Option<&'static str>,
}

impl LockHost for Host<'_> {
    fn same_data(&mut self, holder: RequestId, candidate: RequestId) -> bool {
        self.spec.writers[holder.0 as usize].data == self.spec.writers[candidate.0 as usize].data
    }

    fn claim_increment(&mut self, lock: ReadLock) -> bool {
        match &mut self.blocks[lock.0 as usize - 1].lock {
            BlockLock::Read { limit, claimed, .. } => {
                let granted = *claimed < *limit;
                *claimed += u8::from(granted);
                granted
            }
            BlockLock::Free | BlockLock::Write => {
                self.broken
                    .get_or_insert("an increment is claimed from a lock that is held");
                false
            }
        }
    }
}

fn whole(block: usize) -> Mapping {
    Mapping {
        pbn: Pbn(block as u64 + 1),
        state: MappingState::UNCOMPRESSED,
    }
}

fn block_of(at: Mapping) -> usize {
    at.pbn.index() - 1
}

fn name_of(spec: &Spec, request: usize) -> RecordName {
    RecordName([spec.writers[request].name + 1; 16])
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.machine.behaviour().hash(state);
        self.requests.hash(state);
        self.blocks.hash(state);
        self.index.hash(state);
        let mut lives: Vec<_> = self
            .machine
            .locks()
            .map(|lock| {
                (
                    self.machine.holders(lock.id).next(),
                    self.lives[lock.id.0 as usize],
                )
            })
            .collect();
        lives.sort_by_key(|&(first, _)| first);
        lives.hash(state);
        self.late.len().hash(state);
        self.contexts
            .next_deadline()
            .map(|deadline| deadline.0)
            .hash(state);
        (
            self.now,
            self.arrivals,
            self.errors,
            self.reuses,
            self.losses,
            self.broken,
        )
            .hash(state);
    }
}

impl PartialEq for World {
    fn eq(&self, other: &World) -> bool {
        let number = |world: &World| {
            let mut hasher = std::hash::DefaultHasher::new();
            world.hash(&mut hasher);
            hasher.finish()
        };
        number(self) == number(other)
    }
}

impl World {
    pub(crate) fn new(spec: &Spec) -> World {
        let count = spec.writers.len();
        let block = Block {
            data: JUNK,
            fragments: [JUNK; FRAGMENTS],
            references: 0,
            lock: BlockLock::Free,
        };
        // The old block, one for each request, and one for the packer.
        let mut blocks = vec![block; count + 2];
        if let Some((data, references)) = spec.old {
            blocks[0].data = data;
            blocks[0].references = references;
        }
        for (i, writer) in spec.writers.iter().enumerate() {
            if writer.allocated {
                blocks[1 + i].lock = BlockLock::Write;
            }
        }
        let request = |writer: &Writer| Request {
            phase: Phase::Outside,
            arrival: 0,
            mapped: None,
            anchored: true,
            owns_lock: writer.allocated,
            in_packer: false,
            cancelled: false,
            failed: false,
            context: None,
        };
        World {
            machine: HashZoneMachine::new(count as u32),
            requests: spec.writers.iter().map(request).collect(),
            blocks,
            index: [spec.old.map(|_| whole(0)), None],
            lives: vec![Life::default(); count + 1],
            contexts: Contexts::new(match spec.index {
                Index::Contexts(contexts) => contexts,
                Index::On | Index::Off => 0,
            }),
            late: Vec::new(),
            now: 0,
            arrivals: 0,
            errors: spec.errors,
            reuses: spec.reuses,
            losses: spec.losses,
            broken: None,
        }
    }

    /// Whether every request is over.
    pub(crate) fn all_over(&self) -> bool {
        self.requests
            .iter()
            .all(|r| matches!(r.phase, Phase::Served | Phase::Failed))
    }

    /// Whether nothing is left behind.
    pub(crate) fn is_clean(&self) -> bool {
        self.machine.is_idle()
            && self
                .blocks
                .iter()
                .all(|b| !matches!(b.lock, BlockLock::Read { .. }))
    }

    /// How often each row was taken on the way here.
    pub(crate) fn taken(&self, row: Row) -> u64 {
        self.machine.transitions().get(row)
    }

    fn rule(&mut self, holds: bool, rule: &'static str) {
        if !holds {
            self.broken.get_or_insert(rule);
        }
    }

    fn content(&self, at: Mapping) -> Data {
        let block = &self.blocks[block_of(at)];
        if at.state.is_compressed() {
            block.fragments[usize::from(at.state.bits() - MappingState::COMPRESSED_BASE.bits())]
        } else {
            block.data
        }
    }

    fn is_read_locked(&self, at: Mapping) -> bool {
        matches!(self.blocks[block_of(at)].lock, BlockLock::Read { .. })
    }

    /// Whether a request that cannot have lost its reference refers to the block.
    fn is_pinned(&self, block: usize) -> bool {
        self.requests.iter().any(|r| {
            let over = matches!(r.phase, Phase::Served | Phase::Failed);
            !over && r.anchored && r.mapped.is_some_and(|at| block_of(at) == block)
        })
    }

    /// Whether anybody waits for a request that is in the packer: then it must not stay there by itself.
    fn is_stuck_in_packer(&self, request: usize) -> bool {
        let r = &self.requests[request];
        let waiters = self
            .machine
            .lock_of(RequestId(request as u32))
            .map_or(0, |lock| lock.waiters);
        r.in_packer && !r.cancelled && waiters > 0
    }

    /// Everything that can happen next.
    pub(crate) fn moves(&self, spec: &Spec, moves: &mut Vec<Move>) {
        for (i, request) in self.requests.iter().enumerate() {
            let n = i as u8;
            let action = match request.phase {
                Phase::Outside => {
                    // Requests that are alike come in order: who is who makes no difference.
                    let alike = |j: usize| spec.writers[j] == spec.writers[i];
                    let earlier = (0..i).filter(|&j| alike(j));
                    if earlier
                        .clone()
                        .all(|j| self.requests[j].phase != Phase::Outside)
                    {
                        moves.push(Move::Enter(n));
                    }
                    continue;
                }
                Phase::Waiting | Phase::Served | Phase::Failed => continue,
                Phase::Doing(action) => action,
            };
            if self.errors > 0 {
                moves.push(Move::Fail(n));
            }
            match action {
                Action::Query { .. } => {
                    let asked = match spec.index {
                        Index::On => true,
                        Index::Contexts(_) => request.context.is_some(),
                        Index::Off => false,
                    };
                    moves.push(Move::NoAdvice(n));
                    if asked && self.index[usize::from(spec.writers[i].name)].is_some() {
                        moves.push(Move::Advice(n));
                    }
                }
                Action::Verify { at, .. } => {
                    moves.push(Move::Done(n));
                    if self.errors > 0 && self.content(at) == spec.writers[i].data {
                        moves.push(Move::Unreadable(n));
                    }
                }
                Action::Write { may_pack, .. } => {
                    if !request.in_packer || request.cancelled {
                        moves.push(Move::Done(n));
                    }
                    if spec.compression && may_pack && !request.in_packer && !request.cancelled {
                        moves.push(Move::Pack(n));
                    }
                    if request.in_packer && !request.cancelled && !self.is_stuck_in_packer(i) {
                        let full = match self.blocks[self.blocks.len() - 1].lock {
                            BlockLock::Read { limit, claimed, .. } => claimed >= limit,
                            BlockLock::Free => false,
                            BlockLock::Write => true,
                        };
                        let fresh = self.blocks[self.blocks.len() - 1].references;
                        if !full && fresh < spec.most_references {
                            moves.push(Move::Packed(n));
                            if self.errors > 0 {
                                moves.push(Move::PackedFailed(n));
                            }
                        } else {
                            // No room: it is written by itself.
                            moves.push(Move::Done(n));
                        }
                    }
                }
                Action::Update { .. } => {
                    moves.push(Move::Done(n));
                    if self.losses > 0 {
                        moves.push(Move::UpdateLost(n));
                    }
                }
                Action::Unlock { .. } => {
                    moves.push(Move::Done(n));
                    if request.mapped.is_some() {
                        moves.push(Move::UnlockedAnchored(n));
                    }
                }
                Action::Lock { .. } | Action::Dedupe { .. } => moves.push(Move::Done(n)),
                Action::TakeAllocation { .. }
                | Action::CancelPacking { .. }
                | Action::WriteAlone { .. }
                | Action::NoSpace { .. }
                | Action::Exit { .. }
                | Action::Inconsistent(_) => {}
            }
        }
        if self.contexts.next_deadline().is_some() && self.now < 3 {
            moves.push(Move::Overdue);
        }
        moves.extend((0..self.late.len()).map(|late| Move::LateAnswer(late as u8)));
        if self.reuses > 0 {
            for (i, block) in self.blocks.iter().enumerate() {
                let known = self
                    .machine
                    .locks()
                    .any(|lock| block_of_known(&lock) == Some(i))
                    || self.index.iter().flatten().any(|&at| block_of(at) == i);
                if known
                    && block.lock == BlockLock::Free
                    && !self.is_pinned(i)
                    && block.data != JUNK
                {
                    moves.push(Move::Reuse(i as u8, false));
                    moves.push(Move::Reuse(i as u8, true));
                }
            }
        }
    }

    /// Lets one thing happen.
    pub(crate) fn make(&mut self, spec: &Spec, mv: &Move) {
        match *mv {
            Move::Enter(n) => self.enter(spec, n),
            Move::NoAdvice(n) => {
                if let Some(Asked(context, _)) = self.requests[usize::from(n)].context.take() {
                    let reply = self.contexts.answer(context);
                    self.rule(
                        reply == Reply::Deliver(RequestId(n.into())),
                        "an answer in time goes to the request that asked",
                    );
                }
                let off = spec.index == Index::Off;
                self.answer(
                    spec,
                    n,
                    if off {
                        Answer::IndexOff
                    } else {
                        Answer::NoAdvice
                    },
                );
            }
            Move::Advice(n) => {
                if let Some(Asked(context, _)) = self.requests[usize::from(n)].context.take() {
                    self.contexts.answer(context);
                }
                let known = self.index[usize::from(spec.writers[usize::from(n)].name)];
                self.answer(spec, n, known.map_or(Answer::NoAdvice, Answer::Advice));
            }
            Move::Overdue => {
                self.now += 1;
                let mut given_up = Vec::new();
                let now = self.contexts.next_deadline().unwrap_or(Nanos(0));
                self.contexts.expire(now, |request| given_up.push(request));
                for request in given_up {
                    let context = self.requests[request.0 as usize].context.take();
                    self.late.extend(context.map(|Asked(context, _)| context));
                    self.answer(spec, request.0 as u8, Answer::NoAdvice);
                }
            }
            Move::LateAnswer(n) => {
                let context = self.late.remove(usize::from(n));
                let reply = self.contexts.answer(context);
                self.rule(reply == Reply::Late, "a late answer is thrown away");
            }
            Move::Done(n) => self.done(spec, n, false),
            Move::UnlockedAnchored(n) => self.done(spec, n, true),
            Move::UpdateLost(n) => {
                self.losses -= 1;
                self.answer(spec, n, Answer::Updated);
            }
            Move::Unreadable(n) => {
                self.errors -= 1;
                self.answer(spec, n, Answer::Verified { equal: false });
            }
            Move::Pack(n) => self.requests[usize::from(n)].in_packer = true,
            Move::Packed(n) => {
                let (at, lock) = self.write_packed(spec, n);
                self.requests[usize::from(n)].mapped = Some(at);
                self.blocks[block_of(at)].references += 1;
                self.answer(spec, n, Answer::Written(WrittenAt::Compressed(at, lock)));
            }
            Move::PackedFailed(n) => {
                self.errors -= 1;
                self.requests[usize::from(n)].failed = true;
                let shared = Some(self.write_packed(spec, n));
                self.answer(spec, n, Answer::Failed { shared });
            }
            Move::Fail(n) => {
                self.errors -= 1;
                let request = &mut self.requests[usize::from(n)];
                request.failed = true;
                request.in_packer = false;
                if let Phase::Doing(Action::Unlock { at, .. }) = request.phase {
                    self.release(at);
                }
                if let Some(Asked(context, _)) = self.requests[usize::from(n)].context.take() {
                    self.contexts.answer(context);
                }
                self.answer(spec, n, Answer::Failed { shared: None });
            }
            Move::Reuse(block, writing) => {
                self.reuses -= 1;
                let block = &mut self.blocks[usize::from(block)];
                block.data = JUNK;
                block.fragments = [JUNK; FRAGMENTS];
                block.references = 1;
                if writing {
                    block.lock = BlockLock::Write;
                }
            }
        }
        self.check_locks(spec);
    }

    fn enter(&mut self, spec: &Spec, n: u8) {
        let i = usize::from(n);
        self.requests[i].phase = Phase::Waiting;
        self.requests[i].arrival = self.arrivals;
        self.arrivals += 1;
        let name = name_of(spec, i);
        let collides = self.machine.locks().any(|lock| {
            let holder = self
                .machine
                .holders(lock.id)
                .next()
                .expect("a live lock has a holder");
            lock.registered
                && lock.name == name
                && spec.writers[holder.0 as usize].data != spec.writers[i].data
        });
        let before = self.machine.statistics();
        let allocation = spec.writers[i].allocated.then(|| whole(1 + i).pbn);
        let mut out = Vec::new();
        let mut broken = self.broken;
        let mut host = Host {
            spec,
            blocks: &mut self.blocks,
            broken: &mut broken,
        };
        self.machine
            .enter(RequestId(n.into()), name, allocation, &mut host, &mut out);
        self.broken = broken;
        let collisions = self.machine.statistics().concurrent_hash_collisions;
        let counted = collisions - before.concurrent_hash_collisions;
        self.rule(
            counted == u64::from(collides),
            "a collision is counted, and nothing else is",
        );
        self.rule(
            !collides || self.machine.lock_of(RequestId(n.into())).is_none(),
            "a collision shares nothing",
        );
        self.carry_out(spec, &out);
    }

    fn answer(&mut self, spec: &Spec, n: u8, answer: Answer) {
        let lock = self.machine.lock_of(RequestId(n.into()));
        let before = self.machine.statistics();
        let ended_well =
            self.taken(Row::Written) + self.taken(Row::Updated) + self.taken(Row::Unlocked);
        self.requests[usize::from(n)].phase = Phase::Waiting;
        let mut out = Vec::new();
        let mut broken = self.broken;
        let mut host = Host {
            spec,
            blocks: &mut self.blocks,
            broken: &mut broken,
        };
        self.machine
            .answer(RequestId(n.into()), answer, &mut host, &mut out);
        self.broken = broken;
        self.rule(
            out.len() <= self.machine.max_actions(),
            "the queue is long enough",
        );
        if let Some(lock) = lock {
            if let Answer::Advice(at) = answer {
                self.lives[lock.id.0 as usize].known = Some(at);
            }
            let ended = [Row::Written, Row::Updated, Row::Unlocked];
            if ended.iter().map(|&row| self.taken(row)).sum::<u64>() > ended_well {
                let known = self.lives[lock.id.0 as usize].known;
                self.rule(
                    known == self.requests[usize::from(n)].mapped
                        || !lock.registered
                        || spec.index == Index::Off,
                    "when a lock ends well, the index has been told where the data is",
                );
            }
            let after = self.machine.statistics();
            let verdicts = after.dedupe_advice_valid + after.dedupe_advice_stale
                - before.dedupe_advice_valid
                - before.dedupe_advice_stale;
            let life = &mut self.lives[lock.id.0 as usize];
            life.verdicts += verdicts as u8;
            let once = life.verdicts <= life.queries;
            self.rule(once, "advice counts as valid or stale once");
        }
        self.carry_out(spec, &out);
    }

    /// What a request does comes to its end.
    fn done(&mut self, spec: &Spec, n: u8, anchored: bool) {
        let i = usize::from(n);
        let Phase::Doing(action) = self.requests[i].phase else {
            return;
        };
        let data = spec.writers[i].data;
        let answer = match action {
            Action::Lock { at, .. } => self.lock_block(spec, at),
            Action::Verify { at, .. } => {
                self.rule(self.is_read_locked(at), "what is verified stays locked");
                Answer::Verified {
                    equal: self.content(at) == data,
                }
            }
            Action::Write { .. } => {
                let block = &mut self.blocks[1 + i];
                let limit = spec.most_references - 1;
                block.data = data;
                block.references = 1;
                block.lock = BlockLock::Read {
                    holders: 1,
                    limit,
                    claimed: 0,
                };
                self.requests[i].mapped = Some(whole(1 + i));
                self.requests[i].in_packer = false;
                let lock = ReadLock(whole(1 + i).pbn.0);
                Answer::Written(WrittenAt::Allocation(whole(1 + i).pbn, lock))
            }
            Action::Dedupe { at, .. } => {
                self.check_copy(at, data);
                let block = &mut self.blocks[block_of(at)];
                block.references += 1;
                let few = block.references <= spec.most_references;
                self.rule(few, "no block gets more references than it can bear");
                self.requests[i].mapped = Some(at);
                Answer::Deduplicated
            }
            Action::Update { at, .. } => {
                self.index[usize::from(spec.writers[i].name)] = Some(at);
                Answer::Updated
            }
            Action::Unlock { at, .. } => {
                self.release(at);
                self.requests[i].anchored = anchored;
                Answer::Unlocked { anchored }
            }
            _ => return,
        };
        self.answer(spec, n, answer);
    }

    fn lock_block(&mut self, spec: &Spec, at: Mapping) -> Answer {
        let block = &mut self.blocks[block_of(at)];
        if block.references >= spec.most_references {
            return Answer::NotLocked;
        }
        match &mut block.lock {
            BlockLock::Write => return Answer::NotLocked,
            BlockLock::Read { holders, .. } => *holders += 1,
            lock => {
                let limit = spec.most_references - block.references;
                *lock = BlockLock::Read {
                    holders: 1,
                    limit,
                    claimed: 0,
                };
            }
        }
        Answer::Locked(ReadLock(at.pbn.0))
    }

    fn release(&mut self, at: Mapping) {
        match &mut self.blocks[block_of(at)].lock {
            BlockLock::Read { holders, .. } if *holders > 1 => *holders -= 1,
            lock @ BlockLock::Read { .. } => *lock = BlockLock::Free,
            BlockLock::Free | BlockLock::Write => {
                self.broken.get_or_insert("a lock is released once");
            }
        }
    }

    /// A packed request's fragment is on disk, its hash lock shares the lock on the packed block, and an increment
    /// is claimed for it.
    fn write_packed(&mut self, spec: &Spec, n: u8) -> (Mapping, ReadLock) {
        let i = usize::from(n);
        let packed = self.blocks.len() - 1;
        let pbn = whole(packed).pbn;
        let block = &mut self.blocks[packed];
        block.data = 0xCC;
        block.fragments[i] = spec.writers[i].data;
        match &mut block.lock {
            BlockLock::Read {
                holders, claimed, ..
            } => {
                *holders += 1;
                *claimed += 1;
            }
            lock => {
                let limit = spec.most_references - block.references;
                *lock = BlockLock::Read {
                    holders: 1,
                    limit,
                    claimed: 1,
                };
            }
        }
        self.requests[i].in_packer = false;
        let bits = MappingState::COMPRESSED_BASE.bits() + n;
        let state = MappingState::from_bits(bits).unwrap_or_default();
        (Mapping { pbn, state }, ReadLock(pbn.0))
    }
}

fn block_of_known(lock: &LockReport) -> Option<usize> {
    (lock.at.pbn != Pbn::ZERO).then(|| block_of(lock.at))
}
