//! What the requests and the I/O tasks of a zone share, and what follows each step of theirs.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::state::{JournalCall, MapPhase, MapState};
use super::waiters::WaiterId;
use crate::error::VdoError;
use crate::recovery::map_replay::Overlay;
use crate::runtime::base::BaseDevice;
use crate::runtime::services::{JournalHolder, ZoneServices};
use crate::runtime::shared_flush::SharedFlush;
use crate::runtime::task::WaitList;
use crate::types::Mapping;

/// What the requests and the I/O tasks of a zone share.
pub(super) struct MapCore {
    pub(super) state: RefCell<MapState>,
    pub(super) base: Rc<BaseDevice>,
    pub(super) services: Rc<dyn ZoneServices>,
    pub(super) overlay: Option<Arc<Overlay>>,
    pub(super) flushes: SharedFlush,
    pub(super) read_work: Rc<WaitList>,
    pub(super) write_work: Rc<WaitList>,
    pub(super) idle: WaitList,
    pub(super) holder: JournalHolder,
}

impl MapCore {
    /// Tells the journal what there is to tell, and a drain that waits whether it is over. Called
    /// after every step, with the state not borrowed: who is told may call back.
    #[inline]
    pub(super) fn settle(&self) {
        let mut calls = {
            let mut state = self.state.borrow_mut();
            if state.phase == MapPhase::Draining && state.is_quiet() {
                self.idle.wake_all();
            }
            if state.journal_calls().is_empty() {
                return;
            }
            std::mem::take(state.journal_calls())
        };
        for call in calls.drain(..) {
            match call {
                JournalCall::Acquire(sequence) => {
                    self.services.acquire_journal_lock(sequence, self.holder);
                }
                JournalCall::Release(sequence) => {
                    self.services.release_journal_lock(sequence, self.holder);
                }
            }
        }
        let mut state = self.state.borrow_mut();
        if state.journal_calls().is_empty() {
            *state.journal_calls() = calls;
        }
    }

    /// Turns the volume read-only.
    pub(super) fn enter_read_only(&self, why: &VdoError) {
        if *why != VdoError::ReadOnly {
            self.services.enter_read_only(why);
        }
        self.notice_read_only();
    }

    /// Sees whether the volume has become read-only.
    #[inline]
    pub(super) fn notice_read_only(&self) {
        if self.services.is_read_only() {
            let mut state = self.state.borrow_mut();
            if !state.read_only {
                state.enter_read_only();
            }
        }
    }

    pub(super) async fn wait(&self, waiter: WaiterId) -> Result<Mapping, VdoError> {
        std::future::poll_fn(|_| match self.state.borrow_mut().take(waiter) {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        })
        .await
    }
}
