//! Names for the data of writes, many at once.
//!
//! Hashing several blocks together takes a fraction of the time of one after the other. So a write
//! that needs its data's name puts it here; when the zone thread has nothing else ready to run, all
//! that have gathered are hashed together.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::logical_locks::SlotIndex;
use crate::buffer::Buffer;
use crate::hash::{Block, hash_blocks};
use crate::runtime::task::{Scheduler, TaskId};
use crate::types::RecordName;

/// Most blocks hashed in one go.
const GROUP: usize = 32;

struct Waiting {
    task: TaskId,
    slot: SlotIndex,
    data: Arc<Buffer>,
}

/// Writes of one zone thread waiting for the name of their data.
pub struct BatchHasher {
    scheduler: Rc<Scheduler>,
    waiting: RefCell<Vec<Waiting>>,
    names: RefCell<Vec<Option<RecordName>>>,
}

impl BatchHasher {
    /// For `slots` request slots.
    pub fn new(scheduler: &Rc<Scheduler>, slots: usize) -> BatchHasher {
        BatchHasher {
            scheduler: Rc::clone(scheduler),
            waiting: RefCell::new(Vec::with_capacity(slots)),
            names: RefCell::new(vec![None; slots]),
        }
    }

    /// The name of `data`, for the request in `slot`.
    pub async fn name(&self, slot: SlotIndex, data: &Arc<Buffer>) -> RecordName {
        self.waiting.borrow_mut().push(Waiting {
            task: self.scheduler.current(),
            slot,
            data: Arc::clone(data),
        });
        std::future::poll_fn(|_| match self.names.borrow_mut()[slot.0 as usize].take() {
            Some(name) => Poll::Ready(name),
            None => Poll::Pending,
        })
        .await
    }

    /// Hashes all that wait and wakes them; says whether any did.
    pub fn run(&self) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            return false;
        }
        let mut names = self.names.borrow_mut();
        for group in waiting.chunks(GROUP) {
            static NOTHING: Block = [0; crate::types::BLOCK_SIZE];
            let mut blocks = [&NOTHING; GROUP];
            for (block, one) in blocks.iter_mut().zip(group) {
                *block = one.data[..]
                    .try_into()
                    .expect("a write's buffer is one block");
            }
            let mut found = [RecordName::default(); GROUP];
            hash_blocks(&blocks[..group.len()], &mut found[..group.len()]);
            for (one, name) in group.iter().zip(found) {
                names[one.slot.0 as usize] = Some(name);
                self.scheduler.wake(one.task);
            }
        }
        waiting.clear();
        true
    }
}
