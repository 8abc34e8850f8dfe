//! `vdo_tgt`: the embedded target as a program.

use std::process::ExitCode;

use clap::Parser;
use log::LevelFilter;

use vdo_tgt::app;
use vdo_tgt::cli::Arguments;
use vdo_tgt::sandbox;

/// Sends log lines to stderr. `RUST_LOG` says more than `-L` can, and comes first.
fn start_log(flags: &[String]) {
    let mut log = env_logger::Builder::new();
    log.format_target(false);
    if let Ok(filters) = std::env::var("RUST_LOG") {
        log.parse_filters(&filters).init();
        return;
    }
    let mut most = LevelFilter::Info;
    for flag in flags {
        most = LevelFilter::Debug;
        if flag != "all" {
            log.filter_module(flag, LevelFilter::Debug);
        }
    }
    // Without a flag the logger takes everything, and the level, which an RPC can change, decides.
    let named = flags.iter().any(|flag| flag != "all");
    log.filter_level(if named {
        LevelFilter::Info
    } else {
        LevelFilter::Trace
    });
    log.init();
    log::set_max_level(most);
}

/// A reactor that panics has a bug in it, and state nobody can vouch for any more; going on, or shutting
/// volumes down as if they were sound, could make it worse. So the program ends as if it had crashed.
fn abort_when_a_reactor_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if vdo_tgt::reactor::is_reactor() {
            log::error!("a reactor panicked, which is a bug; the program ends at once");
            std::process::abort();
        }
    }));
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    abort_when_a_reactor_panics();
    start_log(&arguments.logflag);
    let options = arguments.options();
    // Before there is a second thread, so that all have it.
    if !arguments.no_sandbox
        && let Err(error) = sandbox::enter(&options, &arguments.allow_path)
    {
        log::error!("{error}");
        return ExitCode::FAILURE;
    }
    match app::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
