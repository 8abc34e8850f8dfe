//! What an index does its I/O by.

use std::future::Future;

use crate::index::IndexError;
use crate::types::Pbn;

/// The base device, as an index sees it. What is read and written is whole blocks.
pub trait IndexDevice {
    /// Reads blocks from `at` on into all of `bytes`.
    ///
    /// # Errors
    /// [`IndexError::Io`].
    fn read(&self, at: Pbn, bytes: &mut [u8]) -> impl Future<Output = Result<(), IndexError>>;

    /// Writes all of `bytes` to the blocks from `at` on.
    ///
    /// # Errors
    /// [`IndexError::Io`].
    fn write(&self, at: Pbn, bytes: &[u8]) -> impl Future<Output = Result<(), IndexError>>;

    /// Makes durable what was written.
    ///
    /// # Errors
    /// [`IndexError::Io`].
    fn flush(&self) -> impl Future<Output = Result<(), IndexError>>;
}
