//! The program: a target put together, configured, run until it is told to stop, and taken apart.
//!
//! 1. The reactors start; every method is entered into the dispatcher.
//! 2. The configuration file, if there is one, is looked through, and then applied: first the methods for before the start. With
//!    `--wait-for-rpc` the RPC socket opens now, and the program waits for `framework_start_init`.
//! 3. The rest of the configuration is applied, and the RPC socket opens if it has not yet.
//! 4. SIGINT, SIGTERM or an RPC asks the program to stop: the RPC socket closes, exports let their
//!    clients go, volumes shut down, bdevs close, reactors stop.
//!
//! A failure at any point undoes what was done in the same order as a normal end does, so that volumes a
//! configuration opened before its faulty line are clean.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use thiserror::Error;
use vdo_rpc::service;

use crate::nbd::{ExportOptions, NbdExports};
use crate::reactor::{CpuMask, ReactorError};
use crate::rpc::{
    ConfigError, Configuration, Dispatcher, RpcServer, ServerOptions, SocketError, State,
    Subsystem, framework,
};
use crate::target::{Phase, Stage, Target};
use crate::{bdev, nbd, notify, vdo};

/// How often a program that waits for its start looks whether it should stop instead.
const LOOK: Duration = Duration::from_secs(1);

/// How the program is to run.
#[derive(Clone, Debug)]
pub struct AppOptions {
    /// A configuration file to apply.
    pub config: Option<PathBuf>,
    /// Where to serve RPC; `None` to not.
    pub rpc_socket: Option<PathBuf>,
    /// The cores to run reactors on.
    pub cpumask: CpuMask,
    /// Whether to wait for `framework_start_init` before going to work.
    pub wait_for_rpc: bool,
    /// For whom RPC is served.
    pub rpc: ServerOptions,
    /// For whom bdevs are served.
    pub nbd: ExportOptions,
}

/// Why the program ended other than by being asked to.
#[derive(Debug, Error)]
pub enum AppError {
    /// The configuration file could not be read.
    #[error("cannot read the configuration file {path:?}: {source}")]
    ReadConfig {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The configuration is wrong, or something in it failed.
    #[error("{path:?}: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: ConfigError,
    },
    /// The reactors could not be started.
    #[error(transparent)]
    Reactor(#[from] ReactorError),
    /// The RPC socket could not be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Signals cannot be received.
    #[error("cannot handle signals: {0}")]
    Signals(#[source] std::io::Error),
}

/// A target with everything that serves it.
pub struct App {
    target: Arc<Target>,
    dispatcher: Arc<Dispatcher>,
}

impl App {
    /// Starts the reactors and enters every method; nothing is configured yet.
    ///
    /// # Errors
    /// When the reactors cannot be started.
    pub fn new(options: &AppOptions) -> Result<App, AppError> {
        let target = Arc::new(Target::start(&options.cpumask)?);
        let mut dispatcher = Dispatcher::new();
        bdev::register(&mut dispatcher, &target);
        let exports = Arc::new(NbdExports::new(options.nbd));
        nbd::register(&mut dispatcher, &target, &exports);
        vdo::register(&mut dispatcher, &target);
        notify::register(&mut dispatcher, &target);
        let (bdevs, disks) = (Arc::clone(&target), Arc::clone(&exports));
        let subsystems = vec![
            Subsystem::new("bdev", &[], move || bdevs.bdevs.config()),
            Subsystem::new("nbd", &["bdev"], move || disks.config()),
        ];
        framework::register(&mut dispatcher, &target, subsystems);
        target.on_shutdown(Stage::Exports, move |_| exports.stop_all());
        Ok(App {
            target,
            dispatcher: Arc::new(dispatcher),
        })
    }

    /// The target.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// The methods.
    pub fn dispatcher(&self) -> &Arc<Dispatcher> {
        &self.dispatcher
    }

    /// Configures the target, and serves until it is asked to stop.
    ///
    /// # Errors
    /// When the configuration fails, or the socket cannot be opened. What was done by then stays, for
    /// [`App::shutdown`] to undo.
    pub fn serve(&self, options: &AppOptions) -> Result<(), AppError> {
        service::starting();
        let config = options.config.as_deref().map(read).transpose()?;
        self.check(&config)?;
        self.apply(&config, State::Startup)?;
        if options.wait_for_rpc {
            self.listen(options)?;
            log::info!("waiting for framework_start_init");
            // Whoever is to make that call may be waiting for this.
            service::ready();
            while !self.target.wait_for_start(LOOK) {
                if self.target.stop_requested() {
                    return Ok(());
                }
            }
        }
        self.apply(&config, State::Runtime)?;
        self.target.set_phase(Phase::Running);
        if !options.wait_for_rpc {
            self.listen(options)?;
        }
        log::info!("running on cores {:?}", options.cpumask.cores());
        service::ready();
        self.target.wait_for_stop();
        Ok(())
    }

    /// Refuses a configuration that needs what there is not here, and says what is left out of it.
    fn check(&self, config: &Option<(PathBuf, Configuration)>) -> Result<(), AppError> {
        let Some((path, config)) = config else {
            return Ok(());
        };
        let skipped = config.check(&self.dispatcher).map_err(wrong(path))?;
        if !skipped.is_empty() {
            log::info!(
                "settings in {} that mean nothing to this program are skipped: {}",
                path.display(),
                skipped.join(", ")
            );
        }
        Ok(())
    }

    fn apply(
        &self,
        config: &Option<(PathBuf, Configuration)>,
        state: State,
    ) -> Result<(), AppError> {
        let Some((path, config)) = config else {
            return Ok(());
        };
        config.apply(&self.dispatcher, state).map_err(wrong(path))
    }

    fn listen(&self, options: &AppOptions) -> Result<(), AppError> {
        let Some(path) = &options.rpc_socket else {
            return Ok(());
        };
        let target = Arc::clone(&self.target);
        let dispatcher = Arc::clone(&self.dispatcher);
        let server = RpcServer::start(path, options.rpc, dispatcher, move || {
            match target.phase() {
                Phase::Startup => State::Startup,
                Phase::Running | Phase::Stopping => State::Runtime,
            }
        })?;
        self.target
            .on_shutdown(Stage::Listeners, move |_| server.stop());
        log::info!("RPC is served at {}", path.display());
        Ok(())
    }

    /// Ends everything in order.
    pub fn shutdown(self) {
        log::info!("shutting down");
        service::stopping();
        self.target.shutdown();
    }
}

fn read(path: &Path) -> Result<(PathBuf, Configuration), AppError> {
    let text = std::fs::read_to_string(path).map_err(|source| AppError::ReadConfig {
        path: path.to_owned(),
        source,
    })?;
    let config = Configuration::parse(&text).map_err(wrong(path))?;
    Ok((path.to_owned(), config))
}

fn wrong(path: &Path) -> impl FnOnce(ConfigError) -> AppError {
    let path = path.to_owned();
    move |source| AppError::Config { path, source }
}

/// Runs the program from start to end; signals ask it to stop.
///
/// # Errors
/// Why it did not come to work. Everything has been taken apart again by then.
pub fn run(options: &AppOptions) -> Result<(), AppError> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(AppError::Signals)?;
    let app = App::new(options)?;
    let (handle, target) = (signals.handle(), Arc::clone(app.target()));
    let listener = std::thread::spawn(move || {
        for signal in signals.forever() {
            if target.stop_requested() {
                log::warn!(
                    "signal {signal}: the target is shutting down already; it cannot be hurried"
                );
            } else {
                log::info!("signal {signal}: the target is asked to stop");
                target.request_stop();
            }
        }
    });
    let result = app.serve(options);
    app.shutdown();
    handle.close();
    if listener.join().is_err() {
        log::error!("the signal handler's thread ended with a panic");
    }
    result
}
