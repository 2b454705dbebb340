//! What `lstat` says, in our own types, the same on every Unix.

use super::record::State;
use crate::context::Time;
use crate::snapshot::entry::EntryKind;
use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FileType};

/// A file's attributes as the system gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// `None` for a type that Holdall does not know.
    pub(super) kind: Option<EntryKind>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    /// Bytes of storage.
    pub(super) stored: u64,
    pub(super) mtime: Time,
    pub(super) ctime: Time,
    pub(super) inode: u64,
    pub(super) device: u64,
    pub(super) names: u64,
    /// Major and minor number of a device file.
    pub(super) numbers: (u32, u32),
}

impl Stat {
    /// Of `name` in `dir`, not following a link.
    pub(super) fn at(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<Self> {
        rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|s| Self::new(&s))
    }

    /// Of an open file.
    pub(super) fn of(fd: impl AsFd) -> rustix::io::Result<Self> {
        rustix::fs::fstat(fd).map(|s| Self::new(&s))
    }

    fn new(stat: &rustix::fs::Stat) -> Self {
        let raw_mode: rustix::fs::RawMode = stat.st_mode;
        let kind = match FileType::from_raw_mode(raw_mode) {
            FileType::RegularFile => Some(EntryKind::File),
            FileType::Directory => Some(EntryKind::Directory),
            FileType::Symlink => Some(EntryKind::Symlink),
            FileType::Fifo => Some(EntryKind::Fifo),
            FileType::Socket => Some(EntryKind::Socket),
            FileType::CharacterDevice => Some(EntryKind::CharDevice),
            FileType::BlockDevice => Some(EntryKind::BlockDevice),
            FileType::Unknown => None,
        };
        let time = |seconds, nanos: u32| Time { seconds, nanos };
        Self {
            kind,
            mode: narrow(raw_mode) & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: unsigned(stat.st_size),
            stored: unsigned(stat.st_blocks).saturating_mul(512),
            mtime: time(stat.st_mtime, narrow(stat.st_mtime_nsec)),
            ctime: time(stat.st_ctime, narrow(stat.st_ctime_nsec)),
            inode: unsigned(stat.st_ino),
            device: unsigned(stat.st_dev),
            names: unsigned(stat.st_nlink),
            numbers: (
                narrow(rustix::fs::major(stat.st_rdev)),
                narrow(rustix::fs::minor(stat.st_rdev)),
            ),
        }
    }

    /// What is compared with the parent's.
    pub(super) fn state(&self) -> State {
        State {
            size: if self.kind == Some(EntryKind::File) {
                self.size
            } else {
                0
            },
            mtime: self.mtime,
            ctime: self.ctime,
            inode: self.inode,
        }
    }

    /// Whether this is still the same, untouched file.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.kind == other.kind && self.device == other.device && self.state() == other.state()
    }

    /// Whether it is the same file, touched or not.
    pub(super) fn is(&self, other: (u64, u64)) -> bool {
        (self.device, self.inode) == other
    }
}

fn unsigned<T: TryInto<u64>>(value: T) -> u64 {
    value.try_into().unwrap_or(0)
}

fn narrow<T: TryInto<u32>>(value: T) -> u32 {
    value.try_into().unwrap_or(0)
}
