//! What tests, benches and fuzz targets share. Only with the feature `testkit`, never in a release binary. It may use everything;
//! nothing may use it.
//!
//! Stores: [`FaultStore`] fails where it is told to, [`store_suite`] holds what every store must do, [`Throttle`] is a slow
//! or broken line, [`FaultyLine`] one on which requests go wrong, [`SeaweedFs`] a real S3 server, [`S3rver`] one
//! that ignores conditions, [`PostgresServer`] a real database,
//! [`PgBouncer`] a pooler in front of it. [`sim`] runs everybody at once over a store that decides who goes on.

pub mod arbitrary;
pub mod collect;
mod fault_store;
mod faulty_line;
pub mod fuzz;
pub mod nodes;
mod pgbouncer;
mod postgres;
pub mod repo;
pub mod rounds;
mod s3rver;
mod seaweedfs;
pub mod sim;
pub mod store_suite;
mod throttle;
pub mod trees;

pub use fault_store::{Call, Failure, FaultStore, Op, Plan, When};
pub use faulty_line::{FaultyLine, Trouble};
pub use pgbouncer::PgBouncer;
pub use postgres::PostgresServer;
pub use s3rver::S3rver;
pub use seaweedfs::SeaweedFs;
pub use throttle::{Throttle, ThrottleOptions};
