//! The table of volumes.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, Table, TableState};

use super::super::model::{Column, Screen};
use super::super::view::VolumeView;
use super::{alarm, shown, words};

/// The columns: what is sorted by it, its title, its width.
const COLUMNS: [(Option<Column>, &str, u16); 8] = [
    (Some(Column::Name), "VOLUME", 16),
    (None, "MODE", 12),
    (Some(Column::Used), "USED", 7),
    (Some(Column::Saved), "SAVED", 7),
    (Some(Column::Reads), "READ", 8),
    (Some(Column::Writes), "WRITTEN", 8),
    (None, "INDEX", 9),
    (None, "FULL IN", 9),
];

/// Draws the table; the chosen volume is always in sight.
pub fn draw(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let titles = COLUMNS.map(|(column, title, _)| {
        let is_sorted = column == Some(screen.sort);
        let arrow = match (is_sorted, screen.reversed) {
            (false, _) => "",
            (true, false) => "▾",
            (true, true) => "▴",
        };
        let title = Line::from(format!("{title}{arrow}"));
        Cell::from(if is_sorted { title.bold() } else { title })
    });
    let header = Row::new(titles).style(Style::new().fg(Color::Cyan));
    let rows = screen
        .volumes
        .iter()
        .map(|volume| row(volume, screen.counts));
    let widths = COLUMNS.map(|(_, _, width)| Constraint::Length(width));
    let table = Table::new(rows, widths)
        .header(header)
        .row_highlight_style(Style::new().reversed());
    let mut state = TableState::new().with_selected(Some(screen.chosen));
    frame.render_stateful_widget(table, area, &mut state);
}

fn row(volume: &VolumeView, counts: bool) -> Row<'static> {
    let mode = match volume.mode.as_str() {
        "normal" => Span::from("normal").green(),
        "recovering" => Span::from(format!("recov. {}", words::percent(volume.recovered))).yellow(),
        other => Span::from(other.to_owned()).red().bold(),
    };
    let used = volume.space.ratio();
    let saved = volume.saving.map_or("-".to_owned(), words::percent);
    let index = match volume.index_state.as_str() {
        "online" => Span::from("online").green(),
        other => Span::from(other.to_owned()).yellow(),
    };
    let full_in = volume.growth.and_then(|growth| growth.full_in);
    Row::new([
        Cell::from(volume.name.clone()),
        Cell::from(mode),
        Cell::from(Span::from(words::percent(used)).fg(alarm(used))),
        Cell::from(saved),
        Cell::from(shown(volume.reads, counts)),
        Cell::from(shown(volume.writes, counts)),
        Cell::from(index),
        Cell::from(full_in.map_or("-".to_owned(), words::duration)),
    ])
}
