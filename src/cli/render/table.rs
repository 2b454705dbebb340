//! Numbers, times and columns for people.

use crate::context::Time;

/// Columns; the last one is not padded.
pub(in crate::cli) struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<usize>,
}

impl Table {
    /// A table with these headings; `right` are the columns whose cells end at the same place.
    pub(in crate::cli) fn new(head: &[&str], right: &[usize]) -> Self {
        Self {
            rows: vec![head.iter().map(|h| (*h).to_owned()).collect()],
            right: right.to_vec(),
        }
    }

    /// Adds a row.
    pub(in crate::cli) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The whole table, with a newline at the end of each row, its lines cut at `width` if there is one. A table without rows is empty.
    pub(in crate::cli) fn text(&self, width: Option<usize>) -> String {
        if self.rows.len() < 2 {
            return String::new();
        }
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widest = |c: usize| {
            self.rows
                .iter()
                .filter_map(|r| r.get(c))
                .map(|s| s.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..columns).map(|c| widest(c).unwrap_or(0)).collect();
        let mut out = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).enumerate().map(|(c, (cell, width))| {
                let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
                if self.right.contains(&c) {
                    format!("{pad}{cell}")
                } else {
                    format!("{cell}{pad}")
                }
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            out.push_str(&cut(line.trim_end(), width));
            out.push('\n');
        }
        out
    }
}

/// A line that fits.
fn cut(line: &str, width: Option<usize>) -> String {
    match width {
        Some(width) if line.chars().count() > width => {
            let kept: String = line.chars().take(width.saturating_sub(1)).collect();
            format!("{kept}…")
        }
        _ => line.to_owned(),
    }
}

/// A text in lines of at most `width` characters, those after the first behind `indent` spaces. Words are not cut. The first line is taken
/// to begin behind as many characters.
pub(in crate::cli) fn wrapped(text: &str, width: usize, indent: usize) -> String {
    let mut out = String::new();
    let mut column = indent;
    for word in text.split(' ') {
        let len = word.chars().count();
        if column > indent && column + 1 + len > width {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
        } else if column > indent {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += len;
    }
    out
}

/// Bytes, as `1.2 GiB`.
pub(in crate::cli) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A count with its noun: `1 file`, `12,345 files`.
pub(in crate::cli) fn count(n: u64, noun: &str) -> String {
    let digits = n.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    match (n, noun.strip_suffix("entry")) {
        (1, _) => format!("{grouped} {noun}"),
        (_, Some(before)) => format!("{grouped} {before}entries"),
        _ => format!("{grouped} {noun}s"),
    }
}

/// A span of time: `0.4 s`, `12 s`, `3 m 05 s`, `2 h 07 m`.
pub(in crate::cli) fn seconds(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..=60 => format!("{whole} s"),
        61..3600 => format!("{} m {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} m", whole / 3600, whole % 3600 / 60),
    }
}

/// How many times smaller `stored` is than `read`: `4.6×`.
pub(in crate::cli) fn ratio(read: u64, stored: u64) -> String {
    if stored == 0 {
        return "–".into();
    }
    let ratio = read as f64 / stored as f64;
    if ratio < 100.0 {
        format!("{ratio:.1}×")
    } else {
        format!("{ratio:.0}×")
    }
}

/// A part of a whole: `12.5 %`.
pub(in crate::cli) fn share(part: u64, whole: u64) -> String {
    format!("{:.1} %", 100.0 * part as f64 / whole.max(1) as f64)
}

/// How long ago: `5 min`, `7 h`, `3 days`.
pub(in crate::cli) fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// How `stored` compares with `read`, truthfully: `4.6× smaller than read`, `1.2× as large as read`.
pub(in crate::cli) fn compared(read: u64, stored: u64) -> String {
    if stored > read && read > 0 {
        format!("{} as large as read", ratio(stored, read))
    } else if stored > read {
        "nothing was read".into()
    } else {
        format!("{} smaller than read", ratio(read, stored))
    }
}

/// A time in this machine's zone, which is named.
pub(in crate::cli) fn local_time(time: Time) -> String {
    match jiff::Timestamp::from_second(time.seconds) {
        Ok(stamp) => stamp
            .to_zoned(jiff::tz::TimeZone::system())
            .strftime("%Y-%m-%d %H:%M:%S %Z")
            .to_string(),
        Err(_) => "invalid time".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(
            (bytes(0), bytes(1023), bytes(1536)),
            ("0 B".into(), "1023 B".into(), "1.5 KiB".into())
        );
        assert_eq!(bytes(3 << 30), "3.0 GiB");
        assert_eq!(
            (count(1, "entry"), count(1_234_567, "entry")),
            ("1 entry".into(), "1,234,567 entries".into())
        );
        assert_eq!(count(999, "file"), "999 files");
        assert_eq!((seconds(0.44), seconds(59.6)), ("0.4 s".into(), "60 s".into()));
        assert_eq!(
            (seconds(65.0), seconds(3725.0)),
            ("1 m 05 s".into(), "1 h 02 m".into())
        );
        assert_eq!(
            (ratio(10, 4), ratio(5, 0), ratio(100_000, 10)),
            ("2.5×".into(), "–".into(), "10000×".into())
        );
        assert_eq!((share(1, 8), share(1, 0)), ("12.5 %".into(), "100.0 %".into()));
        assert_eq!(
            (age(119), age(7_199), age(26 * 3_600), age(200_000)),
            ("119 s".into(), "119 min".into(), "26 h".into(), "2 days".into())
        );
        assert_eq!(wrapped("ab cd efghijkl m", 9, 2), "ab cd\n  efghijkl\n  m");
        assert_eq!(wrapped("ab cd", usize::MAX, 2), "ab cd");
        assert_eq!(compared(10, 4), "2.5× smaller than read");
        assert_eq!(compared(4, 10), "2.5× as large as read");
    }

    #[test]
    fn columns_line_up_and_an_empty_table_is_empty() {
        let mut table = Table::new(&["ID", "SIZE"], &[1]);
        assert_eq!(table.text(None), "");
        table.row(vec!["abc".into(), "1 B".into()]);
        table.row(vec!["d".into(), "22 B".into()]);
        assert_eq!(table.text(None), "ID   SIZE\nabc   1 B\nd    22 B\n");
        assert_eq!(table.text(Some(6)), "ID   …\nabc  …\nd    …\n");
    }
}
