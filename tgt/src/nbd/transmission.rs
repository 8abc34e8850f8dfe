//! The transmission phase of one connection: requests in, replies out, I/O on the bdev in between.
//!
//! Bytes are read in large pieces. A request gets a slot and, if it carries data, a buffer of the
//! connection's pool; when either has run out, reading stops until a reply has been sent. The data of a
//! write is copied from the piece it came in, or read straight into its buffer when it is longer. Replies
//! are gathered and written together, in the order the I/O ended. Of long requests only a part is moved at a time, when it is
//! this client's [turn](super::turns). One slot lives through:
//!
//! 1. *taken* when a request's header is read;
//! 2. *receiving* the data of a write;
//! 3. *under way* on the bdev: its number is the I/O's tag, its buffer is with the channel;
//! 4. *owed*: its reply is in the queue, with the buffer of a read;
//! 5. *free* again when the last byte of its reply was taken by the socket.
//!
//! After a disconnect, an error of the socket or bytes that are no request, nothing more is taken; the
//! I/O under way is waited for, since its memory is in use, and only then does the connection end.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::os::unix::net::UnixStream;

use vdo::buffer::Buffer;

use super::negotiation::{ExportInfo, LARGEST_REQUEST};
use super::pool::{Pool, Taken};
use super::protocol::{
    Command, REQUEST_SIZE, ReplyHeader, RequestHeader, error, flag, transmission,
};
use super::turns::TurnTaker;
use crate::bdev::{BufferChannel, BufferIo, IoKind};
use crate::reactor::Watched;

/// Requests of one connection that may be under way or owed a reply.
const SLOTS: usize = 256;

/// How much is read in one turn, and written in one turn.
const AT_ONCE: usize = 128 * 1024;

/// How much of the data of a long request is moved in one turn, and more than this is long. Memory that is touched for the first
/// time takes ten times as long as other.
const PART: usize = 64 * 1024;

/// Replies that are written together.
const BATCH: usize = 64;

/// One request.
#[derive(Debug)]
struct Slot {
    request: RequestHeader,
    /// The data, while the connection has it.
    buffer: Option<Buffer>,
    /// Whether a flush is still to follow before the reply.
    flush_after: bool,
    reply: ReplyHeader,
    /// Bytes of data that follow the reply's header.
    data: usize,
}

const FREE_SLOT: Slot = Slot {
    request: RequestHeader {
        flags: 0,
        command: Command::Disconnect,
        cookie: 0,
        offset: 0,
        length: 0,
    },
    buffer: None,
    flush_after: false,
    reply: ReplyHeader::EMPTY,
    data: 0,
};

/// What the next bytes of the stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    /// The header of a request.
    Header,
    /// The data of the write in this slot, of which so much is there.
    Data { slot: u16, filled: usize },
    /// The data of a write that was refused: so much of it is still to be dropped.
    Refused { slot: u16, left: usize },
}

/// A connection on which requests flow.
pub(super) struct Transmission {
    channel: BufferChannel,
    pool: Pool,
    export: ExportInfo,
    structured: bool,
    slots: Vec<Slot>,
    free: Vec<u16>,
    receiving: Receiving,
    input: Vec<u8>,
    /// The part of `input` that is still to be looked at.
    unread: std::ops::Range<usize>,
    /// Slots whose trim has ended and is to be made durable.
    flushes: Vec<u16>,
    /// Slots owed a reply, in order.
    owed: VecDeque<u16>,
    /// Bytes of the first reply that are sent.
    sent: usize,
    /// When it may move the data of long requests.
    turn: TurnTaker,
    /// No more requests are taken.
    ended: bool,
    /// No more replies are sent.
    gone: bool,
}

impl Transmission {
    /// Begins with `early`, the bytes that came after the handshake already.
    pub(super) fn new(
        channel: BufferChannel,
        pool: Pool,
        export: ExportInfo,
        structured: bool,
        early: &[u8],
    ) -> Transmission {
        let mut input = vec![0; AT_ONCE.max(early.len())];
        input[..early.len()].copy_from_slice(early);
        Transmission {
            channel,
            pool,
            export,
            structured,
            slots: (0..SLOTS).map(|_| FREE_SLOT).collect(),
            free: (0..SLOTS as u16).rev().collect(),
            receiving: Receiving::Header,
            input,
            unread: 0..early.len(),
            flushes: Vec::with_capacity(SLOTS),
            owed: VecDeque::with_capacity(SLOTS),
            sent: 0,
            turn: TurnTaker::new(),
            ended: false,
            gone: false,
        }
    }

    /// Takes no more requests.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Whether all that was begun has ended and been answered, as far as the client would listen.
    pub(super) fn is_finished(&self) -> bool {
        self.ended && self.channel.in_flight() == 0 && (self.gone || self.owed.is_empty())
    }

    /// Whether nothing is under way on the bdev.
    pub(super) fn is_quiet(&self) -> bool {
        self.channel.in_flight() == 0
    }

    /// Does what there is to do; says whether there was anything.
    #[inline]
    pub(super) fn poll(&mut self, socket: &mut Watched<UnixStream>) -> bool {
        let mut busy = self.poll_bdev();
        if !self.ended {
            // What was left over for want of a slot or a buffer.
            if !self.unread.is_empty() {
                busy |= self.take_requests();
            }
            busy |= self.read(socket);
        }
        if !self.owed.is_empty() && !self.gone && socket.is_writable() {
            busy = true;
            if !self.has_much_to_write() {
                self.write(socket, AT_ONCE);
            } else if self.turn.may_move() {
                self.write(socket, PART);
            }
        }
        busy
    }

    // ----- the bdev

    fn poll_bdev(&mut self) -> bool {
        if self.channel.in_flight() == 0 {
            return false;
        }
        let Transmission {
            channel,
            slots,
            flushes,
            owed,
            pool,
            structured,
            ..
        } = self;
        let any = channel.poll(&mut |completion| {
            let number = completion.tag as u16;
            let slot = &mut slots[usize::from(number)];
            slot.buffer = completion.buffer;
            if std::mem::take(&mut slot.flush_after) && completion.errno == 0 {
                flushes.push(number);
                return;
            }
            settle(slot, pool, *structured, error::of_errno(completion.errno));
            owed.push_back(number);
        });
        for number in flushes.drain(..) {
            channel.submit(io(IoKind::Flush, 0, 0, number));
        }
        any
    }

    // ----- requests

    /// Reads once; the next turn reads again.
    fn read(&mut self, socket: &mut Watched<UnixStream>) -> bool {
        if !socket.is_readable()
            || (self.receiving == Receiving::Header && self.unread.len() >= REQUEST_SIZE)
        {
            return false;
        }
        if self.has_much_to_read() && !self.turn.may_move() {
            return true;
        }
        if self.unread.start > 0 {
            self.input.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        let room = &mut self.input[self.unread.end..];
        let (result, direct) = match self.receiving {
            Receiving::Data { slot, filled } => {
                let slot = &mut self.slots[usize::from(slot)];
                let length = slot.request.length as usize;
                let buffer = slot
                    .buffer
                    .as_mut()
                    .expect("a slot that receives data has its buffer");
                let direct = (length - filled).min(PART);
                let rest = &mut buffer[filled..filled + direct];
                // Behind the data of the request, if that is all, the next one may follow.
                let room = match filled + direct == length {
                    true => room,
                    false => &mut [],
                };
                let mut places = [IoSliceMut::new(rest), IoSliceMut::new(room)];
                (socket.io_mut().read_vectored(&mut places), direct)
            }
            _ => (socket.io_mut().read(room), 0),
        };
        match result {
            Ok(0) => self.ended = true,
            Ok(count) => {
                let direct = direct.min(count);
                self.unread.end += count - direct;
                if let Receiving::Data { slot, filled } = self.receiving {
                    self.filled_to(slot, filled + direct);
                }
                self.take_requests();
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => {
                    socket.clear_readable();
                    return false;
                }
                ErrorKind::Interrupted => {}
                _ => self.hang_up(&error),
            },
        }
        true
    }

    fn has_much_to_read(&self) -> bool {
        match self.receiving {
            Receiving::Data { slot, filled } => {
                self.slots[usize::from(slot)].request.length as usize - filled > PART
            }
            Receiving::Header | Receiving::Refused { .. } => false,
        }
    }

    fn has_much_to_write(&self) -> bool {
        let first = self.owed.front();
        first.is_some_and(|number| self.slots[usize::from(*number)].data > self.sent + PART)
    }

    fn hang_up(&mut self, error: &io::Error) {
        log::debug!("nbd: the client of {} is gone: {error}", self.export.name);
        self.ended = true;
        self.gone = true;
    }

    /// Looks at the bytes that have come; says whether any could be taken.
    fn take_requests(&mut self) -> bool {
        let before = self.unread.start;
        while !self.ended && !self.unread.is_empty() {
            let stuck = match self.receiving {
                Receiving::Header => !self.take_header(),
                Receiving::Data { slot, filled } => {
                    self.take_data(slot, filled);
                    false
                }
                Receiving::Refused { slot, left } => {
                    self.drop_data(slot, left);
                    false
                }
            };
            if stuck {
                break;
            }
        }
        let any = self.unread.start != before;
        if self.unread.is_empty() {
            self.unread = 0..0;
        }
        any
    }

    fn take_data(&mut self, slot: u16, filled: usize) {
        let place = &mut self.slots[usize::from(slot)];
        let length = place.request.length as usize;
        let count = self.unread.len().min(length - filled);
        let from = self.unread.start..self.unread.start + count;
        let buffer = place
            .buffer
            .as_mut()
            .expect("a slot that receives data has its buffer");
        buffer[filled..filled + count].copy_from_slice(&self.input[from]);
        self.unread.start += count;
        self.filled_to(slot, filled + count);
    }

    fn filled_to(&mut self, slot: u16, filled: usize) {
        let request = self.slots[usize::from(slot)].request;
        if filled < request.length as usize {
            self.receiving = Receiving::Data { slot, filled };
        } else {
            self.receiving = Receiving::Header;
            self.submit(slot, IoKind::Write);
        }
    }

    fn drop_data(&mut self, slot: u16, left: usize) {
        let count = self.unread.len().min(left);
        self.unread.start += count;
        self.receiving = if count < left {
            Receiving::Refused {
                slot,
                left: left - count,
            }
        } else {
            self.owed.push_back(slot);
            Receiving::Header
        };
    }

    /// Takes one request's header; `false` if it is not whole yet, or there is no slot or buffer for it.
    #[inline]
    fn take_header(&mut self) -> bool {
        let Some(bytes) = self.input[self.unread.clone()].first_chunk() else {
            return false;
        };
        let Some(request) = RequestHeader::parse(bytes) else {
            log::warn!(
                "nbd: a client of {} sent what is no request; it is let go",
                self.export.name
            );
            self.ended = true;
            return true;
        };
        if request.command == Command::Disconnect {
            self.ended = true;
            return true;
        }
        let refusal = self.refusal(&request);
        let carries_data = matches!(request.command, Command::Read | Command::Write);
        let mut buffer = None;
        let mut outcome = refusal;
        if refusal == error::NONE && carries_data {
            if self.free.is_empty() {
                return false;
            }
            match self.pool.take(request.length as usize) {
                Taken::Buffer(taken) => buffer = Some(taken),
                Taken::AllInUse => return false,
                Taken::NoMemory => outcome = error::ENOMEM,
            }
        }
        let Some(number) = self.free.pop() else {
            return false;
        };
        self.unread.start += REQUEST_SIZE;
        let slot = &mut self.slots[usize::from(number)];
        slot.request = request;
        slot.buffer = buffer;
        slot.flush_after = false;
        if outcome != error::NONE {
            self.refuse(number, outcome);
            return true;
        }
        match request.command {
            Command::Read => self.submit(number, IoKind::Read),
            Command::Write => {
                self.receiving = Receiving::Data {
                    slot: number,
                    filled: 0,
                }
            }
            Command::Flush if self.export.flags & transmission::SEND_FLUSH != 0 => {
                self.submit(number, IoKind::Flush);
            }
            Command::WriteZeroes => self.submit(number, IoKind::WriteZeroes),
            Command::Trim => self.trim(number),
            // Data is where it is; to know that it will be wanted changes nothing.
            _ => self.reply(number, error::NONE),
        }
        true
    }

    /// Why a request is refused: an error of the wire, or none.
    #[inline]
    fn refusal(&self, request: &RequestHeader) -> u32 {
        let promised = |bit: u16| self.export.flags & bit != 0;
        let (known_flags, possible) = match request.command {
            Command::Read => (flag::FUA | flag::DF, true),
            Command::Write => (flag::FUA, true),
            Command::Flush => {
                return if request.flags & !flag::FUA == 0 {
                    error::NONE
                } else {
                    error::EINVAL
                };
            }
            Command::Trim => (flag::FUA, promised(transmission::SEND_TRIM)),
            Command::Cache => (flag::FUA, promised(transmission::SEND_CACHE)),
            Command::WriteZeroes => {
                let fast = if promised(transmission::SEND_FAST_ZERO) {
                    flag::FAST_ZERO
                } else {
                    0
                };
                (
                    flag::FUA | flag::NO_HOLE | fast,
                    promised(transmission::SEND_WRITE_ZEROES),
                )
            }
            Command::Disconnect | Command::Other(_) => return error::EINVAL,
        };
        let modifies = matches!(
            request.command,
            Command::Write | Command::WriteZeroes | Command::Trim
        );
        if modifies && promised(transmission::READ_ONLY) {
            return error::EPERM;
        }
        let length = u64::from(request.length);
        if !possible || request.flags & !known_flags != 0 || length == 0 {
            return error::EINVAL;
        }
        let carries_data = matches!(request.command, Command::Read | Command::Write);
        if carries_data && request.length > LARGEST_REQUEST {
            return error::EINVAL;
        }
        let size = self.export.bytes();
        if request.offset > size || length > size - request.offset {
            return if modifies {
                error::ENOSPC
            } else {
                error::EINVAL
            };
        }
        let aligned = (request.offset | length) & u64::from(self.export.block_size - 1) == 0;
        // Advice may be rounded, data may not.
        let advice = matches!(request.command, Command::Trim | Command::Cache);
        if aligned || advice {
            error::NONE
        } else {
            error::EINVAL
        }
    }

    /// Refuses a request; the data of a write is still on its way.
    fn refuse(&mut self, number: u16, outcome: u32) {
        let slot = &mut self.slots[usize::from(number)];
        let left = slot.request.length as usize;
        if slot.request.command == Command::Write && left > 0 {
            settle(slot, &mut self.pool, self.structured, outcome);
            self.receiving = Receiving::Refused { slot: number, left };
        } else {
            self.reply(number, outcome);
        }
    }

    /// Starts the I/O of a request.
    #[inline]
    fn submit(&mut self, number: u16, kind: IoKind) {
        let slot = &mut self.slots[usize::from(number)];
        let (offset, length) = match kind {
            IoKind::Flush => (0, 0),
            _ => (slot.request.offset, u64::from(slot.request.length)),
        };
        let fua = slot.request.flags & flag::FUA != 0 && kind.modifies();
        let buffer = slot.buffer.take();
        self.channel.submit(BufferIo {
            fua,
            buffer,
            ..io(kind, offset, length, number)
        });
    }

    /// Unmaps the whole blocks of a trim.
    fn trim(&mut self, number: u16) {
        let slot = &mut self.slots[usize::from(number)];
        let block = u64::from(self.export.block_size);
        let start = slot.request.offset.next_multiple_of(block);
        let end = (slot.request.offset + u64::from(slot.request.length)) & !(block - 1);
        if end <= start {
            self.reply(number, error::NONE);
            return;
        }
        slot.flush_after = slot.request.flags & flag::FUA != 0
            && self.export.flags & transmission::SEND_FLUSH != 0;
        self.channel
            .submit(io(IoKind::Unmap, start, end - start, number));
    }

    // ----- replies

    fn reply(&mut self, number: u16, outcome: u32) {
        settle(
            &mut self.slots[usize::from(number)],
            &mut self.pool,
            self.structured,
            outcome,
        );
        self.owed.push_back(number);
    }

    /// Writes replies until there are none, the socket takes no more, or none of the `left` bytes are left.
    fn write(&mut self, socket: &mut Watched<UnixStream>, mut left: usize) {
        while !self.owed.is_empty() && left > 0 {
            let mut pieces = [IoSlice::new(&[]); 2 * BATCH];
            let mut count = 0;
            let mut skip = self.sent;
            let mut room = left;
            for number in self.owed.iter().take(BATCH) {
                let slot = &self.slots[usize::from(*number)];
                let data = slot
                    .buffer
                    .as_ref()
                    .map_or(&[][..], |buffer| &buffer[..slot.data]);
                for piece in [slot.reply.bytes(), data] {
                    let skipped = skip.min(piece.len());
                    skip -= skipped;
                    let piece = &piece[skipped..piece.len().min(skipped + room)];
                    if !piece.is_empty() {
                        room -= piece.len();
                        pieces[count] = IoSlice::new(piece);
                        count += 1;
                    }
                }
            }
            match socket.io_mut().write_vectored(&pieces[..count]) {
                Ok(written) => {
                    left -= written;
                    self.written(written);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => {
                        socket.clear_writable();
                        return;
                    }
                    ErrorKind::Interrupted => {}
                    _ => {
                        self.hang_up(&error);
                        return;
                    }
                },
            }
        }
    }

    /// Frees the slots whose replies are sent.
    fn written(&mut self, count: usize) {
        self.sent += count;
        while let Some(&number) = self.owed.front() {
            let slot = &mut self.slots[usize::from(number)];
            let length = slot.reply.bytes().len() + slot.data;
            if self.sent < length {
                return;
            }
            self.sent -= length;
            self.owed.pop_front();
            if let Some(buffer) = slot.buffer.take() {
                self.pool.give(buffer);
            }
            self.free.push(number);
        }
    }
}

/// Makes a slot's reply; keeps its buffer only if the reply carries the data in it.
#[inline]
fn settle(slot: &mut Slot, pool: &mut Pool, structured: bool, outcome: u32) {
    let RequestHeader {
        command,
        cookie,
        offset,
        length,
        ..
    } = slot.request;
    slot.data = 0;
    slot.reply = match (command, structured, outcome) {
        (Command::Read, true, error::NONE) => ReplyHeader::data(cookie, offset, length),
        (Command::Read, true, outcome) => ReplyHeader::failure(cookie, outcome),
        (_, _, outcome) => ReplyHeader::simple(cookie, outcome),
    };
    if command == Command::Read && outcome == error::NONE {
        slot.data = length as usize;
    } else if let Some(buffer) = slot.buffer.take() {
        pool.give(buffer);
    }
}

fn io(kind: IoKind, offset: u64, length: u64, number: u16) -> BufferIo {
    BufferIo {
        kind,
        offset,
        length,
        fua: false,
        buffer: None,
        tag: u64::from(number),
    }
}
