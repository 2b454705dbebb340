//! Reads what the walk found: attributes, the content of small files, and large files piece by piece.

use super::owner::Owners;
use super::record::Attributes;
use super::stat::Stat;
use super::walk::Found;
use super::xattrs;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::entry::{
    Content, ContentStream, Entry, EntryHead, EntryKind, Incident, Item, Key, OpenContent, Piece,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Advice, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

/// Files up to this size are read ahead and delivered whole; it is also the size of a piece of larger ones.
pub(super) const SMALL: usize = 1 << 20;

/// Storage that a file may have beside its content.
const XATTR_STORAGE: u64 = 128 << 10;
/// What is read of a file that claims to be empty.
const PROBE: usize = 4096;

/// What became of a [`Found`].
pub(super) struct Loaded {
    pub(super) entry: Option<Entry>,
    pub(super) trouble: Vec<Item>,
}

impl Loaded {
    fn incident(key: &Key, why: impl Into<String>) -> Self {
        Self {
            entry: None,
            trouble: vec![incident(key, why)],
        }
    }
}

fn incident(key: &Key, why: impl Into<String>) -> Item {
    Item::Incident(Incident {
        key: key.clone(),
        why: why.into(),
    })
}

const CHANGED: &str = "changed while it was read";

/// Incidents that are found only while a content is consumed, and how many contents are out.
#[derive(Default)]
pub(super) struct Late {
    out: AtomicUsize,
    returned: Notify,
    incidents: Mutex<Vec<Incident>>,
}

impl Late {
    /// Incidents since the last call.
    pub(super) fn take(&self) -> Vec<Incident> {
        self.incidents
            .lock()
            .map(|mut list| std::mem::take(&mut *list))
            .unwrap_or_default()
    }

    /// Waits until every content that was handed out was read or dropped.
    pub(super) async fn all_returned(&self) {
        loop {
            let returned = self.returned.notified();
            if self.out.load(Ordering::Acquire) == 0 {
                return;
            }
            returned.await;
        }
    }
}

/// One content that is out.
struct Guard(Arc<Late>);

impl Guard {
    fn new(late: &Arc<Late>) -> Self {
        late.out.fetch_add(1, Ordering::AcqRel);
        Self(late.clone())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.out.fetch_sub(1, Ordering::AcqRel);
        self.0.returned.notify_one();
    }
}

/// Reads what was found; blocks.
pub(super) fn load(found: &Found, owners: &Owners, late: &Arc<Late>) -> Loaded {
    match found.stat.kind {
        Some(EntryKind::File) if found.first.is_none() => load_file(found, owners, late),
        Some(kind) => load_other(found, kind, owners),
        None => Loaded::incident(&found.key, "it is of a type that cannot be kept"),
    }
}

fn load_other(found: &Found, kind: EntryKind, owners: &Owners) -> Loaded {
    let mut trouble = Vec::new();
    let mut attributes = attributes(found, &found.stat, owners);
    // Looking up `.` needs a right that reading an open directory does not.
    let opened = if *found.name == *b"." {
        xattrs::read_open(&*found.dir)
    } else {
        Err(Errno::BADF)
    };
    let list = match opened {
        Err(Errno::BADF) => xattrs::read_at(&*found.dir, &found.name),
        opened => opened,
    };
    match list {
        Ok(list) => attributes.xattrs = list,
        Err(Errno::NOENT) if kind != EntryKind::Directory => return vanished(found),
        Err(error) => trouble.push(xattr_incident(&found.key, error)),
    }
    if kind == EntryKind::Symlink {
        match rustix::fs::readlinkat(&*found.dir, &*found.name, Vec::new()) {
            Ok(target) => attributes.target = Some(target.into_bytes()),
            Err(Errno::NOENT) => return vanished(found),
            Err(error) => return Loaded::incident(&found.key, format!("cannot read the link: {error}")),
        }
    }
    attributes.first.clone_from(&found.first);
    let kind = if found.first.is_some() {
        EntryKind::HardLink
    } else {
        kind
    };
    let entry = entry(
        found,
        kind,
        attributes,
        (found.stat, Some(0), Content::None),
        &mut trouble,
    );
    Loaded {
        entry: Some(entry),
        trouble,
    }
}

fn vanished(found: &Found) -> Loaded {
    Loaded {
        entry: None,
        trouble: vec![Item::Note(format!(
            "{} was removed before it could be read",
            found.key
        ))],
    }
}

fn xattr_incident(key: &Key, error: Errno) -> Item {
    incident(key, format!("its extended attributes cannot be read: {error}"))
}

fn attributes(found: &Found, stat: &Stat, owners: &Owners) -> Attributes {
    let device = matches!(stat.kind, Some(EntryKind::CharDevice | EntryKind::BlockDevice));
    Attributes {
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        user: owners.user(stat.uid),
        group: owners.group(stat.gid),
        mtime: stat.mtime,
        device: device.then_some(stat.numbers),
        names: if stat.kind == Some(EntryKind::Directory) {
            1
        } else {
            stat.names
        },
        partial: found.partial,
        ..Attributes::default()
    }
}

fn entry(
    found: &Found,
    kind: EntryKind,
    mut attributes: Attributes,
    (stat, size, content): (Stat, Option<u64>, Content),
    trouble: &mut Vec<Item>,
) -> Entry {
    let metadata = attributes.to_metadata().or_else(|_| {
        trouble.push(incident(
            &found.key,
            "its extended attributes are too large to keep",
        ));
        attributes.xattrs.clear();
        attributes.to_metadata()
    });
    let whole = trouble.is_empty() && !found.on_the_way;
    Entry {
        head: EntryHead {
            key: found.key.clone(),
            kind,
            // Without attributes there is nothing of variable size left that could be too large.
            metadata: metadata.unwrap_or_default(),
            state: if whole {
                stat.state().encode()
            } else {
                Bytes::new()
            },
            size,
        },
        content,
    }
}

fn open(found: &Found) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = |flags| rustix::fs::openat(&*found.dir, &*found.name, flags, Mode::empty());
    #[cfg(any(target_os = "linux", target_os = "android"))]
    match open(flags | OFlags::NOATIME) {
        // Only the owner may ask for it.
        Err(Errno::PERM) => {}
        result => return result,
    }
    open(flags)
}

fn load_file(found: &Found, owners: &Owners, late: &Arc<Late>) -> Loaded {
    let (fd, stat) = match open(found).and_then(|fd| Ok((Stat::of(&fd)?, fd))) {
        Ok((stat, fd)) => (fd, stat),
        Err(Errno::NOENT) => return vanished(found),
        Err(error) => return Loaded::incident(&found.key, format!("cannot open it: {error}")),
    };
    if stat.kind != Some(EntryKind::File) {
        return Loaded::incident(&found.key, "it changed its type before it could be read");
    }
    let mut trouble = Vec::new();
    let mut read_attributes = |stat: &Stat| {
        let mut attributes = attributes(found, stat, owners);
        match xattrs::read_open(&fd) {
            Ok(list) => attributes.xattrs = list,
            Err(error) => trouble.push(xattr_incident(&found.key, error)),
        }
        attributes
    };
    if stat.size > SMALL as u64 {
        let attributes = read_attributes(&stat);
        let content = Content::Open(Box::new(Large {
            fd,
            stat,
            key: found.key.clone(),
            guard: Guard::new(late),
        }));
        let parts = (stat, Some(stat.size), content);
        let entry = entry(found, EntryKind::File, attributes, parts, &mut trouble);
        return Loaded {
            entry: Some(entry),
            trouble,
        };
    }
    let small = match read_small(&fd, stat) {
        Ok(small) => small,
        Err(error) => return Loaded::incident(&found.key, format!("cannot read it: {error}")),
    };
    let attributes = read_attributes(&small.stat);
    if small.changed {
        trouble.push(incident(&found.key, CHANGED));
    }
    let parts = (small.stat, Some(small.size), small.content);
    let entry = entry(found, EntryKind::File, attributes, parts, &mut trouble);
    Loaded {
        entry: Some(entry),
        trouble,
    }
}

struct Small {
    stat: Stat,
    size: u64,
    content: Content,
    changed: bool,
}

/// Reads a small file, and once more if it changed meanwhile.
fn read_small(fd: &OwnedFd, mut stat: Stat) -> rustix::io::Result<Small> {
    let mut tries = 0;
    loop {
        let mut pieces = Vec::new();
        let size = read_pieces(fd, &stat, |piece| {
            pieces.push(piece);
            true
        })?;
        let after = Stat::of(fd)?;
        // Files that the kernel makes up have content but size 0.
        let changed = !after.same_as(&stat) || (size != stat.size && stat.size != 0);
        if changed && tries == 0 && after.size <= SMALL as u64 {
            stat = after;
            tries += 1;
            continue;
        }
        let content = match pieces.as_slice() {
            [] => Content::None,
            [Piece::Data(bytes)] => Content::Bytes(bytes.clone()),
            _ => Content::Open(Box::new(Pieces(pieces))),
        };
        return Ok(Small {
            stat,
            size,
            content,
            changed,
        });
    }
}

/// Reads the first `stat.size` bytes, or fewer if there are no more, holes as holes, in pieces of at most [`SMALL`] bytes, until
/// `take` says no. Of files that claim to be empty, all that comes up to [`SMALL`].
fn read_pieces(fd: &OwnedFd, stat: &Stat, mut take: impl FnMut(Piece) -> bool) -> rustix::io::Result<u64> {
    // Storage of extended attributes counts too, so a file with as much storage as content may still have a hole.
    let sparse = stat.stored < stat.size.saturating_add(XATTR_STORAGE)
        && rustix::fs::seek(fd, SeekFrom::Hole(0)).is_ok_and(|hole| hole < stat.size);
    let end = if stat.size == 0 { SMALL as u64 } else { stat.size };
    let mut at = 0;
    while at < end {
        let mut data_end = end;
        if sparse {
            let data = match rustix::fs::seek(fd, SeekFrom::Data(at)) {
                Ok(data) => data.min(end),
                Err(Errno::NXIO) => Stat::of(fd)?.size.clamp(at, end),
                Err(Errno::INVAL | Errno::NOTSUP) => at,
                Err(error) => return Err(error),
            };
            if data > at {
                if !take(Piece::Hole(data - at)) {
                    return Ok(at);
                }
                at = data;
                continue;
            }
            data_end = rustix::fs::seek(fd, SeekFrom::Hole(at)).map_or(end, |hole| hole.clamp(at, end));
            if data_end == at {
                return Ok(at);
            }
        }
        // Files that claim to be empty mostly are: they are asked with a small buffer first.
        let max = if stat.size == 0 && at == 0 { PROBE } else { SMALL };
        let want = usize::try_from(data_end - at).unwrap_or(max).min(max);
        let bytes = read_at(fd, at, want)?;
        let short = bytes.len() < want;
        at += bytes.len() as u64;
        if (!bytes.is_empty() && !take(Piece::Data(bytes))) || short {
            return Ok(at);
        }
    }
    Ok(at)
}

/// Reads `want` bytes at `at`, or fewer at the end of the file.
fn read_at(fd: &OwnedFd, at: u64, want: usize) -> rustix::io::Result<Bytes> {
    let mut buffer = vec![0; want];
    let mut len = 0;
    while let Some(rest) = buffer.get_mut(len..).filter(|r| !r.is_empty()) {
        match rustix::io::pread(fd, rest, at + len as u64) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(len);
    Ok(buffer.into())
}

/// Pieces in hand.
struct Pieces(Vec<Piece>);

impl OpenContent for Pieces {
    fn open(self: Box<Self>) -> BoxFuture<'static, Result<ContentStream>> {
        Box::pin(async move { Ok(stream::iter(self.0.into_iter().map(Ok)).boxed()) })
    }
}

/// A file that is read when someone wants it.
struct Large {
    fd: OwnedFd,
    stat: Stat,
    key: Key,
    guard: Guard,
}

impl OpenContent for Large {
    fn open(self: Box<Self>) -> BoxFuture<'static, Result<ContentStream>> {
        Box::pin(async move {
            // One piece with the consumer, one in the channel, one being read.
            let (sender, receiver) = mpsc::channel(1);
            let mut tasks = JoinSet::new();
            tasks.spawn_blocking(move || self.read(&sender));
            Ok(
                stream::unfold((receiver, tasks), |(mut receiver, mut tasks)| async move {
                    let piece = match receiver.recv().await {
                        Some(piece) => piece,
                        None => match tasks.join_next().await? {
                            Ok(()) => return None,
                            Err(panic) => {
                                Err(Error::new(ErrorKind::Internal, "a reading task failed").because(panic))
                            }
                        },
                    };
                    Some((piece, (receiver, tasks)))
                })
                .boxed(),
            )
        })
    }
}

impl Large {
    fn read(self, sender: &mpsc::Sender<Result<Piece>>) {
        // Only a hint to the system: nothing depends on it.
        #[cfg(not(target_vendor = "apple"))]
        let _ = rustix::fs::fadvise(self.fd.as_fd(), 0, None, Advice::Sequential);
        let result = read_pieces(&self.fd, &self.stat, |piece| {
            sender.blocking_send(Ok(piece)).is_ok()
        });
        if sender.is_closed() {
            return;
        }
        let failed = match result.and_then(|size| Ok((size, Stat::of(&self.fd)?))) {
            Ok((size, after)) if size == self.stat.size && after.same_as(&self.stat) => None,
            Ok(_) => {
                if let Ok(mut list) = self.guard.0.incidents.lock() {
                    list.push(Incident {
                        key: self.key.clone(),
                        why: CHANGED.into(),
                    });
                }
                None
            }
            Err(error) => Some(
                Error::new(ErrorKind::Source, "cannot read a file")
                    .with("entry", &self.key)
                    .because(std::io::Error::from(error)),
            ),
        };
        if let Some(error) = failed {
            // A consumer that is gone does not miss it.
            let _ = sender.blocking_send(Err(error));
        }
    }
}
