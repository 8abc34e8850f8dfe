//! I/O on buffers that are owned: no pointer, no promise.
//!
//! A [`BufferChannel`] takes a [`Buffer`] with each I/O and gives it back with its completion, so that
//! code above it needs nothing unsafe. A buffer in flight belongs to the channel; if the channel is
//! dropped it first drops the bdev's end, which waits for the kernel, and then the buffers.

use vdo::buffer::Buffer;

use super::channel::Channel;
use super::io::{BdevIo, IoKind, IoMeta};

/// One I/O with its memory.
#[derive(Debug)]
pub struct BufferIo {
    /// What to do.
    pub kind: IoKind,
    /// The first byte.
    pub offset: u64,
    /// How many bytes; not more than the buffer holds, for a read or a write.
    pub length: u64,
    /// Whether a write must be durable when it completes.
    pub fua: bool,
    /// What to read into or write from, at its beginning; `None` for the other kinds.
    pub buffer: Option<Buffer>,
    /// Given back with the completion.
    pub tag: u64,
}

/// The end of a [`BufferIo`].
#[derive(Debug)]
pub struct BufferCompletion {
    /// The tag it was submitted with.
    pub tag: u64,
    /// Zero, or a positive errno.
    pub errno: i32,
    /// The buffer it was submitted with.
    pub buffer: Option<Buffer>,
}

struct Slot {
    tag: u64,
    buffer: Option<Buffer>,
}

/// A channel for owned buffers.
pub struct BufferChannel {
    // Dropped before the buffers the kernel may still be using.
    channel: Channel,
    slots: Vec<Slot>,
    free: Vec<usize>,
    refused: Vec<BufferCompletion>,
}

impl BufferChannel {
    /// Uses `channel` for owned buffers from now on.
    pub fn new(channel: Channel) -> BufferChannel {
        BufferChannel {
            channel,
            slots: Vec::new(),
            free: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// The channel below.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// How many I/Os have been submitted and not yet been given back.
    pub fn in_flight(&self) -> usize {
        self.channel.in_flight() + self.refused.len()
    }

    /// Starts an I/O; as [`Channel::submit_io`], and refuses (`EINVAL`) a buffer that is missing or short.
    pub fn submit(&mut self, mut io: BufferIo) {
        let memory = match (io.kind, io.buffer.as_mut()) {
            (IoKind::Read | IoKind::Write, Some(buffer)) if buffer.len() as u64 >= io.length => {
                buffer.as_ptr()
            }
            (IoKind::Read | IoKind::Write, _) => {
                let completion = BufferCompletion {
                    tag: io.tag,
                    errno: libc::EINVAL,
                    buffer: io.buffer,
                };
                self.refused.push(completion);
                return;
            }
            _ => std::ptr::NonNull::dangling(),
        };
        let slot = Slot {
            tag: io.tag,
            buffer: io.buffer,
        };
        let place = match self.free.pop() {
            Some(place) => {
                self.slots[place] = slot;
                place
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        let meta = IoMeta {
            token: place as u64,
            kind: io.kind,
            length: io.length,
            started: vdo::seam::Nanos(0),
        };
        // SAFETY: the memory is the buffer's, which is at least `length` long, owned by the slot until
        // the completion, and never moved or freed with its owner: a Buffer's memory is on the heap.
        unsafe {
            self.channel.submit_io(BdevIo {
                meta,
                offset: io.offset,
                memory,
                fua: io.fua,
            })
        }
    }

    /// Hands each I/O that ended to `done`, in any order, and says whether there were any.
    pub fn poll(&mut self, done: &mut dyn FnMut(BufferCompletion)) -> bool {
        let BufferChannel {
            channel,
            slots,
            free,
            refused,
        } = self;
        let any = !refused.is_empty();
        refused.drain(..).for_each(&mut *done);
        any | channel.poll_meta(&mut |meta, errno| {
            let place = meta.token as usize;
            let slot = &mut slots[place];
            free.push(place);
            done(BufferCompletion {
                tag: slot.tag,
                errno,
                buffer: slot.buffer.take(),
            });
        })
    }
}
