//! Finds where each JSON value ends in a stream of bytes that knows no other framing.
//!
//! SPDK's clients write requests back to back on one connection, in pieces of any size. The splitter
//! looks at every byte once: it follows strings and brackets, and says where a value ends. It does not
//! judge whether the value is good JSON (the parser does), only that it can go on: bytes that cannot
//! begin a value, a value too long or too deep leave no place to pick up the stream again, and the
//! connection is given up.

use thiserror::Error;

/// Deepest nesting of objects and arrays, as in SPDK.
pub(super) const DEEPEST: usize = 64;

/// Why a stream cannot be split any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum SplitError {
    /// A byte that begins no JSON value.
    #[error("byte 0x{0:02x} begins no JSON value")]
    NoValue(u8),
    /// Objects and arrays within one another beyond [`DEEPEST`].
    #[error("objects and arrays are nested more than {DEEPEST} deep")]
    TooDeep,
    /// A value longer than the limit.
    #[error("a request of more than {0} bytes; the limit is that of SPDK")]
    TooLong(usize),
}

/// Where the splitter stands within the value it is looking at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Between values: white space is skipped.
    #[default]
    Between,
    /// Within an object or array, this deep.
    Nested(usize),
    /// Within a string at this depth (zero: the value is the string).
    InString(usize),
    /// After a backslash in a string.
    Escaped(usize),
    /// Within a number or word at the top.
    Bare,
}

/// Splits a growing buffer. The buffer's owner drops what [`Splitter::next`] has consumed.
#[derive(Clone, Debug)]
pub(super) struct Splitter {
    state: State,
    /// How many bytes at the front of the buffer were looked at.
    seen: usize,
    /// Where the value under way begins.
    start: usize,
    limit: usize,
}

impl Splitter {
    /// A splitter for values of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Splitter {
        Splitter {
            state: State::Between,
            seen: 0,
            start: 0,
            limit,
        }
    }

    /// The next whole value in `buffer`, as a range; `None` if there is no whole one yet. After a value,
    /// the caller drops everything up to the range's end from the buffer before it calls again.
    pub(super) fn next(
        &mut self,
        buffer: &[u8],
    ) -> Result<Option<std::ops::Range<usize>>, SplitError> {
        while self.seen < buffer.len() {
            let byte = buffer[self.seen];
            let place = self.seen;
            self.seen += 1;
            let ended = match self.state {
                State::Between => {
                    self.start = place;
                    self.state = match byte {
                        b' ' | b'\t' | b'\r' | b'\n' => State::Between,
                        b'{' | b'[' => State::Nested(1),
                        b'"' => State::InString(0),
                        b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => State::Bare,
                        other => return Err(SplitError::NoValue(other)),
                    };
                    None
                }
                State::Nested(depth) => match byte {
                    b'{' | b'[' if depth == DEEPEST => return Err(SplitError::TooDeep),
                    b'{' | b'[' => {
                        self.state = State::Nested(depth + 1);
                        None
                    }
                    b'}' | b']' if depth == 1 => Some(self.seen),
                    b'}' | b']' => {
                        self.state = State::Nested(depth - 1);
                        None
                    }
                    b'"' => {
                        self.state = State::InString(depth);
                        None
                    }
                    _ => None,
                },
                State::InString(depth) => match byte {
                    b'\\' => {
                        self.state = State::Escaped(depth);
                        None
                    }
                    b'"' if depth == 0 => Some(self.seen),
                    b'"' => {
                        self.state = State::Nested(depth);
                        None
                    }
                    _ => None,
                },
                State::Escaped(depth) => {
                    self.state = State::InString(depth);
                    None
                }
                State::Bare => match byte {
                    b' ' | b'\t' | b'\r' | b'\n' | b'{' | b'[' | b'"' => Some(place),
                    _ => None,
                },
            };
            if self.state != State::Between && ended.unwrap_or(self.seen) - self.start > self.limit
            {
                return Err(SplitError::TooLong(self.limit));
            }
            if let Some(end) = ended {
                let start = self.start;
                (self.state, self.seen, self.start) = (State::Between, 0, 0);
                return Ok(Some(start..end));
            }
        }
        Ok(None)
    }

    /// Drops what was seen at the front of `buffer` and belongs to no value.
    pub(super) fn compact(&mut self, buffer: &mut Vec<u8>) {
        let spare = if self.state == State::Between {
            self.seen
        } else {
            self.start
        };
        buffer.drain(..spare);
        self.seen -= spare;
        self.start = 0;
    }

    /// Whether the bytes seen so far end within a value.
    pub(super) fn is_within(&self) -> bool {
        self.state != State::Between
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// Feeds `pieces` as a connection would; the texts of the values found, and the error that ended it.
    fn split(pieces: &[&[u8]], limit: usize) -> (Vec<Vec<u8>>, Option<SplitError>) {
        let (mut splitter, mut buffer, mut found) = (Splitter::new(limit), Vec::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match splitter.next(&buffer) {
                    Ok(Some(range)) => {
                        found.push(buffer[range.clone()].to_vec());
                        buffer.drain(..range.end);
                    }
                    Ok(None) => {
                        splitter.compact(&mut buffer);
                        break;
                    }
                    Err(error) => return (found, Some(error)),
                }
            }
        }
        (found, None)
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            r#"["\\{}\[\],: a]{0,12}"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_are_found_however_the_stream_is_cut(
            values in prop::collection::vec(any_json(), 0..8),
            separators in prop::collection::vec("[ \t\r\n]{1,3}", 8),
            pretty in any::<bool>(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut stream = Vec::new();
            for (value, separator) in values.iter().zip(&separators) {
                let text = if pretty { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) };
                stream.extend_from_slice(&text.unwrap());
                stream.extend_from_slice(separator.as_bytes());
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
            let (found, error) = split(&pieces, usize::MAX);
            prop_assert_eq!(error, None);
            let found: Vec<Value> = found.iter().map(|text| serde_json::from_slice(text).unwrap()).collect();
            prop_assert_eq!(found, values);
        }

        #[test]
        fn any_bytes_cut_anywhere_give_the_same_result(
            stream in prop::collection::vec(prop::sample::select(b"{}[]\"\\ a1,:\xff".to_vec()), 0..200),
            cut in any::<prop::sample::Index>(),
        ) {
            let cut = cut.index(stream.len() + 1);
            let whole = split(&[&stream], 100);
            prop_assert_eq!(whole, split(&[&stream[..cut], &stream[cut..]], 100));
        }
    }

    #[test]
    fn requests_back_to_back_need_nothing_between_them() {
        let (found, error) = split(&[br#"{"a":"}{"}{"b":1}[{}]"x"5 "#], 100);
        assert_eq!(error, None);
        let expected: [&[u8]; 5] = [br#"{"a":"}{"}"#, br#"{"b":1}"#, b"[{}]", b"\"x\"", b"5"];
        assert_eq!(found, expected);
    }

    #[test]
    fn depth_and_length_have_limits() {
        let deep = "[".repeat(DEEPEST) + &"]".repeat(DEEPEST);
        assert_eq!(split(&[deep.as_bytes()], 1000).1, None);
        let deeper = "[".repeat(DEEPEST + 1);
        assert_eq!(
            split(&[deeper.as_bytes()], 1000).1,
            Some(SplitError::TooDeep)
        );
        let long = json!({"a": "x".repeat(100)}).to_string();
        assert_eq!(split(&[long.as_bytes()], long.len()).1, None);
        assert_eq!(
            split(&[long.as_bytes()], long.len() - 2).1,
            Some(SplitError::TooLong(long.len() - 2))
        );
        assert_eq!(
            split(&[" ".repeat(1000).as_bytes(), b"{}"], 2).0.len(),
            1,
            "white space is no value"
        );
    }

    #[test]
    fn bytes_that_begin_no_value_end_the_stream() {
        assert_eq!(
            split(&[b"{}}"], 9),
            (vec![b"{}".to_vec()], Some(SplitError::NoValue(b'}')))
        );
        assert_eq!(split(&[b"\0"], 9).1, Some(SplitError::NoValue(0)));
    }

    #[test]
    fn an_unfinished_value_is_known_as_such() {
        let mut splitter = Splitter::new(100);
        assert_eq!(splitter.next(b"  "), Ok(None));
        assert!(!splitter.is_within());
        assert_eq!(splitter.next(b"  {\"a"), Ok(None));
        assert!(splitter.is_within());
    }
}
