//! What snapshots need: every blob that a tree refers to, found from its root. Nodes and lists are read once; what a record of
//! references covers is not read at all.
//!
//! A blob is marked only if what it refers to is marked too, or stands in a record that was read, or waits among the open ends.

use super::listing::{doubtful, not_given};
use super::refs::{Gathered, Loose, References, Shelf};
use crate::context::Context;
use crate::context::mutant::mutated;
use crate::error::{Error, ErrorKind, Result};
use crate::format::collect::RefsRecord;
use crate::format::entry::{BlobRef, ContentRecord, decode_list};
use crate::format::id::{BlobId, ObjectId, SessionId};
use crate::format::index::BlobKind;
use crate::format::node::Node;
use crate::format::snapshot::SnapshotRecord;
use crate::repository::bits::Bits;
use crate::repository::index::Index;
use crate::repository::view::is_damage;
use crate::repository::{BlobReader, Repository};
use futures::stream::{self, StreamExt};
use std::collections::HashSet;
use std::sync::Arc;

/// Nodes that are fetched ahead of their reading.
const READ_AHEAD: usize = 32;

/// The mark of one collection.
pub(super) struct Mark {
    reader: BlobReader,
    repository: Repository,
    index: Arc<Index>,
    /// What records leave open, each once.
    ends: Vec<End>,
    queued: Bits,
    /// Blobs that are needed, by number.
    pub(super) needed: Bits,
    pub(super) references: References,
    /// Nodes and lists that were read.
    pub(super) read: u64,
}

/// A node or a list that a record names and tells nothing of.
#[derive(Clone, Copy)]
struct End {
    kind: BlobKind,
    id: BlobId,
    /// The record.
    of: BlobId,
    snapshot: SessionId,
}

/// A node whose children are being visited.
struct Step {
    id: BlobId,
    /// Last first.
    children: Vec<BlobId>,
    shelf: Shelf,
}

impl Mark {
    /// Nothing is needed yet. `newest` is the seal that the index was read after; `quarantined` packs are read from where no other has
    /// what is needed.
    ///
    /// # Errors
    /// `Internal` only.
    pub(super) fn new(
        (repository, context): (&Repository, &Context),
        (index, newest): (Arc<Index>, u64),
        quarantined: &HashSet<ObjectId>,
        references: References,
    ) -> Result<Self> {
        let reader = BlobReader::over(repository.clone(), context.clone(), (index.clone(), newest));
        reader.set_aside(quarantined)?;
        Ok(Self {
            reader,
            repository: repository.clone(),
            needed: Bits::none(index.all_copies().len()),
            ends: Vec::new(),
            queued: Bits::none(index.all_copies().len()),
            index,
            references,
            read: 0,
        })
    }

    /// What was found, for a mark over another index that has the same and more.
    pub(super) fn into_parts(self) -> (Bits, References) {
        (self.needed, self.references)
    }

    /// Marks all that snapshots need.
    ///
    /// # Errors
    /// `Damaged` if a blob is in no valid run, or a node cannot be read: what it refers to is not known then. `Unreadable` if the store does
    /// not give something, and nothing that it gives is damaged.
    pub(super) async fn snapshots(&mut self, snapshots: Vec<&SnapshotRecord>) -> Result<()> {
        match self.all_of(snapshots).await {
            Err(error) if is_damage(&error) && self.reader.has_found()? == Some(ErrorKind::Unreadable) => {
                Err(not_given().because(error))
            }
            marked => marked,
        }
    }

    async fn all_of(&mut self, mut snapshots: Vec<&SnapshotRecord>) -> Result<()> {
        // The newest first: what they share stands in its record, which is there still when older ones have gone. And those that have no
        // record before the open ends of others, much of which they have too.
        snapshots.sort_by_key(|snapshot| std::cmp::Reverse((snapshot.started, snapshot.sid)));
        let mut roots = HashSet::new();
        let trees: Vec<_> = snapshots
            .iter()
            .copied()
            .filter(|snapshot| roots.insert(snapshot.root.id))
            .collect();
        for snapshot in self.recorded(&trees).await? {
            let marked = self.tree(snapshot.root.id, snapshot.sid).await;
            marked.map_err(|error| in_snapshot(error, snapshot.sid))?;
        }
        for snapshot in snapshots {
            if let Some((level, refs)) = &snapshot.incident_list {
                let marked = self.content(*level, refs, &mut Shelf::of_read_node()).await;
                marked.map_err(|error| in_snapshot(error, snapshot.sid))?;
            }
        }
        self.open_ends().await
    }

    /// Marks what records say of whole trees; gives the snapshots whose trees have none.
    async fn recorded<'a>(&mut self, snapshots: &[&'a SnapshotRecord]) -> Result<Vec<&'a SnapshotRecord>> {
        let has_record = |snapshot: &&&SnapshotRecord| !self.references.lacks(&snapshot.root.id);
        let (recorded, mut unrecorded): (Vec<&SnapshotRecord>, Vec<_>) =
            snapshots.iter().partition(|snapshot| has_record(snapshot));
        let repository = self.repository.clone();
        let loads = recorded.into_iter().map(|snapshot| {
            let load = References::load(&repository, snapshot.root.id);
            async move { (snapshot, load.await) }
        });
        let loads: Vec<_> = loads.collect();
        let mut loads = stream::iter(loads).buffered(repository.concurrency());
        while let Some((snapshot, record)) = loads.next().await {
            self.reader.context().check_cancelled()?;
            match self.references.loaded(&snapshot.root.id, record?) {
                Some(record) => {
                    let marked = self.need(&snapshot.root.id);
                    let marked = marked.and_then(|_| self.apply(&record, snapshot.sid));
                    marked.map_err(|error| in_snapshot(error, snapshot.sid))?;
                }
                None => unrecorded.push(snapshot),
            }
        }
        Ok(unrecorded)
    }

    /// Marks what a record says, and remembers what it leaves open.
    fn apply(&mut self, record: &RefsRecord, snapshot: SessionId) -> Result<()> {
        for (_, blob) in &record.blobs {
            self.need(blob)?;
        }
        for (kind, id) in record.open.iter().filter(|_| !mutated!(OpenEndsForgotten)) {
            let number = self.number(id)?;
            if !self.needed.has(number) && self.queued.set(number) {
                self.ends.push(End {
                    kind: *kind,
                    id: *id,
                    of: record.node,
                    snapshot,
                });
            }
        }
        Ok(())
    }

    /// Marks what records left open, unless something else has covered it since.
    async fn open_ends(&mut self) -> Result<()> {
        while !self.ends.is_empty() {
            let from = self.ends.len().saturating_sub(READ_AHEAD);
            let batch = self.ends.split_off(from);
            let mut ahead = Vec::new();
            for end in &batch {
                if !self.needed.has(self.number(&end.id)?) && self.references.lacks(&end.id) {
                    ahead.push(end.id);
                }
            }
            self.reader.prefetch(&ahead)?;
            for end in batch {
                let marked = self.end(end).await;
                marked.map_err(|error| in_snapshot(error, end.snapshot))?;
            }
        }
        Ok(())
    }

    async fn end(&mut self, end: End) -> Result<()> {
        let loose = match end.kind {
            BlobKind::Node => self.tree(end.id, end.snapshot).await?,
            _ if self.need(&end.id)? => {
                let (below, refs) = self.list(&end.id, None).await?;
                let mut shelf = Shelf::of_read_node();
                self.content(below, &refs, &mut shelf).await?;
                shelf.loose()
            }
            _ => None,
        };
        if let Some(loose) = loose {
            self.references.spend(end.of, loose);
        }
        Ok(())
    }

    /// Ends a collection that has seen damage, beyond what the ledger says, while it read: it knows nothing of the copies that it did not read, and could keep the
    /// damaged ones and delete the others.
    ///
    /// # Errors
    /// `Damaged`, or `Unreadable` if the store only does not give something.
    pub(super) fn check_sound(&self) -> Result<()> {
        match self.reader.has_found()? {
            None => Ok(()),
            Some(ErrorKind::Unreadable) => Err(not_given()),
            Some(_) => Err(doubtful()),
        }
    }

    /// Marks a tree; gives what was read for it if that has no record, and would fit into another one.
    async fn tree(&mut self, root: BlobId, snapshot: SessionId) -> Result<Option<Loose>> {
        let mut path: Vec<Step> = Vec::new();
        let mut done = self.enter(root, &mut path, snapshot).await?;
        loop {
            if let Some(gathered) = done.take() {
                match path.last_mut() {
                    Some(step) => step.shelf.add_child(gathered, &mut self.references).await?,
                    None => return self.references.put(gathered).await,
                }
            }
            let Some(step) = path.last_mut() else {
                return Ok(None);
            };
            done = match step.children.pop() {
                Some(child) => {
                    if step.children.len().is_multiple_of(READ_AHEAD) {
                        let ahead = step.children.iter().rev().take(READ_AHEAD).copied();
                        let ahead: Vec<_> = ahead.filter(|id| self.references.lacks(id)).collect();
                        self.reader.prefetch(&ahead)?;
                    }
                    self.enter(child, &mut path, snapshot).await?
                }
                None => path.pop().map(|Step { id, shelf, .. }| shelf.finish(id)),
            };
        }
    }

    /// Marks a node. One that is new and has no record is read: an inner one is added to the path. Gives what is known of a subtree
    /// that is done with.
    async fn enter(
        &mut self,
        id: BlobId,
        path: &mut Vec<Step>,
        snapshot: SessionId,
    ) -> Result<Option<Gathered>> {
        if !self.need(&id)? {
            return Ok(Some(Gathered::elsewhere(id)));
        }
        if let Some(record) = self.references.get(&id).await? {
            self.apply(&record, snapshot)?;
            return Ok(Some(Gathered::elsewhere(id)));
        }
        let node = self.load(BlobKind::Node, &id).await?;
        let node = Node::decode(&node).map_err(|why| undecodable("node", &id, why))?;
        match node {
            Node::Inner { children, .. } => {
                let mut children: Vec<_> = children.iter().map(|child| child.id).collect();
                children.reverse();
                let shelf = Shelf::of_read_node();
                path.push(Step { id, children, shelf });
                Ok(None)
            }
            Node::Leaf(entries) => {
                let mut shelf = Shelf::of_read_node();
                for entry in &entries {
                    if let ContentRecord::Refs { level, refs } = &entry.content {
                        self.content(*level, refs, &mut shelf).await?;
                    }
                }
                Ok(Some(shelf.finish(id)))
            }
        }
    }

    /// Marks the chunks and lists of one content.
    async fn content(&mut self, level: u8, refs: &[BlobRef], shelf: &mut Shelf) -> Result<()> {
        let mut path = vec![(level, Vec::from(refs).into_iter())];
        while let Some((level, refs)) = path.last_mut() {
            let below = level.checked_sub(1);
            match (refs.next(), below) {
                (None, _) => drop(path.pop()),
                (Some(chunk), None) => {
                    if !chunk.is_hole() {
                        self.need(&chunk.id)?;
                        shelf.add(BlobKind::Data, chunk.id, &self.references);
                    }
                }
                (Some(list), Some(_)) => {
                    if self.need(&list.id)? {
                        let (below, refs) = self.list(&list.id, below).await?;
                        shelf.add_list(list.id, &self.references);
                        path.push((below, refs.into_iter()));
                    } else {
                        shelf.add_open(BlobKind::List, list.id, &self.references);
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads a list: the level of what it refers to, which it must have where that is known, and that.
    async fn list(&mut self, id: &BlobId, below: Option<u8>) -> Result<(u8, Vec<BlobRef>)> {
        let bytes = self.load(BlobKind::List, id).await?;
        let below = below.or(bytes.first().copied()).unwrap_or(0);
        let refs = decode_list(&bytes, below).map_err(|why| undecodable("list", id, why))?;
        Ok((below, refs))
    }

    async fn load(&mut self, kind: BlobKind, id: &BlobId) -> Result<bytes::Bytes> {
        self.reader.context().check_cancelled()?;
        self.read += 1;
        self.reader.get(kind, id).await
    }

    /// Marks a blob; gives whether it is new.
    fn need(&mut self, id: &BlobId) -> Result<bool> {
        let number = self.number(id)?;
        Ok(self.needed.set(number))
    }

    fn number(&self, id: &BlobId) -> Result<u32> {
        self.index.number(id).ok_or_else(|| crate::repository::lost(id))
    }
}

fn undecodable(what: &'static str, id: &BlobId, why: crate::format::error::DecodeError) -> Error {
    Error::new(ErrorKind::Damaged, format!("a {what} does not decode"))
        .with(what, id)
        .because(why)
}

/// Names the snapshot that a blob is needed by.
pub(super) fn in_snapshot(error: Error, sid: SessionId) -> Error {
    if !is_damage(&error) {
        return error;
    }
    let what = "a snapshot needs what cannot be read, so that nobody can tell what else it needs; nothing was deleted";
    Error::new(ErrorKind::Damaged, what)
        .with("snapshot", sid.short())
        .because(error)
        .hint(format!(
            "run `holdall check`, and `holdall repair --from REPLICA`; what cannot be mended blocks no collection once its snapshot is forgotten, where the repository retains it with \
             `holdall prune --lost {}`",
            sid.name()
        ))
}
