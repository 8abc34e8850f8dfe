//! The handshake: fixed newstyle negotiation up to the moment requests may be sent.
//!
//! A [`Negotiation`] is a machine without a socket: it is fed what has come in and says how much of it
//! it took, what to send, and whether the client has chosen the export or gone. One socket serves one
//! export, under the bdev's name and under the empty name. Whether there is room for a client it asks at the last
//! moment, so that clients that only want to know something need none.

use crate::bdev::BlockCount;

use super::protocol::{
    GREETING, OPTION, OPTION_REPLY, handshake, info, option, option_reply, transmission,
};

/// Longest data of an option that is looked at: a name of the longest kind, and a few requests.
const LONGEST_OPTION: u32 = 8192;

/// Largest request, in bytes of data.
pub(super) const LARGEST_REQUEST: u32 = 32 * 1024 * 1024;

/// What an export says of itself.
#[derive(Clone, Debug)]
pub(super) struct ExportInfo {
    /// Its name.
    pub(super) name: String,
    /// How many blocks it has.
    pub(super) blocks: BlockCount,
    /// The smallest unit of I/O, in bytes: a block.
    pub(super) block_size: u32,
    /// Transmission flags, but for those that depend on the negotiation.
    pub(super) flags: u16,
}

/// Where the negotiation has got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It needs more bytes.
    Going,
    /// The client has chosen the export: requests follow.
    Ready {
        /// Whether reads are to be answered by structured replies.
        structured: bool,
    },
    /// The client is to be let go once what was to be sent is sent.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The client's flags are next.
    Flags,
    /// An option is next.
    Options,
    /// This much of an option too long to look at is still to be dropped; then it is answered.
    Dropping { option: u32, left: u32 },
    /// Nothing more is taken.
    Ended,
}

/// One client's handshake.
#[derive(Debug)]
pub(super) struct Negotiation {
    state: State,
    client_flags: u32,
    structured: bool,
}

/// The word of `N` bytes at `at`, if it is there.
fn word<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    word(bytes, at).map(u16::from_be_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    word(bytes, at).map(u32::from_be_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    word(bytes, at).map(u64::from_be_bytes)
}

/// A length-prefixed string at `at`, and what follows it.
fn string_at(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let length = u32_at(bytes, at)? as usize;
    let end = at.checked_add(4)?.checked_add(length)?;
    Some((bytes.get(at + 4..end)?, end))
}

impl Negotiation {
    /// Begins a handshake; the greeting goes to `out`.
    pub(super) fn begin(out: &mut Vec<u8>) -> Negotiation {
        out.extend(GREETING.to_be_bytes());
        out.extend(OPTION.to_be_bytes());
        out.extend((handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES).to_be_bytes());
        Negotiation {
            state: State::Flags,
            client_flags: 0,
            structured: false,
        }
    }

    /// Takes what it can of `input`; says how much, and how far it has got. To be called again with
    /// the rest when more has come. `room` is asked once, when the client chooses the export, and takes a place for
    /// it if it answers that there is one.
    pub(super) fn step(
        &mut self,
        input: &[u8],
        export: &ExportInfo,
        room: &mut dyn FnMut() -> bool,
        out: &mut Vec<u8>,
    ) -> (usize, Progress) {
        let mut taken = 0;
        loop {
            let (more, progress) = self.one(&input[taken..], export, room, out);
            taken += more;
            if progress != Progress::Going {
                self.state = State::Ended;
                return (taken, progress);
            }
            if more == 0 {
                return (taken, progress);
            }
        }
    }

    fn one(
        &mut self,
        input: &[u8],
        export: &ExportInfo,
        room: &mut dyn FnMut() -> bool,
        out: &mut Vec<u8>,
    ) -> (usize, Progress) {
        match self.state {
            State::Ended => (0, Progress::Over),
            State::Flags => match u32_at(input, 0) {
                None => (0, Progress::Going),
                Some(flags) => {
                    let known = u32::from(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
                    self.client_flags = flags;
                    self.state = State::Options;
                    (
                        4,
                        if flags & !known == 0 {
                            Progress::Going
                        } else {
                            Progress::Over
                        },
                    )
                }
            },
            State::Dropping { option, left } => {
                let now = left.min(u32::try_from(input.len()).unwrap_or(u32::MAX));
                if now == left {
                    self.state = State::Options;
                    reply(
                        out,
                        option,
                        option_reply::TOO_BIG,
                        b"the option's data is too long",
                    );
                } else {
                    self.state = State::Dropping {
                        option,
                        left: left - now,
                    };
                }
                (now as usize, Progress::Going)
            }
            State::Options => {
                const HEADER: usize = 16;
                let header = (u64_at(input, 0), u32_at(input, 8), u32_at(input, 12));
                let (Some(magic), Some(option), Some(length)) = header else {
                    return (0, Progress::Going);
                };
                if magic != OPTION {
                    return (HEADER, Progress::Over);
                }
                if length > LONGEST_OPTION {
                    if option == option::EXPORT_NAME {
                        // There is no way to answer this one but by leaving.
                        return (HEADER, Progress::Over);
                    }
                    self.state = State::Dropping {
                        option,
                        left: length,
                    };
                    return (HEADER, Progress::Going);
                }
                match input.get(HEADER..HEADER + length as usize) {
                    None => (0, Progress::Going),
                    Some(data) => (
                        HEADER + data.len(),
                        self.option(option, data, export, room, out),
                    ),
                }
            }
        }
    }

    fn option(
        &mut self,
        option: u32,
        data: &[u8],
        export: &ExportInfo,
        room: &mut dyn FnMut() -> bool,
        out: &mut Vec<u8>,
    ) -> Progress {
        match option {
            option::EXPORT_NAME => {
                // There is no way to say no to this one but by leaving.
                if !export.answers_to(data) || !room() {
                    return Progress::Over;
                }
                out.extend(export.bytes().to_be_bytes());
                out.extend(self.flags(export).to_be_bytes());
                if self.client_flags & u32::from(handshake::NO_ZEROES) == 0 {
                    out.extend([0; 124]);
                }
                return Progress::Ready {
                    structured: self.structured,
                };
            }
            option::ABORT => {
                reply(out, option, option_reply::ACK, &[]);
                return Progress::Over;
            }
            option::LIST if data.is_empty() => {
                let name = export.name.as_bytes();
                let mut entry = (name.len() as u32).to_be_bytes().to_vec();
                entry.extend(name);
                reply(out, option, option_reply::SERVER, &entry);
                reply(out, option, option_reply::ACK, &[]);
            }
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                reply(out, option, option_reply::ACK, &[]);
            }
            option::LIST | option::STRUCTURED_REPLY => {
                reply(
                    out,
                    option,
                    option_reply::INVALID,
                    b"this option takes no data",
                );
            }
            option::INFO | option::GO => return self.go(option, data, export, room, out),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => match string_at(data, 0) {
                Some((name, _)) if !export.answers_to(name) => {
                    no_such_export(out, option);
                }
                // There are no contexts: an acknowledgement without any is the way to say so.
                Some((_, end)) if u32_at(data, end).is_some() && self.structured => {
                    reply(out, option, option_reply::ACK, &[]);
                }
                _ => reply(
                    out,
                    option,
                    option_reply::INVALID,
                    b"malformed, or no structured replies",
                ),
            },
            _ => reply(out, option, option_reply::UNSUPPORTED, &[]),
        }
        Progress::Going
    }

    /// Answers `INFO` and `GO`.
    fn go(
        &mut self,
        option: u32,
        data: &[u8],
        export: &ExportInfo,
        room: &mut dyn FnMut() -> bool,
        out: &mut Vec<u8>,
    ) -> Progress {
        let Some((name, requests)) = parse_go(data) else {
            reply(out, option, option_reply::INVALID, b"malformed option data");
            return Progress::Going;
        };
        if !export.answers_to(name) {
            no_such_export(out, option);
            return Progress::Going;
        }
        if option == option::GO && !room() {
            reply(
                out,
                option,
                option_reply::POLICY,
                b"as many clients are served as may be",
            );
            return Progress::Going;
        }
        let mut entry = info::EXPORT.to_be_bytes().to_vec();
        entry.extend(export.bytes().to_be_bytes());
        entry.extend(self.flags(export).to_be_bytes());
        reply(out, option, option_reply::INFO, &entry);
        if requests.contains(&info::NAME) {
            let mut entry = info::NAME.to_be_bytes().to_vec();
            entry.extend(export.name.as_bytes());
            reply(out, option, option_reply::INFO, &entry);
        }
        // Given whether asked for or not: a client that does not care skips it.
        let mut entry = info::BLOCK_SIZE.to_be_bytes().to_vec();
        for size in [
            export.block_size,
            export.block_size.max(4096),
            LARGEST_REQUEST,
        ] {
            entry.extend(size.to_be_bytes());
        }
        reply(out, option, option_reply::INFO, &entry);
        reply(out, option, option_reply::ACK, &[]);
        if option == option::GO {
            Progress::Ready {
                structured: self.structured,
            }
        } else {
            Progress::Going
        }
    }

    fn flags(&self, export: &ExportInfo) -> u16 {
        if self.structured {
            export.flags | transmission::SEND_DF
        } else {
            export.flags
        }
    }
}

impl ExportInfo {
    /// Its size in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.blocks.get() * u64::from(self.block_size)
    }

    fn answers_to(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.name.as_bytes()
    }
}

fn no_such_export(out: &mut Vec<u8>, option: u32) {
    reply(
        out,
        option,
        option_reply::UNKNOWN,
        b"there is no such export",
    );
}

/// Appends the answer to an option.
fn reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.extend(OPTION_REPLY.to_be_bytes());
    out.extend(option.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
}

/// The name and the information requests of `INFO` and `GO`.
fn parse_go(data: &[u8]) -> Option<(&[u8], Vec<u16>)> {
    let (name, mut at) = string_at(data, 0)?;
    let count = usize::from(u16_at(data, at)?);
    at += 2;
    if data.len() != at + 2 * count {
        return None;
    }
    let requests = (0..count)
        .filter_map(|index| u16_at(data, at + 2 * index))
        .collect();
    Some((name, requests))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn export() -> ExportInfo {
        ExportInfo {
            name: "vdo0".to_owned(),
            blocks: (1 << 21).into(),
            block_size: 512,
            flags: transmission::HAS_FLAGS | transmission::SEND_FLUSH,
        }
    }

    fn encode(option: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = OPTION.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        bytes
    }

    fn go_data(name: &str, requests: &[u16]) -> Vec<u8> {
        let mut data = (name.len() as u32).to_be_bytes().to_vec();
        data.extend(name.as_bytes());
        data.extend((requests.len() as u16).to_be_bytes());
        data.extend(requests.iter().flat_map(|request| request.to_be_bytes()));
        data
    }

    /// The answers in `out`: option, kind, data.
    fn replies(mut out: &[u8]) -> Vec<(u32, u32, Vec<u8>)> {
        let mut replies = Vec::new();
        while !out.is_empty() {
            assert_eq!(u64_at(out, 0), Some(OPTION_REPLY));
            let length = u32_at(out, 16).unwrap() as usize;
            replies.push((
                u32_at(out, 8).unwrap(),
                u32_at(out, 12).unwrap(),
                out[20..20 + length].to_vec(),
            ));
            out = &out[20 + length..];
        }
        replies
    }

    /// A handshake past the client's flags.
    fn begun(flags: u32) -> Negotiation {
        let mut negotiation = Negotiation::begin(&mut Vec::new());
        assert_eq!(
            negotiation.step(
                &flags.to_be_bytes(),
                &export(),
                &mut || true,
                &mut Vec::new()
            ),
            (4, Progress::Going)
        );
        negotiation
    }

    fn run(input: &[u8]) -> (Vec<(u32, u32, Vec<u8>)>, Progress) {
        let mut out = Vec::new();
        let (taken, progress) = begun(3).step(input, &export(), &mut || true, &mut out);
        assert_eq!(taken, input.len());
        (replies(&out), progress)
    }

    #[test]
    fn the_greeting_is_fixed_newstyle() {
        let mut out = Vec::new();
        Negotiation::begin(&mut out);
        assert_eq!(out, b"NBDMAGICIHAVEOPT\0\x03");
    }

    #[test]
    fn a_client_that_there_is_no_room_for_is_told_so_and_may_still_ask() {
        let mut out = Vec::new();
        let input = [
            encode(option::GO, &go_data("vdo0", &[])),
            encode(option::INFO, &go_data("vdo0", &[])),
        ];
        let (_, progress) = begun(3).step(&input.concat(), &export(), &mut || false, &mut out);
        assert_eq!(progress, Progress::Going);
        let replies = replies(&out);
        assert_eq!(replies[0].0, option::GO);
        assert_eq!(replies[0].1, option_reply::POLICY);
        assert_eq!(replies[1].0, option::INFO);
        assert_eq!(replies.last().unwrap().1, option_reply::ACK);
        let input = encode(option::EXPORT_NAME, b"vdo0");
        let step = begun(3).step(&input, &export(), &mut || false, &mut Vec::new());
        assert_eq!(step, (input.len(), Progress::Over));
    }

    #[test]
    fn unknown_client_flags_end_the_handshake() {
        let mut negotiation = Negotiation::begin(&mut Vec::new());
        let step = negotiation.step(
            &7u32.to_be_bytes(),
            &export(),
            &mut || true,
            &mut Vec::new(),
        );
        assert_eq!(step, (4, Progress::Over));
    }

    #[test]
    fn go_tells_size_flags_and_block_sizes() {
        let (replies, progress) = run(&encode(option::GO, &go_data("vdo0", &[info::NAME])));
        assert_eq!(progress, Progress::Ready { structured: false });
        let mut expected = vec![0, 0];
        expected.extend((1u64 << 30).to_be_bytes());
        expected.extend(5u16.to_be_bytes());
        assert_eq!(replies[0], (option::GO, option_reply::INFO, expected));
        assert_eq!(replies[1].2, b"\0\x01vdo0");
        let block_sizes = [
            [0, 3].as_slice(),
            &[0, 0, 2, 0],
            &[0, 0, 16, 0],
            &[2, 0, 0, 0],
        ]
        .concat();
        assert_eq!(replies[2].2, block_sizes);
        assert_eq!(replies[3], (option::GO, option_reply::ACK, vec![]));
    }

    #[test]
    fn structured_replies_are_remembered_and_promise_df() {
        let input = [
            encode(option::STRUCTURED_REPLY, &[]),
            encode(option::GO, &go_data("", &[])),
        ]
        .concat();
        let (replies, progress) = run(&input);
        assert_eq!(progress, Progress::Ready { structured: true });
        assert_eq!(
            replies[1].2[10..],
            (5 | transmission::SEND_DF).to_be_bytes()
        );
    }

    #[test]
    fn export_name_is_answered_bare_with_zeroes_unless_waived() {
        for (flags, length) in [(1, 134), (3, 10)] {
            let mut out = Vec::new();
            let input = encode(option::EXPORT_NAME, b"vdo0");
            let (_, progress) = begun(flags).step(&input, &export(), &mut || true, &mut out);
            assert_eq!(progress, Progress::Ready { structured: false });
            assert_eq!(out.len(), length);
            assert_eq!(out[..8], (1u64 << 30).to_be_bytes());
        }
        let (replies, progress) = run(&encode(option::EXPORT_NAME, b"other"));
        assert_eq!((replies.len(), progress), (0, Progress::Over));
    }

    #[test]
    fn options_are_answered_each_in_its_way() {
        let (replies, progress) = run(&[
            encode(option::LIST, &[]),
            encode(option::LIST, &[1]),
            encode(option::INFO, &go_data("other", &[])),
            encode(option::INFO, &[0, 0, 0, 9, 1]),
            encode(5, &[]),
            encode(99, &[1, 2, 3]),
            encode(option::SET_META_CONTEXT, &go_data("vdo0", &[0])),
            encode(option::STRUCTURED_REPLY, &[]),
            encode(
                option::SET_META_CONTEXT,
                &[&go_data("vdo0", &[])[..8], &[0, 0, 0, 0]].concat(),
            ),
            encode(1000, &vec![0; LONGEST_OPTION as usize + 1]),
            encode(option::ABORT, &[]),
        ]
        .concat());
        assert_eq!(progress, Progress::Over);
        let kinds: Vec<u32> = replies.iter().map(|(_, kind, _)| *kind).collect();
        use option_reply::*;
        let expected = [
            SERVER,
            ACK,
            INVALID,
            UNKNOWN,
            INVALID,
            UNSUPPORTED,
            UNSUPPORTED,
            INVALID,
            ACK,
            ACK,
            TOO_BIG,
            ACK,
        ];
        assert_eq!(kinds, expected);
        assert_eq!(replies[0].2, b"\0\0\0\x04vdo0");
    }

    #[test]
    fn info_leaves_the_negotiation_open() {
        let (replies, progress) = run(&encode(option::INFO, &go_data("", &[info::BLOCK_SIZE])));
        assert_eq!((replies.len(), progress), (3, Progress::Going));
    }

    proptest! {
        #[test]
        fn input_cut_anywhere_gives_the_same_answers(
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            junk in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let input = [
                encode(option::STRUCTURED_REPLY, &[]),
                encode(77, &junk),
                encode(option::LIST, &[]),
                encode(1000, &vec![0; LONGEST_OPTION as usize + 1]),
                encode(option::GO, &go_data("vdo0", &[info::BLOCK_SIZE])),
            ]
            .concat();
            let mut whole = Vec::new();
            let expected = begun(3).step(&input, &export(), &mut || true, &mut whole);
            prop_assert_eq!(expected, (input.len(), Progress::Ready { structured: true }));
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len())).collect();
            cuts.push(input.len());
            cuts.sort_unstable();
            let (mut negotiation, mut out, mut at) = (begun(3), Vec::new(), 0);
            let mut progress = Progress::Going;
            for cut in cuts {
                let (taken, now) = negotiation.step(&input[at..cut], &export(), &mut || true, &mut out);
                at += taken;
                progress = now;
            }
            prop_assert_eq!(progress, Progress::Ready { structured: true });
            prop_assert_eq!(out, whole);
        }

        #[test]
        fn no_bytes_make_it_panic(input in prop::collection::vec(any::<u8>(), 0..200), option in 0u32..12) {
            let mut out = Vec::new();
            begun(3).step(&input, &export(), &mut || true, &mut out);
            begun(3).step(&encode(option, &input), &export(), &mut || true, &mut out);
        }
    }
}
