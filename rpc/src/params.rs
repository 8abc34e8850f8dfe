//! What each method takes.
//!
//! Defaults and names are those of the contract in `docs/rpc.md`. A value of the wrong type, a missing
//! or an unknown parameter is JSON-RPC's "invalid params"; a value that is understood but not possible
//! is `-EINVAL`. Either way the message starts with the parameter's name.

use std::borrow::Cow;

use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use vdo::volume::DEFAULT_LOW_SPACE_PERCENT;

use crate::error::RpcError;
use crate::profile;

/// The parameters of a method.
pub trait Parameters: DeserializeOwned {
    /// Refuses values out of range. Called by [`Parameters::decode`].
    fn check(&self) -> Result<(), RpcError> {
        Ok(())
    }

    /// What is made of the object of parameters before it is decoded.
    fn prepare(given: &Value) -> Result<Cow<'_, Value>, RpcError> {
        Ok(Cow::Borrowed(given))
    }

    /// The parameters of a request. No `params` at all is as good as an empty object.
    fn decode(params: Option<&Value>) -> Result<Self, RpcError> {
        let empty = Value::Object(serde_json::Map::new());
        let value = match params {
            None | Some(Value::Null) => &empty,
            Some(value) => value,
        };
        if !value.is_object() {
            return Err(RpcError::invalid_params(format!(
                "params: expected an object of named parameters, found {}",
                shorten(&value.to_string())
            )));
        }
        let value = Self::prepare(value)?;
        let decoded: Self = serde_path_to_error::deserialize(&*value).map_err(|error| {
            let path = error.path().to_string();
            if path == "." {
                RpcError::invalid_params(error.inner().to_string())
            } else {
                RpcError::invalid_params(format!("{path}: {}", error.inner()))
            }
        })?;
        decoded.check()?;
        Ok(decoded)
    }
}

/// At most about sixty characters of a text that goes into a message.
fn shorten(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Parameters of a method that takes none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

impl Parameters for NoParams {}

/// Parameters of a method about one volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Name {
    /// The volume's bdev name.
    pub name: String,
}

impl Parameters for Name {
    fn check(&self) -> Result<(), RpcError> {
        bdev_name("name", &self.name)
    }
}

/// Whether `bdev_vdo_create` may format the base bdev.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Only if it is blank. One that holds a volume opens it; anything else is refused.
    #[default]
    IfBlank,
    /// Never: there must be a volume.
    Never,
    /// Always. Whatever is there is lost.
    Force,
}

/// Parameters of `bdev_vdo_create`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// The new bdev's name.
    pub name: String,
    /// The bdev to keep the volume on.
    pub base_bdev_name: String,
    /// Whether to format.
    #[serde(default)]
    pub format: Format,
    /// Size of the volume in MiB; when formatting without it, as much as fits without savings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logical_size_mib: Option<u64>,
    /// Size of a slab in MiB, a power of two. Only used when formatting.
    #[serde(default = "Create::default_slab_size_mib")]
    pub slab_size_mib: u64,
    /// Memory of the index in GiB: 0.25, 0.5, 0.75 or a whole number. Only used when formatting.
    #[serde(default = "Create::default_index_memory_gb")]
    pub index_memory_gb: f64,
    /// Whether the index is sparse (ten times the records for the memory). Only used when formatting.
    #[serde(default)]
    pub index_sparse: bool,
    /// The cores to work on, one zone thread each, as SPDK writes masks: `0x3` or `[0,1]`. Without
    /// it, all of the target's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpumask: Option<String>,
    /// Size of the block map's page cache in MiB.
    #[serde(default = "Create::default_block_map_cache_mib")]
    pub block_map_cache_mib: u64,
    /// Whether to ask the index at all.
    #[serde(default = "Create::default_deduplication")]
    pub deduplication: bool,
    /// Whether to compress.
    #[serde(default)]
    pub compression: bool,
    /// Whether to discard blocks on the base bdev when they are freed.
    #[serde(default)]
    pub discard_freed: bool,
    /// Shares of the physical blocks, in percent and rising, that are told of when they are in use. One number is as good as a list
    /// of it.
    #[serde(
        default = "Create::default_low_space_percent",
        deserialize_with = "one_or_several"
    )]
    pub low_space_percent: Vec<u64>,
}

impl Create {
    /// 4 PiB, the largest volume the format can describe, in MiB.
    pub const LARGEST_LOGICAL_SIZE_MIB: u64 = 1 << 32;
    /// The largest slab (2^23 blocks) in MiB.
    pub const LARGEST_SLAB_SIZE_MIB: u64 = 32 * 1024;
    /// The most index memory in GiB.
    pub const LARGEST_INDEX_MEMORY_GB: f64 = 1024.0;
    /// The largest page cache in MiB (16 TiB less one).
    pub const LARGEST_BLOCK_MAP_CACHE_MIB: u64 = (1 << 24) - 1;

    fn default_slab_size_mib() -> u64 {
        2048
    }

    fn default_index_memory_gb() -> f64 {
        0.25
    }

    fn default_block_map_cache_mib() -> u64 {
        128
    }

    fn default_deduplication() -> bool {
        true
    }

    fn default_low_space_percent() -> Vec<u64> {
        DEFAULT_LOW_SPACE_PERCENT.map(u64::from).to_vec()
    }

    /// The parameters with all defaults.
    pub fn new(name: impl Into<String>, base_bdev_name: impl Into<String>) -> Create {
        Create {
            name: name.into(),
            base_bdev_name: base_bdev_name.into(),
            format: Format::default(),
            logical_size_mib: None,
            slab_size_mib: Create::default_slab_size_mib(),
            index_memory_gb: Create::default_index_memory_gb(),
            index_sparse: false,
            cpumask: None,
            block_map_cache_mib: Create::default_block_map_cache_mib(),
            deduplication: Create::default_deduplication(),
            compression: false,
            discard_freed: false,
            low_space_percent: Create::default_low_space_percent(),
        }
    }

    /// How many blocks a slab has, as a power of two.
    pub fn slab_bits(&self) -> u32 {
        (self.slab_size_mib * 256).trailing_zeros()
    }
}

impl Parameters for Create {
    fn prepare(given: &Value) -> Result<Cow<'_, Value>, RpcError> {
        profile::apply(given)
    }

    fn check(&self) -> Result<(), RpcError> {
        bdev_name("name", &self.name)?;
        bdev_name("base_bdev_name", &self.base_bdev_name)?;
        if self.name == self.base_bdev_name {
            return Err(RpcError::bad_value(
                "name",
                format_args!("\"{}\"", self.name),
                "the base bdev has that name; choose another",
            ));
        }
        self.logical_size_mib.map_or(Ok(()), logical_size)?;
        if !self.slab_size_mib.is_power_of_two()
            || self.slab_size_mib > Create::LARGEST_SLAB_SIZE_MIB
        {
            return Err(RpcError::bad_value(
                "slab_size_mib",
                self.slab_size_mib,
                "choose a power of two from 1 to 32768",
            ));
        }
        let memory = self.index_memory_gb;
        let quarter = [0.25, 0.5, 0.75].contains(&memory);
        let whole =
            memory.fract() == 0.0 && (1.0..=Create::LARGEST_INDEX_MEMORY_GB).contains(&memory);
        if !quarter && !whole {
            return Err(RpcError::bad_value(
                "index_memory_gb",
                memory,
                "choose 0.25, 0.5, 0.75 or a whole number from 1 to 1024",
            ));
        }
        if !(1..=Create::LARGEST_BLOCK_MAP_CACHE_MIB).contains(&self.block_map_cache_mib) {
            return Err(RpcError::bad_value(
                "block_map_cache_mib",
                self.block_map_cache_mib,
                "choose from 1 to 16777215",
            ));
        }
        rising_percents("low_space_percent", &self.low_space_percent)
    }
}

/// Parameters of `bdev_vdo_rebuild`: one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rebuild {
    /// The volume's bdev name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The bdev the volume is on, whether it is up or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_bdev_name: Option<String>,
}

impl Parameters for Rebuild {
    fn check(&self) -> Result<(), RpcError> {
        match (&self.name, &self.base_bdev_name) {
            (Some(name), None) => bdev_name("name", name),
            (None, Some(name)) => bdev_name("base_bdev_name", name),
            _ => Err(RpcError::invalid_params(
                "which volume: give name or base_bdev_name, one of them",
            )),
        }
    }
}

/// How statistics are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatsFormat {
    /// As a list of objects.
    #[default]
    Json,
    /// As text, in the manner of `vdostats --verbose`.
    Yaml,
}

/// Parameters of `bdev_vdo_get_stats`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetStats {
    /// Which volume; all of them without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether to show each zone's share as well.
    #[serde(default)]
    pub per_zone: bool,
    /// How they are answered.
    #[serde(default)]
    pub format: StatsFormat,
}

impl Parameters for GetStats {
    fn check(&self) -> Result<(), RpcError> {
        if self.per_zone && self.format == StatsFormat::Yaml {
            return Err(RpcError::bad_value(
                "format",
                "yaml",
                "it shows no zones: leave per_zone out, or take json",
            ));
        }
        self.name
            .as_ref()
            .map_or(Ok(()), |name| bdev_name("name", name))
    }
}

/// Parameters of `bdev_vdo_set_options`. What is left out stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetOptions {
    /// The volume's bdev name.
    pub name: String,
    /// How long a request waits for the index, in milliseconds, before it writes without asking further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedupe_timeout_ms: Option<u64>,
    /// The shortest time, in milliseconds, after which the timeout poller looks again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedupe_min_timer_ms: Option<u64>,
    /// Whether to compress what is written from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<bool>,
    /// Whether to discard blocks on the base bdev that are freed from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discard_freed: Option<bool>,
    /// Shares of the physical blocks that are told of when they are in use, as in [`Create::low_space_percent`].
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "some_or_several"
    )]
    pub low_space_percent: Option<Vec<u64>>,
}

impl SetOptions {
    /// Options of the volume called `name` that all stay as they are.
    pub fn none(name: impl Into<String>) -> SetOptions {
        SetOptions {
            name: name.into(),
            dedupe_timeout_ms: None,
            dedupe_min_timer_ms: None,
            compression: None,
            discard_freed: None,
            low_space_percent: None,
        }
    }
}

impl Parameters for SetOptions {
    fn check(&self) -> Result<(), RpcError> {
        bdev_name("name", &self.name)?;
        if let Some(timeout) = self.dedupe_timeout_ms
            && !(1..=120_000).contains(&timeout)
        {
            return Err(RpcError::bad_value(
                "dedupe_timeout_ms",
                timeout,
                "choose from 1 to 120000",
            ));
        }
        if let Some(timer) = self.dedupe_min_timer_ms
            && !(1..=1000).contains(&timer)
        {
            return Err(RpcError::bad_value(
                "dedupe_min_timer_ms",
                timer,
                "choose from 1 to 1000",
            ));
        }
        if let Some(percents) = &self.low_space_percent {
            rising_percents("low_space_percent", percents)?;
        }
        if *self == SetOptions::none(&self.name) {
            return Err(RpcError::invalid_params(
                "nothing to set: give dedupe_timeout_ms, dedupe_min_timer_ms, compression, discard_freed or low_space_percent",
            ));
        }
        Ok(())
    }
}

/// A number, or a list of numbers.
struct OneOrSeveral;

impl<'de> Visitor<'de> for OneOrSeveral {
    type Value = Vec<u64>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a number or a list of numbers")
    }

    fn visit_u64<E>(self, one: u64) -> Result<Vec<u64>, E> {
        Ok(vec![one])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u64>, A::Error> {
        let mut all = Vec::new();
        while let Some(one) = list.next_element()? {
            all.push(one);
        }
        Ok(all)
    }
}

fn one_or_several<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<u64>, D::Error> {
    value.deserialize_any(OneOrSeveral)
}

fn some_or_several<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Vec<u64>>, D::Error> {
    one_or_several(value).map(Some)
}

/// Whether all are percents, each larger than the one before.
fn rising_percents(parameter: &str, percents: &[u64]) -> Result<(), RpcError> {
    if let Some(wrong) = percents.iter().find(|one| !(1..=100).contains(*one)) {
        return Err(RpcError::bad_value(
            parameter,
            wrong,
            "choose from 1 to 100",
        ));
    }
    match percents.windows(2).find(|pair| pair[0] >= pair[1]) {
        None => Ok(()),
        Some(pair) => Err(RpcError::bad_value(
            parameter,
            format_args!("{} after {}", pair[1], pair[0]),
            "give each once, the smallest first",
        )),
    }
}

/// Parameters of `bdev_vdo_grow_logical`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrowLogical {
    /// The volume's bdev name.
    pub name: String,
    /// The size it is to have, in MiB.
    pub logical_size_mib: u64,
}

impl Parameters for GrowLogical {
    fn check(&self) -> Result<(), RpcError> {
        bdev_name("name", &self.name)?;
        logical_size(self.logical_size_mib)
    }
}

/// Whether a volume can present so many MiB.
fn logical_size(mib: u64) -> Result<(), RpcError> {
    match (1..=Create::LARGEST_LOGICAL_SIZE_MIB).contains(&mib) {
        true => Ok(()),
        false => Err(RpcError::bad_value(
            "logical_size_mib",
            mib,
            "choose from 1 to 4294967296 (4 PiB)",
        )),
    }
}

/// How an index is to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answers {
    /// As soon as it can; the default of every volume.
    Prompt,
    /// `delay_ms` later than it could.
    Delayed,
    /// Not at all.
    Never,
    /// With an error.
    Fail,
}

/// Parameters of `bdev_vdo_enable_histograms`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnableHistograms {
    /// The volume's bdev name.
    pub name: String,
    /// Whether times are kept, from now on and anew.
    pub enable: bool,
}

impl Parameters for EnableHistograms {
    fn check(&self) -> Result<(), RpcError> {
        bdev_name("name", &self.name)
    }
}

/// Parameters of `bdev_vdo_inject_index_answers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InjectAnswers {
    /// The volume's bdev name.
    pub name: String,
    /// How the index answers from now on.
    pub answers: Answers,
    /// How much later, in milliseconds; with `delayed` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
}

impl Parameters for InjectAnswers {
    fn check(&self) -> Result<(), RpcError> {
        bdev_name("name", &self.name)?;
        match (self.answers, self.delay_ms) {
            (Answers::Delayed, Some(1..=600_000)) => Ok(()),
            (Answers::Delayed, Some(delay)) => Err(RpcError::bad_value(
                "delay_ms",
                delay,
                "choose from 1 to 600000",
            )),
            (Answers::Delayed, None) => Err(RpcError::invalid_params(
                "delay_ms: it is missing, and delayed answers need it",
            )),
            (_, Some(delay)) => Err(RpcError::bad_value(
                "delay_ms",
                delay,
                "it goes with delayed answers only",
            )),
            (_, None) => Ok(()),
        }
    }
}

/// Longest bdev name, in bytes.
const LONGEST_NAME: usize = 255;

/// Whether a bdev can have this name.
pub fn bdev_name(parameter: &str, name: &str) -> Result<(), RpcError> {
    if name.is_empty() {
        return Err(RpcError::bad_value(
            parameter,
            "\"\"",
            "a name has at least one character",
        ));
    }
    if name.len() > LONGEST_NAME {
        return Err(RpcError::bad_value(
            parameter,
            format_args!("\"{}\"", shorten(name)),
            "a name has at most 255 bytes",
        ));
    }
    if name.chars().any(char::is_control) {
        return Err(RpcError::bad_value(
            parameter,
            format_args!("{name:?}"),
            "a name has no control characters",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorCode;
    use serde_json::json;

    fn create(value: Value) -> Result<Create, RpcError> {
        Create::decode(Some(&value))
    }

    #[test]
    fn create_has_the_defaults_of_the_contract() {
        let create = create(json!({"name": "v", "base_bdev_name": "b"})).unwrap();
        assert_eq!(create, Create::new("v", "b"));
        assert_eq!(create.format, Format::IfBlank);
        assert_eq!((create.slab_size_mib, create.slab_bits()), (2048, 19));
        assert_eq!(create.index_memory_gb, 0.25);
        assert_eq!(create.block_map_cache_mib, 128);
        assert!(create.deduplication && !create.compression && !create.index_sparse);
        assert_eq!(create.logical_size_mib, None);
        assert_eq!(create.low_space_percent, [80, 95]);
    }

    #[test]
    fn what_is_written_to_a_configuration_reads_back_the_same() {
        let mut create = Create::new("v", "b");
        create.format = Format::Never;
        create.cpumask = Some("0x3".to_owned());
        create.logical_size_mib = Some(1 << 20);
        let value = serde_json::to_value(&create).unwrap();
        assert_eq!(value["format"], "never");
        assert_eq!(Create::decode(Some(&value)).unwrap(), create);
    }

    #[test]
    fn refusals_name_the_parameter_and_the_value() {
        let base = json!({"name": "v", "base_bdev_name": "b"});
        let cases = [
            ("name", json!(""), ErrorCode::EINVAL, "\"\""),
            ("name", json!("b"), ErrorCode::EINVAL, "\"b\""),
            ("name", json!("a\nb"), ErrorCode::EINVAL, "a\\nb"),
            (
                "base_bdev_name",
                json!("x".repeat(256)),
                ErrorCode::EINVAL,
                "xxx...",
            ),
            ("format", json!("maybe"), ErrorCode::INVALID_PARAMS, "maybe"),
            ("logical_size_mib", json!(0), ErrorCode::EINVAL, "0 "),
            (
                "logical_size_mib",
                json!(4294967297u64),
                ErrorCode::EINVAL,
                "4294967297",
            ),
            (
                "logical_size_mib",
                json!(-1),
                ErrorCode::INVALID_PARAMS,
                "-1",
            ),
            ("slab_size_mib", json!(3), ErrorCode::EINVAL, "3 "),
            ("slab_size_mib", json!(65536), ErrorCode::EINVAL, "65536"),
            (
                "slab_size_mib",
                json!("2048"),
                ErrorCode::INVALID_PARAMS,
                "2048",
            ),
            ("index_memory_gb", json!(0.3), ErrorCode::EINVAL, "0.3"),
            ("index_memory_gb", json!(1025), ErrorCode::EINVAL, "1025"),
            ("index_memory_gb", json!(-1), ErrorCode::EINVAL, "-1"),
            ("block_map_cache_mib", json!(0), ErrorCode::EINVAL, "0 "),
            ("low_space_percent", json!(0), ErrorCode::EINVAL, "0 "),
            ("low_space_percent", json!(101), ErrorCode::EINVAL, "101 "),
            (
                "low_space_percent",
                json!([95, 80]),
                ErrorCode::EINVAL,
                "80 after 95",
            ),
            (
                "low_space_percent",
                json!([80, 80]),
                ErrorCode::EINVAL,
                "80 after 80",
            ),
            (
                "low_space_percent",
                json!([80, 200]),
                ErrorCode::EINVAL,
                "200 ",
            ),
            (
                "low_space_percent",
                json!("80"),
                ErrorCode::INVALID_PARAMS,
                "a number or a list",
            ),
            (
                "low_space_percent",
                json!([80, -1]),
                ErrorCode::INVALID_PARAMS,
                "-1",
            ),
            (
                "low_space_percent",
                json!(80.5),
                ErrorCode::INVALID_PARAMS,
                "80.5",
            ),
            ("deduplication", json!(1), ErrorCode::INVALID_PARAMS, "1"),
            (
                "cpumask",
                json!([0, 1]),
                ErrorCode::INVALID_PARAMS,
                "cpumask",
            ),
        ];
        for (parameter, value, code, said) in cases {
            let mut params = base.clone();
            params[parameter] = value.clone();
            let error = create(params).expect_err(&format!("{parameter} = {value}"));
            assert_eq!(error.code, code, "{error}");
            assert!(error.message.starts_with(parameter), "{error}");
            assert!(error.message.contains(said), "{error}");
        }
    }

    #[test]
    fn unknown_and_missing_parameters_are_named() {
        let error = create(json!({"name": "v", "base_bdev_name": "b", "colour": 1})).unwrap_err();
        assert_eq!(error.code, ErrorCode::INVALID_PARAMS);
        assert!(error.message.contains("colour"), "{error}");
        let error = create(json!({"name": "v"})).unwrap_err();
        assert!(error.message.contains("base_bdev_name"), "{error}");
        let error = create(json!(["v", "b"])).unwrap_err();
        assert_eq!(error.code, ErrorCode::INVALID_PARAMS);
        assert!(Name::decode(None).unwrap_err().message.contains("name"));
        assert!(
            NoParams::decode(Some(&json!({"a": 1})))
                .unwrap_err()
                .message
                .contains('a')
        );
        assert_eq!(NoParams::decode(Some(&Value::Null)), Ok(NoParams {}));
    }

    #[test]
    fn options_are_refused_out_of_range_and_when_there_are_none() {
        let decode = |value: Value| SetOptions::decode(Some(&value));
        assert!(decode(json!({"name": "v", "dedupe_timeout_ms": 120_000})).is_ok());
        assert!(decode(json!({"name": "v", "dedupe_timeout_ms": 120_001})).is_err());
        assert!(decode(json!({"name": "v", "dedupe_timeout_ms": 0})).is_err());
        assert!(decode(json!({"name": "v", "dedupe_min_timer_ms": 1001})).is_err());
        assert!(decode(json!({"name": "v"})).is_err());
        let options = decode(json!({"name": "v", "compression": true})).unwrap();
        assert_eq!(
            (options.compression, options.dedupe_timeout_ms),
            (Some(true), None)
        );
        let percents = |value: Value| {
            decode(json!({"name": "v", "low_space_percent": value}))
                .map(|set| set.low_space_percent)
        };
        assert_eq!(percents(json!(70)), Ok(Some(vec![70])));
        assert_eq!(percents(json!([1, 100])), Ok(Some(vec![1, 100])));
        assert_eq!(percents(json!([])), Ok(Some(vec![])), "none at all");
        assert!(percents(json!([70, 60])).is_err());
        assert!(percents(json!(null)).is_err());
    }

    /// Every parameter the list of methods names is known to its type, and no other.
    #[test]
    fn the_list_of_methods_agrees_with_the_types() {
        fn known<P: Parameters>(parameter: &str) -> bool {
            let error = P::decode(Some(&json!({parameter: {"no": "such type"}}))).err();
            !error.is_some_and(|error| error.message.contains("unknown field"))
        }
        for method in crate::methods::ALL {
            let known = match method.name {
                crate::methods::BDEV_VDO_CREATE => known::<Create>,
                crate::methods::BDEV_VDO_REBUILD => known::<Rebuild>,
                crate::methods::BDEV_VDO_GET_STATS => known::<GetStats>,
                crate::methods::BDEV_VDO_SET_OPTIONS => known::<SetOptions>,
                crate::methods::BDEV_VDO_GROW_LOGICAL => known::<GrowLogical>,
                crate::methods::BDEV_VDO_ENABLE_HISTOGRAMS => known::<EnableHistograms>,
                crate::methods::BDEV_VDO_INJECT_INDEX_ANSWERS => known::<InjectAnswers>,
                _ => known::<Name>,
            };
            for parameter in method.required.iter().chain(method.optional) {
                assert!(known(parameter), "{} of {}", parameter, method.name);
            }
            assert!(!known("nonsense"));
        }
    }
}
