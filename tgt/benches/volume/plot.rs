//! The history as a picture: a line for each row of the table, its instructions per 4 KiB from run to run.
//!
//! An SVG file beside the history, which any browser shows. Only runs on the same kind of machine as the last one, with the same
//! rows, can be compared, so only those are in it.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 270.0;
const EDGE: f64 = 40.0;
const COLOURS: [&str; 10] = [
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f",
    "#bcbd22", "#17becf",
];

/// Draws the history beside it; returns where.
///
/// # Errors
/// When a file cannot be read or written.
pub(crate) fn draw(history: &Path) -> io::Result<PathBuf> {
    let picture = history.with_extension("svg");
    std::fs::write(&picture, svg(&std::fs::read_to_string(history)?))?;
    Ok(picture)
}

/// The rows and what they cost in each run; `None` where that was not counted.
fn series(history: &str) -> Vec<(String, Vec<Option<f64>>)> {
    let Some(start) = history.rfind("time,") else {
        return Vec::new();
    };
    let mut lines = history[start..].lines().map(|line| line.split(','));
    let header: Vec<_> = lines.next().into_iter().flatten().collect();
    let runs: Vec<Vec<&str>> = lines.map(Iterator::collect).collect();
    let machine = runs.last().and_then(|run| run.get(1).copied());
    let costs = header.iter().enumerate().filter_map(|(column, name)| {
        let row = name.strip_suffix(" instructions")?;
        let same = runs.iter().filter(|run| run.get(1).copied() == machine);
        let values = same.map(|run| run.get(column)?.parse().ok());
        Some((row.to_owned(), values.collect()))
    });
    costs.collect()
}

fn svg(history: &str) -> String {
    let rows = series(history);
    let runs = rows
        .iter()
        .map(|(_, values)| values.len())
        .max()
        .unwrap_or(0);
    let all = rows.iter().flat_map(|(_, values)| values.iter().flatten());
    let top = all.fold(1000.0_f64, |top, &value| top.max(value)) * 1.05;
    let x = |run: usize| {
        let share = run as f64 / (runs.max(2) - 1) as f64;
        LEFT + share * (WIDTH - LEFT - RIGHT)
    };
    let y = |value: f64| HEIGHT - EDGE - value / top * (HEIGHT - 2.0 * EDGE);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"20\">\
         instructions for 4 KiB, {runs} runs, the last on the right</text>\n"
    );
    let step = 10.0_f64.powf(top.log10().floor()) / 2.0;
    for mark in (0..)
        .map(|n| f64::from(n) * step)
        .take_while(|&mark| mark < top)
    {
        let (at, right) = (y(mark), WIDTH - RIGHT);
        let _ = writeln!(
            text,
            "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{mark:.0}</text>",
            LEFT - 6.0,
            at + 4.0
        );
    }
    // Names beside the ends of their lines, as far as there is room for each.
    let last = |values: &[Option<f64>]| values.iter().rev().flatten().next().copied();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|&one, &other| {
        let value = |row: usize| last(&rows[row].1).unwrap_or(0.0);
        value(other).total_cmp(&value(one))
    });
    let mut free = EDGE;
    for row in order {
        let ((name, values), colour) = (&rows[row], COLOURS[row % COLOURS.len()]);
        let Some(end) = last(values) else { continue };
        let points = values.iter().enumerate();
        let points = points.filter_map(|(run, value)| value.map(|value| (x(run), y(value))));
        let mut path = String::new();
        for (x, y) in points {
            let _ = write!(path, "{x:.1},{y:.1} ");
            let _ = writeln!(
                text,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\"/>"
            );
        }
        let _ = writeln!(
            text,
            "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
        );
        let at = y(end).max(free);
        free = at + 15.0;
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}: {end:.0}</text>",
            WIDTH - RIGHT + 10.0,
            at + 4.0
        );
    }
    text + "</svg>\n"
}
