//! Starting, stopping and steering a volume: the work of zone thread 0 on behalf of all.
//!
//! A start: bring the slab summary together, load every zone's depot, mark the volume *dirty* on
//! disk, open the index (after a crash that is begun and not waited for). Of a volume that was found read-only nothing is loaded; one whose slabs contradict
//! themselves turns so.
//!
//! A stop, each step on every zone thread before the next begins: a growth that is under way ends, requests end, the index is closed, the block map is
//! written out, the journal comes to rest, the depot is written out, and the super block says *clean*. If the volume turns
//! read-only meanwhile, or is, the super block says so instead, and nothing else is written.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::growth::GrowthTurns;
use super::index::{self, IndexKeeper};
use super::message::AdminStep;
use super::owner::Zone;
use super::super_block::SuperBlockKeeper;
use crate::buffer::DmaMemory;
use crate::dedupe::{self, IndexStates, IndexWord};
use crate::depot::{LastRun, combine_summaries};
use crate::error::VdoError;
use crate::format::components::VolumeState;
use crate::runtime::services::ZoneServices;
use crate::runtime::task::WaitList;
use crate::seam::{IndexState, VolumeEvent};

/// What an administrator wants of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexCommand {
    /// Forget everything and begin anew.
    Create,
    /// Open it.
    Open,
    /// Close it.
    Close,
    /// Open it if need be, and ask it.
    Online,
    /// Ask it no more.
    Offline,
}

/// What zone thread 0 keeps for the whole volume.
pub(crate) struct Admin {
    pub(crate) super_block: SuperBlockKeeper,
    pub(crate) memory: Arc<dyn DmaMemory>,
    pub(crate) index: RefCell<IndexStates>,
    /// Woken when a step of the index has ended, when one has become background work, and when the index has failed.
    pub(crate) index_changed: WaitList,
    pub(crate) keeper: IndexKeeper,
    /// Whether the super block was marked when the volume turned read-only, or failed to be.
    pub(crate) marked: Cell<bool>,
    pub(crate) marked_now: WaitList,
    /// Whose turn it is to have the volume grow.
    pub(crate) growth_turns: GrowthTurns,
    pub(crate) index_word: Arc<AtomicU8>,
    /// The state of the index that was told last.
    pub(crate) index_told: Cell<IndexState>,
    pub(crate) deduplication: bool,
}

/// The index's state as it is kept in an atomic byte.
pub(crate) fn word_of(byte: u8) -> IndexWord {
    const WORDS: [IndexWord; 8] = [
        IndexWord::Closed,
        IndexWord::Closing,
        IndexWord::Error,
        IndexWord::Offline,
        IndexWord::Online,
        IndexWord::Opening,
        IndexWord::Suspended,
        IndexWord::Unknown,
    ];
    WORDS
        .into_iter()
        .find(|word| *word as u8 == byte)
        .unwrap_or(IndexWord::Unknown)
}

pub(super) fn admin(zone: &Zone) -> Result<&Admin, VdoError> {
    zone.admin
        .get()
        .ok_or_else(|| VdoError::Inconsistent("an errand for zone thread 0 came to another".into()))
}

pub(crate) async fn start(zone: &Rc<Zone>) -> Result<(), VdoError> {
    let admin = admin(zone)?;
    if zone.shared.was_found_read_only() {
        // Nothing of what it says of itself need be true: the block map is read as requests need it, and that is all.
        publish(zone, admin);
        return Ok(());
    }
    let volume = admin.super_block.volume();
    let saved_zones = volume.super_block.slab_depot.zone_count;
    let layout = &volume.layout;
    let created = volume.super_block.volume.state == VolumeState::New;
    let (slabs, summary) = (&layout.slabs, layout.slab_summary.start);
    let last_run = match created {
        true => LastRun::None,
        false => LastRun::Settled,
    };
    let (base, memory) = (&zone.base, &admin.memory);
    let combined = combine_summaries(slabs, summary, saved_zones, last_run, base, memory).await;
    zone.shared.slabs_are_sought();
    let loaded = match combined {
        Ok(()) => zone.step_everywhere(AdminStep::Load).await,
        error => error,
    };
    if let Err(error) = &loaded {
        zone.shared.end_recovery(Err(error.to_string()));
    }
    zone.shared.slabs_are_found();
    match loaded {
        Ok(()) => {}
        Err(error @ VdoError::Inconsistent(_)) => {
            // What the block map says can still be read.
            zone.services
                .enter_read_only_because(&error, format_args!("the slabs cannot be loaded"));
            save_read_only(zone).await?;
            admin.marked.set(true);
            publish(zone, admin);
            return Ok(());
        }
        Err(error) => return Err(error),
    }
    let zones = zone.shared.zones;
    admin
        .super_block
        .save(&zone.base, VolumeState::Dirty, |volume| {
            volume.super_block.slab_depot.zone_count = zones;
        })
        .await?;
    zone.scheduler.spawn(watch_read_only(Rc::clone(zone)));

    admin.keeper.start(zone.scheduler.now());
    zone.scheduler.spawn(index::write_chapters(Rc::clone(zone)));
    zone.scheduler.spawn(watch_index(Rc::clone(zone)));
    let step = admin.index.borrow_mut().start(admin.deduplication, created);
    match zone.shared.is_recovering() {
        false => drive_index(zone, admin, step).await,
        // After a crash requests come first.
        true => begin_steps(zone, admin, step),
    }
    Ok(())
}

/// Writes the super block when the volume turns read-only, so that no one opens it as if nothing had
/// happened.
async fn watch_read_only(zone: Rc<Zone>) {
    zone.read_only.wait_until(|| zone.is_read_only()).await;
    if let Err(error) = save_read_only(&zone).await {
        log::error!(
            "volume {}: the super block cannot be marked read-only: {error}; \
             the volume stays dirty on disk",
            zone.shared.name
        );
    }
    if let Ok(admin) = admin(&zone) {
        admin.marked.set(true);
        admin.marked_now.wake_all();
    }
}

/// Says at the end that the volume is read-only, once whoever says so at once is done.
async fn end_read_only(zone: &Zone) -> Result<(), VdoError> {
    let admin = admin(zone)?;
    admin.marked_now.wait_until(|| admin.marked.get()).await;
    save_read_only(zone).await
}

async fn save_read_only(zone: &Zone) -> Result<(), VdoError> {
    let admin = admin(zone)?;
    let keep = |_: &mut crate::format::Volume| {};
    admin
        .super_block
        .save(&zone.base, VolumeState::ReadOnly, keep)
        .await
}

pub(crate) async fn shut_down(zone: &Rc<Zone>) -> Result<(), VdoError> {
    let admin = admin(zone)?;
    let _turn = admin.growth_turns.take().await;
    zone.step_everywhere(AdminStep::DrainRequests).await?;
    let step = admin.index.borrow_mut().close();
    drive_index(zone, admin, step).await;
    // An index command may be under way, whose steps end where this one wants to: closed.
    admin
        .index_changed
        .wait_until(|| !admin.index.borrow().is_changing())
        .await;

    // Read-only or not, every part comes to rest; the first error is what the caller is told.
    let mut result = zone.step_everywhere(AdminStep::DrainBlockMap).await;
    if let Some(journal) = &zone.journal {
        result = result.and(journal.drain(true).await);
    }
    result = result.and(zone.step_everywhere(AdminStep::DrainDepot).await);
    if zone.shared.was_found_read_only() {
        return Ok(());
    }
    if zone.is_read_only() {
        end_read_only(zone).await?;
        return Err(VdoError::ReadOnly);
    }
    if let Err(error) = &result {
        zone.services.enter_read_only(error);
        end_read_only(zone).await?;
        return result;
    }
    let journal = zone
        .journal
        .as_ref()
        .map(|journal| journal.state_for_super_block());
    admin
        .super_block
        .save(&zone.base, VolumeState::Clean, |volume| {
            if let Some(journal) = journal {
                volume.super_block.recovery_journal = journal;
            }
        })
        .await
}

pub(crate) async fn index(zone: &Rc<Zone>, command: IndexCommand) -> Result<IndexWord, VdoError> {
    let admin = admin(zone)?;
    let step = {
        let mut states = admin.index.borrow_mut();
        match command {
            IndexCommand::Create => {
                if states.word() != IndexWord::Closed && states.word() != IndexWord::Error {
                    return Err(VdoError::Invalid(format!(
                        "the index is {}; close it before creating a new one",
                        states.word()
                    )));
                }
                states.create()
            }
            IndexCommand::Open => states.open(),
            IndexCommand::Close => states.close(),
            IndexCommand::Online => states.online(),
            IndexCommand::Offline => states.offline(),
        }
    };
    drive_index(zone, admin, step).await;
    Ok(admin.index.borrow().word())
}

/// Takes the index from step to step until it is where it should be, or a rebuild is left that goes on in the background. If steps of
/// another's are under way, they serve this wish too.
async fn drive_index(zone: &Rc<Zone>, admin: &Admin, first: Option<dedupe::IndexStep>) {
    begin_steps(zone, admin, first);
    let is_settled = || !admin.index.borrow().is_changing() || admin.keeper.is_rebuilding();
    admin.index_changed.wait_until(is_settled).await;
}

fn begin_steps(zone: &Rc<Zone>, admin: &Admin, first: Option<dedupe::IndexStep>) {
    publish(zone, admin);
    if let Some(step) = first {
        zone.scheduler.spawn(take_steps(Rc::clone(zone), step));
    }
}

async fn take_steps(zone: Rc<Zone>, first: dedupe::IndexStep) {
    let Ok(admin) = admin(&zone) else { return };
    let mut next = Some(first);
    while let Some(step) = next {
        next = match step {
            dedupe::IndexStep::Open { create } => {
                let is_wanted = || admin.index.borrow().is_open_wanted();
                let opened = index::open(&zone, &admin.keeper, create, is_wanted).await;
                admin.index.borrow_mut().opened(opened)
            }
            dedupe::IndexStep::Close => {
                let closed = index::close(&zone, &admin.keeper).await;
                admin.index.borrow_mut().closed(closed.is_ok())
            }
        };
        publish(&zone, admin);
    }
    admin.index_changed.wake_all();
}

/// Closes the index when it has failed, for as long as the volume lives.
async fn watch_index(zone: Rc<Zone>) {
    let Ok(admin) = admin(&zone) else { return };
    loop {
        let has_failed = || admin.keeper.has_failed() && admin.index.borrow().is_open();
        admin.index_changed.wait_until(has_failed).await;
        let step = admin.index.borrow_mut().failed();
        drive_index(&zone, admin, step).await;
    }
}

fn publish(zone: &Zone, admin: &Admin) {
    let states = admin.index.borrow();
    zone.shared.set_index_answers(states.answers_queries());
    admin
        .index_word
        .store(states.word() as u8, Ordering::Relaxed);
    tell_index(zone, admin);
}

/// Tells of the index if it has come to another state that lasts.
pub(super) fn tell_index(zone: &Zone, admin: &Admin) {
    let now = match admin.index.borrow().word() {
        IndexWord::Online => IndexState::Online,
        IndexWord::Offline => IndexState::Offline,
        IndexWord::Closed => IndexState::Closed,
        IndexWord::Error => IndexState::Error,
        IndexWord::Opening if admin.keeper.is_rebuilding() => IndexState::Rebuilding,
        IndexWord::Opening | IndexWord::Closing | IndexWord::Suspended | IndexWord::Unknown => {
            return;
        }
    };
    if admin.index_told.replace(now) != now {
        zone.shared.tell(&VolumeEvent::Index(now));
    }
}
