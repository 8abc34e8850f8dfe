//! The names of the methods, and the parameters each takes.

/// One method of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Its name.
    pub name: &'static str,
    /// Its required parameters.
    pub required: &'static [&'static str],
    /// Its optional parameters.
    pub optional: &'static [&'static str],
}

macro_rules! methods {
    ($( $(#[$doc:meta])* $constant:ident = $name:literal ($($required:literal),*) [$($optional:literal),*]; )*) => {
        $( $(#[$doc])* pub const $constant: &str = $name; )*

        /// Every `bdev_vdo_*` method.
        pub const ALL: &[Method] = &[
            $( Method { name: $name, required: &[$($required),*], optional: &[$($optional),*] }, )*
        ];
    };
}

methods! {
    /// Opens the volume on a base bdev, or formats one there: [`crate::params::Create`].
    BDEV_VDO_CREATE = "bdev_vdo_create" ("name", "base_bdev_name")
        ["format", "logical_size_mib", "slab_size_mib", "index_memory_gb", "index_sparse", "cpumask",
         "block_map_cache_mib", "deduplication", "compression", "discard_freed", "low_space_percent", "profile"];
    /// Shuts a volume down and lets go of its base bdev: [`crate::params::Name`].
    BDEV_VDO_DELETE = "bdev_vdo_delete" ("name") [];
    /// Rebuilds a volume that is read-only: [`crate::params::Rebuild`], [`crate::results::Rebuilt`].
    BDEV_VDO_REBUILD = "bdev_vdo_rebuild" () ["name", "base_bdev_name"];
    /// How far volumes are that are being opened: [`crate::params::NoParams`], [`crate::results::OpeningInfo`].
    BDEV_VDO_GET_PROGRESS = "bdev_vdo_get_progress" () [];
    /// Statistics: [`crate::params::GetStats`].
    BDEV_VDO_GET_STATS = "bdev_vdo_get_stats" () ["name", "per_zone", "format"];
    /// Starts to ask the index again: [`crate::params::Name`].
    BDEV_VDO_INDEX_ONLINE = "bdev_vdo_index_online" ("name") [];
    /// Stops asking the index, and leaves it open: [`crate::params::Name`].
    BDEV_VDO_INDEX_OFFLINE = "bdev_vdo_index_offline" ("name") [];
    /// Opens the index: [`crate::params::Name`].
    BDEV_VDO_INDEX_OPEN = "bdev_vdo_index_open" ("name") [];
    /// Closes the index: [`crate::params::Name`].
    BDEV_VDO_INDEX_CLOSE = "bdev_vdo_index_close" ("name") [];
    /// Makes a new, empty index in place of the old one: [`crate::params::Name`].
    BDEV_VDO_INDEX_CREATE = "bdev_vdo_index_create" ("name") [];
    /// Changes what can be changed while the volume works: [`crate::params::SetOptions`].
    BDEV_VDO_SET_OPTIONS = "bdev_vdo_set_options" ("name")
        ["dedupe_timeout_ms", "dedupe_min_timer_ms", "compression", "discard_freed", "low_space_percent"];
    /// Makes a volume present more, while it works: [`crate::params::GrowLogical`], [`crate::results::Grown`].
    BDEV_VDO_GROW_LOGICAL = "bdev_vdo_grow_logical" ("name", "logical_size_mib") [];
    /// Has a volume take all of its base bdev, which has become larger: [`crate::params::Name`], [`crate::results::Grown`].
    BDEV_VDO_GROW_PHYSICAL = "bdev_vdo_grow_physical" ("name") [];
    /// Makes the index slow, silent or failing, to see what becomes of writes: [`crate::params::InjectAnswers`].
    BDEV_VDO_INJECT_INDEX_ANSWERS = "bdev_vdo_inject_index_answers" ("name", "answers") ["delay_ms"];
    /// Shows what is under way in the hash zones: [`crate::params::Name`], [`crate::results::Dump`].
    BDEV_VDO_DUMP = "bdev_vdo_dump" ("name") [];
    /// Keeps times of the stages of requests, or stops that: [`crate::params::EnableHistograms`].
    BDEV_VDO_ENABLE_HISTOGRAMS = "bdev_vdo_enable_histograms" ("name", "enable") [];
    /// How long requests stayed at each stage: [`crate::params::Name`], [`crate::results::Histograms`].
    BDEV_VDO_GET_HISTOGRAMS = "bdev_vdo_get_histograms" ("name") [];
}
