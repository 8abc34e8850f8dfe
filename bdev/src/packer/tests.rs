//! What goes into a packer comes out once, where dm-vdo's rules send it; and what leaves together can be read.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::buffer::{DmaMemory, HeapMemory};
use crate::format::compressed_block::{
    DATA_SIZE, MAXIMUM_FRAGMENT_SIZE, MAXIMUM_FRAGMENTS, fragment, state_of_slot,
};

const START: Nanos = Nanos(50);

/// A packer for so many requests, and how many blocks it has.
fn packer(requests: u32) -> (Packer, usize) {
    let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
    let blocks = blocks_for(requests);
    let block = |_| Buffer::new(&memory, 1).unwrap();
    (
        Packer::new(requests, (0..blocks).map(block).collect()),
        blocks as usize,
    )
}

/// The bytes of a write's fragment.
fn bytes(id: u32, size: usize) -> Vec<u8> {
    (0..size).map(|at| (id as usize + at) as u8 | 1).collect()
}

fn put(packer: &mut Packer, id: u32, size: usize) -> Put {
    packer.put(RequestId(id), &bytes(id, size), START)
}

/// Puts a fragment in that lies there, and nothing leaves for it.
fn lies(packer: &mut Packer, id: u32, size: usize) {
    let put = put(packer, id, size);
    assert!(matches!(put, Put::Lies(None)), "{id} of {size}: {put:?}");
}

/// Who leaves.
fn who(leaving: &Leaving) -> Vec<u32> {
    match leaving {
        Leaving::Alone(id) => vec![id.0],
        Leaving::Together(company, _) => company.ids().iter().map(|id| id.0).collect(),
    }
}

fn ids(leaving: Option<Leaving>) -> Vec<u32> {
    who(&leaving.expect("something leaves"))
}

fn left_by(put: Put) -> Vec<u32> {
    match put {
        Put::Lies(leaving) => ids(leaving),
        Put::Alone => panic!("it found no place"),
    }
}

#[test]
fn a_fragment_goes_to_the_fullest_bin_with_room() {
    let (mut packer, _) = packer(64);
    lies(&mut packer, 0, 3000);
    lies(&mut packer, 1, 2000);
    lies(&mut packer, 2, 1061);
    assert_eq!(
        left_by(put(&mut packer, 3, 1060)),
        [0, 3],
        "not a byte is left"
    );
    assert_eq!(ids(packer.leave_next()), [1, 2], "3061 bytes");
    assert!(packer.leave_next().is_none());
}

#[test]
fn fourteen_fragments_leave_at_once_and_so_does_a_bin_without_a_byte_left() {
    let (mut packer, _) = packer(64);
    (0..13).for_each(|id| lies(&mut packer, id, 10));
    assert_eq!(left_by(put(&mut packer, 13, 10)), Vec::from_iter(0..14));
    lies(&mut packer, 20, DATA_SIZE - 7);
    assert_eq!(left_by(put(&mut packer, 21, 7)), [20, 21]);
    assert_eq!((packer.lying(), packer.leave_next().is_none()), (0, true));
}

#[test]
fn with_all_bins_taken_the_fullest_leaves_unless_the_newcomer_is_as_large() {
    let (mut packer, _) = packer(64);
    (0..15).for_each(|id| lies(&mut packer, id, 2100));
    lies(&mut packer, 15, 2200);
    assert!(matches!(put(&mut packer, 16, 2200), Put::Alone));
    assert_eq!(left_by(put(&mut packer, 17, 2199)), [15]);
    lies(&mut packer, 18, 1800);
    assert_eq!(ids(packer.leave_next()), [17, 18]);
}

#[test]
fn a_packer_whose_blocks_are_all_being_written_takes_what_its_bins_have_room_for() {
    let (mut packer, blocks) = packer(4);
    let mut written = Vec::new();
    for id in 0..blocks as u32 {
        lies(&mut packer, id, 1000);
        match put(&mut packer, 100 + id, DATA_SIZE - 1000) {
            Put::Lies(Some(Leaving::Together(_, block))) => written.push(block),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(put(&mut packer, 50, 1), Put::Alone));
    packer.give_back(written.pop().unwrap());
    lies(&mut packer, 51, 1);
    lies(&mut packer, 52, 1);
}

#[test]
fn one_that_is_taken_out_leaves_the_others_whole() {
    let (mut packer, _) = packer(64);
    (0..4).for_each(|id| lies(&mut packer, id, 100 + id as usize));
    assert!(packer.take_out(RequestId(1)));
    assert!(!packer.take_out(RequestId(1)));
    lies(&mut packer, 4, 300);
    let Some(Leaving::Together(company, block)) = packer.leave_next() else {
        panic!("four have company");
    };
    assert_eq!(company.ids(), [0, 2, 3, 4].map(RequestId));
    for (slot, (id, size)) in [(0, 100), (2, 102), (3, 103), (4, 300)]
        .into_iter()
        .enumerate()
    {
        let place = fragment(block.first_block(), state_of_slot(slot).unwrap()).unwrap();
        assert_eq!(block[place], bytes(id, size));
    }
    lies(&mut packer, 5, 10);
    assert!(packer.take_out(RequestId(5)));
    assert!(packer.leave_next().is_none(), "its bin is gone with it");
}

#[test]
fn when_nothing_comes_all_leave_and_an_old_bin_leaves_whatever_comes() {
    let (mut packer, _) = packer(64);
    assert_eq!(packer.deadline(), None);
    lies(&mut packer, 0, 4000);
    let due = Nanos(START.0 + QUIET.0);
    assert_eq!(packer.deadline(), Some(due));
    assert!(packer.next_due(Nanos(due.0 - 1)).is_none());
    let mut now = due;
    for id in 1.. {
        // Something came a moment ago, and leaves right away again.
        let other = RequestId(id);
        packer.put(other, &bytes(id, 100), Nanos(now.0 - 1));
        packer.take_out(other);
        match packer.next_due(now) {
            Some(leaving) => {
                assert_eq!(ids(Some(leaving)), [0]);
                break;
            }
            None => now = packer.deadline().expect("one still lies there"),
        }
    }
    assert!(now.0 >= START.0 + OLD.0 && now.0 <= START.0 + OLD.0 + QUIET.0);
    assert!(packer.next_due(now).is_none());
    assert_eq!(packer.deadline(), None);
}

/// dm-vdo's rules once more, without bytes: bins as lists of sizes, the fullest first.
#[derive(Default)]
struct Rules {
    bins: Vec<Vec<(u32, usize)>>,
}

fn used(bin: &[(u32, usize)]) -> usize {
    bin.iter().map(|(_, size)| size).sum()
}

impl Rules {
    /// Who leaves, or `None` if the newcomer is to be written alone.
    fn put(&mut self, most: usize, free: usize, id: u32, size: usize) -> Option<Vec<u32>> {
        let room = |bin: &Vec<_>| used(bin) + size <= DATA_SIZE;
        let mut left = Vec::new();
        if let Some(place) = self.bins.iter().position(room) {
            self.bins[place].push((id, size));
            if self.bins[place].len() == MAXIMUM_FRAGMENTS || used(&self.bins[place]) == DATA_SIZE {
                left = self.bins.remove(place);
            }
        } else {
            let crowded = self.bins.len() == most;
            if free == 0 || (crowded && size >= used(&self.bins[0])) {
                return None;
            }
            if crowded {
                left = self.bins.remove(0);
            }
            self.bins.push(vec![(id, size)]);
        }
        self.sort();
        Some(left.into_iter().map(|(id, _)| id).collect())
    }

    fn take_out(&mut self, id: u32) {
        for bin in &mut self.bins {
            bin.retain(|(other, _)| *other != id);
        }
        self.bins.retain(|bin| !bin.is_empty());
        self.sort();
    }

    fn sort(&mut self) {
        self.bins.sort_by_key(|bin| std::cmp::Reverse(used(bin)));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize),
    TakeOut(usize),
    Empty,
    Written,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![
        1..=400_usize,
        1..=2100_usize,
        1..=MAXIMUM_FRAGMENT_SIZE,
        3000..=MAXIMUM_FRAGMENT_SIZE
    ];
    prop::collection::vec(
        prop_oneof![
            12 => size.prop_map(Step::Put),
            3 => (0..1000_usize).prop_map(Step::TakeOut),
            1 => Just(Step::Empty),
            5 => Just(Step::Written),
        ],
        1..300,
    )
}

proptest! {
    #[test]
    fn every_write_leaves_once_as_the_rules_say_and_its_fragment_can_be_read(
        requests in prop_oneof![Just(1_u32), Just(9), Just(64)],
        steps in steps(),
    ) {
        let (mut packer, blocks) = packer(requests);
        let most = packer.most_bins;
        let mut rules = Rules::default();
        let mut written: Vec<Buffer> = Vec::new();
        let mut lying: HashMap<u32, usize> = HashMap::new();
        let mut next = 0;
        for step in steps {
            let mut leaving = Vec::new();
            match step {
                Step::Put(size) => {
                    let id = next;
                    next += 1;
                    let free = blocks - rules.bins.len() - written.len();
                    let wanted = rules.put(most, free, id, size);
                    match put(&mut packer, id, size) {
                        Put::Alone => prop_assert_eq!(wanted, None),
                        Put::Lies(left) => {
                            lying.insert(id, size);
                            let who = left.as_ref().map_or(vec![], who);
                            prop_assert_eq!(Some(who), wanted);
                            leaving.extend(left);
                        }
                    }
                }
                Step::TakeOut(choice) if !lying.is_empty() => {
                    let mut all: Vec<_> = lying.keys().copied().collect();
                    all.sort_unstable();
                    let id = all[choice % all.len()];
                    prop_assert!(packer.take_out(RequestId(id)));
                    lying.remove(&id);
                    rules.take_out(id);
                }
                Step::TakeOut(_) => prop_assert!(!packer.take_out(RequestId(next))),
                Step::Empty => {
                    leaving.extend(std::iter::from_fn(|| packer.leave_next()));
                    rules.bins.clear();
                }
                Step::Written => written.drain(..).for_each(|block| packer.give_back(block)),
            }
            for one in leaving {
                match one {
                    Leaving::Alone(id) => prop_assert!(lying.remove(&id.0).is_some()),
                    Leaving::Together(company, block) => {
                        prop_assert!(company.size() >= 2);
                        for (slot, id) in company.ids().iter().enumerate() {
                            let size = lying.remove(&id.0).expect("it lay there");
                            let place = fragment(block.first_block(), state_of_slot(slot).unwrap());
                            prop_assert_eq!(&block[place.unwrap()], &bytes(id.0, size)[..]);
                        }
                        written.push(block);
                    }
                }
            }
            prop_assert_eq!(packer.lying() as usize, lying.len());
            prop_assert_eq!(packer.bins.len(), rules.bins.len());
            prop_assert!(packer.bins.len() <= most);
            prop_assert_eq!(packer.blocks.len() + packer.bins.len() + written.len(), blocks);
        }
    }
}
