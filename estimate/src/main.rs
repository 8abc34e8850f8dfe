//! `vdo_estimate`: see the library of the same name.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use vdo_estimate::cli::Arguments;
use vdo_estimate::complaints::Complaints;
use vdo_estimate::figures::{Estimate, INDEXES};
use vdo_estimate::inputs::Inputs;
use vdo_estimate::progress::Progress;
use vdo_estimate::report::report;
use vdo_estimate::store::Store;
use vdo_estimate::survey::survey;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let estimate = estimate(&arguments);
    let text = if arguments.json {
        serde_json::to_string_pretty(&estimate).expect("figures are numbers and text")
    } else {
        report(&estimate)
    };
    let printed = writeln!(std::io::stdout(), "{text}");
    if printed.is_ok() && estimate.complete {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn estimate(arguments: &Arguments) -> Estimate {
    let progress = Progress::new(&arguments.paths, arguments.quiet);
    let teller = progress.clone();
    let complaints = Complaints::new(move |complaint| teller.tell(complaint));
    let inputs = Inputs::new(&arguments.paths, arguments.one_file_system);
    let indexes = INDEXES.map(|index| index.geometry().expect("indexes that can be made"));
    let store = Store::new(arguments.memory << 20, &indexes, arguments.compression);
    let survey = survey(inputs, store, arguments.threads, &complaints, &progress);
    progress.finish();
    Estimate::new(&survey, arguments.compression, complaints.all())
}
