//! The `nbd_*` methods, under SPDK's names; `nbd_device` is the path of a UNIX socket.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vdo_rpc::{ErrorCode, Parameters, RpcError};

use super::{NbdError, NbdExports};
use crate::rpc::{Allowed, Dispatcher};
use crate::target::Target;

/// Parameters of `nbd_start_disk`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    bdev_name: String,
    #[serde(default)]
    nbd_device: Option<String>,
}

impl Parameters for Start {
    fn check(&self) -> Result<(), RpcError> {
        vdo_rpc::params::bdev_name("bdev_name", &self.bdev_name)?;
        match self.nbd_device.as_deref() {
            None => Err(RpcError::new(
                ErrorCode::EINVAL,
                "nbd_device: there is no first available device here; give the path of a UNIX socket",
            )),
            Some("") => Err(RpcError::bad_value(
                "nbd_device",
                "\"\"",
                "give the path of a UNIX socket",
            )),
            Some(path) if path.starts_with("/dev/nbd") => Err(RpcError::bad_value(
                "nbd_device",
                path,
                "this target serves NBD on a UNIX socket; give its path, and connect the kernel's device \
                 to it with nbd-client -unix if you want one",
            )),
            Some(_) => Ok(()),
        }
    }
}

/// Parameters of `nbd_stop_disk`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    nbd_device: String,
}

impl Parameters for Stop {}

/// Parameters of `nbd_get_disks`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Get {
    #[serde(default)]
    nbd_device: Option<String>,
}

impl Parameters for Get {}

/// One export in the answer of `nbd_get_disks`.
#[derive(Debug, Serialize)]
struct Disk {
    nbd_device: String,
    bdev_name: String,
}

/// Enters the methods.
pub fn register(dispatcher: &mut Dispatcher, target: &Arc<Target>, exports: &Arc<NbdExports>) {
    let (own, target) = (Arc::clone(exports), Arc::clone(target));
    dispatcher.method("nbd_start_disk", Allowed::Runtime, move |params: Start| {
        let path = params.nbd_device.unwrap_or_default();
        own.start(&target.bdevs, &target.reactors, &params.bdev_name, &path)?;
        Ok(path)
    });
    let own = Arc::clone(exports);
    dispatcher.method("nbd_stop_disk", Allowed::Runtime, move |params: Stop| {
        own.stop(&params.nbd_device)?;
        Ok(true)
    });
    let own = Arc::clone(exports);
    dispatcher.method("nbd_get_disks", Allowed::Runtime, move |params: Get| {
        let all = own.list().into_iter();
        let wanted = |path: &str| {
            params
                .nbd_device
                .as_deref()
                .is_none_or(|wanted| wanted == path)
        };
        let disks: Vec<Disk> = all
            .filter(|(path, _)| wanted(path))
            .map(|(nbd_device, bdev_name)| Disk {
                nbd_device,
                bdev_name,
            })
            .collect();
        match params.nbd_device {
            Some(path) if disks.is_empty() => Err(NbdError::NotFound(path).into()),
            _ => Ok(disks),
        }
    });
}
