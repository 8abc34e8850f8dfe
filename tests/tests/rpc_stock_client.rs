//! The RPC socket against SPDK's own client from PyPI, with the product's plugin.

use serde_json::{Value, json};
use vdo_tests::stock_client::Stock;
use vdo_tests::target::{Options, bdev_config};
use vdo_tests::tools::text;

fn empty() -> Options {
    Options {
        config: Some(bdev_config(Vec::new())),
        ..Options::default()
    }
}

#[test]
fn stock_commands_make_list_and_delete_bdevs() {
    let Some(stock) = Stock::new("stock_commands_make_list_and_delete_bdevs", empty()) else {
        return;
    };
    assert_eq!(
        stock.run(&["bdev_malloc_create", "-b", "m0", "16", "4096"]),
        "m0"
    );
    assert_eq!(stock.run(&["bdev_null_create", "n0", "64", "512"]), "n0");
    let file = stock.target.path("file");
    std::fs::File::create(&file)
        .unwrap()
        .set_len(16 << 20)
        .unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(stock.run(&["bdev_aio_create", file, "a0", "512"]), "a0");
    stock.run(&["bdev_error_create", "m0"]);
    stock.run(&[
        "bdev_error_inject_error",
        "EE_m0",
        "read",
        "failure",
        "-n",
        "3",
    ]);
    stock.run(&[
        "bdev_delay_create",
        "-b",
        "n0",
        "-d",
        "d0",
        "-r",
        "10",
        "-t",
        "20",
        "-w",
        "10",
        "-n",
        "20",
    ]);
    stock.run(&["bdev_wait_for_examine"]);
    let names = |bdevs: &Value| -> Vec<String> {
        bdevs
            .as_array()
            .unwrap()
            .iter()
            .map(|bdev| bdev["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        names(&stock.run(&["bdev_get_bdevs"])),
        ["m0", "n0", "a0", "EE_m0", "d0"]
    );
    let bdevs = stock.run(&["bdev_get_bdevs", "-b", "m0"]);
    assert_eq!(
        (&bdevs[0]["num_blocks"], &bdevs[0]["block_size"]),
        (&json!(4096), &json!(4096))
    );
    assert_eq!(
        stock.run(&["bdev_get_iostat"])["bdevs"]
            .as_array()
            .unwrap()
            .len(),
        5
    );
    for (command, name) in [
        ("bdev_delay_delete", "d0"),
        ("bdev_error_delete", "EE_m0"),
        ("bdev_aio_delete", "a0"),
        ("bdev_null_delete", "n0"),
        ("bdev_malloc_delete", "m0"),
    ] {
        stock.run(&[command, name]);
    }
    assert_eq!(stock.run(&["bdev_get_bdevs"]), json!([]));
    let (code, message) = stock.fail(&["bdev_malloc_delete", "m0"]);
    assert_eq!(code, -19);
    assert!(message.contains("m0"), "{message}");
    assert!(stock.target.stop().success());
}

#[test]
fn stock_commands_ask_about_the_program_and_end_it() {
    let Some(stock) = Stock::new("stock_commands_ask_about_the_program_and_end_it", empty()) else {
        return;
    };
    let methods = stock.run(&["rpc_get_methods"]);
    let methods = methods.as_array().unwrap();
    for method in [
        "bdev_get_bdevs",
        "nbd_start_disk",
        "framework_get_config",
        "rpc_get_methods",
    ] {
        assert!(methods.contains(&json!(method)), "{method}");
    }
    let current = stock.run(&["rpc_get_methods", "-c"]);
    assert!(
        !current
            .as_array()
            .unwrap()
            .contains(&json!("framework_start_init"))
    );
    assert!(stock.run(&["spdk_get_version"])["version"].is_string());
    assert_eq!(
        stock.run(&["framework_get_reactors"])["reactors"][0]["lcore"],
        0
    );
    stock.run(&["framework_wait_init"]);
    stock.run(&["log_set_level", "DEBUG"]);
    assert_eq!(stock.run(&["log_get_level"]), "DEBUG");
    stock.run(&["spdk_kill_instance", "SIGTERM"]);
    let mut patience = 1000;
    while stock.target.socket().exists() && patience > 0 {
        std::thread::sleep(std::time::Duration::from_millis(10));
        patience -= 1;
    }
    assert!(
        !stock.target.socket().exists(),
        "the target ended:\n{}",
        stock.target.log()
    );
}

#[test]
fn a_saved_configuration_loads_into_a_waiting_target() {
    let name = "a_saved_configuration_loads_into_a_waiting_target";
    let Some(stock) = Stock::new(name, empty()) else {
        return;
    };
    stock.run(&["bdev_malloc_create", "-b", "m0", "16", "4096"]);
    // Not in the target's folder, which goes with it.
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("m0.nbd");
    let socket = socket.to_str().unwrap().to_owned();
    assert_eq!(
        stock.run(&["nbd_start_disk", "m0", &socket]),
        socket.as_str()
    );
    assert_eq!(stock.run(&["nbd_get_disks"])[0]["bdev_name"], "m0");
    let saved = stock.run(&["save_config"]);
    stock.run(&["nbd_stop_disk", &socket]);
    assert!(stock.target.stop().success());

    let file = folder.path().join("saved.json");
    std::fs::write(&file, saved.to_string()).unwrap();
    let options = Options {
        wait_for_rpc: true,
        ..Options::default()
    };
    let Some(stock) = Stock::new(name, options) else {
        return;
    };
    let (code, _) = stock.fail(&["bdev_get_bdevs"]);
    assert_eq!(code, -1, "not before the start");
    let path = file.to_str().unwrap();
    let loaded = stock.output(&["load_config", "-j", path], None);
    assert!(loaded.status.success(), "{}", text(&loaded));
    let again = stock.run(&["save_config"]);
    assert_eq!(again["subsystems"], saved["subsystems"]);
    stock.run(&["nbd_stop_disk", &socket]);
    assert!(stock.target.stop().success());
}

#[test]
fn a_batch_of_stock_commands_is_answered_as_one() {
    let Some(stock) = Stock::new("a_batch_of_stock_commands_is_answered_as_one", empty()) else {
        return;
    };
    let script = stock.target.path("script");
    std::fs::write(
        &script,
        "bdev_malloc_create -b m0 16 4096\nbdev_malloc_create -b m1 16 4096\nbdev_get_bdevs\n",
    )
    .unwrap();
    for (mode, bdevs) in [("--no-batch-mode", 2), ("--batch-mode", 2)] {
        let output = stock.output(&[mode], Some(&script));
        assert!(output.status.success(), "{mode}: {}", text(&output));
        assert_eq!(
            stock.run(&["bdev_get_bdevs"]).as_array().unwrap().len(),
            bdevs
        );
        for name in ["m0", "m1"] {
            stock.run(&["bdev_malloc_delete", name]);
        }
    }
    assert!(stock.target.stop().success());
}

#[test]
fn the_plugin_sends_what_the_contract_says() {
    let Some(stock) = Stock::new("the_plugin_sends_what_the_contract_says", empty()) else {
        return;
    };
    let request = |arguments: &[&str]| -> Value {
        let all = [&["--dry-run"], arguments].concat();
        let output = stock.output(&all, None);
        let printed = text(&output);
        let (_, request) = printed
            .split_once("Request:\n")
            .unwrap_or_else(|| panic!("{printed}"));
        serde_json::Deserializer::from_str(request)
            .into_iter::<Value>()
            .next()
            .unwrap()
            .unwrap()
    };
    let create = request(&[
        "bdev_vdo_create",
        "-b",
        "v",
        "-d",
        "b",
        "--format",
        "force",
        "--logical-size-mib",
        "1024",
        "--slab-size-mib",
        "128",
        "--index-memory-gb",
        "0.5",
        "--index-sparse",
        "--cpumask",
        "0x3",
        "--block-map-cache-mib",
        "64",
        "--no-deduplication",
        "--compression",
    ]);
    assert_eq!(create["method"], "bdev_vdo_create");
    let expected = json!({"name": "v", "base_bdev_name": "b", "format": "force", "logical_size_mib": 1024,
        "slab_size_mib": 128, "index_memory_gb": 0.5, "index_sparse": true, "cpumask": "0x3",
        "block_map_cache_mib": 64, "deduplication": false, "compression": true});
    assert_eq!(create["params"], expected);
    let options = request(&[
        "bdev_vdo_set_options",
        "v",
        "-t",
        "100",
        "-T",
        "10",
        "--no-compression",
    ]);
    let expected = json!({"name": "v", "dedupe_timeout_ms": 100, "dedupe_min_timer_ms": 10, "compression": false});
    assert_eq!(options["params"], expected);
    let stats = request(&["bdev_vdo_get_stats", "-b", "v", "--per-zone"]);
    assert_eq!(stats["params"], json!({"name": "v", "per_zone": true}));
    for (option, parameter) in [("-b", "name"), ("-d", "base_bdev_name")] {
        let rebuild = request(&["bdev_vdo_rebuild", option, "v"]);
        assert_eq!(rebuild["params"], json!({parameter: "v"}));
    }
    assert_eq!(
        request(&["bdev_vdo_rebuild", "v"])["params"],
        json!({"name": "v"})
    );
    for (option, enable) in [("--enable", true), ("-d", false)] {
        let histograms = request(&["bdev_vdo_enable_histograms", "v", option]);
        assert_eq!(histograms["params"], json!({"name": "v", "enable": enable}));
    }
    let progress = request(&["bdev_vdo_get_progress"]);
    assert_eq!(progress["method"], "bdev_vdo_get_progress");
    for method in vdo_rpc::methods::ALL
        .iter()
        .filter(|method| method.required == ["name"])
    {
        if method.optional.is_empty() {
            assert_eq!(
                request(&[method.name, "v"])["params"],
                json!({"name": "v"}),
                "{}",
                method.name
            );
        }
    }
    assert!(stock.target.stop().success());
}

#[test]
fn a_volume_is_made_from_a_profile_and_its_statistics_are_yaml() {
    let test = "a_volume_is_made_from_a_profile_and_its_statistics_are_yaml";
    let Some(stock) = Stock::new(test, empty()) else {
        return;
    };
    let file = stock.target.path("disk");
    std::fs::File::create(&file)
        .unwrap()
        .set_len(3072 << 20)
        .unwrap();
    let file = file.to_str().unwrap();
    stock.run(&["bdev_uring_create", file, "base", "4096"]);
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../spdk/examples/profile.yaml");
    let create = ["bdev_vdo_create", "-b", "v", "-d", "base"];
    let wrong = stock.target.path("wrong.yaml");
    std::fs::write(&wrong, "slab_size_mib: 32\ncolour: red\n").unwrap();
    let (code, message) =
        stock.fail(&[&create[..], &["--profile", wrong.to_str().unwrap()]].concat());
    assert_eq!(code, -32602);
    assert!(message.contains("colour"), "{message}");
    let own = [
        "--profile",
        example,
        "--logical-size-mib",
        "512",
        "--no-compression",
    ];
    assert_eq!(stock.run(&[&create[..], &own].concat()), "v");
    let bdevs = stock.run(&["bdev_get_bdevs", "-b", "v"]);
    let vdo = &bdevs[0]["driver_specific"]["vdo"];
    assert_eq!(vdo["low_space_percent"], json!([70, 85, 95]));
    assert_eq!(vdo["logical_blocks"], 512 * 256);
    assert_eq!(vdo["compression"], false);
    let saved = stock.run(&["framework_get_config", "bdev"]);
    let saved = &saved[1]["params"];
    assert_eq!(
        (&saved["slab_size_mib"], &saved["profile"]),
        (&json!(32), &Value::Null)
    );

    let output = stock.output(&["bdev_vdo_get_stats", "v", "--yaml"], None);
    assert!(output.status.success(), "{}", text(&output));
    let yaml = String::from_utf8(output.stdout).unwrap();
    assert!(yaml.starts_with("v:\n"), "{yaml}");
    assert!(yaml.contains("\n  data blocks used: 0\n"), "{yaml}");
    assert!(yaml.contains("\n  mode: normal\n"), "{yaml}");
    let (code, message) = stock.fail(&["bdev_vdo_get_stats", "v", "--yaml", "--per-zone"]);
    assert_eq!(code, -22);
    assert!(message.contains("format"), "{message}");
    let json = stock.run(&["bdev_vdo_get_stats", "v"]);
    assert_eq!(json[0]["data_blocks_used"], 0);
    assert!(stock.target.stop().success());
}
