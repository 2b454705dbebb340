//! Every byte that reaches a store, as pure encode and decode; one file to one chapter of `format-spec/`.
//!
//! No I/O, no clock, no randomness, no panic: decoding is total and bounded, and each value has one encoding.

pub mod cbor;
pub mod collect;
pub mod entry;
pub mod error;
pub mod frame;
pub mod header;
pub mod id;
pub mod index;
pub mod layout;
pub mod limits;
pub mod metadata;
pub mod node;
pub mod note;
pub mod pack;
mod records;
pub mod repo_config;
pub mod session;
pub mod snapshot;

pub use records::Record;
