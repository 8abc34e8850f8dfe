//! `vdo_exporter`: every statistic of every volume of a target, for Prometheus to fetch.
//!
//! The target is asked when Prometheus asks, and not otherwise: what is told is as old as the scrape. A target that is
//! not there, or hangs, makes `vdo_up` 0.
//!
//! - [`metrics`]: the table of what each statistic is called
//! - [`scrape`]: from what the target says to families of samples
//! - [`exposition`]: the text format
//! - [`server`]: serving it over HTTP

pub mod exposition;
pub mod metrics;
pub mod scrape;
pub mod server;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use tokio::net::TcpListener;
use vdo_rpc::client::DEFAULT_SOCKET;

use server::Scraper;

/// Serves the statistics of a target's volumes to Prometheus, at http://ADDRESS/metrics.
#[derive(Debug, Parser)]
#[command(name = "vdo_exporter", version)]
pub struct Arguments {
    /// RPC socket of the target, vdo_tgt or spdk_vdo_tgt
    #[arg(short = 's', long, value_name = "SOCKET", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,

    /// Address and port to serve HTTP on; port 0 takes any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9840")]
    listen: SocketAddr,

    /// Seconds that the target may take to answer before it counts as down
    #[arg(long, value_name = "SECONDS", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=60))]
    patience: u64,
}

/// The program's command line.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Serves until the program is ended.
///
/// # Errors
/// When nothing can be served at the address.
pub fn run(arguments: &Arguments) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(arguments.listen).await?;
        log::info!("serving http://{}/metrics", listener.local_addr()?);
        let patience = Duration::from_secs(arguments.patience);
        let scraper = Scraper::new(&arguments.socket, patience);
        match server::serve(listener, scraper).await {}
    })
}
