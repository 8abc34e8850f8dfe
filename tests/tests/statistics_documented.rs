//! `docs/operations.md` says what each statistic means.

use serde_json::Value;
use vdo::stats::VolumeStatistics;
use vdo_rpc::stats::to_json;

const MANUAL: &str = include_str!("../../docs/operations.md");

/// The names of an object and of the objects in it.
fn names(value: &Value, all: &mut Vec<String>) {
    for (name, member) in value.as_object().into_iter().flatten() {
        all.push(name.clone());
        names(member, all);
    }
}

#[test]
fn every_statistic_and_every_group_is_in_the_manual() {
    let (_, section) = MANUAL.split_once("\n## The statistics\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let mut all = Vec::new();
    let statistics = VolumeStatistics::default();
    names(&to_json("vdo0", &statistics, false), &mut all);
    assert!(all.len() > 150, "{all:?}");
    for name in all {
        assert!(section.contains(&format!("`{name}`")), "{name}");
    }
}
