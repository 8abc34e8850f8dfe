//! Prometheus' text format, version 0.0.4: families of samples, each with its help and its type.

use std::fmt::Write;

/// What the format is called in HTTP.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether a number only grows until its counting begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows; its name ends in `_total`.
    Counter,
    /// It is as large as it is now.
    Gauge,
}

/// Samples of one metric.
#[derive(Clone, Debug)]
pub struct Family {
    /// The metric's name.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// Labels, and the number.
    pub samples: Vec<(Vec<(&'static str, String)>, f64)>,
}

impl Family {
    /// A family without samples.
    pub fn new(name: &'static str, kind: Kind, help: &'static str) -> Family {
        Family {
            name,
            help,
            kind,
            samples: Vec::new(),
        }
    }

    /// Adds a sample.
    pub fn add<const N: usize>(&mut self, labels: [(&'static str, &str); N], value: f64) {
        let labels = labels.map(|(name, text)| (name, text.to_owned()));
        self.samples.push((labels.to_vec(), value));
    }
}

/// Writes families down; those without samples are left out.
pub fn write(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        // Writing to a string cannot fail.
        _ = write_family(&mut text, family);
    }
    text
}

fn write_family(text: &mut String, family: &Family) -> std::fmt::Result {
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    };
    let name = family.name;
    writeln!(text, "# HELP {name} {}", escaped(family.help, false))?;
    writeln!(text, "# TYPE {name} {kind}")?;
    for (labels, value) in &family.samples {
        text.push_str(name);
        for (place, (label, content)) in labels.iter().enumerate() {
            let before = if place == 0 { '{' } else { ',' };
            write!(text, "{before}{label}=\"{}\"", escaped(content, true))?;
        }
        if !labels.is_empty() {
            text.push('}');
        }
        writeln!(text, " {value}")?;
    }
    Ok(())
}

fn escaped(content: &str, quoted: bool) -> String {
    let mut text = String::with_capacity(content.len());
    for letter in content.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quoted => text.push_str("\\\""),
            letter => text.push(letter),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_written_with_help_type_and_escaped_labels() {
        let mut family = Family::new("vdo_a_total", Kind::Counter, "Says \"a\".\nTwice.");
        family.add([], 3.0);
        family.add([("volume", "a\"b\\c\nd"), ("zone", "0")], 0.5);
        let empty = Family::new("vdo_b", Kind::Gauge, "Nothing.");
        let expected = "# HELP vdo_a_total Says \"a\".\\nTwice.\n\
             # TYPE vdo_a_total counter\n\
             vdo_a_total 3\n\
             vdo_a_total{volume=\"a\\\"b\\\\c\\nd\",zone=\"0\"} 0.5\n";
        assert_eq!(write(&[family, empty]), expected);
    }
}
