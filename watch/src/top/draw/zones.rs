//! The zone threads of the chosen volume.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Span;
use ratatui::widgets::{Cell, Row, Table};

use super::super::view::{VolumeView, ZoneView};
use super::{framed, shown, words};

/// Characters of the bar that says how busy a thread is.
const BAR: usize = 10;

const TITLES: [&str; 8] = [
    "ZONE",
    "READ",
    "WRITTEN",
    "STORED",
    "SHARED",
    "BASE I/O",
    "UNDER WAY",
    "THREAD BUSY",
];

/// Rows the panel needs.
pub fn height(volume: &VolumeView) -> u16 {
    volume.zones.len() as u16 + 3
}

/// Draws the panel.
pub fn draw(frame: &mut Frame<'_>, area: Rect, volume: &VolumeView, counts: bool) {
    let zones = volume.zones.iter().enumerate();
    let rows = zones.map(|(number, zone)| row(number, zone, counts));
    let widths = [4, 8, 8, 8, 8, 8, 9, 8 + BAR as u16].map(Constraint::Length);
    let table = Table::new(rows, widths)
        .header(Row::new(TITLES).style(Style::new().fg(Color::Cyan)))
        .block(framed(volume, "zones"));
    frame.render_widget(table, area);
}

fn row(number: usize, zone: &ZoneView, counts: bool) -> Row<'static> {
    let busy = match zone.busy {
        Some(busy) => {
            let text = format!("{} {:>7}", words::bar(busy, BAR), words::percent(busy));
            Cell::from(Span::from(text).magenta())
        }
        None => Cell::from("-"),
    };
    Row::new([
        Cell::from(number.to_string()),
        Cell::from(shown(zone.reads, counts)),
        Cell::from(shown(zone.writes, counts)),
        Cell::from(shown(zone.stored, counts)),
        Cell::from(shown(zone.shared, counts)),
        Cell::from(shown(zone.base_ios, counts)),
        Cell::from(words::count(zone.in_progress)),
        busy,
    ])
}
