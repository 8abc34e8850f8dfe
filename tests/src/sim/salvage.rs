//! Reads a volume as recovery would after a loss of power: the block map on disk, and over it
//! what the recovery journal knows better.
//!
//! Only for tests of what must be on disk when: it repairs nothing. Written from the format alone.

use std::collections::HashMap;

use vdo::format::Block;
use vdo::format::block_map_page::{BlockMapPage, PageValidity};
use vdo::format::compressed_block::fragment;
use vdo::format::open::Volume;
use vdo::format::recovery_journal::{
    BlockMapSlot, ENTRIES_PER_BLOCK, RecoveryBlockHeader, RecoveryJournalBlock, block_number,
    check_byte,
};
use vdo::format::tree::TreePage;
use vdo::types::{BLOCK_SIZE, Lbn, Mapping, Pbn, SequenceNumber};

use super::audit::{Blocks, block, volume_on};

/// The data that is mapped to a fragment of `block`, or to all of it.
///
/// # Panics
/// If the fragment cannot be read.
fn data_at(block: &Block, mapping: Mapping) -> Block {
    if !mapping.state.is_compressed() {
        return *block;
    }
    let place = fragment(block, mapping.state).expect("a compressed block");
    let data = lz4_flex::block::decompress(&block[place], BLOCK_SIZE).expect("LZ4");
    data.try_into().expect("a whole block")
}

/// What a power loss left.
pub struct Salvage {
    blocks: Blocks,
    volume: Volume,
    /// What the journal says of slots of the block map.
    journaled: HashMap<(Pbn, u16), Mapping>,
    /// Entries of the journal that were found.
    pub entries: u64,
}

impl Salvage {
    /// Reads the journal of the volume on a disk of `size` blocks.
    ///
    /// # Errors
    /// When there is no volume.
    pub fn new(blocks: Blocks, size: u64) -> Result<Salvage, String> {
        let volume = volume_on(&blocks, size)?;
        let mut salvage = Salvage {
            blocks,
            volume,
            journaled: HashMap::new(),
            entries: 0,
        };
        salvage.replay();
        Ok(salvage)
    }

    fn journal_block(&self, sequence: SequenceNumber) -> Option<(RecoveryBlockHeader, Block)> {
        let journal = self.volume.layout.recovery_journal;
        let at = journal.start.get() + block_number(sequence, journal.blocks);
        let bytes = block(&self.blocks, Pbn(at));
        let header = RecoveryJournalBlock::new(&bytes).header().ok()?;
        let ours = header.nonce == self.volume.layout.nonce
            && header.check_byte == check_byte(header.sequence, journal.blocks)
            && block_number(header.sequence, journal.blocks) == at - journal.start.get();
        ours.then_some((header, bytes))
    }

    fn replay(&mut self) {
        let size = self.volume.layout.recovery_journal.blocks;
        let first = self.volume.super_block.recovery_journal.journal_start;
        let newest = (0..size)
            .filter_map(|number| self.journal_block(SequenceNumber(number)))
            .map(|(header, _)| header)
            .filter(|header| header.sequence >= first)
            .max_by_key(|header| header.sequence);
        let Some(newest) = newest else { return };
        for number in newest.block_map_head.get()..=newest.sequence.get() {
            let found = self
                .journal_block(SequenceNumber(number))
                .filter(|(header, _)| header.sequence.get() == number);
            let Some((header, bytes)) = found else { return };
            let view = RecoveryJournalBlock::new(&bytes);
            for index in 0..header.entry_count {
                let Ok(entry) = view.entry(index) else { return };
                let BlockMapSlot { pbn, slot } = entry.slot;
                self.journaled.insert((pbn, slot), entry.mapping);
                self.entries += 1;
            }
            if header.entry_count < ENTRIES_PER_BLOCK {
                return;
            }
        }
    }

    fn entry(&self, pbn: Pbn, slot: u16) -> Mapping {
        if let Some(mapping) = self.journaled.get(&(pbn, slot)) {
            return *mapping;
        }
        let bytes = block(&self.blocks, pbn);
        let page = BlockMapPage::new(&bytes);
        match page.validity(self.volume.layout.nonce, pbn) {
            PageValidity::Valid => page.get(slot),
            _ => Mapping::UNMAPPED,
        }
    }

    fn page(&self, page: TreePage) -> Option<Pbn> {
        let Some((parent, slot)) = page.parent() else {
            return Some(self.volume.layout.tree.root_pbn(page.root));
        };
        let mapping = self.entry(self.page(parent)?, slot);
        mapping.state.is_mapped().then_some(mapping.pbn)
    }

    /// Where the data of a logical block is.
    pub fn mapping(&self, lbn: u64) -> Mapping {
        let (leaf, slot) = self.volume.layout.tree.leaf(Lbn(lbn));
        self.page(leaf)
            .map_or(Mapping::UNMAPPED, |pbn| self.entry(pbn, slot))
    }

    /// The data of a logical block.
    pub fn read(&self, lbn: u64) -> Block {
        match self.mapping(lbn).pbn {
            Pbn::ZERO => [0; BLOCK_SIZE],
            pbn => data_at(&block(&self.blocks, pbn), self.mapping(lbn)),
        }
    }
}
