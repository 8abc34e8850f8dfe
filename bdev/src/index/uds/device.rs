//! What an index does its I/O by.

use std::future::Future;

use super::lookup::{Chapters, Look};
use super::page_cache::PageOf;
use crate::format::index::record_page::RecordData;
use crate::index::IndexError;
use crate::types::{Pbn, RecordName};

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

    /// Lets others on this thread have their turn. Called between two pieces of work that take long.
    fn turn(&self) -> impl Future<Output = ()> {
        std::future::ready(())
    }
}

/// Looks for a name in a chapter, and waits for the pages that are needed.
///
/// # Errors
/// [`IndexError::Io`], or [`IndexError::Damaged`].
pub async fn find<D: IndexDevice>(
    device: &D,
    chapters: &mut Chapters,
    chapter: u64,
    name: &RecordName,
) -> Result<Option<RecordData>, IndexError> {
    let look = |chapters: &mut Chapters, arrived| chapters.look(chapter, name, arrived);
    look_until_known(device, chapters, look).await
}

/// Looks for a name that the volume index does not know, and waits for the pages that are needed.
///
/// # Errors
/// [`IndexError::Io`], or [`IndexError::Damaged`].
pub async fn find_beyond<D: IndexDevice>(
    device: &D,
    chapters: &mut Chapters,
    name: &RecordName,
) -> Result<Option<RecordData>, IndexError> {
    let look = |chapters: &mut Chapters, arrived| chapters.look_beyond(name, arrived);
    look_until_known(device, chapters, look).await
}

async fn look_until_known<D: IndexDevice>(
    device: &D,
    chapters: &mut Chapters,
    look: impl Fn(&mut Chapters, Option<PageOf>) -> Result<Look, IndexError>,
) -> Result<Option<RecordData>, IndexError> {
    let mut bytes = Vec::new();
    let mut arrived = None;
    loop {
        match look(chapters, arrived)? {
            Look::Known(record) => return Ok(record),
            // Whoever waits here reads chapters at once.
            Look::Wait => return Ok(None),
            Look::Read(page) => {
                bytes.resize(chapters.ring.geometry.page_bytes as usize, 0);
                device
                    .read(chapters.ring.block_of(page), &mut bytes)
                    .await?;
                chapters.cache.want(page, 0);
                if let Some(wanted) = chapters.cache.next_wanted() {
                    chapters.cache.fill(wanted, Some(&bytes), |_| {});
                }
                arrived = Some(page);
            }
        }
    }
}
