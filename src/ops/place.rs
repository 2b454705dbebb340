//! How people write the places of a snapshot, and which entries they mean.
//!
//! `/etc/hosts` is a file, `shop.sql` a stream, `public.orders` a table; a whole key (`files/etc/hosts`) is understood too.

use crate::connector::files::{self, Select};
use crate::connector::postgres::key;
use crate::connector::stdio;
use crate::error::{Error, ErrorKind, Result, escape};
use crate::ops::RestoreRequest;
use crate::ops::database::{locate_in_databases, name_in_database};
use crate::snapshot::SnapshotReader;
use crate::snapshot::entry::{EntryKind, EntryRecord, Key};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Entries below a directory that are stepped over one by one before the reader seeks behind them.
const STEP_OVER: usize = 128;

/// The name of an entry as people write it; control characters are escaped.
pub fn name_of(key: &Key) -> String {
    if let Some(name) = name_in_database(key) {
        return escape(&name);
    }
    let text = escape(&String::from_utf8_lossy(path_of(key)));
    if files::path_of(key).is_some() {
        return format!("/{text}");
    }
    text
}

/// The bytes of an entry's name: the path of a file without its leading `/`, the name of a stream, else the key.
pub fn path_of(key: &Key) -> &[u8] {
    let bytes = key.as_bytes();
    let stream = || bytes.strip_prefix(stdio::PREFIX.as_bytes());
    files::path_of(key).or_else(stream).unwrap_or(bytes)
}

/// The entry that `path` means; with a `database` only what is in that one.
///
/// # Errors
/// `NotFound`, `Invalid` if several databases have it and none is named, or what reading the tree says.
pub async fn locate(
    snapshot: &SnapshotReader,
    path: impl AsRef<OsStr>,
    database: Option<&str>,
) -> Result<Arc<EntryRecord>> {
    let path = path.as_ref();
    if database.is_none() {
        for key in candidates(path.as_bytes()) {
            if let Some(record) = snapshot.find(&key).await? {
                return Ok(record);
            }
        }
    }
    if let Some(record) = locate_in_databases(snapshot, &path.to_string_lossy(), database).await? {
        return Ok(record);
    }
    let id = snapshot.record().sid.short();
    let error = Error::new(ErrorKind::NotFound, "the snapshot has no such path").with("path", path.display());
    let error = match database {
        Some(database) => error.with("database", database),
        None => error,
    };
    Err(error
        .with("snapshot", &id)
        .hint(format!("`holdall ls {id}` shows what it has")))
}

fn candidates(path: &[u8]) -> Vec<Key> {
    let with_slash = |path: &[u8]| [path, b"/"].concat();
    let file = |path: &[u8]| {
        let path = without_slashes(path);
        let directory = if path.is_empty() {
            Vec::new()
        } else {
            with_slash(path)
        };
        [files::key_of(path), files::key_of(&directory)]
    };
    if path.starts_with(b"/") {
        return file(path).to_vec();
    }
    let mut keys = vec![
        Key::new([stdio::PREFIX.as_bytes(), path].concat()),
        Key::new(path.to_vec()),
        Key::new(with_slash(path)),
    ];
    keys.extend(file(path));
    keys
}

/// Without the slashes at its ends.
fn without_slashes(mut path: &[u8]) -> &[u8] {
    while let Some(rest) = path.strip_prefix(b"/") {
        path = rest;
    }
    while let Some(rest) = path.strip_suffix(b"/") {
        path = rest;
    }
    path
}

/// Entries of a snapshot in key order: all below `path`, or with `recursive` unset what a directory holds directly. Without a path,
/// the walk begins at the deepest directory that all files share; with a `database`, only that one is walked.
///
/// # Errors
/// As [`locate`]; the stream ends with the first error.
pub async fn ls(
    snapshot: &SnapshotReader,
    path: Option<&OsStr>,
    database: Option<&str>,
    recursive: bool,
) -> Result<BoxStream<'static, Result<Arc<EntryRecord>>>> {
    let start = match path {
        Some(path) => Some(locate(snapshot, path, database).await?),
        None => None,
    };
    if let (None, Some(_)) = (path, database) {
        let name = super::database(snapshot, database).await?;
        let key = key::database(&name);
        return Ok(if recursive {
            snapshot.records(key)
        } else {
            children(snapshot, key)
        });
    }
    match start {
        Some(record) if record.kind == EntryKind::Table && recursive => {
            Ok(snapshot.records(record.key.clone()))
        }
        Some(record) if record.kind != EntryKind::Directory => Ok(stream::iter([Ok(record)]).boxed()),
        Some(record) if recursive => Ok(snapshot.records(record.key.clone())),
        Some(record) => Ok(children(snapshot, record.key.clone())),
        None if recursive => Ok(snapshot.records(Key::empty())),
        None => {
            let others = children(snapshot, Key::empty())
                .try_filter(|record| futures::future::ready(!is_top(&record.key)));
            let top = shared_directory(snapshot).await?;
            // Files come before streams in key order; people look for streams first.
            Ok(others.chain(children(snapshot, top)).boxed())
        }
    }
}

fn is_top(key: &Key) -> bool {
    files::path_of(key).is_some()
}

/// The deepest directory that all files of a snapshot share.
///
/// # Errors
/// What reading the tree says.
pub(super) async fn shared_directory(snapshot: &SnapshotReader) -> Result<Key> {
    let mut top: Key = files::PREFIX.into();
    while let Some(only) = only_directory(snapshot, &top).await? {
        top = only;
    }
    Ok(top)
}

/// The directory below `directory`, if that is all there is.
async fn only_directory(snapshot: &SnapshotReader, directory: &Key) -> Result<Option<Key>> {
    let mut below = children(snapshot, directory.clone());
    let first = below.try_next().await?;
    let Some(first) = first.filter(|first| first.kind == EntryKind::Directory) else {
        return Ok(None);
    };
    Ok(if below.try_next().await?.is_none() {
        Some(first.key.clone())
    } else {
        None
    })
}

/// A walk over what a directory holds directly.
struct Children {
    snapshot: SnapshotReader,
    directory: Key,
    records: BoxStream<'static, Result<Arc<EntryRecord>>>,
    /// The directory that was yielded last: its members are stepped over.
    inside: Option<Key>,
    stepped: usize,
}

fn children(snapshot: &SnapshotReader, directory: Key) -> BoxStream<'static, Result<Arc<EntryRecord>>> {
    let walk = Children {
        records: snapshot.records(directory.clone()),
        snapshot: snapshot.clone(),
        directory,
        inside: None,
        stepped: 0,
    };
    stream::try_unfold(walk, |mut walk| async move {
        Ok(walk.next().await?.map(|record| (record, walk)))
    })
    .boxed()
}

impl Children {
    async fn next(&mut self) -> Result<Option<Arc<EntryRecord>>> {
        while let Some(record) = self.records.try_next().await? {
            if record.key == self.directory {
                continue;
            }
            if self
                .inside
                .as_ref()
                .is_some_and(|dir| record.key.starts_with(dir))
            {
                self.stepped += 1;
                if self.stepped == STEP_OVER
                    && let Some(dir) = &self.inside
                {
                    let tree = self.snapshot.tree();
                    self.records = tree.range(behind(dir), self.directory.clone());
                }
                continue;
            }
            if matches!(record.kind, EntryKind::Directory | EntryKind::Table) {
                self.inside = Some(record.key.clone());
                self.stepped = 0;
            }
            return Ok(Some(record));
        }
        Ok(None)
    }
}

/// The first key behind all that begin with the key of a group: a directory's ends with `/`, a table's with a zero byte.
fn behind(directory: &Key) -> Key {
    let mut bytes = directory.as_bytes().to_vec();
    if let Some(last) = bytes.last_mut() {
        *last = last.saturating_add(1);
    }
    Key::new(bytes)
}

/// What a restore of files takes: the request for [`crate::ops::restore`], and the directory of the snapshot that becomes the target
/// (without leading and with trailing `/`; empty for `/`).
pub struct FilesPlace {
    /// Which entries.
    pub request: RestoreRequest,
    /// The directory that becomes the target.
    pub strip: Vec<u8>,
}

/// The files that `path` means, or all.
///
/// # Errors
/// As [`locate`]; `Invalid` for what is not a file or directory.
pub async fn files_place(
    snapshot: &SnapshotReader,
    path: Option<&OsStr>,
    select: Select,
) -> Result<FilesPlace> {
    let (prefix, strip) = match path {
        None => (files::PREFIX.into(), Vec::new()),
        Some(path) => {
            let record = locate(snapshot, path, None).await?;
            let Some(inner) = files::path_of(&record.key) else {
                let what = format!(
                    "only files are restored into a directory, and this is a {}",
                    record.kind.word()
                );
                let id = snapshot.record().sid.short();
                let name = name_of(&record.key);
                return Err(Error::new(ErrorKind::Invalid, what)
                    .with("path", &name)
                    .hint(format!("`holdall cat {id} {name} > FILE` writes it")));
            };
            let strip = if record.kind == EntryKind::Directory {
                inner.to_vec()
            } else {
                let end = inner.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
                inner.get(..end).unwrap_or_default().to_vec()
            };
            (record.key.clone(), strip)
        }
    };
    let exact = (!prefix.as_bytes().ends_with(b"/")).then(|| prefix.clone());
    let wanted = move |record: &EntryRecord| {
        let directory = record.kind == EntryKind::Directory;
        exact.as_ref().is_none_or(|key| *key == record.key)
            && files::path_of(&record.key).is_some_and(|path| directory || select.picks(path, false))
    };
    Ok(FilesPlace {
        request: RestoreRequest {
            prefix,
            wanted: Box::new(wanted),
        },
        strip,
    })
}

/// How many entries of a snapshot are streams, which no restore of files brings back; stops counting at `most`.
///
/// # Errors
/// What reading the tree says.
pub async fn count_streams(snapshot: &SnapshotReader, most: usize) -> Result<usize> {
    let streams = snapshot.records(stdio::PREFIX.into()).take(most);
    streams
        .try_fold(0, |n, _| futures::future::ready(Ok(n + 1)))
        .await
}
