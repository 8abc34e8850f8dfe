//! What a volume says of itself: statistics, and a dump of its hash zones. Each zone thread is asked
//! by an errand; the last to answer hands all answers over.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Done, Volume};
use crate::dedupe::{ContextTally, LockReport, TransitionCounts};
use crate::index::ShardReport;
use crate::poll::mailbox::Errand;
use crate::request::{InFlight, RequestReport, SweepReport};
use crate::seam::{Host, Nanos};
use crate::stats::{MemoryUsage, OperatingMode, VolumeFigures, VolumeStatistics, ZoneStatistics};
use crate::types::BLOCK_SIZE;
use crate::zone::counters::fill_io;
use crate::zone::owner::Zone;
use crate::zone::usage::{UsageCounts, ZoneUsage};

/// One zone thread in a dump.
#[derive(Clone, Debug)]
pub struct ZoneDump {
    /// When this was.
    pub now: Nanos,
    /// Requests that have been admitted and have not ended, what each waits for, and since when.
    pub in_flight: Vec<RequestReport>,
    /// Unmaps and writes of zeroes that are not done, and how far they are.
    pub sweeps: Vec<SweepReport>,
    /// Live hash locks.
    pub locks: Vec<LockReport>,
    /// Dedupe contexts by state.
    pub contexts: ContextTally,
    /// How often each step of the hash-lock table was taken.
    pub transitions: TransitionCounts,
    /// Its share of the index, if that is open.
    pub index: Option<ShardReport>,
    /// Requests in slots.
    pub requests: u32,
    /// Requests waiting for a slot.
    pub waiting: u32,
    /// I/Os to the base device under way.
    pub base_ios: u32,
}

/// What is under way in a volume.
#[derive(Clone, Debug)]
pub struct VolumeDump {
    /// What the volume is called.
    pub name: String,
    /// Its zone threads, in order.
    pub zones: Vec<ZoneDump>,
}

/// How much of a volume is in use, and whether it can be written: known at any time without asking a zone thread.
///
/// While the volume works, the zone threads' counts are of slightly different moments. Once it is quiet they are
/// exact, and those of the statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Whether it works normally, is still recovering or is read-only.
    pub mode: OperatingMode,
    /// Logical blocks that are mapped, to data or to zeroes.
    pub logical_blocks_used: u64,
    /// Blocks of the base device that hold data. While the volume is recovering, those that may.
    pub data_blocks_used: u64,
    /// Blocks of the base device that hold metadata.
    pub overhead_blocks_used: u64,
    /// Blocks of the base device that belong to the volume.
    pub physical_blocks: u64,
}

struct Gathering<T> {
    parts: Vec<Option<T>>,
    missing: usize,
    done: Option<Done<Vec<T>>>,
}

/// Runs `ask` on every zone thread and hands the answers, in order, to `done`.
pub(super) fn gather<T: Send + 'static>(
    zones: u8,
    send: impl Fn(u8, Errand),
    ask: fn(&Rc<Zone>, &dyn InFlight) -> T,
    done: Done<Vec<T>>,
) {
    let gathering = Arc::new(Mutex::new(Gathering {
        parts: (0..zones).map(|_| None).collect(),
        missing: usize::from(zones),
        done: Some(done),
    }));
    for number in 0..zones {
        let gathering = Arc::clone(&gathering);
        send(
            number,
            Box::new(move |zone, requests| {
                let part = ask(zone, requests);
                let mut all = gathering.lock().unwrap_or_else(PoisonError::into_inner);
                all.parts[usize::from(number)] = Some(part);
                all.missing -= 1;
                if all.missing > 0 {
                    return;
                }
                let parts = all.parts.drain(..).flatten().collect();
                let done = all.done.take();
                drop(all);
                if let Some(done) = done {
                    done(parts);
                }
            }),
        );
    }
}

pub(super) struct ZonePart {
    counters: ZoneStatistics,
    allocated: u64,
    peak: u32,
    memory: u64,
}

pub(super) fn zone_statistics(zone: &Rc<Zone>, requests: &dyn InFlight) -> ZonePart {
    let mut counters = zone.counters.get();
    fill_io(&mut counters, &zone.base.counts());
    zone.hash.fill(&mut counters);
    counters.block_map = zone.block_map.statistics();
    zone.physical.statistics(&mut counters);
    if let Some(journal) = &zone.journal {
        counters.journal = journal.statistics();
        counters.logical_blocks_used = journal.logical_blocks_used();
        // Pages of the block map are allocated like data, and are not data.
        counters.data_blocks_used = counters
            .data_blocks_used
            .wrapping_sub(journal.block_map_data_blocks());
    }
    let allocated = zone.physical.allocated_blocks();
    counters.data_blocks_used = counters.data_blocks_used.wrapping_add(allocated);
    ZonePart {
        counters,
        allocated,
        peak: zone.gauge.peak.get(),
        memory: zone.memory_held() + requests.memory_held(),
    }
}

pub(super) fn usage<H: Host>(volume: &Volume<H>) -> Usage {
    let layout = volume.layout();
    let counts: UsageCounts = volume.shared.usage.iter().map(ZoneUsage::read).sum();
    // The journal's zone may be ahead of the zone that allocated a page.
    let pages = counts.block_map.min(counts.allocated);
    Usage {
        mode: mode(volume),
        logical_blocks_used: counts.logical,
        data_blocks_used: counts.allocated - pages,
        overhead_blocks_used: layout.fixed_overhead() + pages,
        physical_blocks: layout.physical_blocks,
    }
}

fn mode<H: Host>(volume: &Volume<H>) -> OperatingMode {
    match (volume.is_read_only(), volume.is_recovering()) {
        (true, _) => OperatingMode::ReadOnly,
        (false, false) => OperatingMode::Normal,
        (false, true) => OperatingMode::Recovering,
    }
}

pub(super) fn figures<H: Host>(volume: &Volume<H>) -> VolumeFigures {
    let layout = volume.layout();
    let pages = u64::from(volume.options.block_map_cache_blocks);
    VolumeFigures {
        overhead_blocks_used: layout.fixed_overhead(),
        physical_blocks: layout.physical_blocks,
        logical_blocks: layout.logical_blocks,
        block_map_cache_size: pages * BLOCK_SIZE as u64,
        complete_recoveries: volume.recoveries.0,
        read_only_recoveries: volume.recoveries.1,
        mode: mode(volume),
        recovery_percentage: match volume.is_recovering() {
            false => 100,
            true => {
                let (slabs, left) = (layout.slabs.slab_count, volume.shared.room.unrecovered());
                u64::from(slabs.saturating_sub(left)) * 100 / u64::from(slabs.max(1))
            }
        },
        vio_limit: u64::from(volume.options.requests),
        memory_usage: MemoryUsage {
            bytes_used: volume.memory_held(),
            peak_bytes_used: 0,
        },
        index_state: volume.index_word().as_str(),
        index_entries_limit: volume.index_entries_limit,
        index_rebuild: volume.shared.index_rebuild.read(),
        ..VolumeFigures::default()
    }
}

/// Puts together what the zone threads said. `most_memory` remembers the most that was ever held.
pub(super) fn statistics(
    mut figures: VolumeFigures,
    parts: Vec<ZonePart>,
    most_memory: &AtomicU64,
) -> VolumeStatistics {
    let memory = &mut figures.memory_usage;
    memory.bytes_used += parts.iter().map(|part| part.memory).sum::<u64>();
    let before = most_memory.fetch_max(memory.bytes_used, Ordering::Relaxed);
    memory.peak_bytes_used = before.max(memory.bytes_used);
    let mut zones: Vec<_> = parts.iter().map(|part| part.counters).collect();
    figures.max_vios = parts.iter().map(|part| u64::from(part.peak)).sum();
    // The journal's zone took all block-map pages off its own blocks, which may be fewer: what data
    // there is is only known of all zones together.
    let data = zones
        .iter()
        .fold(0, |sum: u64, zone| sum.wrapping_add(zone.data_blocks_used));
    let allocated: u64 = parts.iter().map(|part| part.allocated).sum();
    let pages = allocated.saturating_sub(data);
    figures.overhead_blocks_used += pages;
    for (zone, part) in zones.iter_mut().zip(&parts) {
        zone.data_blocks_used = part.allocated;
    }
    let mut left = pages;
    for zone in &mut zones {
        let taken = left.min(zone.data_blocks_used);
        zone.data_blocks_used -= taken;
        left -= taken;
    }
    VolumeStatistics { figures, zones }
}

pub(super) fn zone_dump(zone: &Rc<Zone>, requests: &dyn InFlight) -> ZoneDump {
    ZoneDump {
        now: zone.scheduler.now(),
        in_flight: requests.reports(),
        sweeps: requests.sweeps(),
        locks: zone.hash.lock_reports(),
        contexts: zone.hash.context_tally(),
        transitions: zone.hash.transitions(),
        index: zone.hash.with_index(|shard| shard.report()),
        requests: zone.gauge.busy.get(),
        waiting: zone.gauge.waiting.get(),
        base_ios: zone.base.in_flight(),
    }
}
