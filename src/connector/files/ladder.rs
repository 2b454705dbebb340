//! The open directories from the top of a walk to where it is, however deep that is: only the lowest few are kept open,
//! and one further up is opened again through `..` and recognised by its identity.

use super::stat::Stat;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use std::sync::Arc;

/// How many directories are kept open.
const OPEN_MAX: usize = 32;

/// Opens a directory for lookups only, which needs no right to list it.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) const LOOKUP: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Opens a directory for lookups; this system has nothing that needs less than the right to list it.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) const LOOKUP: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Opens a directory for listing, and for changing its attributes.
pub(super) const LIST: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

struct Rung {
    fd: Option<Arc<OwnedFd>>,
    id: (u64, u64),
    pinned: bool,
}

/// A stack of open directories.
pub(super) struct Ladder {
    rungs: Vec<Rung>,
    reopen: OFlags,
}

impl Ladder {
    /// An empty one, which opens directories again with `reopen`.
    pub(super) fn new(reopen: OFlags) -> Self {
        Self {
            rungs: Vec::new(),
            reopen,
        }
    }

    /// Goes down into `fd`. A pinned one is never closed: it was reached through a link, so that `..` would not lead back.
    pub(super) fn push(&mut self, fd: Arc<OwnedFd>, stat: &Stat, pinned: bool) {
        self.rungs.push(Rung {
            fd: Some(fd),
            id: (stat.device, stat.inode),
            pinned,
        });
        let far = self.rungs.len().checked_sub(OPEN_MAX + 1);
        // The rung above a pinned one is what `..` of the pinned one may not lead to.
        let next_is_pinned = far.and_then(|i| self.rungs.get(i + 1)).is_some_and(|r| r.pinned);
        if let Some(rung) = far.and_then(|i| self.rungs.get_mut(i))
            && !rung.pinned
            && !next_is_pinned
        {
            rung.fd = None;
        }
    }

    /// Where the walk is; `None` if the way back up to it was lost.
    pub(super) fn top(&self) -> Option<&Arc<OwnedFd>> {
        self.rungs.last().and_then(|r| r.fd.as_ref())
    }

    /// Goes up. An error means that the directory above was moved: [`Ladder::top`] is `None` until the next pop that finds one.
    pub(super) fn pop(&mut self) -> Result<()> {
        let left = self.rungs.pop();
        let Some(top) = self.rungs.last_mut() else {
            return Ok(());
        };
        if top.fd.is_some() {
            return Ok(());
        }
        let below = left.and_then(|r| r.fd).ok_or(Errno::NOENT)?;
        let fd = rustix::fs::openat(below.as_fd(), "..", self.reopen, Mode::empty())?;
        if Stat::of(&fd)?.is(top.id) {
            top.fd = Some(Arc::new(fd));
            Ok(())
        } else {
            Err(Errno::STALE)
        }
    }
}
