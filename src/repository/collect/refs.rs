//! Records of references (`format-spec/90-collection.md` section 1): what a subtree refers to, so that a later collection, on whatever
//! machine, need not read its nodes again.
//!
//! A record is put for what took [`Worth::nodes`] nodes or more to read and has no more than [`Worth::references`] references. What was met
//! before, in another snapshot as a rule, it names as an open end and does not list again: so the record of a snapshot is as large as
//! its change.

use super::round::CollectOptions;
use crate::context::Context;
use crate::error::{ErrorKind, Result};
use crate::format::collect::RefsRecord;
use crate::format::id::BlobId;
use crate::format::index::BlobKind;
use crate::format::layout::ObjectName;
use crate::repository::Repository;
use crate::repository::view::of_the_disk;
use std::collections::{BTreeSet, HashMap};

/// When a record of references is worth its bytes, which decides what a collection costs and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worth {
    /// Nodes and lists that had to be read for it, at least.
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

/// A record is made anew where one of so many nodes that it spares is read again for its open ends.
const SPARED: usize = 8;

/// What became of a record that is listed.
pub(super) enum Loaded {
    Record(RefsRecord),
    Gone,
    Unreadable,
}

/// The records of a repository.
pub(super) struct References {
    repository: Repository,
    context: Context,
    listed: BTreeSet<BlobId>,
    worth: Worth,
    /// Whether new ones are put; not after the store refused one, nor in a dry run.
    writes: bool,
    /// Records with open ends that were used, by their nodes.
    ends_of: HashMap<BlobId, Spent>,
    /// Those that cannot be read.
    unreadable: BTreeSet<BlobId>,
    /// How many were used, and put.
    pub(super) used: u64,
    pub(super) made: u64,
}

/// A record, and what its open ends took that no other record has.
struct Spent {
    /// Nodes and lists that need not be read for what it tells.
    spared: usize,
    /// Those that were read for its open ends.
    read: u32,
    /// References that it would have with what they hold.
    len: usize,
}

/// What was read and has no record.
#[derive(Clone, Copy)]
pub(super) struct Loose {
    pub(super) read: u32,
    pub(super) len: usize,
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
    /// Nodes and lists that were read for it.
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
        (repository, context): (&Repository, &Context),
        listed: BTreeSet<BlobId>,
        options: &CollectOptions,
    ) -> Self {
        Self {
            repository: repository.clone(),
            context: context.clone(),
            listed,
            worth: options.worth,
            writes: !options.dry_run,
            ends_of: HashMap::new(),
            unreadable: BTreeSet::new(),
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
        let loaded = Self::load(&self.repository, *node).await?;
        Ok(self.loaded(node, loaded))
    }

    /// A record that is listed. Absence means walk, and so does damage, which `check` tells of.
    pub(super) async fn load(repository: &Repository, node: BlobId) -> Result<Loaded> {
        match repository.load::<RefsRecord>(ObjectName::Refs(node)).await {
            Ok(record) => Ok(Loaded::Record(record)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Loaded::Gone),
            Err(error) => {
                let _why = of_the_disk(repository.store(), error).await?;
                Ok(Loaded::Unreadable)
            }
        }
    }

    /// Gives a record that was loaded, and remembers what became of it.
    pub(super) fn loaded(&mut self, node: &BlobId, loaded: Loaded) -> Option<RefsRecord> {
        let Loaded::Record(record) = loaded else {
            self.listed.remove(node);
            if matches!(loaded, Loaded::Unreadable) {
                self.unreadable.insert(*node);
            }
            return None;
        };
        self.used += 1;
        if !record.open.is_empty() {
            let spared = record.blobs.iter();
            let spent = Spent {
                spared: spared.filter(|(kind, _)| *kind != BlobKind::Data).count(),
                read: 0,
                len: record.blobs.len() + record.open.len(),
            };
            self.ends_of.insert(*node, spent);
        }
        Some(record)
    }

    /// Tells what was read for an open end of a record.
    pub(super) fn spend(&mut self, node: BlobId, loose: Loose) {
        if let Some(spent) = self.ends_of.get_mut(&node) {
            spent.read = spent.read.saturating_add(loose.read);
            spent.len = spent.len.saturating_add(loose.len);
        }
    }

    /// Records that stand in the way of better ones, which the next collection puts in their place: those that cannot be read, and those
    /// that no longer spare enough, as what they left to others stands in none of them any more, and would go into them. `has_gone`: whether
    /// this round lets a snapshot go; where none does, what a new one left out would be left out again.
    pub(super) fn stale(&self, has_gone: bool) -> impl Iterator<Item = BlobId> {
        let is_stale = move |spent: &Spent| {
            let read = spent.read as usize;
            let is_much = read * 2 >= self.worth.nodes as usize && read * SPARED >= spent.spared;
            has_gone && is_much && spent.len <= self.worth.references
        };
        let stale = self.ends_of.iter().filter(move |(_, spent)| is_stale(spent));
        let stale = stale.map(|(node, _)| *node);
        let stale = stale.chain(self.unreadable.iter().copied());
        // Where none can be put, they are better than nothing.
        stale.filter(|_| self.writes)
    }

    /// Puts a record if it is worth it. Gives what has none then, and would fit into another one.
    pub(super) async fn put(&mut self, gathered: Gathered) -> Result<Option<Loose>> {
        let Gathered { node, found } = gathered;
        let Some(found) = found else {
            return Ok(None);
        };
        let loose = Loose {
            read: found.read,
            len: found.len(),
        };
        // Where a record stands that cannot be read, none can be put until it is swept.
        let is_taken = self.unreadable.contains(&node);
        if !self.writes || is_taken || found.read < self.worth.nodes {
            return Ok(Some(loose));
        }
        let Found {
            mut blobs, mut open, ..
        } = found;
        blobs.sort_unstable();
        blobs.dedup();
        open.sort_unstable();
        open.dedup();
        // A list that stands in two contents was met again after it was read.
        open.retain(|end| blobs.binary_search(end).is_err());
        let record = RefsRecord { node, blobs, open };
        match self.repository.save(&self.context, &record).await {
            Ok(put) => {
                self.made += u64::from(put.is_mine());
                Ok(None)
            }
            // It only saves time.
            Err(error) if matches!(error.kind(), ErrorKind::StoreFull | ErrorKind::Denied) => {
                self.writes = false;
                Ok(Some(loose))
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

    /// What it holds, if that would fit into a record.
    pub(super) fn loose(&self) -> Option<Loose> {
        let loose = Loose {
            read: self.own.read,
            len: self.own.len(),
        };
        (!self.is_full).then_some(loose)
    }

    /// Adds a reference of the node itself.
    pub(super) fn add(&mut self, kind: BlobKind, id: BlobId, references: &References) {
        self.own.blobs.push((kind, id));
        self.grow(references);
    }

    /// Adds a list of the node itself that was read.
    pub(super) fn add_list(&mut self, id: BlobId, references: &References) {
        self.own.read += 1;
        self.add(BlobKind::List, id, references);
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
