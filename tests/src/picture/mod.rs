//! Pictures for the manual, as SVG text, of what was really seen: a terminal, and Prometheus' answers to a dashboard's queries.

pub mod dashboard;
pub mod screen;

/// Text as it may stand in SVG.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;")
}
