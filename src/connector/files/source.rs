//! The source: walk, comparison with the parent, reading ahead, in key order.

use super::key::PREFIX;
use super::owner::Owners;
use super::read::{self, Late, Loaded, SMALL};
use super::record::Attributes;
use super::roots::Way;
use super::select::{Excludes, Filter};
use super::walk::{Found, Step, Walk, WalkEnd};
use crate::connector::{Origin, Source};
use crate::context::{Context, Time};
use crate::error::{Error, ErrorKind, Result};
use crate::format::limits::DESCRIPTION_MAX;
use crate::snapshot::entry::{EntryKind, Item, Key, Prior, PriorEntry};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

/// Files in one batch of reading, and their bytes.
const BATCH_ITEMS: usize = 32;
const BATCH_BYTES: u64 = 512 << 10;
/// Batches that are read at once, at most.
const READERS_MAX: usize = 8;

/// What to keep.
#[derive(Clone, Debug, Default)]
pub struct FilesRequest {
    /// Absolute paths without `..` (see [`super::absolute`]). One that ends with `/` is followed if it is a link.
    pub roots: Vec<PathBuf>,
    /// What to leave out.
    pub excludes: Excludes,
    /// Do not enter directories on another file system than their root.
    pub one_file_system: bool,
    /// Read everything, whatever the parent proves.
    pub force_read: bool,
}

/// Yields everything below the roots.
pub struct FilesSource {
    way: Arc<Way>,
    filter: Filter,
    request: FilesRequest,
}

impl FilesSource {
    /// A source for `request`. Reads the pattern files, nothing else.
    ///
    /// # Errors
    /// `Invalid` for roots that are not absolute, patterns that cannot be parsed or read, and if there is no root.
    pub fn new(request: FilesRequest) -> Result<Self> {
        Ok(Self {
            way: Way::new(&request.roots)?,
            filter: Filter::new(&request.excludes)?,
            request,
        })
    }
}

impl Source for FilesSource {
    fn origin(&self) -> Origin {
        let roots: Vec<_> = self
            .request
            .roots
            .iter()
            .map(|r| r.display().to_string())
            .collect();
        Origin {
            connector: "files".into(),
            description: description(&roots),
            version: None,
        }
    }

    fn entries<'a>(&'a mut self, context: &'a Context, prior: Arc<dyn Prior>) -> BoxStream<'a, Result<Item>> {
        let pipeline = Pipeline::start(self, context, prior.as_ref());
        stream::unfold(pipeline, |mut pipeline| async move {
            let item = pipeline.next().await?;
            Some((item, pipeline))
        })
        .boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// One thing on its way to the consumer.
enum Work {
    Ready(Item),
    Load(Found),
}

enum Done {
    Item(Item),
    Loaded(Box<(Found, Loaded)>),
}

enum Batch {
    Ready(Vec<Work>),
    Running(JoinHandle<Vec<Done>>),
}

struct Pipeline<'a> {
    context: &'a Context,
    walk: JoinSet<Option<WalkEnd>>,
    steps: mpsc::Receiver<Vec<Step>>,
    pending: VecDeque<Step>,
    prior: PriorCursor,
    owners: Arc<Owners>,
    late: Arc<Late>,
    running: VecDeque<Batch>,
    readers: usize,
    out: VecDeque<Item>,
    /// First names that could not be read, and the name that stands in for each.
    lost: HashMap<Key, Option<Key>>,
    walked: bool,
    ended: bool,
}

impl<'a> Pipeline<'a> {
    fn start(source: &FilesSource, context: &'a Context, prior: &dyn Prior) -> Self {
        let (sender, steps) = mpsc::channel(2);
        let walker = Walk::new(source.filter.clone(), source.request.one_file_system, sender);
        let way = source.way.clone();
        let mut walk = JoinSet::new();
        walk.spawn_blocking(move || walker.run(way).ok());
        // Read-ahead takes at most a sixteenth of the budget: a batch may hold BATCH_BYTES and one more small file.
        let batch_max = BATCH_BYTES + SMALL as u64;
        let readers = usize::try_from(context.budget.total() / 16 / batch_max).unwrap_or(READERS_MAX);
        Self {
            context,
            walk,
            steps,
            pending: VecDeque::new(),
            prior: PriorCursor::new(prior, source.request.force_read),
            owners: Arc::new(Owners::load()),
            late: Arc::default(),
            running: VecDeque::new(),
            readers: readers.clamp(1, READERS_MAX),
            out: VecDeque::new(),
            lost: HashMap::new(),
            walked: false,
            ended: false,
        }
    }

    async fn next(&mut self) -> Option<Result<Item>> {
        loop {
            if let Some(item) = self.out.pop_front() {
                return Some(Ok(item));
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.advance().await {
                self.ended = true;
                return Some(Err(error));
            }
        }
    }

    /// Fills `out`, or sets `ended`.
    async fn advance(&mut self) -> Result<()> {
        self.context.check_cancelled()?;
        while !self.walked && self.running.len() < self.readers {
            self.begin_batch().await?;
        }
        match self.running.pop_front() {
            Some(Batch::Ready(works)) => {
                self.out.extend(works.into_iter().filter_map(|work| match work {
                    Work::Ready(item) => Some(item),
                    Work::Load(_) => None,
                }));
            }
            Some(Batch::Running(handle)) => {
                let done = handle.await.map_err(internal)?;
                for one in done {
                    match one {
                        Done::Item(item) => self.out.push_back(item),
                        Done::Loaded(both) => self.deliver(both.0, both.1).await?,
                    }
                }
            }
            None => {
                self.late.all_returned().await;
                self.ended = true;
            }
        }
        self.out.extend(self.late.take().into_iter().map(Item::Incident));
        Ok(())
    }

    /// Puts a loaded entry out, and repairs links to a first name that was lost.
    async fn deliver(&mut self, mut found: Found, mut loaded: Loaded) -> Result<()> {
        let stand_in = found
            .first
            .as_ref()
            .and_then(|(first, _)| self.lost.get(first).cloned());
        if let (Some(stand_in), Some((first, _))) = (stand_in, &mut found.first) {
            let lost = first.clone();
            match &stand_in {
                Some(key) => *first = key.clone(),
                None => found.first = None,
            }
            let (owners, late, key) = (self.owners.clone(), self.late.clone(), found.key.clone());
            loaded = tokio::task::spawn_blocking(move || read::load(&found, &owners, &late))
                .await
                .map_err(internal)?;
            if stand_in.is_none() && loaded.entry.is_some() {
                self.lost.insert(lost, Some(key));
            }
        } else if loaded.entry.is_none() && found.stat.names > 1 && found.first.is_none() {
            self.lost.insert(found.key, None);
        }
        self.out.extend(loaded.trouble);
        self.out.extend(loaded.entry.map(Item::Entry));
        Ok(())
    }

    /// Takes steps of the walk until a batch is full or the walk is over.
    async fn begin_batch(&mut self) -> Result<()> {
        let (mut works, mut bytes, mut load) = (Vec::new(), 0, 0);
        while load < BATCH_ITEMS && bytes < BATCH_BYTES && works.len() < 8 * BATCH_ITEMS {
            let Some(step) = self.next_step(works.is_empty()).await? else {
                break;
            };
            match step {
                Step::Incident(incident) => works.push(Work::Ready(Item::Incident(incident))),
                Step::Note(note) => works.push(Work::Ready(Item::Note(note))),
                Step::Found(found) => match self.prior.proves(&found).await {
                    Proof::Unchanged(prior) => works.push(Work::Ready(Item::Unchanged(prior))),
                    Proof::None => {
                        let size = if found.stat.kind == Some(EntryKind::File) {
                            found.stat.size
                        } else {
                            0
                        };
                        // A large file keeps its descriptor open until it is read, so it ends its batch.
                        bytes += if size > SMALL as u64 { BATCH_BYTES } else { size };
                        load += 1;
                        works.push(Work::Load(found));
                    }
                },
            }
            works.extend(
                self.prior
                    .notes
                    .drain(..)
                    .map(|note| Work::Ready(Item::Note(note))),
            );
        }
        if load == 0 {
            self.running.push_back(Batch::Ready(works));
            return Ok(());
        }
        let (owners, late) = (self.owners.clone(), self.late.clone());
        // Its result is awaited in order; if the consumer goes away it ends by itself within one batch.
        let handle = tokio::task::spawn_blocking(move || {
            let load = |work| match work {
                Work::Ready(item) => Done::Item(item),
                Work::Load(found) => {
                    let loaded = read::load(&found, &owners, &late);
                    Done::Loaded(Box::new((found, loaded)))
                }
            };
            works.into_iter().map(load).collect()
        });
        self.running.push_back(Batch::Running(handle));
        Ok(())
    }

    /// The next step of the walk. Waits for it only if `wait`: open directories in a half full batch would hold up the walk.
    async fn next_step(&mut self, wait: bool) -> Result<Option<Step>> {
        while self.pending.is_empty() && !self.walked {
            let batch = if wait {
                self.steps.recv().await
            } else {
                match self.steps.try_recv() {
                    Ok(batch) => Some(batch),
                    Err(mpsc::error::TryRecvError::Empty) => return Ok(None),
                    Err(mpsc::error::TryRecvError::Disconnected) => None,
                }
            };
            match batch {
                Some(batch) => self.pending.extend(batch),
                None => self.end_of_walk().await?,
            }
        }
        Ok(self.pending.pop_front())
    }

    async fn end_of_walk(&mut self) -> Result<()> {
        self.walked = true;
        match self.walk.join_next().await {
            Some(Ok(Some(end))) if end.roots_found == 0 => Err(Error::new(
                ErrorKind::NotFound,
                "none of the paths to keep exists",
            )),
            Some(Err(panic)) => Err(internal(panic)),
            _ => Ok(()),
        }
    }
}

fn internal(panic: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Internal, "a reading task failed; this is a bug").because(panic)
}

enum Proof {
    Unchanged(PriorEntry),
    None,
}

/// The parent's entries, beside the walk.
struct PriorCursor {
    entries: BoxStream<'static, Result<PriorEntry>>,
    head: Option<PriorEntry>,
    started: Option<Time>,
    notes: Vec<String>,
}

impl PriorCursor {
    fn new(prior: &dyn Prior, force_read: bool) -> Self {
        let started = prior.started().filter(|_| !force_read);
        Self {
            entries: match started {
                Some(_) => prior.entries(PREFIX.into()),
                None => stream::empty().boxed(),
            },
            head: None,
            started,
            notes: Vec::new(),
        }
    }

    /// Whether the parent has `found`, unchanged. Keys asked for must ascend.
    async fn proves(&mut self, found: &Found) -> Proof {
        let Some(started) = self.started else {
            return Proof::None;
        };
        while self.head.as_ref().is_none_or(|head| *head.key() < found.key) {
            match self.entries.next().await {
                Some(Ok(entry)) => self.head = Some(entry),
                Some(Err(error)) => {
                    self.notes.push(format!(
                        "the parent is damaged, the rest is read in full: {error}"
                    ));
                    self.started = None;
                    return Proof::None;
                }
                None => {
                    self.started = None;
                    return Proof::None;
                }
            }
        }
        let Some(prior) = self.head.take_if(|head| *head.key() == found.key) else {
            return Proof::None;
        };
        let record = prior.record();
        let state = found.stat.state();
        let same = found.first.is_none()
            && !found.on_the_way
            && Some(record.kind) == found.stat.kind
            && *prior.state() == state.encode()
            && state.proves(started);
        // What is left out of a directory depends on the request, not on the directory.
        let partial = || Attributes::from_metadata(&record.metadata).map(|a| a.partial);
        if same && (record.kind != EntryKind::Directory || partial() == Ok(found.partial)) {
            Proof::Unchanged(prior)
        } else {
            Proof::None
        }
    }
}

/// All roots, or as many as the format has room for and the hash of all: the same roots always make the same series.
fn description(roots: &[String]) -> String {
    let all = roots.join(" ");
    if all.len() <= DESCRIPTION_MAX {
        return all;
    }
    let hash = blake3::hash(all.as_bytes()).to_hex();
    let end = format!(
        " and more, {} in all ({})",
        roots.len(),
        hash.get(..16).unwrap_or_default()
    );
    let mut room = DESCRIPTION_MAX - end.len();
    while !all.is_char_boundary(room) {
        room -= 1;
    }
    format!("{}{end}", all.get(..room).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::files::key::key_of;
    use crate::connector::files::stat::Stat;
    use crate::snapshot::entry::NoPrior;
    use rustix::fs::{Mode, OFlags};

    #[tokio::test]
    async fn when_a_first_name_vanishes_the_next_one_takes_the_content_over() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            match name {
                "a" => fs_err::write(dir.path().join("a"), "content").unwrap(),
                name => fs_err::hard_link(dir.path().join("a"), dir.path().join(name)).unwrap(),
            }
        }
        let fd = rustix::fs::open(dir.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        let fd = Arc::new(fd);
        let found = |name: &str, first: Option<&str>| Found {
            key: key_of(name.as_bytes()),
            dir: fd.clone(),
            name: name.as_bytes().into(),
            stat: Stat::at(&*fd, b"b").unwrap(),
            first: first.map(|first| (key_of(first.as_bytes()), EntryKind::File)),
            partial: false,
            on_the_way: false,
        };
        let request = FilesRequest {
            roots: vec![dir.path().into()],
            ..FilesRequest::default()
        };
        let (source, context) = (
            FilesSource::new(request).unwrap(),
            Context::deterministic(1).unwrap(),
        );
        let mut pipeline = Pipeline::start(&source, &context, &NoPrior);
        // As if `a` had been renamed between the walk and the reading.
        fs_err::remove_file(dir.path().join("a")).unwrap();
        for found in [found("a", None), found("b", Some("a")), found("c", Some("a"))] {
            let loaded = read::load(&found, &pipeline.owners, &pipeline.late);
            pipeline.deliver(found, loaded).await.unwrap();
        }
        let entries: Vec<_> = pipeline
            .out
            .iter()
            .filter_map(|item| match item {
                Item::Entry(entry) => Some(&entry.head),
                _ => None,
            })
            .collect();
        let kinds: Vec<_> = entries
            .iter()
            .map(|head| (head.key.to_string(), head.kind))
            .collect();
        let (b, c) = ("files/b".to_owned(), "files/c".to_owned());
        assert_eq!(kinds, [(b, EntryKind::File), (c, EntryKind::HardLink)]);
        let first = Attributes::from_metadata(&entries[1].metadata).unwrap().first;
        assert_eq!(first, Some((key_of(b"b"), EntryKind::File)));
    }
}
