//! The directories from the target down to where the restore is, and what is done when an entry comes and a directory is left.

use super::delete::{remember, remove_others};
use super::file::FileJob;
use super::jobs::{Becomes, Left};
use super::place::{Place, enter};
use super::special::{Original, Special};
use super::{Did, FilesSink, Outcome, Overwrite, fatal, hash_of};
use crate::connector::files::key::{components, is_temporary, key_of, path_of};
use crate::connector::files::read::SMALL;
use crate::connector::files::record::Attributes;
use crate::connector::files::stat::Stat;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::entry::{Content, Entry, EntryHead, EntryKind, Key};
use rustix::fd::OwnedFd;
use std::sync::Arc;

/// Links that wait for the end of their directory, at most; more are made at once.
const LINKS_MAX: usize = 4096;

/// How far a directory is restored.
pub(super) enum State {
    /// Not looked at yet: nothing in it was restored so far.
    Waiting,
    /// Open, on the ladder; what it was like if it was there before.
    Open(Option<Stat>),
    /// Not there, in a dry run.
    Absent,
    /// Nothing can be restored into it.
    Refused(String),
}

/// One directory.
pub(super) struct Frame {
    name: Box<[u8]>,
    state: State,
    /// Of its entry, if it is restored.
    attributes: Option<Box<Attributes>>,
    /// Whether the snapshot has all that is in it.
    whole: bool,
    links: Vec<Special>,
    seen: Vec<u64>,
}

impl Frame {
    pub(super) fn top(state: State) -> Self {
        Self {
            name: Box::default(),
            state,
            attributes: None,
            whole: false,
            links: Vec::new(),
            seen: Vec::new(),
        }
    }
}

impl FilesSink {
    /// Restores one entry, or begins to.
    pub(super) async fn take(&mut self, context: &Context, entry: Entry) -> Result<()> {
        let Entry { head, content } = entry;
        let Some(path) = path_of(&head.key).map(<[u8]>::to_vec) else {
            return self.fail(context, &head.key, "it is no entry of files");
        };
        let Some(below) = path.strip_prefix(self.request.strip.as_slice()) else {
            return Ok(());
        };
        let is_directory = head.kind == EntryKind::Directory;
        let parts = match components(below) {
            Ok(parts) => parts,
            Err(why) => return self.fail(context, &head.key, why),
        };
        if self.last_key.as_ref().is_some_and(|last| *last >= head.key) {
            return self.fail(context, &head.key, "it is out of order");
        }
        self.last_key = Some(head.key.clone());
        let path = path.strip_suffix(b"/").unwrap_or(&path);
        let picked = self.request.select.picks(path, is_directory);
        let (parents, name) = match (parts.directory, parts.names.split_last()) {
            (false, Some((name, parents))) => (parents, *name),
            _ => (parts.names.as_slice(), b"".as_slice()),
        };
        self.go_to(context, parents).await?;
        // First of all, so that what is there of an entry that fails is not taken for what the snapshot does not have.
        if !parts.directory
            && self.policy.delete
            && let Some(frame) = self.frames.last_mut()
        {
            frame.seen.push(remember(name));
        }
        if parts.directory != is_directory {
            return self.fail(context, &head.key, "its kind does not fit its path");
        }
        let attributes = match Attributes::from_metadata(&head.metadata) {
            Ok(attributes) => attributes,
            Err(error) => return self.fail(context, &head.key, &format!("its metadata is damaged: {error}")),
        };
        if is_directory {
            return self.directory(context, &head, attributes, picked).await;
        }
        if is_temporary(name) {
            return self.fail(
                context,
                &head.key,
                "it has a name that restores use for themselves",
            );
        }
        if picked {
            self.entry(context, (head, content), attributes, name).await
        } else {
            Ok(())
        }
    }

    /// Leaves directories, and enters others, until the restore is in `names`.
    async fn go_to(&mut self, context: &Context, names: &[&[u8]]) -> Result<()> {
        let here = self.frames.iter().skip(1);
        let shared = here
            .zip(names)
            .take_while(|(frame, name)| *frame.name == ***name)
            .count();
        self.leave_to(context, shared + 1).await?;
        for name in names.iter().skip(shared) {
            if self.policy.delete
                && let Some(frame) = self.frames.last_mut()
            {
                frame.seen.push(remember(name));
            }
            self.frames.push(Frame {
                name: (*name).into(),
                ..Frame::top(State::Waiting)
            });
        }
        Ok(())
    }

    async fn directory(
        &mut self,
        context: &Context,
        head: &EntryHead,
        attributes: Attributes,
        picked: bool,
    ) -> Result<()> {
        let is_top = self.frames.len() == 1;
        let Some(frame) = self.frames.last_mut() else {
            return Ok(());
        };
        frame.whole = !attributes.partial;
        if is_top && !picked {
            return Ok(());
        }
        if is_top {
            self.count(context, Outcome::new(&head.key, Did::Skipped));
            return Ok(());
        }
        if !picked {
            return Ok(());
        }
        frame.attributes = Some(Box::new(attributes));
        self.materialise(&head.key).await?;
        let outcome = match self.frames.last().map(|f| &f.state) {
            Some(State::Refused(why)) => Outcome::failed(&head.key, why.clone()),
            Some(State::Open(Some(_))) => Outcome::new(&head.key, Did::Skipped),
            _ => Outcome::new(&head.key, Did::Written),
        };
        self.count(context, outcome);
        Ok(())
    }

    /// Finds or makes all directories down to where the restore is.
    async fn materialise(&mut self, key: &Key) -> Result<()> {
        let first = self.frames.iter().position(|f| matches!(f.state, State::Waiting));
        for at in first.unwrap_or(self.frames.len())..self.frames.len() {
            let above = at
                .checked_sub(1)
                .and_then(|i| self.frames.get(i))
                .map(|f| &f.state);
            let state = match above {
                Some(State::Refused(why)) => State::Refused(why.clone()),
                Some(State::Absent) => State::Absent,
                _ => self.enter(at, key).await?,
            };
            if let Some(frame) = self.frames.get_mut(at) {
                frame.state = state;
            }
        }
        Ok(())
    }

    async fn enter(&mut self, at: usize, key: &Key) -> Result<State> {
        let (Some(frame), Some(parent)) = (self.frames.get(at), self.ladder.top().cloned()) else {
            return Ok(State::Refused("the way to it was lost".into()));
        };
        let (name, policy) = (frame.name.clone(), self.policy.clone());
        let work = move || enter(&parent, &name, &policy);
        match tokio::task::spawn_blocking(work).await.map_err(internal)? {
            Ok(Place::Open(fd, now, before)) => {
                self.ladder.push(fd, &now, false);
                Ok(State::Open(before))
            }
            Ok(Place::Absent) => Ok(State::Absent),
            Ok(Place::Refused(why)) => Ok(State::Refused(why)),
            Err(error) => match fatal(error, key) {
                Some(error) => Err(error),
                None => Ok(State::Refused(format!(
                    "its directory cannot be made or opened: {error}"
                ))),
            },
        }
    }

    /// The directory that the restore is in; none if that is absent in a dry run.
    async fn here(&mut self, key: &Key) -> Result<Result<Option<Arc<OwnedFd>>, String>> {
        self.materialise(key).await?;
        Ok(match self.frames.last().map(|f| &f.state) {
            Some(State::Open(_)) => Ok(self.ladder.top().cloned()),
            Some(State::Refused(why)) => Err(why.clone()),
            _ => Ok(None),
        })
    }

    async fn entry(
        &mut self,
        context: &Context,
        (head, content): (EntryHead, Content),
        attributes: Attributes,
        name: &[u8],
    ) -> Result<()> {
        let dir = match self.here(&head.key).await? {
            Ok(dir) => dir,
            Err(why) => return self.fail(context, &head.key, &why),
        };
        let with_content = head.kind == EntryKind::HardLink && !matches!(content, Content::None);
        if let (true, Some((first, _))) = (with_content, &attributes.first) {
            // It stands in for the first name: later names are linked to it.
            self.expect(&head.key, first);
        } else if attributes.names > 1 && head.kind != EntryKind::HardLink {
            self.expect(&head.key, &head.key.clone());
        }
        let first_kind = attributes.first.as_ref().map(|(_, kind)| *kind);
        let special = |kind, attributes| Special {
            key: head.key.clone(),
            name: name.into(),
            kind,
            attributes,
        };
        match head.kind {
            EntryKind::HardLink if !with_content => {
                let known = attributes
                    .first
                    .as_ref()
                    .is_some_and(|(f, _)| self.originals.contains_key(&hash_of(f)));
                if !known {
                    let why = "the file that it is a name of is not part of this restore";
                    return self.fail(context, &head.key, why);
                }
                self.defer(context, special(EntryKind::HardLink, attributes))
                    .await
            }
            EntryKind::Symlink if attributes.names < 2 => {
                self.defer(context, special(EntryKind::Symlink, attributes)).await
            }
            EntryKind::File | EntryKind::HardLink if first_kind.is_none_or(|k| k == EntryKind::File) => {
                let job = FileJob {
                    key: head.key,
                    dir,
                    name: name.into(),
                    attributes,
                    size: head.size,
                    policy: self.policy.clone(),
                };
                let large = job.size.is_none_or(|size| size > SMALL as u64);
                self.start(context, large, job.run(content)).await
            }
            EntryKind::Symlink
            | EntryKind::Fifo
            | EntryKind::Socket
            | EntryKind::CharDevice
            | EntryKind::BlockDevice => {
                let special = special(head.kind, attributes);
                self.special(context, special).await
            }
            _ => self.fail(context, &head.key, "it is of a kind that files do not have"),
        }
    }

    /// Notes that `key` is restored as the name that further names of `first` are linked to.
    fn expect(&mut self, key: &Key, first: &Key) {
        let path = path_of(key).and_then(|p| p.strip_prefix(self.request.strip.as_slice()));
        let original = Original {
            path: path.unwrap_or_default().into(),
            id: None,
        };
        self.originals.insert(hash_of(first), original.clone());
        // Its own outcome is found under its own key.
        if key != first {
            self.stand_ins.insert(hash_of(key), hash_of(first));
        }
    }

    async fn defer(&mut self, context: &Context, special: Special) -> Result<()> {
        match self.frames.last_mut() {
            Some(frame) if frame.links.len() < LINKS_MAX => {
                frame.links.push(special);
                Ok(())
            }
            _ => self.special(context, special).await,
        }
    }

    /// Restores an entry without content into the directory where the restore is.
    async fn special(&mut self, context: &Context, special: Special) -> Result<()> {
        let original = match (special.kind, &special.attributes.first) {
            (EntryKind::HardLink, Some((first, _))) => {
                // What it is linked to must be there.
                while self.reap(context).await? {}
                self.originals.get(&hash_of(first)).cloned()
            }
            _ => None,
        };
        let dir = match self.here(&special.key).await? {
            Ok(dir) => dir,
            Err(why) => return self.fail(context, &special.key, &why),
        };
        let (policy, top, key) = (self.policy.clone(), self.top.clone(), special.key.clone());
        let work = move || match original {
            Some(original) => special.link(dir.as_ref(), top.as_ref(), &original, &policy),
            None => special.restore(dir.as_ref(), &policy),
        };
        let outcome = match tokio::task::spawn_blocking(work).await.map_err(internal)? {
            Ok(outcome) => outcome,
            Err(error) => match fatal(error, &key) {
                Some(error) => return Err(error),
                None => Outcome::failed(&key, error.to_string()),
            },
        };
        self.count(context, outcome);
        Ok(())
    }

    /// Leaves directories until `depth` are left.
    pub(super) async fn leave_to(&mut self, context: &Context, depth: usize) -> Result<()> {
        while self.frames.len() > depth {
            let links = self.frames.last_mut().map(|f| std::mem::take(&mut f.links));
            for link in links.unwrap_or_default() {
                self.special(context, link).await?;
            }
            self.delete_others(context).await?;
            let key = self.key_here();
            let Some(frame) = self.frames.pop() else { break };
            let State::Open(before) = frame.state else {
                continue;
            };
            let dir = self.ladder.top().cloned();
            let popped = self.ladder.pop();
            let becomes = frame
                .attributes
                .and_then(|attributes| self.becomes(attributes, before.as_ref()));
            let reset = || {
                before
                    .filter(|b| b.mode & 0o700 != 0o700)
                    .map(|b| Becomes::Mode(b.mode))
            };
            if let (Some(dir), Some(becomes), false) = (dir, becomes.or_else(reset), self.policy.dry_run) {
                self.leave_directory(context, Left { key, dir, becomes }).await?;
            }
            if popped.is_err() && depth > 0 {
                return Err(Error::new(
                    ErrorKind::Source,
                    "the target was moved while it was restored into",
                ));
            }
        }
        Ok(())
    }

    /// What a directory that is left becomes; nothing if it must stay as it was.
    fn becomes(&self, attributes: Box<Attributes>, before: Option<&Stat>) -> Option<Becomes> {
        let may = match (self.policy.overwrite, before) {
            (_, None) | (Overwrite::Always | Overwrite::IfChanged, _) => true,
            (Overwrite::IfNewer, Some(before)) => attributes.mtime > before.mtime,
            (Overwrite::Never, Some(_)) => false,
        };
        may.then_some(Becomes::Entry(attributes))
    }

    /// Removes what the snapshot does not have from the directory that is left.
    async fn delete_others(&mut self, context: &Context) -> Result<()> {
        let dry_run = self.policy.dry_run;
        let is_top = self.frames.len() == 1;
        let key = self.key_here();
        let (Some(frame), Some(dir)) = (self.frames.last_mut(), self.ladder.top().cloned()) else {
            return Ok(());
        };
        let existed =
            matches!(frame.state, State::Open(Some(_))) || (is_top && matches!(frame.state, State::Open(_)));
        if !self.policy.delete || self.lost || !frame.whole || !existed {
            return Ok(());
        }
        let mut seen = std::mem::take(&mut frame.seen);
        // Temporary names are gone when nothing is written any more.
        while self.reap(context).await? {}
        seen.sort_unstable();
        let work = move || remove_others(&dir, &seen, dry_run);
        match tokio::task::spawn_blocking(work).await.map_err(internal)? {
            Ok(deleted) => {
                self.report.deleted += deleted.entries;
                for (name, error) in deleted.failed {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    self.trouble(context, &key, &[format!("cannot remove {name}: {error}")]);
                }
            }
            Err(error) => self.trouble(context, &key, &[format!("cannot remove what is in it: {error}")]),
        }
        Ok(())
    }

    /// The key of the directory that the restore is in.
    fn key_here(&self) -> Key {
        let mut path = self.request.strip.clone();
        for frame in self.frames.iter().skip(1) {
            path.extend_from_slice(&frame.name);
            path.push(b'/');
        }
        key_of(&path)
    }

    #[expect(clippy::unnecessary_wraps, reason = "callers end with it")]
    fn fail(&mut self, context: &Context, key: &Key, why: &str) -> Result<()> {
        self.count(context, Outcome::failed(key, why));
        Ok(())
    }
}

fn internal(panic: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Internal, "a writing task failed; this is a bug").because(panic)
}
