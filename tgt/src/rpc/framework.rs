//! The methods about the program itself, under SPDK's names and with SPDK's answers.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vdo_rpc::{ErrorCode, Parameters, RpcError};

use super::dispatch::{Allowed, Dispatcher, Nothing};
use crate::reactor::ReactorHandle;
use crate::target::{Phase, Target};

/// Where a subsystem's part of a saved configuration comes from.
type Config = Box<dyn Fn() -> Vec<Value> + Send + Sync>;

/// A part of the program with a section of its own in configuration files.
pub struct Subsystem {
    name: &'static str,
    depends_on: &'static [&'static str],
    config: Config,
}

impl std::fmt::Debug for Subsystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Subsystem({})", self.name)
    }
}

impl Subsystem {
    /// A subsystem, those that must be configured before it, and the calls that restore it.
    pub fn new(
        name: &'static str,
        depends_on: &'static [&'static str],
        config: impl Fn() -> Vec<Value> + Send + Sync + 'static,
    ) -> Subsystem {
        Subsystem {
            name,
            depends_on,
            config: Box::new(config),
        }
    }

    /// Its name in configuration files.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// Parameters of `spdk_kill_instance`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kill {
    sig_name: String,
}

impl Parameters for Kill {
    fn check(&self) -> Result<(), RpcError> {
        self.number().map(|_| ())
    }
}

impl Kill {
    fn number(&self) -> Result<i32, RpcError> {
        match self.sig_name.strip_prefix("SIG").unwrap_or(&self.sig_name) {
            "INT" => Ok(libc::SIGINT),
            "TERM" => Ok(libc::SIGTERM),
            "QUIT" => Ok(libc::SIGQUIT),
            "HUP" => Ok(libc::SIGHUP),
            "KILL" => Ok(libc::SIGKILL),
            "USR1" => Ok(libc::SIGUSR1),
            _ => Err(RpcError::bad_value(
                "sig_name",
                format_args!("{:?}", self.sig_name),
                "choose SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGKILL or SIGUSR1",
            )),
        }
    }
}

/// Parameters of `framework_get_config`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetConfig {
    name: String,
    /// Batches are never written, so there is nothing to flatten.
    #[serde(default, rename = "with_batches")]
    _with_batches: bool,
}

impl Parameters for GetConfig {}

/// Parameters of `log_set_level`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetLevel {
    level: Level,
}

impl Parameters for SetLevel {}

/// SPDK's log levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Level {
    Disabled,
    Error,
    Warning,
    Notice,
    Info,
    Debug,
}

impl From<Level> for log::LevelFilter {
    fn from(level: Level) -> log::LevelFilter {
        match level {
            Level::Disabled => log::LevelFilter::Off,
            Level::Error => log::LevelFilter::Error,
            Level::Warning => log::LevelFilter::Warn,
            // There is no level between warnings and information here.
            Level::Notice | Level::Info => log::LevelFilter::Info,
            Level::Debug => log::LevelFilter::Debug,
        }
    }
}

impl From<log::LevelFilter> for Level {
    fn from(level: log::LevelFilter) -> Level {
        match level {
            log::LevelFilter::Off => Level::Disabled,
            log::LevelFilter::Error => Level::Error,
            log::LevelFilter::Warn => Level::Warning,
            log::LevelFilter::Info => Level::Info,
            log::LevelFilter::Debug | log::LevelFilter::Trace => Level::Debug,
        }
    }
}

/// Enters the methods. `subsystems` are in the order in which they are configured.
pub fn register(dispatcher: &mut Dispatcher, target: &Arc<Target>, subsystems: Vec<Subsystem>) {
    let subsystems = Arc::new(subsystems);
    dispatcher.method("spdk_get_version", Allowed::Always, |_: Nothing| {
        Ok(version())
    });
    dispatcher.method("spdk_kill_instance", Allowed::Always, |params: Kill| {
        let signal = params.number()?;
        // SAFETY: no pointers; the process signals itself.
        match unsafe { libc::kill(libc::getpid(), signal) } {
            0 => Ok(true),
            _ => Err(RpcError::os(
                "sig_name",
                &params.sig_name,
                &std::io::Error::last_os_error(),
            )),
        }
    });
    register_life_cycle(dispatcher, target);
    register_configuration(dispatcher, &subsystems);
    register_reports(dispatcher, target);
    for name in ["log_set_level", "log_set_print_level"] {
        dispatcher.method(name, Allowed::Always, |params: SetLevel| {
            log::set_max_level(params.level.into());
            Ok(true)
        });
    }
    for name in ["log_get_level", "log_get_print_level"] {
        dispatcher.method(name, Allowed::Always, |_: Nothing| {
            Ok(Level::from(log::max_level()))
        });
    }
}

fn version() -> Value {
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    json!({
        "version": concat!("spdk-vdo ", env!("CARGO_PKG_VERSION")),
        "fields": {
            "major": number(env!("CARGO_PKG_VERSION_MAJOR")),
            "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
            "patch": number(env!("CARGO_PKG_VERSION_PATCH")),
            "suffix": env!("CARGO_PKG_VERSION_PRE"),
        },
    })
}

fn register_life_cycle(dispatcher: &mut Dispatcher, target: &Arc<Target>) {
    let own = Arc::clone(target);
    dispatcher.method(
        "framework_start_init",
        Allowed::Startup,
        move |_: Nothing| {
            own.set_phase(Phase::Running);
            Ok(true)
        },
    );
    let own = Arc::clone(target);
    dispatcher.waiting_method("framework_wait_init", Allowed::Always, move |_: Nothing| {
        // In steps, because a request to stop does not count as a start.
        while !own.wait_for_start(Duration::from_secs(1)) {
            if own.stop_requested() {
                let reason = "the program was asked to stop before it started";
                return Err(RpcError::new(ErrorCode::INVALID_STATE, reason));
            }
        }
        Ok(true)
    });
}

fn register_configuration(dispatcher: &mut Dispatcher, subsystems: &Arc<Vec<Subsystem>>) {
    let own = Arc::clone(subsystems);
    dispatcher.method("framework_get_subsystems", Allowed::Runtime, move |_: Nothing| {
        let describe = |subsystem: &Subsystem| {
            json!({"subsystem": subsystem.name, "depends_on": subsystem.depends_on})
        };
        Ok(own.iter().map(describe).collect::<Vec<_>>())
    });
    let own = Arc::clone(subsystems);
    dispatcher.method(
        "framework_get_config",
        Allowed::Runtime,
        move |params: GetConfig| match own.iter().find(|subsystem| subsystem.name == params.name) {
            Some(subsystem) => Ok((subsystem.config)()),
            None => {
                let names: Vec<_> = own.iter().map(|subsystem| subsystem.name).collect();
                Err(RpcError::invalid_params(format!(
                    "name: there is no subsystem {:?}, only {}",
                    params.name,
                    names.join(", ")
                )))
            }
        },
    );
}

/// Ticks are nanoseconds here.
const TICK_RATE: u64 = 1_000_000_000;

fn register_reports(dispatcher: &mut Dispatcher, target: &Arc<Target>) {
    let own = Arc::clone(target);
    dispatcher.method(
        "framework_get_reactors",
        Allowed::Runtime,
        move |_: Nothing| {
            let reactors: Vec<Value> = own.reactors.all().iter().map(describe_reactor).collect();
            Ok(json!({"tick_rate": TICK_RATE, "pid": std::process::id(), "reactors": reactors}))
        },
    );
    let own = Arc::clone(target);
    dispatcher.method("thread_get_stats", Allowed::Runtime, move |_: Nothing| {
        let threads: Vec<Value> = own.reactors.all().iter().map(describe_thread).collect();
        Ok(json!({"tick_rate": TICK_RATE, "threads": threads}))
    });
}

fn mask_of(reactor: &ReactorHandle) -> String {
    let mut digits = vec![b'0'; reactor.core() / 4 + 1];
    digits[0] = b"1248"[reactor.core() % 4];
    String::from_utf8_lossy(&digits).into_owned()
}

fn describe_reactor(reactor: &ReactorHandle) -> Value {
    let stats = reactor.stats();
    // What SPDK runs as a light-weight thread is a poller here.
    let threads: Vec<Value> = reactor
        .pollers()
        .into_iter()
        .enumerate()
        .map(|(id, poller)| {
            json!({"name": poller.name, "id": id, "cpumask": mask_of(reactor), "elapsed": stats.busy_ns})
        })
        .collect();
    json!({
        "lcore": stats.core,
        "tid": stats.thread,
        "busy": stats.busy_ns,
        "idle": stats.idle_ns,
        "in_interrupt": false,
        "sleeps": stats.sleeps,
        "lw_threads": threads,
    })
}

fn describe_thread(reactor: &ReactorHandle) -> Value {
    let stats = reactor.stats();
    let pollers = reactor.pollers();
    let timed = pollers
        .iter()
        .filter(|poller| poller.period.is_some())
        .count();
    json!({
        "name": format!("reactor_{}", stats.core),
        "id": reactor.index() + 1,
        "cpumask": mask_of(reactor),
        "busy": stats.busy_ns,
        "idle": stats.idle_ns,
        "active_pollers_count": pollers.len() - timed,
        "timed_pollers_count": timed,
        "paused_pollers_count": 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::CpuMask;
    use crate::rpc::State;

    fn fixture() -> (Dispatcher, Arc<Target>) {
        let target = Arc::new(Target::start(&CpuMask::single(0)).unwrap());
        let mut dispatcher = Dispatcher::new();
        let config = || vec![json!({"method": "bdev_malloc_create", "params": {"name": "m"}})];
        let subsystems = vec![
            Subsystem::new("bdev", &[], config),
            Subsystem::new("nbd", &["bdev"], Vec::new),
        ];
        register(&mut dispatcher, &target, subsystems);
        (dispatcher, target)
    }

    fn call(dispatcher: &Dispatcher, name: &str, params: Value) -> Result<Value, RpcError> {
        dispatcher.call(State::Runtime, name, Some(&params))
    }

    #[test]
    fn a_saved_configuration_has_each_subsystem_with_its_calls() {
        let (dispatcher, target) = fixture();
        let subsystems = call(&dispatcher, "framework_get_subsystems", json!({})).unwrap();
        let expected = json!([
            {"subsystem": "bdev", "depends_on": []},
            {"subsystem": "nbd", "depends_on": ["bdev"]},
        ]);
        assert_eq!(subsystems, expected);
        let config = call(&dispatcher, "framework_get_config", json!({"name": "bdev"})).unwrap();
        assert_eq!(config[0]["method"], "bdev_malloc_create");
        let error = call(
            &dispatcher,
            "framework_get_config",
            json!({"name": "iscsi"}),
        )
        .unwrap_err();
        assert!(error.message.contains("bdev, nbd"), "{error}");
        target.shutdown();
    }

    #[test]
    fn whoever_waits_for_the_start_hears_of_it_once_it_happens() {
        let (dispatcher, target) = fixture();
        let dispatcher = Arc::new(dispatcher);
        let own = Arc::clone(&dispatcher);
        let waiting =
            std::thread::spawn(move || own.call(State::Startup, "framework_wait_init", None));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        assert_eq!(
            dispatcher.call(State::Startup, "framework_start_init", None),
            Ok(json!(true))
        );
        assert_eq!(waiting.join().unwrap(), Ok(json!(true)));
        assert!(
            call(&dispatcher, "framework_start_init", json!({})).is_err(),
            "only once"
        );
        target.shutdown();
    }

    #[test]
    fn reactors_and_threads_are_described_as_spdk_does() {
        let (dispatcher, target) = fixture();
        let report = call(&dispatcher, "framework_get_reactors", json!({})).unwrap();
        assert_eq!(report["reactors"][0]["lcore"], 0);
        assert_eq!(report["pid"], std::process::id());
        assert!(report["reactors"][0]["lw_threads"].is_array());
        let report = call(&dispatcher, "thread_get_stats", json!({})).unwrap();
        assert_eq!(report["threads"][0]["cpumask"], "1");
        target.shutdown();
    }

    #[test]
    fn signals_are_known_by_name_only() {
        let (dispatcher, target) = fixture();
        let error = call(
            &dispatcher,
            "spdk_kill_instance",
            json!({"sig_name": "SIGSEGV"}),
        )
        .unwrap_err();
        assert_eq!(error.code, ErrorCode::EINVAL);
        assert!(error.message.starts_with("sig_name"), "{error}");
        target.shutdown();
    }

    #[test]
    fn log_levels_have_spdks_names() {
        let (dispatcher, target) = fixture();
        let before = log::max_level();
        assert_eq!(
            call(&dispatcher, "log_set_level", json!({"level": "WARNING"})),
            Ok(json!(true))
        );
        assert_eq!(
            call(&dispatcher, "log_get_level", json!({})),
            Ok(json!("WARNING"))
        );
        assert!(call(&dispatcher, "log_set_level", json!({"level": "LOUD"})).is_err());
        log::set_max_level(before);
        assert_eq!(
            call(&dispatcher, "spdk_get_version", json!({})).unwrap()["fields"]["major"],
            0
        );
        target.shutdown();
    }
}
