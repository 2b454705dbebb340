//! Visits every blob that a tree needs: for checks, and for the mark of a collector.

use super::NodeSource;
use super::load::{Claim, load_list, totals_of};
use crate::error::{Error, Result};
use crate::format::entry::{BlobRef, ContentRecord, EntryRecord};
use crate::format::id::BlobId;
use crate::format::node::{Node, Totals};
use crate::format::snapshot::RootRecord;

/// Nodes that are named to the source ahead of their reading.
const READ_AHEAD: usize = 16;

/// Told of every blob; keeps what it has seen.
pub trait Marker: Send {
    /// A node of `level`. True if it is new: then it is read, and all below it is visited; else it is passed over.
    fn node(&mut self, id: BlobId, level: u8, totals: Totals) -> bool;

    /// A list of references of the entry that was told last. True if it is new: then it is read.
    fn list(&mut self, list: &BlobRef) -> bool;

    /// A chunk of the entry that was told last. Holes are not told.
    fn data(&mut self, chunk: &BlobRef);

    /// A new node is read now: what it holds follows, and then [`Self::leave`].
    fn enter(&mut self, _: BlobId) {}

    /// The node that was entered last, and not left yet, was visited with all below it.
    fn leave(&mut self) {}

    /// An entry of a new leaf; its lists and chunks follow.
    fn entry(&mut self, _: &EntryRecord) {}

    /// A node or list that cannot be read or is damaged: what is below it is not visited. `Ok` goes on with the next.
    ///
    /// # Errors
    /// Whatever shall end the walk; by default the error itself.
    fn failed(&mut self, error: Error) -> Result<()> {
        Err(error)
    }
}

/// Visits the tree under `root`, each new node and list once, in key order. A node that is passed over is not held against what
/// this tree says of it; all others are checked as readers check them. Memory: one path, and what the marker keeps.
///
/// # Errors
/// What [`Marker::failed`] returns.
pub async fn walk(source: &dyn NodeSource, root: &RootRecord, marker: &mut dyn Marker) -> Result<()> {
    if !marker.node(root.id, root.height, totals_of(root)) {
        return Ok(());
    }
    let mut path: Vec<Vec<Claim>> = vec![vec![Claim::root(root)]];
    while let Some(claims) = path.last_mut() {
        let Some(claim) = claims.pop() else {
            path.pop();
            // The lowest of the path is no node's.
            if !path.is_empty() {
                marker.leave();
            }
            continue;
        };
        if claims.len().is_multiple_of(READ_AHEAD) {
            name_ahead(source, claims, READ_AHEAD);
        }
        marker.enter(claim.id);
        match claim.load(source).await {
            Ok(Node::Leaf(entries)) => {
                for entry in &entries {
                    marker.entry(entry);
                    walk_content(source, entry, marker).await?;
                }
                marker.leave();
            }
            Ok(node @ Node::Inner { .. }) => {
                let children = new_children(&node, &claim, marker);
                name_ahead(source, &children, children.len() % READ_AHEAD);
                path.push(children);
            }
            Err(error) => {
                marker.failed(error)?;
                marker.leave();
            }
        }
    }
    Ok(())
}

/// The children that the marker has not seen, last first.
fn new_children(node: &Node, claim: &Claim, marker: &mut dyn Marker) -> Vec<Claim> {
    let claims = (0..node.elements()).map_while(|index| Claim::child(node, index, claim.after.as_ref()));
    let mut new: Vec<_> = claims
        .filter(|child| marker.node(child.id, child.level, child.totals))
        .collect();
    new.reverse();
    new
}

/// Names the next nodes of `rest`, which is read from its end.
fn name_ahead(source: &dyn NodeSource, rest: &[Claim], nodes: usize) {
    let ids: Vec<_> = rest.iter().rev().take(nodes).map(|claim| claim.id).collect();
    if !ids.is_empty() {
        source.prefetch(&ids);
    }
}

async fn walk_content(source: &dyn NodeSource, entry: &EntryRecord, marker: &mut dyn Marker) -> Result<()> {
    match &entry.content {
        ContentRecord::Refs { level, refs } => walk_refs(source, (*level, refs), marker).await,
        ContentRecord::None | ContentRecord::Inline(_) => Ok(()),
    }
}

/// Visits what references of a level name, as [`walk`] does for the content of an entry.
///
/// # Errors
/// What [`Marker::failed`] returns.
pub async fn walk_refs(
    source: &dyn NodeSource,
    (level, refs): (u8, &[BlobRef]),
    marker: &mut dyn Marker,
) -> Result<()> {
    let mut path = vec![(level, Vec::from(refs).into_iter())];
    while let Some((level, refs)) = path.last_mut() {
        let level = *level;
        match (refs.next(), level.checked_sub(1)) {
            (None, _) => drop(path.pop()),
            (Some(chunk), None) => {
                if !chunk.is_hole() {
                    marker.data(&chunk);
                }
            }
            (Some(list), Some(below)) => {
                if marker.list(&list) {
                    match load_list(source, &list, below).await {
                        Ok(refs) => path.push((below, refs.into_iter())),
                        Err(error) => marker.failed(error)?,
                    }
                }
            }
        }
    }
    Ok(())
}
