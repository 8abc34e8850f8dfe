//! Requests to `spdk_vdo_tgt` that get in each other's way: volumes made and unmade again and again, by several clients at
//! once, while their base bdev goes away or the program is told to stop. Whoever wins, every request is answered and
//! nothing is left behind.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vdo_rpc::RpcError;
use vdo_rpc::client::RpcClient;
use vdo_tests::probe::Probe;
use vdo_tests::rig::{BLOCK, ROOMY, Rig, block, check, fill, info};
use vdo_tests::spdk::{self, Load};
use vdo_tests::target::{Options, Target, bdev_config};

/// A target on two cores with the file as the bdev `base`.
fn target_on(rig: &Rig) -> Target {
    let target = Target::start_with(Options {
        cpumask: "0x3".to_owned(),
        ..spdk::options(bdev_config(Vec::new()))
    });
    spdk::create_aio(&target, "base", &rig.file());
    target
}

fn create(name: &str, base: &str) -> Value {
    json!({"name": name, "base_bdev_name": base, "slab_size_mib": 32, "logical_size_mib": 512, "block_map_cache_mib": 16})
}

/// Calls a method on a connection of its own.
fn call(socket: &Path, method: &str, params: &Value) -> Result<Value, RpcError> {
    RpcClient::connect(socket)
        .expect("the target takes connections")
        .call(method, params)
}

/// The names of what a list of SPDK's has.
fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap().iter();
    list.map(|one| one["name"].as_str().unwrap()).collect()
}

/// Checks that no thread and no claim of a volume is left.
fn nothing_is_left(target: &Target) {
    let bdevs = spdk::call(target, "bdev_get_bdevs", Value::Null);
    assert!(
        !names(&bdevs).iter().any(|name| name.starts_with('v')),
        "{bdevs}"
    );
    // The topmost is nobody's any more; the delay bdev has the one below.
    let topmost = bdevs.as_array().unwrap().last().unwrap();
    assert_eq!(topmost["claimed"], false, "{topmost}");
    let threads = spdk::call(target, "thread_get_stats", Value::Null);
    let left = names(&threads["threads"]);
    assert!(
        !left.iter().any(|name| name.starts_with("vdo_")),
        "{left:?}"
    );
}

#[test]
fn a_volume_made_and_deleted_many_times_leaves_nothing_behind() {
    let test = "a_volume_made_and_deleted_many_times_leaves_nothing_behind";
    let _turn = spdk::turn();
    let rig = Rig::new(ROOMY);
    let target = target_on(&rig);
    let free = || {
        let path = spdk::call(&target, "env_dpdk_get_mem_stats", Value::Null);
        let text = std::fs::read_to_string(path["filename"].as_str().unwrap()).unwrap();
        let figures = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Free_size:"));
        figures
            .map(|figure| figure.trim().trim_end_matches(',').parse::<u64>().unwrap())
            .sum::<u64>()
    };
    let mut before = 0;
    for round in 0..8 {
        spdk::call(&target, "bdev_vdo_create", create("v", "base"));
        if round == 0 {
            let export = spdk::export_nvme_tcp(&target, "v");
            let mut client = export.connect();
            fill(&mut client, 0..100, |lbn| lbn);
        }
        spdk::call(&target, "bdev_vdo_delete", json!({"name": "v"}));
        nothing_is_left(&target);
        // The first rounds filled SPDK's own caches.
        match round {
            3 => before = free(),
            7 => assert!(
                free() + (1 << 20) >= before,
                "{} bytes were free, now {}",
                before,
                free()
            ),
            _ => {}
        }
    }
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn when_memory_runs_out_the_next_volume_is_refused_and_the_others_work_on() {
    let test = "when_memory_runs_out_the_next_volume_is_refused_and_the_others_work_on";
    let _turn = spdk::turn();
    let rigs: Vec<Rig> = (0..20).map(|_| Rig::new(ROOMY)).collect();
    let target = Target::start_with(Options {
        cpumask: "0x3".to_owned(),
        ..spdk::options(bdev_config(Vec::new()))
    });
    let mut made = Vec::new();
    let refused = rigs.iter().enumerate().find_map(|(n, rig)| {
        let (name, base) = (format!("v{n}"), format!("base{n}"));
        spdk::create_aio(&target, &base, &rig.file());
        let answer = target.rpc("bdev_vdo_create", create(&name, &base));
        made.extend(answer.is_ok().then_some(name));
        answer.err()
    });
    let refused = refused.expect("20 volumes need more than there is");
    assert_eq!(refused.code.0, -12, "{refused}");
    assert!(!made.is_empty());
    let last = format!("base{}", made.len());
    assert!(refused.message.contains(&last), "{refused}");
    // Nothing of it is left.
    let shown = spdk::call(&target, "bdev_get_bdevs", json!({"name": last}));
    assert_eq!(shown[0]["claimed"], false);
    let threads = spdk::call(&target, "thread_get_stats", Value::Null);
    let ours = names(&threads["threads"]);
    let ours = ours.iter().filter(|name| name.starts_with("vdo_"));
    assert_eq!(ours.count(), 2 * made.len());
    // Where one goes another can come.
    spdk::call(&target, "bdev_vdo_delete", json!({"name": "v0"}));
    let mut again = create("again", &last);
    again["format"] = json!("force");
    spdk::call(&target, "bdev_vdo_create", again);
    for rig in &rigs[..1] {
        rig.audit(test);
    }
    assert!(target.stop().success());
    rigs[..=made.len()].iter().for_each(|rig| rig.audit(test));
}

#[test]
fn clients_that_race_are_all_answered_and_leave_one_volume_or_none() {
    let test = "clients_that_race_are_all_answered_and_leave_one_volume_or_none";
    let _turn = spdk::turn();
    let rig = Rig::new(ROOMY);
    let target = target_on(&rig);
    let socket = target.socket();
    std::thread::scope(|scope| {
        for client in 0..4u64 {
            let socket = &socket;
            scope.spawn(move || {
                let name = ["v1", "v2"][client as usize % 2];
                for round in 0..15 {
                    let made = call(socket, "bdev_vdo_create", &create(name, "base"));
                    if let Err(error) = made {
                        assert!(
                            [-1, -16, -17, -19].contains(&error.code.0),
                            "round {round}: {error}"
                        );
                    }
                    let asked = call(socket, "bdev_vdo_get_stats", &json!({"name": name}));
                    let verb = call(socket, "bdev_vdo_index_close", &json!({"name": name}));
                    for answer in [asked, verb] {
                        if let Err(error) = answer {
                            assert!(
                                [-19, -5, -16, -22].contains(&error.code.0),
                                "round {round}: {error}"
                            );
                        }
                    }
                    let deleted = call(socket, "bdev_vdo_delete", &json!({"name": name}));
                    if let Err(error) = deleted {
                        assert!([-16, -19].contains(&error.code.0), "round {round}: {error}");
                    }
                }
            });
        }
    });
    nothing_is_left(&target);
    spdk::call(&target, "bdev_vdo_create", create("v1", "base"));
    assert_eq!(
        spdk::call(&target, "bdev_vdo_delete", json!({"name": "v1"})),
        true
    );
    assert!(target.stop().success());
    rig.audit(test);
}

/// Puts a delay bdev on the base bdev, so slow that a volume takes a while to come up on it.
fn slow(target: &Target, micros: u64) {
    let params = json!({"name": "slow", "base_bdev_name": "base", "avg_read_latency": micros, "p99_read_latency": micros,
        "avg_write_latency": micros, "p99_write_latency": micros});
    spdk::call(target, "bdev_vdo_set_examine", json!({"enable": false}));
    spdk::call(target, "bdev_delay_create", params);
}

#[test]
fn a_base_bdev_that_goes_while_its_volume_comes_up_ends_that() {
    let _turn = spdk::turn();
    let rig = Rig::new(ROOMY);
    let target = target_on(&rig);
    let socket = target.socket();
    for patience in [1, 50, 120, 250, 400, 700] {
        slow(&target, 30_000);
        let made = std::thread::scope(|scope| {
            let made = scope.spawn(|| call(&socket, "bdev_vdo_create", &create("v", "slow")));
            std::thread::sleep(Duration::from_millis(patience));
            // Neither of them is there yet, or both.
            let asked = target.rpc("bdev_vdo_get_stats", json!({"name": "v"}));
            assert!(asked.is_ok() || asked.is_err_and(|error| error.code.0 == -19));
            spdk::call(&target, "bdev_delay_delete", json!({"name": "slow"}));
            made.join().unwrap()
        });
        if let Err(error) = made {
            assert!(error.message.contains("slow"), "{error}");
        }
        let begun = Instant::now();
        while target.rpc("bdev_get_bdevs", json!({"name": "v"})).is_ok() {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "{}",
                target.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        nothing_is_left(&target);
    }
    // What was begun may be half a volume; that is seen, or it is whole.
    let mut params = create("v", "base");
    params["format"] = json!("force");
    spdk::call(&target, "bdev_vdo_create", params);
    let export = spdk::export_nvme_tcp(&target, "v");
    fill(&mut export.connect(), 0..100, |lbn| lbn);
    assert!(target.stop().success());
    rig.audit("a_base_bdev_that_goes_while_its_volume_comes_up_ends_that");
}

#[test]
fn a_program_told_to_stop_while_a_volume_comes_up_stops() {
    let _turn = spdk::turn();
    for patience in [1, 100, 400] {
        let rig = Rig::new(ROOMY);
        let target = target_on(&rig);
        slow(&target, 30_000);
        let socket = target.socket();
        std::thread::scope(|scope| {
            let made = scope.spawn(|| call(&socket, "bdev_vdo_create", &create("v", "slow")));
            std::thread::sleep(Duration::from_millis(patience));
            let begun = Instant::now();
            assert!(target.stop().success());
            assert!(begun.elapsed() < Duration::from_secs(20));
            // It is answered, or its connection ends.
            drop(made.join().unwrap());
        });
    }
}

#[test]
fn the_index_comes_and_goes_under_load_until_the_volume_is_deleted() {
    let test = "the_index_comes_and_goes_under_load_until_the_volume_is_deleted";
    let _turn = spdk::turn();
    let rig = Rig::new(ROOMY);
    let target = target_on(&rig);
    spdk::call(&target, "bdev_vdo_create", create("vdo0", "base"));
    let export = spdk::export_nvme_tcp(&target, "vdo0");
    let load = Load::start(&export, 0..256);
    let socket = target.socket();
    let changes = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                for verb in [
                    "offline", "online", "close", "create", "close", "open", "online",
                ] {
                    let method = format!("bdev_vdo_index_{verb}");
                    match call(&socket, &method, &json!({"name": "vdo0"})) {
                        Ok(answer) => assert_eq!(answer, true, "{verb}"),
                        Err(error) => {
                            assert!(error.message.contains("vdo0"), "{verb}: {error}");
                            return;
                        }
                    }
                    changes.fetch_add(1, Ordering::AcqRel);
                }
            }
        });
        while changes.load(Ordering::Acquire) < 10 {
            load.go_on(1);
        }
        assert_eq!(info(&target)["mode"], "normal");
        spdk::call(&target, "bdev_vdo_delete", json!({"name": "vdo0"}));
    });
    let end = load.fail();
    nothing_is_left(&target);
    rig.audit(test);
    spdk::call(&target, "bdev_vdo_create", create("vdo0", "base"));
    export.serve_again(&target, "vdo0");
    let mut client = export.connect();
    end.check(&mut client);
    assert_eq!(client.read(0, &mut vec![0; 16 * BLOCK as usize]), Ok(()));
    assert!(target.stop().success());
    rig.audit(test);
}

#[test]
fn hosts_that_hang_up_in_the_middle_harm_nothing() {
    let test = "hosts_that_hang_up_in_the_middle_harm_nothing";
    let _turn = spdk::turn();
    let rig = Rig::new(ROOMY);
    let target = target_on(&rig);
    spdk::call(&target, "bdev_vdo_create", create("v", "base"));
    let export = spdk::export_nvme_tcp(&target, "v");
    fill(&mut export.connect(), 0..200, |lbn| lbn);
    let load = Load::start(&export, 1000..1128);
    // What each wrote last may be there or not, and nothing else.
    let large: Vec<u8> = (0..32).flat_map(|_| block(7)).collect();
    for round in 0..20 {
        let small = (0..60).map(|at| ((2000 + at) * BLOCK, block(8)));
        export.connect().hang_up(small);
        let writes = (0..60).map(|at| ((3000 + 32 * at) * BLOCK, &large));
        export.connect().hang_up(writes);
        if round % 5 == 4 {
            load.go_on(1);
        }
    }
    let end = load.stop();
    assert_eq!(end.error, None, "{end:?}");
    let mut client = export.connect();
    check(&mut client, 0..200, |lbn| lbn);
    end.check(&mut client);
    for lbn in (2000..2060).chain(3000..3000 + 60 * 32) {
        let mut data = vec![0; BLOCK as usize];
        client.read(lbn * BLOCK, &mut data).unwrap();
        let written = block(if lbn < 3000 { 8 } else { 7 });
        assert!(
            data == written || data.iter().all(|byte| *byte == 0),
            "block {lbn}"
        );
    }
    spdk::call(&target, "bdev_vdo_delete", json!({"name": "v"}));
    nothing_is_left(&target);
    assert!(target.stop().success());
    rig.audit(test);
}
