//! The walk: visits everything below the roots in key order and hands on what it finds, in batches.

use super::key::{PREFIX, is_temporary, key_of};
use super::ladder::{LIST, LOOKUP, Ladder};
use super::listing::Listing;
use super::roots::Way;
use super::select::{Filter, Tag};
use super::stat::Stat;
use crate::format::limits::KEY_MAX;
use crate::snapshot::entry::{EntryKind, Incident, Key};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Steps in one batch, and how many open directories they may keep open.
const BATCH_STEPS: usize = 64;
const BATCH_DIRECTORIES: usize = 16;

/// Something that the walk came across.
pub(super) struct Found {
    pub(super) key: Key,
    /// The directory in which `name` is looked up; for a directory that could be opened, itself.
    pub(super) dir: Arc<OwnedFd>,
    pub(super) name: Box<[u8]>,
    pub(super) stat: Stat,
    /// Of a later name of a file: the first name and its kind.
    pub(super) first: Option<(Key, EntryKind)>,
    /// Of a directory: not all of its names are yielded.
    pub(super) partial: bool,
    /// A directory on the way to a root only.
    pub(super) on_the_way: bool,
}

/// One step of the walk.
pub(super) enum Step {
    Found(Found),
    Incident(Incident),
    Note(String),
}

/// How the walk ended.
pub(super) struct WalkEnd {
    /// Roots that were there.
    pub(super) roots_found: usize,
}

/// Where inside a root the walk is.
#[derive(Clone, Copy)]
struct Scope {
    /// Length of the part of the path that leads to the root, its `/` included.
    root_len: usize,
    device: u64,
}

struct Frame {
    listing: Listing,
    /// Roots below, if this directory is on the way to some.
    way: Option<Arc<Way>>,
    /// The root that it lies in, if any.
    scope: Option<Scope>,
    /// Length of its path.
    path_len: usize,
}

/// The walk's state; [`Walk::run`] blocks and belongs on a blocking thread.
pub(super) struct Walk {
    filter: Filter,
    one_file_system: bool,
    ladder: Ladder,
    frames: Vec<Frame>,
    path: Vec<u8>,
    links: HashMap<(u64, u64), (Key, EntryKind, u64)>,
    roots_found: usize,
    batch: Vec<Step>,
    batch_directories: usize,
    out: mpsc::Sender<Vec<Step>>,
}

/// Whoever took the steps is gone.
pub(super) struct Gone;

impl Walk {
    /// A walk that hands its steps to `out`.
    pub(super) fn new(filter: Filter, one_file_system: bool, out: mpsc::Sender<Vec<Step>>) -> Self {
        Self {
            filter,
            one_file_system,
            ladder: Ladder::new(LOOKUP),
            frames: Vec::new(),
            path: Vec::new(),
            links: HashMap::new(),
            roots_found: 0,
            batch: Vec::new(),
            batch_directories: 0,
            out,
        }
    }

    /// Visits everything.
    pub(super) fn run(mut self, way: Arc<Way>) -> Result<WalkEnd, Gone> {
        match rustix::fs::open("/", LOOKUP, Mode::empty()).and_then(|fd| Ok((Stat::of(&fd)?, fd))) {
            Ok((stat, fd)) => self.descend(Arc::new(fd), &stat, Some(way), None)?,
            Err(error) => self.incident(format!("cannot open `/`: {error}"))?,
        }
        while let Some(frame) = self.frames.last_mut() {
            self.path.truncate(frame.path_len);
            let Some(name) = frame.listing.next_name() else {
                self.ascend()?;
                continue;
            };
            let name: Box<[u8]> = name.into();
            let (body, directory) = match name.strip_suffix(b"/") {
                Some(body) => (body, true),
                None => (&*name, false),
            };
            let way = frame.way.as_ref().and_then(|w| w.children.get(body)).cloned();
            let mut scope = frame.scope;
            self.path.extend_from_slice(&name);
            if let (Some(way), Some(inside)) = (&way, scope) {
                // Kept although it is excluded, because a root lies in it: then it is only the way to that root.
                let relative = self.path.get(inside.root_len..).unwrap_or_default();
                let relative = relative.strip_suffix(b"/").unwrap_or(relative);
                if !way.is_root && self.filter.excludes(relative, directory) {
                    scope = None;
                }
            }
            if self.path.len() + PREFIX.len() > KEY_MAX {
                self.incident("its path is longer than a key may be".into())?;
                continue;
            }
            self.visit(body, directory, way, scope)?;
        }
        self.flush()?;
        Ok(WalkEnd {
            roots_found: self.roots_found,
        })
    }

    fn ascend(&mut self) -> Result<(), Gone> {
        self.frames.pop();
        let mut result = self.ladder.pop();
        while let (Err(error), Some(frame)) = (result, self.frames.last()) {
            self.path.truncate(frame.path_len);
            self.incident(format!("the way back to it was lost while it was read: {error}"))?;
            self.frames.pop();
            result = self.ladder.pop();
        }
        Ok(())
    }

    fn visit(
        &mut self,
        name: &[u8],
        directory: bool,
        way: Option<Arc<Way>>,
        scope: Option<Scope>,
    ) -> Result<(), Gone> {
        let Some(dir) = self.ladder.top().cloned() else {
            return self.incident("its directory was moved while it was read".into());
        };
        let stat = match Stat::at(&*dir, name) {
            Ok(stat) => stat,
            Err(error) => return self.missing(error, way.as_deref()),
        };
        let through_link = way.as_ref().is_some_and(|w| w.follow || !w.is_root)
            && stat.kind == Some(EntryKind::Symlink)
            && directory;
        if directory && (through_link || stat.kind == Some(EntryKind::Directory)) {
            return self.directory(&dir, name, &stat, (way, scope));
        }
        let Some(kind) = stat.kind else {
            return self.incident("it is of a type that cannot be kept".into());
        };
        if directory || kind == EntryKind::Directory {
            return self.incident("it changed its type while its directory was read".into());
        }
        if way.as_ref().is_some_and(|w| !w.children.is_empty()) {
            self.incident(
                "it is no directory, so that what was asked for below it cannot be reached".into(),
            )?;
        }
        let is_root = way.as_ref().is_some_and(|w| w.is_root);
        self.roots_found += usize::from(is_root);
        if is_temporary(name) {
            return self.incident("it has a name that restores use for themselves".into());
        }
        let too_large = |max| kind == EntryKind::File && stat.size > max;
        if !is_root && self.filter.larger_than.is_some_and(too_large) {
            return Ok(());
        }
        let found = Found {
            key: key_of(&self.path),
            dir,
            name: name.into(),
            first: self.first_name(&stat, kind),
            stat,
            partial: false,
            on_the_way: false,
        };
        self.step(Step::Found(found))
    }

    /// The first name of a file of several, and books this one.
    fn first_name(&mut self, stat: &Stat, kind: EntryKind) -> Option<(Key, EntryKind)> {
        if stat.names < 2 {
            return None;
        }
        let id = (stat.device, stat.inode);
        if let Some((first, kind, left)) = self.links.get_mut(&id) {
            let out = (first.clone(), *kind);
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.links.remove(&id);
            }
            return Some(out);
        }
        self.links.insert(id, (key_of(&self.path), kind, stat.names - 1));
        None
    }

    fn missing(&mut self, error: Errno, way: Option<&Way>) -> Result<(), Gone> {
        match (error, way) {
            (Errno::NOENT, None) => self.note("was removed before it could be read"),
            (error, _) => self.incident(error.to_string()),
        }
    }

    fn directory(
        &mut self,
        parent: &Arc<OwnedFd>,
        name: &[u8],
        stat: &Stat,
        (way, scope): (Option<Arc<Way>>, Option<Scope>),
    ) -> Result<(), Gone> {
        let listed = scope.is_some() || way.as_ref().is_some_and(|w| w.is_root);
        let follow = if stat.kind == Some(EntryKind::Symlink) {
            OFlags::empty()
        } else {
            OFlags::NOFOLLOW
        };
        let flags = if listed { LIST } else { LOOKUP } | follow;
        match open_directory(parent, name, flags) {
            Ok((fd, stat)) => self.descend(fd, &stat, way, scope),
            Err(Errno::NOENT) if way.is_none() => self.note("was removed before it could be read"),
            Err(error) => {
                self.roots_found += way.as_ref().map_or(0, |w| usize::from(w.is_root));
                if stat.kind == Some(EntryKind::Directory) {
                    let here = Found {
                        key: key_of(&self.path),
                        dir: parent.clone(),
                        name: name.into(),
                        stat: *stat,
                        first: None,
                        partial: true,
                        on_the_way: !listed,
                    };
                    self.step(Step::Found(here))?;
                }
                self.incident(format!("cannot list it: {error}"))
            }
        }
    }

    /// Yields the directory `fd`, whose path is the current one, and goes down into it.
    fn descend(
        &mut self,
        fd: Arc<OwnedFd>,
        stat: &Stat,
        way: Option<Arc<Way>>,
        scope: Option<Scope>,
    ) -> Result<(), Gone> {
        let is_root = way.as_ref().is_some_and(|w| w.is_root);
        self.roots_found += usize::from(is_root);
        let scope = match (is_root, scope) {
            (true, _) => Some(Scope {
                root_len: self.path.len(),
                device: stat.device,
            }),
            (false, scope) => scope,
        };
        let (listing, partial, inside) = self.list(&fd, stat, way.as_deref(), scope)?;
        let here = Found {
            key: key_of(&self.path),
            dir: fd.clone(),
            name: b".".as_slice().into(),
            stat: *stat,
            first: None,
            partial,
            on_the_way: scope.is_none(),
        };
        self.step(Step::Found(here))?;
        let way = way.filter(|w| !w.children.is_empty());
        self.ladder.push(fd, stat, way.is_some());
        self.frames.push(Frame {
            listing,
            way,
            scope: inside,
            path_len: self.path.len(),
        });
        Ok(())
    }

    /// What of a directory is visited, whether that is not all, and the scope of directories below that were not asked for.
    fn list(
        &mut self,
        fd: &Arc<OwnedFd>,
        stat: &Stat,
        way: Option<&Way>,
        scope: Option<Scope>,
    ) -> Result<(Listing, bool, Option<Scope>), Gone> {
        let entered = scope.filter(|s| !self.one_file_system || s.device == stat.device);
        let Some(scope) = entered else {
            return Ok((way_listing(fd, way), true, None));
        };
        // `/` itself was opened for lookups only.
        let for_listing = if self.path.is_empty() {
            rustix::fs::openat(&**fd, ".", LIST, Mode::empty()).map(Arc::new)
        } else {
            Ok(fd.clone())
        };
        let (mut listing, result) = match for_listing {
            Ok(fd) => Listing::read(&*fd),
            Err(error) => (Listing::default(), Err(error)),
        };
        let mut partial = self.filter.larger_than.is_some();
        if let Err(error) = result {
            partial = true;
            self.incident(format!("cannot list it: {error}"))?;
        }
        let asked_for = |name: &[u8]| {
            way.is_some_and(|w| w.children.contains_key(name.strip_suffix(b"/").unwrap_or(name)))
        };
        add_missing(&mut listing, way);
        let tag = self
            .filter
            .tags
            .iter()
            .find(|t| listing.has(&t.name) && has_header(fd, t));
        let base = self.path.get(scope.root_len..).unwrap_or_default();
        partial |= match tag {
            Some(tag) => listing.retain(|name| name == tag.name || asked_for(name)),
            None => listing.retain(|name| {
                let (body, directory) = match name.strip_suffix(b"/") {
                    Some(body) => (body, true),
                    None => (name, false),
                };
                asked_for(name) || !self.filter.excludes(&relative_path(base, body), directory)
            }),
        };
        let inside = tag.is_none().then_some(scope);
        partial |= self.leave_out_leftovers(&mut listing, asked_for)?;
        Ok((listing, partial, inside))
    }

    /// Leaves out what interrupted restores left; says whether there was any. A restore would write other files under such names.
    fn leave_out_leftovers(
        &mut self,
        listing: &mut Listing,
        asked_for: impl Fn(&[u8]) -> bool,
    ) -> Result<bool, Gone> {
        let mut leftovers = Vec::new();
        listing.retain(|name| {
            let leftover = is_temporary(name) && !asked_for(name);
            if leftover {
                leftovers.push(String::from_utf8_lossy(name).into_owned());
            }
            !leftover
        });
        for name in &leftovers {
            self.note(&format!(
                "is kept without {name}, which an interrupted restore left"
            ))?;
        }
        Ok(!leftovers.is_empty())
    }

    fn step(&mut self, step: Step) -> Result<(), Gone> {
        if let Step::Found(found) = &step {
            let same = |last: &Step| matches!(last, Step::Found(f) if Arc::ptr_eq(&f.dir, &found.dir));
            if !self.batch.last().is_some_and(same) {
                self.batch_directories += 1;
            }
        }
        self.batch.push(step);
        if self.batch.len() >= BATCH_STEPS || self.batch_directories >= BATCH_DIRECTORIES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Gone> {
        self.batch_directories = 0;
        let batch = std::mem::take(&mut self.batch);
        self.out.blocking_send(batch).map_err(|_| Gone)
    }

    fn incident(&mut self, why: String) -> Result<(), Gone> {
        let mut path = self.path.clone();
        if path.len() + PREFIX.len() > KEY_MAX {
            path.truncate(1024);
            path.extend_from_slice("…".as_bytes());
        }
        self.step(Step::Incident(Incident {
            key: key_of(&path),
            why,
        }))
    }

    fn note(&mut self, what: &str) -> Result<(), Gone> {
        let path = String::from_utf8_lossy(&self.path).into_owned();
        self.step(Step::Note(format!("/{path} {what}")))
    }
}

/// Adds roots that the listing does not have, so that they are missed.
fn add_missing(listing: &mut Listing, way: Option<&Way>) {
    let Some(way) = way else { return };
    for name in way.children.keys() {
        let directory = relative_path(name, b"/");
        if !listing.has(name) && !listing.has(&directory) && listing.push(name, false).is_ok() {
            listing.sort();
        }
    }
}

fn relative_path(base: &[u8], name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(base.len() + name.len());
    out.extend_from_slice(base);
    out.extend_from_slice(name);
    out
}

/// The roots below a directory that is not read itself. A link that is followed counts as a directory.
fn way_listing(fd: &Arc<OwnedFd>, way: Option<&Way>) -> Listing {
    let mut listing = Listing::default();
    for (name, below) in way.map(|w| &w.children).into_iter().flatten() {
        let directory = Stat::at(&**fd, name).is_ok_and(|stat| match stat.kind {
            Some(EntryKind::Directory) => true,
            Some(EntryKind::Symlink) => below.follow || !below.is_root || !below.children.is_empty(),
            _ => false,
        });
        // Cannot overflow: the names came from the command line.
        if listing.push(name, directory).is_err() {
            break;
        }
    }
    listing.sort();
    listing
}

fn open_directory(
    dir: &Arc<OwnedFd>,
    name: &[u8],
    flags: OFlags,
) -> rustix::io::Result<(Arc<OwnedFd>, Stat)> {
    let fd = rustix::fs::openat(&**dir, name, flags, Mode::empty())?;
    let stat = Stat::of(&fd)?;
    Ok((Arc::new(fd), stat))
}

/// Whether the tag's file starts with its header. One that cannot be read is no tag: keeping too much is the safe side.
fn has_header(dir: &Arc<OwnedFd>, tag: &Tag) -> bool {
    if tag.header.is_empty() {
        return true;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let Ok(fd) = rustix::fs::openat(dir.as_fd(), tag.name.as_slice(), flags, Mode::empty()) else {
        return false;
    };
    let mut start = vec![0; tag.header.len()];
    let mut read = 0;
    while let Some(rest) = start.get_mut(read..).filter(|r| !r.is_empty()) {
        match rustix::io::read(&fd, rest) {
            Ok(0) | Err(_) => return false,
            Ok(n) => read += n,
        }
    }
    start == tag.header
}
