//! A terminal's screen as a picture.

use std::fmt::Write;

use vt100::{Cell, Color, Screen};

use super::escaped;

/// Size of a cell.
const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 17.0;

const BACKGROUND: &str = "#16181d";
const FOREGROUND: &str = "#d0d4dc";

/// The sixteen first colours of a terminal.
const COLORS: [&str; 16] = [
    "#1e2127", "#e06c75", "#7fb96a", "#d7a65f", "#5a9bd8", "#c078dd", "#4fb3bf", "#b8bdc8",
    "#5c6370", "#ff7b86", "#98d982", "#f0c674", "#74b6f2", "#d999f0", "#6fd3de", "#ffffff",
];

fn color(color: Color, otherwise: &str) -> String {
    match color {
        Color::Default => otherwise.to_owned(),
        Color::Idx(number @ 232..) => {
            let grey = 8 + 10 * (number - 232);
            format!("#{grey:02x}{grey:02x}{grey:02x}")
        }
        Color::Idx(number) => COLORS[usize::from(number) % COLORS.len()].to_owned(),
        Color::Rgb(red, green, blue) => format!("#{red:02x}{green:02x}{blue:02x}"),
    }
}

/// How a cell looks: its colours, and whether it is bold.
fn look(cell: &Cell) -> (String, String, bool) {
    let front = color(cell.fgcolor(), FOREGROUND);
    let back = color(cell.bgcolor(), BACKGROUND);
    let front = if cell.dim() {
        COLORS[8].to_owned()
    } else {
        front
    };
    match cell.inverse() {
        true => (back, front, cell.bold()),
        false => (front, back, cell.bold()),
    }
}

/// The screen as SVG. Cells of one look that stand side by side are one text, stretched to its cells whatever the font.
pub fn svg(screen: &Screen) -> String {
    let (rows, columns) = screen.size();
    let (rows, columns) = (rows.get(), columns.get());
    let (width, height) = (f64::from(columns) * WIDTH, f64::from(rows) * HEIGHT);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"ui-monospace,DejaVu Sans Mono,Menlo,Consolas,monospace\" font-size=\"14\" xml:space=\"preserve\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"{BACKGROUND}\"/>\n"
    );
    for row in 0..rows {
        let mut column = 0;
        while column < columns {
            let cell = |column| screen.cell(row, column);
            let Some(first) = cell(column) else { break };
            let style = look(first);
            let begin = column;
            let mut text = String::new();
            while let Some(cell) = cell(column).filter(|cell| look(cell) == style) {
                text.push_str(if cell.has_contents() {
                    cell.contents()
                } else {
                    " "
                });
                column += 1;
            }
            draw(&mut svg, (row, begin, column), &style, &text);
        }
    }
    svg + "</svg>\n"
}

fn draw(
    svg: &mut String,
    (row, begin, end): (u16, u16, u16),
    (front, back, bold): &(String, String, bool),
    text: &str,
) {
    let (x, y) = (f64::from(begin) * WIDTH, f64::from(row) * HEIGHT);
    let width = f64::from(end - begin) * WIDTH;
    // Writing to a string cannot fail.
    if back != BACKGROUND {
        _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{HEIGHT}\" fill=\"{back}\"/>"
        );
    }
    if text.trim().is_empty() {
        return;
    }
    let weight = if *bold { " font-weight=\"bold\"" } else { "" };
    _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{:.1}\" textLength=\"{width:.1}\" fill=\"{front}\"{weight}>{}</text>",
        y + HEIGHT * 0.76,
        escaped(text)
    );
}
