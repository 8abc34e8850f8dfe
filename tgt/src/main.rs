//! `vdo_tgt`: the embedded target as a program. Its options are those of `spdk_tgt` that make sense here.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, value_parser};
use log::LevelFilter;

use vdo_tgt::app::{self, AppOptions};
use vdo_tgt::nbd::ExportOptions;
use vdo_tgt::reactor::CpuMask;
use vdo_tgt::rpc::{MOST_CONNECTIONS, ServerOptions, SocketAccess, SocketMode, SocketOwner};
use vdo_tgt::sandbox;

/// Serves bdevs, and deduplicating vdo volumes on them, over NBD; controlled by JSON-RPC as spdk_tgt is.
#[derive(Debug, Parser)]
#[command(name = "vdo_tgt", version)]
struct Arguments {
    /// JSON configuration file to apply at start
    #[arg(
        short = 'c',
        long = "config",
        visible_alias = "json",
        value_name = "FILE"
    )]
    config: Option<PathBuf>,

    /// UNIX socket to serve JSON-RPC on
    #[arg(
        short = 'r',
        long,
        value_name = "SOCKET",
        default_value = "/var/tmp/spdk.sock"
    )]
    rpc_socket: PathBuf,

    /// Serve no JSON-RPC
    #[arg(long, conflicts_with = "wait_for_rpc")]
    no_rpc_server: bool,

    /// Cores to run on, one thread each: a hexadecimal mask (0x3) or a list ([0,1])
    #[arg(short = 'm', long, value_name = "CPUMASK", default_value = "0x1")]
    cpumask: CpuMask,

    /// Wait for the RPC framework_start_init before going to work
    #[arg(long)]
    wait_for_rpc: bool,

    /// User and group that the sockets of RPC and NBD are given to, each by name or number
    #[arg(long, value_name = "USER[:GROUP]")]
    socket_owner: Option<SocketOwner>,

    /// Mode of the sockets of RPC and NBD, in octal digits; who may write to one may connect
    #[arg(long, value_name = "MODE", default_value = "0600")]
    socket_mode: SocketMode,

    /// Clients of RPC served at once
    #[arg(long, value_name = "NUMBER", default_value_t = MOST_CONNECTIONS as u64, value_parser = value_parser!(u64).range(1..=4096))]
    rpc_clients: u64,

    /// Clients of each NBD export served at once
    #[arg(long, value_name = "NUMBER", default_value_t = 128, value_parser = value_parser!(u64).range(1..=4096))]
    nbd_clients: u64,

    /// Memory for requests of all NBD clients together; at least 1 for each client
    #[arg(long, value_name = "MIB", default_value_t = 4096, value_parser = value_parser!(u64).range(1..=1 << 20))]
    nbd_memory_mib: u64,

    /// Open no files but this one, or those below this folder, beside what the program needs itself; may be repeated
    #[arg(long, value_name = "PATH", conflicts_with = "no_sandbox")]
    allow_path: Vec<PathBuf>,

    /// Let the program ask everything of the kernel that its user may
    #[arg(long)]
    no_sandbox: bool,

    /// Log everything of a part of the program, such as vdo_tgt::nbd, or of all; may be repeated
    #[arg(short = 'L', long = "logflag", value_name = "FLAG")]
    logflag: Vec<String>,
}

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
    let access = SocketAccess {
        owner: arguments.socket_owner.unwrap_or_default(),
        mode: arguments.socket_mode,
    };
    let options = AppOptions {
        config: arguments.config,
        rpc_socket: (!arguments.no_rpc_server).then_some(arguments.rpc_socket),
        cpumask: arguments.cpumask,
        wait_for_rpc: arguments.wait_for_rpc,
        rpc: ServerOptions {
            access,
            most_connections: arguments.rpc_clients as usize,
        },
        nbd: ExportOptions {
            access,
            most_clients: arguments.nbd_clients as usize,
            memory_bytes: arguments.nbd_memory_mib << 20,
        },
    };
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
