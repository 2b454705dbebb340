//! A store whose bytes a test can see and change, a source whose content a test decides, and what comes back.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use holdall::connector::{Origin, Source};
use holdall::context::{Context, ManualClock, Time};
use holdall::error::{Error, ErrorKind, Result};
use holdall::event::Silent;
use holdall::format::layout::ObjectName;
use holdall::ops::{self, SnapshotReport};
use holdall::repository::Repository;
use holdall::snapshot::SnapshotReader;
use holdall::snapshot::entry::{
    Content, Entry, EntryHead, EntryKind, Incident, Item, Key, Metadata, Piece, Prior,
};
use holdall::store::{Access, Retry, Store, StoreOptions};
use holdall::testkit::FaultStore;
use holdall::testkit::collect::Pieces;
use holdall::testkit::repo;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// An ordinary context of the smallest budget.
pub(crate) fn context() -> Context {
    Context::new(Arc::new(Silent), 64 << 20, 2).unwrap()
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

/// All objects of a store.
pub(crate) type Objects = BTreeMap<String, Bytes>;

/// A store in memory, seen from below.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) raw: Arc<InMemory>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            raw: Arc::new(InMemory::new()),
        }
    }

    pub(crate) async fn of(objects: &Objects) -> Self {
        let world = Self::new();
        for (name, bytes) in objects {
            world.set(name, bytes.clone()).await;
        }
        world
    }

    /// As a repository sees it.
    pub(crate) fn store(&self, context: &Context) -> Store {
        over(self.raw.clone(), context)
    }

    /// With faults between.
    pub(crate) fn faults(&self) -> FaultStore {
        FaultStore::new(self.raw.clone())
    }

    pub(crate) async fn objects(&self) -> Objects {
        let names: Vec<_> = self
            .raw
            .list(None)
            .map_ok(|meta| meta.location)
            .try_collect()
            .await
            .unwrap();
        let mut objects = Objects::new();
        for name in names {
            let bytes = self.raw.get(&name).await.unwrap().bytes().await.unwrap();
            objects.insert(name.to_string(), bytes);
        }
        objects
    }

    pub(crate) async fn get(&self, name: &str) -> Option<Bytes> {
        match self.raw.get(&Path::from(name)).await {
            Ok(got) => Some(got.bytes().await.unwrap()),
            Err(_) => None,
        }
    }

    pub(crate) async fn set(&self, name: &str, bytes: Bytes) {
        self.raw.put(&Path::from(name), bytes.into()).await.unwrap();
    }

    pub(crate) async fn remove(&self, name: &str) {
        self.raw.delete(&Path::from(name)).await.unwrap();
    }
}

/// A store with short waits between tries.
pub(crate) fn over(raw: Arc<dyn ObjectStore>, context: &Context) -> Store {
    let options = StoreOptions {
        access: Access::ReadWrite,
        retry: Retry {
            attempts: 8,
            first_contact: 8,
            first: Duration::from_millis(1),
            longest: Duration::from_millis(4),
        },
        ..StoreOptions::default()
    };
    Store::over(raw, "memory:", &options, context).unwrap()
}

/// A context whose every effect follows from `seed`, and its clock.
pub(crate) fn seeded(seed: u64) -> (Context, Arc<ManualClock>) {
    let mut context = Context::deterministic(seed).unwrap();
    let clock = Arc::new(ManualClock::at(START));
    context.clock = clock.clone();
    (context, clock)
}

/// When every clock starts that a test moves.
pub(crate) const START: Time = Time {
    seconds: 1_767_225_600,
    nanos: 0,
};

/// What happens in the middle of a source.
#[derive(Clone)]
pub(crate) enum Turn {
    /// The source fails as a whole.
    Fail,
    /// The user interrupts.
    Cancel,
    /// Six minutes pass.
    Later(Arc<ManualClock>),
    /// One entry cannot be read.
    Incident,
}

/// Contents by key, and what happens before which of them.
#[derive(Clone, Default)]
pub(crate) struct Things {
    pub(crate) contents: BTreeMap<String, Bytes>,
    pub(crate) turns: Vec<(usize, Turn)>,
    /// Contents that are longer come in pieces of this length.
    pub(crate) piece: usize,
}

impl Things {
    pub(crate) fn new(contents: impl IntoIterator<Item = (impl Into<String>, Vec<u8>)>) -> Self {
        let contents = contents
            .into_iter()
            .map(|(name, bytes)| (name.into(), bytes.into()));
        Self {
            contents: contents.collect(),
            turns: Vec::new(),
            piece: 1 << 20,
        }
    }

    pub(crate) fn at(mut self, entry: usize, turn: Turn) -> Self {
        self.turns.push((entry, turn));
        self
    }

    fn item(
        &self,
        name: &str,
        bytes: &Bytes,
        prior: &BTreeMap<Key, holdall::snapshot::entry::PriorEntry>,
    ) -> Item {
        let key = Key::from(name);
        let state = Bytes::copy_from_slice(blake3::hash(bytes).as_bytes());
        if let Some(prior) = prior.get(&key)
            && *prior.state() == state
        {
            return Item::Unchanged(prior.clone());
        }
        let head = EntryHead {
            key,
            kind: EntryKind::File,
            metadata: Metadata::default(),
            state,
            size: Some(bytes.len() as u64),
        };
        let content = if bytes.len() <= self.piece {
            Content::Bytes(bytes.clone())
        } else {
            let mut rest = bytes.clone();
            let mut pieces = Vec::new();
            while !rest.is_empty() {
                pieces.push(Piece::Data(rest.split_to(self.piece.min(rest.len()))));
            }
            Content::Open(Box::new(Pieces(pieces)))
        };
        Item::Entry(Entry { head, content })
    }
}

impl Source for Things {
    fn origin(&self) -> Origin {
        Origin {
            connector: "files".into(),
            description: "things".into(),
            version: None,
        }
    }

    fn entries<'a>(&'a mut self, context: &'a Context, prior: Arc<dyn Prior>) -> BoxStream<'a, Result<Item>> {
        let this = &*self;
        let items = async move {
            let mut known = BTreeMap::new();
            let mut entries = prior.entries(Key::from(""));
            // A parent that is damaged ends there.
            while let Some(Ok(entry)) = entries.next().await {
                known.insert(entry.key().clone(), entry);
            }
            stream::iter(this.contents.iter().enumerate()).flat_map(move |(at, (name, bytes))| {
                let mut items = Vec::new();
                for (_, turn) in this.turns.iter().filter(|(n, _)| *n == at) {
                    match turn {
                        Turn::Fail => items.push(Err(Error::new(ErrorKind::Source, "the source broke"))),
                        Turn::Cancel => context.cancel.cancel(),
                        Turn::Later(clock) => {
                            let now = context.clock.now();
                            clock.set(Time {
                                seconds: now.seconds + 360,
                                nanos: 0,
                            });
                        }
                        Turn::Incident => {
                            let incident = Incident {
                                key: Key::from(format!("{name}.lost").as_str()),
                                why: "cannot be read".into(),
                            };
                            items.push(Ok(Item::Incident(incident)));
                        }
                    }
                }
                items.push(Ok(this.item(name, bytes, &known)));
                stream::iter(items)
            })
        };
        stream::once(items).flatten().boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// Makes a snapshot of things.
pub(crate) async fn take(
    context: &Context,
    repository: &Repository,
    things: &Things,
) -> Result<SnapshotReport> {
    let mut open = || -> Result<Option<Vec<Box<dyn Source>>>> { Ok(Some(vec![Box::new(things.clone())])) };
    ops::snapshot(context, repository, &repo::request(), &mut open).await
}

/// All contents of a snapshot.
pub(crate) async fn contents(snapshot: &SnapshotReader) -> Result<BTreeMap<String, Bytes>> {
    let mut found = BTreeMap::new();
    let mut entries = snapshot.entries(Key::from(""), |_| true);
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        let mut bytes = Vec::new();
        let mut pieces = entry.content.open().await?;
        while let Some(piece) = pieces.next().await {
            match piece? {
                Piece::Data(data) => bytes.extend_from_slice(&data),
                Piece::Hole(len) => bytes.resize(bytes.len() + usize::try_from(len).unwrap(), 0),
            }
        }
        found.insert(entry.head.key.to_string(), bytes.into());
    }
    Ok(found)
}

/// Readers of all snapshots that are listed, oldest first.
pub(crate) async fn snapshots(context: &Context, repository: &Repository) -> Result<Vec<SnapshotReader>> {
    let view = repository.view(context).await?;
    let mut records: Vec<_> = view.snapshots().cloned().collect();
    records.sort_by_key(|record| (record.started, record.sid));
    let blobs = repository.reader(context, &view);
    let budget = context.budget.total();
    Ok(records
        .into_iter()
        .map(|record| SnapshotReader::new(record, blobs.clone(), budget))
        .collect())
}

/// Asserts that the check finds nothing, and that each listed snapshot holds one of `expected`; gives how many there are.
pub(crate) async fn assert_whole(context: &Context, store: &Store, expected: &[&Things]) -> usize {
    let repository = repo::open(store).await.unwrap();
    let report = repo::check_all(context, &repository).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let snapshots = snapshots(context, &repository).await.unwrap();
    assert_eq!(report.snapshots, snapshots.len() as u64);
    for snapshot in &snapshots {
        let found = contents(snapshot).await.unwrap();
        assert!(
            expected.iter().any(|things| things.contents == found),
            "snapshot {} holds something else",
            snapshot.record().sid
        );
    }
    snapshots.len()
}

/// The objects whose names begin like this.
pub(crate) fn names(objects: &Objects, start: &str) -> Vec<ObjectName> {
    let names = objects.keys().filter(|name| name.starts_with(start));
    names.map(|name| ObjectName::parse(name).unwrap()).collect()
}
