//! What tests, benches and fuzz targets share. Only with the feature `testkit`, never in a release binary. It may use everything;
//! nothing may use it.

pub mod arbitrary;
pub mod collect;
pub mod fuzz;
pub mod nodes;
pub mod repo;
pub mod trees;
