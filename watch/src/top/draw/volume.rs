//! The chosen volume: space, journal, slabs, index, advice, and what became of what was written.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::super::view::{Count, Fill, VolumeView};
use super::{alarm, framed, is_alive, shown, words};

/// Characters of a bar.
const BAR: usize = 16;

/// What is empty of a bar.
const TROUGH: Color = Color::Indexed(237);

/// Rows the panel needs.
pub fn height(volume: &VolumeView) -> u16 {
    lines(volume, false).len() as u16 + 2
}

/// Draws the panel.
pub fn draw(frame: &mut Frame<'_>, area: Rect, volume: &VolumeView, counts: bool) {
    let title = format!("on {}", volume.base_bdev);
    let lines = Paragraph::new(lines(volume, counts)).block(framed(volume, &title));
    frame.render_widget(lines, area);
}

fn lines(volume: &VolumeView, counts: bool) -> Vec<Line<'static>> {
    let reason = volume.read_only_reason.iter();
    let mut lines: Vec<_> = reason
        .map(|why| Line::from(format!("Read-only: {why}")).red())
        .collect();
    let space = format!(
        "{} of {}, {} of it metadata",
        words::bytes(volume.space.used),
        words::bytes(volume.space.limit),
        words::bytes(volume.overhead)
    );
    lines.push(gauge("Space", volume.space.ratio(), true, space));
    let growth = Span::from(growth(volume));
    lines.push(Line::from(vec![label("Growth"), growth]));
    let saved = volume.saving.map_or(String::new(), |saving| {
        format!(", {} saved", words::percent(saving))
    });
    let logical = format!(
        "{} of {} mapped{saved}",
        words::bytes(volume.logical.used),
        words::bytes(volume.logical.limit)
    );
    lines.push(gauge("Logical", volume.logical.ratio(), false, logical));
    lines.push(gauge(
        "Journal",
        volume.journal.ratio(),
        true,
        of(volume.journal, "blocks needed"),
    ));
    let slabs = format!(
        "{}, {} never used",
        of(volume.slabs, "slabs full"),
        words::count(volume.unused_slabs)
    );
    lines.push(gauge("Slabs", volume.slabs.ratio(), false, slabs));
    lines.push(index(volume));
    lines.push(gauge(
        "Cache",
        volume.cache.ratio(),
        false,
        of(volume.cache, "pages of the block map"),
    ));
    let requests = format!(
        "{}, {} at most so far",
        of(volume.requests, "blocks under way"),
        words::count(volume.peak)
    );
    lines.push(gauge("Requests", volume.requests.ratio(), false, requests));
    lines.push(figures(
        "Advice",
        ["valid", "stale", "timed out"],
        volume.advice,
        counts,
    ));
    let compressed = match (volume.compression, is_alive(volume.written[2], true)) {
        (false, false) => "compressed (off)",
        _ => "compressed",
    };
    lines.push(figures(
        "Written",
        ["stored", "shared", compressed, "zero"],
        volume.written,
        counts,
    ));
    lines.push(figures(
        "Base I/O",
        ["data", "journal", "metadata", "block map", "flushes"],
        volume.base_ios,
        counts,
    ));
    lines
}

fn growth(volume: &VolumeView) -> String {
    let Some(growth) = volume.growth else {
        return "not known yet".to_owned();
    };
    let over = words::duration(growth.over);
    match growth.full_in {
        Some(left) => format!(
            "full in {}, if it goes on as in the last {over}: {}/s",
            words::duration(left),
            words::bytes(growth.rate)
        ),
        None => format!("none in the last {over}"),
    }
}

fn index(volume: &VolumeView) -> Line<'static> {
    let rebuild = volume.index_rebuild;
    let state = volume.index_state.as_str();
    if rebuild.limit > 0.0 {
        let text = format!("{state}, {}", of(rebuild, "chapters read anew"));
        return gauge("Index", rebuild.ratio(), false, text);
    }
    let text = format!("{state}, {}", of(volume.index, "names"));
    gauge("Index", volume.index.ratio(), false, text)
}

fn of(fill: Fill, what: &str) -> String {
    let (used, limit) = (words::count(fill.used), words::count(fill.limit));
    format!("{used} of {limit} {what}")
}

fn label(name: &str) -> Span<'static> {
    Span::from(format!("{name:<9}")).fg(Color::Cyan)
}

fn gauge(name: &str, ratio: f64, is_bad: bool, text: String) -> Line<'static> {
    let color = if is_bad { alarm(ratio) } else { Color::Blue };
    Line::from(vec![
        label(name),
        Span::from(words::bar(ratio, BAR)).fg(color).bg(TROUGH),
        Span::from(format!(" {:>7}  {text}", words::percent(ratio))),
    ])
}

fn figures<const N: usize>(
    name: &str,
    names: [&str; N],
    all: [Count; N],
    counts: bool,
) -> Line<'static> {
    let mut spans = vec![label(name)];
    for (name, count) in names.into_iter().zip(all) {
        let text = format!("{name} ");
        let figure = Span::from(format!("{:<9}", shown(count, counts)));
        spans.push(Span::from(text).fg(Color::Gray));
        spans.push(if is_alive(count, counts) {
            figure.bold()
        } else {
            figure.dim()
        });
    }
    Line::from(spans)
}
