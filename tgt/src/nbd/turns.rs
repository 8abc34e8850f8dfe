//! How clients with long requests take turns on a reactor.
//!
//! In one turn of its reactor a client moves a bounded number of bytes, but many clients with long requests would still
//! make the turn long for everybody else. So each says when it has much to move, and of those who said so
//! in the last turn only a few may in this one, by their numbers. Nothing is remembered of who had a turn, and
//! nobody who wants one waits for more than as many turns as there are such groups.

use std::cell::Cell;

use vdo::seam::Nanos;

use crate::reactor;

/// Clients that may move much in one turn of a reactor.
const AT_A_TIME: u64 = 8;

/// What a reactor's clients know of each other.
#[derive(Clone, Copy)]
struct Turns {
    /// When the turn began.
    began: Nanos,
    /// The turn's number.
    number: u64,
    /// Who has said in it that there is much to move.
    wanting: u64,
    /// How many said so in the one before.
    wanted: u64,
    /// The number of the next client.
    next: u64,
}

thread_local! {
    static TURNS: Cell<Turns> = const {
        Cell::new(Turns { began: Nanos(0), number: 0, wanting: 0, wanted: 0, next: 0 })
    };
}

impl Turns {
    /// Goes on to the turn that began at `now`, if that is another.
    fn at(mut self, now: Nanos) -> Turns {
        if now != self.began {
            self.began = now;
            self.number += 1;
            self.wanted = std::mem::take(&mut self.wanting);
        }
        self
    }
}

/// A client's place among those of its reactor.
#[derive(Debug)]
pub(super) struct TurnTaker(u64);

impl TurnTaker {
    /// One more, on the reactor it will stay on.
    pub(super) fn new() -> TurnTaker {
        let mut turns = TURNS.get();
        turns.next += 1;
        TURNS.set(turns);
        TurnTaker(turns.next)
    }

    /// There is much to move: whether some of it may be moved in this turn.
    pub(super) fn may_move(&self) -> bool {
        self.may_move_at(reactor::now())
    }

    fn may_move_at(&self, now: Nanos) -> bool {
        let mut turns = TURNS.get().at(now);
        turns.wanting += 1;
        TURNS.set(turns);
        let groups = turns.wanted.div_ceil(AT_A_TIME).max(1);
        (turns.number + self.0).is_multiple_of(groups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_who_have_much_to_move_a_few_do_in_each_turn_and_all_in_the_end() {
        let clients: Vec<_> = (0..64).map(|_| TurnTaker::new()).collect();
        let mut moved = [0; 64];
        for turn in 1..=81 {
            let may = |client: &TurnTaker| client.may_move_at(Nanos(turn));
            let now: Vec<_> = clients.iter().map(may).collect();
            if turn > 1 {
                let count = now.iter().filter(|moves| **moves).count();
                assert_eq!(count as u64, AT_A_TIME);
                for (times, moves) in moved.iter_mut().zip(now) {
                    *times += u32::from(moves);
                }
            }
        }
        assert_eq!(moved, [10; 64]);
    }

    #[test]
    fn few_move_in_every_turn() {
        let clients: Vec<_> = (0..AT_A_TIME).map(|_| TurnTaker::new()).collect();
        for turn in 1..20 {
            assert!(clients.iter().all(|one| one.may_move_at(Nanos(turn))));
        }
    }
}
