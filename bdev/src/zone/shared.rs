//! What all zone threads of a volume know alike: its shape, its switches, whether it is
//! read-only, and who is told of what happens to it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::discarding::DiscardSwitch;
use super::extent::VolumeExtent;
use super::journaling::Watermark;
use super::low_space::LowSpace;
use super::room::{Room, RoomSeen};
use super::usage::ZoneUsage;
use crate::block_map::TreeOwners;
use crate::dedupe::contexts::{DEFAULT_MINIMUM_TIMER_MS, DEFAULT_TIMEOUT_MS};
use crate::format::VolumeLayout;
use crate::index::NameZones;
use crate::seam::{Listener, VolumeEvent};
use crate::types::{Pbn, ZoneIndex};

/// How far a rebuild of the index is, in chapters. Written by zone thread 0.
#[derive(Debug, Default)]
pub struct IndexRebuild {
    done: AtomicU64,
    all: AtomicU64,
}

impl IndexRebuild {
    /// So many of all chapters are read.
    pub fn tell(&self, done: u64, all: u64) {
        self.all.store(all, Ordering::Relaxed);
        self.done.store(done, Ordering::Relaxed);
    }

    /// There is none.
    pub fn end(&self) {
        self.tell(0, 0);
    }

    /// Chapters that are read, and all that are to be: no chapter at all if there is no rebuild.
    pub fn read(&self) -> (u64, u64) {
        let all = self.all.load(Ordering::Relaxed);
        (self.done.load(Ordering::Relaxed).min(all), all)
    }
}

/// The shape and the switches of a volume, shared by its zone threads.
pub struct Shared {
    /// What the volume is called in messages.
    pub name: String,
    /// How many zone threads there are.
    pub zones: u8,
    /// Request slots of each zone thread.
    pub slots_per_zone: u32,
    /// Where everything is, and how large.
    pub extent: VolumeExtent,
    /// Which zone thread has which trees of the block map.
    pub owners: TreeOwners,
    /// Which hash zone a name belongs to.
    pub names: NameZones,
    /// How far a rebuild of the index is.
    pub index_rebuild: IndexRebuild,
    index_touched: AtomicBool,
    /// What each zone thread says of the room in use.
    pub usage: Box<[ZoneUsage]>,
    /// How far each zone thread has counted.
    pub watermarks: Box<[Watermark]>,
    compression: AtomicBool,
    dedupe_timeout_ms: AtomicU64,
    dedupe_minimum_timer_ms: AtomicU64,
    index_answers: AtomicBool,
    read_only: AtomicBool,
    found_read_only: bool,
    read_only_reason: OnceLock<String>,
    /// Whether the volume was not shut down before.
    recovered: bool,
    /// Whether all slabs that are not whole were found.
    slabs_found: AtomicBool,
    /// Whether it is still to be told that its recovery has ended.
    recovery_is_open: AtomicBool,
    /// What is told of when space runs low.
    pub low_space: LowSpace,
    listener: Option<Arc<dyn Listener>>,
    /// Where blocks come from that are not to be had yet.
    pub room: Room,
    /// Whether freed blocks are discarded on the base device.
    pub discarding: DiscardSwitch,
    wake_everyone: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Shared {
    /// A volume in normal operation.
    pub fn new(
        name: String,
        zones: u8,
        slots_per_zone: u32,
        layout: VolumeLayout,
        names: NameZones,
    ) -> Shared {
        Shared {
            name,
            zones,
            slots_per_zone,
            owners: TreeOwners::new(layout.tree.roots, zones),
            extent: VolumeExtent::new(layout),
            names,
            index_rebuild: IndexRebuild::default(),
            index_touched: AtomicBool::new(false),
            usage: (0..zones).map(|_| ZoneUsage::default()).collect(),
            watermarks: (0..zones).map(|_| Watermark::default()).collect(),
            compression: AtomicBool::new(false),
            dedupe_timeout_ms: AtomicU64::new(DEFAULT_TIMEOUT_MS),
            dedupe_minimum_timer_ms: AtomicU64::new(DEFAULT_MINIMUM_TIMER_MS),
            index_answers: AtomicBool::new(false),
            recovered: false,
            slabs_found: AtomicBool::new(false),
            recovery_is_open: AtomicBool::new(false),
            low_space: LowSpace::new(&[]),
            listener: None,
            room: Room::default(),
            discarding: DiscardSwitch::default(),
            wake_everyone: OnceLock::new(),
            read_only: AtomicBool::new(false),
            found_read_only: false,
            read_only_reason: OnceLock::new(),
        }
    }

    /// Which zone thread owns the slab of `pbn`; `None` for blocks outside the slabs.
    #[inline]
    pub fn physical_zone(&self, pbn: Pbn) -> Option<ZoneIndex> {
        let slab = self.extent.slabs().slab_of(pbn)?;
        // Division is slow, and one zone is common.
        match self.zones {
            1 => Some(ZoneIndex(0)),
            zones => Some(ZoneIndex((slab.get() % u32::from(zones)) as u8)),
        }
    }

    /// Whether the volume is read-only.
    #[inline]
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    /// Turns the volume read-only; true if it was not before. The first reason is the one kept.
    pub fn set_read_only(&self, reason: impl FnOnce() -> String) -> bool {
        if self.read_only.swap(true, Ordering::AcqRel) {
            return false;
        }
        let reason = reason();
        let _ = self.read_only_reason.set(reason.clone());
        if let Some(wake) = self.wake_everyone.get() {
            wake();
        }
        self.tell(&VolumeEvent::ReadOnly {
            reason,
            was_found: false,
        });
        self.end_recovery(Err("the volume turned read-only".into()));
        true
    }

    /// Says who is told of what happens to the volume, which nobody has seen yet, and of which shares of its space.
    pub fn listen(&mut self, listener: Option<Arc<dyn Listener>>, low_space_percent: &[u8]) {
        self.listener = listener;
        self.low_space = LowSpace::new(low_space_percent);
    }

    /// Tells who listens.
    pub fn tell(&self, event: &VolumeEvent) {
        if let Some(listener) = &self.listener {
            listener.told(event);
        }
    }

    /// Says how to wake every zone thread, which is done when the volume turns read-only.
    pub fn set_wake_everyone(&self, wake: Box<dyn Fn() + Send + Sync>) {
        let _ = self.wake_everyone.set(wake);
    }

    /// The volume, which nobody has seen yet, is read-only on disk, for this reason.
    pub fn set_found_read_only(&mut self, reason: String) {
        self.found_read_only = true;
        self.read_only = AtomicBool::new(true);
        self.read_only_reason = OnceLock::from(reason);
    }

    /// Whether the volume was read-only on disk when it was opened: nothing was loaded, and nothing is written.
    pub fn was_found_read_only(&self) -> bool {
        self.found_read_only
    }

    /// The volume, which nobody has seen yet, was not shut down: what slabs are not scrubbed yet are so for that reason. Whether it is to be
    /// told when they are.
    pub fn set_recovered(&mut self, is_told: bool) {
        self.recovered = true;
        self.recovery_is_open = AtomicBool::new(is_told);
    }

    /// All zone threads are about to find the slabs that are not whole. As long as they do, one more counts as such.
    pub fn slabs_are_sought(&self) {
        self.room.slabs_to_scrub(1);
    }

    /// They have found them.
    pub fn slabs_are_found(&self) {
        self.slabs_found.store(true, Ordering::Release);
        if self.room.slabs_found() {
            self.end_recovery(Ok(()));
        }
    }

    /// The volume is as if it had been shut down, if it was not; or it will not be, for this reason.
    pub fn end_recovery(&self, end: Result<(), String>) {
        if self.recovery_is_open.swap(false, Ordering::AcqRel) {
            self.tell(&VolumeEvent::RecoveryEnded(end));
        }
    }

    /// Whether slabs are being scrubbed because the volume was not shut down.
    pub fn is_recovering(&self) -> bool {
        self.recovered && self.room.unrecovered() > 0
    }

    /// Whether all free blocks count as such: every slab is whole.
    pub fn knows_free_blocks(&self) -> bool {
        self.slabs_found.load(Ordering::Acquire) && self.room.unrecovered() == 0
    }

    /// A slab was scrubbed or read. All zone threads are woken.
    pub fn slab_scrubbed(&self) {
        if self.room.slab_scrubbed() {
            self.end_recovery(Ok(()));
        }
        self.tell_of_room();
    }

    /// A slab was scrubbed, or a discard has ended: whoever found no room may find some now.
    pub fn tell_of_room(&self) {
        if let Some(wake) = self.wake_everyone.get() {
            wake();
        }
    }

    /// Whether one who found no room need wait no longer: see [`Room::has_come`].
    pub fn is_room_settled(&self, seen: RoomSeen) -> bool {
        self.is_read_only() || self.room.has_come(seen)
    }

    /// Whether new data is compressed.
    pub fn compression(&self) -> bool {
        self.compression.load(Ordering::Relaxed)
    }

    /// Switches compression of new data.
    pub fn set_compression(&self, on: bool) {
        self.compression.store(on, Ordering::Relaxed);
    }

    /// How long a request waits for the index, and the least time between two looks for late answers, in
    /// milliseconds: as they were last set.
    pub fn dedupe_timeouts(&self) -> (u64, u64) {
        (
            self.dedupe_timeout_ms.load(Ordering::Relaxed),
            self.dedupe_minimum_timer_ms.load(Ordering::Relaxed),
        )
    }

    /// Remembers what the hash zones are told; `None` leaves it.
    pub fn set_dedupe_timeouts(&self, timeout_ms: Option<u64>, minimum_timer_ms: Option<u64>) {
        if let Some(timeout) = timeout_ms {
            self.dedupe_timeout_ms.store(timeout, Ordering::Relaxed);
        }
        if let Some(timer) = minimum_timer_ms {
            self.dedupe_minimum_timer_ms.store(timer, Ordering::Relaxed);
        }
    }

    /// Whether hash zones may ask the index.
    #[inline]
    pub fn index_answers(&self) -> bool {
        self.index_answers.load(Ordering::Relaxed)
    }

    /// Lets hash zones ask the index, or not.
    pub fn set_index_answers(&self, answers: bool) {
        self.index_answers.store(answers, Ordering::Relaxed);
    }

    /// Something was asked of the index, so that a save of it is not what it is any more.
    pub fn index_touched(&self) {
        self.index_touched.store(true, Ordering::Relaxed);
    }

    /// Whether something was asked of the index since the last call.
    pub fn take_index_touched(&self) -> bool {
        self.index_touched.swap(false, Ordering::Relaxed)
    }

    /// Why the volume is read-only.
    pub fn read_only_reason(&self) -> Option<&str> {
        self.read_only_reason.get().map(String::as_str)
    }
}
