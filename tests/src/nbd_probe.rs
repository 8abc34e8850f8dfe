//! An NBD client that asks one thing at a time and passes on every answer: errors as the server's numbers.
//!
//! Unlike the tools, and unlike [`nbd_client`](crate::nbd_client), which moves bulk data, it can say which of many requests failed, and with
//! what. Writes can be sent many at a time; they are answered in any order. A connection that ends makes every request
//! end with [`errno::LOST`], now and from then on.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::probe::{Answer, Probe};

/// How long an answer may take; longer than any timeout a test provokes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes sent before their answers are awaited.
const WINDOW: usize = 64;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;

/// The flag of a request that must be durable before it is answered.
const FUA: u16 = 1;

const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;

/// The numbers of errors on the wire that tests ask for.
pub mod errno {
    /// The device failed.
    pub const EIO: u32 = 5;
    /// The request makes no sense.
    pub const EINVAL: u32 = 22;
    /// The device is full.
    pub const ENOSPC: u32 = 28;
    /// There is no connection any more; no server says so.
    pub const LOST: u32 = 0xffff;
}

/// What [`NbdProbe::keep_busy`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Long {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Writes of zeroes.
    Zero,
    /// Trims.
    Trim,
}

impl Long {
    fn command(self) -> u16 {
        match self {
            Long::Read => READ,
            Long::Write => WRITE,
            Long::Zero => WRITE_ZEROES,
            Long::Trim => TRIM,
        }
    }
}

/// A connection to an export.
#[derive(Debug)]
pub struct NbdProbe {
    stream: UnixStream,
    cookie: u64,
    size: u64,
    lost: bool,
}

impl NbdProbe {
    /// Connects to the default export at a UNIX socket.
    ///
    /// # Errors
    /// When nobody serves it, or not as the protocol has it.
    pub fn connect(socket: &Path) -> std::io::Result<NbdProbe> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut client = NbdProbe {
            stream,
            cookie: 0,
            size: 0,
            lost: false,
        };
        let mut greeting = [0; 18];
        client.stream.read_exact(&mut greeting)?;
        // Fixed newstyle, no padding; then the default export, without asking for more than its size.
        let mut hello = 3u32.to_be_bytes().to_vec();
        hello.extend(b"IHAVEOPT");
        hello.extend(OPTION_GO.to_be_bytes());
        hello.extend(6u32.to_be_bytes());
        hello.extend([0; 6]);
        client.stream.write_all(&hello)?;
        loop {
            let mut header = [0; 20];
            client.stream.read_exact(&mut header)?;
            let kind = number(&header[12..16]);
            let mut data = vec![0; number(&header[16..20]) as usize];
            client.stream.read_exact(&mut data)?;
            match kind {
                REPLY_ACK => return Ok(client),
                REPLY_INFO if data.len() >= 12 && data[..2] == [0, 0] => {
                    client.size =
                        u64::from(number(&data[2..6])) << 32 | u64::from(number(&data[6..10]));
                }
                REPLY_INFO => {}
                kind => {
                    return Err(std::io::Error::other(format!(
                        "the export is refused with {kind:#x}"
                    )));
                }
            }
        }
    }

    /// The export's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads `data.len()` bytes at a byte offset.
    ///
    /// # Errors
    /// The server's error number.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) -> Answer {
        let cookie = self.send(READ, 0, offset, data.len() as u32, &[]);
        self.answer_to(cookie)?;
        self.receive(data)
    }

    /// Writes at a byte offset.
    ///
    /// # Errors
    /// The server's error number.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Answer {
        self.ask(WRITE, 0, offset, data.len() as u32, data)
    }

    /// Writes at a byte offset, and waits until it is durable.
    ///
    /// # Errors
    /// The server's error number.
    pub fn write_fua(&mut self, offset: u64, data: &[u8]) -> Answer {
        self.ask(WRITE, FUA, offset, data.len() as u32, data)
    }

    /// Writes much, many requests at a time; the answers in the order of the requests.
    pub fn write_all<D: AsRef<[u8]>>(
        &mut self,
        writes: impl IntoIterator<Item = (u64, D)>,
    ) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut writes = writes.into_iter().peekable();
        while writes.peek().is_some() {
            let (first, begun) = (self.cookie + 1, answers.len());
            for (offset, data) in writes.by_ref().take(WINDOW) {
                let data = data.as_ref();
                self.send(WRITE, 0, offset, data.len() as u32, data);
                answers.push(Ok(()));
            }
            let mut open: Vec<bool> = vec![true; answers.len() - begun];
            while open.contains(&true) {
                match self.reply() {
                    Ok((cookie, answer)) => {
                        let place = (cookie - first) as usize;
                        answers[begun + place] = answer;
                        open[place] = false;
                    }
                    Err(lost) => {
                        for (answer, _) in answers[begun..]
                            .iter_mut()
                            .zip(&open)
                            .filter(|(_, open)| **open)
                        {
                            *answer = Err(lost);
                        }
                        break;
                    }
                }
            }
        }
        answers
    }

    /// Lets go of a range.
    ///
    /// # Errors
    /// The server's error number.
    pub fn trim(&mut self, offset: u64, length: u32) -> Answer {
        self.ask(TRIM, 0, offset, length, &[])
    }

    /// Zeroes a range.
    ///
    /// # Errors
    /// The server's error number.
    pub fn zero(&mut self, offset: u64, length: u32) -> Answer {
        self.ask(WRITE_ZEROES, 0, offset, length, &[])
    }

    /// Asks for something without data to send, and does not wait for the answer.
    pub fn ask_only(&mut self, what: Long, offset: u64, length: u32) {
        self.send(what.command(), 0, offset, length, &[]);
    }

    /// Keeps `depth` requests of `length` bytes under way on the first `bytes` bytes, until `over` says so of how many were sent,
    /// and waits for the last ones. Each write has new data. Says how many there were.
    ///
    /// # Panics
    /// When one fails.
    pub fn keep_busy(
        &mut self,
        what: Long,
        (length, depth): (u32, u64),
        bytes: u64,
        over: impl Fn(u64) -> bool,
    ) -> u64 {
        let bytes_if = |is: bool| vec![0; if is { length as usize } else { 0 }];
        let mut data = bytes_if(what == Long::Write);
        let mut room = bytes_if(what == Long::Read);
        let (mut sent, mut answered) = (0, 0);
        loop {
            while sent < answered + depth && !over(sent) {
                for (number, block) in (0_u64..).zip(data.chunks_mut(4096)) {
                    block[..8].copy_from_slice(&(sent << 32 | number).to_le_bytes());
                    block[8..16].copy_from_slice(&self.size.to_le_bytes());
                }
                let offset = sent * u64::from(length) % (bytes - u64::from(length) + 1);
                self.send(what.command(), 0, offset / 4096 * 4096, length, &data);
                sent += 1;
            }
            if answered == sent {
                return answered;
            }
            let answer = self.reply().and_then(|(_, answer)| answer);
            assert_eq!(answer.and_then(|()| self.receive(&mut room)), Ok(()));
            answered += 1;
        }
    }

    /// Waits until all that was answered is durable.
    ///
    /// # Errors
    /// The server's error number.
    pub fn flush(&mut self) -> Answer {
        self.ask(FLUSH, 0, 0, 0, &[])
    }

    fn ask(&mut self, command: u16, flags: u16, offset: u64, length: u32, data: &[u8]) -> Answer {
        let cookie = self.send(command, flags, offset, length, data);
        self.answer_to(cookie)
    }

    fn send(&mut self, command: u16, flags: u16, offset: u64, length: u32, data: &[u8]) -> u64 {
        self.cookie += 1;
        let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        for part in [&bytes[..], data] {
            self.lost |= self.stream.write_all(part).is_err();
        }
        self.cookie
    }

    /// The answer to the only request under way.
    fn answer_to(&mut self, cookie: u64) -> Answer {
        let (of, answer) = self.reply()?;
        assert_eq!(of, cookie, "an answer to another request");
        answer
    }

    /// The next answer and the request it is to.
    fn reply(&mut self) -> Result<(u64, Answer), u32> {
        let mut header = [0; 16];
        self.receive(&mut header)?;
        assert_eq!(number(&header[..4]), 0x6744_6698, "a simple reply");
        let cookie = u64::from(number(&header[8..12])) << 32 | u64::from(number(&header[12..16]));
        match number(&header[4..8]) {
            0 => Ok((cookie, Ok(()))),
            error => Ok((cookie, Err(error))),
        }
    }

    /// The next bytes from the server. One that takes too long is a defect, one that is gone is not.
    fn receive(&mut self, bytes: &mut [u8]) -> Answer {
        if let Err(error) = self.stream.read_exact(bytes) {
            assert_ne!(
                error.kind(),
                ErrorKind::WouldBlock,
                "the server answers in time"
            );
            self.lost = true;
        }
        match self.lost {
            true => Err(errno::LOST),
            false => Ok(()),
        }
    }
}

impl Probe for NbdProbe {
    fn size(&self) -> u64 {
        NbdProbe::size(self)
    }

    fn read(&mut self, offset: u64, data: &mut [u8]) -> Answer {
        NbdProbe::read(self, offset, data)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Answer {
        NbdProbe::write(self, offset, data)
    }

    fn write_all<D: AsRef<[u8]>>(
        &mut self,
        writes: impl IntoIterator<Item = (u64, D)>,
    ) -> Vec<Answer> {
        NbdProbe::write_all(self, writes)
    }

    fn trim(&mut self, offset: u64, length: u64) -> Answer {
        NbdProbe::trim(self, offset, length as u32)
    }

    fn zero(&mut self, offset: u64, length: u64) -> Answer {
        NbdProbe::zero(self, offset, length as u32)
    }

    fn flush(&mut self) -> Answer {
        NbdProbe::flush(self)
    }
}

impl Drop for NbdProbe {
    fn drop(&mut self) {
        let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
        bytes.extend([0; 2]);
        bytes.extend(DISCONNECT.to_be_bytes());
        bytes.extend([0; 20]);
        // The server may be gone.
        let _ = self.stream.write_all(&bytes);
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}
