//! Holdall keeps a PostgreSQL or Supabase project in one deduplicated, encrypted, verified repository.

pub mod error;
pub mod event;
pub mod context;
pub mod format;
pub mod chunk;
pub mod crypto;
pub mod store;
pub mod repository;
pub mod snapshot;
pub mod connector;
#[cfg(feature = "testkit")]
pub mod testkit;
