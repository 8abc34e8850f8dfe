//! What `save_config` keeps of a volume: the calls that make it again.
//!
//! A saved configuration is loaded into a program that starts anew, on base bdevs that hold the volume, or on blank ones
//! (a malloc bdev is always blank then). It must never format over a volume, so `"format": "force"` is saved as
//! `"if_blank"`. What was changed since is saved as it is now: the logical size, if one was given, and what `bdev_vdo_set_options`
//! sets.

use serde_json::{Value, json};
use vdo::seam::Host;
use vdo::volume::{DEFAULT_MINIMUM_TIMER_MS, DEFAULT_TIMEOUT_MS, Volume};

use super::{BLOCKS_PER_MIB, widened};
use crate::methods;
use crate::params::{Create, Format, SetOptions};

/// The calls that make a volume again, in order: `bdev_vdo_create` and, if dedupe timeouts were changed,
/// `bdev_vdo_set_options`. `params` are those the volume was made with.
pub fn config<H: Host>(params: &Create, volume: &Volume<H>) -> Vec<Value> {
    let switches = Switches {
        compression: volume.compression(),
        discard_freed: volume.discarding().is_wanted(),
        low_space_percent: widened(&volume.low_space_percent()),
    };
    let now = Create {
        logical_size_mib: params
            .logical_size_mib
            .map(|_| volume.layout().logical_blocks.div_ceil(BLOCKS_PER_MIB)),
        ..params.clone()
    };
    calls(&now, switches, volume.dedupe_timeouts())
}

/// What can be switched while a volume works, and is a parameter of `bdev_vdo_create` too.
#[derive(Clone)]
struct Switches {
    compression: bool,
    discard_freed: bool,
    low_space_percent: Vec<u64>,
}

fn calls(params: &Create, switches: Switches, timeouts: (u64, u64)) -> Vec<Value> {
    let create = Create {
        format: match params.format {
            Format::Never => Format::Never,
            Format::IfBlank | Format::Force => Format::IfBlank,
        },
        compression: switches.compression,
        discard_freed: switches.discard_freed,
        low_space_percent: switches.low_space_percent,
        ..params.clone()
    };
    let changed = |now: u64, usual: u64| (now != usual).then_some(now);
    let options = SetOptions {
        dedupe_timeout_ms: changed(timeouts.0, DEFAULT_TIMEOUT_MS),
        dedupe_min_timer_ms: changed(timeouts.1, DEFAULT_MINIMUM_TIMER_MS),
        ..SetOptions::none(&params.name)
    };
    let mut calls = vec![json!({ "method": methods::BDEV_VDO_CREATE, "params": create })];
    if options.dedupe_timeout_ms.is_some() || options.dedupe_min_timer_ms.is_some() {
        calls.push(json!({ "method": methods::BDEV_VDO_SET_OPTIONS, "params": options }));
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Parameters;

    const USUAL: (u64, u64) = (DEFAULT_TIMEOUT_MS, DEFAULT_MINIMUM_TIMER_MS);

    fn off() -> Switches {
        Switches {
            compression: false,
            discard_freed: false,
            low_space_percent: vec![80, 95],
        }
    }

    fn saved(params: &Create, now: Switches, timeouts: (u64, u64)) -> (Create, Vec<Value>) {
        let mut calls = calls(params, now, timeouts);
        let first = calls.remove(0);
        assert_eq!(first["method"], "bdev_vdo_create");
        (Create::decode(first.get("params")).unwrap(), calls)
    }

    #[test]
    fn a_saved_volume_is_made_again_as_it_was_made_and_never_formatted_over() {
        for (format, comes_back) in [
            (Format::IfBlank, Format::IfBlank),
            (Format::Never, Format::Never),
            (Format::Force, Format::IfBlank),
        ] {
            let params = Create {
                format,
                logical_size_mib: Some(500),
                slab_size_mib: 64,
                index_memory_gb: 0.5,
                index_sparse: true,
                cpumask: Some("[0,1]".into()),
                block_map_cache_mib: 9,
                deduplication: false,
                ..Create::new("v", "b")
            };
            let (create, more) = saved(&params, off(), USUAL);
            let expected = Create {
                format: comes_back,
                ..params
            };
            assert_eq!(create, expected);
            assert_eq!(more, [0; 0].map(Value::from));
        }
    }

    #[test]
    fn what_was_set_since_is_saved_as_it_is_now() {
        let params = Create::new("v", "b");
        let on = Switches {
            compression: true,
            discard_freed: true,
            low_space_percent: vec![50],
        };
        let (create, more) = saved(&params, on.clone(), (70, DEFAULT_MINIMUM_TIMER_MS));
        assert!(create.compression && create.discard_freed);
        assert_eq!(create.low_space_percent, [50]);
        let expected = json!({
            "method": "bdev_vdo_set_options", "params": {"name": "v", "dedupe_timeout_ms": 70}
        });
        assert_eq!(more, [expected]);
        SetOptions::decode(more[0].get("params")).unwrap();
        let (_, more) = saved(&params, on, (DEFAULT_TIMEOUT_MS, 2));
        assert_eq!(
            more[0]["params"],
            json!({"name": "v", "dedupe_min_timer_ms": 2})
        );
        let switched_off = Create {
            compression: true,
            discard_freed: true,
            ..params
        };
        let (create, _) = saved(&switched_off, off(), USUAL);
        assert!(!create.compression && !create.discard_freed);
    }
}
