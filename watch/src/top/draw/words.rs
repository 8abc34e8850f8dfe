//! Figures as people read them, short and of bounded width.

/// A number in at most five characters: `0`, `7.5`, `812`, `12.3k`, `4.56M`.
pub fn count(value: f64) -> String {
    scaled(value, 1000.0, &["", "k", "M", "G", "T", "P", "E"], "")
}

/// Bytes in at most eight characters: `12.3 KiB`.
pub fn bytes(value: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    scaled(value, 1024.0, &units, " ")
}

fn scaled(value: f64, step: f64, units: &[&str], space: &str) -> String {
    let mut value = value.max(0.0);
    let mut unit = 0;
    // What would be rounded up to a thousand is one of the next unit.
    while value >= 999.5 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 && value.fract() == 0.0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    let digits = if unit == 0 { digits.min(1) } else { digits };
    format!("{value:.digits$}{space}{}", units[unit])
}

/// A share in percent, in at most six characters.
pub fn percent(ratio: f64) -> String {
    // Rounded down, as the target does: 100 % means that nothing is left.
    format!("{:.1} %", (ratio * 1000.0).floor() / 10.0)
}

/// A time in its two largest units: `3d 4h`, `12m 5s`.
pub fn duration(seconds: f64) -> String {
    const UNITS: [(&str, u64); 5] = [
        ("y", 365 * 24 * 3600),
        ("d", 24 * 3600),
        ("h", 3600),
        ("m", 60),
        ("s", 1),
    ];
    let seconds = seconds.clamp(0.0, 1e12) as u64;
    let first = UNITS.iter().position(|(_, unit)| seconds >= *unit);
    let Some(first) = first.filter(|first| first + 1 < UNITS.len()) else {
        return format!("{seconds}s");
    };
    let ((large, one), (small, other)) = (UNITS[first], UNITS[first + 1]);
    format!("{}{large} {}{small}", seconds / one, seconds % one / other)
}

/// A bar of so many characters, of which a share is full.
pub fn bar(ratio: f64, width: usize) -> String {
    const PARTS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = (ratio.clamp(0.0, 1.0) * width as f64 * 8.0).round() as usize;
    let (full, rest) = (eighths / 8, eighths % 8);
    let mut bar = "█".repeat(full);
    if full < width {
        bar.push(PARTS[rest]);
        bar.extend(std::iter::repeat_n(' ', width - full - 1));
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_round_as_people_do() {
        let counts = [
            0.0,
            7.5,
            812.0,
            999.6,
            12_345.0,
            999_960.0,
            4_561_000.0,
            1e18,
        ]
        .map(count);
        assert_eq!(
            counts,
            [
                "0", "7.5", "812", "1.00k", "12.3k", "1.00M", "4.56M", "1.00E"
            ]
        );
        assert!(counts.iter().all(|text| text.len() <= 5));
        assert_eq!([4096.0, 1.5e12].map(bytes), ["4.00 KiB", "1.36 TiB"]);
        assert_eq!([0.9999, 1.0].map(percent), ["99.9 %", "100.0 %"]);
        let durations = [5.2, 125.0, 7200.0, 273_000.0, 1e9].map(duration);
        assert_eq!(durations, ["5s", "2m 5s", "2h 0m", "3d 3h", "31y 259d"]);
    }

    #[test]
    fn a_bar_has_its_width_whatever_the_share() {
        for share in [-1.0, 0.0, 0.01, 0.5, 0.999, 1.0, 7.0] {
            assert_eq!(bar(share, 10).chars().count(), 10, "{share}");
        }
        assert_eq!(bar(0.5, 4), "██  ");
        assert_eq!(bar(1.0, 4), "████");
    }
}
