//! What a program built on SPDK serves over NVMe/TCP on loopback, and how to reach it.

use std::net::TcpListener;

use serde_json::{Value, json};

use super::{call, options};
use crate::nvme_probe::NvmeProbe;
use crate::rig::{Rig, Setup};
use crate::target::{Options, Target, bdev_config};

/// A bdev as the first namespace of a subsystem of its own, at a port of its own.
#[derive(Clone, Debug)]
pub struct Export {
    port: u16,
    nqn: String,
}

impl Export {
    /// A place for a bdev, where nobody listens yet.
    pub fn somewhere() -> Export {
        let free = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let port = free.local_addr().expect("it has an address").port();
        let nqn = format!("nqn.2016-06.io.spdk:port{port}");
        Export { port, nqn }
    }

    /// The port it is served at.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The subsystem's name.
    pub fn nqn(&self) -> &str {
        &self.nqn
    }

    fn address(&self) -> Value {
        json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": self.port.to_string()})
    }

    /// The calls that serve a bdev here, in a program that has the transport.
    pub fn calls(&self, bdev: &str) -> Vec<Value> {
        let call = |method: &str, mut params: Value| {
            params["nqn"] = json!(self.nqn);
            json!({"method": method, "params": params})
        };
        vec![
            call(
                "nvmf_create_subsystem",
                json!({"allow_any_host": true, "serial_number": "SPDKVDO0"}),
            ),
            call("nvmf_subsystem_add_ns", self.namespace(bdev)),
            json!({"method": "nvmf_subsystem_add_listener", "params": self.listener()}),
        ]
    }

    /// The same subsystem by another port, where nobody listens yet.
    pub(super) fn at_another_port(&self) -> Export {
        Export {
            port: Export::somewhere().port,
            nqn: self.nqn.clone(),
        }
    }

    /// The parameters of the calls that open the subsystem at this port, and close it.
    pub(super) fn listener(&self) -> Value {
        json!({"nqn": self.nqn, "listen_address": self.address()})
    }

    /// The parameters of the call that puts a bdev there.
    pub(crate) fn namespace(&self, bdev: &str) -> Value {
        json!({"nqn": self.nqn, "namespace": {"nsid": 1, "bdev_name": bdev}})
    }

    /// Serves a bdev here after the one before it went away.
    ///
    /// # Panics
    /// When the target refuses.
    pub fn serve_again(&self, target: &Target, bdev: &str) {
        call(target, "nvmf_subsystem_add_ns", self.namespace(bdev));
    }

    /// Connects to it.
    ///
    /// # Panics
    /// When it is not served.
    pub fn connect(&self) -> NvmeProbe {
        NvmeProbe::connect(self.port, &self.nqn).expect("the bdev is served")
    }

    /// The parameters of `bdev_nvme_attach_controller` that make it a controller of this name.
    pub fn remote(&self, name: &str) -> Value {
        let mut params = self.address();
        params["name"] = json!(name);
        params["subnqn"] = json!(self.nqn);
        params
    }

    /// A configuration that has it as the bdev `remoten1`.
    pub fn remote_config(&self) -> Value {
        bdev_config(vec![
            json!({"method": "bdev_nvme_attach_controller", "params": self.remote("remote")}),
        ])
    }

    /// What `spdk_nvme_perf` and others of its kind call a transport ID.
    pub fn transport_id(&self) -> String {
        let Export { port, nqn } = self;
        format!("trtype:TCP adrfam:IPv4 traddr:127.0.0.1 trsvcid:{port} subnqn:{nqn}")
    }
}

/// The call that makes the transport of all [`Export`]s.
pub fn transport() -> Value {
    json!({"method": "nvmf_create_transport", "params": {"trtype": "TCP"}})
}

/// Serves a bdev over NVMe/TCP.
///
/// # Panics
/// When the target refuses.
pub fn export_nvme_tcp(target: &Target, bdev: &str) -> Export {
    let transports = call(target, "nvmf_get_transports", Value::Null);
    let export = Export::somewhere();
    let mut calls = export.calls(bdev);
    if transports.as_array().is_none_or(Vec::is_empty) {
        calls.insert(0, transport());
    }
    for each in calls {
        let method = each["method"].as_str().expect("a call has a method");
        call(target, method, each["params"].clone());
    }
    export
}

/// Attaches what another program serves, as a controller of this name; the bdev's name.
///
/// # Panics
/// When the target refuses.
pub fn connect_nvme_tcp(target: &Target, export: &Export, name: &str) -> String {
    let bdevs = call(target, "bdev_nvme_attach_controller", export.remote(name));
    let first = bdevs[0].as_str();
    first.expect("a controller has a namespace").to_owned()
}

/// A [`Rig`] whose volume is served over NVMe/TCP by `spdk_vdo_tgt`, always at the same place.
#[derive(Debug)]
pub struct Served {
    /// The file.
    pub rig: Rig,
    /// Where the volume is served.
    pub export: Export,
}

impl Served {
    /// A sparse file of this many MiB.
    pub fn new(mib: u64) -> Served {
        Served {
            rig: Rig::new(mib),
            export: Export::somewhere(),
        }
    }

    /// How to start a target with the volume `vdo0` on the file.
    pub fn options(&self, setup: &Setup) -> Options {
        let mut exports = vec![transport()];
        exports.extend(self.export.calls("vdo0"));
        let bdevs = self.rig.bdev_calls(setup);
        let config = json!({"subsystems": [
            {"subsystem": "bdev", "config": bdevs},
            {"subsystem": "nvmf", "config": exports}]});
        Options {
            cpumask: setup.cpumask.to_owned(),
            ..options(config)
        }
    }

    /// Starts a target.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(&self, setup: &Setup) -> Target {
        Target::start_with(self.options(setup))
    }

    /// A connection to the volume.
    pub fn connect(&self) -> NvmeProbe {
        self.export.connect()
    }
}
