//! Volume profiles: parameters of `bdev_vdo_create` that are kept in a file, as YAML.
//!
//! A client sends the file's text as the parameter `profile`; what it gives beside it goes before. So a profile says what all volumes of a kind
//! have in common, and a call what is one's own, and no client needs to know YAML.
//!
//! ```yaml
//! slab_size_mib: 2048
//! compression: true
//! low_space_percent: [70, 90]
//! ```

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::RpcError;

/// The parameter.
const PROFILE: &str = "profile";

/// The longest profile, in bytes.
const LONGEST: usize = 64 * 1024;

/// The parameters of a call with those of its profile, if it has one.
pub(crate) fn apply(given: &Value) -> Result<Cow<'_, Value>, RpcError> {
    let Some(text) = given.get(PROFILE) else {
        return Ok(Cow::Borrowed(given));
    };
    let refused = |why: String| RpcError::invalid_params(format!("{PROFILE}: {why}"));
    let text = text
        .as_str()
        .ok_or_else(|| refused("give the text of a profile, which is YAML".to_owned()))?;
    if text.len() > LONGEST {
        return Err(refused(format!("it has more than {LONGEST} bytes")));
    }
    let profile: Value = serde_yaml::from_str(text).map_err(|error| refused(error.to_string()))?;
    let mut all = match profile {
        Value::Object(parameters) => parameters,
        Value::Null => Map::new(),
        _ => return Err(refused("it is no list of \"parameter: value\"".to_owned())),
    };
    if all.contains_key(PROFILE) {
        return Err(refused("a profile has no profile".to_owned()));
    }
    let own = given.as_object().into_iter().flatten();
    let own = own.filter(|(name, _)| *name != PROFILE);
    all.extend(own.map(|(name, value)| (name.clone(), value.clone())));
    Ok(Cow::Owned(Value::Object(all)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::params::{Create, Format};
    use crate::{ErrorCode, Parameters};

    fn create(profile: Value) -> Result<Create, RpcError> {
        let params =
            json!({"name": "v", "base_bdev_name": "b", "compression": false, "profile": profile});
        Create::decode(Some(&params))
    }

    #[test]
    fn a_call_goes_before_its_profile_and_that_before_the_defaults() {
        let text = "# of all volumes here\nslab_size_mib: 64\ncompression: true\nformat: never\n\
                    low_space_percent: [70, 90]\ncpumask: \"0x3\"\nindex_memory_gb: 0.5\n";
        let expected = Create {
            slab_size_mib: 64,
            compression: false,
            format: Format::Never,
            low_space_percent: vec![70, 90],
            cpumask: Some("0x3".into()),
            index_memory_gb: 0.5,
            ..Create::new("v", "b")
        };
        assert_eq!(create(json!(text)), Ok(expected));
        assert_eq!(create(json!("")), Ok(Create::new("v", "b")));
        assert_eq!(create(json!("# nothing\n")), Ok(Create::new("v", "b")));
    }

    #[test]
    fn what_a_profile_cannot_say_is_refused_by_name() {
        let bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned()
            + &(b'b'..b'k')
                .map(|name| {
                    let before = char::from(name - 1);
                    let all = vec![format!("*{before}"); 9].join(", ");
                    format!("{0}: &{0} [{all}]\n", char::from(name))
                })
                .collect::<String>();
        for (profile, code, said) in [
            (
                json!(7),
                ErrorCode::INVALID_PARAMS,
                "profile: give the text",
            ),
            (json!("a: b: c"), ErrorCode::INVALID_PARAMS, "profile: "),
            (json!("- a"), ErrorCode::INVALID_PARAMS, "profile: it is no"),
            (json!("profile: x"), ErrorCode::INVALID_PARAMS, "profile: a"),
            (json!("colour: red"), ErrorCode::INVALID_PARAMS, "colour"),
            (
                json!("slab_size_mib: 3"),
                ErrorCode::EINVAL,
                "slab_size_mib: 3",
            ),
            (
                json!("cpumask: 0x3"),
                ErrorCode::INVALID_PARAMS,
                "cpumask: ",
            ),
            (
                json!("x".repeat(LONGEST + 1)),
                ErrorCode::INVALID_PARAMS,
                "profile: it has",
            ),
            (json!(bomb), ErrorCode::INVALID_PARAMS, "profile: "),
        ] {
            let error = create(profile).unwrap_err();
            assert_eq!(error.code, code, "{error}");
            assert!(error.message.contains(said), "{error}");
        }
    }
}
