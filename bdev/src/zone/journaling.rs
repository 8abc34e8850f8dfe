//! How a change of mapping reaches the journal and then the reference counts, in one order for all.
//!
//! A request gives its change to the journal's zone thread and waits for up to three replies: the
//! journal's, when the entry is durable, and one from each physical zone whose count changes. When
//! an entry is durable the journal's thread itself passes its changes on, entry by entry, so that every slab
//! journal has its entries in the order of the recovery journal, whichever threads the requests live on. A change
//! that finds its slab's journal full takes its place there at once and is waited for by a task of its own.

use std::rc::Rc;

use super::message::{Call, ChangeTokens, MappingChange, Note, Reply};
use super::owner::{Zone, wrong_reply};
use crate::depot::{IncrementBudget, ReferenceChange, ReferenceOperation};
use crate::error::VdoError;
use crate::format::recovery_journal::{JournalOperation, RecoveryJournalEntry};
use crate::runtime::table::Key;
use crate::types::{JournalPoint, Pbn, ZoneIndex};

/// What came of journaling a change and counting it.
pub struct Journaled {
    /// Where the entry is, if it became durable; to be released.
    pub point: Option<JournalPoint>,
    /// The budget of a block just written, or the first error.
    pub budget: Result<Option<IncrementBudget>, VdoError>,
}

/// A change of a count that waits for room in a slab journal.
pub(super) struct LateAdjustment {
    from: ZoneIndex,
    token: u32,
    ticket: u32,
    budget: Result<Option<IncrementBudget>, VdoError>,
}

impl Zone {
    /// Journals a change of mapping, waits until the entry is durable, and then until the reference
    /// counts of the block that gains a reference and of the one that loses one have changed.
    ///
    /// The journal's zone passes the changes on, in the order of the entries, straight to the physical
    /// zones: every slab journal has its entries in the order of the recovery journal. With
    /// `written`, the block that gains the reference was just written by this request; its write lock
    /// is a read lock then, and the budget for more references is returned.
    ///
    /// Whatever this returns with a point, the entry is to be released once the mapping has changed.
    pub async fn journal_and_count(&self, entry: RecoveryJournalEntry, written: bool) -> Journaled {
        let mut open = || self.post.open();
        let tokens = ChangeTokens {
            entry: open(),
            increment: (entry.mapping.pbn != Pbn::ZERO).then(&mut open),
            decrement: (entry.unmapping.pbn != Pbn::ZERO).then(&mut open),
        };
        let change = MappingChange {
            from: self.index,
            tokens,
            entry,
            written,
        };
        match &self.journal {
            Some(_) => self.begin_journaling(change),
            None => self.post.note(ZoneIndex(0), Note::Journal(change)),
        }
        let point = match self.post.reply_to(tokens.entry).await {
            Reply::Appended(result) => result,
            reply => Err(wrong_reply("Journal", &reply)),
        };
        let point = match point {
            Ok(point) => point,
            Err(error) => {
                tokens
                    .increment
                    .into_iter()
                    .chain(tokens.decrement)
                    .for_each(|token| {
                        self.post.close(token);
                    });
                return Journaled {
                    point: None,
                    budget: Err(error),
                };
            }
        };
        let mut budget = Ok(None);
        for token in tokens.increment.into_iter().chain(tokens.decrement) {
            let adjusted = match self.post.reply_to(token).await {
                Reply::Adjusted(adjusted) => adjusted,
                reply => Err(wrong_reply("Adjust", &reply)),
            };
            budget = match (budget, adjusted) {
                (Ok(had), Ok(got)) => Ok(had.or(got)),
                (Err(error), _) | (_, Err(error)) => Err(error),
            };
        }
        Journaled {
            point: Some(point),
            budget,
        }
    }

    /// Gives the journal an entry on behalf of a request of any zone thread. Only on the journal's.
    pub(super) fn begin_journaling(&self, change: MappingChange) {
        let Some(journal) = &self.journal else {
            return log::error!("zone {}: an entry for the journal came astray", self.index);
        };
        let tag = u64::from(self.changes.borrow_mut().insert(change).number());
        if let Err(error) = journal.submit(tag, change.entry) {
            self.entry_done(tag, Err(error));
        }
    }

    /// The journal is done with an entry: it is durable, or failed. Called in the order of entries.
    pub(crate) fn entry_done(&self, tag: u64, result: Result<JournalPoint, VdoError>) {
        let key = u32::try_from(tag).ok().map(Key::new);
        let Some(change) = key.and_then(|key| self.changes.borrow_mut().remove(key)) else {
            return log::error!("the journal is done with an entry nobody gave it ({tag})");
        };
        let MappingChange {
            from,
            tokens,
            entry,
            written,
        } = change;
        if let Ok(point) = result {
            if let Some(token) = tokens.increment {
                let operation = match entry.operation {
                    JournalOperation::DataRemapping => ReferenceOperation::DataIncrement,
                    JournalOperation::BlockMapRemapping => ReferenceOperation::BlockMapIncrement,
                };
                let change = ReferenceChange {
                    pbn: entry.mapping.pbn,
                    operation,
                    point,
                };
                self.pass_on(from, token, change, written);
            }
            if let Some(token) = tokens.decrement {
                let operation = ReferenceOperation::DataDecrement;
                let change = ReferenceChange {
                    pbn: entry.unmapping.pbn,
                    operation,
                    point,
                };
                self.pass_on(from, token, change, false);
            }
        }
        self.answer(from, tokens.entry, Reply::Appended(result));
    }

    /// Passes a change of a count on to the block's owner, who will answer the request's zone thread.
    fn pass_on(&self, from: ZoneIndex, token: u32, change: ReferenceChange, written: bool) {
        match self.owner_of(change.pbn) {
            Ok(owner) if owner == self.index => self.adjust(from, token, change, written),
            Ok(owner) => self
                .post
                .pass_on(from, owner, token, Call::Adjust { change, written }),
            Err(error) => self.answer(from, token, Reply::Adjusted(Err(error))),
        }
    }

    /// Changes a count of a block of this zone and answers whoever wanted it, now or when there is room
    /// in the slab's journal.
    pub(super) fn adjust(
        &self,
        from: ZoneIndex,
        token: u32,
        change: ReferenceChange,
        written: bool,
    ) {
        let budget = match written {
            true => self.physical.downgrade_write(change.pbn, false).map(Some),
            false => Ok(None),
        };
        let adjustment = self.physical.adjust(change);
        match adjustment.now() {
            Ok(result) => {
                let adjusted = result.and(budget);
                self.answer(from, token, Reply::Adjusted(adjusted));
            }
            Err(later) => {
                let ticket = later.into_ticket();
                self.late.borrow_mut().push_back(LateAdjustment {
                    from,
                    token,
                    ticket,
                    budget,
                });
                self.late_arrived.wake_one();
            }
        }
    }

    /// Waits for changes of counts that could not be made at once, one at a time, for ever.
    pub(crate) async fn serve_late_adjustments(self: Rc<Self>) {
        loop {
            let next = self.late.borrow_mut().pop_front();
            let Some(LateAdjustment {
                from,
                token,
                ticket,
                budget,
            }) = next
            else {
                self.late_arrived.wait().await;
                continue;
            };
            let result = self.physical.take_up(ticket).await;
            self.answer(from, token, Reply::Adjusted(result.and(budget)));
        }
    }
}
