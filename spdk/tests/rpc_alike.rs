//! `spdk_vdo_tgt` answers every `bdev_vdo_*` request as `vdo_tgt` does: one table of requests, sent to both.

use std::fs::File;

use serde_json::{Value, json};
use vdo_rpc::RpcError;
use vdo_tests::rig::{MIB, ROOMY, Rig};
use vdo_tests::spdk;
use vdo_tests::target::{Options, Target, bdev_config};

/// What a request must come to.
enum Expected {
    /// A result, the same from both.
    Answer(Value),
    /// A result of the same shape from both: figures may differ.
    Shape,
    /// An error with this code whose message has this word.
    Error(i32, &'static str),
}
use Expected::{Answer, Error, Shape};

/// Base bdevs that both targets have: a blank file with room for a volume, a file that is too small, one that holds
/// something else, and a bdev another module has claimed. (No read-only file: SPDK's aio bdev does not say it is one.)
fn base_bdevs(rig: &Rig) -> Value {
    for (name, mib) in [("small", 16), ("strange", 64)] {
        let file = File::create(rig.path(name)).unwrap();
        file.set_len(mib * MIB).unwrap();
    }
    let strange = File::options().write(true).open(rig.path("strange"));
    std::os::unix::fs::FileExt::write_all_at(&strange.unwrap(), b"data of somebody", 8192).unwrap();
    let file = |name: &str| {
        let params = json!({"name": name, "filename": rig.path(name), "block_size": 4096});
        json!({"method": "bdev_aio_create", "params": params})
    };
    let malloc = |name: &str| json!({"method": "bdev_malloc_create", "params": {"name": name, "num_blocks": 2048, "block_size": 4096}});
    bdev_config(vec![
        file("base"),
        file("small"),
        file("strange"),
        malloc("taken"),
        json!({"method": "bdev_error_create", "params": {"base_name": "taken"}}),
        malloc("m"),
    ])
}

/// Every request, in order, and what it must come to.
fn requests() -> Vec<(&'static str, Value, Expected)> {
    let create = |more: Value| {
        let mut params = json!({"name": "v", "base_bdev_name": "base", "slab_size_mib": 32, "logical_size_mib": 512});
        for (name, value) in more.as_object().unwrap() {
            params[name] = value.clone();
        }
        params
    };
    let refused = |more: Value, code: i32, word: &'static str| {
        ("bdev_vdo_create", create(more), Error(code, word))
    };
    let mut all = vec![
        // What is not understood.
        ("bdev_vdo_create", Value::Null, Error(-32602, "name")),
        ("bdev_vdo_create", json!({}), Error(-32602, "name")),
        (
            "bdev_vdo_create",
            json!({"name": "v"}),
            Error(-32602, "base_bdev_name"),
        ),
        (
            "bdev_vdo_create",
            json!(["v", "base"]),
            Error(-32602, "params"),
        ),
        refused(json!({"colour": "red"}), -32602, "colour"),
        refused(json!({"name": 5}), -32602, "name"),
        refused(json!({"name": null}), -32602, "name"),
        refused(json!({"slab_size_mib": "32"}), -32602, "slab_size_mib"),
        refused(json!({"slab_size_mib": -1}), -32602, "slab_size_mib"),
        refused(json!({"slab_size_mib": 32.5}), -32602, "slab_size_mib"),
        refused(json!({"format": "maybe"}), -32602, "format"),
        refused(json!({"deduplication": 1}), -32602, "deduplication"),
        refused(json!({"compression": "yes"}), -32602, "compression"),
        refused(json!({"index_sparse": null}), -32602, "index_sparse"),
        refused(json!({"cpumask": [0]}), -32602, "cpumask"),
        refused(json!({"low_space_percent": "80"}), -32602, "low_space"),
        refused(json!({"profile": "colour: red"}), -32602, "colour"),
        refused(json!({"profile": "- a"}), -32602, "profile"),
        // What is not possible.
        refused(json!({"name": ""}), -22, "at least one"),
        refused(json!({"name": "x".repeat(256)}), -22, "255"),
        refused(json!({"name": "a\u{1}b"}), -22, "control"),
        refused(json!({"name": "base"}), -22, "base"),
        refused(json!({"slab_size_mib": 3}), -22, "power of two"),
        refused(json!({"slab_size_mib": 65536}), -22, "65536"),
        refused(json!({"logical_size_mib": 0}), -22, "logical_size_mib"),
        refused(
            json!({"logical_size_mib": 18446744073709551615u64}),
            -22,
            "18446744073709551615",
        ),
        refused(json!({"low_space_percent": [95, 80]}), -22, "80 after 95"),
        refused(json!({"low_space_percent": 101}), -22, "101"),
        refused(json!({"profile": "index_memory_gb: 0.7"}), -22, "0.7"),
        refused(json!({"index_memory_gb": 0.3}), -22, "0.3"),
        refused(json!({"index_memory_gb": 1e9}), -22, "index_memory_gb"),
        refused(
            json!({"block_map_cache_mib": 0}),
            -22,
            "block_map_cache_mib",
        ),
        refused(json!({"cpumask": "many"}), -22, "many"),
        refused(json!({"cpumask": "0x0"}), -22, "cpumask"),
        refused(json!({"cpumask": "0x8"}), -22, "no reactor"),
        // What the base bdev does not allow.
        refused(json!({"base_bdev_name": "nobody"}), -19, "nobody"),
        refused(json!({"base_bdev_name": "small"}), -22, "4096 blocks"),
        refused(json!({"base_bdev_name": "strange"}), -17, "offset 8192"),
        refused(json!({"base_bdev_name": "taken"}), -1, "claimed"),
        refused(json!({"name": "m"}), -17, "\"m\""),
        refused(json!({"format": "never"}), -2, "blank"),
        refused(json!({"slab_size_mib": 2048}), -22, "slab"),
    ];
    // Nobody, somebody else, and not even a name.
    for method in vdo_rpc::methods::ALL {
        if method.required.first() != Some(&"name") || method.name == "bdev_vdo_create" {
            continue;
        }
        let with = |name: Value| {
            let mut params = match method.name {
                "bdev_vdo_set_options" => json!({"compression": false}),
                "bdev_vdo_inject_index_answers" => json!({"answers": "prompt"}),
                "bdev_vdo_enable_histograms" => json!({"enable": true}),
                "bdev_vdo_grow_logical" => json!({"logical_size_mib": 1}),
                _ => json!({}),
            };
            params["name"] = name;
            params
        };
        all.push((method.name, json!({}), Error(-32602, "name")));
        all.push((method.name, with(json!(7)), Error(-32602, "name")));
        all.push((method.name, with(json!("")), Error(-22, "at least one")));
        all.push((method.name, with(json!("nobody")), Error(-19, "nobody")));
        all.push((method.name, with(json!("m")), Error(-19, "not a vdo bdev")));
        let mut more = with(json!("nobody"));
        more["shape"] = json!("round");
        all.push((method.name, more, Error(-32602, "shape")));
    }
    for (params, code, word) in [
        (json!({}), -32602, "name or base_bdev_name"),
        (
            json!({"name": "v", "base_bdev_name": "b"}),
            -32602,
            "one of them",
        ),
        (json!({"name": "nobody"}), -19, "nobody"),
        (json!({"name": "m"}), -19, "not a vdo bdev"),
        (json!({"base_bdev_name": "nobody"}), -19, "nobody"),
        (json!({"base_bdev_name": "taken"}), -1, "claimed"),
    ] {
        all.push(("bdev_vdo_rebuild", params, Error(code, word)));
    }
    let v = || json!({"name": "v"});
    let named = |more: Value| {
        let mut params = v();
        params
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        params
    };
    let verb = |verb: &'static str, expected: Expected| (verb, v(), expected);
    all.extend([
        ("bdev_vdo_get_stats", Value::Null, Answer(json!([]))),
        (
            "bdev_vdo_get_stats",
            json!({"name": "nobody"}),
            Error(-19, "nobody"),
        ),
        (
            "bdev_vdo_get_stats",
            json!({"per_zone": "yes"}),
            Error(-32602, "per_zone"),
        ),
        // A volume.
        (
            "bdev_vdo_create",
            create(json!({"compression": false})),
            Answer(json!("v")),
        ),
        ("bdev_vdo_create", create(json!({})), Error(-17, "\"v\"")),
        (
            "bdev_vdo_create",
            create(json!({"name": "w"})),
            Error(-1, "claimed"),
        ),
        (
            "bdev_vdo_create",
            create(json!({"name": "w", "format": "force"})),
            Error(-1, "claimed"),
        ),
        ("bdev_vdo_get_stats", Value::Null, Shape),
        ("bdev_vdo_get_stats", v(), Shape),
        (
            "bdev_vdo_get_stats",
            named(json!({"per_zone": true})),
            Shape,
        ),
        (
            "bdev_vdo_grow_logical",
            named(json!({"logical_size_mib": 1})),
            Error(-22, "not 256"),
        ),
        (
            "bdev_vdo_grow_logical",
            named(json!({"logical_size_mib": 5000})),
            Answer(json!({"logical_blocks": 1_280_000, "physical_blocks": ROOMY * 256})),
        ),
        verb(
            "bdev_vdo_grow_physical",
            Error(-22, "enlarge the base device"),
        ),
        verb("bdev_vdo_dump", Shape),
        verb("bdev_vdo_get_histograms", Error(-22, "keeps no times")),
        (
            "bdev_vdo_enable_histograms",
            named(json!({"enable": true})),
            Answer(json!(true)),
        ),
        ("bdev_vdo_enable_histograms", v(), Error(-32602, "enable")),
        verb("bdev_vdo_get_histograms", Shape),
        verb("bdev_vdo_index_online", Answer(json!(true))),
        verb("bdev_vdo_index_create", Error(-22, "online")),
        verb("bdev_vdo_index_offline", Answer(json!(true))),
        verb("bdev_vdo_index_offline", Answer(json!(true))),
        verb("bdev_vdo_index_close", Answer(json!(true))),
        verb("bdev_vdo_index_close", Answer(json!(true))),
        verb("bdev_vdo_index_create", Answer(json!(true))),
        verb("bdev_vdo_index_close", Answer(json!(true))),
        verb("bdev_vdo_index_open", Shape),
        verb("bdev_vdo_index_online", Shape),
        ("bdev_vdo_set_options", v(), Error(-32602, "nothing to set")),
        (
            "bdev_vdo_set_options",
            named(json!({"dedupe_timeout_ms": 0})),
            Error(-22, "dedupe_timeout_ms"),
        ),
        (
            "bdev_vdo_set_options",
            named(json!({"dedupe_timeout_ms": 120_001})),
            Error(-22, "120001"),
        ),
        (
            "bdev_vdo_set_options",
            named(json!({"dedupe_min_timer_ms": 1001})),
            Error(-22, "1001"),
        ),
        (
            "bdev_vdo_set_options",
            named(json!({"dedupe_min_timer_ms": "5"})),
            Error(-32602, "dedupe_min_timer_ms"),
        ),
        (
            "bdev_vdo_set_options",
            named(json!({"compression": 1})),
            Error(-32602, "compression"),
        ),
        (
            "bdev_vdo_set_options",
            named(json!({"discard_freed": true, "compression": true})),
            Error(-95, "no unmap"),
        ),
        (
            "bdev_vdo_set_options",
            named(json!({"discard_freed": false})),
            Answer(json!(true)),
        ),
        (
            "bdev_vdo_set_options",
            named(
                json!({"dedupe_timeout_ms": 700, "dedupe_min_timer_ms": 50, "compression": true}),
            ),
            Answer(json!(true)),
        ),
        ("bdev_vdo_rebuild", v(), Error(-22, "not read-only")),
        (
            "bdev_vdo_inject_index_answers",
            v(),
            Error(-32602, "answers"),
        ),
        (
            "bdev_vdo_inject_index_answers",
            named(json!({"answers": "late"})),
            Error(-32602, "late"),
        ),
        (
            "bdev_vdo_inject_index_answers",
            named(json!({"answers": "delayed"})),
            Error(-32602, "delay_ms"),
        ),
        (
            "bdev_vdo_inject_index_answers",
            named(json!({"answers": "delayed", "delay_ms": 0})),
            Error(-22, "delay_ms"),
        ),
        (
            "bdev_vdo_inject_index_answers",
            named(json!({"answers": "never", "delay_ms": 5})),
            Error(-22, "delayed"),
        ),
        (
            "bdev_vdo_inject_index_answers",
            named(json!({"answers": "never"})),
            Answer(json!(true)),
        ),
        (
            "bdev_vdo_inject_index_answers",
            named(json!({"answers": "prompt"})),
            Answer(json!(true)),
        ),
        // It goes, and comes again.
        (
            "bdev_vdo_delete",
            named(json!({"force": true})),
            Error(-32602, "force"),
        ),
        verb("bdev_vdo_delete", Answer(json!(true))),
        verb("bdev_vdo_delete", Error(-19, "\"v\"")),
        (
            "bdev_vdo_create",
            create(json!({"name": "w", "format": "never"})),
            Answer(json!("w")),
        ),
        ("bdev_vdo_delete", json!({"name": "w"}), Answer(json!(true))),
    ]);
    all
}

/// The answer with every number replaced by zero.
fn shape(value: &Value) -> Value {
    match value {
        Value::Number(_) => json!(0),
        Value::Array(values) => values.iter().map(shape).collect(),
        Value::Object(members) => {
            let members = members
                .iter()
                .map(|(name, value)| (name.clone(), shape(value)));
            Value::Object(members.collect())
        }
        value => value.clone(),
    }
}

fn compare(
    expected: &Expected,
    spdk: Result<Value, RpcError>,
    embedded: Result<Value, RpcError>,
) -> Result<(), String> {
    let as_expected = match (expected, &spdk) {
        (Answer(answer), Ok(found)) => answer == found,
        (Shape, Ok(_)) => true,
        (Error(code, word), Err(error)) => error.code.0 == *code && error.message.contains(word),
        _ => false,
    };
    if !as_expected {
        return Err(format!("was answered with {spdk:?}"));
    }
    let alike = match (expected, &spdk, &embedded) {
        (Shape, Ok(spdk), Ok(embedded)) => shape(spdk) == shape(embedded),
        _ => spdk == embedded,
    };
    match alike {
        true => Ok(()),
        false => Err(format!(
            "was answered with\n  {spdk:?}\nand by vdo_tgt with\n  {embedded:?}"
        )),
    }
}

#[test]
fn every_request_is_answered_word_for_word_as_vdo_tgt_does() {
    let _turn = spdk::turn();
    let (first, second) = (Rig::new(ROOMY), Rig::new(ROOMY));
    let spdk = Target::start_with(spdk::options(base_bdevs(&first)));
    let embedded = Target::start_with(Options {
        config: Some(base_bdevs(&second)),
        ..Options::default()
    });
    let mut differences = Vec::new();
    for (method, params, expected) in requests() {
        let answers = (
            spdk.rpc(method, params.clone()),
            embedded.rpc(method, params.clone()),
        );
        if let Err(difference) = compare(&expected, answers.0, answers.1) {
            differences.push(format!("{method} {params} {difference}"));
        }
    }
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences.join("\n")
    );
    assert!(embedded.stop().success());
    assert!(spdk.stop().success());
    second.audit("every_request_is_answered_word_for_word_as_vdo_tgt_does");
    first.audit("every_request_is_answered_word_for_word_as_vdo_tgt_does");
}

#[test]
fn volumes_are_shown_as_vdo_tgt_shows_them() {
    let _turn = spdk::turn();
    let (first, second) = (Rig::new(ROOMY), Rig::new(ROOMY));
    let spdk = Target::start_with(spdk::options(base_bdevs(&first)));
    let embedded = Target::start_with(Options {
        config: Some(base_bdevs(&second)),
        ..Options::default()
    });
    let create = json!({"name": "v", "base_bdev_name": "base", "slab_size_mib": 32, "logical_size_mib": 512});
    let shown = [&spdk, &embedded].map(|target| {
        spdk::call(target, "bdev_vdo_create", create.clone());
        let mut bdevs = spdk::call(target, "bdev_get_bdevs", json!({"name": "v"}));
        bdevs[0].take()
    });
    let [of_spdk, of_embedded] = &shown;
    assert_eq!(
        of_spdk["driver_specific"]["vdo"],
        of_embedded["driver_specific"]["vdo"]
    );
    assert_eq!(of_spdk["driver_specific"]["vdo"]["mode"], "normal");
    for member in [
        "name",
        "product_name",
        "block_size",
        "num_blocks",
        "claimed",
        "supported_io_types",
    ] {
        let (spdk, embedded) = (&of_spdk[member], &of_embedded[member]);
        match member {
            // SPDK knows more kinds of I/O than there are here, and has resets for its users.
            "supported_io_types" => {
                let kinds = embedded.as_object().unwrap().iter();
                for (kind, supported) in kinds.filter(|(kind, _)| *kind != "reset") {
                    assert_eq!(spdk.get(kind), Some(supported), "{kind}");
                }
            }
            _ => assert_eq!(spdk, embedded, "{member}"),
        }
    }
    // The volume's own UUID, so that it is known again.
    let again = |target: &Target| {
        spdk::call(target, "bdev_vdo_delete", json!({"name": "v"}));
        spdk::call(target, "bdev_vdo_create", create.clone());
        spdk::call(target, "bdev_get_bdevs", json!({"name": "v"}))[0]["uuid"].take()
    };
    assert_eq!(again(&spdk), of_spdk["uuid"]);
    assert!(embedded.stop().success());
    assert!(spdk.stop().success());
}

#[test]
fn every_method_of_the_contract_is_there() {
    let _turn = spdk::turn();
    let target = Target::start_with(spdk::options(bdev_config(Vec::new())));
    let methods = spdk::call(&target, "rpc_get_methods", Value::Null);
    for method in vdo_rpc::methods::ALL {
        assert!(
            methods.as_array().unwrap().contains(&json!(method.name)),
            "{}",
            method.name
        );
    }
    let ours = methods
        .as_array()
        .unwrap()
        .iter()
        .filter(|name| name.as_str().unwrap().starts_with("bdev_vdo_"));
    let mut ours: Vec<_> = ours.map(|name| name.as_str().unwrap()).collect();
    ours.retain(|name| {
        !vdo_rpc::methods::ALL
            .iter()
            .any(|method| method.name == *name)
    });
    assert_eq!(
        ours,
        ["bdev_vdo_set_examine"],
        "SPDK alone looks at bdevs unasked"
    );
    assert!(target.stop().success());
}
