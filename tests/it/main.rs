//! The library as its users see it: snapshots into a repository and back.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "tests, which print their figures"
)]

mod bases;
mod bounds;
mod broken_collect;
mod broken_disk;
mod broken_keys;
mod cache;
mod check;
mod check_doubts;
mod collect;
mod collect_crash;
mod collect_damage;
mod collect_doubts;
mod collect_races;
mod collect_records;
mod copy;
mod copy_crash;
mod copy_kinds;
mod copy_races;
mod crash;
mod damage;
mod deltas;
mod forget_crash;
mod forgets;
mod limits;
mod lost_records;
mod property;
mod protocol;
mod repair;
mod requests;
mod round_trip;
mod s3;
mod status;
mod stores;
mod world;
