//! What changed between two snapshots, as people see it: files, streams and tables, not segments and records.

use super::database::{databases, tables};
use super::place::locate;
use crate::connector::files::{self, Attributes};
use crate::connector::postgres::key::{self, Place};
use crate::connector::postgres::record::ReportLine;
use crate::error::Result;
use crate::snapshot::SnapshotReader;
use crate::snapshot::entry::{EntryKind, EntryRecord, Key};
use crate::snapshot::tree::{self, Change};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::sync::Arc;

/// How an entry differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Only the second snapshot has it.
    Added,
    /// Only the first snapshot has it.
    Removed,
    /// Its content.
    Content,
    /// What it is: a file became a link.
    Kind,
    /// Only what is said of it: times, owners, the columns of a table.
    Metadata,
}

/// One entry that differs.
#[derive(Clone, Debug)]
pub struct DiffLine {
    /// How.
    pub difference: Difference,
    /// In the first snapshot.
    pub before: Option<DiffSide>,
    /// In the second snapshot.
    pub after: Option<DiffSide>,
}

/// One snapshot's side of an entry that differs.
#[derive(Clone, Debug)]
pub struct DiffSide {
    /// Its key; of a table that of its group.
    pub key: Key,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes of content; of a table of its rows as text.
    pub bytes: u64,
    /// Rows, of a table.
    pub rows: Option<u64>,
}

impl DiffLine {
    /// The key of the entry.
    pub fn key(&self) -> Option<&Key> {
        self.side().map(|side| &side.key)
    }

    /// What it is, or was.
    pub fn kind(&self) -> Option<EntryKind> {
        self.side().map(|side| side.kind)
    }

    fn side(&self) -> Option<&DiffSide> {
        self.after.as_ref().or(self.before.as_ref())
    }
}

/// Differences from `before` to `after`, in key order; of all, or of what lies below `path` (of this
/// database) in either of them. Reads only nodes that
/// the two do not share. The first error ends the stream.
///
/// # Errors
/// `NotFound` if neither snapshot has the path, or what reading says.
pub async fn diff(
    before: &SnapshotReader,
    after: &SnapshotReader,
    path: Option<&OsStr>,
    database: Option<&str>,
) -> Result<BoxStream<'static, Result<DiffLine>>> {
    let below = match path {
        None => Key::empty(),
        Some(path) => match locate(after, path, database).await {
            Ok(record) => record.key.clone(),
            Err(missing) => locate(before, path, database)
                .await
                .map_err(|_| missing)?
                .key
                .clone(),
        },
    };
    let folder = Fold {
        changes: tree::diff(before.tree(), after.tree()),
        before: Reports::read(before).await?,
        after: Reports::read(after).await?,
        below,
        table: None,
        ready: VecDeque::new(),
    };
    Ok(stream::try_unfold(folder, |mut folder| async move {
        Ok(folder.next().await?.map(|line| (line, folder)))
    })
    .boxed())
}

/// What a snapshot says of its tables, by the keys of their groups.
struct Reports(HashMap<Key, ReportLine>);

impl Reports {
    async fn read(snapshot: &SnapshotReader) -> Result<Self> {
        let mut all = HashMap::new();
        for database in databases(snapshot).await? {
            for line in tables(snapshot, &database).await? {
                all.insert(key::key(&database, &Place::Table(line.table.clone())), line);
            }
        }
        Ok(Self(all))
    }
}

/// Folds the changes of a table's segments into one.
struct Fold {
    changes: BoxStream<'static, Result<Change>>,
    before: Reports,
    after: Reports,
    below: Key,
    /// The table whose changes are being folded.
    table: Option<OpenTable>,
    ready: VecDeque<DiffLine>,
}

struct OpenTable {
    key: Key,
    group: Option<Change>,
}

impl Fold {
    async fn next(&mut self) -> Result<Option<DiffLine>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            let Some(change) = self.changes.try_next().await? else {
                self.end_table();
                return Ok(self.ready.pop_front());
            };
            self.take(change);
        }
    }

    fn take(&mut self, change: Change) {
        let key = key_of(&change);
        if !key.starts_with(&self.below) {
            return;
        }
        match key::parse(key) {
            Some((database, Place::Table(table) | Place::Segment(table, _))) => {
                let group = key::key(&database, &Place::Table(table));
                let own = group == *key;
                if self.table.as_ref().is_none_or(|open| open.key != group) {
                    self.end_table();
                }
                let open = self.table.get_or_insert(OpenTable {
                    key: group,
                    group: None,
                });
                if own {
                    open.group = Some(change);
                }
            }
            // What a run says of itself differs always; it is no content of the project.
            Some((_, Place::Report)) => self.end_table(),
            _ => {
                self.end_table();
                self.ready.extend(entry_line(&change));
            }
        }
    }

    fn end_table(&mut self) {
        let ended = self.table.take();
        let line = ended.and_then(|table| self.table_line(&table));
        self.ready.extend(line);
    }

    /// The line of a table; nothing if its rows and columns are what they were, only read or kept in another way.
    fn table_line(&self, table: &OpenTable) -> Option<DiffLine> {
        let (before, after) = (self.before.0.get(&table.key), self.after.0.get(&table.key));
        let side = |line: &ReportLine| DiffSide {
            key: table.key.clone(),
            kind: EntryKind::Table,
            bytes: line.bytes,
            rows: Some(line.rows),
        };
        let unknown = || DiffSide {
            key: table.key.clone(),
            kind: EntryKind::Table,
            bytes: 0,
            rows: None,
        };
        let same_rows = match (before, after) {
            (Some(before), Some(after)) => (before.rows, before.sum) == (after.rows, after.sum),
            _ => false,
        };
        let difference = match &table.group {
            Some(Change::Added(_)) => Difference::Added,
            Some(Change::Removed(_)) => Difference::Removed,
            Some(Change::Changed { before, after }) if same_rows => {
                if before.metadata == after.metadata {
                    return None;
                }
                Difference::Metadata
            }
            None if same_rows => return None,
            _ => Difference::Content,
        };
        let side = |line: Option<&ReportLine>| line.map_or_else(unknown, side);
        Some(DiffLine {
            difference,
            before: (difference != Difference::Added).then(|| side(before)),
            after: (difference != Difference::Removed).then(|| side(after)),
        })
    }
}

fn key_of(change: &Change) -> &Key {
    match change {
        Change::Added(record) | Change::Removed(record) => &record.key,
        Change::Changed { after, .. } => &after.key,
    }
}

/// The line of an entry that is no part of a table; nothing if only what its connector notes for itself differs.
fn entry_line(change: &Change) -> Option<DiffLine> {
    let side = |record: &EntryRecord| DiffSide {
        key: record.key.clone(),
        kind: record.kind,
        bytes: record.size,
        rows: None,
    };
    Some(match change {
        Change::Added(record) => DiffLine {
            difference: Difference::Added,
            before: None,
            after: Some(side(record)),
        },
        Change::Removed(record) => DiffLine {
            difference: Difference::Removed,
            before: Some(side(record)),
            after: None,
        },
        Change::Changed { before, after } => DiffLine {
            difference: between(before, after)?,
            before: Some(side(before)),
            after: Some(side(after)),
        },
    })
}

fn between(before: &Arc<EntryRecord>, after: &Arc<EntryRecord>) -> Option<Difference> {
    if before.kind != after.kind {
        return Some(Difference::Kind);
    }
    let content = |record: &EntryRecord| (record.whole, record.size, record.content.clone());
    if content(before) != content(after) || target(before) != target(after) {
        return Some(Difference::Content);
    }
    (before.metadata != after.metadata).then_some(Difference::Metadata)
}

/// The target of a symbolic link is its content to people.
fn target(record: &EntryRecord) -> Option<Vec<u8>> {
    files::path_of(&record.key)?;
    Attributes::from_metadata(&record.metadata).ok()?.target
}
