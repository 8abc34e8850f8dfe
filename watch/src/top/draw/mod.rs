//! Drawing: from a [`Screen`] to the cells of a terminal, of whatever size that is.
//!
//! From top to bottom: a line about the target, the table of volumes, panels of the chosen volume, a line of keys. A
//! panel that does not fit is left out, but for the first, which is cut off.
//!
//! - [`volumes`]: the table
//! - [`volume`]: space, journal, slabs, index, advice
//! - [`paths`]: the states of hash locks
//! - [`zones`]: the zone threads
//! - [`words`]: figures as people read them

pub mod paths;
pub mod volume;
pub mod volumes;
pub mod words;
pub mod zones;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

use super::model::{Link, Panel, Screen};
use super::view::{Count, VolumeView};

/// Rows of volumes that are shown if there is room for more than them.
const VOLUMES: u16 = 6;

/// What the keys do.
const KEYS: [(&str, &str); 11] = [
    ("q", "leave"),
    ("Up Down", "choose a volume"),
    ("s", "sort by the next column"),
    ("r", "turn the order round"),
    ("Tab", "the next panel first"),
    ("1 2 3", "the volume, its hash locks, its zones first"),
    ("c", "counts since the volume was opened, or rates"),
    ("p, Space", "hold the picture, or go on"),
    ("w", "write what is seen to a file"),
    ("h, ?", "this help"),
    ("Ctrl-C", "leave"),
];

/// Draws the screen.
pub fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let area = frame.area();
    let [head, volumes, rest, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(volumes_height(screen, area)),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_head(frame, head, screen);
    if let Link::Lost { why, .. } = &screen.link
        && screen.volumes.is_empty()
    {
        let lines = Paragraph::new(why.as_str()).red();
        frame.render_widget(lines, volumes.union(rest));
    } else {
        volumes::draw(frame, volumes, screen);
        draw_panels(frame, rest, screen);
    }
    draw_foot(frame, foot, screen);
    if screen.help {
        draw_help(frame, area);
    }
}

/// Rows that are needed to show everything.
pub fn full_height(screen: &Screen, width: u16) -> u16 {
    let panels = screen.volumes.get(screen.chosen).map_or(0, |volume| {
        let heights = Panel::ALL.map(|panel| panel_height(panel, volume, width));
        heights.iter().sum()
    });
    2 + screen.volumes.len() as u16 + 1 + panels
}

fn volumes_height(screen: &Screen, area: Rect) -> u16 {
    let rows = screen.volumes.len() as u16;
    let shown = match full_height(screen, area.width) <= area.height {
        true => rows,
        false => rows.min(VOLUMES.max(area.height / 4)),
    };
    1 + shown.max(1)
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let state = match &screen.link {
        Link::Waiting => Span::from("waiting for an answer").yellow(),
        Link::Lost { since, .. } => {
            let since = words::duration(*since);
            Span::from(format!(" NO ANSWER for {since}, trying again "))
                .white()
                .on_red()
        }
        Link::Up if screen.paused => Span::from(" PAUSED ").black().on_yellow(),
        Link::Up => Span::from("live").green(),
    };
    let about = Line::from(vec![
        Span::from("vdo_top").bold(),
        Span::from(format!("  {}  {}", screen.version, screen.socket)),
    ]);
    let width = (state.width() as u16).min(area.width);
    let [left, right] =
        Layout::horizontal([Constraint::Min(0), Constraint::Length(width)]).areas(area);
    frame.render_widget(about, left);
    frame.render_widget(state, right);
}

fn panel_height(panel: Panel, volume: &VolumeView, width: u16) -> u16 {
    match panel {
        Panel::Volume => volume::height(volume),
        Panel::Paths => paths::height(width),
        Panel::Zones => zones::height(volume),
    }
}

fn draw_panels(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let Some(volume) = screen.volumes.get(screen.chosen) else {
        let text = match screen.link {
            Link::Up => "The target has no volumes.",
            _ => "",
        };
        frame.render_widget(Line::from(text), area);
        return;
    };
    let mut left = area;
    for (number, panel) in screen.panel.onwards().enumerate() {
        let wanted = panel_height(panel, volume, area.width);
        if left.height == 0 || (number > 0 && wanted > left.height) {
            continue;
        }
        let [place, below] =
            Layout::vertical([Constraint::Length(wanted), Constraint::Min(0)]).areas(left);
        match panel {
            Panel::Volume => volume::draw(frame, place, volume, screen.counts),
            Panel::Paths => paths::draw(frame, place, volume, screen.counts),
            Panel::Zones => zones::draw(frame, place, volume, screen.counts),
        }
        left = below;
    }
}

fn draw_foot(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let foot = match &screen.message {
        Some(message) => Line::from(message.as_str()).yellow(),
        None => Line::from(
            "q leave  h help  s sort  r reverse  ↑↓ volume  Tab panel  c counts  p pause  w write",
        )
        .dim(),
    };
    frame.render_widget(foot, area);
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let lines: Vec<_> = KEYS
        .iter()
        .map(|(key, what)| Line::from(format!(" {key:<9} {what} ")))
        .collect();
    let width = lines.iter().map(Line::width).max().unwrap_or_default() as u16 + 2;
    let height = lines.len() as u16 + 2;
    let place = area.centered(
        Constraint::Length(width.min(area.width)),
        Constraint::Length(height.min(area.height)),
    );
    frame.render_widget(Clear, place);
    let block = Block::bordered().title(" Keys ");
    frame.render_widget(Paragraph::new(lines).block(block), place);
}

/// A panel's frame.
fn framed(volume: &VolumeView, title: &str) -> Block<'static> {
    Block::bordered()
        .border_style(Style::new().fg(Color::DarkGray))
        .title(format!(" {}: {title} ", volume.name))
}

/// A counter as it is to be shown.
fn shown(count: Count, totals: bool) -> String {
    match (totals, count.rate) {
        (true, _) => words::count(count.total),
        (false, Some(rate)) => format!("{}/s", words::count(rate)),
        (false, None) => "-".to_owned(),
    }
}

/// Whether something happened, since it was last looked or since the volume was opened.
fn is_alive(count: Count, totals: bool) -> bool {
    if totals {
        count.total > 0.0
    } else {
        count.rate.is_some_and(|rate| rate > 0.0)
    }
}

/// The colour of a share that is bad when it is large.
fn alarm(ratio: f64) -> Color {
    match ratio {
        ratio if ratio >= 0.95 => Color::Red,
        ratio if ratio >= 0.8 => Color::Yellow,
        _ => Color::Green,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{model, sample};
    use super::super::model::{Action, Model};
    use super::super::{frame, text};
    use super::*;

    fn drawn(model: &Model, width: u16, height: u16) -> String {
        text(&frame(&model.screen(), width, height))
    }

    #[test]
    fn a_tall_terminal_shows_every_panel_and_the_steps_with_their_rates() {
        let model = model();
        let screen = drawn(&model, 100, 60);
        for part in [
            "spdk-vdo 1.2.3",
            "/run/rpc.sock",
            "live",
            "a: on",
            "full in 2m 10s, if it goes on as in the last 2s: 2.93 MiB/s",
            "valid 750/s",
            "stale 0/s",
            "timed out 0/s",
            "10 of 1.00k blocks needed",
            "0 of 8 slabs full",
            "INITIALIZING 1.50k/s",
            "▸ querying    1.50k/s",
            "▸ locking       750/s",
            "BYPASSING 0/s",
            "a: zones",
            "100.0 %",
        ] {
            assert!(screen.contains(part), "{part} in\n{screen}");
        }
        // All 26 steps are there.
        assert_eq!(screen.matches('▸').count(), 26, "{screen}");
    }

    #[test]
    fn what_happens_is_bright_and_what_does_not_is_dim() {
        let model = model();
        let buffer = frame(&model.screen(), 100, 60);
        let style = |word: &str| {
            let width = usize::from(buffer.area.width);
            let rows = buffer.content.chunks(width);
            let mut found = rows.filter_map(|cells| {
                let line: Vec<_> = cells.iter().map(|cell| cell.symbol()).collect();
                let place = line.concat().find(word)?;
                let column = line.concat()[..place].chars().count();
                Some(cells[column].fg)
            });
            found.next().unwrap_or_else(|| panic!("{word}"))
        };
        assert_eq!(style("▸ querying    1.50k/s"), Color::Green);
        assert_eq!(style("▸ verifying"), Color::DarkGray);
    }

    #[test]
    fn counts_take_the_place_of_rates() {
        let mut model = model();
        model.act(Action::Counts);
        let screen = drawn(&model, 100, 60);
        assert!(screen.contains("INITIALIZING 4.00k"), "{screen}");
        assert!(screen.contains("valid 2.00k"), "{screen}");
    }

    #[test]
    fn every_size_of_terminal_shows_what_fits_and_the_chosen_volume() {
        let mut model = model();
        model.act(Action::Next);
        for width in [1, 2, 7, 20, 40, 79, 80, 81, 132, 300] {
            for height in 1..40 {
                for panel in Panel::ALL {
                    model.act(Action::Show(panel));
                    let screen = drawn(&model, width, height);
                    if width >= 40 && height >= 6 {
                        assert!(screen.contains("b "), "{width} x {height}:\n{screen}");
                    }
                }
            }
        }
        model.act(Action::Show(Panel::Paths));
        let narrow = drawn(&model, 50, 20);
        assert!(narrow.contains("initializing ▸ querying"), "{narrow}");
    }

    #[test]
    fn the_panel_that_is_asked_for_comes_first_and_others_follow_if_they_fit() {
        let mut model = model();
        model.act(Action::Show(Panel::Zones));
        let screen = drawn(&model, 80, 24);
        let place = |word: &str| screen.find(word);
        assert!(
            place("a: zones").unwrap() < place("a: on").unwrap(),
            "{screen}"
        );
        assert_eq!(place("paths of its hash locks"), None, "{screen}");
    }

    #[test]
    fn many_volumes_leave_room_for_the_panels_and_the_chosen_one_is_in_sight() {
        let names: Vec<_> = (0..40).map(|number| format!("volume{number:02}")).collect();
        let volumes: Vec<_> = names.iter().map(|name| (name.as_str(), 10)).collect();
        let mut model = Model::new(String::new(), Some("volume30".to_owned()));
        model.take(0.0, Ok(sample(&volumes)));
        let screen = drawn(&model, 80, 24);
        assert!(screen.contains("volume30: on"), "{screen}");
        assert!(screen.contains("volume30     "), "{screen}");
        model.act(Action::Next);
        assert!(drawn(&model, 80, 24).contains("volume31: on"));
        let all = drawn(&model, 80, full_height(&model.screen(), 80));
        assert!(names.iter().all(|name| all.contains(name)), "{all}");
    }

    #[test]
    fn a_target_that_is_not_there_or_has_no_volumes_is_said_to() {
        let mut model = Model::new("/run/rpc.sock".to_owned(), None);
        assert!(drawn(&model, 80, 24).contains("waiting for an answer"));
        model.take(1.0, Err("no answer to x: nobody".to_owned()));
        model.take(5.0, Err("no answer to x: nobody".to_owned()));
        let screen = drawn(&model, 80, 24);
        assert!(screen.contains("NO ANSWER for 4s"), "{screen}");
        assert!(screen.contains("nobody"), "{screen}");
        model.take(6.0, Ok(sample(&[])));
        let screen = drawn(&model, 80, 24);
        assert!(screen.contains("The target has no volumes."), "{screen}");
    }

    #[test]
    fn the_help_tells_every_key_and_goes_away() {
        let mut model = model();
        model.act(Action::Help);
        let screen = drawn(&model, 80, 24);
        for (key, what) in KEYS {
            assert!(screen.contains(key) && screen.contains(what), "{screen}");
        }
        model.act(Action::Help);
        assert!(!drawn(&model, 80, 24).contains("choose a volume"));
    }
}
