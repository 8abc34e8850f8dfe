//! A machine with NVMe drives on PCIe on which `spdk_vdo_tgt` runs, as on the hardware it is made for: the drives are taken by
//! VFIO behind an IOMMU, and memory comes in huge pages.
//!
//! The drives are emulated by qemu. Each is behind a root port of its own, so that it can be pulled out and put back. The
//! processor is emulated too and may lack what this machine's has, so the program has to be one that is built for any.
//!
//! A volume that is served over NVMe/TCP in the guest is reached from here at an [`Export`].

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Guest, Kit, Lacking, Machine, Recipe};
use crate::spdk::Export;
use crate::target::built;

/// MiB of huge pages: SPDK's own pools, and what a volume does its I/O from.
const HUGE_PAGES: u32 = 1200;

/// MiB of memory beside them.
const OTHER_MEMORY: u32 = 1400;

/// The address and the port of the guest that volumes are served at.
const SERVED_AT: (&str, u16) = ("10.0.2.15", 4420);

/// How long the program may take to come up, or go down, where a processor is emulated.
const PATIENCE: Duration = Duration::from_secs(300);

/// An NVMe drive with one namespace.
#[derive(Clone, Debug)]
pub struct Drive {
    /// The raw image.
    pub image: PathBuf,
    /// Bytes of data in a block: 512 or 4096.
    pub block: u32,
    /// Bytes of metadata with each block.
    pub metadata: u32,
}

impl Drive {
    /// The emulator's options that make it drive `number`.
    pub(super) fn options(&self, number: usize) -> Vec<String> {
        let file = json!({"driver": "file", "filename": self.image});
        let image = json!({"driver": "raw", "node-name": format!("image{number}"), "file": file});
        let port = json!({"driver": "pcie-root-port", "id": format!("port{number}"), "chassis": number + 1});
        let mut options = vec!["-blockdev".to_owned(), image.to_string()];
        for device in std::iter::once(port).chain(self.devices(number)) {
            options.extend(["-device".to_owned(), device.to_string()]);
        }
        options
    }

    /// The controller, and its namespace if that is a device of its own.
    fn devices(&self, number: usize) -> Vec<Value> {
        let mut controller = json!({"driver": "nvme", "id": format!("nvme{number}"),
            "bus": format!("port{number}"), "serial": format!("VDO{number}")});
        let mut namespace = json!({"drive": format!("image{number}"),
            "logical_block_size": self.block, "physical_block_size": self.block});
        let (Some(whole), Some(part)) = (controller.as_object_mut(), namespace.as_object_mut())
        else {
            unreachable!("both are objects");
        };
        if self.metadata == 0 {
            whole.append(part);
            return vec![controller];
        }
        namespace["driver"] = json!("nvme-ns");
        namespace["bus"] = controller["id"].clone();
        namespace["ms"] = json!(self.metadata);
        vec![controller, namespace]
    }
}

/// The machine.
#[derive(Debug)]
pub struct PcieMachine {
    guest: Guest,
    drives: Vec<Drive>,
    export: Export,
}

impl PcieMachine {
    /// What it boots from.
    ///
    /// # Errors
    /// What this machine lacks for it; that the environment does not name a program for any processor (`PCIE_VDO_TGT`).
    pub fn kit() -> Result<Kit, Lacking> {
        if std::env::var_os("PCIE_VDO_TGT").is_none() {
            return Err(Lacking(
                "PCIE_VDO_TGT names no spdk_vdo_tgt for any processor; see docs/hardware.md"
                    .to_owned(),
            ));
        }
        Kit::gather(&Recipe::plain().modules(&["vfio-pci", "vfio_iommu_type1"]))
    }

    /// Boots one with these drives.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn boot(kit: &Kit, drives: &[Drive]) -> PcieMachine {
        let export = Export::somewhere();
        let (address, port) = SERVED_AT;
        let machine = Machine {
            memory: HUGE_PAGES + OTHER_MEMORY,
            processors: 2,
            programs: vec![
                built("PCIE_VDO_TGT", "spdk", "spdk_vdo_tgt"),
                built("RPC_CALL", "vdo-tests", "rpc_call"),
            ],
            drives: drives.to_vec(),
            forwarded: Some(format!("tcp:127.0.0.1:{}-{address}:{port}", export.port())),
            kernel_arguments: format!(
                "intel_iommu=on initcall_blacklist=nvme_init hugepages={}",
                HUGE_PAGES / 2
            ),
            ..Machine::default()
        };
        let mut guest = Guest::boot(kit, machine).unwrap_or_else(|error| panic!("{error}"));
        // Whatever NVMe controller comes is VFIO's.
        guest.tell(
            "mkdir -p /dev/hugepages /var/tmp /var/run; mount -t hugetlbfs hugetlbfs /dev/hugepages
             echo 1b36 0010 >/sys/bus/pci/drivers/vfio-pci/new_id",
        );
        PcieMachine {
            guest,
            drives: drives.to_vec(),
            export,
        }
    }

    /// Starts `spdk_vdo_tgt`, and waits until it is up.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(&mut self) {
        let memory = HUGE_PAGES - 100;
        self.guest.tell(&format!(
            "export OPENSSL_CONF=/dev/null; ulimit -l unlimited; rm -f /tmp/rpc.sock /dev/hugepages/*
             spdk_vdo_tgt -m 0x1 -s {memory} --num-trace-entries=0 -r /tmp/rpc.sock >>/tmp/log 2>&1 </dev/null &
             echo $! >/tmp/pid"
        ));
        let is_up = "rpc_call /tmp/rpc.sock framework_wait_init null";
        self.wait_for(&format!("{is_up} || ! test -d /proc/$(cat /tmp/pid)"));
        self.wait_for(&format!("{is_up} || exit 1"));
    }

    /// Calls a method; the error as it is said.
    ///
    /// # Errors
    /// The target's error.
    ///
    /// # Panics
    /// When the machine hangs, or what is said is no JSON.
    pub fn rpc(&mut self, method: &str, params: &Value) -> Result<Value, String> {
        let script = format!("rpc_call /tmp/rpc.sock {method} '{params}'");
        let answer = self.guest.run(&script, PATIENCE);
        let answer = answer.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
        match answer.status {
            0 => Ok(serde_json::from_str(&answer.output).expect("an answer is JSON")),
            _ => Err(answer.output.trim().to_owned()),
        }
    }

    /// Calls a method that must succeed.
    ///
    /// # Panics
    /// When it does not; the log is in the message.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        match self.rpc(method, &params) {
            Ok(answer) => answer,
            Err(error) => panic!("{method} {params}: {error}\n{}", self.log()),
        }
    }

    /// Attaches drive `number` as the controller `driveNUMBER`, so that I/O waits for a reset to end; the bdev's name.
    ///
    /// # Panics
    /// When SPDK refuses.
    pub fn attach(&mut self, number: usize) -> String {
        // Bus 0 has the root ports, and each of them the next bus.
        let address = format!("0000:{:02x}:00.0", number + 1);
        let params = json!({"name": format!("drive{number}"), "trtype": "PCIe", "traddr": address,
            "reconnect_delay_sec": 1, "ctrlr_loss_timeout_sec": 60});
        let bdevs = self.call("bdev_nvme_attach_controller", params);
        bdevs[0]
            .as_str()
            .expect("a controller has a namespace")
            .to_owned()
    }

    /// Serves a bdev to this machine's [`export`](Self::export).
    ///
    /// # Panics
    /// When SPDK refuses.
    pub fn serve(&mut self, bdev: &str) {
        let (address, port) = SERVED_AT;
        let mut calls = vec![crate::spdk::transport()];
        calls.extend(self.export.calls(bdev));
        for mut call in calls {
            let method = call["method"].take();
            let method = method.as_str().expect("a call has a method");
            if method == "nvmf_subsystem_add_listener" {
                call["params"]["listen_address"]["traddr"] = json!(address);
                call["params"]["listen_address"]["trsvcid"] = json!(port.to_string());
            }
            self.call(method, call["params"].take());
        }
    }

    /// Serves a bdev in place of the one that went away.
    ///
    /// # Panics
    /// When SPDK refuses.
    pub fn serve_again(&mut self, bdev: &str) {
        let params = self.export.namespace(bdev);
        self.call("nvmf_subsystem_add_ns", params);
    }

    /// Where what is served is to be reached from here.
    pub fn export(&self) -> &Export {
        &self.export
    }

    /// Ends the program as its administrator would.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&mut self) {
        self.guest.tell("kill -TERM $(cat /tmp/pid)");
        self.wait_for("! test -d /proc/$(cat /tmp/pid)");
    }

    /// Kills the program.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill(&mut self) {
        self.guest.tell("kill -KILL $(cat /tmp/pid)");
        self.wait_for("! test -d /proc/$(cat /tmp/pid)");
    }

    /// Pulls drive `number` out; who uses it is told by the kernel.
    ///
    /// # Panics
    /// When the emulator refuses.
    pub fn pull_out(&mut self, number: usize) {
        let id = json!({"id": format!("nvme{number}")});
        self.guest.monitor("device_del", id);
    }

    /// Puts drive `number` in again, once it is out: who uses it has to let go of it first.
    ///
    /// # Panics
    /// When it does not come out, or the emulator refuses.
    pub fn put_in(&mut self, number: usize) {
        let (begun, name) = (Instant::now(), json!(format!("nvme{number}")));
        let devices = json!({"path": "/machine/peripheral"});
        while let Some(devices) = self.guest.monitor("qom-list", devices.clone()).as_array()
            && devices.iter().any(|device| device["name"] == name)
        {
            assert!(
                begun.elapsed() < PATIENCE,
                "the drive stays in\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        for device in self.drives[number].devices(number) {
            self.guest.monitor("device_add", device);
        }
    }

    /// Flushes that have reached the drives.
    pub fn flushes(&self) -> usize {
        self.guest.file("trace").matches(super::FLUSH_TRACE).count()
    }

    /// Waits until a shell command ends well in the guest.
    ///
    /// # Panics
    /// When it does not for long; the log is in the message.
    pub fn wait_for(&mut self, condition: &str) {
        let script = format!(
            "for wait in $(seq 1200); do {condition} >/dev/null 2>&1 && exit 0; usleep 200000; done; exit 1"
        );
        let answer = self.guest.run(&script, PATIENCE);
        let answer = answer.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(answer.status, 0, "{condition}\n{}", self.log());
    }

    /// All that the program has logged.
    ///
    /// # Panics
    /// When the machine hangs.
    pub fn log(&mut self) -> String {
        let answer = self.guest.run("cat /tmp/log", PATIENCE);
        answer.unwrap_or_else(|error| panic!("{error}")).output
    }

    /// Switches it off.
    ///
    /// # Panics
    /// When it does not go.
    pub fn power_off(self) {
        let ended = self.guest.power_off();
        ended.unwrap_or_else(|error| panic!("{error}"));
    }
}
