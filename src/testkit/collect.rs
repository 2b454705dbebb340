//! A snapshot in memory: takes what a source yields, gives it to a sink, and is the parent of the next one.
#![expect(clippy::unwrap_used, clippy::missing_errors_doc, reason = "this is test code")]

use crate::connector::{Sink, SinkReport, Source};
use crate::context::{Context, Time};
use crate::error::Result;
use crate::snapshot::entry::{
    Content, ContentStream, Entry, EntryHead, EntryRecord, Incident, Item, Key, MemoryPrior, OpenContent,
    Piece, Prior,
};
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One entry and its content.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The entry.
    pub head: EntryHead,
    /// Its content.
    pub pieces: Vec<Piece>,
    /// Whether it was taken over from the parent.
    pub unchanged: bool,
}

impl Kept {
    /// The content with holes as zeros.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Data(bytes) => out.extend_from_slice(bytes),
                Piece::Hole(len) => out.resize(out.len() + usize::try_from(*len).unwrap(), 0),
            }
        }
        out
    }
}

/// A snapshot in memory.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// Its entries.
    pub entries: BTreeMap<Key, Kept>,
    /// What could not be read.
    pub incidents: Vec<Incident>,
    /// What was worth telling.
    pub notes: Vec<String>,
}

/// Pieces as the content of an entry.
pub struct Pieces(pub Vec<Piece>);

impl OpenContent for Pieces {
    fn open(self: Box<Self>) -> BoxFuture<'static, Result<ContentStream>> {
        Box::pin(async move { Ok(stream::iter(self.0.into_iter().map(Ok)).boxed()) })
    }
}

impl Collected {
    /// Takes everything that `source` yields, checking that keys ascend; `parent` is the snapshot before it and its start.
    pub async fn take(
        context: &Context,
        source: &mut dyn Source,
        parent: Option<(&Self, Time)>,
    ) -> Result<Self> {
        let prior: Arc<dyn Prior> = match parent {
            Some((parent, started)) => Arc::new(parent.as_prior(started)),
            None => Arc::new(MemoryPrior::default()),
        };
        let mut out = Self::default();
        let mut last: Option<Key> = None;
        let mut items = source.entries(context, prior);
        while let Some(item) = items.next().await {
            let kept = match item? {
                Item::Entry(Entry { head, content }) => {
                    let mut pieces = Vec::new();
                    let mut stream = content.open().await?;
                    while let Some(piece) = stream.next().await {
                        pieces.push(piece?);
                    }
                    Kept {
                        head,
                        pieces,
                        unchanged: false,
                    }
                }
                Item::Unchanged(prior) => {
                    let mut kept = parent.unwrap().0.entries.get(prior.key()).unwrap().clone();
                    kept.unchanged = true;
                    kept
                }
                Item::Incident(incident) => {
                    out.incidents.push(incident);
                    continue;
                }
                Item::Note(note) => {
                    out.notes.push(note);
                    continue;
                }
            };
            let key = kept.head.key.clone();
            assert!(
                last.as_ref().is_none_or(|last| *last < key),
                "{last:?} before {key:?}"
            );
            last = Some(key.clone());
            out.entries.insert(key, kept);
        }
        drop(items);
        source.finish().await?;
        Ok(out)
    }

    /// Gives all entries to `sink`, which is told to end if that fails.
    pub async fn give(&self, context: &Context, sink: &mut dyn Sink) -> Result<SinkReport> {
        let given = self.give_all(context, sink).await;
        if given.is_err() {
            sink.abandon().await;
        }
        given
    }

    async fn give_all(&self, context: &Context, sink: &mut dyn Sink) -> Result<SinkReport> {
        sink.prepare(context).await?;
        for kept in self.entries.values() {
            let content = match kept.pieces.as_slice() {
                [] => Content::None,
                [Piece::Data(bytes)] => Content::Bytes(bytes.clone()),
                pieces => Content::Open(Box::new(Pieces(pieces.to_vec()))),
            };
            let head = kept.head.clone();
            sink.write(context, Entry { head, content }).await?;
        }
        sink.finish(context).await
    }

    /// This snapshot as the parent of the next one, begun at `started`.
    pub fn as_prior(&self, started: Time) -> MemoryPrior {
        let record = |kept: &Kept| {
            Arc::new(EntryRecord {
                key: kept.head.key.clone(),
                kind: kept.head.kind,
                metadata: kept.head.metadata.clone(),
                state: kept.head.state.clone(),
                size: kept.head.size.unwrap_or(0),
                content: crate::format::entry::ContentRecord::None,
                whole: None,
            })
        };
        MemoryPrior {
            started: Some(started),
            entries: self.entries.values().map(record).collect(),
        }
    }
}
