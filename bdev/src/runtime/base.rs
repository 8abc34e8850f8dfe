//! A zone thread's base-device I/O: who waits for which, and who owns the memory meanwhile.
//!
//! An I/O is submitted by a task, which then sleeps, or on behalf of an [`IoOwner`], who is told of its end. The
//! memory belongs to a table here until the completion arrives; then the task or the owner takes it back. The zone
//! thread's poll moves the outgoing I/Os to the host's channel and the completions back, so nothing but that poll knows
//! the channel's type.

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::queue::Queue;
use super::table::{Key, Table};
use super::task::{Scheduler, TaskId};
use crate::buffer::Buffer;
use crate::error::VdoError;
use crate::seam::{BaseIo, BaseOp, IoCompletion, Nanos};
use crate::types::Pbn;

/// What an I/O is for; statistics are kept by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoClass {
    /// User data.
    Data,
    /// Slab journals, reference counts, slab summary, super block.
    Metadata,
    /// The recovery journal.
    Journal,
    /// Block-map pages.
    PageCache,
    /// The deduplication index, of which the statistics say nothing here.
    Index,
}

/// How many I/O classes there are.
pub const IO_CLASSES: usize = 5;

/// Counts of I/Os by class, started and completed.
#[derive(Clone, Copy, Debug, Default)]
pub struct IoCounts {
    /// Reads started, by class.
    pub reads: [u64; IO_CLASSES],
    /// Writes started, by class.
    pub writes: [u64; IO_CLASSES],
    /// Flushes started, by class.
    pub flushes: [u64; IO_CLASSES],
    /// Discards started, by class.
    pub discards: [u64; IO_CLASSES],
    /// Writes that asked to be durable, by class.
    pub fuas: [u64; IO_CLASSES],
    /// Reads completed, by class.
    pub reads_completed: [u64; IO_CLASSES],
    /// Writes completed, by class.
    pub writes_completed: [u64; IO_CLASSES],
    /// Flushes completed, by class.
    pub flushes_completed: [u64; IO_CLASSES],
    /// Discards completed, by class.
    pub discards_completed: [u64; IO_CLASSES],
}

#[derive(Debug)]
enum Memory {
    None,
    Owned(Buffer),
    Shared(#[expect(dead_code, reason = "held so that the device may read it")] Arc<Buffer>),
}

/// Whose an I/O is that no task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoOwner {
    /// The request in this slot.
    Request(u32),
    /// The member of the hash zone with this number.
    Member(u32),
}

/// The end of an I/O that no task waited for.
#[derive(Debug)]
pub struct IoEnd {
    op: BaseOp,
    began: Nanos,
    pbn: Pbn,
    errno: i32,
    memory: Memory,
}

impl IoEnd {
    /// How it went.
    pub fn result(&self) -> Result<(), VdoError> {
        outcome(self.op, self.pbn, self.errno)
    }

    /// What it was, and when it was begun.
    pub fn began(&self) -> (BaseOp, Nanos) {
        (self.op, self.began)
    }

    /// The buffer that was given to it, to be read into or written.
    pub fn into_buffer(self) -> Option<Buffer> {
        match self.memory {
            Memory::Owned(buffer) => Some(buffer),
            Memory::None | Memory::Shared(_) => None,
        }
    }
}

fn outcome(op: BaseOp, pbn: Pbn, errno: i32) -> Result<(), VdoError> {
    if errno == 0 {
        return Ok(());
    }
    let operation = match op {
        BaseOp::Read => "read",
        BaseOp::Write => "write",
        BaseOp::Flush => "flush",
        BaseOp::Discard => "discard",
    };
    Err(VdoError::Io {
        operation,
        pbn,
        errno,
    })
}

/// An I/O a task waits for.
enum Io {
    Pending {
        task: TaskId,
        op: BaseOp,
        class: IoClass,
        memory: Memory,
    },
    Done {
        errno: i32,
        memory: Memory,
    },
}

/// An I/O on data that no task waits for.
struct OwnedIo {
    owner: IoOwner,
    op: BaseOp,
    pbn: Pbn,
    began: Nanos,
    memory: Memory,
}

/// The last bit of a token says whether the I/O is owned. The rest is its number, so that a host may keep a table by token.
const OWNED: u32 = 1;

/// How many kinds of I/O there are.
const OPS: usize = 4;

/// A count for each kind of I/O, and in it for each class.
type Tally = [[Cell<u64>; IO_CLASSES]; OPS];

#[inline]
fn count(tally: &Tally, op: BaseOp, class: IoClass) {
    let count = &tally[op as usize][class as usize];
    count.set(count.get() + 1);
}

fn counted(tally: &Tally, op: BaseOp) -> [u64; IO_CLASSES] {
    tally[op as usize].each_ref().map(Cell::get)
}

/// The table of I/Os in flight of one zone thread.
pub struct BaseDevice {
    scheduler: Rc<Scheduler>,
    ios: RefCell<Table<Io>>,
    owned: RefCell<Table<OwnedIo>>,
    outgoing: RefCell<Queue<BaseIo>>,
    started: Tally,
    completed: Tally,
    fuas: [Cell<u64>; IO_CLASSES],
    in_flight: Cell<u32>,
    /// A completion came that belongs to no I/O.
    stray: Cell<Option<u32>>,
}

impl BaseDevice {
    /// Bytes of memory it holds.
    pub fn memory_held(&self) -> usize {
        let outgoing = self.outgoing.borrow().memory_held();
        self.ios.borrow().memory_held() + self.owned.borrow().memory_held() + outgoing
    }

    /// A table that holds `capacity` I/Os before it has to grow.
    pub fn new(scheduler: &Rc<Scheduler>, capacity: usize) -> Rc<BaseDevice> {
        Rc::new(BaseDevice {
            scheduler: Rc::clone(scheduler),
            ios: RefCell::new(Table::with_capacity(capacity)),
            owned: RefCell::new(Table::with_capacity(capacity)),
            outgoing: RefCell::new(Queue::with_capacity(capacity)),
            started: Tally::default(),
            completed: Tally::default(),
            fuas: Default::default(),
            in_flight: Cell::new(0),
            stray: Cell::new(None),
        })
    }

    /// Reads `blocks` blocks at `pbn` into the front of `buffer`, which comes back in any case.
    pub async fn read(
        &self,
        class: IoClass,
        pbn: Pbn,
        buffer: Buffer,
        blocks: usize,
    ) -> (Buffer, Result<(), VdoError>) {
        assert!(blocks <= buffer.blocks(), "a read fits its buffer");
        let address = buffer.as_ptr();
        let io = (BaseOp::Read, pbn, blocks, address, false);
        match self.run(class, io, Memory::Owned(buffer)).await {
            (Memory::Owned(buffer), result) => (buffer, result),
            _ => unreachable!("memory comes back as it was given"),
        }
    }

    /// Begins to read the block of data at `pbn` into `buffer`, for `owner`, who is told by
    /// [`BaseDevice::complete`].
    pub fn start_read(&self, owner: IoOwner, pbn: Pbn, buffer: Buffer) {
        let address = buffer.as_ptr();
        self.start(owner, BaseOp::Read, pbn, address, Memory::Owned(buffer));
    }

    /// Begins to read the block of data at `pbn` straight into memory the caller vouches for.
    ///
    /// # Safety
    /// `memory` is one block, aligned as the base device needs, and stays valid and unused by anyone
    /// else until the owner is told of the end.
    pub unsafe fn start_read_direct(&self, owner: IoOwner, pbn: Pbn, memory: NonNull<u8>) {
        self.start(owner, BaseOp::Read, pbn, memory, Memory::None);
    }

    /// Begins to write a block of data that others may read meanwhile.
    pub fn start_write(&self, owner: IoOwner, pbn: Pbn, block: Arc<Buffer>) {
        let address = block.as_ptr();
        self.start(owner, BaseOp::Write, pbn, address, Memory::Shared(block));
    }

    /// Begins to write a block of data that comes back when it is written.
    pub fn start_write_owned(&self, owner: IoOwner, pbn: Pbn, block: Buffer) {
        let address = block.as_ptr();
        self.start(owner, BaseOp::Write, pbn, address, Memory::Owned(block));
    }

    #[inline]
    fn start(&self, owner: IoOwner, op: BaseOp, pbn: Pbn, address: NonNull<u8>, memory: Memory) {
        let io = OwnedIo {
            owner,
            op,
            pbn,
            began: self.scheduler.now(),
            memory,
        };
        let key = self.owned.borrow_mut().insert(io);
        count(&self.started, op, IoClass::Data);
        self.send(op, pbn, 1, address, false, key.number() << 1 | OWNED);
    }

    /// Writes the first `blocks` blocks of `buffer` to `pbn`; the buffer comes back in any case.
    pub async fn write(
        &self,
        class: IoClass,
        pbn: Pbn,
        buffer: Buffer,
        blocks: usize,
        fua: bool,
    ) -> (Buffer, Result<(), VdoError>) {
        assert!(blocks <= buffer.blocks(), "a write fits its buffer");
        let address = buffer.as_ptr();
        let io = (BaseOp::Write, pbn, blocks, address, fua);
        match self.run(class, io, Memory::Owned(buffer)).await {
            (Memory::Owned(buffer), result) => (buffer, result),
            _ => unreachable!("memory comes back as it was given"),
        }
    }

    /// Makes every completed write durable.
    pub async fn flush(&self, class: IoClass) -> Result<(), VdoError> {
        let io = (BaseOp::Flush, Pbn(0), 0, NonNull::dangling(), false);
        self.run(class, io, Memory::None).await.1
    }

    /// Tells the device that `blocks` blocks at `pbn` hold nothing of use.
    pub async fn discard(&self, pbn: Pbn, blocks: usize) -> Result<(), VdoError> {
        let io = (BaseOp::Discard, pbn, blocks, NonNull::dangling(), false);
        self.run(IoClass::Data, io, Memory::None).await.1
    }

    async fn run(
        &self,
        class: IoClass,
        (op, pbn, blocks, address, fua): (BaseOp, Pbn, usize, NonNull<u8>, bool),
        memory: Memory,
    ) -> (Memory, Result<(), VdoError>) {
        let task = self.scheduler.current();
        let key = self.ios.borrow_mut().insert(Io::Pending {
            task,
            op,
            class,
            memory,
        });
        count(&self.started, op, class);
        if fua {
            let fuas = &self.fuas[class as usize];
            fuas.set(fuas.get() + 1);
        }
        let blocks = u32::try_from(blocks).expect("an I/O is far smaller than 2^32 blocks");
        self.send(op, pbn, blocks, address, fua, key.number() << 1);
        let (errno, memory) = std::future::poll_fn(|_| self.take_done(key)).await;
        (memory, outcome(op, pbn, errno))
    }

    #[inline]
    fn send(&self, op: BaseOp, pbn: Pbn, blocks: u32, memory: NonNull<u8>, fua: bool, token: u32) {
        self.outgoing.borrow_mut().push(BaseIo {
            op,
            pbn,
            blocks,
            memory,
            fua,
            token,
        });
        self.in_flight.set(self.in_flight.get() + 1);
    }

    fn take_done(&self, key: Key<Io>) -> Poll<(i32, Memory)> {
        let mut ios = self.ios.borrow_mut();
        if !matches!(ios.get(key), Some(Io::Done { .. })) {
            return Poll::Pending;
        }
        match ios.remove(key) {
            Some(Io::Done { errno, memory }) => Poll::Ready((errno, memory)),
            _ => unreachable!("checked above"),
        }
    }

    /// The next I/O to hand to the host's channel.
    #[inline]
    pub fn next_outgoing(&self) -> Option<BaseIo> {
        self.outgoing.borrow_mut().pop()
    }

    /// Takes a completion from the host's channel: wakes the task that waits for it, or returns the end of the I/O
    /// and whose it is. One that belongs to no I/O is kept for [`BaseDevice::take_stray`].
    #[inline]
    pub fn complete(&self, done: IoCompletion) -> Option<(IoOwner, IoEnd)> {
        if done.token & OWNED == 0 {
            self.complete_for_task(done);
            return None;
        }
        let key = Key::new(done.token >> 1);
        let Some(io) = self.owned.borrow_mut().remove(key) else {
            self.stray.set(Some(done.token));
            return None;
        };
        self.in_flight.set(self.in_flight.get() - 1);
        count(&self.completed, io.op, IoClass::Data);
        let end = IoEnd {
            op: io.op,
            began: io.began,
            pbn: io.pbn,
            errno: done.errno,
            memory: io.memory,
        };
        Some((io.owner, end))
    }

    fn complete_for_task(&self, done: IoCompletion) {
        let mut ios = self.ios.borrow_mut();
        let Some(io @ Io::Pending { .. }) = ios.get_mut(Key::new(done.token >> 1)) else {
            self.stray.set(Some(done.token));
            return;
        };
        let ended = Io::Done {
            errno: done.errno,
            memory: Memory::None,
        };
        if let Io::Pending {
            task,
            op,
            class,
            memory: lent,
        } = std::mem::replace(io, ended)
            && let Io::Done { memory, .. } = io
        {
            *memory = lent;
            self.scheduler.wake(task);
            self.in_flight.set(self.in_flight.get() - 1);
            count(&self.completed, op, class);
        }
    }

    /// The token of a completion that belonged to no I/O under way, once.
    pub fn take_stray(&self) -> Option<u32> {
        self.stray.take()
    }

    /// How many I/Os have been started and not completed.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// I/Os so far, by class.
    pub fn counts(&self) -> IoCounts {
        let (started, completed) = (&self.started, &self.completed);
        IoCounts {
            reads: counted(started, BaseOp::Read),
            writes: counted(started, BaseOp::Write),
            flushes: counted(started, BaseOp::Flush),
            discards: counted(started, BaseOp::Discard),
            fuas: self.fuas.each_ref().map(Cell::get),
            reads_completed: counted(completed, BaseOp::Read),
            writes_completed: counted(completed, BaseOp::Write),
            flushes_completed: counted(completed, BaseOp::Flush),
            discards_completed: counted(completed, BaseOp::Discard),
        }
    }
}

impl std::fmt::Debug for BaseDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BaseDevice({} I/Os in flight)", self.in_flight.get())
    }
}
