//! A stack that any thread may push to and one thread empties, linked through what stands on it.
//!
//! Nothing is allocated and nobody waits. The one who empties it takes all there is at once, so the usual trouble of such
//! stacks, an object that comes back while another thread looks at its link, cannot arise.
//! `tests/threads` goes through every order in which threads can meet here.

use std::ptr::{NonNull, null_mut};

use super::atomic::{AtomicPtr, Ordering};

/// What can stand on a [`Stack`].
///
/// # Safety
/// [`Stacked::link`] gives the same place as long as the object stands on a stack, and nobody else uses it.
pub(super) unsafe trait Stacked: Sized {
    /// Where the object keeps the address of the next.
    ///
    /// # Safety
    /// The object is there as long as the result is used.
    unsafe fn link<'a>(this: NonNull<Self>) -> &'a AtomicPtr<Self>;
}

/// The stack; see above.
pub(super) struct Stack<T> {
    top: AtomicPtr<T>,
}

impl<T: Stacked> Stack<T> {
    /// An empty one.
    pub(super) fn new() -> Stack<T> {
        Stack {
            top: AtomicPtr::new(null_mut()),
        }
    }

    /// Puts an object on top.
    ///
    /// # Safety
    /// The object is the caller's, who gives it away: the thread that empties the stack has it from here on.
    pub(super) unsafe fn push(&self, item: NonNull<T>) {
        // SAFETY: the object is ours until it is on the stack.
        let link = unsafe { T::link(item) };
        let mut top = self.top.load(Ordering::Relaxed);
        loop {
            link.store(top, Ordering::Relaxed);
            // Nothing here may be touched after this succeeds: the other thread may let go of the object, and then
            // of the stack.
            match self.top.compare_exchange_weak(
                top,
                item.as_ptr(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    /// What was put there last.
    #[cfg(test)]
    pub(super) fn top(&self) -> *mut T {
        self.top.load(Ordering::Acquire)
    }

    /// Takes all that is there, oldest first.
    pub(super) fn take(&self) -> Taken<T> {
        if self.top.load(Ordering::Relaxed).is_null() {
            return Taken(None);
        }
        let mut newest = NonNull::new(self.top.swap(null_mut(), Ordering::Acquire));
        let mut oldest = None;
        while let Some(item) = newest {
            // SAFETY: it stood on the stack, hence it is ours alone.
            let link = unsafe { T::link(item) };
            newest = NonNull::new(link.load(Ordering::Relaxed));
            link.store(
                oldest.map_or(null_mut(), NonNull::as_ptr),
                Ordering::Relaxed,
            );
            oldest = Some(item);
        }
        Taken(oldest)
    }
}

/// What was taken from a [`Stack`]. An object is not touched any more once it was given out.
pub(super) struct Taken<T>(Option<NonNull<T>>);

impl<T: Stacked> Iterator for Taken<T> {
    type Item = NonNull<T>;

    fn next(&mut self) -> Option<NonNull<T>> {
        let item = self.0?;
        // SAFETY: it was taken and not given out yet.
        self.0 = NonNull::new(unsafe { T::link(item) }.load(Ordering::Relaxed));
        Some(item)
    }
}
