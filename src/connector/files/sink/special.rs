//! Restores what has no content: symbolic links, further names of a file, pipes, sockets, devices. Blocks.

use super::apply::apply_at;
use super::file::{Decision, clear, decide};
use super::place::descend;
use super::temp::{TAKEN, make_temporary, put_in_place, temporary_name};
use super::{Did, Outcome, Policy};
use crate::connector::files::key::components;
use crate::connector::files::record::Attributes;
use crate::connector::files::stat::Stat;
use crate::snapshot::entry::{EntryKind, Key};
use rustix::fd::OwnedFd;
use rustix::fs::AtFlags;
use rustix::io::{Errno, Result};
use std::sync::Arc;

/// An entry without content to restore.
pub(super) struct Special {
    pub(super) key: Key,
    pub(super) name: Box<[u8]>,
    pub(super) kind: EntryKind,
    pub(super) attributes: Attributes,
}

/// Where the first name of a file was restored to.
#[derive(Clone, Debug)]
pub(super) struct Original {
    /// Below the target.
    pub(super) path: Box<[u8]>,
    /// Device and inode; unknown in a dry run, and until it is restored.
    pub(super) id: Option<(u64, u64)>,
}

impl Special {
    /// Restores a link, a pipe, a socket or a device into `dir`, which is absent only in a dry run.
    pub(super) fn restore(&self, dir: Option<&Arc<OwnedFd>>, policy: &Policy) -> Result<Outcome> {
        let device = matches!(self.kind, EntryKind::CharDevice | EntryKind::BlockDevice);
        if device && !policy.privileged {
            return Ok(Outcome::failed(
                &self.key,
                "a device is restored only with --privileged",
            ));
        }
        if (self.kind == EntryKind::Symlink && self.attributes.target.is_none())
            || (device && self.attributes.device.is_none())
        {
            return Ok(Outcome::failed(&self.key, "its metadata is damaged"));
        }
        let Some(dir) = dir else {
            return Ok(Outcome::new(&self.key, Did::Written));
        };
        let equal = |there: &Stat| there.kind == Some(self.kind) && self.is_equal(dir, there);
        match decide(dir, &self.name, &self.attributes, policy, equal)? {
            Decision::Fail(why) => Ok(Outcome::failed(&self.key, why)),
            Decision::Keep(there) => {
                let mut outcome = Outcome::new(&self.key, Did::Skipped);
                outcome.original = there.map(|s| (s.device, s.inode));
                Ok(outcome)
            }
            Decision::Skip(there) => {
                let mut outcome = Outcome::new(&self.key, Did::Skipped);
                outcome.original = Some((there.device, there.inode));
                // Another name of it may lie outside of the target: that one must not change.
                if there.names == 1 && !policy.dry_run {
                    outcome.take(apply_at(dir, &self.name, self.kind, &self.attributes, policy));
                }
                Ok(outcome)
            }
            Decision::Write if policy.dry_run => Ok(Outcome::new(&self.key, Did::Written)),
            Decision::Write => self.make(dir, policy),
        }
    }

    fn is_equal(&self, dir: &OwnedFd, there: &Stat) -> bool {
        match self.kind {
            EntryKind::Symlink => rustix::fs::readlinkat(dir, &*self.name, Vec::new())
                .is_ok_and(|target| Some(target.as_bytes()) == self.attributes.target.as_deref()),
            EntryKind::CharDevice | EntryKind::BlockDevice => Some(there.numbers) == self.attributes.device,
            _ => true,
        }
    }

    fn make(&self, dir: &Arc<OwnedFd>, policy: &Policy) -> Result<Outcome> {
        let temporary = temporary_name(&self.name);
        let result = make_temporary(dir, &temporary, || match self.kind {
            EntryKind::Symlink => {
                let target = self.attributes.target.as_deref().unwrap_or_default();
                rustix::fs::symlinkat(target, &**dir, temporary.as_slice())
            }
            _ => make_node(dir, &temporary, self.kind, self.attributes.device),
        });
        if let Err(Errno::OPNOTSUPP) = result {
            return Ok(Outcome::failed(&self.key, "this system cannot make one"));
        }
        result?;
        let made = Stat::at(&**dir, &temporary)?;
        if made.kind != Some(self.kind) {
            return Ok(Outcome::failed(&self.key, TAKEN));
        }
        let mut outcome = Outcome::new(&self.key, Did::Written);
        outcome.take(apply_at(dir, &temporary, self.kind, &self.attributes, policy));
        if !self.put_in_place(dir, &temporary, &made, policy)? {
            return Ok(Outcome::failed(&self.key, TAKEN));
        }
        outcome.original = Some((made.device, made.inode));
        Ok(outcome)
    }

    fn put_in_place(
        &self,
        dir: &Arc<OwnedFd>,
        temporary: &[u8],
        made: &Stat,
        policy: &Policy,
    ) -> Result<bool> {
        if let Err(error) = clear(dir, &self.name, policy) {
            // The error is the one that matters; a leftover is found by the next restore.
            let _ = rustix::fs::unlinkat(&**dir, temporary, AtFlags::empty());
            return Err(error);
        }
        put_in_place(dir, temporary, &self.name, made)
    }

    /// Makes a further name of what was restored as `original`, and of nothing else.
    pub(super) fn link(
        &self,
        dir: Option<&Arc<OwnedFd>>,
        top: Option<&Arc<OwnedFd>>,
        original: &Original,
        policy: &Policy,
    ) -> Result<Outcome> {
        let (Some(dir), Some(top)) = (dir, top) else {
            return Ok(Outcome::new(&self.key, Did::Written));
        };
        let equal = |there: &Stat| original.id.is_some_and(|id| there.is(id));
        match decide(dir, &self.name, &self.attributes, policy, equal)? {
            Decision::Fail(why) => return Ok(Outcome::failed(&self.key, why)),
            Decision::Skip(_) | Decision::Keep(_) => return Ok(Outcome::new(&self.key, Did::Skipped)),
            Decision::Write if policy.dry_run => return Ok(Outcome::new(&self.key, Did::Written)),
            Decision::Write => {}
        }
        if original.id.is_none() {
            return Ok(Outcome::failed(
                &self.key,
                "the file that it is a name of was not restored",
            ));
        }
        let Ok(path) = components(&original.path) else {
            return Ok(Outcome::failed(
                &self.key,
                "the file that it is a name of has a hostile path",
            ));
        };
        let Some((name, parents)) = path.names.split_last() else {
            return Ok(Outcome::failed(&self.key, "it is a name of the target itself"));
        };
        let from = descend(top, parents)?;
        // Under `always` it may be the same file already, and renaming a name of a file over another one does nothing.
        if Stat::at(&**dir, &self.name).is_ok_and(|there| equal(&there)) {
            return Ok(Outcome::new(&self.key, Did::Written));
        }
        let temporary = temporary_name(&self.name);
        make_temporary(dir, &temporary, || {
            rustix::fs::linkat(&*from, *name, &**dir, temporary.as_slice(), AtFlags::empty())
        })?;
        let made = Stat::at(&**dir, &temporary)?;
        if !equal(&made) {
            rustix::fs::unlinkat(&**dir, temporary.as_slice(), AtFlags::empty())?;
            return Ok(Outcome::failed(
                &self.key,
                "the file that it is a name of was replaced meanwhile",
            ));
        }
        if !self.put_in_place(dir, &temporary, &made, policy)? {
            return Ok(Outcome::failed(&self.key, TAKEN));
        }
        Ok(Outcome::new(&self.key, Did::Written))
    }
}

#[cfg(not(target_vendor = "apple"))]
fn make_node(dir: &OwnedFd, name: &[u8], kind: EntryKind, device: Option<(u32, u32)>) -> Result<()> {
    use rustix::fs::{FileType, Mode, makedev, mknodat};
    let file_type = match kind {
        EntryKind::Fifo => FileType::Fifo,
        EntryKind::Socket => FileType::Socket,
        EntryKind::CharDevice => FileType::CharacterDevice,
        EntryKind::BlockDevice => FileType::BlockDevice,
        _ => return Err(Errno::OPNOTSUPP),
    };
    let number = device.map_or(0, |(major, minor)| makedev(major, minor));
    mknodat(dir, name, file_type, Mode::RUSR | Mode::WUSR, number)
}

#[cfg(target_vendor = "apple")]
fn make_node(_: &OwnedFd, _: &[u8], _: EntryKind, _: Option<(u32, u32)>) -> Result<()> {
    Err(Errno::OPNOTSUPP)
}
