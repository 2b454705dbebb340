//! `holdall repair`.

use crate::cli::app::App;
use crate::cli::exit::{DAMAGED, DONE, Ended, reported};
use crate::cli::render;
use crate::cli::repo::{self, Access};
use crate::cli::second;
use crate::format::id::SessionId;
use crate::ops::{self, RepairReport, RepairRequest};
use crate::repository::ReadData;
use crate::store::Location;
use serde_json::{Value, json};
use std::fmt::Write;

/// Arguments of `repair`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall repair --dry-run                         # says what would be done\n  \
    holdall repair --from s3://offsite/shop          # brings what is lost here from a replica\n\n\
    All data is read to find what is damaged. Index runs that are lost are made anew from the packs. Packs that are missing or damaged are set aside: nothing rests on them any more, \
    and what can be read of them, or of a replica, is stored again. What is lost for good is told by snapshots and entries; a new snapshot of \
    the same data stores it again, which heals the old ones too. Nothing is deleted, by no repair: what was set aside goes with the next prune. \
    A snapshot whose own record is lost comes back under another id, if it was made here and this machine's cache has the record, or the replica the snapshot.\n\n\
    The replica is reached as `holdall copy` reaches it, with HOLDALL_COPY_… variables, and it is only read. Exit code 13 means that something \
    is still lost.")]
pub(in crate::cli) struct Args {
    /// Heal from this replica of the repository
    #[arg(long, value_name = "LOCATION")]
    from: Option<String>,
    /// Do not read the data to find what is damaged: mend what is missing, and what was noted as damaged before
    #[arg(long)]
    known: bool,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    let from = args.from.as_deref().map(Location::parse).transpose()?;
    let access = if args.dry_run {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    };
    let repository = repo::open(app, access).await?;
    let from = match &from {
        Some(from) => Some(second::open_replica(app, from, &repository).await?),
        None => None,
    };
    let request = RepairRequest {
        host: super::host(None)?,
        read_data: if args.known { ReadData::None } else { ReadData::All },
        dry_run: args.dry_run,
    };
    let report = ops::repair(&app.context, &repository, from.as_ref(), &request).await?;
    app.progress.end();
    let code = if report.is_damaged() { DAMAGED } else { DONE };
    reported(code, tell(app, &report, (from.is_some(), args.known)))
}

fn tell(app: &App, report: &RepairReport, how: (bool, bool)) -> std::io::Result<()> {
    if app.json() {
        return render::line(&value(report));
    }
    for (object, why) in report.bad_packs.iter().chain(&report.damaged) {
        app.warning(&format!("{object} {why}"));
    }
    if let Some(why) = &report.not_set_aside {
        app.warning(&format!(
            "packs that are missing or damaged could not be set aside, and what is stored from now on may rest on them: let this machine write \
             below `ledger/`, and repair again ({why})"
        ));
    }
    render::print(&text(report, how))
}

/// For people.
fn text(report: &RepairReport, (with_replica, known_only): (bool, bool)) -> String {
    let mut text = String::new();
    let would = if report.dry_run { "would be " } else { "" };
    if !report.bad_packs.is_empty() && report.not_set_aside.is_none() {
        let packs = render::count(report.bad_packs.len() as u64, "pack");
        let _ = if report.dry_run {
            writeln!(text, "would set aside: {packs} missing or damaged")
        } else {
            writeln!(
                text,
                "set aside: {packs} missing or damaged; the next prune removes what is left"
            )
        };
    }
    if report.packs_listed > 0 {
        let packs = render::count(report.packs_listed, "pack");
        let _ = writeln!(text, "{packs} {would}listed again");
    }
    if report.blobs_stored > 0 {
        let _ = writeln!(
            text,
            "{} ({}) {would}stored again, {} of them from the replica",
            render::count(report.blobs_stored, "blob"),
            render::bytes(report.bytes_stored),
            report.blobs_from_replica,
        );
    }
    tell_snapshots(&mut text, report);
    if !report.has_work() && !report.is_damaged() {
        text.push_str(if known_only {
            "nothing that snapshots need is known to be lost; the data was not read\n"
        } else {
            "every snapshot can be restored; there was nothing to do\n"
        });
    }
    for hit in &report.hit {
        let _ = write!(text, "snapshot {} is still hit:", render::bold(&hit.sid.short()));
        if hit.nodes_hit > 0 {
            let parts = render::count(hit.nodes_hit, "part");
            let _ = write!(text, " {parts} of its tree with all entries below;");
        }
        if hit.entries_hit > 0 {
            let entries = render::count(hit.entries_hit, "entry");
            let _ = write!(text, " {entries}: {}", hit.entries.join(", "));
        }
        let more = hit.entries_hit.saturating_sub(hit.entries.len() as u64);
        if more > 0 {
            let _ = write!(text, " and {more} more");
        }
        text.push('\n');
    }
    for sid in &report.unreadable {
        let _ = writeln!(text, "the record of snapshot {} cannot be read", sid.short());
    }
    if report.has_loss() {
        text.push_str(if with_replica {
            "a new snapshot of the same data heals what it holds too\n"
        } else {
            "a replica (--from), or a new snapshot of the same data, may heal it\n"
        });
    }
    if report.dry_run {
        text.push_str("nothing was written\n");
    }
    text
}

/// What became of snapshots whose records could not be read.
fn tell_snapshots(text: &mut String, report: &RepairReport) {
    let would = if report.dry_run { "would be " } else { "" };
    if !report.snapshots_back.is_empty() {
        let snapshots = render::count(report.snapshots_back.len() as u64, "snapshot");
        let _ = writeln!(text, "{snapshots} {would}brought back, under other ids");
    }
    let not_given = &report.snapshots_not_given;
    let there = report.snapshots_there.iter();
    let there = there.filter(|sid| !not_given.contains(sid)).count() as u64;
    if there > 0 {
        let snapshots = render::count(there, "snapshot");
        let _ = writeln!(
            text,
            "{snapshots} with an unreadable record came back before, under other ids; the next prune removes the records"
        );
    }
    // What is lost for good is told as such.
    for sid in not_given.iter().filter(|sid| !report.unreadable.contains(sid)) {
        let name = sid.name();
        let _ = writeln!(
            text,
            "the disk may give the record of snapshot {name} again: a prune goes on without it after `holdall forget {name}`, with `holdall prune --lost {name}`"
        );
    }
    if !report.snapshots_let_go.is_empty() {
        let snapshots = render::count(report.snapshots_let_go.len() as u64, "snapshot");
        let _ = writeln!(
            text,
            "{snapshots} with an unreadable record had been let go, and stay so"
        );
    }
}

fn value(report: &RepairReport) -> Value {
    let object = |(object, why): &(String, String)| json!({"object": object, "why": why});
    let hit = report.hit.iter().map(|hit| {
        json!({
            "id": hit.sid.name(),
            "entries": hit.entries,
            "entries_hit": hit.entries_hit,
            "nodes_hit": hit.nodes_hit,
        })
    });
    let names = |sids: &[SessionId]| sids.iter().map(SessionId::name).collect::<Vec<_>>();
    json!({
        "message_type": "summary",
        "dry_run": report.dry_run,
        "damaged_packs": report.bad_packs.iter().map(object).collect::<Vec<_>>(),
        "damaged_objects": report.damaged.iter().map(object).collect::<Vec<_>>(),
        "packs_listed": report.packs_listed,
        "blobs_stored": report.blobs_stored,
        "bytes_stored": report.bytes_stored,
        "blobs_from_replica": report.blobs_from_replica,
        "snapshots_back": names(&report.snapshots_back),
        "snapshots_there": names(&report.snapshots_there),
        "snapshots_let_go": names(&report.snapshots_let_go),
        "snapshots_not_given": names(&report.snapshots_not_given),
        "snapshots_hit": hit.collect::<Vec<_>>(),
        "snapshots_unreadable": names(&report.unreadable),
        "not_set_aside": report.not_set_aside,
        "total_duration": report.seconds,
    })
}
