//! How far it is, for a person at a terminal: a bar if it is known how much there is to read, else what was read so far.
//!
//! It is drawn on standard error, and only if that is a terminal, so that it never gets into what is printed.

use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::complaints::Complaint;

/// Times a second that it is drawn anew.
const REDRAWN: Duration = Duration::from_millis(200);

/// A progress bar. Clones are of the same bar.
#[derive(Clone, Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// One for reading these paths. With `is_hidden` nothing is ever drawn.
    pub fn new(paths: &[PathBuf], is_hidden: bool) -> Progress {
        if is_hidden {
            return Progress {
                bar: ProgressBar::hidden(),
            };
        }
        // How much there is in folders is known only at the end.
        let files: Option<u64> = paths
            .iter()
            .map(|path| path.metadata().ok().filter(|about| about.is_file()))
            .map(|about| about.map(|about| about.len()))
            .sum();
        let (bar, template) = match files {
            Some(bytes) => (
                ProgressBar::new(bytes),
                "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
            ),
            None => (
                ProgressBar::new_spinner(),
                "{spinner} {bytes} read, {bytes_per_sec}  {wide_msg}",
            ),
        };
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(REDRAWN);
        Progress { bar }
    }

    /// So many bytes more are done, and so many files were found.
    pub fn advance(&self, bytes: u64, files: u64) {
        self.bar.inc(bytes);
        self.bar.set_message(format!("{files} files"));
    }

    /// Tells a complaint, above the bar.
    pub fn tell(&self, complaint: &Complaint) {
        self.bar.suspend(|| eprintln!("vdo_estimate: {complaint}"));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
