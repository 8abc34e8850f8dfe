//! The engine for file I/O where the system forbids io_uring, as containers often do: a few threads that
//! make ordinary system calls.
//!
//! A channel has its own threads. They take operations from one list, put answers in another, and wake the
//! reactor. The threads end when the channel is dropped, which happens when nothing is under way.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::device::SLOTS;
use super::open::OpenFile;
use super::slot::Operation;
use crate::reactor::{ReactorHandle, Waker};

/// How many system calls a channel has under way at once.
const THREADS: usize = 4;

/// What a channel and its threads share.
struct Shared {
    lists: Mutex<Lists>,
    /// Something was put in `todo`, or it is over.
    work: Condvar,
    /// Something was put in `answers`.
    answered: Condvar,
    reactor: Waker,
}

#[derive(Default)]
struct Lists {
    todo: VecDeque<(u32, Operation)>,
    answers: VecDeque<(u32, i32)>,
    over: bool,
}

impl Shared {
    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A channel's threads.
pub(super) struct Threads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Operations the threads have yet to be told of.
    fresh: Vec<(u32, Operation)>,
    /// Answers taken from the threads and not yet asked for.
    taken: VecDeque<(u32, i32)>,
    /// How many operations have not been answered.
    under_way: usize,
}

impl Threads {
    pub(super) fn new(file: &Arc<OpenFile>, reactor: &ReactorHandle) -> io::Result<Threads> {
        let slots = SLOTS as usize;
        let lists = Lists {
            todo: VecDeque::with_capacity(slots),
            answers: VecDeque::with_capacity(slots),
            over: false,
        };
        let mut threads = Threads {
            shared: Arc::new(Shared {
                lists: Mutex::new(lists),
                work: Condvar::new(),
                answered: Condvar::new(),
                reactor: reactor.waker().clone(),
            }),
            threads: Vec::new(),
            fresh: Vec::with_capacity(slots),
            taken: VecDeque::with_capacity(slots),
            under_way: 0,
        };
        for number in 0..THREADS {
            let (shared, file) = (Arc::clone(&threads.shared), Arc::clone(file));
            let thread = std::thread::Builder::new().name(format!("file_io_{number}"));
            threads
                .threads
                .push(thread.spawn(move || serve(&shared, &file))?);
        }
        Ok(threads)
    }

    /// Enters an operation; its answer will carry `place`.
    ///
    /// # Safety
    /// The operation's memory must stay valid until its answer.
    pub(super) unsafe fn push(&mut self, place: u32, operation: Operation) {
        self.fresh.push((place, operation));
        self.under_way += 1;
    }

    /// Tells the threads of new operations; says whether there were any.
    pub(super) fn submit(&mut self) -> bool {
        if self.fresh.is_empty() {
            return false;
        }
        self.shared.lists().todo.extend(self.fresh.drain(..));
        self.shared.work.notify_all();
        true
    }

    /// An answer, if there is one: its place, and a count of bytes or a negative errno.
    pub(super) fn next(&mut self) -> Option<(u32, i32)> {
        if self.taken.is_empty() && self.under_way > 0 {
            std::mem::swap(&mut self.taken, &mut self.shared.lists().answers);
        }
        let answer = self.taken.pop_front()?;
        self.under_way -= 1;
        Some(answer)
    }

    /// Waits until there is an answer. There must be an operation under way.
    pub(super) fn wait(&mut self) {
        self.submit();
        if self.taken.is_empty() && self.under_way > 0 {
            let nothing = |lists: &mut Lists| lists.answers.is_empty();
            drop(
                self.shared
                    .answered
                    .wait_while(self.shared.lists(), nothing)
                    .unwrap_or_else(PoisonError::into_inner),
            );
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lists().over = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a file I/O thread ended with a panic");
            }
        }
    }
}

/// What each thread does.
fn serve(shared: &Shared, file: &OpenFile) {
    loop {
        let idle = |lists: &mut Lists| lists.todo.is_empty() && !lists.over;
        let mut lists = shared
            .work
            .wait_while(shared.lists(), idle)
            .unwrap_or_else(PoisonError::into_inner);
        let Some((place, operation)) = lists.todo.pop_front() else {
            return;
        };
        drop(lists);
        // SAFETY: who entered the operation vouched for its memory until the answer, given below.
        let result = unsafe { perform(file.raw_fd(), operation) };
        shared.lists().answers.push_back((place, result));
        shared.answered.notify_one();
        shared.reactor.wake();
    }
}

/// Does an operation; a count of bytes, or a negative errno.
///
/// # Safety
/// The operation's memory must be valid.
unsafe fn perform(fd: RawFd, operation: Operation) -> i32 {
    // SAFETY: the memory of reads and writes is the caller's promise; the others have none. Offsets and
    // lengths were checked to lie within the bdev, whose size fits an `off_t`.
    let result = unsafe {
        match operation {
            Operation::Read {
                memory,
                length,
                offset,
            } => libc::pread(fd, memory.cast(), length as usize, offset as libc::off_t),
            Operation::Write {
                memory,
                length,
                offset,
                flags,
            } => {
                let iov = libc::iovec {
                    iov_base: memory.cast_mut().cast(),
                    iov_len: length as usize,
                };
                libc::pwritev2(fd, &iov, 1, offset as libc::off_t, flags)
            }
            Operation::Punch { offset, length } => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                libc::fallocate(fd, mode, offset as libc::off_t, length as libc::off_t) as isize
            }
            Operation::Sync => libc::fdatasync(fd) as isize,
        }
    };
    if result < 0 {
        -io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO)
    } else {
        // At most LONGEST, which fits.
        result as i32
    }
}
