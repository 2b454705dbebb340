//! Records of references (`format-spec/90-collection.md` section 1): all that a subtree refers to, so that a later collection, on
//! whatever machine, need not read its nodes again.
//!
//! A record is worth its bytes where it stands for many nodes and does not change with every snapshot: it is put for the largest
//! subtrees of at most [`RECORD_REFS_MAX`] references, and only if [`READ_MIN`] nodes or more had to be read for it.

use crate::context::Context;
use crate::error::{ErrorKind, Result};
use crate::format::collect::RefsRecord;
use crate::format::id::BlobId;
use crate::format::index::BlobKind;
use crate::format::layout::ObjectName;
use crate::repository::Repository;
use std::collections::BTreeSet;

/// A record lists at most so many references: half a megabyte.
const RECORD_REFS_MAX: usize = 16_384;
/// A record is put for what took so many nodes to read.
const READ_MIN: u32 = 16;

/// The records of a repository.
pub(super) struct References {
    repository: Repository,
    context: Context,
    listed: BTreeSet<BlobId>,
    /// Whether new ones are put; not after the store refused one, nor in a dry run.
    writes: bool,
    /// How many were used, and put.
    pub(super) used: u64,
    pub(super) made: u64,
}

/// What was found below a node.
pub(super) struct Gathered {
    node: BlobId,
    /// All of it, or nothing if it is not known or too much.
    blobs: Option<Vec<(BlobKind, BlobId)>>,
    /// Nodes that were read for it.
    read: u32,
}

/// What is being found below a node.
#[derive(Default)]
pub(super) struct Shelf {
    /// References of the node itself.
    own: Vec<(BlobKind, BlobId)>,
    children: Vec<Gathered>,
    len: usize,
    /// Whether what is below it cannot be told in one record.
    lost: bool,
    read: u32,
}

impl References {
    pub(super) fn new(
        repository: &Repository,
        context: &Context,
        listed: BTreeSet<BlobId>,
        writes: bool,
    ) -> Self {
        Self {
            repository: repository.clone(),
            context: context.clone(),
            listed,
            writes,
            used: 0,
            made: 0,
        }
    }

    /// Whether a node has no record, so that it will be read.
    pub(super) fn lacks(&self, node: &BlobId) -> bool {
        !self.listed.contains(node)
    }

    /// What a record says, if there is one that can be read.
    pub(super) async fn get(&mut self, node: &BlobId) -> Result<Option<Vec<(BlobKind, BlobId)>>> {
        if self.lacks(node) {
            return Ok(None);
        }
        match self.repository.load::<RefsRecord>(ObjectName::Refs(*node)).await {
            Ok(record) => {
                self.used += 1;
                Ok(Some(record.blobs))
            }
            // Absence means walk, and so does damage, which `check` tells of.
            Err(error)
                if error.kind() == ErrorKind::NotFound || crate::repository::view::is_damage(&error) =>
            {
                self.listed.remove(node);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Puts a record if it is worth it.
    pub(super) async fn put(&mut self, gathered: Gathered) -> Result<()> {
        let Gathered { node, blobs, read } = gathered;
        let Some(mut blobs) = blobs.filter(|_| self.writes && read >= READ_MIN) else {
            return Ok(());
        };
        blobs.sort_unstable();
        blobs.dedup();
        match self
            .repository
            .save(&self.context, &RefsRecord { node, blobs })
            .await
        {
            Ok(_) => {
                self.made += 1;
                Ok(())
            }
            // It only saves time.
            Err(error) if matches!(error.kind(), ErrorKind::StoreFull | ErrorKind::Denied) => {
                self.writes = false;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

impl Gathered {
    /// A subtree that was marked before.
    pub(super) fn unknown(node: BlobId) -> Self {
        Self {
            node,
            blobs: None,
            read: 0,
        }
    }

    /// A subtree that a record covers.
    pub(super) fn known(node: BlobId, blobs: Vec<(BlobKind, BlobId)>) -> Self {
        Self {
            node,
            blobs: Some(blobs),
            read: 0,
        }
    }
}

impl Shelf {
    /// For a node that was read.
    pub(super) fn of_read_node() -> Self {
        Self {
            read: 1,
            ..Self::default()
        }
    }

    /// Adds a reference of the node itself.
    pub(super) fn add(&mut self, kind: BlobKind, id: BlobId) {
        if !self.lost {
            self.own.push((kind, id));
            self.grow(1);
        }
    }

    /// What is below the node is not known.
    pub(super) fn lose(&mut self) {
        self.lost = true;
        self.own = Vec::new();
    }

    fn grow(&mut self, by: usize) {
        self.len += by;
        if self.len > RECORD_REFS_MAX {
            self.lose();
        }
    }

    /// Adds what was found below a child. Where it does not fit into one record with the rest, each child has its own.
    pub(super) async fn add_child(&mut self, child: Gathered, references: &mut References) -> Result<()> {
        match &child.blobs {
            None => self.lose(),
            Some(blobs) => self.grow(blobs.len() + 1),
        }
        self.children.push(child);
        if self.lost {
            for child in self.children.drain(..) {
                references.put(child).await?;
            }
        }
        Ok(())
    }

    /// What was found below the node.
    pub(super) fn finish(self, node: BlobId) -> Gathered {
        if self.lost {
            return Gathered::unknown(node);
        }
        let mut blobs = self.own;
        let mut read = self.read;
        for child in self.children {
            read += child.read;
            blobs.push((BlobKind::Node, child.node));
            blobs.extend(child.blobs.into_iter().flatten());
        }
        Gathered {
            node,
            blobs: Some(blobs),
            read,
        }
    }
}
