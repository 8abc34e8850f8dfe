//! The rules: what the machine may say to whom and when, and what must be true of every lock at any time.

use vdo::dedupe::{Action, LockReport, LockState, RequestId};
use vdo::seam::Nanos;
use vdo::types::Mapping;

use super::{Asked, BlockLock, Life, Phase, World, block_of, name_of, whole};
use crate::spec::{Data, Index, Spec};

impl World {
    /// Does what the machine says, as far as it takes no time.
    pub(super) fn carry_out(&mut self, spec: &Spec, out: &[Action]) {
        for &action in out {
            let Some(id) = action.request() else {
                self.rule(false, "nothing is inconsistent");
                continue;
            };
            let i = id.0 as usize;
            let data = spec.writers[i].data;
            self.rule(
                !matches!(
                    self.requests[i].phase,
                    Phase::Served | Phase::Failed | Phase::Outside
                ),
                "a request that is over hears nothing more",
            );
            if action.wants_answer() {
                self.rule(
                    self.requests[i].phase == Phase::Waiting,
                    "one thing at a time",
                );
                self.requests[i].phase = Phase::Doing(action);
            }
            let lock = self.machine.lock_of(id);
            self.rule(
                lock.is_some() || !action.wants_answer(),
                "who is told to do something is in a lock",
            );
            match action {
                Action::Query { name, post, .. } => {
                    self.rule(
                        self.requests[i].mapped.is_none(),
                        "a query is for data not placed yet",
                    );
                    self.rule(
                        post.is_some() == spec.writers[i].allocated,
                        "who holds an allocation posts, who does not queries",
                    );
                    self.rule(
                        name == name_of(spec, i),
                        "the index is asked for the right name",
                    );
                    let slot = &mut self.index[usize::from(spec.writers[i].name)];
                    if slot.is_none() && spec.index != Index::Off {
                        *slot = post;
                    }
                    if let Index::Contexts(_) = spec.index {
                        // Each asks a little later than the one before it.
                        let now = Nanos(self.now * 1_000_000_000_000 + u64::from(self.arrivals));
                        self.requests[i].context =
                            self.contexts.acquire(now, id).map(|c| Asked(c, now.0));
                    }
                    self.once(lock, |life| &mut life.queries);
                    self.tell(lock, post);
                }
                Action::Write { .. } => {
                    self.rule(
                        self.requests[i].owns_lock && self.requests[i].mapped.is_none(),
                        "the writing agent holds an allocation it has not used",
                    );
                    self.once(lock, |life| &mut life.writes);
                }
                Action::Lock { .. } => {}
                Action::Verify { at, .. } => {
                    self.rule(self.is_read_locked(at), "what is verified is locked");
                }
                Action::Dedupe { at, lock, .. } => {
                    self.rule(
                        self.requests[i].mapped.is_none(),
                        "a request gets one place",
                    );
                    self.rule(lock.0 == at.pbn.0, "the lock is the one on the copy");
                    self.check_copy(at, data);
                }
                Action::Update { name, at, .. } => {
                    let block = block_of(at);
                    self.rule(
                        self.is_read_locked(at) || self.is_pinned(block),
                        "advice names a block that cannot change now",
                    );
                    self.rule(
                        self.content(at) == data,
                        "advice names a block that holds the data",
                    );
                    self.rule(name == name_of(spec, i), "the index is told the right name");
                    self.rule(
                        lock.is_some_and(|lock| lock.registered),
                        "a lock that was replaced tells the index nothing",
                    );
                    self.rule(
                        spec.index != Index::Off,
                        "an index that is off is told nothing",
                    );
                    self.tell(lock, Some(at));
                }
                Action::Unlock { at, .. } => {
                    self.rule(self.is_read_locked(at), "what is unlocked is locked");
                }
                Action::TakeAllocation { lock, .. } => {
                    let held = self.is_read_locked(whole(1 + i)) && self.requests[i].owns_lock;
                    self.rule(
                        held,
                        "only a written block's lock can be taken, and only once",
                    );
                    self.rule(
                        lock.0 == whole(1 + i).pbn.0,
                        "the lock taken is the writer's own",
                    );
                    self.requests[i].owns_lock = false;
                }
                Action::CancelPacking { .. } => {
                    self.rule(
                        matches!(self.requests[i].phase, Phase::Doing(Action::Write { .. })),
                        "only a writing agent is taken out of the packer",
                    );
                    self.requests[i].cancelled = true;
                }
                Action::WriteAlone { .. } => {
                    let able = self.requests[i].owns_lock && self.requests[i].mapped.is_none();
                    self.rule(able, "who writes alone holds an allocation it has not used");
                    self.blocks[1 + i].data = data;
                    self.blocks[1 + i].references = 1;
                    self.requests[i].mapped = Some(whole(1 + i));
                    self.end(i, Phase::Served);
                }
                Action::NoSpace { .. } => {
                    self.rule(
                        !spec.writers[i].allocated,
                        "who fails for want of space has none",
                    );
                    self.rule(
                        self.requests[i].mapped.is_none(),
                        "who was served cannot fail",
                    );
                    self.end(i, Phase::Failed);
                }
                Action::Exit { .. } => {
                    let failed = self.requests[i].failed;
                    self.rule(
                        failed || self.requests[i].mapped.is_some(),
                        "a request that did not fail has its data in a place when it exits",
                    );
                    self.end(i, if failed { Phase::Failed } else { Phase::Served });
                }
                Action::Inconsistent(_) => {}
            }
        }
    }

    /// A request is over: what it holds still is released.
    fn end(&mut self, i: usize, phase: Phase) {
        self.rule(
            self.requests[i].phase == Phase::Waiting,
            "a request ends once, and not in the middle of something",
        );
        if std::mem::take(&mut self.requests[i].owns_lock) {
            match &mut self.blocks[1 + i].lock {
                BlockLock::Read { holders, .. } if *holders > 1 => *holders -= 1,
                lock => *lock = BlockLock::Free,
            }
        }
        self.requests[i].phase = phase;
    }

    fn tell(&mut self, lock: Option<LockReport>, at: Option<Mapping>) {
        if let Some(lock) = lock {
            self.lives[lock.id.0 as usize].known = at;
        }
    }

    fn once(&mut self, lock: Option<LockReport>, count: fn(&mut Life) -> &mut u8) {
        if let Some(lock) = lock {
            let count = count(&mut self.lives[lock.id.0 as usize]);
            *count += 1;
            let once = *count == 1;
            self.rule(once, "QUERYING and WRITING happen once in a lock's life");
        }
    }

    /// What is about to be referred to holds the data, and cannot change.
    pub(super) fn check_copy(&mut self, at: Mapping, data: Data) {
        self.rule(self.is_read_locked(at), "what is shared is locked");
        self.rule(self.content(at) == data, "what is shared is the same data");
    }

    /// What must be true of every lock at any time.
    pub(super) fn check_locks(&mut self, spec: &Spec) {
        for id in 0..self.lives.len() {
            if !self.machine.locks().any(|lock| lock.id.0 as usize == id) {
                self.lives[id] = Life::default();
            }
        }
        let locks: Vec<LockReport> = self.machine.locks().collect();
        for lock in &locks {
            let holders: Vec<RequestId> = self.machine.holders(lock.id).collect();
            let waiters: Vec<RequestId> = self.machine.waiters(lock.id).collect();
            let state = lock.state;
            self.rule(
                (lock.references, lock.waiters) == (holders.len() as u32, waiters.len() as u32),
                "references and waiters are counted",
            );
            self.rule(
                state != LockState::Initializing,
                "a lock does not stay INITIALIZING",
            );
            let shared = matches!(state, LockState::Deduping | LockState::Bypassing);
            self.rule(
                lock.agent.is_some() != (state == LockState::Deduping)
                    || state == LockState::Bypassing,
                "every state has an agent, only DEDUPING has none",
            );
            self.rule(
                lock.agent.is_none_or(|agent| holders.contains(&agent)),
                "the agent is a holder",
            );
            self.rule(
                !shared || waiters.is_empty(),
                "nobody waits in DEDUPING or BYPASSING",
            );
            self.rule(
                shared || holders.len() == waiters.len() + 1,
                "whoever is not the agent waits",
            );
            self.rule(
                lock.registered || waiters.is_empty(),
                "nobody waits in a lock that was replaced",
            );
            let locked = match state {
                LockState::Verifying | LockState::Deduping => Some(true),
                LockState::Querying
                | LockState::Locking
                | LockState::Writing
                | LockState::Unlocking => Some(false),
                LockState::Initializing | LockState::Updating | LockState::Bypassing => None,
            };
            self.rule(
                locked.is_none_or(|locked| lock.locked == locked),
                "locked when it must be",
            );
            let sure = matches!(state, LockState::Deduping | LockState::Updating);
            self.rule(lock.verified || !sure, "verified when it must be");
            let arrivals = waiters.iter().map(|r| self.requests[r.0 as usize].arrival);
            self.rule(arrivals.is_sorted(), "others wait in the order they came");
            let alike = holders.iter().all(|r| {
                let (one, other) = (
                    spec.writers[r.0 as usize],
                    spec.writers[holders[0].0 as usize],
                );
                (one.name, one.data) == (other.name, other.data)
            });
            self.rule(alike, "a lock's requests have the same data");
            let twins = locks
                .iter()
                .filter(|l| l.registered && l.name == lock.name)
                .count();
            self.rule(twins <= 1, "one lock of a name is registered");
        }
        let stuck = (0..self.requests.len()).any(|i| self.is_stuck_in_packer(i));
        self.rule(!stuck, "nobody waits for an agent that waits in the packer");
        let doing = self
            .requests
            .iter()
            .filter(|r| matches!(r.phase, Phase::Doing(_)));
        let protected: usize = self
            .blocks
            .iter()
            .map(|b| match b.lock {
                BlockLock::Read { holders, .. } => usize::from(holders),
                BlockLock::Free | BlockLock::Write => 0,
            })
            .sum();
        let unlocking = doing
            .filter(|r| matches!(r.phase, Phase::Doing(Action::Unlock { .. })))
            .count();
        let owned = (0..self.requests.len())
            .filter(|&i| self.requests[i].owns_lock && self.is_read_locked(whole(1 + i)))
            .count();
        let held = locks.iter().filter(|lock| lock.locked).count();
        self.rule(
            protected == unlocking + owned + held,
            "no lock on a block is lost",
        );
    }
}
