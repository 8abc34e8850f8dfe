//! Ways for the simulated disk to fail.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vdo::format::Block;
use vdo::format::block_map_page::{BlockMapPage, PageValidity};
use vdo::format::open::{read_geometry, read_volume};
use vdo::seam::{BaseIo, BaseOp};
use vdo::types::Pbn;

use super::disk::SimDisk;
use super::profile::{NONCE, Trouble};

/// Lets the disk fail as `trouble` says, from some I/O on, now and then or always.
pub fn arm(disk: &SimDisk, trouble: Trouble, random: &mut ChaCha8Rng) {
    if trouble == Trouble::None {
        return;
    }
    let geometry = read_geometry(&disk.block(0), disk.size()).expect("the volume is open");
    let super_block = disk.block(geometry.super_block().get());
    let volume = read_volume(geometry, &super_block, disk.size()).expect("the volume is open");
    let slabs = volume.layout.slabs;
    let is_data = move |pbn: u64, block: &Block| {
        slabs.is_data_block(Pbn(pbn))
            && BlockMapPage::new(block).validity(NONCE, Pbn(pbn)) != PageValidity::Valid
    };
    let mut patience: u32 = random.random_range(0..3000);
    let often = if random.random_bool(0.3) {
        1.0
    } else {
        random.random_range(0.001..0.2)
    };
    let mut random = ChaCha8Rng::seed_from_u64(random.random());
    disk.state().fault = Some(Box::new(move |io: &BaseIo, pbn, block: &Block| {
        let meant = match (trouble, io.op) {
            (Trouble::None, _) => false,
            (Trouble::DataReads, BaseOp::Read) | (Trouble::DataWrites, BaseOp::Write) => {
                is_data(pbn, block)
            }
            (Trouble::MetadataReads, BaseOp::Read) | (Trouble::MetadataWrites, BaseOp::Write) => {
                !is_data(pbn, block)
            }
            (Trouble::Flushes, BaseOp::Flush) | (Trouble::Discards, BaseOp::Discard) => true,
            (Trouble::Anything, _) => true,
            _ => false,
        };
        if !meant {
            return false;
        }
        if patience > 0 {
            patience -= 1;
            return false;
        }
        random.random_bool(often)
    }));
}
