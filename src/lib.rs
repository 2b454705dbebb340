//! Holdall keeps a PostgreSQL or Supabase project in one deduplicated, encrypted, verified repository.

pub mod connector;
pub mod context;
pub mod error;
pub mod event;
pub mod format;
pub mod snapshot;
pub mod store;
#[cfg(feature = "testkit")]
pub mod testkit;
