//! What the index knows of a name: questions, answers, and answers that are late.
//!
//! An index that can answer at once is asked, and answers. Else the question takes one of a fixed number of
//! *contexts*, and its answer comes out of a later poll, or its time is up and the write goes on without it.

use super::super::owner::Zone;
use super::HashZone;
use crate::dedupe::contexts::{ContextId, Reply};
use crate::dedupe::{Answer, LockState, RequestId};
use crate::index::{IndexError, IndexOp, IndexRequest, IndexShard};
use crate::runtime::stopwatch::Stretch;
use crate::seam::Nanos;
use crate::types::{Mapping, RecordName};

/// What became of a question.
enum Asked {
    Answered(Result<Option<Mapping>, IndexError>),
    Waits,
    /// There is no context for it.
    Busy,
}

/// Asks the share of the index on behalf of a write, if it can answer at once.
#[inline]
pub(super) fn ask_now(
    zone: &Zone,
    index: &mut IndexShard,
    id: RequestId,
    request: &IndexRequest,
) -> Option<Result<Option<Mapping>, IndexError>> {
    let advice = index.answer_now(request)?;
    zone.lap(Stretch::Index, id.0, zone.scheduler.now());
    Some(advice)
}

impl HashZone {
    pub(super) fn query(
        &self,
        zone: &Zone,
        id: RequestId,
        name: RecordName,
        post: Option<Mapping>,
    ) {
        if !zone.shared.index_answers() {
            return self.reply(id, Answer::IndexOff);
        }
        let op = match post {
            Some(_) => IndexOp::Post,
            None => IndexOp::Query,
        };
        match self.ask(zone, id, op, name, post.unwrap_or(Mapping::UNMAPPED)) {
            Asked::Answered(advice) => self.reply(id, self.advice(zone, advice)),
            Asked::Busy => self.reply(id, Answer::NoAdvice),
            Asked::Waits => {}
        }
    }

    pub(super) fn update(&self, zone: &Zone, id: RequestId, name: RecordName, at: Mapping) {
        if !zone.shared.index_answers() {
            return self.reply(id, Answer::Updated);
        }
        match self.ask(zone, id, IndexOp::Update, name, at) {
            Asked::Answered(_) | Asked::Busy => self.reply(id, Answer::Updated),
            Asked::Waits => {}
        }
    }

    /// Answers the machine from within its own actions.
    fn reply(&self, id: RequestId, answer: Answer) {
        self.state.borrow_mut().answer(id, answer);
    }

    fn ask(
        &self,
        zone: &Zone,
        id: RequestId,
        op: IndexOp,
        name: RecordName,
        new: Mapping,
    ) -> Asked {
        let state = &mut *self.state.borrow_mut();
        let mut request = IndexRequest {
            op,
            name,
            new,
            token: 0,
        };
        if let Some(advice) = ask_now(zone, &mut state.index, id, &request) {
            return Asked::Answered(advice);
        }
        let Some(context) = state.contexts.acquire(zone.scheduler.now(), id) else {
            return Asked::Busy;
        };
        state.updating[context.0 as usize] = op == IndexOp::Update;
        request.token = context.0;
        state.index.submit(request);
        Asked::Waits
    }

    /// Takes answers of the index; says whether there were any.
    pub fn poll(&self, zone: &Zone, now: Nanos) -> bool {
        let (busy, idle) = {
            let state = &mut *self.state.borrow_mut();
            let mut answers = self.answers.borrow_mut();
            let (contexts, updating) = (&mut state.contexts, &state.updating);
            let busy = state.index.poll(now, &mut |answer| {
                let context = ContextId(answer.token);
                if let Reply::Deliver(request) = contexts.answer(context) {
                    if let Some(submitted) = contexts.submitted(context) {
                        zone.lap(Stretch::Index, request.0, submitted);
                    }
                    let reply = match updating[answer.token as usize] {
                        true => Answer::Updated,
                        false => self.advice(zone, answer.advice),
                    };
                    answers.push((request, reply));
                }
            });
            (busy, state.index.is_stopped() && state.index.is_idle())
        };
        if idle {
            self.index_idle.wake_all();
        }
        zone.look_at_index();
        self.deliver(zone);
        busy
    }

    /// Gives up on answers of the index that take too long, if the time to look for them has come, and takes out of the
    /// packer who lies there for too long; says whether there were any.
    pub fn expire(&self, zone: &Zone, now: Nanos) -> bool {
        let expired = {
            let state = &mut *self.state.borrow_mut();
            let mut answers = self.answers.borrow_mut();
            let machine = &state.machine;
            state.contexts.expire(now, |request| {
                // Whichever it was, the request goes on without the index.
                let querying = machine
                    .lock_of(request)
                    .is_none_or(|lock| lock.state == LockState::Querying);
                let reply = match querying {
                    true => Answer::NoAdvice,
                    false => Answer::Updated,
                };
                answers.push((request, reply));
            })
        };
        if let Some(count) = expired.report {
            log::warn!(
                "volume {}: hash zone {}: {count} index requests took too long; the writes go on \
                 without deduplication",
                zone.shared.name,
                zone.index,
            );
        }
        self.deliver(zone);
        self.expire_packed(zone, now) || expired.count > 0
    }

    fn deliver(&self, zone: &Zone) {
        loop {
            let next = self.answers.borrow_mut().pop();
            let Some((request, answer)) = next else {
                return;
            };
            self.answer(zone, request, answer);
        }
    }

    fn advice(&self, zone: &Zone, advice: Result<Option<Mapping>, IndexError>) -> Answer {
        match self.advised(zone, advice) {
            Some(at) => Answer::Advice(at),
            None => Answer::NoAdvice,
        }
    }

    /// The place an index advises, if there can be data there.
    pub(super) fn advised(
        &self,
        zone: &Zone,
        advice: Result<Option<Mapping>, IndexError>,
    ) -> Option<Mapping> {
        let at = advice.ok().flatten()?;
        if at.state.is_mapped() && zone.shared.extent.slabs().is_data_block(at.pbn) {
            return Some(at);
        }
        self.invalid_advice.set(self.invalid_advice.get() + 1);
        None
    }
}
