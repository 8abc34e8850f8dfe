//! A zone thread's way to the base bdev.
//!
//! Each I/O of the engine has a place, found by its token, that SPDK's completion callback is given. When
//! the bdev layer is out of I/Os the place waits in SPDK's queue and is submitted from there, so the engine never
//! sees "try again". Completions are put on a list that the next poll hands over. Places are kept, so that
//! a channel that is warm allocates nothing.
//!
//! When an NVMe controller is reset, because somebody asked for it or an I/O took too long, SPDK ends what it has under way without trying it again. It is
//! then sent once more from here: whether it had been done or not, doing it again does no harm, since the engine does nothing else with those blocks meanwhile.
//!
//! SPDK has no durable write that every bdev knows: such a write is followed by a flush. A bdev without
//! flush has nothing volatile, and one without unmap has no use for the advice: both succeed at once.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::{c_int, c_void};
use std::rc::Rc;

use spdk_sys as sys;
use vdo::seam::{BaseChannel, BaseIo, BaseOp, IoCompletion};
use vdo::types::BLOCK_SIZE;

use crate::desc::Channel;

/// Places a channel begins with.
const PLACES: usize = 1024;

/// Resets of the base bdev's controller that an I/O lives through.
const RESETS: u32 = 16;

/// Called when there is a completion to be polled for.
pub type Announce = Box<dyn Fn()>;

/// The channel.
pub struct SpdkChannel(Rc<Shared>);

/// What callbacks of I/Os in flight reach.
struct Shared {
    channel: Channel,
    /// Base blocks in one of ours.
    ratio: u64,
    has_flush: bool,
    has_unmap: bool,
    /// By token.
    #[expect(clippy::vec_box, reason = "SPDK holds their addresses")]
    places: RefCell<Vec<Box<Place>>>,
    ended: RefCell<Vec<IoCompletion>>,
    handing_over: RefCell<Vec<IoCompletion>>,
    in_flight: Rc<Cell<usize>>,
    announce: RefCell<Option<Announce>>,
}

struct Place {
    /// The channel while an I/O is in flight; it keeps the channel alive.
    shared: RefCell<Option<Rc<Shared>>>,
    io: Cell<Option<BaseIo>>,
    /// Whether the write is done and the flush after it under way.
    flushing: Cell<bool>,
    /// How often a reset has ended it.
    resets: Cell<u32>,
    wait: UnsafeCell<sys::spdk_bdev_io_wait_entry>,
}

impl SpdkChannel {
    /// A way to the base bdev by `channel`, on the thread this runs on.
    pub fn new(channel: Channel) -> SpdkChannel {
        let desc = channel.desc().clone();
        let shared = Shared {
            ratio: (BLOCK_SIZE as u64) / u64::from(desc.block_bytes()).max(1),
            has_flush: desc.supports(sys::SPDK_BDEV_IO_TYPE_FLUSH),
            has_unmap: desc.supports(sys::SPDK_BDEV_IO_TYPE_UNMAP),
            channel,
            places: RefCell::new((0..PLACES).map(|_| Place::new()).collect()),
            ended: RefCell::new(Vec::with_capacity(PLACES)),
            handing_over: RefCell::new(Vec::with_capacity(PLACES)),
            in_flight: Rc::default(),
            announce: RefCell::new(None),
        };
        SpdkChannel(Rc::new(shared))
    }

    /// How many I/Os are in flight, now and later.
    pub fn in_flight(&self) -> Rc<Cell<usize>> {
        Rc::clone(&self.0.in_flight)
    }

    /// Has `announce` called when a completion waits for a poll: for threads that sleep.
    pub fn announcing(self, announce: Announce) -> SpdkChannel {
        *self.0.announce.borrow_mut() = Some(announce);
        self
    }
}

impl Place {
    fn new() -> Box<Place> {
        Box::new(Place {
            shared: RefCell::new(None),
            io: Cell::new(None),
            flushing: Cell::new(false),
            resets: Cell::new(0),
            wait: UnsafeCell::new(sys::spdk_bdev_io_wait_entry::default()),
        })
    }

    /// The channel of the I/O in flight.
    fn shared(&self) -> Rc<Shared> {
        let shared = self.shared.borrow().clone();
        shared.expect("a place that SPDK knows has an I/O in flight")
    }
}

impl Shared {
    /// Gives the I/O of `place` to SPDK, or to its queue.
    fn start(&self, place: &Place) {
        let Some(io) = place.io.get() else {
            return;
        };
        let (desc, channel) = (self.channel.desc().raw(), self.channel.raw());
        let (start, blocks) = (io.pbn.get() * self.ratio, u64::from(io.blocks) * self.ratio);
        let memory = io.memory.as_ptr().cast::<c_void>();
        let context = std::ptr::from_ref(place).cast_mut().cast::<c_void>();
        let op = if place.flushing.get() {
            BaseOp::Flush
        } else {
            io.op
        };
        loop {
            // SAFETY: descriptor and channel are open, and this is the channel's thread. The memory is the
            // engine's promise; the place stays, since the channel is kept alive by it.
            let rc = unsafe {
                match op {
                    BaseOp::Read => sys::spdk_bdev_read_blocks(
                        desc,
                        channel,
                        memory,
                        start,
                        blocks,
                        Some(completed),
                        context,
                    ),
                    BaseOp::Write => sys::spdk_bdev_write_blocks(
                        desc,
                        channel,
                        memory,
                        start,
                        blocks,
                        Some(completed),
                        context,
                    ),
                    BaseOp::Flush if !self.has_flush => return self.end(place, 0),
                    BaseOp::Flush => {
                        let all = self.channel.desc().blocks();
                        sys::spdk_bdev_flush_blocks(desc, channel, 0, all, Some(completed), context)
                    }
                    BaseOp::Discard if !self.has_unmap => return self.end(place, 0),
                    BaseOp::Discard => sys::spdk_bdev_unmap_blocks(
                        desc,
                        channel,
                        start,
                        blocks,
                        Some(completed),
                        context,
                    ),
                }
            };
            match -rc {
                0 => return,
                libc::ENOMEM if self.wait(place) => return,
                // An I/O has become free in between.
                libc::ENOMEM => {}
                errno => return self.end(place, errno),
            }
        }
    }

    /// Queues the place until the bdev layer has an I/O for it.
    fn wait(&self, place: &Place) -> bool {
        let bdev = self.channel.desc().bdev();
        // SAFETY: the entry belongs to the place, which stays, and is in no queue: a place has one I/O.
        unsafe {
            *place.wait.get() = sys::spdk_bdev_io_wait_entry {
                bdev,
                cb_fn: Some(may_go_on),
                cb_arg: std::ptr::from_ref(place).cast_mut().cast(),
                ..Default::default()
            };
            sys::spdk_bdev_queue_io_wait(bdev, self.channel.raw(), place.wait.get()) == 0
        }
    }

    /// The I/O of `place` has ended, or one half of a durable write.
    fn end(&self, place: &Place, errno: c_int) {
        let Some(io) = place.io.get() else {
            return;
        };
        if io.fua && io.op == BaseOp::Write && errno == 0 && !place.flushing.replace(true) {
            return self.start(place);
        }
        place.flushing.set(false);
        place.io.set(None);
        place.shared.borrow_mut().take();
        self.in_flight.set(self.in_flight.get() - 1);
        let first = {
            let mut ended = self.ended.borrow_mut();
            ended.push(IoCompletion {
                token: io.token,
                errno,
            });
            ended.len() == 1
        };
        if first && let Some(announce) = &*self.announce.borrow() {
            announce();
        }
    }
}

unsafe extern "C" fn completed(io: *mut sys::spdk_bdev_io, success: bool, context: *mut c_void) {
    // SAFETY: SPDK hands over an I/O that has ended; it is freed once.
    let failure = unsafe {
        let failure = (!success).then(|| failure(io));
        sys::spdk_bdev_free_io(io);
        failure
    };
    // SAFETY: the context is the place the I/O was started from, which stays.
    let place = unsafe { &*context.cast_const().cast::<Place>() };
    match failure {
        None => place.shared().end(place, 0),
        Some(Failure::Reset) if place.resets.get() < RESETS => {
            place.resets.set(place.resets.get() + 1);
            place.shared().start(place);
        }
        Some(Failure::Reset) => place.shared().end(place, libc::EIO),
        Some(Failure::Errno(errno)) => place.shared().end(place, errno),
    }
}

/// Why an I/O failed.
enum Failure {
    /// The NVMe controller was reset, and did it or not.
    Reset,
    Errno(c_int),
}

/// Why an I/O failed.
///
/// # Safety
/// It has ended, and failed.
unsafe fn failure(io: *const sys::spdk_bdev_io) -> Failure {
    let (mut errno, mut cdw0, mut kind, mut code) = (0, 0, 0, 0);
    // SAFETY: the caller's promise.
    unsafe {
        sys::spdk_bdev_io_get_aio_status(io, &mut errno);
        sys::spdk_bdev_io_get_nvme_status(io, &mut cdw0, &mut kind, &mut code);
    }
    let is = |status| kind == sys::SPDK_NVME_SCT_GENERIC as c_int && code == status as c_int;
    if is(sys::SPDK_NVME_SC_ABORTED_SQ_DELETION) {
        return Failure::Reset;
    }
    Failure::Errno(match errno {
        _ if is(sys::SPDK_NVME_SC_RESERVATION_CONFLICT) => libc::EBADE,
        0 => libc::EIO,
        errno => errno.abs(),
    })
}

unsafe extern "C" fn may_go_on(context: *mut c_void) {
    // SAFETY: as in `completed`.
    let place = unsafe { &*context.cast_const().cast::<Place>() };
    place.shared().start(place);
}

impl BaseChannel for SpdkChannel {
    unsafe fn submit(&mut self, io: BaseIo) {
        let shared = &self.0;
        let token = io.token as usize;
        let place: *const Place = {
            let mut places = shared.places.borrow_mut();
            while places.len() <= token {
                places.push(Place::new());
            }
            &raw const *places[token]
        };
        // SAFETY: boxed, and never removed while the channel lives.
        let place = unsafe { &*place };
        place.io.set(Some(io));
        place.resets.set(0);
        *place.shared.borrow_mut() = Some(Rc::clone(shared));
        shared.in_flight.set(shared.in_flight.get() + 1);
        shared.start(place);
    }

    fn poll(&mut self, done: &mut dyn FnMut(IoCompletion)) -> bool {
        let mut batch = self.0.handing_over.borrow_mut();
        std::mem::swap(&mut *batch, &mut *self.0.ended.borrow_mut());
        let any = !batch.is_empty();
        batch.drain(..).for_each(done);
        any
    }
}

impl Drop for SpdkChannel {
    fn drop(&mut self) {
        let in_flight = self.0.in_flight.get();
        if in_flight > 0 {
            // The places keep the channel until SPDK has completed them.
            log::error!("a zone thread goes away with {in_flight} I/Os in flight");
        }
    }
}
