//! Statistics as JSON, and as YAML in the manner of `vdostats --verbose`.
//!
//! The names come from the engine's own lists ([`vdo::stats`]); this module only turns a walk over
//! them into a tree.

use serde::Serialize;
use serde_json::{Map, Value};
use vdo::stats::{Statistics, Visitor, VolumeStatistics};

use crate::params::{GetStats, StatsFormat};
use crate::results::{saving_percent, used_percent};
use crate::{ErrorCode, RpcError};

/// Builds a tree of JSON objects out of a walk.
#[derive(Default)]
struct Tree {
    open: Vec<(&'static str, Map<String, Value>)>,
    current: Map<String, Value>,
}

impl Visitor for Tree {
    fn number(&mut self, name: &'static str, value: u64) {
        self.current.insert(name.to_owned(), value.into());
    }

    fn text(&mut self, name: &'static str, value: &'static str) {
        self.current.insert(name.to_owned(), value.into());
    }

    fn flag(&mut self, name: &'static str, value: bool) {
        self.current.insert(name.to_owned(), value.into());
    }

    fn enter(&mut self, name: &'static str) {
        self.open.push((name, std::mem::take(&mut self.current)));
    }

    fn leave(&mut self) {
        if let Some((name, outer)) = self.open.pop() {
            let group = std::mem::replace(&mut self.current, outer);
            self.current.insert(name.to_owned(), Value::Object(group));
        }
    }
}

/// The answer of `bdev_vdo_get_stats`: of each volume its name and what it counted.
///
/// # Errors
/// When they cannot be written as is asked, which no statistics there are can cause.
pub fn answer(
    params: &GetStats,
    volumes: &[(String, VolumeStatistics)],
) -> Result<Value, RpcError> {
    let all = volumes.iter().map(|(name, counted)| (&**name, counted));
    match params.format {
        StatsFormat::Json => Ok(all
            .map(|(name, counted)| to_json(name, counted, params.per_zone))
            .collect()),
        StatsFormat::Yaml => to_yaml(all)
            .map(Value::from)
            .map_err(|error| RpcError::new(ErrorCode::EIO, format!("format: {error}"))),
    }
}

/// One volume's part of the answer of `bdev_vdo_get_stats`: its name, every statistic summed over the
/// zones, and with `per_zone` a list of each zone's own.
pub fn to_json(name: &str, statistics: &VolumeStatistics, per_zone: bool) -> Value {
    let mut tree = Tree::default();
    statistics.visit(&mut tree);
    let mut object = tree.current;
    object.insert("name".to_owned(), name.into());
    let total = statistics.total();
    let figures = &statistics.figures;
    let used = used_percent(
        total.data_blocks_used,
        figures.overhead_blocks_used,
        figures.physical_blocks,
    );
    object.insert("used_percent".to_owned(), used.into());
    let saving = saving_percent(total.logical_blocks_used, total.data_blocks_used);
    object.insert("saving_percent".to_owned(), saving.into());
    if per_zone {
        let zones = statistics.zones.iter().enumerate().map(|(index, zone)| {
            let mut tree = Tree::default();
            zone.visit(&mut tree);
            tree.current.insert("zone".to_owned(), index.into());
            Value::Object(tree.current)
        });
        object.insert("per_zone".to_owned(), Value::Array(zones.collect()));
    }
    Value::Object(object)
}

/// Statistics as `vdostats --verbose` writes them: YAML, one volume to a key, flat names with spaces
/// in place of underscores.
pub fn to_yaml<'a>(
    volumes: impl IntoIterator<Item = (&'a str, &'a VolumeStatistics)>,
) -> Result<String, serde_yaml::Error> {
    let mut document = Map::new();
    for (name, statistics) in volumes {
        let mut flat = Map::new();
        flatten("", to_json(name, statistics, false), &mut flat);
        flat.remove("name");
        document.insert(name.to_owned(), Value::Object(flat));
    }
    let mut bytes = Vec::new();
    document.serialize(&mut serde_yaml::Serializer::new(&mut bytes))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn flatten(prefix: &str, value: Value, flat: &mut Map<String, Value>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let name = name.replace('_', " ");
                let name = if prefix.is_empty() {
                    name
                } else {
                    format!("{prefix} {name}")
                };
                flatten(&name, value, flat);
            }
        }
        value => {
            flat.insert(prefix.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vdo::stats::{OperatingMode, ZoneStatistics};

    fn volume() -> VolumeStatistics {
        let mut zones = [ZoneStatistics::default(); 2];
        zones[0].hash_lock.dedupe_advice_valid = 3;
        zones[1].hash_lock.dedupe_advice_valid = 4;
        zones[1].journal.entries.committed = 9;
        zones[0].logical_blocks_used = 10;
        zones[1].data_blocks_used = 4;
        let mut volume = VolumeStatistics {
            zones: zones.to_vec(),
            ..Default::default()
        };
        volume.figures.physical_blocks = 100;
        volume.figures.overhead_blocks_used = 6;
        volume.figures.mode = OperatingMode::ReadOnly;
        volume.figures.index_state = "online";
        volume
    }

    #[test]
    fn sums_are_grouped_and_zones_are_shown_only_when_asked() {
        let json = to_json("vdo0", &volume(), false);
        assert_eq!(json["name"], "vdo0");
        assert_eq!(json["hash_lock"]["dedupe_advice_valid"], 7);
        assert_eq!(json["journal"]["entries"]["committed"], 9);
        assert_eq!(json["mode"], "read-only");
        assert_eq!(json["index_state"], "online");
        assert_eq!(json["in_recovery_mode"], false);
        assert_eq!(
            (&json["used_percent"], &json["saving_percent"]),
            (&10.into(), &60.into())
        );
        assert!(json.get("per_zone").is_none());
        let json = to_json("vdo0", &volume(), true);
        assert_eq!(json["per_zone"][1]["zone"], 1);
        assert_eq!(json["per_zone"][1]["hash_lock"]["dedupe_advice_valid"], 4);
    }

    /// The list is dm-vdo's, so that whoever reads its statistics finds every one of them here.
    #[test]
    fn every_group_and_scalar_of_dm_vdo_is_there() {
        let json = to_json("v", &volume(), false);
        let scalars = "version data_blocks_used overhead_blocks_used logical_blocks_used physical_blocks \
            logical_blocks block_map_cache_size block_size complete_recoveries read_only_recoveries mode \
            in_recovery_mode recovery_percentage instance current_vios_in_progress max_vios \
            dedupe_advice_timeouts flush_out logical_block_size";
        for name in scalars.split_whitespace() {
            assert!(
                json.get(name).is_some_and(|value| !value.is_object()),
                "{name}"
            );
        }
        let groups = [
            ("packer", 3),
            ("allocator", 4),
            ("journal", 6),
            ("slab_journal", 5),
            ("slab_summary", 1),
            ("ref_counts", 1),
            ("block_map", 20),
            ("hash_lock", 5),
            ("errors", 3),
            ("memory_usage", 2),
            ("index", 13),
            ("bios_in", 6),
            ("bios_in_partial", 6),
            ("bios_out", 6),
            ("bios_meta", 6),
            ("bios_journal", 6),
            ("bios_page_cache", 6),
            ("bios_out_completed", 6),
            ("bios_meta_completed", 6),
            ("bios_journal_completed", 6),
            ("bios_page_cache_completed", 6),
            ("bios_acknowledged", 6),
            ("bios_acknowledged_partial", 6),
            ("bios_in_progress", 6),
        ];
        for (name, members) in groups {
            assert_eq!(
                json[name].as_object().map(Map::len),
                Some(members),
                "{name}"
            );
        }
    }

    #[test]
    fn yaml_is_flat_with_spaces() {
        let volume = volume();
        let text = to_yaml([("vdo0", &volume)]).unwrap();
        let back: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(
            back["vdo0"]["hash lock dedupe advice valid"].as_u64(),
            Some(7)
        );
        assert_eq!(back["vdo0"]["mode"].as_str(), Some("read-only"));
    }
}
