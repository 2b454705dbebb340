//! Builds a tree from entries in key order. Memory: one open node for each level.

use super::NodeSink;
use crate::error::{Error, ErrorKind, Result};
use crate::format::cbor::Encoder;
use crate::format::entry::{EntryRecord, Key};
use crate::format::error::DecodeError;
use crate::format::limits;
use crate::format::node::{BODY_MAX, BorderKey, Child, Totals, seal};
use crate::format::snapshot::RootRecord;

/// Builds a tree; the same entries give the same root.
pub struct TreeBuilder<S> {
    border: BorderKey,
    sink: S,
    /// The open node of each level, leaves first. A level exists when the one below has closed a node; and a node is closed only
    /// when another element follows it, so each level but the highest has at least two nodes: the root rule of the format.
    open: Vec<OpenNode>,
    /// A node was taken out and not yet given to the sink: if that failed, or its future was dropped, the tree has a hole.
    broken: bool,
}

struct OpenNode {
    level: u8,
    body: Encoder,
    elements: usize,
    last: Key,
    ends_here: bool,
    totals: Totals,
}

enum Element<'a> {
    Entry(&'a EntryRecord),
    Child(&'a Child),
}

impl Element<'_> {
    fn key(&self) -> &Key {
        match self {
            Self::Entry(entry) => &entry.key,
            Self::Child(child) => &child.last,
        }
    }

    fn totals(&self) -> Totals {
        match self {
            Self::Entry(entry) => Totals::of(entry),
            Self::Child(child) => child.totals,
        }
    }

    fn encode(&self, out: &mut Encoder) {
        match self {
            Self::Entry(entry) => entry.encode(out),
            Self::Child(child) => child.encode(out),
        }
    }
}

impl OpenNode {
    fn new(level: u8) -> Self {
        Self {
            level,
            body: Encoder::new(),
            elements: 0,
            last: Key::empty(),
            ends_here: false,
            totals: Totals::default(),
        }
    }

    /// Adds an element; the node before it, if one ended.
    fn push(&mut self, border: &BorderKey, element: &Element<'_>) -> Result<Option<Self>, DecodeError> {
        let totals = element.totals();
        let sum = self.totals.plus(totals)?;
        let start = self.body.len();
        element.encode(&mut self.body);
        let ends = self.ends_here || self.body.len() > BODY_MAX;
        let closed = (ends && self.elements > 0).then(|| {
            let mut next = Self::new(self.level);
            next.body = self.body.split_off(start);
            std::mem::replace(self, next)
        });
        self.totals = if closed.is_some() { totals } else { sum };
        self.elements += 1;
        self.last.clone_from(element.key());
        self.ends_here = border.is_border(self.level, element.key());
        Ok(closed)
    }
}

impl<S: NodeSink> TreeBuilder<S> {
    /// An empty tree, whose nodes go to `sink`.
    pub fn new(border: BorderKey, sink: S) -> Self {
        Self {
            border,
            sink,
            open: vec![OpenNode::new(0)],
            broken: false,
        }
    }

    /// The sink, for what is not a node.
    pub fn sink_mut(&mut self) -> &mut S {
        &mut self.sink
    }

    /// Adds an entry, whose key must be greater than all before.
    ///
    /// # Errors
    /// `Unsupported` for an entry over the format's limits and `Internal` for one out of order: the tree is as before. What the
    /// sink says: the tree is lost, and every later call fails.
    pub async fn add(&mut self, entry: &EntryRecord) -> Result<()> {
        let at = |error: Error| error.with("key", &entry.key);
        let refuse = |why: DecodeError| {
            at(Error::new(
                ErrorKind::Unsupported,
                "entry is over the limits of the format",
            ))
            .because(why)
        };
        entry.validate().map_err(refuse)?;
        self.check_whole()?;
        let Some(leaf) = self.open.first_mut() else {
            return Err(lost());
        };
        if leaf.elements > 0 && entry.key <= leaf.last {
            return Err(at(Error::new(
                ErrorKind::Internal,
                "entries are not in ascending order; this is a bug",
            )));
        }
        match leaf.push(&self.border, &Element::Entry(entry)).map_err(refuse)? {
            Some(closed) => self.raise(closed).await,
            None => Ok(()),
        }
    }

    /// Ends the tree.
    ///
    /// # Errors
    /// What the sink says.
    pub async fn finish(mut self) -> Result<(RootRecord, S)> {
        self.check_whole()?;
        let mut level = 0;
        loop {
            let Some(open) = self.open.get_mut(level) else {
                return Err(lost());
            };
            let node = std::mem::replace(open, OpenNode::new(open.level));
            level += 1;
            if level == self.open.len() {
                let (height, Totals { entries, bytes }) = (node.level, node.totals);
                let id = self.put(node).await?.id;
                let root = RootRecord {
                    id,
                    height,
                    entries,
                    bytes,
                };
                return Ok((root, self.sink));
            }
            self.raise(node).await?;
        }
    }

    /// Stores a closed node and names it one level up, which may close a node there, and so on.
    async fn raise(&mut self, closed: OpenNode) -> Result<()> {
        self.broken = true;
        let mut closed = Some(closed);
        while let Some(node) = closed.take() {
            let above = node.level + 1;
            if above == limits::TREE_HEIGHT_MAX {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "the tree would be higher than the format allows",
                ));
            }
            let child = self.put(node).await?;
            if self.open.len() <= usize::from(above) {
                self.open.push(OpenNode::new(above));
            }
            let parent = self.open.get_mut(usize::from(above)).ok_or_else(lost)?;
            closed = parent
                .push(&self.border, &Element::Child(&child))
                .map_err(|why| {
                    Error::new(
                        ErrorKind::Unsupported,
                        "the tree is over the limits of the format",
                    )
                    .because(why)
                })?;
        }
        self.broken = false;
        Ok(())
    }

    async fn put(&mut self, node: OpenNode) -> Result<Child> {
        let plaintext = seal(node.level, node.elements, &node.body.finish());
        Ok(Child {
            last: node.last,
            id: self.sink.put_node(plaintext).await?,
            totals: node.totals,
        })
    }

    fn check_whole(&self) -> Result<()> {
        if self.broken { Err(lost()) } else { Ok(()) }
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Internal, "the tree was given up after an error")
}
