//! `holdall find`.

use super::Filter;
use crate::cli::app::App;
use crate::cli::exit::{DAMAGED, DONE, Ended, Failure};
use crate::cli::render;
use crate::cli::repo::{self, Access};
use crate::connector::files::{self, Attributes};
use crate::context::Time;
use crate::error::{Error, ErrorKind};
use crate::ops::{self, FindReport, FindRequest, FoundVersion};
use serde_json::{Value, json};
use std::io::Write;

/// Arguments of `find`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall find '*.csv'\n  \
    holdall find /srv/shop/uploads/logo.png --project shop\n  \
    holdall find 'public.ord*' --json\n\n\
    Each version of each entry is shown once, with the snapshots that have it. A pattern with a / must match the whole path, one without \
    its last part; * and ? stop at a /, ** does not.")]
pub(in crate::cli) struct Args {
    /// What to look for: shell patterns
    #[arg(value_name = "PATTERN", required = true)]
    patterns: Vec<String>,
    /// Upper and lower case are the same
    #[arg(short, long)]
    ignore_case: bool,
    #[command(flatten)]
    filter: Filter,
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    let repository = repo::open(app, Access::ReadOnly).await?;
    let request = FindRequest {
        patterns: args.patterns,
        ignore_case: args.ignore_case,
        filter: args.filter.to_filter(),
    };
    let mut out = render::lines();
    let mut versions = 0u64;
    let (json, mut failed) = (app.json(), None);
    let mut found = |version: FoundVersion| {
        versions += 1;
        let told = if json {
            writeln!(out, "{}", value(&version))
        } else {
            writeln!(out, "{}", text(&version))
        };
        told.map_err(|error| {
            let stop = Error::new(ErrorKind::Cancelled, "cannot write the result");
            failed = Some(error);
            stop
        })
    };
    let searched = ops::find(&app.context, &repository, &request, &mut found).await;
    if let Some(error) = failed {
        return Err(Failure::of_content(error));
    }
    let FindReport { searched, damaged } = searched?;
    out.flush().map_err(Failure::of_content)?;
    if !json && versions == 0 {
        let snapshots = render::count(searched as u64, "snapshot");
        app.note(&format!("nothing in {snapshots} matches"));
    }
    for (object, why) in &damaged {
        app.warning(&format!(
            "{object} cannot be read, and a snapshot may not have been searched: {why}"
        ));
    }
    Ok(if damaged.is_empty() { DONE } else { DAMAGED })
}

/// The time that is in a file's metadata.
fn mtime(version: &FoundVersion) -> Option<Time> {
    let record = &version.record;
    files::path_of(&record.key)?;
    Some(Attributes::from_metadata(&record.metadata).ok()?.mtime)
}

fn text(version: &FoundVersion) -> String {
    let FoundVersion {
        record, first, last, ..
    } = version;
    let time = mtime(version).map(render::local_time).unwrap_or_default();
    let place = if version.snapshots == 1 {
        format!("in {}, {}", last.sid.short(), render::local_time(last.started))
    } else {
        format!(
            "in {} ({} to {}), {} to {}",
            render::count(version.snapshots as u64, "snapshot"),
            first.sid.short(),
            last.sid.short(),
            render::local_time(first.started),
            render::local_time(last.started)
        )
    };
    format!(
        "{}  {} {}  {place}",
        ops::name_of(&record.key),
        render::bytes(record.size),
        time
    )
}

fn value(version: &FoundVersion) -> Value {
    let record = &version.record;
    let snapshot = |one: &crate::format::snapshot::SnapshotRecord| {
        json!({
            "id": one.sid.name(),
            "short_id": one.sid.short(),
            "time": one.started.to_rfc3339(),
            "hostname": one.host,
            "project": one.project,
        })
    };
    let mut value = json!({
        "message_type": "match",
        "path": ops::name_of(&record.key),
        "type": record.kind.word(),
        "size": record.size,
        "mtime": mtime(version).map(Time::to_rfc3339),
        "first": snapshot(&version.first),
        "last": snapshot(&version.last),
        "snapshots": version.snapshots,
    });
    super::ls::insert_bytes(&mut value, "path_bytes", ops::path_of(&record.key));
    value
}
