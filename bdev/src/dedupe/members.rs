//! Which request stands where: in no lock, in a lock, and there perhaps among the waiters.
//!
//! One [`Member`] per request id, taken when the zone is made. A lock's requests form a doubly linked list
//! (they end in any order, and someone must always be found to compare data with), those that wait
//! a singly linked queue besides; the links lie in the members, so that no list ever grows.

use super::action::RequestId;
use super::lock::LockId;
use crate::types::Pbn;

/// No request.
const NOBODY: u32 = u32::MAX;

/// One request as its zone knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    /// The lock it belongs to; none if the zone does not know it.
    pub(super) lock: Option<LockId>,
    /// The block it may write to.
    pub(super) allocation: Option<Pbn>,
    /// Whether it was told to do something and has not answered.
    pub(super) asked: bool,
    next_waiter: u32,
    next_holder: u32,
    previous_holder: u32,
}

impl Member {
    const OUTSIDE: Member = Member {
        lock: None,
        allocation: None,
        asked: false,
        next_waiter: NOBODY,
        next_holder: NOBODY,
        previous_holder: NOBODY,
    };
}

/// The ends of a list of requests, and its length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    first: u32,
    last: u32,
    /// How many are in it.
    pub(super) len: u32,
}

impl Chain {
    /// Nobody.
    pub(super) const EMPTY: Chain = Chain {
        first: NOBODY,
        last: NOBODY,
        len: 0,
    };

    /// Whether nobody is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The one that came first.
    pub(super) fn first(&self) -> Option<RequestId> {
        (self.first != NOBODY).then_some(RequestId(self.first))
    }
}

/// All requests a zone can know.
#[derive(Clone, Debug)]
pub(super) struct Members(Vec<Member>);

impl Members {
    /// Room for requests numbered below `max_requests`.
    pub(super) fn new(max_requests: u32) -> Members {
        Members(vec![Member::OUTSIDE; max_requests as usize])
    }

    /// How many requests there can be.
    pub(super) fn capacity(&self) -> usize {
        self.0.len()
    }

    /// Bytes of memory taken.
    pub(super) fn footprint(&self) -> usize {
        self.0.capacity() * size_of::<Member>()
    }

    /// The member `request`, if its number is within the pool.
    pub(super) fn get(&self, request: RequestId) -> Option<&Member> {
        self.0.get(request.0 as usize)
    }

    fn at(&self, index: u32) -> &Member {
        &self.0[index as usize]
    }

    fn at_mut(&mut self, index: u32) -> &mut Member {
        &mut self.0[index as usize]
    }

    /// The block `request` may write to.
    pub(super) fn allocation(&self, request: RequestId) -> Option<Pbn> {
        self.at(request.0).allocation
    }

    /// Notes whether an answer of `request` is awaited.
    pub(super) fn set_asked(&mut self, request: RequestId, asked: bool) {
        self.at_mut(request.0).asked = asked;
    }

    /// A request comes in, holding `allocation`.
    pub(super) fn admit(&mut self, request: RequestId, allocation: Option<Pbn>) {
        *self.at_mut(request.0) = Member {
            allocation,
            ..Member::OUTSIDE
        };
    }

    /// Adds `request` to the requests of `lock`.
    pub(super) fn join(&mut self, holders: &mut Chain, lock: LockId, request: RequestId) {
        let last = holders.last;
        let member = self.at_mut(request.0);
        member.lock = Some(lock);
        member.previous_holder = last;
        member.next_holder = NOBODY;
        if last == NOBODY {
            holders.first = request.0;
        } else {
            self.at_mut(last).next_holder = request.0;
        }
        holders.last = request.0;
        holders.len += 1;
    }

    /// Takes `request` from the requests of its lock.
    pub(super) fn leave(&mut self, holders: &mut Chain, request: RequestId) {
        let member = self.at_mut(request.0);
        member.lock = None;
        let (previous, next) = (member.previous_holder, member.next_holder);
        if previous == NOBODY {
            holders.first = next;
        } else {
            self.at_mut(previous).next_holder = next;
        }
        if next == NOBODY {
            holders.last = previous;
        } else {
            self.at_mut(next).previous_holder = previous;
        }
        holders.len -= 1;
    }

    /// Puts `request` last in the queue of waiters.
    pub(super) fn push_waiter(&mut self, waiters: &mut Chain, request: RequestId) {
        self.at_mut(request.0).next_waiter = NOBODY;
        if waiters.last == NOBODY {
            waiters.first = request.0;
        } else {
            self.at_mut(waiters.last).next_waiter = request.0;
        }
        waiters.last = request.0;
        waiters.len += 1;
    }

    /// Puts `request` first in the queue of waiters.
    pub(super) fn push_first_waiter(&mut self, waiters: &mut Chain, request: RequestId) {
        self.at_mut(request.0).next_waiter = waiters.first;
        waiters.first = request.0;
        if waiters.last == NOBODY {
            waiters.last = request.0;
        }
        waiters.len += 1;
    }

    /// Takes the first of the waiters.
    pub(super) fn pop_waiter(&mut self, waiters: &mut Chain) -> Option<RequestId> {
        let first = waiters.first()?;
        waiters.first = self.at(first.0).next_waiter;
        if waiters.first == NOBODY {
            waiters.last = NOBODY;
        }
        waiters.len -= 1;
        Some(first)
    }

    /// Takes the first waiter that holds an allocation out of the queue, wherever it stands.
    pub(super) fn take_waiter_with_allocation(&mut self, waiters: &mut Chain) -> Option<RequestId> {
        let mut previous = NOBODY;
        let mut current = waiters.first;
        while current != NOBODY {
            let member = *self.at(current);
            if member.allocation.is_some() {
                if previous == NOBODY {
                    waiters.first = member.next_waiter;
                } else {
                    self.at_mut(previous).next_waiter = member.next_waiter;
                }
                if waiters.last == current {
                    waiters.last = previous;
                }
                waiters.len -= 1;
                return Some(RequestId(current));
            }
            previous = current;
            current = member.next_waiter;
        }
        None
    }

    /// The requests of a lock, in the order they joined.
    pub(super) fn holders(&self, holders: Chain) -> impl Iterator<Item = RequestId> + '_ {
        self.walk(holders.first, |member| member.next_holder)
    }

    /// The waiters, first come first.
    pub(super) fn waiters(&self, waiters: Chain) -> impl Iterator<Item = RequestId> + '_ {
        self.walk(waiters.first, |member| member.next_waiter)
    }

    fn walk(
        &self,
        first: u32,
        next: impl Fn(&Member) -> u32 + 'static,
    ) -> impl Iterator<Item = RequestId> + '_ {
        let mut current = first;
        std::iter::from_fn(move || {
            if current == NOBODY {
                return None;
            }
            let request = RequestId(current);
            current = next(self.at(current));
            Some(request)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(members: &Members, chain: &Chain) -> Vec<u32> {
        members.waiters(*chain).map(|request| request.0).collect()
    }

    #[test]
    fn waiters_keep_their_order_when_one_is_taken_from_anywhere() {
        for with_allocation in 0..4 {
            let mut members = Members::new(4);
            let mut waiters = Chain::EMPTY;
            for request in 0..4 {
                let allocation = (request == with_allocation).then_some(Pbn(9));
                members.admit(RequestId(request), allocation);
                members.push_waiter(&mut waiters, RequestId(request));
            }
            let taken = members.take_waiter_with_allocation(&mut waiters);
            assert_eq!(taken, Some(RequestId(with_allocation)));
            let rest: Vec<u32> = (0..4)
                .filter(|&request| request != with_allocation)
                .collect();
            assert_eq!(all(&members, &waiters), rest);
            assert_eq!(members.take_waiter_with_allocation(&mut waiters), None);
            members.push_waiter(&mut waiters, RequestId(with_allocation));
            assert_eq!(all(&members, &waiters).last(), Some(&with_allocation));
            assert_eq!(waiters.len, 4);
        }
    }

    #[test]
    fn the_first_place_can_be_taken_in_an_empty_queue_too() {
        let mut members = Members::new(2);
        let mut waiters = Chain::EMPTY;
        members.push_first_waiter(&mut waiters, RequestId(0));
        members.push_waiter(&mut waiters, RequestId(1));
        assert_eq!(members.pop_waiter(&mut waiters), Some(RequestId(0)));
        members.push_first_waiter(&mut waiters, RequestId(0));
        assert_eq!(all(&members, &waiters), [0, 1]);
        assert_eq!(members.pop_waiter(&mut waiters), Some(RequestId(0)));
        assert_eq!(members.pop_waiter(&mut waiters), Some(RequestId(1)));
        assert_eq!(members.pop_waiter(&mut waiters), None);
        assert!(waiters.is_empty());
    }

    #[test]
    fn holders_leave_in_any_order() {
        let mut members = Members::new(3);
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let mut holders = Chain::EMPTY;
            for request in 0..3 {
                members.join(&mut holders, LockId(0), RequestId(request));
            }
            let mut left = vec![0, 1, 2];
            for request in order {
                members.leave(&mut holders, RequestId(request));
                left.retain(|&other| other != request);
                let found: Vec<u32> = members.holders(holders).map(|r| r.0).collect();
                assert_eq!(found, left);
                assert_eq!(holders.len as usize, left.len());
            }
            assert_eq!(holders.first(), None);
        }
    }
}
