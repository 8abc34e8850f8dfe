//! What `spdk_vdo_tgt` tells the service manager that started it.

use std::process::Command;

use serde_json::json;
use vdo_rpc::client::RpcClient;
use vdo_tests::rig::{ROOMY, Setup};
use vdo_tests::service::Service;
use vdo_tests::spdk::{self, Served};
use vdo_tests::target::Program;

#[test]
fn it_is_ready_when_its_volumes_are_up_and_says_when_it_stops() {
    let _turn = spdk::turn();
    let served = Served::new(ROOMY);
    let options = served.options(&Setup::default());
    let Program::Other { path, arguments } = &options.program else {
        panic!("{options:?} is not of a program on SPDK");
    };
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.json");
    let text = options.config.expect("a configuration").to_string();
    std::fs::write(&config, text).expect("the folder is ours");
    let socket = folder.path().join("rpc.sock");
    for _ in 0..2 {
        let mut command = Command::new(path);
        command.args(arguments).args(["-m", &options.cpumask]);
        command.arg("-c").arg(&config).arg("-r").arg(&socket);
        let service = Service::start(command, folder.path());
        let said = service.wait_for("READY=1");
        let first = said.lines().next();
        assert_eq!(first, Some("STATUS=loading the configuration"), "{said}");
        let mut rpc = RpcClient::connect(&socket).expect("RPC is served");
        let stats = rpc.call("bdev_vdo_get_stats", &json!({"name": "vdo0"}));
        assert_eq!(stats.expect("the volume is up")[0]["mode"], "normal");
        drop(rpc);
        service.stop();
    }
}
