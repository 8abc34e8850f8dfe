//! The stack of ended I/Os over real atomics: who owns which memory when. Under Miri, every access is checked.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic;
use std::sync::atomic::AtomicPtr;
use std::thread;

#[path = "../../../spdk/src/vdo/stack.rs"]
#[allow(dead_code)]
mod stack;

use stack::{Stack, Stacked};

struct Item {
    next: AtomicPtr<Item>,
    value: u64,
}

// SAFETY: the link is a field that nothing else uses.
unsafe impl Stacked for Item {
    unsafe fn link<'a>(this: NonNull<Item>) -> &'a AtomicPtr<Item> {
        // SAFETY: the caller's promise.
        &unsafe { this.as_ref() }.next
    }
}

/// Takes what is there, lets go of each at once, as an answered I/O is, and says what it was.
fn take(stack: &Stack<Item>) -> Vec<u64> {
    let own = |item: NonNull<Item>| {
        // SAFETY: given away by `push`, from `Box::leak`, and not touched by the stack any more.
        unsafe { Box::from_raw(item.as_ptr()) }.value
    };
    stack.take().map(own).collect()
}

fn push(stack: &Stack<Item>, value: u64) {
    let next = AtomicPtr::default();
    let item = NonNull::from(Box::leak(Box::new(Item { next, value })));
    // SAFETY: it is ours, and taken over by whoever empties the stack.
    unsafe { stack.push(item) }
}

#[test]
fn what_is_taken_comes_in_the_order_it_was_put_there_and_may_vanish_at_once() {
    let stack = Stack::new();
    assert_eq!(take(&stack), []);
    for round in 0..3 {
        (0..5).for_each(|n| push(&stack, 10 * round + n));
        assert_eq!(take(&stack), Vec::from_iter(10 * round..10 * round + 5));
        assert!(stack.top().is_null());
    }
}

#[test]
fn everything_that_threads_put_there_is_taken_once_and_in_each_threads_order() {
    let each = if cfg!(miri) { 20 } else { 5000 };
    let stack = Arc::new(Stack::new());
    let threads: Vec<_> = (0..3_u64)
        .map(|thread| {
            let stack = Arc::clone(&stack);
            thread::spawn(move || (0..each).for_each(|n| push(&stack, thread << 32 | n)))
        })
        .collect();
    let mut next = [0; 3];
    while next.iter().sum::<u64>() < 3 * each {
        for value in take(&stack) {
            let next = &mut next[(value >> 32) as usize];
            assert_eq!(value & 0xffff_ffff, *next);
            *next += 1;
        }
        thread::yield_now();
    }
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    assert_eq!(take(&stack), []);
}
