//! One node, read and held against everything that its parent says of it.

use super::NodeSource;
use crate::error::{Error, ErrorKind, Result};
use crate::format::entry::{BlobRef, Key, decode_list, sum};
use crate::format::error::DecodeError;
use crate::format::id::BlobId;
use crate::format::node::{Child, Node, Totals};
use crate::format::snapshot::RootRecord;

/// What is claimed of a node before it is read.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) id: BlobId,
    pub(super) level: u8,
    /// Nothing for the root, of which it is not known.
    pub(super) last: Option<Key>,
    pub(super) totals: Totals,
    /// The last key before the node; all of the node's keys are greater. Nothing at the left edge of the tree.
    pub(super) after: Option<Key>,
}

impl Claim {
    pub(super) fn root(root: &RootRecord) -> Self {
        Self {
            id: root.id,
            level: root.height,
            last: None,
            totals: totals_of(root),
            after: None,
        }
    }

    /// The claim of an inner node on its child at `index`, if there is one; `after` is the inner node's own.
    pub(super) fn child(node: &Node, index: usize, after: Option<&Key>) -> Option<Self> {
        let Node::Inner { level, children } = node else {
            return None;
        };
        let Child { last, id, totals } = children.get(index)?;
        let before = index
            .checked_sub(1)
            .and_then(|i| children.get(i))
            .map(|c| &c.last);
        Some(Self {
            id: *id,
            level: level.saturating_sub(1),
            last: Some(last.clone()),
            totals: *totals,
            after: before.or(after).cloned(),
        })
    }

    /// Reads the node.
    ///
    /// # Errors
    /// What the source says, or `Damaged` if the node is not what is claimed.
    pub(super) async fn load(&self, source: &dyn NodeSource) -> Result<Node> {
        let bytes = source.node(self.id).await?;
        let node = Node::decode(&bytes).map_err(|why| self.damaged("node does not decode").because(why))?;
        self.check(&node)?;
        Ok(node)
    }

    fn check(&self, node: &Node) -> Result<()> {
        let wrong = |what| Err(self.damaged(what));
        if node.level() != self.level {
            return wrong("node of another level than its parent says");
        }
        let totals = node.totals();
        if totals.map_err(|why| self.damaged("node's totals do not add up").because(why))? != self.totals {
            return wrong("node's totals are not those that its parent says");
        }
        match (&self.last, node.first_key()) {
            (Some(last), _) if node.last_key() != Some(last) => {
                return wrong("node's last key is not the one that its parent says");
            }
            (None, _) if self.level > 0 && node.elements() == 1 => return wrong("root with a single child"),
            (_, Some(first)) if self.after.as_ref().is_some_and(|after| first <= after) => {
                return wrong("node's keys do not follow those before it");
            }
            _ => {}
        }
        Ok(())
    }

    fn damaged(&self, what: &str) -> Error {
        Error::new(ErrorKind::Damaged, what)
            .with("node", self.id)
            .with("level", self.level)
    }
}

pub(super) fn totals_of(root: &RootRecord) -> Totals {
    Totals {
        entries: root.entries,
        bytes: root.bytes,
    }
}

/// Reads the list that `reference` names, whose references stand at `level`.
///
/// # Errors
/// What the source says, or `Damaged` if the list is not what is claimed.
pub(super) async fn load_list(
    source: &dyn NodeSource,
    reference: &BlobRef,
    level: u8,
) -> Result<Vec<BlobRef>> {
    let bytes = source.list(reference.id).await?;
    let damaged = |why: DecodeError| {
        Error::new(ErrorKind::Damaged, "list of references does not decode")
            .with("list", reference.id)
            .because(why)
    };
    let refs = decode_list(&bytes, level).map_err(damaged)?;
    if sum(&refs).map_err(damaged)? == reference.len {
        Ok(refs)
    } else {
        Err(damaged(DecodeError::Invalid(
            "lengths do not sum to that of the list",
        )))
    }
}
