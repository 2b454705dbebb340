//! Which snapshots there are, and opening the one that somebody means.

use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::format::snapshot::SnapshotRecord;
use crate::repository::Repository;
use crate::snapshot::{SnapshotFilter, SnapshotReader, SnapshotSpec, age_key};
use std::sync::Arc;

/// A snapshot with what notes say of it.
#[derive(Clone, Debug)]
pub struct ListedSnapshot {
    /// Its record.
    pub record: Arc<SnapshotRecord>,
    /// Its tags: the newest note's, or those it was made with.
    pub tags: Vec<String>,
    /// Whether forgetting it has no effect.
    pub protected: bool,
    /// What a person wrote about it.
    pub description: Option<String>,
}

/// What there is.
#[derive(Clone, Debug)]
pub struct ListReport {
    /// Snapshots that pass the filter, oldest first.
    pub snapshots: Vec<ListedSnapshot>,
    /// Objects that cannot be read, and why: a snapshot may be missing from the list.
    pub damaged: Vec<(String, String)>,
}

/// Lists snapshots.
///
/// # Errors
/// What the store says.
pub async fn list(context: &Context, repository: &Repository, filter: &SnapshotFilter) -> Result<ListReport> {
    let view = repository.view(context).await?;
    let notes = repository.notes().await?;
    let mut snapshots: Vec<ListedSnapshot> = view
        .snapshots()
        .map(|record| {
            let note = notes.get(&record.sid);
            ListedSnapshot {
                tags: note
                    .and_then(|n| n.tags.clone())
                    .unwrap_or_else(|| record.tags.clone()),
                protected: note.and_then(|n| n.protected).unwrap_or(false),
                description: note.and_then(|n| n.description.clone()),
                record: record.clone(),
            }
        })
        .filter(|s| filter.passes(&s.record, &s.tags))
        .collect();
    snapshots.sort_by_key(|s| age_key(&s.record));
    let damaged = view
        .damaged
        .iter()
        .map(|(name, error)| (name.to_string(), error.to_string()))
        .collect();
    Ok(ListReport { snapshots, damaged })
}

/// Opens the snapshot that `spec` names; for `latest` only those that pass `filter` count.
///
/// # Errors
/// `NotFound`, `Invalid` for a prefix that several share, or what the store says.
pub async fn open_snapshot(
    context: &Context,
    repository: &Repository,
    spec: &SnapshotSpec,
    filter: &SnapshotFilter,
) -> Result<SnapshotReader> {
    let view = repository.view(context).await?;
    let all: Vec<_> = view.snapshots().cloned().collect();
    let record =
        spec.find(&all, &|s| filter.passes(s, &s.tags))
            .map_err(|error| match view.damaged.first() {
                // It may be there and unreadable: that is another message than "there is none".
                Some((name, why)) if error.kind() == ErrorKind::NotFound => Error::new(
                    ErrorKind::Damaged,
                    "the snapshot is not among those that can be read, and some cannot",
                )
                .with("object", name)
                .because(why.clone())
                .hint("run `holdall check` to see what is damaged"),
                _ => error,
            })?;
    let blobs = repository.reader(context, &view);
    Ok(SnapshotReader::new(record, blobs, context.budget.total()))
}
