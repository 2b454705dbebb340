//! What snapshots need: every blob that a tree refers to, found from its root. Nodes and lists are read once; what a record of
//! references covers is not read at all.

use super::listing::doubtful;
use super::refs::{Gathered, References, Shelf};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::format::entry::{BlobRef, ContentRecord, decode_list};
use crate::format::id::{BlobId, ObjectId, SessionId};
use crate::format::index::BlobKind;
use crate::format::node::Node;
use crate::format::snapshot::SnapshotRecord;
use crate::repository::bits::Bits;
use crate::repository::index::Index;
use crate::repository::{BlobReader, Repository};
use std::collections::HashSet;
use std::sync::Arc;

/// Nodes that are fetched ahead of their reading.
const READ_AHEAD: usize = 32;

/// The mark of one collection.
pub(super) struct Mark {
    reader: BlobReader,
    index: Arc<Index>,
    /// Blobs that are needed, by number.
    pub(super) needed: Bits,
    pub(super) references: References,
    /// Nodes and lists that were read.
    pub(super) read: u64,
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
            needed: Bits::none(index.all_copies().len()),
            index,
            references,
            read: 0,
        })
    }

    /// What was found, for a mark over another index that has the same and more.
    pub(super) fn into_parts(self) -> (Bits, References) {
        (self.needed, self.references)
    }

    /// Marks all that a snapshot needs.
    ///
    /// # Errors
    /// `Damaged` if a blob is in no valid run, or a node cannot be read: what it refers to is not known then.
    pub(super) async fn snapshot(&mut self, snapshot: &SnapshotRecord) -> Result<()> {
        let marked = self.tree(snapshot.root.id).await;
        let marked = match (marked, &snapshot.incident_list) {
            (Ok(()), Some((level, refs))) => self.content(*level, refs, &mut Shelf::default()).await,
            (marked, _) => marked,
        };
        marked.map_err(|error| in_snapshot(error, snapshot.sid))
    }

    /// Ends a collection that has seen damage, beyond what the ledger says, while it read: it knows nothing of the copies that it did not read, and could keep the
    /// damaged ones and delete the others.
    ///
    /// # Errors
    /// `Damaged`.
    pub(super) fn check_sound(&self) -> Result<()> {
        if self.reader.has_found_damage()? {
            return Err(doubtful());
        }
        Ok(())
    }

    async fn tree(&mut self, root: BlobId) -> Result<()> {
        let mut path: Vec<Step> = Vec::new();
        let mut done = self.enter(root, &mut path).await?;
        loop {
            if let Some(gathered) = done.take() {
                match path.last_mut() {
                    Some(step) => step.shelf.add_child(gathered, &mut self.references).await?,
                    None => return self.references.put(gathered).await,
                }
            }
            let Some(step) = path.last_mut() else {
                return Ok(());
            };
            done = match step.children.pop() {
                Some(child) => {
                    if step.children.len().is_multiple_of(READ_AHEAD) {
                        let ahead = step.children.iter().rev().take(READ_AHEAD).copied();
                        let ahead: Vec<_> = ahead.filter(|id| self.references.lacks(id)).collect();
                        self.reader.prefetch(&ahead)?;
                    }
                    self.enter(child, &mut path).await?
                }
                None => path.pop().map(|Step { id, shelf, .. }| shelf.finish(id)),
            };
        }
    }

    /// Marks a node. One that is new and has no record is read: an inner one is added to the path. Gives what is known of a subtree
    /// that is done with.
    async fn enter(&mut self, id: BlobId, path: &mut Vec<Step>) -> Result<Option<Gathered>> {
        if !self.need(&id)? {
            return Ok(Some(Gathered::unknown(id)));
        }
        if let Some(blobs) = self.references.get(&id).await? {
            for (_, blob) in &blobs {
                self.need(blob)?;
            }
            return Ok(Some(Gathered::known(id, blobs)));
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
            let level = *level;
            match (refs.next(), level.checked_sub(1)) {
                (None, _) => drop(path.pop()),
                (Some(chunk), None) => {
                    if !chunk.is_hole() {
                        self.need(&chunk.id)?;
                        shelf.add(BlobKind::Data, chunk.id);
                    }
                }
                (Some(list), Some(below)) => {
                    if self.need(&list.id)? {
                        let bytes = self.load(BlobKind::List, &list.id).await?;
                        let refs =
                            decode_list(&bytes, below).map_err(|why| undecodable("list", &list.id, why))?;
                        shelf.add(BlobKind::List, list.id);
                        path.push((below, refs.into_iter()));
                    } else {
                        // What it refers to was marked before, and is not at hand.
                        shelf.lose();
                    }
                }
            }
        }
        Ok(())
    }

    async fn load(&mut self, kind: BlobKind, id: &BlobId) -> Result<bytes::Bytes> {
        self.reader.context().check_cancelled()?;
        self.read += 1;
        self.reader.get(kind, id).await
    }

    /// Marks a blob; gives whether it is new.
    fn need(&mut self, id: &BlobId) -> Result<bool> {
        match self.index.number(id) {
            Some(number) => Ok(self.needed.set(number)),
            None => Err(crate::repository::lost(id)),
        }
    }
}

fn undecodable(what: &'static str, id: &BlobId, why: crate::format::error::DecodeError) -> Error {
    Error::new(ErrorKind::Damaged, format!("a {what} does not decode"))
        .with(what, id)
        .because(why)
}

/// Names the snapshot that a blob is needed by.
pub(super) fn in_snapshot(error: Error, sid: SessionId) -> Error {
    if !crate::repository::view::is_damage(&error) {
        return error;
    }
    let what = "a snapshot needs what cannot be read, so that nobody can tell what else it needs; nothing was deleted";
    Error::new(ErrorKind::Damaged, what)
        .with("snapshot", sid.short())
        .because(error)
        .hint(
            "run `holdall check`; what cannot be mended blocks no collection once its snapshot is forgotten",
        )
}
