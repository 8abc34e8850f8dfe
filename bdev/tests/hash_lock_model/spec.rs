//! How a world is laid out: its requests, its blocks, and how much may go wrong.

/// What a block holds: a number that stands for 4096 bytes.
pub(crate) type Data = u8;

/// What somebody else wrote.
pub(crate) const JUNK: Data = 255;

/// One request of a world.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Writer {
    /// Which name its data has.
    pub(crate) name: u8,
    /// Its data. Different data under one name is a collision.
    pub(crate) data: Data,
    /// Whether it holds an allocation.
    pub(crate) allocated: bool,
}

/// What the index is like.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Index {
    /// Answers, or does not, as it likes.
    On,
    /// Answers through so many dedupe contexts, in time, late or never; each can be found overdue.
    Contexts(u32),
    /// Switched off.
    Off,
}

/// The size and the rules of one world.
#[derive(Clone)]
pub(crate) struct Spec {
    /// What is special about it.
    pub(crate) title: &'static str,
    /// The requests.
    pub(crate) writers: Vec<Writer>,
    /// What the block that the index knows for name 0 holds, and how many references it has.
    pub(crate) old: Option<(Data, u8)>,
    /// How many references a block can have.
    pub(crate) most_references: u8,
    /// Whether agents may be packed.
    pub(crate) compression: bool,
    /// The index.
    pub(crate) index: Index,
    /// How many answers may be failures.
    pub(crate) errors: u8,
    /// How often somebody else may take over a block nobody protects.
    pub(crate) reuses: u8,
    /// How many updates the index may lose.
    pub(crate) losses: u8,
}
