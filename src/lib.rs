//! Holdall keeps a PostgreSQL or Supabase project in one deduplicated, encrypted, verified repository.

pub mod chunk;
pub mod cli;
pub mod connector;
pub mod context;
pub mod crypto;
pub mod error;
pub mod event;
pub mod format;
pub mod ops;
pub mod repository;
pub mod snapshot;
pub mod store;
#[cfg(feature = "testkit")]
pub mod testkit;
