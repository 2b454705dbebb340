//! What tests, benches and fuzz targets share; behind the feature `testkit`, never in a release binary.
//!
//! Stores: [`FaultStore`] fails where it is told to, [`store_suite`] holds what every store must do, [`Throttle`] is a slow
//! or broken line, [`SeaweedFs`] a real S3 server.

mod fault_store;
mod seaweedfs;
pub mod store_suite;
mod throttle;

pub use fault_store::{Call, Failure, FaultStore, Op, Plan, When};
pub use seaweedfs::SeaweedFs;
pub use throttle::{Throttle, ThrottleOptions};
