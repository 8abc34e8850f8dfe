//! What a seed stands for: the shape of a volume, how it is run, and what is done to it.
//!
//! Everything is made small on purpose: caches of a few pages, slabs of a few hundred blocks, journals that
//! wrap around every few hundred writes, fewer request slots than callers. What is a rare corner of a large volume
//! is the daily bread of these.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;
use vdo::format::FormatOptions;
use vdo::format::tree::ENTRIES_PER_PAGE;
use vdo::seam::Nanos;
use vdo::volume::{FormatPolicy, OpenRequest, RecoveryPolicy, VolumeOptions};

/// The nonce of simulated volumes.
pub const NONCE: u64 = 7;

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// Reads of data fail.
    DataReads,
    /// Writes of data fail.
    DataWrites,
    /// Reads of metadata fail.
    MetadataReads,
    /// Writes of metadata fail.
    MetadataWrites,
    /// Flushes fail.
    Flushes,
    /// Discards fail.
    Discards,
    /// Anything fails.
    Anything,
}

impl Trouble {
    /// Whether it is none that a caller could hear of by a write.
    pub fn is_harmless(self) -> bool {
        matches!(self, Trouble::None | Trouble::DataReads | Trouble::Discards)
    }

    /// Whether a caller may be told of an error.
    pub fn is_heard_of(self) -> bool {
        !matches!(self, Trouble::None | Trouble::Discards)
    }
}

/// Whether an option is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Never.
    Off,
    /// All the time.
    On,
    /// Switched on and off on the way.
    Switched,
}

impl Switch {
    fn random(random: &mut ChaCha8Rng) -> Switch {
        let all = [Switch::Off, Switch::On, Switch::Switched];
        *all.choose(random).expect("not empty")
    }
}

/// Slabs that may be read before a volume takes requests: none but what must, or all.
const READ_FIRST: [u32; 3] = [0, 1, 64];

/// What a seed stands for.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Zone threads of each life of the volume, from opening to shutting down.
    pub lives: Vec<u8>,
    /// Request slots, all zone threads together.
    pub requests: u32,
    /// Block-map pages in memory, all zone threads together.
    pub cache_pages: u32,
    /// Journal blocks after which a changed page is written.
    pub maximum_age: u32,
    /// Slabs that a zone thread reads before it takes requests.
    pub slabs_read_first: u32,
    /// The shape of the volume.
    pub format: FormatOptions,
    /// Blocks of the base device.
    pub device_blocks: u64,
    /// Leaf pages of the block map that are used, by number.
    pub leaves: Vec<u64>,
    /// Blocks used of each.
    pub blocks_per_leaf: u64,
    /// How many different blocks of data there are to share.
    pub pool: u64,
    /// How often a block is one of those, and not new.
    pub sharing: f64,
    /// Requests of callers in each life.
    pub operations: u32,
    /// Requests of callers under way at once, at most.
    pub callers: usize,
    /// The most blocks of a request.
    pub longest: u64,
    /// At most so many nanoseconds pass with each step.
    pub pace: u64,
    /// Whether new data is compressed. If it ever is, each block of data compresses by 0 to 99 percent.
    pub compression: Switch,
    /// Whether freed blocks are discarded on the base device.
    pub discard_freed: Switch,
    /// How long after they were freed, in nanoseconds.
    pub discard_delay: u64,
    /// Whether the index is slow, silent, failing, closed and opened on the way.
    pub moody_index: bool,
    /// What goes wrong.
    pub trouble: Trouble,
    /// Whether there are surely blocks enough for everything.
    pub roomy: bool,
    /// Whether losses of power are tried out on the way.
    pub power: bool,
    /// Whether the volume grows on the way.
    pub grows: bool,
}

/// What a profile is limited to, to make a failing seed smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests of each life.
    pub requests: Option<u64>,
    /// Leaf pages of the block map that are used.
    pub leaves: Option<u64>,
    /// Blocks used of each.
    pub blocks: Option<u64>,
    /// Zone threads.
    pub zones: Option<u64>,
}

impl std::fmt::Display for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let options = [
            ("requests", self.requests),
            ("leaves", self.leaves),
            ("blocks", self.blocks),
            ("zones", self.zones),
        ];
        let given = options
            .iter()
            .filter_map(|(name, value)| Some((name, (*value)?)));
        for (index, (name, value)) in given.enumerate() {
            let space = if index > 0 { " " } else { "" };
            write!(f, "{space}--{name} {value}")?;
        }
        Ok(())
    }
}

impl Profile {
    /// The same, with less of everything.
    pub fn limit(&mut self, limits: Limits) {
        let at_most = |limit: Option<u64>| limit.unwrap_or(u64::MAX).max(1);
        let requests = at_most(limits.requests).min(u64::from(u32::MAX)) as u32;
        self.operations = self.operations.min(requests);
        self.leaves.truncate(at_most(limits.leaves) as usize);
        self.blocks_per_leaf = self.blocks_per_leaf.min(at_most(limits.blocks));
        let zones = at_most(limits.zones).min(u64::from(u8::MAX)) as u8;
        self.lives
            .iter_mut()
            .for_each(|life| *life = (*life).min(zones));
    }

    /// The same volume, brought up again with other zones and another cache.
    pub fn run_otherwise(&mut self, random: &mut ChaCha8Rng) -> u8 {
        self.cache_pages = random.random_range(2..=16);
        self.maximum_age = *[1, 2, 8, 1000].choose(random).expect("not empty");
        self.slabs_read_first = *READ_FIRST.choose(random).expect("not empty");
        *self.lives.choose(random).expect("there is a life")
    }

    /// The profile of a seed that loses power.
    pub fn of_losses(random: &mut ChaCha8Rng) -> Profile {
        let mut profile = Profile::random(random);
        profile.trouble = Trouble::None;
        profile.power = false;
        profile.blocks_per_leaf = profile.blocks_per_leaf.min(100);
        // Its callers go on for longer than was reckoned with.
        profile.roomy = false;
        if random.random_bool(0.3) {
            // Journals that are full all the time, so that those of slabs are asked for their last blocks, and wrap.
            profile.format.recovery_journal_blocks = 8;
            profile.format.slab_journal_blocks = 4;
        }
        if random.random_bool(0.4) {
            // Counters of several sectors, of which some may be torn; and so much new data that all sectors are used.
            profile.operations *= 2;
            profile.sharing = profile.sharing.min(0.5);
            profile.longest = profile.longest.max(16);
            let slabs = (profile.device_blocks / profile.format.slab_blocks).min(4);
            profile.format.slab_blocks *= 8;
            let least = profile.format.minimum_device_blocks();
            let least = least.expect("the miniature index can be made");
            profile.device_blocks = least + slabs * profile.format.slab_blocks;
        }
        // As many zones as there are slabs for.
        let most = profile.lives.iter().copied().max().unwrap_or(1);
        profile.lives = (1..=most).collect();
        profile
    }

    /// The profile of a seed.
    pub fn random(random: &mut ChaCha8Rng) -> Profile {
        // What options came later is drawn from a stream of its own, so that a seed stands for what it always stood for.
        let mut later = random.clone();
        later.set_stream(1);
        let zones = |random: &mut ChaCha8Rng| *[1, 1, 2, 3, 4].choose(random).expect("not empty");
        let lives: Vec<u8> = (0..random.random_range(1..=3))
            .map(|_| zones(random))
            .collect();
        let leaf_count: u64 = random.random_range(1..=8);
        // Side by side, or so far apart that whole subtrees lie between.
        let apart = *[1, 1, 7, 5_000, 100_000].choose(random).expect("not empty");
        let leaves = (0..leaf_count)
            .map(|leaf| leaf * random.random_range(1..=apart))
            .collect::<std::collections::BTreeSet<u64>>();
        let leaves: Vec<u64> = leaves.into_iter().collect();
        let blocks_per_leaf = *[4, 16, 60, 300].choose(random).expect("not empty");
        // One block of data, almost everywhere: more references than a block can have.
        let crowd = random.random_bool(0.15);
        let blocks_per_leaf = if crowd { 500 } else { blocks_per_leaf };
        let slab_blocks: u64 = *[128, 256, 512].choose(random).expect("not empty");
        let slab_journal: u64 = *[4, 8, 16, 32].choose(random).expect("not empty");
        let journal: u64 = *[8, 16, 32].choose(random).expect("not empty");
        let requests = *[4, 16, 64, 200].choose(random).expect("not empty");
        let mut format = FormatOptions::miniature(slab_blocks, slab_journal, journal);
        format.logical_blocks = Some((leaves[leaves.len() - 1] + 1) * ENTRIES_PER_PAGE);
        format.index.sparse = later.random_bool(0.3);
        let longest = match crowd {
            true => 64,
            false => *[1, 4, 64].choose(random).expect("not empty"),
        };
        let used = leaves.len() as u64 * blocks_per_leaf;
        // The last request of a leaf may go on beyond these.
        let beyond = leaves.len() as u64 * longest;
        let tree = 4 * leaves.len() as u64;
        let roomy = random.random_bool(0.6);
        let wanted = match roomy {
            true => tree + 2 * (used + beyond + u64::from(requests)) + 64,
            false => tree + random.random_range(used / 4 + 1..used + 2),
        };
        let zones_at_most = lives.iter().copied().max().unwrap_or(1);
        let slabs = wanted
            .div_ceil(slab_blocks - slab_journal - 1)
            .max(u64::from(zones_at_most));
        let least = format
            .minimum_device_blocks()
            .expect("the miniature index can be made");
        let trouble = match random.random_range(0..20) {
            0 => Trouble::DataReads,
            1 => Trouble::DataWrites,
            2 => Trouble::MetadataReads,
            3 => Trouble::MetadataWrites,
            4 => Trouble::Flushes,
            5 => Trouble::Anything,
            6 => Trouble::Discards,
            _ => Trouble::None,
        };
        let mut profile = Profile {
            lives,
            requests,
            cache_pages: random.random_range(2..=16),
            maximum_age: *[1, 2, 8, 1000].choose(random).expect("not empty"),
            format,
            device_blocks: least + (slabs - 1) * slab_blocks,
            leaves,
            blocks_per_leaf,
            pool: match crowd {
                true => random.random_range(1..=2),
                false => *[1, 2, 6, 40].choose(random).expect("not empty"),
            },
            sharing: match crowd {
                true => 0.99,
                false => *[0.0, 0.5, 0.9, 1.0].choose(random).expect("not empty"),
            },
            operations: random.random_range(100..800),
            callers: *[1, 8, 64, 400].choose(random).expect("not empty"),
            longest,
            pace: *[100, 20_000, 2_000_000].choose(random).expect("not empty"),
            compression: Switch::random(random),
            discard_freed: Switch::random(&mut later),
            discard_delay: *[0, 50_000, 100_000_000]
                .choose(&mut later)
                .expect("not empty"),
            moody_index: random.random_bool(0.5),
            trouble,
            roomy,
            power: trouble == Trouble::None && random.random_bool(0.3),
            grows: false,
            slabs_read_first: *READ_FIRST.choose(&mut later).expect("not empty"),
        };
        // (A page that was made and never written, for want of room, cannot be told from data whose reads are to fail.)
        if later.random_bool(0.3) && profile.trouble != Trouble::DataReads {
            // What is written in new parts was not reckoned with.
            profile.grows = true;
            profile.roomy = false;
        }
        profile
    }

    /// What to ask of the device.
    pub fn request(&self) -> OpenRequest {
        OpenRequest {
            policy: FormatPolicy::IfBlank,
            format: self.format,
            nonce: NONCE,
            uuid: Uuid::from_u128(9),
            slabs_wanted: 1,
            recovery: RecoveryPolicy::Recover {
                cache_blocks: self.cache_pages,
            },
            available_memory: u64::MAX,
            deduplication: true,
        }
    }

    /// How to run the volume.
    pub fn options(&self, zones: u8) -> VolumeOptions {
        VolumeOptions {
            name: "sim".into(),
            zones,
            block_map_cache_blocks: self.cache_pages,
            block_map_maximum_age: self.maximum_age,
            requests: self.requests,
            slabs_read_first: self.slabs_read_first,
            compression: self.compression == Switch::On,
            discard_freed: self.discard_freed == Switch::On,
            discard_delay: Nanos(self.discard_delay),
            ..VolumeOptions::default()
        }
    }
}
