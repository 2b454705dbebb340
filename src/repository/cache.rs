//! A local cache of sealed objects, and of names once seen. It holds only bytes that the store holds too, and every use of them is
//! verified like the store's own: a lost, stale or damaged cache changes nothing but time.
//!
//! One SQLite file holds it (`ARCHITECTURE.md` says why), so that two processes may share it and a killed one leaves it whole.

use crate::error::{Error, ErrorKind, Result};
use crate::format::id::RepositoryId;
use crate::format::layout::ObjectName;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Mutex;

/// The largest object that is cached, in bytes.
const CACHED_MAX: usize = 16 << 20;

/// A cache of one repository.
pub struct Cache {
    connection: Mutex<Connection>,
}

impl Cache {
    /// Opens, or makes, the cache of a repository in `directory`.
    ///
    /// # Errors
    /// `Source` if the directory cannot be used; the caller may go on with [`Self::in_memory`].
    pub fn open(directory: &Path, repository: RepositoryId) -> Result<Self> {
        let failed = |e: rusqlite::Error| cache_error(&e).with("directory", directory.display());
        fs_err::create_dir_all(directory)
            .map_err(|e| Error::new(ErrorKind::Source, "cannot make the cache directory").because(e))?;
        let path = directory.join(format!("{repository}.sqlite"));
        match Connection::open(&path).and_then(|connection| Self::set_up(&connection).map(|()| connection)) {
            Ok(connection) => Ok(Self {
                connection: Mutex::new(connection),
            }),
            Err(rusqlite::Error::SqliteFailure(e, _))
                if matches!(
                    e.code,
                    rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt
                ) =>
            {
                // It is only a hint: a damaged one is made anew.
                fs_err::remove_file(&path)
                    .map_err(|e| Error::new(ErrorKind::Source, "damaged cache").because(e))?;
                let connection = Connection::open(&path).map_err(failed)?;
                Self::set_up(&connection).map_err(failed)?;
                Ok(Self {
                    connection: Mutex::new(connection),
                })
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// A cache that ends with the process.
    ///
    /// # Errors
    /// `Internal` if SQLite cannot start.
    pub fn in_memory() -> Result<Self> {
        let connection = Connection::open_in_memory().map_err(|e| cache_error(&e))?;
        Self::set_up(&connection).map_err(|e| cache_error(&e))?;
        Ok(Self {
            connection: Mutex::new(connection),
        })
    }

    fn set_up(connection: &Connection) -> rusqlite::Result<()> {
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -4096;
             CREATE TABLE IF NOT EXISTS objects (name TEXT PRIMARY KEY, bytes BLOB NOT NULL) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS seen (name TEXT PRIMARY KEY) WITHOUT ROWID;",
        )
    }

    /// The bytes that were cached under a name. They may be stale or damaged: the caller verifies them.
    pub fn get(&self, name: &ObjectName) -> Option<Bytes> {
        let connection = self.connection.lock().ok()?;
        connection
            .prepare_cached("SELECT bytes FROM objects WHERE name = ?1")
            .and_then(|mut query| {
                query
                    .query_row([name.to_string()], |row| row.get::<_, Vec<u8>>(0))
                    .optional()
            })
            .ok()
            .flatten()
            .map(Bytes::from)
    }

    /// Caches an object; a failure costs time later, nothing else.
    pub fn put(&self, name: &ObjectName, bytes: &[u8]) {
        if bytes.len() > CACHED_MAX {
            return;
        }
        if let Ok(connection) = self.connection.lock() {
            let _ = connection.execute(
                "INSERT OR REPLACE INTO objects (name, bytes) VALUES (?1, ?2)",
                params![name.to_string(), bytes],
            );
        }
    }

    /// Drops what is cached under a name.
    pub fn remove(&self, name: &ObjectName) {
        if let Ok(connection) = self.connection.lock() {
            let _ = connection.execute("DELETE FROM objects WHERE name = ?1", [name.to_string()]);
        }
    }

    /// Notes that these objects were in the store.
    pub fn note_seen(&self, names: &[ObjectName]) {
        let Ok(mut connection) = self.connection.lock() else {
            return;
        };
        let Ok(transaction) = connection.transaction() else {
            return;
        };
        if let Ok(mut insert) = transaction.prepare_cached("INSERT OR IGNORE INTO seen (name) VALUES (?1)") {
            for name in names {
                let _ = insert.execute([name.to_string()]);
            }
        }
        let _ = transaction.commit();
    }

    /// Every name that was noted.
    pub fn seen(&self) -> HashSet<ObjectName> {
        let names = || -> rusqlite::Result<Vec<String>> {
            let Ok(connection) = self.connection.lock() else {
                return Ok(Vec::new());
            };
            let mut query = connection.prepare("SELECT name FROM seen")?;
            query.query_map([], |row| row.get(0))?.collect()
        };
        names()
            .unwrap_or_default()
            .iter()
            .filter_map(|name| ObjectName::parse(name).ok())
            .collect()
    }

    /// Forgets that objects were seen: a seal retired them.
    pub fn forget_seen(&self, names: &[ObjectName]) {
        if let Ok(connection) = self.connection.lock() {
            for name in names {
                let _ = connection.execute("DELETE FROM seen WHERE name = ?1", [name.to_string()]);
            }
        }
    }
}

fn cache_error(error: &rusqlite::Error) -> Error {
    Error::new(ErrorKind::Source, "cannot use the local cache")
        .because(error.to_string())
        .hint("choose another directory with --cache-dir, or go on without one with --no-cache")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_cache_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let id = RepositoryId([1; 16]);
        let cache = Cache::open(directory.path(), id).unwrap();
        cache.put(&ObjectName::Marker, b"x");
        drop(cache);
        let path = directory.path().join(format!("{id}.sqlite"));
        for name in [&path, &path.with_extension("sqlite-wal")] {
            if name.exists() {
                fs_err::write(name, [7; 8192]).unwrap();
            }
        }
        let cache = Cache::open(directory.path(), id).unwrap();
        assert!(cache.get(&ObjectName::Marker).is_none());
        cache.put(&ObjectName::Marker, b"y");
        assert_eq!(cache.get(&ObjectName::Marker).unwrap(), "y");
    }
}
