//! A volume as its host sees it: found or made on a device, started, given requests, and shut down.
//!
//! 1. [`Opening`] reads the geometry block and the super block of a base device, or formats it first,
//!    as the host was asked to. A volume that was not shut down is recovered; one that is read-only can be rebuilt.
//! 2. [`Volume::assemble`] makes the handle and one [`ZoneSeed`] for each zone thread. The host takes each seed
//!    to the thread that will poll it and grows it into a [`ZoneThread`].
//! 3. [`Volume::start`] loads the depot, marks the volume dirty on disk, opens the index, and only then
//!    are requests taken.
//! 4. [`Volume::submit`] takes requests, from any thread.
//!    [`Volume::grow`] makes it larger meanwhile.
//! 5. [`Volume::shut_down`] lets what is under way end, writes all metadata out and marks the volume
//!    clean. Afterwards the host drops the zone threads.
//!
//! The handle may be used from any thread. What it asks of a zone thread goes by *errand*: a closure that
//! runs there.

mod demand;
mod growing;
mod life;
mod opening;
mod progress;
mod recovering;
mod reports;
mod seed;

use std::any::Any;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use thiserror::Error;

pub use self::demand::{Demand, Purpose};
pub use self::growing::MemoryKeeper;
pub use self::life::Phase;
use self::life::{Life, Stop};
pub use self::opening::{FormatPolicy, Found, OpenRequest, Opening, RecoveryPolicy};
pub use self::progress::{Progress, Step, Work};
pub use self::reports::{Usage, VolumeDump, ZoneDump};
pub use self::seed::ZoneSeed;
use crate::block_map::DEFAULT_BLOCK_MAP_MAXIMUM_AGE;
use crate::buffer::{CountedMemory, DmaMemory};
use crate::dedupe;
pub use crate::dedupe::contexts::{DEFAULT_MINIMUM_TIMER_MS, DEFAULT_TIMEOUT_MS};
pub use crate::dedupe::{ContextTally, IndexWord, LockId, LockReport, LockState, TransitionCounts};
use crate::depot::DEFAULT_DISCARD_DELAY;
use crate::error::VdoError;
use crate::format;
use crate::format::components::VolumeState;
use crate::format::index_region::{IndexConfig, IndexMemory};
use crate::index::NameZones;
pub use crate::index::{AnswerMode, ShardReport};
use crate::poll::mailbox::{Errand, Mailbox};
pub use crate::poll::thread::ZoneThread;
use crate::recovery::Refusal;
use crate::recovery::map_replay::Overlay;
pub use crate::recovery::rebuild::Losses;
use crate::request::pieces::{Cursor, zones_of};
pub use crate::request::{RequestReport, Stage, SweepReport};
use crate::runtime::stopwatch::StageTimes;
pub use crate::runtime::stopwatch::{Lap, StageTime, Stretch, Tracer};
use crate::seam::{Host, HostRequest, Listener, Nanos, RequestHeader, RequestKind};
use crate::stats::VolumeStatistics;
use crate::types::{BLOCK_SIZE, ZoneIndex};
use crate::zone::admin;
pub use crate::zone::admin::IndexCommand;
pub use crate::zone::discarding::Discarding;
use crate::zone::owner::Zone;
use crate::zone::shared::Shared;

/// Requests for one block that a volume serves at once.
pub const REQUESTS: u32 = 2048;

/// The most zone threads of a volume.
pub const MAXIMUM_ZONES: u8 = 16;

/// Why a volume cannot be brought up.
#[derive(Debug, Error)]
pub enum VolumeError {
    /// What is on the device cannot be opened.
    #[error(transparent)]
    Open(#[from] format::OpenError),
    /// The device cannot be formatted as asked.
    #[error(transparent)]
    Format(#[from] format::FormatError),
    /// The device failed, or metadata on it makes no sense.
    #[error(transparent)]
    Failed(#[from] VdoError),
    /// The device holds something that formatting would destroy.
    #[error("the base device is not blank: it holds {found}; format \"force\" would overwrite it")]
    NotBlank {
        /// What was found.
        found: String,
    },
    /// The host ran out of memory.
    #[error("no memory for {what}; give the process more, or configure smaller caches")]
    NoMemory {
        /// What it was for.
        what: &'static str,
    },
    /// The machine has not the memory the volume would come to use.
    #[error(
        "the volume would use {} of memory, {} of it for {purpose}, and no more than {} can be had here",
        Size(*needed), Size(*bytes), Size(*available)
    )]
    TooMuchMemory {
        /// All it would use, in bytes.
        needed: u64,
        /// What can be had, in bytes.
        available: u64,
        /// What wants most of it.
        purpose: Purpose,
        /// How much that wants, in bytes.
        bytes: u64,
    },
    /// There is not a slab for each zone thread.
    #[error(
        "{wanted} zones need a slab each, but the volume has {slabs}; use fewer cores, or format with smaller slabs"
    )]
    TooFewSlabs {
        /// Slabs there are, or would be.
        slabs: u64,
        /// [`OpenRequest::slabs_wanted`].
        wanted: u64,
    },
    /// The volume has to be recovered or rebuilt, and cannot be here.
    #[error("the volume was not shut down and cannot be brought back here: {refusal}")]
    NotRecovered {
        /// What was found.
        refusal: Refusal,
    },
    /// The volume was to be rebuilt and has no need of it.
    #[error("the volume is {}, and only one that is read-only is rebuilt", .state.name())]
    NotReadOnly {
        /// What its super block says.
        state: VolumeState,
    },
    /// Freed blocks were to be discarded on a base device that cannot.
    #[error("its base device has no unmap, so freed blocks cannot be discarded on it")]
    NoDiscard,
    /// It cannot take a larger device now.
    #[error(
        "the volume is still recovering: {left} of its {slabs} slabs are to be scrubbed; have it grow when it has recovered"
    )]
    StillRecovering {
        /// Slabs to be scrubbed.
        left: u32,
        /// All slabs.
        slabs: u32,
    },
    /// It cannot grow as asked.
    #[error(transparent)]
    Growth(#[from] format::GrowthError),
    /// An option makes no sense.
    #[error("{0}")]
    Option(String),
}

impl VolumeError {
    /// The positive errno a host answers with.
    pub fn errno(&self) -> i32 {
        match self {
            VolumeError::Open(format::OpenError::Blank) => 2,
            VolumeError::Open(_)
            | VolumeError::Format(_)
            | VolumeError::TooFewSlabs { .. }
            | VolumeError::NotReadOnly { .. }
            | VolumeError::Growth(_)
            | VolumeError::Option(_) => 22,
            VolumeError::NotRecovered { .. } => 5,
            VolumeError::StillRecovering { .. } => 16,
            VolumeError::NoDiscard => 95,
            VolumeError::Failed(error) => error.errno(),
            VolumeError::NotBlank { .. } => 17,
            VolumeError::NoMemory { .. } | VolumeError::TooMuchMemory { .. } => 12,
        }
    }
}

/// Bytes, as a person reads them.
struct Size(u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} MiB", self.0.div_ceil(1 << 20))
    }
}

/// Something of the host's that lives as long as a volume: memory that is set apart for it.
pub type Kept = Arc<dyn Any + Send + Sync>;

/// How a volume is to be run. Nothing in it is written to the device.
#[derive(Clone, Debug)]
pub struct VolumeOptions {
    /// What it is called in messages.
    pub name: String,
    /// How many zone threads, 1 to [`MAXIMUM_ZONES`].
    pub zones: u8,
    /// Memory for block-map pages, in blocks, all zone threads together.
    pub block_map_cache_blocks: u32,
    /// After how many blocks of the recovery journal a changed block-map page is written at the latest.
    pub block_map_maximum_age: u32,
    /// Whether writes ask the index.
    pub deduplication: bool,
    /// Whether new data is compressed.
    pub compression: bool,
    /// Whether blocks that are freed are discarded on the base device.
    pub discard_freed: bool,
    /// Whether the base device can discard.
    pub base_discards: bool,
    /// How long after it was freed a block is discarded, together with those freed meanwhile.
    pub discard_delay: Nanos,
    /// Milliseconds since 1970, now: a save of the index says when it was written.
    pub unix_ms: u64,
    /// Requests for one block served at once, all zone threads together.
    pub requests: u32,
    /// Slabs that were shut down whose counters each zone thread reads before the volume takes requests. Those of the
    /// others it reads meanwhile: until then their free blocks are not to be had and count as used, and nothing is
    /// deduplicated against them.
    pub slabs_read_first: u32,
    /// Something of the host's that is to live as long as the volume does.
    pub kept: Option<Kept>,
    /// Shares of the physical blocks, in percent and rising, of which the listener is told when they are in use, by data and
    /// metadata. It is told of one again once the use has fallen two percent of the physical blocks below it, or to half of it.
    pub low_space_percent: Vec<u8>,
    /// Who is told of what happens to the volume.
    pub listener: Option<Arc<dyn Listener>>,
}

/// [`VolumeOptions::low_space_percent`] if nobody says otherwise.
pub const DEFAULT_LOW_SPACE_PERCENT: [u8; 2] = [80, 95];

impl Default for VolumeOptions {
    fn default() -> Self {
        VolumeOptions {
            name: "vdo".into(),
            zones: 1,
            block_map_cache_blocks: 32 * 1024,
            block_map_maximum_age: DEFAULT_BLOCK_MAP_MAXIMUM_AGE,
            deduplication: true,
            compression: false,
            discard_freed: false,
            base_discards: true,
            discard_delay: DEFAULT_DISCARD_DELAY,
            unix_ms: 0,
            requests: REQUESTS,
            slabs_read_first: 64,
            kept: None,
            low_space_percent: DEFAULT_LOW_SPACE_PERCENT.to_vec(),
            listener: None,
        }
    }
}

/// How names are dealt out to zone threads: as those of its index are, if the volume has one.
fn names(volume: &format::Volume, zones: u8) -> NameZones {
    let default = IndexConfig::default();
    let geometry = volume.geometry.index.geometry().or(default.geometry());
    let geometry = geometry.expect("the default index can be");
    NameZones::new(&geometry, zones)
}

/// What is done about freed blocks if they are to be discarded, or not.
fn discarding_of(options: &VolumeOptions, wanted: bool) -> Discarding {
    match (wanted, options.base_discards) {
        (false, _) => Discarding::Off,
        (true, true) => Discarding::On,
        (true, false) => {
            log::warn!(
                "volume {}: freed blocks are not discarded, since its base device has no unmap",
                options.name
            );
            Discarding::Unsupported
        }
    }
}

/// Called once with the end of something that was asked for, on a zone thread.
pub type Done<T> = Box<dyn FnOnce(T) + Send>;

/// A volume's handle, and the seeds of its zone threads in order.
pub type Assembled<H> = (Arc<Volume<H>>, Vec<ZoneSeed<H>>);

/// The handle of a volume.
pub struct Volume<H: Host> {
    shared: Arc<Shared>,
    mailboxes: Arc<[Mailbox<H::Request, H::Waker>]>,
    life: Life,
    /// What the host keeps for what it has grown by.
    kept: Mutex<Vec<Kept>>,
    /// How often it was recovered, and how often rebuilt, in its life.
    recoveries: (u64, u64),
    options: VolumeOptions,
    index_memory: IndexMemory,
    /// Most names its index can hold.
    index_entries_limit: u64,
    /// What the host keeps for an index that was not wanted at first.
    kept_for_index: OnceLock<Kept>,
    index_word: Arc<AtomicU8>,
    /// Buffers for I/O come from here.
    memory: Arc<CountedMemory>,
    /// The most memory that was ever reported.
    most_memory: Arc<AtomicU64>,
}

impl<H: Host> Volume<H> {
    /// Makes the handle of `found`, and the seeds of its zone threads, one for each of `wakers`.
    ///
    /// # Errors
    /// When an option makes no sense.
    pub fn assemble(
        found: Found,
        options: VolumeOptions,
        wakers: Vec<H::Waker>,
        memory: &Arc<dyn DmaMemory>,
    ) -> Result<Assembled<H>, VolumeError> {
        if options.zones == 0 || options.zones > MAXIMUM_ZONES {
            return Err(VolumeError::Option(format!(
                "a volume has 1 to {MAXIMUM_ZONES} zone threads, not {}; give it a smaller cpumask",
                options.zones
            )));
        }
        if wakers.len() != usize::from(options.zones) {
            return Err(VolumeError::Option(format!(
                "{} zone threads cannot be woken by {} wakers",
                options.zones,
                wakers.len()
            )));
        }
        let zones = options.zones;
        let Found {
            volume: found,
            read_only,
            dropped,
            overlay,
        } = found;
        let mut shared = Shared::new(
            options.name.clone(),
            zones,
            options.requests.div_ceil(u32::from(zones)).max(1),
            found.layout.clone(),
            names(&found, zones),
        );
        shared.listen(options.listener.clone(), &options.low_space_percent);
        shared.set_compression(options.compression);
        shared
            .discarding
            .set(discarding_of(&options, options.discard_freed));
        if found.super_block.volume.state == VolumeState::Dirty {
            // The end of a rebuild was told already.
            shared.set_recovered(dropped.is_none());
        }
        if let Some(reason) = read_only {
            shared.set_found_read_only(reason);
        }
        let shared = Arc::new(shared);
        let mailboxes: Arc<[_]> = wakers
            .into_iter()
            .map(|waker| Mailbox::new(waker, zones > 1))
            .collect();
        let woken = Arc::downgrade(&mailboxes);
        shared.set_wake_everyone(Box::new(move || {
            if let Some(mailboxes) = woken.upgrade() {
                mailboxes.iter().for_each(Mailbox::wake);
            }
        }));
        let volume = Arc::new(Volume {
            shared,
            mailboxes,
            life: Life::new(),
            kept: Mutex::default(),
            recoveries: {
                let volume = &found.super_block.volume;
                (volume.complete_recoveries, volume.read_only_recoveries)
            },
            options,
            index_memory: found.geometry.index.memory,
            index_entries_limit: {
                let geometry = found.geometry.index.geometry();
                geometry.map_or(0, |geometry| geometry.most_names())
            },
            kept_for_index: OnceLock::new(),
            index_word: Arc::new(AtomicU8::new(IndexWord::Unknown as u8)),
            memory: Arc::new(CountedMemory::new(memory)),
            most_memory: Arc::default(),
        });
        let seeds = (0..zones)
            .map(|zone| volume.seed(ZoneIndex(zone), &found, &overlay))
            .collect();
        Ok((volume, seeds))
    }

    fn seed(
        self: &Arc<Self>,
        index: ZoneIndex,
        found: &format::Volume,
        overlay: &Option<Arc<Overlay>>,
    ) -> ZoneSeed<H> {
        ZoneSeed {
            index,
            found: found.clone(),
            overlay: overlay.clone(),
            options: self.options.clone(),
            shared: Arc::clone(&self.shared),
            mailboxes: Arc::clone(&self.mailboxes),
            memory: self.memory.clone(),
            index_word: Arc::clone(&self.index_word),
        }
    }

    /// What the volume is called.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Where everything is on the device.
    pub fn layout(&self) -> Arc<format::VolumeLayout> {
        self.shared.extent.layout()
    }

    /// How it is run.
    pub fn options(&self) -> &VolumeOptions {
        &self.options
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.shared.extent.logical_blocks() * BLOCK_SIZE as u64
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        self.life.phase()
    }

    /// Why it is read-only, if it is.
    pub fn read_only_reason(&self) -> Option<&str> {
        self.shared.read_only_reason()
    }

    /// Whether it is read-only.
    pub fn is_read_only(&self) -> bool {
        self.shared.is_read_only()
    }

    /// Whether slabs are still being scrubbed after a crash: their free blocks are not to be had yet.
    pub fn is_recovering(&self) -> bool {
        self.shared.is_recovering()
    }

    /// Turns the volume read-only, as an error of its own would: for a host that sees what the volume cannot, as a base
    /// device that has lost its end. Writes fail from now on, also those under way; the super block is marked if the
    /// device still takes it. The first `reason` is kept. Does nothing to a volume that is down.
    pub fn enter_read_only(&self, reason: &str) {
        if self.phase() != Phase::Down {
            self.shared.set_read_only(|| reason.to_owned());
        }
    }

    /// Whether new data is compressed.
    pub fn compression(&self) -> bool {
        self.shared.compression()
    }

    /// Whether freed blocks are discarded on the base device.
    pub fn discarding(&self) -> Discarding {
        self.shared.discarding.get()
    }

    /// Has blocks that are freed from now on discarded on the base device, or no more of them. Switched on when it is on, it is tried
    /// again after a failure.
    ///
    /// # Errors
    /// When it was to be switched on, and the base device cannot discard.
    pub fn set_discard_freed(&self, on: bool) -> Result<(), VolumeError> {
        if on && !self.options.base_discards {
            return Err(VolumeError::NoDiscard);
        }
        let discarding = discarding_of(&self.options, on);
        self.shared.discarding.set(discarding);
        Ok(())
    }

    /// Shares of the physical blocks that are told of: see [`VolumeOptions::low_space_percent`].
    pub fn low_space_percent(&self) -> Vec<u8> {
        self.shared.low_space.percents()
    }

    /// Has other shares of the physical blocks told of, in percent and rising. Of those that stay it is not told again.
    pub fn set_low_space_percent(&self, percents: &[u8]) {
        self.shared.low_space.set(percents);
        let look: Errand = Box::new(|zone, _| {
            zone.shared.tell_low_space();
        });
        self.errand(0, look);
    }

    /// The state of its index.
    pub fn index_word(&self) -> IndexWord {
        admin::word_of(self.index_word.load(Ordering::Relaxed))
    }

    /// How far the rebuild of its index is that goes on in the background; `None` if there is none.
    pub fn index_rebuild(&self) -> Option<Step> {
        let (done, all) = self.shared.index_rebuild.read();
        (all > 0).then_some(Step {
            work: Work::RebuildIndex,
            done,
            all,
        })
    }

    /// Gives the volume a request. It is completed, in pieces, on zone threads; or at once here, if the
    /// volume takes no requests or the request lies outside it.
    pub fn submit(&self, header: RequestHeader, request: H::Request) {
        if self.phase() != Phase::Online {
            return request.complete(header.length, VdoError::ShuttingDown.errno());
        }
        if header.kind == RequestKind::Flush {
            return self.mailboxes[0].submit_flush(request);
        }
        let end = header.offset.checked_add(header.length);
        if end.is_none_or(|end| end > self.bytes()) {
            return request.complete(header.length, 22);
        }
        let mut zones = zones_of(&header, &self.shared.owners);
        if zones == 0 {
            return request.complete(0, 0);
        }
        let cursor = Cursor::new(request, header);
        while zones & (zones - 1) != 0 {
            self.mailboxes[zones.trailing_zeros() as usize].submit(cursor.clone());
            zones &= zones - 1;
        }
        self.mailboxes[zones.trailing_zeros() as usize].submit(cursor);
    }

    fn errand(&self, zone: u8, errand: Errand) {
        self.mailboxes[usize::from(zone)].send_errand(errand);
    }

    /// Loads the volume's metadata, marks it dirty on disk and opens its index; of a volume that was found read-only nothing
    /// is loaded or written. Requests are taken from
    /// then on. All zone threads must be polled already. A volume is started once: a second start is refused.
    pub fn start(self: &Arc<Self>, done: Done<Result<(), VdoError>>) {
        let volume = Arc::clone(self);
        let begun = self.life.start();
        self.on_zone_0(move |zone| async move {
            if !begun {
                let why = "the volume was started, or shut down, before; open it anew";
                return done(Err(VdoError::Invalid(why.into())));
            }
            let result = admin::start(&zone).await;
            if let Err(error) = &result {
                zone.shared.end_recovery(Err(error.to_string()));
            }
            volume.life.started(result.is_ok());
            zone.life_changed.wake_all();
            done(result);
        });
    }

    /// Takes no more requests, waits for those under way, writes all metadata out and marks the volume
    /// clean. The zone threads are idle when `done` is called, and may be dropped. While the volume starts, that is waited for;
    /// if it is shut down already by somebody else, this is refused.
    pub fn shut_down(self: &Arc<Self>, done: Done<Result<(), VdoError>>) {
        let volume = Arc::clone(self);
        let stop = self.life.stop();
        self.on_zone_0(move |zone| async move {
            if stop == Stop::AfterStart {
                zone.life_changed
                    .wait_until(|| !volume.life.is_starting())
                    .await;
            }
            let result = match (stop, volume.life.phase()) {
                (Stop::UnderWay, _) => Err(VdoError::ShuttingDown),
                (Stop::Now | Stop::AfterStart, Phase::ShuttingDown) => {
                    admin::shut_down(&zone).await
                }
                _ => Ok(()),
            };
            if stop != Stop::UnderWay {
                volume.life.ended();
            }
            done(result);
        });
    }

    /// The volume's users are about to let go of it, so that it can be shut down: requests are begun for one second more,
    /// and refused then, so that nobody has to wait for long ones. To be taken back if they do not let go after all.
    pub fn give_way(&self, give_way: bool) {
        for zone in 0..self.shared.zones {
            self.errand(zone, Box::new(move |zone, _| zone.give_way(give_way)));
        }
    }

    /// Has the host set memory apart for the index, so many bytes, before it is opened for the first time. Does nothing if that was done,
    /// or the volume was opened for an index.
    ///
    /// # Errors
    /// Why the host has no memory.
    pub fn keep_for_index<E>(&self, keep: impl FnOnce(u64) -> Result<Kept, E>) -> Result<(), E> {
        if self.options.deduplication || self.kept_for_index.get().is_some() {
            return Ok(());
        }
        let kept = keep(demand::index_bytes(Some(self.index_memory)))?;
        // Whoever was faster keeps it; what was set apart a second time is let go of.
        _ = self.kept_for_index.set(kept);
        Ok(())
    }

    /// Does something to the index, and says what state it is in then. Refused unless the volume is online.
    pub fn index(self: &Arc<Self>, command: IndexCommand, done: Done<Result<IndexWord, VdoError>>) {
        let volume = Arc::clone(self);
        self.on_zone_0(move |zone| async move {
            done(match volume.life.phase() {
                Phase::Online => admin::index(&zone, command).await,
                _ => Err(VdoError::ShuttingDown),
            });
        });
    }

    /// Has zone thread 0 run a task.
    fn on_zone_0<T: Future<Output = ()> + 'static>(
        &self,
        task: impl FnOnce(Rc<Zone>) -> T + Send + 'static,
    ) {
        self.errand(
            0,
            Box::new(move |zone, _| {
                zone.scheduler.spawn(task(Rc::clone(zone)));
            }),
        );
    }

    /// How long a question to the index may take, and how rarely late ones are looked for; `None`
    /// leaves it.
    pub fn set_dedupe_timeouts(&self, timeout_ms: Option<u64>, minimum_timer_ms: Option<u64>) {
        let timeout_ms = timeout_ms.map(dedupe::contexts::allowed_timeout_ms);
        let minimum_timer_ms = minimum_timer_ms.map(dedupe::contexts::allowed_timer_ms);
        self.shared
            .set_dedupe_timeouts(timeout_ms, minimum_timer_ms);
        for zone in 0..self.shared.zones {
            let errand: Errand = Box::new(move |zone, _| {
                let now = zone.scheduler.now();
                zone.hash.set_timeouts(now, timeout_ms, minimum_timer_ms);
            });
            self.errand(zone, errand);
        }
    }

    /// What [`Volume::set_dedupe_timeouts`] set last, or the defaults: the timeout and the least time between two looks,
    /// in milliseconds.
    pub fn dedupe_timeouts(&self) -> (u64, u64) {
        self.shared.dedupe_timeouts()
    }

    /// Switches compression of new data. Off, nothing lies in a packer any more.
    pub fn set_compression(&self, on: bool) {
        self.shared.set_compression(on);
        if on {
            return;
        }
        for zone in 0..self.shared.zones {
            self.errand(zone, Box::new(|zone, _| zone.hash.empty_packer(zone)));
        }
    }

    /// Makes the index slow, silent or failing, to see what becomes of writes.
    pub fn set_index_answer_mode(&self, mode: AnswerMode) {
        for zone in 0..self.shared.zones {
            self.errand(
                zone,
                Box::new(move |zone, _| zone.hash.set_answer_mode(mode)),
            );
        }
    }

    /// How much of the volume is in use. Asks no zone thread, and so waits for none.
    pub fn usage(&self) -> Usage {
        reports::usage(self)
    }

    /// Bytes of memory that belong to no zone thread: buffers for I/O, and mailboxes.
    fn memory_held(&self) -> u64 {
        let mailboxes = self.mailboxes.iter().map(Mailbox::memory_held);
        self.memory.bytes() + mailboxes.sum::<u64>()
    }

    /// Counts everything.
    pub fn statistics(&self, done: Done<VolumeStatistics>) {
        let figures = reports::figures(self);
        let most = Arc::clone(&self.most_memory);
        reports::gather(
            self.shared.zones,
            |zone, errand| self.errand(zone, errand),
            reports::zone_statistics,
            Box::new(move |parts| done(reports::statistics(figures, parts, &most))),
        );
    }

    /// Keeps times of the stages of requests from now on, anew, or forgets them.
    pub fn keep_stage_times(&self, on: bool) {
        for zone in 0..self.shared.zones {
            let errand: Errand = Box::new(move |zone, _| zone.stopwatch.keep_times(on));
            self.errand(zone, errand);
        }
    }

    /// How long requests stayed at each stage, on all zone threads together; `None` if times are not kept.
    pub fn stage_times(&self, done: Done<Option<Vec<StageTime>>>) {
        reports::gather(
            self.shared.zones,
            |zone, errand| self.errand(zone, errand),
            |zone, _| zone.stopwatch.times(),
            Box::new(move |zones| {
                let all = zones
                    .into_iter()
                    .flatten()
                    .reduce(|mut all: StageTimes, zone| {
                        all.merge(&zone);
                        all
                    });
                done(all.map(|all| all.report()));
            }),
        );
    }

    /// Requests in flight, live hash locks and contexts, by zone thread.
    pub fn dump(&self, done: Done<VolumeDump>) {
        let name = self.shared.name.clone();
        reports::gather(
            self.shared.zones,
            |zone, errand| self.errand(zone, errand),
            reports::zone_dump,
            Box::new(move |zones| done(VolumeDump { name, zones })),
        );
    }
}
