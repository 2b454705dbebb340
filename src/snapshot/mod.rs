//! Snapshots: entries, the tree that holds them, records, and what can be asked of them.

pub mod entry;
pub mod tree;

mod adopt;
mod content;
mod deltas;
mod nodes;
mod parent;
mod reader;
mod select;
mod writer;

pub use adopt::adopt;
pub use deltas::DeltaPolicy;
pub use parent::{ParentPrior, choose_parent};
pub use reader::SnapshotReader;
pub use select::{SnapshotFilter, SnapshotSpec, age_key};
pub use writer::{SnapshotWriter, Written};
