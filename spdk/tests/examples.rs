//! Every configuration in `spdk/examples` starts `spdk_vdo_tgt`, makes the bdevs and exports that the page beside it
//! promises, and started once more finds the same volumes.
//!
//! What depends on the machine is replaced before: the path of the disk, the port, and the NVMe device, whose place a
//! controller of a second SPDK process takes.

use std::path::PathBuf;

use serde_json::{Value, json};
use vdo_tests::nvme_probe::NvmeProbe;
use vdo_tests::probe::Probe;
use vdo_tests::rig::{BLOCK, Rig, check, fill};
use vdo_tests::spdk::{self, Export, Turn, call};
use vdo_tests::target::{Options, Target, bdev_config};
use vdo_tests::tools::skipped;

/// The examples, each with a test below.
const EXAMPLES: [&str; 4] = [
    "file-nvme-tcp.json",
    "malloc-nvme-tcp.json",
    "nvme.json",
    "two-volumes-lvol.json",
];

/// The subsystem the examples export.
const NQN: &str = "nqn.2016-06.io.spdk:vdo0";

/// MiB of memory of a target with 4 GiB of malloc bdev, as the page says.
const MEMORY_OF_MALLOC: u64 = 6144;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// An example, in parts that can be changed.
struct Example(Value);

impl Example {
    fn read(name: &str) -> Example {
        let text = std::fs::read_to_string(folder().join(name)).expect("the example is there");
        Example(serde_json::from_str(&text).expect("it is JSON"))
    }

    /// The only call of a method.
    fn call(&mut self, method: &str) -> &mut Value {
        let subsystems = self.0["subsystems"].as_array_mut().expect("subsystems");
        let mut found: Vec<&mut Value> = subsystems
            .iter_mut()
            .flat_map(|subsystem| subsystem["config"].as_array_mut().expect("calls"))
            .filter(|call| call["method"] == method)
            .collect();
        assert_eq!(found.len(), 1, "calls of {method}");
        found.remove(0)
    }

    /// Another file for the disk.
    fn on_file(mut self, rig: &Rig) -> Example {
        self.call("bdev_uring_create")["params"]["filename"] = json!(rig.file());
        self
    }

    /// Another port to listen at.
    fn at(mut self, place: &Export) -> Example {
        let listener = self.call("nvmf_subsystem_add_listener");
        listener["params"]["listen_address"]["trsvcid"] = json!(place.port().to_string());
        self
    }

    fn options(self) -> Options {
        spdk::options(self.0)
    }
}

fn turn() -> Turn {
    spdk::program();
    spdk::turn()
}

fn names(target: &Target) -> Vec<String> {
    let bdevs = call(target, "bdev_get_bdevs", Value::Null);
    let bdevs = bdevs.as_array().expect("a list");
    let name = |bdev: &Value| bdev["name"].as_str().expect("a name").to_owned();
    bdevs.iter().map(name).collect()
}

/// The bdev of a volume that is well.
fn volume(target: &Target, name: &str) -> Value {
    let mut bdevs = call(target, "bdev_get_bdevs", json!({"name": name}));
    let bdev = bdevs[0].take();
    let vdo = &bdev["driver_specific"]["vdo"];
    assert_eq!(
        (&vdo["mode"], &vdo["index_state"]),
        (&json!("normal"), &json!("online")),
        "{bdev}"
    );
    bdev
}

/// The UUID of a volume, which formatting gives it.
fn uuid(target: &Target, name: &str) -> String {
    volume(target, name)["uuid"]
        .as_str()
        .expect("a UUID")
        .to_owned()
}

/// The bdevs an exported subsystem has.
fn exported(target: &Target) -> Value {
    let subsystems = call(target, "nvmf_get_subsystems", json!({"nqn": NQN}));
    json!([
        subsystems[0]["namespaces"][0]["bdev_name"],
        subsystems[0]["allow_any_host"]
    ])
}

#[test]
fn every_example_has_a_test_and_a_word_on_the_page_beside_it() {
    let page = std::fs::read_to_string(folder().join("README.md")).expect("the page is there");
    let mut found: Vec<String> = std::fs::read_dir(folder())
        .expect("the folder is there")
        .map(|entry| {
            entry
                .expect("it can be read")
                .file_name()
                .into_string()
                .expect("a plain name")
        })
        .filter(|name| name.ends_with(".json"))
        .collect();
    found.sort();
    assert_eq!(found, EXAMPLES);
    for name in EXAMPLES {
        assert!(page.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn the_file_example_serves_a_volume_that_keeps_what_is_written() {
    let (_turn, rig, place) = (turn(), Rig::new(8192), Export::somewhere());
    let example = Example::read("file-nvme-tcp.json").on_file(&rig).at(&place);
    let target = Target::start_with(example.options());
    assert_eq!(names(&target), ["disk0", "vdo0"]);
    assert_eq!(exported(&target), json!(["vdo0", true]));
    let made = uuid(&target, "vdo0");
    let mut host = NvmeProbe::connect(place.port(), NQN).expect("the volume is served");
    fill(&mut host, 0..64, |lbn| lbn % 16);
    drop(host);

    let target = target.restart();
    assert_eq!(names(&target), ["disk0", "vdo0"]);
    assert_eq!(uuid(&target, "vdo0"), made);
    assert_eq!(
        volume(&target, "vdo0")["driver_specific"]["vdo"]["data_blocks_used"],
        16
    );
    let mut host = NvmeProbe::connect(place.port(), NQN).expect("the volume is served");
    check(&mut host, 0..64, |lbn| lbn % 16);
    drop(host);
    assert!(target.stop().success());
    rig.audit("the_file_example_serves_a_volume_that_keeps_what_is_written");
}

/// MiB of memory that can be had.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}

#[test]
fn the_malloc_example_serves_a_volume_every_time() {
    if available().is_some_and(|mib| mib < MEMORY_OF_MALLOC + 1024) {
        let test = "the_malloc_example_serves_a_volume_every_time";
        return skipped(
            test,
            format_args!("it takes {MEMORY_OF_MALLOC} MiB of memory"),
        );
    }
    let (_turn, place) = (turn(), Export::somewhere());
    let mut options = Example::read("malloc-nvme-tcp.json").at(&place).options();
    options.arguments = vec!["-s".to_owned(), MEMORY_OF_MALLOC.to_string()];
    let mut target = Target::start_with(options);
    for again in [true, false] {
        assert_eq!(names(&target), ["memory", "vdo0"]);
        assert_eq!(exported(&target), json!(["vdo0", true]));
        let mut host = NvmeProbe::connect(place.port(), NQN).expect("the volume is served");
        // The memory is new, and so is the volume.
        let mut found = vec![1; BLOCK as usize];
        assert_eq!(host.read(5 * BLOCK, &mut found), Ok(()));
        assert_eq!(found, vec![0; BLOCK as usize]);
        fill(&mut host, 0..32, |lbn| lbn % 8);
        check(&mut host, 0..32, |lbn| lbn % 8);
        drop(host);
        if again {
            target = target.restart();
        }
    }
    assert!(target.stop().success());
}

#[test]
fn the_nvme_example_finds_its_volume_on_the_first_namespace() {
    let test = "the_nvme_example_finds_its_volume_on_the_first_namespace";
    if spdk::lacking(test, &[spdk::installed("spdk_tgt")]) {
        return;
    }
    let (_turn, rig) = (turn(), Rig::new(8192));
    let device = Target::start_with(spdk::stock_options(bdev_config(Vec::new())));
    spdk::create_aio(&device, "disk", &rig.file());
    let export = spdk::export_nvme_tcp(&device, "disk");

    let mut example = Example::read("nvme.json");
    let attach = example.call("bdev_nvme_attach_controller");
    assert_eq!(attach["params"]["trtype"], "PCIe");
    let name = attach["params"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    attach["params"] = export.remote(&name);
    let target = Target::start_with(example.options());
    assert_eq!(names(&target), ["nvme0n1", "vdo0"]);
    let made = uuid(&target, "vdo0");

    let target = target.restart();
    assert_eq!(names(&target), ["nvme0n1", "vdo0"]);
    assert_eq!(uuid(&target, "vdo0"), made);
    assert!(target.stop().success());
    assert!(device.stop().success());
    rig.audit(test);
}

/// The calls that cut the disk in two, once, as the page has them.
fn cut(disk: Value) -> Vec<(&'static str, Value)> {
    let part = |name: &str| json!({"lvs_name": "lvs0", "lvol_name": name, "size_in_mib": 6144});
    vec![
        ("bdev_uring_create", disk),
        (
            "bdev_lvol_create_lvstore",
            json!({"bdev_name": "disk0", "lvs_name": "lvs0"}),
        ),
        ("bdev_lvol_create", part("part0")),
        ("bdev_lvol_create", part("part1")),
    ]
}

#[test]
fn the_lvol_example_has_two_volumes_on_one_disk_and_a_saved_configuration_too() {
    let (_turn, rig) = (turn(), Rig::new(16 * 1024));
    let mut example = Example::read("two-volumes-lvol.json").on_file(&rig);
    let disk = example.call("bdev_uring_create")["params"].clone();
    // Without the parts it says so, and leaves the disk alone.
    let said = Target::refuse(Example(example.0.clone()).options());
    assert!(
        said.contains("there is no bdev \\\"lvs0/part0\\\""),
        "{said}"
    );

    let target = Target::start_with(spdk::options(bdev_config(Vec::new())));
    for (method, params) in cut(disk) {
        call(&target, method, params);
    }
    assert!(target.stop().success());

    let target = Target::start_with(example.options());
    assert_eq!(names(&target)[3..], ["vdo0", "vdo1"]);
    let made = ["vdo0", "vdo1"].map(|name| uuid(&target, name));
    assert_ne!(made[0], made[1]);
    let target = target.restart();
    assert_eq!(["vdo0", "vdo1"].map(|name| uuid(&target, name)), made);

    // What is saved also waits for the parts to be found.
    let saved = call(&target, "framework_get_config", json!({"name": "bdev"}));
    assert!(target.stop().success());
    let target = Target::start_with(spdk::options(bdev_config(Vec::new())));
    for each in saved.as_array().expect("a list of calls") {
        let method = each["method"].as_str().expect("a call has a method");
        // Pools are of their size since the program started.
        if method != "bdev_set_options" {
            call(&target, method, each["params"].clone());
        }
    }
    assert_eq!(["vdo0", "vdo1"].map(|name| uuid(&target, name)), made);
    assert!(target.stop().success());
}
