//! Which snapshots there are, and opening the one that somebody means.

use super::unread::{UnreadSnapshot, all_unread, refuse_unread};
use crate::context::{Context, Time};
use crate::error::{Error, Result};
use crate::format::layout::ObjectName;
use crate::format::snapshot::SnapshotRecord;
use crate::repository::{CLOCKS_APART, Notes, Repository, View};
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
    /// When a collector first saw it, by the store's clock.
    pub first_seen: Option<Time>,
    /// A note that cannot be read and may be the one that protects the snapshot, and why it cannot be.
    pub protection_is_unknown: Option<(String, String)>,
    /// The same of its tags: those above are older ones then.
    pub tags_are_unknown: Option<(String, String)>,
    /// Somebody let it go, and why that has no effect.
    pub forget_without_effect: Option<String>,
}

/// What there is.
#[derive(Clone, Debug)]
pub struct ListReport {
    /// Snapshots that pass the filter, oldest first.
    pub snapshots: Vec<ListedSnapshot>,
    /// Objects that cannot be read, and why: a snapshot may be missing from the list.
    pub damaged: Vec<(String, String)>,
    /// Those of them that are records of snapshots, but for what was let go.
    pub unread: Vec<UnreadSnapshot>,
    /// Notes that cannot be read, and why; one for each snapshot that has any, also of those that do not pass the filter.
    pub damaged_notes: Vec<(String, String)>,
}

impl ListedSnapshot {
    /// When the snapshot was made: by its writer's clock, unless the store saw it at quite another time.
    pub fn made(&self) -> Time {
        let apart = |seen: &Time| seen.seconds.abs_diff(self.record.ended.seconds) > CLOCKS_APART;
        self.first_seen.filter(apart).unwrap_or(self.record.started)
    }

    fn new(view: &View, record: &Arc<SnapshotRecord>, notes: Option<&Notes>) -> Self {
        let said = notes.map(|notes| &notes.said);
        let hidden_by = |is_unknown: fn(&Notes) -> bool| {
            let damaged = notes.filter(|notes| is_unknown(notes))?.damaged.as_ref();
            damaged.map(told)
        };
        Self {
            tags: said
                .and_then(|said| said.tags.clone())
                .unwrap_or_else(|| record.tags.clone()),
            protected: said.and_then(|said| said.protected).unwrap_or(false),
            description: said.and_then(|said| said.description.clone()),
            first_seen: said.and_then(|said| said.first_seen),
            protection_is_unknown: hidden_by(|notes| notes.protection_is_unknown),
            tags_are_unknown: hidden_by(|notes| notes.tags_are_unknown),
            forget_without_effect: view.kept_in_spite_of_forget(&record.sid).map(str::to_owned),
            record: record.clone(),
        }
    }
}

fn told((name, error): &(ObjectName, Error)) -> (String, String) {
    (name.to_string(), error.to_string())
}

/// Lists snapshots.
///
/// # Errors
/// What the store says.
pub async fn list(context: &Context, repository: &Repository, filter: &SnapshotFilter) -> Result<ListReport> {
    let view = repository.view(context).await?;
    listed(repository, &view, filter).await
}

/// As [`list`], of a view.
pub(super) async fn listed(
    repository: &Repository,
    view: &View,
    filter: &SnapshotFilter,
) -> Result<ListReport> {
    let notes = repository.notes().await?;
    let mut snapshots: Vec<ListedSnapshot> = view
        .snapshots()
        .map(|record| ListedSnapshot::new(view, record, notes.get(&record.sid)))
        .filter(|s| filter.passes(&s.record, &s.tags))
        .collect();
    snapshots.sort_by_key(|s| age_key(&s.record));
    let damaged_notes = view
        .snapshots()
        .filter_map(|record| notes.get(&record.sid)?.damaged.as_ref());
    Ok(ListReport {
        snapshots,
        damaged: view.damaged.iter().map(told).collect(),
        unread: all_unread(repository, view),
        damaged_notes: damaged_notes.map(told).collect(),
    })
}

/// Opens the snapshot that `spec` names; for `latest` only those that pass `filter` count.
///
/// # Errors
/// `NotFound`, `Invalid` for a prefix that several share, `Damaged` or `Unreadable` if a snapshot may be meant whose record cannot be read,
/// or what the store says.
pub async fn open_snapshot(
    context: &Context,
    repository: &Repository,
    spec: &SnapshotSpec,
    filter: &SnapshotFilter,
) -> Result<SnapshotReader> {
    let view = repository.view(context).await?;
    let record = find_snapshot(repository, &view, spec, filter)?;
    let blobs = repository.reader_alone(context, &view, record.sid);
    Ok(SnapshotReader::new(record, blobs, context.budget.total()))
}

/// The snapshot of a view that `spec` names.
///
/// # Errors
/// As [`open_snapshot`].
pub(super) fn find_snapshot(
    repository: &Repository,
    view: &View,
    spec: &SnapshotSpec,
    filter: &SnapshotFilter,
) -> Result<Arc<SnapshotRecord>> {
    refuse_unread(spec, &all_unread(repository, view))?;
    let all: Vec<_> = view.snapshots().cloned().collect();
    spec.find(&all, &|s| filter.passes(s, &s.tags))
}
