//! Whether there is an index to ask: closed, open, or on the way from one to the other.
//!
//! An administrator says what the index should be, by verb ([`IndexStates::create`], [`IndexStates::open`],
//! [`IndexStates::close`], [`IndexStates::online`], [`IndexStates::offline`]); getting there takes time, one [`IndexStep`] after the
//! other, and the wish may change on the way. So there is a *state* and a *target*, and after every
//! verb and every finished step the question "what now?". At most one step is under way. Nothing begins while the
//! volume is suspended; what is under way then ends, and the rest waits for [`IndexStates::resume`].
//!
//! The volume has one of these, on the thread that hears the administrator. Hash zones are told only what
//! [`IndexStates::answers_queries`] says.

/// What the user reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IndexWord {
    /// Not open, on purpose.
    Closed,
    /// On the way to closed.
    Closing,
    /// Not open, because opening or closing failed.
    Error,
    /// Open, but not asked: deduplication is switched off.
    Offline,
    /// Open, and asked.
    Online,
    /// On the way to open.
    Opening,
    /// The volume is suspended.
    Suspended,
    /// The volume has not come to its index yet.
    Unknown,
}

impl IndexWord {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            IndexWord::Closed => "closed",
            IndexWord::Closing => "closing",
            IndexWord::Error => "error",
            IndexWord::Offline => "offline",
            IndexWord::Online => "online",
            IndexWord::Opening => "opening",
            IndexWord::Suspended => "suspended",
            IndexWord::Unknown => "unknown",
        }
    }
}

impl std::fmt::Display for IndexWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What to do next with the index. Its end is told by [`IndexStates::opened`] or [`IndexStates::closed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IndexStep {
    /// Open it: load what is there, or with `create` begin an empty one.
    Open {
        /// Whether to begin an empty one.
        create: bool,
    },
    /// Save and close it.
    Close,
}

/// How an attempt to open the index ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpenResult {
    /// It is open.
    Opened,
    /// There is none, or none that can be used: an empty one may take its place.
    Missing,
    /// It was to be closed meanwhile, and has not been opened.
    Interrupted,
    /// It failed.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum IndexState {
    Closed,
    Changing,
    Opened,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Admin {
    /// Before [`IndexStates::start`].
    New,
    Normal,
    Suspended,
}

/// The state of a volume's index.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IndexStates {
    admin: Admin,
    state: IndexState,
    /// Whether it should be open.
    open_wanted: bool,
    /// The step under way.
    step: Option<IndexStep>,
    create: bool,
    deduplicate: bool,
    error: bool,
}

impl Default for IndexStates {
    fn default() -> Self {
        IndexStates::new()
    }
}

impl IndexStates {
    /// The index of a volume that is being opened: nothing is known of it.
    pub fn new() -> IndexStates {
        IndexStates {
            admin: Admin::New,
            state: IndexState::Closed,
            open_wanted: false,
            step: None,
            create: false,
            deduplicate: false,
            error: false,
        }
    }

    /// The volume is ready for its index. With `deduplicate` it is opened and asked; else it stays closed until
    /// somebody wants it. With `create` an empty one takes the place of what there may be.
    pub fn start(&mut self, deduplicate: bool, create: bool) -> Option<IndexStep> {
        self.admin = Admin::Normal;
        self.open_wanted = deduplicate;
        self.deduplicate = deduplicate;
        self.create = deduplicate && create;
        self.next()
    }

    /// Begin an empty index, forgetting all advice.
    pub fn create(&mut self) -> Option<IndexStep> {
        self.create = true;
        self.want(true)
    }

    /// Open the index, and ask it or not as before.
    pub fn open(&mut self) -> Option<IndexStep> {
        self.want(true)
    }

    /// Save and close the index.
    pub fn close(&mut self) -> Option<IndexStep> {
        self.want(false)
    }

    /// Deduplicate: open the index if need be, and ask it.
    pub fn online(&mut self) -> Option<IndexStep> {
        self.deduplicate = true;
        self.want(true)
    }

    /// Do not deduplicate: keep the index open, but do not ask it.
    pub fn offline(&mut self) -> Option<IndexStep> {
        self.deduplicate = false;
        self.want(true)
    }

    /// [`IndexStep::Open`] has ended.
    pub fn opened(&mut self, result: OpenResult) -> Option<IndexStep> {
        let Some(IndexStep::Open { create }) = self.step.take() else {
            return None;
        };
        match result {
            OpenResult::Opened => self.state = IndexState::Opened,
            OpenResult::Missing if !create => {
                self.state = IndexState::Closed;
                self.create = true;
            }
            OpenResult::Interrupted => self.state = IndexState::Closed,
            OpenResult::Missing | OpenResult::Failed => {
                self.state = IndexState::Closed;
                self.open_wanted = false;
                self.error = true;
            }
        }
        self.next()
    }

    /// [`IndexStep::Close`] has ended, in success if `saved`.
    pub fn closed(&mut self, saved: bool) -> Option<IndexStep> {
        let Some(IndexStep::Close) = self.step.take() else {
            return None;
        };
        self.state = IndexState::Closed;
        self.error |= !saved;
        self.next()
    }

    /// The index can be used no longer: it is closed, and that is an error.
    pub fn failed(&mut self) -> Option<IndexStep> {
        self.error = true;
        self.want(false)
    }

    /// The volume is suspended: no step begins. Says whether the index is open or may become so, and is
    /// to be saved.
    pub fn suspend(&mut self) -> bool {
        self.admin = Admin::Suspended;
        self.state != IndexState::Closed
    }

    /// The volume goes on, with deduplication as its configuration has it.
    pub fn resume(&mut self, deduplicate: bool) -> Option<IndexStep> {
        self.admin = Admin::Normal;
        self.deduplicate |= deduplicate;
        self.want(deduplicate)
    }

    /// Whether it is open, and no step is under way.
    pub fn is_open(&self) -> bool {
        self.state == IndexState::Opened
    }

    /// Whether it should be open.
    pub fn is_open_wanted(&self) -> bool {
        self.open_wanted && self.admin == Admin::Normal
    }

    /// Whether a step is under way.
    pub fn is_changing(&self) -> bool {
        self.step.is_some()
    }

    /// Whether hash zones may ask the index now.
    pub fn answers_queries(&self) -> bool {
        self.deduplicate && self.admin == Admin::Normal && self.state == IndexState::Opened
    }

    /// What the user reads.
    pub fn word(&self) -> IndexWord {
        match (self.admin, self.state) {
            (Admin::New, _) => IndexWord::Unknown,
            (Admin::Suspended, _) => IndexWord::Suspended,
            (Admin::Normal, IndexState::Closed) if self.error => IndexWord::Error,
            (Admin::Normal, IndexState::Closed) => IndexWord::Closed,
            (Admin::Normal, IndexState::Changing) if self.open_wanted => IndexWord::Opening,
            (Admin::Normal, IndexState::Changing) => IndexWord::Closing,
            (Admin::Normal, IndexState::Opened) if self.deduplicate => IndexWord::Online,
            (Admin::Normal, IndexState::Opened) => IndexWord::Offline,
        }
    }

    fn want(&mut self, open: bool) -> Option<IndexStep> {
        self.open_wanted = open;
        self.next()
    }

    /// The next step towards the target, if one is needed and allowed and none is under way.
    fn next(&mut self) -> Option<IndexStep> {
        if self.admin != Admin::Normal || self.step.is_some() {
            return None;
        }
        let step = match self.state {
            IndexState::Opened if self.create || !self.open_wanted => IndexStep::Close,
            IndexState::Closed if self.create || self.open_wanted => {
                self.error = false;
                IndexStep::Open {
                    create: std::mem::take(&mut self.create),
                }
            }
            IndexState::Opened | IndexState::Closed | IndexState::Changing => return None,
        };
        self.state = IndexState::Changing;
        self.step = Some(step);
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Option<IndexStep> = Some(IndexStep::Open { create: false });
    const CREATE: Option<IndexStep> = Some(IndexStep::Open { create: true });
    const CLOSE: Option<IndexStep> = Some(IndexStep::Close);

    fn online() -> IndexStates {
        let mut index = IndexStates::new();
        assert_eq!(index.start(true, false), LOAD);
        assert_eq!(index.word(), IndexWord::Opening);
        assert_eq!(index.opened(OpenResult::Opened), None);
        assert_eq!(index.word(), IndexWord::Online);
        assert!(index.answers_queries());
        index
    }

    #[test]
    fn before_the_start_nothing_is_known_and_nothing_begins() {
        let mut index = IndexStates::new();
        assert_eq!(index.word(), IndexWord::Unknown);
        assert_eq!(index.online(), None);
        assert!(!index.answers_queries());
    }

    #[test]
    fn a_volume_without_deduplication_leaves_its_index_closed() {
        let mut index = IndexStates::new();
        assert_eq!(index.start(false, true), None);
        assert_eq!(index.word(), IndexWord::Closed);
        assert_eq!(index.online(), LOAD);
    }

    #[test]
    fn an_index_that_is_missing_is_created() {
        let mut index = IndexStates::new();
        assert_eq!(index.start(true, false), LOAD);
        assert_eq!(index.opened(OpenResult::Missing), CREATE);
        assert_eq!(index.word(), IndexWord::Opening);
        assert_eq!(index.opened(OpenResult::Opened), None);
        assert_eq!(index.word(), IndexWord::Online);
    }

    #[test]
    fn a_failure_is_shown_until_the_next_attempt_and_is_not_repeated_by_itself() {
        let mut index = IndexStates::new();
        assert_eq!(index.start(true, false), LOAD);
        assert_eq!(index.opened(OpenResult::Failed), None);
        assert_eq!(index.word(), IndexWord::Error);
        assert!(!index.answers_queries());
        assert_eq!(index.open(), LOAD);
        assert_eq!(index.opened(OpenResult::Missing), CREATE);
        assert_eq!(index.opened(OpenResult::Missing), None);
        assert_eq!(index.word(), IndexWord::Error);
        assert_eq!(index.create(), CREATE);
        assert_eq!(index.opened(OpenResult::Opened), None);
        assert_eq!(index.word(), IndexWord::Online);
    }

    #[test]
    fn an_opening_that_is_interrupted_leaves_it_closed_and_can_be_begun_again() {
        let mut index = IndexStates::new();
        assert_eq!(index.start(true, false), LOAD);
        assert_eq!(index.close(), None);
        assert!(!index.is_open_wanted());
        assert_eq!(index.opened(OpenResult::Interrupted), None);
        assert_eq!(index.word(), IndexWord::Closed);
        assert_eq!(index.open(), LOAD);
        assert_eq!((index.close(), index.open()), (None, None));
        assert_eq!(index.opened(OpenResult::Interrupted), LOAD);
    }

    #[test]
    fn one_that_fails_is_closed_and_shows_it() {
        let mut index = online();
        assert_eq!(index.failed(), CLOSE);
        assert!(!index.answers_queries());
        assert_eq!(index.closed(false), None);
        assert_eq!(index.word(), IndexWord::Error);
        assert_eq!(index.open(), LOAD);
        assert_eq!(index.word(), IndexWord::Opening);
    }

    #[test]
    fn offline_keeps_it_open_unasked_and_online_asks_again() {
        let mut index = online();
        assert_eq!(index.offline(), None);
        assert_eq!(index.word(), IndexWord::Offline);
        assert!(!index.answers_queries());
        assert_eq!(index.online(), None);
        assert_eq!(index.word(), IndexWord::Online);
    }

    #[test]
    fn offline_opens_a_closed_index_without_asking_it() {
        let mut index = online();
        assert_eq!(index.close(), CLOSE);
        assert_eq!(index.word(), IndexWord::Closing);
        assert!(!index.answers_queries());
        assert_eq!(index.closed(true), None);
        assert_eq!(index.word(), IndexWord::Closed);
        assert_eq!(index.offline(), LOAD);
        assert_eq!(index.opened(OpenResult::Opened), None);
        assert_eq!(index.word(), IndexWord::Offline);
    }

    #[test]
    fn create_replaces_an_open_index() {
        let mut index = online();
        assert_eq!(index.create(), CLOSE);
        assert_eq!(index.closed(true), CREATE);
        assert_eq!(index.opened(OpenResult::Opened), None);
        assert_eq!(index.word(), IndexWord::Online);
    }

    #[test]
    fn a_changed_mind_is_followed_when_the_step_under_way_ends() {
        let mut index = online();
        assert_eq!(index.close(), CLOSE);
        assert_eq!(index.open(), None);
        assert!(index.is_changing());
        assert_eq!(index.word(), IndexWord::Opening);
        assert_eq!(index.closed(false), LOAD);
        assert_eq!(index.close(), None);
        assert_eq!(index.opened(OpenResult::Opened), CLOSE);
        assert_eq!(index.closed(false), None);
        assert_eq!(index.word(), IndexWord::Error, "its end was not saved");
    }

    #[test]
    fn while_suspended_a_step_ends_but_none_begins() {
        let mut index = online();
        assert_eq!(index.close(), CLOSE);
        assert!(index.suspend(), "it is not closed yet");
        assert_eq!(index.word(), IndexWord::Suspended);
        assert_eq!(index.open(), None);
        assert_eq!(index.closed(true), None);
        assert!(!index.suspend());
        assert_eq!(index.resume(true), LOAD);
        assert_eq!(index.opened(OpenResult::Opened), None);
        assert_eq!(index.word(), IndexWord::Online);
        assert!(index.suspend());
        assert!(!index.answers_queries());
        assert_eq!(index.resume(false), CLOSE);
        assert_eq!(index.closed(true), None);
        assert_eq!(index.word(), IndexWord::Closed);
    }

    #[test]
    fn an_end_that_nobody_awaits_changes_nothing() {
        let mut index = online();
        let before = index.clone();
        assert_eq!(index.opened(OpenResult::Failed), None);
        assert_eq!(index.closed(false), None);
        assert_eq!(index, before);
    }
}
