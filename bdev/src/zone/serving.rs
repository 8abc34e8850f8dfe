//! Being asked: what a zone thread does about the messages of others.

use std::rc::Rc;

use super::asking::LETTERS_AT_ONCE;
use super::events::Event;
use super::message::{AdminStep, Call, MemberCall, MemberReply, Note, PeerMessage, Reply};
use super::owner::Zone;
use super::post::Sack;
use crate::depot::WriteKind;
use crate::error::VdoError;
use crate::journal::RecoveryJournal;

impl Zone {
    /// The messages of another zone thread have come.
    pub(crate) fn receive_all(&self, mut sack: Sack) {
        let mut letters = sack.drain(..);
        while letters.len() > 0 {
            let count = letters.len().min(LETTERS_AT_ONCE);
            self.foresee_letters(&letters.as_slice()[..count]);
            for message in letters.by_ref().take(count) {
                self.receive(message);
            }
        }
        drop(letters);
        self.post.keep(sack);
    }

    fn receive(&self, message: PeerMessage) {
        match message {
            PeerMessage::Reply { token, reply } => self.deliver(token, reply),
            PeerMessage::Note(note) => self.take_note(note),
            PeerMessage::Call {
                from,
                token,
                call: Call::Allocate(kind),
            } => {
                let allocated = self.physical.allocate(kind);
                self.post.reply(from, token, Reply::Allocated(allocated));
            }
            PeerMessage::Call { from, token, call } => {
                self.calls.borrow_mut().push_back((from, token, call));
                self.servers.wake_one();
            }
        }
    }

    /// A reply has come for a task here.
    pub(super) fn deliver(&self, token: u32, reply: Reply) {
        if let Err(error) = self.post.deliver(token, reply) {
            self.services
                .enter_read_only_because(&error, format_args!("a reply went astray"));
        }
    }

    pub(crate) fn take_note(&self, note: Note) {
        match note {
            Note::ReleaseLock(pbn) => self.physical.release(pbn),
            Note::Journal(tag, entry) => self.submit_entry(tag, entry),
            Note::Committed(committed) => self.take_committed(committed.first, &committed.entries),
            Note::NotJournaled(tag, error) => self.entry_failed(tag, error),
            Note::AcquireJournal(sequence, holder) => {
                self.with_journal(|journal| journal.acquire(sequence, holder));
            }
            Note::ReleaseJournal(sequence, holder) => {
                self.with_journal(|journal| journal.release(sequence, holder));
            }
            Note::ReleaseEntries(sequence, number) => {
                self.with_journal(|journal| journal.release_entries(sequence, number));
            }
            Note::AdvanceEra(tail) => self.block_map.advance_era(tail),
            Note::CommitSlabJournals(oldest) => self.physical.commit_oldest(oldest),
            Note::IndexShare(from, share) => self.gather_share(from, share),
            Note::CloseChapter(chapter) => self.close_index_chapter(chapter),
            Note::ChapterPages(pages) => self.index_chapter_lent(pages),
            Note::ChapterWritten(written) => self.index_chapter_written(&written),
            Note::IndexFailed(error) => self.index_failed(error),
            Note::Enter(entrant) => {
                self.hash.enter(self, entrant);
            }
            Note::Mapped(from, succeeded) => {
                self.hash.mapped(self, from, succeeded);
            }
            Note::Hurry(from) => self.hash.hurry(self, from),
            Note::EmptyPacker(from, closed) => self.hash.empty_packer_for(self, from, closed),
            Note::Verdict(slot, verdict) => self.events.put(slot, Event::Verdict(verdict)),
            Note::MemberCall { from, member, call } => {
                let reply = match call {
                    MemberCall::Allocate => {
                        MemberReply::Allocated(self.physical.allocate(WriteKind::Data))
                    }
                    MemberCall::Lock(pbn) => MemberReply::Locked(self.physical.lock_duplicate(pbn)),
                    MemberCall::Downgrade(pbn, writers) => {
                        MemberReply::Downgraded(self.physical.downgrade_write(pbn, writers))
                    }
                };
                self.post.note(from, Note::MemberReply(member, reply));
            }
            Note::MemberReply(member, reply) => self.hash.replied(self, member, reply),
        }
    }

    fn with_journal(&self, act: impl FnOnce(&Rc<RecoveryJournal>)) {
        match &self.journal {
            Some(journal) => act(journal),
            None => {
                let error = self.no_journal("a note");
                self.services
                    .enter_read_only_because(&error, format_args!("a message went astray"));
            }
        }
    }

    pub(super) fn no_journal(&self, what: &str) -> VdoError {
        let zone = self.index;
        VdoError::Inconsistent(format!(
            "{what} for the journal came to zone thread {zone}, which does not keep it"
        ))
    }

    /// Serves other zone threads' calls that may have to wait, one at a time, for ever.
    pub(crate) async fn serve_calls(self: Rc<Self>) {
        loop {
            let next = self.calls.borrow_mut().pop_front();
            let Some((from, token, call)) = next else {
                self.servers.wait().await;
                continue;
            };
            let reply = match call {
                Call::Allocate(kind) => Reply::Allocated(self.physical.allocate(kind)),
                Call::Barrier => {
                    self.barrier().await;
                    Reply::Done(Ok(()))
                }
                Call::Admin(step) => Reply::Done(self.take_admin_step(step).await),
            };
            self.post.reply(from, token, reply);
        }
    }

    /// Takes a step of starting, stopping or growing.
    pub(crate) async fn take_admin_step(&self, step: AdminStep) -> Result<(), VdoError> {
        match step {
            AdminStep::Load => {
                self.physical.load().await?;
                self.scheduler.spawn(Rc::clone(&self.physical).scrub());
                Ok(())
            }
            AdminStep::DrainRequests => {
                self.give_way(true);
                self.hash.close_packer(self);
                self.quiet.wait_until(|| self.gauge.is_quiet()).await;
                // From here on nobody is served who comes after all.
                self.closed.set(true);
                self.barrier().await;
                Ok(())
            }
            AdminStep::DrainBlockMap => self.block_map.drain(true).await,
            AdminStep::Index(step) => Ok(self.take_shard_step(step).await?),
            AdminStep::DrainDepot => self.physical.drain(true).await,
            AdminStep::Grow(step) => self.take_growth_step(step).await,
        }
    }
}
