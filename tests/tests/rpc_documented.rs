//! `docs/rpc.md` and the program agree on which methods there are and what they take.

use serde_json::{Value, json};
use vdo_tests::target::{Target, bdev_config};

const MANUAL: &str = include_str!("../../docs/rpc.md");

/// The part of the manual under one heading.
fn section(heading: &str) -> &'static str {
    let (_, rest) = MANUAL
        .split_once(heading)
        .unwrap_or_else(|| panic!("no heading {heading:?}"));
    rest.split("\n### ").next().unwrap_or(rest)
}

#[test]
fn every_method_of_the_program_is_in_the_manual() {
    let target = Target::start(bdev_config(Vec::new()));
    let methods = target.rpc("rpc_get_methods", Value::Null).unwrap();
    assert!(target.stop().success());
    let methods = methods.as_array().unwrap();
    assert!(methods.contains(&json!("nbd_start_disk")));
    for method in methods {
        let name = method.as_str().unwrap();
        // The verbs of the index share a heading.
        let short = name
            .strip_prefix("bdev_vdo_index")
            .map(|verb| format!("`{verb}`"));
        let told = MANUAL.contains(&format!("`{name}`"))
            || short.is_some_and(|short| MANUAL.contains(&short));
        assert!(told, "{name} is not in docs/rpc.md");
    }
}

#[test]
fn every_parameter_of_the_contract_is_in_the_manual() {
    for method in vdo_rpc::methods::ALL {
        let heading = match method.name.strip_prefix("bdev_vdo_index") {
            Some(_) => "### `bdev_vdo_index_online`".to_owned(),
            None => format!("### `{}`", method.name),
        };
        let text = section(&heading);
        for parameter in method.required.iter().chain(method.optional) {
            assert!(
                text.contains(&format!("`{parameter}`")),
                "{parameter} of {}",
                method.name
            );
        }
    }
}
