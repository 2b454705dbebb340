//! Snapshots: entries, the tree that holds them, records, and what can be asked of them.

pub mod entry;
pub mod tree;
