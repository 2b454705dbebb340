//! `holdall check`.

use crate::cli::app::App;
use crate::cli::exit::{DAMAGED, DONE, Ended, reported};
use crate::cli::repo::{self, Access};
use crate::cli::{parse, render};
use crate::ops::{self, CheckReport, CheckRequest, ReadData};
use crate::repository::SurveyReport;
use serde_json::json;

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall check\n  \
    holdall check --read-data\n  \
    holdall check --read-data-subset 3/30   (the third of thirty parts: all of it in a month of nights)\n\n\
    Without --read-data, everything but the content of data packs is read. Exit code 13 means damage; each finding names the \
    object and what of which snapshot it hits.")]
pub(in crate::cli) struct Args {
    /// Read and verify all data
    #[arg(long, conflicts_with = "read_data_subset")]
    read_data: bool,
    /// Read and verify a part of the data: N/T, or P% chosen anew each time
    #[arg(long, value_name = "PART", value_parser = parse::part)]
    read_data_subset: Option<ReadData>,
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    let read_data = match (args.read_data, args.read_data_subset) {
        (true, _) => ReadData::All,
        (false, Some(part)) => part,
        (false, None) => ReadData::None,
    };
    let repository = repo::open(app, Access::ReadOnly).await?;
    let report = ops::check(&app.context, &repository, CheckRequest { read_data }).await?;
    app.progress.end();
    let code = if report.is_damaged() { DAMAGED } else { DONE };
    reported(code, show(app, &report))
}

fn show(app: &App, report: &CheckReport) -> std::io::Result<()> {
    let survey = &report.survey;
    let errors = report.findings.iter().filter(|f| f.is_error).count() as u64;
    if app.json() {
        for finding in &report.findings {
            render::line(&json!({
                "message_type": if finding.is_error { "error" } else { "note" },
                "object": finding.object,
                "message": finding.what,
            }))?;
        }
        return render::line(&json!({
            "message_type": "summary",
            "num_errors": errors,
            "snapshots": report.snapshots,
            "broken_snapshots": report.snapshots_hit,
            "objects": survey.objects,
            "packs": survey.packs,
            "packs_read": survey.packs_read,
            "broken_packs": survey.bad_packs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "bytes_read": survey.bytes_read,
            "blobs_verified": survey.blobs_verified,
            "packs_unlisted": survey.packs_unlisted,
            "bytes_unlisted": survey.bytes_unlisted,
            "objects_void": survey.objects_void,
            "bytes_void": survey.bytes_void,
            "total_duration": report.seconds,
        }));
    }
    for finding in &report.findings {
        let text = format!("{}: {}", finding.object, finding.what);
        if finding.is_error {
            app.warning(&text);
        } else {
            app.note(&text);
        }
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
    text.push_str(&leavings(survey));
    text.push_str(&match (errors, report.snapshots_hit.len() as u64) {
        (0, _) => "no errors were found\n".to_owned(),
        (n, 0) => format!(
            "{}; every snapshot restores nevertheless\n",
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
    render::print(&text)
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
