//! What another SPDK program's configuration asks for that there is not here.
//!
//! `spdk_tgt` saves its settings whether anybody changed them or not, so a file it wrote is full of methods
//! this program has not. They are told apart by name:
//!
//! - a *setting* says how something is done, or prepares for something: without it nothing is missing that this
//!   program could have. It is skipped, and the log names it;
//! - anything else *makes* a bdev or an export, or is part of one. If it were skipped, a host would miss its disk,
//!   and the next bdev its base. It is an error, and so is a name that nobody has heard of.
//!
//! SPDK names its settings after the verb, so ones that are yet to come are recognised too.

/// Settings whose names do not say so.
const SETTINGS: [&str; 16] = [
    "accel_assign_opc",
    "accel_crypto_key_create",
    "accel_error_inject_error",
    "bdev_enable_histogram",
    "bdev_examine",
    "iscsi_create_auth_group",
    "iscsi_create_initiator_group",
    "iscsi_create_portal_group",
    "iscsi_enable_histogram",
    "keyring_file_add_key",
    "nvmf_create_transport",
    "nvmf_discovery_add_referral",
    "ublk_create_target",
    "virtio_blk_create_transport",
    "vmd_enable",
    "vmd_rescan",
];

/// The setting of volumes that only SPDK's way to find them needs.
const EXAMINE: &str = "bdev_vdo_set_examine";

/// Methods of parts that are here too: one that is unknown is misspelt.
const OWN: [&str; 3] = ["bdev_vdo_", "nbd_", "log_"];

/// Whether a method that there is not here is a setting, which can be left out.
pub(super) fn is_setting(method: &str) -> bool {
    if OWN.iter().any(|own| method.starts_with(own)) {
        return method == EXAMINE;
    }
    SETTINGS.contains(&method) || method.contains("_set_") || method.ends_with("_scan_accel_module")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_told_from_what_makes_bdevs_and_exports() {
        for setting in [
            "bdev_set_options",
            "bdev_raid_set_options",
            "bdev_vdo_set_examine",
            "bdev_nvme_set_options",
            "bdev_nvme_set_hotplug",
            "bdev_iscsi_set_options",
            "bdev_examine",
            "iobuf_set_options",
            "sock_impl_set_options",
            "sock_set_default_impl",
            "accel_set_options",
            "accel_assign_opc",
            "dsa_scan_accel_module",
            "vmd_enable",
            "keyring_file_add_key",
            "keyring_linux_set_options",
            "framework_set_scheduler",
            "scheduler_set_options",
            "nvmf_set_config",
            "nvmf_create_transport",
            "iscsi_set_options",
            "fsdev_set_opts",
        ] {
            assert!(is_setting(setting), "{setting}");
        }
        for maker in [
            "bdev_nvme_attach_controller",
            "bdev_nvme_start_discovery",
            "bdev_raid_create",
            "bdev_split_create",
            "bdev_passthru_create",
            "bdev_crypto_create",
            "bdev_virtio_attach_controller",
            "nvmf_create_subsystem",
            "nvmf_subsystem_add_ns",
            "nvmf_subsystem_add_listener",
            "iscsi_create_target_node",
            "vhost_create_blk_controller",
            "vhost_scsi_controller_add_target",
            "ublk_start_disk",
            "fsdev_aio_create",
            // Misspelt.
            "bdev_malloc_craete",
            "bdev_vdo_set_optoins",
            "nbd_set_disk",
        ] {
            assert!(!is_setting(maker), "{maker}");
        }
    }
}
