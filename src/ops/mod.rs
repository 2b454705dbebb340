//! The use cases: a request goes in, a report comes out. No arguments are parsed here, nothing is printed, no file is read but what a
//! connector reads.

mod check;
mod restore;
mod snapshot;

pub use check::{CheckReport, CheckRequest, check};
pub use restore::{RestoreReport, RestoreRequest, restore};
pub use snapshot::{SnapshotReport, SnapshotRequest, snapshot};
