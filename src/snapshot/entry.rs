//! What sources yield and sinks take: entries in key order, and what the parent snapshot had (`Prior`).
//!
//! This is all of the snapshot layer that a connector sees.

use crate::context::Time;
use crate::error::Result;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use std::sync::Arc;

pub use crate::format::entry::{EntryKind, EntryRecord, Key};
pub use crate::format::metadata::{Metadata, Value};

/// What is known of an entry without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryHead {
    /// The entry's place in the snapshot; opaque bytes to all but its connector.
    pub key: Key,
    /// What it is.
    pub kind: EntryKind,
    /// What the connector must know to put it back.
    pub metadata: Metadata,
    /// What the connector must know to prove it unchanged next time; opaque, never needed for a restore.
    pub state: Bytes,
    /// Bytes of content, if known before it is read. For a group entry (a table, a directory) what its connector defines.
    pub size: Option<u64>,
}

/// One entry on its way from a source to a sink.
pub struct Entry {
    /// What is known without its content.
    pub head: EntryHead,
    /// Its content.
    pub content: Content,
}

/// The content of an entry.
pub enum Content {
    /// None: a directory, a symlink, a group.
    None,
    /// In hand already.
    Bytes(Bytes),
    /// To be opened when someone wants it.
    Open(Box<dyn OpenContent>),
}

/// Content that is opened late, so that a sink may skip what the target has already.
pub trait OpenContent: Send {
    /// Opens it. Dropping the stream before its end is allowed.
    fn open(self: Box<Self>) -> BoxFuture<'static, Result<ContentStream>>;
}

/// Pieces of content in order; the first error ends it, and then the entry has failed as a whole.
pub type ContentStream = BoxStream<'static, Result<Piece>>;

/// A piece of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes.
    Data(Bytes),
    /// So many zero bytes that take no space in the source.
    Hole(u64),
}

impl Content {
    /// Opens the content whatever its form.
    ///
    /// # Errors
    /// As [`OpenContent::open`].
    pub async fn open(self) -> Result<ContentStream> {
        match self {
            Self::None => Ok(stream::empty().boxed()),
            Self::Bytes(bytes) => Ok(stream::iter([Ok(Piece::Data(bytes))]).boxed()),
            Self::Open(open) => open.open().await,
        }
    }
}

/// What a source yields, in ascending key order.
pub enum Item {
    /// An entry that must be read.
    Entry(Entry),
    /// An entry of [`Prior`] that the source has proven unchanged: it is taken over, unread.
    Unchanged(PriorEntry),
    /// Something that cannot be read. It makes the snapshot `partial`.
    Incident(Incident),
    /// Worth telling, but nothing is missing.
    Note(String),
}

/// What could not be read or written, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// The entry, as its key if it has one, else as a name for people.
    pub key: Key,
    /// Why, as a sentence fragment.
    pub why: String,
}

/// An entry of the parent snapshot, as [`Prior`] shows it; only a prior makes one that a snapshot writer accepts.
#[derive(Clone, Debug)]
pub struct PriorEntry(Arc<EntryRecord>);

impl PriorEntry {
    /// For implementations of [`Prior`].
    pub fn new(record: Arc<EntryRecord>) -> Self {
        Self(record)
    }

    /// The record behind it.
    pub fn record(&self) -> &Arc<EntryRecord> {
        &self.0
    }

    /// Its key.
    pub fn key(&self) -> &Key {
        &self.0.key
    }

    /// Its connector's state.
    pub fn state(&self) -> &Bytes {
        &self.0.state
    }
}

/// The parent snapshot, as a source may see it.
pub trait Prior: Send + Sync {
    /// When the parent was begun: what the source changed since, it may have missed. Nothing without a parent.
    fn started(&self) -> Option<Time>;

    /// The parent's entries whose keys start with `prefix`, ascending. Read one at a time: holding the stream costs one path of
    /// the tree. An error means that the parent is damaged; the source then goes on as if it ended there.
    fn entries(&self, prefix: Key) -> BoxStream<'static, Result<PriorEntry>>;
}

/// No parent: everything is new.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPrior;

impl Prior for NoPrior {
    fn started(&self) -> Option<Time> {
        None
    }

    fn entries(&self, _: Key) -> BoxStream<'static, Result<PriorEntry>> {
        stream::empty().boxed()
    }
}

/// A parent in memory, for sources that are tested without a repository.
#[derive(Clone, Debug, Default)]
pub struct MemoryPrior {
    /// When the parent was begun.
    pub started: Option<Time>,
    /// Its entries, ascending by key.
    pub entries: Vec<Arc<EntryRecord>>,
}

impl Prior for MemoryPrior {
    fn started(&self) -> Option<Time> {
        self.started
    }

    fn entries(&self, prefix: Key) -> BoxStream<'static, Result<PriorEntry>> {
        let matching: Vec<_> = self
            .entries
            .iter()
            .filter(|e| e.key.starts_with(&prefix))
            .cloned()
            .map(|e| Ok(PriorEntry(e)))
            .collect();
        stream::iter(matching).boxed()
    }
}
