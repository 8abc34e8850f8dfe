//! Notifications as SPDK has them: what has happened, kept until it is asked for.
//!
//! The last [`KEPT`] are kept, under numbers that rise by one. A client asks for those from a number on, and
//! next time for those after the last it got.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use vdo_rpc::params::NoParams;
use vdo_rpc::{Parameters, events};

use crate::rpc::{Allowed, Dispatcher};
use crate::target::Target;

/// How many are kept.
const KEPT: usize = 1024;

/// A bdev was made.
pub const BDEV_REGISTER: &str = "bdev_register";
/// A bdev is gone.
pub const BDEV_UNREGISTER: &str = "bdev_unregister";
/// A bdev has another size.
pub const BDEV_RESIZE: &str = "bdev_resize";

/// One notification, as it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notification {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is about: a bdev's name, and more.
    pub ctx: String,
    /// Its number.
    pub id: u64,
}

/// The notifications of a target.
#[derive(Debug, Default)]
pub struct Notifications(Mutex<VecDeque<Notification>>);

impl Notifications {
    /// Keeps one; the oldest is forgotten if there are too many.
    pub fn send(&self, kind: &str, ctx: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = all.back().map_or(0, |last| last.id + 1);
        if all.len() == KEPT {
            all.pop_front();
        }
        all.push_back(Notification {
            kind: kind.to_owned(),
            ctx: ctx.to_owned(),
            id,
        });
    }

    /// Those from number `id` on that are still there, at most `most`.
    pub fn from(&self, id: u64, most: usize) -> Vec<Notification> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = all.iter().filter(|one| one.id >= id);
        wanted.take(most).cloned().collect()
    }
}

/// Parameters of `notify_get_notifications`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetNotifications {
    /// The first number that is wanted.
    #[serde(default)]
    pub id: u64,
    /// How many at most; all without it.
    #[serde(default)]
    pub max: Option<u64>,
}

impl Parameters for GetNotifications {}

/// Enters the methods.
pub fn register(dispatcher: &mut Dispatcher, target: &Target) {
    dispatcher.method("notify_get_types", Allowed::Runtime, |_: NoParams| {
        let bdevs = [BDEV_REGISTER, BDEV_UNREGISTER, BDEV_RESIZE];
        Ok(bdevs.into_iter().chain(events::TYPES).collect::<Vec<_>>())
    });
    let notifications = Arc::clone(&target.notifications);
    dispatcher.method(
        "notify_get_notifications",
        Allowed::Runtime,
        move |params: GetNotifications| {
            let most = params.max.unwrap_or(u64::MAX);
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            Ok(notifications.from(params.id, most))
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_kept_and_numbered_on() {
        let all = Notifications::default();
        let ids = |from, most| -> Vec<u64> {
            let wanted = all.from(from, most);
            wanted.into_iter().map(|one| one.id).collect()
        };
        assert!(ids(0, 9).is_empty());
        for number in 0..KEPT + 10 {
            all.send("kind", &number.to_string());
        }
        assert_eq!(ids(0, 2), [10, 11], "the first ten are forgotten");
        assert_eq!(ids(0, usize::MAX).len(), KEPT);
        assert_eq!(ids(12, 2), [12, 13]);
        assert_eq!(ids(KEPT as u64 + 9, 5), [KEPT as u64 + 9]);
        assert!(ids(KEPT as u64 + 10, 5).is_empty());
        assert!(ids(0, 0).is_empty());
        assert_eq!(all.from(20, 1)[0].ctx, "20");
    }
}
