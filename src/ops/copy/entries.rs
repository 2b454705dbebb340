//! Into a repository with other keys: entries are read and written again. What the copy of an earlier snapshot has is taken over unread.

use super::{Brought, Job, Known, Source, is_about_snapshot, origin_of};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::format::cbor::Decoder;
use crate::format::entry::{ContentRecord, EntryRecord};
use crate::format::error::DecodeError;
use crate::format::limits;
use crate::format::snapshot::SnapshotRecord;
use crate::ops::list::ListedSnapshot;
use crate::repository::Session;
use crate::snapshot::entry::{EntryKind, Incident, Item, Key, Metadata, Piece, Prior, PriorEntry};
use crate::snapshot::tree::{Change, diff};
use crate::snapshot::{DeltaPolicy, ParentPrior, SnapshotReader, SnapshotWriter, Written, choose_parent};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use std::sync::Arc;

/// An earlier snapshot of the source, and its copy.
struct Base {
    source: SnapshotReader,
    prior: ParentPrior,
    copy: SnapshotReader,
}

/// Reads the snapshot and writes it. The inner error is about this snapshot only.
pub(super) async fn bring(
    job: &Job<'_>,
    source: &Source,
    session: &Session,
    (snapshot, known): (&ListedSnapshot, &Known),
) -> Result<Result<Brought>> {
    let record = &snapshot.record;
    let blobs = job.source.reader_of(job.context, &source.view, record.sid);
    let reader = SnapshotReader::new(record.clone(), blobs, job.context.budget.total());
    let base = find_base(job, source, session, (record, known));
    let mut writer = SnapshotWriter::new(
        job.target,
        session,
        job.context,
        base.as_ref().map(|base| base.copy.tree()),
    );
    if base.is_some() {
        let blobs = job.target.reader_of_bases(job.context, session.view());
        writer.use_deltas(blobs, DeltaPolicy::default());
    }
    let lost = match write(job, &reader, base.as_ref(), &mut writer).await {
        Ok(lost) => lost,
        Err(error) => {
            if let Err(second) = writer.keep_for_next_run().await {
                let text = format!("what was copied could not all be kept for the next run: {second}");
                job.context.emit(&Event::Note { text });
            }
            return if is_about_snapshot(&error) {
                Ok(Err(error))
            } else {
                Err(error)
            };
        }
    };
    let written = writer.finish().await?;
    Ok(lost.map_or_else(|| assemble(record, written), Err))
}

/// Everything of the snapshot. Gives what the source has lost of it.
async fn write(
    job: &Job<'_>,
    reader: &SnapshotReader,
    base: Option<&Base>,
    writer: &mut SnapshotWriter,
) -> Result<Option<Error>> {
    carry_incidents(reader, writer).await?;
    let mut items = items(reader, base);
    let mut connector = None;
    loop {
        let Some(item) = writer.alive_during(items.next()).await? else {
            break;
        };
        let item = item?;
        if let Item::Entry(entry) = &item {
            let of_entry = connector_of(&entry.head.key);
            if connector.as_ref() != Some(&of_entry) {
                writer.use_chunker(job.target.chunker(&of_entry));
                connector = Some(of_entry);
            }
        }
        writer.add(item).await?;
        // A content that fails makes a snapshot partial; a copy must hold what its original holds.
        if writer.incidents() > reader.record().incident_count {
            return Ok(Some(lost()));
        }
    }
    writer.settle_all().await?;
    Ok((writer.incidents() > reader.record().incident_count).then(lost))
}

fn lost() -> Error {
    Error::new(
        ErrorKind::Damaged,
        "the source has lost content that this snapshot needs",
    )
    .hint("run `holdall check --read-data` on the source to see what is hit")
}

fn assemble(record: &SnapshotRecord, written: Written) -> Result<Brought> {
    let same = (written.root.entries, written.root.bytes) == (record.root.entries, record.root.bytes);
    if !same || written.incident_count != record.incident_count {
        return Err(Error::new(
            ErrorKind::Internal,
            "the copy does not hold what its original holds; this is a bug",
        ));
    }
    let record = SnapshotRecord {
        root: written.root,
        incidents: written.incidents,
        incident_list: written.incident_list,
        ..record.clone()
    };
    Ok(Brought {
        durable: written.durable,
        record,
    })
}

/// The snapshot that most of this one may be taken over from: the newest of its series, if its copy is there.
fn find_base(
    job: &Job<'_>,
    source: &Source,
    session: &Session,
    (record, known): (&SnapshotRecord, &Known),
) -> Option<Base> {
    let copy_of = |earlier: &SnapshotRecord| known.there.get(&origin_of(job.source, earlier));
    let earlier = source.view.snapshots();
    let earlier =
        earlier.filter(|s| s.sid != record.sid && s.started <= record.started && copy_of(s).is_some());
    let base = choose_parent(earlier, &record.host, record.project.as_deref(), &record.sources)?;
    let copy = copy_of(&base)?.clone();
    let budget = job.context.budget.total();
    let of_source = job.source.reader(job.context, &source.view);
    let of_target = job.target.reader_of_bases(job.context, session.view());
    let copy = SnapshotReader::new(copy, of_target.clone(), budget);
    Some(Base {
        source: SnapshotReader::new(base, of_source, budget),
        prior: ParentPrior::new(copy.clone(), of_target, job.target.bases(session.view())),
        copy,
    })
}

/// Entries of the snapshot, or what the copy of an earlier one has in their place.
fn items(reader: &SnapshotReader, base: Option<&Base>) -> BoxStream<'static, Result<Item>> {
    let records = reader.records(Key::empty());
    let changes = base.map(|base| diff(base.source.tree(), reader.tree()));
    let merge = Merge {
        reader: reader.clone(),
        records,
        changes: changes.map(Ahead::new),
        prior: base.map(|base| Ahead::new(base.prior.entries(Key::empty()))),
    };
    stream::try_unfold(Box::new(merge), |mut merge| async move {
        Ok(merge.next().await?.map(|item| (item, merge)))
    })
    .boxed()
}

/// Goes through three sequences in key order: the snapshot's entries, what of them differs from an earlier snapshot, and what the copy of
/// that has.
struct Merge {
    reader: SnapshotReader,
    records: BoxStream<'static, Result<Arc<EntryRecord>>>,
    changes: Option<Ahead<Change>>,
    prior: Option<Ahead<PriorEntry>>,
}

impl Merge {
    async fn next(&mut self) -> Result<Option<Item>> {
        let Some(record) = self.records.next().await else {
            return Ok(None);
        };
        let record = record?;
        Ok(Some(match self.unchanged(&record.key).await? {
            Some(prior) => Item::Unchanged(prior),
            None => Item::Entry(self.reader.entry(&record)),
        }))
    }

    /// What the copy of the earlier snapshot has under a key, if that is as it was. Damage of either ends the comparison: the rest is
    /// written anew.
    async fn unchanged(&mut self, key: &Key) -> Result<Option<PriorEntry>> {
        let (Some(changes), Some(prior)) = (&mut self.changes, &mut self.prior) else {
            return Ok(None);
        };
        let found = async {
            let changed = changes.find(key, key_of_change).await?.is_some();
            let there = prior.find(key, PriorEntry::key).await?;
            Ok(there.filter(|_| !changed))
        };
        match found.await {
            Err(error) if is_about_snapshot(&error) => {
                self.changes = None;
                Ok(None)
            }
            found => found,
        }
    }
}

fn key_of_change(change: &Change) -> &Key {
    match change {
        Change::Added(entry) | Change::Removed(entry) => &entry.key,
        Change::Changed { after, .. } => &after.key,
    }
}

/// A sequence in key order with its next element in hand.
struct Ahead<T> {
    items: BoxStream<'static, Result<T>>,
    next: Option<T>,
}

impl<T> Ahead<T> {
    fn new(items: BoxStream<'static, Result<T>>) -> Self {
        Self { items, next: None }
    }

    /// The element with this key, if there is one; those before it are passed over.
    async fn find(&mut self, key: &Key, key_of: impl Fn(&T) -> &Key) -> Result<Option<T>> {
        loop {
            match &self.next {
                Some(next) if key_of(next) > key => return Ok(None),
                Some(next) if key_of(next) == key => return Ok(self.next.take()),
                Some(_) => self.next = None,
                None => {
                    self.next = self.items.next().await.transpose()?;
                    if self.next.is_none() {
                        return Ok(None);
                    }
                }
            }
        }
    }
}

/// The connector whose chunk sizes an entry has.
fn connector_of(key: &Key) -> String {
    let first = key.as_bytes().split(|byte| *byte == b'/').next();
    match first.unwrap_or_default() {
        b"database" => "postgres".to_owned(),
        b"streams" => "stdio".to_owned(),
        other => String::from_utf8_lossy(other).into_owned(),
    }
}

/// The most bytes of one incident in the list of all.
const INCIDENT_MAX: usize = limits::KEY_MAX + limits::TEXT_MAX + 16;

/// Hands on what could not be read when the snapshot was made: of the record, or of its list.
async fn carry_incidents(reader: &SnapshotReader, writer: &mut SnapshotWriter) -> Result<()> {
    let record = reader.record();
    let Some((level, refs)) = &record.incident_list else {
        for (key, why) in &record.incidents {
            let (key, why) = (key.clone(), why.clone());
            writer.add(Item::Incident(Incident { key, why })).await?;
        }
        return Ok(());
    };
    let entry = EntryRecord {
        key: Key::from("incidents"),
        kind: EntryKind::File,
        metadata: Metadata::default(),
        state: Bytes::new(),
        size: refs.iter().map(|reference| reference.len).sum(),
        content: ContentRecord::Refs {
            level: *level,
            refs: refs.clone(),
        },
        whole: None,
    };
    let mut pieces = reader.entry(&Arc::new(entry)).content.open().await?;
    let (mut waiting, mut ended) = (Vec::new(), false);
    while !ended || !waiting.is_empty() {
        match pieces.next().await {
            Some(Ok(Piece::Data(data))) => waiting.extend_from_slice(&data),
            Some(Ok(Piece::Hole(_))) => {
                return Err(DecodeError::Invalid("hole in a list of incidents").into());
            }
            Some(Err(error)) => return Err(error),
            None => ended = true,
        }
        let mut used = 0;
        while let Some(rest) = waiting.get(used..).filter(|rest| !rest.is_empty()) {
            if !ended && rest.len() < INCIDENT_MAX {
                break;
            }
            let item = Decoder::new(rest).raw(INCIDENT_MAX)?;
            used += item.len();
            let mut decoder = Decoder::new(item);
            decoder.array_of(2)?;
            let key = Key::new(decoder.bytes(limits::KEY_MAX)?.to_vec());
            let why = decoder.text(limits::TEXT_MAX)?.to_owned();
            writer.add(Item::Incident(Incident { key, why })).await?;
        }
        waiting.drain(..used);
    }
    Ok(())
}
