//! All orders. What one thread publishes is a relaxed store here, the least that any queue does, so that whatever
//! order there is must come from the words under test.

use std::ptr::NonNull;
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic;
use loom::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed};
use loom::thread;

#[path = "../../../tgt/src/reactor/armed.rs"]
#[allow(dead_code)]
mod armed;
#[path = "../../../spdk/src/vdo/call.rs"]
#[allow(dead_code)]
mod call;
#[path = "../../../bdev/src/poll/doorbell.rs"]
#[allow(dead_code)]
mod doorbell;
#[path = "../../../spdk/src/vdo/stack.rs"]
#[allow(dead_code)]
mod stack;

use armed::Armed;
use call::Call;
use doorbell::Doorbell;
use stack::{Stack, Stacked};

/// Goes through the orders of `run`: with THOROUGH set through all of them.
fn all_orders(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    if std::env::var_os("THOROUGH").is_none() {
        builder.preemption_bound = builder.preemption_bound.or(Some(3));
    }
    builder.check(run);
}

/// Two threads put something into the mailbox of one that looks and then means to sleep. Who sleeps with something in the
/// mailbox was told by somebody to wake.
#[test]
fn no_zone_thread_sleeps_over_its_mail() {
    all_orders(|| {
        let shared = Arc::new((Doorbell::new(), [AtomicUsize::new(0), AtomicUsize::new(0)]));
        let senders: Vec<_> = (0..2)
            .map(|sender| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    shared.1[sender].store(1, Relaxed);
                    shared.0.ring()
                })
            })
            .collect();
        let (doorbell, mail) = &*shared;
        let all = || mail.iter().map(|mail| mail.load(Relaxed)).sum::<usize>();
        let mut seen = 0;
        let mut sleeps = false;
        for _ in 0..2 {
            doorbell.stay_awake();
            seen = all();
            sleeps = doorbell.may_sleep(|| all() == seen);
        }
        let woken: Vec<bool> = senders
            .into_iter()
            .map(|sender| sender.join().unwrap())
            .collect();
        assert!(
            !sleeps || seen == 2 || woken.contains(&true),
            "asleep, {seen} of 2 seen, nobody was told to wake it"
        );
    });
}

/// A waker publishes something; the reactor arms, looks, and sleeps if it sees nothing.
#[test]
fn no_reactor_sleeps_over_what_was_published() {
    all_orders(|| {
        let shared = Arc::new((Armed::new(), AtomicUsize::new(0)));
        let waker = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.1.store(1, Relaxed);
                shared.0.needs_signal()
            })
        };
        shared.0.arm();
        let seen = shared.1.load(Relaxed);
        let signalled = waker.join().unwrap();
        assert!(seen == 1 || signalled, "it sleeps, and no signal was sent");
    });
}

/// The same behind a reactor that sleeps itself: its last look begins after it has armed, and is a poll of the
/// zone thread.
#[test]
fn no_reactor_sleeps_over_the_mail_of_a_zone_thread() {
    all_orders(|| {
        let shared = Arc::new((Doorbell::new(), Armed::new(), AtomicUsize::new(0)));
        let sender = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (doorbell, armed, mail) = &*shared;
                mail.store(1, Relaxed);
                doorbell.ring() && armed.needs_signal()
            })
        };
        let (doorbell, armed, mail) = &*shared;
        let poll = || {
            doorbell.stay_awake();
            let seen = mail.load(Relaxed);
            (seen, doorbell.may_sleep(|| mail.load(Relaxed) == seen))
        };
        poll();
        armed.arm();
        let (seen, idle) = poll();
        let signalled = sender.join().unwrap();
        assert!(
            !idle || seen == 1 || signalled,
            "the reactor sleeps, the mail was not seen, and no signal was sent"
        );
    });
}

/// A reactor that is disarmed knows of every signal, so that it can take it back.
#[test]
fn a_signal_is_sent_once_and_known() {
    all_orders(|| {
        let armed = Arc::new(Armed::new());
        armed.arm();
        let wakers: Vec<_> = (0..2)
            .map(|_| {
                let armed = Arc::clone(&armed);
                thread::spawn(move || armed.needs_signal())
            })
            .collect();
        let known = armed.disarm();
        let signals = wakers.into_iter().map(|waker| waker.join().unwrap());
        assert_eq!(signals.filter(|sent| *sent).count(), usize::from(known));
    });
}

/// Two callers, and a thread that looks whenever a message comes. All messages that were sent have come in the end, and by then
/// all there was to do was seen.
#[test]
fn whoever_is_told_that_a_call_is_on_its_way_is_seen_by_it() {
    all_orders(|| {
        let shared = Arc::new((
            Call::new(),
            [AtomicUsize::new(0), AtomicUsize::new(0)],
            AtomicUsize::new(0),
        ));
        let callers: Vec<_> = (0..2)
            .map(|caller| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let (call, work, messages) = &*shared;
                    work[caller].store(1, Relaxed);
                    if call.must_send() {
                        messages.fetch_add(1, atomic::Ordering::Release);
                    }
                })
            })
            .collect();
        let (call, work, messages) = &*shared;
        let mut seen = 0;
        let mut taken = 0;
        let mut look = || {
            if messages.load(atomic::Ordering::Acquire) > taken {
                taken += 1;
                call.answer();
                seen = work.iter().map(|work| work.load(Relaxed)).sum::<usize>();
            }
            seen
        };
        look();
        callers
            .into_iter()
            .for_each(|caller| caller.join().unwrap());
        look();
        assert_eq!(look(), 2);
    });
}

/// An I/O whose errno is written by the thread that ends it.
struct Item {
    next: AtomicPtr<Item>,
    value: UnsafeCell<usize>,
}

// SAFETY: the link is a field that nothing else uses.
unsafe impl Stacked for Item {
    unsafe fn link<'a>(this: NonNull<Item>) -> &'a AtomicPtr<Item> {
        // SAFETY: the caller's promise.
        &unsafe { this.as_ref() }.next
    }
}

#[test]
fn ended_ios_are_answered_once_with_all_that_was_written_before() {
    all_orders(|| {
        let stack = Arc::new(Stack::<Item>::new());
        let enders: Vec<_> = (0..2)
            .map(|ender| {
                let stack = Arc::clone(&stack);
                thread::spawn(move || {
                    let item = Box::new(Item {
                        next: AtomicPtr::default(),
                        value: UnsafeCell::new(0),
                    });
                    // SAFETY: the item is ours until it is pushed; loom watches.
                    item.value.with_mut(|value| unsafe { *value = 10 + ender });
                    // SAFETY: it is given away.
                    unsafe { stack.push(NonNull::from(Box::leak(item))) };
                })
            })
            .collect();
        let mut answered = Vec::new();
        let mut answer = || {
            for item in stack.take() {
                // SAFETY: pushed from `Box::leak`, and given out once.
                let item = unsafe { Box::from_raw(item.as_ptr()) };
                // SAFETY: it is ours now; loom watches.
                answered.push(item.value.with(|value| unsafe { *value }));
            }
            answered.len()
        };
        while answer() < 2 {
            thread::yield_now();
        }
        enders.into_iter().for_each(|ender| ender.join().unwrap());
        answered.sort_unstable();
        assert_eq!(answered, [10, 11]);
    });
}
