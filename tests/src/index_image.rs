//! The deduplication index on an image, read as a whole and judged: for tests of what the kernel's dm-vdo or the engine left there.
//!
//! It goes by the structures of the engine ([`vdo::format::index`], [`vdo::index::uds`]) and by nothing an engine remembers. What is
//! looked up is looked up as the index itself would do it: volume index, page map, index page, record page.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use vdo::format::index::chapter_page::ChapterPage;
use vdo::format::index::page_map::IndexPageMap;
use vdo::format::index::record_page::{self, RecordData};
use vdo::format::index::save::{self, SaveLayout, SavedState};
use vdo::format::index::super_block::{IndexLayout, IndexSuperBlock};
use vdo::format::index::{IndexGeometry, IndexRecord, config, open_chapter};
use vdo::format::open::read_geometry;
use vdo::format::{Block, Extent};
use vdo::index::IndexError;
use vdo::index::uds::device::IndexDevice;
use vdo::index::uds::saved::VolumeIndexReader;
use vdo::index::uds::volume_index::VolumeIndexZone;
use vdo::types::{BLOCK_SIZE, Mapping, Pbn, RecordName};

/// An index on an image.
pub struct IndexImage {
    file: File,
    /// Its sizes.
    pub geometry: IndexGeometry,
    /// Where its parts are.
    pub layout: IndexLayout,
    /// Its super block.
    pub super_block: IndexSuperBlock,
    /// The nonce of the volume it belongs to.
    pub volume: u64,
    /// The save that counts, if there is any.
    pub save: Option<(usize, SavedState, SaveLayout)>,
}

impl IndexImage {
    /// Reads what says what is where.
    ///
    /// # Panics
    /// If any of it is not as it should be.
    pub fn open(image: &Path) -> IndexImage {
        let file = File::open(image).expect("an image");
        let blocks = file.metadata().expect("a file").len() / BLOCK_SIZE as u64;
        let read = |pbn: Pbn| block_of(&file, pbn);
        let volume = read_geometry(&read(Pbn(0)), blocks).expect("a volume");
        let geometry = volume.index.geometry().expect("an index");
        let layout = IndexLayout::new(Pbn(1), &geometry);
        let super_block = IndexSuperBlock::decode(&read(layout.header), &layout, &geometry);
        let super_block = super_block.expect("the index's super block");
        config::check(&read(layout.config), &geometry, volume.nonce).expect("its configuration");
        let nonce = super_block.volume_nonce(&layout);
        let saves = (0..).zip(layout.saves).filter_map(|(number, slot)| {
            let found = save::decode(&read(slot.start), slot, nonce).expect("a save's header")?;
            Some((number, found.0, found.1))
        });
        let save = saves.max_by_key(|(_, state, _)| state.time);
        IndexImage {
            file,
            geometry,
            layout,
            super_block,
            volume: volume.nonce,
            save,
        }
    }

    /// The nonce in its chapters.
    pub fn nonce(&self) -> u64 {
        self.super_block.volume_nonce(&self.layout)
    }

    /// A block of the image.
    pub fn block(&self, pbn: Pbn) -> Block {
        block_of(&self.file, pbn)
    }

    fn bytes(&self, extent: Extent) -> Vec<u8> {
        let mut bytes = vec![0; extent.blocks as usize * BLOCK_SIZE];
        let offset = extent.start.get() * BLOCK_SIZE as u64;
        self.file
            .read_exact_at(&mut bytes, offset)
            .expect("blocks of the image");
        bytes
    }

    /// A page of the chapter in a place of the ring.
    pub fn page(&self, place: u32, page: u32) -> Vec<u8> {
        let number = self.geometry.first_page(place) + u64::from(page);
        let blocks = self.geometry.page_blocks();
        self.bytes(Extent {
            start: Pbn(self.layout.volume.start.get() + number * blocks),
            blocks,
        })
    }

    /// Everything a save has, loaded as by zone `zone` of `zones`.
    ///
    /// # Panics
    /// If there is no save, or any of it is damaged.
    pub fn load(&self, zone: u8, zones: u8) -> LoadedIndex<'_> {
        let (_, state, layout) = self.save.as_ref().expect("a save");
        let mut index = VolumeIndexZone::new(&self.geometry, zone, zones).expect("memory");
        let streams = layout.volume_index.len() as u32;
        let mut reader = VolumeIndexReader::new(&mut index, self.nonce(), state.newest, streams);
        for extent in &layout.volume_index {
            let stream = self.bytes(*extent);
            let mut pieces = stream.chunks(1 << 20);
            while !reader
                .feed(&mut index, pieces.next().expect("an end"))
                .expect("whole")
            {}
        }
        reader.finish(&mut index).expect("a whole volume index");
        let map = self.bytes(layout.page_map);
        let open = self.bytes(layout.open_chapter);
        let records = open_chapter::read(&self.geometry, &open).expect("an open chapter");
        LoadedIndex {
            image: self,
            state: *state,
            volume_index: index,
            page_map: IndexPageMap::decode(&self.geometry, &map).expect("a page map"),
            open: records.map(|record| (record.name, record.data)).collect(),
        }
    }

    /// All records of a chapter on disk, each found by the chapter's own index; `None` if there is no whole chapter.
    ///
    /// # Panics
    /// If a record is on another page than the index says, or the index knows one that is not there.
    pub fn chapter(&self, place: u32) -> Option<(u64, Vec<IndexRecord>)> {
        let geometry = &self.geometry;
        let pages: Vec<Vec<u8>> = (0..geometry.pages_per_chapter())
            .map(|page| self.page(place, page))
            .collect();
        let (index, records) = pages.split_at(geometry.index_pages as usize);
        let read = |page: &Vec<u8>| {
            ChapterPage::read(page, self.nonce(), geometry).map(|page| page.chapter)
        };
        let chapter = read(index.first()?).ok()?;
        let mut next = 0;
        let mut entries = 0;
        for page in index {
            let page = ChapterPage::read(page, self.nonce(), geometry).expect("an index page");
            assert_eq!((page.chapter, page.first_list), (chapter, next));
            page.validate().expect("whole lists");
            next += page.lists;
            entries += (0..page.lists)
                .map(|list| page.list(list).entries().count())
                .sum::<usize>();
        }
        assert_eq!(next, geometry.chapter_lists());
        let mut all = HashMap::new();
        for (number, page) in records.iter().enumerate() {
            for record in record_page::records(page) {
                let list = geometry.chapter_list_key(&record.name).list;
                let page_of = index.iter().find_map(|page| {
                    let page =
                        ChapterPage::read(page, self.nonce(), geometry).expect("an index page");
                    (i64::from(list) <= page.last_list())
                        .then(|| page.find(&record.name).expect("whole"))
                });
                // Fillers are copies of a record that is elsewhere in the chapter.
                if page_of.flatten() == Some(number as u32) {
                    assert_eq!(record_page::find(page, &record.name), Some(record.data));
                    all.insert(record.name, record);
                }
            }
        }
        assert_eq!(
            entries,
            all.len(),
            "entries of the chapter's index, and names found by it"
        );
        Some((chapter, all.into_values().collect()))
    }
}

fn block_of(file: &File, pbn: Pbn) -> Block {
    let mut block = [0; BLOCK_SIZE];
    file.read_exact_at(&mut block, pbn.get() * BLOCK_SIZE as u64)
        .expect("a block of the image");
    block
}

/// A save in memory, and the chapters behind it.
pub struct LoadedIndex<'a> {
    image: &'a IndexImage,
    /// Which chapters there are.
    pub state: SavedState,
    /// The volume index.
    pub volume_index: VolumeIndexZone,
    /// The index page map.
    pub page_map: IndexPageMap,
    /// The records of the open chapter.
    pub open: HashMap<RecordName, RecordData>,
}

impl LoadedIndex<'_> {
    /// What the index knows of a name; `None` too if it is of another zone than the one that was loaded.
    pub fn find(&mut self, name: &RecordName) -> Option<Mapping> {
        let chapter = self.volume_index.find(name).ok()?.chapter?;
        if chapter == self.state.newest {
            return self.open.get(name)?.mapping();
        }
        let image = self.image;
        let place = image.geometry.place(chapter);
        let list = image.geometry.chapter_list_key(name).list;
        let number = self.page_map.page_of(place, list);
        let bytes = image.page(place, number);
        let page =
            ChapterPage::read(&bytes, image.nonce(), &image.geometry).expect("an index page");
        assert_eq!(page.chapter, chapter);
        let bounds = (i64::from(page.first_list), page.last_list());
        let (first, last) = self.page_map.bounds(place, number);
        assert_eq!(
            bounds,
            (first.into(), last.into()),
            "the lists on an index page"
        );
        let page = page.find(name).expect("whole")?;
        let records = image.page(place, image.geometry.index_pages + page);
        record_page::find(&records, name)?.mapping()
    }
}

/// An image as the device of an index: what is written is there at once.
pub struct ImageDevice(File);

impl ImageDevice {
    /// Opens an image to be changed.
    pub fn open(image: &Path) -> ImageDevice {
        let file = File::options().read(true).write(true).open(image);
        ImageDevice(file.expect("an image"))
    }
}

fn outcome(at: Pbn, result: std::io::Result<()>) -> Result<(), IndexError> {
    result.map_err(|error| IndexError::Io {
        pbn: at,
        errno: error.raw_os_error().unwrap_or(5),
    })
}

impl IndexDevice for ImageDevice {
    async fn read(&self, at: Pbn, bytes: &mut [u8]) -> Result<(), IndexError> {
        outcome(
            at,
            self.0.read_exact_at(bytes, at.get() * BLOCK_SIZE as u64),
        )
    }

    async fn write(&self, at: Pbn, bytes: &[u8]) -> Result<(), IndexError> {
        outcome(at, self.0.write_all_at(bytes, at.get() * BLOCK_SIZE as u64))
    }

    async fn flush(&self) -> Result<(), IndexError> {
        outcome(Pbn(0), self.0.sync_data())
    }
}

/// What a future gives that waits for nothing.
///
/// # Panics
/// If it does wait.
pub fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(done) => done,
        std::task::Poll::Pending => panic!("it waits"),
    }
}
