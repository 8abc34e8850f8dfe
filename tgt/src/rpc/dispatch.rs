//! Which function a method name calls, and when it may be called.
//!
//! A [`Dispatcher`] is filled once at start, by whoever serves something, and only read from then on.
//! The socket server and the loader of configuration files call through it. Handlers run on control
//! threads: they may wait for a reactor or for a disk, and must not run for ever; those whose point is
//! to wait are marked, so that the server gives each a thread of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;
use serde_json::Value;
use vdo_rpc::params::NoParams;
use vdo_rpc::{ErrorCode, Parameters, RpcError};

/// Where the program is in its life, as far as methods care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Started with `--wait-for-rpc` and not yet told to go on.
    Startup,
    /// At work.
    Runtime,
}

/// In which states a method may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Only before the framework has started.
    Startup,
    /// Only after.
    Runtime,
    /// Always.
    Always,
}

impl Allowed {
    /// Whether a call is allowed in `state`.
    pub fn in_state(self, state: State) -> bool {
        match self {
            Allowed::Always => true,
            Allowed::Startup => state == State::Startup,
            Allowed::Runtime => state == State::Runtime,
        }
    }
}

type Handler = Box<dyn Fn(Option<&Value>) -> Result<Value, RpcError> + Send + Sync>;

struct Entry {
    allowed: Allowed,
    waits: bool,
    handler: Handler,
}

/// The table of methods.
#[derive(Default)]
pub struct Dispatcher {
    methods: BTreeMap<&'static str, Entry>,
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.methods.keys()).finish()
    }
}

/// Parameters of `rpc_get_methods`.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct GetMethods {
    /// Only those that may be called now.
    #[serde(default)]
    current: bool,
    /// Deprecated names too; there are none.
    #[serde(default, rename = "include_aliases")]
    _include_aliases: bool,
}

impl Parameters for GetMethods {}

/// The name of the one method the dispatcher answers itself.
const RPC_GET_METHODS: &str = "rpc_get_methods";

impl Dispatcher {
    /// An empty table.
    pub fn new() -> Dispatcher {
        Dispatcher::default()
    }

    fn insert(&mut self, name: &'static str, allowed: Allowed, waits: bool, handler: Handler) {
        let previous = self.methods.insert(
            name,
            Entry {
                allowed,
                waits,
                handler,
            },
        );
        assert!(
            previous.is_none() && name != RPC_GET_METHODS,
            "method {name} was registered twice, which only a programmer can do"
        );
    }

    /// Enters a method. Its parameters are decoded and checked, its result encoded.
    ///
    /// # Panics
    /// When the name is taken.
    pub fn method<P: Parameters, R: Serialize>(
        &mut self,
        name: &'static str,
        allowed: Allowed,
        handler: impl Fn(P) -> Result<R, RpcError> + Send + Sync + 'static,
    ) {
        self.insert(name, allowed, false, typed(handler));
    }

    /// Enters a method whose point is to wait for something to happen.
    ///
    /// # Panics
    /// When the name is taken.
    pub fn waiting_method<P: Parameters, R: Serialize>(
        &mut self,
        name: &'static str,
        allowed: Allowed,
        handler: impl Fn(P) -> Result<R, RpcError> + Send + Sync + 'static,
    ) {
        self.insert(name, allowed, true, typed(handler));
    }

    /// Whether there is such a method.
    pub fn knows(&self, name: &str) -> bool {
        name == RPC_GET_METHODS || self.methods.contains_key(name)
    }

    /// When a method may be called; `None` if there is none of the name.
    pub fn allowed(&self, name: &str) -> Option<Allowed> {
        if name == RPC_GET_METHODS {
            return Some(Allowed::Always);
        }
        self.methods.get(name).map(|entry| entry.allowed)
    }

    /// Whether the method's point is to wait.
    pub fn waits(&self, name: &str) -> bool {
        self.methods.get(name).is_some_and(|entry| entry.waits)
    }

    /// The names of all methods, or of those allowed in one state, sorted.
    pub fn names(&self, current: Option<State>) -> Vec<&'static str> {
        let allowed = |entry: &Entry| current.is_none_or(|state| entry.allowed.in_state(state));
        let mut names: Vec<_> = self
            .methods
            .iter()
            .filter(|(_, entry)| allowed(entry))
            .map(|(name, _)| *name)
            .collect();
        names.push(RPC_GET_METHODS);
        names.sort_unstable();
        names
    }

    /// Calls a method and waits for its result. A handler that panics is an internal error, no more.
    pub fn call(
        &self,
        state: State,
        name: &str,
        params: Option<&Value>,
    ) -> Result<Value, RpcError> {
        if name == RPC_GET_METHODS {
            let params = GetMethods::decode(params)?;
            return Ok(self.names(params.current.then_some(state)).into());
        }
        let entry = self
            .methods
            .get(name)
            .ok_or_else(|| RpcError::new(ErrorCode::METHOD_NOT_FOUND, "Method not found"))?;
        if !entry.allowed.in_state(state) {
            let reason = match state {
                State::Startup => "Method may only be called after framework_start_init",
                State::Runtime => {
                    "Method may only be called before the framework starts; start the program with \
                     --wait-for-rpc, and call it before framework_start_init"
                }
            };
            return Err(RpcError::new(ErrorCode::INVALID_STATE, reason));
        }
        catch_unwind(AssertUnwindSafe(|| (entry.handler)(params))).unwrap_or_else(|_| {
            log::error!("method {name} panicked; this is a bug");
            Err(RpcError::internal(format!(
                "{name} failed inside; the log says where"
            )))
        })
    }
}

fn typed<P: Parameters, R: Serialize>(
    handler: impl Fn(P) -> Result<R, RpcError> + Send + Sync + 'static,
) -> Handler {
    Box::new(move |params| {
        let result = handler(P::decode(params)?)?;
        serde_json::to_value(result)
            .map_err(|error| RpcError::internal(format!("the result cannot be encoded: {error}")))
    })
}

/// What a method without parameters takes.
pub type Nothing = NoParams;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sum {
        a: u32,
        b: u32,
    }

    impl Parameters for Sum {}

    fn dispatcher() -> Dispatcher {
        let mut dispatcher = Dispatcher::new();
        dispatcher.method("sum", Allowed::Runtime, |sum: Sum| Ok(sum.a + sum.b));
        dispatcher.method("early", Allowed::Startup, |_: Nothing| Ok(true));
        dispatcher.waiting_method("wait", Allowed::Always, |_: Nothing| Ok(true));
        dispatcher.method(
            "broken",
            Allowed::Always,
            |_: Nothing| -> Result<bool, RpcError> { panic!("on purpose") },
        );
        dispatcher
    }

    #[test]
    fn parameters_are_decoded_and_results_encoded() {
        let dispatcher = dispatcher();
        assert_eq!(
            dispatcher.call(State::Runtime, "sum", Some(&json!({"a": 1, "b": 2}))),
            Ok(json!(3))
        );
        let error = dispatcher
            .call(State::Runtime, "sum", Some(&json!({"a": 1})))
            .unwrap_err();
        assert_eq!(error.code, ErrorCode::INVALID_PARAMS);
        let error = dispatcher
            .call(State::Runtime, "product", None)
            .unwrap_err();
        assert_eq!(error.code, ErrorCode::METHOD_NOT_FOUND);
    }

    #[test]
    fn methods_keep_to_their_state() {
        let dispatcher = dispatcher();
        let code = |state, name| {
            dispatcher
                .call(state, name, None)
                .map_err(|error| error.code)
        };
        assert_eq!(code(State::Startup, "sum"), Err(ErrorCode::INVALID_STATE));
        assert_eq!(code(State::Runtime, "early"), Err(ErrorCode::INVALID_STATE));
        assert_eq!(code(State::Startup, "early"), Ok(json!(true)));
        assert_eq!(code(State::Startup, "wait"), Ok(json!(true)));
        assert!(dispatcher.waits("wait") && !dispatcher.waits("sum"));
        let current = dispatcher.call(
            State::Startup,
            "rpc_get_methods",
            Some(&json!({"current": true})),
        );
        assert_eq!(
            current,
            Ok(json!(["broken", "early", "rpc_get_methods", "wait"]))
        );
        let all = dispatcher.call(State::Startup, "rpc_get_methods", None);
        assert_eq!(
            all,
            Ok(json!(["broken", "early", "rpc_get_methods", "sum", "wait"]))
        );
    }

    #[test]
    fn a_handler_that_panics_is_an_internal_error() {
        let error = dispatcher()
            .call(State::Runtime, "broken", None)
            .unwrap_err();
        assert_eq!(error.code, ErrorCode::INTERNAL);
    }
}
