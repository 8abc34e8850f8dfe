//! From what a target says to what Prometheus reads.

use std::time::Duration;

use serde_json::Value;
use vdo_rpc::RpcError;

use super::exposition::{self, Family, Kind};
use super::metrics::{Metric, Unit, table};
use crate::target::{Sample, Volume};

/// Writes down what a target said, or that it said nothing, after so long.
pub fn text(sample: &Result<Sample, RpcError>, took: Duration) -> String {
    let mut up = Family::new(
        "vdo_up",
        Kind::Gauge,
        "Whether the target answered, and has volumes or could have.",
    );
    up.add([], f64::from(u8::from(sample.is_ok())));
    let mut duration = Family::new(
        "vdo_scrape_duration_seconds",
        Kind::Gauge,
        "How long the target took to answer.",
    );
    duration.add([], took.as_secs_f64());
    let mut families = vec![up, duration];
    if let Ok(sample) = sample {
        families.push(target_info(sample));
        families.extend(about_volumes(&sample.volumes));
        families.extend(about_threads(&sample.volumes));
        families.extend(statistics(&sample.volumes));
    }
    exposition::write(&families)
}

fn target_info(sample: &Sample) -> Family {
    let help = "What the target calls itself.";
    let mut family = Family::new("vdo_target_info", Kind::Gauge, help);
    family.add([("version", &sample.version)], 1.0);
    family
}

fn about_volumes(volumes: &[Volume]) -> [Family; 3] {
    let mut info = Family::new("vdo_volume_info", Kind::Gauge, "The volumes there are.");
    let mut compression = Family::new(
        "vdo_compression_enabled",
        Kind::Gauge,
        "Whether new data is compressed.",
    );
    let mut discards = Family::new(
        "vdo_discard_freed",
        Kind::Gauge,
        "What is done about freed blocks.",
    );
    for volume in volumes {
        let Some(about) = &volume.info else {
            continue;
        };
        let name = ("volume", volume.name.as_str());
        let reason = about.read_only_reason.as_deref().unwrap_or_default();
        info.add(
            [
                name,
                ("uuid", &volume.uuid),
                ("base_bdev", &about.base_bdev_name),
                ("read_only_reason", reason),
            ],
            1.0,
        );
        compression.add([name], f64::from(u8::from(about.compression)));
        discards.add([name, ("state", &about.discard_freed)], 1.0);
    }
    [info, compression, discards]
}

fn about_threads(volumes: &[Volume]) -> [Family; 2] {
    let mut busy = Family::new(
        "vdo_zone_thread_busy_seconds_total",
        Kind::Counter,
        "Time in which the thread that a zone runs on found something to do; it may do other things as well.",
    );
    let mut idle = Family::new(
        "vdo_zone_thread_idle_seconds_total",
        Kind::Counter,
        "Time in which the thread that a zone runs on found nothing to do, or slept.",
    );
    for volume in volumes {
        for (zone, time) in volume.threads.iter().enumerate() {
            let Some(time) = time else {
                continue;
            };
            let zone = zone.to_string();
            let labels = [("volume", volume.name.as_str()), ("zone", zone.as_str())];
            busy.add(labels, time.busy);
            idle.add(labels, time.idle);
        }
    }
    [busy, idle]
}

/// All that is in the table, of each zone where zones count for themselves.
fn statistics(volumes: &[Volume]) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for metric in table() {
        if families.last().is_none_or(|last| last.name != metric.name) {
            families.push(Family::new(metric.name, metric.kind, metric.help));
        }
        let family = families.last_mut().expect("one was just pushed");
        for volume in volumes {
            add(family, &metric, volume);
        }
    }
    families
}

fn add(family: &mut Family, metric: &Metric, volume: &Volume) {
    let pointer = format!("/{}", metric.statistic.replace('.', "/"));
    let labels = [("volume", volume.name.as_str())]
        .into_iter()
        .chain(metric.labels.iter().copied())
        .map(|(label, text)| (label, text.to_owned()));
    let zones = volume.statistics["per_zone"].as_array();
    let mut of_zones = false;
    for (number, zone) in zones.into_iter().flatten().enumerate() {
        if let Some(value) = zone.pointer(&pointer).and_then(number_of) {
            of_zones = true;
            let labels = labels.clone().chain([("zone", number.to_string())]);
            let sample = (labels.collect(), value * metric.unit.scale());
            family.samples.push(sample);
        }
    }
    if of_zones {
        return;
    }
    let value = volume.statistics.pointer(&pointer);
    if let (Unit::Word(label, words), Some(word)) = (metric.unit, value.and_then(Value::as_str)) {
        let unknown = (!words.contains(&word)).then_some(word);
        for one in words.iter().copied().chain(unknown) {
            let labels = labels.clone().chain([(label, one.to_owned())]);
            let holds = f64::from(u8::from(one == word));
            family.samples.push((labels.collect(), holds));
        }
    } else if let Some(value) = value.and_then(number_of) {
        let sample = (labels.collect(), value * metric.unit.scale());
        family.samples.push(sample);
    }
}

fn number_of(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::Bool(yes) => Some(f64::from(u8::from(*yes))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use vdo::stats::{OperatingMode, VolumeStatistics, ZoneStatistics};
    use vdo_rpc::stats::to_json;

    use super::*;
    use crate::target::ThreadTime;

    fn sample() -> Sample {
        let mut zones = vec![ZoneStatistics::default(); 2];
        zones[0].data_blocks_used = 3;
        zones[1].data_blocks_used = 5;
        zones[1].hash_lock_steps.querying.locking = 7;
        zones[0].bios_in.write = 9;
        let mut statistics = VolumeStatistics {
            zones,
            ..VolumeStatistics::default()
        };
        statistics.figures.mode = OperatingMode::ReadOnly;
        statistics.figures.physical_blocks = 16;
        statistics.figures.index_state = "melting";
        let threads = vec![
            Some(ThreadTime {
                busy: 1.5,
                idle: 2.0,
            }),
            None,
        ];
        Sample {
            version: "x".to_owned(),
            volumes: vec![Volume {
                name: "a \"b\"".to_owned(),
                statistics: to_json("a \"b\"", &statistics, true),
                threads,
                ..Volume::default()
            }],
        }
    }

    #[test]
    fn zones_count_for_themselves_and_units_are_prometheus_own() {
        let text = text(&Ok(sample()), Duration::from_millis(250));
        for line in [
            "vdo_up 1",
            "vdo_scrape_duration_seconds 0.25",
            "vdo_data_used_bytes{volume=\"a \\\"b\\\"\",zone=\"0\"} 12288",
            "vdo_data_used_bytes{volume=\"a \\\"b\\\"\",zone=\"1\"} 20480",
            "vdo_physical_bytes{volume=\"a \\\"b\\\"\"} 65536",
            "vdo_used_ratio{volume=\"a \\\"b\\\"\"} 0.5",
            "vdo_mode{volume=\"a \\\"b\\\"\",mode=\"normal\"} 0",
            "vdo_mode{volume=\"a \\\"b\\\"\",mode=\"read-only\"} 1",
            "vdo_index_state{volume=\"a \\\"b\\\"\",state=\"melting\"} 1",
            "vdo_hash_lock_steps_total{volume=\"a \\\"b\\\"\",from=\"querying\",to=\"locking\",zone=\"1\"} 7",
            "vdo_requests_in_progress{volume=\"a \\\"b\\\"\",operation=\"write\"} 9",
            "vdo_zone_thread_busy_seconds_total{volume=\"a \\\"b\\\"\",zone=\"0\"} 1.5",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} in:\n{text}");
        }
        assert!(!text.contains("vdo_saving_ratio"), "it is null");
    }

    #[test]
    fn a_target_that_does_not_answer_is_down_and_nothing_else_is_said() {
        let sample = Err(RpcError::errno(5, "no answer"));
        let text = text(&sample, Duration::from_secs(1));
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(samples, ["vdo_up 0", "vdo_scrape_duration_seconds 1"]);
    }
}
