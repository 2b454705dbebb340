//! Puts attributes onto what was written: owner, extended attributes, mode, times, in the order in which none undoes another.

use super::Policy;
use crate::connector::files::ladder::LOOKUP;
use crate::connector::files::record::Attributes;
use crate::connector::files::stat::Stat;
use crate::connector::files::xattrs::{self, Xattrs};
use crate::snapshot::entry::EntryKind;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

/// What could not be applied, as fragments for people, and whether something was withheld for want of `--privileged`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) troubles: Vec<String>,
    pub(super) withheld: bool,
}

impl Applied {
    fn note(&mut self, what: &str, result: rustix::io::Result<()>) {
        if let Err(error) = result {
            self.troubles.push(format!("cannot set its {what}: {error}"));
        }
    }
}

/// The mode that is restored.
fn mode(attributes: &Attributes, policy: &Policy, applied: &mut Applied) -> u32 {
    if policy.privileged || attributes.mode & 0o6000 == 0 {
        return attributes.mode;
    }
    applied.withheld = true;
    attributes.mode & !0o6000
}

/// Owner and group that are restored, if any.
fn owner(attributes: &Attributes, policy: &Policy) -> Option<(u32, u32)> {
    policy.ownership.then(|| {
        if policy.numeric_owners {
            return (attributes.uid, attributes.gid);
        }
        let owners = &policy.owners;
        (
            owners.uid(attributes.user.as_deref(), attributes.uid),
            owners.gid(attributes.group.as_deref(), attributes.gid),
        )
    })
}

fn times(attributes: &Attributes) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: attributes.mtime.seconds,
            tv_nsec: attributes.mtime.nanos.into(),
        },
    }
}

/// Sets all attributes of an open file or directory that is ours to change.
pub(super) fn apply_open(fd: &OwnedFd, attributes: &Attributes, policy: &Policy) -> Applied {
    let mut applied = Applied::default();
    if let Some((uid, gid)) = owner(attributes, policy) {
        let result = rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        applied.note("owner", result);
    }
    match xattrs::read_open(fd) {
        Ok(current) => apply_xattrs(fd, &current, attributes, policy, &mut applied),
        Err(error) => applied.note("extended attributes", Err(error)),
    }
    let mode = mode(attributes, policy, &mut applied);
    applied.note(
        "mode",
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode as rustix::fs::RawMode)),
    );
    applied.note("times", rustix::fs::futimens(fd, &times(attributes)));
    applied
}

fn apply_xattrs(
    fd: &OwnedFd,
    current: &Xattrs,
    attributes: &Attributes,
    policy: &Policy,
    applied: &mut Applied,
) {
    let ours = |name: &[u8]| policy.privileged || !xattrs::is_privileged(name);
    // A new file may have inherited an ACL that the snapshot's does not have.
    for (name, _) in current {
        if ours(name) && !attributes.xattrs.iter().any(|(n, _)| n == name) {
            applied.note("extended attributes", xattrs::remove_open(fd, name));
        }
    }
    for pair in &attributes.xattrs {
        if !ours(&pair.0) {
            applied.withheld = true;
        } else if !current.contains(pair) {
            let result = xattrs::set_open(fd, &pair.0, &pair.1);
            applied.note(&format!("attribute {}", String::from_utf8_lossy(&pair.0)), result);
        }
    }
}

/// Sets all attributes of `name` in `dir`, which is a link, a pipe, a socket or a device, and was just made by us.
pub(super) fn apply_at(
    dir: &OwnedFd,
    name: &[u8],
    kind: EntryKind,
    attributes: &Attributes,
    policy: &Policy,
) -> Applied {
    let mut applied = Applied::default();
    if let Some((uid, gid)) = owner(attributes, policy) {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        applied.note(
            "owner",
            rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        );
    }
    for (xattr, value) in &attributes.xattrs {
        if policy.privileged || !xattrs::is_privileged(xattr) {
            applied.note("extended attributes", xattrs::set_at(dir, name, xattr, value));
        } else {
            applied.withheld = true;
        }
    }
    if kind != EntryKind::Symlink {
        let mode = mode(attributes, policy, &mut applied);
        applied.note("mode", set_mode_at(dir, name, mode));
    }
    let result = rustix::fs::utimensat(dir, name, &times(attributes), AtFlags::SYMLINK_NOFOLLOW);
    applied.note("times", result);
    applied
}

/// Changes the mode of whatever `name` is, but of nothing that it points to.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn set_mode_at(dir: impl AsFd, name: &[u8], mode: u32) -> rustix::io::Result<()> {
    use rustix::fd::AsRawFd;
    let flags = LOOKUP.difference(OFlags::DIRECTORY) | OFlags::NOFOLLOW;
    let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    if Stat::of(&fd)?.kind == Some(EntryKind::Symlink) {
        return Err(Errno::LOOP);
    }
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::chmod(path, Mode::from_raw_mode(mode))
}

/// Changes the mode of whatever `name` is, but of nothing that it points to.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn set_mode_at(dir: impl AsFd, name: &[u8], mode: u32) -> rustix::io::Result<()> {
    let mode = Mode::from_raw_mode(mode as rustix::fs::RawMode);
    rustix::fs::chmodat(dir, name, mode, AtFlags::SYMLINK_NOFOLLOW)
}

/// Whether a file on disk has all attributes that a restore would give it, its time apart.
pub(super) fn has_all(fd: &OwnedFd, stat: &Stat, attributes: &Attributes, policy: &Policy) -> bool {
    let mut ignored = Applied::default();
    let owned = owner(attributes, policy).is_none_or(|o| o == (stat.uid, stat.gid));
    let wanted = |(name, _): &&(Vec<u8>, Vec<u8>)| policy.privileged || !xattrs::is_privileged(name);
    owned
        && stat.mode == mode(attributes, policy, &mut ignored)
        && xattrs::read_open(fd).is_ok_and(|current| {
            current
                .iter()
                .filter(wanted)
                .eq(attributes.xattrs.iter().filter(wanted))
        })
}
