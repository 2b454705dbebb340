//! `holdall cat`.

use super::{Filter, ls};
use crate::cli::app::App;
use crate::cli::exit::{DONE, Ended, Failure};
use crate::cli::parse;
use crate::connector::stdio::write_content;
use crate::error::{Error, ErrorKind};
use crate::ops;
use crate::snapshot::SnapshotSpec;
use crate::snapshot::entry::{Content, EntryKind};
use std::path::PathBuf;

/// Arguments of `cat`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall cat latest shop.sql | psql shop_restored\n  \
    holdall cat latest:/etc/hosts\n  \
    holdall cat latest~1 shop.sql --output shop.sql\n\n\
    With --json the content is as it is, and a summary is the last line on standard error.")]
pub(in crate::cli) struct Args {
    /// The snapshot, and with :PATH the file or stream in it
    #[arg(value_name = "SNAPSHOT[:PATH]", value_parser = parse::snapshot)]
    snapshot: SnapshotSpec,
    /// The file or stream, if it is not given with the snapshot
    #[arg(value_name = "PATH")]
    path: Option<String>,
    /// Write to this new file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    filter: Filter,
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    let path = ls::place(&args.snapshot, args.path.as_deref())?;
    let Some(path) = path else {
        return Err(Error::new(ErrorKind::Invalid, "no path in the snapshot is given")
            .hint("a stream is named apart, since latest:NAME means the newest snapshot of a project: holdall cat latest shop.sql")
            .into());
    };
    let snapshot = super::open_snapshot(app, &args.snapshot, &args.filter).await?;
    let mut record = ops::locate(&snapshot, path).await?;
    if record.kind == EntryKind::HardLink
        && let Ok(attributes) = crate::connector::files::Attributes::from_metadata(&record.metadata)
        && let Some((first, _)) = attributes.first
        && let Some(first) = snapshot.find(&first).await?
    {
        record = first;
    }
    let content = snapshot.entry(&record).content;
    if matches!(content, Content::None) && !matches!(record.kind, EntryKind::File | EntryKind::Stream) {
        let what = format!("this is a {} and has no content", record.kind.word());
        return Err(Error::new(ErrorKind::Invalid, what)
            .with("path", path)
            .hint("`holdall ls` shows what a directory holds, `holdall restore` brings it back")
            .into());
    }
    let started = std::time::Instant::now();
    let cancelled = app.context.cancel.cancelled();
    let written = tokio::select! {
        biased;
        () = cancelled => return Err(app.context.check_cancelled().err().map_or(Failure::PipeClosed, Failure::Error)),
        written = write(args.output.as_ref(), content) => written?,
    };
    if app.json() {
        let value = serde_json::json!({
            "message_type": "summary",
            "path": ops::name_of(&record.key),
            "snapshot_id": snapshot.record().sid.name(),
            "total_bytes": written,
            "total_duration": started.elapsed().as_secs_f64(),
        });
        crate::cli::render::message_line(&value);
    }
    Ok(DONE)
}

async fn write(output: Option<&PathBuf>, content: Content) -> Result<u64, Failure> {
    let Some(path) = output else {
        let mut out = tokio::io::stdout();
        return write_content(content, &mut out).await.map_err(|error| {
            let closed = error.what() == "cannot write content"
                && std::error::Error::source(&error)
                    .and_then(|e| e.downcast_ref::<std::io::Error>())
                    .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe);
            if closed {
                Failure::PipeClosed
            } else {
                Failure::Error(error)
            }
        });
    };
    let failed = |error: std::io::Error| {
        let kind = match error.kind() {
            std::io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            std::io::ErrorKind::StorageFull => ErrorKind::StoreFull,
            _ => ErrorKind::Source,
        };
        Error::new(kind, "cannot write the output file")
            .with("path", path.display())
            .because(error)
    };
    let mut options = tokio::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path).await.map_err(failed)?;
    let written = write_content(content, &mut file).await;
    if written.is_err() {
        // Half a dump looks like a whole one.
        let _ = std::fs::remove_file(path);
    }
    let written = written?;
    file.sync_all().await.map_err(failed)?;
    Ok(written)
}
