//! The names of one directory, in key order. A million names take one allocation of their bytes and 8 bytes each.

use super::stat::Stat;
use crate::snapshot::entry::EntryKind;
use rustix::fd::AsFd;
use rustix::fs::{Dir, FileType};
use rustix::io::{Errno, Result};

/// Names in the order of their keys: a directory's name counts as ending with `/`.
#[derive(Debug, Default)]
pub(super) struct Listing {
    bytes: Vec<u8>,
    names: Vec<(u32, u32)>,
    next: usize,
}

impl Listing {
    /// Reads what `dir`, opened for listing, holds. Names that were read before an error are kept.
    pub(super) fn read(dir: impl AsFd) -> (Self, Result<()>) {
        let mut out = Self::default();
        let result = out.fill(dir.as_fd());
        out.sort();
        (out, result)
    }

    fn fill(&mut self, dir: impl AsFd) -> Result<()> {
        let dir = dir.as_fd();
        let mut stream = Dir::read_from(dir)?;
        while let Some(entry) = stream.read() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let directory = match entry.file_type() {
                FileType::Directory => true,
                // Some file systems do not tell. One that is gone by now is found out when it is visited.
                FileType::Unknown => Stat::at(dir, name).is_ok_and(|s| s.kind == Some(EntryKind::Directory)),
                _ => false,
            };
            self.push(name, directory)?;
        }
        Ok(())
    }

    /// Adds a name.
    pub(super) fn push(&mut self, name: &[u8], directory: bool) -> Result<()> {
        let start = u32::try_from(self.bytes.len()).map_err(|_| Errno::OVERFLOW)?;
        self.bytes.extend_from_slice(name);
        if directory {
            self.bytes.push(b'/');
        }
        let end = u32::try_from(self.bytes.len()).map_err(|_| Errno::OVERFLOW)?;
        self.names.push((start, end));
        Ok(())
    }

    /// Puts the names into key order.
    pub(super) fn sort(&mut self) {
        let bytes = &self.bytes;
        self.names.sort_unstable_by_key(|range| slice(bytes, *range));
    }

    /// Keeps the names for which `keep` is true, given with a `/` after a directory's; says whether any was dropped.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&[u8]) -> bool) -> bool {
        let before = self.names.len();
        let bytes = &self.bytes;
        self.names.retain(|range| keep(slice(bytes, *range)));
        self.names.len() < before
    }

    /// Whether that name is there, which ends with `/` if it is a directory's.
    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.names
            .binary_search_by_key(&name, |range| slice(&self.bytes, *range))
            .is_ok()
    }

    /// The next name, with a `/` after a directory's.
    pub(super) fn next_name(&mut self) -> Option<&[u8]> {
        let range = self.names.get(self.next)?;
        self.next += 1;
        Some(slice(&self.bytes, *range))
    }
}

fn slice(bytes: &[u8], (start, end): (u32, u32)) -> &[u8] {
    bytes.get(start as usize..end as usize).unwrap_or_default()
}
