//! `holdall list`.

use super::Filter;
use crate::cli::app::App;
use crate::cli::exit::{DAMAGED, DONE, Ended, reported};
use crate::cli::render::{self, Table};
use crate::cli::repo::{self, Access};
use crate::ops::{self, ListedSnapshot};
use serde_json::{Value, json};

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall list\n  \
    holdall list --project shop --tag nightly --latest 5\n  \
    holdall list --json | jq -r '.[-1].id'")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    filter: Filter,
    /// Only the newest so many
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    let repository = repo::open(app, Access::ReadOnly).await?;
    let mut report = ops::list(&app.context, &repository, &args.filter.to_filter()).await?;
    if let Some(latest) = args.latest {
        let skip = report.snapshots.len().saturating_sub(latest);
        report.snapshots.drain(..skip);
    }
    let told = if app.json() {
        let all: Vec<Value> = report.snapshots.iter().map(value).collect();
        render::line(&all)
    } else {
        let told = render::print(&table(&report.snapshots));
        if report.snapshots.is_empty() {
            app.note("no snapshots");
        }
        for snapshot in &report.snapshots {
            if let Some(why) = &snapshot.forget_without_effect {
                let id = snapshot.record.sid.short();
                app.note(&format!(
                    "{id}: somebody let it go, without an effect as long as this holds: {why}"
                ));
            }
        }
        told
    };
    for (object, why) in &report.damaged {
        app.warning(&format!(
            "{object} cannot be read, and a snapshot may be missing from this list: {why}"
        ));
    }
    for (object, why) in &report.damaged_notes {
        app.warning(&format!(
            "{object} cannot be read, and tags, a description or the protection of its snapshot may be missing from this list: {why}"
        ));
    }
    let whole = report.damaged.is_empty() && report.damaged_notes.is_empty();
    reported(if whole { DONE } else { DAMAGED }, told)
}

fn status(snapshot: &ListedSnapshot) -> &'static str {
    if snapshot.record.partial {
        "partial"
    } else {
        "complete"
    }
}

fn table(snapshots: &[ListedSnapshot]) -> String {
    let head = [
        "ID", "TIME", "HOST", "PROJECT", "TAGS", "ENTRIES", "SIZE", "STORED", "STATUS", "SOURCES",
    ];
    let mut table = Table::new(&head, &[5, 6, 7]);
    for snapshot in snapshots {
        let record = &snapshot.record;
        let sources: Vec<&str> = record.sources.iter().map(|s| s.description.as_str()).collect();
        table.row(
            [
                record.sid.short(),
                render::local_time(record.started),
                record.host.clone(),
                record.project.clone().unwrap_or_default(),
                snapshot.tags.join(","),
                record.root.entries.to_string(),
                render::bytes(record.root.bytes),
                render::bytes(record.statistics.bytes_stored),
                status(snapshot).to_owned(),
                sources.join(" "),
            ]
            .iter()
            .map(|cell| crate::error::escape(cell))
            .collect(),
        );
    }
    table.text(render::width())
}

fn value(snapshot: &ListedSnapshot) -> Value {
    let record = &snapshot.record;
    let counts = &record.statistics;
    json!({
        "id": record.sid.name(),
        "short_id": record.sid.short(),
        "time": record.started.to_rfc3339(),
        "consistent_at": record.consistent_at.map(crate::context::Time::to_rfc3339),
        "end": record.ended.to_rfc3339(),
        "hostname": record.host,
        "project": record.project,
        "tags": snapshot.tags,
        "protected": snapshot.protected,
        "description": snapshot.description,
        "forget_without_effect": snapshot.forget_without_effect,
        "parent": record.parent.map(|sid| sid.name()),
        "status": status(snapshot),
        "incidents": record.incident_count,
        "sources": record.sources.iter().map(|source| json!({
            "connector": source.connector,
            "description": source.description,
            "version": source.version,
        })).collect::<Vec<_>>(),
        "program_version": record.tool,
        "summary": {
            "files_new": counts.entries_new,
            "files_changed": counts.entries_changed,
            "files_unmodified": counts.entries_unchanged,
            "bytes_read": counts.bytes_read,
            "data_added": counts.bytes_new,
            "data_added_packed": counts.bytes_stored,
            "total_files_processed": record.root.entries,
            "total_bytes_processed": record.root.bytes,
        },
    })
}
