//! The PostgreSQL connector on real servers.
#![expect(clippy::unwrap_used, reason = "this is test code")]

mod catalog;
mod command;
mod connect;
mod connect_tls;
mod cuts;
mod dump;
mod features;
mod handmade;
mod holes;
mod holes_beside;
mod restore;
mod restore_failures;
mod restore_order;
mod restore_words;
mod servers;
mod soak;
mod source;
mod source_changes;
mod source_connections;
mod source_durable;
mod source_failures;
mod source_silence;
mod source_statements;
mod source_tables;
mod source_unchanged;
mod statements;
mod summaries;
mod versions;
mod wire;
