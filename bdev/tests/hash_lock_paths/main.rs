//! Each path a hash lock can take, one scripted story at a time: what the requests answer, and exactly what
//! the zone then tells them to do.

mod failures;
mod forks;
mod relocks;
mod single;
mod zone;

use std::collections::HashMap;

use vdo::dedupe::{
    Action, Answer, HashZoneMachine, Inconsistency, LockHost, LockState, ReadLock, RequestId, Row,
    WrittenAt,
};
use vdo::types::{Mapping, MappingState, Pbn, RecordName};

const A: RecordName = RecordName([0xAA; 16]);
const B: RecordName = RecordName([0xBB; 16]);

/// What the driver knows: each request's data, each read lock's increments.
#[derive(Default)]
struct World {
    data: HashMap<u32, u8>,
    increments: HashMap<u64, u32>,
}

impl LockHost for World {
    fn same_data(&mut self, holder: RequestId, candidate: RequestId) -> bool {
        self.data[&holder.0] == self.data[&candidate.0]
    }

    fn claim_increment(&mut self, lock: ReadLock) -> bool {
        let left = self
            .increments
            .get_mut(&lock.0)
            .expect("a claim on a lock that is held");
        let granted = *left > 0;
        *left -= u32::from(granted);
        granted
    }
}

struct Zone {
    machine: HashZoneMachine,
    world: World,
}

impl Zone {
    fn new() -> Zone {
        Zone {
            machine: HashZoneMachine::new(300),
            world: World::default(),
        }
    }

    /// Request `n` enters with name A; its allocation, if any, is block 100 + n.
    fn enter(&mut self, n: u32, allocated: bool) -> Vec<Action> {
        self.enter_with(n, A, 0, allocated)
    }

    fn enter_with(&mut self, n: u32, name: RecordName, data: u8, allocated: bool) -> Vec<Action> {
        self.world.data.insert(n, data);
        let allocation = allocated.then(|| own(n).pbn);
        let mut out = Vec::new();
        self.machine
            .enter(RequestId(n), name, allocation, &mut self.world, &mut out);
        out
    }

    fn answer(&mut self, n: u32, answer: Answer) -> Vec<Action> {
        let mut out = Vec::new();
        self.machine
            .answer(RequestId(n), answer, &mut self.world, &mut out);
        out
    }

    /// The read lock `lock` is held, with `increments` to claim.
    fn locked(&mut self, n: u32, lock: u64, increments: u32) -> Vec<Action> {
        self.world.increments.insert(lock, increments);
        self.answer(n, Answer::Locked(ReadLock(lock)))
    }

    /// Request `n` wrote its own block, whose lock (n) has `increments` to claim.
    fn written(&mut self, n: u32, increments: u32) -> Vec<Action> {
        self.world.increments.insert(u64::from(n), increments);
        self.answer(
            n,
            Answer::Written(WrittenAt::Allocation(own(n).pbn, own_lock(n))),
        )
    }

    fn unlocked(&mut self, n: u32) -> Vec<Action> {
        self.answer(n, Answer::Unlocked { anchored: false })
    }

    fn state(&self, n: u32) -> LockState {
        self.machine
            .lock_of(RequestId(n))
            .expect("the request is in a lock")
            .state
    }

    /// Everything is over, and these rows were taken, as often as listed, and no others.
    fn ended_by(&self, rows: &[Row]) {
        assert!(self.machine.is_idle());
        for row in Row::ALL {
            let expected = rows.iter().filter(|&&taken| taken == row).count() as u64;
            assert_eq!(self.machine.transitions().get(row), expected, "{row:?}");
        }
    }
}

fn whole(pbn: u64) -> Mapping {
    Mapping {
        pbn: Pbn(pbn),
        state: MappingState::UNCOMPRESSED,
    }
}

fn own(n: u32) -> Mapping {
    whole(100 + u64::from(n))
}

fn own_lock(n: u32) -> ReadLock {
    ReadLock(u64::from(n))
}

fn query(n: u32, post: bool) -> Action {
    Action::Query {
        request: RequestId(n),
        name: A,
        post: post.then(|| own(n)),
    }
}

fn lock(n: u32, at: Mapping) -> Action {
    Action::Lock {
        request: RequestId(n),
        at,
    }
}

fn verify(n: u32, at: Mapping) -> Action {
    Action::Verify {
        request: RequestId(n),
        at,
    }
}

fn write(n: u32, may_pack: bool) -> Action {
    Action::Write {
        request: RequestId(n),
        may_pack,
    }
}

fn dedupe(n: u32, at: Mapping, lock: u64) -> Action {
    Action::Dedupe {
        request: RequestId(n),
        at,
        lock: ReadLock(lock),
    }
}

fn update(n: u32, at: Mapping) -> Action {
    Action::Update {
        request: RequestId(n),
        name: A,
        at,
    }
}

fn unlock(n: u32, at: Mapping, lock: u64) -> Action {
    Action::Unlock {
        request: RequestId(n),
        at,
        lock: ReadLock(lock),
    }
}

fn take(n: u32) -> Action {
    Action::TakeAllocation {
        request: RequestId(n),
        lock: own_lock(n),
    }
}

fn exit(n: u32) -> Action {
    Action::Exit {
        request: RequestId(n),
    }
}

fn alone(n: u32) -> Action {
    Action::WriteAlone {
        request: RequestId(n),
    }
}

fn no_space(n: u32) -> Action {
    Action::NoSpace {
        request: RequestId(n),
    }
}

fn cancel(n: u32) -> Action {
    Action::CancelPacking {
        request: RequestId(n),
    }
}

const NOTHING: [Action; 0] = [];
const OLD: u64 = 50;
