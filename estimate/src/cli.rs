//! The command line.

use std::num::NonZeroU16;
use std::path::PathBuf;

use clap::{CommandFactory, Parser};

/// Tells what files, folders and devices would take on a vdo volume.
///
/// All is read once, and nothing is written. Blocks of 4 KiB are named and packed as a volume does it. A file's last block is
/// taken as a file system writes it, filled up with zeroes; what the file system keeps for itself is not counted. A file with several names is
/// read once; symbolic links in folders are not followed. An image is read as it lies, whatever its format.
///
/// Ends with 0 if all could be read, with 1 if something could not (it is named, and the estimate is of the rest).
#[derive(Clone, Debug, Parser)]
#[command(name = "vdo_estimate", version)]
pub struct Arguments {
    /// Files, folders, block devices, images of disks
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// Try compression too, which takes more time; what there would be without it is told as well
    #[arg(short, long)]
    pub compression: bool,

    /// Print JSON (docs/operations.md says what is in it)
    #[arg(long)]
    pub json: bool,

    /// Memory for the names of blocks, in MiB. When it is full, a sample of the names is followed, and the output says so
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    pub memory: u64,

    /// Do not enter other file systems
    #[arg(short = 'x', long)]
    pub one_file_system: bool,

    /// Threads that read and compute; two for each processor if not given
    #[arg(short, long, value_name = "NUMBER")]
    pub threads: Option<NonZeroU16>,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// The command line as clap knows it: for manual pages and completions.
pub fn command() -> clap::Command {
    Arguments::command()
}
