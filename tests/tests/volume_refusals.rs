//! What a target refuses to open or make, what it says then, and that it changes nothing on the device.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use serde_json::{Value, json};
use vdo::format::geometry::{Geometry, GeometryVersion};
use vdo::format::index_region::IndexMemory;
use vdo::format::open::read_geometry;
use vdo::format::super_block::SuperBlock;
use vdo::types::Pbn;
use vdo_rpc::ErrorCode;
use vdo_tests::dm_vdo::{Loop, lacking};
use vdo_tests::rig::{BLOCK, MIB, ROOMY, Rig, Setup, TIGHT, block, check, fill, info};
use vdo_tests::target::{Options, Target, bdev_config};
use vdo_tests::tools::{run, skipped};

/// A volume with a little data in it, shut down cleanly.
fn made() -> Rig {
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::default());
    fill(&mut rig.connect(), 0..100, |lbn| lbn);
    assert!(target.stop().success());
    rig
}

/// Inverts a byte of the file.
fn spoil(rig: &Rig, offset: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(rig.file())
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0] ^= 0xff;
    file.write_all_at(&byte, offset).unwrap();
}

fn says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "nothing of {word:?} in:\n{said}");
    }
}

#[test]
fn a_device_that_holds_something_else_is_left_alone() {
    let test = "a_device_that_holds_something_else_is_left_alone";
    let rig = Rig::new(ROOMY);
    spoil(&rig, 12345);
    says(
        &rig.refused(&Setup::default()),
        &["\"base\"", "unknown data", "offset 12345", "force"],
    );
    says(
        &rig.refused(&Setup::default().with("format", "never")),
        &["\"base\"", "no volume"],
    );
    spoil(&rig, 12345);
    spoil(&rig, ROOMY * MIB - 1);
    says(
        &rig.refused(&Setup::default()),
        &[&format!("offset {}", ROOMY * MIB - 1)],
    );
    if !lacking(test, &["mkfs.ext4"], false) {
        run(
            "/usr/sbin/mkfs.ext4",
            ["-q", "-F", rig.file().to_str().unwrap()],
        );
        says(&rig.refused(&Setup::default()), &["ext4"]);
    }
    // Told to, it overwrites it.
    let target = rig.start(&Setup::default().with("format", "force"));
    fill(&mut rig.connect(), 0..10, |lbn| lbn);
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn a_blank_device_is_not_formatted_unasked() {
    let rig = Rig::new(ROOMY);
    says(
        &rig.refused(&Setup::default().with("format", "never")),
        &["holds no volume", "blank"],
    );
}

#[test]
fn a_volume_with_a_wrong_checksum_is_refused() {
    let rig = made();
    spoil(&rig, 64);
    says(
        &rig.refused(&Setup::default()),
        &["geometry block", "checksum"],
    );
    spoil(&rig, 64);
    let mut first = [0; BLOCK as usize];
    let file = OpenOptions::new().read(true).open(rig.file()).unwrap();
    file.read_exact_at(&mut first, 0).unwrap();
    let geometry = read_geometry(&first, ROOMY * MIB / BLOCK).unwrap();
    let at = geometry.super_block().get() * BLOCK + 100;
    spoil(&rig, at);
    says(
        &rig.refused(&Setup::default()),
        &["super block", "checksum"],
    );
    spoil(&rig, at);
    let target = rig.start(&Setup::default());
    check(&mut rig.connect(), 0..100, |lbn| lbn);
    assert!(target.stop().success());
}

#[test]
fn sizes_on_disk_that_cannot_be_are_refused_and_the_volume_beside_goes_on() {
    let test = "sizes_on_disk_that_cannot_be_are_refused_and_the_volume_beside_goes_on";
    let (damaged, healthy) = (made(), Rig::new(ROOMY));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(damaged.file());
    let file = file.unwrap();
    let block_at = |pbn: u64| {
        let mut block = [0; BLOCK as usize];
        file.read_exact_at(&mut block, pbn * BLOCK).unwrap();
        block
    };
    let put = |pbn: u64, block: &[u8]| file.write_all_at(block, pbn * BLOCK).unwrap();
    let first = block_at(0);
    let geometry = read_geometry(&first, ROOMY * MIB / BLOCK).unwrap();
    let at = geometry.super_block().get();
    let target = healthy.start(&Setup::default());
    let params = json!({"name": "damaged", "filename": damaged.file(), "block_size": BLOCK});
    target.rpc("bdev_uring_create", params).unwrap();
    let create = || {
        let params = json!({"name": "vdo1", "base_bdev_name": "damaged", "format": "never"});
        target.rpc("bdev_vdo_create", params)
    };
    let refused = |what: &str| {
        let error = create().expect_err("it cannot be opened");
        assert!(
            [ErrorCode::EINVAL, ErrorCode::ENOMEM].contains(&error.code),
            "{what}: {error:?}"
        );
        says(&error.message, &["bdev \"damaged\""]);
        let words = error.message.split_whitespace().count();
        assert!(words > 6, "{what}: {error:?}");
    };
    let write_geometry = |found: &Geometry| {
        let mut block = [0; BLOCK as usize];
        found.encode(GeometryVersion::V5, &mut block);
        put(0, &block);
    };
    let places: [fn(&mut Geometry, u64); 4] = [
        |found, absurd| found.index_start = Pbn(absurd),
        |found, absurd| found.data_start = Pbn(absurd),
        |found, absurd| found.bio_offset = absurd,
        |found, absurd| found.index.memory = IndexMemory::from_code((absurd % 1024) as u32),
    ];
    for (number, place) in places.into_iter().enumerate() {
        for absurd in [(1 << 50) - 1, u64::MAX] {
            let mut found = geometry.clone();
            place(&mut found, absurd);
            write_geometry(&found);
            refused(&format!("place {number}, {absurd}"));
        }
    }
    // An index of a size that nobody knows is no reason not to open the volume, which does without.
    let mut found = geometry.clone();
    found.index.memory = IndexMemory::from_code(u32::MAX);
    write_geometry(&found);
    create().unwrap();
    let up = target
        .rpc("bdev_get_bdevs", json!({"name": "vdo1"}))
        .unwrap();
    assert_eq!(up[0]["driver_specific"]["vdo"]["index_state"], "error");
    target
        .rpc("bdev_vdo_delete", json!({"name": "vdo1"}))
        .unwrap();
    put(0, &first);
    let whole = block_at(at);
    let sizes: [fn(&mut SuperBlock) -> &mut u64; 10] = [
        |found| &mut found.volume.config.logical_blocks,
        |found| &mut found.volume.config.physical_blocks,
        |found| &mut found.volume.config.slab_blocks,
        |found| &mut found.volume.config.recovery_journal_blocks,
        |found| &mut found.volume.config.slab_journal_blocks,
        |found| &mut found.slab_depot.slab.slab_blocks,
        |found| &mut found.slab_depot.slab.data_blocks,
        |found| &mut found.slab_depot.slab.reference_count_blocks,
        |found| &mut found.slab_depot.slab.slab_journal_blocks,
        |found| &mut found.block_map.root_count,
    ];
    for (number, size) in sizes.into_iter().enumerate() {
        for absurd in [1 << 50, u64::MAX] {
            let mut found = SuperBlock::decode(&whole, &geometry).unwrap();
            *size(&mut found) = absurd;
            let mut block = [0; BLOCK as usize];
            found.encode(&mut block);
            put(at, &block);
            refused(&format!("size {number}, {absurd}"));
        }
    }
    put(at, &whole);
    create().unwrap();
    fill(&mut healthy.connect(), 0..100, |lbn| lbn);
    assert!(target.stop().success());
    healthy.audit(test);
    damaged.audit(test);
}

#[test]
fn a_device_that_lost_its_end_is_refused() {
    let rig = made();
    let file = OpenOptions::new().write(true).open(rig.file()).unwrap();
    file.set_len((ROOMY - 200) * MIB).unwrap();
    let found = ((ROOMY - 200) * MIB / BLOCK).to_string();
    says(
        &rig.refused(&Setup::default()),
        &["needs", &found, "full size"],
    );
}

/// Memory of this machine in GiB, rounded down.
fn machine_gib() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = machine
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let total = total
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap();
    total.parse::<u64>().unwrap() >> 20
}

#[test]
fn an_index_that_is_opened_later_needs_memory_then() {
    let test = "an_index_that_is_opened_later_needs_memory_then";
    let gib = machine_gib() + 1;
    if gib > 1000 {
        return skipped(test, "this machine can have every index there is");
    }
    // An index takes somewhat more than ten times its memory on the device.
    let rig = Rig::new((12 * gib + 2) << 10);
    let setup = Setup::default()
        .with("deduplication", false)
        .with("format", "force")
        .with("index_memory_gb", gib);
    let target = rig.start(&setup);
    let mut client = rig.connect();
    fill(&mut client, 0..100, |lbn| lbn);
    let before = info(&target)["index_state"].clone();
    for verb in ["open", "online", "create"] {
        let method = format!("bdev_vdo_index_{verb}");
        let refused = target.rpc(&method, json!({"name": "vdo0"})).unwrap_err();
        assert_eq!(refused.code, ErrorCode::ENOMEM, "{verb}: {refused:?}");
        let needed = format!("needs {} MiB", gib << 10);
        says(&refused.message, &["\"vdo0\"", &needed, "index_memory_gb"]);
        assert_eq!(info(&target)["index_state"], before);
    }
    // What needs none is done.
    for verb in ["offline", "close"] {
        let method = format!("bdev_vdo_index_{verb}");
        let done = target.rpc(&method, json!({"name": "vdo0"}));
        assert_eq!(done.unwrap(), true, "{verb}");
    }
    check(&mut client, 0..100, |lbn| lbn);
    drop(client);
    assert!(target.stop().success());

    let small = Rig::new(ROOMY);
    let target = small.start(&Setup::default().with("deduplication", false));
    let done = target.rpc("bdev_vdo_index_online", json!({"name": "vdo0"}));
    assert_eq!(done.unwrap(), true);
    assert_eq!(info(&target)["index_state"], "online");
    assert!(target.stop().success());
}

#[test]
fn memory_the_machine_cannot_have_is_refused_by_name_and_touches_nothing() {
    let test = "memory_the_machine_cannot_have_is_refused_by_name_and_touches_nothing";
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::default());
    let mut client = rig.connect();
    fill(&mut client, 0..100, |lbn| lbn);
    let null = |name: &str, blocks: u64| {
        let params = json!({"name": name, "num_blocks": blocks, "block_size": BLOCK});
        target.rpc("bdev_null_create", params).unwrap();
    };
    null("large", 1 << 31);
    null("largest", 1 << 36);
    let huge_slabs = json!({"slab_size_mib": 32768});
    let cases = [
        (
            "large",
            json!({"block_map_cache_mib": 16_777_215}),
            "block_map_cache_mib",
        ),
        (
            "large",
            json!({"block_map_cache_mib": 4_000_000}),
            "block_map_cache_mib",
        ),
        ("large", json!({"index_memory_gb": 512}), "index_memory_gb"),
        ("largest", huge_slabs, "base_bdev_name"),
    ];
    let gib = machine_gib();
    let wanted = (gib + 1) << 18;
    let params = json!({"name": "memory", "num_blocks": wanted, "block_size": BLOCK});
    let error = target.rpc("bdev_malloc_create", params).unwrap_err();
    assert_eq!(error.code, ErrorCode::ENOMEM, "{error:?}");
    says(
        &error.message,
        &["num_blocks: bdev \"memory\"", "can be had here"],
    );
    for (base, mut params, parameter) in cases {
        if base == "largest" && gib > 60 {
            continue;
        }
        params["name"] = json!("vdo1");
        params["base_bdev_name"] = json!(base);
        let error = target.rpc("bdev_vdo_create", params.clone()).unwrap_err();
        assert_eq!(error.code, ErrorCode::ENOMEM, "{params}: {error:?}");
        let begin = format!("{parameter}: bdev \"{base}\"");
        says(
            &error.message,
            &[&begin, "MiB of memory", "can be had here"],
        );
    }
    // Nobody noticed.
    check(&mut client, 0..100, |lbn| lbn);
    fill(&mut client, 100..200, |lbn| lbn);
    let gone = json!({"name": "vdo1"});
    assert_eq!(
        target.rpc("bdev_get_bdevs", gone).unwrap_err().code,
        ErrorCode::ENODEV
    );
    drop(client);
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn parameters_that_make_no_sense_are_refused_by_name() {
    let rig = Rig::new(ROOMY);
    let usual = Setup::default;
    let cases = [
        (
            usual().with("slab_size_mib", 3),
            vec!["slab_size_mib", "3", "power of two"],
        ),
        (
            usual().with("slab_size_mib", 65536),
            vec!["slab_size_mib", "65536"],
        ),
        (usual().with("slab_size_mib", 2048), vec!["slab"]),
        (
            usual().with("logical_size_mib", 0),
            vec!["logical_size_mib", "0"],
        ),
        (
            usual().with("index_memory_gb", 0.3),
            vec!["index_memory_gb", "0.3"],
        ),
        (usual().with("index_memory_gb", 64), vec!["index"]),
        (usual().with("cpumask", "0x8"), vec!["cpumask", "0x8"]),
        (usual().with("cpumask", "many"), vec!["cpumask", "many"]),
        (
            usual().with("block_map_cache_mib", 0),
            vec!["block_map_cache_mib", "0"],
        ),
        (usual().with("format", "always"), vec!["format", "always"]),
        (usual().with("slab_size", 32), vec!["slab_size", "unknown"]),
        (usual().with("compression", "yes"), vec!["compression"]),
    ];
    let before = rig.fingerprint();
    for (setup, words) in cases {
        let said = Target::refuse(rig.options(&setup));
        says(&said, &words);
        says(&said, &["bdev_vdo_create", "config.json"]);
    }
    assert_eq!(before, rig.fingerprint(), "a refusal changed the device");
}

#[test]
fn a_volume_of_one_slab_is_not_cut_in_two() {
    let rig = Rig::new(TIGHT);
    let setup = |cpumask| {
        Setup::on(cpumask)
            .with("slab_size_mib", 16)
            .with("cpumask", cpumask)
    };
    let refused = || {
        let said = rig.refused(&setup("0x3"));
        says(&said, &["cpumask", "2 cores", "2 zones", "1 slab"]);
    };
    // Before it is formatted, and after.
    refused();
    let target = rig.start(&setup("0x1"));
    fill(&mut rig.connect(), 0..10, |lbn| lbn);
    assert!(target.stop().success());
    refused();
    // Unless somebody insists, it takes as many as it can use.
    let target = rig.start(&Setup::on("0x3"));
    assert_eq!(info(&target)["zones"], 1);
    check(&mut rig.connect(), 0..10, |lbn| lbn);
    assert!(target.stop().success());
}

#[test]
fn names_are_taken_once_and_bases_are_used_once() {
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::default());
    let refused = |name: &str, base: &str| {
        let params = json!({"name": name, "base_bdev_name": base});
        target.rpc("bdev_vdo_create", params).unwrap_err()
    };
    let error = refused("other", "base");
    assert_eq!(error.code.0, -1, "{error}");
    says(&error.message, &["\"base\"", "vdo0"]);
    let error = refused("other", "missing");
    assert_eq!(error.code.0, -19, "{error}");
    says(&error.message, &["missing"]);
    let malloc = json!({"name": "m", "num_blocks": 1024, "block_size": 4096});
    target.rpc("bdev_malloc_create", malloc).unwrap();
    // Large enough to be formatted, which must not happen.
    let null = json!({"name": "n", "num_blocks": 1 << 20, "block_size": 4096});
    target.rpc("bdev_null_create", null).unwrap();
    let written = || {
        let answer = target.rpc("bdev_get_iostat", json!({"name": "n"}));
        answer.unwrap()["bdevs"][0]["num_write_ops"].clone()
    };
    let error = refused("vdo0", "n");
    assert_eq!(written(), 0);
    assert_eq!(error.code.0, -17, "{error}");
    says(&error.message, &["vdo0"]);
    let error = refused("small", "m");
    assert_eq!(error.code.0, -22, "{error}");
    says(&error.message, &["\"m\"", "1024"]);
    let served = json!({"bdev_name": "m", "nbd_device": rig.path("m.sock")});
    target.rpc("nbd_start_disk", served).unwrap();
    let error = refused("other", "m");
    assert_eq!(error.code.0, -1, "{error}");
    says(
        &error.message,
        &["base_bdev_name", "\"m\"", "open for writing"],
    );
    let file = rig.path("readable");
    std::fs::write(&file, vec![0; 8192]).unwrap();
    let aio = json!({"name": "ro", "filename": file, "block_size": 512, "readonly": true});
    target.rpc("bdev_aio_create", aio).unwrap();
    let error = refused("other", "ro");
    assert_eq!(error.code.0, -22, "{error}");
    says(&error.message, &["base_bdev_name", "\"ro\"", "read-only"]);
    for method in [
        "bdev_vdo_get_stats",
        "bdev_vdo_dump",
        "bdev_vdo_index_offline",
        "bdev_vdo_delete",
    ] {
        for (name, words) in [("nobody", "no bdev"), ("m", "not a vdo bdev")] {
            let error = target.rpc(method, json!({ "name": name })).unwrap_err();
            assert_eq!(error.code.0, -19, "{method}: {error}");
            says(&error.message, &["name: ", name, words]);
        }
    }
    // None of it did the volume any harm.
    fill(&mut rig.connect(), 0..10, |lbn| lbn);
    check(&mut rig.connect(), 0..10, |lbn| lbn);
    assert!(target.stop().success());
    rig.audit("names_are_taken_once_and_bases_are_used_once");
}

#[test]
fn a_volume_whose_uuid_is_taken_is_refused_and_left_clean() {
    let test = "a_volume_whose_uuid_is_taken_is_refused_and_left_clean";
    let rig = made();
    let target = rig.start(&Setup::default());
    let bdevs = target.rpc("bdev_get_bdevs", json!({"name": "vdo0"}));
    let uuid = bdevs.unwrap()[0]["uuid"].clone();
    let gone = target.rpc("bdev_vdo_delete", json!({"name": "vdo0"}));
    assert_eq!(gone.unwrap(), true);
    let malloc = json!({"name": "m", "num_blocks": 1024, "block_size": 4096, "uuid": uuid});
    target.rpc("bdev_malloc_create", malloc).unwrap();
    let create = json!({"name": "v", "base_bdev_name": "base", "format": "never"});
    let error = target.rpc("bdev_vdo_create", create.clone()).unwrap_err();
    assert_eq!(error.code.0, -17, "{error}");
    says(&error.message, &["name: ", "\"v\"", uuid.as_str().unwrap()]);
    rig.audit(test);
    let gone = target.rpc("bdev_malloc_delete", json!({"name": "m"}));
    assert_eq!(gone.unwrap(), true);
    assert_eq!(target.rpc("bdev_vdo_create", create).unwrap(), "v");
    assert!(target.stop().success());
}

#[test]
fn a_file_is_used_by_one_target_at_a_time() {
    let test = "a_file_is_used_by_one_target_at_a_time";
    let rig = Rig::new(ROOMY);
    let target = rig.start(&Setup::default());
    let mut client = rig.connect();
    fill(&mut client, 0..50, |lbn| lbn);
    let said = rig.refused(&Setup::default());
    says(&said, &[rig.file().to_str().unwrap(), "in use"]);
    check(&mut client, 0..50, |lbn| lbn);
    drop(client);
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn a_wrong_configuration_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let refuse = |text: &str| {
        let path = folder.path().join("wrong.json");
        std::fs::write(&path, text).unwrap();
        let said = Target::refuse(Options {
            arguments: vec!["-c".into(), path.to_str().unwrap().into()],
            ..Options::default()
        });
        says(&said, &["wrong.json"]);
        said
    };
    says(&refuse("{"), &["line 1"]);
    says(&refuse("[]"), &["\"subsystems\"", "line 1"]);
    let call = |call: Value| bdev_config(vec![call]).to_string();
    says(
        &refuse(&call(json!({"method": "bdev_vdo_make"}))),
        &["bdev_vdo_make"],
    );
    says(
        &refuse(&call(
            json!({"method": "bdev_vdo_create", "params": {"name": "v"}}),
        )),
        &["base_bdev_name"],
    );
    let missing = folder.path().join("missing.json");
    let said = Target::refuse(Options {
        arguments: vec!["-c".into(), missing.to_str().unwrap().into()],
        ..Options::default()
    });
    says(&said, &["missing.json", "No such file"]);
}

#[test]
fn a_volume_opened_before_a_faulty_line_is_left_clean() {
    let test = "a_volume_opened_before_a_faulty_line_is_left_clean";
    let rig = made();
    let mut options = rig.options(&Setup::default());
    let config = options.config.as_mut().unwrap();
    let calls = config["subsystems"][0]["config"].as_array_mut().unwrap();
    calls.push(
        json!({"method": "bdev_vdo_create", "params": {"name": "vdo0", "base_bdev_name": "base"}}),
    );
    says(&Target::refuse(options), &["vdo0"]);
    rig.audit(test);
    let target = rig.start(&Setup::default());
    check(&mut rig.connect(), 0..100, |lbn| lbn);
    assert!(target.stop().success());
}

#[test]
fn a_volume_made_by_vdoformat_is_opened_and_filled() {
    let test = "a_volume_made_by_vdoformat_is_opened_and_filled";
    if lacking(test, &["vdoformat", "losetup"], true) {
        return;
    }
    let rig = Rig::on_disk(ROOMY);
    {
        let device = Loop::on(&rig.file());
        run(
            "vdoformat",
            ["--force", "--slab-bits=13", "--logical-size=2G", &device.0],
        );
    }
    // Were it not taken for a volume, these would not be enough to make one.
    let setup = Setup::on("0x3").with("format", "never");
    let target = rig.start(&setup);
    assert_eq!(info(&target)["logical_blocks"], 2048 * MIB / BLOCK);
    let mut client = rig.connect();
    assert_eq!(client.size(), 2048 * MIB);
    fill(&mut client, 0..2000, |lbn| lbn % 700);
    let last = client.size() / BLOCK - 1;
    assert_eq!(client.write(last * BLOCK, &block(5)), Ok(()));
    drop(client);
    let target = target.restart();
    let mut client = rig.connect();
    check(&mut client, 0..2000, |lbn| lbn % 700);
    check(&mut client, last..last + 1, |_| 5);
    drop(client);
    assert!(target.stop().success());
    rig.audit(test);
}
