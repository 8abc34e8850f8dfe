//! Volumes that are being opened, and how far each is: what `bdev_vdo_get_progress` answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vdo::seam::Host;
use vdo::volume::{Progress, Volume};

use crate::results::OpeningInfo;

struct Opening {
    name: Option<String>,
    base_bdev_name: String,
    progress: Arc<Progress>,
}

static OPENINGS: Mutex<Vec<Opening>> = Mutex::new(Vec::new());

fn all() -> MutexGuard<'static, Vec<Opening>> {
    OPENINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A volume that is being opened is shown as long as this lives.
#[must_use = "a volume is shown as long as this lives"]
pub struct Shown(Arc<Progress>);

/// Shows how far the opening of the volume on a base bdev is. `name` is what it will be called, if it will be a bdev.
pub fn show(name: Option<&str>, base_bdev_name: &str, progress: Arc<Progress>) -> Shown {
    all().push(Opening {
        name: name.map(str::to_owned),
        base_bdev_name: base_bdev_name.to_owned(),
        progress: Arc::clone(&progress),
    });
    Shown(progress)
}

impl Drop for Shown {
    fn drop(&mut self) {
        all().retain(|one| !Arc::ptr_eq(&one.progress, &self.0));
    }
}

/// How far the rebuild of a volume's index is, if there is one: the volume is up meanwhile.
pub fn index_rebuild<H: Host>(
    volume: &Volume<H>,
    name: &str,
    base_bdev_name: &str,
) -> Option<OpeningInfo> {
    let step = volume.index_rebuild()?;
    Some(OpeningInfo {
        name: Some(name.to_owned()),
        base_bdev_name: base_bdev_name.to_owned(),
        work: step.work.name().to_owned(),
        done: step.done,
        all: step.all,
    })
}

/// Every volume that is being opened, in the order they were begun with.
pub fn openings() -> Vec<OpeningInfo> {
    let one = |opening: &Opening| {
        let step = opening.progress.step();
        OpeningInfo {
            name: opening.name.clone(),
            base_bdev_name: opening.base_bdev_name.clone(),
            work: step.map_or("open", |step| step.work.name()).to_owned(),
            done: step.map_or(0, |step| step.done),
            all: step.map_or(0, |step| step.all),
        }
    };
    all().iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_is_shown_as_long_as_it_lasts() {
        let mine = |base: &str| {
            let mut all = openings();
            all.retain(|one| one.base_bdev_name == base);
            all
        };
        let shown = show(Some("v"), "a base nobody else has", Arc::default());
        let found = mine("a base nobody else has");
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].name.as_deref(), found[0].work.as_str()),
            (Some("v"), "open")
        );
        drop(shown);
        assert!(mine("a base nobody else has").is_empty());
    }
}
