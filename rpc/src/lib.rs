//! Every JSON-RPC method once: names, parameters, results and errors, as serde types both hosts use.
