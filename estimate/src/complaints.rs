//! What could not be read: told at once, counted, remembered for the report.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use thiserror::Error;

/// So many are remembered; all are told and counted.
const REMEMBERED: usize = 1000;

/// Why something was not read.
#[derive(Debug, Error)]
pub enum Trouble {
    /// The system says so.
    #[error("{0}")]
    System(#[from] io::Error),
    /// In the midst of a file or device.
    #[error("cannot be read from byte {offset} on: {error}")]
    Reading {
        /// Where.
        offset: u64,
        /// Why.
        error: io::Error,
    },
    /// It was cut while it was read.
    #[error("ended at byte {offset} while it was read; it had {bytes} bytes before")]
    Shorter {
        /// Where it ends.
        offset: u64,
        /// How long it was.
        bytes: u64,
    },
    /// A pipe, a socket, a character device.
    #[error("is no file, folder or block device")]
    OtherKind,
}

/// One thing that was not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Complaint {
    /// What.
    pub path: PathBuf,
    /// Why.
    pub error: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.error)
    }
}

/// All complaints, from any thread.
pub struct Complaints {
    tell: Box<dyn Fn(&Complaint) + Send + Sync>,
    all: Mutex<(u64, Vec<Complaint>)>,
}

impl Complaints {
    /// None yet; each will be handed to `tell`.
    pub fn new(tell: impl Fn(&Complaint) + Send + Sync + 'static) -> Complaints {
        Complaints {
            tell: Box::new(tell),
            all: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Vec<Complaint>)> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one in.
    pub fn add(&self, path: &Path, trouble: &Trouble) {
        let complaint = Complaint {
            path: path.to_owned(),
            error: trouble.to_string(),
        };
        (self.tell)(&complaint);
        let (count, first) = &mut *self.lock();
        *count += 1;
        if first.len() < REMEMBERED {
            first.push(complaint);
        }
    }

    /// How many there were, and the first of them.
    pub fn all(&self) -> (u64, Vec<Complaint>) {
        self.lock().clone()
    }
}
