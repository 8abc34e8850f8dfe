//! Parameters of SPDK's own bdev methods, as far as the embedded target has them.
//!
//! Names, types and defaults are SPDK's, so that its client and its configuration files serve here as
//! well. Parameters of features this target lacks (metadata per block, protection information,
//! `RWF_NOWAIT`) are accepted as long as they ask for nothing: SPDK's `save_config` writes them all.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::RpcError;
use crate::params::{Parameters, bdev_name};

/// Refuses a block size there is none of.
fn block_size(size: u32) -> Result<(), RpcError> {
    match size {
        512 | 4096 => Ok(()),
        other => Err(RpcError::bad_value(
            "block_size",
            other,
            "choose 512 or 4096",
        )),
    }
}

/// Refuses a wish for something this target does not have.
fn not_here<T: PartialEq + Default + std::fmt::Display>(
    parameter: &str,
    value: Option<&T>,
    what: &str,
) -> Result<(), RpcError> {
    match value {
        Some(value) if *value != T::default() => {
            let expected = format!("this target has no {what}; leave the parameter out");
            Err(RpcError::bad_value(parameter, value, &expected))
        }
        _ => Ok(()),
    }
}

/// Declares the parameters of a bdev made of nothing but its size: those of its own, and those SPDK has
/// for the shape of its blocks, which are hints here, or must not be asked for.
macro_rules! sized_bdev {
    ($(#[$doc:meta])* $type:ident { $(#[$name_doc:meta])* $(#serde[$($serde:tt)*])? name: $name:ty }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $type {
            $(#[$name_doc])*
            $(#[serde($($serde)*)])?
            pub name: $name,
            /// How many blocks.
            pub num_blocks: u64,
            /// Bytes per block: 512 or 4096.
            pub block_size: u32,
            /// The bdev's UUID; a random one if there is none.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub uuid: Option<Uuid>,
            /// Bytes of metadata per block; only 0.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub md_size: Option<u32>,
            /// Kind of protection information; only 0, none.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub dif_type: Option<u32>,
            #[serde(default, skip_serializing, rename = "md_interleave")]
            _md_interleave: Option<bool>,
            #[serde(default, skip_serializing, rename = "dif_is_head_of_md")]
            _dif_is_head_of_md: Option<bool>,
            #[serde(default, skip_serializing, rename = "dif_pi_format")]
            _dif_pi_format: Option<u32>,
            #[serde(default, skip_serializing, rename = "physical_block_size")]
            _physical_block_size: Option<u32>,
            #[serde(default, skip_serializing, rename = "optimal_io_boundary")]
            _optimal_io_boundary: Option<u32>,
            #[serde(default, skip_serializing, rename = "numa_id")]
            _numa_id: Option<i32>,
            #[serde(default, skip_serializing, rename = "preferred_write_alignment")]
            _preferred_write_alignment: Option<u32>,
            #[serde(default, skip_serializing, rename = "preferred_write_granularity")]
            _preferred_write_granularity: Option<u32>,
            #[serde(default, skip_serializing, rename = "optimal_write_size")]
            _optimal_write_size: Option<u32>,
            #[serde(default, skip_serializing, rename = "preferred_unmap_alignment")]
            _preferred_unmap_alignment: Option<u32>,
            #[serde(default, skip_serializing, rename = "preferred_unmap_granularity")]
            _preferred_unmap_granularity: Option<u32>,
        }

        impl $type {
            fn check_shape(&self) -> Result<(), RpcError> {
                if self.num_blocks == 0 {
                    return Err(RpcError::bad_value("num_blocks", 0, "a bdev has at least one block"));
                }
                block_size(self.block_size)?;
                not_here("md_size", self.md_size.as_ref(), "metadata per block")?;
                not_here("dif_type", self.dif_type.as_ref(), "protection information")
            }
        }
    };
}

sized_bdev! {
    /// Parameters of `bdev_malloc_create`.
    MallocCreate {
        /// The new bdev's name; `Malloc` and a number if there is none.
        #serde[default, skip_serializing_if = "Option::is_none"]
        name: Option<String>
    }
}

impl Parameters for MallocCreate {
    fn check(&self) -> Result<(), RpcError> {
        self.name
            .iter()
            .try_for_each(|name| bdev_name("name", name))?;
        self.check_shape()
    }
}

sized_bdev! {
    /// Parameters of `bdev_null_create`.
    NullCreate {
        /// The new bdev's name.
        name: String
    }
}

impl Parameters for NullCreate {
    fn check(&self) -> Result<(), RpcError> {
        bdev_name("name", &self.name)?;
        self.check_shape()
    }
}

/// Parameters of `bdev_uring_create`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UringCreate {
    /// The new bdev's name.
    pub name: String,
    /// A file or block device, which must exist.
    pub filename: String,
    /// Bytes per block: 512 or 4096; the file's own if there is none (or 0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u32>,
    /// The bdev's UUID; a random one if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
}

impl Parameters for UringCreate {
    fn check(&self) -> Result<(), RpcError> {
        bdev_name("name", &self.name)?;
        file(&self.filename, self.block_size)
    }
}

/// Parameters of `bdev_aio_create`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AioCreate {
    /// The new bdev's name.
    pub name: String,
    /// A file or block device, which must exist.
    pub filename: String,
    /// Bytes per block: 512 or 4096; the file's own if there is none (or 0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u32>,
    /// Whether it is never written.
    #[serde(default)]
    pub readonly: bool,
    /// Whether unmap and write-zeroes punch holes.
    #[serde(default)]
    pub fallocate: bool,
    /// The bdev's UUID; a random one if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// Only false.
    #[serde(default)]
    pub nowait: bool,
}

impl Parameters for AioCreate {
    fn check(&self) -> Result<(), RpcError> {
        bdev_name("name", &self.name)?;
        file(&self.filename, self.block_size)?;
        not_here(
            "nowait",
            Some(&self.nowait),
            "use for RWF_NOWAIT, for its I/O never waits",
        )
    }
}

fn file(filename: &str, size: Option<u32>) -> Result<(), RpcError> {
    if filename.is_empty() {
        return Err(RpcError::bad_value(
            "filename",
            "\"\"",
            "give the path of a file or block device",
        ));
    }
    match size {
        None | Some(0) => Ok(()),
        Some(size) => block_size(size),
    }
}

/// Parameters of `bdev_error_create`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorCreate {
    /// The bdev to lie on; the new one is called `EE_` and this.
    pub base_name: String,
    /// The bdev's UUID; a random one if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
}

impl Parameters for ErrorCreate {
    fn check(&self) -> Result<(), RpcError> {
        bdev_name("base_name", &self.base_name)
    }
}

/// Which I/O `bdev_error_inject_error` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InjectIoType {
    /// None: take every rule back.
    Clear,
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Unmaps.
    Unmap,
    /// Flushes.
    Flush,
    /// All four.
    All,
}

/// What `bdev_error_inject_error` does to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InjectErrorType {
    /// They fail.
    #[default]
    Failure,
    /// They fail with an NVMe status, which is `EIO` here.
    NvmeFailure,
    /// They do not end.
    Pending,
    /// One byte is changed.
    CorruptData,
    /// They are tried again a little later.
    Nomem,
}

/// Parameters of `bdev_error_inject_error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorInject {
    /// The error bdev.
    pub name: String,
    /// Which I/O.
    pub io_type: InjectIoType,
    /// What is done to it.
    #[serde(default)]
    pub error_type: InjectErrorType,
    /// To how many.
    #[serde(default = "ErrorInject::default_num")]
    pub num: u32,
    /// While at least this many are in flight on the channel.
    #[serde(default)]
    pub queue_depth: u64,
    /// Which byte is changed.
    #[serde(default)]
    pub corrupt_offset: u64,
    /// What it is XORed with.
    #[serde(default)]
    pub corrupt_value: u8,
    /// The NVMe status code type, for `nvme_failure`.
    #[serde(default)]
    pub nvme_sct: u32,
    /// The NVMe status code, for `nvme_failure`.
    #[serde(default)]
    pub nvme_sc: u32,
}

impl ErrorInject {
    fn default_num() -> u32 {
        1
    }
}

impl Parameters for ErrorInject {
    fn check(&self) -> Result<(), RpcError> {
        bdev_name("name", &self.name)?;
        if self.error_type == InjectErrorType::CorruptData
            && self.io_type != InjectIoType::Clear
            && self.corrupt_value == 0
        {
            return Err(RpcError::bad_value(
                "corrupt_value",
                0,
                "XOR with it changes nothing; choose 1 to 255",
            ));
        }
        let has_status = self.nvme_sct != 0 || self.nvme_sc != 0;
        if has_status != (self.error_type == InjectErrorType::NvmeFailure) {
            return Err(RpcError::bad_value(
                "nvme_sct, nvme_sc",
                format_args!("{}, {}", self.nvme_sct, self.nvme_sc),
                "give one of them with error_type nvme_failure, and only with that",
            ));
        }
        Ok(())
    }
}

/// Parameters of `bdev_delay_create`; latencies in microseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DelayCreate {
    /// The bdev to lie on.
    pub base_bdev_name: String,
    /// The new bdev's name.
    pub name: String,
    /// The bdev's UUID; a random one if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// Of ninety-nine reads in a hundred.
    pub avg_read_latency: u64,
    /// Of one read in a hundred.
    pub p99_read_latency: u64,
    /// Of ninety-nine writes in a hundred.
    pub avg_write_latency: u64,
    /// Of one write in a hundred.
    pub p99_write_latency: u64,
}

impl Parameters for DelayCreate {
    fn check(&self) -> Result<(), RpcError> {
        bdev_name("base_bdev_name", &self.base_bdev_name)?;
        bdev_name("name", &self.name)?;
        for (parameter, p99, average) in [
            (
                "p99_read_latency",
                self.p99_read_latency,
                self.avg_read_latency,
            ),
            (
                "p99_write_latency",
                self.p99_write_latency,
                self.avg_write_latency,
            ),
        ] {
            if p99 < average {
                let expected = format!("it is at least the average, {average}");
                return Err(RpcError::bad_value(parameter, p99, &expected));
            }
        }
        Ok(())
    }
}

/// Which latency `bdev_delay_update_latency` changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatencyType {
    /// Of ninety-nine reads in a hundred.
    AvgRead,
    /// Of one read in a hundred.
    P99Read,
    /// Of ninety-nine writes in a hundred.
    AvgWrite,
    /// Of one write in a hundred.
    P99Write,
}

/// Parameters of `bdev_delay_update_latency`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DelayUpdateLatency {
    /// The delay bdev.
    pub delay_bdev_name: String,
    /// Which latency.
    pub latency_type: LatencyType,
    /// Its new value in microseconds.
    pub latency_us: u64,
}

impl Parameters for DelayUpdateLatency {
    fn check(&self) -> Result<(), RpcError> {
        bdev_name("delay_bdev_name", &self.delay_bdev_name)
    }
}

/// Parameters of `bdev_get_bdevs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetBdevs {
    /// Only this one (a name or UUID); all if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How long to wait for it to appear, in milliseconds.
    #[serde(default)]
    pub timeout: u64,
}

impl Parameters for GetBdevs {}

/// Which counters are begun anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetMode {
    /// All.
    All,
    /// The longest and shortest latencies.
    Maxmin,
    /// The counts of errors.
    Error,
    /// None.
    #[default]
    None,
}

/// Parameters of `bdev_get_iostat`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetIostat {
    /// Only this bdev.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only these bdevs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
    /// By channel; of one bdev only.
    #[serde(default)]
    pub per_channel: bool,
    /// What to begin anew afterwards.
    #[serde(default)]
    pub reset_mode: ResetMode,
}

impl GetIostat {
    /// The bdevs asked for; `None` for all.
    pub fn wanted(&self) -> Option<Vec<String>> {
        match (&self.name, &self.names) {
            (None, None) => None,
            (name, names) => Some(name.iter().chain(names.iter().flatten()).cloned().collect()),
        }
    }
}

impl Parameters for GetIostat {
    fn check(&self) -> Result<(), RpcError> {
        let wanted = self.wanted().map_or(0, |names| names.len());
        if self.per_channel && wanted != 1 {
            return Err(RpcError::bad_value(
                "per_channel",
                format_args!("true with {wanted} names"),
                "name exactly one bdev",
            ));
        }
        Ok(())
    }
}

/// Parameters of `bdev_reset_iostat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResetIostat {
    /// Only this bdev; all if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What to begin anew.
    #[serde(default = "ResetIostat::default_mode")]
    pub mode: ResetMode,
}

impl ResetIostat {
    fn default_mode() -> ResetMode {
        ResetMode::All
    }
}

impl Parameters for ResetIostat {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;
    use serde_json::{Value, json};

    fn decode<P: Parameters>(value: Value) -> Result<P, RpcError> {
        P::decode(Some(&value))
    }

    #[test]
    fn what_spdk_saves_of_a_malloc_bdev_is_accepted() {
        let saved = json!({
            "name": "Malloc0", "num_blocks": 131072, "block_size": 512, "physical_block_size": 512,
            "uuid": "5a2c1a0e-0a2e-4b8e-9f0e-3a8a8f0f5a11", "optimal_io_boundary": 0, "md_size": 0,
            "dif_type": 0, "dif_is_head_of_md": false, "dif_pi_format": 0, "numa_id": -1
        });
        let malloc: MallocCreate = decode(saved).unwrap();
        assert_eq!(
            (malloc.name.as_deref(), malloc.num_blocks),
            (Some("Malloc0"), 131072)
        );
    }

    #[test]
    fn what_this_target_lacks_is_refused_by_name() {
        let sized = |extra: &str, value: Value| {
            let mut params = json!({"name": "n", "num_blocks": 8, "block_size": 512});
            params[extra] = value;
            decode::<NullCreate>(params).unwrap_err()
        };
        for (parameter, value, code) in [
            ("md_size", json!(8), ErrorCode::EINVAL),
            ("dif_type", json!(1), ErrorCode::EINVAL),
            ("block_size", json!(520), ErrorCode::EINVAL),
            ("num_blocks", json!(0), ErrorCode::EINVAL),
            ("num_blocks", json!(-1), ErrorCode::INVALID_PARAMS),
            ("colour", json!("red"), ErrorCode::INVALID_PARAMS),
        ] {
            let error = sized(parameter, value);
            assert_eq!(error.code, code, "{error}");
            assert!(error.message.contains(parameter), "{error}");
        }
        let nowait = json!({"name": "a", "filename": "/f", "nowait": true});
        assert!(
            decode::<AioCreate>(nowait)
                .unwrap_err()
                .message
                .starts_with("nowait")
        );
    }

    #[test]
    fn injections_know_their_names_and_refuse_what_does_nothing() {
        let inject = |extra: Value| {
            let mut params =
                json!({"name": "EE_m", "io_type": "write", "error_type": "corrupt_data"});
            for (key, value) in extra.as_object().unwrap() {
                params[key] = value.clone();
            }
            decode::<ErrorInject>(params)
        };
        assert_eq!(inject(json!({"corrupt_value": 1})).unwrap().num, 1);
        assert!(
            inject(json!({}))
                .unwrap_err()
                .message
                .starts_with("corrupt_value")
        );
        assert!(
            inject(json!({"corrupt_value": 256}))
                .unwrap_err()
                .message
                .starts_with("corrupt_value")
        );
        assert!(inject(json!({"error_type": "nvme_failure"})).is_err());
        assert!(inject(json!({"error_type": "nvme_failure", "nvme_sc": 4})).is_ok());
        assert!(inject(json!({"error_type": "failure", "nvme_sc": 4})).is_err());
        assert!(
            inject(json!({"io_type": "compare"}))
                .unwrap_err()
                .message
                .starts_with("io_type")
        );
        assert!(inject(json!({"io_type": "clear"})).is_ok());
    }

    #[test]
    fn counters_by_channel_need_one_name() {
        assert!(decode::<GetIostat>(json!({"per_channel": true})).is_err());
        assert!(decode::<GetIostat>(json!({"per_channel": true, "names": ["a", "b"]})).is_err());
        assert!(decode::<GetIostat>(json!({"per_channel": true, "name": "a"})).is_ok());
        assert_eq!(
            decode::<ResetIostat>(json!({})).unwrap().mode,
            ResetMode::All
        );
        assert_eq!(
            decode::<GetIostat>(json!({})).unwrap().reset_mode,
            ResetMode::None
        );
    }
}
