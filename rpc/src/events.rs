//! What an operator is told of a volume: one line of the log, and one notification.
//!
//! Notifications are SPDK's, read by `notify_get_notifications`: a type, and a text of at most [`LONGEST_CONTEXT`] bytes. The text
//! begins with the volume's name; what there is to say beyond the type follows after a colon. Both hosts
//! have the same types and texts, for they take them from here.

use log::{Level, log};
use vdo::seam::{IndexState, Listener, VolumeEvent};

/// A share of the physical blocks is in use that was to be told of.
pub const LOW_SPACE: &str = "bdev_vdo_low_space";
/// A volume turned read-only, or was found so.
pub const READ_ONLY: &str = "bdev_vdo_read_only";
/// A volume that was not shut down is being brought back.
pub const RECOVERY_BEGUN: &str = "bdev_vdo_recovery_begun";
/// That has ended.
pub const RECOVERY_ENDED: &str = "bdev_vdo_recovery_ended";
/// A volume is being rebuilt.
pub const REBUILD_BEGUN: &str = "bdev_vdo_rebuild_begun";
/// That has ended.
pub const REBUILD_ENDED: &str = "bdev_vdo_rebuild_ended";
/// The deduplication index has come to another state.
pub const INDEX: &str = "bdev_vdo_index";

/// Every type of notification.
pub const TYPES: [&str; 7] = [
    LOW_SPACE,
    READ_ONLY,
    RECOVERY_BEGUN,
    RECOVERY_ENDED,
    REBUILD_BEGUN,
    REBUILD_ENDED,
    INDEX,
];

/// The longest text of a notification in bytes: what SPDK keeps, with a zero byte behind it.
pub const LONGEST_CONTEXT: usize = 127;

/// Sends a notification of a type with a text. Must not wait.
pub type Notify = Box<dyn Fn(&str, &str) + Send + Sync>;

/// Writes the events of one volume to the log, and sends them as notifications.
pub struct Reporter {
    name: String,
    notify: Notify,
}

impl Reporter {
    /// For the volume called `name`.
    pub fn new(name: impl Into<String>, notify: Notify) -> Reporter {
        let name = name.into();
        Reporter { name, notify }
    }
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reporter of {:?}", self.name)
    }
}

impl Listener for Reporter {
    fn told(&self, event: &VolumeEvent) {
        let report = Report::of(event);
        log!(report.level, "volume {} {}", self.name, report.sentence);
        (self.notify)(report.kind, &report.context(&self.name));
    }
}

/// An event in words.
struct Report {
    level: Level,
    /// For the log, after the name.
    sentence: String,
    kind: &'static str,
    /// For the notification, beyond its type and the name.
    detail: Option<String>,
}

impl Report {
    fn of(event: &VolumeEvent) -> Report {
        let plain = |level, kind, sentence: &str| Report {
            level,
            sentence: sentence.into(),
            kind,
            detail: None,
        };
        let detailed = |level, kind, sentence: String, detail: &str| Report {
            level,
            sentence,
            kind,
            detail: Some(detail.into()),
        };
        let failed = |kind, what: &str, why: &str| {
            let sentence = format!("could not be {what}: {why}");
            detailed(Level::Error, kind, sentence, &format!("failed: {why}"))
        };
        match event {
            VolumeEvent::LowSpace {
                percent,
                used_blocks,
                physical_blocks,
            } => detailed(
                Level::Warn,
                LOW_SPACE,
                format!(
                    "runs low on space: {percent} percent of its base bdev are in use ({used_blocks} of {physical_blocks} blocks); \
                     when all are, new data is refused"
                ),
                &percent.to_string(),
            ),
            VolumeEvent::ReadOnly { reason, was_found } => {
                let becomes = match was_found {
                    true => "comes up",
                    false => "turns",
                };
                let sentence = format!("{becomes} read-only: {reason}");
                detailed(Level::Error, READ_ONLY, sentence, reason)
            }
            VolumeEvent::RecoveryBegun => plain(
                Level::Warn,
                RECOVERY_BEGUN,
                "was not shut down, and is being recovered",
            ),
            VolumeEvent::RecoveryEnded(Ok(())) => plain(
                Level::Info,
                RECOVERY_ENDED,
                "is recovered: its journal is replayed, and its slabs are scrubbed",
            ),
            VolumeEvent::RecoveryEnded(Err(why)) => failed(RECOVERY_ENDED, "recovered", why),
            VolumeEvent::RebuildBegun => {
                let sentence = "is being rebuilt from its block map, as was asked for";
                plain(Level::Warn, REBUILD_BEGUN, sentence)
            }
            VolumeEvent::RebuildEnded(Ok(dropped)) => {
                let sentence = format!("is rebuilt; dropped: {dropped}");
                detailed(
                    Level::Warn,
                    REBUILD_ENDED,
                    sentence,
                    &format!("dropped {dropped}"),
                )
            }
            VolumeEvent::RebuildEnded(Err(why)) => failed(REBUILD_ENDED, "rebuilt", why),
            VolumeEvent::Index(state) => {
                let (level, word, means) = index_words(*state);
                let sentence = format!("has its deduplication index {word}: {means}");
                detailed(level, INDEX, sentence, word)
            }
        }
    }

    /// The text of the notification.
    fn context(&self, name: &str) -> String {
        let whole = match &self.detail {
            Some(detail) => format!("{name}: {detail}"),
            None => name.to_owned(),
        };
        if whole.len() <= LONGEST_CONTEXT {
            return whole;
        }
        const CUT: &str = "...";
        let mut end = LONGEST_CONTEXT - CUT.len();
        while !whole.is_char_boundary(end) {
            end -= 1;
        }
        format!("{}{CUT}", &whole[..end])
    }
}

/// How serious a state of the index is, its word, and what it means.
fn index_words(state: IndexState) -> (Level, &'static str, &'static str) {
    match state {
        IndexState::Online => (Level::Info, "online", "it is open, and asked"),
        IndexState::Offline => (Level::Info, "offline", "it is open, and not asked"),
        IndexState::Closed => (Level::Info, "closed", "data is not deduplicated"),
        IndexState::Rebuilding => (
            Level::Warn,
            "rebuilding",
            "it was not saved, and is made again from its chapters; data is not deduplicated until then",
        ),
        IndexState::Error => (
            Level::Error,
            "error",
            "it failed, and is closed; data is not deduplicated until it is opened or created anew",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// The notification of an event of a volume.
    fn notification(name: &str, event: &VolumeEvent) -> (String, String) {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&sent);
        let notify: Notify = Box::new(move |kind, context| {
            let one = (kind.to_owned(), context.to_owned());
            kept.lock().unwrap().push(one);
        });
        Reporter::new(name, notify).told(event);
        let mut sent = sent.lock().unwrap();
        assert_eq!(sent.len(), 1, "one notification for each event");
        sent.remove(0)
    }

    #[test]
    fn a_notification_names_the_volume_and_what_there_is_to_say() {
        let low = VolumeEvent::LowSpace {
            percent: 80,
            used_blocks: 820,
            physical_blocks: 1000,
        };
        let read_only = VolumeEvent::ReadOnly {
            reason: "errno 5".into(),
            was_found: false,
        };
        for (event, kind, context) in [
            (low, LOW_SPACE, "v: 80"),
            (read_only, READ_ONLY, "v: errno 5"),
            (VolumeEvent::RecoveryBegun, RECOVERY_BEGUN, "v"),
            (VolumeEvent::RecoveryEnded(Ok(())), RECOVERY_ENDED, "v"),
            (
                VolumeEvent::RecoveryEnded(Err("errno 5".into())),
                RECOVERY_ENDED,
                "v: failed: errno 5",
            ),
            (VolumeEvent::RebuildBegun, REBUILD_BEGUN, "v"),
            (
                VolumeEvent::RebuildEnded(Ok("nothing".into())),
                REBUILD_ENDED,
                "v: dropped nothing",
            ),
            (
                VolumeEvent::Index(IndexState::Rebuilding),
                INDEX,
                "v: rebuilding",
            ),
        ] {
            assert!(TYPES.contains(&kind));
            let expected = (kind.to_owned(), context.to_owned());
            assert_eq!(notification("v", &event), expected);
        }
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_between_characters() {
        for length in 100..130 {
            let reason = "ä".repeat(length);
            let (_, context) = notification("v", &VolumeEvent::RecoveryEnded(Err(reason)));
            assert!(context.len() <= LONGEST_CONTEXT, "{context}");
            assert!(context.ends_with("ä..."), "{context}");
        }
        let reason = "x".repeat(LONGEST_CONTEXT - "v: failed: ".len());
        let (_, whole) = notification("v", &VolumeEvent::RecoveryEnded(Err(reason)));
        assert_eq!(whole.len(), LONGEST_CONTEXT);
        assert!(!whole.ends_with("..."));
    }
}
