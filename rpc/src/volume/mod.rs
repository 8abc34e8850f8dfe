//! What both hosts make of the parameters of `bdev_vdo_*`, and what they answer: everything about a volume that is not
//! a host's own.
//!
//! A host brings a volume up in the same steps everywhere, and what each step takes and refuses is said here:
//!
//! 1. [`zone_cores`]: the cores of the zone threads, out of those the program runs on;
//! 2. [`check_base`]: whether the base bdev will do. (Errors of opening it are made in [`crate::error`].)
//! 3. [`open_request`] for the engine's `Opening`, which finds the volume or formats it;
//! 4. [`zones_that_fit`]: not more zones than slabs;
//! 5. [`volume_options`] for `Volume::assemble`.
//!
//! What the engine refuses meanwhile becomes an answer by [`volume_error`]. A volume that works is asked and steered with
//! [`answers`], grows as [`logical_growth`] and [`physical_growth`] say, and [`mod@config`] says how to make it again.

pub mod answers;
mod config;
mod growing;
pub mod memory;
mod openings;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;
use vdo::format::index_region::{IndexConfig, IndexMemory};
use vdo::format::{self, FormatOptions};
use vdo::seam::Host;
use vdo::types::BLOCK_SIZE;
use vdo::volume::{
    Demand, FormatPolicy, MAXIMUM_ZONES, OpenRequest, Purpose, REQUESTS, RecoveryPolicy, Volume,
    VolumeError, VolumeOptions,
};

pub use self::answers::{
    INDEX_VERBS, answer_mode, apply_options, dump, engine_error, histograms, index_answer, info,
    no_answer, prepare_index,
};
pub use self::config::config;
pub use self::growing::{grown, growth_keeper, logical_growth, physical_growth};
pub use self::openings::{Shown, index_rebuild, openings, show};
use crate::cpumask::CpuMask;
use crate::events::Reporter;
use crate::params::{Create, Format};
use crate::{ErrorCode, RpcError};

const BLOCKS_PER_MIB: u64 = (1 << 20) / BLOCK_SIZE as u64;

/// The smallest blocks of a base bdev, in bytes; the largest are the volume's own.
const LEAST_BASE_BLOCK: u32 = 512;

/// What the engine shall look for on the base bdev, or make there. Has a fresh nonce and UUID, for a new volume.
///
/// # Errors
/// When the index or the core mask makes no sense.
pub fn open_request(params: &Create) -> Result<OpenRequest, RpcError> {
    let memory = IndexMemory::from_gb(params.index_memory_gb)
        .map_err(|error| RpcError::new(ErrorCode::EINVAL, format!("index_memory_gb: {error}")))?;
    let slabs_wanted = match &params.cpumask {
        Some(mask) => parse(mask)?.cores().len() as u64,
        // Nobody asked for so many zones: they are as many as there are slabs.
        None => 1,
    };
    // Microseconds, as dm-vdo's own tool takes them, and a count, for two volumes made at once.
    static MADE: AtomicU64 = AtomicU64::new(0);
    Ok(OpenRequest {
        policy: match params.format {
            Format::IfBlank => FormatPolicy::IfBlank,
            Format::Never => FormatPolicy::Never,
            Format::Force => FormatPolicy::Force,
        },
        format: FormatOptions {
            logical_blocks: params.logical_size_mib.map(|mib| mib * BLOCKS_PER_MIB),
            slab_blocks: params.slab_size_mib * BLOCKS_PER_MIB,
            index: IndexConfig {
                memory,
                sparse: params.index_sparse,
            },
            ..FormatOptions::default()
        },
        nonce: since_1970().as_micros() as u64 + MADE.fetch_add(1, Ordering::Relaxed),
        uuid: Uuid::new_v4(),
        slabs_wanted,
        recovery: RecoveryPolicy::Recover {
            cache_blocks: cache_blocks(params),
        },
        available_memory: memory::available(),
        deduplication: params.deduplication,
    })
}

/// What the engine shall do on the base bdev of a volume that is to be rebuilt: [`open_request`], but there must be a
/// volume, and it must be read-only.
///
/// # Errors
/// As there.
pub fn rebuild_request(params: &Create) -> Result<OpenRequest, RpcError> {
    let cache_blocks = cache_blocks(params);
    Ok(OpenRequest {
        policy: FormatPolicy::Never,
        recovery: RecoveryPolicy::Rebuild { cache_blocks },
        ..open_request(params)?
    })
}

/// Refuses to rebuild a volume that is up and is not read-only.
///
/// # Errors
/// `-EINVAL` if it is not.
pub fn check_rebuild<H: Host>(volume: &Volume<H>) -> Result<(), RpcError> {
    match volume.is_read_only() {
        true => Ok(()),
        false => Err(RpcError::new(
            ErrorCode::EINVAL,
            format!(
                "name: volume \"{}\" is not read-only, and only such are rebuilt",
                volume.name()
            ),
        )),
    }
}

fn cache_blocks(params: &Create) -> u32 {
    u32::try_from(params.block_map_cache_mib * BLOCKS_PER_MIB).unwrap_or(u32::MAX)
}

/// How the engine shall run the volume that was found, on `zones` zone threads and a base bdev that can unmap or not, and who is told of
/// what happens to it. Keeps memory for it as long as it lives.
///
/// # Errors
/// When there is not so much memory: others may have come up since it was found.
pub fn volume_options(
    params: &Create,
    found: &format::Volume,
    zones: u8,
    base_unmaps: bool,
    reporter: Arc<Reporter>,
) -> Result<VolumeOptions, VolumeError> {
    let index = params.deduplication.then_some(found.geometry.index.memory);
    let demand = Demand::of(&found.layout, index, cache_blocks(params), REQUESTS);
    Ok(VolumeOptions {
        kept: Some(memory::promise(&demand)?),
        base_discards: base_unmaps,
        listener: Some(reporter),
        ..options_of(params, zones)
    })
}

fn options_of(params: &Create, zones: u8) -> VolumeOptions {
    VolumeOptions {
        name: params.name.clone(),
        zones,
        block_map_cache_blocks: cache_blocks(params),
        deduplication: params.deduplication,
        compression: params.compression,
        discard_freed: params.discard_freed,
        low_space_percent: narrowed(&params.low_space_percent),
        unix_ms: since_1970().as_millis() as u64,
        ..VolumeOptions::default()
    }
}

/// Percents as the engine has them. They were checked.
fn narrowed(percents: &[u64]) -> Vec<u8> {
    let one = |&percent: &u64| u8::try_from(percent).unwrap_or(u8::MAX);
    percents.iter().map(one).collect()
}

/// Percents as the methods have them.
fn widened(percents: &[u8]) -> Vec<u64> {
    percents.iter().copied().map(u64::from).collect()
}

/// How long ago 1970 began, as far as the clock of this machine is right.
fn since_1970() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

fn parse(mask: &str) -> Result<CpuMask, RpcError> {
    mask.parse()
        .map_err(|error| RpcError::new(ErrorCode::EINVAL, format!("cpumask: {error}")))
}

/// The cores of a volume's zone threads, in order: those of the mask or, without one, all of `cores`, up to as many as
/// can share a volume. `cores` are those the program has reactors on.
///
/// # Errors
/// When the mask cannot be read, names a core the program does not run on, or too many.
pub fn zone_cores(cpumask: Option<&str>, cores: &[u32]) -> Result<Vec<u32>, RpcError> {
    let most = usize::from(MAXIMUM_ZONES);
    let Some(mask) = cpumask else {
        return Ok(cores.iter().take(most).copied().collect());
    };
    let mask = parse(mask)?;
    let refused = |reason: String| Err(RpcError::new(ErrorCode::EINVAL, reason));
    let chosen: Vec<u32> = cores
        .iter()
        .copied()
        .filter(|&core| mask.contains(core as usize))
        .collect();
    if chosen.len() != mask.cores().len() {
        return refused(format!(
            "cpumask: mask 0x{mask} names cores the target has no reactor on; it has {cores:?}"
        ));
    }
    if chosen.len() > most {
        return refused(format!(
            "cpumask: mask 0x{mask} has {} cores; at most {most} can share one volume",
            chosen.len()
        ));
    }
    Ok(chosen)
}

/// Of `cores`, those a volume of `slab_count` slabs can use, for each zone needs a slab of its own; at least one.
///
/// # Errors
/// When somebody asked for more by a mask. (A volume opened with [`open_request`] was refused for that already,
/// before anything was formatted.)
pub fn zones_that_fit(
    params: &Create,
    mut cores: Vec<u32>,
    slab_count: u64,
) -> Result<Vec<u32>, RpcError> {
    if params.cpumask.is_some() && cores.len() as u64 > slab_count {
        return Err(too_few_slabs(cores.len() as u64, slab_count));
    }
    cores.truncate(usize::try_from(slab_count.max(1)).unwrap_or(usize::MAX));
    Ok(cores)
}

fn too_few_slabs(cores: u64, slabs: u64) -> RpcError {
    let (zones, have) = (counted(cores, "zone"), counted(slabs, "slab"));
    RpcError::new(
        ErrorCode::EINVAL,
        format!(
            "cpumask: its {} make {zones}, each of which needs a slab, but the volume has {have}; \
             name fewer cores, or format with smaller slabs",
            counted(cores, "core"),
        ),
    )
}

fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// Whether a bdev of blocks of `block_size` bytes, each with `metadata_size` bytes of metadata, can hold a volume.
///
/// # Errors
/// When its blocks are of the wrong size, carry metadata, or cannot be written.
pub fn check_base(
    base_bdev_name: &str,
    block_size: u32,
    metadata_size: u32,
    writable: bool,
) -> Result<(), RpcError> {
    let largest = BLOCK_SIZE as u32;
    if !block_size.is_power_of_two() || !(LEAST_BASE_BLOCK..=largest).contains(&block_size) {
        return Err(RpcError::unfit_base(
            base_bdev_name,
            format_args!(
                "has blocks of {block_size} bytes; a volume needs a base bdev with blocks of 512 to 4096"
            ),
        ));
    }
    if metadata_size != 0 {
        return Err(RpcError::unfit_base(
            base_bdev_name,
            format_args!(
                "has {metadata_size} bytes of metadata with each block; a volume needs a base bdev without"
            ),
        ));
    }
    if !writable {
        return Err(RpcError::unfit_base(
            base_bdev_name,
            format_args!("is read-only; a volume needs a base bdev that can be written"),
        ));
    }
    Ok(())
}

/// What is answered when the engine does not bring a volume up.
pub fn volume_error(base_bdev_name: &str, error: VolumeError) -> RpcError {
    match error {
        VolumeError::TooFewSlabs { slabs, wanted } => too_few_slabs(wanted, slabs),
        VolumeError::TooMuchMemory { purpose, .. } => {
            let (parameter, advice) = match purpose {
                Purpose::Cache => ("block_map_cache_mib", "choose a smaller cache"),
                Purpose::Index => (
                    "index_memory_gb",
                    "format with a smaller index, or give \"deduplication\": false",
                ),
                Purpose::Trees => ("logical_size_mib", "use a machine with more memory"),
                Purpose::Counters | Purpose::Requests => {
                    ("base_bdev_name", "use a machine with more memory")
                }
            };
            RpcError::errno(
                error.errno(),
                format!("{parameter}: bdev \"{base_bdev_name}\": {error}; {advice}"),
            )
        }
        error => RpcError::errno(
            error.errno(),
            format!("base_bdev_name: bdev \"{base_bdev_name}\": {error}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_mask(mask: &str) -> Create {
        Create {
            cpumask: Some(mask.into()),
            ..Create::new("v", "b")
        }
    }

    #[test]
    fn without_a_mask_a_volume_takes_the_cores_there_are_up_to_the_most_it_can_use() {
        assert_eq!(zone_cores(None, &[3, 5]), Ok(vec![3, 5]));
        let many: Vec<u32> = (0..40).collect();
        assert_eq!(zone_cores(None, &many).unwrap(), many[..16]);
    }

    #[test]
    fn with_a_mask_it_takes_those_cores_or_says_why_not() {
        assert_eq!(zone_cores(Some("[5,1]"), &[0, 1, 5]), Ok(vec![1, 5]));
        let cores: Vec<u32> = (0..32).collect();
        for (mask, words) in [
            ("many", vec!["cpumask", "\"many\""]),
            ("0x0", vec!["cpumask", "no core"]),
            ("[0,40]", vec!["cpumask", "0x10000000001", "no reactor"]),
            ("0x1ffff", vec!["cpumask", "17 cores", "at most 16"]),
        ] {
            let error = zone_cores(Some(mask), &cores).unwrap_err();
            assert_eq!(error.code, ErrorCode::EINVAL);
            assert!(
                words.iter().all(|word| error.message.contains(word)),
                "{error}"
            );
        }
    }

    #[test]
    fn zones_are_no_more_than_slabs_unless_someone_insists_which_is_refused() {
        let fit = |params: &Create, slabs| zones_that_fit(params, vec![1, 2, 3], slabs);
        let usual = Create::new("v", "b");
        assert_eq!(fit(&usual, 2), Ok(vec![1, 2]));
        assert_eq!(fit(&usual, 0), Ok(vec![1]));
        assert_eq!(fit(&usual, 1000), Ok(vec![1, 2, 3]));
        assert_eq!(fit(&with_mask("0xe"), 3), Ok(vec![1, 2, 3]));
        let error = fit(&with_mask("0xe"), 1).unwrap_err();
        assert_eq!(error.code, ErrorCode::EINVAL);
        for word in ["cpumask", "3 cores", "3 zones", "1 slab"] {
            assert!(error.message.contains(word), "{error}");
        }
        // The engine says so first, to the same effect.
        let engine = VolumeError::TooFewSlabs {
            slabs: 1,
            wanted: 3,
        };
        assert_eq!(volume_error("b", engine), error);
    }

    #[test]
    fn the_engine_is_asked_for_what_the_parameters_say() {
        let params = Create {
            format: Format::Force,
            logical_size_mib: Some(3),
            slab_size_mib: 32,
            index_memory_gb: 0.5,
            index_sparse: true,
            block_map_cache_mib: 7,
            deduplication: false,
            compression: true,
            ..with_mask("0x3")
        };
        let request = open_request(&params).unwrap();
        assert_eq!(request.policy, FormatPolicy::Force);
        assert_eq!(request.format.logical_blocks, Some(768));
        assert_eq!(request.format.slab_blocks, 8192);
        assert_eq!(
            request.format.index.memory,
            IndexMemory::from_gb(0.5).unwrap()
        );
        assert!(request.format.index.sparse);
        assert_eq!(request.slabs_wanted, 2);
        let other = open_request(&Create::new("v", "b")).unwrap();
        assert_eq!(other.slabs_wanted, 1);
        assert_ne!(other.nonce, request.nonce);
        assert_ne!(other.uuid, request.uuid);
        let error = open_request(&with_mask("many")).unwrap_err();
        assert!(error.message.starts_with("cpumask: "), "{error}");

        let options = options_of(&params, 2);
        assert_eq!((options.name.as_str(), options.zones), ("v", 2));
        assert_eq!(options.block_map_cache_blocks, 7 * 256);
        assert!(!options.deduplication && options.compression);
    }

    #[test]
    fn a_base_bdev_that_will_not_do_is_refused_by_name() {
        assert_eq!(check_base("b", 512, 0, true), Ok(()));
        assert_eq!(check_base("b", 4096, 0, true), Ok(()));
        for (refused, word) in [
            (check_base("b", 520, 0, true), "520"),
            (check_base("b", 256, 0, true), "256"),
            (check_base("b", 8192, 0, true), "8192"),
            (check_base("b", 4096, 8, true), "metadata"),
            (check_base("b", 4096, 0, false), "read-only"),
        ] {
            let error = refused.unwrap_err();
            assert_eq!(error.code, ErrorCode::EINVAL);
            assert!(
                error.message.starts_with("base_bdev_name: bdev \"b\""),
                "{error}"
            );
            assert!(error.message.contains(word), "{error}");
        }
    }

    #[test]
    fn what_the_engine_refuses_names_the_base_bdev_and_keeps_its_errno() {
        let found = "an ext4 file system".into();
        let error = volume_error("disk", VolumeError::NotBlank { found });
        assert_eq!(error.code, ErrorCode::EEXIST);
        assert!(
            error.message.starts_with("base_bdev_name: bdev \"disk\": "),
            "{error}"
        );
        assert!(error.message.contains("ext4"), "{error}");
    }
}
