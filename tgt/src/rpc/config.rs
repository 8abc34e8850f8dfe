//! Configuration files: the calls that bring a target into the state it was saved in.
//!
//! The format is SPDK's: `{"subsystems": [{"subsystem": NAME, "config": [{"method": ..., "params": ...},
//! ...]}, ...]}`, where an array among the calls is a batch, `config` may be null, other members of
//! the root are ignored, and comments (`//` and `/* */`) are allowed. As there, the file is gone through twice:
//! before the start for the methods allowed then, and after it for the others. The first call that
//! fails ends it.
//!
//! A file may come from another SPDK program. Its settings are left out if they mean nothing here; a call that
//! would make what cannot be here ([`foreign`]) is refused before any call is made, so that nothing
//! is started that has to be taken apart again. And it may have bdevs before those they lie on, where SPDK remembers what
//! is to lie on a bdev that is yet to come: such calls are put off until it has come.

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use vdo_rpc::config_file::without_comments;
use vdo_rpc::{ErrorCode, RpcError};

use super::dispatch::{Allowed, Dispatcher, State};
use super::foreign;

/// Why a configuration could not be read or applied.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It is no JSON, or not of the shape of a configuration.
    #[error("the configuration cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A method that there is not, and that is no mere setting.
    #[error(
        "subsystem {subsystem}, call {place}: there is no method {method:?} in this program; what it makes cannot be \
         had here, so take it and what rests on it out of the file"
    )]
    NoMethod {
        /// The subsystem.
        subsystem: String,
        /// The call's place in it, from one.
        place: usize,
        /// The method.
        method: String,
    },
    /// A call failed.
    #[error("subsystem {subsystem}, call {place}, {method}: {error}")]
    Failed {
        /// The subsystem.
        subsystem: String,
        /// The call's place in it, from one.
        place: usize,
        /// The method.
        method: String,
        /// Its error.
        error: RpcError,
    },
}

#[derive(Clone, Debug, Deserialize)]
#[serde(expecting = "an object with a list named \"subsystems\"")]
struct Root {
    subsystems: Vec<Section>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    subsystem: String,
    config: Option<Vec<Entry>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Entry {
    Single(Call),
    Batch(Vec<Call>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    method: String,
    #[serde(default)]
    params: Option<serde_json::Map<String, Value>>,
}

/// Methods that SPDK saves before the bdevs theirs lie on.
const MAY_WAIT: [&str; 2] = ["bdev_delay_create", "bdev_error_create"];

/// A configuration that has been read.
#[derive(Clone, Debug)]
pub struct Configuration {
    root: Root,
}

impl Configuration {
    /// Reads the text of a configuration file.
    ///
    /// # Errors
    /// When it is no JSON or of another shape; the message says where.
    pub fn parse(text: &str) -> Result<Configuration, ConfigError> {
        Ok(Configuration {
            root: serde_json::from_str(&without_comments(text))?,
        })
    }

    /// Every call, with its subsystem and its place there, from one.
    fn calls(&self) -> impl Iterator<Item = (&str, usize, &Call)> {
        let sections = self.root.subsystems.iter();
        sections.flat_map(|section| {
            let entries = section.config.iter().flatten().enumerate();
            entries.flat_map(move |(index, entry)| {
                let calls = match entry {
                    Entry::Single(call) => std::slice::from_ref(call),
                    Entry::Batch(calls) => calls,
                };
                let name = section.subsystem.as_str();
                calls.iter().map(move |call| (name, index + 1, call))
            })
        })
    }

    /// Looks whether there are all methods that the file needs; the settings that are left out, each once.
    ///
    /// # Errors
    /// The first call of a method that there is not and that is no mere setting.
    pub fn check(&self, dispatcher: &Dispatcher) -> Result<Vec<&str>, ConfigError> {
        let mut skipped = Vec::new();
        for (subsystem, place, call) in self.calls() {
            let method = call.method.as_str();
            if dispatcher.knows(method) || skipped.contains(&method) {
                continue;
            }
            if !foreign::is_setting(method) {
                return Err(ConfigError::NoMethod {
                    subsystem: subsystem.to_owned(),
                    place,
                    method: method.to_owned(),
                });
            }
            skipped.push(method);
        }
        Ok(skipped)
    }

    /// Makes the calls that belong to `state`, in order, and stops at the first that fails. Those of methods
    /// that there are not are left out: [`Configuration::check`] comes first.
    ///
    /// # Errors
    /// The first call that failed.
    pub fn apply(&self, dispatcher: &Dispatcher, state: State) -> Result<(), ConfigError> {
        let mut put_off = Vec::new();
        for (subsystem, place, call) in self.calls() {
            match dispatcher.allowed(&call.method) {
                None => continue,
                // What is allowed in both states was called before the start.
                Some(Allowed::Always) if state == State::Runtime => continue,
                Some(allowed) if !allowed.in_state(state) => continue,
                Some(_) => {}
            }
            let failed = |error| ConfigError::Failed {
                subsystem: subsystem.to_owned(),
                place,
                method: call.method.clone(),
                error,
            };
            match call.make(dispatcher, state) {
                Ok(()) => make_again(&mut put_off, dispatcher, state),
                Err(error) if call.may_wait_after(&error) => put_off.push((call, failed(error))),
                Err(error) => return Err(failed(error)),
            }
        }
        match put_off.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}

impl Call {
    fn make(&self, dispatcher: &Dispatcher, state: State) -> Result<(), RpcError> {
        let params = self.params.clone().map(Value::Object);
        dispatcher
            .call(state, &self.method, params.as_ref())
            .map(drop)
    }

    /// Whether all that it lacks is a bdev that may come.
    fn may_wait_after(&self, error: &RpcError) -> bool {
        error.code == ErrorCode::ENODEV && MAY_WAIT.contains(&self.method.as_str())
    }
}

/// Makes those calls that were put off which can be made now.
fn make_again(put_off: &mut Vec<(&Call, ConfigError)>, dispatcher: &Dispatcher, state: State) {
    // One may lie on what another makes, whichever comes first in the file.
    let mut before = usize::MAX;
    while put_off.len() < before {
        before = put_off.len();
        put_off.retain(|(call, _)| call.make(dispatcher, state).is_err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::Nothing;
    use std::sync::{Arc, Mutex};

    /// A dispatcher that notes which methods were called.
    fn dispatcher() -> (Dispatcher, Arc<Mutex<Vec<&'static str>>>) {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let mut dispatcher = Dispatcher::new();
        let methods = [
            ("early", Allowed::Startup),
            ("late", Allowed::Runtime),
            ("later", Allowed::Runtime),
            ("any", Allowed::Always),
        ];
        for (name, allowed) in methods {
            let calls = Arc::clone(&calls);
            dispatcher.method(name, allowed, move |_: Nothing| {
                calls.lock().unwrap().push(name);
                Ok(true)
            });
        }
        dispatcher.method(
            "fail",
            Allowed::Runtime,
            |_: Nothing| -> Result<bool, RpcError> {
                Err(RpcError::new(ErrorCode::EINVAL, "on purpose"))
            },
        );
        (dispatcher, calls)
    }

    fn config(text: &str) -> Configuration {
        Configuration::parse(text).unwrap()
    }

    #[test]
    fn each_call_is_made_once_in_its_state_and_in_order() {
        let text = r#"{"other": 1, "subsystems": [ // comment "with quotes"
            {"subsystem": "a", "config": [{"method": "late"}, {"method": "any", "params": {}}, {"method": "early"}]},
            {"subsystem": "b", "config": null}, /* more {
            comment */ {"subsystem": "c", "config": [[{"method": "later"}, {"method": "late"}]]}
        ]}"#;
        let (dispatcher, calls) = dispatcher();
        for state in [State::Startup, State::Runtime] {
            config(text).apply(&dispatcher, state).unwrap();
        }
        assert_eq!(
            *calls.lock().unwrap(),
            ["any", "early", "late", "later", "late"]
        );
    }

    #[test]
    fn the_first_failure_is_told_with_its_place_and_ends_it() {
        let text = r#"{"subsystems": [{"subsystem": "bdev", "config":
            [{"method": "late"}, {"method": "fail"}, {"method": "later"}]}]}"#;
        let (dispatcher, calls) = dispatcher();
        let error = config(text).apply(&dispatcher, State::Runtime).unwrap_err();
        assert_eq!(
            error.to_string(),
            "subsystem bdev, call 2, fail: on purpose (code -22)"
        );
        assert_eq!(*calls.lock().unwrap(), ["late"]);
    }

    #[test]
    fn settings_of_other_programs_are_left_out_and_what_cannot_be_had_is_refused() {
        let (dispatcher, calls) = dispatcher();
        let text = r#"{"subsystems": [
            {"subsystem": "iscsi", "config": [{"method": "iscsi_set_options", "params": {"x": 1}}]},
            {"subsystem": "bdev", "config": [{"method": "bdev_set_options"}, {"method": "late"}, {"method": "bdev_set_options"}]}]}"#;
        let settings = config(text);
        assert_eq!(
            settings.check(&dispatcher).unwrap(),
            ["iscsi_set_options", "bdev_set_options"]
        );
        settings.apply(&dispatcher, State::Runtime).unwrap();
        assert_eq!(*calls.lock().unwrap(), ["late"]);
        for method in ["bdev_malloc_craete", "nvmf_create_subsystem"] {
            let text = format!(
                r#"{{"subsystems": [{{"subsystem": "s", "config": [{{"method": "late"}}, {{"method": "{method}"}}]}}]}}"#
            );
            let error = config(&text).check(&dispatcher).unwrap_err().to_string();
            assert!(error.starts_with("subsystem s, call 2: "), "{error}");
            assert!(error.contains(method), "{error}");
        }
    }

    #[test]
    fn what_is_no_configuration_is_refused_with_its_place() {
        for text in [
            "",
            "{}",
            "[]",
            "{\"subsystems\": 5}",
            "{\"subsystems\": [{\"config\": []}]}",
            "{ /* open",
        ] {
            let error = Configuration::parse(text).unwrap_err();
            assert!(error.to_string().contains("line"), "{text}: {error}");
        }
        let error = Configuration::parse("// one\n// two\n{\"subsystems\": [5]}").unwrap_err();
        assert!(error.to_string().contains("line 3"), "{error}");
    }
}
