//! `holdall snapshot`.

mod database;

use crate::cli::app::App;
use crate::cli::exit::{DONE, Ended, INCOMPLETE, reported};
use crate::cli::render;
use crate::cli::repo::{self, Access};
use crate::cli::second::Second;
use crate::cli::{environment, parse, words};
use crate::connector::Source;
use crate::connector::files::{self, Excludes, FilesRequest, FilesSource};
use crate::connector::postgres::{PostgresRequest, PostgresSource};
use crate::connector::stdio::{Input, StdioSource, StreamRequest};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::{self, SnapshotReport, SnapshotRequest};
use crate::snapshot::{DeltaPolicy, SnapshotSpec};
use crate::store::Location;
use database::DatabaseArgs;
pub(in crate::cli) use database::environment_url;
use serde_json::json;
use std::ffi::OsString;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, ReadBuf};

/// Arguments of `snapshot`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall snapshot postgres://reader@db.example.com/shop\n  \
    HOLDALL_DB_URL=postgres://… holdall snapshot --database --type schema\n  \
    holdall snapshot /srv/shop/uploads --exclude '*.tmp' --tag nightly\n  \
    pg_dump shop | holdall snapshot --stdin --stdin-filename shop.sql\n  \
    holdall snapshot --stdin-filename shop.sql --stdin-from-command -- pg_dump shop\n  \
    holdall snapshot /srv/shop/uploads --project shop \\\n      \
    --stream shop.sql='pg_dump shop' --stream globals.sql='pg_dumpall --globals-only'\n\n\
    Commands are started without a shell, and nothing is committed unless each of them ends well: prefer them to a pipe, \
    whose reader cannot see that the writer failed. Exit code 3 means that the snapshot is there but lacks what could not be read.")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(in crate::cli) struct Args {
    /// Files and directories, and the postgres:// URL of a database
    #[arg(value_name = "PATH|URL")]
    paths: Vec<PathBuf>,
    /// A label; repeat it, or separate labels by commas
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// The name of the host to write down [env: HOLDALL_HOST]
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// The project that the snapshot belongs to
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// The snapshot to compare with [default: the newest of the same host, project and sources]
    #[arg(long, value_name = "SNAPSHOT", value_parser = parse::snapshot())]
    parent: Option<SnapshotSpec>,
    /// Read everything, also what the parent proves unchanged
    #[arg(long)]
    force_read: bool,
    /// Store changed content whole, not as what differs from the parent's
    #[arg(long)]
    no_delta: bool,
    /// Fetch at most so much of the parent to compare with [default: without limit from a directory, else as much as is uploaded]
    #[arg(long, value_name = "SIZE", value_parser = parse::bytes, conflicts_with = "no_delta")]
    delta_budget: Option<u64>,
    /// Keep so much of what was stored on this machine to compare with, encrypted; 0 is nothing. For repositories that are not on it
    /// [env: HOLDALL_BASE_CACHE] [default: a tenth of what is free, at most 20G]
    #[arg(long, value_name = "SIZE", value_parser = parse::bytes, conflicts_with = "no_delta")]
    base_cache: Option<u64>,
    /// Only look at what would be read
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do nothing if there is a complete snapshot of the same host, project and sources that is younger: 90s, 30m, 12h, 7d
    #[arg(long, value_name = "SPAN", value_parser = parse::seconds)]
    skip_if_newer_than: Option<u64>,
    /// Leave out what matches, as .gitignore lines do
    #[arg(short, long, value_name = "PATTERN", help_heading = "What to leave out")]
    exclude: Vec<String>,
    /// Leave out what matches the lines of this file
    #[arg(long, value_name = "FILE", help_heading = "What to leave out")]
    exclude_file: Vec<PathBuf>,
    /// Leave out what directories hold that hold this file; NAME:HEADER asks how it must begin
    #[arg(long, value_name = "NAME", help_heading = "What to leave out")]
    exclude_if_present: Vec<String>,
    /// Leave out what directories with a CACHEDIR.TAG hold
    #[arg(long, help_heading = "What to leave out")]
    exclude_caches: bool,
    /// Leave out files larger than this
    #[arg(long, value_name = "SIZE", value_parser = parse::bytes, help_heading = "What to leave out")]
    exclude_larger_than: Option<u64>,
    /// Stay on the file systems of the paths
    #[arg(short = 'x', long, help_heading = "What to leave out")]
    one_file_system: bool,
    /// Read paths from a file, one a line or separated by NUL; `-` is standard input
    #[arg(long, value_name = "FILE")]
    files_from: Vec<PathBuf>,
    /// Keep standard input as a stream
    #[arg(long, help_heading = "Streams", conflicts_with = "stdin_from_command")]
    stdin: bool,
    /// What the stream is called
    #[arg(long, value_name = "NAME", default_value = "stdin", help_heading = "Streams")]
    stdin_filename: String,
    /// Keep the output of the command behind `--` as a stream
    #[arg(long, help_heading = "Streams", requires = "command")]
    stdin_from_command: bool,
    /// Keep the output of a command as the stream NAME; repeat it for several. Words are split at spaces, '…' and "…" group, no
    /// shell sees it
    #[arg(long, value_name = "NAME=COMMAND", help_heading = "Streams")]
    stream: Vec<String>,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Copy the snapshot into this repository afterwards, as `holdall copy --to` does
    #[arg(
        long,
        value_name = "LOCATION",
        help_heading = "Second repository",
        conflicts_with = "dry_run"
    )]
    copy_to: Option<String>,
    #[command(flatten)]
    second: Second,
    /// The command for --stdin-from-command
    #[arg(last = true, value_name = "COMMAND", requires = "stdin_from_command")]
    command: Vec<OsString>,
}

fn deltas(app: &App, args: &Args) -> Result<DeltaPolicy> {
    Ok(match args.delta_budget {
        _ if args.no_delta => DeltaPolicy::Off,
        Some(bytes) => DeltaPolicy::FetchUpTo(bytes),
        None if repo::is_directory(&app.globals)? => DeltaPolicy::default(),
        None => DeltaPolicy::FetchAsUploaded,
    })
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    let plan = Plan::new(&args)?;
    let copy_to = args.copy_to.as_deref().map(Location::parse).transpose()?;
    for warning in &plan.warnings {
        app.warning(warning);
    }
    let request = SnapshotRequest {
        host: super::host(args.host.as_ref())?,
        project: args.project.clone(),
        tags: parse::tags(&args.tag),
        parent: args.parent.clone(),
        force_read: args.force_read,
        dry_run: args.dry_run,
        skip_if_newer_than: args.skip_if_newer_than,
        deltas: deltas(app, &args)?,
    };
    let access = if args.dry_run {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    };
    let repository = repo::open(app, access).await?;
    if !args.no_delta && !args.dry_run {
        repo::use_base_cache(app, &repository, args.base_cache)?;
    }
    let mut tries = 0;
    let mut open = || {
        tries += 1;
        plan.open(tries)
    };
    let report = ops::snapshot(&app.context, &repository, &request, &mut open)
        .await
        .map_err(|error| {
            if error.kind() == ErrorKind::Cancelled && error.advice().is_none() {
                return error
                    .hint("run the same command again: what was uploaded is found and not stored twice");
            }
            error
        })?;
    app.progress.end();
    if let Some(name) = plan
        .stdin
        .as_ref()
        .filter(|_| !report.dry_run && !report.skipped && plan.came.load(Ordering::Relaxed) == 0)
    {
        app.warning(&format!(
            "standard input was empty: the stream {name} holds nothing"
        ));
    }
    let code = if report.snapshot.partial { INCOMPLETE } else { DONE };
    let told = show(app, &report);
    let ended = match told {
        Err(error) if !report.dry_run && error.kind() != std::io::ErrorKind::BrokenPipe => {
            app.warning(&format!(
                "snapshot {} is committed, its report could not be written: {error}",
                report.snapshot.sid.short()
            ));
            Ok(code)
        }
        told => reported(code, told),
    };
    match (&copy_to, ended) {
        (Some(to), Ok(code)) => {
            let copied = super::copy::after(app, &repository, (to, &args.second), &report.snapshot).await?;
            Ok(if code == DONE { copied } else { code })
        }
        (_, ended) => ended,
    }
}

/// What is read, so that it can be opened once more.
struct Plan {
    databases: Vec<PostgresRequest>,
    warnings: Vec<String>,
    files: Option<FilesRequest>,
    stdin: Option<String>,
    /// Bytes that came from standard input.
    came: Arc<AtomicU64>,
    commands: Vec<(String, Vec<OsString>)>,
}

impl Plan {
    fn new(args: &Args) -> Result<Self> {
        let lists = args
            .files_from
            .iter()
            .filter(|list| list.as_os_str() == "-")
            .count();
        if lists + usize::from(args.stdin) > 1 {
            return Err(Error::new(
                ErrorKind::Invalid,
                "standard input can be read once: as one list of paths or as a stream",
            )
            .hint("give the other from a file, or the stream by --stream NAME=COMMAND"));
        }
        let mut commands = Vec::new();
        for stream in &args.stream {
            let invalid = || {
                Error::new(ErrorKind::Invalid, "--stream takes NAME=COMMAND")
                    .hint("for example --stream shop.sql='pg_dump shop'")
            };
            let (name, command) = stream.split_once('=').ok_or_else(invalid)?;
            let words = words::split(command).map_err(|error| error.with("stream", name))?;
            commands.push((name.to_owned(), words.into_iter().map(OsString::from).collect()));
        }
        if args.stdin_from_command {
            commands.push((args.stdin_filename.clone(), args.command.clone()));
        }
        let (addresses, paths): (Vec<PathBuf>, Vec<PathBuf>) = args
            .paths
            .iter()
            .cloned()
            .partition(|path| database::is_address(path));
        let nothing_else =
            paths.is_empty() && args.files_from.is_empty() && !args.stdin && commands.is_empty();
        let databases = args.database.requests(&addresses, nothing_else, args.dry_run)?;
        let plan = Self {
            databases: databases.requests,
            warnings: databases.warnings,
            files: file_request(args, paths)?,
            stdin: args.stdin.then(|| args.stdin_filename.clone()),
            came: Arc::default(),
            commands,
        };
        if plan.databases.is_empty()
            && plan.files.is_none()
            && plan.stdin.is_none()
            && plan.commands.is_empty()
        {
            return Err(Error::new(ErrorKind::Invalid, "nothing to keep is given")
                .hint("give paths, a postgres:// URL, --stdin, --stream NAME=COMMAND, or --stdin-from-command -- COMMAND"));
        }
        if plan.stdin.is_some() && std::io::stdin().is_terminal() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "--stdin needs a pipe or a file, and standard input is a terminal",
            ));
        }
        Ok(plan)
    }

    /// Opens the sources; nothing the second time if one of them cannot be read twice.
    fn open(&self, tries: u32) -> Result<Option<Vec<Box<dyn Source>>>> {
        if tries > 1 && self.stdin.is_some() {
            return Ok(None);
        }
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        for request in &self.databases {
            sources.push(Box::new(PostgresSource::new(request.clone())));
        }
        if let Some(request) = &self.files {
            sources.push(Box::new(FilesSource::new(request.clone())?));
        }
        let mut streams: Vec<StreamRequest> = Vec::new();
        streams.extend(self.commands.iter().map(|(name, argv)| StreamRequest {
            name: name.clone(),
            input: Input::Command(argv.clone()),
        }));
        streams.extend(self.stdin.iter().map(|name| StreamRequest {
            name: name.clone(),
            input: Input::Reader(Box::new(Counted {
                reader: tokio::io::stdin(),
                came: self.came.clone(),
            })),
        }));
        if !streams.is_empty() {
            sources.push(Box::new(StdioSource::new(streams)?));
        }
        Ok(Some(sources))
    }
}

/// Standard input, counted: an empty one is mostly that of a writer that failed.
struct Counted {
    reader: tokio::io::Stdin,
    came: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.reader).poll_read(context, buffer);
        let came = buffer.filled().len().saturating_sub(before);
        self.came.fetch_add(came as u64, Ordering::Relaxed);
        polled
    }
}

fn file_request(args: &Args, mut given: Vec<PathBuf>) -> Result<Option<FilesRequest>> {
    for list in &args.files_from {
        let mut bytes = Vec::new();
        let read = if list.as_os_str() == "-" {
            std::io::stdin().lock().read_to_end(&mut bytes)
        } else {
            std::fs::File::open(list).and_then(|mut file| file.read_to_end(&mut bytes))
        };
        read.map_err(|e| {
            Error::new(ErrorKind::Invalid, "cannot read the list of paths")
                .with("path", list.display())
                .because(e)
        })?;
        given.extend(files::parse_files_from(&bytes));
    }
    if given.is_empty() && args.files_from.is_empty() {
        return Ok(None);
    }
    let directory = environment::working_directory()?;
    let roots = given.iter().map(|path| files::absolute(&directory, path));
    Ok(Some(FilesRequest {
        roots: roots.collect::<Result<_>>()?,
        excludes: Excludes {
            patterns: args.exclude.clone(),
            pattern_files: args.exclude_file.clone(),
            if_present: args.exclude_if_present.clone(),
            caches: args.exclude_caches,
            larger_than: args.exclude_larger_than,
        },
        one_file_system: args.one_file_system,
        force_read: args.force_read,
    }))
}

fn show(app: &App, report: &SnapshotReport) -> std::io::Result<()> {
    let snapshot = &report.snapshot;
    let counts = &snapshot.statistics;
    if app.json() {
        return render::line(&summary(report));
    }
    if report.dry_run {
        return render::print(&format!(
            "would read {} ({}) and take over {} unread; nothing was written\n",
            render::count(counts.entries_new, "entry"),
            render::bytes(counts.bytes_read),
            render::count(counts.entries_unchanged, "unchanged entry"),
        ));
    }
    if report.skipped {
        return render::print(&format!(
            "skipped: snapshot {} of {} is new enough; nothing was read or written\n",
            render::bold(&snapshot.sid.short()),
            render::local_time(snapshot.started),
        ));
    }
    let compared = match report.parent {
        Some(parent) => format!("compared with {}", parent.short()),
        None => "the first of its kind".to_owned(),
    };
    let mut text = format!(
        "snapshot {} of {}: {} new, {} changed, {} unchanged; {compared}\n",
        render::bold(&snapshot.sid.short()),
        render::bytes(snapshot.root.bytes),
        counts.entries_new,
        counts.entries_changed,
        counts.entries_unchanged,
    );
    text.push_str(&format!(
        "read {}, new {}, stored {} ({}), {}\n",
        render::bytes(counts.bytes_read),
        render::bytes(counts.bytes_new),
        render::bytes(counts.bytes_stored),
        render::compared(counts.bytes_read, counts.bytes_stored),
        render::seconds(report.seconds),
    ));
    if report.bytes_fetched > 0 {
        let fetched = render::bytes(report.bytes_fetched);
        text.push_str(&format!(
            "fetched {fetched} of what was stored before to compare with\n"
        ));
    }
    if snapshot.partial {
        text.push_str(&format!(
            "partial: {} could not be read, see the warnings; everything else is kept\n",
            render::count(snapshot.incident_count, "thing"),
        ));
    }
    render::print(&text)
}

/// What programs are told.
fn summary(report: &SnapshotReport) -> serde_json::Value {
    let snapshot = &report.snapshot;
    let counts = &snapshot.statistics;
    json!({
        "message_type": "summary",
        "dry_run": report.dry_run,
        "skipped": report.skipped,
        "files_new": counts.entries_new,
        "files_changed": counts.entries_changed,
        "files_unmodified": counts.entries_unchanged,
        "data_blobs": counts.blobs_new,
        "data_added": counts.bytes_new,
        "data_added_packed": counts.bytes_stored,
        "total_files_processed": counts.entries_new + counts.entries_changed + counts.entries_unchanged,
        "total_bytes_processed": snapshot.root.bytes,
        "bytes_read": counts.bytes_read,
        "bytes_fetched": report.bytes_fetched,
        "total_duration": report.seconds,
        "backup_start": snapshot.started.to_rfc3339(),
        "backup_end": snapshot.ended.to_rfc3339(),
        "parent": report.parent.map(|sid| sid.name()),
        "snapshot_id": (!report.dry_run).then(|| snapshot.sid.name()),
        "status": if snapshot.partial { "partial" } else { "complete" },
        "incidents": snapshot.incident_count,
    })
}
