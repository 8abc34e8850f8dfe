//! Samples for tests of the model and of the drawing, made of the engine's own statistics.

use vdo::stats::{VolumeStatistics, ZoneStatistics};
use vdo_rpc::stats::to_json;

use super::model::Model;
use crate::target::{Sample, ThreadTime, Volume};

/// A volume of two zones in which `writes` blocks were written and half of them found.
pub(super) fn volume(name: &str, writes: u64) -> Volume {
    let mut zones = vec![ZoneStatistics::default(); 2];
    zones[0].bios_in.write = writes;
    zones[0].data.new_blocks = writes / 2;
    zones[1].data.deduplicated_blocks = writes / 2;
    zones[1].data_blocks_used = writes / 2;
    zones[0].hash_lock.dedupe_advice_valid = writes / 2;
    zones[0].hash_lock_steps.initializing.querying = writes;
    zones[1].hash_lock_steps.querying.writing = writes / 2;
    zones[1].hash_lock_steps.querying.locking = writes / 2;
    zones[0].journal.blocks_in_use = 10;
    zones[0].journal.blocks_limit = 1000;
    zones[0].allocator.slab_count = 8;
    let mut statistics = VolumeStatistics {
        zones,
        ..VolumeStatistics::default()
    };
    statistics.figures.physical_blocks = 100_000;
    statistics.figures.logical_blocks = 200_000;
    statistics.figures.index_state = "online";
    statistics.figures.vio_limit = 2048;
    let time = |busy| Some(ThreadTime { busy, idle: 10.0 });
    Volume {
        name: name.to_owned(),
        statistics: to_json(name, &statistics, true),
        threads: vec![time(writes as f64 / 100.0), None],
        ..Volume::default()
    }
}

/// Volumes, by their names and the blocks written to each.
pub(super) fn sample(volumes: &[(&str, u64)]) -> Sample {
    let volumes = volumes.iter().map(|&(name, writes)| volume(name, writes));
    Sample {
        version: "spdk-vdo 1.2.3".to_owned(),
        volumes: volumes.collect(),
    }
}

/// A model that has heard twice of `a`, which is written faster, and `b`, two seconds apart.
pub(super) fn model() -> Model {
    let mut model = Model::new("/run/rpc.sock".to_owned(), None);
    model.take(0.0, Ok(sample(&[("a", 1000), ("b", 6000)])));
    model.take(2.0, Ok(sample(&[("a", 4000), ("b", 7000)])));
    model
}
