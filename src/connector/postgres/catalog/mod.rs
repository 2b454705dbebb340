//! What a database holds, as its catalogs tell it: the tables whose rows are kept, how they are laid out, and what else a restore
//! needs that is not a row.
//!
//! Every function reads with the client that it is given, inside whatever snapshot that client has imported, and relies on its
//! session: `search_path` empty by `SET` (not by start-up options), `row_security` off and the settings of
//! `format-spec/64-databases.md` section 1. Nothing here locks or opens a user's table, so that no listing waits behind a migration.
//!
//! Names are the server's bytes: in UTF-8, whatever the encoding of the database, but for databases in SQL_ASCII, whose bytes have
//! no encoding and are taken as they are.

mod database;
mod filter;
mod fingerprint;
mod globals;
mod grants;
mod large_objects;
mod query;
mod sequences;
mod server;
mod table;
mod types;
mod wal_summaries;

pub use database::database;
pub use filter::Filter;
pub use fingerprint::{CatalogFingerprint, catalog_fingerprint};
pub use globals::globals;
pub use large_objects::{LargeObject, large_object_heads, large_object_piece, large_objects};
pub use sequences::{Sequences, sequences};
pub use server::{Checkpoint, ServerFacts, flushed, log_end, server};
pub use table::{Table, Tables, tables};
pub use types::Use;
pub(crate) use wal_summaries::{Coverage, Question, WrittenBlocks, WrittenFile, coverage, written};
