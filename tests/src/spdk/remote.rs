//! A machine that serves a file over NVMe/TCP, for volumes whose base bdev is not where they are.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Export, stock_options, transport};
use crate::rig::{BLOCK, ROOMY, Rig};
use crate::target::Target;

/// A file, and the machine that serves it, always at the same place, whatever dies in between.
#[derive(Debug)]
pub struct Remote {
    /// The file.
    pub rig: Rig,
    /// Where it is served.
    pub export: Export,
    uuid: uuid::Uuid,
    server: Option<Target>,
}

impl Default for Remote {
    fn default() -> Remote {
        Remote::new()
    }
}

impl Remote {
    /// Serves a new file that has room for a volume.
    ///
    /// # Panics
    /// When the machine does not come up.
    pub fn new() -> Remote {
        let mut remote = Remote {
            rig: Rig::new(ROOMY),
            export: Export::somewhere(),
            uuid: uuid::Uuid::new_v4(),
            server: None,
        };
        remote.come_back();
        remote
    }

    /// Dies, as in a power failure.
    ///
    /// # Panics
    /// When it is dead.
    pub fn die(&mut self) {
        self.server.take().expect("it is alive").kill();
    }

    /// Comes back with the same file at the same place, and remembers who has reserved it.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn come_back(&mut self) {
        let disk = json!({"name": "disk", "filename": self.rig.file(), "block_size": BLOCK,
            "uuid": self.uuid});
        let mut exports = vec![transport()];
        exports.extend(self.export.calls("disk"));
        for call in &mut exports {
            if call["method"] == "nvmf_subsystem_add_ns" {
                call["params"]["namespace"]["ptpl_file"] = json!(self.reservations());
            }
        }
        let config = json!({"subsystems": [
            {"subsystem": "bdev", "config": [{"method": "bdev_aio_create", "params": disk}]},
            {"subsystem": "nvmf", "config": exports}]});
        self.server = Some(Target::start_with(stock_options(config)));
    }

    fn reservations(&self) -> PathBuf {
        self.rig.path("reservations")
    }

    /// The machine.
    ///
    /// # Panics
    /// When it is dead.
    pub fn server(&self) -> &Target {
        self.server.as_ref().expect("it is alive")
    }

    /// Ends it as its administrator would; the file.
    ///
    /// # Panics
    /// When it does not end well.
    pub fn stop(self) -> Rig {
        let server = self.server.expect("it is alive");
        assert!(server.stop().success());
        self.rig
    }

    /// Opens a second way to it.
    ///
    /// # Panics
    /// When it refuses.
    pub fn second_way(&self) -> Export {
        let way = self.export.at_another_port();
        self.open(&way);
        way
    }

    /// Lets hosts in by a way.
    ///
    /// # Panics
    /// When it refuses.
    pub fn open(&self, way: &Export) {
        super::call(self.server(), "nvmf_subsystem_add_listener", way.listener());
    }

    /// Closes a way, with all connections that came by it.
    ///
    /// # Panics
    /// When it refuses.
    pub fn close(&self, way: &Export) {
        super::call(
            self.server(),
            "nvmf_subsystem_remove_listener",
            way.listener(),
        );
    }

    /// What hosts have asked of it so far.
    pub fn asked(&self) -> Asked {
        let number = |value: &Value| value.as_u64().expect("a counter is a number");
        let stats = super::call(self.server(), "nvmf_get_stats", Value::Null);
        let groups = stats["poll_groups"]
            .as_array()
            .expect("there are poll groups");
        let commands: u64 = groups
            .iter()
            .map(|group| number(&group["completed_nvme_io"]))
            .sum();
        let disk = super::call(self.server(), "bdev_get_iostat", json!({"names": ["disk"]}));
        let disk = &disk["bdevs"][0];
        let (reads, writes) = (
            number(&disk["num_read_ops"]),
            number(&disk["num_write_ops"]),
        );
        let others = number(&disk["num_unmap_ops"]);
        Asked {
            reads,
            writes,
            flushes: commands - reads - writes - others,
        }
    }
}

/// Commands that hosts have given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
}

impl std::ops::Sub for Asked {
    type Output = Asked;

    fn sub(self, before: Asked) -> Asked {
        Asked {
            reads: self.reads - before.reads,
            writes: self.writes - before.writes,
            flushes: self.flushes - before.flushes,
        }
    }
}
