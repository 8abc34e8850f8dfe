//! A Linux machine that uses what a target on this machine serves over NVMe/TCP, as its owner would: with `nvme` and
//! the kernel's own driver.

use super::{Guest, HOST, Kit, Lacking, Machine, Recipe};
use crate::spdk::Export;

/// The device file of the first namespace of the only controller.
const DEVICE: &str = "/dev/nvme0n1";

/// A guest that is an NVMe/TCP host.
#[derive(Debug)]
pub struct NvmeHost {
    guest: Guest,
}

impl NvmeHost {
    /// Boots one.
    ///
    /// # Errors
    /// What this machine lacks for it.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn boot(kit: &Kit) -> NvmeHost {
        let guest = Guest::boot(kit, Machine::default());
        let guest = guest.unwrap_or_else(|error| panic!("{error}"));
        NvmeHost { guest }
    }

    /// What it boots from.
    ///
    /// # Errors
    /// What this machine lacks.
    pub fn kit() -> Result<Kit, Lacking> {
        Kit::gather(&Recipe::nvme_host())
    }

    /// Connects to what is served, which becomes `$DEVICE` in scripts, and waits for the device. A connection that
    /// breaks is tried again every second, for two minutes.
    ///
    /// # Panics
    /// When it cannot.
    pub fn connect(&mut self, export: &Export) {
        let (port, nqn) = (export.port(), export.nqn());
        self.tell(&format!(
            "nvme connect -t tcp -a {HOST} -s {port} -n {nqn} --reconnect-delay=1 --ctrl-loss-tmo=120"
        ));
        self.wait_for("test -b $DEVICE");
    }

    /// Disconnects; the device must go away.
    ///
    /// # Panics
    /// When it does not.
    pub fn disconnect(&mut self, export: &Export) {
        let nqn = export.nqn();
        self.tell(&format!("nvme disconnect -n {nqn}; ! test -e $DEVICE"));
    }

    /// Runs a shell script that has to end well; what it wrote.
    ///
    /// # Panics
    /// When it fails or hangs; what it wrote, or the end of the console, is in the message.
    pub fn tell(&mut self, script: &str) -> String {
        self.guest.tell(&format!("DEVICE={DEVICE}\n{script}"))
    }

    /// Waits until the controller is in a state, as the kernel calls it: `live`, or `connecting` again.
    ///
    /// # Panics
    /// When that does not happen.
    pub fn wait_for_controller(&mut self, state: &str) {
        self.wait_for(&format!("grep -qx {state} /sys/class/nvme/nvme0/state"));
    }

    /// Waits until a shell command ends well.
    ///
    /// # Panics
    /// When it does not within a minute.
    pub fn wait_for(&mut self, condition: &str) {
        self.tell(&format!(
            "for wait in $(seq 300); do {condition} && exit 0; usleep 200000; done; {condition}"
        ));
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
