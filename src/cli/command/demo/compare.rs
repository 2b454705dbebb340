//! What must be equal after a restore: a database by the text of its dump, a directory by everything that a file has.

use super::children::Children;
use crate::error::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};

/// The hash of a database's dump and its length. The rows of a table count in any order, for tables have none; `\restrict` lines,
/// which hold a new random word each time, do not count.
///
/// # Errors
/// `Source` if `pg_dump` fails, `Cancelled`.
pub(super) async fn database(children: &Children, name: &str) -> Result<(blake3::Hash, u64)> {
    let failed = |e: std::io::Error| Error::new(ErrorKind::Source, "cannot read a dump").because(e);
    let mut child = children
        .postgres("pg_dump", &[name])
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    let out = child.stdout.take();
    let out = out.ok_or_else(|| Error::new(ErrorKind::Internal, "a child without standard output"))?;
    let mut reader = BufReader::with_capacity(1 << 20, out);
    let (mut text, mut line) = (DumpText::default(), Vec::new());
    while reader.read_until(b'\n', &mut line).await.map_err(failed)? > 0 {
        text.add(&line);
        line.clear();
    }
    let status = child.wait().await.map_err(failed)?;
    if !status.success() {
        return Err(Error::new(ErrorKind::Source, "pg_dump failed").with("database", name));
    }
    Ok((text.statements.finalize(), text.length))
}

/// The text of a dump, line by line.
#[derive(Default)]
struct DumpText {
    statements: blake3::Hasher,
    length: u64,
    /// The sum of the hashes of a table's rows, while they come.
    rows: Option<u128>,
}

impl DumpText {
    fn add(&mut self, line: &[u8]) {
        if line.starts_with(b"\\restrict ") || line.starts_with(b"\\unrestrict ") {
            return;
        }
        self.length += line.len() as u64;
        match &mut self.rows {
            Some(sum) if line != b"\\.\n" => {
                let hash = blake3::hash(line);
                let half = hash.as_bytes().first_chunk().copied().unwrap_or_default();
                *sum = sum.wrapping_add(u128::from_le_bytes(half));
            }
            Some(sum) => {
                self.statements.update(&sum.to_le_bytes());
                self.rows = None;
            }
            None => {
                self.statements.update(line);
                if line.starts_with(b"COPY ") && line.ends_with(b" FROM stdin;\n") {
                    self.rows = Some(0);
                }
            }
        }
    }
}

/// Everything of a directory: by path below it, what it is.
pub(super) type Listing = BTreeMap<Vec<u8>, Thing>;

/// One file, directory or link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Thing {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    size: u64,
    content: Option<blake3::Hash>,
    target: Option<Vec<u8>>,
}

/// Reads a directory whole.
///
/// # Errors
/// `Source` if something cannot be read.
pub(super) fn directory(top: &Path) -> Result<Listing> {
    let mut listing = Listing::new();
    add(top, top, &mut listing).map_err(|e| {
        Error::new(ErrorKind::Source, "cannot read a directory")
            .with("path", top.display())
            .because(e)
    })?;
    Ok(listing)
}

fn add(top: &Path, path: &Path, listing: &mut Listing) -> std::io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        let meta = std::fs::symlink_metadata(&path)?;
        let file = meta.is_file();
        let content = file
            .then(|| std::fs::read(&path).map(|bytes| blake3::hash(&bytes)))
            .transpose()?;
        let target = meta.is_symlink().then(|| std::fs::read_link(&path)).transpose()?;
        let thing = Thing {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            modified: (meta.mtime(), meta.mtime_nsec()),
            size: if file { meta.size() } else { 0 },
            content,
            target: target.map(|t| t.as_os_str().as_bytes().to_vec()),
        };
        let name = path
            .strip_prefix(top)
            .unwrap_or(&path)
            .as_os_str()
            .as_bytes()
            .to_vec();
        listing.insert(name, thing);
        if meta.is_dir() {
            add(top, &path, listing)?;
        }
    }
    Ok(())
}

/// The first path that differs between two listings.
pub(super) fn difference(a: &Listing, b: &Listing) -> Option<String> {
    let names = a.keys().chain(b.keys());
    let mut differing = names.filter(|name| a.get(*name) != b.get(*name));
    differing
        .next()
        .map(|name| String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &str) -> blake3::Hash {
        let mut dump = DumpText::default();
        for line in text.split_inclusive('\n') {
            dump.add(line.as_bytes());
        }
        dump.statements.finalize()
    }

    #[test]
    fn rows_count_in_any_order_and_statements_in_theirs() {
        let dump = "SET a;\nCOPY t (x) FROM stdin;\n1\n2\n2\n\\.\nSELECT b;\n";
        assert_eq!(
            hash(dump),
            hash("SET a;\nCOPY t (x) FROM stdin;\n2\n1\n2\n\\.\nSELECT b;\n")
        );
        for other in [
            "SET a;\nCOPY t (x) FROM stdin;\n1\n1\n2\n\\.\nSELECT b;\n",
            "SET a;\nCOPY t (x) FROM stdin;\n1\n2\n\\.\nSELECT b;\n",
            "SELECT b;\nCOPY t (x) FROM stdin;\n1\n2\n2\n\\.\nSET a;\n",
        ] {
            assert_ne!(hash(dump), hash(other), "{other}");
        }
    }
}
