//! Configuration files: the calls that bring a target into the state it was saved in.
//!
//! The format is SPDK's: `{"subsystems": [{"subsystem": NAME, "config": [{"method": ..., "params": ...},
//! ...]}, ...]}`, where an array among the calls is a batch, `config` may be null, other members of
//! the root are ignored, and comments (`//` and `/* */`) are allowed. As there, the file is gone through twice:
//! before the start for the methods allowed then, and after it for the others. The first call that
//! fails ends it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use vdo_rpc::RpcError;

use super::dispatch::{Allowed, Dispatcher, State};

/// Why a configuration could not be read or applied.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It is no JSON, or not of the shape of a configuration.
    #[error("the configuration cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A method nobody has heard of, in a subsystem there is.
    #[error("subsystem {subsystem}, call {place}: there is no method {method:?}")]
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

    /// Makes the calls that belong to `state`, in order, and stops at the first that fails. Sections of
    /// subsystems that are not among `known` are skipped as far as their methods are unknown: they
    /// come from another program.
    ///
    /// # Errors
    /// The first call that failed, or whose method there is not.
    pub fn apply(
        &self,
        dispatcher: &Dispatcher,
        state: State,
        known: &[&str],
    ) -> Result<(), ConfigError> {
        let mut skipped: BTreeMap<&str, usize> = BTreeMap::new();
        for section in &self.root.subsystems {
            let entries = section.config.iter().flatten().enumerate();
            let calls = entries.flat_map(|(index, entry)| match entry {
                Entry::Single(call) => vec![(index + 1, call)],
                Entry::Batch(calls) => calls.iter().map(|call| (index + 1, call)).collect(),
            });
            for (place, call) in calls {
                let here = || (section.subsystem.clone(), call.method.clone());
                match dispatcher.allowed(&call.method) {
                    None if known.contains(&section.subsystem.as_str()) => {
                        let (subsystem, method) = here();
                        return Err(ConfigError::NoMethod {
                            subsystem,
                            place,
                            method,
                        });
                    }
                    None => {
                        *skipped.entry(&section.subsystem).or_default() += 1;
                        continue;
                    }
                    // What is allowed in both states was called before the start.
                    Some(Allowed::Always) if state == State::Runtime => continue,
                    Some(allowed) if !allowed.in_state(state) => continue,
                    Some(_) => {}
                }
                let params = call.params.clone().map(Value::Object);
                if let Err(error) = dispatcher.call(state, &call.method, params.as_ref()) {
                    let (subsystem, method) = here();
                    return Err(ConfigError::Failed {
                        subsystem,
                        place,
                        method,
                        error,
                    });
                }
            }
        }
        for (subsystem, count) in skipped {
            log::info!(
                "the configuration's {count} calls of subsystem {subsystem} are not for this program"
            );
        }
        Ok(())
    }
}

/// The text with its comments replaced by spaces, so that places in messages stay true.
fn without_comments(text: &str) -> String {
    #[derive(PartialEq)]
    enum At {
        Json,
        Text,
        Line,
        Block,
    }
    let mut at = At::Json;
    let mut clean = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        let next = rest.peek().copied();
        let mut keep = character;
        match (&at, character, next) {
            (At::Json, '"', _) => at = At::Text,
            (At::Json, '/', Some('/')) => {
                at = At::Line;
                keep = ' ';
            }
            (At::Json, '/', Some('*')) => {
                at = At::Block;
                rest.next();
                clean.push(' ');
                keep = ' ';
            }
            (At::Text, '"', _) => at = At::Json,
            (At::Text, '\\', Some(escaped)) => {
                clean.push(character);
                rest.next();
                keep = escaped;
            }
            (At::Line, '\n', _) => at = At::Json,
            (At::Block, '\n', _) => {}
            (At::Block, '*', Some('/')) => {
                at = At::Json;
                rest.next();
                clean.push(' ');
                keep = ' ';
            }
            (At::Line | At::Block, _, _) => keep = ' ',
            _ => {}
        }
        clean.push(keep);
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::Nothing;
    use std::sync::{Arc, Mutex};
    use vdo_rpc::ErrorCode;

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
            config(text)
                .apply(&dispatcher, state, &["a", "b", "c"])
                .unwrap();
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
        let error = config(text)
            .apply(&dispatcher, State::Runtime, &["bdev"])
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "subsystem bdev, call 2, fail: on purpose (code -22)"
        );
        assert_eq!(*calls.lock().unwrap(), ["late"]);
    }

    #[test]
    fn methods_of_other_programs_are_skipped_but_misspelt_ones_are_not() {
        let (dispatcher, calls) = dispatcher();
        let text = r#"{"subsystems": [{"subsystem": "iscsi", "config": [{"method": "iscsi_x"}]},
            {"subsystem": "bdev", "config": [{"method": "late"}]}]}"#;
        config(text)
            .apply(&dispatcher, State::Runtime, &["bdev"])
            .unwrap();
        assert_eq!(*calls.lock().unwrap(), ["late"]);
        let text = r#"{"subsystems": [{"subsystem": "bdev", "config": [{"method": "bdev_malloc_craete"}]}]}"#;
        let error = config(text)
            .apply(&dispatcher, State::Runtime, &["bdev"])
            .unwrap_err();
        assert!(error.to_string().contains("bdev_malloc_craete"), "{error}");
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

    #[test]
    fn comments_within_strings_are_no_comments() {
        let text = r#"{"a": "// not \" /* either", "b": 1} // this is"#;
        let value: Value = serde_json::from_str(&without_comments(text)).unwrap();
        assert_eq!(value["a"], "// not \" /* either");
    }
}
