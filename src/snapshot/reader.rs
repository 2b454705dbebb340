//! Entries out: a snapshot yields the same entries that a source yielded, their contents to be opened when someone wants them.

use super::content::hash_zeros;
use super::entry::{Content, ContentStream, Entry, EntryHead, EntryRecord, Key, OpenContent, Piece};
use super::tree::{Found, TreeReader, content_refs};
use crate::context::{Context, Reservation};
use crate::error::{Error, ErrorKind, Result};
use crate::format::entry::{BlobRef, ContentRecord};
use crate::format::id::BlobId;
use crate::format::index::BlobKind;
use crate::format::snapshot::SnapshotRecord;
use crate::repository::BlobReader;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use futures::{FutureExt, future};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio_util::task::AbortOnDropHandle;

/// Chunks of a long content that are fetched together, at most; and the share of the budget that they may be.
const GROUP: usize = 32;
const GROUP_SHARE: u64 = 32;
/// Entries that are looked ahead at the most.
const AHEAD_ENTRIES: usize = 1024;
/// Contents of at least so many bytes are rebuilt before they are opened; a smaller one is rebuilt sooner than a task is begun for it.
const REBUILT_MIN: u64 = 64 << 10;
/// They are at most this share of what is read ahead.
const REBUILT_SHARE: u64 = 8;
/// Contents in a row that nobody opened, after which none is rebuilt before it is.
const UNOPENED_MAX: usize = 4;

/// Reads one snapshot; cheap to clone.
#[derive(Clone)]
pub struct SnapshotReader {
    record: Arc<SnapshotRecord>,
    blobs: BlobReader,
    tree: TreeReader,
    ahead_bytes: u64,
}

impl SnapshotReader {
    /// A reader of `record`'s tree. `budget` is the whole byte budget: an eighth of it is read ahead.
    pub fn new(record: Arc<SnapshotRecord>, blobs: BlobReader, budget: u64) -> Self {
        let tree = TreeReader::new(Arc::new(blobs.clone()), record.root);
        Self {
            record,
            blobs,
            tree,
            ahead_bytes: budget / 8,
        }
    }

    /// The snapshot's record.
    pub fn record(&self) -> &Arc<SnapshotRecord> {
        &self.record
    }

    /// Its tree.
    pub fn tree(&self) -> &TreeReader {
        &self.tree
    }

    /// Records under a prefix, ascending; contents are not touched.
    pub fn records(&self, prefix: Key) -> BoxStream<'static, Result<Arc<EntryRecord>>> {
        self.tree.under(prefix)
    }

    /// The record with this key.
    ///
    /// # Errors
    /// `Damaged`, or what the store says.
    pub async fn find(&self, key: &Key) -> Result<Option<Arc<EntryRecord>>> {
        self.tree.get(key).await
    }

    /// Entries whose records `wanted` keeps, ascending; what their contents need is fetched ahead. The first error ends the stream.
    pub fn entries(
        &self,
        prefix: Key,
        wanted: impl Fn(&EntryRecord) -> bool + Send + 'static,
    ) -> BoxStream<'static, Result<Entry>> {
        let strictly = |found| match found {
            Found::Entry(entry) => future::ok(entry),
            Found::Lost(lost) => future::err(lost.error),
        };
        let entries = self.salvage(prefix, wanted).and_then(strictly);
        // Nothing after the first error, as of every stream of entries.
        entries
            .scan(false, |ended, entry| {
                let before = std::mem::replace(ended, entry.is_err());
                future::ready((!before).then_some(entry))
            })
            .boxed()
    }

    /// As [`Self::entries`], but goes on behind nodes of the tree that are missing or damaged; see [`TreeReader::salvage`].
    pub fn salvage(
        &self,
        prefix: Key,
        wanted: impl Fn(&EntryRecord) -> bool + Send + 'static,
    ) -> BoxStream<'static, Result<Found<Entry>>> {
        let wanted = move |found: &Found<Arc<EntryRecord>>| match found {
            Found::Entry(record) => future::ready(wanted(record)),
            Found::Lost(_) => future::ready(true),
        };
        let records = self.tree.salvage(prefix).try_filter(wanted).boxed();
        let window = Window {
            reader: self.clone(),
            records,
            ahead: VecDeque::new(),
            bytes: 0,
            ended: false,
            next: VecDeque::new(),
            unopened: Arc::default(),
        };
        stream::try_unfold(window, |mut window| async move {
            Ok(window.next().await?.map(|found| (found, window)))
        })
        .boxed()
    }

    /// An entry as a sink takes it.
    pub fn entry(&self, record: &Arc<EntryRecord>) -> Entry {
        let head = EntryHead {
            key: record.key.clone(),
            kind: record.kind,
            metadata: record.metadata.clone(),
            state: record.state.clone(),
            size: Some(record.size),
        };
        let content = match &record.content {
            ContentRecord::None => Content::None,
            ContentRecord::Inline(bytes) => Content::Bytes(bytes.clone()),
            ContentRecord::Refs { .. } => Content::Open(Box::new(StoredContent {
                blobs: self.blobs.clone(),
                record: record.clone(),
                rebuilt: None,
                unopened: None,
            })),
        };
        Entry { head, content }
    }
}

/// A content that is rebuilt before it is opened. Dropped before, it ends.
struct Rebuilt {
    pieces: AbortOnDropHandle<Result<Vec<Piece>>>,
    held: Reservation,
}

/// Entries that are about to be yielded, with their chunks on the way.
struct Window {
    reader: SnapshotReader,
    records: BoxStream<'static, Result<Found<Arc<EntryRecord>>>>,
    ahead: VecDeque<Found<Arc<EntryRecord>>>,
    bytes: u64,
    ended: bool,
    /// The next few, in work.
    next: VecDeque<(Found<Arc<EntryRecord>>, Option<Rebuilt>)>,
    /// How many contents in a row nobody opened.
    unopened: Arc<AtomicUsize>,
}

impl Window {
    async fn next(&mut self) -> Result<Option<Found<Entry>>> {
        // Refilled when half of it is used, so that requests stay large.
        if !self.ended && self.bytes <= self.reader.ahead_bytes / 2 && self.ahead.len() <= AHEAD_ENTRIES / 2 {
            self.fill().await?;
        }
        self.work_ahead();
        let (record, rebuilt) = match self.next.pop_front() {
            None => return Ok(None),
            Some((Found::Lost(lost), _)) => return Ok(Some(Found::Lost(lost))),
            Some((Found::Entry(record), rebuilt)) => (record, rebuilt),
        };
        let mut entry = self.reader.entry(&record);
        if matches!(record.content, ContentRecord::Refs { .. }) {
            entry.content = Content::Open(Box::new(StoredContent {
                blobs: self.reader.blobs.clone(),
                record,
                rebuilt,
                unopened: Some(self.unopened.clone()),
            }));
        }
        Ok(Some(Found::Entry(entry)))
    }

    /// Has the next few contents rebuilt while the one before them is written: else one core would rebuild what all could.
    fn work_ahead(&mut self) {
        let threads = self.reader.blobs.context().cpu.threads();
        let most = if threads > 1 { threads + 1 } else { 0 };
        while self.next.len() <= most
            && let Some(found) = self.ahead.pop_front()
        {
            let rebuilt = match &found {
                Found::Entry(record) => {
                    self.bytes -= weight(record, self.reader.ahead_bytes);
                    // Not the one that is taken now.
                    let in_time = most > 0 && !self.next.is_empty();
                    let wanted = self.unopened.load(Ordering::Relaxed) < UNOPENED_MAX;
                    if in_time && wanted {
                        self.rebuild(record)
                    } else {
                        None
                    }
                }
                Found::Lost(_) => None,
            };
            self.next.push_back((found, rebuilt));
        }
    }

    /// Begins to rebuild a content, if it is neither too short nor too long for that and the budget has room for it.
    fn rebuild(&self, record: &EntryRecord) -> Option<Rebuilt> {
        let ContentRecord::Refs { level: 0, refs } = &record.content else {
            return None;
        };
        let lens = REBUILT_MIN..=self.reader.ahead_bytes / REBUILT_SHARE;
        let chunks = refs.iter().filter(|r| !r.is_hole());
        let bytes = chunks.fold(0u64, |sum, chunk| sum.saturating_add(chunk.len));
        if !lens.contains(&bytes) || refs.len() > GROUP {
            return None;
        }
        let blobs = self.reader.blobs.clone();
        let held = blobs.context().budget.try_reserve(bytes)?;
        let pieces = AbortOnDropHandle::new(tokio::spawn(read_group(blobs, refs.clone())));
        Some(Rebuilt { pieces, held })
    }

    async fn fill(&mut self) -> Result<()> {
        let mut ids: Vec<BlobId> = Vec::new();
        while self.bytes < self.reader.ahead_bytes && self.ahead.len() < AHEAD_ENTRIES {
            let record = match self.records.next().await {
                None => {
                    self.ended = true;
                    break;
                }
                Some(Ok(Found::Entry(record))) => record,
                Some(Ok(lost)) => {
                    self.ahead.push_back(lost);
                    continue;
                }
                Some(Err(error)) => return Err(error),
            };
            if let ContentRecord::Refs { level: 0, refs } = &record.content
                && record.size <= self.reader.ahead_bytes / 4
            {
                ids.extend(refs.iter().map(|r| r.id).filter(|id| *id != BlobId::HOLE));
            }
            self.bytes += weight(&record, self.reader.ahead_bytes);
            self.ahead.push_back(Found::Entry(record));
        }
        self.reader.blobs.prefetch(&ids)
    }
}

/// How much of the window an entry takes; a long content fetches ahead for itself.
fn weight(record: &EntryRecord, ahead: u64) -> u64 {
    if matches!(record.content, ContentRecord::Refs { .. }) {
        record.size.min(ahead / 4)
    } else {
        0
    }
}

struct StoredContent {
    blobs: BlobReader,
    record: Arc<EntryRecord>,
    rebuilt: Option<Rebuilt>,
    unopened: Option<Arc<AtomicUsize>>,
}

impl OpenContent for StoredContent {
    fn open(mut self: Box<Self>) -> BoxFuture<'static, Result<ContentStream>> {
        if let Some(unopened) = self.unopened.take() {
            unopened.store(0, Ordering::Relaxed);
        }
        let pieces = match self.rebuilt.take() {
            Some(rebuilt) => rebuilt.pieces(),
            None => pieces(&self.blobs, &self.record),
        };
        future::ready(Ok(checked(pieces, &self.blobs, &self.record))).boxed()
    }
}

impl Drop for StoredContent {
    fn drop(&mut self) {
        if let Some(unopened) = &self.unopened {
            unopened.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Rebuilt {
    fn pieces(self) -> BoxStream<'static, Result<Piece>> {
        let Self { pieces, held } = self;
        let pieces = async move {
            let failed = |e| Error::new(ErrorKind::Internal, "a task that reads content failed").because(e);
            let pieces = pieces.await.map_err(failed)??;
            // What it holds is given back with the last of it.
            let with = move |piece| {
                let _held = &held;
                Ok::<_, Error>(piece)
            };
            Ok::<_, Error>(stream::iter(pieces).map(with))
        };
        stream::once(pieces).try_flatten().boxed()
    }
}

/// The content of an entry, every blob verified by its id.
fn pieces(blobs: &BlobReader, record: &Arc<EntryRecord>) -> BoxStream<'static, Result<Piece>> {
    let most = blobs.context().budget.total() / GROUP_SHARE;
    let groups = grouped(content_refs(Arc::new(blobs.clone()), record), most);
    let reader = blobs.clone();
    let groups = groups
        .map_ok(move |group| read_group(reader.clone(), group))
        .try_buffered(2);
    groups
        .map_ok(|pieces| stream::iter(pieces).map(Ok::<_, Error>))
        .try_flatten()
        .boxed()
}

/// A content, compared with what its entry says of the whole.
fn checked(
    pieces: BoxStream<'static, Result<Piece>>,
    blobs: &BlobReader,
    record: &Arc<EntryRecord>,
) -> ContentStream {
    let check = Check {
        context: blobs.context().clone(),
        hasher: record.whole.map(|_| Box::default()),
        record: record.clone(),
        len: 0,
    };
    let checked = stream::try_unfold((pieces, check), |(mut pieces, mut check)| async move {
        match pieces.next().await {
            Some(piece) => {
                let piece = piece?;
                check.update(&piece).await?;
                Ok(Some((piece, (pieces, check))))
            }
            None => check.finish().map(|()| None),
        }
    });
    checked.boxed()
}

/// References in groups of at most [`GROUP`] and about `most` bytes of content.
fn grouped(
    refs: BoxStream<'static, Result<BlobRef>>,
    most: u64,
) -> impl futures::Stream<Item = Result<Vec<BlobRef>>> + Send {
    stream::try_unfold((refs, None), move |(mut refs, first)| async move {
        let mut group: Vec<BlobRef> = Vec::from_iter(first);
        let len_of = |r: &BlobRef| if r.is_hole() { 0 } else { r.len };
        let mut bytes: u64 = group.iter().map(len_of).sum();
        while let Some(next) = refs.try_next().await? {
            bytes = bytes.saturating_add(len_of(&next));
            if !group.is_empty() && (group.len() >= GROUP || bytes > most) {
                return Ok(Some((group, (refs, Some(next)))));
            }
            group.push(next);
        }
        Ok((!group.is_empty()).then_some((group, (refs, None))))
    })
}

async fn read_group(blobs: BlobReader, group: Vec<BlobRef>) -> Result<Vec<Piece>> {
    let ids: Vec<BlobId> = group
        .iter()
        .filter(|r| r.id != BlobId::HOLE)
        .map(|r| r.id)
        .collect();
    let mut data = blobs.get_many(BlobKind::Data, &ids).await?.into_iter();
    let mut pieces = Vec::with_capacity(group.len());
    for reference in group {
        if reference.id == BlobId::HOLE {
            pieces.push(Piece::Hole(reference.len));
            continue;
        }
        match data.next() {
            Some(bytes) if bytes.len() as u64 == reference.len => pieces.push(Piece::Data(bytes)),
            _ => {
                return Err(
                    Error::new(ErrorKind::Damaged, "chunk of another length").with("blob", reference.id)
                );
            }
        }
    }
    Ok(pieces)
}

/// Compares a content with what its entry says of it.
struct Check {
    context: Context,
    hasher: Option<Box<blake3::Hasher>>,
    record: Arc<EntryRecord>,
    len: u64,
}

impl Check {
    async fn update(&mut self, piece: &Piece) -> Result<()> {
        let len = match piece {
            Piece::Data(bytes) => {
                if let Some(hasher) = &mut self.hasher {
                    hasher.update(bytes);
                }
                bytes.len() as u64
            }
            Piece::Hole(len) => {
                if let Some(hasher) = self.hasher.take() {
                    self.hasher = Some(hash_zeros(&self.context, hasher, *len).await?);
                }
                *len
            }
        };
        self.len = self.len.saturating_add(len);
        Ok(())
    }

    fn finish(self) -> Result<()> {
        let found = self.hasher.map(|hasher| *hasher.finalize().as_bytes());
        if self.len == self.record.size && found == self.record.whole {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Damaged,
            "content differs from what the snapshot says of it",
        )
        .with("entry", &self.record.key))
    }
}
