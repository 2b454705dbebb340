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
use std::ffi::OsString;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Arguments of `cat`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall cat latest:shop shop.sql -o shop.sql && psql -X -1 -v ON_ERROR_STOP=1 -f shop.sql shop_restored\n  \
    holdall cat latest:/etc/hosts\n  \
    holdall cat latest~1 shop.sql --output shop.sql\n  \
    holdall cat latest public.orders > orders.copy\n  \
    holdall cat latest '\"Strange Schema\".t'\n\n\
    A table is named as SQL writes it, and comes as the text that COPY … FROM takes.\n\n\
    The file of --output appears when all is written. A database is restored from such a file and not from a pipe: psql cannot see \
    that the writer of a pipe failed, and would commit the half that came.\n\n\
    With --json the content is as it is, and a summary is the last line on standard error.")]
pub(in crate::cli) struct Args {
    /// The snapshot, and with :PATH the file, stream or table in it
    #[arg(value_name = "SNAPSHOT[:PATH]", value_parser = parse::snapshot())]
    snapshot: SnapshotSpec,
    /// The file, stream or table, if it is not given with the snapshot
    #[arg(value_name = "PATH")]
    path: Option<OsString>,
    /// Write to this new file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The database of the snapshot that the table is in, if it has several
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
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
    let mut record = ops::locate(&snapshot, path, args.database.as_deref()).await?;
    if record.kind == EntryKind::HardLink
        && let Ok(attributes) = crate::connector::files::Attributes::from_metadata(&record.metadata)
        && let Some((first, _)) = attributes.first
        && let Some(first) = snapshot.find(&first).await?
    {
        record = first;
    }
    let content = ops::content(&snapshot, &record);
    if matches!(content, Content::None) && !matches!(record.kind, EntryKind::File | EntryKind::Stream) {
        let what = format!("this is a {} and has no content", record.kind.word());
        return Err(Error::new(ErrorKind::Invalid, what)
            .with("path", path.display())
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
    let mut output = Output::new(path)?;
    let written = write_content(content, &mut output.file).await?;
    output.keep().await?;
    Ok(written)
}

/// A new file that has its name only when it is whole: half a dump looks like a whole one. Dropped before, it is removed.
struct Output<'a> {
    path: &'a Path,
    beside: PathBuf,
    file: tokio::fs::File,
}

impl<'a> Output<'a> {
    fn new(path: &'a Path) -> Result<Self, Error> {
        if path.symlink_metadata().is_ok() {
            return Err(failed(path, ErrorKind::Exists)(
                "the file is there already".into(),
            ));
        }
        let Some(name) = path.file_name() else {
            return Err(failed(path, ErrorKind::Invalid)("this names no file".into()));
        };
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.partial", std::process::id()));
        let beside = path.with_file_name(hidden);
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)
            .map_err(|e| failed(path, kind_of(&e))(e.into()))?;
        Ok(Self {
            path,
            beside,
            file: file.into(),
        })
    }

    /// Gives the file its name, unless something has it by now.
    async fn keep(self) -> Result<(), Error> {
        let wrong = |e: std::io::Error| failed(self.path, kind_of(&e))(e.into());
        self.file.sync_all().await.map_err(wrong)?;
        match std::fs::hard_link(&self.beside, self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Err(wrong(error)),
            // Not every file system has links.
            Err(_) if self.path.symlink_metadata().is_err() => {
                std::fs::rename(&self.beside, self.path).map_err(wrong)?;
            }
            Err(error) => return Err(wrong(error)),
        }
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.unwrap_or_else(|| Path::new("."));
        std::fs::File::open(parent)
            .and_then(|directory| directory.sync_all())
            .map_err(wrong)
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        // After a rename there is nothing to remove.
        let _ = std::fs::remove_file(&self.beside);
    }
}

fn kind_of(error: &std::io::Error) -> ErrorKind {
    match error.kind() {
        std::io::ErrorKind::AlreadyExists => ErrorKind::Exists,
        std::io::ErrorKind::StorageFull => ErrorKind::StoreFull,
        _ => ErrorKind::Source,
    }
}

fn failed(path: &Path, kind: ErrorKind) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Error {
    move |cause| {
        Error::new(kind, "cannot write the output file")
            .with("path", path.display())
            .because(cause)
    }
}
