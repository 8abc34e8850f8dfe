//! A disk that answers late, may fail from some I/O on, and loses some of what was not flushed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use vdo::index::IndexError;
use vdo::index::uds::device::IndexDevice;
use vdo::types::{BLOCK_SIZE, Pbn};

use crate::model::Chance;

/// Polls until it is done.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(done) = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            return done;
        }
    }
}

#[derive(Default)]
struct State {
    durable: HashMap<u64, [u8; BLOCK_SIZE]>,
    /// Written and not flushed, in order.
    volatile: Vec<(u64, [u8; BLOCK_SIZE])>,
    /// I/Os until all fail.
    left: Option<u64>,
    failed: bool,
}

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct Disk(Rc<RefCell<State>>);

impl Disk {
    /// All I/Os fail after so many more writes and flushes.
    pub(crate) fn fail_after(&self, ios: u64) {
        self.0.borrow_mut().left = Some(ios);
    }

    /// Whether an I/O has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.0.borrow().failed
    }

    /// What is left after a crash: all that was flushed, and some of the rest. It works again.
    pub(crate) fn after_crash(&self, chance: &mut Chance) {
        let state = &mut *self.0.borrow_mut();
        let kept = chance.below(5);
        for (block, bytes) in state.volatile.drain(..) {
            if chance.below(4) < kept {
                state.durable.insert(block, bytes);
            }
        }
        state.left = None;
        state.failed = false;
    }

    async fn io(&self, counts: bool) -> Result<(), IndexError> {
        let mut asked = false;
        std::future::poll_fn(|_| {
            if std::mem::replace(&mut asked, true) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        let state = &mut *self.0.borrow_mut();
        if state.left == Some(0) && (counts || state.failed) {
            state.failed = true;
            return Err(IndexError::Io {
                pbn: Pbn(0),
                errno: 5,
            });
        }
        if counts && let Some(left) = &mut state.left {
            *left -= 1;
        }
        Ok(())
    }
}

impl IndexDevice for Disk {
    async fn read(&self, at: Pbn, bytes: &mut [u8]) -> Result<(), IndexError> {
        self.io(false).await?;
        let state = self.0.borrow();
        for (block, bytes) in (at.get()..).zip(bytes.chunks_mut(BLOCK_SIZE)) {
            let newest = state
                .volatile
                .iter()
                .rev()
                .find(|(other, _)| *other == block);
            let known = newest
                .map(|(_, bytes)| bytes)
                .or_else(|| state.durable.get(&block));
            bytes.copy_from_slice(known.unwrap_or(&[0; BLOCK_SIZE]));
        }
        Ok(())
    }

    async fn write(&self, at: Pbn, bytes: &[u8]) -> Result<(), IndexError> {
        self.io(true).await?;
        let (blocks, rest) = bytes.as_chunks::<BLOCK_SIZE>();
        assert!(rest.is_empty(), "whole blocks");
        let state = &mut *self.0.borrow_mut();
        state
            .volatile
            .extend((at.get()..).zip(blocks.iter().copied()));
        Ok(())
    }

    async fn flush(&self) -> Result<(), IndexError> {
        self.io(true).await?;
        let state = &mut *self.0.borrow_mut();
        state.durable.extend(state.volatile.drain(..));
        Ok(())
    }
}
