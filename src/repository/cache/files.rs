//! The files of a directory of caches: what SQLite keeps beside each, and room for another.

use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What SQLite keeps beside a file.
pub(super) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.to_path_buf().into_os_string();
    name.push(end);
    name.into()
}

/// Removes a cache's file and what SQLite keeps beside it.
pub(super) fn delete(path: &Path) -> std::io::Result<()> {
    for end in ["", "-wal", "-shm"] {
        match fs_err::remove_file(beside(path, end)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Bytes of a cache's file and its log.
fn size(path: &Path) -> u64 {
    let sizes = ["", "-wal"].map(|end| beside(path, end).metadata().map_or(0, |metadata| metadata.len()));
    sizes.iter().sum()
}

/// The cache files of a directory that end alike: when they were changed, their bytes, their paths.
pub(super) fn files(directory: &Path, extension: &str) -> Vec<(SystemTime, u64, PathBuf)> {
    let Ok(files) = fs_err::read_dir(directory) else {
        return Vec::new();
    };
    let paths = files.flatten().map(|file| file.path());
    paths
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .filter_map(|path| {
            // A run may have written to the log alone.
            let log = beside(&path, "-wal").metadata().ok();
            let logged = log.and_then(|log| log.modified().ok());
            let changed = path.metadata().ok()?.modified().ok().max(logged)?;
            Some((changed, size(&path), path))
        })
        .collect()
}

/// Empties the caches of other repositories, those first that were not used for longest, until all together are small enough. What
/// they have seen in their stores stays: a later `check` of those needs it. One that another process writes to is left alone.
pub(super) fn make_room(directory: &Path, own: &Path, most: u64) {
    let extension = own.extension().and_then(|extension| extension.to_str());
    let mut caches = files(directory, extension.unwrap_or_default());
    caches.sort();
    let mut total: u64 = caches.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, path) in caches {
        if total <= most {
            return;
        }
        if path == own {
            continue;
        }
        empty(&path);
        total = total.saturating_sub(bytes.saturating_sub(size(&path)));
    }
}

/// Drops every body of a cache; all of it where it cannot be read as one.
fn empty(path: &Path) {
    let emptied = Connection::open(path).and_then(|connection| {
        connection.busy_timeout(std::time::Duration::from_millis(100))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; DELETE FROM bodies; DELETE FROM cached; VACUUM; PRAGMA wal_checkpoint(TRUNCATE);",
        )
    });
    match emptied {
        Err(rusqlite::Error::SqliteFailure(e, _))
            if matches!(
                e.code,
                rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked
            ) => {}
        Err(_) => {
            let _ = delete(path);
        }
        Ok(()) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_that_were_not_used_for_longest_make_room() {
        let directory = tempfile::tempdir().unwrap();
        let file = |n: u8| directory.path().join(format!("{n}.sqlite"));
        for n in 0..4 {
            fs_err::write(file(n), [0; 1000]).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(u64::from(n) * 100);
            fs_err::File::open(file(n))
                .unwrap()
                .file()
                .set_modified(time)
                .unwrap();
        }
        make_room(directory.path(), &file(0), 2500);
        let left: Vec<bool> = (0..4).map(|n| file(n).exists()).collect();
        assert_eq!(left, [true, false, false, true]);
        // One that was used since, by its log.
        fs_err::write(file(5), [0; 1000]).unwrap();
        let log = beside(&file(3), "-wal");
        fs_err::write(&log, [0; 10]).unwrap();
        for (path, seconds) in [(&file(5), 400), (&log, 500)] {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            fs_err::File::open(path)
                .unwrap()
                .file()
                .set_modified(time)
                .unwrap();
        }
        make_room(directory.path(), &file(0), 2500);
        let left: Vec<bool> = [0, 3, 5].map(|n| file(n).exists()).into();
        assert_eq!(left, [true, true, false]);
    }
}
