//! An index shard that keeps its records in memory and nowhere else.
//!
//! It is born closed, without records. Created, it takes its memory (see [`super::table`] for how
//! much that is, and when it is touched) and forgets what it knew; opened, it goes on with what it knew
//! when it was closed, which after a start of the program is nothing. Requests wait from
//! their submission to the next poll, which answers them in order, through an [`AnswerQueue`].

use super::answers::AnswerQueue;
use super::seam::{
    AnswerMode, DedupeIndex, IndexAnswer, IndexError, IndexEvent, IndexOp, IndexRequest, IndexVerb,
    ShardConfig,
};
use super::table::RecordTable;
use crate::seam::Nanos;
use crate::stats::IndexStatistics;
use crate::types::Mapping;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ShardState {
    Closed,
    Open,
    /// Suspended, and whether it was open before.
    Suspended {
        open: bool,
    },
}

/// One shard of an index in memory.
#[derive(Debug)]
pub struct MemoryIndex {
    memory_bytes: u64,
    state: ShardState,
    /// The verb under way.
    verb: Option<IndexVerb>,
    /// Verbs that came while another was under way, to be refused.
    refused: Vec<IndexVerb>,
    table: Option<RecordTable>,
    /// What the table had discarded when the index was opened.
    discarded_before: u64,
    inbox: Vec<IndexRequest>,
    answers: AnswerQueue,
    statistics: IndexStatistics,
}

impl MemoryIndex {
    /// A closed shard. Its share of the memory is what the whole index may take, divided by the
    /// number of shards.
    pub fn new(config: &ShardConfig) -> MemoryIndex {
        MemoryIndex {
            memory_bytes: config.memory_bytes / u64::from(config.zones.max(1)),
            state: ShardState::Closed,
            verb: None,
            refused: Vec::new(),
            table: None,
            discarded_before: 0,
            inbox: Vec::with_capacity(config.requests),
            answers: AnswerQueue::new(config.requests),
            statistics: IndexStatistics::default(),
        }
    }

    /// Bytes of memory it holds: its records as far as there are any, and room for questions.
    pub fn memory_held(&self) -> u64 {
        let inbox = self.inbox.capacity() * size_of::<IndexRequest>();
        let records = self.table.as_ref().map_or(0, RecordTable::memory_bytes);
        records + (inbox + self.answers.memory_held()) as u64
    }

    /// The records the shard can hold.
    pub fn capacity(&self) -> u64 {
        RecordTable::capacity_of(self.memory_bytes)
    }

    /// The store, once the shard has been created or opened.
    pub fn table(&self) -> Option<&RecordTable> {
        self.table.as_ref()
    }

    #[inline]
    fn perform(&mut self, request: &IndexRequest) -> Result<Option<Mapping>, IndexError> {
        if self.answers.mode() == AnswerMode::Fail {
            return Err(IndexError::Injected);
        }
        let table = match (self.state, &mut self.table) {
            (ShardState::Open, Some(table)) => table,
            (ShardState::Suspended { .. }, _) => return Err(IndexError::Suspended),
            _ => return Err(IndexError::NotOpen),
        };
        let counts = &mut self.statistics;
        let (advice, found, not_found) = match request.op {
            IndexOp::Post => (
                table.post(&request.name, request.new)?,
                &mut counts.posts_found,
                &mut counts.posts_not_found,
            ),
            IndexOp::Update => (
                table.update(&request.name, request.new)?,
                &mut counts.updates_found,
                &mut counts.updates_not_found,
            ),
            IndexOp::Query => (
                table.query(&request.name),
                &mut counts.queries_found,
                &mut counts.queries_not_found,
            ),
            IndexOp::Peek => (
                table.peek(&request.name),
                &mut counts.queries_found,
                &mut counts.queries_not_found,
            ),
        };
        *(if advice.is_some() { found } else { not_found }) += 1;
        Ok(advice)
    }

    /// Answers what was submitted, oldest first.
    fn serve(&mut self, now: Nanos, out: &mut dyn FnMut(IndexEvent)) -> bool {
        if self.inbox.is_empty() {
            return false;
        }
        // Put back below, so that it is never allocated again.
        let mut inbox = std::mem::take(&mut self.inbox);
        for request in inbox.drain(..) {
            let advice = self.perform(&request);
            let answer = IndexAnswer {
                token: request.token,
                advice,
            };
            if self.answers.is_open() {
                out(IndexEvent::Answer(answer));
            } else {
                self.answers.push(answer, now);
            }
        }
        self.inbox = inbox;
        true
    }

    /// Ends the verb under way if it can end now.
    fn finish_verb(&mut self, out: &mut dyn FnMut(IndexEvent)) -> bool {
        let Some(verb) = self.verb else { return false };
        if matches!(verb, IndexVerb::Close | IndexVerb::Suspend { .. }) {
            while let Some(answer) = self.answers.pop_abandoned() {
                out(IndexEvent::Answer(answer));
            }
            if !self.answers.is_empty() {
                return false;
            }
        }
        self.verb = None;
        let result = self.carry_out(verb);
        out(IndexEvent::Done(verb, result));
        true
    }

    fn carry_out(&mut self, verb: IndexVerb) -> Result<(), IndexError> {
        match (verb, self.state) {
            (IndexVerb::Create | IndexVerb::Open, ShardState::Open) => {
                return Err(IndexError::AlreadyOpen);
            }
            (
                IndexVerb::Create | IndexVerb::Open | IndexVerb::Close,
                ShardState::Suspended { .. },
            ) => {
                return Err(IndexError::Suspended);
            }
            (IndexVerb::Create | IndexVerb::Open, ShardState::Closed) => {
                if verb == IndexVerb::Create || self.table.is_none() {
                    // The old table goes first: there may not be memory for two.
                    self.table = None;
                    self.table = Some(RecordTable::new(self.memory_bytes)?);
                }
                self.discarded_before = self.table.as_ref().map_or(0, RecordTable::discarded);
                self.statistics = IndexStatistics::default();
                self.state = ShardState::Open;
            }
            (IndexVerb::Close, ShardState::Closed) => return Err(IndexError::NotOpen),
            (IndexVerb::Close, ShardState::Open) => self.state = ShardState::Closed,
            (IndexVerb::Suspend { .. }, ShardState::Suspended { .. }) => {}
            (IndexVerb::Suspend { .. }, state) => {
                self.state = ShardState::Suspended {
                    open: state == ShardState::Open,
                };
            }
            (IndexVerb::Resume, ShardState::Suspended { open: true }) => {
                self.state = ShardState::Open
            }
            (IndexVerb::Resume, ShardState::Suspended { open: false }) => {
                self.state = ShardState::Closed
            }
            (IndexVerb::Resume, _) => {}
        }
        Ok(())
    }
}

impl DedupeIndex for MemoryIndex {
    fn start(&mut self, verb: IndexVerb) {
        if self.verb.is_none() {
            self.verb = Some(verb);
        } else {
            self.refused.push(verb);
        }
    }

    #[inline]
    fn answer_now(
        &mut self,
        request: &IndexRequest,
    ) -> Option<Result<Option<Mapping>, IndexError>> {
        let at_once = self.verb.is_none()
            && self.inbox.is_empty()
            && self.answers.is_open()
            && self.answers.is_empty();
        at_once.then(|| self.perform(request))
    }

    #[inline]
    fn submit(&mut self, request: IndexRequest) {
        if matches!(
            self.verb,
            Some(IndexVerb::Close | IndexVerb::Suspend { .. })
        ) {
            let answer = IndexAnswer {
                token: request.token,
                advice: Err(IndexError::Busy),
            };
            self.answers.push(answer, Nanos(0));
        } else {
            self.inbox.push(request);
        }
    }

    fn poll(&mut self, now: Nanos, out: &mut dyn FnMut(IndexEvent)) -> bool {
        let mut worked = self.serve(now, out);
        while let Some(answer) = self.answers.pop_due(now) {
            out(IndexEvent::Answer(answer));
            worked = true;
        }
        for verb in self.refused.drain(..) {
            out(IndexEvent::Done(verb, Err(IndexError::Busy)));
            worked = true;
        }
        self.finish_verb(out) || worked
    }

    fn next_wakeup(&self) -> Option<Nanos> {
        if !self.inbox.is_empty() || !self.refused.is_empty() {
            return Some(Nanos(0));
        }
        match (self.verb, self.answers.mode()) {
            (Some(IndexVerb::Create | IndexVerb::Open | IndexVerb::Resume), _)
            | (Some(_), AnswerMode::Never) => Some(Nanos(0)),
            (Some(_), _) if self.answers.is_empty() => Some(Nanos(0)),
            _ => self.answers.next_due(),
        }
    }

    fn statistics(&self) -> IndexStatistics {
        let mut statistics = self.statistics;
        if let Some(table) = &self.table {
            statistics.entries_indexed = table.entries();
            statistics.entries_discarded = table.discarded() - self.discarded_before;
        }
        statistics
    }

    fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    fn set_answer_mode(&mut self, mode: AnswerMode) {
        self.answers.set_mode(mode);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::seam::{INDEX_GIGABYTE, IndexRegion};
    use crate::types::{MappingState, Pbn, RecordName, ZoneIndex};

    fn shard(memory_bytes: u64, zones: u8) -> MemoryIndex {
        MemoryIndex::new(&ShardConfig {
            memory_bytes,
            sparse: false,
            region: IndexRegion::default(),
            nonce: 1,
            zone: ZoneIndex(0),
            zones,
            requests: 8,
        })
    }

    fn poll(index: &mut MemoryIndex, now: u64) -> Vec<IndexEvent> {
        let mut events = Vec::new();
        index.poll(Nanos(now), &mut |event| events.push(event));
        events
    }

    fn told(index: &mut MemoryIndex, verb: IndexVerb) -> Result<(), IndexError> {
        index.start(verb);
        assert_eq!(index.next_wakeup(), Some(Nanos(0)));
        match poll(index, 0)[..] {
            [IndexEvent::Done(done, result)] if done == verb => result,
            ref events => panic!("{verb:?} came out as {events:?}"),
        }
    }

    fn open() -> MemoryIndex {
        let mut index = shard(1 << 20, 1);
        assert_eq!(told(&mut index, IndexVerb::Create), Ok(()));
        index
    }

    fn request(op: IndexOp, content: u8, pbn: u64) -> IndexRequest {
        IndexRequest {
            op,
            name: RecordName([content; 16]),
            new: block(pbn),
            token: u32::from(content),
        }
    }

    fn block(pbn: u64) -> Mapping {
        Mapping {
            pbn: Pbn(pbn),
            state: MappingState::UNCOMPRESSED,
        }
    }

    fn answer(content: u8, advice: Result<Option<Mapping>, IndexError>) -> IndexEvent {
        IndexEvent::Answer(IndexAnswer {
            token: u32::from(content),
            advice,
        })
    }

    #[test]
    fn answers_come_from_poll_and_say_what_was_known() {
        let mut index = open();
        for (op, pbn) in [
            (IndexOp::Query, 0),
            (IndexOp::Post, 10),
            (IndexOp::Post, 20),
            (IndexOp::Update, 30),
            (IndexOp::Query, 0),
            (IndexOp::Peek, 0),
        ] {
            index.submit(request(op, 1, pbn));
        }
        assert_eq!(index.next_wakeup(), Some(Nanos(0)));
        assert_eq!(
            poll(&mut index, 0),
            [
                answer(1, Ok(None)),
                answer(1, Ok(None)),
                answer(1, Ok(Some(block(10)))),
                answer(1, Ok(Some(block(10)))),
                answer(1, Ok(Some(block(30)))),
                answer(1, Ok(Some(block(30)))),
            ]
        );
        assert_eq!(index.next_wakeup(), None);
        assert_eq!(poll(&mut index, 0), []);
        assert_eq!(
            index.statistics(),
            IndexStatistics {
                entries_indexed: 1,
                posts_found: 1,
                posts_not_found: 1,
                queries_found: 2,
                queries_not_found: 1,
                updates_found: 1,
                ..IndexStatistics::default()
            }
        );
    }

    #[test]
    fn a_slow_index_answers_when_the_delay_has_passed() {
        let mut index = open();
        index.set_answer_mode(AnswerMode::Delayed(Nanos(1000)));
        index.submit(request(IndexOp::Post, 1, 10));
        assert_eq!(poll(&mut index, 500), []);
        assert_eq!(index.next_wakeup(), Some(Nanos(1500)));
        index.submit(request(IndexOp::Post, 1, 20));
        assert_eq!(poll(&mut index, 1499), []);
        assert_eq!(poll(&mut index, 1500), [answer(1, Ok(None))]);
        assert_eq!(poll(&mut index, 2499), [answer(1, Ok(Some(block(10))))]);
    }

    #[test]
    fn a_silent_index_answers_when_told_to_speak() {
        let mut index = open();
        index.set_answer_mode(AnswerMode::Never);
        index.submit(request(IndexOp::Post, 1, 10));
        assert_eq!(poll(&mut index, u64::MAX), []);
        assert_eq!(index.next_wakeup(), None);
        index.set_answer_mode(AnswerMode::Prompt);
        assert!(index.next_wakeup().is_some());
        assert_eq!(poll(&mut index, u64::MAX), [answer(1, Ok(None))]);
    }

    #[test]
    fn a_failing_index_changes_nothing_and_recovers() {
        let mut index = open();
        index.set_answer_mode(AnswerMode::Fail);
        index.submit(request(IndexOp::Post, 1, 10));
        assert_eq!(poll(&mut index, 0), [answer(1, Err(IndexError::Injected))]);
        index.set_answer_mode(AnswerMode::Prompt);
        index.submit(request(IndexOp::Query, 1, 0));
        assert_eq!(poll(&mut index, 0), [answer(1, Ok(None))]);
    }

    #[test]
    fn closing_waits_for_slow_answers_and_abandons_silent_ones() {
        let mut index = open();
        index.set_answer_mode(AnswerMode::Delayed(Nanos(1000)));
        index.submit(request(IndexOp::Post, 1, 10));
        assert_eq!(poll(&mut index, 0), []);
        index.start(IndexVerb::Close);
        index.submit(request(IndexOp::Post, 2, 10));
        assert_eq!(poll(&mut index, 999), []);
        assert_eq!(index.next_wakeup(), Some(Nanos(1000)));
        assert_eq!(
            poll(&mut index, 1000),
            [
                answer(1, Ok(None)),
                answer(2, Err(IndexError::Busy)),
                IndexEvent::Done(IndexVerb::Close, Ok(()))
            ]
        );
        assert_eq!(told(&mut index, IndexVerb::Open), Ok(()));
        index.set_answer_mode(AnswerMode::Never);
        index.submit(request(IndexOp::Query, 1, 0));
        index.submit(request(IndexOp::Query, 2, 0));
        assert_eq!(poll(&mut index, 2000), []);
        index.start(IndexVerb::Close);
        assert_eq!(index.next_wakeup(), Some(Nanos(0)));
        assert_eq!(
            poll(&mut index, 2000),
            [
                answer(1, Err(IndexError::Abandoned)),
                answer(2, Err(IndexError::Abandoned)),
                IndexEvent::Done(IndexVerb::Close, Ok(()))
            ]
        );
    }

    #[test]
    fn a_closed_index_answers_that_it_is_and_opens_with_its_records() {
        let mut index = shard(1 << 20, 1);
        index.submit(request(IndexOp::Query, 1, 0));
        assert_eq!(poll(&mut index, 0), [answer(1, Err(IndexError::NotOpen))]);
        assert_eq!(told(&mut index, IndexVerb::Close), Err(IndexError::NotOpen));
        assert_eq!(told(&mut index, IndexVerb::Open), Ok(()));
        assert_eq!(
            told(&mut index, IndexVerb::Open),
            Err(IndexError::AlreadyOpen)
        );
        assert_eq!(
            told(&mut index, IndexVerb::Create),
            Err(IndexError::AlreadyOpen)
        );
        index.submit(request(IndexOp::Post, 1, 10));
        assert_eq!(poll(&mut index, 0), [answer(1, Ok(None))]);

        assert_eq!(told(&mut index, IndexVerb::Close), Ok(()));
        assert_eq!(told(&mut index, IndexVerb::Open), Ok(()));
        index.submit(request(IndexOp::Query, 1, 0));
        assert_eq!(poll(&mut index, 0), [answer(1, Ok(Some(block(10))))]);
        assert_eq!(index.statistics().posts_not_found, 0, "counts start anew");
        assert_eq!(index.statistics().entries_indexed, 1);

        assert_eq!(told(&mut index, IndexVerb::Close), Ok(()));
        assert_eq!(told(&mut index, IndexVerb::Create), Ok(()));
        index.submit(request(IndexOp::Query, 1, 0));
        assert_eq!(poll(&mut index, 0), [answer(1, Ok(None))]);
    }

    #[test]
    fn a_suspended_index_refuses_everything_until_resumed() {
        let mut index = open();
        index.submit(request(IndexOp::Post, 1, 10));
        poll(&mut index, 0);
        assert_eq!(told(&mut index, IndexVerb::Suspend { save: true }), Ok(()));
        index.submit(request(IndexOp::Query, 1, 0));
        assert_eq!(poll(&mut index, 0), [answer(1, Err(IndexError::Suspended))]);
        assert_eq!(
            told(&mut index, IndexVerb::Close),
            Err(IndexError::Suspended)
        );
        assert_eq!(
            told(&mut index, IndexVerb::Open),
            Err(IndexError::Suspended)
        );
        assert_eq!(told(&mut index, IndexVerb::Resume), Ok(()));
        index.submit(request(IndexOp::Query, 1, 0));
        assert_eq!(poll(&mut index, 0), [answer(1, Ok(Some(block(10))))]);
        // One that was closed is closed again after.
        assert_eq!(told(&mut index, IndexVerb::Close), Ok(()));
        assert_eq!(told(&mut index, IndexVerb::Suspend { save: false }), Ok(()));
        assert_eq!(told(&mut index, IndexVerb::Resume), Ok(()));
        assert_eq!(told(&mut index, IndexVerb::Close), Err(IndexError::NotOpen));
    }

    #[test]
    fn a_second_verb_is_refused_while_one_is_under_way() {
        let mut index = shard(1 << 20, 1);
        index.start(IndexVerb::Create);
        index.start(IndexVerb::Close);
        assert_eq!(
            poll(&mut index, 0),
            [
                IndexEvent::Done(IndexVerb::Close, Err(IndexError::Busy)),
                IndexEvent::Done(IndexVerb::Create, Ok(()))
            ]
        );
    }

    #[test]
    fn memory_is_bounded_shared_by_the_shards_and_not_touched_at_once() {
        let mut index = shard(INDEX_GIGABYTE / 4, 1);
        assert_eq!(index.capacity(), 20 << 20);
        assert_eq!(shard(INDEX_GIGABYTE / 4, 4).capacity(), 5 << 20);
        let before = resident_bytes();
        assert_eq!(told(&mut index, IndexVerb::Create), Ok(()));
        index.submit(request(IndexOp::Post, 1, 10));
        poll(&mut index, 0);
        assert_eq!(index.memory_bytes(), 256 << 20);
        // Other tests run in this process: far less than the index, not nothing.
        assert!(resident_bytes() < before + (128 << 20));
    }

    #[test]
    fn an_index_too_small_or_too_large_for_the_machine_does_not_open() {
        let too_small = IndexError::TooSmall {
            bytes: 100,
            least: RecordTable::LEAST_BYTES,
        };
        let mut index = shard(100, 1);
        assert_eq!(told(&mut index, IndexVerb::Create), Err(too_small));
        let mut index = shard(1 << 62, 1);
        let no_memory = IndexError::NoMemory { bytes: 1 << 62 };
        assert_eq!(told(&mut index, IndexVerb::Open), Err(no_memory));
        index.submit(request(IndexOp::Query, 1, 0));
        assert_eq!(poll(&mut index, 0), [answer(1, Err(IndexError::NotOpen))]);
    }

    /// Memory of this process that is really there; zero where the system does not say.
    fn resident_bytes() -> u64 {
        std::fs::read_to_string("/proc/self/statm")
            .ok()
            .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok())
            .map_or(0, |pages| pages * 4096)
    }
}
