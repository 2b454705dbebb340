//! Removes what the snapshot does not have; never crosses into another file system or through a link.

use crate::connector::files::ladder::{LIST, Ladder};
use crate::connector::files::listing::Listing;
use crate::connector::files::stat::Stat;
use crate::snapshot::entry::EntryKind;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::{Errno, Result};
use std::sync::Arc;

/// What was, or in a dry run would be, removed.
#[derive(Debug, Default)]
pub(super) struct Deleted {
    pub(super) entries: u64,
    pub(super) failed: Vec<(Vec<u8>, Errno)>,
}

/// A name as it is remembered: 8 bytes of its hash. Two names that share them cost a file that is kept, nothing worse.
pub(super) fn remember(name: &[u8]) -> u64 {
    let hash = blake3::hash(name);
    hash.as_bytes()
        .first_chunk()
        .map_or(0, |first| u64::from_le_bytes(*first))
}

/// Removes all names of `dir` that are not among `seen`, which is sorted; blocks.
pub(super) fn remove_others(dir: &Arc<OwnedFd>, seen: &[u64], dry_run: bool) -> Result<Deleted> {
    let (mut listing, result) = Listing::read(&**dir);
    result?;
    let mut deleted = Deleted::default();
    while let Some(name) = listing.next_name() {
        let name = name.strip_suffix(b"/").unwrap_or(name);
        if seen.binary_search(&remember(name)).is_err() {
            match remove(dir, name, dry_run) {
                Ok(entries) => deleted.entries += entries,
                Err(error) => deleted.failed.push((name.to_vec(), error)),
            }
        }
    }
    Ok(deleted)
}

/// Removes `name` and all below it; gives the number of entries.
pub(super) fn remove(dir: &Arc<OwnedFd>, name: &[u8], dry_run: bool) -> Result<u64> {
    let unlink = |dir: &OwnedFd, name: &[u8], flags| {
        if dry_run {
            Ok(())
        } else {
            rustix::fs::unlinkat(dir, name, flags)
        }
    };
    let stat = Stat::at(&**dir, name)?;
    if stat.kind != Some(EntryKind::Directory) {
        unlink(dir, name, AtFlags::empty())?;
        return Ok(1);
    }
    let device = Stat::of(&**dir)?.device;
    let mut ladder = Ladder::new(LIST);
    ladder.push(dir.clone(), &Stat::of(&**dir)?, true);
    let mut frames = vec![open(dir, name, device, &mut ladder)?];
    let mut names = vec![name.to_vec()];
    let mut entries = 0;
    while let Some(listing) = frames.last_mut() {
        let top = ladder.top().cloned().ok_or(Errno::STALE)?;
        match listing.next_name() {
            Some(name) if name.ends_with(b"/") => {
                let name = name.strip_suffix(b"/").unwrap_or(name).to_vec();
                frames.push(open(&top, &name, device, &mut ladder)?);
                names.push(name);
            }
            Some(name) => {
                unlink(&top, name, AtFlags::empty())?;
                entries += 1;
            }
            None => {
                drop(top);
                frames.pop();
                ladder.pop()?;
                let parent = ladder.top().ok_or(Errno::STALE)?;
                unlink(parent, &names.pop().unwrap_or_default(), AtFlags::REMOVEDIR)?;
                entries += 1;
            }
        }
    }
    Ok(entries)
}

fn open(dir: &Arc<OwnedFd>, name: &[u8], device: u64, ladder: &mut Ladder) -> Result<Listing> {
    let fd = rustix::fs::openat(&**dir, name, LIST | OFlags::NOFOLLOW, Mode::empty())?;
    let stat = Stat::of(&fd)?;
    if stat.device != device {
        return Err(Errno::XDEV);
    }
    let (listing, result) = Listing::read(&fd);
    result?;
    ladder.push(Arc::new(fd), &stat, false);
    Ok(listing)
}
