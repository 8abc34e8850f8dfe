//! An NVMe/TCP host that asks one thing at a time and passes on every answer: errors as the controller's status.
//!
//! It is as much of a host as tests need: one controller, its administrative queue and one for I/O, one
//! namespace, no digests, no authentication. Unlike SPDK's own initiator it costs no core, retries nothing,
//! and reports a status as it came. Writes can be sent many at a time; they are answered in any order.
//! A connection that ends makes every request end with [`status::LOST`], now and from then on.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::probe::{Answer, Probe};

/// How long an answer may take; longer than any timeout a test provokes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes sent before their answers are awaited; less than the queue has places.
const WINDOW: usize = 64;

/// Places of a queue.
const QUEUE: u16 = 128;

/// The largest request SPDK's target takes unless it is told otherwise, in bytes.
const LARGEST: usize = 128 * 1024;

/// The most data that may travel with its command, in bytes: SPDK's default for I/O queues.
const WITH_COMMAND: usize = 4096;

/// Statuses tests ask for: status code type, then status code.
pub mod status {
    /// The command is not understood: there is a field that makes no sense.
    pub const INVALID_FIELD: u32 = 0x002;
    /// The device failed, without saying more.
    pub const INTERNAL: u32 = 0x006;
    /// The namespace is not there, or no more.
    pub const INVALID_NAMESPACE: u32 = 0x00b;
    /// The device is full.
    pub const CAPACITY_EXCEEDED: u32 = 0x081;
    /// The data could not be written.
    pub const WRITE_FAULT: u32 = 0x280;
    /// The data could not be read.
    pub const READ_ERROR: u32 = 0x281;
    /// There is no connection any more; no controller says so.
    pub const LOST: u32 = 0xffff;
}

/// Kinds of packets.
mod pdu {
    pub(super) const CONNECTION_REQUEST: u8 = 0x00;
    pub(super) const CONNECTION_RESPONSE: u8 = 0x01;
    pub(super) const COMMAND: u8 = 0x04;
    pub(super) const RESPONSE: u8 = 0x05;
    pub(super) const DATA_TO_CONTROLLER: u8 = 0x06;
    pub(super) const DATA_TO_HOST: u8 = 0x07;
    pub(super) const READY_TO_TRANSFER: u8 = 0x09;
    /// A flag: no more data of this request follows.
    pub(super) const LAST: u8 = 0x04;
    /// A flag: the request is done, and no response follows.
    pub(super) const SUCCESS: u8 = 0x08;
}

/// Commands.
mod opcode {
    pub(super) const FLUSH: u8 = 0x00;
    pub(super) const WRITE: u8 = 0x01;
    pub(super) const READ: u8 = 0x02;
    pub(super) const WRITE_ZEROES: u8 = 0x08;
    pub(super) const DATASET_MANAGEMENT: u8 = 0x09;
    pub(super) const IDENTIFY: u8 = 0x06;
    pub(super) const FABRICS: u8 = 0x7f;
}

/// Fields of 64 bytes that a command is made of, filled as needed.
#[derive(Clone, Copy, Debug)]
struct Sqe([u8; 64]);

impl Sqe {
    fn new(opcode: u8, namespace: u32) -> Sqe {
        let mut sqe = Sqe([0; 64]);
        sqe.0[0] = opcode;
        // Data is described by one SGL entry.
        sqe.0[1] = 0x40;
        sqe.0[4..8].copy_from_slice(&namespace.to_le_bytes());
        sqe
    }

    /// Command double word `n`.
    fn word(mut self, n: usize, value: u32) -> Sqe {
        self.0[4 * n..4 * n + 4].copy_from_slice(&value.to_le_bytes());
        self
    }

    /// A command of the fabric, of this type.
    fn fabrics(kind: u8) -> Sqe {
        Sqe::new(opcode::FABRICS, u32::from(kind))
    }
}

/// What becomes of the data of a command.
enum Data<'a> {
    None,
    Out(&'a [u8]),
    In(&'a mut [u8]),
}

/// What the controller answered: its result double word, or the status.
type Completion = Result<u32, u32>;

/// One queue, which is one connection.
#[derive(Debug)]
struct Queue {
    stream: TcpStream,
    last: u16,
    /// Data of commands on their way that the controller has not asked for yet.
    held: HashMap<u16, Vec<u8>>,
    lost: bool,
}

impl Queue {
    fn connect(port: u16) -> std::io::Result<Queue> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut queue = Queue {
            stream,
            last: 0,
            held: HashMap::new(),
            lost: false,
        };
        // Format 0, no padding, no digests, one transfer at a time.
        let mut hello = [0; 128];
        hello[..8].copy_from_slice(&[pdu::CONNECTION_REQUEST, 0, 128, 0, 128, 0, 0, 0]);
        queue.stream.write_all(&hello)?;
        let (header, _) = queue.packet()?;
        match header[0] {
            pdu::CONNECTION_RESPONSE => Ok(queue),
            kind => Err(std::io::Error::other(format!(
                "packet {kind:#x} in place of a connection response"
            ))),
        }
    }

    /// The next packet: its header and its data.
    fn packet(&mut self) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
        let mut common = [0; 8];
        self.stream.read_exact(&mut common)?;
        let (header, offset) = (usize::from(common[2]), usize::from(common[3]));
        let length = word(&common, 4) as usize;
        if header < 24 || length < header || length > 2 * LARGEST {
            return Err(std::io::Error::other(format!("a packet with {common:?}")));
        }
        let mut rest = vec![0; length - 8];
        self.stream.read_exact(&mut rest)?;
        let data = rest.split_off(offset.max(header) - 8);
        Ok(([common.to_vec(), rest].concat(), data))
    }

    /// Sends a command; its number.
    fn send(&mut self, mut sqe: Sqe, data: &Data<'_>) -> std::io::Result<u16> {
        self.last = self.last % 0x7fff + 1;
        let id = self.last;
        sqe.0[2..4].copy_from_slice(&id.to_le_bytes());
        let (length, out) = match data {
            Data::None => (0, &[][..]),
            Data::Out(data) => (data.len(), *data),
            Data::In(data) => (data.len(), &[][..]),
        };
        let with = !out.is_empty() && out.len() <= WITH_COMMAND;
        sqe.0[32..36].copy_from_slice(&(length as u32).to_le_bytes());
        // Where the data is: behind the command, or to be moved by the transport.
        sqe.0[39] = if with { 0x01 } else { 0x5a };
        let inline = if with { out } else { &[] };
        let offset = if with { 72 } else { 0 };
        let mut packet = vec![pdu::COMMAND, 0, 72, offset];
        packet.extend((72 + inline.len() as u32).to_le_bytes());
        packet.extend(sqe.0);
        packet.extend(inline);
        self.stream.write_all(&packet)?;
        if !with && !out.is_empty() {
            self.held.insert(id, out.to_vec());
        }
        Ok(id)
    }

    /// Serves the connection until a command is done; which, and what it came to. `into` takes the data
    /// of the one command that reads.
    fn reap(&mut self, into: &mut Data<'_>) -> std::io::Result<(u16, Completion)> {
        loop {
            let (header, data) = self.packet()?;
            let id = half(&header, 8);
            match header[0] {
                pdu::RESPONSE => {
                    // Result, then in the last words the command's number and the status above the phase bit.
                    let (id, status) =
                        (half(&header, 20), u32::from(half(&header, 22) >> 1 & 0x7ff));
                    self.held.remove(&id);
                    return Ok((
                        id,
                        if status == 0 {
                            Ok(word(&header, 8))
                        } else {
                            Err(status)
                        },
                    ));
                }
                pdu::DATA_TO_HOST => {
                    let at = word(&header, 12) as usize;
                    let Data::In(into) = into else {
                        return Err(std::io::Error::other("data nobody asked for"));
                    };
                    let place = into.get_mut(at..at + data.len());
                    place
                        .ok_or_else(|| std::io::Error::other("more data than was asked for"))?
                        .copy_from_slice(&data);
                    if header[1] & pdu::SUCCESS != 0 {
                        return Ok((id, Ok(0)));
                    }
                }
                pdu::READY_TO_TRANSFER => {
                    let (at, length) = (word(&header, 12) as usize, word(&header, 16) as usize);
                    let held = self
                        .held
                        .get(&id)
                        .and_then(|held| held.get(at..at + length));
                    let held = held.ok_or_else(|| std::io::Error::other("no such data to send"))?;
                    let mut packet = vec![pdu::DATA_TO_CONTROLLER, pdu::LAST, 24, 24];
                    packet.extend((24 + length as u32).to_le_bytes());
                    packet.extend(id.to_le_bytes());
                    packet.extend(&header[10..12]);
                    packet.extend((at as u32).to_le_bytes());
                    packet.extend((length as u32).to_le_bytes());
                    packet.extend([0; 4]);
                    packet.extend(held);
                    self.stream.write_all(&packet)?;
                }
                kind => {
                    return Err(std::io::Error::other(format!(
                        "packet {kind:#x} {header:?}"
                    )));
                }
            }
        }
    }

    /// Carries out one command.
    fn call(&mut self, sqe: Sqe, mut data: Data<'_>) -> Completion {
        if self.lost {
            return Err(status::LOST);
        }
        let outcome = self.send(sqe, &data).and_then(|id| {
            let (of, completion) = self.reap(&mut data)?;
            assert_eq!(of, id, "an answer to another command");
            Ok(completion)
        });
        outcome.unwrap_or_else(|_| {
            self.lost = true;
            Err(status::LOST)
        })
    }

    /// Makes this queue `number` of a controller, or makes the controller if it is queue 0; the
    /// controller's number.
    fn join(&mut self, number: u16, controller: u16, nqn: &str) -> Completion {
        let mut data = [0; 1024];
        data[..16].copy_from_slice(&HOST.to_be_bytes());
        data[16..18].copy_from_slice(&controller.to_le_bytes());
        let host = format!(
            "nqn.2014-08.org.nvmexpress:uuid:{}",
            uuid::Uuid::from_u128(HOST)
        );
        data[256..256 + nqn.len()].copy_from_slice(nqn.as_bytes());
        data[512..512 + host.len()].copy_from_slice(host.as_bytes());
        let connect = Sqe::fabrics(0x01)
            .word(10, u32::from(number) << 16)
            .word(11, u32::from(QUEUE - 1));
        self.call(connect, Data::Out(&data))
    }
}

/// The host's number; any would do.
const HOST: u128 = 0x7664_6f20_7465_7374_2068_6f73_7420_3031;

/// A connection to the first namespace of a subsystem.
#[derive(Debug)]
pub struct NvmeProbe {
    // The controller lives as long as its administrative queue.
    admin: Queue,
    io: Queue,
    blocks: u64,
    block_size: u64,
}

impl NvmeProbe {
    /// Connects to a subsystem that is served at a port of this machine.
    ///
    /// # Errors
    /// When nobody serves it, or not as the protocol has it.
    pub fn connect(port: u16, nqn: &str) -> std::io::Result<NvmeProbe> {
        let refused = |what: &str| {
            let what = what.to_owned();
            move |status| std::io::Error::other(format!("{what} is refused with {status:#x}"))
        };
        let mut admin = Queue::connect(port)?;
        let joined = admin.join(0, 0xffff, nqn);
        let controller = joined.map_err(refused("the controller"))? as u16;
        // Enabled, with entries of 64 and 16 bytes.
        let enable = Sqe::fabrics(0x00).word(11, 0x14).word(12, 0x0046_0001);
        admin
            .call(enable, Data::None)
            .map_err(refused("enabling"))?;
        let mut ready = 0;
        for _ in 0..1000 {
            let status = Sqe::fabrics(0x04).word(11, 0x1c);
            ready = admin
                .call(status, Data::None)
                .map_err(refused("the state"))?;
            if ready & 1 != 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if ready & 1 == 0 {
            return Err(std::io::Error::other(format!("never ready: {ready:#x}")));
        }
        let mut io = Queue::connect(port)?;
        io.join(1, controller, nqn)
            .map_err(refused("the I/O queue"))?;
        let mut probe = NvmeProbe {
            admin,
            io,
            blocks: 0,
            block_size: 0,
        };
        probe.identify().map_err(refused("the namespace"))?;
        Ok(probe)
    }

    /// Asks for the namespace's size again.
    ///
    /// # Errors
    /// The controller's status.
    pub fn identify(&mut self) -> Answer {
        let mut data = [0; 4096];
        let identify = Sqe::new(opcode::IDENTIFY, 1);
        self.admin.call(identify, Data::In(&mut data))?;
        self.blocks = u64::from_le_bytes(data[..8].try_into().expect("eight bytes"));
        let format = 128 + 4 * usize::from(data[26] & 0xf);
        self.block_size = 1u64.checked_shl(u32::from(data[format + 2])).unwrap_or(0);
        // A namespace that is not there is shown as one without blocks.
        match self.blocks > 0 && self.block_size >= 512 {
            true => Ok(()),
            false => Err(status::INVALID_NAMESPACE),
        }
    }

    /// Bytes of a logical block.
    pub fn block_size(&self) -> u64 {
        self.block_size
    }

    /// Writes at a byte offset, and waits until it is durable.
    ///
    /// # Errors
    /// The controller's status.
    pub fn write_fua(&mut self, offset: u64, data: &[u8]) -> Answer {
        let sqe = self.sqe(opcode::WRITE, offset, data.len());
        let last = word(&sqe.0, 48);
        let outcome = self.io.call(sqe.word(12, last | 1 << 30), Data::Out(data));
        outcome.map(|_| ())
    }

    /// Lets go of a range.
    ///
    /// # Errors
    /// The controller's status.
    pub fn trim(&mut self, offset: u64, length: u64) -> Answer {
        let mut range = [0; 16];
        range[4..8].copy_from_slice(&((length / self.block_size) as u32).to_le_bytes());
        range[8..16].copy_from_slice(&(offset / self.block_size).to_le_bytes());
        // One range, to be deallocated.
        let sqe = Sqe::new(opcode::DATASET_MANAGEMENT, 1).word(11, 4);
        self.io.call(sqe, Data::Out(&range)).map(|_| ())
    }

    /// Zeroes a range.
    ///
    /// # Errors
    /// The controller's status.
    pub fn zero(&mut self, offset: u64, length: u64) -> Answer {
        let most = 0x8000 * self.block_size;
        let mut done = 0;
        while done < length {
            let piece = (length - done).min(most);
            let sqe = self.sqe(opcode::WRITE_ZEROES, offset + done, piece as usize);
            self.io.call(sqe, Data::None)?;
            done += piece;
        }
        Ok(())
    }

    /// Sends writes and hangs up, without a word to the controller or a look at what it answers.
    ///
    /// # Panics
    /// When the controller hangs up first.
    pub fn hang_up<D: AsRef<[u8]>>(mut self, writes: impl IntoIterator<Item = (u64, D)>) {
        for (offset, data) in writes.into_iter().take(WINDOW) {
            let data = data.as_ref();
            let sqe = self.sqe(opcode::WRITE, offset, data.len());
            let sent = self.io.send(sqe, &Data::Out(data));
            sent.expect("the controller takes commands");
        }
    }

    fn sqe(&self, opcode: u8, offset: u64, length: usize) -> Sqe {
        let (first, blocks) = (offset / self.block_size, length as u64 / self.block_size);
        assert!(
            offset.is_multiple_of(self.block_size)
                && blocks * self.block_size == length as u64
                && blocks > 0,
            "whole blocks: {length} bytes at {offset}"
        );
        Sqe::new(opcode, 1)
            .word(10, first as u32)
            .word(11, (first >> 32) as u32)
            .word(12, blocks as u32 - 1)
    }
}

impl Probe for NvmeProbe {
    fn size(&self) -> u64 {
        self.blocks * self.block_size
    }

    fn read(&mut self, offset: u64, data: &mut [u8]) -> Answer {
        for (piece, at) in data.chunks_mut(LARGEST).zip((offset..).step_by(LARGEST)) {
            let sqe = self.sqe(opcode::READ, at, piece.len());
            self.io.call(sqe, Data::In(piece))?;
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Answer {
        for (piece, at) in data.chunks(LARGEST).zip((offset..).step_by(LARGEST)) {
            let sqe = self.sqe(opcode::WRITE, at, piece.len());
            self.io.call(sqe, Data::Out(piece))?;
        }
        Ok(())
    }

    fn write_all<D: AsRef<[u8]>>(
        &mut self,
        writes: impl IntoIterator<Item = (u64, D)>,
    ) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut writes = writes.into_iter().peekable();
        while writes.peek().is_some() {
            let mut sent = HashMap::new();
            for (offset, data) in writes.by_ref().take(WINDOW) {
                let data = data.as_ref();
                let sqe = self.sqe(opcode::WRITE, offset, data.len());
                if !self.io.lost {
                    match self.io.send(sqe, &Data::Out(data)) {
                        Ok(id) => drop(sent.insert(id, answers.len())),
                        Err(_) => self.io.lost = true,
                    }
                }
                answers.push(Err(status::LOST));
            }
            while !self.io.lost && !sent.is_empty() {
                match self.io.reap(&mut Data::None) {
                    Ok((id, completion)) => {
                        let place = sent.remove(&id).expect("an answer to one of these");
                        answers[place] = completion.map(|_| ());
                    }
                    Err(_) => self.io.lost = true,
                }
            }
        }
        answers
    }

    fn trim(&mut self, offset: u64, length: u64) -> Answer {
        NvmeProbe::trim(self, offset, length)
    }

    fn zero(&mut self, offset: u64, length: u64) -> Answer {
        NvmeProbe::zero(self, offset, length)
    }

    fn flush(&mut self) -> Answer {
        self.io
            .call(Sqe::new(opcode::FLUSH, 1), Data::None)
            .map(|_| ())
    }
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
