//! Configuration files as text, for what a host has to know of one beside making its calls.

use std::collections::BTreeSet;

use serde_json::Value;

/// The text with its comments replaced by spaces, so that places in messages stay true.
pub fn without_comments(text: &str) -> String {
    #[derive(PartialEq)]
    enum At {
        Json,
        Text,
        Line,
        Block,
    }
    let mut at = At::Json;
    let mut clean = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        let next = rest.peek().copied();
        let mut keep = character;
        match (&at, character, next) {
            (At::Json, '"', _) => at = At::Text,
            (At::Json, '/', Some('/')) => {
                at = At::Line;
                keep = ' ';
            }
            (At::Json, '/', Some('*')) => {
                at = At::Block;
                rest.next();
                clean.push(' ');
                keep = ' ';
            }
            (At::Text, '"', _) => at = At::Json,
            (At::Text, '\\', Some(escaped)) => {
                clean.push(character);
                rest.next();
                keep = escaped;
            }
            (At::Line, '\n', _) => at = At::Json,
            (At::Block, '\n', _) => {}
            (At::Block, '*', Some('/')) => {
                at = At::Json;
                rest.next();
                clean.push(' ');
                keep = ' ';
            }
            (At::Line | At::Block, _, _) => keep = ' ',
            _ => {}
        }
        clean.push(keep);
    }
    clean
}

/// The bdevs that a configuration file speaks of as something for other bdevs to lie on: the base of a volume, the
/// legs of a RAID, what is delayed or split. Empty if it is no configuration, which others will say.
pub fn bases(text: &str) -> BTreeSet<String> {
    let mut bases = BTreeSet::new();
    let root: Value = serde_json::from_str(&without_comments(text)).unwrap_or_default();
    for section in list(&root["subsystems"]) {
        if section["subsystem"] != "bdev" {
            continue;
        }
        for entry in list(&section["config"]) {
            // An array among the calls is a batch.
            for call in entry
                .as_array()
                .map_or(std::slice::from_ref(entry), Vec::as_slice)
            {
                for (parameter, value) in call["params"].as_object().into_iter().flatten() {
                    if names_a_base(parameter) {
                        let names = value
                            .as_array()
                            .map_or(std::slice::from_ref(value), Vec::as_slice);
                        bases.extend(names.iter().filter_map(Value::as_str).map(str::to_owned));
                    }
                }
            }
        }
    }
    bases
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// SPDK has many words for it: `base_bdev_name`, `base_bdev`, `base_bdevs`, `base_name`, `bdev_name`, `core_bdev_name`.
fn names_a_base(parameter: &str) -> bool {
    parameter.starts_with("base_") || parameter.ends_with("bdev_name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_within_strings_are_no_comments() {
        let text = r#"{"a": "// not \" /* either", "b": 1} // this is"#;
        let value: Value = serde_json::from_str(&without_comments(text)).unwrap();
        assert_eq!(value["a"], "// not \" /* either");
    }

    #[test]
    fn every_bdev_that_others_are_to_lie_on_is_found() {
        let text = r#"{"subsystems": [ // by hand
            {"subsystem": "accel", "config": null},
            {"subsystem": "bdev", "config": [
              {"method": "bdev_wait_for_examine"},
              {"method": "bdev_aio_create", "params": {"name": "disk", "filename": "/base_of/bdev_name"}},
              {"method": "bdev_error_create", "params": {"base_name": "disk"}},
              [{"method": "bdev_split_create", "params": {"base_bdev": "EE_disk", "split_count": 2}}],
              {"method": "bdev_raid_create", "params": {"name": "r", "base_bdevs": ["EE_diskp0", "EE_diskp1"]}},
              {"method": "bdev_ocf_create", "params": {"cache_bdev_name": "c", "core_bdev_name": "d"}},
              {"method": "bdev_vdo_create", "params": {"name": "v", "base_bdev_name": "r"}}]},
            {"subsystem": "nvmf", "config": [{"method": "x", "params": {"bdev_name": "v"}}]}]}"#;
        let expected = ["disk", "EE_disk", "EE_diskp0", "EE_diskp1", "c", "d", "r"];
        assert_eq!(bases(text), expected.map(str::to_owned).into());
        for text in ["", "[]", "{}", r#"{"subsystems": {"bdev": 1}}"#, "no JSON"] {
            assert_eq!(bases(text), BTreeSet::new());
        }
    }
}
