//! Requests that keep coming while a test does something to the target.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Export;
use crate::nvme_probe::NvmeProbe;
use crate::probe::Probe;
use crate::rig::{BLOCK, block};

/// How long a round may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client that writes a range of blocks, flushes, reads it back and compares, round after round, until
/// it is told to stop or a request fails. Blocks repeat within a round and from one round to a later one, so there is
/// always something to deduplicate.
#[derive(Debug)]
pub struct Load {
    told: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<LoadEnd>,
}

/// How a load ended.
#[derive(Clone, Debug)]
pub struct LoadEnd {
    /// Rounds that went through.
    pub rounds: u64,
    /// The status of the request that failed.
    pub error: Option<u32>,
    lbns: Range<u64>,
}

impl Load {
    /// Starts on a range of blocks of what is exported, and waits until it is at work.
    ///
    /// # Panics
    /// When it is not served, or a round takes too long.
    pub fn start(export: &Export, lbns: Range<u64>) -> Load {
        let mut client = export.connect();
        let (told, rounds) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (told_of, counted) = (Arc::clone(&told), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            let mut error = None;
            while error.is_none() && !told_of.load(Ordering::Acquire) {
                match round(&mut client, &lbns, counted.load(Ordering::Acquire)) {
                    Ok(()) => drop(counted.fetch_add(1, Ordering::AcqRel)),
                    Err(status) => error = Some(status),
                }
            }
            LoadEnd {
                rounds: counted.load(Ordering::Acquire),
                error,
                lbns,
            }
        });
        let load = Load {
            told,
            rounds,
            thread,
        };
        load.go_on(1);
        load
    }

    /// Waits until so many more rounds went through, or the load ended.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn go_on(&self, rounds: u64) {
        let (begun, wanted) = (Instant::now(), self.rounds.load(Ordering::Acquire) + rounds);
        while self.rounds.load(Ordering::Acquire) < wanted && !self.thread.is_finished() {
            assert!(begun.elapsed() < PATIENCE, "the load stands still");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until a request fails.
    ///
    /// # Panics
    /// When none does for long, or what was read was not what was written.
    pub fn fail(self) -> LoadEnd {
        let begun = Instant::now();
        while !self.thread.is_finished() {
            assert!(begun.elapsed() < PATIENCE, "the load goes on and on");
            std::thread::sleep(Duration::from_millis(2));
        }
        self.thread
            .join()
            .expect("what is read is what was written")
    }

    /// Stops.
    ///
    /// # Panics
    /// When what was read was not what was written.
    pub fn stop(self) -> LoadEnd {
        self.told.store(true, Ordering::Release);
        self.fail()
    }
}

impl LoadEnd {
    /// Checks that what the last round wrote is there. If a round failed, what it wrote may be there instead.
    ///
    /// # Panics
    /// When a block holds something else.
    pub fn check(&self, client: &mut impl Probe) {
        for lbn in self.lbns.clone() {
            let mut data = vec![0; BLOCK as usize];
            assert_eq!(
                client.read(lbn * BLOCK, &mut data),
                Ok(()),
                "the read of block {lbn}"
            );
            let last = self
                .rounds
                .checked_sub(1)
                .map(|round| data == block(tag(lbn, round)));
            let next = self.error.map(|_| data == block(tag(lbn, self.rounds)));
            assert!(
                last == Some(true) || next == Some(true),
                "block {lbn} holds neither what round {} wrote nor the next",
                self.rounds
            );
        }
    }
}

/// What a round writes to a block.
fn tag(lbn: u64, round: u64) -> u64 {
    lbn % 90 + 1000 * (round % 5)
}

fn round(client: &mut NvmeProbe, lbns: &Range<u64>, round: u64) -> Result<(), u32> {
    let writes = lbns
        .clone()
        .map(|lbn| (lbn * BLOCK, block(tag(lbn, round))));
    client
        .write_all(writes)
        .into_iter()
        .collect::<Result<(), u32>>()?;
    client.flush()?;
    let mut data = vec![0; ((lbns.end - lbns.start) * BLOCK) as usize];
    client.read(lbns.start * BLOCK, &mut data)?;
    for (found, lbn) in data.chunks(BLOCK as usize).zip(lbns.clone()) {
        assert!(
            found == block(tag(lbn, round)),
            "block {lbn} holds something else in round {round}"
        );
    }
    Ok(())
}
