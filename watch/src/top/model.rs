//! What `vdo_top` knows, without a terminal: answers of the target and keys go in, a [`Screen`] comes out.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::Serialize;

use super::growth::SpaceHistory;
use super::view::{self, Growth, VolumeView};
use crate::target::Sample;

/// What volumes are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Column {
    /// The name.
    #[default]
    Name,
    /// The share of the space in use.
    Used,
    /// The share that is saved.
    Saved,
    /// Blocks read in a second.
    Reads,
    /// Blocks written in a second.
    Writes,
}

impl Column {
    /// All of them, in the order of the table.
    pub const ALL: [Column; 5] = [
        Column::Name,
        Column::Used,
        Column::Saved,
        Column::Reads,
        Column::Writes,
    ];

    fn compare(self, one: &VolumeView, other: &VolumeView) -> Ordering {
        let largest_first = |figure: fn(&VolumeView) -> f64| figure(other).total_cmp(&figure(one));
        match self {
            Column::Name => Ordering::Equal,
            Column::Used => largest_first(|volume| volume.space.ratio()),
            Column::Saved => largest_first(|volume| volume.saving.unwrap_or(-1.0)),
            Column::Reads => largest_first(|volume| volume.reads.rate.unwrap_or_default()),
            Column::Writes => largest_first(|volume| volume.writes.rate.unwrap_or_default()),
        }
        .then_with(|| one.name.cmp(&other.name))
    }
}

/// What is shown of the chosen volume first; what follows is shown as far as there is room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Panel {
    /// Space, journal, slabs, index, advice.
    #[default]
    Volume,
    /// The states of its hash locks.
    Paths,
    /// Its zone threads.
    Zones,
}

impl Panel {
    /// All of them, in their order.
    pub const ALL: [Panel; 3] = [Panel::Volume, Panel::Paths, Panel::Zones];

    /// This one, and those after it, round to the one before it.
    pub fn onwards(self) -> impl Iterator<Item = Panel> {
        let first = self as usize;
        (0..Panel::ALL.len()).map(move |number| Panel::ALL[(first + number) % Panel::ALL.len()])
    }
}

/// What a person can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave the program.
    Quit,
    /// Show the keys, or hide them.
    Help,
    /// Hold the picture, or go on.
    Pause,
    /// Sort by the next column.
    Sort,
    /// Turn the order round.
    Reverse,
    /// Choose the next volume.
    Next,
    /// Choose the one before.
    Previous,
    /// Show the next panel first.
    NextPanel,
    /// Show the one before first.
    PreviousPanel,
    /// Show this panel first.
    Show(Panel),
    /// Show how often things happened since the volume was opened, or how often in a second.
    Counts,
    /// Write a file of what is seen.
    Snapshot,
}

/// How it stands with the target.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// It was not heard of yet.
    Waiting,
    /// It answers.
    Up,
    /// It does not, for so many seconds, and why.
    Lost {
        /// Seconds.
        since: f64,
        /// In words.
        why: String,
    },
}

/// What is to be seen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Screen {
    /// Where the target listens.
    pub socket: String,
    /// What it calls itself.
    pub version: String,
    /// Whether it answers.
    pub link: Link,
    /// Whether the picture is held.
    pub paused: bool,
    /// Its volumes, sorted.
    pub volumes: Vec<VolumeView>,
    /// Which of them is chosen.
    pub chosen: usize,
    /// What they are sorted by.
    pub sort: Column,
    /// Whether the order is turned round.
    pub reversed: bool,
    /// What is shown of it first.
    pub panel: Panel,
    /// Whether counts are shown in place of rates.
    pub counts: bool,
    /// Whether the keys are shown.
    #[serde(skip)]
    pub help: bool,
    /// What is to be said at the foot.
    #[serde(skip)]
    pub message: Option<String>,
}

/// An answer of the target, and when it came, in seconds.
#[derive(Clone, Debug)]
struct Answer {
    at: f64,
    sample: Sample,
    /// How the use of space of each volume grew up to then.
    growth: BTreeMap<String, Growth>,
}

/// All that is known.
#[derive(Debug)]
pub struct Model {
    socket: String,
    now: f64,
    last: Option<Answer>,
    /// The one before, if the target answered all the time between.
    before: Option<Answer>,
    lost: Option<(f64, String)>,
    /// Whether the target was away since the last answer that is kept: it may count anew.
    was_away: bool,
    space: BTreeMap<String, SpaceHistory>,
    paused: bool,
    chosen: Option<String>,
    sort: Column,
    reversed: bool,
    panel: Panel,
    counts: bool,
    help: bool,
    message: Option<String>,
}

impl Model {
    /// Nothing is known yet of the target at `socket`; `chosen` is the volume to be shown, if it is known.
    pub fn new(socket: String, chosen: Option<String>) -> Model {
        Model {
            socket,
            now: 0.0,
            last: None,
            before: None,
            lost: None,
            was_away: false,
            space: BTreeMap::new(),
            paused: false,
            chosen,
            sort: Column::Name,
            reversed: false,
            panel: Panel::Volume,
            counts: false,
            help: false,
            message: None,
        }
    }

    /// The target answered, or did not, at a moment in seconds.
    pub fn take(&mut self, at: f64, answer: Result<Sample, String>) {
        self.now = at;
        match answer {
            Err(why) => {
                let since = self.lost.take().map_or(at, |(since, _)| since);
                self.lost = Some((since, why));
                self.was_away = true;
                if !self.paused {
                    self.before = None;
                }
            }
            Ok(sample) => {
                self.note_space(at, &sample);
                if self.lost.take().is_some() {
                    self.message = Some("the target is back".to_owned());
                }
                if self.paused {
                    return;
                }
                let last = self.last.replace(Answer {
                    at,
                    growth: self.growth(&sample),
                    sample,
                });
                let was_away = std::mem::take(&mut self.was_away);
                self.before = last.filter(|_| !was_away);
            }
        }
    }

    fn note_space(&mut self, at: f64, sample: &Sample) {
        self.space
            .retain(|name, _| sample.volumes.iter().any(|volume| volume.name == *name));
        for volume in &sample.volumes {
            let history = self.space.entry(volume.name.clone()).or_default();
            history.note(at, view::space(volume).used);
        }
    }

    fn growth(&self, sample: &Sample) -> BTreeMap<String, Growth> {
        let volumes = sample.volumes.iter();
        let growth = volumes.filter_map(|volume| {
            let history = self.space.get(&volume.name)?;
            let growth = history.growth(view::space(volume))?;
            Some((volume.name.clone(), growth))
        });
        growth.collect()
    }

    /// Does what can be done here; a file and the end are the program's.
    pub fn act(&mut self, action: Action) {
        self.message = None;
        match action {
            Action::Quit | Action::Snapshot => {}
            Action::Help => self.help = !self.help,
            Action::Pause => self.paused = !self.paused,
            Action::Sort => {
                let next = (self.sort as usize + 1) % Column::ALL.len();
                self.sort = Column::ALL[next];
            }
            Action::Reverse => self.reversed = !self.reversed,
            Action::Next => self.choose(1),
            Action::Previous => self.choose(-1),
            Action::NextPanel => self.panel = self.panel.onwards().nth(1).unwrap_or_default(),
            Action::PreviousPanel => self.panel = self.panel.onwards().last().unwrap_or_default(),
            Action::Show(panel) => self.panel = panel,
            Action::Counts => self.counts = !self.counts,
        }
    }

    fn choose(&mut self, step: isize) {
        let screen = self.screen();
        let count = screen.volumes.len();
        if count > 0 {
            let place = (screen.chosen + count).saturating_add_signed(step) % count;
            self.chosen = Some(screen.volumes[place].name.clone());
        }
    }

    /// Says something at the foot, until the next key.
    pub fn say(&mut self, message: String) {
        self.message = Some(message);
    }

    /// The target's last answer.
    pub fn sample(&self) -> Option<&Sample> {
        self.last.as_ref().map(|answer| &answer.sample)
    }

    /// What is to be seen.
    pub fn screen(&self) -> Screen {
        let mut volumes: Vec<_> = match &self.last {
            Some(last) => self.volumes(last),
            None => Vec::new(),
        };
        volumes.sort_by(|one, other| self.sort.compare(one, other));
        if self.reversed {
            volumes.reverse();
        }
        let chosen = self.chosen.as_ref().and_then(|name| {
            let is_it = |volume: &VolumeView| volume.name == *name;
            volumes.iter().position(is_it)
        });
        Screen {
            socket: self.socket.clone(),
            version: self
                .sample()
                .map_or(String::new(), |sample| sample.version.clone()),
            link: match (&self.lost, &self.last) {
                (Some((since, why)), _) => Link::Lost {
                    since: self.now - since,
                    why: why.clone(),
                },
                (None, Some(_)) => Link::Up,
                (None, None) => Link::Waiting,
            },
            paused: self.paused,
            volumes,
            chosen: chosen.unwrap_or_default(),
            sort: self.sort,
            reversed: self.reversed,
            panel: self.panel,
            counts: self.counts,
            help: self.help,
            message: self.message.clone(),
        }
    }

    fn volumes(&self, last: &Answer) -> Vec<VolumeView> {
        let volume = |now: &crate::target::Volume| {
            let before = self.before.as_ref().and_then(|before| {
                let volumes = &before.sample.volumes;
                let earlier = volumes.iter().find(|volume| volume.name == now.name)?;
                Some((earlier, last.at - before.at))
            });
            view::volume(now, before, last.growth.get(&now.name).copied())
        };
        last.sample.volumes.iter().map(volume).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{model, sample};
    use super::*;

    fn names(screen: &Screen) -> Vec<&str> {
        let volumes = screen.volumes.iter();
        volumes.map(|volume| volume.name.as_str()).collect()
    }

    #[test]
    fn rates_are_what_two_samples_differ_by_in_a_second() {
        let screen = model().screen();
        assert_eq!(screen.link, Link::Up);
        let volume = &screen.volumes[0];
        assert_eq!(
            (volume.writes.total, volume.writes.rate),
            (4000.0, Some(1500.0))
        );
        assert_eq!(volume.advice[0].rate, Some(750.0));
        let step = |from, to| {
            let mut steps = volume.steps.iter();
            let found = steps.find(|step| step.from == from && step.to == to);
            found.unwrap().count.rate
        };
        assert_eq!(step("initializing", "querying"), Some(1500.0));
        assert_eq!(step("querying", "locking"), Some(750.0));
        assert_eq!(step("locking", "writing"), Some(0.0));
        assert_eq!(volume.steps.len(), 26);
        // Of the zones, one wrote and one stored; a thread was busy for 30 s, and another is not told of.
        assert_eq!(volume.zones[0].writes.rate, Some(1500.0));
        assert_eq!(volume.zones[1].shared.rate, Some(750.0));
        assert_eq!(
            volume
                .zones
                .iter()
                .map(|zone| zone.busy)
                .collect::<Vec<_>>(),
            [Some(1.0), None]
        );
        let growth = volume.growth.unwrap();
        assert_eq!(growth.rate, 750.0 * 4096.0);
        assert_eq!(growth.full_in, Some(98_000.0 / 750.0));
    }

    #[test]
    fn a_first_sample_and_one_that_counts_anew_have_no_rates() {
        let mut model = Model::new(String::new(), None);
        assert_eq!(model.screen().link, Link::Waiting);
        model.take(0.0, Ok(sample(&[("a", 1000)])));
        assert_eq!(model.screen().volumes[0].writes.rate, None);
        model.take(1.0, Ok(sample(&[("a", 10), ("new", 5)])));
        let screen = model.screen();
        assert_eq!(screen.volumes[0].writes.rate, None);
        assert_eq!(screen.volumes[1].writes.rate, None);
    }

    #[test]
    fn a_target_that_goes_away_is_said_to_and_what_is_known_stays_until_it_is_back() {
        let mut model = model();
        model.take(3.0, Err("nobody there".to_owned()));
        model.take(10.0, Err("still nobody".to_owned()));
        let screen = model.screen();
        let why = "still nobody".to_owned();
        assert_eq!(screen.link, Link::Lost { since: 7.0, why });
        assert_eq!(screen.volumes[0].writes.total, 4000.0);
        assert_eq!(screen.volumes[0].writes.rate, None);
        model.take(11.0, Ok(sample(&[("a", 5000)])));
        let screen = model.screen();
        assert_eq!(screen.link, Link::Up);
        assert_eq!(screen.message.as_deref(), Some("the target is back"));
        assert_eq!(
            screen.volumes[0].writes.rate, None,
            "it may be another program"
        );
        model.take(12.0, Ok(sample(&[("a", 6000)])));
        assert_eq!(model.screen().volumes[0].writes.rate, Some(1000.0));
    }

    #[test]
    fn a_held_picture_stays_as_it_is_and_goes_on_where_the_target_is() {
        let mut model = model();
        model.act(Action::Pause);
        let held = model.screen();
        assert!(held.paused);
        model.take(3.0, Ok(sample(&[("a", 9000)])));
        assert_eq!(model.screen(), held);
        model.act(Action::Pause);
        model.take(4.0, Ok(sample(&[("a", 10_000)])));
        // 6000 since the picture was held, two seconds ago.
        assert_eq!(model.screen().volumes[0].writes.rate, Some(3000.0));
    }

    #[test]
    fn volumes_are_sorted_by_each_column_both_ways_and_the_chosen_one_stays_chosen() {
        let mut model = model();
        model.act(Action::Next);
        assert_eq!(model.screen().chosen, 1);
        let mut orders = Vec::new();
        for _ in Column::ALL {
            let screen = model.screen();
            assert_eq!(screen.volumes[screen.chosen].name, "b");
            orders.push((screen.sort, names(&screen).concat()));
            model.act(Action::Sort);
        }
        let order = |column| {
            let found = orders.iter().find(|(sort, _)| *sort == column);
            found.unwrap().1.as_str()
        };
        assert_eq!(order(Column::Name), "ab");
        assert_eq!(order(Column::Used), "ba");
        assert_eq!(order(Column::Writes), "ab");
        assert_eq!(model.screen().sort, Column::Name);
        model.act(Action::Reverse);
        assert_eq!(names(&model.screen()), ["b", "a"]);
        model.act(Action::Next);
        model.act(Action::Next);
        model.act(Action::Previous);
        assert_eq!(model.screen().volumes[model.screen().chosen].name, "a");
    }

    #[test]
    fn panels_go_round_both_ways() {
        let mut model = model();
        let mut panel = |action| {
            model.act(action);
            model.screen().panel
        };
        assert_eq!(panel(Action::NextPanel), Panel::Paths);
        assert_eq!(panel(Action::PreviousPanel), Panel::Volume);
        assert_eq!(panel(Action::PreviousPanel), Panel::Zones);
        assert_eq!(panel(Action::NextPanel), Panel::Volume);
        assert_eq!(panel(Action::Show(Panel::Paths)), Panel::Paths);
    }
}
