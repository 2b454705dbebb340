//! The library as its users see it: snapshots into a repository and back.
#![expect(clippy::unwrap_used, reason = "tests")]

mod crash;
mod damage;
mod limits;
mod property;
mod protocol;
mod round_trip;
mod stores;
mod world;
