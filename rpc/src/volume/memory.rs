//! The memory a new volume, or a disk of memory, can have on this machine, and what was promised to others.
//!
//! Volumes take addresses at start and memory as they work. So what the machine has free now is not what a new volume can
//! have: others will still come for theirs. Each volume's demand is kept here as long as it lives, and a new one gets what
//! is left. What others have come for already is gone from the free memory, and so is not taken off twice: as much of
//! the promises counts as used as the process has private memory.

use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vdo::volume::{Demand, Kept, VolumeError};

static PROMISED: Mutex<u64> = Mutex::new(0);

fn promised() -> MutexGuard<'static, u64> {
    PROMISED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory that is kept, in bytes.
struct Promise(u64);

impl Drop for Promise {
    fn drop(&mut self) {
        let mut promised = promised();
        *promised = promised.saturating_sub(self.0);
    }
}

/// The memory a new volume can have, in bytes.
pub(super) fn available() -> u64 {
    left(*promised())
}

/// Keeps the memory a volume will want until what is returned is dropped.
///
/// # Errors
/// When there is not so much.
pub(super) fn promise(demand: &Demand) -> Result<Kept, VolumeError> {
    keep_if(demand.total(), |left| demand.check(left))
}

/// As [`promise`], for something else that is so large.
///
/// # Errors
/// When there is not so much; what can be had, in bytes.
pub fn keep(bytes: u64) -> Result<Kept, u64> {
    keep_if(bytes, |left| match bytes > left {
        true => Err(left),
        false => Ok(()),
    })
}

/// Keeps memory if `check` finds nothing wrong with what is left.
fn keep_if<E>(bytes: u64, check: impl FnOnce(u64) -> Result<(), E>) -> Result<Kept, E> {
    let mut promised = promised();
    check(left(*promised))?;
    *promised = promised.saturating_add(bytes);
    Ok(Arc::new(Promise(bytes)))
}

/// What is left beside what was promised. Where the system does not say, there is no limit.
fn left(promised: u64) -> u64 {
    let Some(free) = free() else {
        return u64::MAX;
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let used = kilobytes(&status, "RssAnon:").unwrap_or(0).min(promised);
    free.saturating_sub(promised - used)
}

/// What the machine and the process's control group have free, in bytes.
fn free() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok()?;
    let machine = kilobytes(&machine, "MemAvailable:")?;
    Some(group().map_or(machine, |group| group.min(machine)))
}

/// What the control group has free, if it has a limit.
fn group() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let read = |name: &str| -> Option<u64> {
        let file = format!("/sys/fs/cgroup{path}/{name}");
        fs::read_to_string(file).ok()?.trim().parse().ok()
    };
    Some(read("memory.max")?.saturating_sub(read("memory.current")?))
}

/// The number behind a word in a file of the kernel's, which is in KiB, in bytes.
fn kilobytes(text: &str, word: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(word))?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    number.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_figures_are_kilobytes() {
        let text = "MemTotal:  24 kB\nMemAvailable:   17 kB\n";
        assert_eq!(kilobytes(text, "MemAvailable:"), Some(17 * 1024));
        assert_eq!(kilobytes(text, "MemFree:"), None);
        assert_eq!(kilobytes("MemFree: much", "MemFree:"), None);
    }

    #[test]
    fn what_was_promised_and_not_come_for_is_not_left() {
        let free = left(0);
        assert!(free > 1 << 20, "{free}");
        assert_eq!(left(u64::MAX), 0);
    }
}
