//! Reads a tree in key order, from any key on; strictly, or past nodes that are damaged. Memory: one path of nodes.

use super::NodeSource;
use super::load::Claim;
use crate::error::{Error, ErrorKind, Result};
use crate::format::entry::{EntryRecord, Key};
use crate::format::node::Node;
use crate::format::snapshot::RootRecord;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use std::sync::Arc;

/// What reading past damage finds.
#[derive(Clone, Debug)]
pub enum Found<T> {
    /// An entry.
    Entry(T),
    /// Entries that cannot be read.
    Lost(LostRange),
}

/// A part of a tree that cannot be read: all keys greater than `after`, up to and including `through`.
#[derive(Clone, Debug)]
pub struct LostRange {
    /// The last key before it; nothing at the left edge of the tree.
    pub after: Option<Key>,
    /// Its last key; nothing if the root is lost, and with it the whole tree.
    pub through: Option<Key>,
    /// Why: names the node, and what is known of the pack that holds it.
    pub error: Error,
}

/// A tree that can be read. Cheap to clone.
#[derive(Clone)]
pub struct TreeReader {
    source: Arc<dyn NodeSource>,
    root: RootRecord,
    read_ahead: usize,
}

impl TreeReader {
    /// The tree under `root`, whose nodes come from `source`. Nothing is read yet.
    pub fn new(source: Arc<dyn NodeSource>, root: RootRecord) -> Self {
        Self {
            source,
            root,
            read_ahead: 0,
        }
    }

    /// Names up to `leaves` leaves ahead to [`NodeSource::prefetch`]; none by default.
    #[must_use]
    pub fn with_read_ahead(mut self, leaves: usize) -> Self {
        self.read_ahead = leaves;
        self
    }

    /// The root.
    pub fn root(&self) -> &RootRecord {
        &self.root
    }

    /// Where its nodes come from.
    pub fn source(&self) -> &Arc<dyn NodeSource> {
        &self.source
    }

    /// All entries in order. The first error ends the stream: `Damaged` for a node that is not what its parent says, and what the
    /// source says.
    pub fn entries(&self) -> BoxStream<'static, Result<Arc<EntryRecord>>> {
        self.range(Key::empty(), Key::empty())
    }

    /// The entries whose keys start with `prefix`; reads no leaf without one, but for the one where they would begin.
    pub fn under(&self, prefix: Key) -> BoxStream<'static, Result<Arc<EntryRecord>>> {
        self.range(prefix.clone(), prefix)
    }

    /// The entries whose keys start with `prefix`, from the key `start` on (itself included).
    pub fn range(&self, start: Key, prefix: Key) -> BoxStream<'static, Result<Arc<EntryRecord>>> {
        stream::try_unfold(self.walk(start, prefix), |mut walk| async move {
            let leaf = walk.next_leaf().await.map_err(|lost| lost.error)?;
            Ok::<_, Error>(leaf.map(|entries| (stream::iter(entries.into_iter().map(Ok)), walk)))
        })
        .try_flatten()
        .boxed()
    }

    /// As [`Self::under`], but goes on behind a node that is missing or damaged, and says what is lost with it. A lost range is one
    /// that may have held entries with the prefix. Any other error ends the stream.
    pub fn salvage(&self, prefix: Key) -> BoxStream<'static, Result<Found<Arc<EntryRecord>>>> {
        stream::try_unfold(self.walk(prefix.clone(), prefix), |mut walk| async move {
            let found = match walk.next_leaf().await {
                Ok(None) => return Ok(None),
                Ok(Some(entries)) => entries.into_iter().map(Found::Entry).collect(),
                Err(lost) if lost.error.kind() == ErrorKind::Damaged => vec![Found::Lost(*lost)],
                Err(lost) => return Err(lost.error),
            };
            Ok::<_, Error>(Some((stream::iter(found.into_iter().map(Ok)), walk)))
        })
        .try_flatten()
        .boxed()
    }

    fn walk(&self, start: Key, prefix: Key) -> Box<LeafWalk> {
        Box::new(LeafWalk {
            source: self.source.clone(),
            read_ahead: self.read_ahead,
            start: start.max(prefix.clone()),
            prefix,
            path: Vec::new(),
            next: Some(Claim::root(&self.root)),
        })
    }

    /// The entry under `key`, if there is one; reads one path.
    ///
    /// # Errors
    /// As the streams.
    pub async fn get(&self, key: &Key) -> Result<Option<Arc<EntryRecord>>> {
        let mut stream = self.range(key.clone(), key.clone());
        let first = stream.try_next().await?;
        Ok(first.filter(|entry| entry.key == *key))
    }
}

/// Leaves in order, down to those of one range.
struct LeafWalk {
    source: Arc<dyn NodeSource>,
    read_ahead: usize,
    start: Key,
    prefix: Key,
    path: Vec<Step>,
    /// The root, until it is read.
    next: Option<Claim>,
}

/// An inner node on the path.
struct Step {
    node: Node,
    /// The child to visit next.
    next: usize,
    /// Children before this one were named to the source.
    named: usize,
    /// The last key before the node.
    after: Option<Key>,
}

impl LeafWalk {
    /// The entries of the next leaf that has some in the range. After an error the walk stands behind the node that failed.
    async fn next_leaf(&mut self) -> Result<Option<Vec<Arc<EntryRecord>>>, Box<LostRange>> {
        while let Some(claim) = self.next_claim() {
            let node = claim.load(&*self.source).await.map_err(|error| {
                Box::new(LostRange {
                    after: claim.after.clone(),
                    through: claim.last.clone(),
                    error,
                })
            })?;
            match node {
                Node::Leaf(entries) => {
                    let inside = self.select(entries);
                    if !inside.is_empty() {
                        return Ok(Some(inside));
                    }
                }
                Node::Inner { ref children, .. } => {
                    let next = children.partition_point(|child| child.last < self.start);
                    self.path.push(Step {
                        node,
                        next,
                        named: 0,
                        after: claim.after,
                    });
                }
            }
        }
        Ok(None)
    }

    fn next_claim(&mut self) -> Option<Claim> {
        if let Some(root) = self.next.take() {
            return Some(root);
        }
        loop {
            let step = self.path.last_mut()?;
            let Some(claim) = Claim::child(&step.node, step.next, step.after.as_ref()) else {
                self.path.pop();
                continue;
            };
            // The last key before a child that is out of the range on the right: so is the rest of the tree.
            if claim
                .after
                .as_ref()
                .is_some_and(|after| beyond(&self.prefix, after))
            {
                self.path.clear();
                return None;
            }
            step.next += 1;
            name_ahead(&*self.source, step, &self.prefix, self.read_ahead);
            return Some(claim);
        }
    }

    fn select(&self, mut entries: Vec<Arc<EntryRecord>>) -> Vec<Arc<EntryRecord>> {
        entries.truncate(entries.partition_point(|entry| !beyond(&self.prefix, &entry.key)));
        let skipped = entries.partition_point(|entry| entry.key < self.start);
        entries.drain(..skipped);
        entries
    }
}

/// Whether `key` is greater than every key that starts with `prefix`.
fn beyond(prefix: &Key, key: &Key) -> bool {
    key > prefix && !key.starts_with(prefix)
}

/// Keeps the source told of the children to come, half a window at a time.
fn name_ahead(source: &dyn NodeSource, step: &mut Step, prefix: &Key, read_ahead: usize) {
    let Node::Inner { level, children } = &step.node else {
        return;
    };
    let window = if *level == 1 {
        read_ahead
    } else {
        read_ahead.min(1)
    };
    let from = step.named.max(step.next);
    if window == 0 || from > step.next + window / 2 {
        return;
    }
    // The child that holds a key beyond the range is the last that is needed.
    let before = |index: usize| index.checked_sub(1).and_then(|i| children.get(i));
    let ids: Vec<_> = (from..step.next + window)
        .take_while(|index| before(*index).is_none_or(|child| !beyond(prefix, &child.last)))
        .filter_map(|index| children.get(index))
        .map(|child| child.id)
        .collect();
    step.named = step.next + window;
    if !ids.is_empty() {
        source.prefetch(&ids);
    }
}
