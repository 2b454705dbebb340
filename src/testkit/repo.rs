//! Repositories for tests: made with a key file, on any store, with a deterministic or an ordinary context.
#![expect(clippy::unwrap_used, reason = "this is test code")]

use crate::connector::Source;
use crate::connector::files::{FilesRequest, FilesSink, FilesSource, RestoreRequest as FilesRestore};
use crate::context::Context;
use crate::crypto::{Secret, SlotInfo, Unlock};
use crate::error::Result;
use crate::ops::{self, CheckReport, CheckRequest, SnapshotReport, SnapshotRequest};
use crate::repository::{Cache, InitOptions, ReadData, Repository};
use crate::snapshot::{SnapshotReader, SnapshotSpec};
use crate::store::{Access, Location, Store, StoreOptions};
use std::path::Path;
use std::sync::Arc;

/// The secret of every repository here.
pub fn key() -> Unlock {
    Unlock::KeyFile(Secret::new([42; 32]))
}

/// A store in memory.
pub fn memory(context: &Context) -> Store {
    let options = StoreOptions {
        access: Access::ReadWrite,
        ..StoreOptions::default()
    };
    Store::open(&Location::Memory, &options, context).unwrap()
}

/// A store in a directory.
pub fn local(directory: &Path, context: &Context) -> Store {
    let options = StoreOptions {
        access: Access::Create,
        ..StoreOptions::default()
    };
    Store::open(&Location::Local(directory.to_path_buf()), &options, context).unwrap()
}

/// How every repository here is made.
pub fn init_options() -> InitOptions {
    InitOptions {
        unlock: key(),
        label: SlotInfo::default(),
        padme: true,
        profiles: Vec::new(),
        retain_last: 1,
        retain_age: 0,
        reserve: false,
    }
}

/// Makes a repository.
///
/// # Errors
/// As [`Repository::init`].
pub async fn init(store: &Store, context: &Context) -> Result<Repository> {
    let cache = Arc::new(Cache::in_memory()?);
    Ok(Repository::init(store.clone(), context, init_options(), cache)
        .await?
        .repository)
}

/// Opens it, with an empty cache.
///
/// # Errors
/// As [`Repository::open`].
pub async fn open(store: &Store) -> Result<Repository> {
    Repository::open(store.clone(), &key(), |_| Cache::in_memory()).await
}

/// A request that names no one in particular.
pub fn request() -> SnapshotRequest {
    SnapshotRequest {
        host: "test".into(),
        ..SnapshotRequest::default()
    }
}

/// Makes a snapshot of a directory.
///
/// # Errors
/// As [`ops::snapshot`].
pub async fn snapshot_of(
    context: &Context,
    repository: &Repository,
    directory: &Path,
) -> Result<SnapshotReport> {
    let mut open = || -> Result<Option<Vec<Box<dyn Source>>>> {
        let roots = vec![directory.to_path_buf()];
        Ok(Some(vec![Box::new(FilesSource::new(FilesRequest {
            roots,
            ..FilesRequest::default()
        })?)]))
    };
    ops::snapshot(context, repository, &request(), &mut open).await
}

/// A reader of a snapshot.
///
/// # Errors
/// As [`Repository::view`] and [`SnapshotSpec::find`].
pub async fn reader(context: &Context, repository: &Repository, spec: &str) -> Result<SnapshotReader> {
    let view = repository.view(context).await?;
    let snapshots: Vec<_> = view.snapshots().cloned().collect();
    let record = spec.parse::<SnapshotSpec>()?.find(&snapshots, &|_| true)?;
    let blobs = repository.reader_alone(context, &view, record.sid);
    Ok(SnapshotReader::new(record, blobs, context.budget.total()))
}

/// Restores what a snapshot has of `directory` into `target`.
///
/// # Errors
/// As [`ops::restore`].
pub async fn restore_to(
    context: &Context,
    repository: &Repository,
    spec: &str,
    directory: &Path,
    target: &Path,
) -> Result<ops::RestoreReport> {
    let snapshot = reader(context, repository, spec).await?;
    let strip = format!("{}/", directory.to_str().unwrap().trim_start_matches('/')).into_bytes();
    let request = FilesRestore {
        target: target.to_path_buf(),
        strip,
        privileged: true,
        ..FilesRestore::default()
    };
    let mut sink = FilesSink::new(request);
    let request = ops::RestoreRequest {
        prefix: "files/".into(),
        wanted: Box::new(|_| true),
    };
    ops::restore(context, &snapshot, request, &mut sink).await
}

/// Checks everything, data included.
///
/// # Errors
/// As [`ops::check`].
pub async fn check_all(context: &Context, repository: &Repository) -> Result<CheckReport> {
    ops::check(
        context,
        repository,
        CheckRequest {
            read_data: ReadData::All,
            ..CheckRequest::default()
        },
    )
    .await
}
