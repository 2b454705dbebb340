//! What tests, benches and fuzz targets share. Only with the feature `testkit`, never in a release binary.
#![expect(clippy::unwrap_used, clippy::missing_errors_doc, reason = "this is test code")]

pub mod collect;
pub mod trees;
