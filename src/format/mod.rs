//! Every byte that reaches a store, as pure encode and decode; one file to one chapter of `format-spec/`.
//!
//! No I/O, no clock, no randomness, no panic: decoding is total and bounded, and each value has one encoding.

pub mod cbor;
pub mod entry;
pub mod error;
pub mod id;
pub mod layout;
pub mod limits;
pub mod metadata;
