//! The seam between a volume and its deduplication index.
//!
//! What is asked, and how it is answered. The semantics of the requests are those of UDS, the index of dm-vdo, whose records age: an
//! index of bounded size forgets the records that were neither written nor found for longest.

use crate::error::IndexError;
use crate::seam::Nanos;
use crate::types::{Mapping, RecordName};

/// Names one request from submission to answer; the asker's own number.
pub type IndexToken = u32;

/// What is asked of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexOp {
    /// What is known of this name? If nothing, remember `new`. What is found becomes recent.
    Post,
    /// What is known of this name? What is found becomes recent.
    Query,
    /// Remember `new` from now on, whatever was known, as most recent.
    Update,
    /// What is known of this name? Nothing changes, not even how recent it is.
    Peek,
}

/// A request to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexRequest {
    /// What is asked.
    pub op: IndexOp,
    /// The name of the content.
    pub name: RecordName,
    /// Where the content is, as the asker knows: for posts and updates.
    pub new: Mapping,
    /// Returned with the answer.
    pub token: IndexToken,
}

impl IndexRequest {
    /// That a block with this name is about to be written at `new`, unless there is one already.
    #[inline]
    pub fn post(name: RecordName, new: Mapping) -> IndexRequest {
        IndexRequest {
            op: IndexOp::Post,
            name,
            new,
            token: 0,
        }
    }
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexAnswer {
    /// The token of the request.
    pub token: IndexToken,
    /// What the index knew before the request, if anything.
    pub advice: Result<Option<Mapping>, IndexError>,
}

/// How the index answers: promptly, unless someone wants to see what happens otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerMode {
    /// As soon as it can.
    #[default]
    Prompt,
    /// So long after it could have.
    Delayed(Nanos),
    /// Not at all. What is withheld is answered when another mode is set, or as
    /// [`IndexError::Abandoned`] when the index is closed.
    Never,
    /// With [`IndexError::Injected`], and without having done what was asked.
    Fail,
}
