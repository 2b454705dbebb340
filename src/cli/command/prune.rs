//! `holdall prune`, and what `forget --prune` does after it.

use crate::cli::app::App;
use crate::cli::exit::{DAMAGED, DONE, Ended, reported};
use crate::cli::parse;
use crate::cli::render;
use crate::cli::repo::{self, Access};
use crate::error::Result;
use crate::format::id::SessionId;
use crate::format::layout::ObjectName;
use crate::ops::{self, CollectOptions, PruneReport, PruneRequest, UntoldPack, Unused};
use crate::repository::Repository;
use crate::snapshot::SnapshotSpec;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// Arguments of `prune`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall prune --dry-run\n  \
    holdall prune\n  \
    holdall prune --max-unused 0 --max-repack 20G\n  \
    holdall prune --lost 4f2a91c07be3d2165a0c9d8e1b2f3a47\n\n\
    Frees what no snapshot needs any more. Any machine may run it at any time, while others take snapshots and restore: there is no lock \
    and nothing to unlock. What it would delete is published first; runs that were open then are waited for, and one that was not heard \
    of for the time of --lease is ended (it loses no data, its next run finds what it uploaded). If it is interrupted, the next prune \
    goes on, wherever it runs; if it was killed, its round is left alone for 25 hours (with a --lease above 24h: for the lease and an hour), or \
    taken over at once with --take-over (exit code 11 until then). What a store refuses to delete, because it keeps objects for a time, is counted as retained and tried \
    again next time; that is no failure. On a full local disk the space that init reserved is used for the work.\n\n\
    A snapshot is let go with `holdall forget`; what is protected, or retained by the repository, stays, and is told. One whose record cannot be read ends a \
    prune, as nobody can tell what it needs, until `holdall repair --from` has brought it back, or until it is let go by its full id. Where the \
    repository may retain it, and always where the disk does not give the record though it gives others, --lost must name it too: a disk may give tomorrow what it does not give \
    today, and what only that snapshot needs is deleted for good. So it is of a snapshot that was let go, that the repository retains, and of which something is lost. Say so again until the record is gone, with the second prune. A pack that no index run lists and whose head cannot be read stays, and is told: with exit code 13, until `holdall check --read-data` has set it aside.")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    pub(super) how: How,
    /// Take this snapshot for lost, by its full id: its record cannot be read, it was let go, and nobody can tell whether the repository retains it, or whether the disk
    /// gives it again (until the record is gone, by the second prune)
    #[arg(long, value_name = "ID", value_parser = full_id)]
    lost: Vec<String>,
    /// Only say what would be done; nothing is written or deleted
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// How a collection goes about it; `forget --prune` takes these too.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Freeing space")]
pub(super) struct How {
    /// What may stay of bytes that nobody needs, before the rest of their packs is copied: percent of what is needed, a size, or "unlimited" [default: 5%]
    #[arg(long, value_name = "AMOUNT", value_parser = unused)]
    max_unused: Option<Unused>,
    /// Copy at most so much
    #[arg(long, value_name = "SIZE", value_parser = parse::bytes)]
    max_repack: Option<u64>,
    /// End runs that were not heard of for so long [default: 24h]
    #[arg(long, value_name = "SPAN", value_parser = parse::seconds)]
    lease: Option<u64>,
    /// Do not leave another collector's round alone, however young it is
    #[arg(long)]
    take_over: bool,
    /// Go on though over 30 % of the snapshots or half of the bytes go
    #[arg(long)]
    confirm: bool,
    /// Nothing else writes here now: for stores that do not keep an object that is put twice
    #[arg(long)]
    exclusive: bool,
}

impl How {
    /// Whether anything of it was said.
    pub(super) fn is_given(&self) -> bool {
        let said = self.take_over || self.confirm || self.exclusive;
        said || self.max_unused.is_some() || self.max_repack.is_some() || self.lease.is_some()
    }

    pub(super) fn request(&self, dry_run: bool, also_forgotten: BTreeSet<SessionId>) -> PruneRequest {
        let defaults = CollectOptions::default();
        let lease = self.lease.map_or(defaults.lease, Duration::from_secs);
        PruneRequest {
            options: CollectOptions {
                max_unused: self.max_unused.unwrap_or(defaults.max_unused),
                max_repack: self.max_repack.unwrap_or(defaults.max_repack),
                lease,
                take_over: if self.take_over {
                    Duration::ZERO
                } else {
                    CollectOptions::patience(lease)
                },
                dry_run,
                also_forgotten,
                ..defaults
            },
            confirmed: self.confirm,
            exclusive: self.exclusive,
        }
    }
}

/// All 32 digits of a snapshot's id.
fn full_id(text: &str) -> Result<String, String> {
    let spec = text.parse::<SnapshotSpec>().ok();
    let name = spec.as_ref().and_then(SnapshotSpec::full_name).map(str::to_owned);
    name.ok_or_else(|| "the full id of a snapshot has 32 digits".to_owned())
}

/// `5%`, `10G`, `unlimited`.
fn unused(text: &str) -> Result<Unused, String> {
    if text == "unlimited" {
        return Ok(Unused::Unlimited);
    }
    match text.strip_suffix('%') {
        Some(percent) => percent
            .parse()
            .map(Unused::Percent)
            .map_err(|_| "a share is a number with % behind it, such as 5%".to_owned()),
        None => parse::bytes(text).map(Unused::Bytes),
    }
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    let access = if args.dry_run {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    };
    let repository = repo::open(app, access).await?;
    let mut request = args.how.request(args.dry_run, BTreeSet::new());
    request.options.lost = args.lost.into_iter().collect();
    collect(app, &repository, &request).await
}

/// Collects and tells.
pub(super) async fn collect(app: &App, repository: &Repository, request: &PruneRequest) -> Ended {
    let report = ops::prune(&app.context, repository, request).await?;
    app.progress.end();
    let mut untold = report.plan.untold_packs.values();
    let code = if untold.all(|pack| pack.is_aside) {
        DONE
    } else {
        DAMAGED
    };
    reported(code, tell(app, &report))
}

fn tell(app: &App, report: &PruneReport) -> std::io::Result<()> {
    if app.json() {
        return render::line(&value(report));
    }
    for (sid, why) in &report.plan.kept_in_spite {
        app.warning(&format!(
            "snapshot {} was let go, and stays nevertheless: {why}",
            sid.short()
        ));
    }
    for (id, UntoldPack { why, is_aside }) in &report.plan.untold_packs {
        let next = if *is_aside {
            "it is set aside, and nothing rests on it"
        } else {
            "`holdall check --read-data` sets it aside"
        };
        app.warning(&format!(
            "{} stays: no index run lists it, and who made it cannot be read ({why}); {next}",
            ObjectName::Pack(*id)
        ));
    }
    render::print(&text(report))
}

/// The plan, for people: a run says the same of it as a dry run.
fn plan_text(report: &PruneReport) -> String {
    let plan = &report.plan;
    let bytes = render::bytes;
    let mut text = String::new();
    let going = plan.snapshots_going.len() as u64;
    text.push_str(&format!(
        "{} kept, {} let go\n",
        render::count(plan.snapshots_kept, "snapshot"),
        going,
    ));
    text.push_str(&format!(
        "{} ({}) with nothing that is needed, {} ({}) with too little: {} copied\n",
        render::count(plan.dead_packs, "pack"),
        bytes(plan.dead_bytes),
        render::count(plan.repack_packs, "pack"),
        bytes(plan.repack_bytes),
        bytes(plan.copied_bytes),
    ));
    let freed = plan.dead_bytes + plan.repack_bytes - plan.copied_bytes;
    text.push_str(&format!(
        "{} of {} {}; of what stays nobody needs {}\n",
        bytes(freed),
        bytes(plan.pack_bytes),
        if report.dry_run {
            "would be freed"
        } else {
            "were to be freed"
        },
        bytes(plan.unused_bytes),
    ));
    text
}

/// For people.
fn text(report: &PruneReport) -> String {
    let plan = &report.plan;
    let bytes = render::bytes;
    let mut text = plan_text(report);
    if report.dry_run {
        if plan.unfinished > 0 {
            text.push_str(&format!(
                "{} ({}) are left of an earlier collection\n",
                render::count(plan.unfinished, "object"),
                bytes(plan.unfinished_bytes),
            ));
        }
        if plan.is_large {
            text.push_str(
                "more than 30 % of the snapshots or half of the bytes would go: that needs --confirm\n",
            );
        }
        text.push_str("nothing was written or deleted\n");
        return text;
    }
    match &report.round {
        None => text.push_str("there was nothing to do\n"),
        Some(round) => text.push_str(&format!(
            "round {}: {} killed, {} spared after all; {} became {}\n",
            round.number,
            render::count(round.dead_packs, "pack"),
            round.reprieved_packs,
            render::count(round.runs_absorbed, "index run"),
            round.runs_new,
        )),
    }
    let swept = &report.swept;
    text.push_str(&format!(
        "deleted {} ({}), {}\n",
        render::count(swept.deleted, "object"),
        bytes(swept.bytes),
        render::seconds(report.seconds),
    ));
    if swept.retained > 0 {
        text.push_str(&format!(
            "retained: the store does not let go of {} ({}) yet; the next collection tries again\n",
            render::count(swept.retained, "object"),
            bytes(swept.retained_bytes),
        ));
    }
    text
}

fn value(report: &PruneReport) -> Value {
    let plan = &report.plan;
    let going: Vec<_> = plan.snapshots_going.iter().map(SessionId::name).collect();
    let kept = plan.kept_in_spite.iter();
    let kept: Vec<_> = kept
        .map(|(sid, why)| json!({"id": sid.name(), "why": why}))
        .collect();
    let fenced: Vec<_> = report.fenced.iter().map(SessionId::name).collect();
    let round = report.round.as_ref().map(|round| {
        json!({
            "number": round.number,
            "dead_packs": round.dead_packs,
            "reprieved_packs": round.reprieved_packs,
            "new_packs": round.new_packs,
            "new_bytes": round.new_bytes,
            "runs_absorbed": round.runs_absorbed,
            "runs_new": round.runs_new,
            "notes": round.notes,
        })
    });
    json!({
        "message_type": "summary",
        "dry_run": report.dry_run,
        "snapshots_kept": plan.snapshots_kept,
        "snapshots_going": going,
        "kept_in_spite": kept,
        "packs": plan.packs,
        "pack_bytes": plan.pack_bytes,
        "untold_packs": plan.untold_packs.iter().map(|(id, pack)| json!({"object": ObjectName::Pack(*id).to_string(), "why": pack.why.to_string(), "set_aside": pack.is_aside})).collect::<Vec<_>>(),
        "dead_packs": plan.dead_packs,
        "dead_bytes": plan.dead_bytes,
        "repack_packs": plan.repack_packs,
        "repack_bytes": plan.repack_bytes,
        "copied_bytes": plan.copied_bytes,
        "unused_bytes": plan.unused_bytes,
        "unfinished": plan.unfinished,
        "unfinished_bytes": plan.unfinished_bytes,
        "index_runs": plan.runs,
        "nodes_read": plan.nodes_read,
        "references_used": plan.references_used,
        "needed": plan.is_needed,
        "needs_confirm": plan.is_large,
        "round": round,
        "fenced_sessions": fenced,
        "deleted": report.swept.deleted,
        "deleted_bytes": report.swept.bytes,
        "retained": report.swept.retained,
        "retained_bytes": report.swept.retained_bytes,
        "total_duration": report.seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        how: How,
    }

    #[test]
    fn a_round_of_another_is_left_alone_for_the_lease_and_an_hour_but_never_for_less_than_25_hours() {
        let hours = |arguments: &[&str]| {
            let line = ["prune"].iter().chain(arguments);
            let how = Line::try_parse_from(line).unwrap().how;
            how.request(false, BTreeSet::new()).options.take_over.as_secs() / 3600
        };
        assert_eq!(hours(&[]), 25);
        assert_eq!(hours(&["--lease", "72h"]), 73);
        assert_eq!(hours(&["--lease", "1h"]), 25);
        assert_eq!(hours(&["--lease", "72h", "--take-over"]), 0);
    }
}
