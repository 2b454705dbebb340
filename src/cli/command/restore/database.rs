//! A restore into a database.

use super::{Args, Replace, push_counts, tell_partial};
use crate::cli::app::App;
use crate::cli::environment;
use crate::cli::exit::{Ended, reported};
use crate::cli::render;
use crate::connector::postgres::connect::Server;
use crate::connector::postgres::key::TableName;
use crate::connector::postgres::name::parse_table;
use crate::connector::postgres::sink::{
    Counted, LOCK_TIMEOUT, PostgresSink, RestoreRequest, STRIPE, Summary, TableSummary,
};
use crate::error::{Error, ErrorKind, Result, escape};
use crate::ops::{self, RestoreReport, TableFilter};
use crate::snapshot::SnapshotReader;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::Path;

/// The target as the address of a database, if it is one.
pub(super) fn url(target: &Path) -> Option<&str> {
    let text = target.to_str()?;
    (text.starts_with("postgres://") || text.starts_with("postgresql://")).then_some(text)
}

pub(super) async fn run(app: &App, args: &Args, url: &str) -> Ended {
    refuse_for_files(args)?;
    let filter = TableFilter {
        include: names(&args.include)?,
        exclude: names(&args.exclude)?,
    };
    let whole = filter.include.is_empty() && filter.exclude.is_empty() && !args.dry_run;
    let server = Server::parse(url, &environment::surroundings()?)?;
    if server.has_password_in_text() {
        app.warning("a password on the command line is seen by everyone on this machine: give it in ~/.pgpass or PGPASSWORD");
    }
    for note in server.notes() {
        app.warning(note);
    }
    let snapshot = super::super::open_snapshot(app, &args.snapshot, &args.filter).await?;
    tell_partial(app, args, &snapshot)?;
    let database = ops::database(&snapshot, args.database.as_deref()).await?;
    let request = ops::database_place(&snapshot, &database, filter, !args.dry_run).await?;
    let mut sink = PostgresSink::new(RestoreRequest {
        server,
        jobs: args.jobs.into(),
        lock_timeout: LOCK_TIMEOUT,
        verify: !args.no_verify,
        stripe: STRIPE,
        dry_run: args.dry_run,
        whole,
    });
    let report = ops::restore(&app.context, &snapshot, request, &mut sink).await?;
    app.progress.end();
    reported(
        super::code(&report),
        show(app, args, &snapshot, (&report, &sink.summary())),
    )
}

/// Refuses what only means something for files.
fn refuse_for_files(args: &Args) -> Result<()> {
    let flags = [
        (args.delete, "--delete"),
        (args.privileged, "--privileged"),
        (args.numeric_owners, "--numeric-owners"),
        (args.verify, "--verify"),
        (args.overwrite != Replace::IfChanged, "--overwrite"),
        (args.snapshot.path.is_some(), "a path"),
    ];
    match flags.iter().find(|(given, _)| *given) {
        None => Ok(()),
        Some((_, flag)) => Err(
            Error::new(ErrorKind::Invalid, format!("{flag} is for restores of files")).hint(
                "a database is restored whole into an empty one, and compared; --include TABLE chooses rows",
            ),
        ),
    }
}

fn names(given: &[OsString]) -> Result<BTreeSet<TableName>> {
    let text = |name: &OsString| {
        let text = name
            .to_str()
            .ok_or_else(|| Error::new(ErrorKind::Invalid, "the name of a table is not UTF-8"))?;
        parse_table(text)
    };
    given.iter().map(text).collect()
}

fn show(
    app: &App,
    args: &Args,
    snapshot: &SnapshotReader,
    (report, summary): (&RestoreReport, &Summary),
) -> std::io::Result<()> {
    let sink = &report.sink;
    let rows: u64 = summary.tables.iter().map(|table| table.rows).sum();
    let bytes: u64 = summary.tables.iter().map(|table| table.bytes).sum();
    if app.json() {
        return render::line(&summary_line(args, snapshot, report, summary));
    }
    let mut text = String::new();
    if args.dry_run {
        for table in &summary.tables {
            let (rows, bytes) = (render::count(table.rows, "row"), render::bytes(table.bytes));
            let _ = writeln!(text, "{}  {rows}, {bytes}", escape(&table.name.to_string()));
        }
        for role in &summary.roles {
            let _ = writeln!(text, "role {}, without a password", escape(role));
        }
    }
    let _ = write!(
        text,
        "{} database {} of snapshot {} to {}: {}, {} ({}), {} in {}",
        if args.dry_run { "would restore" } else { "restored" },
        escape(&summary.source),
        snapshot.record().sid.short(),
        escape(&summary.target),
        render::count(summary.tables.len() as u64, "table"),
        render::count(rows, "row"),
        render::bytes(bytes),
        render::count(summary.statements, "statement"),
        render::seconds(report.seconds),
    );
    let counts = [
        (summary.refused, "statements REFUSED, see the warnings"),
        (
            sink.failed - summary.refused.min(sink.failed),
            "things FAILED, see the warnings",
        ),
        (summary.tables_different, "tables DIFFERENT from the snapshot"),
        (
            sink.different - summary.tables_different.min(sink.different),
            "sequences and large objects DIFFERENT from the snapshot",
        ),
        (report.lost, "parts of the snapshot LOST, see the warnings"),
    ];
    push_counts(&mut text, &counts);
    if !args.no_verify && !args.dry_run {
        let (compared, all) = (summary.compared, summary.tables.len());
        let (sequences, objects) = (summary.sequences, summary.large_objects);
        let _ = write!(text, "; the rows of {compared} of {all} tables");
        for (counted, what) in [(sequences, "sequences"), (objects, "large objects")] {
            if counted.all > 0 {
                let _ = write!(text, ", {} of {} {what}", counted.equal, counted.all);
            }
        }
        text.push_str(" compared equal");
    }
    text.push('\n');
    render::print(&text)
}

/// Whether everything that can be compared was, and is equal.
fn all_equal(summary: &Summary) -> bool {
    let equal = |counted: Counted| counted.equal == counted.all;
    summary.compared == summary.tables.len() as u64
        && equal(summary.sequences)
        && equal(summary.large_objects)
}

fn summary_line(args: &Args, snapshot: &SnapshotReader, report: &RestoreReport, summary: &Summary) -> Value {
    let sink = &report.sink;
    let rows: u64 = summary.tables.iter().map(|table| table.rows).sum();
    let bytes: u64 = summary.tables.iter().map(|table| table.bytes).sum();
    let table = |table: &TableSummary| json!({ "name": table.name.to_string(), "rows": table.rows, "bytes": table.bytes });
    json!({
        "message_type": "summary",
        "snapshot_id": snapshot.record().sid.name(),
        "snapshot_status": if snapshot.record().partial { "partial" } else { "complete" },
        "incidents": snapshot.record().incident_count,
        "dry_run": args.dry_run,
        "database": summary.source,
        "target_database": summary.target,
        "roles_created": summary.roles,
        "statements": summary.statements,
        "statements_refused": summary.refused,
        "tables": summary.tables.iter().map(table).collect::<Vec<_>>(),
        "rows": rows,
        "bytes_restored": bytes,
        "sequences": summary.sequences.all,
        "large_objects": summary.large_objects.all,
        "failed": sink.failed,
        "different": sink.different,
        "tables_different": summary.tables_different,
        "tables_compared_equal": summary.compared,
        "sequences_compared_equal": summary.sequences.equal,
        "large_objects_compared_equal": summary.large_objects.equal,
        "verified": !args.no_verify && !args.dry_run && all_equal(summary),
        "ranges_lost": report.lost,
        "total_duration": report.seconds,
    })
}
