//! What differs between two trees, without reading what they share.
//!
//! Two cursors go through the trees side by side. Where both stand before nodes of one id they step over them; else the one that
//! stands before the higher node goes down into it. Both trees end nodes at the same keys (the size limit apart), so behind a difference the cursors are in
//! step again at the end of the leaf, at the latest of the one after it.

use super::load::Claim;
use super::{NodeSource, TreeReader};
use crate::error::Result;
use crate::format::entry::{EntryRecord, Key};
use crate::format::id::BlobId;
use crate::format::node::Node;
use futures::stream::{self, BoxStream, StreamExt};
use std::cmp::Ordering;
use std::sync::Arc;

/// One difference between two trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the second tree has it.
    Added(Arc<EntryRecord>),
    /// Only the first tree has it.
    Removed(Arc<EntryRecord>),
    /// Both have an entry under the key, with something in it that differs.
    Changed {
        /// The first tree's.
        before: Arc<EntryRecord>,
        /// The second tree's.
        after: Arc<EntryRecord>,
    },
}

/// The differences from `before` to `after`, in key order. Memory: one path of each. The first error ends the stream.
pub fn diff(before: &TreeReader, after: &TreeReader) -> BoxStream<'static, Result<Change>> {
    let pair = Pair {
        before: Cursor::new(before),
        after: Cursor::new(after),
    };
    stream::try_unfold(Box::new(pair), |mut pair| async move {
        let change = pair.next().await?;
        Ok(change.map(|change| (change, pair)))
    })
    .boxed()
}

struct Pair {
    before: Cursor,
    after: Cursor,
}

impl Pair {
    async fn next(&mut self) -> Result<Option<Change>> {
        loop {
            if self.before.step_over_same(&mut self.after) {
                continue;
            }
            match (self.before.place(), self.after.place()) {
                (Place::Node(b), Place::Node(a)) => {
                    if b >= a {
                        self.before.go_down().await?;
                    }
                    if a >= b {
                        self.after.go_down().await?;
                    }
                }
                (Place::Node(_), _) => self.before.go_down().await?,
                (_, Place::Node(_)) => self.after.go_down().await?,
                (Place::Entry(b), Place::Entry(a)) => {
                    let order = b.key.cmp(&a.key);
                    if order.is_le() {
                        self.before.advance();
                    }
                    if order.is_ge() {
                        self.after.advance();
                    }
                    match order {
                        Ordering::Less => return Ok(Some(Change::Removed(b))),
                        Ordering::Greater => return Ok(Some(Change::Added(a))),
                        Ordering::Equal if a != b => {
                            return Ok(Some(Change::Changed { before: b, after: a }));
                        }
                        Ordering::Equal => {}
                    }
                }
                (Place::Entry(b), Place::End) => {
                    self.before.advance();
                    return Ok(Some(Change::Removed(b)));
                }
                (Place::End, Place::Entry(a)) => {
                    self.after.advance();
                    return Ok(Some(Change::Added(a)));
                }
                (Place::End, Place::End) => return Ok(None),
            }
        }
    }
}

/// A place in a tree: before a node that is not read, before an entry, or at the end.
struct Cursor {
    source: Arc<dyn NodeSource>,
    /// The root, until it is read or stepped over.
    root: Option<Claim>,
    path: Vec<Step>,
}

struct Step {
    node: Node,
    next: usize,
    /// The last key before the node.
    after: Option<Key>,
}

enum Place {
    /// A node of this level.
    Node(u8),
    Entry(Arc<EntryRecord>),
    End,
}

impl Cursor {
    fn new(reader: &TreeReader) -> Self {
        Self {
            source: reader.source().clone(),
            root: Some(Claim::root(reader.root())),
            path: Vec::new(),
        }
    }

    fn place(&self) -> Place {
        if let Some(root) = &self.root {
            return Place::Node(root.level);
        }
        match self.path.last() {
            None => Place::End,
            Some(Step { node, next, .. }) => match node {
                Node::Leaf(entries) => entries.get(*next).cloned().map_or(Place::End, Place::Entry),
                Node::Inner { level, .. } => Place::Node(level.saturating_sub(1)),
            },
        }
    }

    /// The node before which it stands.
    fn node(&self) -> Option<BlobId> {
        if let Some(root) = &self.root {
            return Some(root.id);
        }
        match self.path.last()? {
            Step {
                node: Node::Inner { children, .. },
                next,
                ..
            } => children.get(*next).map(|child| child.id),
            _ => None,
        }
    }

    /// Steps over one thing, and out of all that ends with it.
    fn advance(&mut self) {
        self.root = None;
        while let Some(step) = self.path.last_mut() {
            step.next += 1;
            if step.next < step.node.elements() {
                return;
            }
            self.path.pop();
        }
    }

    async fn go_down(&mut self) -> Result<()> {
        let claim = match self.root.take() {
            Some(root) => Some(root),
            None => self
                .path
                .last()
                .and_then(|step| Claim::child(&step.node, step.next, step.after.as_ref())),
        };
        let Some(claim) = claim else {
            return Ok(());
        };
        let node = claim.load(&*self.source).await?;
        // Only the root of an empty tree has no elements; then this is the end.
        if node.elements() > 0 {
            self.path.push(Step {
                node,
                next: 0,
                after: claim.after,
            });
        }
        Ok(())
    }

    /// If both stand before one and the same node, steps over it with both.
    fn step_over_same(&mut self, other: &mut Self) -> bool {
        let same = self.node().is_some_and(|id| other.node() == Some(id));
        if same {
            self.advance();
            other.advance();
        }
        same
    }
}
