//! The way out of an index: answers that are ready leave at once, or late, or not at all.
//!
//! An index puts each answer in when it has it, and takes out at each poll those that may leave.
//! Answers leave in the order they came in. Normally nothing is ever kept here; with an
//! [`AnswerMode`] set, this is how an operator or a test makes an index slow without its having to
//! be.

use std::collections::VecDeque;

use super::seam::{AnswerMode, IndexAnswer};
use crate::error::IndexError;
use crate::seam::Nanos;

#[derive(Clone, Copy, Debug)]
struct Held {
    answer: IndexAnswer,
    ready_at: Nanos,
}

/// Answers on their way out of an index shard.
#[derive(Debug)]
pub struct AnswerQueue {
    mode: AnswerMode,
    held: VecDeque<Held>,
}

impl AnswerQueue {
    /// Bytes of memory it holds.
    pub fn memory_held(&self) -> usize {
        self.held.capacity() * size_of::<Held>()
    }

    /// An empty queue with room for `capacity` answers, in [`AnswerMode::Prompt`].
    pub fn new(capacity: usize) -> AnswerQueue {
        AnswerQueue {
            mode: AnswerMode::Prompt,
            held: VecDeque::with_capacity(capacity),
        }
    }

    /// How answers leave from now on, including those that are inside.
    pub fn set_mode(&mut self, mode: AnswerMode) {
        self.mode = mode;
    }

    /// How answers leave.
    pub fn mode(&self) -> AnswerMode {
        self.mode
    }

    /// Whether no answer is inside.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether an answer that is ready now may leave now, so that it need not be put in.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.held.is_empty() && matches!(self.mode, AnswerMode::Prompt | AnswerMode::Fail)
    }

    /// Puts in an answer that became ready `now`.
    pub fn push(&mut self, answer: IndexAnswer, now: Nanos) {
        self.held.push_back(Held {
            answer,
            ready_at: now,
        });
    }

    /// When the oldest answer may leave; `None` for never, or if there is none.
    pub fn next_due(&self) -> Option<Nanos> {
        let first = self.held.front()?;
        match self.mode {
            AnswerMode::Prompt | AnswerMode::Fail => Some(first.ready_at),
            AnswerMode::Delayed(delay) => Some(Nanos(first.ready_at.0.saturating_add(delay.0))),
            AnswerMode::Never => None,
        }
    }

    /// Takes out the oldest answer, if it may leave by `now`.
    #[inline]
    pub fn pop_due(&mut self, now: Nanos) -> Option<IndexAnswer> {
        let due = self.next_due()?;
        if due > now {
            return None;
        }
        self.held.pop_front().map(|held| held.answer)
    }

    /// Takes out the oldest answer of an index that stops, if it would otherwise never leave, as a
    /// failure.
    pub fn pop_abandoned(&mut self) -> Option<IndexAnswer> {
        if self.mode != AnswerMode::Never {
            return None;
        }
        let held = self.held.pop_front()?;
        Some(IndexAnswer {
            token: held.answer.token,
            advice: Err(IndexError::Abandoned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(token: u32) -> IndexAnswer {
        IndexAnswer {
            token,
            advice: Ok(None),
        }
    }

    fn taken(queue: &mut AnswerQueue, now: u64) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop_due(Nanos(now)))
            .map(|answer| answer.token)
            .collect()
    }

    #[test]
    fn prompt_answers_leave_at_once_and_in_order() {
        let mut queue = AnswerQueue::new(4);
        assert!(queue.is_open());
        queue.push(answer(1), Nanos(10));
        queue.push(answer(2), Nanos(10));
        assert!(!queue.is_open());
        assert_eq!(taken(&mut queue, 10), [1, 2]);
        assert!(queue.is_empty());
    }

    #[test]
    fn delayed_answers_leave_when_due_and_not_before() {
        let mut queue = AnswerQueue::new(4);
        queue.set_mode(AnswerMode::Delayed(Nanos(100)));
        queue.push(answer(1), Nanos(10));
        queue.push(answer(2), Nanos(50));
        assert_eq!(queue.next_due(), Some(Nanos(110)));
        assert!(taken(&mut queue, 109).is_empty());
        assert_eq!(taken(&mut queue, 110), [1]);
        assert_eq!(queue.next_due(), Some(Nanos(150)));
        assert_eq!(taken(&mut queue, 1000), [2]);
    }

    #[test]
    fn withheld_answers_leave_when_the_mode_changes_or_as_failures() {
        let mut queue = AnswerQueue::new(4);
        queue.set_mode(AnswerMode::Never);
        queue.push(answer(1), Nanos(10));
        queue.push(answer(2), Nanos(10));
        assert_eq!(queue.next_due(), None);
        assert!(taken(&mut queue, u64::MAX).is_empty());
        let abandoned = queue.pop_abandoned().expect("one is withheld");
        assert_eq!(abandoned.token, 1);
        assert_eq!(abandoned.advice, Err(IndexError::Abandoned));
        queue.set_mode(AnswerMode::Prompt);
        assert_eq!(queue.pop_abandoned(), None);
        assert_eq!(taken(&mut queue, 10), [2]);
    }
}
