//! Databases in a snapshot: which there are, how people name what is in them, and what a restore takes.

use super::RestoreRequest;
use crate::connector::postgres::key::{self, Place, SPACE, TableName};
use crate::connector::postgres::name::{display, parse_table};
use crate::connector::postgres::record::{ReportLine, decode_report};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::SnapshotReader;
use crate::snapshot::entry::{Content, ContentStream, EntryKind, EntryRecord, Key, OpenContent, Piece};
use futures::future::BoxFuture;
use futures::stream::{StreamExt, TryStreamExt};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The largest report of tables that is read, in bytes.
const REPORT_MAX: usize = 256 << 20;

/// Which rows of a database are restored; all, if both are empty.
#[derive(Clone, Debug, Default)]
pub struct TableFilter {
    /// Only the rows of these tables.
    pub include: BTreeSet<TableName>,
    /// Not the rows of these.
    pub exclude: BTreeSet<TableName>,
}

/// The databases of a snapshot, by name.
///
/// # Errors
/// What reading the tree says.
pub async fn databases(snapshot: &SnapshotReader) -> Result<Vec<Vec<u8>>> {
    let prefix = Key::new(SPACE.to_vec());
    let mut found = Vec::new();
    let mut start = prefix.clone();
    loop {
        let mut records = snapshot.tree().range(start, prefix.clone());
        let Some(record) = records.try_next().await? else {
            return Ok(found);
        };
        let Some((name, _)) = key::parse(&record.key) else {
            start = Key::new([record.key.as_bytes(), &[0]].concat());
            continue;
        };
        let mut behind = key::database(&name).as_bytes().to_vec();
        if let Some(last) = behind.last_mut() {
            // The name ends with a zero byte.
            *last = 1;
        }
        start = Key::new(behind);
        found.push(name);
    }
}

/// The database that a command means: the one `named`, or the only one.
///
/// # Errors
/// `NotFound`, or `Invalid` if there are several and none is named.
pub async fn database(snapshot: &SnapshotReader, named: Option<&str>) -> Result<Vec<u8>> {
    let mut all = databases(snapshot).await?;
    let id = snapshot.record().sid.short();
    let names = all
        .iter()
        .map(|name| display(name))
        .collect::<Vec<_>>()
        .join(", ");
    match named {
        Some(named) if all.iter().any(|name| name == named.as_bytes()) => Ok(named.into()),
        Some(named) => Err(
            Error::new(ErrorKind::NotFound, "the snapshot has no such database")
                .with("database", named)
                .with("snapshot", id)
                .hint(format!("it has: {names}")),
        ),
        None if all.len() > 1 => Err(
            Error::new(ErrorKind::Invalid, "the snapshot has several databases")
                .with("snapshot", id)
                .hint(format!("choose one with --database: {names}")),
        ),
        None => all.pop().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the snapshot holds no database")
                .with("snapshot", &id)
                .hint(format!("`holdall ls {id}` shows what it has"))
        }),
    }
}

/// What a restore of the database takes. Statements are always part of it; `contents` says whether rows and large objects are too.
///
/// # Errors
/// `NotFound` for a table to include that the snapshot does not have.
pub async fn database_place(
    snapshot: &SnapshotReader,
    database: &[u8],
    filter: TableFilter,
    contents: bool,
) -> Result<RestoreRequest> {
    for table in &filter.include {
        let key = key::key(database, &Place::Table(table.clone()));
        if snapshot.find(&key).await?.is_none() {
            return Err(
                Error::new(ErrorKind::NotFound, "the snapshot has no rows of this table")
                    .with("table", table)
                    .hint(format!(
                        "`holdall ls {}` shows the tables",
                        snapshot.record().sid.short()
                    )),
            );
        }
    }
    let wanted = move |record: &EntryRecord| match key::parse(&record.key) {
        Some((_, Place::Table(table) | Place::Segment(table, _))) => {
            let included = filter.include.is_empty() || filter.include.contains(&table);
            (contents || record.kind == EntryKind::Table) && included && !filter.exclude.contains(&table)
        }
        Some((_, Place::LargeObject(_))) => contents && filter.include.is_empty(),
        _ => true,
    };
    Ok(RestoreRequest {
        prefix: key::database(database),
        wanted: Box::new(wanted),
    })
}

/// What a snapshot says of the tables of a database; nothing if it has no report.
///
/// # Errors
/// `Damaged`, or what reading the snapshot says.
pub async fn tables(snapshot: &SnapshotReader, database: &[u8]) -> Result<Vec<ReportLine>> {
    let Some(record) = snapshot.find(&key::key(database, &Place::Report)).await? else {
        return Ok(Vec::new());
    };
    let mut pieces = snapshot.entry(&record).content.open().await?;
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.try_next().await? {
        if let Piece::Data(data) = piece {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > REPORT_MAX {
            return Err(Error::new(
                ErrorKind::Damaged,
                "the report of a database's tables is too large",
            ));
        }
    }
    decode_report(&bytes).map_err(|error| {
        Error::new(
            ErrorKind::Damaged,
            "cannot read the report of a database's tables",
        )
        .because(error)
    })
}

/// What people write for an entry of a database; nothing for other entries.
pub(super) fn name_in_database(key: &Key) -> Option<String> {
    let (database, place) = key::parse(key)?;
    Some(match place {
        Place::Database => display(&database),
        place => place.to_string(),
    })
}

/// The entry that a name means in the databases of a snapshot, or in the one `named`: a table as SQL writes it, or what
/// [`name_in_database`] shows.
///
/// # Errors
/// `Invalid` if several databases have it and none is named.
pub(super) async fn locate_in_databases(
    snapshot: &SnapshotReader,
    text: &str,
    named: Option<&str>,
) -> Result<Option<Arc<EntryRecord>>> {
    let places = places(text);
    if places.is_empty() {
        return Ok(None);
    }
    let databases = match named {
        Some(_) => vec![database(snapshot, named).await?],
        None => databases(snapshot).await?,
    };
    let mut found: Option<Arc<EntryRecord>> = None;
    let mut having = Vec::new();
    for name in &databases {
        for place in &places {
            if let Some(record) = snapshot.find(&key::key(name, place)).await? {
                having.push(display(name));
                found = found.or(Some(record));
                break;
            }
        }
    }
    if having.len() > 1 {
        let error = Error::new(ErrorKind::Invalid, "several databases of the snapshot have this");
        return Err(error
            .with("name", text)
            .with("snapshot", snapshot.record().sid.short())
            .hint(format!("choose one with --database: {}", having.join(", "))));
    }
    Ok(found)
}

/// What a name may mean in a database.
fn places(text: &str) -> Vec<Place> {
    let mut places = Vec::new();
    match text {
        "0-globals" => places.push(Place::Globals),
        "1-schema" => places.push(Place::Schema),
        "4-sequences" => places.push(Place::Sequences),
        "5-constraints" => places.push(Place::Constraints),
        "6-refresh" => places.push(Place::Refresh),
        _ => {}
    }
    if let Some(oid) = text
        .strip_prefix("3-large-objects/")
        .and_then(|oid| oid.parse().ok())
    {
        places.push(Place::LargeObject(oid));
    }
    places.extend(parse_table(text).ok().map(Place::Table));
    places
}

/// The content that stands for an entry: its own, and for a table the rows of its segments, as `COPY` writes them.
pub fn content(snapshot: &SnapshotReader, record: &Arc<EntryRecord>) -> Content {
    if record.kind != EntryKind::Table {
        return snapshot.entry(record).content;
    }
    Content::Open(Box::new(Rows {
        snapshot: snapshot.clone(),
        table: record.key.clone(),
    }))
}

struct Rows {
    snapshot: SnapshotReader,
    table: Key,
}

impl OpenContent for Rows {
    fn open(self: Box<Self>) -> BoxFuture<'static, Result<ContentStream>> {
        let segments = self
            .snapshot
            .entries(self.table, |record| record.kind == EntryKind::Segment);
        let pieces = segments.and_then(|entry| entry.content.open()).try_flatten();
        Box::pin(async move { Ok(pieces.boxed()) })
    }
}
