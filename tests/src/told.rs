//! What an operator is told of a volume: the same story on either host, each told as one function of its target.
//!
//! [`Told`] reads a target's notifications as a monitor would: those that are new, each time.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::probe::Probe;
use crate::rig::{BLOCK, fill, info};
use crate::target::Target;

/// How long a notification may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long to wait for one that must not come.
const SILENCE: Duration = Duration::from_millis(100);

/// A notification of a volume: its type without the prefix all have, and its text.
pub type Notification = (String, String);

/// The types of notifications of volumes begin with this.
const PREFIX: &str = "bdev_vdo_";

/// What a target tells of its volumes.
#[derive(Debug, Default)]
pub struct Told {
    /// The number of the first notification that was not read.
    next: u64,
}

impl Told {
    /// What was told of volumes since the last call.
    ///
    /// # Panics
    /// When the target does not answer as SPDK does.
    pub fn news(&mut self, target: &Target) -> Vec<Notification> {
        let since = json!({"id": self.next});
        let all = target.rpc("notify_get_notifications", since);
        let all = all.expect("notifications can be asked for");
        let all = all.as_array().expect("they are a list");
        let mut news = Vec::new();
        for one in all {
            let id = one["id"].as_u64().expect("each has a number");
            assert_eq!(id, self.next, "none is left out, none repeated");
            self.next = id + 1;
            let text = |member: &str| one[member].as_str().expect("it is a text").to_owned();
            if let Some(kind) = text("type").strip_prefix(PREFIX) {
                news.push((kind.to_owned(), text("ctx")));
            }
        }
        news
    }

    /// Waits for these, in this order, and that no others come. Those of the index are passed over: it comes up by itself.
    ///
    /// # Panics
    /// When others come, or these do not.
    pub fn expect(&mut self, target: &Target, wanted: &[(&str, &str)]) {
        let begun = Instant::now();
        let mut found = Vec::new();
        loop {
            let news = self.news(target).into_iter();
            found.extend(news.filter(|(kind, _)| kind != "index"));
            if found.len() >= wanted.len() || begun.elapsed() > PATIENCE {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(SILENCE);
        let late = self.news(target).into_iter();
        found.extend(late.filter(|(kind, _)| kind != "index"));
        let found: Vec<_> = found
            .iter()
            .map(|(kind, text)| (kind.as_str(), text.as_str()))
            .collect();
        assert_eq!(found, wanted);
    }

    /// Waits for a notification of the index with this word.
    ///
    /// # Panics
    /// When another comes first, or none does.
    pub fn expect_index(&mut self, target: &Target, word: &str) {
        let begun = Instant::now();
        loop {
            let news = self.news(target);
            if !news.is_empty() {
                let wanted = ("index".to_owned(), format!("vdo0: {word}"));
                assert_eq!(news, [wanted]);
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "the index is not {word}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// How often the log has a line with both.
pub fn lines(target: &Target, one: &str, other: &str) -> usize {
    let log = target.log();
    let lines = log.lines();
    lines
        .filter(|line| line.contains(one) && line.contains(other))
        .count()
}

fn set_percents(target: &Target, percents: Value) {
    let params = json!({"name": "vdo0", "low_space_percent": percents});
    let set = target.rpc("bdev_vdo_set_options", params);
    assert_eq!(set.expect("they make sense"), true);
    let shown = match &percents {
        Value::Array(_) => percents,
        one => json!([one]),
    };
    assert_eq!(info(target)["low_space_percent"], shown);
}

fn number(target: &Target, member: &str) -> u64 {
    info(target)[member].as_u64().expect("it is a number")
}

/// The least number of blocks in use that are this share of all.
fn share(target: &Target, percent: u64) -> u64 {
    (number(target, "physical_blocks") * percent).div_ceil(100)
}

/// Writes new data from logical block `from` on until so many blocks are in use; the next logical block.
fn fill_up_to(target: &Target, client: &mut impl Probe, from: u64, blocks: u64) -> u64 {
    let used = || number(target, "data_blocks_used") + number(target, "overhead_blocks_used");
    let mut next = from;
    while used() < blocks {
        let end = next + (blocks - used()).min(4096);
        fill(client, next..end, |lbn| lbn + 1);
        next = end;
    }
    next
}

fn trim(client: &mut impl Probe, lbns: std::ops::Range<u64>) {
    let length = (lbns.end - lbns.start) * BLOCK;
    assert_eq!(client.trim(lbns.start * BLOCK, length), Ok(()));
    assert_eq!(client.flush(), Ok(()));
}

/// What [`low_space`] leaves for the next start: the shares that are in use, and more to hear of.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    /// The lower.
    pub low: u64,
    /// The higher.
    pub high: u64,
}

impl Shares {
    /// The thresholds for that start.
    pub fn percents(self) -> Value {
        json!([self.low, self.high, 100])
    }
}

/// A volume `vdo0` that [`low_space`] has left is up again, with thresholds at these shares: it is told of those it has reached, once, and they are
/// in what is saved.
///
/// # Panics
/// When that is not so.
pub fn reached_at_start(target: &Target, shares: Shares) {
    let texts = [shares.low, shares.high].map(|share| format!("vdo0: {share}"));
    let told = texts.each_ref().map(|text| ("low_space", &**text));
    Told::default().expect(target, &told);
    let config = target.rpc("framework_get_config", json!({"name": "bdev"}));
    let config = config.expect("it can be asked for");
    let mut calls = config.as_array().expect("it is a list").iter();
    let create = calls.find(|call| call["method"] == "bdev_vdo_create");
    let create = create.expect("the volume is in it");
    assert_eq!(create["params"]["low_space_percent"], shares.percents());
}

/// A volume `vdo0` on an otherwise unused base bdev fills, is told of at each share once, and again after it has emptied by two percent. In the
/// end both shares are in use. `grow` has the base bdev grow, and the volume with it, by a tenth.
///
/// # Panics
/// When it is told of at another time.
pub fn low_space(target: &Target, client: &mut impl Probe, grow: impl FnOnce()) -> Shares {
    let mut told = Told::default();
    // Metadata alone takes that of a device as small as this.
    assert_eq!(info(target)["low_space_percent"], json!([80, 95]));
    told.expect(target, &[("low_space", "vdo0: 80")]);
    assert_eq!(
        lines(target, "vdo0 runs low on space: 80 percent", ""),
        1,
        "{}",
        target.log()
    );

    let used = number(target, "used_percent");
    let (low, high) = (used + 2, used + 4);
    let texts = [format!("vdo0: {low}"), format!("vdo0: {high}")];
    let (low_told, high_told) = (("low_space", &*texts[0]), ("low_space", &*texts[1]));
    set_percents(target, json!([low, high]));
    told.expect(target, &[]);
    let next = fill_up_to(target, client, 0, share(target, low) - 64);
    told.expect(target, &[]);
    let next = fill_up_to(target, client, next, share(target, low));
    told.expect(target, &[low_told]);
    let middle = fill_up_to(target, client, next, share(target, high) - 64);
    told.expect(target, &[]);
    let next = fill_up_to(target, client, middle, share(target, high));
    told.expect(target, &[high_told]);

    // About the higher, and once below it by two percent, which is about the lower.
    trim(client, middle..next);
    told.expect(target, &[]);
    let next = fill_up_to(target, client, middle, share(target, high));
    told.expect(target, &[]);
    let fallen = next - (share(target, high) - share(target, low)) - 512;
    trim(client, fallen..next);
    told.expect(target, &[]);
    let next = fill_up_to(target, client, fallen, share(target, high));
    told.expect(target, &[high_told]);

    // A volume that has grown has room again.
    grow();
    assert!(number(target, "used_percent") < low - 2, "{}", info(target));
    told.expect(target, &[]);
    fill_up_to(target, client, next, share(target, high));
    told.expect(target, &[low_told, high_told]);
    assert_eq!(lines(target, "vdo0 runs low on space", ""), 6);

    // What is told already stays so, in whatever company; what is new is told of.
    set_percents(target, json!(low));
    told.expect(target, &[]);
    set_percents(target, json!([low - 1, low]));
    let lower = format!("vdo0: {}", low - 1);
    told.expect(target, &[("low_space", &*lower)]);
    set_percents(target, json!([]));
    told.expect(target, &[]);
    Shares { low, high }
}

/// A volume `vdo0` turns read-only by a write of the bdev `EE_base` below it that fails, and is told of with the reason, once.
///
/// # Panics
/// When it is not.
pub fn read_only(target: &Target, client: &mut impl Probe) {
    let mut told = Told::default();
    told.expect(target, &[("low_space", "vdo0: 80")]);
    let failure = json!({"name": "EE_base", "io_type": "write", "error_type": "failure", "num": 1});
    target
        .rpc("bdev_error_inject_error", failure)
        .expect("the error bdev takes it");
    // Acknowledged, or not: either way the volume cannot keep it.
    let _ = client.write(0, &crate::rig::block(7));
    let _ = client.flush();
    let begun = Instant::now();
    while info(target)["mode"] != "read-only" && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    let reason = info(target)["read_only_reason"].take();
    let reason = reason.as_str().expect("it is read-only for a reason");
    let text = format!("vdo0: {reason}");
    told.expect(target, &[("read_only", &*text)]);
    assert_eq!(lines(target, "vdo0 turns read-only", reason), 1);
}

/// The volume that [`read_only`] left comes up read-only, is told of once, and is rebuilt.
///
/// # Panics
/// When it is not.
pub fn rebuilt(target: &Target) {
    let mut told = Told::default();
    let news = told.news(target);
    let read_only: Vec<_> = news
        .iter()
        .filter(|(kind, _)| kind == "read_only")
        .collect();
    assert_eq!(read_only.len(), 1, "{news:?}");
    assert!(read_only[0].1.starts_with("vdo0: its super block says"));
    assert_eq!(lines(target, "vdo0 comes up read-only", ""), 1);
    let rebuilt = target.rpc("bdev_vdo_rebuild", json!({"name": "vdo0"}));
    rebuilt.expect("it can be rebuilt");
    told.expect(
        target,
        &[
            ("rebuild_begun", "vdo0"),
            ("rebuild_ended", "vdo0: dropped nothing"),
            ("low_space", "vdo0: 80"),
        ],
    );
    assert_eq!(lines(target, "vdo0 is being rebuilt", ""), 1);
    assert_eq!(lines(target, "vdo0 is rebuilt; dropped: nothing", ""), 1);
}

/// A volume `vdo0` that was killed comes back, and is told of from the beginning to the end; so is its index.
///
/// # Panics
/// When it is not.
pub fn recovered(target: &Target) {
    let begun = Instant::now();
    let mut told = Told::default();
    let mut news = Vec::new();
    while begun.elapsed() < PATIENCE {
        news.extend(told.news(target));
        let words: Vec<_> = news.iter().map(|(kind, text)| (&**kind, &**text)).collect();
        if words.contains(&("index", "vdo0: online"))
            && words.contains(&("recovery_ended", "vdo0"))
            && words.contains(&("low_space", "vdo0: 80"))
        {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(SILENCE);
    news.extend(told.news(target));
    let of = |kinds: &[&str]| -> Vec<(&str, &str)> {
        let wanted = news.iter().filter(|(kind, _)| kinds.contains(&&**kind));
        wanted.map(|(kind, text)| (&**kind, &**text)).collect()
    };
    // Free blocks of slabs that are not scrubbed count as used, so nothing is said of space before.
    assert_eq!(
        of(&["recovery_begun", "recovery_ended", "low_space"]),
        [
            ("recovery_begun", "vdo0"),
            ("recovery_ended", "vdo0"),
            ("low_space", "vdo0: 80")
        ]
    );
    assert_eq!(
        of(&["index"]),
        [("index", "vdo0: rebuilding"), ("index", "vdo0: online")]
    );
    assert_eq!(news.len(), 5, "{news:?}");
    assert_eq!(lines(target, "vdo0 was not shut down", ""), 1);
    assert_eq!(lines(target, "vdo0 is recovered", ""), 1);
}

/// Every state of an index is told of once when it comes to be, and no more when it is asked for again.
///
/// # Panics
/// When it is not.
pub fn index_states(target: &Target) {
    let mut told = Told::default();
    let first = told.news(target);
    assert!(
        first.contains(&("index".into(), "vdo0: online".into())),
        "{first:?}"
    );
    told.expect(target, &[]);
    for (verb, word) in [
        ("offline", "offline"),
        ("online", "online"),
        ("close", "closed"),
        ("create", "online"),
    ] {
        let method = format!("bdev_vdo_index_{verb}");
        let done = || target.rpc(&method, json!({"name": "vdo0"}));
        done().unwrap_or_else(|error| panic!("{method}: {error}"));
        told.expect_index(target, word);
        if verb != "create" {
            done().unwrap_or_else(|error| panic!("{method}: {error}"));
        }
        assert_eq!(told.news(target), [], "{method} changed nothing");
    }
}
