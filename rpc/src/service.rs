//! What the service manager is told of a target, if it was started by one (systemd, with `Type=notify`): how far its volumes are while it comes
//! up, that it serves, that it ends.
//!
//! 1. [`starting`], before the configuration is loaded: from then on a thread tells once a second which volume is being opened and what is done to it. That may take
//!    long after a crash.
//! 2. [`ready`], once the configuration is loaded and its volumes are up. Whatever waits for the service may begin now.
//! 3. [`stopping`], when the target is asked to end.
//!
//! Without a service manager, that is without `NOTIFY_SOCKET` in the environment, nothing of this does anything.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::results::OpeningInfo;
use crate::volume::openings;

/// How often it is told how far volumes are.
const EACH: Duration = Duration::from_secs(1);

/// Where in its life the target is, as the service manager knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Starting,
    Ready,
    Stopping,
}

static TOLD: Mutex<Told> = Mutex::new(Told::Nothing);

fn told() -> MutexGuard<'static, Told> {
    TOLD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The target is about to load its configuration.
pub fn starting() {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    tell(Told::Starting, &[NotifyState::Status(&how_far(&[]))]);
    let begun = std::thread::Builder::new()
        .name("service".to_owned())
        .spawn(tell_how_far);
    if let Err(error) = begun {
        log::warn!("the service manager will not hear how far volumes are: {error}");
    }
}

/// The target serves: its configuration is loaded, and the volumes in it are up.
pub fn ready() {
    tell(
        Told::Ready,
        &[NotifyState::Ready, NotifyState::Status("serving")],
    );
}

/// The target ends. Volumes may take a while to be shut down.
pub fn stopping() {
    let states = [
        NotifyState::Stopping,
        NotifyState::Status("shutting volumes down"),
    ];
    tell(Told::Stopping, &states);
}

fn tell(what: Told, states: &[NotifyState<'_>]) {
    let mut told = told();
    *told = what;
    send(states);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("the service manager cannot be told {states:?}: {error}");
    }
}

/// Tells how far volumes are, until the target is up.
fn tell_how_far() {
    let mut last = how_far(&[]);
    loop {
        {
            let told = told();
            if *told != Told::Starting {
                return;
            }
            let now = how_far(&openings());
            if now != last {
                send(&[NotifyState::Status(&now)]);
                last = now;
            }
        }
        std::thread::sleep(EACH);
    }
}

/// One line for all volumes that are being opened.
fn how_far(openings: &[OpeningInfo]) -> String {
    if openings.is_empty() {
        return "loading the configuration".to_owned();
    }
    let one = |opening: &OpeningInfo| {
        let name = opening.name.as_deref().unwrap_or(&opening.base_bdev_name);
        match opening.all {
            0 => format!("{name}: {}", opening.work),
            all => format!("{name}: {} ({} of {all})", opening.work, opening.done),
        }
    };
    let all: Vec<String> = openings.iter().map(one).collect();
    format!("volumes are being opened: {}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_which_volume_is_being_opened_and_how_far_it_is() {
        let opening = |name: Option<&str>, work: &str, done, all| OpeningInfo {
            name: name.map(str::to_owned),
            base_bdev_name: "disk0".to_owned(),
            work: work.to_owned(),
            done,
            all,
        };
        assert_eq!(how_far(&[]), "loading the configuration");
        let two = [
            opening(Some("vdo0"), "replay_block_map", 7, 90),
            opening(None, "open", 0, 0),
        ];
        assert_eq!(
            how_far(&two),
            "volumes are being opened: vdo0: replay_block_map (7 of 90), disk0: open"
        );
    }
}
