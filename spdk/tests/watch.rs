//! `vdo_top` and `vdo_exporter` on a volume of SPDK: what they show of its zone threads is those threads' own.

use std::time::Duration;

use vdo_tests::rig::{ROOMY, Setup, fill};
use vdo_tests::spdk::{self, Served};
use vdo_watch::exporter::scrape;
use vdo_watch::target::Target;
use vdo_watch::top::model::Model;
use vdo_watch::top::{frame, text};

#[test]
fn what_a_volume_of_spdk_does_is_seen_by_both_programs() {
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let target = served.start(&Setup::on("0x3"));
    let socket = target.socket();
    let mut asked = Target::new(&socket);
    let mut model = Model::new(socket.display().to_string(), None);
    let mut client = served.connect();
    let patience = Duration::from_secs(20);
    model.take(0.0, Ok(asked.sample(patience).unwrap()));
    fill(&mut client, 0..2000, |lbn| lbn % 1000);
    let sample = asked.sample(patience).unwrap();
    model.take(1.0, Ok(sample.clone()));

    let screen = model.screen();
    assert!(screen.version.contains("SPDK"), "{}", screen.version);
    let volume = &screen.volumes[0];
    assert_eq!(volume.writes.rate, Some(2000.0));
    assert_eq!(volume.base_bdev, "base");
    assert_eq!(volume.zones.len(), 2);
    for zone in &volume.zones {
        assert!(zone.busy.is_some_and(|busy| busy > 0.0), "{zone:?}");
    }
    let screen = text(&frame(&screen, 100, 60));
    assert!(screen.contains("INITIALIZING 2.00k/s"), "{screen}");

    let scrape = scrape::text(&Ok(sample), Duration::ZERO);
    let has = |line: &str| scrape.lines().any(|one| one.starts_with(line));
    assert!(has("vdo_up 1"), "{scrape}");
    for zone in 0..2 {
        let busy = "vdo_zone_thread_busy_seconds_total";
        let labels = format!("{{volume=\"vdo0\",zone=\"{zone}\"}}");
        assert!(has(&format!("{busy}{labels}")), "{scrape}");
    }
    drop(client);
    assert!(target.stop().success());
}
