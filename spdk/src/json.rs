//! JSON in and out of SPDK.
//!
//! SPDK hands a method its parameters as a flat array of tokens; [`value`] makes a tree of it. What the module
//! writes goes out as text that `serde_json` made ([`Writer`]).

use std::ffi::CString;

use serde_json::{Map, Number, Value};
use spdk_sys as sys;

/// Deepest nesting that is read. No method takes as much; SPDK's own parser stops at 64.
const DEEPEST: usize = 32;

/// The value that begins at `token`; `None` if it makes no sense.
///
/// # Safety
/// `token` is null or the first token of a value that SPDK parsed.
pub unsafe fn value(token: *const sys::spdk_json_val) -> Option<Value> {
    if token.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    unsafe { tree(token, DEEPEST) }.map(|(value, _)| value)
}

/// The value at `token`, and the token after it.
///
/// # Safety
/// As [`value`], and not null.
unsafe fn tree(
    token: *const sys::spdk_json_val,
    depth: usize,
) -> Option<(Value, *const sys::spdk_json_val)> {
    let depth = depth.checked_sub(1)?;
    // SAFETY: SPDK parsed the value whole, so what follows an opening token up to its closing one is there.
    unsafe {
        let mut next = token.add(1);
        let value = match (*token).type_ {
            sys::SPDK_JSON_VAL_NULL => Value::Null,
            sys::SPDK_JSON_VAL_TRUE => Value::Bool(true),
            sys::SPDK_JSON_VAL_FALSE => Value::Bool(false),
            sys::SPDK_JSON_VAL_NUMBER => Value::Number(string(token).parse::<Number>().ok()?),
            sys::SPDK_JSON_VAL_STRING => Value::String(string(token)),
            sys::SPDK_JSON_VAL_ARRAY_BEGIN => {
                let mut items = Vec::new();
                while (*next).type_ != sys::SPDK_JSON_VAL_ARRAY_END {
                    let (item, after) = tree(next, depth)?;
                    items.push(item);
                    next = after;
                }
                next = next.add(1);
                Value::Array(items)
            }
            sys::SPDK_JSON_VAL_OBJECT_BEGIN => {
                let mut members = Map::new();
                while (*next).type_ != sys::SPDK_JSON_VAL_OBJECT_END {
                    let (member, after) = tree(next.add(1), depth)?;
                    members.insert(string(next), member);
                    next = after;
                }
                next = next.add(1);
                Value::Object(members)
            }
            _ => return None,
        };
        Some((value, next))
    }
}

/// The text of a string, name or number.
///
/// # Safety
/// `token` is a token SPDK parsed.
unsafe fn string(token: *const sys::spdk_json_val) -> String {
    // SAFETY: such tokens point to `len` decoded bytes.
    let bytes = unsafe { std::slice::from_raw_parts((*token).start.cast(), (*token).len as usize) };
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where SPDK wants JSON written to.
pub struct Writer(*mut sys::spdk_json_write_ctx);

impl Writer {
    /// A writer of SPDK's.
    ///
    /// # Safety
    /// `raw` takes values for as long as the writer is used.
    pub unsafe fn new(raw: *mut sys::spdk_json_write_ctx) -> Writer {
        Writer(raw)
    }

    /// Writes a value.
    pub fn value(&mut self, value: &Value) {
        let text = value.to_string();
        // SAFETY: the context takes values, and copies the text.
        let rc = unsafe { sys::spdk_json_write_val_raw(self.0, text.as_ptr().cast(), text.len()) };
        if rc != 0 {
            log::error!("SPDK could not take {} bytes of JSON", text.len());
        }
    }

    /// Writes a member of the object that is being written.
    pub fn member(&mut self, name: &str, value: &Value) {
        let Ok(name) = CString::new(name) else {
            return;
        };
        // SAFETY: the context is within an object, and copies the name.
        unsafe { sys::spdk_json_write_name(self.0, name.as_ptr()) };
        self.value(value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What SPDK's parser and [`value`] make of a text.
    fn parsed(text: &str) -> Option<Value> {
        let mut text = text.as_bytes().to_vec();
        let mut tokens = vec![sys::spdk_json_val::default(); 4096];
        // SAFETY: the parser decodes in place, and fills no more tokens than there are.
        unsafe {
            let count = sys::spdk_json_parse(
                text.as_mut_ptr().cast(),
                text.len(),
                tokens.as_mut_ptr(),
                tokens.len(),
                std::ptr::null_mut(),
                1,
            );
            assert!(count > 0, "SPDK parses {count}");
            value(tokens.as_ptr())
        }
    }

    #[test]
    fn what_spdk_parsed_is_what_was_sent() {
        let sent = json!({
            "name": "vdo\n\"0\" \u{e9}", "empty": {}, "none": [], "null": null, "yes": true, "no": false,
            "numbers": [0, -1, 4294967297u64, 0.25, 1e3],
            "nested": [{"a": [1, [2, {"b": []}]]}, {}],
        });
        assert_eq!(parsed(&sent.to_string()), Some(sent));
    }

    #[test]
    fn nesting_without_end_is_refused() {
        assert!(parsed(&format!("{}{}", "[".repeat(32), "]".repeat(32))).is_some());
        assert_eq!(
            parsed(&format!("{}{}", "[".repeat(33), "]".repeat(33))),
            None
        );
        // SAFETY: null stands for no parameters.
        assert_eq!(unsafe { value(std::ptr::null()) }, None);
    }
}
