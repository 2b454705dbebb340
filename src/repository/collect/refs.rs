//! Records of references (`format-spec/90-collection.md` section 1): what a subtree refers to, so that a later collection, on whatever
//! machine, need not read its nodes again.
//!
//! A record is put for what took [`Worth::nodes`] nodes or more to read and has no more than [`Worth::references`] references. What was met
//! before, in another snapshot as a rule, it names as an open end and does not list again: so the record of a snapshot is as large as
//! its change.

use crate::context::Context;
use crate::error::{ErrorKind, Result};
use crate::format::collect::RefsRecord;
use crate::format::id::BlobId;
use crate::format::index::BlobKind;
use crate::format::layout::ObjectName;
use crate::repository::Repository;
use std::collections::{BTreeSet, HashMap};

/// When a record of references is worth its bytes, which decides what a collection costs and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worth {
    /// Nodes that had to be read for it, at least. Where half as many are read for the open ends of one, it is made anew.
    pub nodes: u32,
    /// References in it, at most.
    pub references: usize,
}

impl Default for Worth {
    /// Fewer nodes are read as fast, from a cache. So many references are 3.3 MB.
    fn default() -> Self {
        Self {
            nodes: 8,
            references: 100_000,
        }
    }
}

/// The records of a repository.
pub(super) struct References {
    repository: Repository,
    context: Context,
    listed: BTreeSet<BlobId>,
    worth: Worth,
    /// Whether new ones are put; not after the store refused one, nor in a dry run.
    writes: bool,
    /// Nodes that were read for the open ends of a record, by its node.
    spent: HashMap<BlobId, u32>,
    /// How many were used, and put.
    pub(super) used: u64,
    pub(super) made: u64,
}

/// What was found below a node.
pub(super) struct Gathered {
    node: BlobId,
    /// Nothing if it was marked before, has a record of its own, or does not fit into one.
    found: Option<Found>,
}

/// References of a subtree.
#[derive(Default)]
struct Found {
    blobs: Vec<(BlobKind, BlobId)>,
    /// Nodes and lists in it whose own references are not in `blobs`.
    open: Vec<(BlobKind, BlobId)>,
    /// Nodes that were read for it.
    read: u32,
}

impl Found {
    fn len(&self) -> usize {
        self.blobs.len() + self.open.len()
    }
}

/// What is being found below a node.
pub(super) struct Shelf {
    /// References of the node itself, and children that are not told of here.
    own: Found,
    children: Vec<(BlobId, Found)>,
    len: usize,
    /// Whether the node alone has more than a record may.
    is_full: bool,
}

impl References {
    pub(super) fn new(
        repository: &Repository,
        context: &Context,
        listed: BTreeSet<BlobId>,
        (worth, writes): (Worth, bool),
    ) -> Self {
        Self {
            repository: repository.clone(),
            context: context.clone(),
            listed,
            worth,
            writes,
            spent: HashMap::new(),
            used: 0,
            made: 0,
        }
    }

    /// Whether a node has no record, so that it will be read.
    pub(super) fn lacks(&self, node: &BlobId) -> bool {
        !self.listed.contains(node)
    }

    /// What a record says, if there is one that can be read.
    pub(super) async fn get(&mut self, node: &BlobId) -> Result<Option<RefsRecord>> {
        if self.lacks(node) {
            return Ok(None);
        }
        let record = Self::load(&self.repository, *node).await?;
        self.was_loaded(node, record.is_some());
        Ok(record)
    }

    /// Absence means walk, and so does damage, which `check` tells of.
    pub(super) async fn load(repository: &Repository, node: BlobId) -> Result<Option<RefsRecord>> {
        match repository.load::<RefsRecord>(ObjectName::Refs(node)).await {
            Ok(record) => Ok(Some(record)),
            Err(error)
                if error.kind() == ErrorKind::NotFound || crate::repository::view::is_damage(&error) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Counts a record that was loaded, or forgets one that could not be.
    pub(super) fn was_loaded(&mut self, node: &BlobId, is_there: bool) {
        if is_there {
            self.used += 1;
        } else {
            self.listed.remove(node);
        }
    }

    /// Tells how many nodes were read for an open end of a record.
    pub(super) fn spend(&mut self, node: BlobId, read: u32) {
        let spent = self.spent.entry(node).or_default();
        *spent = spent.saturating_add(read);
    }

    /// Records that no longer spare enough: what they left to others is told by none of those any more. Without them, the next collection
    /// puts better ones.
    pub(super) fn stale(&self) -> impl Iterator<Item = BlobId> {
        let stale = self
            .spent
            .iter()
            .filter(|(_, read)| **read >= self.worth.nodes.div_ceil(2));
        stale.map(|(node, _)| *node)
    }

    /// Puts a record if it is worth it.
    pub(super) async fn put(&mut self, gathered: Gathered) -> Result<()> {
        let Gathered { node, found } = gathered;
        let is_worth = |found: &Found| self.writes && found.read >= self.worth.nodes;
        let Some(Found {
            mut blobs, mut open, ..
        }) = found.filter(is_worth)
        else {
            return Ok(());
        };
        blobs.sort_unstable();
        blobs.dedup();
        open.sort_unstable();
        open.dedup();
        // A list that stands in two contents was met again after it was read.
        open.retain(|end| blobs.binary_search(end).is_err());
        let record = RefsRecord { node, blobs, open };
        match self.repository.save(&self.context, &record).await {
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
    /// A subtree that was marked before, or that a record covers.
    pub(super) fn elsewhere(node: BlobId) -> Self {
        Self { node, found: None }
    }
}

impl Shelf {
    /// For a node that was read.
    pub(super) fn of_read_node() -> Self {
        Self {
            own: Found {
                read: 1,
                ..Found::default()
            },
            children: Vec::new(),
            len: 0,
            is_full: false,
        }
    }

    /// For what no record is put for.
    pub(super) fn none() -> Self {
        Self {
            is_full: true,
            ..Self::of_read_node()
        }
    }

    /// Adds a reference of the node itself.
    pub(super) fn add(&mut self, kind: BlobKind, id: BlobId, references: &References) {
        self.own.blobs.push((kind, id));
        self.grow(references);
    }

    /// Adds a list of the node itself that was marked before: what it refers to is not at hand.
    pub(super) fn add_open(&mut self, kind: BlobKind, id: BlobId, references: &References) {
        self.own.open.push((kind, id));
        self.grow(references);
    }

    fn grow(&mut self, references: &References) {
        self.is_full |= self.own.len() > references.worth.references;
        if self.is_full {
            self.own = Found::default();
        }
    }

    /// Adds what was found below a child. What does not fit into one record with the rest gets its own.
    pub(super) async fn add_child(&mut self, child: Gathered, references: &mut References) -> Result<()> {
        let Gathered { node, found } = child;
        match found {
            None => self.add_open(BlobKind::Node, node, references),
            Some(found) => {
                self.len += found.len() + 1;
                self.children.push((node, found));
            }
        }
        if self.len + self.own.len() > references.worth.references {
            self.len = 0;
            for (node, found) in std::mem::take(&mut self.children) {
                self.add_open(BlobKind::Node, node, references);
                let found = Some(found);
                references.put(Gathered { node, found }).await?;
            }
        }
        Ok(())
    }

    /// What was found below the node.
    pub(super) fn finish(self, node: BlobId) -> Gathered {
        if self.is_full {
            return Gathered::elsewhere(node);
        }
        let mut all = self.own;
        for (child, found) in self.children {
            all.read += found.read;
            all.blobs.push((BlobKind::Node, child));
            all.blobs.extend(found.blobs);
            all.open.extend(found.open);
        }
        Gathered {
            node,
            found: Some(all),
        }
    }
}
