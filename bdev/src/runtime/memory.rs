//! Memory whose size somebody else decides: an option, the size of a device, what is written on it. There may not be so
//! much, which is an error and not the end of the process. (Small things of fixed size are simply made.)

use zerocopy::FromZeros;

use crate::error::VdoError;

fn refused(what: &'static str, count: usize, size: usize) -> VdoError {
    VdoError::NoMemory {
        what,
        bytes: (count as u64).saturating_mul(size as u64),
    }
}

/// `count` copies of `value`, for `what`.
///
/// # Errors
/// [`VdoError::NoMemory`].
pub fn filled<T: Clone>(value: T, count: usize, what: &'static str) -> Result<Vec<T>, VdoError> {
    let mut all = Vec::new();
    all.try_reserve_exact(count)
        .map_err(|_| refused(what, count, size_of::<T>()))?;
    all.resize(count, value);
    Ok(all)
}

/// `count` times `size` zero bytes, for `what`, which the system backs with memory as they are used.
///
/// # Errors
/// [`VdoError::NoMemory`].
pub fn zeroed(count: usize, size: usize, what: &'static str) -> Result<Vec<u8>, VdoError> {
    let bytes = count.checked_mul(size);
    bytes
        .and_then(|bytes| u8::new_vec_zeroed(bytes).ok())
        .ok_or_else(|| refused(what, count, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_an_error_that_says_how_much_and_for_what() {
        assert_eq!(filled(7_u16, 3, "sevens").unwrap(), [7, 7, 7]);
        assert_eq!(zeroed(3, 2, "zeroes").unwrap(), [0; 6]);
        for error in [
            filled(0_u64, 1 << 59, "everything").unwrap_err(),
            zeroed(1 << 50, 1 << 12, "everything").unwrap_err(),
            zeroed(usize::MAX, 2, "everything").unwrap_err(),
        ] {
            assert_eq!(error.errno(), 12);
            assert!(
                error.to_string().starts_with("no memory for everything ("),
                "{error}"
            );
        }
    }
}
