//! `holdall forget`.

use super::{Filter, prune};
use crate::cli::app::App;
use crate::cli::exit::{DONE, Ended, reported};
use crate::cli::parse;
use crate::cli::render::{self, Table};
use crate::cli::repo::{self, Access};
use crate::error::{Error, ErrorKind, Result, escape};
use crate::format::id::SessionId;
use crate::ops::{self, ForgetReport, ForgetRequest, GroupBy, Period, Policy};
use crate::snapshot::SnapshotSpec;
use jiff::Span;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

/// Arguments of `forget`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run\n  \
    holdall forget --keep-within 30d --project shop\n  \
    holdall forget 4f2a91c0\n\n\
    A policy holds for each group by itself: the snapshots of one host, project and set of sources. Rules add up. Counting rules count \
    complete snapshots: a partial one never takes the place of a complete one. A snapshot that was let go is not listed any more, and \
    cannot be brought back; the space that it takes stays taken until `holdall prune`, or --prune. What the repository retains (`init --retain-last`, \
    `--retain-age`) is kept whatever a policy says, and named or not. A snapshot whose record cannot be read goes by its full id only; where \
    snapshots are retained, or the disk may give the record again, once `holdall prune --lost` says so too.")]
pub(in crate::cli) struct Args {
    /// Let these go, whatever a policy says
    #[arg(value_name = "SNAPSHOT", value_parser = parse::snapshot(), conflicts_with_all = ["keep_last", "keep_within", "keep_tag"])]
    snapshots: Vec<SnapshotSpec>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    keep: Keep,
    /// What a group has in common
    #[arg(short, long, value_name = "PARTS", default_value = "host,project,sources", value_delimiter = ',', value_parser = ["host", "project", "sources", "tags"])]
    group_by: Vec<String>,
    /// Only say what would be let go, and why the rest is kept
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Free the space at once, as `holdall prune` does
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    how: prune::How,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What to keep")]
#[expect(clippy::struct_field_names, reason = "the flags are called so")]
struct Keep {
    /// The newest N
    #[arg(short = 'l', long, value_name = "N")]
    keep_last: Option<u32>,
    /// The newest of each of the last N hours that have one
    #[arg(short = 'H', long, value_name = "N")]
    keep_hourly: Option<u32>,
    /// Of each of N days
    #[arg(short = 'd', long, value_name = "N")]
    keep_daily: Option<u32>,
    /// Of each of N weeks
    #[arg(short = 'w', long, value_name = "N")]
    keep_weekly: Option<u32>,
    /// Of each of N months
    #[arg(short = 'm', long, value_name = "N")]
    keep_monthly: Option<u32>,
    /// Of each of N years
    #[arg(short = 'y', long, value_name = "N")]
    keep_yearly: Option<u32>,
    /// All that are at most so much older than the newest: 30d, 1y6m (m is a month)
    #[arg(long, value_name = "SPAN", value_parser = parse::span)]
    keep_within: Option<Span>,
    /// The newest of each hour, so far back
    #[arg(long, value_name = "SPAN", value_parser = parse::span)]
    keep_within_hourly: Option<Span>,
    /// Of each day
    #[arg(long, value_name = "SPAN", value_parser = parse::span)]
    keep_within_daily: Option<Span>,
    /// Of each week
    #[arg(long, value_name = "SPAN", value_parser = parse::span)]
    keep_within_weekly: Option<Span>,
    /// Of each month
    #[arg(long, value_name = "SPAN", value_parser = parse::span)]
    keep_within_monthly: Option<Span>,
    /// Of each year
    #[arg(long, value_name = "SPAN", value_parser = parse::span)]
    keep_within_yearly: Option<Span>,
    /// All with this tag; a comma means "and", a second --keep-tag means "or"
    #[arg(long, value_name = "TAG")]
    keep_tag: Vec<String>,
}

impl Keep {
    fn to_policy(&self) -> Policy {
        let counts = [
            (Period::Hour, self.keep_hourly),
            (Period::Day, self.keep_daily),
            (Period::Week, self.keep_weekly),
            (Period::Month, self.keep_monthly),
            (Period::Year, self.keep_yearly),
        ];
        let spans = [
            (Period::Hour, self.keep_within_hourly),
            (Period::Day, self.keep_within_daily),
            (Period::Week, self.keep_within_weekly),
            (Period::Month, self.keep_within_monthly),
            (Period::Year, self.keep_within_yearly),
        ];
        Policy {
            last: self.keep_last,
            periods: counts.into_iter().filter_map(|(p, n)| Some((p, n?))).collect(),
            within: self.keep_within,
            periods_within: spans.into_iter().filter_map(|(p, s)| Some((p, s?))).collect(),
            tags: parse::tag_groups(&self.keep_tag),
        }
    }
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    let request = request(&args)?;
    let access = if args.dry_run {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    };
    let repository = repo::open(app, access).await?;
    let report = ops::forget(&app.context, &repository, &request).await?;
    app.progress.end();
    let code = reported(DONE, tell(app, &report))?;
    if !args.prune {
        return Ok(code);
    }
    let verdicts = report.groups.iter().flat_map(|group| &group.verdicts);
    let forgotten = verdicts.filter(|verdict| verdict.reasons.is_empty());
    let forgotten = forgotten.map(|verdict| verdict.snapshot.record.sid);
    let forgotten = forgotten.chain(report.unread.iter().copied()).collect();
    prune::collect(app, &repository, &args.how.request(args.dry_run, forgotten)).await
}

fn request(args: &Args) -> Result<ForgetRequest> {
    let policy = args.keep.to_policy();
    if args.how.is_given() && !args.prune {
        return Err(Error::new(
            ErrorKind::Invalid,
            "it is said how to free space, and not that it shall be freed",
        )
        .hint("add --prune, or leave out --max-unused, --max-repack, --lease, --take-over, --confirm and --exclusive"));
    }
    if !args.snapshots.is_empty() && !policy.is_empty() {
        return Err(Error::new(
            ErrorKind::Invalid,
            "snapshots are named, and a policy is given: it is one or the other",
        ));
    }
    let has = |part: &str| args.group_by.iter().any(|given| given == part);
    Ok(ForgetRequest {
        named: args.snapshots.clone(),
        policy,
        filter: args.filter.to_filter(),
        group_by: GroupBy {
            host: has("host"),
            project: has("project"),
            sources: has("sources"),
            tags: has("tags"),
        },
        zone: TimeZone::system(),
        dry_run: args.dry_run,
        who: super::host(None)?,
    })
}

fn tell(app: &App, report: &ForgetReport) -> std::io::Result<()> {
    if app.json() {
        let groups: Vec<Value> = report.groups.iter().map(value).collect();
        return render::line(&json!({
            "message_type": "summary",
            "dry_run": report.dry_run,
            "forgotten": report.forgotten,
            "unreadable": report.unread.iter().map(SessionId::name).collect::<Vec<_>>(),
            "groups": groups,
        }));
    }
    let mut text = String::new();
    for group in &report.groups {
        text.push_str(&escape(&group.name));
        text.push('\n');
        let mut table = Table::new(&["", "ID", "TIME", "TAGS", "REASONS"], &[]);
        for verdict in &group.verdicts {
            let record = &verdict.snapshot.record;
            let goes = verdict.reasons.is_empty();
            let cells = [
                if goes { "forget" } else { "keep" }.to_owned(),
                record.sid.short(),
                render::local_time(record.started),
                verdict.snapshot.tags.join(","),
                verdict.reasons.join(", "),
            ];
            table.row(cells.iter().map(|cell| escape(cell)).collect());
        }
        text.push_str(&table.text(render::width()));
        text.push('\n');
    }
    for sid in &report.unread {
        let name = sid.name();
        text.push_str(&format!("forget {name}, whose record cannot be read\n"));
        if report.unread_may_stay.contains(sid) {
            app.note(&format!(
                "the repository may retain {name}, which its record alone could tell, or the disk may give the record again: `holdall prune --lost {name}` takes it"
            ));
        }
    }
    let what = render::count(report.forgotten, "snapshot");
    text.push_str(&if report.dry_run {
        format!("would forget {what}; nothing was written\n")
    } else {
        format!("forgot {what}\n")
    });
    render::print(&text)
}

fn value(group: &ops::Group) -> Value {
    let snapshots: Vec<Value> = group
        .verdicts
        .iter()
        .map(|verdict| {
            json!({
                "id": verdict.snapshot.record.sid.name(),
                "time": verdict.snapshot.record.started.to_rfc3339(),
                "keep": !verdict.reasons.is_empty(),
                "reasons": verdict.reasons,
            })
        })
        .collect();
    json!({ "name": group.name, "snapshots": snapshots })
}
