//! Directories of the target: found or made one component at a time, never through a link.

use super::apply::set_mode_at;
use super::{Overwrite, Policy};
use crate::connector::files::ladder::{LIST, LOOKUP};
use crate::connector::files::stat::Stat;
use crate::snapshot::entry::EntryKind;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::{Errno, Result};
use std::sync::Arc;

/// A directory of the target.
pub(super) enum Place {
    /// Open, and what it was like before, if it was there.
    Open(Arc<OwnedFd>, Stat, Option<Stat>),
    /// Not there, and not made because nothing may be.
    Absent,
    /// Not to be written to, and why.
    Refused(String),
}

/// Opens the directory `name` of `parent`. The lookup cannot leave `parent`: `name` is one component, and no link is followed.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn open_beneath(parent: &OwnedFd, name: &[u8], flags: OFlags) -> Result<OwnedFd> {
    use rustix::fs::ResolveFlags;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(parent, name, flags | OFlags::NOFOLLOW, Mode::empty(), resolve) {
        // Kernels before 5.6, and sandboxes that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => {}
        result => return result,
    }
    rustix::fs::openat(parent, name, flags | OFlags::NOFOLLOW, Mode::empty())
}

/// Opens the directory `name` of `parent`. The lookup cannot leave `parent`: `name` is one component, and no link is followed.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn open_beneath(parent: &OwnedFd, name: &[u8], flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::openat(parent, name, flags | OFlags::NOFOLLOW, Mode::empty())
}

/// Opens the directory that `names` lead to from `top`, for lookups.
pub(super) fn descend(top: &Arc<OwnedFd>, names: &[&[u8]]) -> Result<Arc<OwnedFd>> {
    let mut at = top.clone();
    for name in names {
        at = Arc::new(open_beneath(&at, name, LOOKUP)?);
    }
    Ok(at)
}

/// Finds or makes the directory `name` of `parent`; blocks.
pub(super) fn enter(parent: &OwnedFd, name: &[u8], policy: &Policy) -> Result<Place> {
    let before = match Stat::at(parent, name) {
        Ok(stat) => Some(stat),
        Err(Errno::NOENT) => None,
        Err(error) => return Err(error),
    };
    match before.and_then(|s| s.kind) {
        Some(EntryKind::Directory) => return open_existing(parent, name, before, policy),
        Some(EntryKind::Symlink) => {
            return Ok(Place::Refused(
                "a symbolic link is in the place of a directory".into(),
            ));
        }
        _ if before.is_none() => {}
        _ if policy.delete && policy.overwrite != Overwrite::Never => {
            if !policy.dry_run {
                rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
            }
        }
        _ => {
            return Ok(Place::Refused(
                "something else is in the place of a directory".into(),
            ));
        }
    }
    if policy.dry_run {
        return Ok(Place::Absent);
    }
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    // A default ACL of the parent may have given others more, and us less.
    if Stat::at(parent, name)?.mode & 0o777 != 0o700 {
        set_mode_at(parent, name, 0o700)?;
    }
    let fd = open_beneath(parent, name, LIST)?;
    let now = Stat::of(&fd)?;
    Ok(Place::Open(Arc::new(fd), now, None))
}

fn open_existing(parent: &OwnedFd, name: &[u8], before: Option<Stat>, policy: &Policy) -> Result<Place> {
    let mode = before.map_or(0, |s| s.mode);
    let fd = match open_beneath(parent, name, LIST) {
        Err(Errno::ACCESS) if !policy.dry_run => {
            set_mode_at(parent, name, mode | 0o700)?;
            open_beneath(parent, name, LIST)?
        }
        result => result?,
    };
    let now = Stat::of(&fd)?;
    if !policy.dry_run && !policy.root && now.mode & 0o700 != 0o700 {
        // It gets its mode back when the restore leaves it. If this fails, what is written below says so.
        let _ = rustix::fs::fchmod(
            &fd,
            Mode::from_raw_mode((now.mode | 0o700) as rustix::fs::RawMode),
        );
    }
    Ok(Place::Open(Arc::new(fd), now, before))
}
