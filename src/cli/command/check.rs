//! `holdall check`.

use crate::cli::app::App;
use crate::cli::exit::{DAMAGED, DONE, Ended, reported};
use crate::cli::repo::{self, Access};
use crate::cli::{parse, render};
use crate::ops::{self, CheckReport, CheckRequest, ReadData};
use crate::repository::{Finding, SurveyReport};
use serde_json::{Value, json};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall check\n  \
    holdall check --read-data\n  \
    holdall check --max-age 30d --max-duration 1h   (every night: all data is read once a month, an hour at a time)\n  \
    holdall check --read-data-subset 3/30           (the third of thirty parts)\n  \
    holdall check --no-key                          (where a copy is kept and no key is)\n\n\
    Without --read-data, everything but the content of data packs is read. Exit code 13 means damage; each finding names the \
    object, and the snapshots and paths that it hits. Which packs were found right, and when, is written into the repository, and so \
    are those that are damaged: the next snapshot stores anew what they held. They are looked at by every check; once all of it is stored \
    elsewhere, that is told and is no error, and `holdall prune` removes them. With credentials that can only read, the check is the \
    same and nothing is remembered. --no-key proves names, headers and hashes of all objects; what they say is not known without a key.")]
pub(in crate::cli) struct Args {
    /// Read and verify all data
    #[arg(long, conflicts_with = "read_data_subset")]
    read_data: bool,
    /// Read and verify a part of the data: N/T, or P% chosen anew each time
    #[arg(long, value_name = "PART", value_parser = parse::part)]
    read_data_subset: Option<ReadData>,
    /// Of the data, read only what nobody has verified for so long (30d, 12w, 36h)
    #[arg(long, value_name = "AGE", value_parser = parse::seconds)]
    max_age: Option<u64>,
    /// Stop reading data after this time (45m, 2h); the next such check goes on with what was verified longest ago
    #[arg(long, value_name = "TIME", value_parser = parse::seconds)]
    max_duration: Option<u64>,
    /// Without any key, verify what can be verified without
    #[arg(long, conflicts_with_all = ["max_age", "max_duration"])]
    no_key: bool,
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    let limited = args.max_age.is_some() || args.max_duration.is_some() || args.no_key;
    let read_data = match args.read_data_subset {
        Some(part) => part,
        None if args.read_data || limited => ReadData::All,
        None => ReadData::None,
    };
    let report = if args.no_key {
        let store = repo::store(app, Access::ReadOnly)?;
        ops::check_without_key(&app.context, &store, read_data).await?
    } else {
        let request = CheckRequest {
            read_data,
            max_age: args.max_age,
            max_duration: args.max_duration,
        };
        let repository = repo::open(app, Access::ReadWrite).await?;
        ops::check(&app.context, &repository, request).await?
    };
    app.progress.end();
    let code = if report.is_damaged() { DAMAGED } else { DONE };
    let told = if app.json() {
        show_json(&report, args.no_key)
    } else {
        show(app, &report, args.no_key)
    };
    reported(code, told)
}

fn show_json(report: &CheckReport, no_key: bool) -> std::io::Result<()> {
    let survey = &report.survey;
    for finding in &report.findings {
        let hit = finding.hit.as_ref();
        render::line(&json!({
            "message_type": if finding.is_error { "error" } else { "note" },
            "object": finding.object,
            "message": finding.what,
            "snapshots": hit.map(|hit| &hit.snapshots),
            "num_snapshots": hit.map(|hit| hit.snapshots_all),
            "paths": hit.map(|hit| &hit.paths),
            "more_paths": hit.map(|hit| hit.more_paths),
            "mend": mend(finding),
        }))?;
    }
    let reads = survey.reads.as_ref();
    render::line(&json!({
        "message_type": "summary",
        "num_errors": errors(report),
        "with_key": !no_key,
        "snapshots": if no_key { Value::Null } else { report.snapshots.into() },
        "broken_snapshots": report.snapshots_hit,
        "objects": survey.objects,
        "packs": survey.packs,
        "packs_read": survey.packs_read,
        "packs_left": survey.packs_left,
        "bytes_left": survey.bytes_left,
        "packs_never_read": reads.map(|reads| reads.never),
        "oldest_read": reads.and_then(|reads| reads.oldest).map(crate::context::Time::to_rfc3339),
        "broken_packs": survey.bad_packs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "bytes_read": survey.bytes_read,
        "blobs_verified": survey.blobs_verified,
        "packs_unlisted": survey.packs_unlisted,
        "bytes_unlisted": survey.bytes_unlisted,
        "objects_void": survey.objects_void,
        "bytes_void": survey.bytes_void,
        "total_duration": report.seconds,
    }))
}

fn errors(report: &CheckReport) -> u64 {
    report.findings.iter().filter(|f| f.is_error).count() as u64
}

/// The command that mends what was found, if one can.
fn mend(finding: &Finding) -> Option<&'static str> {
    let (folder, _) = finding.object.split_once('/')?;
    match folder {
        _ if !finding.is_error => None,
        // Set aside now: nothing is to be stored again.
        "packs" | "snapshots" if finding.is_elsewhere => Some("holdall prune"),
        "packs" | "index" => Some("holdall repair"),
        "snapshots" => Some("holdall repair --from LOCATION"),
        _ => None,
    }
}

/// What a finding hits: `; 3 snapshots need it (4f2a91c0, …): /srv/a, public.orders and others`.
fn hits(finding: &Finding) -> String {
    /// Snapshots that are named to people.
    const NAMED: usize = 5;
    let Some(hit) = &finding.hit else {
        return String::new();
    };
    let short = |name: &String| name.chars().take(8).collect::<String>();
    let mut named: Vec<String> = hit.snapshots.iter().take(NAMED).map(short).collect();
    if hit.snapshots_all > NAMED as u64 {
        named.push("…".into());
    }
    let need = if hit.snapshots_all == 1 { "needs" } else { "need" };
    let mut text = format!(
        "; {} {need} it ({})",
        render::count(hit.snapshots_all, "snapshot"),
        named.join(", ")
    );
    if !hit.paths.is_empty() {
        text.push_str(&format!(": {}", hit.paths.join(", ")));
    }
    if hit.more_paths {
        text.push_str(" and others");
    }
    text
}

fn show(app: &App, report: &CheckReport, no_key: bool) -> std::io::Result<()> {
    let survey = &report.survey;
    for finding in &report.findings {
        let text = format!("{}: {}{}", finding.object, finding.what, hits(finding));
        if finding.is_error {
            app.warning(&text);
        } else {
            app.note(&text);
        }
    }
    let errors = errors(report);
    if no_key {
        let mut text = format!(
            "checked {} without a key: {} read, {} of {} among it, {}\n",
            render::count(survey.objects, "object"),
            render::bytes(survey.bytes_read),
            survey.packs_read,
            render::count(survey.packs, "pack"),
            render::seconds(report.seconds),
        );
        text.push_str(&match errors {
            0 => "no errors were found; whether what is sealed belongs together, only a key can tell\n"
                .to_owned(),
            n => format!("{}\n", render::count(n, "error")),
        });
        return render::print(&text);
    }
    let mut text = format!(
        "checked {} and {}: {} of {} read ({}), {} verified, {}\n",
        render::count(report.snapshots, "snapshot"),
        render::count(survey.objects, "object"),
        survey.packs_read,
        render::count(survey.packs, "pack"),
        render::bytes(survey.bytes_read),
        render::count(survey.blobs_verified, "blob"),
        render::seconds(report.seconds),
    );
    text.push_str(&still_to_read(survey));
    text.push_str(&leavings(survey));
    text.push_str(&match (errors, report.snapshots_hit.len() as u64) {
        (0, _) => "no errors were found\n".to_owned(),
        (n, 0) if report.knows_snapshots() => format!(
            "{}; no snapshot is known to be hit\n",
            render::count(n, "error")
        ),
        (n, 0) => format!(
            "{}; no snapshot that can be read is known to be hit, and nobody can tell whether there were others\n",
            render::count(n, "error")
        ),
        (n, hit) => format!(
            "{}; {} of {} not restore wholly\n",
            render::count(n, "error"),
            hit,
            format_args!(
                "{} {}",
                render::count(report.snapshots, "snapshot"),
                if hit == 1 { "does" } else { "do" }
            ),
        ),
    });
    let commands: std::collections::BTreeSet<_> = report.findings.iter().filter_map(mend).collect();
    for command in commands {
        text.push_str(&format!("`{command}` mends what can be; --dry-run tells what\n"));
    }
    render::print(&text)
}

/// What was not read for want of time, and how old the oldest look at data is.
fn still_to_read(survey: &SurveyReport) -> String {
    let mut text = String::new();
    if survey.packs_left > 0 {
        text.push_str(&format!(
            "the time was up: {} ({}) are still to be read, and the next check with --max-duration goes on with them\n",
            render::count(survey.packs_left, "pack"),
            render::bytes(survey.bytes_left),
        ));
    }
    match &survey.reads {
        Some(reads) if reads.never > 0 => {
            text.push_str(&format!(
                "never verified yet: {}\n",
                render::count(reads.never, "pack")
            ));
        }
        Some(crate::repository::Reads {
            oldest: Some(oldest), ..
        }) => {
            text.push_str(&format!(
                "all data was verified since {}\n",
                render::local_time(*oldest)
            ));
        }
        _ => {}
    }
    text
}

/// What takes space and is of no use, or not yet.
fn leavings(survey: &SurveyReport) -> String {
    let mut text = String::new();
    if survey.packs_unlisted > 0 {
        text.push_str(&format!(
            "{} ({}) wait for the next run: an interrupted one left them\n",
            render::count(survey.packs_unlisted, "pack"),
            render::bytes(survey.bytes_unlisted),
        ));
    }
    if survey.objects_void > 0 {
        text.push_str(&format!(
            "{} ({}) count no more and wait for `holdall prune` to delete them\n",
            render::count(survey.objects_void, "object"),
            render::bytes(survey.bytes_void),
        ));
    }
    text
}
