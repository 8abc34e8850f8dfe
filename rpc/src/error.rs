//! What an RPC answers when it cannot do what was asked.
//!
//! The code is JSON-RPC's own for a request that is not understood, and a negative errno for one that
//! is understood and refused, as SPDK has it. The message names the parameter and the value.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The numbers used as error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorCode(pub i32);

impl ErrorCode {
    /// The bytes are no JSON.
    pub const PARSE: ErrorCode = ErrorCode(-32700);
    /// The JSON is no JSON-RPC request.
    pub const INVALID_REQUEST: ErrorCode = ErrorCode(-32600);
    /// No such method.
    pub const METHOD_NOT_FOUND: ErrorCode = ErrorCode(-32601);
    /// A parameter is unknown, missing or of the wrong type.
    pub const INVALID_PARAMS: ErrorCode = ErrorCode(-32602);
    /// The server failed.
    pub const INTERNAL: ErrorCode = ErrorCode(-32603);
    /// Not at this stage of the program's life (SPDK's code for it; the same number as `-EPERM`).
    pub const INVALID_STATE: ErrorCode = ErrorCode(-1);
    /// Somebody else has the device for writing.
    pub const EPERM: ErrorCode = ErrorCode(-1);
    /// No such file.
    pub const ENOENT: ErrorCode = ErrorCode(-2);
    /// The device failed.
    pub const EIO: ErrorCode = ErrorCode(-5);
    /// Out of memory.
    pub const ENOMEM: ErrorCode = ErrorCode(-12);
    /// Not permitted by the operating system.
    pub const EACCES: ErrorCode = ErrorCode(-13);
    /// In use.
    pub const EBUSY: ErrorCode = ErrorCode(-16);
    /// The name is taken.
    pub const EEXIST: ErrorCode = ErrorCode(-17);
    /// No such device.
    pub const ENODEV: ErrorCode = ErrorCode(-19);
    /// A value is out of range or does not fit another.
    pub const EINVAL: ErrorCode = ErrorCode(-22);
    /// No space left.
    pub const ENOSPC: ErrorCode = ErrorCode(-28);
    /// The volume is read-only.
    pub const EROFS: ErrorCode = ErrorCode(-30);
    /// Not possible with this device.
    pub const ENOTSUP: ErrorCode = ErrorCode(-95);
    /// It took too long.
    pub const ETIMEDOUT: ErrorCode = ErrorCode(-110);

    /// The code of an operating-system error (a positive errno; anything else is internal).
    pub fn from_errno(errno: i32) -> ErrorCode {
        if (1..4096).contains(&errno) {
            ErrorCode(-errno)
        } else {
            ErrorCode::INTERNAL
        }
    }
}

/// An error as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} (code {})", .code.0)]
pub struct RpcError {
    /// What kind.
    pub code: ErrorCode,
    /// A sentence a person can act on.
    pub message: String,
}

impl RpcError {
    /// An error with a code and a sentence.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> RpcError {
        RpcError {
            code,
            message: message.into(),
        }
    }

    /// The negative of an errno, with a sentence.
    pub fn errno(errno: i32, message: impl Into<String>) -> RpcError {
        RpcError::new(ErrorCode::from_errno(errno), message)
    }

    /// `-EINVAL` that names the parameter, its value and what would do.
    pub fn bad_value(parameter: &str, value: impl fmt::Display, expected: &str) -> RpcError {
        RpcError::new(
            ErrorCode::EINVAL,
            format!("{parameter}: {value} is not possible, {expected}"),
        )
    }

    /// `-ENODEV` for a bdev nobody has heard of.
    pub fn no_bdev(parameter: &str, name: &str) -> RpcError {
        RpcError::new(
            ErrorCode::ENODEV,
            format!("{parameter}: there is no bdev \"{name}\""),
        )
    }

    /// `-ENODEV` for a bdev that is not of the kind the method is about.
    pub fn wrong_kind(parameter: &str, name: &str, kind: &str) -> RpcError {
        RpcError::new(
            ErrorCode::ENODEV,
            format!("{parameter}: bdev \"{name}\" is not a {kind} bdev"),
        )
    }

    /// `-EEXIST` for a name that is taken.
    pub fn name_taken(parameter: &str, name: &str) -> RpcError {
        RpcError::new(
            ErrorCode::EEXIST,
            format!("{parameter}: a bdev \"{name}\" exists already"),
        )
    }

    /// `-EEXIST` for a volume that cannot be entered among the bdevs: a copy of it is there, perhaps, with the same UUID.
    pub fn identity_taken(name: &str, uuid: &uuid::Uuid) -> RpcError {
        RpcError::new(
            ErrorCode::EEXIST,
            format!("name: a bdev \"{name}\", or one with the UUID {uuid}, exists already"),
        )
    }

    /// `-EPERM`, as SPDK has it, for a base bdev that a module has claimed. `module` names it, if that is known.
    pub fn base_claimed(base_bdev_name: &str, module: Option<&str>) -> RpcError {
        let by = module.map(|module| format!(" by {module}"));
        RpcError::new(
            ErrorCode::EPERM,
            format!(
                "base_bdev_name: bdev \"{base_bdev_name}\" is already claimed{}",
                by.unwrap_or_default()
            ),
        )
    }

    /// `-EPERM`, as SPDK has it, for a base bdev that somebody has open for writing without a claim. `user` names them, if
    /// that is known.
    pub fn base_in_use(base_bdev_name: &str, user: Option<&str>) -> RpcError {
        let by = user.map(|user| format!(" by {user}"));
        RpcError::new(
            ErrorCode::EPERM,
            format!(
                "base_bdev_name: bdev \"{base_bdev_name}\" is open for writing{}; a volume must be its only writer",
                by.unwrap_or_default()
            ),
        )
    }

    /// `-EINVAL` for a base bdev that no volume can be on: `flaw` goes on after its name.
    pub fn unfit_base(base_bdev_name: &str, flaw: impl fmt::Display) -> RpcError {
        RpcError::new(
            ErrorCode::EINVAL,
            format!("base_bdev_name: bdev \"{base_bdev_name}\" {flaw}"),
        )
    }

    /// JSON-RPC's "invalid params" with a reason.
    pub fn invalid_params(reason: impl Into<String>) -> RpcError {
        RpcError::new(ErrorCode::INVALID_PARAMS, reason)
    }

    /// JSON-RPC's "internal error" with a reason.
    pub fn internal(reason: impl Into<String>) -> RpcError {
        RpcError::new(ErrorCode::INTERNAL, reason)
    }

    /// The operating system said no to something about `parameter`'s value.
    pub fn os(parameter: &str, value: impl fmt::Display, error: &std::io::Error) -> RpcError {
        let code = ErrorCode::from_errno(error.raw_os_error().unwrap_or(0));
        RpcError::new(code, format!("{parameter}: {value}: {error}"))
    }
}

impl From<vdo::VdoError> for RpcError {
    fn from(error: vdo::VdoError) -> RpcError {
        RpcError::new(ErrorCode::from_errno(error.errno()), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_becomes_its_negative_and_nonsense_becomes_internal() {
        assert_eq!(ErrorCode::from_errno(22), ErrorCode::EINVAL);
        assert_eq!(ErrorCode::from_errno(0), ErrorCode::INTERNAL);
        assert_eq!(ErrorCode::from_errno(-22), ErrorCode::INTERNAL);
        assert_eq!(
            RpcError::from(vdo::VdoError::NoSpace).code,
            ErrorCode::ENOSPC
        );
    }

    #[test]
    fn is_an_object_of_code_and_message_on_the_wire() {
        let error = RpcError::no_bdev("name", "vdo0");
        let json = serde_json::to_string(&error).unwrap();
        assert_eq!(
            json,
            r#"{"code":-19,"message":"name: there is no bdev \"vdo0\""}"#
        );
    }
}
