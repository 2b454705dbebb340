//! Connectors without a repository: source → memory → sink.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code")]

mod files_exclude;
mod files_hostile;
mod files_restore;
mod files_roundtrip;
mod files_source;
mod files_writing;
mod stdio;

use holdall::connector::SinkReport;
use holdall::connector::files::{FilesRequest, FilesSink, FilesSource, RestoreRequest};
use holdall::context::{Context, Time};
use holdall::event::{Event, Recorder};
use holdall::snapshot::entry::Key;
use holdall::testkit::collect::Collected;
use std::path::Path;
use std::sync::Arc;

/// A context, and what it was told.
fn context() -> (Context, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let context = Context::new(recorder.clone(), holdall::context::BUDGET_MIN, 1).unwrap();
    (context, recorder)
}

/// The snapshot of one directory.
async fn keep(root: &Path) -> Collected {
    keep_with(FilesRequest::default(), root, None).await
}

/// The snapshot of one directory, as asked for, with a parent.
async fn keep_with(request: FilesRequest, root: &Path, parent: Option<(&Collected, Time)>) -> Collected {
    let request = FilesRequest {
        roots: vec![root.to_owned()],
        ..request
    };
    let mut source = FilesSource::new(request).unwrap();
    Collected::take(&context().0, &mut source, parent).await.unwrap()
}

/// The path of `root` as a snapshot has it: what a restore strips.
fn strip(root: &Path) -> Vec<u8> {
    let path = root.to_str().unwrap().strip_prefix('/').unwrap();
    format!("{path}/").into_bytes()
}

/// The key of `path` below `root`.
fn key(root: &Path, path: &str) -> Key {
    let mut full = strip(root);
    full.extend_from_slice(path.as_bytes());
    holdall::connector::files::key_of(&full)
}

/// Restores what lies below `root` into `target`; gives incidents too.
async fn restore(kept: &Collected, root: &Path, target: &Path) -> (SinkReport, Vec<String>) {
    restore_with(kept, root, target, RestoreRequest::default()).await
}

/// Restores as asked for.
async fn restore_with(
    kept: &Collected,
    root: &Path,
    target: &Path,
    request: RestoreRequest,
) -> (SinkReport, Vec<String>) {
    let mut sink = FilesSink::new(RestoreRequest {
        target: target.to_owned(),
        strip: strip(root),
        ..request
    });
    let (context, recorder) = context();
    let report = kept.give(&context, &mut sink).await.unwrap();
    (report, incidents(&recorder))
}

fn incidents(recorder: &Recorder) -> Vec<String> {
    let text = |event| match event {
        Event::Incident { name, why } => Some(format!("{name}: {why}")),
        _ => None,
    };
    recorder.events().into_iter().filter_map(text).collect()
}

/// A temporary directory whose path has no links in it.
fn scratch() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    (dir, path)
}

/// A start of the parent that proves files that are older than this moment.
fn later() -> Time {
    let now = holdall::context::Clock::now(&holdall::context::SystemClock);
    Time {
        seconds: now.seconds + 10,
        nanos: 0,
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
