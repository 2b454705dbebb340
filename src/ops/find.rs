//! Which snapshots hold an entry, and in which versions.

use super::forget::GroupBy;
use super::list::{ListedSnapshot, list};
use super::place::name_of;
use crate::connector::postgres::key::{self, Place};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::format::snapshot::SnapshotRecord;
use crate::repository::Repository;
use crate::snapshot::entry::{EntryRecord, Key};
use crate::snapshot::tree::{Change, diff};
use crate::snapshot::{SnapshotFilter, SnapshotReader};
use futures::stream::TryStreamExt;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Entries that are remembered from one snapshot to the next, at most.
const MATCHES_MAX: usize = 1_000_000;

/// What is looked for.
#[derive(Clone, Debug, Default)]
pub struct FindRequest {
    /// Shell patterns, any of which is enough. With a `/` it is the whole name that must match, else its last part.
    pub patterns: Vec<String>,
    /// Upper and lower case are the same.
    pub ignore_case: bool,
    /// Which snapshots are searched.
    pub filter: SnapshotFilter,
}

/// One version of an entry, and the snapshots in a row that have it.
#[derive(Clone, Debug)]
pub struct FoundVersion {
    /// The entry.
    pub record: Arc<EntryRecord>,
    /// The oldest snapshot with this version.
    pub first: Arc<SnapshotRecord>,
    /// The newest of those that follow it without a gap.
    pub last: Arc<SnapshotRecord>,
    /// How many these are.
    pub snapshots: usize,
}

/// Entries that match.
struct Matcher(GlobSet, GlobSet);

impl Matcher {
    fn new(request: &FindRequest) -> Result<Self> {
        let invalid = |error: globset::Error| {
            Error::new(ErrorKind::Invalid, "this is no pattern")
                .because(error)
                .hint("a shell pattern: `*.csv`, `public.ord*`, `/srv/shop/**`")
        };
        let (mut names, mut whole) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in &request.patterns {
            let glob = GlobBuilder::new(pattern)
                .case_insensitive(request.ignore_case)
                .literal_separator(true)
                .build()
                .map_err(invalid)?;
            if pattern.contains('/') {
                &mut whole
            } else {
                &mut names
            }
            .add(glob);
        }
        let build = |set: GlobSetBuilder| set.build().map_err(invalid);
        Ok(Self(build(names)?, build(whole)?))
    }

    /// Rows are found by their table.
    fn matches(&self, record: &EntryRecord) -> bool {
        let place = key::parse(&record.key).map(|(_, place)| place);
        if matches!(place, Some(Place::Segment(..) | Place::Report)) {
            return false;
        }
        let name = name_of(&record.key);
        let name = name.strip_suffix('/').unwrap_or(&name);
        let last = name.rsplit('/').next().unwrap_or(name);
        let table = match &place {
            Some(Place::Table(table)) => String::from_utf8(table.table.clone()).ok(),
            _ => None,
        };
        self.0.is_match(last) || self.1.is_match(name) || table.is_some_and(|table| self.0.is_match(table))
    }
}

/// What was looked through.
#[derive(Clone, Debug)]
pub struct FindReport {
    /// How many snapshots.
    pub searched: usize,
    /// Objects that cannot be read, and why: a snapshot may not have been searched.
    pub damaged: Vec<(String, String)>,
}

/// Looks through snapshots, oldest first, and tells `found` of each version of each entry that matches. Snapshots of the same host,
/// project and sources are compared with each other: only what differs from one to the next is read.
///
/// # Errors
/// `Invalid` for a pattern that is none, or if more than a million entries match; else what reading says.
pub async fn find(
    context: &Context,
    repository: &Repository,
    request: &FindRequest,
    found: &mut (dyn FnMut(FoundVersion) -> Result<()> + Send),
) -> Result<FindReport> {
    let matcher = Matcher::new(request)?;
    let view = repository.view(context).await?;
    let listed = list(context, repository, &request.filter).await?;
    let report = FindReport {
        searched: listed.snapshots.len(),
        damaged: listed.damaged,
    };
    for group in GroupBy::default().split(listed.snapshots).into_values() {
        let mut search = Search {
            matcher: &matcher,
            open: BTreeMap::new(),
        };
        let mut previous: Option<SnapshotReader> = None;
        for ListedSnapshot { record, .. } in group {
            let blobs = repository.reader(context, &view);
            let reader = SnapshotReader::new(record, blobs, context.budget.total());
            search.step(context, previous.as_ref(), &reader, found).await?;
            previous = Some(reader);
        }
        for version in search.open.into_values() {
            found(version)?;
        }
    }
    Ok(report)
}

/// What matches in the snapshot that was looked at last.
struct Search<'a> {
    matcher: &'a Matcher,
    open: BTreeMap<Key, FoundVersion>,
}

impl Search<'_> {
    async fn step(
        &mut self,
        context: &Context,
        previous: Option<&SnapshotReader>,
        reader: &SnapshotReader,
        found: &mut (dyn FnMut(FoundVersion) -> Result<()> + Send),
    ) -> Result<()> {
        let snapshot = reader.record();
        let mut ended = Vec::new();
        let mut begun = Vec::new();
        if let Some(previous) = previous {
            let mut changes = diff(previous.tree(), reader.tree());
            while let Some(change) = changes.try_next().await? {
                context.check_cancelled()?;
                match change {
                    Change::Added(record) => begun.push(record),
                    Change::Removed(record) => ended.push(record.key.clone()),
                    Change::Changed { before, after } if is_same(&before, &after) => {}
                    Change::Changed { after, .. } => {
                        ended.push(after.key.clone());
                        begun.push(after);
                    }
                }
                self.turn(&mut ended, &mut begun, snapshot, found)?;
            }
        } else {
            let mut records = reader.records(Key::empty());
            while let Some(record) = records.try_next().await? {
                context.check_cancelled()?;
                begun.push(record);
                self.turn(&mut ended, &mut begun, snapshot, found)?;
            }
        }
        for version in self.open.values_mut() {
            version.last = snapshot.clone();
            version.snapshots += 1;
        }
        Ok(())
    }

    /// Ends versions and begins others.
    fn turn(
        &mut self,
        ended: &mut Vec<Key>,
        begun: &mut Vec<Arc<EntryRecord>>,
        snapshot: &Arc<SnapshotRecord>,
        found: &mut (dyn FnMut(FoundVersion) -> Result<()> + Send),
    ) -> Result<()> {
        for key in ended.drain(..) {
            if let Some(version) = self.open.remove(&key) {
                found(version)?;
            }
        }
        for record in begun.drain(..).filter(|record| self.matcher.matches(record)) {
            if self.open.len() == MATCHES_MAX {
                return Err(
                    Error::new(ErrorKind::Invalid, "more than a million entries match")
                        .with("snapshot", snapshot.sid.short())
                        .hint("a narrower pattern; `holdall ls SNAPSHOT --recursive` lists everything"),
                );
            }
            let version = FoundVersion {
                record: record.clone(),
                first: snapshot.clone(),
                last: snapshot.clone(),
                snapshots: 0,
            };
            self.open.insert(record.key.clone(), version);
        }
        Ok(())
    }
}

/// Whether nothing but what a connector notes for itself differs. Of a database the entries alone say too little: a table's group stays
/// the same in kind and columns when its rows do not.
fn is_same(before: &EntryRecord, after: &EntryRecord) -> bool {
    key::parse(&before.key).is_none()
        && before.kind == after.kind
        && before.size == after.size
        && before.content == after.content
        && before.metadata == after.metadata
}
