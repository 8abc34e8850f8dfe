//! JSON-RPC 2.0 messages: from the text of one value to requests, and from answers to text.
//!
//! As in SPDK: `jsonrpc` may be left out but must be `"2.0"` if it is there; `id` is a string, a number
//! or null; `params` is an object, an array or null; nothing else may be in a request. A request
//! without an id (or with a null one) is a notification: it is carried out, a result is not
//! answered, an error is, with a null id. An array of requests is a batch, answered by one array when
//! all of it is done.

use serde_json::{Map, Value, json};
use vdo_rpc::{ErrorCode, RpcError};

/// Longest `id` text that is given back, as in SPDK.
const LONGEST_ID: usize = 128;

/// Longest answer, as in SPDK.
pub const LONGEST_ANSWER: usize = 32 * 1024 * 1024;

/// One call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    /// What to call.
    pub method: String,
    /// Its parameters, if any.
    pub params: Option<Value>,
    /// What the answer is to bear; null for a notification.
    pub id: Value,
}

/// What one value of the stream turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Incoming {
    /// One call, or what is wrong with it.
    Single(Result<Request, RpcError>),
    /// An array of calls.
    Batch(Vec<Result<Request, RpcError>>),
    /// No JSON at all; nothing after it can be trusted.
    Garbage(RpcError),
}

/// Reads one value.
pub(super) fn parse(text: &[u8]) -> Incoming {
    match serde_json::from_slice::<Value>(text) {
        Err(error) => Incoming::Garbage(RpcError::new(
            ErrorCode::PARSE,
            format!("Parse error: {error}"),
        )),
        Ok(Value::Array(calls)) if calls.is_empty() => {
            Incoming::Single(Err(invalid("an empty batch asks for nothing")))
        }
        Ok(Value::Array(calls)) => Incoming::Batch(calls.into_iter().map(request).collect()),
        Ok(value) => Incoming::Single(request(value)),
    }
}

fn invalid(reason: &str) -> RpcError {
    RpcError::new(
        ErrorCode::INVALID_REQUEST,
        format!("Invalid request: {reason}"),
    )
}

fn request(value: Value) -> Result<Request, RpcError> {
    let Value::Object(mut members) = value else {
        return Err(invalid(
            "a request is an object, or a batch an array of them",
        ));
    };
    match members.remove("jsonrpc") {
        None => {}
        Some(Value::String(version)) if version == "2.0" => {}
        Some(_) => return Err(invalid("jsonrpc must be \"2.0\"")),
    }
    let method = match members.remove("method") {
        Some(Value::String(method)) => method,
        Some(_) => return Err(invalid("method must be a string")),
        None => return Err(invalid("there is no method")),
    };
    let params = match members.remove("params") {
        None | Some(Value::Null) => None,
        Some(params @ (Value::Object(_) | Value::Array(_))) => Some(params),
        Some(_) => return Err(invalid("params must be an object or an array")),
    };
    let id = match members.remove("id") {
        None => Value::Null,
        Some(Value::String(id)) if id.len() > LONGEST_ID => {
            return Err(invalid("id is longer than 128 bytes"));
        }
        Some(id @ (Value::String(_) | Value::Number(_) | Value::Null)) => id,
        Some(_) => return Err(invalid("id must be a string, a number or null")),
    };
    match members.keys().next() {
        Some(member) => Err(invalid(&format!("a request has no member {member:?}"))),
        None => Ok(Request { method, params, id }),
    }
}

/// The answer to one call as an object; `None` if it gets none.
pub(super) fn answer(id: &Value, result: Result<Value, RpcError>) -> Option<Value> {
    let mut object = Map::new();
    object.insert("jsonrpc".to_owned(), "2.0".into());
    object.insert("id".to_owned(), id.clone());
    match result {
        Ok(_) if id.is_null() => return None,
        Ok(result) => object.insert("result".to_owned(), result),
        Err(error) => object.insert("error".to_owned(), json!(error)),
    };
    Some(Value::Object(object))
}

/// The text of an answer or of a batch of answers, with the newline that ends it.
pub(super) fn encode(answer: &Value) -> Vec<u8> {
    let mut text = answer.to_string().into_bytes();
    if text.len() >= LONGEST_ANSWER {
        let id = answer.get("id").unwrap_or(&Value::Null);
        let error = RpcError::internal("the answer is longer than 32 MiB");
        text = json!({"jsonrpc": "2.0", "id": id, "error": error})
            .to_string()
            .into_bytes();
    }
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(text: &str) -> Option<i32> {
        match parse(text.as_bytes()) {
            Incoming::Garbage(error) | Incoming::Single(Err(error)) => Some(error.code.0),
            Incoming::Single(Ok(_)) | Incoming::Batch(_) => None,
        }
    }

    #[test]
    fn a_request_is_taken_apart() {
        let text = br#"{"jsonrpc":"2.0","method":"m","params":{"a":1},"id":7}"#;
        let expected = Request {
            method: "m".to_owned(),
            params: Some(json!({"a": 1})),
            id: json!(7),
        };
        assert_eq!(parse(text), Incoming::Single(Ok(expected)));
        let bare = Request {
            method: "m".to_owned(),
            params: None,
            id: Value::Null,
        };
        assert_eq!(
            parse(br#"{"method":"m","params":null}"#),
            Incoming::Single(Ok(bare))
        );
    }

    #[test]
    fn what_is_no_request_is_told_apart_from_what_is_no_json() {
        for text in [
            "5",
            "\"x\"",
            "{}",
            "[]",
            r#"{"method":5}"#,
            r#"{"method":"m","id":{}}"#,
        ] {
            assert_eq!(code(text), Some(-32600), "{text}");
        }
        for text in [
            r#"{"method":"m","jsonrpc":"1.0"}"#,
            r#"{"method":"m","params":5}"#,
            r#"{"method":"m","other":5}"#,
        ] {
            assert_eq!(code(text), Some(-32600), "{text}");
        }
        assert_eq!(
            code(&format!(r#"{{"method":"m","id":"{}"}}"#, "x".repeat(129))),
            Some(-32600)
        );
        for text in ["{]", "{\"a\"}", "nul", "\"\u{1}\"", r#"{"a":01}"#] {
            assert_eq!(code(text), Some(-32700), "{text}");
        }
    }

    #[test]
    fn a_batch_keeps_good_and_bad_calls_apart() {
        let Incoming::Batch(calls) = parse(br#"[{"method":"m","id":1}, 1, {"method":"n"}]"#) else {
            panic!("a batch was expected");
        };
        assert_eq!(calls.len(), 3);
        assert!(calls[0].is_ok() && calls[1].is_err() && calls[2].is_ok());
    }

    #[test]
    fn notifications_get_no_result_but_do_get_their_error() {
        assert_eq!(answer(&Value::Null, Ok(json!(true))), None);
        let error = answer(&Value::Null, Err(RpcError::internal("x"))).unwrap();
        assert_eq!(
            error,
            json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32603, "message": "x"}})
        );
        let text = encode(&answer(&json!("a"), Ok(json!([1]))).unwrap());
        assert_eq!(text.last(), Some(&b'\n'));
        let back: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(back, json!({"jsonrpc": "2.0", "id": "a", "result": [1]}));
    }

    #[test]
    fn an_answer_too_long_becomes_an_error_with_the_same_id() {
        let long = answer(&json!(9), Ok("x".repeat(LONGEST_ANSWER).into())).unwrap();
        let back: Value = serde_json::from_slice(&encode(&long)).unwrap();
        assert_eq!(
            (&back["id"], &back["error"]["code"]),
            (&json!(9), &json!(-32603))
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            parse(&bytes);
        }
    }
}
