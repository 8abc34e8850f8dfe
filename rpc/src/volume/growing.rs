//! What both hosts make of the methods that have a volume grow.

use std::sync::Arc;

use vdo::format::{Growth, VolumeLayout};
use vdo::types::BLOCK_SIZE;
use vdo::volume::{MemoryKeeper, VolumeError};

use super::{BLOCKS_PER_MIB, memory};
use crate::RpcError;
use crate::params::GrowLogical;
use crate::results::Grown;

/// What `bdev_vdo_grow_logical` asks of the engine.
pub fn logical_growth(params: &GrowLogical) -> Growth {
    Growth::Logical(params.logical_size_mib.saturating_mul(BLOCKS_PER_MIB))
}

/// What `bdev_vdo_grow_physical` asks of the engine, on a base bdev of so many bytes.
pub fn physical_growth(base_bytes: u64) -> Growth {
    Growth::Physical(base_bytes / BLOCK_SIZE as u64)
}

/// Keeps the memory for it, as long as the volume lives.
pub fn growth_keeper() -> MemoryKeeper {
    Box::new(memory::promise)
}

/// The answer, once the engine has said what came of it. `parameter` is the one that named the growth.
///
/// # Errors
/// Why the volume called `name` has not grown.
pub fn grown(
    parameter: &str,
    name: &str,
    result: Result<Arc<VolumeLayout>, VolumeError>,
) -> Result<Grown, RpcError> {
    match result {
        Ok(layout) => Ok(Grown {
            logical_blocks: layout.logical_blocks,
            physical_blocks: layout.physical_blocks,
        }),
        Err(error) => Err(RpcError::errno(
            error.errno(),
            format!("{parameter}: volume \"{name}\": {error}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use vdo::format::GrowthError;

    use super::*;
    use crate::ErrorCode;

    #[test]
    fn a_refusal_names_the_parameter_the_volume_and_both_sizes() {
        let params = GrowLogical {
            name: "v".into(),
            logical_size_mib: 3,
        };
        assert_eq!(logical_growth(&params), Growth::Logical(768));
        let refused = GrowthError::NotLarger {
            now: 1000,
            asked: 768,
        };
        let error = grown("logical_size_mib", "v", Err(refused.into())).unwrap_err();
        assert_eq!(error.code, ErrorCode::EINVAL);
        for word in ["logical_size_mib: ", "\"v\"", "1000", "768"] {
            assert!(error.message.contains(word), "{error}");
        }
    }
}
