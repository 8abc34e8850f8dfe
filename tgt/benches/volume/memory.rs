//! What a volume holds of memory when it has started: a program of its own for each number of zone threads looks how
//! much larger it has become since the volume was formatted. A volume that works takes more, as its index and its cache fill.

use std::process::Command;
use std::sync::{Arc, Mutex};

use super::volumes::{assemble, format, poll, start};

const MIB: f64 = (1 << 20) as f64;

/// In MiB.
pub(crate) struct Figure {
    /// In memory.
    pub(crate) resident: f64,
    /// Of addresses, most of them never touched.
    pub(crate) reserved: f64,
    /// As the volume's own statistics have it.
    pub(crate) told: f64,
}

/// Measures a volume with so many zone threads, in a program of its own.
pub(crate) fn of(zones: u8) -> Option<Figure> {
    let program = std::env::current_exe().ok()?;
    let output = Command::new(program)
        .args(["--memory", &zones.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut numbers = text.split_whitespace().map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(Figure {
        resident: next()?,
        reserved: next()?,
        told: next()?,
    })
}

/// That program: prints the three figures.
pub(crate) fn measure(zones: u8) {
    let (found, registry) = format(false);
    let before = size();
    let (volume, seeds) = assemble(found, zones);
    let mut threads = start(&volume, seeds, &registry, "base");
    let after = size();
    let told = Arc::new(Mutex::new(None));
    let answer = Arc::clone(&told);
    volume.statistics(Box::new(move |statistics| {
        let bytes = statistics.figures.memory_usage.bytes_used;
        *answer.lock().expect("one thread") = Some(bytes);
    }));
    let told = loop {
        poll(&mut threads);
        if let Some(bytes) = *told.lock().expect("one thread") {
            break bytes;
        }
    };
    println!(
        "{} {} {}",
        (after.0 - before.0) / MIB,
        (after.1 - before.1) / MIB,
        told as f64 / MIB
    );
}

/// Bytes of this program in memory, and bytes of its addresses.
fn size() -> (f64, f64) {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|number| number.parse().ok()).unwrap_or(0.0) * 1024.0
    };
    (of("VmRSS:"), of("VmSize:"))
}
