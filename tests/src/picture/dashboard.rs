//! A Grafana dashboard's panels as a picture, of what Prometheus answers to their queries. It is our drawing, not Grafana's: the
//! same panels in the same places, with the same lines.

use std::fmt::Write;

use serde_json::Value;

use super::escaped;

/// Size of a cell of the dashboard's grid, 24 of which make its width.
const WIDTH: f64 = 50.0;
const HEIGHT: f64 = 30.0;

const COLORS: [&str; 8] = [
    "#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#37872d", "#8ab8ff",
];

/// Lines of a legend that are shown.
const LEGEND: usize = 8;

/// What a query gave: the line's name, and its points, in seconds.
pub type Line = (String, Vec<(f64, f64)>);

/// A panel, and what its queries gave.
#[derive(Debug)]
pub struct Panel<'a> {
    /// The panel of the dashboard.
    pub panel: &'a Value,
    /// All lines of all its queries.
    pub lines: Vec<Line>,
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or(0.0)
}

/// A number in a panel's unit.
fn figure(value: f64, unit: &str) -> String {
    let scaled = |step: f64, units: &[&str]| {
        let mut value = value;
        let mut place = 0;
        while value.abs() >= step && place + 1 < units.len() {
            value /= step;
            place += 1;
        }
        let digits = if value.fract() == 0.0 || value.abs() >= 100.0 {
            0
        } else {
            1
        };
        format!("{value:.digits$}{}", units[place])
    };
    let bytes = ["", " KiB", " MiB", " GiB", " TiB"];
    match unit {
        "percentunit" => format!("{:.1} %", value * 100.0),
        "bytes" => scaled(1024.0, &bytes),
        "Bps" => scaled(1024.0, &bytes) + "/s",
        "ops" => scaled(1000.0, &["", " k", " M", " G"]) + "/s",
        "s" if value >= 3600.0 => format!("{:.1} h", value / 3600.0),
        "s" if value >= 60.0 => format!("{:.1} min", value / 60.0),
        "s" => format!("{value:.0} s"),
        _ => scaled(1000.0, &["", " k", " M", " G"]),
    }
}

/// The panels as SVG.
pub fn svg(panels: &[Panel<'_>]) -> String {
    let bottom =
        |one: &Panel<'_>| number(one.panel, "/gridPos/y") + number(one.panel, "/gridPos/h");
    let height = panels.iter().map(bottom).fold(0.0, f64::max) * HEIGHT;
    let width = 24.0 * WIDTH;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"Inter,DejaVu Sans,Helvetica,sans-serif\" font-size=\"11\" fill=\"#ccccdc\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#111217\"/>\n"
    );
    for panel in panels {
        let at = |name: &str| number(panel.panel, &format!("/gridPos/{name}"));
        let (x, y) = (at("x") * WIDTH + 4.0, at("y") * HEIGHT + 4.0);
        let (width, height) = (at("w") * WIDTH - 8.0, at("h") * HEIGHT - 8.0);
        let title = escaped(panel.panel["title"].as_str().unwrap_or_default());
        // Writing to a string cannot fail.
        _ = writeln!(
            svg,
            "<g transform=\"translate({x:.0} {y:.0})\">\n<rect width=\"{width:.0}\" height=\"{height:.0}\" rx=\"3\" fill=\"#181b1f\" \
             stroke=\"#2c3235\"/>\n<text x=\"10\" y=\"18\" font-size=\"13\" font-weight=\"bold\">{title}</text>"
        );
        let unit = panel.panel.pointer("/fieldConfig/defaults/unit");
        let unit = unit.and_then(Value::as_str).unwrap_or_default();
        match panel.panel["type"].as_str() {
            Some("stat") => draw_stat(&mut svg, panel, unit),
            _ => draw_lines(&mut svg, panel, unit, (width, height)),
        }
        svg.push_str("</g>\n");
    }
    svg + "</svg>\n"
}

/// The last value of each line, as large text.
fn draw_stat(svg: &mut String, panel: &Panel<'_>, unit: &str) {
    if panel.lines.is_empty() {
        svg.push_str("<text x=\"12\" y=\"52\" font-size=\"18\">-</text>\n");
    }
    for (place, (name, points)) in panel.lines.iter().take(3).enumerate() {
        let last = points.last().map_or(f64::NAN, |(_, value)| *value);
        let mapped = panel.panel.pointer(&format!(
            "/fieldConfig/defaults/mappings/0/options/{last}/text"
        ));
        let text = match mapped.and_then(Value::as_str) {
            Some(text) => text.to_owned(),
            // The name says it all.
            None if panel.panel["title"] == "Mode" => String::new(),
            None => figure(last, unit),
        };
        _ = writeln!(
            svg,
            "<text x=\"12\" y=\"{}\" font-size=\"16\">{} <tspan font-weight=\"bold\" fill=\"#73bf69\">{}</tspan></text>",
            46 + 24 * place,
            escaped(name),
            escaped(&text)
        );
    }
}

/// Lines over time, with a legend at the right.
fn draw_lines(svg: &mut String, panel: &Panel<'_>, unit: &str, (width, height): (f64, f64)) {
    let (left, top, right, bottom) = (66.0, 30.0, width - 170.0, height - 24.0);
    let points = || panel.lines.iter().flat_map(|(_, points)| points);
    let most = points().map(|(_, value)| *value).fold(0.0, f64::max);
    let most = if most > 0.0 { most * 1.05 } else { 1.0 };
    let first = points().map(|(at, _)| *at).fold(f64::INFINITY, f64::min);
    let last = points().map(|(at, _)| *at).fold(0.0, f64::max);
    let over = (last - first).max(1.0);
    for part in 0..=4 {
        let share = f64::from(part) / 4.0;
        let y = bottom - (bottom - top) * share;
        _ = writeln!(
            svg,
            "<path d=\"M{left} {y:.1}H{right:.1}\" stroke=\"#2c3235\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 6.0,
            y + 4.0,
            figure(most * share, unit)
        );
    }
    if !first.is_infinite() {
        _ = writeln!(
            svg,
            "<text x=\"{left}\" y=\"{:.1}\">0 s</text><text x=\"{right:.1}\" y=\"{:.1}\" text-anchor=\"end\">{over:.0} s</text>",
            height - 8.0,
            height - 8.0
        );
    }
    for (place, (name, points)) in panel.lines.iter().enumerate() {
        let color = COLORS[place % COLORS.len()];
        let mut path = String::new();
        for (at, value) in points {
            let x = left + (right - left) * (at - first) / over;
            let y = bottom - (bottom - top) * value / most;
            let command = if path.is_empty() { 'M' } else { 'L' };
            _ = write!(path, "{command}{x:.1} {y:.1}");
        }
        _ = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.4\"/>"
        );
        if place < LEGEND {
            let y = top + 10.0 + 16.0 * place as f64;
            _ = writeln!(
                svg,
                "<path d=\"M{:.1} {:.1}h12\" stroke=\"{color}\" stroke-width=\"3\"/><text x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
                right + 10.0,
                y - 4.0,
                right + 28.0,
                escaped(name)
            );
        }
    }
    if panel.lines.len() > LEGEND {
        _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\">and {} more</text>",
            right + 28.0,
            top + 10.0 + 16.0 * LEGEND as f64,
            panel.lines.len() - LEGEND
        );
    }
}
