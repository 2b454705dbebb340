//! Restores one regular file: decides whether it must be written, writes it beside its place, and renames it.

use super::apply::{apply_open, has_all};
use super::temp::{TAKEN, Temporary, hash_file, hash_zeros};
use super::{Did, Outcome, Overwrite, Policy, delete, fatal};
use crate::connector::files::read::SMALL;
use crate::connector::files::record::Attributes;
use crate::connector::files::stat::Stat;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::entry::{Content, ContentStream, EntryKind, Key, Piece};
use futures::StreamExt;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::sync::Arc;

/// One regular file to restore.
pub(super) struct FileJob {
    pub(super) key: Key,
    /// Its directory; none in a dry run in which that would be made.
    pub(super) dir: Option<Arc<OwnedFd>>,
    pub(super) name: Box<[u8]>,
    pub(super) attributes: Attributes,
    pub(super) size: Option<u64>,
    pub(super) policy: Arc<Policy>,
}

/// What must be done with what is in the place of an entry.
pub(super) enum Decision {
    Write,
    /// It is there: only its attributes are set.
    Skip(Stat),
    /// It stays untouched; given if it is the entry by all that is known.
    Keep(Option<Stat>),
    Fail(String),
}

/// Decides by what is at `name`; `equal` says whether that is the entry already. A directory in the way stays until [`clear`].
pub(super) fn decide(
    dir: &Arc<OwnedFd>,
    name: &[u8],
    attributes: &Attributes,
    policy: &Policy,
    equal: impl FnOnce(&Stat) -> bool,
) -> rustix::io::Result<Decision> {
    let there = match Stat::at(&**dir, name) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Decision::Write),
        Err(error) => return Err(error),
    };
    if policy.overwrite == Overwrite::Never {
        return Ok(Decision::Keep(equal(&there).then_some(there)));
    }
    if there.kind == Some(EntryKind::Directory) {
        if !policy.delete {
            return Ok(Decision::Fail("a directory is in its place".into()));
        }
        if policy.dry_run {
            delete::remove(dir, name, true)?;
        }
        return Ok(Decision::Write);
    }
    Ok(match policy.overwrite {
        Overwrite::IfNewer if attributes.mtime <= there.mtime => {
            Decision::Keep(equal(&there).then_some(there))
        }
        Overwrite::IfChanged if equal(&there) => Decision::Skip(there),
        _ => Decision::Write,
    })
}

/// Removes a directory in the way if that is allowed: only when what comes in its place is whole.
pub(super) fn clear(dir: &Arc<OwnedFd>, name: &[u8], policy: &Policy) -> rustix::io::Result<()> {
    if policy.delete && Stat::at(&**dir, name).is_ok_and(|there| there.kind == Some(EntryKind::Directory)) {
        delete::remove(dir, name, false)?;
    }
    Ok(())
}

impl FileJob {
    /// Restores it.
    pub(super) async fn run(self, content: Content) -> Result<Outcome> {
        let job = Arc::new(self);
        let outcome = match job.clone().attempt(content).await {
            Ok(outcome) => outcome,
            Err(Trouble::System(error)) => {
                if let Some(error) = fatal(error, &job.key) {
                    return Err(error);
                }
                Outcome::failed(&job.key, error.to_string())
            }
            Err(Trouble::Content(error)) => match error.kind() {
                ErrorKind::Cancelled
                | ErrorKind::Unreachable
                | ErrorKind::Unreadable
                | ErrorKind::Denied
                | ErrorKind::Conflict
                | ErrorKind::Internal => return Err(error),
                _ => {
                    let mut why = error.to_string();
                    error.causes().iter().for_each(|cause| why.extend([": ", cause]));
                    Outcome::failed(&job.key, why)
                }
            },
        };
        Ok(outcome)
    }

    async fn attempt(self: Arc<Self>, content: Content) -> Attempt<Outcome> {
        let Some(dir) = self.dir.clone() else {
            return Ok(self.outcome(Did::Written, self.size.unwrap_or(0)));
        };
        let job = self.clone();
        let decided = blocking(move || job.decide(&dir)).await?;
        match decided {
            Decision::Fail(why) => Ok(Outcome::failed(&self.key, why)),
            Decision::Write if self.policy.dry_run => Ok(self.outcome(Did::Written, self.size.unwrap_or(0))),
            Decision::Write => self.write(content).await,
            Decision::Skip(there) => self.skip(Some(there), content).await,
            Decision::Keep(there) => self.skip(there, content).await,
        }
    }

    /// Skips only what a rewrite would not change: with the right size and time, and attributes that are right or can be set.
    fn decide(&self, dir: &Arc<OwnedFd>) -> rustix::io::Result<Decision> {
        let equal = |there: &Stat| {
            there.kind == Some(EntryKind::File)
                && Some(there.size) == self.size
                && there.mtime == self.attributes.mtime
        };
        let decision = decide(dir, &self.name, &self.attributes, &self.policy, equal)?;
        let Decision::Skip(there) = &decision else {
            return Ok(decision);
        };
        let Ok(fd) = self.open(dir, there) else {
            // It is there, but cannot be read by us: writing it anew gives it the right mode.
            return Ok(Decision::Write);
        };
        if has_all(&fd, there, &self.attributes, &self.policy) {
            return Ok(decision);
        }
        // Another name of the same file may lie outside of the target: that one must not change.
        if there.names > 1 {
            return Ok(Decision::Write);
        }
        if self.policy.dry_run {
            return Ok(decision);
        }
        let applied = apply_open(&fd, &self.attributes, &self.policy);
        Ok(if applied.troubles.is_empty() {
            decision
        } else {
            Decision::Write
        })
    }

    /// Opens what is in its place, if that still is the file that was looked at.
    fn open(&self, dir: &OwnedFd, there: &Stat) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, &*self.name, flags, Mode::empty())?;
        let now = Stat::of(&fd)?;
        if now.is((there.device, there.inode)) && now.kind == Some(EntryKind::File) {
            Ok(fd)
        } else {
            Err(Errno::STALE)
        }
    }

    async fn skip(self: Arc<Self>, there: Option<Stat>, content: Content) -> Attempt<Outcome> {
        let mut outcome = self.outcome(Did::Skipped, 0);
        outcome.original = there.map(|s| (s.device, s.inode));
        if self.policy.verify && !self.policy.dry_run {
            let job = self.clone();
            let on_disk = blocking(move || {
                let Some(dir) = &job.dir else { return Ok(None) };
                let there = Stat::at(&**dir, &job.name)?;
                match there.kind {
                    Some(EntryKind::File) => hash_file(&job.open(dir, &there)?).map(Some),
                    _ => Ok(None),
                }
            })
            .await?;
            let wanted = hash_content(content.open().await?).await?;
            outcome.different = on_disk != Some(wanted);
        }
        Ok(outcome)
    }

    async fn write(self: Arc<Self>, content: Content) -> Attempt<Outcome> {
        let mut stream = content.open().await?;
        let (first, mut more) = gather(&mut stream).await?;
        let job = self.clone();
        let mut file = blocking(move || job.begin(&first)).await?;
        while more {
            let (pieces, again) = gather(&mut stream).await?;
            more = again;
            file = blocking(move || {
                pieces.iter().try_for_each(|piece| file.write(piece))?;
                Ok(file)
            })
            .await?;
        }
        blocking(move || self.end(file)).await
    }

    fn begin(&self, pieces: &[Piece]) -> rustix::io::Result<Temporary> {
        let dir = self.dir.as_ref().ok_or(Errno::NOENT)?;
        let mut file = Temporary::create(dir, &self.name, self.policy.verify)?;
        pieces.iter().try_for_each(|piece| file.write(piece))?;
        Ok(file)
    }

    fn end(&self, file: Temporary) -> rustix::io::Result<Outcome> {
        file.complete()?;
        let mut outcome = self.outcome(Did::Written, file.len());
        if !file.verify()? {
            outcome = Outcome::failed(&self.key, "what was written is not what is read back");
            outcome.different = true;
            return Ok(outcome);
        }
        let applied = apply_open(file.fd(), &self.attributes, &self.policy);
        outcome.troubles = applied.troubles;
        outcome.withheld = applied.withheld;
        if let Some(dir) = &self.dir {
            clear(dir, &self.name, &self.policy)?;
        }
        let Some(stat) = file.rename()? else {
            return Ok(Outcome::failed(&self.key, TAKEN));
        };
        outcome.original = Some((stat.device, stat.inode));
        Ok(outcome)
    }

    fn outcome(&self, did: Did, bytes: u64) -> Outcome {
        Outcome {
            bytes,
            ..Outcome::new(&self.key, did)
        }
    }
}

/// Why an attempt ended: the target's system, or the content.
enum Trouble {
    System(Errno),
    Content(Error),
}

type Attempt<T> = Result<T, Trouble>;

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Content(error)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> rustix::io::Result<T> + Send + 'static,
) -> Attempt<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Trouble::System),
        Err(panic) => {
            let error = Error::new(ErrorKind::Internal, "a writing task failed; this is a bug");
            Err(Trouble::Content(error.because(panic)))
        }
    }
}

/// Takes pieces up to about a megabyte, so that a small file takes one trip to a blocking thread; says whether there may be more.
async fn gather(stream: &mut ContentStream) -> Result<(Vec<Piece>, bool)> {
    let (mut pieces, mut bytes) = (Vec::new(), 0);
    while bytes < SMALL {
        match stream.next().await {
            None => return Ok((pieces, false)),
            Some(piece) => {
                let piece = piece?;
                bytes += match &piece {
                    Piece::Data(bytes) => bytes.len(),
                    Piece::Hole(_) => 64,
                };
                pieces.push(piece);
            }
        }
    }
    Ok((pieces, true))
}

async fn hash_content(mut stream: ContentStream) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    while let Some(piece) = stream.next().await {
        match piece? {
            Piece::Data(bytes) => {
                hasher.update(&bytes);
            }
            Piece::Hole(mut len) => {
                // Off the threads that wait, a part at a time: a hole may be larger than anybody wants to wait for.
                while len > 0 {
                    let part = len.min(64 << 20);
                    let hash = move || {
                        hash_zeros(&mut hasher, part);
                        hasher
                    };
                    hasher = tokio::task::spawn_blocking(hash).await.map_err(|panic| {
                        Error::new(ErrorKind::Internal, "a hashing task failed; this is a bug").because(panic)
                    })?;
                    len -= part;
                }
            }
        }
    }
    Ok(hasher.finalize())
}
