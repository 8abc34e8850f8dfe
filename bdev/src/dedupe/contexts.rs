//! Who waits for the index, and for how long still.
//!
//! A write must not wait long for advice it can do without. So a question to the index does not belong to the
//! request that asks it but to a *dedupe context*, of which a hash zone has a fixed number:
//!
//! 1. [`Contexts::acquire`] takes an idle context for a request (IDLE to PENDING). With none idle, the index
//!    is not asked at all and the request goes on without advice: *busy*.
//! 2. The index answers, naming the context: [`Contexts::answer`] says which request to give the answer
//!    to, and the context is idle again. (dm-vdo's COMPLETE is the time such an answer spends in a mailbox.)
//! 3. Or it does not answer in time: [`Contexts::expire`] hands out the request, to go on without advice, and
//!    the context is TIMED_OUT. The index may still have it in hand, so it cannot be used for another.
//! 4. When the late answer comes, nobody wants it; the context becomes TIMED_OUT_COMPLETE. Such
//!    contexts are taken back when no idle one is left.
//!
//! The zone's thread owns it. There is no clock in here: the caller says what time it is, and sees to it that
//! [`Contexts::expire`] is called when [`Contexts::next_deadline`] has come.

use super::action::RequestId;
use crate::runtime::list::{Links, List};
use crate::seam::Nanos;

/// How long a request waits for the index unless told otherwise, in milliseconds.
pub const DEFAULT_TIMEOUT_MS: u64 = 5000;
/// The least time between two looks for late answers unless told otherwise, in milliseconds.
pub const DEFAULT_MINIMUM_TIMER_MS: u64 = 100;

/// The bounds dm-vdo sets to both, in milliseconds (2 is two ticks of its timer).
const LEAST_MS: u64 = 2;
const MOST_TIMEOUT_MS: u64 = 120_000;
const MOST_TIMER_MS: u64 = 1000;

/// At most this many reports of timeouts ...
const REPORT_BURST: u32 = 10;
/// ... in this time.
const REPORT_INTERVAL: u64 = 5_000_000_000;

/// The time nearest to `milliseconds` that a request can be made to wait for the index: 2 to 120000.
pub fn allowed_timeout_ms(milliseconds: u64) -> u64 {
    milliseconds.clamp(LEAST_MS, MOST_TIMEOUT_MS)
}

/// The time nearest to `milliseconds` that can pass at least between two looks for late answers: 2 to 1000.
pub fn allowed_timer_ms(milliseconds: u64) -> u64 {
    milliseconds.clamp(LEAST_MS, MOST_TIMER_MS)
}

const NANOS_PER_MS: u64 = 1_000_000;

/// Names a context towards the index. Valid until the index has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextId(pub u32);

/// What to do with an answer of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// Give it to this request.
    Deliver(RequestId),
    /// Throw it away: its request has gone on without.
    Late,
    /// Nobody asked: the index answered twice, or named a context that does not exist.
    Unexpected,
}

/// What a look for late answers found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Expired {
    /// How many requests were sent on without advice.
    pub count: u64,
    /// If now is the time to log it: how many timed out since the last report.
    pub report: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContextState {
    Idle,
    Pending,
    TimedOut,
    TimedOutComplete,
}

/// One question to the index.
#[derive(Clone, Copy, Debug)]
struct Context {
    state: ContextState,
    request: RequestId,
    submitted: Nanos,
}

/// How many contexts are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContextTally {
    /// Free to be used.
    pub idle: u64,
    /// Waiting for the index.
    pub pending: u64,
    /// Given up on; the index has not answered yet.
    pub timed_out: u64,
    /// Given up on, and answered since.
    pub timed_out_complete: u64,
}

/// The dedupe contexts of one hash zone.
#[derive(Clone, Debug)]
pub struct Contexts {
    contexts: Vec<Context>,
    links: Links,
    /// The one that became idle last is last, and is used first.
    idle: List,
    /// Timed out and complete, likewise.
    complete: List,
    /// In order of submission.
    pending: List,
    deadline: Option<Nanos>,
    timeout: u64,
    minimum_timer: u64,
    active: u64,
    timeouts: u64,
    busy: u64,
    reports: ReportLimit,
}

/// How much was reported of late.
#[derive(Clone, Copy, Debug, Default)]
struct ReportLimit {
    begin: Option<Nanos>,
    in_interval: u32,
    reported: u64,
}

impl Contexts {
    /// Bytes of memory it holds.
    pub fn memory_held(&self) -> usize {
        self.contexts.capacity() * size_of::<Context>() + self.links.memory_held()
    }

    /// `count` idle contexts, and the default times. dm-vdo has one context for each request there can be, 2048.
    pub fn new(count: u32) -> Contexts {
        let context = Context {
            state: ContextState::Idle,
            request: RequestId(u32::MAX),
            submitted: Nanos(0),
        };
        let mut links = Links::new(count as usize);
        let mut idle = List::EMPTY;
        for id in (0..count).rev() {
            idle.push(&mut links, id);
        }
        Contexts {
            contexts: vec![context; count as usize],
            links,
            idle,
            complete: List::EMPTY,
            pending: List::EMPTY,
            deadline: None,
            timeout: DEFAULT_TIMEOUT_MS * NANOS_PER_MS,
            minimum_timer: DEFAULT_MINIMUM_TIMER_MS * NANOS_PER_MS,
            active: 0,
            timeouts: 0,
            busy: 0,
            reports: ReportLimit::default(),
        }
    }

    /// Sets how long a request waits for the index: 2 to 120000 milliseconds, the nearest of which is taken
    /// and returned. Holds for every request, also those that wait; see [`Contexts::look_again`].
    pub fn set_timeout_ms(&mut self, milliseconds: u64) -> u64 {
        let taken = allowed_timeout_ms(milliseconds);
        self.timeout = taken * NANOS_PER_MS;
        taken
    }

    /// Sets the least time between two looks for late answers: 2 to 1000 milliseconds, the nearest of
    /// which is taken and returned.
    pub fn set_minimum_timer_ms(&mut self, milliseconds: u64) -> u64 {
        let taken = allowed_timer_ms(milliseconds);
        self.minimum_timer = taken * NANOS_PER_MS;
        taken
    }

    /// Brings the next look forward to when it is due by the times as they are now, if that is sooner: to be called after
    /// they were changed. (One that would be due later is made anyway; it finds nothing, and sets the next.)
    pub fn look_again(&mut self, now: Nanos) {
        let before = self.deadline.take();
        if let Some(oldest) = self.pending.first() {
            self.arm(self.contexts[oldest as usize].submitted, now);
        }
        self.deadline = match (before, self.deadline) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }

    /// When the question of a context was asked last.
    pub fn submitted(&self, id: ContextId) -> Option<Nanos> {
        self.contexts
            .get(id.0 as usize)
            .map(|context| context.submitted)
    }

    /// Takes a context for a request about to ask the index. `None` if all are in use: the request must do
    /// without, and is counted.
    pub fn acquire(&mut self, now: Nanos, request: RequestId) -> Option<ContextId> {
        let id = if let Some(id) = self.idle.pop_last(&mut self.links) {
            self.active += 1;
            id
        } else if let Some(id) = self.complete.pop_last(&mut self.links) {
            // It was never given back, so it is counted as active already.
            id
        } else {
            self.busy += 1;
            return None;
        };
        self.contexts[id as usize] = Context {
            state: ContextState::Pending,
            request,
            submitted: now,
        };
        self.pending.push(&mut self.links, id);
        self.arm(now, now);
        Some(ContextId(id))
    }

    /// The index has answered.
    pub fn answer(&mut self, id: ContextId) -> Reply {
        let Some(context) = self.contexts.get_mut(id.0 as usize) else {
            return Reply::Unexpected;
        };
        match context.state {
            ContextState::Pending => {
                context.state = ContextState::Idle;
                self.pending.remove(&mut self.links, id.0);
                self.idle.push(&mut self.links, id.0);
                self.active -= 1;
                Reply::Deliver(context.request)
            }
            ContextState::TimedOut => {
                context.state = ContextState::TimedOutComplete;
                self.complete.push(&mut self.links, id.0);
                Reply::Late
            }
            ContextState::Idle | ContextState::TimedOutComplete => Reply::Unexpected,
        }
    }

    /// Counts the contexts by state. Looks at each: for reports, not for the data path.
    pub fn tally(&self) -> ContextTally {
        let mut tally = ContextTally::default();
        for context in &self.contexts {
            *match context.state {
                ContextState::Idle => &mut tally.idle,
                ContextState::Pending => &mut tally.pending,
                ContextState::TimedOut => &mut tally.timed_out,
                ContextState::TimedOutComplete => &mut tally.timed_out_complete,
            } += 1;
        }
        tally
    }

    /// When [`Contexts::expire`] should be called next, if at all.
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.deadline
    }

    /// Looks for requests that have waited too long, oldest first, and hands each to `give_up`. Before the
    /// deadline it does nothing.
    pub fn expire(&mut self, now: Nanos, mut give_up: impl FnMut(RequestId)) -> Expired {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return Expired::default();
        }
        self.deadline = None;
        let mut count = 0;
        while let Some(id) = self.pending.first() {
            let Context {
                submitted, request, ..
            } = self.contexts[id as usize];
            if now.0 < submitted.0.saturating_add(self.timeout) {
                self.arm(submitted, now);
                break;
            }
            self.pending.remove(&mut self.links, id);
            self.contexts[id as usize].state = ContextState::TimedOut;
            give_up(request);
            count += 1;
        }
        self.timeouts += count;
        let report = if count > 0 {
            self.reports.decide(now, self.timeouts)
        } else {
            None
        };
        Expired { count, report }
    }

    /// Takes back every context that is timed out and complete, and says whether now all are idle: asked when the
    /// volume is to stand still.
    pub fn is_quiet(&mut self) -> bool {
        while let Some(id) = self.complete.pop_last(&mut self.links) {
            self.contexts[id as usize].state = ContextState::Idle;
            self.idle.push(&mut self.links, id);
            self.active -= 1;
        }
        self.active == 0
    }

    /// Contexts not idle: questions under way, and timed-out ones not taken back (`curr_dedupe_queries`).
    pub fn active(&self) -> u64 {
        self.active
    }

    /// Requests that got no answer in time. What dm-vdo reports as `dedupe_advice_timeouts` is this and
    /// [`Contexts::busy`] together.
    pub fn timeouts(&self) -> u64 {
        self.timeouts
    }

    /// Requests that could not ask for want of an idle context.
    pub fn busy(&self) -> u64 {
        self.busy
    }

    /// Starts the timer, if it is not running, for a request submitted at `submitted`.
    fn arm(&mut self, submitted: Nanos, now: Nanos) {
        if self.deadline.is_none() {
            let due = submitted.0.saturating_add(self.timeout);
            self.deadline = Some(Nanos(due.max(now.0.saturating_add(self.minimum_timer))));
        }
    }
}

impl ReportLimit {
    /// Whether to report now, and if so how many of the `total` were not reported yet.
    fn decide(&mut self, now: Nanos, total: u64) -> Option<u64> {
        let fresh = self
            .begin
            .is_some_and(|begin| now.0 < begin.0.saturating_add(REPORT_INTERVAL));
        if !fresh {
            self.begin = Some(now);
            self.in_interval = 0;
        }
        if self.in_interval >= REPORT_BURST {
            return None;
        }
        self.in_interval += 1;
        let unreported = total - self.reported;
        self.reported = total;
        Some(unreported)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = NANOS_PER_MS;

    fn at(milliseconds: u64) -> Nanos {
        Nanos(milliseconds * MS)
    }

    fn take(contexts: &mut Contexts, now: u64, request: u32) -> ContextId {
        contexts
            .acquire(at(now), RequestId(request))
            .expect("an idle context")
    }

    fn expire(contexts: &mut Contexts, now: u64) -> Vec<u32> {
        let mut given_up = Vec::new();
        let expired = contexts.expire(at(now), |request| given_up.push(request.0));
        assert_eq!(expired.count as usize, given_up.len());
        given_up
    }

    #[test]
    fn an_answer_in_time_goes_to_the_request_and_frees_the_context() {
        let mut contexts = Contexts::new(1);
        let id = take(&mut contexts, 0, 7);
        assert_eq!(contexts.active(), 1);
        assert_eq!(contexts.answer(id), Reply::Deliver(RequestId(7)));
        assert_eq!(contexts.active(), 0);
        assert_eq!(contexts.answer(id), Reply::Unexpected);
        assert_eq!(contexts.answer(ContextId(99)), Reply::Unexpected);
        assert_eq!(take(&mut contexts, 1, 8), id);
        assert_eq!((contexts.timeouts(), contexts.busy()), (0, 0));
    }

    /// The original's DedupeTimeouts_t1: sixteen questions, of which eight, in groups of different sizes
    /// with gaps between, are answered in time and the others not.
    #[test]
    fn answered_ones_among_late_ones_are_delivered_and_only_the_late_time_out() {
        const IN_TIME: [u32; 8] = [1, 4, 5, 9, 10, 12, 14, 15];
        let mut contexts = Contexts::new(2048);
        contexts.set_timeout_ms(1000);
        contexts.set_minimum_timer_ms(2);
        let ids: Vec<_> = (0..16)
            .map(|n| take(&mut contexts, u64::from(n) * 10, n))
            .collect();
        let mut given_up = Vec::new();
        for n in 0..16 {
            let now = u64::from(n) * 10 + 1000;
            if IN_TIME.contains(&n) {
                given_up.extend(expire(&mut contexts, now - 1));
                assert_eq!(
                    contexts.answer(ids[n as usize]),
                    Reply::Deliver(RequestId(n))
                );
            }
        }
        given_up.extend(expire(&mut contexts, 2000));
        let late: Vec<u32> = (0..16).filter(|n| !IN_TIME.contains(n)).collect();
        assert_eq!(given_up, late);
        assert_eq!(contexts.timeouts(), 8);
        assert_eq!(contexts.active(), 8, "the index still has them");
        assert!(!contexts.is_quiet());
        for n in late {
            assert_eq!(contexts.answer(ids[n as usize]), Reply::Late);
        }
        assert_eq!(contexts.active(), 8);
        assert!(contexts.is_quiet());
        assert_eq!(contexts.active(), 0);
    }

    #[test]
    fn a_timed_out_context_is_used_again_only_after_its_late_answer() {
        let mut contexts = Contexts::new(2);
        let first = take(&mut contexts, 0, 1);
        let second = take(&mut contexts, 0, 2);
        assert_eq!(expire(&mut contexts, 5000), [1, 2]);
        assert_eq!(contexts.acquire(at(5001), RequestId(3)), None);
        assert_eq!(contexts.busy(), 1);
        assert_eq!(contexts.answer(second), Reply::Late);
        assert_eq!(take(&mut contexts, 5002, 4), second);
        assert_eq!(contexts.acquire(at(5003), RequestId(5)), None);
        assert_eq!(contexts.active(), 2);
        assert_eq!(contexts.answer(second), Reply::Deliver(RequestId(4)));
        assert_eq!(contexts.answer(first), Reply::Late);
        assert_eq!(contexts.busy(), 2);
        assert_eq!(
            contexts.active(),
            1,
            "the first is complete, but not taken back"
        );
    }

    #[test]
    fn the_first_question_sets_the_deadline_and_the_next_look_sets_the_next() {
        let mut contexts = Contexts::new(4);
        assert_eq!(contexts.next_deadline(), None);
        let first = take(&mut contexts, 0, 1);
        take(&mut contexts, 30, 2);
        take(&mut contexts, 3000, 3);
        assert_eq!(contexts.next_deadline(), Some(at(5000)));
        assert_eq!(contexts.answer(first), Reply::Deliver(RequestId(1)));
        assert_eq!(
            contexts.next_deadline(),
            Some(at(5000)),
            "the timer is left running"
        );
        assert_eq!(expire(&mut contexts, 4999), [0u32; 0]);
        assert_eq!(expire(&mut contexts, 5000), [0u32; 0]);
        assert_eq!(
            contexts.next_deadline(),
            Some(at(5100)),
            "not 5030: never sooner than 100 ms"
        );
        assert_eq!(expire(&mut contexts, 5100), [2]);
        assert_eq!(contexts.next_deadline(), Some(at(8000)));
        assert_eq!(expire(&mut contexts, 8000), [3]);
        assert_eq!(contexts.next_deadline(), None);
    }

    #[test]
    fn a_timeout_that_is_changed_holds_at_once_for_those_who_wait_already() {
        let mut contexts = Contexts::new(4);
        contexts.set_timeout_ms(20_000);
        take(&mut contexts, 0, 1);
        contexts.set_timeout_ms(300);
        contexts.look_again(at(50));
        assert_eq!(contexts.next_deadline(), Some(at(300)));
        take(&mut contexts, 100, 2);
        assert_eq!(expire(&mut contexts, 300), [1]);
        assert_eq!(contexts.next_deadline(), Some(at(400)));
        // Raised again: the look finds nothing, and the next is when the new time is up.
        contexts.set_timeout_ms(1000);
        contexts.look_again(at(350));
        assert_eq!(expire(&mut contexts, 400), [0u32; 0]);
        assert_eq!(contexts.next_deadline(), Some(at(1100)));
        // Changes that come often do not put it off.
        for now in 1050..1100 {
            contexts.look_again(at(now));
        }
        assert_eq!(expire(&mut contexts, 1100), [2]);
        contexts.look_again(at(1200));
        assert_eq!(contexts.next_deadline(), None, "nobody waits");
    }

    #[test]
    fn times_are_kept_within_bounds() {
        let mut contexts = Contexts::new(1);
        assert_eq!(contexts.set_timeout_ms(0), 2);
        assert_eq!(contexts.set_timeout_ms(500_000), 120_000);
        assert_eq!(contexts.set_timeout_ms(70), 70);
        assert_eq!(contexts.set_minimum_timer_ms(1), 2);
        assert_eq!(contexts.set_minimum_timer_ms(5000), 1000);
        take(&mut contexts, 0, 0);
        assert_eq!(
            contexts.next_deadline(),
            Some(at(1000)),
            "the timer's minimum rules"
        );
    }

    #[test]
    fn reports_are_limited_and_lose_no_count() {
        let mut contexts = Contexts::new(64);
        contexts.set_timeout_ms(2);
        contexts.set_minimum_timer_ms(2);
        let mut reported = 0;
        let mut reports = 0;
        for round in 0..20 {
            take(&mut contexts, round * 10, 0);
            let expired = contexts.expire(at(round * 10 + 2), |_| ());
            assert_eq!(expired.count, 1);
            reports += u64::from(expired.report.is_some());
            reported += expired.report.unwrap_or(0);
        }
        assert_eq!((reports, reported), (10, 10));
        take(&mut contexts, 6000, 0);
        assert_eq!(contexts.expire(at(6002), |_| ()).report, Some(11));
        assert_eq!(contexts.timeouts(), 21);
    }
}
