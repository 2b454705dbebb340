//! The use cases: a request goes in, a report comes out. No arguments are parsed here, nothing is printed, no file is read but what a
//! connector reads.

mod check;
mod copy;
mod database;
mod diff;
mod doctor;
mod find;
mod forget;
mod init;
mod key;
mod list;
mod needs;
mod note;
mod place;
mod prune;
mod repair;
mod restore;
mod retention;
mod snapshot;
mod stats;
mod status;
mod unread;

pub use crate::repository::ReadData;
pub use crate::repository::collect::{
    CollectOptions, CollectPlan, SealedRound, Swept, UntoldPack, Unused, Worth,
};
pub use check::{CheckReport, CheckRequest, check, check_without_key};
pub use copy::{CopiedSnapshot, CopyReport, CopyRequest, Lag, NotCopied, copy, lag, same_store};
pub use database::{TableFilter, content, database, database_place, databases, tables};
pub use diff::{DiffLine, DiffSide, Difference, diff};
pub use doctor::{Diagnosis, DoctorRequest, Level, doctor};
pub use find::{FindReport, FindRequest, FoundVersion, find};
pub use forget::{ForgetReport, ForgetRequest, Group, GroupBy, Verdict, forget};
pub use init::{InitReport, InitRequest, init};
pub use key::{AddedKey, KeyList, KeySlotInfo, NewKey, add_key, change_key, list_keys, remove_key};
pub use list::{ListReport, ListedSnapshot, list, open_snapshot};
pub use note::{Noted, TagChange, protect, tag};
pub use place::{FilesPlace, count_streams, files_place, locate, ls, name_of, path_of};
pub use prune::{PruneReport, PruneRequest, prune};
pub use repair::{RepairReport, RepairRequest, StillHit, no_replica, repair};
pub use restore::{RestoreReport, RestoreRequest, restore};
pub use retention::{Candidate, Period, Policy};
pub use snapshot::{SnapshotReport, SnapshotRequest, snapshot};
pub use stats::{Growth, Kind, Part, StatsReport, StatsRequest, stats};
pub use status::{
    CopyStatus, OpenRun, Overdue, ProjectStatus, StatusReport, StatusRequest, copy_status, status,
};
pub use unread::UnreadSnapshot;
