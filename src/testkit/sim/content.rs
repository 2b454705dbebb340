//! What was ever stored in any store of a world: texts of trees, and the keys of objects.

use crate::format::entry::{BlobRef, ContentRecord, decode_list};
use crate::format::id::BlobId;
use crate::format::node::Node;
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// Where the salt of a sealed object lies in its header.
const SALT: Range<usize> = 40..72;

/// The same blobs have the same ids in all stores of a repository, and the same salts the same keys.
#[derive(Default)]
pub(super) struct Content {
    /// Nodes and lists.
    pub(super) texts: HashMap<BlobId, Bytes>,
    trees: HashMap<BlobId, Arc<BTreeSet<BlobId>>>,
    salts: HashMap<(u8, Vec<u8>), [u8; 32]>,
}

impl Content {
    /// Somebody sends an object, whether it arrives or not. Gives what is wrong with that.
    pub(super) fn sent(&mut self, name: &str, bytes: &Bytes) -> Option<String> {
        let is_sealed = bytes.starts_with(b"holdall");
        let (Some(kind), Some(salt), true) = (bytes.get(7), bytes.get(SALT), is_sealed) else {
            return None;
        };
        let hash = *blake3::hash(bytes).as_bytes();
        let before = self.salts.insert((*kind, salt.to_vec()), hash);
        let again = before.is_some_and(|before| before != hash);
        again.then(|| format!("{name}: the key and nonces of another object are used again"))
    }

    /// All blobs of a tree.
    pub(super) fn tree(&mut self, root: BlobId) -> Result<Arc<BTreeSet<BlobId>>, String> {
        if let Some(tree) = self.trees.get(&root) {
            return Ok(tree.clone());
        }
        let mut tree = BTreeSet::new();
        let mut open = vec![root];
        while let Some(id) = open.pop() {
            if !tree.insert(id) {
                continue;
            }
            let text = self
                .texts
                .get(&id)
                .ok_or_else(|| format!("node {id} was never stored"))?;
            match Node::decode(text).map_err(|why| format!("node {id}: {why}"))? {
                Node::Inner { children, .. } => open.extend(children.iter().map(|child| child.id)),
                Node::Leaf(entries) => {
                    for entry in &entries {
                        if let ContentRecord::Refs { level, refs } = &entry.content {
                            self.contents(*level, refs, &mut tree)?;
                        }
                    }
                }
            }
        }
        let tree = Arc::new(tree);
        self.trees.insert(root, tree.clone());
        Ok(tree)
    }

    fn contents(&self, level: u8, refs: &[BlobRef], tree: &mut BTreeSet<BlobId>) -> Result<(), String> {
        for reference in refs.iter().filter(|reference| !reference.is_hole()) {
            tree.insert(reference.id);
            if let Some(below) = level.checked_sub(1) {
                let list = self.texts.get(&reference.id);
                let list = list.ok_or_else(|| format!("list {} was never stored", reference.id))?;
                let refs = decode_list(list, below).map_err(|why| format!("list: {why}"))?;
                self.contents(below, &refs, tree)?;
            }
        }
        Ok(())
    }
}
