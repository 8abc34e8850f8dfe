//! Bdevs that a configuration speaks for, so that examination leaves the volumes on them alone.
//!
//! SPDK shows a new bdev to every module before the configuration's next call. What that call says comes too late
//! then: a volume that was found has the wrong name and cores, modules above it have claimed it already, or it was
//! found on the one leg of a mirror that came first. So the bdevs a configuration will use are known before they come:
//!
//! - of a file that the program is started with, all names that something is to lie on ([`configured`]);
//! - of a configuration that was saved, and is loaded by RPC, all that something lay on ([`in_use`]): `save_config` writes them
//!   first, as `except` of `bdev_vdo_set_examine`.
//!
//! A bdev stays spoken for until `bdev_vdo_create` names it: then the volume is as it was asked for, and if the bdev
//! comes back later, so may the volume.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use spdk_sys as sys;

use super::bdev;
use super::life::Origin;
use crate::desc;

/// Names that are known before there is an app thread.
static CONFIGURED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Has the bdevs of these names spoken for from the start.
pub fn configured(names: BTreeSet<String>) {
    CONFIGURED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .extend(names);
}

/// The names that were configured.
pub(super) fn from_the_start() -> BTreeSet<String> {
    CONFIGURED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// Names of bdevs, which may be aliases, that are spoken for.
#[derive(Debug, Default)]
pub struct SpokenFor(BTreeSet<String>);

impl SpokenFor {
    /// Those of the configuration the program was started with.
    pub(super) fn new() -> SpokenFor {
        SpokenFor(from_the_start())
    }

    /// Adds some.
    pub fn extend(&mut self, names: impl IntoIterator<Item = String>) {
        self.0.extend(names);
    }

    /// Whether the bdev that SPDK calls `known` is spoken for. On the app thread.
    pub fn has(&self, known: &str) -> bool {
        self.0.iter().any(|name| is(name, known))
    }

    /// The bdev that SPDK calls `known` is not spoken for any more. On the app thread.
    pub fn forget(&mut self, known: &str) {
        self.0.retain(|name| !is(name, known));
    }
}

fn is(name: &str, known: &str) -> bool {
    name == known || bdev::canonical(name).as_deref() == Some(known)
}

/// The bdevs that something lies on, but for those of volumes that examination will find again just so; sorted. On
/// the app thread.
pub(super) fn in_use() -> Vec<String> {
    let found_again: BTreeSet<_> = bdev::all()
        .into_iter()
        .filter_map(|bdev| {
            // SAFETY: on the app thread; not kept.
            let bdev = unsafe { bdev.as_ref() };
            let base = bdev.base_name().filter(|_| bdev.origin() == Origin::Found);
            base.filter(|_| bdev.is_found_again())
        })
        .collect();
    let mut names = Vec::new();
    // SAFETY: the app thread may walk the list.
    unsafe {
        let mut raw = sys::spdk_bdev_first();
        while !raw.is_null() {
            let is_claimed = (*raw).internal.claim_type != sys::SPDK_BDEV_CLAIM_NONE;
            // On a volume nobody looks for another.
            if is_claimed && bdev::of(raw).is_none() {
                names.push(desc::text(sys::spdk_bdev_get_name(raw)));
            }
            raw = sys::spdk_bdev_next(raw);
        }
    }
    names.retain(|name| !found_again.contains(name));
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_configured_before_the_start_are_spoken_for() {
        configured(BTreeSet::from(["a".to_owned()]));
        configured(BTreeSet::from(["b".to_owned()]));
        assert_eq!(from_the_start().len(), 2);
    }
}
