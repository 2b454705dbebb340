//! Values of flags: sizes, spans of time, parts of the data, tags.

use crate::ops::ReadData;
use crate::snapshot::SnapshotSpec;
use clap::builder::{OsStringValueParser, TypedValueParser};
use jiff::Span;
use std::ffi::OsString;

/// A snapshot, and a place in it.
pub(super) fn snapshot() -> impl TypedValueParser<Value = SnapshotSpec> {
    OsStringValueParser::new().try_map(|given: OsString| {
        SnapshotSpec::parse(&given).map_err(|error| match error.advice() {
            Some(advice) => format!("{}; give {advice}", error.what()),
            None => error.what().to_owned(),
        })
    })
}

/// Bytes: `300M`, `64MiB`, `1G`, `1048576`. Units are powers of 1024.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err("a size is a number with K, M, G or T behind it, such as 256M".into()),
    };
    let number: u64 = number.parse().map_err(|_| "not a number".to_owned())?;
    number
        .checked_mul(1 << factor)
        .ok_or_else(|| "too large".to_owned())
}

/// Connectors that may have chunks of a size of their own.
const CONNECTORS: [&str; 6] = ["default", "files", "stdio", "postgres", "storage", "s3"];

/// An average size of chunks, and for which connector: `64K`, `files=1M`.
pub(super) fn chunk_size(text: &str) -> Result<(String, usize), String> {
    let (name, size) = text.split_once('=').unwrap_or(("default", text));
    if !CONNECTORS.contains(&name) {
        return Err(format!("not a connector; they are {}", CONNECTORS.join(", ")));
    }
    let size = usize::try_from(bytes(size)?).map_err(|_| "too large".to_owned())?;
    Ok((name.to_owned(), size))
}

/// A length of the calendar: `30d`, `1y6m`, `2w`, `12h`; `m` is a month.
pub(super) fn span(text: &str) -> Result<Span, String> {
    let wrong =
        || "a span is numbers with y, m (months), w, d or h behind them, such as 30d or 1y6m".to_owned();
    let mut span = Span::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = rest.split_at(end);
        let number: i64 = number.parse().map_err(|_| wrong())?;
        let mut letters = unit.chars();
        let added = match letters.next() {
            Some('y') => span.try_years(number),
            Some('m') => span.try_months(number),
            Some('w') => span.try_weeks(number),
            Some('d') => span.try_days(number),
            Some('h') => span.try_hours(number),
            _ => return Err(wrong()),
        };
        span = added.map_err(|_| "too long".to_owned())?;
        rest = letters.as_str();
    }
    if span.is_zero() { Err(wrong()) } else { Ok(span) }
}

/// Seconds: `90s`, `30m`, `12h`, `7d`, `2w`, `1y`.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || "a span is a number with s, m, h, d, w or y behind it, such as 7d".to_owned();
    if text == "0" {
        return Ok(0);
    }
    let unit = text.chars().last().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        'y' => 365 * 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text.trim_end_matches(unit).parse().map_err(|_| wrong())?;
    number.checked_mul(factor).ok_or_else(wrong)
}

/// A part of the data: `N/T` or `P%`.
pub(super) fn part(text: &str) -> Result<ReadData, String> {
    let wrong =
        || "a part is N/T (the N-th of T parts) or P% (so many percent, chosen anew each time)".to_owned();
    if let Some(percent) = text.strip_suffix('%') {
        let percent: u8 = percent.parse().map_err(|_| wrong())?;
        return match percent {
            1..100 => Ok(ReadData::Percent(percent)),
            100 => Ok(ReadData::All),
            _ => Err(wrong()),
        };
    }
    let (part, of) = text.split_once('/').ok_or_else(wrong)?;
    let (part, of): (u32, u32) = (
        part.parse().map_err(|_| wrong())?,
        of.parse().map_err(|_| wrong())?,
    );
    if part == 0 || part > of {
        return Err(wrong());
    }
    Ok(ReadData::Part { part, of })
}

/// Tags of a filter: each flag is a group, commas in it mean "and".
pub(super) fn tag_groups(flags: &[String]) -> Vec<Vec<String>> {
    flags
        .iter()
        .map(|flag| flag.split(',').map(str::to_owned).collect())
        .collect()
}

/// Tags to set: commas separate.
pub(super) fn tags(flags: &[String]) -> Vec<String> {
    let all = flags.iter().flat_map(|flag| flag.split(','));
    all.filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_spans_and_parts_read_as_people_write_them() {
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("300k"), Ok(300 << 10));
        assert_eq!(bytes("7"), Ok(7));
        for bad in ["", "M", "1.5G", "-1", "9x", "99999999999999T"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(
            (seconds("7d"), seconds("0"), seconds("90s")),
            (Ok(604_800), Ok(0), Ok(90))
        );
        for bad in ["", "d", "7", "7days", "-1d"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert_eq!(part("2/5"), Ok(ReadData::Part { part: 2, of: 5 }));
        assert_eq!(
            (part("10%"), part("100%")),
            (Ok(ReadData::Percent(10)), Ok(ReadData::All))
        );
        for bad in ["0/5", "6/5", "5", "0%", "101%", "%", "1/0"] {
            assert!(part(bad).is_err(), "{bad}");
        }
    }
}
