//! What the parts of a zone ask of the rest of the volume, carried out by a call or a message.

use std::cell::OnceCell;
use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::discarding::Discarding;
use super::journaling::JournalerTag;
use super::message::Note;
use super::owner::Zone;
use super::post::Post;
use super::shared::Shared;
use crate::error::VdoError;
use crate::format::recovery_journal::{JournalOperation, RecoveryJournalEntry};
use crate::journal::{JournalHooks, Pending};
use crate::runtime::services::{BlockMapSlot, JournalHolder, Rare, TreePageSource, ZoneServices};
use crate::types::{JournalPoint, Mapping, SequenceNumber, ZoneIndex};

/// The services of one zone thread.
pub struct ServiceDesk {
    shared: Arc<Shared>,
    post: Rc<Post>,
    zone: OnceCell<Weak<Zone>>,
}

impl ServiceDesk {
    /// A desk that does not know its zone yet.
    pub fn new(shared: Arc<Shared>, post: Rc<Post>) -> Rc<ServiceDesk> {
        Rc::new(ServiceDesk {
            shared,
            post,
            zone: OnceCell::new(),
        })
    }

    /// Tells the desk its zone, once all parts of that are made.
    pub fn open(&self, zone: &Rc<Zone>) {
        let first = self.zone.set(Rc::downgrade(zone)).is_ok();
        assert!(first, "a zone opens its service desk once");
    }

    fn zone(&self) -> Option<Rc<Zone>> {
        self.zone.get().and_then(Weak::upgrade)
    }

    fn tell(&self, to: ZoneIndex, note: Note) {
        if to != self.post.me() {
            return self.post.note(to, note);
        }
        match self.zone() {
            Some(zone) => zone.take_note(note),
            None => self.astray(&format_args!("{note:?}")),
        }
    }

    /// Something is for a zone that is not there.
    #[cold]
    fn astray(&self, what: &dyn fmt::Display) {
        let me = self.post.me();
        let error = VdoError::Inconsistent(format!("{what} is for zone {me}, which is not there"));
        self.enter_read_only_because(&error, format_args!("a message went astray"));
    }

    fn tell_everyone(&self, note: impl Fn() -> Note) {
        for zone in (0..self.shared.zones).map(ZoneIndex) {
            self.tell(zone, note());
        }
    }

    /// Turns the volume read-only and says what was being done.
    pub fn enter_read_only_because(&self, why: &VdoError, what: fmt::Arguments<'_>) {
        if *why != VdoError::ReadOnly || !self.shared.is_read_only() {
            self.shared.set_read_only(|| format!("{what}: {why}"));
        }
    }
}

impl ZoneServices for ServiceDesk {
    fn acquire_journal_lock(&self, sequence: SequenceNumber, holder: JournalHolder) {
        self.tell(ZoneIndex(0), Note::AcquireJournal(sequence, holder));
    }

    fn release_journal_lock(&self, sequence: SequenceNumber, holder: JournalHolder) {
        self.tell(ZoneIndex(0), Note::ReleaseJournal(sequence, holder));
    }

    fn enter_read_only(&self, why: &VdoError) {
        self.shared.set_read_only(|| why.to_string());
    }

    fn is_read_only(&self) -> bool {
        self.shared.is_read_only()
    }

    fn slabs_to_scrub(&self, slabs: u32) {
        self.shared.room.slabs_to_scrub(slabs);
    }

    fn slab_scrubbed(&self) {
        self.shared.slab_scrubbed();
    }

    fn discards_freed(&self) -> bool {
        self.shared.discarding.get() == Discarding::On
    }

    fn discard_began(&self) {
        self.shared.room.discard_began();
    }

    fn discard_ended(&self, result: &Result<(), VdoError>) {
        if let Err(error) = result
            && self.shared.discarding.fail()
        {
            let name = &self.shared.name;
            log::warn!(
                "volume {name}: freed blocks are not discarded any more, since the base device failed to: {error}"
            );
        }
        self.shared.room.discard_ended();
        self.shared.tell_of_room();
    }
}

impl JournalHooks for ServiceDesk {
    fn advance_era(&self, tail: SequenceNumber) {
        self.tell_everyone(|| Note::AdvanceEra(tail));
    }

    fn request_slab_journal_commits(&self, oldest: SequenceNumber) {
        self.tell_everyone(|| Note::CommitSlabJournals(oldest));
    }

    fn entries_committed(&self, first: JournalPoint, entries: &[Pending]) {
        match self.zone() {
            Some(zone) => zone.entries_committed(first, entries),
            None => self.astray(&format_args!("the end of {} entries", entries.len())),
        }
    }

    fn entry_failed(&self, tag: u64, error: VdoError) {
        match self.zone() {
            Some(zone) => zone.entry_failed(JournalerTag(tag), error),
            None => self.astray(&format_args!("the failure of entry {tag}")),
        }
    }
}

impl TreePageSource for ServiceDesk {
    fn allocate(&self, parent: BlockMapSlot) -> Rare<Result<(Mapping, JournalPoint), VdoError>> {
        let zone = self.zone();
        Box::pin(async move {
            let zone = zone.ok_or(VdoError::ShuttingDown)?;
            let pbn = zone.allocate_tree_page().await?;
            let mapping = Mapping::block(pbn);
            let entry = RecoveryJournalEntry {
                operation: JournalOperation::BlockMapRemapping,
                slot: parent,
                mapping,
                unmapping: Mapping::UNMAPPED,
            };
            match zone.journal_for_task(entry).await {
                Ok(point) => Ok((mapping, point)),
                Err(error) => {
                    zone.release_lock(pbn);
                    Err(error)
                }
            }
        })
    }

    fn finish(&self, page: Mapping, point: JournalPoint) {
        if let Some(zone) = self.zone() {
            zone.release_entry(point);
            zone.release_lock(page.pbn);
        }
    }
}
