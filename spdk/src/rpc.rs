//! Methods of SPDK's JSON-RPC server.
//!
//! A [`Method`] is an `async` function on the app thread: SPDK's request is kept until it ends, and answered
//! once. Parameters and errors are those of the crate `vdo-rpc`.

use std::ffi::CString;
use std::future::Future;

use serde_json::Value;
use spdk_sys as sys;
use vdo_rpc::{Parameters, RpcError};

use crate::json::{self, Writer};
use crate::task;

/// One method.
pub trait Method: 'static {
    /// Its name.
    const NAME: &'static str;
    /// Whether it can be called before the subsystems are up, as well as after.
    const EARLY: bool = false;
    /// What it takes.
    type Parameters: Parameters + 'static;

    /// Does it.
    fn call(
        parameters: Self::Parameters,
    ) -> impl Future<Output = Result<Value, RpcError>> + 'static;
}

/// A request that is to be answered. It is answered by being consumed.
struct Request(*mut sys::spdk_jsonrpc_request);

impl Request {
    fn answer(self, answer: Result<Value, RpcError>) {
        // SAFETY: the request has not been answered before; SPDK copies what it is given, also when the
        // client has gone meanwhile.
        unsafe {
            match answer {
                Ok(value) => {
                    let writer = sys::spdk_jsonrpc_begin_result(self.0);
                    Writer::new(writer).value(&value);
                    sys::spdk_jsonrpc_end_result(self.0, writer);
                }
                Err(error) => {
                    let message =
                        CString::new(error.message.replace('\0', " ")).unwrap_or_default();
                    sys::spdk_jsonrpc_send_error_response(self.0, error.code.0, message.as_ptr());
                }
            }
        }
    }
}

/// Enters `M` into SPDK's server. May be called before `main`.
pub fn register<M: Method>() {
    unsafe extern "C" fn handle<M: Method>(
        request: *mut sys::spdk_jsonrpc_request,
        parameters: *const sys::spdk_json_val,
    ) {
        let request = Request(request);
        // SAFETY: SPDK hands over what it parsed.
        let value = unsafe { json::value(parameters) };
        let parameters = match (value, parameters.is_null()) {
            (None, false) => Err(RpcError::invalid_params("params: nested too deeply")),
            (value, _) => M::Parameters::decode(value.as_ref()),
        };
        match parameters {
            Ok(parameters) => {
                task::spawn(async move { request.answer(M::call(parameters).await) });
            }
            Err(error) => request.answer(Err(error)),
        }
    }
    let Ok(name) = CString::new(M::NAME) else {
        return;
    };
    let states = if M::EARLY {
        sys::SPDK_RPC_STARTUP | sys::SPDK_RPC_RUNTIME
    } else {
        sys::SPDK_RPC_RUNTIME
    };
    // SAFETY: the server copies the name, and calls the handler with requests.
    unsafe { sys::spdk_rpc_register_method(name.as_ptr(), Some(handle::<M>), states) }
}
