//! `vdo_top`: the volumes of a target in a terminal, as they are now.
//!
//! A thread asks the target; what it answers goes into the [`model`], and so do the keys; out comes a screen of plain
//! values, which is drawn, or written to a file. Only [`terminal`] knows a terminal.
//!
//! - [`view`]: what two samples say of a volume
//! - [`growth`]: how the use of space grows
//! - [`model`]: all that is known, what is chosen, whether the target is there
//! - [`draw`]: from there to cells
//! - [`snapshot`]: from there to a file
//! - [`terminal`]: the program at a terminal

pub mod draw;
#[cfg(test)]
mod fixture;
pub mod growth;
pub mod model;
pub mod snapshot;
pub mod terminal;
pub mod view;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use thiserror::Error;
use vdo_rpc::client::DEFAULT_SOCKET;

use crate::target::Target;
use model::{Model, Screen};

/// Columns of a frame that is printed, if the terminal does not say.
const WIDTH: u16 = 100;

/// Shows the volumes of a target in a terminal: I/O, space, the index, the paths of hash locks, zones.
#[derive(Debug, Parser)]
#[command(name = "vdo_top", version)]
pub struct Arguments {
    /// RPC socket of the target, vdo_tgt or spdk_vdo_tgt
    #[arg(short = 's', long, value_name = "SOCKET", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,

    /// Milliseconds between two looks
    #[arg(short = 'i', long, value_name = "MILLISECONDS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(50..=3_600_000))]
    interval: u64,

    /// Seconds that the target may take to answer
    #[arg(long, value_name = "SECONDS", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=60))]
    patience: u64,

    /// Volume to show at first
    #[arg(short = 'v', long, value_name = "NAME")]
    volume: Option<String>,

    /// Print one frame as plain text, after one interval, and end
    #[arg(long)]
    once: bool,

    /// Folder that snapshots (key w) are written to
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    snapshots: PathBuf,
}

impl Arguments {
    fn interval(&self) -> Duration {
        Duration::from_millis(self.interval)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }
}

/// Why the program ended other than by being asked to.
#[derive(Debug, Error)]
pub enum TopError {
    /// There is nobody to show it to.
    #[error("standard input and output are no terminal: use --once to print one frame")]
    NoTerminal,
    /// The terminal cannot be used.
    #[error("the terminal: {0}")]
    Terminal(#[from] io::Error),
    /// The target does not answer, which matters only if it is asked once.
    #[error("{0}")]
    Target(String),
}

/// The program's command line.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Shows the target.
///
/// # Errors
/// [`TopError`].
pub fn run(arguments: &Arguments) -> Result<(), TopError> {
    let socket = arguments.socket.display().to_string();
    let model = Model::new(socket, arguments.volume.clone());
    if arguments.once {
        let frame = once(arguments, model)?;
        return match io::stdout().write_all(frame.as_bytes()) {
            // Whoever reads it has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        };
    }
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(TopError::NoTerminal);
    }
    Ok(terminal::run(arguments, model)?)
}

/// One frame as text, from two samples an interval apart.
fn once(arguments: &Arguments, mut model: Model) -> Result<String, TopError> {
    let mut target = Target::new(&arguments.socket);
    let begun = Instant::now();
    for look in 0..2 {
        if look > 0 {
            std::thread::sleep(arguments.interval());
        }
        let answer = target.sample(arguments.patience());
        let sample = answer.map_err(|error| TopError::Target(error.message))?;
        model.take(begun.elapsed().as_secs_f64(), Ok(sample));
    }
    let width = ratatui::crossterm::terminal::size().map_or(WIDTH, |(width, _)| width);
    let screen = model.screen();
    Ok(text(&frame(
        &screen,
        width,
        draw::full_height(&screen, width),
    )))
}

/// Draws a screen into cells of its own.
pub fn frame(screen: &Screen, width: u16, height: u16) -> Buffer {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| draw::draw(frame, screen));
    terminal.backend().buffer().clone()
}

/// Cells as lines of text, without colours.
pub fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let lines = buffer.content.chunks(width).map(|cells| {
        let line: String = cells.iter().map(|cell| cell.symbol()).collect();
        line.trim_end().to_owned() + "\n"
    });
    lines.collect()
}
