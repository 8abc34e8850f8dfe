//! The paths that hash locks take: a box for each of the nine states, the steps out of it in the box, and between
//! boxes that stand side by side an arrow for the step from one to the other. What happens is bright.
//!
//! ```text
//!  INITIALIZING ─▶ QUERYING   ─▶ LOCKING
//!       ▼                          ▼
//!  WRITING      ◀─ UNLOCKING  ◀─ VERIFYING
//!       ▼              ▲           ▼
//!  BYPASSING    ◀─ UPDATING   ◀─ DEDUPING
//! ```

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Paragraph};

use super::super::view::{Count, VolumeView};
use super::{framed, is_alive, shown};

/// Columns of a box, and between two.
const BOX: u16 = 23;
const GAP: u16 = 3;

/// Columns of the diagram, with its frame.
const WIDTH: u16 = 3 * BOX + 2 * GAP + 2;

/// The boxes by rows, and the lines in each row's.
const GRID: [([&str; 3], u16); 3] = [
    (["initializing", "querying", "locking"], 5),
    (["writing", "unlocking", "verifying"], 4),
    (["bypassing", "updating", "deduping"], 3),
];

/// Arrows between boxes: the step, the place of the gap in the grid (row, column), and whether it goes down or up, or right or left.
const ARROWS: [(&str, &str, Gap); 11] = [
    ("initializing", "querying", Gap::Right(0, 0, "─▶")),
    ("querying", "locking", Gap::Right(0, 1, "─▶")),
    ("unlocking", "writing", Gap::Right(1, 0, "◀─")),
    ("verifying", "unlocking", Gap::Right(1, 1, "◀─")),
    ("updating", "bypassing", Gap::Right(2, 0, "◀─")),
    ("deduping", "updating", Gap::Right(2, 1, "◀─")),
    ("initializing", "writing", Gap::Below(0, 0, "▼")),
    ("locking", "verifying", Gap::Below(0, 2, "▼")),
    ("writing", "bypassing", Gap::Below(1, 0, "▼")),
    ("updating", "unlocking", Gap::Below(1, 1, "▲")),
    ("verifying", "deduping", Gap::Below(1, 2, "▼")),
];

#[derive(Clone, Copy)]
enum Gap {
    /// To the right of a box.
    Right(usize, u16, &'static str),
    /// Below it.
    Below(usize, u16, &'static str),
}

/// Rows that the panel needs.
pub fn height(width: u16) -> u16 {
    let rows = GRID.iter().map(|(_, lines)| lines + 2);
    match width < WIDTH {
        true => 12,
        false => rows.sum::<u16>() + 2 + 2,
    }
}

/// Draws the panel: the diagram, or in a narrow terminal a list of the steps that are taken.
pub fn draw(frame: &mut Frame<'_>, area: Rect, volume: &VolumeView, counts: bool) {
    let block = framed(volume, "paths of its hash locks");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    if area.width < WIDTH {
        frame.render_widget(Paragraph::new(list(volume, counts)), inner);
        return;
    }
    let mut top = inner.y;
    for (row, (states, lines)) in GRID.iter().enumerate() {
        let height = lines + 2;
        for (column, state) in states.iter().enumerate() {
            let place = Rect::new(left(inner, column as u16), top, BOX, height);
            draw_state(frame, place.intersection(inner), state, volume, counts);
        }
        for (from, to, gap) in ARROWS {
            let (place, arrow) = match gap {
                Gap::Right(at, column, arrow) if at == row => (
                    Rect::new(left(inner, column) + BOX, top + height / 2, GAP, 1),
                    format!("{arrow:^3}"),
                ),
                Gap::Below(at, column, arrow) if at == row => (
                    Rect::new(left(inner, column) + BOX / 2, top + height, 1, 1),
                    arrow.to_owned(),
                ),
                _ => continue,
            };
            let style = style(step(volume, from, to), counts);
            frame.render_widget(Span::from(arrow).style(style), place.intersection(inner));
        }
        top += height + 1;
    }
}

fn left(area: Rect, column: u16) -> u16 {
    area.x + column * (BOX + GAP)
}

fn step(volume: &VolumeView, from: &str, to: &str) -> Count {
    let mut steps = volume.steps.iter();
    let found = steps.find(|step| step.from == from && step.to == to);
    found.map(|step| step.count).unwrap_or_default()
}

/// How often a state was entered, on all ways together; nothing enters the first, which is left as often.
fn entered(volume: &VolumeView, state: &str) -> Count {
    let steps = volume.steps.iter();
    let counts = steps
        .filter(|step| match state {
            "initializing" => step.from == state,
            _ => step.to == state,
        })
        .map(|step| step.count);
    counts.fold(
        Count {
            total: 0.0,
            rate: None,
        },
        |sum, one| Count {
            total: sum.total + one.total,
            rate: one.rate.map(|rate| rate + sum.rate.unwrap_or_default()),
        },
    )
}

fn style(count: Count, counts: bool) -> Style {
    if is_alive(count, counts) {
        Style::new().fg(Color::Green).bold()
    } else {
        Style::new().fg(Color::DarkGray)
    }
}

fn draw_state(frame: &mut Frame<'_>, place: Rect, state: &str, volume: &VolumeView, counts: bool) {
    let count = entered(volume, state);
    let title = format!("{} {}", state.to_uppercase(), shown(count, counts));
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(style(count, counts))
        .title(title);
    let mut lines: Vec<_> = volume
        .steps
        .iter()
        .filter(|step| step.from == state)
        .map(|step| figure(&format!("▸ {}", step.to), step.count, counts))
        .collect();
    if state == "bypassing" {
        let names = ["forked", "failed", "index busy"];
        let trouble = names.iter().zip(volume.trouble);
        lines.extend(trouble.map(|(name, count)| figure(name, count, counts)));
    }
    frame.render_widget(Paragraph::new(lines).block(block), place);
}

/// A line in a box.
fn figure(name: &str, count: Count, counts: bool) -> Line<'static> {
    let room = usize::from(BOX) - 2 - name.chars().count();
    let text = format!("{name}{:>room$}", shown(count, counts));
    Line::from(text).style(style(count, counts))
}

/// The steps that are taken, most often first.
fn list(volume: &VolumeView, counts: bool) -> Vec<Line<'static>> {
    let often = |count: Count| {
        if counts {
            count.total
        } else {
            count.rate.unwrap_or_default()
        }
    };
    let mut steps: Vec<_> = volume.steps.iter().collect();
    steps.retain(|step| is_alive(step.count, counts));
    steps.sort_by(|one, other| often(other.count).total_cmp(&often(one.count)));
    if steps.is_empty() {
        return vec![Line::from("none").dim()];
    }
    let line = |step: &super::super::view::Step| {
        let figure = shown(step.count, counts);
        Line::from(format!("{figure:>8} {} ▸ {}", step.from, step.to))
    };
    steps.into_iter().map(line).collect()
}
