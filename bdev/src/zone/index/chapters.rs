//! Chapters on their way to the disk, and pages of them back.
//!
//! ```text
//!   zone thread that is full        zone thread 0                    the others
//!        share of n  ------------->  gathers n
//!                                    close n  ------------------->
//!                                              <------------------- shares of n
//!                                    writes n
//!          <-----------------------  n is on disk  -------------->
//! ```

use std::rc::Rc;
use std::sync::Arc;

use super::{Gathering, IndexKeeper};
use crate::index::uds::chapter_pages::ChapterPages;
use crate::index::uds::ring::Ring;
use crate::index::uds::saves;
use crate::index::{ClosedShare, IndexError};
use crate::types::ZoneIndex;
use crate::zone::message::Note;
use crate::zone::owner::Zone;

/// A chapter that is on disk.
#[derive(Debug)]
pub struct WrittenChapter {
    /// Which.
    pub chapter: u64,
    /// The last list on each of its index pages.
    pub last_lists: Vec<u32>,
}

impl Zone {
    /// Once a poll: lets index work that takes long go on, and looks for what the share of the index here has to say to zone thread 0: that its chapter is closed, or that it failed.
    #[inline]
    pub(crate) fn look_at_index(&self) {
        self.index_device.polled();
        let (closed, failure) = self
            .hash
            .with_index(|shard| (shard.take_closed(), shard.take_failure()));
        if let Some(share) = closed {
            self.tell_keeper(Note::IndexShare(self.index, share));
        }
        if let Some(error) = failure {
            self.tell_keeper(Note::IndexFailed(error));
        }
    }

    fn tell_keeper(&self, note: Note) {
        match self.index {
            ZoneIndex(0) => self.take_note(note),
            _ => self.post.note(ZoneIndex(0), note),
        }
    }

    /// A zone thread's share of a chapter has come, to zone thread 0.
    pub(crate) fn gather_share(&self, from: ZoneIndex, share: ClosedShare) {
        let Some(keeper) = self.index_keeper().filter(|keeper| !keeper.has_failed()) else {
            return;
        };
        let chapter = share.0;
        let (first, complete) = {
            let mut gathering = keeper.gathering.borrow_mut();
            let first = gathering.is_none();
            let gathering = gathering.get_or_insert_with(|| Gathering {
                chapter,
                shares: vec![None; usize::from(self.shared.zones)],
            });
            debug_assert_eq!(
                gathering.chapter, chapter,
                "one chapter is closed at a time"
            );
            gathering.shares[from.index()] = Some(share);
            (first, gathering.is_complete())
        };
        if complete {
            return keeper.changed.wake_all();
        }
        if first {
            for zone in (0..self.shared.zones).map(ZoneIndex) {
                match zone {
                    zone if zone == from => {}
                    zone if zone == self.index => self.close_index_chapter(chapter),
                    zone => self.post.note(zone, Note::CloseChapter(chapter)),
                }
            }
        }
    }

    /// The chapter of all shares is to be closed.
    pub(crate) fn close_index_chapter(&self, chapter: u64) {
        self.hash.with_index(|shard| shard.close_chapter(chapter));
        self.look_at_index();
    }

    /// Reads the index of a chapter as a whole, and lends it to all zone threads.
    async fn read_chapter(&self, ring: Ring, chapter: u64) {
        let read = ChapterPages::read(&*self.index_device, ring, chapter).await;
        let read = read.map(Arc::new);
        if let Ok(pages) = &read {
            let others = (0..self.shared.zones).map(ZoneIndex);
            for other in others.filter(|other| *other != self.index) {
                self.post.note(other, Note::ChapterPages(Arc::clone(pages)));
            }
        }
        self.hash
            .with_index(|shard| shard.chapter_read(chapter, read));
    }

    /// Another zone thread has read the index of a chapter.
    pub(crate) fn index_chapter_lent(&self, pages: Arc<ChapterPages>) {
        self.hash.with_index(|shard| shard.chapter_lent(pages));
    }

    /// A chapter is on disk.
    pub(crate) fn index_chapter_written(&self, written: &WrittenChapter) {
        let WrittenChapter {
            chapter,
            last_lists,
        } = written;
        self.hash
            .with_index(|shard| shard.chapter_written(*chapter, last_lists));
    }
}

/// Writes the chapters that were gathered, one after the other, for ever. A task of zone thread 0.
pub(crate) async fn write_chapters(zone: Rc<Zone>) {
    let Some(keeper) = zone.index_keeper() else {
        return;
    };
    loop {
        let is_due = || {
            let gathering = keeper.gathering.borrow();
            let complete = gathering.as_ref().is_some_and(Gathering::is_complete);
            complete && !keeper.has_failed()
        };
        keeper.changed.wait_until(is_due).await;
        let written = write_chapter(&zone, keeper).await;
        keeper.gathering.replace(None);
        match written {
            Ok(written) => {
                let written = Arc::new(written);
                for other in (1..zone.shared.zones).map(ZoneIndex) {
                    let note = Note::ChapterWritten(Arc::clone(&written));
                    zone.post.note(other, note);
                }
                zone.index_chapter_written(&written);
            }
            Err(error) => zone.index_failed(error),
        }
        keeper.changed.wake_all();
    }
}

async fn write_chapter(zone: &Zone, keeper: &IndexKeeper) -> Result<WrittenChapter, IndexError> {
    let device = &*zone.index_device;
    let ring = keeper.ring.get().ok_or(IndexError::NotOpen)?;
    // A crash between the two means that the index is made again from its chapters.
    if let Some(save) = keeper.last_save.take() {
        saves::spoil(device, save).await?;
    }
    let (chapter, shares) = match &*keeper.gathering.borrow() {
        Some(gathering) => {
            let shares = gathering.shares.iter().flatten();
            let shares: Vec<_> = shares.map(|(_, share)| Arc::clone(share)).collect();
            (gathering.chapter, shares)
        }
        None => return Err(IndexError::NotOpen),
    };
    let records: Vec<_> = shares.iter().map(|share| share.records()).collect();
    let last_lists = ring.write(device, chapter, &records).await?;
    Ok(WrittenChapter {
        chapter,
        last_lists,
    })
}

/// Reads what lookups need, for ever. Each zone thread has some of these tasks.
pub(crate) async fn read_for_lookups(zone: Rc<Zone>) {
    let readers = zone.hash.with_index(|shard| shard.readers());
    loop {
        if let Some((wanted, at, blocks)) = zone.hash.with_index(|shard| shard.next_wanted()) {
            let take = |bytes: Result<&[u8], IndexError>| {
                zone.hash.with_index(|shard| shard.page_read(wanted, bytes));
            };
            zone.index_device.read_for(at, blocks, take).await;
        } else if let Some((ring, chapter)) =
            zone.hash.with_index(|shard| shard.next_wanted_chapter())
        {
            zone.read_chapter(ring, chapter).await;
        } else {
            readers.wait().await;
        }
    }
}
