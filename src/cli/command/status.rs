//! `holdall status`.

use super::Filter;
use crate::cli::app::App;
use crate::cli::exit::{DAMAGED, DONE, Ended, OVERDUE, reported};
use crate::cli::parse;
use crate::cli::render::{self, Table};
use crate::cli::repo::{self, Access};
use crate::cli::second::{Missing, Second};
use crate::context::Time;
use crate::error::escape;
use crate::format::id::SessionId;
use crate::ops::{self, CopyStatus, OpenRun, Overdue, ProjectStatus, StatusReport, StatusRequest};
use crate::store::Location;
use serde_json::{Value, json};

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall status\n  \
    holdall status --max-age 26h                  (for a monitor of nightly snapshots: exit code 4 when one is overdue)\n  \
    holdall status --project shop --max-age 8d\n  \
    holdall status --max-age 26h --copy-to s3://offsite/shop\n\n\
    One line for each project; what was kept without --project is told by host and sources. With --max-age, a project is overdue if its \
    newest complete snapshot is older, or if there is none. With --copy-to, what that repository lacks is told too, and a project is also \
    overdue if its newest complete snapshot there is older; it is reached as `holdall copy` reaches it, with HOLDALL_COPY_… variables. \
    Exit code 13 means damage that is known: objects that cannot be read, and packs that a check has set aside and that hold what is \
    stored nowhere else.")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    filter: Filter,
    /// A project without a complete snapshot for so long is overdue (26h, 8d)
    #[arg(long, value_name = "AGE", value_parser = parse::seconds)]
    max_age: Option<u64>,
    /// Tell too how far this repository is behind, which `holdall copy` copies into
    #[arg(long, value_name = "LOCATION")]
    copy_to: Option<String>,
    #[command(flatten)]
    second: Second,
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    let request = StatusRequest {
        filter: args.filter.to_filter(),
        max_age: args.max_age,
    };
    let to = args.copy_to.as_deref().map(Location::parse).transpose()?;
    let repository = repo::open(app, Access::ReadOnly).await?;
    let report = ops::status(&app.context, &repository, &request).await?;
    let copy = match &to {
        Some(to) => {
            let how = (Access::ReadOnly, Missing::Refuse);
            let there = args.second.open(app, to, &repository, how).await?.repository;
            let of = (&repository, &report);
            match &there {
                Some(there) => Some((to, ops::copy_status(&app.context, of, there, &request).await?)),
                None => None,
            }
        }
        None => None,
    };
    app.progress.end();
    let copy = copy.as_ref().map(|(to, copy)| (*to, copy));
    let is_behind = copy.is_some_and(|(_, copy)| !copy.overdue.is_empty());
    let is_overdue = report.is_overdue(&request) || is_behind;
    let is_damaged = report.is_damaged() || copy.is_some_and(|(_, copy)| !copy.damaged.is_empty());
    let code = match (is_damaged, is_overdue) {
        (true, _) => DAMAGED,
        (false, true) => OVERDUE,
        (false, false) => DONE,
    };
    for (object, why) in &report.damaged {
        app.warning(&format!(
            "{object} cannot be read, and a snapshot may be missing here: {why}"
        ));
    }
    for (name, why) in &report.packs.damaged_ledger {
        app.warning(&format!(
            "{name} cannot be read: packs may have been found damaged that nobody knows of now ({why}); `holdall check --read-data` replaces it"
        ));
    }
    if let Some((_, copy)) = copy {
        for (object, why) in &copy.damaged {
            app.warning(&format!("of the copy {object} cannot be read: {why}"));
        }
    }
    let told = if app.json() {
        render::line(&value(&report, is_overdue, copy))
    } else {
        let told = render::print(&text(&report, copy));
        remarks(app, &report, &request);
        if let Some((to, copy)) = copy {
            for (name, overdue) in &copy.overdue {
                app.warning(&format!(
                    "{name}: its copy in {to} is overdue ({})",
                    of_copy(*overdue)
                ));
            }
        }
        told
    };
    reported(code, told)
}

fn of_copy(overdue: Option<Overdue>) -> &'static str {
    overdue.map_or("absent", why)
}

fn value_of_copy((to, copy): (&Location, &CopyStatus)) -> Value {
    let object = |(object, why): &(String, String)| json!({"object": object, "why": why});
    json!({
        "to": to.to_string(),
        "missing_there": copy.lag.missing.iter().map(SessionId::name).collect::<Vec<_>>(),
        "newest_there": copy.lag.newest_there.map(Time::to_rfc3339),
        "newest_there_age": copy.lag.age,
        "behind": copy.lag.behind,
        "overdue": copy.overdue.iter().map(|(name, overdue)| json!({
            "name": name,
            "why": of_copy(*overdue),
        })).collect::<Vec<_>>(),
        "damaged_objects": copy.damaged.iter().map(object).collect::<Vec<_>>(),
    })
}

fn value(report: &StatusReport, is_overdue: bool, copy: Option<(&Location, &CopyStatus)>) -> Value {
    json!({
        "overdue": is_overdue,
        "projects": report.projects.iter().map(|project| {
            let record = &project.newest.record;
            json!({
                "name": project.name,
                "project": record.project,
                "hostname": record.host,
                "snapshot_id": record.sid.name(),
                "time": project.made.to_rfc3339(),
                "age_seconds": project.age,
                "size": record.root.bytes,
                "data_added_packed": record.statistics.bytes_stored,
                "status": outcome(project),
                "incidents": record.incident_count,
                "complete_id": project.complete.map(|(sid, _)| sid.name()),
                "complete_age_seconds": project.complete.map(|(_, age)| age),
                "snapshots": project.snapshots,
                "overdue": project.overdue.map(why),
            })
        }).collect::<Vec<_>>(),
        "open_runs": report.open.iter().map(|run| json!({
            "hostname": run.host,
            "age_seconds": run.age,
        })).collect::<Vec<_>>(),
        "packs": report.packs.packs,
        "bytes": report.packs.bytes,
        "packs_never_read": report.packs.reads.never,
        "oldest_read": report.packs.reads.oldest.map(Time::to_rfc3339),
        "packs_quarantined": report.packs.quarantined,
        "packs_at_risk": report.packs.at_risk,
        "ledger_damaged": !report.packs.damaged_ledger.is_empty(),
        "damaged": report.is_damaged(),
        "copy": copy.map(value_of_copy),
    })
}

fn outcome(project: &ProjectStatus) -> &'static str {
    if project.newest.record.partial {
        "partial"
    } else {
        "complete"
    }
}

fn why(overdue: Overdue) -> &'static str {
    match overdue {
        Overdue::Old => "old",
        Overdue::Partial => "partial",
        Overdue::Ahead => "ahead",
    }
}

fn text(report: &StatusReport, copy: Option<(&Location, &CopyStatus)>) -> String {
    let mut table = Table::new(
        &["PROJECT", "NEWEST", "AGE", "SIZE", "KEPT", "STATUS"],
        &[2, 3, 4],
    );
    for project in &report.projects {
        let record = &project.newest.record;
        // To the minute: the line has to fit.
        let time: String = render::local_time(project.made).chars().take(16).collect();
        let mut status = outcome(project).to_owned();
        if let Some(overdue) = project.overdue {
            status = format!("OVERDUE ({})", why(overdue));
        }
        table.row(vec![
            escape(&project.name),
            time,
            render::age(project.age),
            render::bytes(record.root.bytes),
            project.snapshots.to_string(),
            status,
        ]);
    }
    let mut text = table.text(render::width());
    if report.packs.packs > 0 {
        text.push_str(&format!(
            "{} in {}; {}\n",
            render::bytes(report.packs.bytes),
            render::count(report.packs.packs, "pack"),
            verified(report),
        ));
    }
    if let Some((to, copy)) = copy {
        text.push_str(&format!("copy in {to}: {}", super::copy::lag(&copy.lag)));
    }
    text
}

fn packs_were(count: u64) -> String {
    let were = if count == 1 { "was" } else { "were" };
    format!("{} {were}", render::count(count, "pack"))
}

/// What the ledger says.
fn verified(report: &StatusReport) -> String {
    match (report.packs.reads.never, report.packs.reads.oldest) {
        (0, Some(oldest)) => format!("all were verified since {}", render::local_time(oldest)),
        (never, Some(_)) => format!("{} never verified", packs_were(never)),
        (_, None) => "none was verified yet: `holdall check --read-data`".to_owned(),
    }
}

/// What somebody should look after.
fn remarks(app: &App, report: &StatusReport, request: &StatusRequest) {
    for project in &report.projects {
        let name = &project.name;
        match project.overdue {
            Some(Overdue::Old) => app.warning(&format!(
                "{name}: the newest snapshot is {} old",
                render::age(project.age)
            )),
            Some(Overdue::Partial) => app.warning(&match project.complete {
                Some((sid, age)) => format!(
                    "{name}: the newest complete snapshot, {}, is {} old; later ones lack what could not be read",
                    sid.short(),
                    render::age(age)
                ),
                None => format!("{name}: no snapshot is complete; each lacks what could not be read"),
            }),
            Some(Overdue::Ahead) => app.warning(&format!(
                "{name}: the newest snapshot was made by a clock that was far ahead of this one, or this one is behind"
            )),
            None => {}
        }
    }
    if report.projects.is_empty() {
        app.note("no snapshots");
    } else if request.max_age.is_none() {
        app.note("nothing is called overdue without --max-age (26h for nightly snapshots)");
    }
    let (set_aside, at_risk) = (report.packs.quarantined, report.packs.at_risk);
    if at_risk > 0 {
        app.warning(&format!(
            "{} found damaged and set aside, and what {} stored nowhere else; `holdall check` tells what is hit",
            packs_were(at_risk),
            if at_risk == 1 { "it holds is" } else { "they hold is" },
        ));
    }
    if set_aside > at_risk {
        app.note(&format!(
            "{} found damaged and set aside; all content is stored elsewhere, and `holdall prune` removes what is left",
            packs_were(set_aside - at_risk)
        ));
    }
    for OpenRun { host, age } in &report.open {
        let host = host.as_deref().unwrap_or("an unknown host");
        let age = age.map_or_else(|| "some time".to_owned(), render::age);
        app.note(&format!(
            "a run on {host} began {age} ago and has not ended: it is under way, or was interrupted"
        ));
    }
}
