//! Entries in: content is chunked, named and handed to the repository; entries go into the tree, in key order.
//!
//! Small contents travel to the CPU pool in batches, several at once; a long content is cut window by window while the next one
//! is read. Everything comes back in order, so that the same entries give the same tree and the same packs.

mod batch;
mod incidents;
mod parent;
mod stream;

use super::content::{ChunkedContent, Named};
use super::deltas::{DeltaPolicy, Deltas};
use super::entry::{Content, Entry, EntryHead, EntryRecord, Item, Key, PriorEntry};
use super::nodes::RepositorySink;
use super::tree::{BorderKey, ContentWriter, TreeBuilder, TreeReader};
use crate::chunk::Chunker;
use crate::context::{Context, Reservation};
use crate::error::{Error, Result};
use crate::event::{Event, Outcome};
use crate::format::entry::{BlobRef, ContentRecord};
use crate::format::index::BlobKind;
use crate::format::snapshot::{RootRecord, Statistics};
use crate::repository::{BlobNamer, BlobReader, Durable, Repository, Session};
use batch::{BATCH_ENTRIES, Batch, Chunked, Group};
use futures::future::BoxFuture;
use incidents::IncidentLog;
use parent::{ParentCursor, same};
use std::collections::VecDeque;
use std::sync::Arc;

/// Takes the entries of one snapshot.
pub struct SnapshotWriter {
    context: Context,
    tree: TreeBuilder<RepositorySink>,
    chunker: Arc<Chunker>,
    namer: BlobNamer,
    batch: Batch,
    pending: VecDeque<Pending>,
    pending_max: usize,
    parent: Option<ParentCursor>,
    parent_tree: Option<TreeReader>,
    deltas: Option<Deltas>,
    group: Option<Group>,
    statistics: Statistics,
    incident_count: u64,
    incidents: Vec<(Key, String)>,
    incident_log: IncidentLog,
}

/// What a writer leaves: everything but the commit.
pub struct Written {
    /// Proof that every blob is durable.
    pub durable: Durable,
    /// The tree.
    pub root: RootRecord,
    /// Counts.
    pub statistics: Statistics,
    /// How many incidents there were.
    pub incident_count: u64,
    /// The first 1,000.
    pub incidents: Vec<(Key, String)>,
    /// All of them, if there are more.
    pub incident_list: Option<(u8, Vec<BlobRef>)>,
}

/// What the parent has under the key of an entry.
type Before = Option<Arc<EntryRecord>>;

enum Pending {
    Chunked(BoxFuture<'static, Result<Vec<Chunked>>>, Reservation),
    Ready(Box<EntryRecord>, Before),
    Carried(PriorEntry),
}

impl SnapshotWriter {
    /// A writer for the entries of `session`; `parent` is the tree that outcomes are compared with.
    pub fn new(
        repository: &Repository,
        session: &Session,
        context: &Context,
        parent: Option<&TreeReader>,
    ) -> Self {
        let sink = RepositorySink {
            blobs: session.writer(context),
            namer: repository.namer(),
        };
        Self {
            context: context.clone(),
            tree: TreeBuilder::new(BorderKey::new(repository.border_key()), sink),
            chunker: Arc::new(repository.chunker("default")),
            namer: repository.namer(),
            batch: Batch::default(),
            pending: VecDeque::new(),
            pending_max: context.cpu.threads() * 2 + 1,
            parent: parent.map(ParentCursor::new),
            parent_tree: parent.cloned(),
            deltas: None,
            group: None,
            statistics: Statistics::default(),
            incident_count: 0,
            incidents: Vec::new(),
            incident_log: IncidentLog::default(),
        }
    }

    /// Chunks what follows with the sizes of another connector.
    pub fn use_chunker(&mut self, chunker: Chunker) {
        self.chunker = Arc::new(chunker);
    }

    /// Stores new chunks of changed entries as deltas against the parent's, which `blobs` reads.
    pub fn use_deltas(&mut self, blobs: BlobReader, policy: DeltaPolicy) {
        let bases = self.tree.sink_mut().blobs.bases();
        let deltas = Deltas::new(&self.context, bases, blobs, policy);
        self.deltas = (policy != DeltaPolicy::Off).then_some(deltas);
    }

    /// Takes the next item of a source. Keys must ascend over all sources of the snapshot.
    ///
    /// # Errors
    /// What the repository says: the snapshot cannot be committed then. A content that fails is an incident, not an error.
    pub async fn add(&mut self, item: Item) -> Result<()> {
        self.context.check_cancelled()?;
        match item {
            Item::Entry(entry) => self.add_entry(entry).await,
            Item::Unchanged(prior) => {
                self.send_batch();
                self.enter_group(prior.key(), prior.record().kind, true);
                self.push(Pending::Carried(prior)).await
            }
            Item::Incident(incident) => self.add_incident(&incident).await,
            Item::Note(text) => {
                self.context.emit(&Event::Note { text });
                Ok(())
            }
        }
    }

    async fn add_entry(&mut self, entry: Entry) -> Result<()> {
        let Entry { head, content } = entry;
        let before = match &mut self.parent {
            Some(parent) => parent.find(&head.key).await,
            None => None,
        };
        match content {
            Content::None => {
                self.send_batch();
                self.enter_group(&head.key, head.kind, before.is_some());
                let record = record(head, ContentRecord::None, None, None);
                self.push(Pending::Ready(Box::new(record), before)).await
            }
            Content::Bytes(bytes) if bytes.len() <= self.chunker.params().max() => {
                self.add_small(head, bytes, before).await
            }
            content => {
                self.send_batch();
                self.drain().await?;
                self.add_stream(head, content, before).await
            }
        }
    }

    async fn push(&mut self, pending: Pending) -> Result<()> {
        self.pending.push_back(pending);
        // Carried and ready entries cost nothing to settle once they are first.
        while self.pending.len() > self.pending_max.max(BATCH_ENTRIES)
            || self
                .pending
                .front()
                .is_some_and(|first| !matches!(first, Pending::Chunked(..)))
        {
            self.settle_first().await?;
        }
        Ok(())
    }

    async fn drain(&mut self) -> Result<()> {
        while !self.pending.is_empty() {
            self.settle_first().await?;
        }
        Ok(())
    }

    async fn settle_first(&mut self) -> Result<()> {
        match self.pending.pop_front() {
            None => Ok(()),
            Some(Pending::Ready(record, before)) => self.settle(&record, before).await,
            Some(Pending::Carried(prior)) => {
                self.statistics.entries_unchanged += 1;
                self.done(prior.record(), Outcome::Unchanged);
                self.tree.add(prior.record()).await
            }
            Some(Pending::Chunked(job, mut held)) => {
                for Chunked {
                    head,
                    content,
                    before,
                } in self.alive_during(job).await??
                {
                    self.statistics.bytes_read += content.len;
                    self.context.emit(&Event::Progress { bytes: content.len });
                    let record = self.store(head, content, &mut held).await?;
                    self.settle(&record, before).await?;
                }
                Ok(())
            }
        }
    }

    /// Puts the chunks of a small content and makes its record.
    async fn store(
        &mut self,
        head: EntryHead,
        content: ChunkedContent,
        held: &mut Reservation,
    ) -> Result<EntryRecord> {
        let ChunkedContent {
            named,
            inline,
            whole,
            len,
        } = content;
        if let Some(inline) = inline {
            return Ok(record(head, ContentRecord::Inline(inline), Some(len), None));
        }
        let mut refs = ContentWriter::new();
        for chunk in named {
            self.put_chunk(chunk, &mut refs, held).await?;
        }
        let content = refs.finish(self.tree.sink_mut()).await?;
        let whole = if needs_whole(&content) { whole } else { None };
        Ok(record(head, content, Some(len), whole))
    }

    async fn put_chunk(
        &mut self,
        chunk: Named,
        refs: &mut ContentWriter,
        held: &mut Reservation,
    ) -> Result<()> {
        let len = chunk.bytes.len() as u64;
        let part = held.split(len);
        let sink = self.tree.sink_mut();
        match &chunk.delta {
            Some(delta) => {
                let blob = (chunk.id, u32::try_from(len).unwrap_or(u32::MAX));
                sink.blobs.put_delta(BlobKind::Data, blob, delta, part).await?;
            }
            None => {
                sink.blobs
                    .put(BlobKind::Data, chunk.id, &chunk.bytes, part)
                    .await?;
            }
        }
        refs.push(BlobRef { id: chunk.id, len }, sink).await
    }

    /// Adds a finished record to the tree and tells how it compares with the parent's.
    async fn settle(&mut self, record: &EntryRecord, before: Before) -> Result<()> {
        let outcome = match before {
            None => Outcome::New,
            Some(before) if same(&before, record) => Outcome::Unchanged,
            Some(_) => Outcome::Changed,
        };
        match outcome {
            Outcome::New => self.statistics.entries_new += 1,
            Outcome::Unchanged => self.statistics.entries_unchanged += 1,
            _ => self.statistics.entries_changed += 1,
        }
        self.done(record, outcome);
        self.tree.add(record).await
    }

    fn done(&self, record: &EntryRecord, outcome: Outcome) {
        self.context.emit(&Event::EntryDone {
            name: record.key.to_string(),
            outcome,
            bytes: record.size,
        });
    }

    /// Waits for something that may take long, as a source that is silent: an interrupt is heard, and the session shows signs of life
    /// meanwhile.
    ///
    /// # Errors
    /// `Cancelled`, or what the repository says.
    pub async fn alive_during<T>(&mut self, work: impl Future<Output = T>) -> Result<T> {
        self.tree.sink_mut().blobs.alive_during(work).await
    }

    /// Waits until everything that was taken is read: its incidents are known then.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub async fn settle_all(&mut self) -> Result<()> {
        self.send_batch();
        self.drain().await
    }

    /// How many incidents there were so far.
    pub fn incidents(&self) -> u64 {
        self.incident_count
    }

    /// Makes what was read so far durable and indexed, without a snapshot: the next run finds it.
    ///
    /// # Errors
    /// What the repository says.
    pub async fn keep_for_next_run(&mut self) -> Result<()> {
        self.tree.sink_mut().blobs.flush().await
    }

    /// Finishes the tree and makes everything durable.
    ///
    /// # Errors
    /// What the repository says.
    pub async fn finish(mut self) -> Result<Written> {
        self.settle_all().await?;
        let incident_list = self.store_incidents().await?;
        let (root, sink) = self.tree.finish().await?;
        let durable = sink.blobs.finish().await?;
        let mut statistics = self.statistics;
        statistics.blobs_new = durable.counts.blobs_new;
        statistics.bytes_new = durable.counts.bytes_new;
        statistics.bytes_stored = durable.counts.bytes_stored;
        let (incident_count, incidents) = (self.incident_count, self.incidents);
        Ok(Written {
            durable,
            root,
            statistics,
            incident_count,
            incidents,
            incident_list,
        })
    }
}

fn record(head: EntryHead, content: ContentRecord, len: Option<u64>, whole: Option<[u8; 32]>) -> EntryRecord {
    let EntryHead {
        key,
        kind,
        metadata,
        state,
        size,
    } = head;
    EntryRecord {
        key,
        kind,
        metadata,
        state,
        size: len.or(size).unwrap_or(0),
        content,
        whole,
    }
}

fn needs_whole(content: &ContentRecord) -> bool {
    matches!(content, ContentRecord::Refs { level, refs } if *level > 0 || refs.len() > 1)
}

fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    for cause in error.causes() {
        text.push_str(": ");
        text.push_str(&cause);
    }
    text
}
