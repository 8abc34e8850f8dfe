//! A running target for end-to-end tests: the real program, its real socket, a folder of its own. The
//! program is `vdo_tgt`, or one built on SPDK ([`crate::spdk`]), whose flags and protocol are the same.
//!
//! ```no_run
//! use serde_json::json;
//! use vdo_tests::target::Target;
//!
//! let target = Target::start(json!({"subsystems": []}));
//! target.rpc("bdev_malloc_create", json!({"name": "m", "num_blocks": 8192, "block_size": 4096})).unwrap();
//! let uri = target.export("m");
//! assert!(target.stop().success());
//! ```
//!
//! A target that is dropped without [`Target::stop`] is killed. When the test fails, what the target
//! logged is printed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use vdo_rpc::RpcError;
use vdo_rpc::client::{PATIENCE, RpcClient};

/// How long a target may take to come up.
const START_PATIENCE: Duration = Duration::from_secs(120);

/// How long a target may take to shut its volumes down.
const STOP_PATIENCE: Duration = Duration::from_secs(120);

/// The `vdo_tgt` program: the one the environment variable `VDO_TGT` names, or the one built from this
/// workspace in the profile of the running test.
///
/// # Panics
/// When it cannot be built.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| built("VDO_TGT", "vdo-tgt", "vdo_tgt"))
}

/// The program an environment variable names, or else the one built from this workspace in the profile
/// of the running test.
///
/// # Panics
/// When it cannot be built.
pub fn built(variable: &str, package: &str, program: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        // The target is started in a folder of its own.
        return std::path::absolute(path).expect("the variable names a program");
    }
    // The test lies in target/PROFILE/deps.
    let test = std::env::current_exe().expect("a running program has a path");
    let folder = test
        .ancestors()
        .nth(2)
        .expect("tests are built into target/PROFILE/deps");
    let mut build = Command::new(env!("CARGO"));
    build
        .args(["build", "--quiet", "--package", package, "--bin", program])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => {}
        Some(profile) => {
            build.args(["--profile", profile]);
        }
    }
    let status = build.status().expect("cargo, which built this test, runs");
    assert!(status.success(), "{program} cannot be built");
    folder.join(program)
}

/// Which program a target runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Program {
    /// `vdo_tgt`.
    #[default]
    Embedded,
    /// Another that takes the same flags, and arguments it always needs.
    Other {
        /// Where it is.
        path: PathBuf,
        /// What it needs beside the options.
        arguments: Vec<String>,
    },
}

impl Program {
    fn path(&self) -> &Path {
        match self {
            Program::Embedded => program(),
            Program::Other { path, .. } => path,
        }
    }

    fn arguments(&self) -> &[String] {
        match self {
            Program::Embedded => &[],
            Program::Other { arguments, .. } => arguments,
        }
    }
}

/// How to start a target.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program.
    pub program: Program,
    /// The configuration file's content; `None` for no file.
    pub config: Option<Value>,
    /// The core mask.
    pub cpumask: String,
    /// Whether to start with `--wait-for-rpc`.
    pub wait_for_rpc: bool,
    /// More arguments.
    pub arguments: Vec<String>,
    /// What to log, as `RUST_LOG` has it.
    pub log: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            program: Program::Embedded,
            config: None,
            cpumask: "0x1".to_owned(),
            wait_for_rpc: false,
            arguments: Vec::new(),
            log: "info".to_owned(),
        }
    }
}

/// A running target.
pub struct Target {
    folder: Arc<TempDir>,
    options: Options,
    child: Option<Child>,
    client: Mutex<Option<RpcClient>>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target in {}", self.folder.path().display())
    }
}

impl Target {
    /// Starts a target on one core with a configuration, and waits until it is up.
    ///
    /// # Panics
    /// When it does not come up; its log is printed.
    pub fn start(config: Value) -> Target {
        Target::start_with(Options {
            config: Some(config),
            ..Options::default()
        })
    }

    /// Starts a target with options, and waits until it is up.
    ///
    /// # Panics
    /// When it does not come up; its log is printed.
    pub fn start_with(options: Options) -> Target {
        let folder = tempfile::tempdir().expect("the system has room for a folder");
        Target::start_in(Arc::new(folder), options).unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// Starts a target that is expected not to come up; what it says on the way out.
    ///
    /// # Panics
    /// When it does come up, or does not end.
    pub fn refuse(options: Options) -> String {
        let folder = Arc::new(tempfile::tempdir().expect("the system has room for a folder"));
        match Target::start_in(folder, options) {
            Ok(target) => panic!("{target:?} came up"),
            Err(problem) => problem,
        }
    }

    /// Starts a target and kills it after a while, wherever it is then.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn kill_early(options: Options, after: Duration) {
        let folder = Arc::new(tempfile::tempdir().expect("the system has room for a folder"));
        let target =
            Target::spawn_in(folder, options).unwrap_or_else(|problem| panic!("{problem}"));
        std::thread::sleep(after);
        target.kill();
    }

    /// Starts a target in a folder that is there; as often as its log is wanted in one file.
    fn start_in(folder: Arc<TempDir>, options: Options) -> Result<Target, String> {
        let mut target = Target::spawn_in(folder, options)?;
        target.wait_until_up()?;
        Ok(target)
    }

    fn spawn_in(folder: Arc<TempDir>, options: Options) -> Result<Target, String> {
        let path = |name: &str| folder.path().join(name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(path("log"))
            .expect("a log file can be made in one's own folder");
        let mut command = Command::new(options.program.path());
        command.arg("-r").arg(path("rpc.sock"));
        command.args(["-m", &options.cpumask]);
        if let Some(config) = &options.config {
            std::fs::write(path("config.json"), config.to_string()).expect("the folder is ours");
            command.arg("-c").arg(path("config.json"));
        }
        if options.wait_for_rpc {
            command.arg("--wait-for-rpc");
        }
        command
            .args(options.program.arguments())
            .args(&options.arguments)
            .env("RUST_LOG", &options.log)
            .current_dir(folder.path());
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be opened twice"));
        command.stderr(log);
        let child = command.spawn().map_err(|error| {
            format!(
                "{} cannot be started: {error}",
                options.program.path().display()
            )
        })?;
        Ok(Target {
            folder,
            options,
            child: Some(child),
            client: Mutex::default(),
        })
    }

    fn wait_until_up(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        let socket = self.path("rpc.sock");
        loop {
            let child = self.child.as_mut().expect("it was just started");
            if let Some(status) = child.try_wait().expect("the child is ours to wait for") {
                self.child = None;
                return Err(format!("the target ended with {status}:\n{}", self.log()));
            }
            if let Ok(mut client) = RpcClient::connect(&socket) {
                let up = match self.options.wait_for_rpc {
                    true => Ok(Value::Null),
                    false => client.call("framework_wait_init", &Value::Null),
                };
                if up.is_ok() {
                    self.client = Mutex::new(Some(client));
                    return Ok(());
                }
                // It is about to end, and says why.
                let ended = self.wait(Duration::from_secs(20));
                let (error, log) = (up.expect_err("it is not up"), self.log());
                return Err(match ended {
                    Some(status) => format!("the target ended with {status}:\n{log}"),
                    None => format!("the target did not start: {error}\n{log}"),
                });
            }
            if begun.elapsed() > START_PATIENCE {
                return Err(format!("the target did not come up:\n{}", self.log()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Calls a method.
    ///
    /// # Errors
    /// The target's error.
    pub fn rpc(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        let mut client = self
            .client
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        client
            .get_or_insert_with(|| RpcClient::new(&self.socket(), PATIENCE))
            .call(method, &params)
    }

    /// Exports a bdev over NBD at a socket in the folder; the URI for clients.
    ///
    /// # Panics
    /// When the target refuses.
    pub fn export(&self, bdev: &str) -> String {
        let path = self.path(&format!("{bdev}.nbd"));
        let params = json!({"bdev_name": bdev, "nbd_device": path});
        if let Err(error) = self.rpc("nbd_start_disk", params) {
            panic!("{bdev} cannot be exported: {error}");
        }
        nbd_uri(&path)
    }

    /// A file in the target's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The target's RPC socket.
    pub fn socket(&self) -> PathBuf {
        self.path("rpc.sock")
    }

    /// The target's process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// All that the target has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits for the target to end by itself; `None` if it does not in that time.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("the child is ours to wait for") {
                self.child = None;
                return Some(status);
            }
            if begun.elapsed() > patience {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the target as an administrator would (SIGTERM), and waits for it.
    ///
    /// # Panics
    /// When it does not end; its log is printed.
    pub fn stop(mut self) -> ExitStatus {
        self.end("TERM")
    }

    /// Ends the target as a person at its terminal would (SIGINT), and waits for it.
    ///
    /// # Panics
    /// When it does not end; its log is printed.
    pub fn interrupt(mut self) -> ExitStatus {
        self.end("INT")
    }

    /// Ends the target as a power failure would (SIGKILL).
    pub fn kill(mut self) {
        self.end("KILL");
    }

    /// Ends the target with SIGTERM and starts it again with the same configuration in the same folder.
    ///
    /// # Panics
    /// When it fails to end well or to come up.
    pub fn restart(mut self) -> Target {
        let status = self.end("TERM");
        assert!(
            status.success(),
            "the target ended with {status}:\n{}",
            self.log()
        );
        self.start_again()
    }

    /// Kills the target and starts it again with the same configuration in the same folder.
    ///
    /// # Panics
    /// When it fails to come up.
    pub fn crash_and_restart(mut self) -> Target {
        self.end("KILL");
        self.start_again()
    }

    fn start_again(&self) -> Target {
        Target::start_in(Arc::clone(&self.folder), self.options.clone())
            .unwrap_or_else(|problem| panic!("{problem}"))
    }

    fn end(&mut self, signal: &str) -> ExitStatus {
        *self
            .client
            .lock()
            .unwrap_or_else(|poison| poison.into_inner()) = None;
        let pid = self.pid().expect("a target is ended once");
        let sent = Command::new("kill")
            .args(["-s", signal, &pid.to_string()])
            .status();
        assert!(
            sent.is_ok_and(|status| status.success()),
            "kill works on one's own child"
        );
        match self.wait(STOP_PATIENCE) {
            Some(status) => status,
            None => panic!("the target does not end after SIG{signal}:\n{}", self.log()),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; either way it is waited for.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("----- log of {self:?} -----\n{}-----", self.log());
        }
    }
}

/// The URI under which NBD clients find the default export of a UNIX socket.
pub fn nbd_uri(socket: &Path) -> String {
    format!("nbd+unix:///?socket={}", socket.display())
}

/// The calls of one subsystem as a configuration.
pub fn bdev_config(calls: Vec<Value>) -> Value {
    json!({"subsystems": [{"subsystem": "bdev", "config": calls}]})
}
