//! What a zone thread counts of the requests it serves.

use std::cell::RefCell;

use crate::error::VdoError;
use crate::runtime::base::IoCounts;
use crate::seam::RequestKind;
use crate::stats::{BioStatistics, ZoneStatistics};

/// The counters of one zone thread that belong to no part of it in particular.
#[derive(Debug, Default)]
pub struct Counters(RefCell<ZoneStatistics>);

impl Counters {
    /// The counters as they are.
    pub fn get(&self) -> ZoneStatistics {
        *self.0.borrow()
    }

    pub(crate) fn admitted(&self, kind: RequestKind, partial: bool, fua: bool) {
        let mut counters = self.0.borrow_mut();
        count(&mut counters.bios_in, kind, fua);
        if partial {
            count(&mut counters.bios_in_partial, kind, fua);
        }
        counters.current_vios_in_progress += 1;
    }

    pub(crate) fn acknowledged(&self, kind: RequestKind, partial: bool, fua: bool) {
        let mut counters = self.0.borrow_mut();
        count(&mut counters.bios_acknowledged, kind, fua);
        if partial {
            count(&mut counters.bios_acknowledged_partial, kind, fua);
        }
        counters.current_vios_in_progress -= 1;
    }

    /// So many blocks of a request are as they should be already.
    pub(crate) fn passed(&self, kind: RequestKind, blocks: u64, fua: bool) {
        let counters = &mut *self.0.borrow_mut();
        count_blocks(&mut counters.bios_in, kind, blocks, fua);
        count_blocks(&mut counters.bios_acknowledged, kind, blocks, fua);
    }

    pub(crate) fn flush_in(&self) {
        count(&mut self.0.borrow_mut().bios_in, RequestKind::Flush, false);
    }

    pub(crate) fn flush_acknowledged(&self) {
        let bios = &mut self.0.borrow_mut().bios_acknowledged;
        count(bios, RequestKind::Flush, false);
    }

    pub(crate) fn count_error(&self, error: &VdoError) {
        let mut counters = self.0.borrow_mut();
        match error {
            VdoError::NoSpace => counters.errors.no_space_error_count += 1,
            VdoError::ReadOnly => counters.errors.read_only_error_count += 1,
            _ => {}
        }
    }

    pub(crate) fn zero_block(&self) {
        self.0.borrow_mut().data.zero_blocks += 1;
    }

    pub(crate) fn discarded_block(&self) {
        self.0.borrow_mut().data.discarded_blocks += 1;
    }

    pub(crate) fn new_block(&self) {
        self.0.borrow_mut().data.new_blocks += 1;
    }

    pub(crate) fn deduplicated_block(&self) {
        self.0.borrow_mut().data.deduplicated_blocks += 1;
    }

    pub(crate) fn compressed_block(&self) {
        self.0.borrow_mut().data.compressed_blocks += 1;
    }

    pub(crate) fn unmapped_read(&self) {
        self.0.borrow_mut().data.unmapped_reads += 1;
    }

    pub(crate) fn partial_write(&self) {
        self.0.borrow_mut().data.partial_writes += 1;
    }
}

fn count(bios: &mut BioStatistics, kind: RequestKind, fua: bool) {
    count_blocks(bios, kind, 1, fua);
}

/// As dm-vdo would get them: zeroes are written to it as data, and a flush is one that has none.
fn count_blocks(bios: &mut BioStatistics, kind: RequestKind, blocks: u64, fua: bool) {
    match kind {
        RequestKind::Read => bios.read += blocks,
        RequestKind::Write | RequestKind::WriteZeroes => bios.write += blocks,
        RequestKind::Unmap => bios.discard += blocks,
        RequestKind::Flush => {
            bios.empty_flush += blocks;
            bios.flush += blocks;
        }
    }
    if fua {
        bios.fua += blocks;
    }
}

/// Fills the groups of I/O counters from what a zone thread's table of I/Os counted.
pub(crate) fn fill_io(counters: &mut ZoneStatistics, io: &IoCounts) {
    let (started, completed) = (
        |class: usize| BioStatistics {
            read: io.reads[class],
            write: io.writes[class],
            empty_flush: io.flushes[class],
            discard: io.discards[class],
            flush: io.flushes[class],
            fua: io.fuas[class],
        },
        |class: usize| BioStatistics {
            read: io.reads_completed[class],
            write: io.writes_completed[class],
            empty_flush: io.flushes_completed[class],
            discard: io.discards_completed[class],
            flush: io.flushes_completed[class],
            fua: 0,
        },
    );
    use crate::runtime::base::IoClass::{Data, Index, Journal, Metadata, PageCache};
    let flushes: u64 = io.flushes.iter().sum();
    counters.flush_out = flushes - io.flushes[Index as usize];
    counters.bios_out = started(Data as usize);
    counters.bios_meta = started(Metadata as usize);
    counters.bios_journal = started(Journal as usize);
    counters.bios_page_cache = started(PageCache as usize);
    counters.bios_out_completed = completed(Data as usize);
    counters.bios_meta_completed = completed(Metadata as usize);
    counters.bios_journal_completed = completed(Journal as usize);
    counters.bios_page_cache_completed = completed(PageCache as usize);
}
