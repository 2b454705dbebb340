//! `holdall stats`.

use super::Filter;
use crate::cli::app::App;
use crate::cli::exit::{DAMAGED, DONE, Ended, reported};
use crate::cli::parse;
use crate::cli::render::{self, Table};
use crate::cli::repo::{self, Access};
use crate::context::Time;
use crate::error::escape;
use crate::ops::{self, Growth, Part, StatsReport, StatsRequest};
use crate::repository::Taken;
use crate::snapshot::SnapshotSpec;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Names in tables are cut at so many characters, so that the figures behind them stay on the line.
const NAME_MAX: usize = 36;

/// Days of growth that are shown.
const DAYS: usize = 14;

/// Arguments of `stats`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall stats                          (all snapshots: what takes space in the repository, and how it grows)\n  \
    holdall stats latest                   (one snapshot: its tables, directories and streams)\n  \
    holdall stats latest:/srv/uploads      (a directory of it)\n  \
    holdall stats --project shop --top 50\n\n\
    STORED is what something takes in the repository, compressed and sealed. What several parts share counts for the first of them, the \
    newest snapshot first. DISTINCT is the same before deltas and compression.")]
pub(in crate::cli) struct Args {
    /// One snapshot, or a place in it; else all of them
    #[arg(value_name = "SNAPSHOT[:PATH]", value_parser = parse::snapshot())]
    snapshot: Option<SnapshotSpec>,
    #[command(flatten)]
    filter: Filter,
    /// How many parts and entries are shown
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    let repository = repo::open(app, Access::ReadOnly).await?;
    let request = StatsRequest {
        snapshot: args.snapshot.clone(),
        filter: args.filter.to_filter(),
        largest: if args.snapshot.is_some() {
            args.top.min(100_000)
        } else {
            0
        },
    };
    let report = ops::stats(&app.context, &repository, &request).await?;
    app.progress.end();
    for (object, why) in &report.damaged {
        app.warning(&format!(
            "{object} cannot be read, and a snapshot may be missing here: {why}"
        ));
    }
    let code = if report.damaged.is_empty() { DONE } else { DAMAGED };
    let told = if app.json() {
        render::line(&value(&report))
    } else {
        render::print(&text(&report, args.top))
    };
    reported(code, told)
}

fn taken(taken: &Taken) -> Value {
    json!({
        "distinct": taken.plain,
        "encoded": taken.encoded,
        "stored": taken.stored,
        "saved_by_deltas": taken.saved_by_deltas,
    })
}

fn value(report: &StatsReport) -> Value {
    json!({
        "snapshot": report.snapshot.as_ref().map(|record| record.sid.name()),
        "snapshots_count": report.growth.len(),
        "total_file_count": report.entries,
        "total_size": report.bytes,
        "taken": taken(&report.taken),
        "parts": report.parts.iter().map(|part| json!({
            "connector": part.connector,
            "name": part.name,
            "entries": part.entries,
            "size": part.bytes,
            "taken": taken(&part.taken),
        })).collect::<Vec<_>>(),
        "largest": report.largest.iter().map(|(size, name)| json!({"name": name, "size": size})).collect::<Vec<_>>(),
        "store": report.store.iter().map(|(kind, all)| {
            ((*kind).to_owned(), json!({"objects": all.objects, "bytes": all.bytes}))
        }).collect::<serde_json::Map<_, _>>(),
        "unneeded": report.unneeded,
        "growth": report.growth.iter().map(|one| json!({
            "id": one.sid.name(),
            "time": one.time.to_rfc3339(),
            "hostname": one.host,
            "project": one.project,
            "size": one.bytes,
            "read": one.read,
            "data_added": one.new,
            "data_added_packed": one.stored,
        })).collect::<Vec<_>>(),
    })
}

fn text(report: &StatsReport, top: usize) -> String {
    let mut text = String::new();
    match &report.snapshot {
        Some(record) => text.push_str(&format!(
            "snapshot {}, {}\n",
            record.sid.short(),
            render::local_time(record.started)
        )),
        None => text.push_str(&format!(
            "{}\n",
            render::count(report.growth.len() as u64, "snapshot")
        )),
    }
    text.push_str(&savings(report));
    text.push_str(&parts(&report.parts, top, report.snapshot.is_some()));
    if !report.largest.is_empty() {
        let mut table = Table::new(&["SIZE", "LARGEST ENTRIES"], &[0]);
        for (size, name) in &report.largest {
            table.row(vec![render::bytes(*size), escape(name)]);
        }
        text.push('\n');
        text.push_str(&table.text(render::width()));
    }
    text.push_str(&growth(&report.growth));
    text.push_str(&store(report));
    text
}

/// What is kept, what it takes, and why that is less.
fn savings(report: &StatsReport) -> String {
    let taken = &report.taken;
    let mut text = format!(
        "{} in {}; {} stored",
        render::bytes(report.bytes),
        render::count(report.entries, "entry"),
        render::bytes(taken.stored),
    );
    if report.bytes >= taken.stored && taken.stored > 0 {
        text.push_str(&format!(
            " ({} smaller)",
            render::ratio(report.bytes, taken.stored)
        ));
    }
    text.push('\n');
    let saved = [
        (report.bytes.saturating_sub(taken.plain), "deduplication"),
        (taken.saved_by_deltas, "deltas"),
        (taken.encoded.saturating_sub(taken.stored), "compression"),
    ];
    let saved: Vec<String> = saved
        .iter()
        .filter(|(bytes, _)| *bytes > 0)
        .map(|(bytes, by)| format!("{} by {by}", render::bytes(*bytes)))
        .collect();
    if !saved.is_empty() {
        text.push_str(&format!("saved: {}\n", saved.join(", ")));
    }
    text
}

fn parts(parts: &[Part], top: usize, one: bool) -> String {
    let all: u64 = parts.iter().map(|part| part.taken.stored).sum();
    let share = |stored: u64| render::share(stored, all);
    let mut table = if one {
        Table::new(&["WHERE", "ENTRIES", "SIZE", "STORED", "SHARE"], &[1, 2, 3, 4])
    } else {
        Table::new(&["WHERE", "DISTINCT", "STORED", "SHARE"], &[1, 2, 3])
    };
    for part in parts.iter().take(top) {
        let (name, stored) = (shortened(&part.name), render::bytes(part.taken.stored));
        table.row(if one {
            vec![
                name,
                part.entries.to_string(),
                render::bytes(part.bytes),
                stored,
                share(part.taken.stored),
            ]
        } else {
            vec![
                name,
                render::bytes(part.taken.plain),
                stored,
                share(part.taken.stored),
            ]
        });
    }
    let mut text = format!("\n{}", table.text(render::width()));
    if let Some(rest) = parts.get(top..).filter(|rest| !rest.is_empty()) {
        let stored: u64 = rest.iter().map(|part| part.taken.stored).sum();
        text.push_str(&format!(
            "and {} more ({}); --top shows more\n",
            rest.len(),
            render::bytes(stored)
        ));
    }
    text
}

/// The beginning and the end of a long name.
fn shortened(name: &str) -> String {
    let name = escape(name);
    let len = name.chars().count();
    if render::width().is_none() || len <= NAME_MAX {
        return name;
    }
    let head: String = name.chars().take(NAME_MAX / 2 - 1).collect();
    let tail: String = name.chars().skip(len - NAME_MAX / 2).collect();
    format!("{head}…{tail}")
}

/// What the last days added.
fn growth(growth: &[Growth]) -> String {
    if growth.len() < 2 {
        return String::new();
    }
    let mut days: BTreeMap<String, (u64, u64, u64, u64)> = BTreeMap::new();
    for one in growth {
        let day = days.entry(local_day(one.time)).or_default();
        day.0 += 1;
        day.1 += one.read;
        day.2 += one.new;
        day.3 += one.stored;
    }
    let mut table = Table::new(&["DAY", "SNAPSHOTS", "READ", "NEW", "STORED"], &[1, 2, 3, 4]);
    let shown = days.len().saturating_sub(DAYS);
    for (day, (snapshots, read, new, stored)) in days.iter().skip(shown) {
        table.row(vec![
            day.clone(),
            snapshots.to_string(),
            render::bytes(*read),
            render::bytes(*new),
            render::bytes(*stored),
        ]);
    }
    format!("\n{}", table.text(render::width()))
}

fn local_day(time: Time) -> String {
    render::local_time(time).chars().take(10).collect()
}

/// What is in the store, whatever it is for.
fn store(report: &StatsReport) -> String {
    if report.store.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["IN THE STORE", "OBJECTS", "SIZE"], &[1, 2]);
    for (kind, all) in &report.store {
        table.row(vec![
            (*kind).to_owned(),
            all.objects.to_string(),
            render::bytes(all.bytes),
        ]);
    }
    let mut text = format!("\n{}", table.text(render::width()));
    if let Some(unneeded) = report.unneeded.filter(|bytes| *bytes > 0) {
        text.push_str(&format!(
            "of the packs, {} is not content that a snapshot needs: rounding, directories, and what `holdall prune` may free\n",
            render::bytes(unneeded)
        ));
    }
    text
}
