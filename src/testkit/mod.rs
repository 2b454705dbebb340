//! What tests, benches and fuzz targets share. It may use everything; nothing may use it.

pub mod nodes;
