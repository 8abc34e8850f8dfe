//! A zone thread's executor: cooperative tasks on one thread, without locks and without `unsafe`.
//!
//! A task is an `async fn` that usually never ends: a request slot that serves one request after
//! another, or a writer of some journal. Tasks are spawned when the volume starts, so serving a
//! request allocates nothing. There is one [`Scheduler`] per zone thread, shared as an `Rc` by all
//! that lives there; waking a task is pushing its number on the ready queue. Wakers of the standard
//! library are not used: a task that waits has put its number where its wake-up will come from, a
//! [`WaitList`] or a table of outstanding operations.
//!
//! Rule for every future written here: being polled too often does no harm.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::seam::Nanos;

/// Names a task of one zone thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskId(u32);

impl TaskId {
    const NONE: TaskId = TaskId(u32::MAX);
}

type BoxedTask = Pin<Box<dyn Future<Output = ()>>>;

/// Which tasks are ready to run, which one runs, and what time it is.
#[derive(Debug)]
pub struct Scheduler {
    ready: RefCell<VecDeque<TaskId>>,
    queued: RefCell<Vec<bool>>,
    current: Cell<TaskId>,
    now: Cell<Nanos>,
    born: RefCell<Vec<Newborn>>,
    tasks: Cell<u32>,
}

struct Newborn(TaskId, BoxedTask);

impl std::fmt::Debug for Newborn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Scheduler {
    /// A scheduler with no tasks, at time zero.
    pub fn new() -> Rc<Scheduler> {
        Rc::new(Scheduler {
            ready: RefCell::new(VecDeque::new()),
            queued: RefCell::new(Vec::new()),
            current: Cell::new(TaskId::NONE),
            now: Cell::new(Nanos(0)),
            born: RefCell::new(Vec::new()),
            tasks: Cell::new(0),
        })
    }

    /// Adds a task; it first runs at the next [`Executor::run`]. May be called from inside a task.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) -> TaskId {
        let id = TaskId(self.tasks.get());
        self.tasks.set(id.0 + 1);
        self.queued.borrow_mut().push(false);
        self.born.borrow_mut().push(Newborn(id, Box::pin(task)));
        self.wake(id);
        id
    }

    /// Makes a task ready to run. Waking one that is ready already does nothing.
    #[inline]
    pub fn wake(&self, task: TaskId) {
        let mut queued = self.queued.borrow_mut();
        let flag = &mut queued[task.0 as usize];
        if !*flag {
            *flag = true;
            self.ready.borrow_mut().push_back(task);
        }
    }

    /// The task that runs now. Only meaningful while one does.
    #[inline]
    pub fn current(&self) -> TaskId {
        self.current.get()
    }

    /// The time the host told at this poll.
    #[inline]
    pub fn now(&self) -> Nanos {
        self.now.get()
    }

    /// Tells the time; the host's poll does.
    pub fn set_now(&self, now: Nanos) {
        self.now.set(now);
    }

    /// Lets the other ready tasks run once before going on.
    pub async fn yield_now(self: &Rc<Self>) {
        let mut yielded = false;
        std::future::poll_fn(|_| {
            if yielded {
                return Poll::Ready(());
            }
            yielded = true;
            self.wake(self.current());
            Poll::Pending
        })
        .await
    }
}

/// The tasks themselves, owned by the zone thread and apart from the [`Scheduler`], so that a
/// running task can wake and spawn others.
pub struct Executor {
    scheduler: Rc<Scheduler>,
    tasks: Vec<Option<BoxedTask>>,
}

impl Executor {
    /// An executor over `scheduler`, which must have no other.
    pub fn new(scheduler: Rc<Scheduler>) -> Executor {
        Executor {
            scheduler,
            tasks: Vec::new(),
        }
    }

    fn adopt_newborns(&mut self) {
        for Newborn(id, task) in self.scheduler.born.borrow_mut().drain(..) {
            debug_assert_eq!(id.0 as usize, self.tasks.len());
            self.tasks.push(Some(task));
        }
    }

    /// Runs ready tasks until none is ready or `budget` have run; says whether any ran.
    pub fn run(&mut self, budget: usize) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let mut ran = 0;
        while ran < budget {
            if !self.scheduler.born.borrow().is_empty() {
                self.adopt_newborns();
            }
            let Some(id) = self.scheduler.ready.borrow_mut().pop_front() else {
                break;
            };
            self.scheduler.queued.borrow_mut()[id.0 as usize] = false;
            ran += 1;
            let slot = &mut self.tasks[id.0 as usize];
            let Some(task) = slot else { continue };
            self.scheduler.current.set(id);
            if task.as_mut().poll(&mut context).is_ready() {
                *slot = None;
            }
        }
        self.scheduler.current.set(TaskId::NONE);
        ran > 0
    }

    /// Whether a task is ready to run.
    pub fn has_ready(&self) -> bool {
        !self.scheduler.ready.borrow().is_empty()
    }
}

impl Drop for Executor {
    /// Drops tasks that have not run yet, too: they hold the scheduler, which holds them.
    fn drop(&mut self) {
        drop(self.scheduler.born.take());
    }
}

/// Tasks waiting, first come first served.
///
/// A waiter takes the next ticket; each wake-up admits the oldest ticket not yet admitted. A waiter
/// that is woken usually checks its condition again and may wait anew (behind the others).
#[derive(Debug)]
pub struct WaitList {
    scheduler: Rc<Scheduler>,
    waiting: RefCell<VecDeque<TaskId>>,
    next_ticket: Cell<u64>,
    admitted: Cell<u64>,
}

impl WaitList {
    /// An empty list.
    pub fn new(scheduler: &Rc<Scheduler>) -> WaitList {
        WaitList {
            scheduler: Rc::clone(scheduler),
            waiting: RefCell::new(VecDeque::new()),
            next_ticket: Cell::new(0),
            admitted: Cell::new(0),
        }
    }

    /// How many wait.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Waits until a wake-up admits this waiter.
    pub async fn wait(&self) {
        let mut ticket = None;
        std::future::poll_fn(|_| {
            let mine = *ticket.get_or_insert_with(|| {
                let mine = self.next_ticket.get();
                self.next_ticket.set(mine + 1);
                self.waiting
                    .borrow_mut()
                    .push_back(self.scheduler.current());
                mine
            });
            if mine < self.admitted.get() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Waits until `condition` holds, checking it now and after each wake-up.
    pub async fn wait_until(&self, mut condition: impl FnMut() -> bool) {
        while !condition() {
            self.wait().await;
        }
    }

    /// Admits the oldest waiter, if any, and says whether there was one.
    pub fn wake_one(&self) -> bool {
        let Some(task) = self.waiting.borrow_mut().pop_front() else {
            return false;
        };
        self.admitted.set(self.admitted.get() + 1);
        self.scheduler.wake(task);
        true
    }

    /// Admits everyone who waits now.
    pub fn wake_all(&self) {
        while self.wake_one() {}
    }
}

/// Runs many futures in one task at once and returns their results in order.
pub async fn join_all<T>(futures: impl IntoIterator<Item: Future<Output = T>>) -> Vec<T> {
    let mut work: Vec<(Pin<Box<_>>, Option<T>)> = futures
        .into_iter()
        .map(|one| (Box::pin(one), None))
        .collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (one, result) in work.iter_mut().filter(|(_, result)| result.is_none()) {
            match one.as_mut().poll(context) {
                Poll::Ready(value) => *result = Some(value),
                Poll::Pending => pending = true,
            }
        }
        match pending {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    })
    .await;
    work.into_iter().filter_map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiters_are_admitted_in_order_and_each_once() {
        let scheduler = Scheduler::new();
        let mut executor = Executor::new(Rc::clone(&scheduler));
        let list = Rc::new(WaitList::new(&scheduler));
        let order = Rc::new(RefCell::new(Vec::new()));
        for number in 0..3 {
            let (list, order) = (Rc::clone(&list), Rc::clone(&order));
            scheduler.spawn(async move {
                list.wait().await;
                order.borrow_mut().push(number);
            });
        }
        executor.run(100);
        assert!(order.borrow().is_empty());
        assert!(list.wake_one());
        executor.run(100);
        assert_eq!(*order.borrow(), [0]);
        list.wake_all();
        executor.run(100);
        assert_eq!(*order.borrow(), [0, 1, 2]);
        assert!(!list.wake_one());
    }

    #[test]
    fn tasks_that_never_ran_go_with_the_executor() {
        let scheduler = Scheduler::new();
        let executor = Executor::new(Rc::clone(&scheduler));
        let held = Rc::clone(&scheduler);
        scheduler.spawn(async move { drop(held) });
        assert_eq!(Rc::strong_count(&scheduler), 3);
        drop(executor);
        assert_eq!(Rc::strong_count(&scheduler), 1);
    }

    #[test]
    fn join_waits_for_both() {
        let scheduler = Scheduler::new();
        let mut executor = Executor::new(Rc::clone(&scheduler));
        let (a, b) = (
            Rc::new(WaitList::new(&scheduler)),
            Rc::new(WaitList::new(&scheduler)),
        );
        let done = Rc::new(Cell::new(false));
        {
            let (a, b, done) = (Rc::clone(&a), Rc::clone(&b), Rc::clone(&done));
            scheduler.spawn(async move {
                join_all([a.wait(), b.wait()]).await;
                done.set(true);
            });
        }
        executor.run(10);
        b.wake_one();
        executor.run(10);
        assert!(!done.get());
        a.wake_one();
        executor.run(10);
        assert!(done.get());
    }
}
