//! `holdall copy`, and what `snapshot --copy-to` does after its run.

use super::Filter;
use crate::cli::app::App;
use crate::cli::exit::{DAMAGED, DONE, Ended, INCOMPLETE, reported};
use crate::cli::repo::{self, Access};
use crate::cli::second::{Missing, Opened, Second};
use crate::cli::{environment, parse, render};
use crate::context::Time;
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::SessionId;
use crate::format::snapshot::SnapshotRecord;
use crate::ops::{self, CopyReport, CopyRequest, Lag};
use crate::repository::Repository;
use crate::snapshot::SnapshotSpec;
use crate::store::Location;
use serde_json::{Value, json};
use std::fmt::Write;

/// Snapshots that are named in a report for people.
const NAMED_MAX: usize = 10;

/// Arguments of `copy`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall copy --to /mnt/usb/shop --init           # makes a replica, and copies everything\n  \
    holdall copy --to s3://offsite/shop              # copies what is missing there\n  \
    holdall copy latest:shop --to s3://offsite/shop --dry-run\n\n\
    A replica has the same keys: packs are copied as they are, only those that are missing, and it restores without the first repository. \
    Any repository that was made with `holdall init` can be copied into too; it has keys of its own, and everything is encrypted again. \
    Run it as often as you like: what is there is not copied again, and what an interrupted copy left is used. Nothing is ever deleted \
    by a copy, here or there; what was let go there stays so as long as it can be seen there (until prune), so let each repository forget \
    by rules of its own, and choose what is copied. Tags, protection, descriptions and age go with the \
    snapshots, later changes too unless it was changed there after that; protection is only added. The first repository is only read.\n\n\
    The second repository is reached with the same S3 variables as the first, unless one of HOLDALL_COPY_S3_ENDPOINT, \
    HOLDALL_COPY_ACCESS_KEY_ID, HOLDALL_COPY_SECRET_ACCESS_KEY, HOLDALL_COPY_SESSION_TOKEN (each key also with _FILE) and \
    HOLDALL_COPY_REGION is set: then only these count. Exit code 13 means that the first repository is damaged, or the second: the snapshots \
    that need what is lost were not copied, all others were. It stands for whatever else went wrong. `holdall status --copy-to` tells how far \
    the second is behind.")]
pub(in crate::cli) struct Args {
    /// Which snapshots [default: all]
    #[arg(value_name = "SNAPSHOT", value_parser = parse::snapshot())]
    snapshots: Vec<SnapshotSpec>,
    /// Where to: a directory, or s3://bucket/prefix [env: HOLDALL_COPY_REPOSITORY]
    #[arg(long, value_name = "LOCATION")]
    to: Option<String>,
    /// Make a replica there, if there is no repository yet
    #[arg(long)]
    init: bool,
    /// Only say what would be copied
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    second: Second,
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    let to = match args.to.clone() {
        Some(to) => to,
        None => environment::text("HOLDALL_COPY_REPOSITORY")?.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "it is not said where to copy to")
                .hint("give --to LOCATION, or set HOLDALL_COPY_REPOSITORY")
        })?,
    };
    let to = Location::parse(&to)?;
    let source = repo::open(app, Access::ReadOnly).await?;
    let missing = match (args.init, args.dry_run) {
        (true, true) => Missing::Leave,
        (true, false) => Missing::Make,
        (false, _) => Missing::Refuse,
    };
    let access = if args.dry_run {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    };
    let target = args.second.open(app, &to, &source, (access, missing)).await?;
    let request = CopyRequest {
        snapshots: args.snapshots,
        filter: args.filter.to_filter(),
        host: super::host(None)?,
        dry_run: args.dry_run,
    };
    copy(app, (&source, &target), &to, &request).await
}

/// Copies one snapshot that was just made. Whatever happens, that one stays.
pub(super) async fn after(
    app: &App,
    source: &Repository,
    (to, second): (&Location, &Second),
    snapshot: &SnapshotRecord,
) -> Ended {
    let copied = async {
        let how = (Access::ReadWrite, Missing::Refuse);
        let target = second.open(app, to, source, how).await?.repository;
        let request = CopyRequest {
            snapshots: vec![snapshot.sid.name().parse()?],
            host: super::host(None)?,
            ..CopyRequest::default()
        };
        let report = ops::copy(&app.context, source, target.as_ref(), &request).await?;
        Ok(report)
    };
    let copied: Result<CopyReport> = copied.await;
    match copied {
        Ok(report) => end(app, "copy_summary", &report, to),
        Err(error) => {
            let what = format!(
                "snapshot {} is made, but it was not copied to {to}",
                snapshot.sid.short()
            );
            let hint = error
                .advice()
                .unwrap_or("`holdall copy` brings what is missing there");
            Err(Error::new(error.kind(), what)
                .hint(hint.to_owned())
                .because(error)
                .into())
        }
    }
}

async fn copy(
    app: &App,
    (source, target): (&Repository, &Opened),
    to: &Location,
    request: &CopyRequest,
) -> Ended {
    let report = ops::copy(&app.context, source, target.repository.as_ref(), request).await;
    let mut report = report.map_err(|error| {
        if error.kind() == ErrorKind::Cancelled && error.advice().is_none() {
            return error.hint("run the same command again: what was copied is found and not copied twice");
        }
        error
    })?;
    let left_out = target.left_out.iter();
    report.keys_left_out = left_out
        .map(|(name, why)| (name.to_string(), render::with_causes(why)))
        .collect();
    end(app, "summary", &report, to)
}

fn end(app: &App, kind: &str, report: &CopyReport, to: &Location) -> Ended {
    app.progress.end();
    for (pack, why) in &report.bad_packs {
        app.warning(&format!("of the first repository {pack} is damaged: {why}"));
    }
    for (object, why) in &report.damaged {
        app.warning(&format!(
            "of the first repository {object} cannot be read, and a snapshot, or what is said of one, may be missing here: {why}"
        ));
    }
    for (object, why) in &report.damaged_there {
        app.warning(&format!(
            "of the second repository {object} cannot be read; `holdall check` there tells what it means: {why}"
        ));
    }
    for failed in &report.failed {
        app.warning(&format!(
            "snapshot {} was not copied: {}",
            failed.record.sid.short(),
            render::with_causes(&failed.why)
        ));
    }
    if let Some(error) = &report.stopped {
        app.warning(&format!(
            "the copy ended before every snapshot was tried: {}",
            render::with_causes(error)
        ));
    }
    // Damage is the worst that can be told, wherever it stands: whoever only looks at the code must learn of it.
    let code = match report.failed.len() {
        _ if report.is_damaged() => DAMAGED,
        0 => DONE,
        _ => INCOMPLETE,
    };
    let told = if app.json() {
        render::line(&value(kind, report, to))
    } else {
        render::print(&text(report, to))
    };
    reported(code, told)
}

/// For people.
fn text(report: &CopyReport, to: &Location) -> String {
    let mut text = String::new();
    let copied = report.copied.len() as u64;
    let there = match report.there {
        0 => String::new(),
        n => format!(", {n} there already"),
    };
    let let_go = match report.let_go {
        0 => String::new(),
        n => format!(", {n} let go there"),
    };
    let snapshots = render::count(copied, "snapshot");
    if report.dry_run {
        let _ = write!(text, "would copy {snapshots} to {to}{there}{let_go}");
        if let Some((packs, bytes)) = report.planned {
            let _ = write!(
                text,
                ": {} ({})",
                render::count(packs, "pack"),
                render::bytes(bytes)
            );
        }
        text.push_str("\nnothing was written\n");
    } else if copied == 0 && report.failed.is_empty() {
        let _ = writeln!(text, "nothing to copy to {to}{there}{let_go}");
    } else {
        let bytes: u64 = report.copied.iter().map(|copied| copied.bytes_stored).sum();
        let how = if report.same_keys {
            "as they are"
        } else {
            "encrypted again"
        };
        let _ = writeln!(
            text,
            "copied {snapshots} to {to}, {how}{there}{let_go}: stored {}, {}",
            render::bytes(bytes),
            render::seconds(report.seconds),
        );
    }
    if report.noted > 0 {
        let _ = writeln!(
            text,
            "brought notes of {} that were made since",
            render::count(report.noted, "snapshot")
        );
    }
    text.push_str(&lag(&report.lag));
    text
}

/// How far the second repository is behind, for people.
pub(super) fn lag(lag: &Lag) -> String {
    let mut text = match lag.newest_there {
        None => "no snapshot is there\n".to_owned(),
        Some(time) => format!("the newest there is of {}", render::local_time(time)),
    };
    if let (Some(age), Some(behind)) = (lag.age, lag.behind) {
        let _ = write!(text, ", {} old", render::seconds(age));
        if behind > 0.0 {
            let _ = write!(text, ", {} behind", render::seconds(behind));
        }
        text.push('\n');
    }
    if !lag.missing.is_empty() {
        let named: Vec<_> = lag
            .missing
            .iter()
            .rev()
            .take(NAMED_MAX)
            .map(SessionId::short)
            .collect();
        let more = match lag.missing.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            n => format!(" and {n} older"),
        };
        let count = render::count(lag.missing.len() as u64, "snapshot");
        let _ = writeln!(text, "missing there: {count} ({}{more})", named.join(", "));
    }
    text
}

fn value(kind: &str, report: &CopyReport, to: &Location) -> Value {
    let copied = report.copied.iter().map(|copied| {
        json!({
            "id": copied.record.sid.name(),
            "copy": copied.sid.map(|sid| sid.name()),
            "time": copied.record.started.to_rfc3339(),
            "bytes_stored": copied.bytes_stored,
        })
    });
    let failed = report
        .failed
        .iter()
        .map(|failed| json!({"id": failed.record.sid.name(), "why": failed.why.to_string()}));
    let object = |(object, why): &(String, String)| json!({"object": object, "why": why});
    let missing = report.lag.missing.iter().map(SessionId::name);
    json!({
        "message_type": kind,
        "to": to.to_string(),
        "dry_run": report.dry_run,
        "same_keys": report.same_keys,
        "copied": copied.collect::<Vec<_>>(),
        "already_there": report.there,
        "let_go_there": report.let_go,
        "notes_added": report.noted,
        "failed": failed.collect::<Vec<_>>(),
        "damaged_packs": report.bad_packs.iter().map(object).collect::<Vec<_>>(),
        "keys_left_out": report.keys_left_out.iter().map(object).collect::<Vec<_>>(),
        "damaged_objects": report.damaged.iter().map(object).collect::<Vec<_>>(),
        "damaged_there": report.damaged_there.iter().map(object).collect::<Vec<_>>(),
        "stopped": report.stopped.as_ref().map(ToString::to_string),
        "planned_packs": report.planned.map(|(packs, _)| packs),
        "planned_bytes": report.planned.map(|(_, bytes)| bytes),
        "missing_there": missing.collect::<Vec<_>>(),
        "newest_there": report.lag.newest_there.map(Time::to_rfc3339),
        "newest_there_age": report.lag.age,
        "behind": report.lag.behind,
        "total_duration": report.seconds,
    })
}
