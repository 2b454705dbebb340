//! A local cache of sealed objects, and of names once seen. It holds only bytes that the store holds too, and every use of them is
//! verified like the store's own: a lost, stale or damaged cache changes nothing but time. Only a repair may find in it a record that the store
//! has damaged since.
//!
//! One SQLite file and its log hold it (`benches/README.md` has the figures), so that two processes may share it and a killed one leaves it whole.
//!
//! It is bounded: a file has a most, and what no recent run used goes first; of all files in a directory, those that were not used for
//! longest. Rows that this run used are never pushed out by others of it: a run that needs more than there is room for would push out
//! each row just before it is asked for again.

mod files;

use crate::error::{Error, ErrorKind, Result};
use crate::format::id::{ObjectId, RepositoryId, hex, unhex};
use crate::format::layout::ObjectName;
use bytes::Bytes;
use files::{beside, delete, files, make_room};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// The largest object that is cached, in bytes.
const CACHED_MAX: usize = 16 << 20;
/// What the cache of one repository may hold, in bytes.
const BYTES_MAX: u64 = 1 << 30;
/// What a cache that ends with the process may hold, in bytes.
const BYTES_IN_MEMORY_MAX: u64 = 64 << 20;
/// What the caches of all repositories in a directory may hold together, in bytes.
const DIRECTORY_MAX: u64 = 4 << 30;

/// What a run leaves of SQLite's log for the next one to read, in bytes. To move it into the file at the end of each run, and to begin
/// a new one with the next, has a disk be waited for four times, and a snapshot of an unchanged database takes little longer than that. What
/// the last runs noted may be lost with the power: then it is noted again.
const LOG_LEFT_MAX: u64 = 1 << 20;

/// A cache that became smaller is written anew if more than one in so many of its pages is free.
const FREE_SHARE: i64 = 4;

/// How files of objects and blocks of the tree end.
const OBJECTS: &str = "sqlite";
/// How files of bases end.
const BASES: &str = "bases";

/// A cache of one repository.
pub struct Cache {
    connection: Mutex<Connection>,
    /// This run's number: greater than that of every run before it.
    run: i64,
    bytes_max: u64,
    /// What SQLite has not moved into the file yet.
    log: Option<PathBuf>,
    /// Rows that this run used and that do not say so yet.
    used: Mutex<HashSet<String>>,
}

impl Cache {
    /// Opens, or makes, the cache of a repository in `directory`.
    ///
    /// # Errors
    /// `Source` if the directory cannot be used; the caller may go on with [`Self::in_memory`].
    pub fn open(directory: &Path, repository: RepositoryId) -> Result<Self> {
        Self::open_bounded(directory, repository, BYTES_MAX)
    }

    /// As [`Self::open`], for the repository in one of several stores that hold it: replicas have other objects under the same names.
    /// `place` tells the stores apart, whatever it is.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_of(directory: &Path, repository: RepositoryId, place: &str) -> Result<Self> {
        let place = blake3::hash(place.as_bytes()).to_hex();
        let file = format!("{repository}-{}.sqlite", &place.as_str()[..16]);
        Self::open_file(directory, &file, (BYTES_MAX, DIRECTORY_MAX))
    }

    /// As [`Self::open`], with another bound than the usual.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_bounded(directory: &Path, repository: RepositoryId, bytes_max: u64) -> Result<Self> {
        Self::open_file(
            directory,
            &format!("{repository}.{OBJECTS}"),
            (bytes_max, DIRECTORY_MAX),
        )
    }

    /// The cache of the content that a repository's deltas rest on: a file of its own beside the other one, since it may be so much
    /// larger. All such files of a directory together hold `bytes_max` at the most.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_bases(directory: &Path, repository: RepositoryId, bytes_max: u64) -> Result<Self> {
        Self::open_file(
            directory,
            &format!("{repository}.{BASES}"),
            (bytes_max, bytes_max),
        )
    }

    /// Removes the cache of a repository's bases, where none is wanted any more: it may be large.
    ///
    /// # Errors
    /// `Source` if its file is there and stays.
    pub fn remove_bases(directory: &Path, repository: RepositoryId) -> Result<()> {
        let path = directory.join(format!("{repository}.{BASES}"));
        delete(&path).map_err(|e| {
            Error::new(ErrorKind::Source, "cannot remove the cache of content")
                .with("path", path.display())
                .because(e)
        })
    }

    /// Bytes that the caches of bases in a directory take now.
    pub fn size_of_bases(directory: &Path) -> u64 {
        files(directory, BASES).iter().map(|(_, bytes, _)| bytes).sum()
    }

    fn open_file(directory: &Path, name: &str, (bytes_max, directory_max): (u64, u64)) -> Result<Self> {
        let failed = |e: rusqlite::Error| cache_error(&e).with("directory", directory.display());
        fs_err::create_dir_all(directory)
            .map_err(|e| Error::new(ErrorKind::Source, "cannot make the cache directory").because(e))?;
        let path = directory.join(name);
        make_room(directory, &path, directory_max);
        let open = || {
            let connection = Connection::open(&path)?;
            Self::set_up(connection, bytes_max, Some(beside(&path, "-wal")))
        };
        match open() {
            Err(error) if is_damage(&error) => {
                // It is only a hint: a damaged one is made anew.
                delete(&path).map_err(|e| Error::new(ErrorKind::Source, "damaged cache").because(e))?;
                open().map_err(failed)
            }
            opened => opened.map_err(failed),
        }
    }

    /// A cache that ends with the process.
    ///
    /// # Errors
    /// `Internal` if SQLite cannot start.
    pub fn in_memory() -> Result<Self> {
        let connection = Connection::open_in_memory().map_err(|e| cache_error(&e))?;
        Self::set_up(connection, BYTES_IN_MEMORY_MAX, None).map_err(|e| cache_error(&e))
    }

    /// Bodies have a table of their own: to note that a row was used would else write its body again.
    fn set_up(connection: Connection, bytes_max: u64, log: Option<PathBuf>) -> rusqlite::Result<Self> {
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.execute_batch(
            "PRAGMA page_size = 16384; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -4096;
             DROP TABLE IF EXISTS objects;
             CREATE TABLE IF NOT EXISTS cached (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, used INTEGER NOT NULL,
                 size INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS bodies (id INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
             CREATE INDEX IF NOT EXISTS cached_used ON cached (used, size);
             CREATE TABLE IF NOT EXISTS seen (name TEXT PRIMARY KEY) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS runs (number INTEGER PRIMARY KEY);",
        )?;
        let run = connection.query_row("SELECT coalesce(max(number), 0) + 1 FROM runs", [], |row| {
            row.get(0)
        })?;
        connection.execute("INSERT OR REPLACE INTO runs (number) VALUES (?1)", [run])?;
        connection.execute("DELETE FROM runs WHERE number < ?1", [run])?;
        match shrink(&connection, bytes_max) {
            Err(error) if is_damage(&error) => return Err(error),
            // Space that another process does not let go now.
            _ => {}
        }
        Ok(Self {
            connection: Mutex::new(connection),
            run,
            bytes_max,
            log,
            used: Mutex::default(),
        })
    }

    /// The bytes that were cached under a name. They may be stale or damaged: the caller verifies them.
    pub fn get(&self, name: &ObjectName) -> Option<Bytes> {
        self.get_row(&name.to_string())
    }

    /// Caches an object; a failure costs time later, nothing else.
    pub fn put(&self, name: &ObjectName, bytes: &[u8]) {
        self.put_row(&name.to_string(), bytes);
    }

    /// Drops what is cached under a name.
    pub fn remove(&self, name: &ObjectName) {
        self.remove_row(&name.to_string());
    }

    /// The sealed bytes of a block of a pack, as [`Self::get`].
    pub fn get_block(&self, pack: &ObjectId, offset: u32) -> Option<Bytes> {
        self.get_row(&block_name(pack, offset))
    }

    /// Caches the sealed bytes of a block of a pack. Gives whether they were taken: where this run has used all that there is room for,
    /// they are not.
    pub fn put_block(&self, pack: &ObjectId, offset: u32, sealed: &[u8]) -> bool {
        self.put_row(&block_name(pack, offset), sealed)
    }

    /// Drops a block.
    pub fn remove_block(&self, pack: &ObjectId, offset: u32) {
        self.remove_row(&block_name(pack, offset));
    }

    /// The blocks that are cached: their packs and offsets.
    pub fn blocks(&self) -> HashSet<(ObjectId, u32)> {
        let names = self.names("SELECT name FROM cached WHERE name GLOB 'block/*'");
        let parse = |name: &String| {
            let (pack, offset) = name.strip_prefix("block/")?.split_once('/')?;
            Some((ObjectId(unhex(pack).ok()?), offset.parse().ok()?))
        };
        names.iter().filter_map(parse).collect()
    }

    fn get_row(&self, name: &str) -> Option<Bytes> {
        let connection = self.connection.lock().ok()?;
        let row = connection
            .prepare_cached("SELECT bytes, used FROM cached JOIN bodies USING (id) WHERE name = ?1")
            .and_then(|mut query| {
                query
                    .query_row([name], |row| {
                        Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?))
                    })
                    .optional()
            });
        let (bytes, used) = row.ok().flatten()?;
        drop(connection);
        if used != self.run
            && let Ok(mut waiting) = self.used.lock()
        {
            waiting.insert(name.to_owned());
        }
        Some(bytes.into())
    }

    fn put_row(&self, name: &str, bytes: &[u8]) -> bool {
        if bytes.len() > CACHED_MAX {
            return false;
        }
        if let Ok(mut connection) = self.connection.lock()
            && let Ok(transaction) = connection.transaction()
            && let Ok(true) = self.try_put(&transaction, name, bytes)
        {
            return transaction.commit().is_ok();
        }
        false
    }

    fn try_put(&self, connection: &Connection, name: &str, bytes: &[u8]) -> rusqlite::Result<bool> {
        let most = self.bytes_max.saturating_sub(bytes.len() as u64);
        if total(connection)? > most {
            self.note_used(connection)?;
        }
        while total(connection)? > most {
            // A batch at a time, those of the oldest run first, and none of this one.
            let oldest = "SELECT id FROM cached WHERE used < ?1 ORDER BY used, id LIMIT 64";
            connection.execute(&format!("DELETE FROM bodies WHERE id IN ({oldest})"), [self.run])?;
            if connection.execute(&format!("DELETE FROM cached WHERE id IN ({oldest})"), [self.run])? == 0 {
                return Ok(false);
            }
        }
        remove(connection, name)?;
        let size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        connection.execute(
            "INSERT INTO cached (name, used, size) VALUES (?1, ?2, ?3)",
            params![name, self.run, size],
        )?;
        let id = connection.last_insert_rowid();
        connection.execute(
            "INSERT INTO bodies (id, bytes) VALUES (?1, ?2)",
            params![id, bytes],
        )?;
        Ok(true)
    }

    /// Writes down what this run used: all at once, since each write by itself would cost more than the reading did.
    fn note_used(&self, connection: &Connection) -> rusqlite::Result<()> {
        let used = self
            .used
            .lock()
            .map(|mut used| std::mem::take(&mut *used))
            .unwrap_or_default();
        let mut update = connection.prepare_cached("UPDATE cached SET used = ?2 WHERE name = ?1")?;
        for name in used {
            update.execute(params![name, self.run])?;
        }
        Ok(())
    }

    fn remove_row(&self, name: &str) {
        if let Ok(mut connection) = self.connection.lock()
            && let Ok(transaction) = connection.transaction()
            && remove(&transaction, name).is_ok()
        {
            let _ = transaction.commit();
        }
    }

    fn names(&self, query: &str) -> Vec<String> {
        let names = || -> rusqlite::Result<Vec<String>> {
            let Ok(connection) = self.connection.lock() else {
                return Ok(Vec::new());
            };
            let mut query = connection.prepare(query)?;
            query.query_map([], |row| row.get(0))?.collect()
        };
        names().unwrap_or_default()
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
        let names = self.names("SELECT name FROM seen");
        names
            .iter()
            .filter_map(|name| ObjectName::parse(name).ok())
            .collect()
    }

    /// The highest round whose seal was noted; 0 if none was.
    pub fn newest_seal(&self) -> u64 {
        // Rounds are of fixed width: the order of names is theirs.
        let names = self.names(
            "SELECT name FROM seen WHERE name >= 'gc/' AND name < 'gc0' AND name GLOB '*/seal' ORDER BY name DESC LIMIT 1",
        );
        match names.first().map(|name| ObjectName::parse(name)) {
            Some(Ok(ObjectName::Seal(round))) => round,
            _ => 0,
        }
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

impl Drop for Cache {
    fn drop(&mut self) {
        // A run that is killed leaves its rows as old as they were: they only go sooner.
        let Ok(mut connection) = self.connection.lock() else {
            return;
        };
        if let Ok(transaction) = connection.transaction()
            && self.note_used(&transaction).is_ok()
        {
            let _ = transaction.commit();
        }
        if let Some(log) = &self.log {
            let _ = shorten_log(&connection, log);
        }
    }
}

/// Moves SQLite's log into the file if it has become long and nobody else uses it now.
fn shorten_log(connection: &Connection, log: &Path) -> rusqlite::Result<()> {
    if log.metadata().map_or(0, |log| log.len()) > LOG_LEFT_MAX {
        connection.busy_timeout(Duration::from_millis(100))?;
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE);")?;
    }
    Ok(())
}

/// Bytes of all bodies.
fn total(connection: &Connection) -> rusqlite::Result<u64> {
    let mut sum = connection.prepare_cached("SELECT coalesce(sum(size), 0) FROM cached")?;
    let total: i64 = sum.query_row([], |row| row.get(0))?;
    Ok(u64::try_from(total).unwrap_or(0))
}

/// Brings a cache that was allowed more before to `most` bytes, those used last, and gives the space back where that is much of the file.
/// Another process that writes to it puts that off until the next run.
fn shrink(connection: &Connection, most: u64) -> rusqlite::Result<()> {
    if total(connection)? <= most {
        return Ok(());
    }
    let kept = "SELECT id FROM (SELECT id, sum(size) OVER (ORDER BY used DESC, id DESC) AS held FROM cached) WHERE held <= ?1";
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let transaction = connection.unchecked_transaction()?;
    for table in ["bodies", "cached"] {
        transaction.execute(&format!("DELETE FROM {table} WHERE id NOT IN ({kept})"), [most])?;
    }
    transaction.commit()?;
    let pragma = |name| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    if pragma("freelist_count")? > pragma("page_count")? / FREE_SHARE {
        connection.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);")?;
    }
    Ok(())
}

fn remove(connection: &Connection, name: &str) -> rusqlite::Result<()> {
    let body = "DELETE FROM bodies WHERE id = (SELECT id FROM cached WHERE name = ?1)";
    connection.execute(body, [name])?;
    connection.execute("DELETE FROM cached WHERE name = ?1", [name])?;
    Ok(())
}

fn block_name(pack: &ObjectId, offset: u32) -> String {
    format!("block/{}/{offset}", hex(&pack.0))
}

fn is_damage(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(
        code,
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt)
    )
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

    #[test]
    fn what_a_run_leaves_in_the_log_is_there_for_the_next_and_a_long_log_is_not_left() {
        let directory = tempfile::tempdir().unwrap();
        let id = RepositoryId([1; 16]);
        let log = directory.path().join(format!("{id}.sqlite-wal"));
        for n in 0..3 {
            let cache = Cache::open(directory.path(), id).unwrap();
            assert_eq!(cache.blocks().len(), usize::from(n));
            cache.put_block(&ObjectId([n; 32]), 0, &[n; 1000]);
            drop(cache);
            let left = log.metadata().unwrap().len();
            assert!((1..=LOG_LEFT_MAX).contains(&left), "{left}");
        }
        let cache = Cache::open(directory.path(), id).unwrap();
        cache.put_block(&ObjectId([3; 32]), 0, &vec![3; 2 << 20]);
        drop(cache);
        assert!(!log.exists() || log.metadata().unwrap().len() == 0);
        assert_eq!(Cache::open(directory.path(), id).unwrap().blocks().len(), 4);
    }

    #[test]
    fn what_no_recent_run_used_goes_first_and_the_bound_holds() {
        let directory = tempfile::tempdir().unwrap();
        let id = RepositoryId([1; 16]);
        let pack = |n: u8| ObjectId([n; 32]);
        let open = || Cache::open_bounded(directory.path(), id, 1000).unwrap();
        let cache = open();
        for n in 0..10 {
            cache.put_block(&pack(n), 0, &[n; 100]);
        }
        // Full of what this run used: nothing of it is pushed out, and what is not taken is said.
        assert!(!cache.put_block(&pack(10), 0, &[10; 100]));
        assert_eq!(cache.blocks().len(), 10);
        drop(cache);
        let cache = open();
        assert_eq!(cache.get_block(&pack(3), 0).unwrap(), [3; 100].as_slice());
        assert!(cache.put_block(&pack(11), 7, &[11; 100]));
        let held = cache.blocks();
        assert!(
            held.contains(&(pack(3), 0)) && held.contains(&(pack(11), 7)) && held.len() <= 10,
            "{held:?}"
        );
        assert!(!held.contains(&(pack(0), 0)));
    }

    #[test]
    fn what_a_repository_has_seen_outlives_the_room_that_its_cache_makes() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (RepositoryId([1; 16]), RepositoryId([2; 16]));
        let cache = Cache::open(directory.path(), old).unwrap();
        for n in 0..8 {
            cache.put_block(&ObjectId([n; 32]), 0, &vec![n; 1 << 20]);
        }
        cache.note_seen(&[ObjectName::Config(0)]);
        drop(cache);
        let path = directory.path().join(format!("{old}.sqlite"));
        assert!(path.metadata().unwrap().len() > 8 << 20);
        make_room(
            directory.path(),
            &directory.path().join(format!("{new}.sqlite")),
            1 << 20,
        );
        assert!(path.metadata().unwrap().len() < 1 << 20);
        let cache = Cache::open(directory.path(), old).unwrap();
        assert!(cache.blocks().is_empty());
        assert_eq!(cache.seen(), [ObjectName::Config(0)].into());
    }

    #[test]
    fn a_cache_that_became_smaller_gives_the_space_back_and_one_that_is_not_wanted_all_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let id = RepositoryId([1; 16]);
        let cache = Cache::open_bases(directory.path(), id, 1 << 30).unwrap();
        for n in 0..8 {
            assert!(cache.put_block(&ObjectId([n; 32]), 0, &vec![n; 1 << 20]));
        }
        drop(cache);
        assert!(Cache::size_of_bases(directory.path()) > 8 << 20);
        let cache = Cache::open_bases(directory.path(), id, 3 << 20).unwrap();
        let left = [5, 6, 7].map(|n| (ObjectId([n; 32]), 0));
        assert_eq!(cache.blocks(), left.into());
        assert_eq!(cache.get_block(&left[0].0, 0).unwrap(), vec![5; 1 << 20]);
        drop(cache);
        let size = Cache::size_of_bases(directory.path());
        assert!(size < 4 << 20, "{size}");
        Cache::remove_bases(directory.path(), id).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        Cache::remove_bases(directory.path(), id).unwrap();
    }
}
