//! `vdo_exporter`: see [`vdo_watch::exporter`].

use std::process::ExitCode;

use clap::Parser;
use vdo_watch::exporter::{self, Arguments};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = env_logger::Env::default().default_filter_or("info");
    env_logger::Builder::from_env(filter)
        .format_target(false)
        .init();
    match exporter::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("cannot serve: {error}");
            ExitCode::FAILURE
        }
    }
}
