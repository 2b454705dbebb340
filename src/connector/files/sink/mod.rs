//! The sink: restores below one directory and nowhere else.
//!
//! Entries come in key order, so a stack of directories is all that is kept: one is found or made when something in it is
//! restored, and when the walk leaves it, its links are made, what the snapshot does not have is removed if that was asked for,
//! and its own attributes are set. Files are written in the background, a few at a time.
//!
//! Durability: nothing is synced file by file; [`FilesSink::finish`] syncs the file system once. Before that a power cut may
//! lose or empty files; their size or time is wrong then, so that the same restore, begun again, writes them again.

mod apply;
mod delete;
mod file;
mod frames;
mod jobs;
mod place;
mod special;
mod temp;

use super::ladder::{LIST, Ladder};
use super::owner::Owners;
use super::select::Select;
use super::stat::Stat;
use crate::connector::{Sink, SinkReport};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::snapshot::entry::{Entry, EntryHead, Key};
use apply::Applied;
use frames::Frame;
use futures::future::BoxFuture;
use jobs::Jobs;
use rustix::fd::OwnedFd;
use rustix::fs::Mode;
use rustix::io::Errno;
use special::Original;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What happens to what is in the place of an entry already. A directory is never replaced, except with `delete`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// Every file is written again.
    Always,
    /// A file with the entry's size and modification time is taken for the entry; its other attributes are set.
    #[default]
    IfChanged,
    /// Only what is older than the entry is replaced.
    IfNewer,
    /// Nothing that is there is touched.
    Never,
}

/// A restore of files.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct RestoreRequest {
    /// The directory to restore into; made with mode 0700 if it is not there. Its own attributes are never changed.
    pub target: PathBuf,
    /// Path of the directory of the snapshot that becomes the target, without leading `/`, with trailing `/`; empty for `/`.
    /// Entries outside of it are ignored.
    pub strip: Vec<u8>,
    /// What of it is restored, by paths in the snapshot.
    pub select: Select,
    /// What is done with files that are there.
    pub overwrite: Overwrite,
    /// Remove what the snapshot does not have from directories that it has whole. Not together with a selection, nor
    /// with [`Overwrite::Never`].
    pub delete: bool,
    /// Only report; nothing is changed.
    pub dry_run: bool,
    /// Read every file again and compare it with its content in the snapshot.
    pub verify: bool,
    /// Restore devices, set-user-id and set-group-id bits, and attributes named `security.*` and `trusted.*`.
    pub privileged: bool,
    /// Restore owners; by default only for root.
    pub ownership: Option<bool>,
    /// Restore owners by number, not by name.
    pub numeric_owners: bool,
}

/// What holds for all entries of a restore.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
struct Policy {
    overwrite: Overwrite,
    delete: bool,
    dry_run: bool,
    verify: bool,
    privileged: bool,
    ownership: bool,
    numeric_owners: bool,
    /// Whether permissions do not bind us.
    root: bool,
    owners: Owners,
}

/// What was done with an entry.
#[derive(Debug, PartialEq, Eq)]
enum Did {
    Written,
    Skipped,
    Failed(String),
}

/// What became of an entry.
#[derive(Debug)]
struct Outcome {
    key: Key,
    did: Did,
    bytes: u64,
    different: bool,
    /// What of an entry that was written is not as it should be.
    troubles: Vec<String>,
    withheld: bool,
    /// Device and inode that it was restored to.
    original: Option<(u64, u64)>,
}

impl Outcome {
    fn new(key: &Key, did: Did) -> Self {
        Self {
            key: key.clone(),
            did,
            bytes: 0,
            different: false,
            troubles: Vec::new(),
            withheld: false,
            original: None,
        }
    }

    fn failed(key: &Key, why: impl Into<String>) -> Self {
        Self::new(key, Did::Failed(why.into()))
    }

    fn take(&mut self, applied: Applied) {
        self.troubles.extend(applied.troubles);
        self.withheld |= applied.withheld;
    }
}

/// Restores files below a directory.
pub struct FilesSink {
    request: RestoreRequest,
    policy: Arc<Policy>,
    /// The target; absent before [`Sink::prepare`], and in a dry run into a directory that is not there.
    top: Option<Arc<OwnedFd>>,
    ladder: Ladder,
    frames: Vec<Frame>,
    last_key: Option<Key>,
    /// Whether entries were lost; nothing is removed then.
    lost: bool,
    /// First names of files of several, by the hash of their keys: [`Original::path`] is where they are.
    originals: HashMap<[u8; 16], Original>,
    /// Of names that stand in for a first name: by the hash of their own key, that of the first name's.
    stand_ins: HashMap<[u8; 16], [u8; 16]>,
    jobs: Jobs,
    report: SinkReport,
    withheld: u64,
}

impl FilesSink {
    /// A sink for `request`; touches nothing yet.
    pub fn new(request: RestoreRequest) -> Self {
        let root = rustix::process::geteuid().is_root();
        let policy = Policy {
            overwrite: request.overwrite,
            delete: request.delete,
            dry_run: request.dry_run,
            verify: request.verify,
            privileged: request.privileged,
            ownership: request.ownership.unwrap_or(root),
            numeric_owners: request.numeric_owners,
            root,
            owners: Owners::load(),
        };
        Self {
            request,
            policy: Arc::new(policy),
            top: None,
            ladder: Ladder::new(LIST),
            frames: Vec::new(),
            last_key: None,
            lost: false,
            originals: HashMap::new(),
            stand_ins: HashMap::new(),
            jobs: Jobs::new(),
            report: SinkReport::default(),
            withheld: 0,
        }
    }

    fn open_target(&mut self) -> Result<()> {
        let target = &self.request.target;
        let cannot = |error: std::io::Error| {
            let kind = match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOSPC | Errno::DQUOT) => ErrorKind::StoreFull,
                Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => ErrorKind::Denied,
                _ => ErrorKind::Source,
            };
            Error::new(kind, "cannot open the target directory")
                .with("path", target.display())
                .because(error)
        };
        if !self.policy.dry_run && fs_err::symlink_metadata(target).is_err() {
            if let Some(parent) = target.parent() {
                fs_err::create_dir_all(parent).map_err(cannot)?;
            }
            rustix::fs::mkdir(target, Mode::RWXU).map_err(|e| cannot(e.into()))?;
        }
        match rustix::fs::open(target, LIST, Mode::empty()) {
            Ok(fd) => {
                let stat = Stat::of(&fd).map_err(|e| cannot(e.into()))?;
                let fd = Arc::new(fd);
                self.ladder.push(fd.clone(), &stat, true);
                self.top = Some(fd);
                Ok(())
            }
            Err(Errno::NOENT) if self.policy.dry_run => Ok(()),
            Err(error) => Err(cannot(error.into())),
        }
    }
}

/// The key under which the first name of a file is remembered.
fn hash_of(key: &Key) -> [u8; 16] {
    let hash = blake3::hash(key.as_bytes());
    hash.as_bytes().first_chunk().copied().unwrap_or_default()
}

/// The error that ends a restore, if this one does: a target that takes nothing more.
fn fatal(error: Errno, key: &Key) -> Option<Error> {
    let (kind, what) = match error {
        Errno::NOSPC | Errno::DQUOT => (ErrorKind::StoreFull, "the target is full"),
        Errno::ROFS => (ErrorKind::Denied, "the target is read-only"),
        _ => return None,
    };
    let error = Error::new(kind, what)
        .with("entry", key)
        .because(std::io::Error::from(error));
    Some(error.hint("the same restore, begun again, continues where this one ended"))
}

impl Sink for FilesSink {
    /// A hard link whose first name is not part of this restore becomes a file, to which later names of the same file are linked.
    fn borrows_from(&self, head: &EntryHead) -> Option<Key> {
        let attributes = super::Attributes::from_metadata(&head.metadata).ok()?;
        let (first, _) = attributes.first?;
        let path = super::path_of(&head.key)?;
        let wanted = path.starts_with(&self.request.strip) && self.request.select.picks(path, false);
        (wanted && !self.originals.contains_key(&hash_of(&first))).then_some(first)
    }

    fn lost(&mut self) {
        self.lost = true;
    }

    fn prepare<'a>(&'a mut self, context: &'a Context) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            context.check_cancelled()?;
            let invalid = |what: &str| Err(Error::new(ErrorKind::Invalid, what));
            if self.request.delete && !self.request.select.is_everything() {
                return invalid("--delete cannot be combined with --include or --exclude");
            }
            if self.request.delete && self.request.overwrite == Overwrite::Never {
                return invalid("--delete cannot be combined with --overwrite never");
            }
            let strip = &self.request.strip;
            if !super::key::components(strip).is_ok_and(|path| path.directory) {
                return invalid("not the path of a directory of a snapshot");
            }
            self.jobs.limit(context.budget.total());
            self.open_target()?;
            let place = if self.top.is_some() {
                frames::State::Open(None)
            } else {
                frames::State::Absent
            };
            self.frames.push(Frame::top(place));
            Ok(())
        })
    }

    fn write<'a>(&'a mut self, context: &'a Context, entry: Entry) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            context.check_cancelled()?;
            if self.frames.is_empty() {
                return Err(Error::new(ErrorKind::Internal, "a sink was not prepared"));
            }
            self.take(context, entry).await
        })
    }

    fn finish<'a>(&'a mut self, context: &'a Context) -> BoxFuture<'a, Result<SinkReport>> {
        Box::pin(async move {
            self.leave_to(context, 0).await?;
            while self.reap(context).await? {}
            if let (Some(top), false) = (self.top.clone(), self.policy.dry_run) {
                sync(context, top).await?;
            }
            if self.withheld > 0 {
                let text = format!(
                    "{} entries were restored without set-user-id bits, capabilities or other attributes that only --privileged restores",
                    self.withheld
                );
                context.emit(&Event::Note { text });
            }
            Ok(self.report.clone())
        })
    }
}

/// Makes everything that was written durable.
async fn sync(context: &Context, top: Arc<OwnedFd>) -> Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let work = move || rustix::fs::syncfs(&*top);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let work = move || rustix::fs::fsync(&*top);
    context.check_cancelled()?;
    let result = tokio::task::spawn_blocking(work).await;
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Source, "cannot make the target durable").because(error)
    };
    result
        .map_err(|panic| failed(panic.into()))?
        .map_err(|error| failed(std::io::Error::from(error).into()))
}
