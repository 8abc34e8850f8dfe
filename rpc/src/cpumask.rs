//! Which cores a target or a volume runs on, as a person writes it: `0x3`, `3`, `[0,1]` or `[0-2,5]`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The highest core number a mask may name.
const MAX_CORE: usize = 1023;

/// Why a core mask was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CpuMaskError {
    /// Nothing between the brackets, or a mask of zero.
    #[error(
        "core mask {0:?} names no core; write a hexadecimal mask such as 0x3, or a list such as [0,1]"
    )]
    Empty(String),
    /// Not hexadecimal digits, and not a list.
    #[error(
        "core mask {text:?}: {part:?} is not a core, a range or a hexadecimal mask; write 0x3 or [0,1] or [0-3,5]"
    )]
    Syntax {
        /// The whole text.
        text: String,
        /// The part that was not understood.
        part: String,
    },
    /// A core number beyond what any machine has.
    #[error("core mask {text:?} names core {core}; the highest core number is {MAX_CORE}")]
    TooHigh {
        /// The whole text.
        text: String,
        /// The offending core.
        core: usize,
    },
}

/// A set of cores, kept in rising order; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuMask {
    cores: Vec<usize>,
}

impl CpuMask {
    /// The mask of one core.
    pub fn single(core: usize) -> CpuMask {
        CpuMask { cores: vec![core] }
    }

    /// The cores in rising order.
    pub fn cores(&self) -> &[usize] {
        &self.cores
    }

    /// Whether `core` is in the mask.
    pub fn contains(&self, core: usize) -> bool {
        self.cores.binary_search(&core).is_ok()
    }

    fn from_cores(text: &str, mut cores: Vec<usize>) -> Result<CpuMask, CpuMaskError> {
        cores.sort_unstable();
        cores.dedup();
        match cores.last() {
            None => Err(CpuMaskError::Empty(text.to_owned())),
            Some(&core) if core > MAX_CORE => Err(CpuMaskError::TooHigh {
                text: text.to_owned(),
                core,
            }),
            Some(_) => Ok(CpuMask { cores }),
        }
    }

    fn parse_list(text: &str, inner: &str) -> Result<CpuMask, CpuMaskError> {
        let syntax = |part: &str| CpuMaskError::Syntax {
            text: text.to_owned(),
            part: part.to_owned(),
        };
        let mut cores = Vec::new();
        for part in inner
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.trim().parse().map_err(|_| syntax(part))?;
            let last: usize = last.trim().parse().map_err(|_| syntax(part))?;
            if last > MAX_CORE {
                return Err(CpuMaskError::TooHigh {
                    text: text.to_owned(),
                    core: last,
                });
            }
            if first > last {
                return Err(syntax(part));
            }
            cores.extend(first..=last);
        }
        CpuMask::from_cores(text, cores)
    }

    fn parse_hex(text: &str, digits: &str) -> Result<CpuMask, CpuMaskError> {
        let mut cores = Vec::new();
        for (place, digit) in digits.chars().rev().enumerate() {
            let bits = digit.to_digit(16).ok_or_else(|| CpuMaskError::Syntax {
                text: text.to_owned(),
                part: digit.to_string(),
            })?;
            cores.extend(
                (0..4)
                    .filter(|bit| bits & (1 << bit) != 0)
                    .map(|bit| place * 4 + bit),
            );
        }
        CpuMask::from_cores(text, cores)
    }
}

impl FromStr for CpuMask {
    type Err = CpuMaskError;

    fn from_str(text: &str) -> Result<CpuMask, CpuMaskError> {
        let trimmed = text.trim();
        if let Some(inner) = trimmed
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            return CpuMask::parse_list(text, inner);
        }
        let digits = trimmed
            .strip_prefix("0x")
            .or_else(|| trimmed.strip_prefix("0X"))
            .unwrap_or(trimmed);
        CpuMask::parse_hex(text, digits)
    }
}

impl fmt::Display for CpuMask {
    /// The hexadecimal mask without a prefix, as SPDK prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let highest = self.cores.last().copied().unwrap_or(0);
        for place in (0..=highest / 4).rev() {
            let bits = (0..4)
                .filter(|bit| self.contains(place * 4 + bit))
                .fold(0, |bits, bit| bits | 1 << bit);
            write!(f, "{bits:x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(text: &str) -> Vec<usize> {
        text.parse::<CpuMask>().unwrap().cores().to_vec()
    }

    #[test]
    fn hexadecimal_masks_with_and_without_prefix_name_their_bits() {
        assert_eq!(cores("0x3"), [0, 1]);
        assert_eq!(cores("3"), [0, 1]);
        assert_eq!(cores("0X10"), [4]);
        assert_eq!(cores("0x8000000000000000f"), [0, 1, 2, 3, 67]);
    }

    #[test]
    fn lists_take_cores_and_ranges_in_any_order() {
        assert_eq!(cores("[0,1]"), [0, 1]);
        assert_eq!(cores("[5, 0-2, 1]"), [0, 1, 2, 5]);
    }

    #[test]
    fn wrong_masks_say_what_was_wrong() {
        let error = |text: &str| text.parse::<CpuMask>().unwrap_err();
        assert!(matches!(error(""), CpuMaskError::Empty(_)));
        assert!(matches!(error("0x0"), CpuMaskError::Empty(_)));
        assert!(matches!(error("[]"), CpuMaskError::Empty(_)));
        assert!(matches!(error("0xg"), CpuMaskError::Syntax { part, .. } if part == "g"));
        assert!(matches!(error("[2-1]"), CpuMaskError::Syntax { part, .. } if part == "2-1"));
        assert!(matches!(error("[0,x]"), CpuMaskError::Syntax { part, .. } if part == "x"));
        assert!(matches!(
            error("[0-99999999999]"),
            CpuMaskError::TooHigh { .. }
        ));
        assert!(matches!(error("[0,1"), CpuMaskError::Syntax { .. }));
    }

    #[test]
    fn display_is_the_mask_that_parses_back() {
        for text in ["1", "3", "80000000000000001f"] {
            assert_eq!(text.parse::<CpuMask>().unwrap().to_string(), text);
        }
    }
}
