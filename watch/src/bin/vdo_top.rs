//! `vdo_top`: see [`vdo_watch::top`].

use std::process::ExitCode;

use clap::Parser;
use vdo_watch::top::{self, Arguments};

fn main() -> ExitCode {
    match top::run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vdo_top: {error}");
            ExitCode::FAILURE
        }
    }
}
