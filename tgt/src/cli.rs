//! The command line of `vdo_tgt`. Its options are those of `spdk_tgt` that make sense here, and some of its own.

use std::path::PathBuf;

use clap::{CommandFactory, Parser, value_parser};

use crate::app::AppOptions;
use crate::nbd::{ExportOptions, MEMORY_MIB, MOST_CLIENTS};
use crate::reactor::CpuMask;
use crate::rpc::{MOST_CONNECTIONS, ServerOptions, SocketAccess, SocketMode, SocketOwner};

/// Serves bdevs, and deduplicating vdo volumes on them, over NBD; controlled by JSON-RPC as spdk_tgt is.
#[derive(Debug, Parser)]
#[command(name = "vdo_tgt", version)]
pub struct Arguments {
    /// JSON configuration file to apply at start
    #[arg(
        short = 'c',
        long = "config",
        visible_alias = "json",
        value_name = "FILE"
    )]
    pub config: Option<PathBuf>,

    /// UNIX socket to serve JSON-RPC on
    #[arg(
        short = 'r',
        long,
        value_name = "SOCKET",
        default_value = "/var/tmp/spdk.sock"
    )]
    pub rpc_socket: PathBuf,

    /// Serve no JSON-RPC
    #[arg(long, conflicts_with = "wait_for_rpc")]
    pub no_rpc_server: bool,

    /// Cores to run on, one thread each.
    #[arg(
        short = 'm',
        long,
        value_name = "CPUMASK",
        default_value = "0x1",
        help = "Cores to run on, one thread each: a hexadecimal mask (0x3) or a list ([0,1])"
    )]
    pub cpumask: CpuMask,

    /// Wait for the RPC framework_start_init before going to work
    #[arg(long)]
    pub wait_for_rpc: bool,

    /// User and group that the sockets of RPC and NBD are given to, each by name or number
    #[arg(long, value_name = "USER[:GROUP]")]
    pub socket_owner: Option<SocketOwner>,

    /// Mode of the sockets of RPC and NBD, in octal digits; who may write to one may connect
    #[arg(long, value_name = "MODE", default_value = "0600")]
    pub socket_mode: SocketMode,

    /// Clients of RPC served at once
    #[arg(long, value_name = "NUMBER", default_value_t = MOST_CONNECTIONS as u64, value_parser = value_parser!(u64).range(1..=4096))]
    pub rpc_clients: u64,

    /// Clients of each NBD export served at once
    #[arg(long, value_name = "NUMBER", default_value_t = MOST_CLIENTS as u64, value_parser = value_parser!(u64).range(1..=4096))]
    pub nbd_clients: u64,

    /// Memory for requests of all NBD clients together; at least 1 for each client
    #[arg(long, value_name = "MIB", default_value_t = MEMORY_MIB, value_parser = value_parser!(u64).range(1..=1 << 20))]
    pub nbd_memory_mib: u64,

    /// Open no files but this one, or those below this folder, beside what the program needs itself; may be repeated
    #[arg(long, value_name = "PATH", conflicts_with = "no_sandbox")]
    pub allow_path: Vec<PathBuf>,

    /// Let the program ask everything of the kernel that its user may
    #[arg(long)]
    pub no_sandbox: bool,

    /// Log everything of a part of the program, such as vdo_tgt::nbd, or of all; may be repeated
    #[arg(short = 'L', long = "logflag", value_name = "FLAG")]
    pub logflag: Vec<String>,
}

impl Arguments {
    /// What they mean to the program.
    pub fn options(&self) -> AppOptions {
        let access = SocketAccess {
            owner: self.socket_owner.unwrap_or_default(),
            mode: self.socket_mode,
        };
        AppOptions {
            config: self.config.clone(),
            rpc_socket: (!self.no_rpc_server).then(|| self.rpc_socket.clone()),
            cpumask: self.cpumask.clone(),
            wait_for_rpc: self.wait_for_rpc,
            rpc: ServerOptions {
                access,
                most_connections: self.rpc_clients as usize,
            },
            nbd: ExportOptions {
                access,
                most_clients: self.nbd_clients as usize,
                memory_bytes: self.nbd_memory_mib << 20,
            },
        }
    }
}

/// The command line as clap knows it: for manual pages and completions.
pub fn command() -> clap::Command {
    Arguments::command()
}
