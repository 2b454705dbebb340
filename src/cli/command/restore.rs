//! `holdall restore`.

mod database;

use super::{Filter, ls};
use crate::cli::app::App;
use crate::cli::environment;
use crate::cli::exit::{DIFFERS, DONE, Ended, INCOMPLETE, reported};
use crate::cli::parse;
use crate::cli::render;
use crate::connector::files::{self, FilesSink, Overwrite, Select};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::{self, FilesPlace, RestoreReport};
use crate::snapshot::{SnapshotReader, SnapshotSpec};
use serde_json::json;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

/// What happens to files that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Replace {
    /// Every file is written again.
    Always,
    /// Files whose size and time fit are left.
    IfChanged,
    /// Only older files are replaced.
    IfNewer,
    /// Nothing that is there is touched.
    Never,
}

/// Arguments of `restore`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall restore latest --target /tmp/restored\n  \
    holdall restore latest:/srv/shop/uploads --target /srv/shop/uploads --delete --verify\n  \
    holdall restore latest --target /tmp/x --include '*.pdf' --dry-run\n  \
    holdall restore latest --target postgres://postgres@localhost/shop_restored\n\n\
    A database goes into an empty one; --include and --exclude then name tables, as SQL writes them, whose rows are wanted: all \
    statements run in any case. What was written is read back and compared, unless --no-verify.\n\n\
    Without a path, files keep their whole path below the target; with one, that directory becomes the target. Streams are not \
    files: `holdall cat` writes them. An interrupted restore, begun again, continues. Exit code 3 means that something could not \
    be restored: what lies under damaged parts of the snapshot is named, and all the rest is restored; 5 that --verify found differences.")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(in crate::cli) struct Args {
    /// The snapshot, and with :PATH what of it
    #[arg(value_name = "SNAPSHOT[:PATH]", value_parser = parse::snapshot())]
    snapshot: SnapshotSpec,
    /// The directory to restore into, made if it is not there; or an empty database
    #[arg(short, long, value_name = "DIR|URL")]
    target: PathBuf,
    /// Only what matches, as .gitignore lines do; of a database only the rows of this table
    #[arg(short, long, value_name = "PATTERN")]
    include: Vec<OsString>,
    /// Not what matches; of a database not the rows of this table
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<OsString>,
    /// What happens to files that are there
    #[arg(long, value_enum, default_value_t = Replace::IfChanged)]
    overwrite: Replace,
    /// Remove what the snapshot does not have
    #[arg(long)]
    delete: bool,
    /// Only report; nothing is changed
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Read every file again and compare it
    #[arg(long)]
    verify: bool,
    /// Restore devices, set-user-id bits and attributes of the system too
    #[arg(long)]
    privileged: bool,
    /// Restore owners by number, not by name
    #[arg(long)]
    numeric_owners: bool,
    /// The database of the snapshot, if it has several
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Connections to the database's server that work at once; with 1 rows keep their order on disk
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// Do not read back and compare the rows of a database
    #[arg(long)]
    no_verify: bool,
    #[command(flatten)]
    filter: Filter,
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    if let Some(url) = database::url(&args.target) {
        return database::run(app, &args, url).await;
    }
    let select = Select::new(&args.include, &args.exclude)?;
    let target = files::absolute(&environment::working_directory()?, &args.target)?;
    let snapshot = super::open_snapshot(app, &args.snapshot, &args.filter).await?;
    let path = ls::place(&args.snapshot, None)?;
    tell_partial(app, &args, &snapshot)?;
    let FilesPlace { request, strip } = ops::files_place(&snapshot, path, select.clone()).await?;
    let mut sink = FilesSink::new(files::RestoreRequest {
        target: target.clone(),
        strip,
        select,
        overwrite: match args.overwrite {
            Replace::Always => Overwrite::Always,
            Replace::IfChanged => Overwrite::IfChanged,
            Replace::IfNewer => Overwrite::IfNewer,
            Replace::Never => Overwrite::Never,
        },
        delete: args.delete,
        dry_run: args.dry_run,
        verify: args.verify,
        privileged: args.privileged,
        ownership: None,
        numeric_owners: args.numeric_owners,
    });
    let report = ops::restore(&app.context, &snapshot, request, &mut sink).await?;
    app.progress.end();
    if path.is_none() && ops::count_streams(&snapshot, 1).await? > 0 {
        app.note(&format!(
            "the snapshot holds streams too, which are not files: `holdall cat {} NAME` writes one",
            snapshot.record().sid.short()
        ));
    }
    if report.lost > 0 && args.delete {
        app.warning("since the snapshot's tree is damaged, nothing more was deleted from there on: what is lost may be in the target only");
    }
    if !args.include.is_empty() && report.touched() == 0 && report.lost == 0 {
        let what = "nothing in the snapshot matches --include; nothing was restored";
        let patterns: Vec<_> = args.include.iter().map(|p| p.to_string_lossy()).collect();
        return Err(Error::new(ErrorKind::NotFound, what)
            .with("include", patterns.join(" "))
            .hint(format!("`holdall ls {} --recursive` shows what there is; a pattern with a / before its end begins at /",
                snapshot.record().sid.short()))
            .into());
    }
    reported(code(&report), show(app, &args, &snapshot, &report))
}

/// How a restore ends that came to its end.
fn code(report: &RestoreReport) -> u8 {
    match (report.sink.different, report.sink.failed + report.lost) {
        (0, 0) => DONE,
        (0, _) => INCOMPLETE,
        _ => DIFFERS,
    }
}

/// Adds what there are any of to the line that sums up.
fn push_counts(text: &mut String, counts: &[(u64, &str)]) {
    for (n, what) in counts.iter().filter(|(n, _)| *n > 0) {
        let _ = write!(text, "; {n} {what}");
    }
}

/// Tells that the snapshot is partial.
///
/// # Errors
/// `Refused` if what it lacks would be deleted from the target.
fn tell_partial(app: &App, args: &Args, snapshot: &SnapshotReader) -> Result<()> {
    let record = snapshot.record();
    if !record.partial {
        return Ok(());
    }
    let lacking = render::count(record.incident_count, "thing");
    if args.delete {
        // What could not be read was there, and may be the only copy in the target.
        let error = Error::new(
            ErrorKind::Refused,
            "the snapshot is partial, so --delete is not safe",
        );
        return Err(error
            .with("snapshot", record.sid.short())
            .hint(format!("the snapshot lacks {lacking}; restore without --delete")));
    }
    app.warning(&format!(
        "this snapshot is partial: {lacking} could not be read when it was taken"
    ));
    Ok(())
}

fn show(app: &App, args: &Args, snapshot: &SnapshotReader, report: &RestoreReport) -> std::io::Result<()> {
    let sink = &report.sink;
    if app.json() {
        return render::line(&json!({
            "message_type": "summary",
            "snapshot_id": snapshot.record().sid.name(),
            "snapshot_status": if snapshot.record().partial { "partial" } else { "complete" },
            "incidents": snapshot.record().incident_count,
            "dry_run": args.dry_run,
            "files_restored": sink.written,
            "files_skipped": sink.skipped,
            "files_deleted": sink.deleted,
            "files_failed": sink.failed,
            "files_different": sink.different,
            "ranges_lost": report.lost,
            "bytes_restored": sink.bytes,
            "total_duration": report.seconds,
        }));
    }
    let verb = if args.dry_run { "would restore" } else { "restored" };
    let mut text = format!(
        "{verb} {} ({}) of snapshot {} to {} in {}",
        render::count(sink.written, "entry"),
        render::bytes(sink.bytes),
        snapshot.record().sid.short(),
        args.target.display(),
        render::seconds(report.seconds),
    );
    let counts = [
        (sink.skipped, "there already"),
        (sink.deleted, "deleted"),
        (sink.failed, "FAILED, see the warnings"),
        (sink.different, "DIFFERENT after writing"),
        (report.lost, "parts of the snapshot LOST, see the warnings"),
    ];
    push_counts(&mut text, &counts);
    if args.verify && sink.different == 0 {
        text.push_str("; verified");
    }
    text.push('\n');
    render::print(&text)
}
